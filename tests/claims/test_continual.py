"""The four families: the verdict follows from what is right at the end and from what was forgotten."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from topk_lib import claims
from topk_lib.claims import CLAIMS, Finding
from topk_lib.claims.continual import FAMILIES, SCENARIOS

C18 = next(claim for claim in CLAIMS if claim.name == "C18")
N = 1500
CLASSES, DOMAINS = SCENARIOS
ALL = "regularisation, replay, dynamic architecture and distillation"


def record(accuracy: float, forgotten: float, seed: int) -> dict[str, Any]:
    """Right on the first texts; the seed moves a few of them, and what is forgotten a little."""
    right = np.arange(N) < round(accuracy * N) + 2 * seed
    metrics = {
        "accuracy": float(right.mean()),
        "forgetting": forgotten + 0.001 * seed,
        "wrong": np.packbits(~right).tobytes().hex(),
    }
    return {"run": "r", "metrics": metrics, "data": {"eval_fingerprint": "f", "n_eval": N}}


def found(
    classes: dict[str, tuple[float, float]] | None = None,
    domains: dict[str, tuple[float, float]] | None = None,
    *,
    seeds: int = 3,
) -> Finding:
    every: dict[str, tuple[float, float]] = {"naive": (0.3, 0.8), "naive_own": (0.4, 0.5)}
    every |= dict.fromkeys(FAMILIES, (0.8, 0.01))
    results = {
        experiment: {
            f"{method}-s{seed}": record(*values, seed)
            for method, values in (every | (changed or {})).items()
            for seed in range(seeds)
        }
        for experiment, changed in ((CLASSES, classes), (DOMAINS, domains))
    }
    return claims.judge(C18, results)


def test_all_four_prevent_it() -> None:
    finding = found()
    assert finding.verdict == "holds (three seeds)"
    assert finding.short == "holds"
    assert len(finding.evidence) == (2 + len(FAMILIES)) + (1 + len(FAMILIES))
    told = "\n".join(finding.evidence)
    assert "{record}`continual_classes/ewc-s2 metrics.forgetting .1%`" in told
    assert "{record}`continual_domains/lwf-s0 metrics.accuracy .1%`" in told
    assert "naive_own" in told


def test_each_family_is_judged_where_it_was_tested() -> None:
    answer = found(
        {"ewc": (0.3, 0.8), "lwf": (0.6, 0.2), "adapters": (0.6, 0.01)}, {"replay_random": (0.7, 0.049)}
    ).answer
    assert answer == (
        "holds with a condition: with the task unknown forgetting is prevented by replay and dynamic "
        "architecture, lessened by distillation, no clear gain from regularisation; with the task known "
        # the mean is below five points, its upper bound is not
        "forgetting is prevented by regularisation, dynamic architecture and distillation, lessened by replay"
    )


def test_little_forgotten_because_little_was_learned_prevents_nothing() -> None:
    answer = found({"ewc": (0.3, 0.0)}).answer
    assert "no clear gain from regularisation" in answer


def test_the_stronger_of_the_naive_ones_counts() -> None:
    answer = found({"ewc": (0.5, 0.0), "naive_own": (0.55, 0.3)}).answer
    assert "no clear gain from regularisation" in answer
    assert found(dict.fromkeys(FAMILIES, (0.3, 0.8)), dict.fromkeys(FAMILIES, (0.3, 0.8))).answer == "fails"


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_seeds(count: int) -> None:
    few = found(seeds=count)
    words = ("one seed", "two seeds")[count - 1]
    assert few.verdict == f"undecided, {words} where three are needed: so far holds"
    assert few.short == few.verdict


def test_half_of_it_is_not_enough() -> None:
    runs = {f"{method}-s0": record(0.5, 0.1, 0) for method in ("naive", "naive_own", *FAMILIES)}
    missing = claims.judge(C18, {CLASSES: runs}).verdict
    assert missing == (
        "not yet measured: no runs of naive training and of all four families with the task known; "
        "`topk-lib study continual` makes the records"
    )
    del runs["lwf-s0"]
    assert "four families with the task unknown" in claims.judge(C18, {CLASSES: runs, DOMAINS: runs}).verdict


def test_a_row_for_each_method() -> None:
    def run(method: str, accuracy: float, seconds: list[float]) -> dict[str, Any]:
        more = {"backward_transfer": -0.2, "forward_transfer": 0.1, "kept_bytes": 3_000_000}
        return {
            "settings": {"method": method},
            "metrics": {"accuracy": accuracy, "forgetting": 0.3, "train_seconds": seconds, **more},
        }

    runs = {"a-s0": run("a", 0.2, [1, 2]), "b-s0": run("b", 0.9, [1]), "a-s1": run("a", 0.4, [2, 3])}
    best, worst = claims.by_method(runs)
    assert (best["method"], best["seeds"], best["accuracy"]) == ("b", 1, 0.9)
    assert (worst["method"], worst["seeds"], worst["lowest"], worst["highest"]) == ("a", 2, 0.2, 0.4)
    assert worst["accuracy"] == pytest.approx(0.3)
    assert worst["seconds"] == pytest.approx(4)
    assert (worst["kept MB"], worst["backward transfer"]) == (3.0, -0.2)
    assert claims.by_method({}) == []
