"""How few tokens are enough? Selector by k by seed on IMDB, one record a run, resumable."""

from __future__ import annotations

import random
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from topk_lib import records
from topk_lib.data import load_reviews, source_of
from topk_lib.models import TopKForSequenceClassification, load_encoder
from topk_lib.selectors import ids_to_batch, make_selector
from topk_lib.training.answer import tokenize
from topk_lib.training.finetune import finetune
from topk_lib.training.metrics import accuracy_interval

__all__ = ["SELECTORS", "Run", "fitting", "inference", "run", "runs", "slices", "training"]

SELECTORS = (
    "gate", "linear", "taught", "distilled", "history", "chi2", "mutual_information", "embedding",
    "head_tail", "frequency", "tfidf_corpus", "tfidf", "first", "random",
)  # fmt: skip
FULL = 512  # what the encoder can read at most
SMALL = 4000  # training reviews where a CPU does all the work,
SMALL_TEST = 10_000  # and test reviews
_RATE = 1e-4  # chosen on the held-out part of the training split: results/imdb_dev
_TEACHER = "linear-k128"
_PUPILS = ("taught", "distilled")

_PRAISE = "best brilliant excellent masterpiece wonderful superb perfect amazing genius great fantastic"
_BLAME = "worst awful terrible horrible boring stupid waste dull ridiculous poor lame"
_NEGATION = re.compile(r"\b(?:not|no|never|nothing|without|hardly|n't)\b|n't\b", re.IGNORECASE)


class Run(NamedTuple):
    """One fine-tuning to be recorded as ``results/<experiment>/<name>.<device>.json``."""

    experiment: str
    name: str
    options: dict[str, Any]


def runs(n_train: int, *, gpu: bool) -> Iterator[Run]:
    """The grid, most telling first.

    Args:
        n_train: training reviews of each run.
        gpu: three seeds of everything; else one, and at the end three at k = 64, of gate and linear
            at k = 16 too.
    """
    experiment = f"study_{n_train}"

    def one(selector: str, k: int, seed: int, tag: str = "", **more: Any) -> Run:
        options = {"selector": selector, "k": k, "seed": seed, "n_train": n_train, "learning_rate": _RATE}
        if n_train <= SMALL:
            options["n_eval"] = SMALL_TEST
        if selector in _PUPILS:
            options["teacher"] = _TEACHER
        return Run(experiment, f"{selector}-k{k}{tag}-s{seed}", options | more)

    seeds = range(3) if gpu else range(1)
    for seed in seeds:
        yield from (one(selector, 64, seed) for selector in SELECTORS[:5])
        yield one("first", FULL, seed)
        yield from (one(selector, 64, seed) for selector in SELECTORS[5:])
        for k in (32, 128, 16):
            yield from (one(selector, k, seed) for selector in SELECTORS)
        # ideas for spending the same budget better
        yield one("linear", 64, seed, "-original", positions="original")
        yield one("gate", 64, seed, "-original", positions="original")
        yield one("linear", 128, seed, "-share25", share=0.25)
        yield one("gate", 64, seed, "-batch", spend="batch")
        yield one("gate", 64, seed, "-hot", start_temperature=1.0, final_temperature=0.1)
        yield one("first", 128, seed, "-inside", keep_after="1:64,3:32")
    if gpu:
        for seed in seeds:
            yield from (one(selector, 256, seed) for selector in SELECTORS)
            yield from (one(selector, FULL, seed) for selector in SELECTORS[:2])
    else:
        for k, selectors in ((16, SELECTORS[:2]), (64, SELECTORS)):  # few tokens cost little
            for seed in (1, 2):
                yield from (one(selector, k, seed) for selector in selectors)


def run(*, only: str = "", list_only: bool = False, n_train: int | None = None) -> list[str]:
    """Make whatever lacks a record from this kind of device; the same call goes on where it was.

    Args:
        only: only runs whose experiment/run contains this.
        list_only: say what lacks a record, and make nothing.
        n_train: training reviews of each run; None: all 25,000 on a GPU, else 4,000. Up to 4,000 the
            test is on 10,000 drawn reviews, above on all.

    Returns:
        The runs that failed.

    Raises:
        ValueError: no run contains ``only``.
    """
    kind = records.device_kind()
    n_train = n_train or (25_000 if kind == "cuda" else SMALL)
    failed = []
    named = False
    for one in runs(n_train, gpu=kind == "cuda"):
        label = f"{one.experiment}/{one.name}"
        named |= only in label
        if only not in label or records.path_of(one.experiment, one.name).is_file():
            continue
        print(f"== {label}", flush=True)
        if list_only:
            continue
        try:
            make(one)
        except (OSError, RuntimeError, ValueError) as error:
            failed.append(label)
            print(f"failed, going on: {label}: {error}", file=sys.stderr)
    from topk_lib.training.study_vocabulary import vocabulary_study

    for name, measure in (
        ("study_speed/inference", inference),
        ("study_speed/training", training),
        ("study_speed/fitting", fitting),
        ("study_vocabulary/minilm", vocabulary_study),
    ):
        named |= only in name
        if only in name and not records.path_of(*name.split("/")).is_file():
            print(f"== {name}", flush=True)
            if not list_only:
                measure()
    if not named:
        raise ValueError(f"no run of the study is named like {only!r}: --list says what lacks a record")
    return failed


def make(one: Run) -> Path:
    """Fine-tune, measure on the test reviews and slices of them, write the record."""
    options = dict(one.options)
    if "teacher" in options:
        options["teacher"] = str(_teacher(options["n_train"], options["seed"]))
    folder = _folder(one)
    result = finetune(folder, quiet=True, **options)
    test = load_reviews(split="test", n=options.get("n_eval"), quiet=True)
    right = np.asarray(result.predictions) == np.asarray(test["label"])
    parts = {}
    for name, inside in slices(list(test["text"]), list(test["label"])).items():
        low, high = accuracy_interval(int(right[inside].sum()), int(inside.sum()))
        parts[name] = {"n": int(inside.sum()), "accuracy": float(right[inside].mean()),
                       "accuracy_low": low, "accuracy_high": high}  # fmt: skip
    path = records.write(
        one.experiment, one.name,
        metrics=result.metrics | {"seconds": result.seconds, "slices": parts, "wrong": _packed(~right)},
        settings=result.settings | ({"teacher": one.options["teacher"]} if "teacher" in options else {}),
        data=result.data, seconds=sum(result.seconds.values()),
        command=f"topk-lib study imdb --only {one.experiment}/{one.name}",
    )  # fmt: skip
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    print(f"accuracy {result.metrics['accuracy']:.2%}", flush=True)
    return path


def slices(texts: Sequence[str], labels: Sequence[int]) -> dict[str, np.ndarray]:
    """Kinds of reviews on which to look apart, each (reviews,) bool.

    - ``short`` and ``long``: the shortest and the longest fifth, by words;
    - ``negation``: the fifth with the most negations a word;
    - ``contrary``: reviews whose strong opinion words (of two short lists) speak more for the
      other side than for their own, as irony and faint praise do; the label is used to find them.
    """
    words = [re.findall(r"[\w']+", text.lower()) for text in texts]
    length = np.array([len(w) for w in words])
    negation = np.array([len(_NEGATION.findall(text)) for text in texts]) / np.maximum(length, 1)
    praise, blame = set(_PRAISE.split()), set(_BLAME.split())
    tone = np.array([sum((w in praise) - (w in blame) for w in text) for text in words])
    side = 2 * np.asarray(labels) - 1
    low, high = np.quantile(length, (0.2, 0.8))
    return {
        "short": length <= low,
        "long": length >= high,
        "negation": negation >= np.quantile(negation, 0.8),
        "contrary": tone * side < 0,
    }


def inference(ks: Sequence[int] = (16, 32, 64, 128, 256, FULL), texts: int = 256) -> Path:
    """Measure texts a second and FLOPs a text, the selector's own cost included, side by side.

    The models are untrained: what is chosen takes as long to read. The same test reviews for all,
    sorted by length, 32 at a time; the models take turns, in a new order each round.
    """
    begun = time.perf_counter()
    models, tokenizer = _models(("first", "linear", "tfidf", "gate"), ks)
    test = load_reviews(split="test", n=texts, quiet=True)
    ids = sorted(tokenizer(list(test["text"]), verbose=False)["input_ids"], key=len)
    device = records.device_kind()
    batches = [
        tuple(x.to(device) for x in ids_to_batch(ids[start : start + 32])) for start in range(0, len(ids), 32)
    ]
    flops = {}
    with torch.inference_mode():
        for name, model in models.items():
            model.eval()
            # the counter does not see into fused attention
            with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
                for batch in batches:
                    model(*batch)
            flops[name] = counter.get_total_flops() / len(ids)

        def answer(call: Any) -> None:
            for batch in batches:
                call(*batch)

        seconds = _in_turns({name: partial(answer, model) for name, model in models.items()})
        choosing = _in_turns({name: partial(answer, model.select) for name, model in models.items()})
    metrics: dict[str, Any] = {"texts": len(ids), "mean_tokens": float(np.mean([len(i) for i in ids]))}
    for name, found in seconds.items():
        metrics[name] = _rate(len(ids), found) | {
            "selector_share": float(np.median(choosing[name]) / np.median(found)),
            "flops_per_text": flops[name],
        }
    return records.write(
        "study_speed", "inference", metrics=metrics,
        settings={"seed": 0, "batch_size": 32, "rounds": 3, "threads": torch.get_num_threads()},
        data={"source": source_of(test), "n_eval": len(ids)}, seconds=time.perf_counter() - begun,
        command="topk-lib study imdb --only study_speed/inference",
    )  # fmt: skip


def training(ks: Sequence[int] = (32, 64, FULL), texts: int = 64) -> Path:
    """Measure texts trained on a second, side by side: forward, backward and a step of AdamW.

    The same training reviews for all, sorted by length, 32 at a time; the models take turns, in a new
    order each round.
    """
    begun = time.perf_counter()
    models, tokenizer = _models(("first", "linear", "gate", "history"), ks)
    train = load_reviews(split="train", n=texts, quiet=True)
    texts_ids = tokenizer(list(train["text"]), verbose=False)["input_ids"]
    rows = sorted(zip(texts_ids, train["label"], strict=True), key=lambda row: len(row[0]))
    device = records.device_kind()
    batches = []
    for start in range(0, len(rows), 32):
        ids, labels = zip(*rows[start : start + 32], strict=True)
        batches.append(tuple(x.to(device) for x in (*ids_to_batch(ids), torch.tensor(labels))))

    def steps(model: TopKForSequenceClassification) -> Callable[[], None]:
        optimiser = torch.optim.AdamW(model.train().parameters(), lr=_RATE)

        def take() -> None:
            for batch in batches:
                model(*batch).loss.backward()
                optimiser.step()
                optimiser.zero_grad()

        take()  # the first makes the optimiser's state
        return take

    seconds = _in_turns({name: steps(model) for name, model in models.items()})
    return records.write(
        "study_speed", "training",
        metrics={"texts": len(rows)} | {name: _rate(len(rows), found) for name, found in seconds.items()},
        settings={"seed": 0, "batch_size": 32, "rounds": 3, "threads": torch.get_num_threads()},
        data={"source": source_of(train), "n_train": len(rows)}, seconds=time.perf_counter() - begun,
        command="topk-lib study imdb --only study_speed/training",
    )  # fmt: skip


def fitting(n_train: int = SMALL) -> Path:
    """Measure the seconds that each selector takes to be fitted, in turns on the same tokenised reviews."""
    begun = time.perf_counter()
    train = load_reviews(split="train", n=n_train, quiet=True)
    encoder, tokenizer = load_encoder()
    ids, labels = tokenize(tokenizer, list(train["text"])), list(train["label"])

    def fit(name: str) -> None:
        selector = make_selector(name, vocabulary=encoder.config.vocab_size)
        selector.attach(encoder.get_input_embeddings())
        selector.fit(ids, labels)

    names = [name for name in SELECTORS if name not in _PUPILS]  # their teacher is a training of its own
    seconds = _in_turns({name: partial(fit, name) for name in names})
    return records.write(
        "study_speed", "fitting",
        metrics={name: {"seconds": float(np.median(found)), "fastest": min(found), "slowest": max(found)}
                 for name, found in seconds.items()},
        settings={"seed": 0, "rounds": 3, "threads": torch.get_num_threads()},
        data={"source": source_of(train), "n_train": len(train)}, seconds=time.perf_counter() - begun,
        command="topk-lib study imdb --only study_speed/fitting",
    )  # fmt: skip


def _models(
    selectors: Sequence[str], ks: Sequence[int]
) -> tuple[dict[str, TopKForSequenceClassification], Any]:
    """Untrained, with selectors fitted on 1,000 reviews; the full length with the first of them only."""
    train = load_reviews(split="train", n=1000, quiet=True)
    models = {}
    for selector in selectors:
        for k in ks:
            if selector == selectors[0] or k < FULL:
                model, tokenizer = TopKForSequenceClassification.from_encoder(
                    selector=selector, k=k, attention_dropout=0.0
                )
                if k == ks[0]:
                    ids = tokenizer(list(train["text"]), verbose=False)["input_ids"]
                    state = model.selector.fit(ids, list(train["label"])).state_dict()
                model.selector.load_state_dict(state)
                models[f"{selector}-k{k}"] = model.to(records.device_kind())
    return models, tokenizer


def _in_turns(calls: Mapping[str, Callable[[], None]], rounds: int = 3) -> dict[str, list[float]]:
    """The seconds of each call, a round after another, each in an order of its own."""
    dice = random.Random(0)
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name in dice.sample(list(calls), len(calls)):
            start = time.perf_counter()
            calls[name]()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def _rate(texts: int, seconds: Sequence[float]) -> dict[str, float]:
    return {
        "texts_per_second": texts / float(np.median(seconds)),
        "slowest": texts / max(seconds),
        "fastest": texts / min(seconds),
    }


def _teacher(n_train: int, seed: int) -> Path:
    """The run that gates learn from: trained on their own reviews, so that they hear of no other label."""
    name = f"{_TEACHER}-s{seed}"
    (teacher,) = (one for one in runs(n_train, gpu=True) if one.name == name)
    finetune(_folder(teacher), quiet=True, **teacher.options)  # nothing, where that run was made
    return _folder(teacher)


def _folder(one: Run) -> Path:
    return Path("runs") / one.experiment / one.name


def _packed(wrong: np.ndarray) -> str:
    """A bit a review, in hexadecimal, so that two runs can be compared review by review."""
    return np.packbits(wrong).tobytes().hex()
