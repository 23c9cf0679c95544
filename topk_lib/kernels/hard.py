"""Hard top-k in Triton: a short list first, then the k-th largest key by halving, then one pass to write.

Each score becomes an unsigned integer that orders as the contract says (-0.0 = +0.0, NaN highest,
invalid entries 0, below -inf). Where k is small beside the row, groups of neighbours are first judged
by their largest score, and only those that may hold one of the k are looked into. Ties go to the
lowest index by a running count; no atomics. A row comes from memory once: what is looked into again
has just been read.
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
def _keys(x, valid, WIDE: tl.constexpr, DROP: tl.constexpr, SMALLEST: tl.constexpr = False):  # type: ignore[no-untyped-def]
    """Numbers that order as the scores do (SMALLEST: the other way round), NaN first (last); invalid: 0.

    Those of 16 bits (DROP) come as int32, so that the sign of a difference compares two of them.
    """
    kind: tl.constexpr = tl.uint64 if WIDE else tl.uint32
    if WIDE:
        x = x.to(tl.float64)
        bits = (x + 0.0).to(tl.int64, bitcast=True)  # -0.0 + 0.0 = 0.0
        flips = (bits >> 63) | tl.full(bits.shape, -(2**63), tl.int64)
    else:
        x = _widen(x).to(tl.float32)
        bits = (x + 0.0).to(tl.int32, bitcast=True)
        flips = (bits >> 31) | tl.full(bits.shape, -(2**31), tl.int32)
    last = tl.full(bits.shape, -1, bits.dtype)
    if SMALLEST:
        flips = flips ^ last
    key = (bits ^ flips).to(kind, bitcast=True) >> DROP
    nan = tl.full(bits.shape, 1, kind) if SMALLEST else last.to(kind, bitcast=True) >> DROP
    key = tl.where(x != x, nan, key)
    if DROP > 0:
        key = key.to(tl.int32, bitcast=True)
    return tl.where(valid, key, key ^ key)


@triton.jit
def _reach(key, k, low, high, most):  # type: ignore[no-untyped-def]
    """A key that at least ``k`` and at most ``most`` keys of the row reach, (ROWS,).

    Where no key is such, because of ties, it is the k-th largest. At least k keys must reach ``low``,
    and the k-th largest must not lie above ``high``. The space between is halved.
    """
    found = k - k + key.shape[1]
    open_rows = 1
    while open_rows > 0:
        middle = high - ((high - low) >> 1)
        if key.dtype == tl.int32:  # one instruction takes off, another adds up signs
            below = (key - middle[:, None]).to(tl.uint32, bitcast=True) >> 31
            count = key.shape[1] - tl.sum(below.to(tl.int32), axis=1)
        else:
            count = tl.sum((key >= middle[:, None]).to(tl.int32), axis=1)
        enough = count >= k
        low = tl.where(enough, middle, low)
        found = tl.where(enough, count, found)
        high = tl.where(enough, high, middle - 1)
        open_rows = tl.max(((found > most) & (low < high)).to(tl.int32), axis=0)
    return low


@triton.jit
def _kth_key(key, k):  # type: ignore[no-untyped-def]
    """The largest key that at least k keys of the row reach, (ROWS,)."""
    high = tl.max(key, axis=1)
    return _reach(key, k, high ^ high, high, k)


@triton.jit
def _first(key, threshold, room):  # type: ignore[no-untyped-def]
    """What lies above the threshold, and of what equals it the first, until ``room`` are chosen.

    Returns chosen, and for each the number chosen before it; both (ROWS, n). One running sum
    counts both kinds, 16 bits each. An invalid entry's key, 0, equals a threshold only where room is 0.
    """
    greater = key > threshold[:, None]
    equal = key == threshold[:, None]
    both = tl.cumsum(greater.to(tl.int32) * 65536 + equal.to(tl.int32), axis=1)
    spare = room - tl.sum(greater.to(tl.int32), axis=1)
    ties = both & 65535
    chosen = greater | (equal & (ties <= spare[:, None]))
    return chosen, (both >> 16) + tl.minimum(ties, spare[:, None]) - 1


@triton.jit
def _largest(x, HALVINGS: tl.constexpr, SMALLEST: tl.constexpr):  # type: ignore[no-untyped-def]
    """The largest of each row of (groups, 2 ** HALVINGS), (1, groups), NaN above all; or the smallest."""
    for _ in tl.static_range(HALVINGS):
        a, b = tl.split(tl.reshape(x, (x.shape[0], x.shape[1] // 2, 2)))
        # the smaller is the number, where one is NaN
        x = tl.minimum(a, b) if SMALLEST else tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)
    return tl.reshape(x, (1, x.shape[0]))


@triton.jit
def _shortlist(  # type: ignore[no-untyped-def]
    scores, valid, length, k, spots,
    HAS_VALID: tl.constexpr, WIDE: tl.constexpr, DROP: tl.constexpr, SMALLEST: tl.constexpr,
    BLOCK: tl.constexpr, BLOCK_K: tl.constexpr, LOG: tl.constexpr, SHORT: tl.constexpr,
):  # fmt: skip
    """The few scores of one row among which its k largest are.

    Groups of 2 ** LOG neighbours stand for their largest. The k groups with the largest of these (ties
    to the first) hold the k largest scores (ties to the first): whoever is left out has k before it.
    Up to SHORT groups are taken, read again and returned in the order of position.

    Args:
        scores, valid, spots: (1, 1) pointers to the row's scores, flags and SHORT int32 of its own.
        length, k: (1,), the row's scores, and how many are wanted.

    Returns:
        scores, keys (0: no score) and columns, all (1, SHORT * 2 ** LOG); k, no more than there are valid
        scores; a key that k scores reach, and the largest key.
    """
    SIZE: tl.constexpr = 2**LOG
    GROUPS: tl.constexpr = BLOCK // SIZE
    CROWDS: tl.constexpr = max(BLOCK_K, 32)
    column = tl.arange(0, GROUPS)[:, None] * SIZE + tl.arange(0, SIZE)[None, :]
    ok = column < length[:, None]  # (GROUPS, SIZE)
    # Beyond the row stands what ranks last, behind all that ties with it.
    x = tl.load(scores + column, mask=ok, other=float("nan") if SMALLEST else -float("inf"))
    if HAS_VALID:
        ok = ok & (tl.load(valid + column, mask=ok, other=0) != 0)
        k = tl.minimum(k, tl.sum(tl.reshape(ok.to(tl.int32), (1, BLOCK)), axis=1))
        top = tl.reshape(tl.max(_keys(x, ok, WIDE, DROP, SMALLEST), axis=1), (1, GROUPS))
    else:
        k = tl.minimum(k, length)
        best = _largest(_widen(x), LOG, SMALLEST)
        top = _keys(best, tl.full((1, GROUPS), 1, tl.int1), WIDE, DROP, SMALLEST)
    # CROWDS of groups, at least k of them: the least of their largest keys is reached k times.
    low = tl.min(tl.reshape(tl.max(tl.reshape(top, (GROUPS // CROWDS, CROWDS)), axis=0), (1, CROWDS)), axis=1)
    high = tl.max(top, axis=1)
    room = k - k + SHORT
    low = _reach(top, k, low, high, room)
    kept, slot = _first(top, low, room)
    tl.store(spots + slot, tl.arange(0, GROUPS)[None, :], mask=kept)
    tl.debug_barrier()
    taken = tl.arange(0, SHORT)[:, None] < tl.sum(kept.to(tl.int32), axis=1)[:, None]  # (SHORT, 1)
    group = tl.load(spots + tl.arange(0, SHORT)[:, None], mask=taken, other=0)
    column = group * SIZE + tl.arange(0, SIZE)[None, :]  # (SHORT, SIZE)
    ok = taken & (column < length[:, None])
    x = tl.load(scores + column, mask=ok, other=0.0)
    if HAS_VALID:
        ok = ok & (tl.load(valid + column, mask=ok, other=0) != 0)
    key = tl.reshape(_keys(x, ok, WIDE, DROP, SMALLEST), (1, SHORT * SIZE))
    column = tl.reshape(column, (1, SHORT * SIZE))
    return tl.reshape(x, (1, SHORT * SIZE)), key, column, k, low, high


@triton.jit
def _hard_kernel(  # type: ignore[no-untyped-def]
    scores, valid, ks, out_values, out_indices, out_mask, shortlists,
    rows, n, width, score_stride, valid_stride, chunks, chunk,
    HAS_VALID: tl.constexpr, WRITE_MASK: tl.constexpr, WIDE: tl.constexpr, DROP: tl.constexpr,
    SMALLEST: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr, LOG: tl.constexpr, SHORT: tl.constexpr,
):  # fmt: skip
    # A row is one chunk of a row of the scores, or all of it.
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)  # (ROWS,)
    whole = row // chunks
    start = ((row % chunks) * chunk).to(tl.int32)  # (ROWS,), its first column
    length = tl.minimum(n - start, chunk)  # (ROWS,)
    k = tl.minimum(tl.load(ks + whole, mask=row < rows, other=0), width)  # (ROWS,)
    scores += (whole * score_stride + start)[:, None]
    valid += (whole * valid_stride + start)[:, None]
    out_mask += (whole * n + start)[:, None]
    every = tl.arange(0, BLOCK)[None, :]  # counted from the first column
    inside = (row < rows)[:, None] & (every < length[:, None])  # (ROWS, BLOCK)
    if LOG == 0:
        column = every
        ok = inside
        x = tl.load(scores + column, mask=ok, other=0.0)
        if HAS_VALID:
            ok = ok & (tl.load(valid + column, mask=ok, other=0) != 0)
            k = tl.minimum(k, tl.sum(ok.to(tl.int32), axis=1))
        else:
            k = tl.minimum(k, length)
        key = _keys(x, ok, WIDE, DROP, SMALLEST)
        threshold = _kth_key(key, k)
    else:
        if WRITE_MASK:  # before the barrier; the chosen follow
            tl.store(out_mask + every, tl.zeros((ROWS, BLOCK), tl.int1), mask=inside)
        _, key, column, k, low, high = _shortlist(
            scores, valid, length, k, shortlists + row[:, None] * SHORT,
            HAS_VALID, WIDE, DROP, SMALLEST, BLOCK, BLOCK_K, LOG, SHORT,
        )  # fmt: skip
        threshold = _reach(key, k, low, high, k)
    chosen, slot = _first(key, threshold, k)
    out_indices += row[:, None] * width
    tl.store(out_indices + slot, (start[:, None] + column).to(tl.int64), mask=chosen)
    if WRITE_MASK and LOG == 0:
        tl.store(out_mask + column, chosen, mask=inside)
    # The columns are read back, k in a row: to scatter values and mask from the whole row costs more.
    tl.debug_barrier()
    place = tl.arange(0, BLOCK_K)[None, :]
    slots = (row < rows)[:, None] & (place < width)  # (ROWS, BLOCK_K)
    used = slots & (place < k[:, None])
    column = tl.load(out_indices + place, mask=used, other=0) - start[:, None]
    value = tl.load(scores + column, mask=used, other=0.0)
    tl.store(out_values + row[:, None] * width + place, value, mask=slots)
    tl.store(out_indices + place, tl.full((ROWS, BLOCK_K), -1, tl.int64), mask=slots & (place >= k[:, None]))
    if WRITE_MASK and LOG > 0:
        tl.store(out_mask + column, tl.full((ROWS, BLOCK_K), 1, tl.int1), mask=used)


def grouping(n: int, width: int) -> tuple[int, int]:
    """The base-2 logarithm of the scores in a group, 0 for no groups, and the groups to look into.

    Twice as many as must be chosen, so that the search for them can stop early. Groups grow with
    the row: many small ones are many to search, few large ones leave many scores to look into.
    """
    block, short = triton.next_power_of_2(n), max(2 * triton.next_power_of_2(width), 64)
    log = 2
    while short << (2 * log + 2) <= block:
        log += 1
    return (log if short << log <= block // 2 else 0), short


def launch_shape(block: int, halvings: int, size: int) -> dict[str, int]:
    """Rows a program and its warps, for scores of ``size`` bytes.

    Where groups are formed a thread takes 64 scores, or 128 of two bytes: each warp more pays for
    every round once more. Else it takes 16.
    """
    rows = 1 if halvings else max(1, 1024 // block)
    share = 512 if not halvings else 4096 if size == 2 else 2048
    return {"ROWS": rows, "num_warps": min(max(block * rows // share, 1), 16)}


def fits(n: int, width: int) -> bool:
    """Whether these kernels choose ``width`` of n: in long rows the candidates must become fewer."""
    return n <= MAX_BLOCK or width <= _CHUNK // 2


def hard_topk_rows(
    scores: Tensor,
    ks: Tensor,
    width: int,
    valid: Tensor | None,
    want_mask: bool = True,
    largest: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """Choose in each row, in the order of position.

    Args:
        scores: (rows, n), contiguous along n.
        ks: (rows,) int32.
        width: the largest k.
        valid: (rows, n) bool, contiguous along n, or None.
        want_mask: whether to write the mask; an empty one is returned otherwise.
        largest: False for the k smallest, NaN last.

    Returns:
        values (rows, width), indices (rows, width) int64, mask (rows, n) bool.
    """
    n = scores.shape[1]
    if n > (MAX_BLOCK if grouping(n, width)[0] else _ROOMY) and width <= _CHUNK // 2:
        return _in_chunks(scores, ks, width, valid, want_mask, largest)
    return _one_pass(scores, ks, width, valid, want_mask, largest)


def _one_pass(
    scores: Tensor,
    ks: Tensor,
    width: int,
    valid: Tensor | None,
    want_mask: bool,
    largest: bool,
    chunk: int | None = None,
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
    halvings, short = grouping(chunk, width)
    shortlist = torch.empty(rows, short, dtype=torch.int32, device=scores.device) if halvings else ks
    shape = launch_shape(block, halvings, scores.element_size())
    _hard_kernel[(triton.cdiv(rows, shape["ROWS"]),)](
        scores, scores if valid is None else valid, ks, values, indices, mask, shortlist,
        rows, n, width, scores.stride(0), 0 if valid is None else valid.stride(0), chunks, chunk,
        HAS_VALID=valid is not None, WRITE_MASK=want_mask,
        WIDE=scores.dtype == torch.float64, DROP=_DROP.get(scores.dtype, 0), SMALLEST=not largest,
        BLOCK=block, BLOCK_K=max(triton.next_power_of_2(width), 16), LOG=halvings, SHORT=short, **shape,
    )  # fmt: skip
    return values, indices, mask


def _in_chunks(
    scores: Tensor, ks: Tensor, width: int, valid: Tensor | None, want_mask: bool, largest: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Exact top-k of each chunk, then of the candidates, which stand in the order of position."""
    rows, n = scores.shape
    # (rows * chunks, keep); index -1 marks a spare slot
    values, where, _ = _one_pass(scores, ks, min(width, _CHUNK), valid, False, largest, chunk=_CHUNK)
    where = where.view(rows, -1)
    values, picked, _ = hard_topk_rows(values.view(rows, -1), ks, width, where >= 0, False, largest)
    indices = torch.where(picked >= 0, where.gather(1, picked.clamp(min=0)), -1)
    mask = torch.zeros(rows, n + 1 if want_mask else 0, dtype=torch.bool, device=scores.device)
    if want_mask:
        mask = mask.scatter_(1, torch.where(indices >= 0, indices, n), True)[:, :n].contiguous()
    return values, indices, mask
