"""The IMDB runs of the first chapter; each writes its record in ``results/`` at once.

    python benchmarks/imdb.py            run whatever lacks a record from this kind of device
    python benchmarks/imdb.py --list     say what that is
    python benchmarks/imdb.py --only rules_4000

An interrupted run goes on where it was when the same command is given again. The reviews are
those of ``load_reviews()``: set TOPK_IMDB to a folder with the set, or let the hub be asked.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from topk_lib import records
from topk_lib.data import fingerprint, load_reviews, source_of
from topk_lib.models import load_encoder
from topk_lib.selectors import LinearSelector, make_selector, select_tokens
from topk_lib.selectors.corpus import count_tokens
from topk_lib.training import nb_svm, tfidf_logistic, tokenize

RULES = ("linear", "first", "head_tail", "tfidf", "random")
LEARNING_RATES = ("5e-5", "1e-4", "2e-4")


class Run(NamedTuple):
    """One record to be made: ``command`` is a finetune command's options, or a function."""

    experiment: str
    name: str
    command: list[str] | Callable[[str, str], None]


def best_learning_rate() -> str:
    """The rate that did best on the held-out part of the training split."""
    found = records.load_all("imdb_dev")
    best = max(found.values(), key=lambda r: r["metrics"]["accuracy"], default=None)
    return str(best["settings"]["learning_rate"]) if best else LEARNING_RATES[0]


def runs(gpu: bool) -> Iterator[Run]:
    """All runs in order of value; the larger grid is ``topk-lib study imdb``."""
    for name, function in (("tfidf_logistic", tfidf_logistic), ("nb_svm", nb_svm)):
        yield Run("imdb_baselines", name, _baseline(function))
    yield Run("imdb_overlap", "train_test", _overlap)
    yield Run("imdb_kept", "k64", _what_is_kept)
    for rate in LEARNING_RATES:
        yield Run("imdb_dev", f"linear-k64-lr{rate}", [
            "--selector", "linear", "--k", "64", "--learning-rate", rate,
            "--n-train", "4000", "--n-eval", "1500", "--evaluate-on", "dev",
        ])  # fmt: skip
    rate = best_learning_rate()
    if gpu:
        yield from _full(3, rate, (("linear", 256), ("first", 512)))
    else:  # the cheap grid first
        yield from _grid(4000, (64, 32, 128), 1, rate)
        yield from _full(1, rate, (("linear", 256),))


def _full(seeds: int, rate: str, choices: Sequence[tuple[str, int]]) -> Iterator[Run]:
    """The encoder at its best: all training reviews, two epochs."""
    for seed in range(seeds):
        for rule, k in choices:
            yield Run("imdb_full", f"{rule}-k{k}-s{seed}", [
                "--selector", rule, "--k", str(k), "--epochs", "2",
                "--learning-rate", rate, "--seed", str(seed),
            ])  # fmt: skip


def _grid(n_train: int, ks: Sequence[int], seeds: int, rate: str) -> Iterator[Run]:
    """The five rules side by side, one epoch each."""
    for seed in range(seeds):
        for k in ks:
            for rule in RULES:
                yield Run(f"imdb_rules_{n_train}", f"{rule}-k{k}-s{seed}", [
                    "--selector", rule, "--k", str(k), "--learning-rate", rate,
                    "--n-train", str(n_train), "--seed", str(seed),
                ])  # fmt: skip


def _baseline(function: Callable[..., dict[str, Any]]) -> Callable[[str, str], None]:
    def go(experiment: str, name: str) -> None:
        train, test = load_reviews(split="train"), load_reviews(split="test")
        start = time.perf_counter()
        metrics = function(list(train["text"]), list(train["label"]), list(test["text"]), list(test["label"]))
        records.write(
            experiment, name, metrics=metrics, settings={"seed": None}, seconds=time.perf_counter() - start,
            data={"source": source_of(train), "n_train": len(train), "n_eval": len(test),
                  "train_fingerprint": fingerprint(train), "eval_fingerprint": fingerprint(test)},
            command=f"python benchmarks/imdb.py --only {experiment}/{name}",
        )  # fmt: skip

    return go


def _overlap(experiment: str, name: str) -> None:
    """How many test reviews stand in the training split too, but for case and punctuation."""
    start = time.perf_counter()
    train, test = load_reviews(split="train"), load_reviews(split="test")
    seen = {re.sub(r"\W+", " ", text.lower()).strip() for text in train["text"]}
    shared = sum(re.sub(r"\W+", " ", text.lower()).strip() in seen for text in test["text"])
    records.write(
        experiment, name, metrics={"shared": shared, "share": shared / len(test)}, settings={"seed": None},
        seconds=time.perf_counter() - start,
        data={"source": source_of(train), "n_train": len(train), "n_eval": len(test),
              "train_fingerprint": fingerprint(train), "eval_fingerprint": fingerprint(test)},
        command=f"python benchmarks/imdb.py --only {experiment}/{name}",
    )  # fmt: skip


def _what_is_kept(experiment: str, name: str, k: int = 64) -> None:
    """What share of the opinion in a test review each rule keeps, and what kind of tokens.

    Opinion of a token: its absolute weight in the linear model of the training labels.
    """
    start = time.perf_counter()
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
    records.write(
        experiment, name, metrics=kept_metrics, settings={"k": k, "rare_below_texts": 25,
                  "common_types": 100, "seed": 0},
        seconds=time.perf_counter() - start,
        data={"source": source_of(train), "n_train": len(train), "n_eval": len(test),
              "mean_tokens": float(np.mean([len(ids) for ids in test_ids])),
              "train_fingerprint": fingerprint(train), "eval_fingerprint": fingerprint(test)},
        command=f"python benchmarks/imdb.py --only {experiment}/{name}",
    )  # fmt: skip


def _go(run: Run) -> None:
    if callable(run.command):
        run.command(run.experiment, run.name)
        return
    label = f"{run.experiment}/{run.name}"
    folder = Path("runs") / run.experiment / run.name
    command = ["topk-lib", "finetune", str(folder), *run.command, "--record", label]
    program = [sys.executable, "-m", "topk_lib.cli", *command[1:]]
    subprocess.run(program, check=True)
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--list", action="store_true", help="only say what lacks a record")
    parser.add_argument("--only", default="", help="only runs whose experiment/run contains this")
    options = parser.parse_args()
    kind = records.device_kind()
    failed = []
    # Asked for one after another, since a later run's settings may rest on an earlier record.
    for run in runs(gpu=kind == "cuda"):
        label = f"{run.experiment}/{run.name}"
        if records.path_of(run.experiment, run.name).is_file() or options.only not in label:
            continue
        print(f"== {label}", flush=True)
        if options.list:
            continue
        try:
            _go(run)
        except (subprocess.CalledProcessError, OSError, ValueError) as error:
            failed.append(label)
            print(f"failed, going on: {label}: {error}", file=sys.stderr)
    if failed:
        sys.exit(f"{len(failed)} runs failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
