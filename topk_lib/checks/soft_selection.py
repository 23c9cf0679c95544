"""Checks for the chapter on soft selection."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from topk_lib.checks.base import check, close

__all__ = ["check_chance", "check_corrected", "check_presence", "check_score_gradient", "check_share_budgets"]


@check
def check_score_gradient(answer: Sequence[float]) -> str:
    """Check dL/ds for scores (0, 1, 4), clip, k = 2, T = 2, numbers (5, 2, 1) and L = (o - 1)^2 / 2."""
    got = [float(x) for x in answer]
    named = {
        (-1.0, 1.0, 0.0): "Right: half of 4 - 2 for the second, the opposite for the first.",
        (1.0, -1.0, 0.0): "Almost: the sign. The loss wants less of the second token: its pull is above 0.",
        (-2.0, 2.0, 0.0): "Almost: divide by the temperature, 2.",
        (1.5, -1.5, 0.0): (
            "Not yet: you gave the first token a pull of 10. It was not read: whatever its number is, "
            "its pull is 0."
        ),
        (0.0, 4.0, 2.0): "Not yet: those are the pulls. Compare each with the average pull of the undecided.",
        (-1.0, 1.0, 1.0): "Almost: the third token's weight is cut off at 1, so its score has no gradient.",
        (0.0, 2.0, 0.0): "Not yet: tau moves too. Subtract the average pull of the undecided, 2.",
    }
    if len(got) != 3:
        return f"Not yet: three scores have three gradients, yours are {len(got)}."
    for right, message in named.items():
        if all(abs(a - b) < 1e-6 for a, b in zip(got, right, strict=True)):
            return message
    if abs(sum(got)) > 1e-6:
        return f"Not yet: the gradients of the scores must sum to 0, yours sum to {sum(got):g}."
    return "Not yet: o = 2 + 1, so dL/do = 2 and the pulls are (0, 4, 2); the slopes d are (1, 1, 0)."


@check
def check_chance(answer: float) -> str:
    """Check how often a token 0.6 below the one before it is read, at temperature 0.3."""
    known = {
        1 / (1 + math.exp(2)): "Right: about once in eight times.",
        1 / (1 + math.exp(-2)): "Almost: that is the chance of the other token, the one above.",
        1 / (1 + math.exp(0.6)): "Not yet: divide the gap by the temperature first.",
        1 / (1 + math.exp(0.18)): "Not yet: divide the gap by the temperature, do not multiply.",
        math.exp(-2): "Not yet: that is how often the lower one wins for each time that the other does.",
        0.0: "Not yet: without noise it would be 0; the noise gives it a chance.",
    }
    for right, message in known.items():
        if abs(float(answer) - right) < 2e-3:
            return message
    if not 0 <= float(answer) <= 1:
        return f"Not yet: a chance lies between 0 and 1, yours is {float(answer):g}."
    return (
        "Not yet: the chance is 1 / (1 + exp(gap / temperature)); put in the gap 0.6 and the temperature 0.3."
    )


@check
def check_presence(attended: Callable[[Tensor, Tensor, Tensor], Any]) -> str:
    """Check a learner's ``attended(logits, values, u)``: what a query reads, a single number."""
    logits = torch.tensor([0.5, -1.0, 2.0, 0.0]).double()
    values = torch.tensor([1.0, -2.0, 0.5, 4.0]).double()
    presence = torch.tensor([1.0, 0.5, 0.0, 0.8]).double()
    shares = presence * logits.exp()
    right = (shares * values).sum() / shares.sum()
    whole = torch.softmax(logits, -1)
    there = presence > 0
    named = [
        ((presence * whole * values).sum(), "the shares left no longer sum to 1: divide by their sum."),
        (
            torch.softmax(presence * logits, -1) @ values,
            "a factor on the logit makes it 0 at presence 0, and exp(0) = 1 is read. Multiply exp(logit).",
        ),
        (torch.softmax(logits + presence, -1) @ values, "you add u to the logit; add its logarithm."),
        (whole @ values, "the presence changes nothing yet."),
        (
            torch.softmax(logits[there], -1) @ values[there],
            "half a presence counts in full: 0 takes a token out, 0.5 should halve exp(logit).",
        ),
    ]
    got = torch.as_tensor(attended(logits, values, presence))
    if got.numel() != 1:
        return f"Not yet: a query reads one number, yours has shape {tuple(got.shape)}: sum over the tokens."
    if got.isnan():
        return "Not yet: NaN; at presence 0 something like 0 * log(0) happens."
    if not torch.allclose(got.double(), right, rtol=1e-4):
        for wrong, message in named:
            if torch.allclose(got.double(), wrong):
                return f"Not yet: {message}"
        return f"Not yet: with u = {_list(presence)} it should read {right:.4f}, and reads {float(got):.4f}."
    u = torch.ones(4).double().requires_grad_()
    read = torch.as_tensor(attended(logits, values, u))
    if not read.requires_grad:
        return "Not yet: forward is right, but no slope comes back to u: something was detached."
    (slope,) = torch.autograd.grad(read, u)
    if not torch.allclose(slope, whole * (values - whole @ values)):
        return "Almost: forward is right, but the slope at u = 1 is not share times (value - what is read)."
    return "Right: at 0 it leaves no trace, and at 1 the slope is share times (value - what is read)."


@check
def check_corrected(corrected: Callable[[float, int, float, float], float]) -> str:
    """Check a learner's ``corrected(gate, n, mean, prior)``: the score after the history is known."""
    try:
        never = float(corrected(1.5, 0, 0.0, 50.0))
    except ZeroDivisionError:
        return "Almost: a type that was never read (n = 0) divides by zero; its score is the gate's."
    if not close(never, 1.5):
        hint = " Gate and history are swapped." if abs(never) < 1e-9 else ""
        return f"Not yet: with n = 0 the gate's score, 1.5, must stand; yours gives {never:g}.{hint}"
    for gate, n, mean, prior in ((2.0, 30, 0.5, 10.0), (1.0, 50, -1.0, 50.0), (-1.0, 5, 3.0, 45.0)):
        trust = n / (n + prior)
        right = (1 - trust) * gate + trust * mean
        got = float(corrected(gate, n, mean, prior))
        if close(got, right):
            continue
        text = (
            f"Not yet: gate {gate:g}, n = {n}, mean {mean:g}, prior {prior:g} gives {right:g}, yours {got:g}"
        )
        if close(got, gate + trust * mean):
            return f"{text}. What the history gains, the gate must lose: multiply the gate by 1 - r."
        if close(got, (1 - n / prior) * gate + n / prior * mean):
            return f"{text}. r = n / prior grows past 1: divide by n + prior."
        return f"{text}. r is n / (n + prior)."
    return "Right: unknown types keep the gate's score, well-known ones follow their history."


@check
def check_share_budgets(budgets: Callable[[Sequence[int], float, int, int], Sequence[int]]) -> str:
    """Check a learner's ``budgets(lengths, share, k, pinned)``: tokens kept of each text."""
    lengths, share, k, pinned = [3, 5, 10, 21, 200], 0.25, 32, 2
    got = [float(x) for x in budgets(lengths, share, k, pinned)]
    if len(got) != len(lengths):
        return f"Not yet: {len(lengths)} texts have {len(lengths)} budgets, yours are {len(got)}."
    if any(x != int(x) for x in got):
        return f"Not yet: a budget is a whole number of tokens, yours are {got}."
    hints = (
        (4, k, "is more than k allows: 32 at most"),
        (2, 3, "a quarter of 10 is 2.5, rounded up"),
        (3, 6, "a quarter of 21 is 5.25, rounded up"),
        (0, 2, "the pinned tokens, 2 here, must fit"),
        (1, 2, "the pinned tokens, 2 here, must fit"),
    )
    for at, right, hint in hints:
        if got[at] != right:
            return f"Not yet: of {lengths[at]} tokens {right} are kept, yours are {got[at]:g} ({hint})."
    other = [float(x) for x in budgets([9, 40, 4], 0.5, 12, 3)]
    if other != [5.0, 12.0, 3.0]:
        return (
            "Almost: with a share of a half, k = 12 and 3 pinned, texts of 9, 40 and 4 tokens keep 5, 12 "
            f"and 3; yours keep {', '.join(f'{x:g}' for x in other)}."
        )
    short = [float(x) for x in budgets([1], 1.0, 8, 2)]
    if short != [1.0]:
        return f"Almost: a text of 1 token has 1 to keep, yours keeps {short[0]:g}: cap it at the length."
    return "Right: a share, rounded up, at most k, and never less than what is pinned."


def _list(numbers: Tensor) -> list[float]:
    return [round(x, 4) for x in numbers.tolist()]
