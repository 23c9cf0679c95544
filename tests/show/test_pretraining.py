"""The pictures of pretraining show the numbers they were given."""

from __future__ import annotations

from typing import Any

import pytest

from topk_lib import show


def texts(labels: Any) -> list[str]:
    return [label.get_text() for label in labels]


def test_losses_levels_and_guesses() -> None:
    guesses = [("film", 0.5), ("time", 0.2)]
    figure: Any = show.guessing(
        {"a": [3.0, 1.0, 2.0]}, {"unigram": 2.5}, 2, guesses, most=0.6, window=2
    )  # fmt: skip
    upper, lower = figure.axes
    steps, means, level = upper.lines[:3]
    assert list(steps.get_ydata()) == [3.0, 1.0, 2.0]
    assert list(means.get_ydata()) == [3.0, 2.0, 1.5]
    assert level.get_ydata()[0] == 2.5
    assert upper.lines[3].get_xdata()[0] == 2
    assert texts(figure.legends[0].get_texts()) == ["a", "unigram"]
    assert [bar.get_width() for bar in lower.patches] == [0.5, 0.2]
    assert texts(lower.get_yticklabels()) == ["film", "time"]
    assert lower.get_xlim() == (0, 0.6)
    assert len(show.guessing({"a": [1.0]}, {}).axes) == 1


def test_stages_are_equally_far_apart_and_means_of_their_seeds() -> None:
    figure: Any = show.by_stage(
        {"accuracy": {"small": {"0": [50.0], "60": [70.0, 80.0]}, "large": {"1": [60.0]}}, "loss": {}},
        ["0", "1", "60"], xlabel="minutes", lines={"accuracy": {"words": 85.0}, "loss": {"unigram": 6.0}},
    )  # fmt: skip
    upper, lower = figure.axes
    small, seeds, large, words = upper.lines
    assert (list(small.get_xdata()), list(small.get_ydata())) == ([0, 2], [50.0, 75.0])
    assert (list(seeds.get_xdata()), list(seeds.get_ydata())) == ([2, 2], [70.0, 80.0])
    assert list(large.get_xdata()) == [1]
    assert words.get_ydata()[0] == 85.0
    assert words.get_linestyle() != lower.lines[0].get_linestyle()  # one legend for all panels
    assert texts(lower.get_xticklabels()) == ["0", "1", "60"]
    assert texts(figure.legends[0].get_texts()) == ["small", "large", "words", "unigram"]


def test_an_unknown_stage_is_named() -> None:
    with pytest.raises(ValueError, match="small has a stage '3'"):
        show.by_stage({"loss": {"small": {"3": [1.0]}}}, ["0", "1"], xlabel="minutes")
