"""The picture of token choice and expert choice."""

from __future__ import annotations

import pytest
import torch
from matplotlib.patches import Rectangle

from topk_lib import hard_topk, show


def test_loads_and_the_token_left_out() -> None:
    scores = torch.tensor([[0.6, 0.4], [0.9, 0.1], [0.8, 0.2]])
    by_token, by_expert = hard_topk(scores, 1, dim=1).mask, hard_topk(scores, 1, dim=0).mask
    left, right = show.routing_choices(["the", "film", "shines"], scores, by_token, by_expert).axes
    assert [t.get_text() for t in left.get_xticklabels()] == ["A\n3", "B\n0"]
    assert [t.get_text() for t in right.get_xticklabels()] == ["A\n1", "B\n1"]
    assert [t.get_text() for t in left.get_yticklabels()] == ["the", "film", "shines"]
    assert [t.get_text() for t in right.get_yticklabels()] == ["the", "film", "! shines"]


def test_shapes_must_fit() -> None:
    scores, mask = torch.rand(3, 2), torch.ones(3, 2).bool()
    with pytest.raises(ValueError, match=r"by_expert must have the shape of scores \(3, 2\), got \(2, 3\)"):
        show.routing_choices(["a", "b", "c"], scores, mask, mask.T)
    with pytest.raises(ValueError, match="tokens must have one label a row of scores, 3; got 1"):
        show.routing_choices(["a"], scores, mask, mask)


def test_loads_are_multiples_of_the_mean() -> None:
    axes = show.expert_loads({"token choice": [6, 2, 1], "expert choice": [3, 3, 3]}).axes[0]
    heights = [bar.get_bbox().height for bar in axes.patches if isinstance(bar, Rectangle)]
    assert heights == pytest.approx([2, 2 / 3, 1 / 3, 1, 1, 1])
    with pytest.raises(ValueError, match=r"as many experts, got \[2, 3\]"):
        show.expert_loads({"a": [1, 2], "b": [1, 2, 3]})


def test_each_expert_has_a_panel_with_its_types() -> None:
    takes = [[("film", 90, 0.8), ("$", 50, 0.5)], [("bad", 60, 1.0)], []]
    figure = show.expert_tastes(takes)
    first, second, third, spare = figure.axes
    assert [text.get_text() for text in first.get_yticklabels()] == ["film", r"\$"]
    widths = [
        bar.get_bbox().width for axes in (first, second) for bar in axes.patches if isinstance(bar, Rectangle)
    ]
    assert widths == pytest.approx([0.8, 0.5, 1.0])
    assert not third.patches
    assert not spare.axison
    with pytest.raises(ValueError, match="for each expert, got none"):
        show.expert_tastes([])
