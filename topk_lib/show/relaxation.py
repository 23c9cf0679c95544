"""Figures of soft top-k: its curve, its gradient, and plain curves in panels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor

from topk_lib.ops.hard import hard_topk
from topk_lib.ops.soft import LINKS, soft_topk, soft_topk_threshold
from topk_lib.show.figures import style
from topk_lib.show.palette import CURVES, DROPPED, KEPT, SOFT

__all__ = ["curves", "jacobian", "threshold_curve"]

_DASHES = ("-", "--", "-.", ":")


def curves(
    x: Tensor,
    panels: Mapping[str, Mapping[str, Tensor]],
    *,
    xlabel: str,
    log_x: bool = False,
    log_y: Sequence[str] = (),
) -> Figure:
    """Draw curves over one x axis, in panels below each other.

    Args:
        x: (points,) where the curves are known.
        panels: for each panel's y label its curves: name -> (points,). A name has the same colour
            and dashes in every panel, and stands in one legend.
        xlabel: what x is.
        log_x: draw x on a logarithmic scale.
        log_y: the y labels of the panels that have a logarithmic scale.

    Raises:
        ValueError: a curve is not as long as x, or ``log_y`` names no panel.
    """
    style()
    for label in log_y:
        if label not in panels:
            raise ValueError(f"log_y names {label!r}, which is not a panel: {', '.join(panels)}")
    figure: Figure
    figure, rows = plt.subplots(
        len(panels), sharex=True, squeeze=False, figsize=(5.2, 0.9 + 2.4 * len(panels))
    )
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    handles = {}
    for axes, (ylabel, lines) in zip(rows[:, 0], panels.items(), strict=True):
        for name, y in lines.items():
            if len(y) != len(x):
                raise ValueError(f"{name} has {len(y)} points, x has {len(x)}")
            i = names.index(name)
            handles[name] = axes.plot(
                x.tolist(), y.tolist(), color=CURVES[i % 6], linestyle=_DASHES[i % 4]
            )[0]  # fmt: skip
        axes.set_ylabel(ylabel)
        if log_x:
            axes.set_xscale("log")
        if ylabel in log_y:
            axes.set_yscale("log")
    rows[-1, 0].set_xlabel(xlabel)
    if len(names) > 1:
        figure.legend(
            [handles[name] for name in names], names, loc="outside upper center",
            ncols=2 if len(names) in (2, 4) else 3, fontsize=10, frameon=False, handlelength=2.6,
        )  # fmt: skip
    plt.close(figure)
    return figure


def threshold_curve(
    scores: Tensor, k: float, temperature: float, link: str, words: Sequence[str] | None = None
) -> Figure:
    """Draw the curve w = f((s - tau) / temperature) with each token on it, and below it the slope.

    Args:
        scores: (n,) finite, any float dtype.
        k: the sum of the weights, 0 < k < n.
        temperature, link: as in :func:`topk_lib.soft_topk`.
        words: n labels for the tokens, written above their dots.

    Raises:
        ValueError: what :func:`topk_lib.soft_topk` refuses, or k that leaves no threshold.
    """
    weights = soft_topk(scores, k, temperature, link=link)
    tau = soft_topk_threshold(scores, k, temperature, link=link)
    if not bool(tau.isfinite()):
        raise ValueError(f"k must lie between 0 and {len(scores)}, both excluded, got {k}")
    style()
    low, high = float(scores.min()) - 0.4, float(scores.max()) + 0.4
    line = torch.cat([torch.linspace(low, high, 800), torch.stack([tau - 1e-6, tau + 1e-6]).float()])
    line = line.sort().values
    z = (line - tau) / temperature
    figure: Figure
    figure, (top, bottom) = plt.subplots(
        2, sharex=True, figsize=(5.2, 5.4), gridspec_kw={"height_ratios": [3, 1.5]}
    )
    mask = hard_topk(scores, int(k)).mask.tolist() if float(k).is_integer() else [False] * len(scores)
    top.plot(line, LINKS[link].value(z), color=SOFT, label=f"{link} link", zorder=1)
    for chosen, marker, name in ((True, "o", "in the hard choice"), (False, "X", "not in it")):
        at = [i for i, m in enumerate(mask) if m is chosen]
        top.plot(
            scores[at], weights[at], marker, color=KEPT if chosen else DROPPED, label=name, clip_on=False,
            zorder=3,
        )  # fmt: skip
    for word, s, w in zip(words or [], scores.tolist(), weights.tolist(), strict=False):
        top.annotate(word, (s, w), (-2, 6), textcoords="offset points", rotation=55, fontsize=10, va="bottom")
    top.set_ylim(-0.04, 1.45 if words else 1.08)
    top.set_yticks([0, 0.25, 0.5, 0.75, 1])
    top.set_ylabel("weight")
    slope = LINKS[link].slope(z) / temperature
    bottom.plot(line, slope, color=CURVES[2])
    here = LINKS[link].slope((scores - tau) / temperature) / temperature
    bottom.plot(scores, here, "d", color=CURVES[2], clip_on=False)
    bottom.set_ylim(0, max(1.1, 1.1 * float(slope.max())))
    bottom.set_ylabel("slope")
    bottom.set_xlabel("score")
    for axes in (top, bottom):
        axes.axvline(float(tau), color="#555555", linestyle=":", label="threshold")
        axes.set_xlim(low, high)
    figure.legend(
        *top.get_legend_handles_labels(), loc="outside upper center", ncols=2, fontsize=10, frameon=False
    )
    plt.close(figure)
    return figure


def jacobian(matrix: Tensor, words: Sequence[str]) -> Figure:
    """Draw how each weight answers to each score, as a table with coloured cells.

    Args:
        matrix: (n, n); row i, column j holds the derivative of weight i by score j.
        words: n labels.
    """
    n = len(words)
    if matrix.shape != (n, n):
        raise ValueError(f"matrix must be {n} x {n} for {n} words, got {tuple(matrix.shape)}")
    style()
    figure: Figure
    figure, axes = plt.subplots(figsize=(5.2, 0.55 * n + 1.6))
    axes.imshow(matrix.tolist(), cmap="PuOr_r", vmin=-1, vmax=1, aspect="auto")
    for i in range(n):
        for j in range(n):
            number = float(matrix[i, j])
            text = "0" if abs(number) < 0.005 else f"{number:+.2f}"
            colour = "white" if abs(number) > 0.75 else "#1a1a1a"
            axes.text(j, i, text, ha="center", va="center", fontsize=11, color=colour)
    axes.set_xticks(range(n), words)
    axes.set_yticks(range(n), words)
    axes.set_xlabel("raise the score of")
    axes.set_ylabel("the weight of ... moves by")
    axes.grid(False)
    plt.close(figure)
    return figure
