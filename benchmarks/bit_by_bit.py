"""Count a kernel of an earlier edition, guessed by eye then, as ``kernels.py`` counts.

    python benchmarks/bit_by_bit.py         write results/kernels/bit_by_bit.*.json

It held the row and went through the bits of the keys one by one, from the top. The book's page of wrong
numbers quotes this count; nothing else uses the kernel.
"""

from __future__ import annotations

import time

import torch
import triton
import triton.language as tl
from kernels import MIDDLE, Case, K, compiled  # type: ignore[import-not-found]

from topk_lib import records

CARD = "H200"


@triton.jit
def _keys(x, valid):  # type: ignore[no-untyped-def]
    x = tl.where(x == 0, 0.0, x)
    bits = x.to(tl.uint32, bitcast=True)
    top = tl.full(bits.shape, 1, tl.uint32) << 31
    flipped = bits ^ (top | (top - 1))
    key = tl.where((bits & top) != 0, flipped, bits | top)
    key = tl.where(x != x, bits | flipped, key)
    return tl.where(valid, key, key ^ key)


@triton.jit
def _kth_key(key, k):  # type: ignore[no-untyped-def]
    threshold = tl.sum(key ^ key, axis=1)
    one = threshold + 1
    reached = k - k + key.shape[1]
    bit = 32
    open_rows = 1
    while (bit > 0) & (open_rows > 0):
        bit -= 1
        candidate = threshold | (one << bit.to(one.dtype))  # type: ignore[attr-defined]
        count = tl.sum((key >= candidate[:, None]).to(tl.int32), axis=1)
        threshold = tl.where(count >= k, candidate, threshold)
        reached = tl.where(count >= k, count, reached)
        open_rows = tl.sum((reached != k).to(tl.int32), axis=0)
    return threshold


@triton.jit  # type: ignore[untyped-decorator]
def _kernel(  # type: ignore[no-untyped-def]
    scores, ks, out_values, out_indices, out_mask, rows, n, width, score_stride, chunks, chunk,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    whole = row // chunks
    start = ((row % chunks) * chunk).to(tl.int32)
    column = tl.arange(0, BLOCK)
    inside = (row < rows)[:, None] & (column[None, :] < tl.minimum(n - start, chunk)[:, None])
    first = (whole * score_stride + start)[:, None]
    x = tl.load(scores + first + column[None, :], mask=inside, other=0.0)
    key = _keys(x, inside)
    k = tl.load(ks + whole, mask=row < rows, other=0)
    k = tl.minimum(tl.minimum(k, width), tl.sum(inside.to(tl.int32), axis=1))

    threshold = _kth_key(key, k)
    greater = key > threshold[:, None]
    equal = (key == threshold[:, None]) & inside
    spare = k - tl.sum(greater.to(tl.int32), axis=1)
    chosen = greater | (equal & (tl.cumsum(equal.to(tl.int32), axis=1) <= spare[:, None]))
    slot = tl.cumsum(chosen.to(tl.int32), axis=1) - 1
    target = row[:, None] * width + slot
    tl.store(out_indices + target, (start[:, None] + column[None, :]).to(tl.int64), mask=chosen)
    tl.store(out_values + target, x, mask=chosen)
    tl.store(out_mask + (whole * n + start)[:, None] + column[None, :], chosen, mask=inside)
    place = tl.arange(0, BLOCK_K)
    empty = (row < rows)[:, None] & (place < width)[None, :] & (place[None, :] >= k[:, None])
    rest = row[:, None] * width + place[None, :]
    tl.store(out_indices + rest, tl.full((ROWS, BLOCK_K), -1, tl.int64), mask=empty)
    tl.store(out_values + rest, tl.zeros((ROWS, BLOCK_K), x.dtype), mask=empty)


def main() -> None:
    start = time.perf_counter()
    launch = {"ROWS": 1, "num_warps": 16}
    constants = {"BLOCK": MIDDLE, "BLOCK_K": K}
    facts = compiled(Case("hard", _kernel, MIDDLE, torch.float32, constants, launch, (0, 0)), CARD)
    (facts["loop_instructions"],) = facts["loop_instructions"]  # of its only loop
    records.write(
        "kernels", "bit_by_bit", metrics={f"hard-{MIDDLE}-{CARD}": facts},
        settings={"n": MIDDLE, "k": K, "card": CARD},
        data={"source": "none"}, seconds=time.perf_counter() - start,
    )  # fmt: skip


if __name__ == "__main__":
    main()
