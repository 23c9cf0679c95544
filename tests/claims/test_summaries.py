"""Rows of the study of summaries, and its intervals."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from topk_lib.claims.summaries import MEASURES, ahead, drawn, interval, rows, some_of


def test_an_interval_is_as_wide_as_theory_says() -> None:
    values = np.random.default_rng(1).normal(3, 2, size=400)
    mean, low, high = interval(values)
    assert mean == pytest.approx(values.mean())
    assert high - low == pytest.approx(2 * 1.96 * values.std() / math.sqrt(400), rel=0.1)
    assert interval(values) == interval(values)
    assert interval(values, level=0.5)[1] > low
    assert interval(np.ones(7)) == (1, 1, 1)
    # Seeds that differ are a second source of luck.
    seeds = np.stack([values - 1, values, values + 1])
    assert interval(seeds)[0] == pytest.approx(mean)
    assert interval(seeds)[2] - interval(seeds)[1] > 2 * (high - low)
    with pytest.raises(ValueError, match=r"with at least one, got shape \(0,\)"):
        interval(np.zeros(0))


def record(rule: str, k: int, values: Any, seed: int = 0, **metrics: float) -> dict[str, Any]:
    return {
        "settings": {"rule": rule, "k": k, "seed": seed},
        "data": {"eval_fingerprint": "f", "n_eval": len(values)},
        "metrics": {"each": dict.fromkeys(MEASURES, values), "words": 20.0, "new_words": 1.0,
                    "with_a_new_number": 0.5} | metrics,
    }  # fmt: skip


def test_one_row_a_rule_and_k_over_its_seeds() -> None:
    read: dict[str, Any] = {"tokens": 50.0, "seconds": 0.5, "seconds_choosing": 0.25}
    found = {
        "extract-lead-k1-s0": record("lead", 1, [0.1, 0.3]),
        "extract-gate-k1-s0": record("gate", 1, [0.2, 0.4]),
        "extract-gate-k1-s1": record("gate", 1, [0.4, 0.6]),
        "write-all": record("all", 0, [0.5, 0.7], **read),
        "write-gate-k1-s0": record("gate", 1, [0.5, 0.7], **read),
    }
    told = rows(found, "extract")
    assert [(row["rule"], row["k"], row["seeds"]) for row in told] == [("gate", 1, 2), ("lead", 1, 1)]
    assert told[0]["rougeL"][0] == pytest.approx(0.4)
    assert told[0]["rouge1"][1] < 0.4 < told[0]["rouge1"][2]
    assert "seconds" not in told[0]
    assert [(row["rule"], row["seconds"]) for row in rows(found, "write")] == [("all", 0.75), ("gate", 0.75)]
    assert rows({}, "tokens") == []


def test_the_lead_is_taken_abstract_by_abstract() -> None:
    dice = np.random.default_rng(0)
    hard = dice.random(200)  # abstracts differ far more than methods do
    one = [record("lead", 1, hard.tolist())]
    seeds = [record("gate", 1, (hard + 0.05 + 0.01 * dice.random(200)).tolist(), seed) for seed in range(3)]
    found = ahead(seeds, one)
    low, high = found.limits()
    assert 0.05 < low < found.mean < high < 0.06
    assert found.seeds == 3
    assert ahead(one, seeds).mean == pytest.approx(-found.mean)
    alone = ahead(seeds[:1], one)
    assert (alone.seeds, alone.freedom) == (1, 199)
    with pytest.raises(ValueError, match="only methods on the same abstracts"):
        ahead(seeds, [record("lead", 1, [0.5])])


def test_seeds_that_only_one_has_are_left_out() -> None:
    def arm(*seeds: int) -> list[dict[str, Any]]:
        return [record("gate", 1, [0.1 * seed, 0.1 * seed + 0.3], seed) for seed in seeds]

    found = ahead(arm(0, 1, 2), arm(2, 1))
    assert (found.mean, found.seeds) == (0, 2)
    with pytest.raises(ValueError, match="no seed in common"):
        ahead(arm(0, 1), arm(2, 3))


def test_what_a_rule_kept_of_the_abstracts_that_are_asked_about() -> None:
    whole = record("lead", 1, list(range(10)))
    some = some_of(whole, 4)
    assert some["metrics"]["each"]["rouge2"] == drawn(10, 4) == sorted(set(drawn(10, 4)))
    assert some["data"] == {"eval_fingerprint": "f", "n_eval": 4}
    assert ahead([some], [record("all", 0, [0.5] * 4)]).mean == np.mean(drawn(10, 4)) - 0.5
    assert drawn(3, 100) == [0, 1, 2]


def test_seeds_that_differ_by_luck_are_no_lead() -> None:
    """Three seeds of two methods that are equally good; where training has luck, no text tells of it."""
    dice = np.random.default_rng(2)
    alarms, pooled, rounds = 0, 0, 300
    for _ in range(rounds):
        hard = dice.random(200)
        first, second = (
            [
                record("gate", 1, hard + dice.normal(0, 0.1, 200) + dice.normal(0, 0.01), seed)
                for seed in range(3)
            ]
            for _ in range(2)
        )
        low, high = ahead(first, second).limits()
        alarms += low > 0 or high < 0
        one, two = (np.array([r["metrics"]["each"]["rouge1"] for r in some]) for some in (first, second))
        gaps = one - two
        pooled += abs(gaps.mean()) > 2 * gaps.std() / gaps.size**0.5
    assert alarms / rounds <= 0.085  # 0.05 and 2.8 standard errors of 300 rounds
    assert pooled / rounds > 0.15  # as if there were 600 texts, and no luck of the training
