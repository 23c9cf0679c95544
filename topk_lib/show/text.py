"""Coloured text: what a selector keeps of a review."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from IPython.display import HTML

__all__ = ["kept_text"]


def kept_text(tokens: Sequence[str], masks: Mapping[str, Sequence[bool]]) -> HTML:
    """Show one text once per rule, the kept tokens highlighted.

    Args:
        tokens: word pieces; a leading ``##`` joins a piece to the one before.
        masks: for each rule's name, one bool per token.

    Returns:
        HTML that styles itself in Colab too; kept tokens are marked up with ``<mark>``, so that a
        screen reader can tell them.
    """
    from IPython.display import HTML

    style = (
        "<style>.topk-text mark{background:#ffd24d;color:#1a1a1a;font-weight:600;"
        "border-radius:3px;padding:0 2px}.topk-text{line-height:1.9;overflow-wrap:anywhere}</style>"
    )
    blocks = []
    for rule, mask in masks.items():
        if len(mask) != len(tokens):
            raise ValueError(f"{rule}: {len(mask)} marks for {len(tokens)} tokens")
        words = []
        for token, keep in zip(tokens, mask, strict=True):
            piece = html.escape(token.removeprefix("##"))
            space = "" if token.startswith("##") else " "
            words.append(f"{space}<mark>{piece}</mark>" if keep else f"{space}{piece}")
        kept = sum(map(bool, mask))
        blocks.append(f"<p><strong>{html.escape(rule)}</strong> ({kept} kept):{''.join(words)}</p>")
    return HTML(f'{style}<div class="topk-text">{"".join(blocks)}</div>')
