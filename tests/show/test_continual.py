"""The pictures of a sequence of tasks show the numbers they were given."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from topk_lib import show


def test_the_fate_of_a_task_is_the_mean_of_its_seeds() -> None:
    axes: Any = show.fate_of_a_task({"naive": [[0.9, 0.2], [0.7, 0.0]], "replay": [[0.9, 0.8]]}).axes[0]
    naive, replay = axes.lines
    assert list(naive.get_ydata()) == pytest.approx([80, 10])
    assert list(replay.get_ydata()) == pytest.approx([90, 80])
    assert list(naive.get_xdata()) == [1, 2]
    (band,) = axes.collections  # one seed has no band
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == pytest.approx((0, 90))
    assert naive.get_linestyle() != replay.get_linestyle()


def test_a_matrix_says_its_numbers_and_leaves_the_rest_white() -> None:
    matrix: list[list[float | None]] = [[0.9, None], [math.nan, 0.456]]
    axes: Any = show.accuracy_matrix(matrix, ["film", "bank"]).axes[0]
    assert [text.get_text() for text in axes.texts] == ["90", "46"]
    assert [text.get_color() for text in axes.texts] == ["white", "black"]
    shown = np.ma.filled(axes.images[0].get_array(), np.nan)
    assert np.isnan(shown).tolist() == [[False, True], [True, False]]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["film", "bank"]
    with pytest.raises(ValueError, match=r"1 names for a matrix of shape \(2, 2\)"):
        show.accuracy_matrix(matrix, ["film"])
