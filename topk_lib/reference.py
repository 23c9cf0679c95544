"""Every operator as its definition, in plain PyTorch: the specification the fast code is tested on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["LINKS", "expert_choice", "hard_topk", "likely", "routed", "sample_topk", "soft_topk"]


def hard_topk(scores: Tensor, k: int, valid: Tensor | None = None, largest: bool = True) -> Tensor:
    """Say which ``k`` entries of each row are the largest, or the smallest.

    The definition: entry i is chosen when fewer than k valid entries come before it, where j
    comes before i if its score is larger (smaller), or equal and j < i. NaN is larger than every number.

    Args:
        scores: (rows, n), any float dtype.
        k: how many to choose, 0 <= k <= n.
        valid: (rows, n) bool, True for entries that may be chosen; all of them by default.
        largest: False for the smallest.

    Returns:
        (rows, n) bool, True where chosen.
    """
    rows, n = scores.shape
    mask = torch.zeros(rows, n, dtype=torch.bool)
    for row in range(rows):
        candidates = [i for i in range(n) if valid is None or bool(valid[row, i])]
        for i in candidates:
            before = sum(_comes_before(scores[row], j, i, largest) for j in candidates)
            mask[row, i] = before < k
    return mask


def _comes_before(scores: Tensor, j: int, i: int, largest: bool) -> bool:
    a, b = scores[j].item(), scores[i].item()
    a_nan, b_nan = a != a, b != b
    if (a_nan and b_nan) or a == b:
        return j < i
    if a_nan or b_nan:
        return a_nan == largest
    return (a > b) == largest


LINKS: dict[str, Callable[[float], float]] = {
    "sigmoid": lambda z: 1 / (1 + math.exp(-z)) if z > -700 else 0.0,
    "laplace": lambda z: 0.5 * math.exp(z) if z < 0 else 1 - 0.5 * math.exp(-z),
    "clip": lambda z: min(max(z, 0.0), 1.0),
    "exp": lambda z: math.exp(min(z, 0.0)),
}


def soft_topk(scores: Tensor, k: float, temperature: float = 1.0, link: str = "sigmoid") -> Tensor:
    """Give each entry of one row the weight ``f((score - tau) / temperature)``; they sum to k.

    The definition: the sum falls as the threshold tau rises, so tau is where it crosses k, found
    by halving an interval.

    Args:
        scores: (n,) finite, any float dtype.
        k: the sum of the weights, 0 < k < n.
        temperature: above 0.
        link: the name of f: "sigmoid", "laplace", "clip" or "exp".

    Returns:
        (n,) float64.
    """
    f = LINKS[link]
    numbers = scores.tolist()

    def weights(tau: float) -> list[float]:
        return [f((s - tau) / temperature) for s in numbers]

    low, high = min(numbers) - 1.0, max(numbers) + 1.0
    while sum(weights(low)) < k:
        low -= high - low
    while sum(weights(high)) > k:
        high += high - low
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(weights(middle)) > k else (low, middle)
    return torch.tensor(weights(low), dtype=torch.float64)


def likely(
    logits: Tensor, k: int, temperature: float = 1.0, top_p: float = 1.0, min_p: float = 0.0
) -> dict[int, float]:
    """The entries of one row that may be drawn, in the order of position, and the weight of each.

    The definition: the k largest stay; of these the most likely ones that come first and weigh
    less than ``top_p`` before the last of them; of these the ones that weigh at least ``min_p``, where
    the largest weighs 1.

    Args:
        logits: (n,) finite, any float dtype.
        k: 1 <= k <= n.
        temperature: above 0.
        top_p: in (0, 1].
        min_p: in [0, 1].
    """
    chosen: list[int] = hard_topk(logits[None], k)[0].nonzero().flatten().tolist()
    peak = logits.max().item()
    p = {i: math.exp((logits[i].item() - peak) / temperature) for i in chosen}
    whole, before, kept = sum(p.values()), 0.0, []
    for i in sorted(chosen, key=lambda i: (-logits[i].item(), i)):
        if before < top_p * whole and p[i] >= min_p:
            kept.append(i)
        before += p[i]
    return {i: p[i] for i in sorted(kept)}


def sample_topk(
    logits: Tensor, k: int, u: float, temperature: float = 1.0, top_p: float = 1.0, min_p: float = 0.0
) -> int:
    """Draw one of the most likely entries of one row.

    The definition: the one drawn is where the running sum of what stayed (see :func:`likely`), in the
    order of position, passes the share u.

    Args:
        logits, k, temperature, top_p, min_p: as there.
        u: the random number, in [0, 1).
    """
    p = likely(logits, k, temperature, top_p, min_p)
    goal, walk = u * sum(p.values()), 0.0
    for i, weight in p.items():
        walk += weight
        if walk > goal:
            return i
    return i


def expert_choice(
    scores: Tensor, capacity: int, valid: Tensor | None = None, most: int | None = None
) -> Tensor:
    """Say which expert takes which token.

    The definition: the highest score of the whole matrix is looked at first, ties by expert, then by token;
    its expert takes its token if it has taken fewer than ``capacity`` and the token was taken by fewer than
    ``most``. NaN is larger than every number.

    Args:
        scores: (n, experts), any float dtype.
        capacity: tokens an expert.
        valid: (n,) bool, True for tokens; all of them by default.
        most: experts a token; any number by default.

    Returns:
        (n, experts) bool.
    """
    n, experts = scores.shape
    mask = torch.zeros(n, experts, dtype=torch.bool)
    pairs = [(e, t) for e in range(experts) for t in range(n) if valid is None or bool(valid[t])]

    def rank(pair: tuple[int, int]) -> tuple[bool, float]:
        score = scores[pair[1], pair[0]].item()
        return (False, 0.0) if score != score else (True, -score)

    for e, t in sorted(pairs, key=rank):
        if mask[:, e].sum() < capacity and (most is None or mask[t].sum() < most):
            mask[t, e] = True
    return mask


def routed(
    hidden: Tensor, gates: Tensor, mask: Tensor, experts: Sequence[Callable[[Tensor], Tensor]]
) -> Tensor:
    """What a layer of experts adds to each token: the sum of its experts' answers, each times its gate.

    Args:
        hidden: (n, d).
        gates: (n, experts).
        mask: (n, experts) bool, which expert takes which token.
        experts: functions of (d,) to (d,).

    Returns:
        (n, d); zeros for a token that nobody took.
    """
    out = torch.zeros_like(hidden)
    for t, e in mask.nonzero().tolist():
        out[t] += gates[t, e] * experts[e](hidden[t])
    return out
