"""The figures of soft top-k show what they are given, and refuse what does not fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from topk_lib import show, soft_topk

SCORES = torch.tensor([0.0, 0.6, 1.0, 2.0])


def test_curves_share_colours_and_one_legend() -> None:
    x = torch.tensor([0.1, 1.0, 10.0])
    figure = show.curves(
        x, {"up": {"a": x, "b": 2 * x}, "down": {"b": -x}}, xlabel="x", log_x=True, log_y=["up"]
    )
    top, bottom = figure.axes
    assert bottom.get_xlabel() == "x"
    assert (top.get_yscale(), bottom.get_yscale(), top.get_xscale()) == ("log", "linear", "log")
    assert top.lines[1].get_color() == bottom.lines[0].get_color() != top.lines[0].get_color()
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b"]


def test_one_curve_needs_no_legend() -> None:
    assert not show.curves(SCORES, {"y": {"only": SCORES}}, xlabel="x").legends


def test_curves_refuse() -> None:
    with pytest.raises(ValueError, match="a has 3 points, x has 4"):
        show.curves(SCORES, {"y": {"a": SCORES[:3]}}, xlabel="x")
    with pytest.raises(ValueError, match="log_y names 'z', which is not a panel: y"):
        show.curves(SCORES, {"y": {"a": SCORES}}, xlabel="x", log_y=["z"])


@pytest.mark.parametrize("link", ["sigmoid", "laplace", "clip", "exp"])
@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_threshold_curve_puts_each_token_on_the_curve(link: str, temperature: float) -> None:
    figure = show.threshold_curve(SCORES, 2, temperature, link, ["a", "b", "c", "d"])
    curve, chosen, others = figure.axes[0].lines[:3]
    assert chosen.get_xdata() == pytest.approx([1.0, 2.0])
    weights = soft_topk(SCORES, 2, temperature, link=link)
    heights = np.concatenate([chosen.get_ydata(), others.get_ydata()])
    assert heights == pytest.approx(weights[[2, 3, 0, 1]].numpy(), abs=1e-6)
    assert np.size(curve.get_xdata()) == 802
    assert [text.get_text() for text in figure.axes[0].texts] == ["a", "b", "c", "d"]


def test_threshold_curve_refuses() -> None:
    with pytest.raises(ValueError, match="between 0 and 4, both excluded, got 4"):
        show.threshold_curve(SCORES, 4, 1.0, "sigmoid")
    with pytest.raises(ValueError, match="link must be one of"):
        show.threshold_curve(SCORES, 2, 1.0, "tanh")


def test_jacobian_writes_every_number() -> None:
    figure = show.jacobian(torch.tensor([[0.5, -0.5], [-0.5, 0.001]]), ["a", "b"])
    assert [text.get_text() for text in figure.axes[0].texts] == ["+0.50", "-0.50", "-0.50", "0"]
    with pytest.raises(ValueError, match="must be 2 x 2 for 2 words"):
        show.jacobian(torch.zeros(3, 3), ["a", "b"])
