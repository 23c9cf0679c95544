"""The picture of the threshold says what soft_topk says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from topk_lib import show, soft_topk, soft_topk_threshold
from topk_lib.ops.soft import LINKS

SCORES = torch.tensor([0.0, 1.0, 4.0])


@pytest.mark.parametrize("link", list(LINKS))
def test_the_point_lies_on_the_curve(link: str) -> None:
    figure = show.threshold_crossing(["a", "b", "c"], SCORES, 2, 2.0, link)
    above, below = figure.axes
    curve = above.lines[0]
    tau = soft_topk_threshold(SCORES.double(), 2, 2.0, link=link).item()
    at_tau = np.interp(tau, curve.get_xdata(), curve.get_ydata())  # type: ignore[arg-type]
    assert at_tau == pytest.approx(2, abs=1e-3)
    assert f"tau = {tau:.2f}" in above.get_title()
    bars = [bar.get_width() for bar in below.patches]  # type: ignore[attr-defined]
    assert bars == pytest.approx(soft_topk(SCORES.double(), 2, 2.0, link=link).tolist())


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="k must lie between 0 and 3"):
        show.threshold_crossing(["a", "b", "c"], SCORES, 3, 1.0)
