"""Rows of the study of translation, from records made here."""

from __future__ import annotations

from typing import Any

import pytest

from topk_lib.claims.translation import covered, raced, shortened, written_with


def systems(**bleu: float) -> dict[str, Any]:
    found: dict[str, Any] = {name.replace("_", "-"): {"bleu": value} for name, value in bleu.items()}
    return {**found, "signature": {}}


def test_rows_are_means_over_the_seeds_there_are() -> None:
    def seed(whole: float, part: float, same: float) -> dict[str, Any]:
        same_by = {"all": 1.0, "seen": 1.0, "both-64": same}
        greedy = systems(all=whole, seen=whole, both_64=part)
        return {
            "metrics": {"greedy": greedy, "beam": systems(all=whole + 1, both_64=part), "same": same_by},
            "settings": {"types": 8000, "seen": 5000},
        }

    found = {"k-s0": seed(30.0, 29.0, 0.8), "k-s1": seed(32.0, 29.0, 0.6), "model-s0": {"metrics": {}}}
    whole, seen, both = written_with(found)
    assert (whole["way"], whole["k"], whole["below"]) == ("all", 8000, 0)
    assert (seen["way"], seen["k"], seen["seeds"]) == ("seen", 5000, 2)
    assert (both["way"], both["k"], both["bleu"]) == ("both", 64, 29.0)
    assert (both["below"], both["below least"], both["below most"]) == (2.0, 1.0, 3.0)
    assert both["same"] == pytest.approx(0.7)
    assert [row["below"] for row in written_with(found, "beam")] == [0, 3.0]
    assert written_with({}) == []


def test_rows_of_short_sources() -> None:
    one = {"metrics": {"test": systems(all=30.0, **{"rare_0.5": 20.0}), "orphans": {"rare-0.5": 0.25}}}
    whole, rare = shortened({"source-s0": one})
    assert (whole["rule"], whole["share"], whole["orphans"]) == ("all", 1.0, 0)
    assert (rare["rule"], rare["share"], rare["below"], rare["orphans"]) == ("rare", 0.5, 10.0, 0.25)
    assert shortened({}) == []


def test_rows_of_coverage_and_speed() -> None:
    row = {"tokens": 0.9, "sentences": 0.4}
    metrics = {"test": {"both": {"32": row}}, "seen_types": 5000, "seen": row}
    assert covered({"coverage": {"metrics": metrics}}) == [
        {"way": "both", "k": 32, **row},
        {"way": "seen", "k": 5000, **row},
    ]
    one = {"per_second": 9.0, "times_faster": 1.5, "seconds": [1.0], "shares": {"output": 0.25}}
    (fast,) = raced({"speed": {"metrics": {"batch-64-beams-5": {"256 shared": one}}}})
    assert fast == {
        "batch": 64, "beams": 5, "k": "256 shared", "per_second": 9.0, "times_faster": 1.5, "output": 0.25,
    }  # fmt: skip
    assert covered({}) == raced({}) == []
