"""The picture of a loop that learns shows the numbers it was given."""

from __future__ import annotations

import math
from typing import Any

import pytest

from topk_lib import show


def test_losses_their_means_and_the_coin() -> None:
    figure = show.learning({"a": [0.8, 0.4, 0.3], "b": [0.7, 0.7]}, window=2, top=2.0)
    axes: Any = figure.axes[0]
    dots, line = axes.lines[0], axes.lines[1]
    assert list(dots.get_ydata()) == [0.8, 0.4, 0.3]
    assert list(line.get_ydata()) == pytest.approx([0.8, 0.6, 0.35])
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["a", "b", "a coin"]
    assert axes.lines[4].get_ydata()[0] == pytest.approx(math.log(2))
    assert axes.get_ylim() == (0, 2.0)


def test_held_out_texts_stand_in_the_row_of_their_label() -> None:
    lower: Any = show.learning({"a": [0.8]}, 1, [0.9, 0.2, 0.6], [1, 0, 0]).axes[1]
    positive, negative, _ = lower.lines
    assert list(positive.get_xdata()) == [0.9]
    assert list(negative.get_xdata()) == [0.2, 0.6]
    assert min(positive.get_ydata()) > 0.5 > max(negative.get_ydata())
    assert lower.get_title() == "2 of 3 on their side of one half"


def test_each_held_out_text_needs_its_label() -> None:
    with pytest.raises(ValueError, match="2 shares for 1 labels"):
        show.learning({"a": [0.8]}, 1, [0.9, 0.2], [1])


def test_each_epoch_has_its_loss_and_its_accuracy() -> None:
    figure = show.by_epoch({"training": [(0.6, 0.7), (0.2, 1.0)], "held out": [(0.7, 0.5)]})
    losses: Any
    accuracies: Any
    losses, accuracies = (axes.lines for axes in figure.axes)
    assert [list(line.get_ydata()) for line in losses] == [[0.6, 0.2], [0.7]]
    assert [list(line.get_ydata()) for line in accuracies] == [[70, 100], [50]]
    assert [list(line.get_xdata()) for line in accuracies] == [[1, 2], [1]]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["training", "held out"]
