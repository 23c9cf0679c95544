"""How the sum of soft weights falls with the threshold."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor

from topk_lib.ops.soft import LINKS, soft_topk, soft_topk_threshold
from topk_lib.show.figures import style
from topk_lib.show.palette import DROPPED, KEPT, SOFT

__all__ = ["threshold_crossing"]


def threshold_crossing(
    tokens: Sequence[str],
    scores: Tensor,
    k: float,
    temperature: float,
    link: str = "sigmoid",
    window: tuple[float, float] | None = None,
) -> Figure:
    """Draw the sum of weights as it falls with tau and crosses k, and the weights there.

    Args:
        tokens: n labels.
        scores: (n,) any float dtype, finite.
        k: 0 < k < n, the sum wanted.
        temperature: above 0.
        link: one of ``topk_lib.ops.soft.LINKS``.
        window: the values of tau shown; by default 1.5 beyond the least and the largest score.

    Raises:
        ValueError: k is not between 0 and n, or another argument that ``soft_topk`` refuses.
    """
    if not 0 < k < len(tokens):
        raise ValueError(f"k must lie between 0 and {len(tokens)}, both excluded, got {k}")
    s = scores.double()
    weights = soft_topk(s, k, temperature, link=link).tolist()
    tau = soft_topk_threshold(s, k, temperature, link=link).item()
    low, high = window or (s.min().item() - 1.5, s.max().item() + 1.5)
    taus = torch.linspace(low, high, 400, dtype=torch.float64)
    sums = LINKS[link].value((s - taus[:, None]) / temperature).sum(-1)
    style()
    figure: Figure
    figure, (above, below) = plt.subplots(
        2, 1, figsize=(5.2, 5.6), height_ratios=[3, 0.9 + 0.28 * len(tokens)]
    )
    above.plot(taus.tolist(), sums.tolist(), color=SOFT)
    above.plot(s.tolist(), [0] * len(s), "|", color=DROPPED, markersize=12, clip_on=False)
    above.axhline(k, color=KEPT, linestyle="--")
    if low <= tau <= high:
        above.plot([tau, tau], [0, k], color=KEPT, linestyle=":")
        above.plot([tau], [k], "o", color=KEPT, zorder=3)
    above.set_title(f"k = {k:g} is reached at tau = {tau:.2f}", fontsize=12)
    above.set_xlim(low, high)
    above.set_ylim(0, len(tokens) + 0.1)
    above.set_xlabel("threshold tau (ticks: the scores)")
    above.set_ylabel("sum of weights")
    rows = range(len(tokens))
    below.barh(rows, weights, color=SOFT, height=0.7)
    for row, weight in enumerate(weights):
        inside = weight > 0.8
        below.text(
            weight + (-0.02 if inside else 0.02), row, f"{weight:.2f}", fontsize=10, va="center",
            ha="right" if inside else "left", color="white" if inside else "black",
        )  # fmt: skip
    below.set_yticks(rows, tokens)
    below.invert_yaxis()
    below.set_xlim(0, 1.02)
    below.set_xlabel("weight")
    plt.close(figure)
    return figure
