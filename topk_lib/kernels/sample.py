"""Sampling in Triton: top-k, top-p, min-p and the draw itself in one reading of the row.

The k-th largest key is found by halving, on a short list where k is small beside the row, as in
:mod:`topk_lib.kernels.hard`; the edge of the top-p set in the same way, with probabilities summed in
place of keys counted. Nothing is sorted. The draw walks the kept entries in the order of position.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from topk_lib.kernels.hard import (
    _DROP,
    _first,
    _keys,
    _kth_key,
    _reach,
    _shortlist,
    _widen,
    grouping,
    launch_shape,
)

__all__ = ["MAX_BLOCK", "fits", "sample_rows"]

MAX_BLOCK = 16384  # the longest row that is held whole


def fits(n: int, width: int) -> bool:
    """Whether one program draws from a row of n: it holds the row, or a short list of it."""
    return n <= (2 * MAX_BLOCK if grouping(n, width)[0] else MAX_BLOCK)


@triton.jit
def _sample_kernel(  # type: ignore[no-untyped-def]
    logits, ks, temperatures, top_ps, min_ps, uniforms, out, shortlists,
    rows, n, stride,
    NUCLEUS: tl.constexpr, LEAST: tl.constexpr, WIDE: tl.constexpr, DROP: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr, LOG: tl.constexpr, SHORT: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)  # (ROWS,)
    inf = float("inf")
    k = tl.load(ks + row, mask=row < rows, other=0)  # (ROWS,)
    logits += row[:, None] * stride
    if LOG == 0:
        column = tl.arange(0, BLOCK)[None, :]
        inside = (row < rows)[:, None] & (column < n)  # (ROWS, BLOCK)
        x = tl.load(logits + column, mask=inside, other=0.0)
        ok = inside & (x != -inf)
        key = _keys(x, ok, WIDE, DROP)
        k = tl.minimum(k, tl.sum(ok.to(tl.int32), axis=1))
        edge = _kth_key(key, k)
    else:
        x, key, column, k, low, high = _shortlist(
            logits, logits, tl.full((ROWS,), n, tl.int32), k, shortlists + row[:, None] * SHORT,
            False, WIDE, DROP, False, BLOCK, BLOCK_K, LOG, SHORT,
        )  # fmt: skip
        inside = key > 0
        ok = inside & (x != -inf)
        edge = _reach(key, k, low, high, k)
    broken = tl.max((inside & ((x != x) | (x == inf))).to(tl.int32), axis=1) > 0
    kept, _ = _first(key, edge, k)
    kept = kept & ok

    t = tl.load(temperatures + row, mask=row < rows, other=1.0)  # (ROWS,)
    s = _widen(x).to(t.dtype)
    peak = tl.max(tl.where(kept, s, -inf), axis=1)
    # The difference first: the quotient of a large score would be infinite.
    p = tl.where(kept, tl.exp((s - peak[:, None]) / t[:, None]), 0.0)
    if NUCLEUS:
        share = tl.load(top_ps + row, mask=row < rows, other=1.0)
        goal = share * tl.sum(p, axis=1)
        # The largest key whose upper set weighs at least the goal, which all that is kept does.
        high = tl.max(key, axis=1)
        open_rows = 1
        while open_rows > 0:
            middle = high - ((high - edge) >> 1)
            enough = tl.sum(tl.where(key >= middle[:, None], p, 0.0), axis=1) >= goal
            edge = tl.where(enough, middle, edge)
            high = tl.where(enough | (middle == edge), high, middle - 1)
            open_rows = tl.max((edge < high).to(tl.int32), axis=0)
        greater = key > edge[:, None]
        above = tl.sum(tl.where(greater, p, 0.0), axis=1)
        equal = kept & (key == edge[:, None])
        tied = tl.max(tl.where(equal, p, 0.0), axis=1)  # one entry's share
        rank = tl.cumsum(equal.to(tl.int32), axis=1)
        # of the tied, the first that are needed
        need = above[:, None] + (rank - 1).to(t.dtype) * tied[:, None] < goal[:, None]
        kept = kept & (greater | (equal & (need | (rank == 1))) | (share >= 1)[:, None])
    if LEAST:
        least = tl.load(min_ps + row, mask=row < rows, other=0.0)
        kept = kept & (p >= least[:, None])  # the share of the most likely entry is 1
    p = tl.where(kept, p, 0.0)

    u = tl.load(uniforms + row, mask=row < rows, other=0.0).to(t.dtype)
    walk = tl.cumsum(p, axis=1)
    past = kept & (walk > (u * tl.sum(p, axis=1))[:, None])
    first = tl.min(tl.where(past, column, n), axis=1)
    last = tl.max(tl.where(kept, column, -1), axis=1)
    drawn = tl.where(broken, -1, tl.minimum(first, last))
    tl.store(out + row, drawn.to(tl.int64), mask=row < rows)


def sample_rows(
    logits: Tensor,
    ks: Tensor,
    temperatures: Tensor,
    top_ps: Tensor | None,
    min_ps: Tensor | None,
    uniforms: Tensor,
    width: int,
) -> Tensor:
    """Draw one entry of each row.

    Args:
        logits: (rows, n), contiguous along n; :func:`fits` must say yes.
        ks: (rows,) int32, at least 1.
        temperatures: (rows,) float32 (float64 for float64 logits).
        top_ps: the same, in (0, 1], or None.
        min_ps: the same, in [0, 1], or None.
        uniforms: (rows,) in [0, 1).
        width: no k is larger.

    Returns:
        (rows,) int64; -1 in a row that holds NaN or +inf, or nothing but -inf.
    """
    rows, n = logits.shape
    out = logits.new_empty(rows, dtype=torch.int64)
    if rows:
        block = max(triton.next_power_of_2(n), 16)
        halvings, short = grouping(n, width)
        shape = launch_shape(block, halvings, logits.element_size())
        shortlists = torch.empty(rows, short, dtype=torch.int32, device=logits.device) if halvings else ks
        _sample_kernel[(triton.cdiv(rows, shape["ROWS"]),)](
            logits, ks, temperatures, temperatures if top_ps is None else top_ps,
            temperatures if min_ps is None else min_ps, uniforms, out, shortlists,
            rows, n, logits.stride(0),
            NUCLEUS=top_ps is not None, LEAST=min_ps is not None,
            WIDE=logits.dtype == torch.float64, DROP=_DROP.get(logits.dtype, 0),
            BLOCK=block, BLOCK_K=max(triton.next_power_of_2(width), 16), LOG=halvings, SHORT=short, **shape,
        )  # fmt: skip
    return out
