"""The runs of the first chapter: five rules by k, two linear models, and what each rule keeps."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from topk_lib import records
from topk_lib.data import fingerprint, load_reviews, source_of
from topk_lib.models import load_encoder
from topk_lib.selectors import LinearSelector, make_selector, select_tokens
from topk_lib.selectors.corpus import count_tokens
from topk_lib.studies.base import Made, Run
from topk_lib.training import finetune, nb_svm, tfidf_logistic, tokenize

__all__ = ["LEARNING_RATES", "RULES", "best_learning_rate", "runs"]

RULES = ("linear", "first", "head_tail", "tfidf", "random")
LEARNING_RATES = ("5e-5", "1e-4", "2e-4")


def best_learning_rate() -> float:
    """The rate that did best on the held-out part of the training split."""
    found = records.load_all("imdb_dev")
    best = max(found.values(), key=lambda r: r["metrics"]["accuracy"], default=None)
    return float(best["settings"]["learning_rate"] if best else LEARNING_RATES[0])


def runs(*, gpu: bool) -> Iterator[Run]:
    """All runs in order of value; the larger grid is the study ``imdb``."""
    for name, function in (("tfidf_logistic", tfidf_logistic), ("nb_svm", nb_svm)):
        yield Run("imdb_baselines", name, partial(_baseline, function))
    yield Run("imdb_overlap", "train_test", _overlap)
    yield Run("imdb_kept", "k64", _what_is_kept)
    for tried in LEARNING_RATES:
        yield _run("imdb_dev", f"linear-k64-lr{tried}", selector="linear", k=64, learning_rate=float(tried),
                   n_train=4000, n_eval=1500, evaluate_on="dev")  # fmt: skip
    rate = best_learning_rate()
    if gpu:
        yield from _full(3, rate, (("linear", 256), ("first", 512)))
    else:  # the cheap grid first
        for k in (64, 32, 128):
            for rule in RULES:
                yield _run("imdb_rules_4000", f"{rule}-k{k}-s0", selector=rule, k=k, learning_rate=rate,
                           n_train=4000, seed=0)  # fmt: skip
        yield from _full(1, rate, (("linear", 256),))


def _full(seeds: int, rate: float, choices: Sequence[tuple[str, int]]) -> Iterator[Run]:
    """The encoder at its best: all training reviews, two epochs."""
    for seed in range(seeds):
        for rule, k in choices:
            yield _run("imdb_full", f"{rule}-k{k}-s{seed}", selector=rule, k=k, epochs=2.0,
                       learning_rate=rate, seed=seed)  # fmt: skip


def _run(experiment: str, name: str, **options: Any) -> Run:
    return Run(experiment, name, partial(_finetuned, Path("runs") / experiment / name, options))


def _finetuned(folder: Path, options: dict[str, Any]) -> Made:
    result = finetune(folder, quiet=True, **options)
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    metrics = result.metrics | {"seconds": result.seconds}
    return Made(metrics, result.settings, result.data, sum(result.seconds.values()))


def _baseline(function: Callable[..., dict[str, Any]]) -> Made:
    train, test = load_reviews(split="train"), load_reviews(split="test")
    metrics = function(list(train["text"]), list(train["label"]), list(test["text"]), list(test["label"]))
    return Made(metrics, {"seed": None}, _of(train, test))


def _of(train: Any, test: Any) -> dict[str, Any]:
    return {
        "source": source_of(train), "n_train": len(train), "n_eval": len(test),
        "train_fingerprint": fingerprint(train), "eval_fingerprint": fingerprint(test),
    }  # fmt: skip


def _overlap() -> Made:
    """How many test reviews stand in the training split too, but for case and punctuation."""
    train, test = load_reviews(split="train"), load_reviews(split="test")
    seen = {re.sub(r"\W+", " ", text.lower()).strip() for text in train["text"]}
    shared = sum(re.sub(r"\W+", " ", text.lower()).strip() in seen for text in test["text"])
    return Made({"shared": shared, "share": shared / len(test)}, {"seed": None}, _of(train, test))


def _what_is_kept(k: int = 64) -> Made:
    """What share of the opinion in a test review each rule keeps, and what kind of tokens.

    Opinion of a token: its absolute weight in the linear model of the training labels.
    """
    train, test = load_reviews(split="train"), load_reviews(split="test")
    _, tokenizer = load_encoder()
    train_ids = tokenize(tokenizer, train["text"], None)
    test_ids = tokenize(tokenizer, test["text"], None)
    special = set(tokenizer.all_special_ids)
    linear = LinearSelector(vocabulary=tokenizer.vocab_size)
    weight = linear.fit(train_ids, list(train["label"])).table.numpy()
    documents = np.asarray((count_tokens(train_ids, tokenizer.vocab_size) > 0).sum(0)).ravel()
    common = np.zeros(tokenizer.vocab_size, dtype=bool)
    common[np.argsort(-documents)[:100]] = True
    piece = np.zeros(tokenizer.vocab_size, dtype=bool)
    for token, i in tokenizer.get_vocab().items():
        piece[i] = token.startswith("##")
    total = np.array([weight[ids].sum() for ids in test_ids])
    kept_metrics: dict[str, Any] = {}
    for rule in RULES:
        selector = make_selector(rule).fit(train_ids, list(train["label"]))
        kept = select_tokens(selector, test_ids, k, tokenizer.all_special_ids)
        flat = np.array([i for ids in kept for i in ids if i not in special])
        kept_metrics[rule] = {
            "weight_share": float(np.mean([weight[ids].sum() for ids in kept] / total)),
            "mean_weight": float(weight[flat].mean()),
            "rare_share": float((documents[flat] < 25).mean()),
            "piece_share": float(piece[flat].mean()),
            "common_share": float(common[flat].mean()),
            "distinct_share": float(np.mean([len(set(ids)) / len(ids) for ids in kept])),
            "most_kept": [
                tokenizer.convert_ids_to_tokens(int(i)) for i in np.bincount(flat).argsort()[:-13:-1]
            ],
        }
    settings = {"k": k, "rare_below_texts": 25, "common_types": 100, "seed": 0}
    data = _of(train, test) | {"mean_tokens": float(np.mean([len(ids) for ids in test_ids]))}
    return Made(kept_metrics, settings, data)
