"""A bank's support desk: a question is answered, or handed to a person where the desk is not sure enough."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from torch import Tensor

from topk_lib import data
from topk_lib.apps.questions import OUTSIDE, Questions, choose_threshold, questions
from topk_lib.apps.store import Store
from topk_lib.apps.vectors import Vectors
from topk_lib.ops import hard_topk
from topk_lib.selectors.base import whole
from topk_lib.serving import Predictor
from topk_lib.training import accuracy_interval, finetune

__all__ = ["HEADS", "Desk", "DeskSettings", "Reply"]

HEADS = ("logistic", "prototype", "nearest", "words", "finetuned")
_ANSWERS = Path(data.__file__).parent / "corpus" / "answers.json"
Scores = Callable[[Sequence[str], Tensor | None], np.ndarray]
"""Of texts and their vectors, (n, intents): how much speaks for each."""


@dataclass(frozen=True)
class DeskSettings:
    """What decides how a :class:`Desk` answers.

    Attributes:
        head: what names the intent: "logistic" (regression on the encoder's vectors), "prototype" (the
            nearest mean vector of an intent; Snell et al., 2017, without their training), "nearest" (the
            ``near`` most similar questions vote), "words" (TF-IDF and logistic regression, the plain
            baseline) or "finetuned" (the encoder trained along).
        examples: k questions of each intent to learn from; None: all.
        tokens: k tokens read of each question, special ones included; None: all.
        selector: which of them.
        near: k most similar questions that vote, and are shown to whom a question is handed.
        wrong, sure: see :func:`choose_threshold`.
        outside: see :func:`questions`.
        strength: C of the logistic regressions.
        seed: of every draw.
    """

    head: str = "logistic"
    examples: int | None = None
    tokens: int | None = None
    selector: str = "tfidf"
    near: int = 3
    wrong: float = 0.05
    sure: float | None = None
    outside: float = 0.2
    strength: float = 30.0
    seed: int = 0


class Reply(NamedTuple):
    """What the desk makes of a question.

    Attributes:
        answer: what to say; where it is not sure, that a person will reply.
        answered: False where it is handed to a person.
        intent: the best guess; "taught" where a person taught the answer.
        confidence: of the guess.
        near: the most similar questions known, each with its intent and the cosine.
    """

    answer: str
    answered: bool
    intent: str
    confidence: float
    near: tuple[tuple[str, str, float], ...]


class Desk:
    """A support desk that has learned from examples; may be asked from several threads.

    Args:
        asked: of :func:`questions`; None: as ``settings`` say, from ``source``.
        settings: see :class:`DeskSettings`.
        source: of the sets, where ``asked`` is None.
        folder: for the fine-tuned model; the same folder again takes up where it was, or what was made.
        encoder: a hub name or folder; None: the embedded one.
        store: what was taught is kept there, and what was asked where it keeps texts.
        quiet: print nothing.

    Attributes:
        threshold: the confidence from which on it answers.
        taught_from: the cosine from which on a taught answer is given: so high that of the held-out
            questions at most the share ``wrong`` is as near to a question of another intent.

    Raises:
        ValueError, TypeError: a setting is out of its range.
    """

    def __init__(
        self,
        asked: Questions | None = None,
        settings: DeskSettings | None = None,
        *,
        source: str | Path | None = None,
        folder: str | Path | None = None,
        encoder: str | Path | None = None,
        store: Store | None = None,
        quiet: bool = True,
    ) -> None:
        self.settings = s = settings or DeskSettings()
        if s.head not in HEADS:
            raise ValueError(f"head must be one of {', '.join(HEADS)}, got {s.head!r}")
        if s.head == "finetuned" and folder is None:
            raise ValueError("the fine-tuned head needs a folder for its model")
        whole("near", s.near, 1)
        self.asked = asked or questions(
            source, examples=s.examples, outside=s.outside, seed=s.seed, quiet=quiet
        )
        told = json.loads(_ANSWERS.read_text(encoding="utf-8"))
        self._template, self._handed, self._answers = told["template"], told["handed"], told["answers"]
        texts, labels = self.asked.learn
        self._vectors = Vectors(s.tokens, s.selector, encoder=encoder, seed=s.seed).fit(texts, labels)
        self._known, self._labels = self._vectors(texts), np.array(labels)
        self._head = self._learn(folder, encoder, quiet)
        held, truth = self.asked.held_out
        vectors = self._vectors(held)
        scores = self._head(held, vectors)
        right = scores.argmax(1) == np.array(truth)
        self.threshold = choose_threshold(scores.max(1).tolist(), right.tolist(), s.wrong, s.sure)
        others = (vectors @ self._known.T).masked_fill(
            torch.from_numpy(np.array(truth)[:, None] == self._labels[None]), -1.0
        )
        self.taught_from = float(np.quantile(others.max(1).values.numpy(), 1 - s.wrong))
        self.store, self._teaching = store, threading.Lock()
        self._taught: list[tuple[str, str]] = []
        self._at = torch.empty(0, self._vectors.width)
        for event in store.read("support", "taught") if store else ():
            self._remember(event.fields["question"], event.fields["answer"])

    def _learn(self, folder: str | Path | None, encoder: str | Path | None, quiet: bool) -> Scores:
        s, (texts, labels) = self.settings, self.asked.learn
        count = len(self.asked.names)
        if s.head == "finetuned":
            assert folder is not None
            return _finetuned(Path(folder), self.asked, s, encoder, quiet)
        if s.head == "words":
            words = make_pipeline(
                TfidfVectorizer(sublinear_tf=True), LogisticRegression(C=s.strength, max_iter=2000)
            ).fit(texts, labels)
            return lambda asked, _: np.asarray(words.predict_proba(list(asked)))
        if s.head == "logistic":
            model = LogisticRegression(C=s.strength, max_iter=2000).fit(self._known.numpy(), labels)
            return lambda _, vectors: np.asarray(model.predict_proba(_given(vectors).numpy()))
        hot = torch.nn.functional.one_hot(torch.tensor(labels), count).float()
        if s.head == "prototype":
            means = torch.nn.functional.normalize(hot.T @ self._known, dim=-1)
            return lambda _, vectors: (_given(vectors) @ means.T).numpy()
        return partial(_votes, self._known, hot, min(s.near, len(texts)))

    def __call__(self, asked: Sequence[str]) -> list[Reply]:
        """Answer questions, in order.

        Raises:
            TypeError, ValueError: a question is no text, or an empty one.
        """
        texts = data.as_texts(asked, "question")
        if empty := [i for i, text in enumerate(texts) if not text.strip()]:
            raise ValueError(f"question {empty[0]} is empty: write what the customer asks")
        if not texts:
            return []
        vectors = self._vectors(texts)
        scores = self._head(texts, vectors)
        near = hard_topk(vectors @ self._known.T, min(self.settings.near, len(self._known)), order="value")
        replies = [
            self._reply(row, list(zip(places, cosines, strict=True)))
            for row, places, cosines in zip(scores, near.indices.tolist(), near.values.tolist(), strict=True)
        ]
        taught = self._taught  # read once: a lesson may come in while this question is answered
        if taught:
            best = hard_topk(vectors @ self._at[: len(taught)].T, 1)
            for i, (cosine, place) in enumerate(zip(best.values[:, 0], best.indices[:, 0], strict=True)):
                if float(cosine) >= self.taught_from:
                    told = taught[int(place)][1]
                    replies[i] = Reply(told, True, "taught", float(cosine), replies[i].near)
        if self.store is not None:
            for text, reply in zip(texts, replies, strict=True):
                facts = {"answered": reply.answered, "confidence": round(reply.confidence, 4)}
                self.store.add(
                    "support", "asked", facts,
                    texts={"question": text, "answer": reply.answer, "intent": reply.intent},
                )  # fmt: skip
        return replies

    def _reply(self, scores: np.ndarray, near: list[tuple[int, float]]) -> Reply:
        best, confidence = int(scores.argmax()), float(scores.max())
        name, sure = self.asked.names[best], confidence >= self.threshold
        known = self._answers.get(name) or self._template.format(intent=name.replace("_", " ").rstrip("?"))
        shown = tuple(
            (self.asked.learn[0][i], self.asked.names[self._labels[i]], round(cosine, 4))
            for i, cosine in near
        )
        return Reply(known if sure else self._handed, sure, name, confidence, shown)

    def teach(self, question: str, answer: str) -> None:
        """Give the answer to a new question; questions near to it get it from now on.

        Raises:
            TypeError, ValueError: one of them is no text, or an empty one.
        """
        question, answer = (text.strip() for text in data.as_texts([question, answer]))
        if not question or not answer:
            raise ValueError("to teach takes a question and its answer, and one of them is empty")
        with self._teaching:
            if self.store is not None:
                self.store.add("support", "taught", {"question": question, "answer": answer})
            self._remember(question, answer)

    def _remember(self, question: str, answer: str) -> None:
        self._at = torch.cat([self._at, self._vectors([question])])
        self._taught = [*self._taught, (question, answer)]  # a new list: others may be reading the old one

    def measure(self, timed: int = 50) -> dict[str, Any]:
        """How well it does on the test questions.

        Args:
            timed: how many are asked one by one, to time them.

        Returns:
            ``accuracy`` of the guess on questions inside, with ``accuracy_low`` and ``accuracy_high`` (95%);
            ``commonest``, the accuracy of the commonest intent; of questions inside the share
            ``answered``; of the answers given the share ``wrong``, with ``wrong_low`` and ``wrong_high``
            (None where none is given); of questions outside the share handed on, ``outside_recall``, and
            ``out_of_scope_recall``, of those that the set calls so; ``milliseconds`` to read a question
            and guess its intent, the median, one at a time; ``tokens`` read of one in the mean;
            ``threshold``.
        """
        texts, labels = self.asked.test
        truth = np.array(labels)
        vectors = self._vectors(texts)
        read = self._vectors.read
        scores = self._head(texts, vectors)
        guess, given = scores.argmax(1), scores.max(1) >= self.threshold
        inside = truth != OUTSIDE
        right = int((guess == truth)[inside].sum())
        low, high = accuracy_interval(right, int(inside.sum()))
        bad = int((guess != truth)[given].sum())
        bounds = accuracy_interval(bad, int(given.sum())) if given.any() else (None, None)
        seconds = []
        for text in texts[:: max(1, len(texts) // timed)][:timed]:
            start = time.perf_counter()
            self._head(
                [text], None if self.settings.head in ("words", "finetuned") else self._vectors([text])
            )
            seconds.append(time.perf_counter() - start)
        far = np.array(self.asked.far)
        return {
            "accuracy": right / int(inside.sum()), "accuracy_low": low, "accuracy_high": high,
            "commonest": float(np.bincount(truth[inside]).max() / inside.sum()),
            "answered": float(given[inside].mean()),
            "wrong": bad / int(given.sum()) if given.any() else None,
            "wrong_low": bounds[0], "wrong_high": bounds[1],
            "outside_recall": _mean(~given[~inside]), "out_of_scope_recall": _mean(~given[far]),
            "milliseconds": 1000 * float(np.median(seconds)), "tokens": read,
            "threshold": self.threshold if math.isfinite(self.threshold) else None,
        }  # fmt: skip


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if values.size else None


def _given(vectors: Tensor | None) -> Tensor:
    assert vectors is not None
    return vectors


def _votes(known: Tensor, hot: Tensor, k: int, _: Sequence[str], vectors: Tensor | None) -> np.ndarray:
    """(n, intents): the cosines of the k most similar questions of each intent, over k."""
    chosen = hard_topk(_given(vectors) @ known.T, k)
    return torch.einsum("nk,nkc->nc", chosen.values, hot[chosen.indices]).numpy() / k


def _finetuned(
    folder: Path, asked: Questions, s: DeskSettings, encoder: str | Path | None, quiet: bool
) -> Scores:
    """The encoder trained along, on the same questions, for about 600 steps."""
    place = folder / "questions"
    place.mkdir(parents=True, exist_ok=True)
    inside = [(t, y) for t, y in zip(*asked.held_out, strict=True) if y != OUTSIDE]
    for name, rows in (("train", list(zip(*asked.learn, strict=True))), ("test", inside)):
        lines = [json.dumps({"text": text, "label": asked.names[y]}) for text, y in rows]
        (place / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    epochs = min(30.0, max(3.0, round(600 * 32 / len(asked.learn[0]), 1)))
    finetune(
        folder / "model", source=place, quiet=quiet, model=None if encoder is None else str(encoder),
        selector=s.selector, k=s.tokens or 64, epochs=epochs, learning_rate=2e-4, seed=s.seed,
    )  # fmt: skip
    predictor = Predictor(folder / "model")

    def scores(texts: Sequence[str], _: Tensor | None) -> np.ndarray:
        return np.array([[answer[name] for name in asked.names] for answer in predictor(texts)])

    return scores
