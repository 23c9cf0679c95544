"""Learning task after task: what becomes of one task, and the matrix of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from topk_lib.show.figures import style
from topk_lib.show.palette import CURVES, MARKERS

__all__ = ["accuracy_matrix", "fate_of_a_task"]


def fate_of_a_task(curves: Mapping[str, Sequence[Sequence[float]]], task: str = "the first task") -> Figure:
    """Draw the accuracy on one task while others are learned.

    Args:
        curves: for each strategy one list a seed, the accuracy in [0, 1] after each task learned; drawn as
            their mean, with a band from the lowest seed to the highest where there are several.
        task: what it is called on the axis.
    """
    style()
    figure: Figure
    figure, axes = plt.subplots()
    for i, (name, seeds) in enumerate(curves.items()):
        found = 100 * np.asarray(seeds, float)
        steps = np.arange(1, found.shape[1] + 1)
        axes.plot(steps, found.mean(0), marker=MARKERS[i % 6], color=CURVES[i % 6],
                  linestyle=("-", "--", ":", "-.")[i % 4], label=name, clip_on=False)  # fmt: skip
        if len(found) > 1:
            axes.fill_between(steps, found.min(0), found.max(0), color=CURVES[i % 6], alpha=0.15)
    axes.set_ylim(0, 100)
    axes.set_xticks(steps)
    axes.set_xlabel("tasks learned so far")
    axes.set_ylabel(f"accuracy on {task} (%)")
    figure.legend(loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    plt.close(figure)
    return figure


def accuracy_matrix(matrix: Sequence[Sequence[float | None]], tasks: Sequence[str]) -> Figure:
    """Draw an accuracy matrix: a row for each task learned, a column for each task tested.

    Args:
        matrix: (T, T) accuracies in [0, 1]; None or NaN where nothing was measured, left white.
        tasks: T names.

    Raises:
        ValueError: there are more or fewer names than tasks.
    """
    found = np.array([[np.nan if cell is None else cell for cell in row] for row in matrix], float)
    if found.shape != (len(tasks), len(tasks)):
        raise ValueError(f"{len(tasks)} names for a matrix of shape {found.shape}: give one a task")
    style()
    figure: Figure
    figure, axes = plt.subplots(figsize=(5.6, 0.5 * len(tasks) + 1.6))
    axes.imshow(found, vmin=0, vmax=1, cmap="Blues", aspect="auto")
    for i, j in zip(*np.nonzero(~np.isnan(found)), strict=True):
        colour = "white" if found[i, j] > 0.55 else "black"
        axes.text(j, i, f"{100 * found[i, j]:.0f}", ha="center", va="center", color=colour, fontsize=11)
    axes.grid(False)
    axes.set_xticks(range(len(tasks)), tasks, rotation=30 if max(map(len, tasks)) > 3 else 0)
    axes.set_yticks(range(len(tasks)), tasks)
    axes.set_xlabel("accuracy (%) on")
    axes.set_ylabel("after learning")
    plt.close(figure)
    return figure
