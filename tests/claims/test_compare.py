"""Two models on the same reviews: by hand, on simulated ties, and what cannot be compared."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from topk_lib import claims
from topk_lib.claims.compare import of_items, two_sources

N = 2000


def first_right(share: float) -> np.ndarray:
    return np.arange(N) < round(share * N)


def record(run: str, right: np.ndarray) -> dict[str, Any]:
    metrics = {"accuracy": float(right.mean()), "wrong": np.packbits(~right).tobytes().hex()}
    return {"run": run, "metrics": metrics, "data": {"eval_fingerprint": "f", "n_eval": len(right)}}


def test_pairs_by_hand() -> None:
    # 2,000 reviews; the first is right on 1,600, the second on 1,500 of them and 30 others
    right = first_right(0.75)
    right[1600:1630] = True
    first, second = record("a", first_right(0.8)), record("b", right)
    got = claims.paired(first, second)
    assert got[:3] == (100, 30, N)
    assert got.p == pytest.approx(5.3e-10, rel=0.5)
    lost, most = claims.loss(first, second)
    assert lost == pytest.approx(0.035)
    assert most == pytest.approx(0.035 + 1.645 * np.sqrt((0.065 - 0.035**2) / N), abs=1e-5)


def test_padding_bits_count_for_nothing() -> None:
    first, second = (record(run, first_right(0.8)) for run in "ab")
    for one, bits in ((first, "00ff"), (second, "00e0")):
        one["metrics"]["wrong"], one["data"]["n_eval"] = bits, 11
    assert claims.paired(first, second) == (0, 0, 11, 1.0)


def test_pairs_need_the_same_reviews_and_kept_answers() -> None:
    one, bare = record("a", first_right(0.8)), record("b", first_right(0.7))
    other = bare | {"data": {"eval_fingerprint": "g", "n_eval": N}}
    with pytest.raises(ValueError, match="a and b were tested on different reviews"):
        claims.paired(one, other)
    del bare["metrics"]["wrong"]
    with pytest.raises(ValueError, match="b has not kept which reviews it got wrong"):
        claims.paired(one, bare)


def test_difference_by_hand() -> None:
    # Two seeds, four reviews: +1 0 0 +1 and 0 0 0 +1. Means by seed 1/2 and 1/4, by review 1/2 0 0 1.
    first = np.array([[1, 0, 1, 1], [0, 0, 1, 1]], dtype=bool)
    second = np.array([[0, 0, 1, 0], [0, 0, 1, 0]], dtype=bool)
    got = claims.difference(first, second)
    training, reviews = (1 / 32) / 2, (11 / 48) / 4
    assert got.mean == 3 / 8
    assert got.error == pytest.approx((training + reviews) ** 0.5)
    assert got.freedom == pytest.approx((training + reviews) ** 2 / (training**2 / 1 + reviews**2 / 3))
    assert got.seeds == 2
    one = claims.difference(first[:1], second[:1])
    assert one.p == claims.paired(*(record("r", rows[0]) for rows in (first, second))).p  # McNemar's
    assert claims.difference(first, first).p == 1
    with pytest.raises(ValueError, match=r"two arrays \(seeds, n\), got \(4,\) and \(2, 4\)"):
        claims.difference(first[0], second)


@pytest.mark.parametrize("luck", [0.0, 0.01, 0.02], ids="luck of training {}".format)
def test_equal_models_are_seldom_told_apart(luck: float) -> None:
    """Three seeds of two models that are equally good, over and over: at 5%, at most about one in twenty."""
    dice = np.random.default_rng(0)
    alarms, pooled, rounds, n = 0, 0, 300, 2000
    for _ in range(rounds):
        easy = dice.beta(2, 0.5, n)

        def model(easy: np.ndarray = easy) -> np.ndarray:
            own = dice.normal(0, 0.1, n) + dice.normal(0, luck, (3, 1))
            return dice.random((3, n)) < np.clip(easy + own, 0, 1)

        first, second = model(), model()
        alarms += claims.difference(first, second).p <= 0.05
        pooled += claims.difference(first.reshape(1, -1), second.reshape(1, -1)).p <= 0.05
    assert alarms / rounds <= 0.085  # 0.05 and 2.8 standard errors of 300 rounds
    assert luck < 0.02 or pooled / rounds > 0.2  # as if there were 6,000 reviews


def test_a_real_difference_is_seen() -> None:
    dice = np.random.default_rng(1)
    easy = dice.beta(2, 0.5, 2000)
    first, second = (dice.random((3, 2000)) < np.clip(easy + more, 0, 1) for more in (0.05, 0.0))
    got = claims.difference(first, second)
    assert got.p < 1e-3
    assert got.mean > 0.02
    assert got.bound() > got.mean
    assert claims.difference(second, first).mean == -got.mean


@pytest.mark.parametrize("same", [True, False], ids=["the same items", "items of its own"])
@pytest.mark.parametrize("luck", [0.0, 0.05], ids="luck of training {}".format)
def test_equal_scores_are_seldom_told_apart(luck: float, same: bool) -> None:
    """As with right and wrong: a score an item, three seeds, and nothing between the two."""
    dice = np.random.default_rng(3)
    alarms, rounds = 0, 300
    for _ in range(rounds):
        items = dice.normal(0, 0.2, (1 if same else 3, 60))
        gaps = items + dice.normal(0, 0.2, (3, 60)) + dice.normal(0, luck, (3, 1))
        alarms += of_items(gaps, same).p <= 0.05
    assert alarms / rounds <= 0.085
    one = of_items(gaps[:1], same)
    assert (one.seeds, one.freedom) == (1, 59)
    assert one.error == pytest.approx(gaps[0].std(ddof=1) / 60**0.5)


@pytest.mark.parametrize(("level", "most"), [(0.05, 0.085), (0.0025, 0.025)])
def test_how_far_three_seeds_can_be_trusted(level: float, most: float) -> None:
    """The worst case: the luck of the training is eight times that of single answers, no review is hard."""
    dice, rounds = np.random.default_rng(4), 4000
    gaps = dice.normal(0, 3, (rounds, 3))  # a variance of 8 and 1
    luck = dice.chisquare(1999, rounds) / 1999 / 3
    seen = [two_sources(gap, of_reviews, 1999).p <= level for gap, of_reviews in zip(gaps, luck, strict=True)]
    assert level < np.mean(seen) <= most
