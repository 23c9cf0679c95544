"""What a language model would answer while it is still reading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from topk_lib.show.figures import style
from topk_lib.show.palette import CURVES, MARKERS

__all__ = ["as_it_reads"]


def as_it_reads(
    shares: Mapping[str, Sequence[float]], read: Sequence[int], at: int, word: str, said: str = ""
) -> Figure:
    """Draw the share of one label word as more and more of a text stands in the prompt.

    Args:
        shares: for each wording (points,) shares in [0, 1].
        read: (points,) how many tokens of the text were read.
        at: one of ``read``, pointed out.
        word: the label word.
        said: what was read last, written above.

    Raises:
        ValueError: a wording has not as many shares as there are points, or ``at`` is no point.
    """
    if at not in read or any(len(values) != len(read) for values in shares.values()):
        raise ValueError(f"each wording needs a share for each of {len(read)} points, {at} among them")
    style()
    figure: Figure
    figure, axes = plt.subplots(figsize=(5.2, 3.9))
    for i, (name, values) in enumerate(shares.items()):
        axes.plot(read, values, f"{MARKERS[i % 6]}-", color=CURVES[i % 6], markersize=5, label=name)
    axes.axhline(0.5, color="#555555", linestyle=":", linewidth=1.5)
    axes.axvline(at, color="#b0b0b0", linewidth=8, alpha=0.4, zorder=0)
    axes.set_ylim(0, 1)
    axes.set_xlabel("tokens of the review in the prompt")
    axes.set_ylabel(f"share of {word!r}")
    axes.set_title(said, fontsize=11, loc="left")
    figure.legend(loc="outside lower center", ncols=3, fontsize=10, frameon=False)
    plt.close(figure)
    return figure
