"""Runs as rows of a table, and who of two is ahead."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from topk_lib import claims

N = 2000


def record(run: str, right: np.ndarray) -> dict[str, Any]:
    metrics = {"accuracy": float(right.mean()), "wrong": np.packbits(~right).tobytes().hex()}
    return {"run": run, "metrics": metrics, "data": {"eval_fingerprint": "f", "n_eval": len(right)}}


def test_plain_runs_become_rows() -> None:
    accuracy = {"accuracy": 0.8, "accuracy_low": 0.78, "accuracy_high": 0.82}
    record: dict[str, Any] = {"metrics": accuracy | {"seconds": {}}}
    assert claims.runs({"gate-k16-s2": record, "gate-k64-batch-s0": record}) == [
        {"run": "gate-k16-s2", "selector": "gate", "k": 16, "seed": 2} | accuracy
    ]


def grid(dice: np.random.Generator, lead: float = 0.0, luck: float = 0.01, seeds: int = 3) -> dict[str, Any]:
    """Runs of two ways, "a" as far ahead of "b" as told; each training has luck of its own."""
    easy = dice.beta(2, 0.5, N)
    found = {}
    for way, more in (("a-k16", lead), ("b-k16", 0.0)):
        for seed in range(seeds):
            right = dice.random(N) < np.clip(easy + more + dice.normal(0, luck), 0, 1)
            found[f"{way}-s{seed}"] = record(f"{way}-s{seed}", right)
    return found


def test_leads_say_whose_luck_they_count() -> None:
    found = grid(np.random.default_rng(0), lead=0.1)
    (row,) = claims.leads(found, [("a-k16", "b-k16")])
    assert (row["first"], row["second"], row["seeds"]) == ("a-k16", "b-k16", 3)
    assert row["from"] < row["points"] < row["to"]
    assert (row["luck of"], row["so"]) == ("reviews, training", "ahead")
    (back,) = claims.leads(found, [("b-k16", "a-k16")])
    assert (back["so"], back["points"]) == ("behind", -row["points"])
    del found["a-k16-s1"], found["a-k16-s2"]
    (row,) = claims.leads(found, [("a-k16", "b-k16")])
    assert row["chance"] < 1e-6  # by the reviews
    assert (row["seeds"], row["luck of"], row["so"]) == (1, "reviews", "too few seeds")


def test_what_is_asked_together_shares_the_level() -> None:
    found = grid(np.random.default_rng(1))
    pairs = [("a-k16", "b-k16")]
    (one,) = claims.leads(found, pairs)
    both = claims.leads(found, [*pairs, ("b-k16", "a-k16"), ("a-k16", "c-k16"), *pairs])
    assert len(both) == 2  # none for what was not run, none twice
    assert both[0]["chance"] == one["chance"]
    assert both[0]["to"] - both[0]["from"] > one["to"] - one["from"]


@pytest.mark.parametrize("luck", [0.0, 0.02])
def test_ties_are_seldom_told_apart(luck: float) -> None:
    dice = np.random.default_rng(2)
    rows = [claims.leads(grid(dice, luck=luck), [("a-k16", "b-k16")])[0] for _ in range(200)]
    assert sum(row["so"] != "open" for row in rows) <= 0.1 * len(rows)  # 0.05 and three standard errors
    assert sum(row["from"] <= 0 <= row["to"] for row in rows) >= 0.9 * len(rows)


def test_pairs_are_right_where_both_texts_are() -> None:
    right = np.array([[1, 1], [1, 0], [0, 1], [0, 0], [1, 1]], dtype=bool)
    row = {
        "n": 5, "original": 0.6, "rewritten": 0.6, "both": 0.4, "kept": 0.5, "blind": 0.2,
        "wrong": np.packbits(~right.reshape(-1)).tobytes().hex(),
    }  # fmt: skip
    records: dict[str, Any] = {"gate-k16-s0": {"metrics": {"pairs": row}}, "old-k16-s0": {"metrics": {}}}
    found = claims.on_pairs(records)
    assert list(found) == ["gate-k16-s0"]
    one = found["gate-k16-s0"]
    assert one["metrics"]["accuracy"] == 0.4
    assert one["metrics"]["kept"] == 0.5
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(one["metrics"]["wrong"]), dtype=np.uint8))[:5]
    assert bits.tolist() == [0, 1, 1, 1, 0]
    found["linear-k16-s0"] = one
    (lead,) = claims.leads(found, [("gate-k16", "linear-k16")])
    assert (lead["points"], lead["chance"]) == (0.0, 1.0)
