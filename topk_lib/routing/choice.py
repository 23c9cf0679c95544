"""Who takes whom: the choices themselves, as functions of a (tokens, experts) matrix of scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from topk_lib.ops.hard import _choose_from, hard_topk, topk_mask

__all__ = ["Taken", "capacities", "expert_choice", "room", "token_choice"]


class Taken(NamedTuple):
    """What experts took.

    Attributes:
        mask: (..., n, experts) bool, True where an expert takes a token.
        indices: (..., experts, C) int64, each expert's tokens, ascending; -1 in spare slots.
    """

    mask: Tensor
    indices: Tensor


def room(factor: float, tokens: int | Tensor, experts: int) -> int | Tensor:
    """How many tokens each expert takes: ceil(factor * tokens / experts), never more than there are.

    Args:
        factor: how many experts a token has on average, at least 0.
        tokens: how many; an int, or an integer tensor for an integer tensor.
        experts: how many.
    """
    # 25 * 2.2 / 5 is a little more than 11
    if isinstance(tokens, Tensor):
        wanted = torch.ceil(tokens.double() * factor / experts - 1e-9).long()
        return torch.minimum(wanted.clamp(min=0), tokens)
    return min(max(math.ceil(tokens * factor / experts - 1e-9), 0), tokens)


def expert_choice(
    scores: Tensor, capacity: int | Tensor, *, valid: Tensor | None = None, most: int | None = None
) -> Taken:
    """Let each expert take the ``capacity`` tokens with its highest scores.

    Ties go to the lowest index, NaN ranks highest, padding is never chosen. With ``most``, a token that more
    experts want goes to those that score it highest (ties to the lowest expert), and the others take their
    next ones: what comes out is what taking the highest score left in the whole matrix, over and over,
    would give. Then an expert may find fewer tokens than its capacity.

    Args:
        scores: (..., n, experts) float.
        capacity: tokens an expert; an int, or an int64 tensor with one number a matrix, (...).
        valid: (..., n) bool, True for tokens; None: all are.
        most: experts that may take one token; None: all.

    Raises:
        ValueError, TypeError: as of :func:`~topk_lib.hard_topk`.
    """
    *lead, n, experts = scores.shape
    by_expert = scores.detach().transpose(-1, -2).contiguous()  # (..., experts, n)
    free = None if valid is None else valid.unsqueeze(-2).expand(by_expert.shape)
    if isinstance(capacity, Tensor):
        width, each = int(capacity.max()) if capacity.numel() else 0, capacity.unsqueeze(-1)
        each = each.expand(*lead, experts).reshape(-1)
    else:
        width, each = capacity, None
    if not 0 <= width <= n:
        raise ValueError(f"capacity must lie in 0..{n} (the number of tokens), got {width}")
    if each is not None and each.numel() and int(each.min()) < 0:
        raise ValueError(f"capacity must lie in 0..{n} (the number of tokens), got {int(each.min())}")
    while True:
        _, indices, mask = _choose_from(by_expert, width, each, free)
        indices, mask = indices.reshape(*lead, experts, width), mask.reshape(by_expert.shape)
        if most is None or most >= experts:
            break
        refused = mask & ~topk_mask(by_expert, most, dim=-2, valid=mask)
        if not bool(refused.any()):
            break
        free = ~refused if free is None else free & ~refused
    return Taken(mask.transpose(-1, -2), indices)


def token_choice(
    scores: Tensor, k: int, *, valid: Tensor | None = None, capacity: int | Tensor | None = None
) -> Tensor:
    """Let each token take the k experts with its highest scores.

    Where experts have a capacity, first choices come before second ones, and earlier tokens before later
    ones; who comes too late loses that expert (Lepikhin et al., 2021).

    Args:
        scores: (..., n, experts) float.
        k: experts a token.
        valid: (..., n) bool, True for tokens; None: all are.
        capacity: tokens an expert; an int, an int64 tensor (...), or None: as many as come.

    Returns:
        (..., n, experts) bool.
    """
    ok = None if valid is None else valid.unsqueeze(-1).expand(scores.shape)
    if capacity is None:
        return topk_mask(scores.detach(), k, valid=ok)
    order = hard_topk(scores.detach(), k, valid=ok, order="value").indices  # (..., n, k)
    limit = capacity.reshape(*capacity.shape, 1, 1) if isinstance(capacity, Tensor) else capacity
    taken = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
    count = torch.zeros_like(taken[..., :1, :], dtype=torch.int64)  # tokens that each expert has
    for rank in range(k):
        at = order[..., rank, None]
        asks = torch.zeros_like(taken).scatter(-1, at.clamp(min=0), at >= 0)
        place = asks.cumsum(-2) + count
        taken |= asks & (place <= limit)
        count = place[..., -1:, :] if scores.shape[-2] else count
    return taken


def capacities(scores: Tensor, factors: Sequence[float], *, valid: Tensor | None = None) -> Tensor:
    """Which expert takes which token as the capacity grows: a picture for each capacity factor.

    Args:
        scores: (n, experts).
        factors: capacity factors.
        valid: (n,) bool, or None.

    Returns:
        (factors, n, experts) bool; what a smaller capacity takes, a larger one takes, too.
    """
    tokens = len(scores) if valid is None else int(valid.sum())
    masks = [
        expert_choice(scores, int(room(factor, tokens, scores.shape[-1])), valid=valid).mask
        for factor in factors
    ]
    return torch.stack(masks) if masks else scores.new_zeros(0, *scores.shape, dtype=torch.bool)
