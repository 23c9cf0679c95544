"""What a language model expects next, and how much each token of a text surprises it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from torch import Tensor

from topk_lib.ops import hard_topk
from topk_lib.show.assets import inline_assets

if TYPE_CHECKING:
    from IPython.display import HTML

__all__ = ["next_token", "surprise", "token_name"]


def token_name(tokenizer: Any, token: int) -> str:
    """A token type in print: white space as a sign; a part of a character as its tokenizer writes it."""
    name = str(tokenizer.decode([token]))
    if "�" in name:
        return str(tokenizer.convert_ids_to_tokens(token))
    return name.replace(" ", "␣").replace("\n", "↵").replace("\t", "⇥")


def next_token(tokenizer: Any, ids: Sequence[int], probabilities: Tensor, read: int, *, k: int = 8) -> HTML:
    """Show a text read so far, the k token types most probable to come next, and what comes.

    Args:
        tokenizer: gives the names of the types.
        ids: the n tokens of the text.
        probabilities: (n, types) row t: of each type, after the first t tokens.
        read: how many tokens have been read, in 0 .. n - 1.
        k: how many types are listed, the most probable first; a last row adds up all others.

    Raises:
        ValueError: ``read`` or the shape of ``probabilities`` does not fit the text.
    """
    from IPython.display import HTML

    if len(probabilities) != len(ids):
        raise ValueError(f"probabilities must have a row for each of {len(ids)} tokens: {len(probabilities)}")
    if not 0 <= read < len(ids):
        raise ValueError(f"read must be in 0..{len(ids) - 1}, so that a token is left to come; got {read}")
    p = probabilities[read]
    best = hard_topk(p, k, order="value")
    comes = int(ids[read])
    place = int((p > p[comes]).sum()) + 1
    rows = [
        _row(token_name(tokenizer, token), share, token == comes)
        for token, share in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
    elsewhere = comes not in best.indices.tolist()
    rows.append(_row(f"{len(p) - k:,} others", float(p.sum() - best.values.sum()), elsewhere, "others"))
    before, now, after = (
        str(tokenizer.decode(ids[part]))
        for part in (slice(read), slice(read, read + 1), slice(read + 1, None))
    )
    word = now.lstrip(" ")
    before += now[: len(now) - len(word)]
    return HTML(
        f'<div class="topk-next"><p>{escape(before)}<b>{escape(word)}</b><span>{escape(after)}</span></p>'
        f"<ol>{''.join(rows)}</ol>"
        f"<p>It goes on with <code>{escape(token_name(tokenizer, comes))}</code>: "
        f"{_percent(float(p[comes]))}, place {place:,} of {len(p):,}.</p></div>{inline_assets('show.css')}"
    )


def _row(name: str, share: float, comes: bool, kind: str = "") -> str:
    label = escape(name) if kind else f"<code>{escape(name)}</code>"
    mark = "<b>next</b>" if comes else ""
    return (
        f'<li class="{kind}"><span>{label}</span><i style="--p:{share:.4f}"></i>'
        f"<span>{_percent(share)}</span>{mark}</li>"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%" if share >= 0.1 else f"{100 * share:.2g}%"


def surprise(pieces: Sequence[str], bits: Sequence[float] | Tensor) -> HTML:
    """Show a text with the surprise of each token above it, the background as strong as the surprise.

    Args:
        pieces: the text cut at the end of each of its n tokens, white space before a token with it; "" where
            a token is but a part of the character before.
        bits: (n,) the surprise of each, in bits; from 20 on all have the strongest background.

    Raises:
        ValueError: not as many numbers as pieces, or none.
    """
    from IPython.display import HTML

    if not pieces or len(pieces) != len(bits):
        raise ValueError(f"{len(bits)} surprises for {len(pieces)} pieces: give one for each, of one or more")
    words = ""
    for piece, value in zip(pieces, map(float, bits), strict=True):
        word = piece.strip(" ")
        if not words or piece.startswith(" "):  # the pieces of a word stay on one line
            words += f"{'</span> ' if words else ''}<span>"
        shown = escape(word.replace("\n", "↵")) or ("␣" if piece else "‥")
        words += f'<ruby style="--w:{min(10, round(value / 2))}">{shown}<rt>{value:.1f}</rt></ruby>'
    text = f'<div class="topk-text"><p class="topk-surprise">{words}</span></p></div>'
    return HTML(f"{inline_assets('show.css')}{text}")
