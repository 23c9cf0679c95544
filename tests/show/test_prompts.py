"""The picture of a model that answers while it reads shows the shares it was given."""

from __future__ import annotations

from typing import Any

import pytest

from topk_lib import show


def test_a_curve_a_wording_and_the_place() -> None:
    figure = show.as_it_reads({"a": [0.5, 0.8], "b": [0.1, 0.2]}, [0, 4], 4, "positive", "… a gem.")
    axes: Any = figure.axes[0]
    assert [list(line.get_ydata()) for line in axes.lines[:2]] == [[0.5, 0.8], [0.1, 0.2]]
    assert list(axes.lines[3].get_xdata()) == [4, 4]
    assert axes.get_title(loc="left") == "… a gem."
    assert "positive" in axes.get_ylabel()


@pytest.mark.parametrize(("shares", "at"), [([0.5], 4), ([0.5, 0.6], 3)])
def test_every_point_needs_a_share(shares: list[float], at: int) -> None:
    with pytest.raises(ValueError, match="a share for each of 2 points"):
        show.as_it_reads({"a": shares}, [0, 4], at, "positive")
