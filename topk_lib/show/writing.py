"""Which next tokens a rule lets come, and what a model wrote: its loops, and which drafts were kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from topk_lib.ops import hard_topk, likely_mask
from topk_lib.show.assets import inline_assets
from topk_lib.show.predicting import token_name

if TYPE_CHECKING:
    from IPython.display import HTML

__all__ = ["looping", "may_come"]


def may_come(
    tokenizer: Any,
    text: str,
    logits: Tensor,
    *,
    k: int | None = None,
    top_p: float = 1.0,
    min_p: float = 0.0,
    temperature: float = 1.0,
    listed: int = 12,
) -> HTML:
    """Show the most likely next tokens, and with what probability each comes under a rule.

    Args:
        tokenizer: gives the names of the types.
        text: what was read so far.
        logits: (types,) float.
        k, top_p, min_p, temperature: as for :func:`~topk_lib.likely_mask`; k = None: all.
        listed: how many tokens are listed, the most likely first; a last row adds up all others.
    """
    from IPython.display import HTML

    most = len(logits) if k is None else k
    kept = likely_mask(logits, most, temperature, top_p=top_p, min_p=min_p)
    p = (logits.double() / temperature).masked_fill(~kept, -torch.inf).softmax(-1)
    own = logits.double().softmax(-1)
    best = hard_topk(logits, listed, order="value").indices.tolist()
    rows = [_row(escape(token_name(tokenizer, i)), float(p[i]), bool(kept[i])) for i in best]
    rest = int(kept.sum()) - sum(bool(kept[i]) for i in best)
    rows.append(_row(f"{rest:,} others", float(p.sum() - p[best].sum()), rest > 0, "others"))
    words = "1 token" if int(kept.sum()) == 1 else f"{int(kept.sum()):,} tokens"
    return HTML(
        f'<div class="topk-next"><p>{escape(text)} <b>…</b></p><ol>{"".join(rows)}</ol>'
        f"<p>{words} of {len(logits):,} may come; the model itself gives them "
        f"{_percent(float(own[kept].sum()))} of its probability.</p></div>{inline_assets('show.css')}"
    )


def _row(name: str, share: float, kept: bool, kind: str = "") -> str:
    label = name if kind else f"<code>{name}</code>"
    said = _percent(share) if kept else "no"
    style = kind if kept else "others"
    return f'<li class="{style}"><span>{label}</span><i style="--p:{share:.4f}"></i><span>{said}</span></li>'


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%" if share >= 0.1 else f"{100 * share:.2g}%"


def looping(tokenizer: Any, texts: Mapping[str, tuple[Sequence[int], tuple[int, int] | None]]) -> HTML:
    """Show written texts; where one ends in a loop, every other round of it is marked.

    Args:
        tokenizer: decodes the tokens.
        texts: for each name the token ids and, as :func:`~topk_lib.decoding.find_loop` finds it, where a loop
            starts and its period, or None.
    """
    from IPython.display import HTML

    blocks = []
    for name, (ids, loop) in texts.items():
        start, period = loop or (len(ids), 1)
        html = escape(str(tokenizer.decode(ids[:start])))
        for turn, at in enumerate(range(start, len(ids), period)):
            piece = escape(str(tokenizer.decode(ids[at : at + period])))
            html += f"<mark>{piece}</mark>" if turn % 2 == 0 else piece
        told = "no loop" if loop is None else f"a loop of {period} tokens"
        blocks.append(f"<p><strong>{escape(name)}</strong> ({told}): {html}</p>")
    return HTML(f'{inline_assets("show.css")}<div class="topk-text">{"".join(blocks)}</div>')
