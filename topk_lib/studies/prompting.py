"""A frozen language model, asked: wording, calibration, examples, and which tokens stand in the prompt."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch import Tensor
from transformers import AutoModelForMaskedLM, AutoTokenizer

from topk_lib import records
from topk_lib.data import fingerprint, load_reviews, load_set, source_of, train_and_eval
from topk_lib.models import load_encoder, load_language_model
from topk_lib.selectors import make_selector, select_tokens
from topk_lib.studies.base import Made, Run, packed
from topk_lib.training import accuracy_interval, tfidf_logistic, tokenize
from topk_lib.training.prompts import (
    Shot,
    Template,
    answer_named,
    calibrate,
    cloze_log_probs,
    content_free,
    free_answers,
    label_log_probs,
    text_vectors,
)

__all__ = ["BANK", "CLOZE", "TEMPLATES", "WAYS", "chosen", "measured", "runs"]

_SIDES = (" negative", " positive")
_TASTE = (" bad", " good")
_ASK = "Is this film review negative or positive? Answer with one word."
TEMPLATES = {
    "plain": Template("Film review: {}\nThe sentiment of this review is", _SIDES),
    "short": Template("Review: {}\nSentiment:", _SIDES),
    "wordy": Template(
        "The following text was written by somebody who had just seen a film.\n{}\n"
        "The opinion of the writer was mostly", _SIDES
    ),
    "film_is": Template("Film review: {}\nThe film is", _TASTE),
    "all_in_all": Template("{}\nAll in all, I found this film", _TASTE),
    "it_was": Template("{}\nAll in all, it was", (" terrible", " great")),
    "one_word": Template("{}\nIn one word: I", (" hated", " loved")),
    "stars": Template("{}\nOut of five stars, I give this film", (" one", " five")),
    "recommend": Template("{}\nWould I recommend this film?", (" No", " Yes")),
    "question": Template("Review: {}\nQuestion: Does the reviewer like the film?\nAnswer:", (" No", " Yes")),
    "order": Template("Is this review of a film negative or positive?\nReview: {}\nAnswer:", _SIDES),
    "chat": Template(
        f"<|im_start|>user\n{_ASK}\n\n{{}}<|im_end|>\n<|im_start|>assistant\n", ("Negative", "Positive")
    ),
}  # fmt: skip
"""Twelve ways to ask the same, written before any was tried on test reviews."""

CLOZE = {
    "it_was": Template("{} it was [MASK].", ("terrible", "great")),
    "film": Template("{} this is a [MASK] film.", ("bad", "good")),
    "just": Template("just [MASK]! {}", ("terrible", "great")),
}
"""Cloze prompts, two of them after Schick and Schütze (2021)."""

BANK = "A customer of a bank writes: {}\nThe topic of this message is:"
"""The one template for questions to a bank; its words are the names of the 77 intents."""

WAYS = ("raw", "content_free", "median")
"""As the model says; and calibrated by texts without content, or by the median of other texts."""

_N, _DEV, _FIT, _READ = (
    400,
    100,
    2000,
    160,
)  # test, dev, training reviews; tokens read where nothing is chosen
_QUESTIONS = 308  # four an intent
_SHOT = 64  # tokens of each example, and of the review after them
_MOST = 2048
_DRAWS = range(3)
_RULES = ("linear", "first", "random", "last", "tfidf")
_FIXED = ("first", "last")  # these draw nothing


def runs(*, gpu: bool) -> Iterator[Run]:
    """The choice of a template on dev reviews comes first: what follows asks with it."""

    def run(name: str, measure: Any, *given: Any) -> Run:
        return Run("prompting", name, partial(measure, *given))

    def reading(rules: Sequence[str], *ks: int) -> Iterator[Run]:
        for seed in _DRAWS:
            for k in ks:
                for rule in rules:
                    if not seed or rule not in _FIXED:
                        yield run(f"read-{rule}-k{k}-s{seed}", _read, rule, k, seed)

    yield run("dev", _dev)
    yield from reading(["first"], _READ)
    yield from reading(_RULES[:3], 64, 32)
    yield from reading(["first"], _MOST)
    for draw in _DRAWS:
        for n in (2, 4, 8):
            yield run(f"shots-first-n{n}-d{draw}-o0", _read, "first", _SHOT, draw, n)
    for seed in _DRAWS:
        yield run(f"labels-s{seed}", _labels, seed)
        yield run(f"bank-vectors-s{seed}", _bank_vectors, seed)
    yield run("bank-words", _bank_words)
    for name in TEMPLATES:
        yield run(f"template-{name}", _template, name)
    for name in ("plain", "order", "chat"):
        yield run(f"free-{name}", _free, name)
    yield from reading(_RULES[3:], 64, 32)
    for snapshot in ("10m-60min", "10m-10min", "1m-10min"):
        yield run(f"cloze-{snapshot}", _cloze, snapshot)
    yield from reading(_RULES, 16, 128)
    for order in range(1, 6):
        for draw in _DRAWS:
            yield run(f"shots-first-n4-d{draw}-o{order}", _read, "first", _SHOT, draw, 4, order)
    for draw in _DRAWS:
        for n in (4, 8):
            yield run(f"shots-linear-n{n}-d{draw}-o0", _read, "linear", _SHOT // 2, draw, n)
    yield run("float32-first-k64-s0", _read, "first", 64, 0, 0, 0, torch.float32)


@cache
def _model(dtype: torch.dtype = torch.bfloat16) -> tuple[Any, Any]:
    model, tokenizer = load_language_model(dtype=dtype)
    return model.to(records.device_kind()), tokenizer


@cache
def _test() -> Dataset:
    return load_reviews(split="test", n=_N, quiet=True)


@cache
def _train(seed: int) -> tuple[Dataset, Dataset]:
    """Labelled reviews, another draw with each seed; and the dev reviews, always the same."""
    return train_and_eval(evaluate_on="dev", n_train=_FIT, n_eval=_DEV, seed=seed, quiet=True)


def chosen() -> tuple[str, str]:
    """The template and the way of calibration that were right most often on the dev reviews.

    Raises:
        ValueError: that was not measured yet.
    """
    if not records.path_of("prompting", "dev").is_file():
        raise ValueError(
            "the template is chosen on dev reviews first: make that with topk-lib study prompting "
            "--only prompting/dev"
        )
    found = records.load("prompting", "dev")["metrics"]
    pairs = [(name, way) for name in TEMPLATES for way in WAYS]
    return max(pairs, key=lambda pair: float(found[pair[0]][pair[1]]["accuracy"]))


def measured(log_probs: Tensor, reference: Tensor | None, truth: Sequence[int]) -> dict[str, Any]:
    """How often the likeliest label is right, as said and calibrated.

    The median that calibrates one half of the texts is that of the other half, whose labels nobody asks for.

    Args:
        log_probs: (texts, labels).
        reference: (labels,) of texts without content; None: leave that out.
        truth: the texts' labels.

    Returns:
        For each of :data:`WAYS` ``accuracy`` with its 95% interval, ``wrong`` (a bit a text), and
        ``says``, the share of texts that get the last label; ``auc`` (of two labels): how often a text
        with label 1 leans more to 1 than one with label 0, whatever the threshold; and ``mass``, the
        probability of all label words together.
    """
    said = log_probs.log_softmax(-1)
    by_half = torch.empty_like(said)
    for half in (0, 1):
        by_half[half::2] = calibrate(said[half::2], said[1 - half :: 2].median(0).values)
    ways = {"raw": said} | ({} if reference is None else {"content_free": calibrate(said, reference)})
    answers = {way: scores.argmax(-1) for way, scores in (ways | {"median": by_half}).items()}
    found: dict[str, Any] = {way: _right(answer, truth) for way, answer in answers.items()}
    if said.shape[1] == 2:
        for way, answer in answers.items():
            found[way]["says"] = float(answer.float().mean())
        found["auc"] = float(roc_auc_score(truth, (said[:, 1] - said[:, 0]).numpy()))
    return found | {"mass": float(log_probs.exp().sum(-1).mean())}


def _right(answers: Tensor, truth: Sequence[int]) -> dict[str, Any]:
    right = answers.numpy() == np.asarray(truth)
    low, high = accuracy_interval(int(right.sum()), len(right))
    return {
        "accuracy": float(right.mean()), "accuracy_low": low, "accuracy_high": high, "wrong": packed(~right)
    }  # fmt: skip


def _of(texts: Dataset, **more: Any) -> dict[str, Any]:
    """What a record says of its data."""
    return {"source": source_of(texts), "n_eval": len(texts), "eval_fingerprint": fingerprint(texts)} | more


def _ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids as they stand after other text: with a space before the first word."""
    return tokenize(tokenizer, [f" {text.strip()}" for text in texts])


def _shorten(texts: Sequence[Sequence[str]], rule: str, k: int, seed: int) -> list[list[list[int]]]:
    """The k tokens of each text that a rule keeps, in the order of the text.

    The rules are those of the course, fitted on the tokens of the language model in the labelled
    reviews of this seed; ``linear`` alone looks at their labels.
    """
    tokenizer = _model()[1]
    ids = [_ids(tokenizer, some) for some in texts]
    if rule == "last":
        return [[one[-k:] for one in some] for some in ids]
    train, _ = _train(seed)
    selector = make_selector(rule, seed=seed, vocabulary=len(tokenizer))
    if selector.needs_fit:
        selector.fit(_ids(tokenizer, train["text"]), list(train["label"]))
    return [select_tokens(selector, some, k) for some in ids]


def _drawn(seed: int, n: int, order: int) -> tuple[list[str], list[int]]:
    """n labelled reviews, as many of each label, in an order of their own."""
    train, _ = _train(seed)
    labels = np.asarray(train["label"])
    rows = np.concatenate([np.flatnonzero(labels == label)[: n // 2] for label in (0, 1)]).astype(int)
    rows = np.random.default_rng([seed, order]).permutation(rows)
    return [train["text"][i] for i in rows.tolist()], labels[rows].tolist()


def _ask(
    template: Template, ids: Sequence[Sequence[int]], truth: Sequence[int], shots: Sequence[Shot] = (),
    dtype: torch.dtype = torch.bfloat16,
) -> dict[str, Any]:  # fmt: skip
    """:func:`measured`, with ``tokens``, the mean of a prompt, and ``seconds`` of an answer; ``margins``
    are the log-odds of the last label against the first, text by text."""
    model, tokenizer = _model(dtype)
    prompts = [template.encode(tokenizer, one, shots) for one in ids]
    start = time.perf_counter()
    found = label_log_probs(model, tokenizer, prompts, template.words)
    seconds = (time.perf_counter() - start) / len(prompts)
    row = measured(found, content_free(model, tokenizer, template, shots), truth)
    margins = (found[:, -1] - found[:, 0]).tolist()
    return row | {
        "tokens": float(np.mean([len(p) for p in prompts])), "seconds": seconds,
        "margins": [round(x, 3) for x in margins],
    }  # fmt: skip


def _dev() -> Made:
    """Every template on the same dev reviews, of which it reads the first tokens."""
    _, dev = _train(0)
    (ids,) = _shorten([dev["text"]], "first", _READ, 0)
    rows = {}
    for name, template in TEMPLATES.items():
        rows[name] = _ask(template, ids, dev["label"]) | {"text": template.text, "words": template.words}
        print(f"{name}: {rows[name]['raw']['accuracy']:.1%}", flush=True)
    return Made(rows, {"seed": 0, "k": _READ, "rule": "first"}, _of(dev))


def _template(name: str) -> Made:
    (ids,) = _shorten([_test()["text"]], "first", _READ, 0)
    settings = {"seed": 0, "template": name, "k": _READ, "rule": "first"}
    return Made(_ask(TEMPLATES[name], ids, _test()["label"]), settings, _of(_test()))


def _read(
    rule: str, k: int, seed: int, n: int = 0, order: int = 0, dtype: torch.dtype = torch.bfloat16
) -> Made:
    """The chosen template, with k tokens of each review by a rule, after n examples of as many each."""
    name, way = chosen()
    texts, labels = _drawn(seed, n, order)
    ids, examples = _shorten([_test()["text"], texts], rule, k, seed)
    shots = list(zip(examples, labels, strict=True))
    settings = {
        "seed": seed, "template": name, "way": way, "rule": rule, "k": k, "shots": n, "order": order,
        "labels_in_order": labels, "dtype": str(dtype).removeprefix("torch."),
    }  # fmt: skip
    return Made(
        _ask(TEMPLATES[name], ids, _test()["label"], shots, dtype), settings, _of(_test(), n_fit=_FIT)
    )


def _labels(seed: int, sizes: Sequence[int] = (8, 32, 128, 512, _FIT)) -> Made:
    """A linear model of word counts that learns from so many labelled reviews: what a prompt is worth."""
    rows = {}
    for n in sizes:
        texts, labels = _drawn(seed, n, 0)
        rows[str(n)] = tfidf_logistic(texts, labels, _test()["text"], _test()["label"])
    return Made(rows, {"seed": seed, "sizes": list(sizes)}, _of(_test()))


def _free(name: str, most: int = 12) -> Made:
    """What the model writes, read by :func:`~topk_lib.training.prompts.answer_named`; no answer is wrong."""
    template, (model, tokenizer) = TEMPLATES[name], _model()
    (ids,) = _shorten([_test()["text"]], "first", _READ, 0)
    said = free_answers(model, tokenizer, [template.encode(tokenizer, one) for one in ids], most=most)
    answers = [answer_named(text, template.words) for text in said]
    row = _right(torch.tensor([-1 if a is None else a for a in answers]), _test()["label"])
    named = [(a, t) for a, t in zip(answers, _test()["label"], strict=True) if a is not None]
    metrics = row | {
        "named": len(named) / len(answers),
        "right_of_named": sum(a == t for a, t in named) / max(1, len(named)),
        "first": said[:8],
    }  # fmt: skip
    settings = {"seed": 0, "template": name, "k": _READ, "rule": "first", "most": most}
    return Made(metrics, settings, _of(_test()))


@cache
def _bank(split: str, n: int | None = None) -> tuple[Dataset, list[str]]:
    """Questions to a bank, and what their intents are called, in words."""
    questions = load_set("banking77", split=split, n=n, quiet=True)
    return questions, [name.replace("_", " ").strip("? ") for name in questions.features["label"].names]


def _bank_words() -> Made:
    """Every intent's name scored as what follows the question: the sum over its tokens, or the mean."""
    (questions, names), (model, tokenizer) = _bank("test", _QUESTIONS), _model()
    template = Template(BANK, tuple(f" {name}" for name in names))
    prompts = [template.encode(tokenizer, text) for text in questions["text"]]
    found = label_log_probs(model, tokenizer, prompts, template.words)
    pieces = torch.tensor([len(tokenizer(word)["input_ids"]) for word in template.words])
    truth = list(questions["label"])
    metrics = measured(found, content_free(model, tokenizer, template), truth)
    metrics["mean"] = _right((found / pieces).argmax(-1), truth)
    metrics |= {"labels": len(names), "tokens_per_label": float(pieces.float().mean())}
    return Made(metrics, {"seed": 0, "template": BANK}, _of(questions))


def _bank_vectors(seed: int, each: Sequence[int] = (1, 5, 10)) -> Made:
    """The nearest by cosine: the intents' names, a sentence about each, the mean of a few examples; and
    a linear model on the vectors of all training questions."""
    (questions, names), (train, _) = _bank("test", _QUESTIONS), _bank("train")
    model, tokenizer = load_encoder()
    vectors = partial(text_vectors, model.base_model.to(records.device_kind()), tokenizer)
    asked, seen = vectors(questions["text"]), vectors(train["text"])
    truth, labels = list(questions["label"]), np.asarray(train["label"])
    order = np.random.default_rng(seed).permutation(len(labels))
    spots = {"names": vectors(names), "sentences": vectors([f"I have a question about {n}." for n in names])}
    for count in each:
        own = [order[labels[order] == label][:count] for label in range(len(names))]
        spots[f"examples-{count}"] = torch.stack([seen[some].mean(0) for some in own])
    rows = {
        key: _right((asked @ torch.nn.functional.normalize(spot, dim=-1).T).argmax(-1), truth)
        for key, spot in spots.items()
    }
    linear = LogisticRegression(C=10.0, max_iter=1000).fit(seen.numpy(), labels)
    rows["all"] = _right(torch.from_numpy(linear.predict(asked.numpy())), truth) | {"examples": len(labels)}
    return Made(rows, {"seed": seed, "each": list(each), "encoder": "all-MiniLM-L6-v2"}, _of(questions))


def _cloze(snapshot: str, room: int = 96) -> Made:
    """A masked model that the study of pretraining left, asked for the hidden word by :data:`CLOZE`.

    Each template has a row for the dev reviews, by which one may choose, and one for the test reviews.
    """
    size, minutes = snapshot.split("-")
    folder = Path("runs") / "pretraining" / f"{size}-s0" / f"snapshot-{minutes}"
    if not folder.is_dir():
        raise ValueError(
            f"no masked model in {folder}: topk-lib study pretraining --only {snapshot} makes it"
        )
    model = AutoModelForMaskedLM.from_pretrained(folder, local_files_only=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)

    def asked(template: Template, texts: Sequence[str]) -> Tensor:
        return cloze_log_probs(model, tokenizer, [template.fill(text) for text in texts], template.words)

    rows: dict[str, Any] = {}
    for part, reviews in (("dev", _train(0)[1]), ("test", _test())):
        ids = tokenizer(list(reviews["text"]), add_special_tokens=False)["input_ids"]
        texts = [str(tokenizer.decode(one[:room])) for one in ids]
        for name, template in CLOZE.items():
            empty = asked(template, ["", "n/a"]).softmax(-1).mean(0).log()
            rows.setdefault(name, {})[part] = measured(asked(template, texts), empty, reviews["label"])
    settings = {"seed": 0, "model": snapshot, "k": room, "templates": {n: t.text for n, t in CLOZE.items()}}
    return Made(rows, settings, _of(_test()))
