"""Hard top-k: exactly k entries of each row, ties to the lowest index; or one part of the answer alone."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from topk_lib.ops import native
from topk_lib.ops.arguments import check_scores, last, rows_of_k, untraced
from topk_lib.ops.backend import fold_batch, use_triton
from topk_lib.ops.hard_cpu import by_threshold

__all__ = ["Selection", "argtopk", "hard_topk", "topk_mask", "topk_threshold"]

_ORDERS = ("position", "value")


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
    largest: bool = True,
) -> Selection:
    """Choose the k largest entries along ``dim``, or the k smallest, exactly and repeatably.

    Ties go to the lowest index, ``-0.0`` equals ``+0.0`` and NaN ranks highest, on every device; among
    the smallest NaN comes last. Entries with ``valid=False`` are never chosen: every real score beats
    them, -inf too. A row with fewer than k valid entries returns all of them; its spare slots (the
    last ones) hold index -1 and value 0. Derivatives of every order and mode flow through ``values``. All
    of this holds for every number of each dtype, the denormal ones too, on a CPU and in the kernels alike.

    Args:
        scores: (..., n) float16, bfloat16, float32 or float64.
        k: 0 <= k <= n; an int, or an integer tensor with one k per row (``scores``' shape without
            ``dim``). Then the last dimension of the result is as wide as the largest k, that of the
            whole batch inside ``vmap``; where the numbers in k cannot be read (on meta, and under
            ``torch.compile(fullgraph=True)`` unless it captures scalars) take :func:`topk_mask`.
        dim: the dimension to choose along. In the result's ``values`` and ``indices`` it has
            length k.
        valid: bool, broadcastable to ``scores``; True for entries that may be chosen.
        order: "position" (ascending index, the order of the text) or "value" (descending score;
            ascending where ``largest`` is False).
        largest: False for the k smallest.

    Raises:
        TypeError: ``scores`` is not a float tensor, ``k`` not an integer, ``valid`` or ``largest`` not bool.
        ValueError: ``k`` outside 0..n, a wrong shape or device, an unknown ``order``.

    Example:
        >>> hard_topk(torch.tensor([0.2, 0.9, 0.9, 0.5]), 2).indices
        tensor([1, 2])
    """
    if type(k) is int and valid is None and order in _ORDERS and type(largest) is bool:
        found = native.topk(scores, k, dim, not largest, order == "value")
        if found is not None:
            return Selection(*found)
    flat, indices, mask = _checked(scores, k, dim, valid, order, largest)
    lead, width, n = _moved(scores, dim), indices.shape[-1], flat.shape[-1]
    # Gathered from the scores themselves, so that their gradient flows.
    if valid is None and not isinstance(k, Tensor):  # no spare slots
        values = flat.gather(-1, indices)
    else:
        values = flat.gather(-1, indices.clamp(min=0)) if n else flat.new_zeros(indices.shape)
        values = torch.where(indices >= 0, values, 0)
    if flat is scores:
        return Selection(values, indices, mask)
    return Selection(
        values.reshape(*lead, width).movedim(-1, dim),
        indices.reshape(*lead, width).movedim(-1, dim),
        mask.reshape(*lead, n).movedim(-1, dim),
    )


def argtopk(
    scores: Tensor,
    k: int | Tensor,
    *,
    dim: int = -1,
    valid: Tensor | None = None,
    order: str = "position",
    largest: bool = True,
) -> Tensor:
    """The indices of :func:`hard_topk` alone: (..., k) int64, -1 in spare slots. Arguments as there.

    Example:
        >>> argtopk(torch.tensor([0.2, 0.9, 0.9, 0.5]), 2, largest=False)
        tensor([0, 3])
    """
    if type(k) is int and valid is None and order in _ORDERS and type(largest) is bool:
        found = native.argtopk(scores, k, dim, not largest, order == "value")
        if found is not None:
            return found
    indices = _checked(scores, k, dim, valid, order, largest)[1]
    return indices.reshape(*_moved(scores, dim), indices.shape[-1]).movedim(-1, dim)


def topk_threshold(
    scores: Tensor, k: int | Tensor, *, dim: int = -1, valid: Tensor | None = None, largest: bool = True
) -> Tensor:
    """The k-th largest of each row (or k-th smallest) alone: the last that :func:`hard_topk` takes.

    Of a row with fewer than k valid entries it is the least of them; where nothing is taken, +inf (-inf for
    the smallest). NaN, where that is the k-th. Its gradient goes to that one entry. Arguments and errors as
    of :func:`hard_topk`.

    Returns:
        (...), the shape of ``scores`` without ``dim``, in its dtype.

    Example:
        >>> topk_threshold(torch.tensor([0.2, 0.9, 0.9, 0.5]), 3)
        tensor(0.5000)
    """
    values, indices, _ = hard_topk(scores, k, dim=dim, valid=valid, order="value", largest=largest)
    nothing = torch.inf if largest else -torch.inf
    taken = (indices >= 0).sum(dim, keepdim=True)
    if not values.shape[dim]:
        return values.sum(dim) + nothing
    return values.gather(dim, (taken - 1).clamp(min=0)).where(taken > 0, nothing).squeeze(dim)


def topk_mask(
    scores: Tensor, k: int | Tensor, *, dim: int = -1, valid: Tensor | None = None, largest: bool = True
) -> Tensor:
    """The mask of :func:`hard_topk` alone: (..., n) bool, True where chosen. Arguments and errors as there.

    Its shape does not depend on the numbers in ``k``, so that one k per row compiles and exports, too.
    """
    if type(k) is int and valid is None and type(largest) is bool:
        mask = native.topk_mask(scores, k, dim, not largest)
        if mask is not None:
            return mask
    check_scores("scores", scores, valid)
    rows, ok = last(scores, valid, dim)
    width, per_row = rows_of_k(k, rows, unseen_width=rows.shape[-1])
    return _choose_from(rows, width, per_row, ok, largest)[2].reshape(rows.shape).movedim(-1, dim)


def _checked(
    scores: Tensor, k: int | Tensor, dim: int, valid: Tensor | None, order: str, largest: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The scores as (rows, n), indices (rows, width) in the order asked for, mask (rows, n)."""
    check_scores("scores", scores, valid)
    if order not in _ORDERS:
        raise ValueError(f'order must be "position" or "value", got {order!r}')
    rows, ok = last(scores, valid, dim)
    flat, indices, mask = _choose_from(rows, *rows_of_k(k, rows), ok, largest)
    return flat, indices if order == "position" else _by_value(flat, indices, largest), mask


def _moved(scores: Tensor, dim: int) -> torch.Size:
    """The shape of the rows: that of the scores without ``dim``."""
    dim %= scores.dim()
    return scores.shape[:dim] + scores.shape[dim + 1 :]


def _choose_from(
    rows: Tensor, width: int, per_row: Tensor | None, ok: Tensor | None, largest: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """The scores as (rows, n), and what :func:`_choose` chooses from them."""
    if not isinstance(largest, bool):
        raise TypeError(f"largest must be True or False, got {largest!r}")
    flat = rows if rows.dim() == 2 else rows.reshape(math.prod(rows.shape[:-1]), rows.shape[-1])
    ok = None if ok is None else ok.reshape(flat.shape)
    # The bare code where it may run: an op's dispatch costs more than choosing from a short row.
    choose: Any = torch.ops.topk_lib.choose.default
    if flat.device.type == "cpu" and untraced(flat, per_row, ok) and not use_triton(flat.device):
        choose = _choose_on_cpu
    return flat, *choose(flat.detach(), width, per_row, ok, largest)


def _smallest(
    choose: Any, flat: Tensor, width: int, per_row: Tensor | None, ok: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The largest of the negated scores; NaN, which stays NaN, takes what room numbers leave."""
    nan = flat.isnan()
    if flat.device.type == "cpu" and not bool(nan.any()):
        found: tuple[Tensor, Tensor] = choose(-flat, width, per_row, ok)
        return found
    number, left = (~nan, nan) if ok is None else (ok & ~nan, ok & nan)
    mask = choose(-flat, width, per_row, number)[1]
    room = (width if per_row is None else per_row[:, None]) - mask.sum(-1, keepdim=True)
    mask = mask | (left & (left.cumsum(-1) <= room))
    chosen: tuple[Tensor, Tensor] = choose(mask.to(flat.dtype), width, None, mask)  # their places, in order
    return chosen


torch.library.define(
    "topk_lib::choose",
    "(Tensor flat, SymInt width, Tensor? per_row, Tensor? ok, bool largest=True) -> (Tensor, Tensor)",
)


def _choose(
    flat: Tensor, width: int, per_row: Tensor | None, ok: Tensor | None, largest: bool = True
) -> tuple[Tensor, Tensor]:
    """Indices (rows, width) in the order of position, -1 in spare slots, and mask (rows, n)."""
    if use_triton(flat.device):
        from topk_lib.kernels import hard as kernels

        if kernels.fits(flat.shape[1], width):
            ks = torch.full((len(flat),), width, device=flat.device) if per_row is None else per_row
            flags = None if ok is None else ok.contiguous()
            flat = flat.contiguous()
            return kernels.hard_topk_rows(flat, ks.int(), width, flags, largest=largest)[1:]
    if flat.device.type == "cpu":
        return _choose_on_cpu(flat, width, per_row, ok, largest)
    if not largest:
        return _smallest(_by_sorting, flat, width, per_row, ok)
    return _by_sorting(flat, width, per_row, ok)


def _choose_on_cpu(
    flat: Tensor, width: int, per_row: Tensor | None, ok: Tensor | None, largest: bool = True
) -> tuple[Tensor, Tensor]:
    if native.serves(flat.shape[1]):
        indices = flat.new_empty((len(flat), width), dtype=torch.int64)
        mask = flat.new_empty(flat.shape, dtype=torch.bool)
        native.choose(flat, width, per_row, ok, smallest=not largest, indices=indices, mask=mask)
        return indices, mask
    if not largest:
        return _smallest(_choose_on_cpu, flat, width, per_row, ok)
    scores = (flat if flat.dtype in (torch.float32, torch.float64) else flat.float()).numpy()
    found = by_threshold(
        scores, width, None if per_row is None else per_row.numpy(), None if ok is None else ok.numpy()
    )
    return torch.from_numpy(found[0]), torch.from_numpy(found[1])


torch.library.impl("topk_lib::choose", "CompositeExplicitAutograd", _choose)


@torch.library.register_fake("topk_lib::choose")  # type: ignore[untyped-decorator]
def _(
    flat: Tensor, width: int, per_row: Tensor | None, ok: Tensor | None, largest: bool = True
) -> tuple[Tensor, Tensor]:
    mask = flat.new_empty(flat.shape, dtype=torch.bool)
    return flat.new_empty(flat.shape[0], width, dtype=torch.int64), mask


@torch.library.register_vmap("topk_lib::choose")  # type: ignore[untyped-decorator]
def _(
    info: Any,
    dims: tuple[Any, ...],
    flat: Tensor,
    width: int,
    per_row: Tensor | None,
    ok: Tensor | None,
    largest: bool = True,
) -> Any:
    flat, per_row, ok = fold_batch(info, (dims[0], dims[2], dims[3]), (flat, per_row, ok))
    indices, mask = torch.ops.topk_lib.choose(flat, width, per_row, ok, largest)
    split = (info.batch_size, -1)
    return (indices.unflatten(0, split), mask.unflatten(0, split)), (0, 0)


def _by_sorting(flat: Tensor, width: int, per_row: Tensor | None, ok: Tensor | None) -> tuple[Tensor, Tensor]:
    """Any device and k: a stable sort, invalid entries moved to the end."""
    n = flat.shape[1]
    # NaN highest, -0.0 equal to +0.0
    ranked = (flat + 0.0).sort(dim=-1, descending=True, stable=True).indices
    limit = torch.full((1, 1), width, device=flat.device) if per_row is None else per_row.unsqueeze(-1)
    if ok is not None:
        first_valid = (~ok.gather(-1, ranked)).sort(dim=-1, stable=True).indices
        ranked = ranked.gather(-1, first_valid)
        limit = torch.minimum(limit, ok.sum(-1, keepdim=True))
    used = torch.arange(width, device=flat.device) < limit
    indices = ranked[:, :width].masked_fill(~used, n).sort(dim=-1).values
    # Spare slots point at a column n of their own, which is cut off again.
    mask = torch.zeros(len(flat), n + 1, dtype=torch.bool, device=flat.device).scatter_(-1, indices, True)
    return indices.masked_fill(indices == n, -1), mask[:, :n].contiguous()


def _by_value(flat: Tensor, indices: Tensor, largest: bool) -> Tensor:
    """Put indices in the order of descending score (or ascending), ties by position, spare slots last."""
    if not flat.shape[1]:
        return indices
    values = flat.detach().gather(-1, indices.clamp(min=0)) + 0.0
    by_value = values.sort(dim=-1, descending=largest, stable=True).indices
    ranked = indices.gather(-1, by_value)
    filled_first = (ranked < 0).sort(dim=-1, stable=True).indices
    return ranked.gather(-1, filled_first)
