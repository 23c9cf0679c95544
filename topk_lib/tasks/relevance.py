# ruff: noqa: RUF001  (Chinese has marks of its own)
"""How well the pieces of a paragraph fit a question: five rules that score them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from topk_lib.data.texts import text_hash
from topk_lib.models import load_encoder
from topk_lib.tasks.pieces import (
    Piece,
    Question,
    Word,
    answer_still_there,
    keep,
    sentences,
    token_pieces,
    words,
)
from topk_lib.training.prompts import text_vectors

__all__ = [
    "RULES",
    "UNITS",
    "Encoder",
    "Overlap",
    "Random",
    "Scorer",
    "Trained",
    "WordWeights",
    "first",
    "fit_trained",
    "oracle",
    "scorers",
]

RULES = ("first", "random", "overlap", "encoder", "trained")
"""How pieces of a paragraph are scored; the first two do not look at the question."""

UNITS = ("sentences", "tokens")

Scorer = Callable[[Question, Sequence[Piece]], Tensor]
"""Gives the pieces of a question's paragraph their scores, (pieces,) float32; high ones are kept."""

_NUMBER = re.compile(
    r"\b(how (many|much|long|old|far|often|high|large)|when|(what|which) (year|date|number|percent\w*))\b"
    r"|多少|几|何时|什么时候|哪一?年|多[长大高远久]", re.IGNORECASE
)  # fmt: skip
_NAME = re.compile(r"\b(who|whose|whom|where|which|name|called)\b|谁|哪|何处|地方", re.IGNORECASE)
_AROUND = 100.0  # characters
_REACH = {"sentences": 0.0, "tokens": 30.0}
_STRENGTHS = (0.01, 0.1, 1.0, 10.0)
_JUDGED_AT = {"sentences": 1, "tokens": 32}


class WordWeights:
    """How telling a word is: log((1 + n) / (1 + m)) for a word in m of n sentences (inverse document
    frequency; Spärck Jones, 1972). A word that was never seen weighs most, one in every sentence nothing."""

    def __init__(self, texts: Iterable[str]) -> None:
        parts = [text[a:b] for text in dict.fromkeys(texts) for a, b in sentences(text)]
        self.count = Counter(word for part in parts for word in {one.text for one in words(part)})
        self.n = len(parts)

    def __getitem__(self, word: str) -> float:
        return float(np.log((1 + self.n) / (1 + self.count[word])))


def first(question: Question, pieces: Sequence[Piece]) -> Tensor:
    """The nearer to the beginning, the higher."""
    return -torch.arange(len(pieces), dtype=torch.float32)


class Random:
    """Scores drawn at random, for each question and seed always the same."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def __call__(self, question: Question, pieces: Sequence[Piece]) -> Tensor:
        dice = np.random.default_rng([self.seed, text_hash(question.context + question.question)])
        return torch.from_numpy(dice.permutation(len(pieces)).astype(np.float32))


def oracle(question: Question, pieces: Sequence[Piece]) -> Tensor:
    """1 for what holds part of the first answer, else 0: no rule, but what the best could do."""
    return torch.from_numpy(_holds(question, pieces).astype(np.float32))


class Overlap:
    """How much of the question stands in a piece, or near it.

    With the different words w of the question, of weights g(w), and d the characters from a piece to the
    nearest place where w stands in the paragraph, the score is sum g(w) exp(-d / reach) / sum g(w). Where w
    is in the piece d is 0, and next to it 1; with a reach of 0 nothing else counts.

    Args:
        weights: of words.
        reach: in characters. Tokens need one: an answer seldom repeats the question's words.
    """

    def __init__(self, weights: WordWeights, reach: float = 0.0) -> None:
        self.weights, self.reach = weights, reach

    def __call__(self, question: Question, pieces: Sequence[Piece]) -> Tensor:
        return torch.from_numpy(self.near(question, pieces, self.reach).astype(np.float32))

    def near(self, question: Question, pieces: Sequence[Piece], reach: float) -> np.ndarray:
        """(pieces,) float64: the score with another reach."""
        asked = {word.text: self.weights[word.text] for word in words(question.question)}
        starts, ends = _ends(pieces)
        places: dict[str, list[Word]] = {}
        for word in words(question.context):
            places.setdefault(word.text, []).append(word)
        found = np.zeros(len(pieces))
        for text, weight in asked.items():
            if here := places.get(text):
                gap = _gaps(starts, ends, here).min(1)
                found += weight * (np.exp(-gap / reach) if reach else gap == 0)
        return found / max(sum(asked.values()), 1e-9)


def _ends(pieces: Sequence[Piece]) -> tuple[np.ndarray, np.ndarray]:
    both = np.array(pieces, dtype=np.int64).reshape(-1, 2)
    return both[:, :1], both[:, 1:]


def _gaps(starts: np.ndarray, ends: np.ndarray, places: Sequence[Word]) -> np.ndarray:
    """(pieces, places): the characters from one to the other, at least 1 where they do not overlap."""
    left = np.array([word.start for word in places])
    right = np.array([word.end for word in places])
    apart = np.maximum(left - ends, starts - right)
    return np.where(apart < 0, 0, apart + 1)


class Encoder:
    """The cosine between a sentence encoder's vectors of the question and of a piece.

    A text is remembered once it was read; :meth:`forget` empties that.

    Args:
        encoder: model and tokenizer, as :func:`~topk_lib.models.load_encoder` gives them; None: the default.
        alone: whether a piece is read by itself (sentences: their mean vector, as the encoder was trained);
            else the paragraph is read, and a piece has the mean of its tokens' vectors. What lies beyond
            the encoder's 512 tokens scores -1 there.
    """

    def __init__(self, encoder: tuple[Any, Any] | None = None, *, alone: bool = True) -> None:
        model, self.tokenizer = load_encoder() if encoder is None else encoder
        self.model, self.alone = model.base_model.eval(), alone
        self.forget()

    def forget(self) -> None:
        self._texts: dict[str, Tensor] = {}
        self._paragraphs: dict[str, tuple[np.ndarray, Tensor]] = {}

    def __call__(self, question: Question, pieces: Sequence[Piece]) -> Tensor:
        if not pieces:
            return torch.zeros(0)
        if self.alone:
            parts = [question.context[a:b] for a, b in pieces]
            asked, *found = self.vectors([question.question, *parts])
            return torch.stack(found) @ asked
        (asked,) = self.vectors([question.question])
        offsets, hidden = self._paragraph(question.context)
        starts, ends = _ends(pieces)
        inside = (offsets[:, 0] < ends) & (starts < offsets[:, 1])
        share = torch.from_numpy(inside.astype(np.float32))
        read = share.sum(1) > 0
        mean = torch.nn.functional.normalize(share @ hidden, dim=-1)
        return torch.where(read, mean @ asked, -torch.ones(len(pieces)))

    def vectors(self, texts: Sequence[str]) -> list[Tensor]:
        """The vector of each text, (width,) float32 of length 1."""
        new = list(dict.fromkeys(text for text in texts if text not in self._texts))
        if new:
            self._texts.update(zip(new, text_vectors(self.model, self.tokenizer, new), strict=True))
        return [self._texts[text] for text in texts]

    @torch.inference_mode()
    def _paragraph(self, context: str) -> tuple[np.ndarray, Tensor]:
        """(tokens, 2) the characters, and (tokens, width) float32 the vectors, special tokens left out."""
        if context not in self._paragraphs:
            read = self.tokenizer(context, truncation=True, return_offsets_mapping=True)
            offsets = np.array(read["offset_mapping"]).reshape(-1, 2)
            ids = torch.tensor([read["input_ids"]], device=self.model.device)
            hidden = self.model(ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0].float().cpu()
            real = offsets[:, 1] > offsets[:, 0]
            self._paragraphs[context] = (offsets[real], hidden[torch.from_numpy(real)])
        return self._paragraphs[context]


class Trained:
    """A logistic regression on twelve features of a question and a piece: does it hold the answer?

    The features are the scores of ``overlap`` and ``encoder``, each also as its distance from the best in the
    paragraph; the overlap within 100 characters; the place, and the logarithm of the length; the share of
    the piece's own words that the question has; a digit, a capital inside; and each of these two where the
    question asks for a number or a name.
    """

    def __init__(self, overlap: Overlap, encoder: Encoder) -> None:
        self.overlap, self.encoder = overlap, encoder
        self.model: Any = None
        self.strength: float | None = None
        self.judged: dict[float, float] = {}

    def features(self, question: Question, pieces: Sequence[Piece]) -> np.ndarray:
        """(pieces, 12) float64."""
        context, weights = question.context, self.overlap.weights
        number, name = (bool(kind.search(question.question)) for kind in (_NUMBER, _NAME))
        near, like = (one(question, pieces).numpy().astype(float) for one in (self.overlap, self.encoder))
        own = np.zeros(len(pieces))
        inside = words(context)
        asked = {word.text for word in words(question.question)}
        if inside:
            starts, ends = _ends(pieces)
            weight = np.array([weights[word.text] for word in inside])
            same = np.array([word.text in asked for word in inside])
            here = _gaps(starts, ends, inside) == 0
            own = (here @ (weight * same)) / np.maximum(here @ weight, 1e-9)
        parts = [context[a:b] for a, b in pieces]
        digit = np.array([any(c.isdigit() for c in part) for part in parts], dtype=float)
        # The first letter of a sentence is a capital anyway.
        capital = np.array([_capital(context, piece) for piece in pieces], dtype=float)
        return np.column_stack(
            [
                near, near - near.max(initial=0), like, like - like.max(initial=-1),
                self.overlap.near(question, pieces, _AROUND), [a / max(1, len(context)) for a, _ in pieces],
                np.log1p([b - a for a, b in pieces]), own, digit, capital, digit * number, capital * name,
            ]
        )  # fmt: skip

    def __call__(self, question: Question, pieces: Sequence[Piece]) -> Tensor:
        if self.model is None:
            raise RuntimeError("the trained scorer has not been fitted: fit_trained makes one")
        if not pieces:
            return torch.zeros(0)
        found = self.model.decision_function(self.features(question, pieces))
        return torch.from_numpy(found.astype(np.float32))


def _capital(context: str, piece: Piece) -> bool:
    before = context[: piece.start].rstrip()
    opens = not before or before[-1] in ".!?。！？\n"
    return any(
        word.lstrip("([\"'“‘")[:1].isupper() for word in context[piece.start : piece.end].split()[opens:]
    )


def _holds(question: Question, pieces: Sequence[Piece]) -> np.ndarray:
    """(pieces,) bool: which hold part of the first answer."""
    starts, ends = _ends(pieces)
    left = question.starts[0]
    return ((starts < left + len(question.answers[0])) & (ends > left))[:, 0]


def fit_trained(
    train: Sequence[Question], dev: Sequence[Question], overlap: Overlap, encoder: Encoder,
    cut: Callable[[str], Sequence[Piece]], k: int, strengths: Sequence[float] = _STRENGTHS,
) -> Trained:  # fmt: skip
    """Fit :class:`Trained` on training questions, its regularisation chosen on dev questions.

    Args:
        train, dev: with answers.
        overlap, encoder: two of its features.
        cut: from a paragraph to its pieces: :func:`sentences`, or tokens.
        k: of that many pieces the answer is to be among, on as many dev questions as can be.
        strengths: inverse strengths C to choose from; the smallest of equals is taken.

    Returns:
        The scorer; ``strength`` is the chosen C, and ``judged`` the share of dev questions at each C.

    Raises:
        ValueError: no question to learn from, or to choose by.
    """
    if not train or not dev:
        raise ValueError("fit_trained needs questions to learn from and dev questions to choose by")
    made = Trained(overlap, encoder)
    cuts = [cut(question.context) for question in train]
    x = np.concatenate([made.features(q, pieces) for q, pieces in zip(train, cuts, strict=True)])
    y = np.concatenate([_holds(q, pieces) for q, pieces in zip(train, cuts, strict=True)])
    held = [(q, pieces, made.features(q, pieces)) for q in dev for pieces in [cut(q.context)]]
    best: Any = None
    for strength in sorted(strengths):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000)).fit(x, y)
        right = [
            answer_still_there(
                q, [pieces[i] for i in keep(torch.from_numpy(model.decision_function(row)), k)]
            )
            for q, pieces, row in held
        ]
        made.judged[strength] = float(np.mean(right))
        if best is None or made.judged[strength] > made.judged[made.strength or 0]:
            best, made.strength = model, strength
    made.model = best
    return made


def scorers(
    unit: str, train: Sequence[Question], dev: Sequence[Question], *, tokenizer: Any = None,
    encoder: tuple[Any, Any] | None = None, seed: int = 0,
) -> dict[str, Scorer]:  # fmt: skip
    """Every rule of :data:`RULES`, for sentences or for tokens.

    Args:
        unit: "sentences" or "tokens".
        train: words are counted in their paragraphs, and the trained rule learns from them.
        dev: what it is chosen by.
        tokenizer: of the language model that is to read; for tokens only.
        encoder: as in :class:`Encoder`.
        seed: of the random rule.

    Raises:
        ValueError: another unit, tokens without a tokenizer, or no questions.
    """
    if unit not in UNITS:
        raise ValueError(f"unit must be one of {', '.join(UNITS)}, got {unit!r}")
    if unit == "tokens" and tokenizer is None:
        raise ValueError("tokens are those of a language model: give its tokenizer")
    overlap = Overlap(WordWeights(question.context for question in train), _REACH[unit])
    alike = Encoder(encoder, alone=unit == "sentences")
    cut: Callable[[str], Sequence[Piece]] = (
        sentences if unit == "sentences" else lambda text: token_pieces(tokenizer, text)[1]
    )
    trained = fit_trained(train, dev, overlap, alike, cut, _JUDGED_AT[unit])
    found: tuple[Scorer, ...] = (first, Random(seed), overlap, alike, trained)
    return dict(zip(RULES, found, strict=True))
