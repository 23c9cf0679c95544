"""Claim C17 follows from the records, whatever these say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from topk_lib import claims
from topk_lib.claims import CLAIMS

C17 = next(claim for claim in CLAIMS if claim.name == "C17")
N = 400


def record(run: str, accuracy: float, seed: int = 0, **settings: Any) -> dict[str, Any]:
    right = np.random.default_rng(seed).random(N) < accuracy
    part = {
        "accuracy": right.mean(), "accuracy_low": right.mean() - 0.05, "accuracy_high": right.mean() + 0.05,
        "wrong": np.packbits(~right).tobytes().hex(),
    }  # fmt: skip
    given = {"way": "median", "rule": "first", "k": 64, "seed": seed, "shots": 0, "order": 0} | settings
    return {
        "run": run, "metrics": {"raw": part, "median": part, "tokens": 80.0}, "settings": given,
        "data": {"eval_fingerprint": "f", "n_eval": N},
    }  # fmt: skip


def study(zero: float, few: float, words: tuple[float, ...] = (0.8, 0.7), draws: int = 3) -> dict[str, Any]:
    runs = {f"read-first-k{k}-s0": record(f"read-first-k{k}-s0", zero, 9) for k in (64, 160)}
    for n in (2, 4, 8):
        for draw in range(draws):
            name = f"shots-first-n{n}-d{draw}-o0"
            runs[name] = record(name, few, draw + 10 * n, shots=n)
    for i, accuracy in enumerate(words):
        runs[f"template-{i}"] = record(f"template-{i}", accuracy, i)
    return {"prompting": runs}


@pytest.mark.parametrize(
    ("zero", "few", "words", "verdict"),
    [
        (0.7, 0.9, (0.8, 0.7), "holds (tested at k = 64 and 160, three seeds)"),
        (0.5, 0.5, (0.8, 0.5), "fails (tested"),
        (0.8, 0.8, (0.8, 0.7), "holds with a condition: 2, 4 and 8 examples change nothing that shows ("),
        (0.9, 0.7, (0.8, 0.7), "holds with a condition: 2, 4 and 8 examples make it worse ("),
        (0.8, 0.5, (0.8, 0.7), "with 2, 4 and 8 examples it is not surely better than a coin; 2, 4 and 8"),
        (0.5, 0.9, (0.8, 0.7), "holds with a condition: only with examples ("),
        (0.7, 0.9, (0.8, 0.5, 0.5), "in 2 of 3 wordings its own answers are not surely better than a coin's"),
    ],
)  # fmt: skip
def test_the_verdict(zero: float, few: float, words: tuple[float, ...], verdict: str) -> None:
    assert verdict in claims.verdict("C17", study(zero, few, words))


def test_two_draws_decide_nothing() -> None:
    assert claims.verdict("C17", study(0.7, 0.9, draws=2)).startswith("undecided, two seeds")


@pytest.mark.parametrize("lost", ["read-first-k160-s0", "shots-first-n8-d", "template-"])
def test_what_is_missing_is_named(lost: str) -> None:
    runs = study(0.7, 0.9)["prompting"]
    left = {"prompting": {name: r for name, r in runs.items() if not name.startswith(lost)}}
    said = claims.verdict("C17", left)
    assert said.startswith("not yet measured: no ")
    assert "`topk-lib study prompting` makes the records" in said


def test_evidence_cites_records() -> None:
    lines = claims.judge(C17, study(0.7, 0.9)).evidence
    assert "{record}`prompting/read-first-k160-s0 metrics.median.accuracy .1%`" in lines[0]
    assert lines[1].count("{record}") == 3
    assert "better than none, by +" in lines[1]
    assert "template-1" in lines[4]
    assert "{cite:p}`brown2020`" in lines[-1]


def test_the_lead_of_an_arm_whose_tokens_are_drawn_over_one_whose_are_not() -> None:
    drawn, fixed = [record("a", 0.9, seed) for seed in range(3)], [record("b", 0.6, 9)]
    gap = claims.lead(drawn, fixed)
    low, high = gap.limits()
    assert gap.seeds == 3
    assert low < gap.mean < high
    assert gap.mean == pytest.approx(
        np.mean([r["metrics"]["raw"]["accuracy"] for r in drawn]) - fixed[0]["metrics"]["raw"]["accuracy"]
    )
    assert claims.lead(fixed, fixed).mean == 0


def test_rows_of_the_arms() -> None:
    rows = claims.arms(study(0.7, 0.9)["prompting"], "raw")
    assert len(rows) == 2 + 9  # templates are no arms
    assert {row["shots"] for row in rows} == {0, 2, 4, 8}
    assert {"accuracy", "accuracy_low", "accuracy_high", "tokens", "rule", "k", "seed", "order"} < set(
        rows[0]
    )
