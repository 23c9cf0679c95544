"""What Triton kernels read and write, counted in the interpreter."""

from __future__ import annotations

import pytest
import torch

from topk_lib.grading import local
from topk_lib.grading.reads import counted_reads

triton = pytest.importorskip("triton")
import triton.language as tl  # noqa: E402


@triton.jit  # type: ignore[untyped-decorator]
def twice(x, out, n, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    column = tl.arange(0, BLOCK)
    first = tl.load(x)
    row = tl.load(x + column, mask=column < n, other=0)
    tl.store(out + column, row + first, mask=column < n)


@triton.jit  # type: ignore[untyped-decorator]
def bins(x, out, n, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    column = tl.arange(0, BLOCK)
    value = tl.load(x + column, mask=column < n, other=0)
    tl.atomic_add(out + value, 1, mask=column < n)


def run(kernel: object, n: int) -> torch.Tensor:
    out = torch.zeros(8, dtype=torch.int32)
    kernel[(1,)](torch.arange(8, dtype=torch.int32) % 3, out, n, BLOCK=8)  # type: ignore[index]
    return out


@pytest.mark.skipif(torch.cuda.is_available(), reason="kernels are compiled here, not interpreted")
def test_reads_and_writes_are_counted_and_what_a_mask_leaves_out_is_not() -> None:
    with counted_reads() as counts:
        assert run(twice, 5).tolist() == [0, 1, 2, 0, 1, 0, 0, 0]
    assert counts == {"read": 6, "written": 5, "at once": 5}
    run(twice, 5)
    assert counts["read"] == 6  # nothing is counted outside
    with counted_reads() as counts:
        assert run(bins, 7).tolist()[:3] == [3, 2, 2]
    assert counts == {"read": 7, "written": 7, "at once": 7}


@pytest.mark.skipif(torch.cuda.is_available(), reason="kernels are compiled here, not interpreted")
def test_a_counted_answer_tells_what_its_kernels_read() -> None:
    def answer(n: int) -> torch.Tensor:
        return run(twice, n)

    _, counts = local(answer).counted(4)
    kernels = {name: n for name, n in counts.by_name.items() if name.startswith("triton ")}
    assert kernels == {"triton read": 5, "triton written": 4, "triton at once": 4}
    assert counts.calls == sum(counts.by_name.values()) - sum(kernels.values())
