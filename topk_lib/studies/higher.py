"""As high as 22.7 million parameters go: all training reviews, a further pretrained start, an average.

Nothing is chosen on the test reviews. The start and its learning rate, and the weight of NB-SVM in the
average, are chosen on a fifth of the training split; then all of it is learned from. Every run goes on
from its last checkpoint.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from topk_lib import records
from topk_lib.data import load_reviews, train_and_eval
from topk_lib.studies.base import Made, Row, Rows, Run, packed
from topk_lib.studies.imdb import RATE
from topk_lib.studies.pairs import answers
from topk_lib.studies.transfer import further_pretrained
from topk_lib.training import classification_metrics, finetune
from topk_lib.training.baselines import nb_svm_margins
from topk_lib.training.finetune import FinetuneResult

__all__ = ["EXPERIMENT", "MINUTES", "best_weight", "runs"]

EXPERIMENT = "higher"
MINUTES = 60  # of further pretraining, the longest that the study of transfer has a record of
SEEDS = range(3)
_ROOT = Path("runs") / EXPERIMENT
_STARTS = ((0, RATE), (MINUTES, RATE), (MINUTES, 4e-5))  # the last rate was best for it with 1,000 labels
_WEIGHTS = np.linspace(0, 1, 21)


def runs(*, gpu: bool) -> Iterator[Run]:
    """The known recipe at k = 128 once, what is chosen on dev, the average, then the other seeds."""

    def seeds(which: Sequence[int]) -> Iterator[Run]:
        for seed in which:
            yield Run(EXPERIMENT, f"linear-k128-s{seed}", partial(_plain, seed))

    yield from seeds(SEEDS[:1])
    yield Run(EXPERIMENT, "start", _start)
    yield Run(EXPERIMENT, "weight", _weight)
    yield Run(EXPERIMENT, "average-k256-s0", partial(_average, 0))
    yield from seeds(SEEDS[1:])
    if gpu:
        for seed in SEEDS[1:]:
            yield Run(EXPERIMENT, f"average-k256-s{seed}", partial(_average, seed))


def _learned(name: str, **options: Any) -> FinetuneResult:
    result = finetune(_ROOT / name, selector="linear", quiet=True, **options)
    for checkpoint in result.folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    print(f"{name}: accuracy {result.metrics['accuracy']:.2%}", flush=True)
    return result


def _plain(seed: int, n: int | None = None, k: int = 128) -> Made:
    """The encoder as it comes, two epochs."""
    result = _learned(f"linear-k{k}-s{seed}", k=k, epochs=2.0, learning_rate=RATE, seed=seed, n_train=n)
    wrong = np.asarray(result.predictions) != np.asarray(load_reviews(split="test", quiet=True)["label"])
    return Made(
        result.metrics
        | {"seconds": result.seconds, "wrong": packed(wrong), "pairs": answers(result.folder)},
        result.settings, result.data, sum(result.seconds.values()),
    )  # fmt: skip


def _start(n: int | None = None, k: int = 64) -> Made:
    """Whether further pretraining helps where labels are many: one epoch from each start, on dev."""
    rows = Rows(_ROOT / "start.json", {"n": n, "k": k})

    def tried(minutes: int, rate: float) -> Row:
        result = _learned(
            f"start-{minutes}min-{rate:g}", model=further_pretrained(minutes), k=k, learning_rate=rate,
            n_train=n, evaluate_on="dev",
        )  # fmt: skip
        return {"minutes": minutes, "rate": rate, "accuracy": result.metrics["accuracy"],
                "settings": result.settings, "data": result.data,
                "seconds": sum(result.seconds.values())}  # fmt: skip

    every = [rows.measure(f"{m}min-{rate:g}", partial(tried, m, rate)) for m, rate in _STARTS]
    best = max(every, key=lambda row: float(row["accuracy"]))
    told = [{key: row[key] for key in ("minutes", "rate", "accuracy", "seconds")} for row in every]
    return Made({"best": {key: best[key] for key in ("minutes", "rate")}, "tried": told}, best["settings"],
                best["data"] | {"evaluated_on": "dev"}, sum(row["seconds"] for row in every))  # fmt: skip


def _chosen(what: str) -> Any:
    try:
        return records.load(EXPERIMENT, what)["metrics"]["best"]
    except FileNotFoundError:
        raise ValueError(
            f"the {what} is chosen on dev reviews first: topk-lib study higher --only {EXPERIMENT}/{what}"
        ) from None


def best_weight(encoder: np.ndarray, words: np.ndarray, truth: Sequence[int]) -> dict[str, Any]:
    """The share of the encoder in a weighted mean of log-odds that is right most often.

    Args:
        encoder, words: (texts,), log-odds of class 1 by the encoder and by NB-SVM.
        truth: (texts,) 0 or 1.

    Returns:
        ``best``, of equals the one with the lowest cross-entropy, and ``accuracy`` by weight.
    """
    sign = 2 * np.asarray(truth) - 1

    def judged(weight: float) -> tuple[float, float]:
        margin = (weight * encoder + (1 - weight) * words) * sign
        return float((margin > 0).mean()), -float(np.logaddexp(0, -margin).mean())

    found = {round(float(weight), 2): judged(float(weight)) for weight in _WEIGHTS}
    return {
        "best": max(found, key=found.__getitem__),
        "accuracy": {f"{weight:g}": right for weight, (right, _) in found.items()},
    }


def _log_odds(result: FinetuneResult) -> np.ndarray:
    """(reviews,) of class 1."""
    return np.asarray(np.diff(result.logits)[:, 0])


def _weight(n: int | None = None, k: int = 64) -> Made:
    """Two epochs without the dev reviews; then how much of NB-SVM, fitted on the same, helps on them."""
    start = _chosen("start")
    result = _learned(
        "weight", model=further_pretrained(start["minutes"]), k=k, epochs=2.0, learning_rate=start["rate"],
        n_train=n, evaluate_on="dev",
    )  # fmt: skip
    train, dev = train_and_eval(evaluate_on="dev", n_train=n, quiet=True)
    words = nb_svm_margins(train["text"], train["label"], dev["text"])[:, 0]
    found = best_weight(_log_odds(result), words, dev["label"])
    print(f"weight of the encoder {found['best']:g}", flush=True)
    return Made(found, result.settings, result.data | {"evaluated_on": "dev"}, sum(result.seconds.values()))


def _average(seed: int, n: int | None = None, k: int = 256) -> Made:
    """All training reviews, two epochs, and the average with NB-SVM at the weight that dev chose."""
    start, weight = _chosen("start"), float(_chosen("weight"))
    result = _learned(
        f"average-k{k}-s{seed}", model=further_pretrained(start["minutes"]), k=k, epochs=2.0,
        learning_rate=start["rate"], seed=seed, n_train=n,
    )  # fmt: skip
    train, test = train_and_eval(n_train=n, seed=seed, quiet=True)
    encoder = _log_odds(result)
    words = nb_svm_margins(train["text"], train["label"], test["text"])[:, 0]
    metrics: dict[str, Any] = {}
    for name, margin in (
        ("average", weight * encoder + (1 - weight) * words), ("encoder", encoder), ("nb_svm", words),
    ):  # fmt: skip
        answer = (margin > 0).astype(int)
        wrong = packed(answer != np.asarray(test["label"]))
        metrics[name] = classification_metrics(test["label"], answer.tolist()) | {"wrong": wrong}
    print(f"average {metrics['average']['accuracy']:.2%}", flush=True)
    metrics["encoder"]["pairs"] = answers(result.folder)
    whole = metrics.pop("average") | metrics | {"weight": weight, "seconds": result.seconds}
    return Made(whole, result.settings, result.data, sum(result.seconds.values()))
