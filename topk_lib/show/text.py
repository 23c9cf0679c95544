"""Coloured text: what a selector keeps of a review."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from topk_lib.show.assets import inline_assets

if TYPE_CHECKING:
    from IPython.display import HTML

__all__ = ["kept_text"]


def kept_text(tokens: Sequence[str], kept: Mapping[str, Sequence[float]], *, beside: bool = False) -> HTML:
    """Show one text once per rule, the kept tokens highlighted.

    Args:
        tokens: word pieces; a leading ``##`` joins a piece to the one before.
        kept: for each rule's name, one bool a token, or one weight in [0, 1] a token.
        beside: put the texts side by side where there is room, instead of below each other.

    Returns:
        HTML that styles itself in Colab too. Kept tokens are marked up with ``<mark>``, so that a
        screen reader can tell them; weights colour the background in ten steps.
    """
    from IPython.display import HTML

    blocks = []
    for rule, weights in kept.items():
        if len(weights) != len(tokens):
            raise ValueError(f"{rule}: {len(weights)} marks for {len(tokens)} tokens")
        soft = any(0 < float(w) < 1 for w in weights)
        words = []
        for token, weight in zip(tokens, weights, strict=True):
            piece = escape(token.removeprefix("##"))
            tenths = round(10 * float(weight))
            if not soft and weight:
                piece = f"<mark>{piece}</mark>"
            elif tenths:
                piece = f'<b style="--w:{tenths}">{piece}</b>'
            words.append(piece if token.startswith("##") else f" {piece}")
        total = f"{sum(map(float, weights)):.0f} in all" if soft else f"{sum(map(bool, weights))} kept"
        blocks.append(f"<p><strong>{escape(rule)}</strong> ({total}):{''.join(words)}</p>")
    side = " beside" if beside else ""
    return HTML(f'{inline_assets("show.css")}<div class="topk-text{side}">{"".join(blocks)}</div>')
