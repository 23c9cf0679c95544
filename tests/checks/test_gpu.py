"""The checks of the chapter on the GPU tell right from wrong, and say what is wrong."""

from __future__ import annotations

from typing import Any

import pytest

from topk_lib import checks

triton = pytest.importorskip("triton")
import triton.language as tl  # noqa: E402


@triton.jit
def right(scores, edges, ks, out, n, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row, column = tl.program_id(0), tl.arange(0, BLOCK)
    x = tl.load(scores + row * n + column, mask=column < n, other=-float("inf"))
    edge, k = tl.load(edges + row), tl.load(ks + row)
    greater = x > edge
    equal = (x == edge) & (column < n)
    chosen = greater | (equal & (tl.cumsum(equal.to(tl.int32)) <= k - tl.sum(greater.to(tl.int32))))
    tl.store(out + row * n + column, chosen.to(tl.int8), mask=column < n)


@triton.jit
def all_ties(scores, edges, ks, out, n, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row, column = tl.program_id(0), tl.arange(0, BLOCK)
    x = tl.load(scores + row * n + column, mask=column < n, other=-float("inf"))
    chosen = x >= tl.load(edges + row)
    tl.store(out + row * n + column, chosen.to(tl.int8), mask=column < n)


@triton.jit
def no_ties(scores, edges, ks, out, n, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row, column = tl.program_id(0), tl.arange(0, BLOCK)
    x = tl.load(scores + row * n + column, mask=column < n, other=-float("inf"))
    tl.store(out + row * n + column, (x > tl.load(edges + row)).to(tl.int8), mask=column < n)


@triton.jit
def past_the_end(scores, edges, ks, out, n, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row, column = tl.program_id(0), tl.arange(0, BLOCK)
    x = tl.load(scores + row * n + column, mask=column < n, other=-float("inf"))
    edge, k = tl.load(edges + row), tl.load(ks + row)
    greater, equal = x > edge, x == edge
    chosen = greater | (equal & (tl.cumsum(equal.to(tl.int32)) <= k - tl.sum(greater.to(tl.int32))))
    tl.store(out + row * n + column, chosen.to(tl.int8))


@triton.jit
def silent(scores, edges, ks, out, n, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    tl.load(scores + tl.program_id(0) * n)


@pytest.mark.parametrize(
    ("kernel", "says"),
    [
        (right, "Right."),
        (all_ties, "all that are tied at the edge"),
        (no_ties, "Not yet: for"),
        (past_the_end, "writes past the end"),
        (silent, "nothing was written"),
    ],
)
def test_mask_kernel(kernel: Any, says: str) -> None:
    assert says in checks.check_mask_kernel(kernel)


def test_numbers() -> None:
    assert checks.check_bytes(512_000) == "Right."
    assert "reading alone" in checks.check_bytes(400_000)
    assert "12" in checks.check_bytes(508_000)
    assert checks.check_limit("Arithmetic").startswith("Right")
    assert "picoseconds" in checks.check_limit("memory")
    assert "answer" in checks.check_limit("both")
