"""The picture of a loop that learns shows the numbers it was given."""

from __future__ import annotations

import math
from typing import Any

import pytest

from topk_lib import show


def test_losses_their_means_and_the_coin() -> None:
    axes: Any = show.learning({"a": [0.8, 0.4, 0.3], "b": [0.7, 0.7]}, window=2).axes[0]
    dots, line = axes.lines[0], axes.lines[1]
    assert list(dots.get_ydata()) == [0.8, 0.4, 0.3]
    assert list(line.get_ydata()) == pytest.approx([0.8, 0.6, 0.35])
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["a", "b", "a coin"]
    assert axes.lines[4].get_ydata()[0] == pytest.approx(math.log(2))


def test_held_out_texts_stand_in_the_row_of_their_label() -> None:
    lower: Any = show.learning({"a": [0.8]}, 1, [0.9, 0.2, 0.6], [1, 0, 0]).axes[1]
    positive, negative, _ = lower.lines
    assert list(positive.get_xdata()) == [0.9]
    assert list(negative.get_xdata()) == [0.2, 0.6]
    assert min(positive.get_ydata()) > 0.5 > max(negative.get_ydata())


def test_each_held_out_text_needs_its_label() -> None:
    with pytest.raises(ValueError, match="2 shares for 1 labels"):
        show.learning({"a": [0.8]}, 1, [0.9, 0.2], [1])
