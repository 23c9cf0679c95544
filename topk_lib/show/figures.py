"""Figures in one style: readable on a phone, told apart without colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import font_manager
from matplotlib.figure import Figure

from topk_lib.show.palette import CURVES, KEPT, MARKERS, SOFT

__all__ = ["accuracy_by_k", "accuracy_by_speed", "accuracy_ranked", "style", "token_weights"]


_CHINESE = Path(__file__).parent / "static" / "noto-sans-sc.ttf"


@cache
def _chinese_font() -> str:
    """The font with the course's Chinese terms, made known to matplotlib: its name."""
    known = font_manager.fontManager
    known.addfont(str(_CHINESE))
    # It stands for its bold as well: matplotlib warns where a font of the list has none.
    known.ttflist.append(replace(known.ttflist[-1], weight="bold"))
    return known.ttflist[-1].name


def style() -> None:
    """Set the course's figure style for all figures that follow."""
    plt.rcParams.update(
        {
            "figure.figsize": (5.2, 4.6),
            "figure.dpi": 110,
            "figure.constrained_layout.use": True,
            "font.family": ["DejaVu Sans", _chinese_font()],
            "font.size": 12,
            "axes.grid": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "grid.alpha": 0.3,
            "lines.linewidth": 2,
            "lines.markersize": 7,
        }
    )


def accuracy_by_k(
    curves: Mapping[str, Sequence[Mapping[str, Any]]],
    lines: Mapping[str, float] | None = None,
    at: int | None = None,
    along: str = "k: tokens read of each review",
) -> Figure:
    """Draw accuracy against k, one curve a rule.

    Args:
        curves: for each rule a list of points with ``k``, ``accuracy``, ``accuracy_low`` and
            ``accuracy_high`` (shares in [0, 1]); a rule without points is left out.
        lines: accuracies that have no k, drawn as level lines.
        at: a k to point out, with the accuracy of each rule there in the legend.
        along: what k counts, where it is something else.
    """
    style()
    figure: Figure
    figure, axes = plt.subplots()
    ticks: set[int] = set()
    shown = [(name, points) for name, points in curves.items() if points]
    for i, (name, points) in enumerate(shown):
        points = sorted(points, key=lambda p: p["k"])
        ticks |= {int(p["k"]) for p in points}
        middle = [100 * p["accuracy"] for p in points]
        low = [100 * (p["accuracy"] - p["accuracy_low"]) for p in points]
        high = [100 * (p["accuracy_high"] - p["accuracy"]) for p in points]
        here = next((p["accuracy"] for p in points if p["k"] == at), None)
        label = name if here is None else f"{name}: {100 * here:.1f}"
        axes.errorbar(
            [p["k"] for p in points], middle, yerr=[low, high], label=label, capsize=3,
            color=CURVES[i % 6], marker=MARKERS[i % 6],
        )  # fmt: skip
    for j, (name, value) in enumerate((lines or {}).items()):
        label = name if at is None else f"{name}: {100 * value:.1f}"
        axes.axhline(100 * value, color="#555555", linestyle=("--", ":", "-.")[j % 3], label=label)
    if at is not None:
        axes.axvline(at, color="#b0b0b0", linewidth=8, alpha=0.4, zorder=0)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted(ticks), [f"{t:,}" for t in sorted(ticks)])
    axes.minorticks_off()
    axes.set_xlabel(along)
    axes.set_ylabel("accuracy (%)")
    figure.legend(loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    plt.close(figure)  # shown by being returned, once
    return figure


def accuracy_ranked(
    points: Sequence[Mapping[str, Any]],
    line: float | None = None,
    limits: tuple[float, float] | None = None,
) -> Figure:
    """Draw a dot and a 95% bar for each rule, the best on top.

    Args:
        points: each with ``rule``, ``accuracy``, ``accuracy_low`` and ``accuracy_high`` (shares in [0, 1]).
        line: an accuracy in [0, 1] to compare with, drawn as a dashed line.
        limits: both ends of the axis, in [0, 1], where several figures share it.
    """
    style()
    figure: Figure
    figure, axes = plt.subplots(figsize=(5.2, 0.34 * len(points) + 1.3))
    points = sorted(points, key=lambda p: p["accuracy"])
    middle, low, high = ([100 * p[f"accuracy{end}"] for p in points] for end in ("", "_low", "_high"))
    bars = [
        [m - a for m, a in zip(middle, low, strict=True)],
        [b - m for m, b in zip(middle, high, strict=True)],
    ]
    axes.errorbar(middle, [p["rule"] for p in points], xerr=bars, fmt="o", capsize=3, color=CURVES[0])
    if line is not None:
        axes.axvline(100 * line, color="#555555", linestyle="--")
    if limits is not None:
        axes.set_xlim(100 * limits[0], 100 * limits[1])
    axes.margins(y=0.08)
    axes.set_xlabel("accuracy (%)")
    plt.close(figure)
    return figure


def accuracy_by_speed(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Draw accuracy against speed, one curve a rule, k written at the points of the first.

    Args:
        curves: for each rule a list of points with ``k``, ``texts_per_second`` and ``accuracy`` (in [0, 1]);
            a rule without points is left out.
    """
    style()
    figure: Figure
    figure, axes = plt.subplots()
    shown = {name: sorted(points, key=lambda p: p["k"]) for name, points in curves.items() if points}
    for i, (name, points) in enumerate(shown.items()):
        x, y = [p["texts_per_second"] for p in points], [100 * p["accuracy"] for p in points]
        axes.plot(x, y, f"{MARKERS[i % 6]}-", color=CURVES[i % 6], label=name)
        if i == 0:
            for p in points:
                axes.annotate(f"k = {p['k']}", (p["texts_per_second"], 100 * p["accuracy"]),
                              xytext=(6, 4), textcoords="offset points", fontsize=10)  # fmt: skip
    speeds = [p["texts_per_second"] for points in shown.values() for p in points]
    ticks = sorted({float(f"{x:.2g}") for x in np.geomspace(min(speeds), max(speeds), 5)}) if speeds else []
    axes.set_xscale("log")
    axes.set_xticks(ticks, [np.format_float_positional(x, trim="-") for x in ticks])
    axes.minorticks_off()  # whose labels would lie upon these
    axes.margins(x=0.16, y=0.08)
    axes.set_xlabel("texts a second")
    axes.set_ylabel("accuracy (%)")
    figure.legend(loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    plt.close(figure)
    return figure


def token_weights(tokens: Sequence[str], weights: Sequence[float], chosen: Sequence[bool]) -> Figure:
    """Draw one bar a token, as long as its soft weight, and a dot where the hard choice is.

    Args:
        tokens: n labels.
        weights: (n,) in [0, 1].
        chosen: (n,) bool, the hard top-k mask.
    """
    style()
    figure: Figure
    figure, axes = plt.subplots(figsize=(5.2, 0.4 * len(tokens) + 1.2))
    rows = range(len(tokens))
    axes.barh(rows, weights, color=SOFT, height=0.7, label="soft weight")
    hard = [row for row in rows if chosen[row]]
    axes.plot([1.0] * len(hard), hard, "o", color=KEPT, label="hard choice", clip_on=False, zorder=3)
    axes.set_yticks(rows, tokens)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.02)
    axes.set_xlabel(f"weight (their sum is {sum(map(float, weights)):.2f})")
    figure.legend(loc="outside upper center", ncols=2, fontsize=10, frameon=False)
    plt.close(figure)
    return figure
