"""Hard top-k: exactly k entries of each row, ties to the lowest index."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from topk_lib.ops.backend import fold_batch, use_triton

__all__ = ["Selection", "hard_topk", "topk_mask"]

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
    lead, n = rows.shape[:-1], rows.shape[-1]
    width, per_row = _check_k(k, rows)
    flat = rows.reshape(-1, n) if n else rows.new_empty(lead.numel(), 0)
    ok = None
    if valid is not None:
        ok = valid.expand_as(scores).movedim(dim, -1).reshape(flat.shape)
    indices, mask = _choose(flat, per_row, width, ok)
    if order == "value":
        indices = _by_value(flat, indices)
    # Gathered from the scores themselves, so that their gradient flows.
    filled = indices >= 0
    values = flat.gather(-1, indices.clamp(min=0)) if n else flat.new_zeros(indices.shape)
    values = torch.where(filled, values, 0)
    return Selection(
        values.reshape(*lead, width).movedim(-1, dim),
        indices.reshape(*lead, width).movedim(-1, dim),
        mask.reshape(*lead, n).movedim(-1, dim),
    )


def topk_mask(scores: Tensor, k: int | Tensor, *, dim: int = -1, valid: Tensor | None = None) -> Tensor:
    """The mask of :func:`hard_topk` alone: (..., n) bool, True where chosen."""
    return hard_topk(scores, k, dim=dim, valid=valid).mask


@torch.library.custom_op("topk_lib::choose", mutates_args=())
def _choose(flat: Tensor, per_row: Tensor, width: int, ok: Tensor | None) -> tuple[Tensor, Tensor]:
    """Indices (rows, width) in the order of position, -1 in spare slots, and mask (rows, n)."""
    flat = flat.detach()
    if use_triton(flat.device):
        from topk_lib.kernels import hard as kernels

        if kernels.fits(flat.shape[1], width):
            flags = None if ok is None else ok.contiguous()
            return kernels.hard_topk_rows(flat.contiguous(), per_row.int(), width, flags)[1:]
    n = flat.shape[1]
    if ok is None and 0 < width < n and bool((per_row == width).all()):
        indices = _largest(flat, width)
    else:
        indices = _by_sorting(flat, per_row, width, ok)
    # Spare slots point at a column n of their own, which is cut off again.
    mask = torch.zeros(len(flat), n + 1, dtype=torch.bool, device=flat.device)
    mask.scatter_(-1, indices.masked_fill(indices < 0, n), True)
    return indices, mask[:, :n].contiguous()


@_choose.register_fake
def _(flat: Tensor, per_row: Tensor, width: int, ok: Tensor | None) -> tuple[Tensor, Tensor]:
    return flat.new_empty(flat.shape[0], width, dtype=torch.int64), torch.empty_like(flat, dtype=torch.bool)


@_choose.register_vmap
def _(info: Any, dims: tuple[Any, ...], flat: Tensor, per_row: Tensor, width: int, ok: Tensor | None) -> Any:
    flat, per_row, ok = fold_batch(info, (dims[0], dims[1], dims[3]), (flat, per_row, ok))
    indices, mask = _choose(flat, per_row, width, ok)
    split = (info.batch_size, -1)
    return (indices.unflatten(0, split), mask.unflatten(0, split)), (0, 0)


def _by_sorting(flat: Tensor, per_row: Tensor, width: int, ok: Tensor | None) -> Tensor:
    """Any k and mask: a stable sort, invalid entries moved to the end."""
    n = flat.shape[1]
    # NaN highest, -0.0 equal to +0.0
    ranked = (flat + 0.0).sort(dim=-1, descending=True, stable=True).indices
    limit = per_row.unsqueeze(-1)
    if ok is not None:
        first_valid = (~ok.gather(-1, ranked)).sort(dim=-1, stable=True).indices
        ranked = ranked.gather(-1, first_valid)
        limit = torch.minimum(limit, ok.sum(-1, keepdim=True))
    used = torch.arange(width, device=flat.device) < limit
    ranked = ranked[:, :width].masked_fill(~used, n).sort(dim=-1).values
    return ranked.masked_fill(~used, -1)


_BLOCK = 64


def _largest(flat: Tensor, k: int) -> Tensor:
    """The k largest of each row, 0 < k < n, in the order of position.

    In a long row only the k blocks with the largest maxima are searched: an entry outside them
    comes after k others, the maxima of those blocks.
    """
    rows, n = flat.shape
    blocks = n // _BLOCK
    if k * _BLOCK * 8 > n or k >= blocks:
        return _threshold(flat, k)
    body = flat[:, : blocks * _BLOCK].reshape(rows, blocks, _BLOCK)
    best = _largest(body.amax(-1), k)  # (rows, k)
    near = body.gather(1, best.unsqueeze(-1).expand(-1, -1, _BLOCK)).flatten(1)  # (rows, k * block)
    tail = flat[:, blocks * _BLOCK :]
    found = _threshold(torch.cat([near, tail], -1), k)
    block = best.gather(-1, (found // _BLOCK).clamp(max=k - 1))
    inside = block * _BLOCK + found % _BLOCK
    return torch.where(found < k * _BLOCK, inside, found - k * _BLOCK + blocks * _BLOCK)


def _threshold(flat: Tensor, k: int) -> Tensor:
    """``torch.topk``, whose ties are in no order, put right where a tie straddles the k-th place."""
    values, indices = flat.topk(k, dim=-1, sorted=False)
    least = values.amin(-1, keepdim=True)  # NaN if one is chosen
    crowded = (flat >= least).sum(-1) != k  # NaN counts for nothing here, so that it shows
    if bool(crowded.any()):
        rest = crowded.nonzero().flatten()
        whole = torch.full((len(rest),), k, device=flat.device)
        indices[rest] = _by_sorting(flat[rest], whole, k, None)
    return indices.sort(dim=-1).values


def _by_value(flat: Tensor, indices: Tensor) -> Tensor:
    """Put indices in the order of descending score, ties by position, spare slots last."""
    if not flat.shape[1]:
        return indices
    values = flat.detach().gather(-1, indices.clamp(min=0)) + 0.0
    by_value = values.sort(dim=-1, descending=True, stable=True).indices
    ranked = indices.gather(-1, by_value)
    filled_first = (ranked < 0).sort(dim=-1, stable=True).indices
    return ranked.gather(-1, filled_first)


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
    """Return the width of the result and one k per row, (rows,) int64."""
    n = rows.shape[-1]
    count = rows.shape[:-1].numel()
    if isinstance(k, Tensor):
        if k.dtype.is_floating_point or k.dtype.is_complex or k.dtype == torch.bool:
            raise TypeError(f"k must be an int or an integer tensor, got {k.dtype}")
        if k.shape != rows.shape[:-1]:
            raise ValueError(
                f"k must hold one number per row, shape {tuple(rows.shape[:-1])}, got {tuple(k.shape)}"
            )
        per_row = k.to(device=rows.device, dtype=torch.int64).reshape(-1)
        low, high = (int(per_row.min()), int(per_row.max())) if per_row.numel() else (0, 0)
    elif isinstance(k, int) and not isinstance(k, bool):
        per_row = torch.full((count,), k, dtype=torch.int64, device=rows.device)
        low = high = k
    else:
        raise TypeError(f"k must be an int or an integer tensor, got {type(k).__name__}")
    if low < 0 or high > n:
        raise ValueError(f"k must lie in 0..{n} (the length along dim), got {low if low < 0 else high}")
    return high, per_row
