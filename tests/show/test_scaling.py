"""The picture of a shared step shows what was counted."""

from __future__ import annotations

from typing import Any

import pytest

from topk_lib import show
from topk_lib.training.cost import HOPPER, WAYS, Plan, Shape, training_step


def test_bars_are_as_long_as_what_they_stand_for() -> None:
    shape = Shape(hidden=1024, layers=8, inner=4096, vocab=50_000)
    steps = {how: training_step(shape, Plan(64, 1024), HOPPER, 16, how) for how in WAYS[:2]}
    figure = show.step_costs(steps, 16, HOPPER.memory, most=(1000.0, 1000.0))
    held, spent = figure.axes
    axes: Any
    for axes, right in (
        (held, [step.held / 1e9 for step in steps.values()]),
        (spent, [16 * step.overlapped for step in steps.values()]),
    ):
        ends: dict[int, float] = {}
        for bar in axes.patches:
            y = round(bar.get_y() + bar.get_height() / 2)
            ends[y] = max(ends.get(y, 0), bar.get_x() + bar.get_width())
        assert [ends[y] for y in range(len(steps))] == pytest.approx(right)
        assert [label.get_text() for label in axes.get_yticklabels()] == list(steps)
    words = show.step_costs_in_words(steps, 16)
    assert "Bars for 16 devices." in words
    assert f"fsdp: {steps['fsdp'].held / 1e9:,.0f} gigabytes" in words


def test_a_bar_beyond_the_end_is_cut_and_says_its_number() -> None:
    shape = Shape(hidden=4096, layers=32, inner=16384, vocab=50_000)
    step = training_step(shape, Plan(8, 1024), HOPPER, 8, "data parallel")
    figure = show.step_costs({"data parallel": step}, 8, HOPPER.memory, most=(80.0, 1.0))
    held: Any = figure.axes[0]
    assert max(bar.get_x() + bar.get_width() for bar in held.patches) == pytest.approx(80)
    assert f"{step.held / 1e9:,.0f} GB" in held.texts[0].get_text()
