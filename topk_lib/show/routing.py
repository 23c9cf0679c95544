"""Who takes whom: one matrix of scores, read along its rows and along its columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor

from topk_lib.show.figures import style
from topk_lib.show.palette import CURVES, DROPPED, KEPT

__all__ = ["expert_loads", "expert_tastes", "routing_choices"]


def routing_choices(tokens: Sequence[str], scores: Tensor, by_token: Tensor, by_expert: Tensor) -> Figure:
    """Draw a (tokens, experts) matrix twice, once for each way to read it.

    A darker cell is a higher score, a dot a chosen cell; the number under a column is how many
    tokens that expert takes, and a token that nobody takes has an exclamation mark and a grey name.

    Args:
        tokens: n labels.
        scores: (n, experts) in [0, 1].
        by_token: (n, experts) bool, what token choice chose.
        by_expert: (n, experts) bool, what expert choice chose.

    Raises:
        ValueError: a shape that does not fit.
    """
    for name, mask in {"by_token": by_token, "by_expert": by_expert}.items():
        if mask.shape != scores.shape:
            raise ValueError(
                f"{name} must have the shape of scores {tuple(scores.shape)}, got {tuple(mask.shape)}"
            )
    if len(tokens) != len(scores):
        raise ValueError(f"tokens must have one label a row of scores, {len(scores)}; got {len(tokens)}")
    style()
    figure: Figure
    figure, panels = plt.subplots(1, 2, figsize=(5.2, 0.36 * len(tokens) + 1.5))
    for axes, mask, title in zip(
        panels, (by_token, by_expert), ("token choice", "expert choice"), strict=True
    ):
        axes.imshow(scores.numpy(), cmap="Greys", vmin=0, vmax=2, aspect="auto")
        rows, columns = mask.nonzero(as_tuple=True)
        axes.plot(columns, rows, "o", color=KEPT, markersize=8)
        alone = (~mask.any(-1)).tolist()
        labels = [f"! {token}" if out else token for token, out in zip(tokens, alone, strict=True)]
        axes.set_yticks(range(len(tokens)), labels)
        for label, out in zip(axes.get_yticklabels(), alone, strict=True):
            if out:
                label.set(color=DROPPED, fontweight="bold")
        loads = mask.sum(0).tolist()
        axes.set_xticks(range(len(loads)), [f"{chr(65 + e)}\n{load}" for e, load in enumerate(loads)])
        axes.grid(False)
        axes.tick_params(length=0)
        axes.set_title(title, fontsize=12)
        axes.set_xlabel("expert, tokens it takes", fontsize=11)
    plt.close(figure)
    return figure


def expert_loads(loads: Mapping[str, Sequence[float]]) -> Figure:
    """Draw how many tokens each expert takes, as a multiple of the mean, for some layers side by side.

    Args:
        loads: for each layer's name the tokens of each expert; all layers have as many experts.

    Raises:
        ValueError: the layers differ in their experts.
    """
    counts = {len(each) for each in loads.values()}
    if len(counts) != 1:
        raise ValueError(f"all layers must have as many experts, got {sorted(counts)}")
    style()
    figure: Figure
    figure, axes = plt.subplots(figsize=(5.2, 2.9))
    experts, width = counts.pop(), 0.8 / len(loads)
    for i, (name, each) in enumerate(loads.items()):
        mean = sum(each) / experts
        at = [e + (i - (len(loads) - 1) / 2) * width for e in range(experts)]
        axes.bar(at, [load / mean for load in each], width, color=CURVES[i], label=name)
    axes.axhline(1, color="#555555", linestyle=":")
    axes.set_xticks(range(experts), [str(e) for e in range(experts)])
    axes.set_xlabel("expert")
    axes.set_ylabel("load / mean")
    figure.legend(loc="outside upper center", ncols=3, fontsize=10, frameon=False)
    plt.close(figure)
    return figure


def expert_tastes(takes: Sequence[Sequence[tuple[str, int, float]]]) -> Figure:
    """Draw for each expert the token types that it takes most beyond its share of all tokens.

    Args:
        takes: for each expert (type, how often it was read, the share of these that the expert took), the
            most telling first.

    Raises:
        ValueError: there is no expert.
    """
    if not takes:
        raise ValueError("takes must have an entry for each expert, got none")
    style()
    rows, most = -(-len(takes) // 2), max(map(len, takes))
    figure: Figure
    figure, panels = plt.subplots(
        rows, 2, figsize=(5.2, 0.7 + rows * (0.5 + 0.2 * most)), sharex=True, squeeze=False
    )
    for panel in panels.flat[len(takes) :]:
        panel.set_axis_off()
    for e, (axes, each) in enumerate(zip(panels.flat, takes, strict=False)):
        axes.barh(range(len(each)), [share for *_, share in each], color=KEPT)
        axes.set_yticks(range(len(each)), [kind.replace("$", r"\$") for kind, *_ in each], fontsize=10)
        axes.set_ylim(most - 0.5, -0.5)
        axes.set_xlim(0, 1)
        axes.grid(False, axis="y")
        axes.set_title(f"expert {e}", fontsize=11)
    figure.supxlabel("share of a type's tokens that the expert takes", fontsize=11)
    plt.close(figure)
    return figure
