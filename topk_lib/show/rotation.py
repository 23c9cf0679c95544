"""Rotary positions: a query and a key that turn with their places in the text."""

from __future__ import annotations

import math

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from topk_lib.show.figures import style
from topk_lib.show.palette import CURVES

__all__ = ["turned_pair"]


def turned_pair(at: int, distance: int, degrees: float = 30.0) -> Figure:
    """Draw one pair of numbers of a query and of a key, both (1, 0) before they are turned.

    Args:
        at: the query's position.
        distance: how many positions before it the key stands.
        degrees: what each position turns by.

    Raises:
        ValueError: the key would stand before the text.
    """
    if not 0 <= distance <= at:
        raise ValueError(f"distance must lie in 0..{at} (the query's position), got {distance}")
    style()
    figure: Figure
    figure, axes = plt.subplots(figsize=(4.6, 4.9), layout="none")
    figure.subplots_adjust(left=0.14, right=0.97, top=0.8, bottom=0.07)
    axes.add_patch(plt.Circle((0, 0), 1, fill=False, color="#bbbbbb"))
    for name, place, colour, head in (
        ("query", at, CURVES[0], "-|>"),
        ("key", at - distance, CURVES[1], "->"),
    ):
        angle = math.radians(place * degrees)
        x, y = math.cos(angle), math.sin(angle)
        axes.annotate("", (x, y), (0, 0), arrowprops={"arrowstyle": head, "color": colour, "linewidth": 2.5})
        axes.plot([], [], color=colour, label=f"{name} at {place}: ({x:.2f}, {y:.2f})")
    axes.set_xlim(-1.15, 1.15)
    axes.set_ylim(-1.15, 1.15)
    axes.set_aspect("equal")
    axes.set_title(f"score: {math.cos(math.radians(distance * degrees)):.2f}", fontsize=12)
    figure.legend(loc="upper center", fontsize=11, frameon=False, bbox_to_anchor=(0.55, 1.0))
    plt.close(figure)
    return figure
