"""Pictures of hard top-k."""

from __future__ import annotations

import re

import pytest

from topk_lib import hard_topk, show

SIX = [5, 12, 9, 3, 9, 7]


def states(html: str) -> list[str]:
    return re.findall(r"(chosen|open|out)</td></tr>", html)


def test_bits_settle_the_choice_step_by_step() -> None:
    assert states(show.bits_deciding(SIX, 2, 0).data) == ["open"] * 6
    first = show.bits_deciding(SIX, 2, 1).data
    assert states(first) == ["out", "open", "open", "out", "open", "out"]
    assert "3 of 6 reach 1000" in first
    assert "at least k = 2, so this bit of tau is 1" in first
    second = show.bits_deciding(SIX, 2, 2).data
    assert "1 of 6 reach 1100" in second
    assert "fewer than k = 2, so this bit of tau is 0" in second
    assert states(second)[1] == "chosen"
    last = show.bits_deciding(SIX, 2, 5, labels=[*list("abcde"), "<f>"]).data
    assert "Above tau = 1001: 1.<br>Equal to it: 2; the first 1 by position is chosen." in last
    assert "&lt;f&gt;" in last


@pytest.mark.parametrize("k", range(1, 7))
def test_the_last_step_is_hard_topk(k: int) -> None:
    import torch

    expected = hard_topk(torch.tensor([float(key) for key in SIX]), k).mask.tolist()
    shown = states(show.bits_deciding(SIX, k, 5).data)
    assert [state == "chosen" for state in shown] == expected
    assert "open" not in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((SIX, 0, 1), r"k must lie in 1\.\.6"), ((SIX, 7, 1), "got 7"),
     ((SIX, 2, 6), r"step must lie in 0\.\.5"), (([16], 1, 0), r"keys must lie in 0\.\.15")],
)  # fmt: skip
def test_bad_input(arguments: tuple[list[int], int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        show.bits_deciding(*arguments)


def test_counted_work_has_a_line_a_method() -> None:
    figure = show.counted_work({"sort": {8: 24, 16: 64}, "heap": {8: 8, 16: 16}}, "comparisons")
    axes = figure.axes[0]
    assert len(axes.lines) == 2
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["sort: 4.0 n", "heap: 1.0 n"]
    assert axes.get_ylabel() == "comparisons"
