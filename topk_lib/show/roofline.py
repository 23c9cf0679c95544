"""Limits that memory sets: bytes that must move, and measured times against them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from topk_lib.show.figures import style
from topk_lib.show.palette import CURVES, MARKERS

__all__ = ["CARDS", "bytes_moved", "share_of_bandwidth", "time_limits"]

CARDS = {"T4": 320e9, "A100 (40 GB)": 1555e9, "H100 (SXM)": 3350e9, "H200": 4800e9}
"""Published memory bandwidth in bytes a second (NVIDIA's data sheets)."""


def bytes_moved(rows: int, n: int, k: int, reads: int = 1, width: int = 4) -> int:
    """The bytes of a hard top-k with values, int64 indices and mask written once.

    Args:
        rows, n, k: the shape.
        reads: how many times the scores are read.
        width: bytes of a score.
    """
    return rows * (reads * n * width + n + k * (width + 8))


def time_limits(rows: int, n: int, k: int, reads: int) -> Figure:
    """Draw, for four cards, the least time for one reading of the scores and for ``reads`` readings."""
    style()
    figure: Figure
    figure, axes = plt.subplots(figsize=(5.2, 3.6))
    for i, (name, count) in enumerate((("read once", 1), (f"read {reads} times", reads))):
        times = [1e6 * bytes_moved(rows, n, k, count) / rate for rate in CARDS.values()]
        at = [y + (i - 0.5) * 0.38 for y in range(len(CARDS))]
        bars = axes.barh(at, times, height=0.36, color=CURVES[i], label=name)
        axes.bar_label(bars, [f"{t:,.0f}" if t >= 10 else f"{t:.1f}" for t in times], padding=3, fontsize=10)
    axes.set_yticks(range(len(CARDS)), list(CARDS))
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_xlabel("least time (microseconds)")
    figure.legend(loc="outside upper center", ncols=2, fontsize=10, frameon=False)
    plt.close(figure)
    return figure


def share_of_bandwidth(shapes: Mapping[str, Mapping[str, Any]], names: Mapping[str, str], k: str) -> Figure:
    """Draw the share of the copy bandwidth reached against the number of scores.

    Args:
        shapes: ``metrics.shapes`` of a record of ``benchmarks/ops.py``.
        names: for each function in the record its label.
        k: only shapes "ROWSxNxK" with this K.
    """
    style()
    figure: Figure
    figure, axes = plt.subplots()
    for i, (name, label) in enumerate(names.items()):
        points = []
        for shape, found in shapes.items():
            parts = shape.split("x")
            if parts[2] == k and name in found["share"]:
                points.append((int(parts[0]) * int(parts[1]), 100 * found["share"][name]))
        axes.plot(
            [p[0] for p in sorted(points)], [p[1] for p in sorted(points)], MARKERS[i], color=CURVES[i],
            label=label, alpha=0.8,
        )  # fmt: skip
    axes.axhline(100, color="#555555", linestyle="--", label="a plain copy")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("number of scores, rows times n")
    axes.set_ylabel("share of copy bandwidth (%)")
    figure.legend(loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    plt.close(figure)
    return figure
