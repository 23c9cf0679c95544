"""How a loop learns: the loss of each step or epoch, and what held-out texts are taken for meanwhile."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from topk_lib.show.figures import style
from topk_lib.show.palette import CURVES, MARKERS

__all__ = ["by_epoch", "learning"]


def learning(
    losses: Mapping[str, Sequence[float]],
    at: int | None = None,
    shares: Sequence[float] = (),
    labels: Sequence[int] = (),
    *,
    window: int = 5,
    top: float | None = None,
) -> Figure:
    """Draw the loss of each training step, and below it where held-out texts stand at one of them.

    Args:
        losses: for each loop's name the loss of every step, in nats; the steps as dots, the mean of the
            last ``window`` of them as a line. A level line is a coin's loss, log 2.
        at: steps taken when ``shares`` were computed; drawn as a band.
        shares: (n,) the probability, in [0, 1], that each held-out text is positive; empty: no lower part.
        labels: (n,) 0 or 1, the truth; chooses a text's row and mark.
        window: steps that the line is a mean of.
        top: where the axis of the losses ends, in nats; None: where they do.

    Raises:
        ValueError: shares and labels differ in length.
    """
    if len(shares) != len(labels):
        raise ValueError(f"{len(shares)} shares for {len(labels)} labels: give one of each for every text")
    style()
    figure: Figure
    rows = 2 if len(shares) else 1
    figure, axes = plt.subplots(
        rows, 1, figsize=(5.2, 2.9 + 1.9 * (rows - 1)), height_ratios=[2.4, 1][:rows], squeeze=False
    )
    upper = axes[0, 0]
    for i, (name, values) in enumerate(losses.items()):
        means = [sum(values[max(0, j - window + 1) : j + 1]) / min(window, j + 1) for j in range(len(values))]
        steps = range(1, len(values) + 1)
        upper.plot(steps, values, "o", color=CURVES[i], markersize=4, alpha=0.35)
        upper.plot(steps, means, color=CURVES[i], linestyle=("-", "--", ":", "-.")[i % 4], label=name)
    upper.axhline(math.log(2), color="#555555", linestyle=":", linewidth=1.5, label="a coin")
    if at is not None:
        upper.axvline(at + 0.5, color="#b0b0b0", linewidth=8, alpha=0.4, zorder=0)
    upper.set_xlabel("step")
    upper.set_ylabel("loss")
    upper.set_ylim(0, top)
    figure.legend(loc="outside upper center", ncols=2, fontsize=10, frameon=False)
    if len(shares):
        _held_out(axes[1, 0], shares, labels)
    plt.close(figure)
    return figure


def _held_out(axes: plt.Axes, shares: Sequence[float], labels: Sequence[int]) -> None:
    for label, marker, colour in ((1, "o", CURVES[0]), (0, "D", CURVES[1])):
        mine = [float(p) for p, truth in zip(shares, labels, strict=True) if truth == label]
        heights = [label + 0.25 * ((i % 5) - 2) / 2 for i in range(len(mine))]  # apart, so that all are seen
        axes.plot(mine, heights, marker, color=colour, markersize=6, alpha=0.7)
    axes.axvline(0.5, color="#555555", linestyle=":", linewidth=1.5)
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.6, 1.6)
    axes.set_yticks([0, 1], ["negative", "positive"])
    axes.set_xlabel("taken for positive with probability")
    right = sum((p > 0.5) == bool(truth) for p, truth in zip(shares, labels, strict=True))
    axes.set_title(f"{right} of {len(labels)} on their side of one half", fontsize=11)


def by_epoch(texts: Mapping[str, Sequence[tuple[float, float]]]) -> Figure:
    """Draw loss and accuracy after each epoch, one curve for each set of texts.

    Args:
        texts: for each set's name its loss (nats) and its accuracy (in [0, 1]) after each epoch.
    """
    style()
    figure: Figure
    figure, panels = plt.subplots(2, 1, figsize=(5.2, 5.0), sharex=True)
    for i, (name, epochs) in enumerate(texts.items()):
        steps = range(1, len(epochs) + 1)
        look = {"color": CURVES[i % 6], "marker": MARKERS[i % 6], "linestyle": ("-", "--", ":", "-.")[i % 4]}
        panels[0].plot(steps, [loss for loss, _ in epochs], label=name, **look)
        panels[1].plot(steps, [100 * accuracy for _, accuracy in epochs], **look)
    panels[0].set_ylabel("loss")
    panels[0].set_ylim(bottom=0)
    panels[1].set_ylabel("accuracy (%)")
    panels[1].set_xlabel("epoch")
    panels[1].set_xticks(range(1, 1 + max(len(epochs) for epochs in texts.values())))
    figure.legend(loc="outside upper center", ncols=2, fontsize=10, frameon=False)
    plt.close(figure)
    return figure
