"""What a device holds, and what a step costs, as the number of devices grows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from topk_lib.show.figures import style
from topk_lib.show.palette import CURVES, DROPPED

__all__ = ["step_costs", "step_costs_in_words"]

_PARTS = ("weights", "gradients", "optimiser", "activations")


def step_costs(steps: Mapping[str, Any], devices: int, memory: float, most: tuple[float, float]) -> Figure:
    """Draw memory and time of one step, a bar for each way to share it.

    Time is drawn as that of all devices together, so that a bar grows where devices wait.

    Args:
        steps: for each way a :class:`~topk_lib.training.cost.Step`.
        devices: how many share the step.
        memory: bytes of a device, drawn as a line.
        most: right ends of the axes: gigabytes of a device, seconds of all devices; a longer bar is cut.
    """
    style()
    figure: Figure
    figure, (held, spent) = plt.subplots(2, 1, figsize=(5.2, 4.9))
    for y, step in enumerate(steps.values()):
        _bar(held, y, [step.memory[part] / 1e9 for part in _PARTS], most[0], f"{step.held / 1e9:,.0f} GB")
        parts = [step.compute * devices, (step.overlapped - step.compute) * devices]
        _bar(spent, y, parts, most[1], _seconds(step.overlapped), (CURVES[0], DROPPED))
    held.axvline(memory / 1e9, color="#222222", linestyle="--", linewidth=1.5)
    held.set_xlabel(f"GB of a device (dashed: it has {memory / 1e9:.0f})", fontsize=11)
    spent.set_xlabel("seconds, all devices added up (in bold: the step's)", fontsize=11)
    for axes, end in zip((held, spent), most, strict=True):
        axes.set_xlim(0, end)
        axes.set_yticks(range(len(steps)), list(steps))
        axes.set_ylim(len(steps) - 0.4, -0.6)
        axes.grid(axis="y", visible=False)
    handles = [plt.Rectangle((0, 0), 1, 1, color=CURVES[i]) for i in range(len(_PARTS))]
    held.legend(handles, _PARTS, loc="lower center", bbox_to_anchor=(0.4, 1), ncols=4, fontsize=9,
                frameon=False, columnspacing=1, handlelength=1)  # fmt: skip
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in (CURVES[0], DROPPED)]
    spent.legend(handles, ("products", "waiting for the network"), loc="lower center", ncols=2, fontsize=9,
                 bbox_to_anchor=(0.4, 1), frameon=False, handlelength=1)  # fmt: skip
    plt.close(figure)
    return figure


def _bar(
    axes: Axes, y: int, parts: list[float], end: float, label: str, colours: tuple[str, ...] = CURVES
) -> None:
    left = 0.0
    for part, colour in zip(parts, colours, strict=False):
        axes.barh(y, min(part, end - left), left=left, height=0.6, color=colour)
        left = min(left + part, end)
    inside = left > 0.75 * end
    axes.text(
        0 if inside else left, y, f" {label}", va="center", fontsize=11, fontweight="bold",
        color="white" if inside else "black",
    )  # fmt: skip


def _seconds(value: float) -> str:
    return f"{value:,.0f} s" if value >= 10 else f"{value:.2g} s"


def step_costs_in_words(steps: Mapping[str, Any], devices: int) -> str:
    """What :func:`step_costs` shows, for those who cannot see it."""
    rows = [
        f"{name}: {step.held / 1e9:,.0f} gigabytes a device, {_seconds(step.overlapped)} a step, "
        f"{100 * (1 - step.compute / step.overlapped):.0f}% of it waiting for the network"
        for name, step in steps.items()
    ]
    return f"Bars for {devices:,} devices. {'; '.join(rows)}."
