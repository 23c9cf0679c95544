"""One text under a moving k: the browser only compares each token's rank with k."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from topk_lib.show.assets import inline_assets

if TYPE_CHECKING:
    from IPython.display import HTML

__all__ = ["reading"]


def reading(
    pieces: Sequence[str],
    ranks: Mapping[str, Sequence[int]],
    positive: Mapping[str, Sequence[float]],
    budgets: Sequence[int],
    whole: float,
    *,
    k: int = 16,
) -> HTML:
    """Show a text with the k tokens that a rule keeps of it, for every k of a slider.

    It needs no kernel. Without scripts, and in print, the first rule's choice at ``k`` stands there.

    Args:
        pieces: the text cut at the end of each of its n tokens, white space before the token with it.
        ranks: for each rule's name a permutation of 0 .. n - 1; a token is kept where its rank is below k.
        positive: for each rule, at each budget, how sure a reader of the kept tokens alone is that the
            text is positive, in [0, 1].
        budgets: the values of the slider, ascending, at most n.
        whole: how sure the reader is who was given all tokens.
        k: the budget shown first.

    Raises:
        ValueError: lengths that do not fit, ranks that are no permutation, a ``k`` that is no budget.
    """
    from IPython.display import HTML

    _check(pieces, ranks, positive, budgets, k)
    rules, at = list(ranks), list(budgets).index(k)
    first = rules[0]
    words = []
    for piece, rank in zip(pieces, ranks[first], strict=True):
        word = piece.lstrip()
        tag = "mark" if rank < k else "span"
        words.append(f"{piece[: len(piece) - len(word)]}<{tag}>{escape(word)}</{tag}>")
    choices = "".join(
        f'<label><input type="radio" name="topk-rule" value="{escape(rule)}"'
        f"{' checked' if rule == first else ''}><span>{escape(rule)}</span></label>"
        for rule in rules
    )
    data = {"ranks": ranks, "positive": positive, "budgets": list(budgets)}
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
    sure = positive[first][at]
    return HTML(
        f'<div class="topk-reading" data-n="{len(pieces)}"><div class="topk-controls" hidden>'
        f'<label class="topk-k"><span><i>k</i> =</span><b class="topk-at">{k}</b><input type="range" min="0" '
        f'max="{len(budgets) - 1}" value="{at}" aria-label="k, how many tokens are kept" '
        f'aria-valuetext="{k} of {len(pieces)} tokens"></label>'
        f"<fieldset><legend>kept by</legend>{choices}</fieldset></div>"
        '<div class="topk-verdict"><p>A linear model that reads only these '
        f'<b class="topk-count">{k}</b> tokens is '
        f'<b class="topk-sure">{sure:.0%}</b> sure that the verdict is positive. '
        f"After all {len(pieces)} it is {whole:.0%} sure.</p>"
        '<div class="topk-scale" aria-hidden="true"><span>negative</span>'
        f'<i style="--sure:{sure};--whole:{whole}"></i><span>positive</span></div></div>'
        f'<p class="topk-words">{"".join(words)}</p>'
        f'<script type="application/json">{text}</script></div>'
        f"{inline_assets('show.css', 'reading.js')}"
    )


def _check(
    pieces: Sequence[str],
    ranks: Mapping[str, Sequence[int]],
    positive: Mapping[str, Sequence[float]],
    budgets: Sequence[int],
    k: int,
) -> None:
    if list(ranks) != list(positive):
        raise ValueError(f"ranks and positive must name the same rules, got {list(ranks)}, {list(positive)}")
    if k not in budgets:
        raise ValueError(f"k must be one of the budgets, got {k}")
    if list(budgets) != sorted(set(budgets)) or not 0 < budgets[0] <= budgets[-1] <= len(pieces):
        raise ValueError(f"budgets must ascend within 1..{len(pieces)} (the tokens), got {list(budgets)}")
    for rule in ranks:
        if sorted(ranks[rule]) != list(range(len(pieces))):
            raise ValueError(f"{rule}: ranks must be a permutation of 0..{len(pieces) - 1}")
        if len(positive[rule]) != len(budgets):
            raise ValueError(f"{rule}: {len(positive[rule])} answers for {len(budgets)} budgets")
