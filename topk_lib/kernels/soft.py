"""Soft top-k in Triton: tau by Newton's method from near the k-th largest, and the closed-form gradient.

The steps end when every row of the program is solved; halving a bracket bounds their number.
Float32 scores bound it by memory on a T4 and barely on an A100, by arithmetic on an H100, as counted in
compiled code: each of some four steps takes an exponential and a quotient of every score, a dozen
instructions; telling infinities and NaN takes as many.
A program holds a row in registers, so that the forward pass reads it once and writes it once; the
backward pass reads scores and gradient once and writes once. The link is a compile-time constant.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from topk_lib.kernels.hard import _widen

__all__ = ["MAX_BLOCK", "soft_backward_rows", "soft_topk_rows"]

MAX_BLOCK = 32768
_LINKS = {"sigmoid": 0, "laplace": 1, "clip": 2, "exp": 3}
# Halving alone finds delta in so many steps; beyond FAR a weight is 0 or 1, as on a CPU. A step below
# EPS, twice the type's own, moves no weight: f rises by 1 at most where z does. NEAR squared is EPS / 4.
_SOLVER = {
    torch.float32: {"STEPS": 40, "FAR": 60.0, "EPS": 2.0**-22, "NEAR": 2.0**-12},
    torch.float64: {"STEPS": 60, "FAR": 300.0, "EPS": 2.0**-51, "NEAR": 2.0**-26.5},
}


@triton.jit
def _link(z, LINK: tl.constexpr):  # type: ignore[no-untyped-def]
    """The weight f(z) and its slope f'(z)."""
    small = tl.exp(-tl.abs(z))
    if LINK == 0:
        inverse = 1.0 / (1.0 + small)
        f = tl.where(z >= 0, inverse, small * inverse)
        d = small * inverse * inverse
    elif LINK == 1:
        f = tl.where(z >= 0, 1.0 - 0.5 * small, 0.5 * small)
        d = 0.5 * small
    elif LINK == 2:
        f = tl.minimum(tl.maximum(z, 0.0), 1.0)
        d = tl.where((z > 0) & (z < 1), 1.0, 0.0)
    else:
        f = tl.where(z >= 0, 1.0, small)
        d = tl.where(z >= 0, 0.0, small)
    return f, d


@triton.jit
def _weigh(u, delta, LINK: tl.constexpr):  # type: ignore[no-untyped-def]
    """The weights f(u - delta), and slopes that are good enough to step by."""
    if LINK == 0:
        # exp(delta - u), in one product and sum; where it is infinite, f is 0.
        f = 1.0 / (1.0 + tl.exp2((delta * 1.4426950408889634)[:, None] - u * 1.4426950408889634))
        d = f - f * f
    else:
        f, d = _link(u - delta[:, None], LINK)
    return f, d


@triton.jit
def _turned(bits, WIDE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Bits of floats as whole numbers in the same order, and back again."""
    if WIDE:
        return bits ^ ((bits >> 63) & tl.full(bits.shape, 2**63 - 1, tl.int64))
    return bits ^ ((bits >> 31) & tl.full(bits.shape, 2**31 - 1, tl.int32))


@triton.jit
def _between(low, high, t, WIDE: tl.constexpr):  # type: ignore[no-untyped-def]
    """The mean of two numbers where halving is soon within t, else the one halfway among the type's own."""
    whole: tl.constexpr = tl.int64 if WIDE else tl.int32
    a = _turned(low.to(whole, bitcast=True), WIDE)
    b = _turned(high.to(whole, bitcast=True), WIDE)
    halfway = _turned((a >> 1) + (b >> 1) + (a & b & 1), WIDE).to(low.dtype, bitcast=True)
    return tl.where(high - low < t * 1048576.0, low / 2 + high / 2, halfway)


@triton.jit
def _near_kth(s, need, low, high, t, solve, WIDE: tl.constexpr):  # type: ignore[no-untyped-def]
    """A number that ``need`` of s reach: the last of them lies within t of it, or is the least to reach it.

    At least ``need`` must reach ``low``, and the largest must be ``high``, all (ROWS,). The signs of
    differences are counted.
    """
    whole: tl.constexpr = tl.int64 if WIDE else tl.int32
    sign: tl.constexpr = tl.uint64 if WIDE else tl.uint32
    last: tl.constexpr = 63 if WIDE else 31
    # What is looked for lies below ``high``: the next number after the largest (whose -0.0 becomes 0.0).
    high = (high + 0.0).to(whole, bitcast=True)
    high = _turned(_turned(high, WIDE) + 1, WIDE).to(low.dtype, bitcast=True)
    middle = _between(low, high, t, WIDE)
    found = need - need + s.shape[1]
    going = solve & (middle > low) & (middle < high) & (high - low > t)
    open_rows = tl.max(going.to(tl.int32), axis=0)
    while open_rows > 0:
        below = (s - middle[:, None]).to(sign, bitcast=True) >> last
        count = s.shape[1] - tl.sum(below.to(tl.int32), axis=1)
        enough = count >= need
        low = tl.where(going & enough, middle, low)
        found = tl.where(going & enough, count, found)
        high = tl.where(going & (count < need), middle, high)
        middle = _between(low, high, t, WIDE)
        going = going & (found > need) & (middle > low) & (middle < high) & (high - low > t)
        open_rows = tl.max(going.to(tl.int32), axis=0)
    return low


@triton.jit
def _forward_kernel(  # type: ignore[no-untyped-def]
    scores, valid, ks, temperatures, weights, taus,
    rows, n, score_stride, valid_stride,
    HAS_VALID: tl.constexpr, LINK: tl.constexpr, STEPS: tl.constexpr, FAR: tl.constexpr, EPS: tl.constexpr,
    NEAR: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)  # (ROWS,)
    column = tl.arange(0, BLOCK)  # (BLOCK,)
    inside = (row < rows)[:, None] & (column < n)[None, :]  # (ROWS, BLOCK)
    inf = float("inf")
    x = tl.load(scores + row[:, None] * score_stride + column[None, :], mask=inside, other=-inf)
    s = _widen(x).to(weights.dtype.element_ty)
    ok = inside
    known = n
    if HAS_VALID:
        flag = tl.load(valid + row[:, None] * valid_stride + column[None, :], mask=inside, other=0)
        ok = inside & (flag != 0)
        s = tl.where(ok, s, -inf)
        known = tl.sum(ok.to(tl.int32), axis=1)
    k = tl.load(ks + row, mask=row < rows, other=0.0)  # (ROWS,)
    t = tl.load(temperatures + row, mask=row < rows, other=1.0)

    live = tl.abs(s) < inf
    # Two counts in one sum, 16 bits each; the others are -inf, unless NaN has broken the row.
    both = tl.sum(tl.where(live, 1, tl.where(s > 0, 65536, 0)), axis=1)
    bottoms = (known - (both & 65535) - ((both >> 16) & 65535)).to(t.dtype)
    count = (both & 65535).to(t.dtype)
    tops = ((both >> 16) & 65535).to(t.dtype)
    broken = tl.max((s != s).to(tl.int32), axis=1) > 0
    left = k - tops
    solve = (left > 0) & (left < count)
    left = tl.where(solve, left, 0.0)

    # tau = pivot + t * delta, the pivot a score within t of the k-th largest. Scores near the threshold
    # lose nothing when it is taken off, and what lies FAR away has weight 0 or 1, so that numbers of
    # every size will do.
    number = tl.where(live, s, -inf)
    live = number > -inf  # again: cheaper than to keep the answer
    highest = tl.where(solve, tl.max(number, axis=1), 0.0)
    least = tl.where(solve, tl.min(tl.where(live, s, inf), axis=1), 0.0)
    edge = _near_kth(number, tl.ceil(left).to(tl.int32), least, highest, t, solve, WIDE)
    pivot = tl.min(tl.where(number >= edge[:, None], number, inf), axis=1)
    pivot = tl.where(solve, pivot, 0.0)
    u = (number - pivot[:, None]) * (1.0 / t)[:, None]
    # What is not live weighs nothing at -4 FAR, wherever delta goes.
    u = tl.minimum(tl.maximum(u, -4 * FAR), FAR)
    delta = left - left
    low = delta - FAR
    high = delta + FAR
    before = delta + inf
    step = 0
    open_rows = 1
    while (step < STEPS) & (open_rows > 0):
        f, d = _weigh(u, delta, LINK)
        total = tl.sum(f, axis=1)
        slope = tl.sum(d, axis=1)
        excess = tl.where(solve, total - left, 0.0)
        low = tl.where(excess > 0, delta, low)
        high = tl.where(excess < 0, delta, high)
        # Newton's step for log(total), which is nearly a line where tails are summed: fewer steps.
        slope_or_1 = tl.where(slope > 0, slope, 1.0)
        newton = delta + total / slope_or_1 * tl.log(total / tl.where(solve, left, 1.0))
        good = (slope > 0) & (newton > low) & (newton < high) & (tl.abs(excess) < before / 2)
        before = tl.abs(excess)
        after = tl.where(excess == 0, delta, tl.where(good, newton, (low + high) / 2))
        enough = EPS * tl.maximum(tl.abs(delta), 1.0)
        if LINK < 2:  # no kinks: |f''| <= f' <= f, so that such a step h leaves h * h at most
            enough = tl.where(good, NEAR, enough)
        moved = tl.abs(after - delta) > enough
        delta = after
        step += 1
        open_rows = tl.max(moved.to(tl.int32), axis=0)

    f, _ = _weigh(u, delta, LINK)
    all_in = k - tops >= count
    spare = tl.maximum(k - tops, 0.0) - count
    nan = tl.where(broken, float("nan"), 0.0)  # added to every weight of the row
    share_top = tl.minimum(k / tl.maximum(tops, 1.0), 1.0) + nan
    share_bottom = tl.minimum(tl.maximum(spare / tl.maximum(bottoms, 1.0), 0.0), 1.0) + nan
    same = tl.where(all_in, 1.0, 0.0) + nan
    f = tl.where(solve[:, None], f + nan[:, None], same[:, None])
    f = tl.where(live, f, tl.where(s > 0, share_top[:, None], share_bottom[:, None]))
    if HAS_VALID:
        f = tl.where(ok, f, 0.0)
    tl.store(weights + row[:, None] * n + column[None, :], f, mask=inside)
    pivot = tl.where(solve, pivot, tl.where(all_in, -inf, inf))
    tl.store(taus + 2 * row, tl.where(broken, nan, pivot), mask=row < rows)
    tl.store(taus + 2 * row + 1, tl.where(solve, delta * t, 0.0), mask=row < rows)


@triton.jit
def _backward_kernel(  # type: ignore[no-untyped-def]
    scores, valid, taus, temperatures, grads, g_scores, g_ks, g_temperatures,
    rows, n, score_stride, valid_stride, grad_stride,
    HAS_VALID: tl.constexpr, LINK: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    inside = (row < rows)[:, None] & (column < n)[None, :]
    s = tl.load(scores + row[:, None] * score_stride + column[None, :], mask=inside, other=0.0)
    g = tl.load(grads + row[:, None] * grad_stride + column[None, :], mask=inside, other=0.0)
    wide = g_ks.dtype.element_ty
    s = _widen(s).to(wide)
    g = _widen(g).to(wide)
    live = inside & (s == s) & (tl.abs(s) < float("inf"))
    if HAS_VALID:
        flag = tl.load(valid + row[:, None] * valid_stride + column[None, :], mask=inside, other=0)
        live = live & (flag != 0)
    pivot = tl.load(taus + 2 * row, mask=row < rows, other=0.0)
    delta = tl.load(taus + 2 * row + 1, mask=row < rows, other=0.0)
    t = tl.load(temperatures + row, mask=row < rows, other=1.0)
    live = live & (tl.abs(pivot) < float("inf"))[:, None]
    z = (tl.where(live, s - pivot[:, None], 0.0) - delta[:, None]) / t[:, None]
    live = live & (tl.abs(z) < float("inf"))
    z = tl.where(live, z, 0.0)
    _, d = _link(z, LINK)
    d = tl.where(live, d, 0.0)
    total = tl.sum(d, axis=1)
    gbar = tl.sum(d * g, axis=1) / tl.where(total > 0, total, 1.0)
    out = d / t[:, None] * (g - gbar[:, None])
    tl.store(g_scores + row[:, None] * n + column[None, :], out, mask=inside)
    tl.store(g_ks + row, gbar, mask=row < rows)
    tl.store(g_temperatures + row, -tl.sum(z * out, axis=1), mask=row < rows)


def _shape(n: int) -> dict[str, int]:
    block = max(triton.next_power_of_2(n), 16)
    per_program = max(1, 1024 // block)
    return {"BLOCK": block, "ROWS": per_program, "num_warps": min(max(block * per_program // 1024, 1), 16)}


def soft_topk_rows(
    scores: Tensor, ks: Tensor, temperatures: Tensor, valid: Tensor | None, link: str
) -> tuple[Tensor, Tensor]:
    """Solve each row.

    Args:
        scores: (rows, n), n <= MAX_BLOCK, contiguous along n.
        ks, temperatures: (rows,), float32 (float64 for float64 scores); the quotients by the
            temperatures must be finite.
        valid: (rows, n) bool, contiguous along n, or None.

    Returns:
        weights (rows, n) in the type of ``ks``, and tau as a sum of two, (rows, 2).
    """
    rows, n = scores.shape
    weights, taus = ks.new_empty(rows, n), ks.new_empty(rows, 2)
    if rows and n:
        shape = _shape(n)
        _forward_kernel[(triton.cdiv(rows, shape["ROWS"]),)](
            scores, scores if valid is None else valid, ks, temperatures, weights, taus,
            rows, n, scores.stride(0), 0 if valid is None else valid.stride(0),
            HAS_VALID=valid is not None, LINK=_LINKS[link], WIDE=ks.dtype == torch.float64,
            **_SOLVER[ks.dtype], **shape,
        )  # fmt: skip
    return weights, taus


def soft_backward_rows(
    scores: Tensor, taus: Tensor, temperatures: Tensor, valid: Tensor | None, link: str, grads: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients with respect to scores (rows, n), k (rows,) and temperature (rows,)."""
    rows, n = scores.shape
    g_scores = torch.empty_like(scores)
    g_ks, g_temperatures = torch.zeros_like(temperatures), torch.zeros_like(temperatures)
    if rows and n:
        shape = _shape(n)
        _backward_kernel[(triton.cdiv(rows, shape["ROWS"]),)](
            scores, scores if valid is None else valid, taus, temperatures, grads,
            g_scores, g_ks, g_temperatures,
            rows, n, scores.stride(0), 0 if valid is None else valid.stride(0), grads.stride(0),
            HAS_VALID=valid is not None, LINK=_LINKS[link], **shape,
        )  # fmt: skip
    return g_scores, g_ks, g_temperatures
