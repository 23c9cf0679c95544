"""How many test reviews each slice of the study ``imdb`` has, and how far the commonest answer gets there."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from topk_lib.data import fingerprint, load_reviews, source_of
from topk_lib.studies.base import Made, Run
from topk_lib.studies.imdb import SMALL_TEST, slices

__all__ = ["base_rates", "runs"]


def runs(*, gpu: bool) -> Iterator[Run]:
    yield Run("study_slices", "base", base_rates)


def base_rates(n_test: int = SMALL_TEST) -> Made:
    """On the test reviews that the study's runs on 4,000 training reviews answered.

    Returns:
        ``metrics``, for ``all`` and each slice: ``n``, the commonest class's ``label`` and its
        ``share``, which is the accuracy of one who always answers that.
    """
    test = load_reviews(split="test", n=n_test, quiet=True)
    truth = np.asarray(test["label"])
    parts = {"all": np.ones(len(truth), dtype=bool), **slices(list(test["text"]), truth.tolist())}
    metrics = {}
    for name, inside in parts.items():
        if not inside.any():
            continue
        share = float(truth[inside].mean())
        label = "positive" if share > 0.5 else "negative"
        metrics[name] = {"n": int(inside.sum()), "label": label, "share": max(share, 1 - share)}
    data = {"source": source_of(test), "n_eval": len(test), "eval_fingerprint": fingerprint(test)}
    return Made(metrics, {"seed": 0}, data)
