"""Every operator as its definition, in plain PyTorch: the specification the fast code is tested on."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["hard_topk"]


def hard_topk(scores: Tensor, k: int, valid: Tensor | None = None) -> Tensor:
    """Say which ``k`` entries of each row are the largest.

    The definition: entry i is chosen when fewer than k valid entries come before it, where j
    comes before i if its score is larger, or equal and j < i. NaN is larger than every number.

    Args:
        scores: (rows, n), any float dtype.
        k: how many to choose, 0 <= k <= n.
        valid: (rows, n) bool, True for entries that may be chosen; all of them by default.

    Returns:
        (rows, n) bool, True where chosen.
    """
    rows, n = scores.shape
    mask = torch.zeros(rows, n, dtype=torch.bool)
    for row in range(rows):
        candidates = [i for i in range(n) if valid is None or bool(valid[row, i])]
        for i in candidates:
            before = sum(_comes_before(scores[row], j, i) for j in candidates)
            mask[row, i] = before < k
    return mask


def _comes_before(scores: Tensor, j: int, i: int) -> bool:
    a, b = scores[j].item(), scores[i].item()
    a_nan, b_nan = a != a, b != b
    if a_nan or b_nan:
        return (a_nan and not b_nan) or (a_nan and b_nan and j < i)
    return a > b or (a == b and j < i)
