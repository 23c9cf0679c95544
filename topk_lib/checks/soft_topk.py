"""Checks for the chapter on soft top-k."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from topk_lib.checks.base import check
from topk_lib.ops import hard_topk, soft_topk, soft_topk_threshold

__all__ = [
    "check_clip_threshold",
    "check_softmax_limit",
    "check_straight_through",
    "check_threshold_search",
]


@check
def check_clip_threshold(tau: float) -> str:
    """Check the threshold of the clip link for scores 0, 0.5, 0.9, 3 with k = 2, temperature 1."""
    if abs(tau - 0.2) < 1e-6:
        return "Right: the weights are 0, 0.3, 0.7 and 1."
    scores = torch.tensor([0.0, 0.5, 0.9, 3.0], dtype=torch.float64)
    weights = [round(w, 3) for w in (scores - tau).clamp(0, 1).tolist()]
    start = f"Not yet: tau = {tau:g} gives the weights {weights}, which sum to {sum(weights):.4g}"
    if abs(tau - 0.6) < 1e-6:
        return f"{start}. You took all four to lie inside (0, 1): some are clipped."
    if abs(tau - 0.4 / 3) < 1e-3:
        return f"{start}. You clipped the largest at 1; now look at the smallest."
    if abs(tau + 0.2) < 1e-6:
        return f"{start}. The sign is turned: a weight is s - tau, not s + tau."
    if abs(tau - 0.7) < 1e-6:
        return f"{start}. Half-way between the second and third score is not where the sum is 2."
    return f"{start}, not 2. A {'higher' if sum(weights) > 2 else 'lower'} tau is needed."


@check
def check_threshold_search(threshold: Callable[[Tensor, float, float], float | Tensor]) -> str:
    """Check a learner's ``threshold(scores, k, temperature)`` for the sigmoid link."""
    cases = (
        ("plain", [0.0, 1.0, 2.0], 2.0, 1.0),
        ("sharp", [0.3, -1.0, 2.0, 0.9, 0.1], 2.0, 0.1),
        ("far", [0.0, 1.0, 2.0, 0.5], 3.9, 2.0),
        ("far", [0.0, 1.0, 2.0, 0.5], 0.05, 3.0),
    )
    for kind, numbers, k, temperature in cases:
        scores = torch.tensor(numbers, dtype=torch.float64)
        answer = threshold(scores, k, temperature)
        if isinstance(answer, Tensor) and answer.numel() != 1:
            return f"Not yet: tau is one number, yours has shape {tuple(answer.shape)}."
        got = float(answer)
        right = float(soft_topk_threshold(scores, k, temperature))
        if abs(got - right) < 1e-5:
            continue
        total = float(torch.sigmoid((scores - got) / temperature).sum())
        text = (
            f"Not yet: scores {numbers}, k = {k:g}, temperature = {temperature:g}: "
            f"your tau {got:.5g} gives weights that sum to {total:.5g}"
        )
        low, high = float(scores.min()), float(scores.max())
        if temperature != 1.0 and abs(got - float(soft_topk_threshold(scores, k, 1.0))) < 1e-4:
            return f"{text}. That is the tau of temperature 1: divide by the temperature."
        if kind == "far" and min(abs(got - low), abs(got - high)) < 1e-3:
            return f"{text}. tau lies outside the scores here: start from a wider interval."
        if abs(got - right) < 0.05:
            return f"{text}. You are close: halve the interval more often."
        return (
            f"{text}. Where the sum is {'above' if total > k else 'below'} k, the threshold must be "
            f"{'higher' if total > k else 'lower'}: which half do you keep?"
        )
    return "Right."


@check
def check_straight_through(function: Callable[[Tensor, Tensor], Tensor]) -> str:
    """Check a learner's ``straight_through(mask, soft)``: mask forward, gradient of soft backward."""
    scores = torch.tensor([0.0, 1.0, 2.0, 0.5], dtype=torch.float64, requires_grad=True)
    pull = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    soft = soft_topk(scores, 2, 0.5)
    mask = hard_topk(scores.detach(), 2).mask.double()
    (right,) = torch.autograd.grad(soft @ pull, scores, retain_graph=True)
    got = function(mask, soft)
    if torch.allclose(got, soft):
        return "Not yet: forward it gives the soft weights; it must give the mask."
    if not torch.allclose(got, mask):
        return f"Not yet: forward it must give the mask {mask.tolist()}, yours gives {got.tolist()}."
    if not got.requires_grad:
        return "Not yet: forward is right, but no gradient comes back: everything was detached."
    (back,) = torch.autograd.grad(got @ pull, scores)
    if torch.allclose(back, right):
        return "Right: the mask forward, the soft gradient backward."
    if torch.allclose(back, -right):
        return "Almost: forward is right, but the gradient has the wrong sign. Which soft is detached?"
    if torch.allclose(back, torch.zeros_like(back)):
        return "Not yet: forward is right, but the gradient is 0: soft - soft cancels backward, too."
    ratio = float((back @ right) / (right @ right))
    return f"Not yet: forward is right, the gradient is {ratio:.3g} times what it should be."


@check
def check_softmax_limit(weights: Sequence[float]) -> str:
    """Check the limit of 2 * softmax((0, 1, 2) / temperature) as the temperature goes to 0."""
    got = [float(w) for w in weights]
    if len(got) != 3:
        return f"Not yet: there are three tokens, you give {len(got)} weights."
    if all(abs(a - b) < 1e-3 for a, b in zip(got, (0, 0, 2), strict=True)):
        return "Right: all of k goes to one token. A weight of 2 is no share of a token, and no mask."
    if got == [0, 1, 1]:
        return "Not yet: that is the hard mask, which k * softmax never becomes. Compute it at 0.1."
    if got == [0, 0, 1]:
        return "Almost: that is softmax itself; now times k = 2."
    if len({round(w, 2) for w in got}) == 1:
        return "Not yet: equal weights are what a very *high* temperature gives."
    if abs(sum(got) - 2) > 1e-6:
        return f"Not yet: k * softmax sums to k = 2, yours to {sum(got):g}."
    return "Not yet: the largest score wins everything as the temperature falls."
