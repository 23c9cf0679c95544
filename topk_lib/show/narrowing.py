"""A picture of the search for the k-th largest score, bit by bit, among very many."""

from __future__ import annotations

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor

from topk_lib.show.figures import _COLOURS, style

__all__ = ["narrowing"]


def narrowing(scores: Tensor, k: int, bits: int) -> Figure:
    """Draw where the k-th largest score can still lie when some bits of it are known.

    Args:
        scores: (n,) float32, none of them NaN.
        k: 1 <= k <= n.
        bits: how many bits of the threshold's key are decided, 0 to 32.

    Raises:
        ValueError: k or bits out of their range.
    """
    if not 1 <= k <= len(scores) or not 0 <= bits <= 32:
        raise ValueError(f"k must lie in 1..{len(scores)} and bits in 0..32, got k = {k}, bits = {bits}")
    unknown = 32 - bits
    keys = _keys(scores)
    low = int(keys.sort(descending=True).values[k - 1]) >> unknown << unknown
    high = low + (1 << unknown) - 1
    least, most = float(scores.min()), float(scores.max())
    ends = [min(max(_score(key), least), most) for key in (low, high)]
    sure, still = int((keys > high).sum()), int(((keys >= low) & (keys <= high)).sum())
    style()
    figure: Figure
    figure, axes = plt.subplots(figsize=(5.2, 3.4))
    axes.hist(scores.numpy(), bins=120, log=True, color="#b0b0b0")
    axes.axvspan(ends[0], max(ends[1], ends[0] + 0.01), color=_COLOURS[1], alpha=0.35, label="open")
    if sure:
        axes.axvspan(ends[1], most, color=_COLOURS[0], alpha=0.45, label="chosen for sure")
    axes.set_xlabel("score")
    axes.set_ylabel("how many (logarithmic)")
    axes.set_title(f"{bits} of 32 bits: {sure:,} chosen for sure, {still:,} open", fontsize=11)
    figure.legend(loc="outside lower center", ncols=2, fontsize=10, frameon=False)
    plt.close(figure)
    return figure


def _keys(scores: Tensor) -> Tensor:
    """(n,) int64 in 0 .. 2**32 - 1, in the order of the scores."""
    bits = (scores + 0.0).view(torch.int32).long() & 0xFFFFFFFF
    return torch.where(bits >> 31 == 1, ~bits & 0xFFFFFFFF, bits | 1 << 31)


def _score(key: int) -> float:
    """The way back; NaN's keys become the infinity beside them."""
    key = min(max(key, 0x007FFFFF), 0xFF800000)
    bits = key ^ 0x80000000 if key >> 31 else key ^ 0xFFFFFFFF
    return float(torch.tensor(bits).to(torch.uint32).view(torch.float32))
