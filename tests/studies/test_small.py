"""The studies that only look: neighbours of opinion words, and what guessing gets on each slice."""

from __future__ import annotations

import numpy as np
import pytest

from topk_lib.data import load_reviews
from topk_lib.studies import neighbours, slices
from topk_lib.studies.imdb import slices as parts_of


def test_neighbours() -> None:
    m = neighbours.neighbours().metrics
    assert (
        m["words"]
        == len(neighbours.PRAISE) + len(neighbours.BLAME)
        == len(set(neighbours.PRAISE + neighbours.BLAME))
    )
    assert all(len(near) == 10 and word not in near for word, near in m["nearest"].items())
    listed = set(neighbours.PRAISE + neighbours.BLAME)
    with_listed = sum(any(word in listed for word in near) for near in m["nearest"].values())
    assert m["words_with_listed"] == with_listed
    # ten draws, each listed with chance_share: nearly 1 - (1 - p)^10
    assert m["chance_with_listed"] == pytest.approx(1 - (1 - m["chance_share"]) ** 10, rel=1e-2)
    assert m["chance_same_side"] == pytest.approx(19 / 39)  # two sides of twenty


def test_base_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOPK_IMDB", "embedded")
    m = slices.base_rates(n_test=50).metrics
    test = load_reviews("embedded", split="test", n=50, quiet=True)
    truth = np.asarray(test["label"])
    for name, inside in parts_of(list(test["text"]), truth.tolist()).items():
        assert m[name]["n"] == inside.sum()
        if inside.any():
            share = truth[inside].mean()
            assert m[name]["share"] == max(share, 1 - share) >= 0.5
            assert m[name]["label"] == ("positive" if share > 0.5 else "negative")
    assert m["all"]["n"] == 50
