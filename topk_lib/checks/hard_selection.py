"""Checks for the chapter on hard selection."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from topk_lib.checks.base import check, close, differ, floats
from topk_lib.selectors import choose

__all__ = ["check_chi_squared", "check_common_beats_rare", "check_distinct", "check_keep_negation"]


@check
def check_common_beats_rare(times: int) -> str:
    """Check how often a type of every text must occur to beat one that 1 of 25,000 texts has."""
    rare = math.log(25_001 / 2) + 1
    if times == 11:
        return f"Right: 11 times 1 is more than {rare:.2f}."
    if times in (5, 6):
        return "Not yet: the logarithm is the natural one, not that of base 10."
    if times >= 12_000:
        return "Not yet: it is the logarithm of (1 + N) / (1 + N_t) that counts, not the ratio itself."
    if times == 10:
        return f"Almost: 10 times 1 is not more than {rare:.2f}. (Did you forget the + 1 of the rare one?)"
    if times > 11:
        return f"Not yet: {times} is enough, but fewer would do."
    return f"Not yet: {times} times 1 is {times}, and the rare type has {rare:.2f}."


@check
def check_chi_squared(chi_squared: Callable[[Sequence[float], Sequence[float]], float]) -> str:
    """Check a learner's ``chi_squared(observed, shares)`` of one token type."""
    for observed, shares in (
        ((3, 0), (0.5, 0.5)),
        ((6, 0), (1 / 3, 2 / 3)),
        ((4, 8), (0.25, 0.75)),
        ((2, 3, 7), (0.25, 0.25, 0.5)),
    ):
        total = sum(observed)
        expected = [share * total for share in shares]
        parts = [(o - e) ** 2 / e for o, e in zip(observed, expected, strict=True)]
        got = chi_squared(list(observed), list(shares))
        if close(got, sum(parts)):
            continue
        equal = total / len(observed)
        hints = (
            (sum((o - equal) ** 2 / equal for o in observed), "the classes are not equally large"),
            (parts[0], "that is the first class alone; sum over all"),
            (sum(p * e for p, e in zip(parts, expected, strict=True)),
             "divide each square by what is expected"),
            (sum(p * e / o for p, e, o in zip(parts, expected, observed, strict=True) if o),
             "divide by what is expected, not by what was observed"),
            (math.sqrt(sum(parts)), "no root is taken"),
        )  # fmt: skip
        hint = next((f" ({text})" for value, text in hints if close(got, value)), "")
        shown = ", ".join(f"{share:.3g}" for share in shares)
        right, yours = differ(sum(parts), got)
        return f"Not yet: for {list(observed)} with shares {shown} it is {right}, yours gives {yours}{hint}."
    return "Right."


@check
def check_distinct(distinct: Callable[[Tensor, Tensor], Tensor]) -> str:
    """Check a learner's ``distinct(scores, input_ids)``: later copies of a type come last."""
    ids = torch.tensor([[5, 6, 5, 7, 6, 8], [6, 6, 6, 6, 5, 6]])
    for scores in (
        torch.tensor([[3.0, 2.0, 3.0, 1.0, 2.0, 0.5], [4.0, 4.0, 4.0, 4.0, 1.0, 4.0]]),
        torch.tensor([[-3.0, -2.0, -3.0, -1.0, -2.0, -5.0], [-4.0, -4.0, -4.0, -4.0, -6.0, -4.0]]),
    ):
        before = scores.clone()
        got = distinct(scores, ids)
        if not isinstance(got, Tensor) or got.shape != ids.shape:
            return f"Not yet: return scores of the shape {tuple(ids.shape)} of input_ids."
        if not torch.equal(scores, before):
            return "Almost: you changed the scores that you were given; work on a copy."
        got = floats(got)
        if bool(got.isnan().any()):
            return "Not yet: some of your scores are NaN, which ranks highest."
        first = torch.tensor([[1, 1, 0, 1, 0, 1], [1, 0, 0, 0, 1, 0]]).bool()
        if not torch.equal(got[first], scores[first]):
            if torch.equal(got[0], scores[0].where(first[0], got[0])):
                return (
                    "Almost: a type of the first text is not yet a copy in the second: "
                    "what was seen is forgotten with each text."
                )
            return "Not yet: the first occurrence of each type must keep its score."
        for row, wanted in enumerate(([0, 1, 3, 5], [0, 4])):
            k = len(wanted)
            kept = choose(got, torch.ones_like(first), torch.zeros_like(first), k).indices[row].tolist()
            if kept != wanted:
                low = " (0 is not low: other scores are negative)" if bool((scores < 0).all()) else ""
                return (
                    f"Not yet: of the types {ids[row].tolist()} k = {k} must keep the positions {wanted}, "
                    f"yours keeps {kept}{low}."
                )
    return "Right: as long as there are new types, no place goes to a copy."


@check
def check_keep_negation(keep_negation: Callable[[Tensor, Tensor, Tensor], Tensor]) -> str:
    """Check a learner's ``keep_negation(scores, input_ids, negations)``."""
    # 1 and 2 are negations: before a stronger token, before a weaker one, before another negation,
    # and last, where a score of 0 for what is not there would raise it.
    ids = torch.tensor([[7, 1, 8, 2, 9, 1], [2, 1, 8, 9, 7, 1], [8, 1, 9, 7, 8, 2]])
    scores = torch.tensor(
        [[9.0, 0.1, 3.0, 2.0, 1.0, 0.2], [0.3, 0.4, 5.0, 2.0, 6.0, 0.7], [-1.0, -4.0, -2.0, -3.0, -6.0, -5.0]]
    )
    wanted = torch.tensor(
        [[9.0, 3.0, 3.0, 2.0, 1.0, 0.2], [0.4, 5.0, 5.0, 2.0, 6.0, 0.7], [-1.0, -2.0, -2.0, -3.0, -6.0, -5.0]]
    )
    before = scores.clone()
    got = keep_negation(scores, ids, torch.tensor([1, 2]))
    if not isinstance(got, Tensor) or got.shape != ids.shape:
        return f"Not yet: return scores of the shape {tuple(ids.shape)} of input_ids."
    if not torch.equal(scores, before):
        return "Almost: you changed the scores that you were given; work on a copy."
    got = floats(got)
    if torch.equal(got, scores):
        return "Not yet: nothing has changed; the first negation must be raised from 0.1 to 3."
    if torch.equal(got, wanted):
        return "Right: where good is read, so is the not before it."
    negation = (ids == 1) | (ids == 2)
    if not torch.equal(got[~negation], scores[~negation]):
        return "Not yet: only negations may change; some other token has a new score."
    for row in range(len(ids)):
        for at in range(ids.shape[1]):
            have, want = float(got[row, at]), float(wanted[row, at])
            if have != want:
                return _negation_problem(scores[row], ids[row].tolist(), at, have, want)
    raise AssertionError("some score differs")


def _negation_problem(scores: Tensor, ids: list[int], at: int, have: float, want: float) -> str:
    own, last = float(scores[at]), len(ids) - 1
    where = f"of the tokens {ids} with scores {[round(x, 2) for x in scores.tolist()]}, position {at}"
    if at == last and have == 0:
        return f"Almost, {where}: nothing stands after the last token, and nothing is not a score of 0."
    if at == last:
        first = " (Did you take the first?)" if have == max(own, float(scores[0])) else ""
        return (
            f"Almost, {where}: nothing stands after the last token; its {own:g} stays, not {have:g}{first}."
        )
    if have == float(scores[at + 1]) < own:
        return f"Almost, {where}: its own {own:g} is higher than what follows, and must stay."
    if at and have == max(own, float(scores[at - 1])):
        return f"Not yet, {where}: you took the token before it; the one after it counts."
    if have == own:
        return f"Almost, {where}: it must rise from {own:g} to {want:g}. Are all of `negations` looked for?"
    return f"Not yet, {where}: {want:g} is right, yours gives {have:g}."
