"""Checks for the chapter on choosing the next token."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from topk_lib.checks.base import check, close, differ, floats
from topk_lib.decoding import continuation_losses, continue_texts, repeated
from topk_lib.models import load_language_model

__all__ = [
    "check_acceptance",
    "check_may_come",
    "check_rejected",
    "check_repeated",
    "check_writing_rule",
]

_BEGINNINGS = (
    "I watched this film with my whole family on a Sunday, and",
    "The first half hour is slow, but then the story",
    "What I liked least about this film was that",
    "Nobody in this cast can act, and the director",
)
_PERPLEXITY, _REPEATED = 12.0, 0.02


@check
def check_may_come(may_come: Callable[[Tensor, float, int, float, float], Tensor]) -> str:
    """Check may_come(logits, temperature, k, top_p, min_p): a bool for each token, True where it may come."""
    p = torch.tensor([0.4, 0.25, 0.15, 0.1, 0.06, 0.04])
    shuffled = torch.tensor([3, 0, 5, 1, 4, 2])
    cases: list[tuple[tuple[float, int, float, float], list[int], str]] = [
        ((1.0, 2, 1.0, 0.0), [0, 1], "k = 2 keeps the two most likely"),
        (
            (1.0, 6, 0.6, 0.0),
            [0, 1],
            "0.40 is less than 0.6, so a second token is needed: the one that passes the share stays",
        ),
        (
            (1.0, 3, 0.6, 0.0),
            [0, 1],
            "after k = 3 the shares are 0.50, 0.31, 0.19: the two first hold 0.6",
        ),
        (
            (1.0, 3, 0.49, 0.0),
            [0],
            "of the three that k leaves the first holds 0.50 of the mass: top_p looks at what k left",
        ),
        (
            (1.0, 6, 1.0, 0.3),
            [0, 1, 2],
            "0.3 times 0.40 is 0.12: min_p is a share of the most likely token's probability",
        ),
        (
            (0.5, 6, 0.8, 0.0),
            [0, 1],
            "at temperature 0.5 the first two hold 0.61 and 0.24: the temperature comes first",
        ),
        (
            (0.5, 6, 1.0, 0.3),
            [0, 1],
            "at temperature 0.5 the shares are as 0.16, 0.0625 and so on, and min_p asks for 0.3 times 0.16",
        ),
        (
            (1.0, 6, 0.85, 0.2),
            [0, 1, 2, 3],
            "top_p keeps the first four, and min_p (0.2 times 0.40 is 0.08) drops none of them",
        ),
        ((1.0, 99, 1.0, 0.0), [0, 1, 2, 3, 4, 5], "k above the number of tokens keeps all"),
    ]
    for (temperature, k, top_p, min_p), right, why in cases:
        logits = p.log()[shuffled]
        got = may_come(logits.clone(), temperature, k, top_p, min_p)
        kept = torch.as_tensor(got)
        if kept.shape != logits.shape:
            return f"Not yet: six tokens have six answers; the shape of yours is {tuple(kept.shape)}."
        mine = sorted(shuffled[kept.bool()].tolist())
        if mine != right:
            return (
                f"Not yet: probabilities 0.40, 0.25, 0.15, 0.10, 0.06, 0.04 (in another order), T = "
                f"{temperature}, k = {k}, top_p = {top_p}, min_p = {min_p}: {_count(right)} may come, yours "
                f"lets {_count(mine)}; {why}."
            )
    tied = torch.as_tensor(may_come(torch.tensor([1.0, 2.0, 2.0, 2.0]), 1.0, 2, 1.0, 0.0)).bool()
    if tied.tolist() != [False, True, True, False]:
        return (
            "Almost: logits (1, 2, 2, 2) and k = 2: two may come, 1 and 2, as among equals the lowest wins; "
            f"yours lets {tied.nonzero()[:, 0].tolist()}."
        )
    return "Right."


def _count(ranks: Sequence[int]) -> str:
    return f"the {', '.join(str(r + 1) for r in ranks)} most likely" if ranks else "none"


@check
def check_acceptance(share: float) -> str:
    """Check how often a draft from q = (0.2, 0.5, 0.3) stays when the model says p = (0.5, 0.3, 0.2)."""
    got = float(share)
    near = {
        0.3: "that is how often it is refused",
        0.29: "that is the sum of p times q, how often two independent draws agree",
        0.2: "that counts the first token alone",
        70.0: "give a share, 0.7, not per cent",
        1.3: "that is the sum of the larger ones; a token stays min(p, q) of the time",
    }
    if close(got, 0.7, 1e-3):
        return "Right."
    hint = next((why for value, why in near.items() if close(got, value, 1e-3)), "add up min(p, q)")
    return f"Not yet: yours is {got:.4g}; {hint}."


@check
def check_rejected(rejected: Callable[[Tensor, Tensor], Tensor]) -> str:
    """Check rejected(p, q): what the token that replaces a refused draft is drawn from."""
    p, q = torch.tensor([0.5, 0.3, 0.2, 0.0]), torch.tensor([0.1, 0.2, 0.3, 0.4])
    got = floats(rejected(p.clone(), q.clone()))
    right = torch.tensor([0.8, 0.2, 0.0, 0.0])
    if got.shape != right.shape:
        return f"Not yet: four tokens have four probabilities; the shape of yours is {tuple(got.shape)}."
    mistakes = {
        "that is p itself: what the draft gives too seldom must come more often, and the rest not at all": p,
        "that is q: the draft was refused": q,
        "scale it so that it sums to 1": (p - q).clamp(min=0),
        "what the draft gives too often must not come: take p - q, not q - p": (q - p).clamp(min=0) / 0.5,
        "negative probabilities: nothing below 0 stays": p - q,
        "that adds what lies below 0 as if it were above: cut it to 0": (p - q).abs() / (p - q).abs().sum(),
    }
    for why, wrong in mistakes.items():
        if torch.allclose(got, wrong, atol=1e-4):
            return f"Not yet: {why}."
    if not torch.allclose(got, right, atol=1e-4):
        return (
            "Not yet: p = (0.5, 0.3, 0.2, 0) and q = (0.1, 0.2, 0.3, 0.4) give (0.8, 0.2, 0, 0), "
            f"yours {_short(got)}."
        )
    generator = torch.Generator().manual_seed(0)
    p, q = (torch.rand(50, generator=generator).softmax(-1) for _ in range(2))
    got = floats(rejected(p.clone(), q.clone()))
    whole = torch.minimum(p, q) + got * (1 - torch.minimum(p, q).sum())
    if not torch.allclose(whole, p, atol=1e-4):
        return "Almost: kept drafts and replacements must add up to p for every p and q; yours do not."
    same = floats(rejected(p.clone(), p.clone()))
    if bool(same.isnan().any()):
        return "Almost: where p = q nothing should be refused, but rounding may ask: yours divides 0 by 0."
    if not torch.allclose(same, p, atol=1e-4):
        return "Almost: where p = q nothing is left of p - q; should rounding ask all the same, draw from p."
    return "Right."


@check
def check_repeated(repeated_share: Callable[[Sequence[int], int], float]) -> str:
    """Check the share of a text's n-grams that stood in it before."""
    cases = [
        ([1, 2, 1, 2, 1, 2], 2, 3 / 5, "of its five pairs, three came before"),
        ([1, 2, 3, 4], 2, 0.0, "no pair comes twice"),
        ([7, 7, 7, 7], 1, 3 / 4, "of four tokens, three came before"),
        ([1, 2, 2, 1, 2, 2], 3, 1 / 4, "of its four triples, one came before"),
    ]
    for text, n, right, why in cases:
        got = float(repeated_share(list(text), n))
        if close(got, right):
            continue
        grams = [tuple(text[i : i + n]) for i in range(len(text) - n + 1)]
        near = {
            1 - right: "that is the share of different ones, distinct-n",
            len(set(grams)) / len(text): "divide by the number of n-grams, not of tokens",
            float(len(grams) - len(set(grams))): "that is their number: divide by all n-grams",
            sum(grams.count(g) > 1 for g in grams) / len(grams): "the first time does not count as a repeat",
            1 - len(set(grams)) / len(text): "a text of m tokens has m - n + 1 n-grams",
        }
        hint = next((said for value, said in near.items() if close(got, value, 1e-4)), why)
        expected, yours = differ(right, got)
        return f"Not yet: {text}, n = {n}: {expected}, yours {yours}; {hint}."
    return "Right."


@check
def check_writing_rule(rule: Mapping[str, Any]) -> str:
    """Measure a rule: the language model continues four beginnings twice, 40 tokens each, under it.

    ``rule`` holds some of ``k``, ``top_p``, ``min_p`` and ``temperature``.
    """
    unknown = set(rule) - {"k", "top_p", "min_p", "temperature"}
    if unknown:
        return f"Not yet: {sorted(unknown)[0]!r} is none of k, top_p, min_p, temperature."
    model, tokenizer = load_language_model()
    texts = list(_BEGINNINGS) * 2
    written = continue_texts(model, tokenizer, texts, 40, **rule)
    surprises = [
        continuation_losses(model, tokenizer(text, return_tensors="pt")["input_ids"], more[None]).mean()
        for text, more in zip(texts, written, strict=True)
    ]
    again = [repeated(one, 4) for one in written.tolist()]
    perplexity, share = math.exp(torch.stack(surprises).mean()), sum(again) / len(again)
    found = f"perplexity {perplexity:.1f}, and {share:.1%} of the 4-grams stood there before"
    if perplexity > _PERPLEXITY:
        return f"Not yet: {found}. The text surprises its own model too much: let fewer tokens in."
    if share > _REPEATED:
        return f"Not yet: {found}. It repeats itself: let more tokens in."
    return f"Right: {found}."


def _short(values: Tensor) -> str:
    return f"({', '.join(f'{v:.4g}' for v in values.flatten().tolist())})"
