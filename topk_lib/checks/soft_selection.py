"""Checks for the chapter on soft selection."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["check_chance", "check_corrected", "check_entering", "check_score_gradient", "check_share_budgets"]


def check_score_gradient(answer: Sequence[float]) -> str:
    """Check dL/ds for scores (0, 1, 4), clip, k = 2, T = 2, numbers (5, 2, 1) and L = (a - 1)^2 / 2."""
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
    return "Not yet: a = 2 + 1, so dL/da = 2 and the pulls are (0, 4, 2); the slopes d are (1, 1, 0)."


def check_chance(answer: float) -> str:
    """Check how often a token 0.3 under the only place is read at temperature 0.3."""
    known = {
        1 / (1 + math.e): "Right: about once in four times.",
        math.e / (1 + math.e): "Almost: that is the chance of the other token, the one above.",
        1 / (1 + math.exp(0.3)): "Not yet: divide the gap by the temperature first.",
        1 / (1 + math.exp(0.09)): "Not yet: divide the gap by the temperature, do not multiply.",
        math.exp(-1): "Not yet: that is how often the lower one wins for each time that the other does.",
        0.0: "Not yet: without noise it would be 0; the noise gives it a chance.",
    }
    for right, message in known.items():
        if abs(float(answer) - right) < 2e-3:
            return message
    if not 0 <= float(answer) <= 1:
        return f"Not yet: a chance lies between 0 and 1, yours is {float(answer):g}."
    return "Not yet: the chance is 1 / (1 + exp(gap / temperature)); put in gap = temperature = 0.3."


def check_entering(entering: Callable[[Tensor, Tensor, Tensor], Tensor]) -> str:
    """Check a learner's ``entering(embeds, weights, read)``: what enters the encoder, (k, width)."""
    embeds = torch.tensor([[1.0, 2.0], [3.0, -1.0], [0.5, 4.0], [2.0, 2.0]]).double().requires_grad_()
    weights = torch.tensor([0.25, 0.75, 0.4, 0.6]).double().requires_grad_()
    read, pull = torch.tensor([1, 3]), torch.tensor([[1.0, -2.0], [0.5, 3.0]]).double()
    got: Any = entering(embeds, weights, read)
    if not isinstance(got, Tensor):
        return "Not yet: your function returns no tensor: return the embeddings that enter."
    if got.shape == embeds.shape:
        return "Not yet: all tokens enter. Take the rows of those that are read: embeds[read]."
    if got.shape != (2, 2):
        return f"Not yet: two tokens of width 2 enter, shape (2, 2); yours has shape {tuple(got.shape)}."
    whole, scaled = embeds[read], embeds[read] * weights[read, None]
    if torch.allclose(got, scaled):
        return (
            "Not yet: the embeddings come in shrunk by their weights. Forward the factor must be 1: "
            "add 1 - weights.detach()."
        )
    if not torch.allclose(got, whole):
        return "Not yet: forward, each token that is read must enter as it is, times 1."
    if not got.requires_grad:
        return "Not yet: forward is right, but nothing comes back: everything was detached."
    by_embeds, by_weights = torch.autograd.grad((got * pull).sum(), (embeds, weights), allow_unused=True)
    if by_weights is None or not by_weights.any():
        return "Not yet: forward is right, but the weights get no gradient: their two copies cancel."
    wanted = torch.zeros(4).double().index_add(0, read, (whole * pull).sum(-1).detach())
    if torch.allclose(by_weights, -wanted):
        return "Not yet: the weights' gradient has the wrong sign: detach the copy that is subtracted."
    if not torch.allclose(by_weights, wanted):
        return f"Not yet: the weights should get {_list(wanted)}, and get {_list(by_weights)}."
    if by_embeds is None or not torch.allclose(by_embeds[read], pull):
        return "Almost: the weights learn, but the embeddings' own gradient is lost or changed."
    return "Right: 1 forward, the weights' slope backward."


def check_corrected(corrected: Callable[[float, int, float, float], float]) -> str:
    """Check a learner's ``corrected(gate, n, mean, prior)``: the score after the history is known."""
    try:
        never = float(corrected(1.5, 0, 0.0, 50.0))
    except ZeroDivisionError:
        return "Almost: a type that was never read (n = 0) divides by zero; its score is the gate's."
    if abs(never - 1.5) > 1e-9:
        hint = " Gate and history are swapped." if abs(never) < 1e-9 else ""
        return f"Not yet: with n = 0 the gate's score, 1.5, must stand; yours gives {never:g}.{hint}"
    for gate, n, mean, prior in ((2.0, 30, 0.5, 10.0), (1.0, 50, -1.0, 50.0), (-1.0, 5, 3.0, 45.0)):
        trust = n / (n + prior)
        right = (1 - trust) * gate + trust * mean
        got = float(corrected(gate, n, mean, prior))
        if abs(got - right) < 1e-9:
            continue
        text = (
            f"Not yet: gate {gate:g}, n = {n}, mean {mean:g}, prior {prior:g} gives {right:g}, yours {got:g}"
        )
        if abs(got - (gate + trust * mean)) < 1e-9:
            return f"{text}. What the history gains, the gate must lose: multiply the gate by 1 - r."
        if abs(got - ((1 - n / prior) * gate + n / prior * mean)) < 1e-9:
            return f"{text}. r = n / prior grows past 1: divide by n + prior."
        return f"{text}. r is n / (n + prior)."
    return "Right: unknown types keep the gate's score, well-known ones follow their history."


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
    short = [float(x) for x in budgets([1], 1.0, 8, 2)]
    if short != [1.0]:
        return f"Almost: a text of 1 token has 1 to keep, yours keeps {short[0]:g}: cap it at the length."
    return "Right: a share, rounded up, at most k, and never less than what is pinned."


def _list(numbers: Tensor) -> list[float]:
    return [round(x, 4) for x in numbers.tolist()]
