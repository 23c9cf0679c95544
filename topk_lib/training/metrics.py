"""What is reported of a two-class classifier; scikit-learn and SciPy do the counting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

__all__ = ["accuracy_interval", "classification_metrics"]


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


def classification_metrics(labels: Sequence[int], predictions: Sequence[int]) -> dict[str, Any]:
    """Compare predictions with labels, both lists of 0 and 1.

    Returns:
        ``accuracy`` with ``accuracy_low`` and ``accuracy_high`` (95%), ``precision``, ``recall``,
        ``f1`` and ``support`` (lists: negative, positive), ``macro_f1``, and ``confusion``
        (rows: the label, columns: the prediction).

    Raises:
        ValueError: the lists differ in length or are empty.
    """
    truth, guess = np.asarray(labels), np.asarray(predictions)
    if truth.shape != guess.shape or truth.size == 0:
        raise ValueError(
            f"labels and predictions must be equally long and not empty, got {truth.size} and {guess.size}"
        )
    precision, recall, f1, support = precision_recall_fscore_support(
        truth, guess, labels=[0, 1], zero_division=0.0
    )
    right = int((truth == guess).sum())
    low, high = accuracy_interval(right, truth.size)
    return {
        "accuracy": right / truth.size,
        "accuracy_low": low,
        "accuracy_high": high,
        "precision": precision.tolist(),
        "recall": recall.tolist(),
        "f1": f1.tolist(),
        "support": support.tolist(),
        "macro_f1": float(f1.mean()),
        "confusion": confusion_matrix(truth, guess, labels=[0, 1]).tolist(),
    }
