"""What is reported of a model's answers; scikit-learn and SciPy do the counting."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from topk_lib.data import Labels
from topk_lib.data.labels import NUMBER, SEVERAL

__all__ = [
    "accuracy_interval", "as_text", "classification_metrics", "measure", "number_metrics", "several_metrics",
    "to_maximise",
]  # fmt: skip


def accuracy_interval(right: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's interval for the share of right answers (Wilson, 1927).

    Args:
        right: how many answers were right.
        total: of how many; at least 1.
        confidence: 0.95 for a 95% interval.

    Returns:
        The lower and the upper end, in [0, 1].
    """
    interval = binomtest(right, total).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def classification_metrics(
    labels: Sequence[int], predictions: Sequence[int], classes: int | None = None
) -> dict[str, Any]:
    """Compare predicted class ids with labels.

    Args:
        labels: (n,) ids from 0.
        predictions: (n,) ids from 0.
        classes: how many there are; None: as many as occur, 2 at least.

    Returns:
        ``accuracy`` with ``accuracy_low`` and ``accuracy_high`` (95%), ``precision``, ``recall``,
        ``f1`` and ``support`` (lists: a class each), ``macro_f1`` (of two classes over both, of more over
        those that occur), and ``confusion`` (rows: the label, columns: the prediction).

    Raises:
        ValueError: the lists differ in length or are empty.
    """
    truth, guess = _pair(labels, predictions)
    ids = list(range(classes or max(2, int(truth.max()) + 1, int(guess.max()) + 1)))
    precision, recall, f1, support = precision_recall_fscore_support(
        truth, guess, labels=ids, zero_division=0.0
    )
    right = int((truth == guess).sum())
    low, high = accuracy_interval(right, truth.size)
    occur = np.union1d(truth, guess)
    return {
        "accuracy": right / truth.size,
        "accuracy_low": low,
        "accuracy_high": high,
        "precision": precision.tolist(),
        "recall": recall.tolist(),
        "f1": f1.tolist(),
        "support": support.tolist(),
        "macro_f1": float(f1[occur if len(ids) > 2 else ids].mean()),
        "confusion": confusion_matrix(truth, guess, labels=ids).tolist(),
    }


def several_metrics(
    labels: Sequence[Sequence[int]], predictions: Sequence[Sequence[int]], classes: int
) -> dict[str, Any]:
    """Compare the labels that each text is given with those it has.

    Args:
        labels: for each text the ids of its labels.
        predictions: likewise.
        classes: how many labels there are.

    Returns:
        ``exact``, the share of texts with exactly their labels, with ``exact_low`` and ``exact_high``
        (95%); ``precision``, ``recall``, ``f1`` and ``support`` (lists: a label each), ``micro_f1`` and
        ``macro_f1``.

    Raises:
        ValueError: the lists differ in length or are empty.
    """
    if len(labels) != len(predictions) or not labels:
        raise ValueError(
            f"labels and predictions must be equally long and not empty, got {len(labels)} "
            f"and {len(predictions)}"
        )
    truth, guess = (np.zeros((len(labels), classes), dtype=int) for _ in range(2))
    for row, (has, given) in enumerate(zip(labels, predictions, strict=True)):
        truth[row, list(has)] = 1
        guess[row, list(given)] = 1
    hit, given, has = (truth & guess).sum(0), guess.sum(0), truth.sum(0)
    f1 = 2 * hit / np.maximum(given + has, 1)
    right = int((truth == guess).all(1).sum())
    low, high = accuracy_interval(right, len(labels))
    return {
        "exact": right / len(labels),
        "exact_low": low,
        "exact_high": high,
        "precision": (hit / np.maximum(given, 1)).tolist(),
        "recall": (hit / np.maximum(has, 1)).tolist(),
        "f1": f1.tolist(),
        "support": has.tolist(),
        "micro_f1": float(2 * hit.sum() / max(1, given.sum() + has.sum())),
        "macro_f1": float(f1.mean()),
    }


def number_metrics(labels: Sequence[float], predictions: Sequence[float]) -> dict[str, Any]:
    """Compare predicted numbers with the true ones.

    Returns:
        ``mean_absolute_error``, ``root_mean_squared_error`` (both in the labels' unit), and ``r2`` and
        ``pearson``, None where the labels (or, for the latter, the predictions) are all equal.

    Raises:
        ValueError: the lists differ in length or are empty.
    """
    truth, guess = (x.astype(float) for x in _pair(labels, predictions))
    # a mean of equal numbers may be off by a rounding
    spread, moved = ((x - x.mean()) * (x != x[0]).any() for x in (truth, guess))
    error = guess - truth
    both = math.sqrt(float((spread**2).sum()) * float((moved**2).sum()))
    return {
        "mean_absolute_error": float(np.abs(error).mean()),
        "root_mean_squared_error": math.sqrt(float((error**2).mean())),
        "r2": 1 - float((error**2).sum() / (spread**2).sum()) if spread.any() else None,
        "pearson": float((spread * moved).sum()) / both if both else None,
    }


def measure(labels: Labels, truth: Sequence[Any], logits: Any) -> tuple[dict[str, Any], list[Any]]:
    """Metrics by what the labels are, ``classes`` (their names) among them; and the predictions.

    Args:
        labels: of the model.
        truth: of ``load_reviews``, with the model's ids.
        logits: (n, labels) tensor.

    Returns:
        Of :func:`classification_metrics`, :func:`several_metrics` or :func:`number_metrics`; and for each
        text the class id, the ids of its labels (those of a probability of 0.5 or more) or the number.
    """
    if labels.problem == NUMBER:
        numbers = logits[:, 0].tolist()
        return number_metrics(truth, numbers), numbers
    names = {"classes": list(labels.names)}
    if labels.problem == SEVERAL:
        given = [[i for i, x in enumerate(row) if x >= 0] for row in logits.tolist()]
        return several_metrics(truth, given, len(labels.names)) | names, given
    best = logits.argmax(-1).tolist()
    return classification_metrics(truth, best, len(labels.names)) | names, best


def to_maximise(metrics: dict[str, Any]) -> float:
    """The one number by which settings are chosen: higher is better."""
    for name in ("accuracy", "micro_f1"):
        if name in metrics:
            return float(metrics[name])
    return -float(metrics["root_mean_squared_error"])


def _pair(labels: Sequence[Any], predictions: Sequence[Any]) -> tuple[Any, Any]:
    truth, guess = np.asarray(labels), np.asarray(predictions)
    if truth.shape != guess.shape or truth.size == 0:
        raise ValueError(
            f"labels and predictions must be equally long and not empty, got {truth.size} and {guess.size}"
        )
    return truth, guess


def as_text(m: dict[str, Any]) -> str:
    """What :func:`measure` found, as lines to read."""
    if "mean_absolute_error" in m:
        return "\n".join(
            f"{name.replace('_', ' '):24}{'-' if m[name] is None else format(m[name], '10.4g'):>10}"
            for name in ("mean_absolute_error", "root_mean_squared_error", "r2", "pearson")
        )
    names = m.get("classes", ("negative", "positive"))
    first = "accuracy" if "accuracy" in m else "exact"
    wide = max(10, *(len(name) + 1 for name in names))
    lines = [
        f"{first} {m[first]:.2%} (95% interval {m[f'{first}_low']:.2%} to {m[f'{first}_high']:.2%})",
        f"{'':{wide}}{'precision':>10}{'recall':>10}{'F1':>10}{'support':>10}",
    ]
    for i, name in enumerate(names):
        numbers = "".join(f"{m[what][i]:10.3f}" for what in ("precision", "recall", "f1"))
        lines.append(f"{name:{wide}}{numbers}{m['support'][i]:10,}")
    if "micro_f1" in m:
        lines.append(f"F1 over all labels {m['micro_f1']:.3f}, mean over the labels {m['macro_f1']:.3f}")
    elif len(names) <= 10:
        lines.append(f"confusion (rows: label, columns: prediction): {m['confusion']}")
    return "\n".join(lines)
