"""Answers to the third assignment that are known to be wrong, and some that are right in another style."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from topk_lib import hard_topk
from topk_lib.grading import right, wrong

try:
    import triton
    import triton.language as tl
except ImportError:
    from unittest.mock import MagicMock

    triton = tl = MagicMock()

Count = Callable[[list[int]], list[int]]
WHOLE = {
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}


# --- 1


def _keys(scores: Tensor) -> Tensor:
    whole = WHOLE[scores.dtype]
    most = torch.iinfo(whole).max
    bits = scores.view(whole)
    keys = torch.where(bits < 0, -(bits & most), bits)
    return torch.where(scores.isnan(), most, keys)


@wrong("to_keys", "the bits as they are: negative floats come in the wrong order")
def bits_as_they_are(scores: Tensor) -> Tensor:
    bits = scores.view(WHOLE[scores.dtype])
    return torch.where(scores.isnan(), torch.iinfo(bits.dtype).max, bits)


@wrong("to_keys", "all bits but the sign turned over: -0.0 stays below 0.0")
def minus_zero_below_zero(scores: Tensor) -> Tensor:
    bits = scores.view(WHOLE[scores.dtype])
    most = torch.iinfo(bits.dtype).max
    return torch.where(scores.isnan(), most, torch.where(bits < 0, bits ^ most, bits))


@wrong("to_keys", "NaN is forgotten: one with a sign ranks lowest")
def nan_by_its_bits(scores: Tensor) -> Tensor:
    bits = scores.view(WHOLE[scores.dtype])
    return torch.where(bits < 0, -(bits & torch.iinfo(bits.dtype).max), bits)


@wrong("to_keys", "NaN ranks lowest")
def nan_lowest(scores: Tensor) -> Tensor:
    keys = _keys(scores)
    return torch.where(scores.isnan(), torch.iinfo(keys.dtype).min, keys)


@wrong("to_keys", "NaN is told from infinity by isfinite, so that infinity becomes NaN")
def infinity_is_nan(scores: Tensor) -> Tensor:
    keys = _keys(scores)
    return torch.where(scores.isfinite(), keys, torch.iinfo(keys.dtype).max)


@wrong("to_keys", "everything is made float32 first")
def by_float32(scores: Tensor) -> Tensor:
    return _keys(scores.float())


@wrong("to_keys", "doubles are rounded to float32 first")
def doubles_rounded(scores: Tensor) -> Tensor:
    return _keys(scores.float()).long() if scores.dtype == torch.float64 else _keys(scores)


@wrong("to_keys", "the chapter's keys without a sign, in a wider integer")
def unsigned(scores: Tensor) -> Tensor:
    return _keys(scores).long() + 2**31


@wrong("to_keys", "ranks in this tensor in place of keys")
def ranks(scores: Tensor) -> Tensor:
    flat = scores.flatten()
    return flat.argsort(stable=True).argsort().view(scores.shape).to(WHOLE[scores.dtype])


@wrong("to_keys", "denormal numbers are taken for 0, as operations on floats may do")
def denormals_flushed(scores: Tensor) -> Tensor:
    tiny = torch.finfo(scores.dtype).tiny
    return torch.where(scores.abs() < tiny, 0, _keys(scores))


@wrong("to_keys", "the sign is lost")
def without_sign(scores: Tensor) -> Tensor:
    return _keys(scores).abs()


@wrong("to_keys", "the mask of float32 is used for every type")
def mask_of_float32(scores: Tensor) -> Tensor:
    bits = scores.view(WHOLE[scores.dtype])
    keys = torch.where(bits < 0, -(bits.long() & 0x7FFFFFFF), bits.long()).to(bits.dtype)
    return torch.where(scores.isnan(), torch.iinfo(bits.dtype).max, keys)


@wrong("to_keys", "the way back forgets the sign", name="from_keys")
def back_without_sign(keys: Tensor, name: str) -> Tensor:
    return keys.abs().view(getattr(torch, name))


@wrong("to_keys", "the way back turns bits over, where they were negated", name="from_keys")
def back_off_by_one(keys: Tensor, name: str) -> Tensor:
    return torch.where(keys < 0, keys ^ torch.iinfo(keys.dtype).max, keys).view(getattr(torch, name))


@wrong("to_keys", "the way back converts the number in place of reading its bits", name="from_keys")
def back_by_value(keys: Tensor, name: str) -> Tensor:
    return keys.to(getattr(torch, name))


@wrong("to_keys", "the way back always gives float32", name="from_keys")
def back_to_float32(keys: Tensor, name: str) -> Tensor:
    keys = keys.int()
    return torch.where(keys < 0, -keys | torch.iinfo(torch.int32).min, keys).view(torch.float32)


@right("to_keys", "bits turned over, and 1 added")
def turned_over(scores: Tensor) -> Tensor:
    bits = scores.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[scores.element_size()])
    most = torch.iinfo(bits.dtype).max
    keys = bits.clone()
    keys[bits < 0] = (bits[bits < 0] ^ most) + 1
    keys[scores != scores] = most
    return keys


@right("to_keys", "the sign bit by adding it", name="from_keys")
def back_by_adding(keys: Tensor, name: str) -> Tensor:
    least = torch.iinfo(keys.dtype).min
    return (keys.abs() + (keys < 0).to(keys.dtype) * least).view(getattr(torch, name))


# --- 2


def _order(scores: Tensor, valid: Tensor) -> Tensor:
    key = _keys(scores.float()).long() + 2**31
    return torch.where(valid, key, 0)


def _tau(key: Tensor, k: Tensor) -> Tensor:
    tau = torch.zeros_like(k)
    for bit in reversed(range(32)):
        reach = (key >= tau + (1 << bit)).sum(-1, keepdim=True)
        tau = torch.where(reach >= k, tau + (1 << bit), tau)
    return tau


def _mask(key: Tensor, k: Tensor, valid: Tensor) -> Tensor:
    tau = _tau(key, k)
    above, equal = key > tau, (key == tau) & valid
    return above | (equal & (equal.cumsum(-1) <= k - above.sum(-1, keepdim=True)))


def _k(ks: Tensor, valid: Tensor) -> Tensor:
    return torch.minimum(ks, valid.sum(-1))[:, None]


@wrong("choose_rows", "all that reach the threshold: more than k where scores tie (seen in public code)")
def all_that_reach(scores: Tensor, ks: Tensor, valid: Tensor) -> Tensor:
    key, k = _order(scores, valid), _k(ks, valid)
    return (key >= _tau(key, k)) & valid & (k > 0)


@wrong("choose_rows", "only what is above the threshold: fewer than k")
def only_above(scores: Tensor, ks: Tensor, valid: Tensor) -> Tensor:
    key = _order(scores, valid)
    return key > _tau(key, _k(ks, valid))


@wrong("choose_rows", "padding becomes -inf, and is chosen where real scores are -inf (seen in public code)")
def padding_minus_infinity(scores: Tensor, ks: Tensor, valid: Tensor) -> Tensor:
    scores = scores.float().masked_fill(~valid, -torch.inf)
    everywhere = torch.ones_like(valid)
    return _mask(_order(scores, everywhere), _k(ks, valid), everywhere)


@wrong("choose_rows", "padding becomes -1e9, above what is smaller")
def padding_minus_a_lot(scores: Tensor, ks: Tensor, valid: Tensor) -> Tensor:
    scores = scores.float().masked_fill(~valid, -1e9)
    everywhere = torch.ones_like(valid)
    return _mask(_order(scores, everywhere), _k(ks, valid), everywhere)


@wrong("choose_rows", "valid is not looked at")
def padding_counts(scores: Tensor, ks: Tensor, valid: Tensor) -> Tensor:
    everywhere = torch.ones_like(valid)
    return _mask(_order(scores, everywhere), ks[:, None], everywhere)


@wrong("choose_rows", "k is not limited to the valid positions, and padding fills up")
def filled_up(scores: Tensor, ks: Tensor, valid: Tensor) -> Tensor:
    return _mask(_order(scores, valid), ks[:, None], torch.ones_like(valid))


@wrong("choose_rows", "NaN is made -inf")
def nan_low(scores: Tensor, ks: Tensor, valid: Tensor) -> Tensor:
    scores = scores.float()
    scores = torch.where(scores.isnan(), -torch.inf, scores)
    return _mask(_order(scores, valid), _k(ks, valid), valid)


@wrong("choose_rows", "NaN is made inf, and ties with it")
def nan_is_infinity(scores: Tensor, ks: Tensor, valid: Tensor) -> Tensor:
    scores = scores.float()
    scores = torch.where(scores.isnan(), torch.inf, scores)
    return _mask(_order(scores, valid), _k(ks, valid), valid)


@wrong("choose_rows", "one k for all rows")
def one_k(scores: Tensor, ks: Tensor, valid: Tensor) -> Tensor:
    return _mask(_order(scores, valid), _k(ks.max().expand_as(ks), valid), valid)


@wrong("choose_rows", "a k of 0 takes one")
def at_least_one(scores: Tensor, ks: Tensor, valid: Tensor) -> Tensor:
    return _mask(_order(scores, valid), _k(ks.clamp(min=1), valid), valid)


@wrong("choose_rows", "of equal scores the highest position wins")
def last_of_equals(scores: Tensor, ks: Tensor, valid: Tensor) -> Tensor:
    key = _order(scores, valid).flip(-1)
    return _mask(key, _k(ks, valid), valid.flip(-1)).flip(-1)


@wrong("choose_rows", "-0.0 is smaller than 0.0")
def signed_zero(scores: Tensor, ks: Tensor, valid: Tensor) -> Tensor:
    key = _order(scores, valid)
    minus = valid & (scores == 0) & scores.signbit()
    return _mask(key - minus.long(), _k(ks, valid), valid)


@wrong("choose_rows", "scores are rounded to bfloat16")
def rounded(scores: Tensor, ks: Tensor, valid: Tensor) -> Tensor:
    return _mask(_order(scores.bfloat16(), valid), _k(ks, valid), valid)


@wrong("choose_rows", "a loop over the rows")
def row_by_row(scores: Tensor, ks: Tensor, valid: Tensor) -> Tensor:
    rows = [
        _mask(
            _order(scores[r : r + 1], valid[r : r + 1]), _k(ks[r : r + 1], valid[r : r + 1]), valid[r : r + 1]
        )
        for r in range(len(scores))
    ]
    return torch.cat(rows)


@wrong("choose_rows", "by sorting")
def by_sorting(scores: Tensor, ks: Tensor, valid: Tensor) -> Tensor:
    key = _order(scores, valid)
    place = key.sort(dim=-1, descending=True, stable=True).indices.argsort(dim=-1)
    return (place < ks[:, None]) & valid


@wrong("choose_rows", "by the library")
def by_library(scores: Tensor, ks: Tensor, valid: Tensor) -> Tensor:
    return hard_topk(scores, ks, valid=valid).mask


@wrong("choose_rows", "torch.topk, whose ties fall anywhere")
def by_topk(scores: Tensor, ks: Tensor, valid: Tensor) -> Tensor:
    order = scores.float().masked_fill(~valid, -torch.inf).topk(scores.shape[-1]).indices
    place = torch.arange(scores.shape[-1]).expand_as(order)
    return torch.zeros_like(order).scatter(-1, order, place) < _k(ks, valid)


@right("choose_rows", "the position is made part of the key, so that nothing ties")
def without_ties(scores: Tensor, ks: Tensor, valid: Tensor) -> Tensor:
    n = scores.shape[-1]
    x = scores.to(torch.float32)
    x = torch.where(x == 0, torch.zeros_like(x), x)
    bits = x.view(torch.int32).to(torch.int64) & 0xFFFFFFFF
    key = torch.where(bits >> 31 == 1, 0xFFFFFFFF - bits, bits + 2**31)
    key = torch.where(x.isnan(), 0xFFFFFFFF, key)
    pair = torch.where(valid, (key << 20) + (n - 1 - torch.arange(n)), -1)
    tau = torch.zeros(len(ks), 1, dtype=torch.int64)
    for bit in range(51, -1, -1):
        higher = tau | (1 << bit)
        tau = torch.where((pair >= higher).sum(-1, keepdim=True) >= ks[:, None], higher, tau)
    return (pair >= tau) & (ks[:, None] > 0)


# --- 3


def _edge(count: Count, k: int, bits: int, digit: int, fault: str = "") -> tuple[int, int]:
    edge, above, left = 0, 0, bits
    passes = bits // digit if fault == "passes" else -(-bits // digit)
    for _ in range(passes):
        size = 1 if fault == "bits" else min(digit, left)
        left -= size
        first = 0 if fault == "wide" else 1
        reached = list(count([edge + (v << left) for v in range(first, 1 << size)]))[1 - first :]
        if k in reached and fault not in ("late", "more"):
            stop = edge + ((reached.index(k) + 1) << left)
            return {"edge": (stop, 0), "all": (stop, k)}.get(fault, (stop - 1, 0))
        enough = [v for v, found in enumerate(reached, 1) if (found > k if fault == "more" else found >= k)]
        best = max(enough, default=0)
        if best < len(reached):
            above = reached[best]
        elif fault == "forgets":
            above = 0
        edge += best << left
    return edge, {"one": 1, "k": k}.get(fault, k - above)


@wrong("find_edge", "one bit a question, whatever the digit")
def bit_by_bit(count: Count, k: int, bits: int, digit: int) -> tuple[int, int]:
    edge, above = 0, 0
    for bit in reversed(range(bits)):
        found = count([edge + (1 << bit)])[0]
        if found == k:
            return edge + (1 << bit) - 1, 0
        edge, above = (edge + (1 << bit), above) if found > k else (edge, found)
    return edge, k - above


@wrong("find_edge", "each question asks for the edge that is known, too")
def one_edge_more(count: Count, k: int, bits: int, digit: int) -> tuple[int, int]:
    return _edge(count, k, bits, digit, "wide")


@wrong("find_edge", "it goes on to the last bit though all is settled")
def never_stops(count: Count, k: int, bits: int, digit: int) -> tuple[int, int]:
    return _edge(count, k, bits, digit, "late")


@wrong("find_edge", "the keys above are forgotten where the largest digit is found")
def forgets_above(count: Count, k: int, bits: int, digit: int) -> tuple[int, int]:
    return _edge(count, k, bits, digit, "forgets")


@wrong("find_edge", "one place, as if no two keys were equal")
def no_two_equal(count: Count, k: int, bits: int, digit: int) -> tuple[int, int]:
    return _edge(count, k, bits, digit, "one")


@wrong("find_edge", "k places, as if nothing were above")
def k_places(count: Count, k: int, bits: int, digit: int) -> tuple[int, int]:
    return _edge(count, k, bits, digit, "k")


@wrong("find_edge", "more than k must reach the edge, not at least k")
def more_than_k(count: Count, k: int, bits: int, digit: int) -> tuple[int, int]:
    return _edge(count, k, bits, digit, "more")


@wrong("find_edge", "the bits that are left over are not asked for")
def bits_left_over(count: Count, k: int, bits: int, digit: int) -> tuple[int, int]:
    return _edge(count, k, bits, digit, "passes")


@wrong("find_edge", "where it stops, the keys equal to the edge are lost")
def stops_at_the_edge(count: Count, k: int, bits: int, digit: int) -> tuple[int, int]:
    return _edge(count, k, bits, digit, "edge")


@wrong("find_edge", "where it stops, k places are given below the edge")
def stops_with_all(count: Count, k: int, bits: int, digit: int) -> tuple[int, int]:
    return _edge(count, k, bits, digit, "all")


@wrong("find_edge", "k counts from 0")
def k_from_zero(count: Count, k: int, bits: int, digit: int) -> tuple[int, int]:
    return _edge(count, k + 1, bits, digit)


@wrong("find_edge", "the k-th largest and no places")
def the_key_alone(count: Count, k: int, bits: int, digit: int) -> int:
    return _edge(count, k, bits, digit)[0]


@wrong("find_edge", "all keys are fetched, one question a value")
def value_by_value(count: Count, k: int, bits: int, digit: int) -> tuple[int, int]:
    edge = 2 ** min(bits, 12) - 1
    while edge > 0 and count([edge])[0] < k:
        edge -= 1
    return edge, k - (count([edge + 1])[0])


@right("find_edge", "an interval cut into equal parts")
def by_intervals(count: Count, k: int, bits: int, digit: int) -> tuple[int, int]:
    low, high, above = 0, 2**bits, 0  # low is reached by k or more, high by fewer
    while high - low > 1:
        parts = min(2**digit, high - low)
        edges = [low + (high - low) * part // parts for part in range(parts - 1, 0, -1)]
        for edge, found in zip(edges, count(edges), strict=True):
            if found == k:
                return (edge - 1, 0)
            if found > k:
                low = edge
                break
            high, above = edge, found
    return (low, k - above)


# --- 4


@triton.jit
def _count(keys, prefixes, counts, n, shift, FAULT: tl.constexpr, VALUES: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    value = tl.arange(0, VALUES)
    total = tl.zeros([VALUES], tl.int32)
    prefix = tl.load(prefixes + (0 if FAULT == "first" else row))
    stride = BLOCK if FAULT == "stride" else n
    end = n
    if FAULT == "tail":
        end = n // BLOCK * BLOCK
    if FAULT == "block":
        end = tl.minimum(n, BLOCK)
    for start in range(0, end, BLOCK):
        column = start + tl.arange(0, BLOCK)
        inside = column < n
        key = tl.load(keys + row * stride + column, mask=inside, other=0)
        if FAULT == "twice":
            key = tl.maximum(key, tl.load(keys + row * stride + column, mask=inside, other=0))
        if FAULT == "outside":
            inside = column >= 0
        if FAULT == "signed":
            key = key.to(tl.int32)
        if FAULT == "whole":
            mine = inside & (key >> shift == prefix)
        else:
            mine = inside & ((key >> shift) // VALUES == prefix)
        if FAULT == "all":
            mine = inside
        digit = (key >> shift) & (VALUES - 1)
        if FAULT == "turned":
            digit = VALUES - 1 - digit
        found = tl.sum((mine[:, None] & (digit[:, None] == value[None, :])).to(tl.int32), axis=0)
        total = found if FAULT == "last" else total + found
    if FAULT == "reach":
        total = tl.cumsum(total, axis=0, reverse=True)
    tl.store(counts + row * VALUES + value, total)


def _counts(
    keys: Tensor, prefixes: Tensor, shift: int, digit: int, fault: str = "", block: int = 64
) -> Tensor:
    rows, n = keys.shape
    counts = torch.empty(rows, 2**digit, dtype=torch.int32)
    _count[(rows,)](keys, prefixes, counts, n, shift, FAULT=fault, VALUES=2**digit, BLOCK=block)
    return counts


@wrong("digit_counts", "all keys count, whatever they begin with")
def prefix_ignored(keys: Tensor, prefixes: Tensor, shift: int, digit: int) -> Tensor:
    return _counts(keys, prefixes, shift, digit, "all")


@wrong("digit_counts", "every row has the first row's prefix")
def first_prefix(keys: Tensor, prefixes: Tensor, shift: int, digit: int) -> Tensor:
    return _counts(keys, prefixes, shift, digit, "first")


@wrong("digit_counts", "the prefix is compared with the digit's own bits, too")
def prefix_with_digit(keys: Tensor, prefixes: Tensor, shift: int, digit: int) -> Tensor:
    return _counts(keys, prefixes, shift, digit, "whole")


@wrong("digit_counts", "what is loaded beyond the row is counted as key 0")
def zeros_beyond(keys: Tensor, prefixes: Tensor, shift: int, digit: int) -> Tensor:
    return _counts(keys, prefixes, shift, digit, "outside")


@wrong("digit_counts", "the last block, which is not full, is left out")
def tail_lost(keys: Tensor, prefixes: Tensor, shift: int, digit: int) -> Tensor:
    return _counts(keys, prefixes, shift, digit, "tail")


@wrong("digit_counts", "one block and no loop")
def first_block(keys: Tensor, prefixes: Tensor, shift: int, digit: int) -> Tensor:
    return _counts(keys, prefixes, shift, digit, "block")


@wrong("digit_counts", "each block begins to count anew")
def last_block(keys: Tensor, prefixes: Tensor, shift: int, digit: int) -> Tensor:
    return _counts(keys, prefixes, shift, digit, "last")


@wrong("digit_counts", "keys in 32 bits with a sign: the topmost digit turns negative")
def with_a_sign(keys: Tensor, prefixes: Tensor, shift: int, digit: int) -> Tensor:
    return _counts(keys, prefixes, shift, digit, "signed")


@wrong("digit_counts", "the row is read twice")
def read_twice(keys: Tensor, prefixes: Tensor, shift: int, digit: int) -> Tensor:
    return _counts(keys, prefixes, shift, digit, "twice")


@wrong("digit_counts", "the whole row is loaded at once, however long")
def all_at_once(keys: Tensor, prefixes: Tensor, shift: int, digit: int) -> Tensor:
    return _counts(keys, prefixes, shift, digit, block=1024)


@wrong("digit_counts", "digits counted from the top")
def turned_digits(keys: Tensor, prefixes: Tensor, shift: int, digit: int) -> Tensor:
    return _counts(keys, prefixes, shift, digit, "turned")


@wrong("digit_counts", "how many reach each value, in place of how many have it")
def that_value_or_more(keys: Tensor, prefixes: Tensor, shift: int, digit: int) -> Tensor:
    return _counts(keys, prefixes, shift, digit, "reach")


@wrong("digit_counts", "rows as far apart as blocks")
def wrong_stride(keys: Tensor, prefixes: Tensor, shift: int, digit: int) -> Tensor:
    room = torch.zeros(keys.numel() + 64 * len(keys), dtype=torch.int64)  # so that nothing strange is read
    room[: keys.numel()] = keys.flatten()
    return _counts(room[: keys.numel()].view_as(keys), prefixes, shift, digit, "stride")


@wrong("digit_counts", "PyTorch counts, and no kernel")
def no_kernel(keys: Tensor, prefixes: Tensor, shift: int, digit: int) -> Tensor:
    mine = (keys >> (shift + digit)) == prefixes[:, None]
    value = (keys >> shift) & (2**digit - 1)
    hit = value[..., None] == torch.arange(2**digit)
    return (hit & mine[..., None]).sum(1)


@triton.jit
def _count_apart(keys, prefixes, counts, n, shift, digit, VALUES: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    key = tl.load(keys + row * n + column, mask=column < n, other=-1)
    mine = (column < n) & (key >> (shift + digit) == tl.load(prefixes + row))
    tl.atomic_add(counts + row * VALUES + ((key >> shift) & (VALUES - 1)), 1, mask=mine)


@right("digit_counts", "a program for each block, which add up with atomics")
def with_atomics(keys: Tensor, prefixes: Tensor, shift: int, digit: int) -> Tensor:
    rows, n = keys.shape
    counts = torch.zeros(rows, 2**digit, dtype=torch.int64)
    grid = (rows, triton.cdiv(n, 256))
    _count_apart[grid](keys, prefixes, counts, n, shift, digit, VALUES=2**digit, BLOCK=256)
    return counts


# --- 5


@triton.jit
def _write(keys, edges, places, out, n, width, FAULT: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    edge = tl.load(edges + row)
    room = tl.load(places + row)
    seen = tl.zeros([], tl.int32)
    written = tl.zeros([], tl.int32)
    for start in range(0, n, BLOCK):
        column = start + tl.arange(0, BLOCK)
        key = tl.load(keys + row * n + column, mask=column < n, other=0)
        equal = (key == edge) & (column < n)
        if FAULT != "padding":
            equal = equal & (key > 0)
        number = seen + tl.cumsum(equal.to(tl.int32), axis=0)
        chosen = (key > edge) | (equal & (number <= room))
        if FAULT == "all":
            chosen = (key > edge) | equal
        if FAULT == "none":
            chosen = key > edge
        slot = written + tl.cumsum(chosen.to(tl.int32), axis=0) - 1
        tl.store(out + row * width + slot, column.to(tl.int64), mask=chosen & (slot < width))
        if FAULT != "seen":
            seen += tl.sum(equal.to(tl.int32), axis=0)
        if FAULT != "written":
            written += tl.sum(chosen.to(tl.int32), axis=0)


def _radix(keys: Tensor, ks: Tensor, digit: int, fault: str = "") -> Tensor:
    rows, n = keys.shape
    width = int(ks.max())
    out = torch.full((rows, width), 0 if fault == "spare" else -1)
    if width == 0:
        return out
    if fault == "one k":
        ks = ks.max().expand_as(ks).contiguous()
    if fault == "limit":
        ks = ks.clamp(min=1)
    edges, places, left = torch.zeros_like(ks), ks.clone(), 32
    for _ in range(32 // digit if fault == "passes" else -(-32 // digit)):
        size = min(digit, left)
        left -= size
        counts = _counts(keys, edges, left, size, "twice" if fault == "twice" else "").long()
        reach = counts.flip(-1).cumsum(-1).flip(-1)
        value = (reach >= places[:, None]).sum(-1) - (fault != "high")
        value = value.clamp(0, 2**size - 1)
        if fault != "places":
            places = places - (reach - counts).gather(-1, value[:, None])[:, 0]
        edges = (edges << size) + value
    if fault == "passes":
        edges = edges << left
    if fault == "again":  # a pass more, to count what is above
        _counts(keys, edges, 0, 1)
    edges = torch.where(ks > 0, edges, 2**32)
    _write[(rows,)](keys, edges, places, out, n, width, FAULT=fault, BLOCK=64)
    return out


@wrong("radix_topk", "all that equal the edge are chosen, as far as there is room")
def equals_all(keys: Tensor, ks: Tensor, digit: int) -> Tensor:
    return _radix(keys, ks, digit, "all")


@wrong("radix_topk", "none that equal the edge are chosen")
def equals_none(keys: Tensor, ks: Tensor, digit: int) -> Tensor:
    return _radix(keys, ks, digit, "none")


@wrong("radix_topk", "each block numbers the equal keys anew")
def equals_anew(keys: Tensor, ks: Tensor, digit: int) -> Tensor:
    return _radix(keys, ks, digit, "seen")


@wrong("radix_topk", "each block writes to the first slots")
def slots_anew(keys: Tensor, ks: Tensor, digit: int) -> Tensor:
    return _radix(keys, ks, digit, "written")


@wrong("radix_topk", "padding is chosen where real keys run out")
def takes_padding(keys: Tensor, ks: Tensor, digit: int) -> Tensor:
    return _radix(keys, ks, digit, "padding")


@wrong("radix_topk", "the places are not reduced by the keys above")
def places_stay(keys: Tensor, ks: Tensor, digit: int) -> Tensor:
    return _radix(keys, ks, digit, "places")


@wrong("radix_topk", "each digit is taken one too high")
def one_too_high(keys: Tensor, ks: Tensor, digit: int) -> Tensor:
    return _radix(keys, ks, digit, "high")


@wrong("radix_topk", "the bits that are left over are not looked at")
def left_over(keys: Tensor, ks: Tensor, digit: int) -> Tensor:
    return _radix(keys, ks, digit, "passes")


@wrong("radix_topk", "one k for all rows")
def the_largest_k(keys: Tensor, ks: Tensor, digit: int) -> Tensor:
    return _radix(keys, ks, digit, "one k")


@wrong("radix_topk", "a k of 0 takes one")
def one_at_least(keys: Tensor, ks: Tensor, digit: int) -> Tensor:
    return _radix(keys, ks, digit, "limit")


@wrong("radix_topk", "spare slots hold 0, which is a position")
def spare_slots_zero(keys: Tensor, ks: Tensor, digit: int) -> Tensor:
    return _radix(keys, ks, digit, "spare")


@wrong("radix_topk", "each pass reads the row twice")
def each_pass_twice(keys: Tensor, ks: Tensor, digit: int) -> Tensor:
    return _radix(keys, ks, digit, "twice")


@wrong("radix_topk", "one pass more, to count again what is known")
def one_pass_more(keys: Tensor, ks: Tensor, digit: int) -> Tensor:
    return _radix(keys, ks, digit, "again")


@wrong("radix_topk", "one bit a pass, whatever the digit")
def a_bit_a_pass(keys: Tensor, ks: Tensor, digit: int) -> Tensor:
    return _radix(keys, ks, 1)


@wrong("radix_topk", "the order of size in place of the order of positions")
def in_order_of_size(keys: Tensor, ks: Tensor, digit: int) -> Tensor:
    out = _radix(keys, ks, digit)
    size = torch.where(out >= 0, keys.gather(-1, out.clamp(min=0)), -1)
    return out.gather(-1, size.argsort(dim=-1, descending=True, stable=True))


@wrong("radix_topk", "the library's operator, and no kernel of one's own")
def library_instead(keys: Tensor, ks: Tensor, digit: int) -> Tensor:
    return hard_topk(keys.double(), ks, valid=keys > 0).indices


@triton.jit
def _whole(keys, ks, out, n, width, DIGIT: tl.constexpr, PASSES: tl.constexpr,
           VALUES: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    row = tl.program_id(0)
    value = tl.arange(0, VALUES)
    place = tl.load(ks + row)
    edge = tl.zeros([], tl.int64)
    for turn in range(PASSES):
        shift = (PASSES - 1 - turn) * DIGIT  # the first digit has what is left over
        total = tl.zeros([VALUES], tl.int64)
        for start in range(0, n, BLOCK):
            column = start + tl.arange(0, BLOCK)
            key = tl.load(keys + row * n + column, mask=column < n, other=-1)
            mine = (key >= 0) & (key >> (shift + DIGIT) == edge)
            hit = ((key >> shift) & (VALUES - 1))[:, None] == value[None, :]
            total += tl.sum((hit & mine[:, None]).to(tl.int64), axis=0)
        reach = tl.cumsum(total, axis=0, reverse=True)
        digit = tl.maximum(tl.sum((reach >= place).to(tl.int64), axis=0) - 1, 0)
        place -= tl.sum(tl.where(value > digit, total, 0), axis=0)
        edge = edge * VALUES + digit
    seen = tl.zeros([], tl.int64)
    written = tl.zeros([], tl.int64)
    for start in range(0, n, BLOCK):
        column = start + tl.arange(0, BLOCK)
        key = tl.load(keys + row * n + column, mask=column < n, other=0)
        equal = (key == edge) & (key > 0)
        number = seen + tl.cumsum(equal.to(tl.int64), axis=0)
        chosen = (key > edge) | (equal & (number <= place))
        slot = written + tl.cumsum(chosen.to(tl.int64), axis=0) - 1
        tl.store(out + row * width + slot, column.to(tl.int64), mask=chosen)
        seen += tl.sum(equal.to(tl.int64), axis=0)
        written += tl.sum(chosen.to(tl.int64), axis=0)


@right("radix_topk", "one kernel for everything, the odd digit first")
def all_in_one_kernel(keys: Tensor, ks: Tensor, digit: int) -> Tensor:
    width = int(ks.max())
    out = torch.full((len(keys), width), -1)
    if width:
        _whole[(len(keys),)](keys, ks, out, keys.shape[1], width, DIGIT=digit,
                             PASSES=-(-32 // digit), VALUES=2**digit, BLOCK=256)  # fmt: skip
    return out
