"""Few parameters: the verdict follows from losses and falls, whatever the records say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from topk_lib import claims
from topk_lib.claims import CLAIMS, Finding
from topk_lib.claims.adaptation import FEW, less_overfitting

C16 = next(claim for claim in CLAIMS if claim.name == "C16")
N = 5000


def record(accuracy: float, fall: float, seed: int, *, bits: bool = True) -> dict[str, Any]:
    """Right on the first reviews; the seed moves a few of them."""
    right = np.arange(N) < round(accuracy * N) + 5 * seed
    share = float(right.mean())
    metrics: dict[str, Any] = {
        "accuracy": share,
        "train": {"accuracy": share + fall + 0.001 * seed},
        "gap": {"accuracy": fall + 0.001 * seed},
        "trainable": 1000,
    }
    if bits:
        metrics["wrong"] = np.packbits(~right).tobytes().hex()
    return {"run": "r", "metrics": metrics, "data": {"eval_fingerprint": "f", "n_eval": N}}


def found(
    few: dict[str, tuple[float, float]], *, seeds: int = 3, sizes: tuple[int, ...] = (200, 4000)
) -> Finding:
    every = {"full": (0.8, 0.2)} | dict.fromkeys(FEW, (0.8, 0.05)) | few
    runs = {
        f"{method}-first-k64-n{n}-s{seed}": record(*values, seed)
        for method, values in every.items() for n in sizes for seed in range(seeds)
    }  # fmt: skip
    return claims.judge(C16, {"adaptation": runs})


def test_as_good_and_less_overfitting() -> None:
    finding = found({})
    assert finding.verdict == "holds (tested at k = 64, three seeds)"
    assert len(finding.evidence) == 2 * (1 + len(FEW))
    assert "{record}`adaptation/lora-first-k64-n200-s2 metrics.accuracy .1%`" in " ".join(finding.evidence)


def test_each_method_is_judged_by_both_halves() -> None:
    worse, overfits = (0.75, 0.05), (0.8, 0.2)
    only = found({"prompt": worse, "bitfit": overfits})
    names = "LoRA (200 labels), adapters (200 labels), LoRA (4,000 labels) and adapters (4,000 labels)"
    assert only.answer == f"holds with a condition: only with {names}"
    assert found(dict.fromkeys(FEW, worse)).short == found(dict.fromkeys(FEW, overfits)).short == "fails"
    assert "quality kept with none" in found(dict.fromkeys(FEW, worse)).answer
    assert "less overfitting with none" in found(dict.fromkeys(FEW, overfits)).answer


def test_a_loss_that_may_be_larger_than_a_point_is_called_so() -> None:
    answer = found(dict.fromkeys(FEW, (0.7915, 0.05))).answer
    assert answer.startswith("holds with a condition: with LoRA")
    assert answer.endswith("by the estimate, though a loss of more than a point is not ruled out")


def test_too_few_seeds_or_records() -> None:
    assert found({}, seeds=1).verdict.startswith("undecided, one seed where three are needed: so far holds")
    missing = found({}, sizes=(200,)).verdict
    assert missing.startswith("not yet measured")
    assert "`topk-lib study adaptation`" in missing
    assert claims.judge(C16, {}).verdict == missing


@pytest.mark.parametrize("bits", [True, False])
def test_less_overfitting_by_hand(bits: bool) -> None:
    few, full = ([record(0.8, fall, seed, bits=bits) for seed in range(3)] for fall in (0.05, 0.2))
    full[2]["metrics"]["gap"]["accuracy"] += 0.03
    gap = less_overfitting(few, full)
    assert gap.mean == pytest.approx(0.16)
    training = np.var([0.15, 0.15, 0.18], ddof=1) / 3
    reviews = 0.0 if bits else sum(
        r["metrics"]["accuracy"] * (1 - r["metrics"]["accuracy"]) / N for r in (*few, *full)
    ) / 3  # fmt: skip
    assert gap.error**2 == pytest.approx(training + reviews)
