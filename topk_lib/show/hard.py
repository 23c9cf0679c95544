"""Pictures of hard top-k: bits that decide, and work that was counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from topk_lib.show.figures import style
from topk_lib.show.palette import CURVES, DROPPED, KEPT, MARKERS

if TYPE_CHECKING:
    from IPython.display import HTML

__all__ = ["bits_deciding", "counted_work"]

# Cells of a row in each state, told apart by lightness and border too, on light and dark pages.
_STATES = {
    "chosen": f"background:{KEPT};color:#fff;border:1px solid {KEPT};font-weight:600",
    "open": "background:none;color:inherit;border:1px solid currentColor",
    "out": f"background:none;color:inherit;border:1px dotted {DROPPED};opacity:.75",
}
_CELL = "text-align:center;font-family:monospace;padding:.2em .5em"
_PLAIN = "background:none;color:inherit;border:0;padding:.15em .6em"


def bits_deciding(
    keys: Sequence[int], k: int, step: int, *, bits: int = 4, labels: Sequence[str] | None = None
) -> HTML:
    """Show each key as a row of bits, after some steps of the search for the k-th largest.

    A row is chosen where its leading bits are larger than those of the threshold tau that are known,
    out where they are smaller, open where they are equal.

    Args:
        keys: n whole numbers in 0 .. 2**bits - 1.
        k: how many are chosen, 1 <= k <= n.
        step: 0 shows the start, i the state after i bits, bits + 1 the ties put right by position.
        bits: how many bits a key has.
        labels: n names of the rows; the keys in decimal by default.

    Returns:
        An HTML table that styles itself, with what the step found above it.

    Raises:
        ValueError: k outside 1..n, step outside 0..bits + 1, a key that does not fit the bits.
    """
    from IPython.display import HTML

    _check(keys, k, step, bits)
    names = [str(key) for key in keys] if labels is None else labels
    heads = "".join(
        f'<th scope="col" style="{_PLAIN};padding:0;text-align:center">{"▼" if bit == step else bit}</th>'
        for bit in range(1, bits + 1)
    )
    empty = f'<td style="{_PLAIN}"></td>'
    body = [f'<tr style="background:none">{empty}{heads}{empty}</tr>']
    for key, name, state in zip(keys, names, _states(keys, k, step, bits), strict=True):
        body.append(_row(name, f"{key:0{bits}b}", _STATES[state], state, step))
    decided = min(step, bits)
    known = f"{_tau(keys, k, decided, bits):0{bits}b}"[:decided].ljust(bits, "?")
    body.append(_row("tau", known, "background:none;color:inherit;border:1px solid #888", "", step))
    caption = _headline(keys, k, step, bits).replace(". ", ".<br>", 1)
    return HTML(
        f'<p style="min-height:3.2em;margin:0 0 .3rem">{caption}</p>'
        f'<table style="border-collapse:collapse"><tbody>{"".join(body)}</tbody></table>'
    )


def _row(name: str, digits: str, fill: str, state: str, step: int) -> str:
    cells = []
    for bit, digit in enumerate(digits, 1):
        edge = f";border-left:3px solid {DROPPED};border-right:3px solid {DROPPED}"
        cells.append(f'<td style="{_CELL};{fill}{edge if bit == step else ""}">{digit}</td>')
    return (
        f'<tr style="background:none"><th scope="row" style="{_PLAIN};text-align:right">{escape(name)}</th>'
        f'{"".join(cells)}<td style="{_PLAIN};text-align:left">{state}</td></tr>'
    )


def counted_work(counts: Mapping[str, Mapping[int, int]], unit: str = "steps") -> Figure:
    """Draw counted work against n on logarithmic axes, one line a method.

    Args:
        counts: for each method and each n what was counted.
        unit: what was counted, for the label of the axis.
    """
    style()
    figure: Figure
    figure, axes = plt.subplots(figsize=(5.2, 4.4))
    for i, (name, points) in enumerate(counts.items()):
        most = max(points)
        label = f"{name}: {points[most] / most:.1f} n"
        # Ever thinner, so that a line shows under one that hides it.
        axes.plot(
            points.keys(), points.values(), color=CURVES[i % 6], marker=MARKERS[i % 6], label=label,
            linewidth=max(6 - 1.4 * i, 1.5), markersize=max(12 - 2 * i, 5),
        )  # fmt: skip
    sizes = sorted({n for points in counts.values() for n in points})
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(sizes, [f"{n:,}" for n in sizes])
    axes.minorticks_off()
    axes.set_ylim(sizes[0] / 2, 60 * sizes[-1])
    axes.set_xlabel("n: how many numbers")
    axes.set_ylabel(unit)
    figure.legend(loc="outside lower center", ncols=2, fontsize=10, frameon=False)
    plt.close(figure)
    return figure


def _check(keys: Sequence[int], k: int, step: int, bits: int) -> None:
    if not 1 <= k <= len(keys):
        raise ValueError(f"k must lie in 1..{len(keys)} (the number of keys), got {k}")
    if not 0 <= step <= bits + 1:
        raise ValueError(f"step must lie in 0..{bits + 1} (one a bit, one for ties), got {step}")
    for key in keys:
        if not 0 <= key < 1 << bits:
            raise ValueError(f"keys must lie in 0..{(1 << bits) - 1} to have {bits} bits, got {key}")


def _headline(keys: Sequence[int], k: int, step: int, bits: int) -> str:
    if step == 0:
        return f"Nothing is decided. All {len(keys)} may still be chosen."
    if step > bits:
        tau = _tau(keys, k, bits, bits)
        above, equal = sum(key > tau for key in keys), sum(key == tau for key in keys)
        return (
            f"Above tau = {tau:0{bits}b}: {above}. Equal to it: {equal}; "
            f"the first {k - above} by position {'is' if k - above == 1 else 'are'} chosen."
        )
    candidate = _tau(keys, k, step - 1, bits) | (1 << (bits - step))
    reach = sum(key >= candidate for key in keys)
    compared = "at least" if reach >= k else "fewer than"
    return (
        f"Bit {step} of {bits}: {reach} of {len(keys)} reach {candidate:0{bits}b}. "
        f"That is {compared} k = {k}, so this bit of tau is {int(reach >= k)}."
    )


def _tau(keys: Sequence[int], k: int, decided: int, bits: int) -> int:
    """The k-th largest key as far as its first ``decided`` bits are known, 0 below them."""
    tau = 0
    for bit in range(bits - 1, bits - 1 - decided, -1):
        candidate = tau | (1 << bit)
        if sum(key >= candidate for key in keys) >= k:
            tau = candidate
    return tau


def _states(keys: Sequence[int], k: int, step: int, bits: int) -> list[str]:
    decided = min(step, bits)
    unknown = bits - decided
    edge = _tau(keys, k, decided, bits) >> unknown
    states = [
        "chosen" if key >> unknown > edge else "open" if key >> unknown == edge else "out" for key in keys
    ]
    if step > bits:
        spare = k - states.count("chosen")
        for i, state in enumerate(states):
            if state == "open":
                states[i] = "chosen" if spare > 0 else "out"
                spare -= 1
    return states
