"""Who reads whom: a text whose every token can be asked where its attention goes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from torch import Tensor

from topk_lib.show.assets import inline_assets

if TYPE_CHECKING:
    from IPython.display import HTML

__all__ = ["attention"]

_SAID = 3
"""So many of the tokens that are read are named with their shares."""


def attention(
    tokens: Sequence[str], weights: Mapping[str, Tensor], *, token: int = 0, head: str | None = None
) -> HTML:
    """Show a text in which a reader picks a token, and a head, and sees what the token reads there.

    It needs no kernel. Without scripts, and in print, the first token asked stands there.

    Args:
        tokens: n word pieces; a leading ``##`` joins a piece to the one before.
        weights: for each head's name (n, n) attention weights: row i is what token i reads, and sums to 1.
        token: the position asked first.
        head: the head shown first; by default the first.

    Raises:
        ValueError: no head, weights of another shape or whose rows do not sum to 1, a token or a head that
            is not there.
    """
    from IPython.display import HTML

    head = next(iter(weights), None) if head is None else head
    _check(tokens, weights, token, head)
    percent = {name: (100 * rows).round().int().tolist() for name, rows in weights.items()}
    words = []
    for i, (one, share) in enumerate(zip(tokens, shades := percent[str(head)][token], strict=True)):
        tag = "mark" if i == token else "b"
        space = "" if one.startswith("##") else " "
        tenths = round(10 * share / max(shades))
        words.append(f'{space}<{tag} style="--w:{tenths}">{escape(one.removeprefix("##"))}</{tag}>')
    options = "".join(
        f"<option{' selected' if name == head else ''}>{escape(name)}</option>" for name in weights
    )
    data = {"tokens": list(tokens), "percent": percent, "said": _SAID}
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
    return HTML(
        f'<div class="topk-attention" data-token="{token}"><div class="topk-controls" hidden>'
        f'<span class="topk-control"><label>head<select>{options}</select></label></span></div>'
        f'<p class="topk-reads" aria-live="polite">{escape(_said(tokens, shades, token))}</p>'
        f'<p class="topk-tokens">{"".join(words)}</p>'
        f'<script type="application/json">{text}</script></div>'
        f"{inline_assets('show.css', 'attention.js')}"
    )


def _said(tokens: Sequence[str], percent: Sequence[int], token: int) -> str:
    """As ``attention.js`` says it."""
    most = sorted(range(len(tokens)), key=lambda i: -percent[i])[:_SAID]
    return f"{tokens[token]} reads " + ", ".join(f"{tokens[i]} {percent[i]}%" for i in most if percent[i])


def _check(tokens: Sequence[str], weights: Mapping[str, Tensor], token: int, head: str | None) -> None:
    n = len(tokens)
    if head not in weights:
        heads = ", ".join(weights) or "the weights, of which there are none"
        raise ValueError(f"head must be one of {heads}, got {head!r}")
    if not 0 <= token < n:
        raise ValueError(f"token must lie in 0..{n - 1} (the tokens), got {token}")
    for name, rows in weights.items():
        if rows.shape != (n, n):
            raise ValueError(f"{name}: weights must be ({n}, {n}) for {n} tokens, got {tuple(rows.shape)}")
        if not bool((rows >= 0).all() & ((rows.sum(-1) - 1).abs() < 1e-3).all()):
            raise ValueError(f"{name}: each row must hold shares that sum to 1: is a softmax missing?")
