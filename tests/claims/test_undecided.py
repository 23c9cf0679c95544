"""The next run is the one that could most cheaply turn a verdict."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from topk_lib.claims.undecided import Undecided, contests

N = 2000


def record(run: str, accuracy: float) -> dict[str, Any]:
    right = np.arange(N) < round(accuracy * N)
    metrics = {"accuracy": accuracy, "wrong": np.packbits(~right).tobytes().hex()}
    return {"run": run, "metrics": metrics, "data": {"eval_fingerprint": "f", "n_eval": N}}


def state(accuracies: dict[str, float], *runs: str, **costs: float) -> Undecided:
    cost = dict.fromkeys((*accuracies, *runs), 1.0) | {run.replace("_", "-"): c for run, c in costs.items()}
    return Undecided(cost, {run: record(run, accuracy) for run, accuracy in accuracies.items()})


def test_what_claims_and_chapters_compare() -> None:
    ways = ["gate-k16", "linear-k16", "linear-k32", "random-k16", "chi2-k16", "gate-k16-batch", "first-k512"]
    pairs = contests(ways)
    assert {("gate-k16", "linear-k16"), ("gate-k16", "chi2-k16"), ("linear-k16", "random-k16")} <= {*pairs}
    assert ("linear-k32", "first-k512") in pairs
    assert ("gate-k16-batch", "gate-k16") in pairs
    assert not {("chi2-k16", "random-k16"), ("gate-k16", "linear-k32")} & {*pairs}  # nobody asks
    assert len(set(pairs)) == len(pairs)


def test_a_close_pair_before_a_clear_one() -> None:
    first = {"gate-k16-s0": 0.81, "linear-k16-s0": 0.812, "chi2-k16-s0": 0.70}
    one = state(first, *(f"{name}-k16-s1" for name in ("gate", "linear", "chi2")))
    assert one.doubt(("gate-k16", "linear-k16")) > 0.5
    assert one.doubt(("gate-k16", "chi2-k16")) == 0.02  # three seeds are wanted even there
    worth = {run: one.worth(run) for run in ("gate-k16-s1", "linear-k16-s1", "chi2-k16-s1")}
    assert max(worth, key=lambda run: worth[run]) == "gate-k16-s1"  # it has both rivals
    assert worth["linear-k16-s1"] > 5 * worth["chi2-k16-s1"]


def test_the_cheaper_of_two_alike() -> None:
    one = state({}, "gate-k16-s0", "gate-k64-s0", "linear-k16-s0", "linear-k64-s0", gate_k64_s0=3.0)
    assert one.worth("gate-k16-s0") == pytest.approx(3 * one.worth("gate-k64-s0"))


def test_a_partner_that_has_the_seed_doubles_the_worth() -> None:
    one = state({}, "gate-k16-s0", "linear-k16-s0")
    assert one.worth("gate-k16-s0", ["linear-k16-s0"]) == 2 * one.worth("gate-k16-s0") == 1.0
    one.add("linear-k16-s0", record("linear-k16-s0", 0.8))
    assert one.worth("gate-k16-s0") == 1.0


def test_luck_with_the_training_counts_beside_that_of_the_reviews() -> None:
    # 40 of 2,000 reviews on one side: McNemar's test would have no doubt.
    one = state({"gate-k16-s0": 0.82, "linear-k16-s0": 0.80})
    gap = one.gap(("gate-k16", "linear-k16"))
    assert gap is not None
    assert gap.p < 1e-6
    assert one.doubt(("gate-k16", "linear-k16")) == pytest.approx(0.16, abs=0.02)  # 2 points at 1.4 + 0.3


def test_the_luck_is_learned_from_pairs_with_more_seeds() -> None:
    scores = {"gate": (0.80, 0.84), "linear": (0.82, 0.82), "chi2": (0.80, 0.80), "random": (0.60, 0.60)}
    found = {f"{name}-k16-s{seed}": x for name, pair in scores.items() for seed, x in enumerate(pair)}
    assert state({}).luck == 0.014
    # The gate's gaps to all three spread by 0.04, those between linear and random by nothing.
    assert state(found).luck == pytest.approx((3 / 4 * 0.04**2 / 2) ** 0.5)


def test_three_seeds_close_a_pair() -> None:
    found = {f"{name}-k16-s{seed}": 0.8 for name in ("gate", "linear") for seed in range(3)}
    one = state(found, "gate-k16-s3", "linear-k16-s3")
    assert one.doubt(("gate-k16", "linear-k16")) == one.worth("gate-k16-s3") == 0.0


def test_what_is_not_known_is_guessed_from_the_nearest_k() -> None:
    found = {"gate-k16-s0": 0.8, "random-k16-s0": 0.6, "gate-k32-s0": 0.83, "random-k32-s0": 0.82}
    one = state(found, "gate-k64-s0", "random-k64-s0", "history-k64-s0")
    near = one.doubt(("gate-k32", "random-k32"))
    assert near < one.doubt(("gate-k64", "random-k64")) < 1
    assert one.doubt(("history-k64", "random-k64")) == 1.0
