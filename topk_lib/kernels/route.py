"""Moving rows to experts and back in Triton: a gather, and a sum over each token's own slots.

The sum reads, for each token, the slots that the token has, in ascending order; no two programs
write to one place, so that nothing is atomic and a result is the same bit for bit.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from topk_lib.kernels.hard import _widen

__all__ = ["add_rows", "take_rows", "take_weighted"]

_MOST = 1024  # columns that a program holds at a time


@triton.jit
def _take_kernel(  # type: ignore[no-untyped-def]
    x, y, weights, slots, out, dots, rows, d,
    WEIGHTED: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)  # (ROWS,), the slots
    live = row < rows
    token = tl.load(slots + row, mask=live, other=0)
    wide = tl.float64 if WIDE else tl.float32
    if WEIGHTED:
        weight = tl.load(weights + row, mask=live, other=0.0).to(wide)
    dot = tl.zeros((ROWS,), wide)
    start = 0
    while start < d:
        column = start + tl.arange(0, BLOCK)
        inside = live[:, None] & (column < d)[None, :]  # (ROWS, BLOCK)
        got = tl.load(x + token[:, None] * d + column[None, :], mask=inside, other=0.0)
        here = row[:, None] * d + column[None, :]
        if WEIGHTED:
            got = _widen(got).to(wide)
            other = _widen(tl.load(y + here, mask=inside, other=0.0)).to(wide)
            dot += tl.sum(got * other, axis=1)
            got = got * weight[:, None]
        tl.store(out + here, got, mask=inside)
        start += BLOCK
    if WEIGHTED:
        tl.store(dots + row, dot, mask=live)


@triton.jit
def _add_kernel(  # type: ignore[no-untyped-def]
    y, weights, order, starts, out, rows, d,
    WEIGHTED: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)  # (ROWS,), the tokens
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)  # (BLOCK,)
    live = row < rows
    first = tl.load(starts + row, mask=live, other=0)
    count = tl.load(starts + row + 1, mask=live, other=0) - first
    wide = tl.float64 if WIDE else tl.float32
    total = tl.zeros((ROWS, BLOCK), wide)
    most = tl.max(count, axis=0)
    i = most - most
    while i < most:
        own = live & (i < count)
        slot = tl.load(order + first + i, mask=own, other=0)
        inside = own[:, None] & (column < d)[None, :]
        part = tl.load(y + slot[:, None] * d + column[None, :], mask=inside, other=0.0)
        part = _widen(part).to(wide)
        if WEIGHTED:
            part = part * tl.load(weights + slot, mask=own, other=0.0).to(wide)[:, None]
        total += part
        i += 1
    inside = live[:, None] & (column < d)[None, :]
    tl.store(out + row[:, None] * d + column[None, :], total, mask=inside)


def _shape(d: int) -> dict[str, int]:
    block = min(max(triton.next_power_of_2(d), 16), _MOST)
    rows = max(1, 1024 // block)
    return {"BLOCK": block, "ROWS": rows, "num_warps": min(max(block * rows // 512, 1), 16)}


def take_rows(x: Tensor, slots: Tensor) -> Tensor:
    """The rows ``slots``, (s,) int64, of x, (n, d) contiguous: (s, d)."""
    out = x.new_empty(len(slots), x.shape[1])
    if out.numel():
        shape = _shape(x.shape[1])
        _take_kernel[(triton.cdiv(len(slots), shape["ROWS"]),)](
            x, x, x, slots, out, x, len(slots), x.shape[1],
            WEIGHTED=False, WIDE=x.dtype == torch.float64, **shape,
        )  # fmt: skip
    return out


def take_weighted(x: Tensor, y: Tensor, weights: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
    """In one reading: the rows ``slots`` of x times ``weights``, and their products with those of y.

    Args:
        x: (n, d), contiguous.
        y: (s, d), contiguous.
        weights: (s,).
        slots: (s,) int64.

    Returns:
        (s, d) in the type of x; (s,) in that of ``weights``.
    """
    out, dots = torch.empty_like(y), torch.zeros_like(weights)
    if out.numel():
        shape = _shape(x.shape[1])
        _take_kernel[(triton.cdiv(len(slots), shape["ROWS"]),)](
            x, y, weights, slots, out, dots, len(slots), x.shape[1],
            WEIGHTED=True, WIDE=x.dtype == torch.float64, **shape,
        )  # fmt: skip
    return out, dots


def add_rows(y: Tensor, weights: Tensor | None, order: Tensor, starts: Tensor) -> Tensor:
    """For each token the sum of its slots' rows, each times its weight.

    Args:
        y: (s, d), contiguous; added up in float32 (float64 for float64).
        weights: (s,), or None for ones.
        order: (s,) int64, the slots, token after token.
        starts: (n + 1,) int64, where each token's slots begin in ``order``.

    Returns:
        (n, d) in the type of y.
    """
    n, d = len(starts) - 1, y.shape[1]
    out = y.new_empty(n, d)
    if out.numel():
        shape = _shape(d)
        _add_kernel[(triton.cdiv(n, shape["ROWS"]), triton.cdiv(d, shape["BLOCK"]))](
            y, y if weights is None else weights, order, starts, out, n, d,
            WEIGHTED=weights is not None, WIDE=y.dtype == torch.float64, **shape,
        )  # fmt: skip
    return out
