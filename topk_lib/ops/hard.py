"""Hard top-k: exactly k entries of each row, ties to the lowest index."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from topk_lib.ops.backend import fold_batch, use_triton
from topk_lib.ops.hard_cpu import by_threshold

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
    last = scores.dim() - 1
    rows = scores if dim in (-1, last) else scores.movedim(dim, -1)
    lead, n = rows.shape[:-1], rows.shape[-1]
    width, per_row = _check_k(k, rows)
    flat = rows if last == 1 else rows.reshape(lead.numel(), n)
    ok = None
    if valid is not None:
        ok = valid.expand_as(scores).movedim(dim, -1).reshape(flat.shape)
    # The bare code where it may run: an op's dispatch costs more than choosing from a short row.
    choose: Any = torch.ops.topk_lib.choose.default
    plain = flat.device.type == "cpu" and _is_plain(flat) and (ok is None or _is_plain(ok))
    if plain and not use_triton(flat.device):
        choose = _choose_on_cpu
    indices, mask = choose(flat.detach(), width, per_row, ok)
    if order == "value":
        indices = _by_value(flat, indices)
    # Gathered from the scores themselves, so that their gradient flows.
    if ok is None and per_row is None:  # no spare slots
        values = flat.gather(-1, indices)
    else:
        values = flat.gather(-1, indices.clamp(min=0)) if n else flat.new_zeros(indices.shape)
        values = torch.where(indices >= 0, values, 0)
    if last == 1 and rows is scores:
        return Selection(values, indices, mask)
    return Selection(
        values.reshape(*lead, width).movedim(-1, dim),
        indices.reshape(*lead, width).movedim(-1, dim),
        mask.reshape(*lead, n).movedim(-1, dim),
    )


def topk_mask(scores: Tensor, k: int | Tensor, *, dim: int = -1, valid: Tensor | None = None) -> Tensor:
    """The mask of :func:`hard_topk` alone: (..., n) bool, True where chosen."""
    return hard_topk(scores, k, dim=dim, valid=valid).mask


def _is_plain(tensor: Tensor) -> bool:
    """Whether the tensor holds numbers that nothing traces: no compiler, transform, mode or subclass."""
    if torch.compiler.is_compiling() or _get_current_dispatch_mode() is not None:
        return False
    if type(tensor) not in (Tensor, torch.nn.Parameter) or tensor.is_neg():
        return False
    traced = torch._C._get_tracing_state() is not None
    return not traced and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)


torch.library.define(
    "topk_lib::choose", "(Tensor flat, int width, Tensor? per_row, Tensor? ok) -> (Tensor, Tensor)"
)


def _choose(flat: Tensor, width: int, per_row: Tensor | None, ok: Tensor | None) -> tuple[Tensor, Tensor]:
    """Indices (rows, width) in the order of position, -1 in spare slots, and mask (rows, n)."""
    if use_triton(flat.device):
        from topk_lib.kernels import hard as kernels

        if kernels.fits(flat.shape[1], width):
            ks = torch.full((len(flat),), width, device=flat.device) if per_row is None else per_row
            flags = None if ok is None else ok.contiguous()
            return kernels.hard_topk_rows(flat.contiguous(), ks.int(), width, flags)[1:]
    return (_choose_on_cpu if flat.device.type == "cpu" else _by_sorting)(flat, width, per_row, ok)


def _choose_on_cpu(
    flat: Tensor, width: int, per_row: Tensor | None, ok: Tensor | None
) -> tuple[Tensor, Tensor]:
    scores = (flat if flat.dtype in (torch.float32, torch.float64) else flat.float()).numpy()
    indices, mask = by_threshold(
        scores, width, None if per_row is None else per_row.numpy(), None if ok is None else ok.numpy()
    )
    return torch.from_numpy(indices), torch.from_numpy(mask)


torch.library.impl("topk_lib::choose", "CompositeExplicitAutograd", _choose)


@torch.library.register_fake("topk_lib::choose")  # type: ignore[untyped-decorator]
def _(flat: Tensor, width: int, per_row: Tensor | None, ok: Tensor | None) -> tuple[Tensor, Tensor]:
    mask = flat.new_empty(flat.shape, dtype=torch.bool)
    return flat.new_empty(flat.shape[0], width, dtype=torch.int64), mask


@torch.library.register_vmap("topk_lib::choose")  # type: ignore[untyped-decorator]
def _(
    info: Any, dims: tuple[Any, ...], flat: Tensor, width: int, per_row: Tensor | None, ok: Tensor | None
) -> Any:
    flat, per_row, ok = fold_batch(info, (dims[0], dims[2], dims[3]), (flat, per_row, ok))
    indices, mask = torch.ops.topk_lib.choose(flat, width, per_row, ok)
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


def _check_k(k: int | Tensor, rows: Tensor) -> tuple[int, Tensor | None]:
    """Return the width of the result and, where they may differ, one k per row, (rows,) int64."""
    n = rows.shape[-1]
    per_row: Tensor | None
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
        per_row, low, high = None, k, k
    else:
        raise TypeError(f"k must be an int or an integer tensor, got {type(k).__name__}")
    if low < 0 or high > n:
        raise ValueError(f"k must lie in 0..{n} (the length along dim), got {low if low < 0 else high}")
    return high, per_row
