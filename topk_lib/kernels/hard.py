"""Hard top-k in Triton: the k-th largest key by bisection on its bits, then one pass to write.

Each score becomes an unsigned integer that orders as the contract says (-0.0 = +0.0, NaN highest,
invalid entries 0, below -inf). The k-th largest key is found bit by bit, from the top: a bit is set
where at least k keys are as large. All of it happens in registers, so that a row is read once and
its results are written once. Ties go to the lowest index by a running count; no atomics.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["MAX_BLOCK", "fits", "hard_topk_rows"]

MAX_BLOCK = 32768  # the longest row one program can hold
_ROOMY = 16384  # the longest that it takes whole, spilling some 100 bytes a thread (compiled for sm_90)
_CHUNK = 8192  # the piece of a longer row that one program takes
_DROP = {torch.bfloat16: 16, torch.float16: 13}  # low bits that are empty once widened to float32


@triton.jit
def _widen(x):  # type: ignore[no-untyped-def]
    """bfloat16 as float32, bit by bit: a conversion may flush the least numbers to 0."""
    if x.dtype == tl.bfloat16:
        bits = x.to(tl.uint16, bitcast=True).to(tl.uint32) << 16
        x = bits.to(tl.float32, bitcast=True)
    return x


@triton.jit
def _keys(x, valid, WIDE: tl.constexpr, DROP: tl.constexpr):  # type: ignore[no-untyped-def]
    if WIDE:
        x = x.to(tl.float64)
        x = tl.where(x == 0, 0.0, x)
        bits = x.to(tl.uint64, bitcast=True)
        top = tl.full(bits.shape, 1, tl.uint64) << 63
    else:
        x = _widen(x).to(tl.float32)
        x = tl.where(x == 0, 0.0, x)
        bits = x.to(tl.uint32, bitcast=True)
        top = tl.full(bits.shape, 1, tl.uint32) << 31
    flipped = ~bits
    key = tl.where((bits & top) != 0, flipped, bits | top)
    key = tl.where(x != x, bits | flipped, key)  # all ones
    key = key >> DROP
    return tl.where(valid, key, key ^ key)


@triton.jit
def _kth_key(key, k, BITS: tl.constexpr):  # type: ignore[no-untyped-def]
    """The largest key that at least k keys of the row reach, (ROWS,)."""
    threshold = tl.sum(key ^ key, axis=1)
    one = threshold + 1
    reached = k - k + key.shape[1]  # how many keys reach the threshold
    bit = BITS
    open_rows = 1
    while (bit > 0) & (open_rows > 0):
        bit -= 1
        candidate = threshold | (one << bit.to(one.dtype))
        count = tl.sum((key >= candidate[:, None]).to(tl.int32), axis=1)
        threshold = tl.where(count >= k, candidate, threshold)
        reached = tl.where(count >= k, count, reached)
        # A row that exactly k keys reach needs no further bits.
        open_rows = tl.sum((reached != k).to(tl.int32), axis=0)
    return threshold


@triton.jit
def _hard_kernel(  # type: ignore[no-untyped-def]
    scores, valid, ks, out_values, out_indices, out_mask,
    rows, n, width, score_stride, valid_stride, chunks, chunk,
    HAS_VALID: tl.constexpr, WRITE_MASK: tl.constexpr, WIDE: tl.constexpr, DROP: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    # A row is one chunk of a row of the scores, or all of it.
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)  # (ROWS,)
    whole = row // chunks
    start = ((row % chunks) * chunk).to(tl.int32)  # (ROWS,), its first column
    column = tl.arange(0, BLOCK)  # (BLOCK,), counted from there
    inside = (row < rows)[:, None] & (column[None, :] < tl.minimum(n - start, chunk)[:, None])
    first = (whole * score_stride + start)[:, None]
    x = tl.load(scores + first + column[None, :], mask=inside, other=0.0)  # (ROWS, BLOCK)
    ok = inside
    if HAS_VALID:
        first = (whole * valid_stride + start)[:, None]
        flag = tl.load(valid + first + column[None, :], mask=inside, other=0)
        ok = inside & (flag != 0)
    key = _keys(x, ok, WIDE, DROP)  # (ROWS, BLOCK)
    k = tl.load(ks + whole, mask=row < rows, other=0)  # (ROWS,)
    k = tl.minimum(tl.minimum(k, width), tl.sum(ok.to(tl.int32), axis=1))

    threshold = _kth_key(key, k, BITS=(64 if WIDE else 32) - DROP)
    greater = key > threshold[:, None]
    equal = (key == threshold[:, None]) & ok
    spare = k - tl.sum(greater.to(tl.int32), axis=1)
    chosen = greater | (equal & (tl.cumsum(equal.to(tl.int32), axis=1) <= spare[:, None]))
    slot = tl.cumsum(chosen.to(tl.int32), axis=1) - 1
    target = row[:, None] * width + slot
    tl.store(out_indices + target, (start[:, None] + column[None, :]).to(tl.int64), mask=chosen)
    tl.store(out_values + target, x, mask=chosen)
    if WRITE_MASK:
        tl.store(out_mask + (whole * n + start)[:, None] + column[None, :], chosen, mask=inside)
    place = tl.arange(0, BLOCK_K)
    empty = (row < rows)[:, None] & (place < width)[None, :] & (place[None, :] >= k[:, None])
    rest = row[:, None] * width + place[None, :]
    tl.store(out_indices + rest, tl.full((ROWS, BLOCK_K), -1, tl.int64), mask=empty)
    tl.store(out_values + rest, tl.zeros((ROWS, BLOCK_K), x.dtype), mask=empty)


def fits(n: int, width: int) -> bool:
    """Whether these kernels choose ``width`` of n: in long rows the candidates must become fewer."""
    return n <= MAX_BLOCK or width <= _CHUNK // 2


def hard_topk_rows(
    scores: Tensor, ks: Tensor, width: int, valid: Tensor | None, want_mask: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Choose in each row, in the order of position.

    Args:
        scores: (rows, n), contiguous along n.
        ks: (rows,) int32.
        width: the largest k.
        valid: (rows, n) bool, contiguous along n, or None.
        want_mask: whether to write the mask; an empty one is returned otherwise.

    Returns:
        values (rows, width), indices (rows, width) int64, mask (rows, n) bool.
    """
    n = scores.shape[1]
    if n > _ROOMY and width <= _CHUNK // 2:
        return _in_chunks(scores, ks, width, valid, want_mask)
    return _one_pass(scores, ks, width, valid, want_mask)


def _one_pass(
    scores: Tensor, ks: Tensor, width: int, valid: Tensor | None, want_mask: bool, chunk: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """One row a program or, with ``chunk``, one chunk of so many columns: its results are rows then."""
    n = scores.shape[1]
    chunk = n if chunk is None else chunk
    chunks = triton.cdiv(n, chunk) if n else 1
    rows = scores.shape[0] * chunks
    values = scores.new_empty(rows, width)
    indices = scores.new_empty(rows, width, dtype=torch.int64)
    mask = scores.new_empty(rows, n if want_mask else 0, dtype=torch.bool)
    if rows == 0 or n == 0:
        return values.fill_(0), indices.fill_(-1), mask
    block = max(triton.next_power_of_2(chunk), 16)
    per_program = max(1, 1024 // block)
    _hard_kernel[(triton.cdiv(rows, per_program),)](
        scores, scores if valid is None else valid, ks, values, indices, mask,
        rows, n, width, scores.stride(0), 0 if valid is None else valid.stride(0), chunks, chunk,
        HAS_VALID=valid is not None, WRITE_MASK=want_mask,
        WIDE=scores.dtype == torch.float64, DROP=_DROP.get(scores.dtype, 0),
        ROWS=per_program, BLOCK=block, BLOCK_K=max(triton.next_power_of_2(width), 16),
        num_warps=min(max(block * per_program // 512, 1), 16),
    )  # fmt: skip
    return values, indices, mask


def _in_chunks(
    scores: Tensor, ks: Tensor, width: int, valid: Tensor | None, want_mask: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Exact top-k of each chunk, then of the candidates, which stand in the order of position."""
    rows, n = scores.shape
    # (rows * chunks, keep); index -1 marks a spare slot
    values, where, _ = _one_pass(scores, ks, min(width, _CHUNK), valid, False, chunk=_CHUNK)
    where = where.view(rows, -1)
    values, picked, _ = hard_topk_rows(values.view(rows, -1), ks, width, where >= 0, False)
    indices = torch.where(picked >= 0, where.gather(1, picked.clamp(min=0)), -1)
    mask = torch.zeros(rows, n + 1 if want_mask else 0, dtype=torch.bool, device=scores.device)
    if want_mask:
        mask = mask.scatter_(1, torch.where(indices >= 0, indices, n), True)[:, :n]
    return values, indices, mask
