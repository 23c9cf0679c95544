"""Checks for the chapter on the GPU."""

from __future__ import annotations

import math
from typing import Any

import torch

from topk_lib.checks.base import check
from topk_lib.reference import hard_topk

__all__ = ["check_bytes", "check_limit", "check_mask_kernel"]


@check
def check_bytes(answer: float) -> str:
    """Check the bytes of 100 rows of 1,000 float32 scores, k = 10, everything moved once."""
    right = 100 * (1000 * 4 + 1000 + 10 * 12)
    wrong = {
        100 * 1000 * 4: "that is the reading alone; mask, values and indices are written too",
        100 * (1000 * 4 + 1000 + 10 * 8): "an index takes 8 bytes (int64) and a value 4, together 12",
        100 * (1000 * 4 + 10 * 12): "the mask is written too, one byte a score",
        100 * (1000 * 4 + 1000 * 4 + 10 * 12): "a bool of the mask takes one byte, not four",
    }
    if float(answer) == right:
        return "Right."
    return f"Not yet: {wrong.get(int(answer), 'count the scores read, the mask, the values, the indices')}."


@check
def check_limit(answer: str) -> str:
    """Check what limits 30 steps of 3 operations a score at 60e12 operations and 3e12 bytes a second."""
    text = answer.strip().lower()
    if text.startswith(("arith", "comput")):
        return (
            "Right: 90 operations a score take 1.5 picoseconds, its 4 bytes 1.33. "
            "With 26 steps it would be the other way round."
        )
    if text.startswith(("mem", "band")):
        return "Not yet: 90 operations at 60e12 a second take 1.5 picoseconds. And 4 bytes at 3e12 a second?"
    return 'Not yet: answer "arithmetic" or "memory".'


@check
def check_mask_kernel(kernel: Any) -> str:
    """Check a learner's Triton kernel that writes the mask of a row from its k-th largest score.

    The kernel's arguments: ``scores`` (rows, n) float32, ``edges`` (rows,) float32, ``ks`` (rows,)
    int32, ``out`` (rows, n) int8, ``n``, and ``BLOCK`` (tl.constexpr), a power of two >= n. One
    program a row.
    """

    def run(scores: torch.Tensor, k: int) -> torch.Tensor:
        rows, n = scores.shape
        edges = scores.sort(dim=-1, descending=True).values[:, k - 1].contiguous()
        # A frame of 7s around the output shows what was written outside it.
        framed = torch.full((rows * n + 64,), 7, dtype=torch.int8, device=scores.device)
        block = max(16, 1 << math.ceil(math.log2(n)))
        ks = torch.full((rows,), k, dtype=torch.int32, device=scores.device)
        kernel[(rows,)](scores, edges, ks, framed[: rows * n].view(rows, n), n, BLOCK=block)
        return framed

    device = "cuda" if torch.cuda.is_available() else "cpu"
    clear = torch.tensor([[3.0, 1, 4, 1.5, 5, 9, 2, 6, 0.5, 0.2, 8, 7, -1, -2, -3, -4]])
    tied = torch.tensor([[1.0, 2.0, 2.0, 0.0, 2.0, 3.0, 2.0, 0.0] * 2])
    short = torch.tensor([[1.0, 5.0, 3.0], [2.0, 0.0, 4.0]])
    negative = torch.tensor([[-1.0, -5.0, -3.0], [-2.0, -9.0, -4.0]])
    cases = (("clear", clear, 4), ("tied", tied, 5), ("short", short, 2), ("negative", negative, 2))
    for name, scores, k in cases:
        try:
            framed = run(scores.to(device), k)
        except Exception as error:  # whatever the learner's kernel raises is what to tell
            last_line = str(error).splitlines()[-1][:200]
            return f"Not yet: the kernel stops with {type(error).__name__}: {last_line}"
        got = framed[: scores.numel()].view_as(scores).cpu()
        outside = framed[scores.numel() :]
        want = hard_topk(scores, k).to(torch.int8)
        if name == "short" and bool((outside != 7).any()):
            return (
                "Almost: with n = 3 and BLOCK = 16 the kernel writes past the end of the last row. "
                "Give tl.load and tl.store the mask column < n."
            )
        if torch.equal(got, want):
            continue
        if bool((got == 7).all()):
            return "Not yet: nothing was written; end with tl.store(out + row * n + column, ...)."
        if name == "tied" and int(got.sum()) > k:
            return (
                f"Almost: {int(got.sum())} are chosen where k = {k}: all that are tied at the edge. Keep "
                "the first of them, as many as there is room for: tl.cumsum(equal) <= k - count(greater)."
            )
        if name == "tied" and int(got.sum()) < k:
            return f"Almost: only {int(got.sum())} of {k} are chosen: some that equal the edge belong too."
        if name == "tied":
            return "Almost: as many as there should be, but of those tied at the edge the first count."
        if name == "negative":
            return (
                "Almost: it is right for positive scores, wrong for negative ones: what is loaded beyond the "
                "row is 0 then, and larger than they are. Use other=-float('inf'), or column < n."
            )
        if name == "short":
            return (
                "Almost: it is right where n is a power of two, wrong for n = 3 with BLOCK = 16: what is "
                "loaded beyond the row must not count. Use other=-float('inf'), or column < n."
            )
        return (
            f"Not yet: for {scores[0].tolist()}, k = {k}, it gives {got[0].tolist()}, not {want[0].tolist()}."
        )
    return "Right."
