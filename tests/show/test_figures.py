"""Figures of recorded runs: what they draw, in which order, and no label upon another."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from topk_lib import show


def point(rule: str, accuracy: float, **more: float) -> dict[str, Any]:
    ends = {"accuracy_low": accuracy - 0.01, "accuracy_high": accuracy + 0.02}
    return {"rule": rule, "accuracy": accuracy} | ends | more


def labels(figure: Figure) -> list[Text]:
    figure.canvas.draw()
    low, high = figure.axes[0].get_xlim()
    return [label for place, label in zip(figure.axes[0].get_xticks(), figure.axes[0].get_xticklabels(),
                                          strict=True)
            if label.get_text() and low <= place <= high]  # fmt: skip


def test_the_best_rule_stands_on_top_with_its_interval() -> None:
    figure = show.accuracy_ranked([point("b", 0.8), point("a", 0.6)], line=0.9, limits=(0.5, 1.0))
    axes = figure.axes[0]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["a", "b"]  # upwards
    assert axes.lines[0].get_xdata() == pytest.approx([60, 80])
    assert axes.get_xlim() == pytest.approx((50, 100))
    bars = [segment[:, 0] for segment in axes.collections[0].get_segments()]  # type: ignore[attr-defined]
    assert bars[0] == pytest.approx([59, 62])
    assert bars[1] == pytest.approx([79, 82])


@pytest.mark.parametrize("speeds", [(15, 40, 80, 160, 320), (100, 110, 120), (3, 5000)])
def test_ticks_of_the_speed_do_not_overlap(speeds: tuple[int, ...]) -> None:
    points = [point("a", 0.9 - i / 50, k=2**i, texts_per_second=x) for i, x in enumerate(speeds)]
    boxes = [label.get_window_extent() for label in labels(show.accuracy_by_speed({"a": points, "b": []}))]
    assert len(boxes) >= 2
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))


def test_speed_has_a_curve_for_each_rule_with_points() -> None:
    figure = show.accuracy_by_speed({
        "a": [point("a", 0.8, k=64, texts_per_second=20), point("a", 0.7, k=16, texts_per_second=80)],
        "b": [],
        "c": [point("c", 0.6, k=16, texts_per_second=90)],
    })  # fmt: skip
    axes = figure.axes[0]
    assert [line.get_label() for line in axes.lines] == ["a", "c"]
    assert axes.lines[0].get_xdata() == pytest.approx([80, 20])  # by k
    assert [text.get_text() for text in axes.texts] == ["k = 16", "k = 64"]
