"""Hard top-k: exactly k entries of each row, ties to the lowest index."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Selection", "hard_topk"]

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class Selection(NamedTuple):
    """What :func:`hard_topk` chose, with the chosen dimension last replaced by k.

    Attributes:
        values: (..., k), dtype of the scores; 0 in spare slots.
        indices: (..., k) int64; -1 in spare slots.
        mask: (..., n) bool, True where chosen.
    """

    values: Tensor
    indices: Tensor
    mask: Tensor


def hard_topk(
    scores: Tensor,
    k: int | Tensor,
    *,
    dim: int = -1,
    valid: Tensor | None = None,
    order: str = "position",
) -> Selection:
    """Choose the k largest entries along ``dim``, exactly and repeatably.

    Ties go to the lowest index, ``-0.0`` equals ``+0.0`` and NaN ranks highest, on every device.
    Entries with ``valid=False`` are never chosen, and a real score of -inf beats them. A row with
    fewer than k valid entries returns all of them; its spare slots (the last ones) hold index -1
    and value 0. The gradient flows through ``values``.

    Args:
        scores: (..., n) float16, bfloat16, float32 or float64.
        k: 0 <= k <= n; an int, or an integer tensor with one k per row (``scores``' shape without
            ``dim``). Then the last dimension of the result is as wide as the largest k.
        dim: the dimension to choose along. In the result's ``values`` and ``indices`` it has
            length k.
        valid: bool, broadcastable to ``scores``; True for entries that may be chosen.
        order: "position" (ascending index, the order of the text) or "value" (descending score).

    Raises:
        TypeError: ``scores`` is not a float tensor, ``k`` not an integer, ``valid`` not bool.
        ValueError: ``k`` outside 0..n, a wrong shape, an unknown ``order``.

    Example:
        >>> hard_topk(torch.tensor([0.2, 0.9, 0.9, 0.5]), 2).indices
        tensor([1, 2])
    """
    _check(scores, valid, order)
    rows = scores.movedim(dim, -1)
    n = rows.shape[-1]
    ok = None if valid is None else valid.expand_as(scores).movedim(dim, -1)
    width, per_row = _check_k(k, rows)

    # The key orders as the contract says: NaN highest, -0.0 equal to +0.0, invalid entries last.
    key = rows.detach() + 0.0
    ranked = key.sort(dim=-1, descending=True, stable=True).indices
    if ok is not None:
        first_valid = (~ok.gather(-1, ranked)).sort(dim=-1, stable=True).indices
        ranked = ranked.gather(-1, first_valid)
    ranked = ranked[..., :width]
    limit = per_row.unsqueeze(-1)
    if ok is not None:
        limit = torch.minimum(limit, ok.sum(-1, keepdim=True))
    used = torch.arange(width, device=rows.device) < limit  # (..., width): the slots that are filled

    if order == "position":
        ranked = ranked.masked_fill(~used, n).sort(dim=-1).values
    safe = ranked.masked_fill(~used, 0)
    values = rows.gather(-1, safe).masked_fill(~used, 0) if n else rows.new_zeros(safe.shape)
    # Spare slots point at a column n of their own, which is cut off again.
    mask = torch.zeros(*rows.shape[:-1], n + 1, dtype=torch.bool, device=rows.device)
    mask = mask.scatter(-1, ranked.masked_fill(~used, n), True)[..., :n]
    indices = ranked.masked_fill(~used, -1)
    return Selection(values.movedim(-1, dim), indices.movedim(-1, dim), mask.movedim(-1, dim))


def _check(scores: Tensor, valid: Tensor | None, order: str) -> None:
    if not isinstance(scores, Tensor) or scores.dtype not in _DTYPES:
        got = scores.dtype if isinstance(scores, Tensor) else type(scores).__name__
        raise TypeError(f"scores must be a float16, bfloat16, float32 or float64 tensor, got {got}")
    if scores.dim() == 0:
        raise ValueError("scores must have at least one dimension, got a scalar")
    if order not in ("position", "value"):
        raise ValueError(f'order must be "position" or "value", got {order!r}')
    if valid is None:
        return
    if not isinstance(valid, Tensor) or valid.dtype != torch.bool:
        got = valid.dtype if isinstance(valid, Tensor) else type(valid).__name__
        raise TypeError(f"valid must be a bool tensor, got {got}")
    try:
        valid.expand_as(scores)
    except RuntimeError:
        raise ValueError(
            f"valid must broadcast to the shape of scores {tuple(scores.shape)}, got {tuple(valid.shape)}"
        ) from None


def _check_k(k: int | Tensor, rows: Tensor) -> tuple[int, Tensor]:
    """Return the width of the result and one k per row, (...,) int64."""
    n = rows.shape[-1]
    if isinstance(k, Tensor):
        if k.dtype.is_floating_point or k.dtype.is_complex or k.dtype == torch.bool:
            raise TypeError(f"k must be an int or an integer tensor, got {k.dtype}")
        if k.shape != rows.shape[:-1]:
            raise ValueError(
                f"k must hold one number per row, shape {tuple(rows.shape[:-1])}, got {tuple(k.shape)}"
            )
        per_row = k.to(device=rows.device, dtype=torch.int64)
        low, high = (int(per_row.min()), int(per_row.max())) if per_row.numel() else (0, 0)
    elif isinstance(k, int) and not isinstance(k, bool):
        per_row = torch.full(rows.shape[:-1], k, dtype=torch.int64, device=rows.device)
        low = high = k
    else:
        raise TypeError(f"k must be an int or an integer tensor, got {type(k).__name__}")
    if low < 0 or high > n:
        raise ValueError(f"k must lie in 0..{n} (the length along dim), got {low if low < 0 else high}")
    return high, per_row
