"""How two kinds of models are compared, on made-up curves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from topk_lib.claims import experts


def run(kind: str, seed: int, losses: list[float], end: float) -> dict[str, Any]:
    """A hundred steps a point; the rate falls over the last fifth."""
    curve = [[100 * (i + 1), 0.1 * i, loss] for i, loss in enumerate(losses)]
    layer = {"unchosen": 0.1 * seed, "load": [0.5, 1.5]}
    metrics = {"loss": end, "curve": curve, "steps": 100 * len(losses), "layers": [layer]}
    return {"settings": {"kind": kind, "seed": seed, "decay": 0.2}, "metrics": metrics}


SLOW, FAST = [8.0, 7.0, 6.0, 5.0, 4.0], [7.0, 5.0, 3.0, 2.0, 1.0]


def runs(seeds: int, gaps: tuple[float, ...] = (0.5, 0.6, 0.4)) -> dict[str, dict[str, Any]]:
    found = [run("top2", s, SLOW, 4.0) for s in range(seeds)]
    found += [run("expert_choice", s, FAST, 4.0 - gaps[s]) for s in range(seeds)]
    return {f"{one['settings']['kind']}-s{one['settings']['seed']}": one for one in found}


def test_the_pace_is_read_off_the_steady_part_of_the_curves() -> None:
    found = experts.race(runs(3), "expert_choice", "top2")
    assert found is not None
    assert found.gaps == pytest.approx([0.5, 0.6, 0.4])
    assert found.pace == pytest.approx([2.0] * 3)  # 5.0 at step 400, and at step 200
    turned = experts.race(runs(3), "top2", "expert_choice")
    assert turned is not None
    assert np.isnan(turned.pace).all()  # 2.0 is never reached while the rate is steady
    # the mean 0.5 and t times 0.1 / sqrt(3), t = 4.303 at two degrees of freedom
    assert (found.low, found.high) == pytest.approx((0.5 - 0.2484, 0.5 + 0.2484), abs=1e-3)


def test_what_is_said_needs_three_seeds() -> None:
    assert "not yet measured" in experts.sentence({}, "expert_choice", "top2")
    one = experts.sentence(runs(1), "expert_choice", "top2")
    assert "0.500 nats below top-2" in one
    assert "too few" in one
    sure = experts.sentence(runs(3), "expert_choice", "top2")
    assert "bear out" in sure
    assert "2.00 times as fast" in sure
    luck = experts.sentence(runs(3, (0.5, -0.4, 0.1)), "expert_choice", "top2")
    assert "luck of the seeds" in luck
    other = experts.sentence(runs(3), "top2", "expert_choice")
    assert "above expert choice" in other
    assert "0 of 3 runs" in other


def test_rows_of_the_table() -> None:
    speed = {"masked": {"metrics": {"top2": {"ms": 9.0}, "expert_choice": {"ms": 8.0}}}}
    rows = experts.table({"experts_masked": runs(3), "experts_speed": speed}, "experts_masked")
    assert [row["kind"] for row in rows] == ["top-2", "expert choice"]
    assert rows[1] == {
        "kind": "expert choice", "seeds": 3, "loss": pytest.approx(3.5), "least": pytest.approx(3.4),
        "most": pytest.approx(3.6), "unchosen": pytest.approx(0.1), "fullest": 1.5, "ms": 8.0,
    }  # fmt: skip
    assert experts.table({}, "experts_masked") == []


def test_curves_against_the_time_of_a_step() -> None:
    speed = {"masked": {"metrics": {"top2": {"ms": 60.0}, "expert_choice": {"ms": 120.0}}}}
    results = {"experts_masked": runs(2), "experts_speed": speed}
    minutes, losses = experts.against_time(results, "experts_masked", ("top2", "expert_choice"), 4)
    assert minutes == pytest.approx([0.2, 0.3, 0.4, 0.5])
    assert losses["top-2"] == pytest.approx([7.0, 6.0, 5.0, 4.0])
    assert losses["expert choice"] == pytest.approx([7.0, 6.0, 5.0, 4.0])  # a step of it takes twice as long
    assert experts.against_time({"experts_masked": runs(1)}, "experts_masked", ("top2",))[1] == {}


def test_rows_of_causal_models() -> None:
    one = run("threshold", 0, SLOW, 4.0)
    one["metrics"] |= {
        "loss_choice": 3.9,
        "gap": [{"agree": 0.8, "output": 0.1}, {"agree": 0.6, "output": 0.3}],
    }
    rows = experts.decoding({"threshold-s0": one, "dense-s0": run("dense", 0, SLOW, 5.0)})
    assert [row["kind"] for row in rows] == ["dense", "expert threshold"]
    assert np.isnan(rows[0]["by choice"])
    assert rows[1] == {
        "kind": "expert threshold", "seeds": 1, "loss": 4.0, "by choice": 3.9,
        "agree": pytest.approx(0.7), "moved": pytest.approx(0.2),
    }  # fmt: skip
