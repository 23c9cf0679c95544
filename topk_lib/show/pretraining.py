"""How a language model learns: its loss, what it expects next, and what snapshots of it can do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from topk_lib.show.figures import style
from topk_lib.show.palette import CURVES, MARKERS

__all__ = ["by_stage", "guessing"]

_DASHES = (":", "--", "-.")


def guessing(
    losses: Mapping[str, Sequence[float]],
    levels: Mapping[str, float],
    at: int | None = None,
    guesses: Sequence[tuple[str, float]] = (),
    *,
    most: float = 1.0,
    window: int = 20,
) -> Figure:
    """Draw the loss of each step of language models, and below it what one expects at one of them.

    Args:
        losses: for each model's name the loss of every step, in nats; the steps faint, the mean of the last
            ``window`` of them as a line.
        levels: losses that belong to no step, drawn as level lines.
        at: steps taken when ``guesses`` were made; drawn as a band.
        guesses: tokens and their probabilities in [0, 1], the likeliest first; empty: no lower part.
        most: where the axis of the probabilities ends, in (0, 1].
        window: steps that the line is a mean of.
    """
    style()
    figure: Figure
    rows = 2 if guesses else 1
    figure, axes = plt.subplots(
        rows, 1, figsize=(5.2, 3.1 + 1.9 * (rows - 1)), height_ratios=[1.7, 1][:rows], squeeze=False
    )
    upper = axes[0, 0]
    for i, (name, values) in enumerate(losses.items()):
        means = [sum(values[max(0, j - window + 1) : j + 1]) / min(window, j + 1) for j in range(len(values))]
        steps = range(1, len(values) + 1)
        upper.plot(steps, values, color=CURVES[i], linewidth=0.8, alpha=0.3)
        upper.plot(steps, means, color=CURVES[i], linestyle=("-", "--")[i % 2], label=name)
    for j, (name, level) in enumerate(levels.items()):
        upper.axhline(level, color="#555555", linewidth=1.5, linestyle=_DASHES[j % 3], label=name)
    if at is not None:
        upper.axvline(at, color="#b0b0b0", linewidth=8, alpha=0.4, zorder=0)
    upper.set_xlabel("step")
    upper.set_ylabel("loss (nats)")
    figure.legend(loc="outside upper center", ncols=2, fontsize=10, frameon=False)
    if guesses:
        lower = axes[1, 0]
        places = range(len(guesses))
        lower.barh(places, [p for _, p in guesses], color=CURVES[2], height=0.7)
        lower.set_yticks(places, [token for token, _ in guesses])
        lower.invert_yaxis()
        lower.set_xlim(0, most)
        lower.set_xlabel("probability")
    plt.close(figure)
    return figure


def by_stage(
    panels: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]],
    stages: Sequence[str],
    *,
    xlabel: str,
    lines: Mapping[str, Mapping[str, float]] | None = None,
) -> Figure:
    """Draw curves over stages that follow one another, in panels below each other.

    Args:
        panels: for each panel's y label its curves: name -> stage -> values, one a seed. The line goes
            through their means, each value is a small mark; a stage that a curve lacks is left out.
        stages: the labels along the axis, in order, equally far apart.
        xlabel: what the stages are.
        lines: for each panel's y label values that have no stage, drawn as level lines.

    Raises:
        ValueError: a curve has a stage that is not among ``stages``.
    """
    for curves in panels.values():
        for name, points in curves.items():
            if unknown := [stage for stage in points if stage not in stages]:
                raise ValueError(f"{name} has a stage {unknown[0]!r} that is not among {list(stages)}")
    style()
    figure: Figure
    figure, rows = plt.subplots(
        len(panels), sharex=True, squeeze=False, figsize=(5.2, 1.1 + 2.6 * len(panels))
    )
    names = list(dict.fromkeys(name for curves in panels.values() for name in curves))
    levels = list(dict.fromkeys(name for here in (lines or {}).values() for name in here))
    handles = {}
    for axes, (ylabel, curves) in zip(rows[:, 0], panels.items(), strict=True):
        for name, points in curves.items():
            i = names.index(name)
            colour = CURVES[i] if i < len(CURVES) else "#555555"
            here = [stage for stage in stages if points.get(stage)]
            at = [stages.index(stage) for stage in here]
            means = [sum(points[stage]) / len(points[stage]) for stage in here]
            handles[name] = axes.plot(at, means, f"{MARKERS[i % 6]}-", color=colour)[0]
            for x, stage in zip(at, here, strict=True):
                if len(points[stage]) > 1:
                    axes.plot([x] * len(points[stage]), points[stage], "_", color=colour, markersize=9)
        for name, value in (lines or {}).get(ylabel, {}).items():
            dashes = ("--", ":", "-.")[levels.index(name) % 3]
            handles[name] = axes.axhline(value, color="#555555", linestyle=dashes)
        axes.set_ylabel(ylabel)
    steep = sum(map(len, stages)) > 30  # else the labels would run into each other
    rows[-1, 0].set_xticks(range(len(stages)), stages, rotation=35 if steep else 0)
    rows[-1, 0].set_xlabel(xlabel)
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=2, fontsize=10, frameon=False
    )
    plt.close(figure)
    return figure
