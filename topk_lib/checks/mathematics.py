"""Checks for the chapter on the mathematics."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from topk_lib.checks.base import check

__all__ = ["check_exp_threshold", "check_soft_gradient", "check_two_token_jacobian", "check_weight_gradient"]


@check
def check_weight_gradient(answer: Sequence[Sequence[float]]) -> str:
    """Check dL/dW of a cross entropy at p = (1/4, 1/2, 1/4), right class 2 (from 0), h = (2, -1)."""
    got = torch.as_tensor(answer, dtype=torch.float64)
    p, h = torch.tensor([0.25, 0.5, 0.25]).double(), torch.tensor([2.0, -1.0]).double()
    y = torch.tensor([0.0, 0.0, 1.0]).double()
    right = (p - y).outer(h)
    if got.shape == (2, 3) and _near(got, right.T):
        return "Almost: that is the transpose. W has one row a class, so its gradient is 3 x 2."
    if got.shape != (3, 2):
        return f"Not yet: W is 3 x 2 (one row a class), so its gradient is too; yours is {_size(got)}."
    if _near(got, right):
        return "Right: each row is p - y of its class times h."
    if _near(got, -right):
        return "Almost: the sign. It is p - y, not y - p: the gradient points to where the loss grows."
    if _near(got, p.outer(h)):
        return "Almost: you took p alone; subtract y, which is 1 in the row of the right class."
    row = int((got - right).abs().sum(1).argmax())
    error = float(p[row] - y[row])
    return f"Not yet: look at row {row}; its p - y is {error:g}, to be multiplied by h = (2, -1)."


@check
def check_exp_threshold(tau: float) -> str:
    """Check tau of the link exp at scores (0, log 2, log 4), k = 2, temperature 1."""
    known = {
        math.log(3): "Right: the last weight is 1, the others share 1 as 1/3 and 2/3.",
        math.log(3.5): (
            "Almost: that solves exp(-tau) (1 + 2 + 4) = 2, and gives the last token 4 / 3.5, more than 1. "
            "Set its weight to 1 and share what is left."
        ),
        -math.log(3): "Almost: the sign. The weights are exp(s - tau), so exp(-tau) = 1/3.",
        math.log(1.5): "Not yet: the last token takes 1 of k = 2, so the others share 1, not 2.",
        1 / 3: "Almost: 1/3 is exp(-tau); take the logarithm, and mind the sign.",
        3.0: "Almost: 3 is exp(tau); take the logarithm.",
        math.log10(3): "Almost: the natural logarithm is meant, you took the one to base 10.",
    }
    for value, message in known.items():
        if abs(float(tau) - value) < 2e-3:
            return message
    weights = [min(1.0, math.exp(score - tau)) for score in (0.0, math.log(2), math.log(4))]
    verdict = "too low: raise tau" if sum(weights) > 2 else "too high: lower tau"
    listed = ", ".join(f"{w:.3f}" for w in weights)
    return f"Not yet: this tau gives the weights {listed}, whose sum is {sum(weights):.3f}. It is {verdict}."


@check
def check_soft_gradient(gradient: Callable[[Tensor, Tensor, Tensor, float], Any]) -> str:
    """Check a learner's (g_scores, g_k, g_temperature) as a function of d, z, g and temperature."""
    z = torch.tensor([0.5, -1.0, 2.0, 0.25], dtype=torch.float64)
    d = torch.sigmoid(z) * torch.sigmoid(-z)
    g = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    t = 0.5
    gbar = (d * g).sum() / d.sum()
    right = d / t * (g - gbar)
    try:
        g_scores, g_k, g_t = gradient(d, z, g, t)
        g_scores, g_k, g_t = (torch.as_tensor(x, dtype=torch.float64) for x in (g_scores, g_k, g_t))
    except (TypeError, ValueError):
        return "Not yet: return three things: g_scores (one number a token), g_k and g_temperature."
    if g_scores.shape != d.shape:
        return f"Not yet: g_scores needs one number a token, shape ({len(d)},), yours has {_size(g_scores)}."
    if not _near(g_scores, right):
        if _near(g_scores, -right):
            return "Not yet: g_scores has the wrong sign."
        if _near(g_scores, d * (g - gbar)) or _near(g_scores, right * t * t):
            return "Not yet: g_scores must be divided by the temperature, once."
        if _near(g_scores, d / t * g):
            return "Not yet: g_scores lacks the term of tau: subtract gbar from g."
        if _near(g_scores, d / t * (g - g.mean())):
            return (
                f"Not yet: g_scores sums to {float(g_scores.sum()):.3f}, and it must sum to 0. "
                "The wrong term is the mean: gbar weights each g by its d."
            )
        return f"Not yet: g_scores sums to {float(g_scores.sum()):.3f} (it must be 0); look at gbar."
    if g_k.numel() != 1 or not _near(g_k.reshape(()), gbar):
        hint = "the plain mean of g" if g_k.numel() == 1 and _near(g_k.reshape(()), g.mean()) else "it"
        return f"Almost: g_scores is right; g_k should be gbar = {float(gbar):.3f}, look at {hint}."
    g_temperature = -(z * right).sum()
    if g_t.numel() != 1 or not _near(g_t.reshape(()), g_temperature):
        if g_t.numel() == 1 and _near(g_t.reshape(()), -g_temperature):
            return "Almost: the sign of g_temperature. A hotter z is a smaller z: there is a minus."
        return "Almost: g_scores and g_k are right; g_temperature is -sum(z g_scores)."
    return "Right: all three terms."


@check
def check_two_token_jacobian(answer: Sequence[Sequence[float]]) -> str:
    """Check dw/ds of the link sigmoid at scores (0, 4 log 3), k = 1, temperature 2."""
    got = torch.as_tensor(answer, dtype=torch.float64)
    if got.shape != (2, 2):
        return f"Not yet: two weights and two scores make a 2 x 2 matrix, yours is {_size(got)}."
    one = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    diagonal = torch.eye(2, dtype=torch.float64)
    named = (
        (3 / 64 * one, "Right: raising one score takes from the other weight what it gives to its own."),
        (3 / 32 * one, "Almost: divide by the temperature, 2."),
        (-3 / 64 * one, "Almost: the sign. Raising a score raises its own weight."),
        (3 / 32 * diagonal, "Not yet: tau moves too. Subtract d_i d_j / D from the diagonal matrix."),
        (3 / 16 * diagonal, "Not yet: divide by the temperature, and subtract d_i d_j / D: tau moves too."),
        (3 / 64 * one.abs(), "Almost: the entries off the diagonal are negative."),
    )
    for matrix, message in named:
        if _near(got, matrix):
            return message
    if not _near(got, got.T):
        return "Not yet: the matrix must be symmetric."
    if not _near(got.sum(1), torch.zeros(2, dtype=torch.float64)):
        return "Not yet: each row must sum to 0, because the weights keep their sum."
    return "Not yet: the pattern is right, the size is not. z is (-log 3, log 3), so d is 3/16; T is 2."


def _near(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(torch.allclose(a, b, rtol=1e-5, atol=1e-5))


def _size(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a single number"
