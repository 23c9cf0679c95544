"""Compile every Triton kernel for real GPUs, without one, and record what its machine code will do.

    python benchmarks/kernels.py            write results/kernels/compiled.*.json
    python benchmarks/kernels.py --check    compile only, at the smallest sizes
    python benchmarks/kernels.py hard sort  compile and print the cases that begin so, no record

A kernel that runs in Triton's interpreter may still not compile. Triton brings NVIDIA's assembler, so
that each kernel can be compiled for a T4 (sm_75), an A100 (sm_80) and an H100 or H200 (sm_90) on any
x86 machine. ``machine_code.py`` counts a thread's instructions in the result: those outside loops, which run
once at most (a thread that skips some is counted as if it did not), and those of each loop, times its
rounds. Rounds depend on the scores: the typical number is the mean over random normal rows, followed
here step by step, and the most that there can be stands beside it. From the instructions comes the
least time at the card's issue rate, from the bytes that must move the least time at its bandwidth, for
4,096 rows that keep every multiprocessor busy. Neither knows latency, caches or waiting at barriers.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from machine_code import CARDS, count  # type: ignore[import-not-found]
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from topk_lib import records
from topk_lib.kernels import hard, route, sample, soft

SIZES = (1024, 8192, 32768)
MIDDLE = SIZES[1]
ROWS = 4096
K = 64
TEMPERATURE = 0.5
TYPES = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float64: "*fp64"}

Rounds = tuple[list[float], list[int]]  # of each loop: typical, most


class Case(NamedTuple):
    """A kernel at one shape: its constants, and what a row moves and repeats."""

    name: str
    kernel: Any
    n: int
    dtype: torch.dtype
    constants: dict[str, Any]
    launch: dict[str, int]  # ROWS, where the kernel has it, and num_warps
    moved: tuple[int, int]  # bytes of a row that must be read and written
    rounds: Callable[[], Rounds] = lambda: ([], [])


@triton.jit  # type: ignore[untyped-decorator]
def _sort_kernel(  # type: ignore[no-untyped-def]
    scores, out_values, out_indices, n, width, score_stride, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr
):  # fmt: skip
    """The peer: Triton's own ``tl.topk`` (a bitonic sort) of keys with their columns behind them."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    x = tl.load(scores + row * score_stride + column, mask=column < n, other=0.0)
    key = hard._keys(x, column < n, False, 0).to(tl.uint64)
    best = tl.topk((key << 32) | (BLOCK - 1 - column).to(tl.uint64), BLOCK_K)
    place = tl.arange(0, BLOCK_K)
    found = BLOCK - 1 - (best & (BLOCK - 1)).to(tl.int32)
    chosen = place < width
    tl.store(out_indices + row * width + place, found.to(tl.int64), mask=chosen)
    value = tl.load(scores + row * score_stride + found, mask=chosen, other=0.0)
    tl.store(out_values + row * width + place, value, mask=chosen)


def keys_of(scores: Tensor) -> Tensor:
    """The kernels' keys as int64, of scores without NaN."""
    bits = scores.view(torch.int16 if scores.dtype == torch.bfloat16 else torch.int32).long()
    low = 0x7FFF if scores.dtype == torch.bfloat16 else 0x7FFFFFFF
    return torch.where(bits < 0, ~(bits & low) & low, bits + low + 1)


def halve(keys: Tensor, k: int, low: Tensor, high: Tensor, most: int) -> tuple[Tensor, float]:
    """What ``_reach`` finds in each row (each in a program of its own), and its rounds on average."""
    found, rounds = torch.full_like(low, keys.shape[1]), 0.0
    going = torch.ones_like(low, dtype=torch.bool)
    while going.any():
        rounds += going.double().mean().item()
        middle = high - (high - low) // 2
        reached = (keys >= middle[:, None]).sum(1)
        enough = reached >= k
        low = torch.where(going & enough, middle, low)
        high = torch.where(going & ~enough, middle - 1, high)
        found = torch.where(going & enough, reached, found)
        going &= (found > most) & (low < high)
    return low, rounds


@functools.cache
def hard_rounds(n: int, k: int, dtype: torch.dtype, halvings: int, short: int) -> Rounds:
    keys = keys_of(torch.randn(100, n, generator=torch.Generator().manual_seed(0)).to(dtype))
    high, bits = keys.amax(1), 16 if dtype == torch.bfloat16 else 32
    if not halvings:
        return [halve(keys, k, torch.zeros_like(high), high, k)[1]], [bits]
    top = keys.view(100, -1, 2**halvings).amax(2)
    low = top.view(100, -1, max(triton.next_power_of_2(k), 32)).amax(1).amin(1)
    low, first = halve(top, k, low, high, short)
    return [first, halve(keys, k, low, high, k)[1]], [bits, bits]


def near_kth(scores: Tensor, k: int, t: float) -> tuple[Tensor, float]:
    """What ``soft._near_kth`` finds in each row of float32 scores, and its rounds on average."""
    low, high = scores.amin(1), scores.amax(1).nextafter(torch.tensor(torch.inf))
    found, rounds = torch.full(low.shape, scores.shape[1]), 0.0
    while True:
        # Of these rows the mean is what it goes on with: halving is soon within t.
        middle = low / 2 + high / 2
        going = (found > k) & (low < middle) & (middle < high) & (high - low > t)
        if not going.any():
            return low, rounds
        rounds += going.double().mean().item()
        count = (scores >= middle[:, None]).sum(1)
        low = torch.where(going & (count >= k), middle, low)
        found = torch.where(going & (count >= k), count, found)
        high = torch.where(going & (count < k), middle, high)


@functools.cache
def soft_rounds(n: int, k: int, dtype: torch.dtype, link: str) -> Rounds:
    """The halvings for a pivot, and Newton's steps, followed in float64 to float32's spacing."""
    scores = torch.randn(100, n, generator=torch.Generator().manual_seed(0)).to(dtype).float()
    edge, first = near_kth(scores, k, TEMPERATURE)
    pivot = scores.masked_fill(scores < edge[:, None], torch.inf).amin(1, keepdim=True)
    u = (scores.double() - pivot) / TEMPERATURE
    delta = torch.zeros(100, 1, dtype=torch.float64)
    going, steps = torch.ones(100, dtype=torch.bool), 0.0
    weights: dict[str, Callable[[Tensor], Tensor]] = {
        "sigmoid": torch.sigmoid,
        "laplace": lambda z: torch.where(z >= 0, 1 - 0.5 * torch.exp(-z.abs()), 0.5 * torch.exp(-z.abs())),
        "clip": lambda z: z.clamp(0, 1),
        "exp": lambda z: torch.exp(z.clamp(max=0)),
    }
    solver = soft._SOLVER[torch.float32]
    while going.any() and steps < solver["STEPS"]:
        steps += going.double().mean().item()
        z = (u - delta).requires_grad_()
        total = weights[link](z).sum(1, keepdim=True)
        (slopes,) = torch.autograd.grad(total.sum(), z)
        with torch.no_grad():
            step = total / slopes.sum(1, keepdim=True) * (total / k).log()
            delta = torch.where(going[:, None], delta + step, delta)
            going &= step[:, 0].abs() > solver["NEAR" if link in ("sigmoid", "laplace") else "EPS"]
    # At most 32 halvings of the numbers that there are, then 20 of what is left above t.
    return [first, steps], [52, int(solver["STEPS"])]


def hard_case(
    name: str,
    n: int,
    dtype: torch.dtype,
    k: int = K,
    valid: bool = False,
    mask: bool = True,
    largest: bool = True,
) -> Case:
    halvings, short = hard.grouping(n, k)
    drop = hard._DROP.get(dtype, 0)
    constants = {
        "HAS_VALID": valid, "WRITE_MASK": mask, "WIDE": dtype == torch.float64, "DROP": drop,
        "SMALLEST": not largest, "BLOCK": n, "BLOCK_K": triton.next_power_of_2(k),
        "LOG": halvings, "SHORT": short, "chunks": 1,
    }  # fmt: skip
    moved = n * dtype.itemsize + n * valid, n * mask + k * (dtype.itemsize + 8)
    simulated = torch.float32 if dtype == torch.float64 else dtype
    return Case(
        name, hard._hard_kernel, n, dtype, constants, hard.launch_shape(n, halvings, dtype.itemsize), moved,
        lambda: hard_rounds(n, k, simulated, halvings, short),
    )  # fmt: skip


def soft_cases(n: int) -> Iterator[Case]:
    shape = soft._shape(n)
    launch = {key: shape[key] for key in ("ROWS", "num_warps")}
    # The other links differ in a few instructions: one size of each will do.
    links = soft._LINKS if n == MIDDLE else {"sigmoid": soft._LINKS["sigmoid"]}
    for link, number in links.items():
        for dtype in (torch.float32, torch.bfloat16) if link == "sigmoid" else (torch.float32,):
            flags = {"HAS_VALID": False, "LINK": number, "BLOCK": n}
            solver = soft._SOLVER[torch.float32] | {"WIDE": False}
            name = f"soft_{link}" + ("_bfloat16" if dtype == torch.bfloat16 else "")
            size = dtype.itemsize
            yield Case(
                name, soft._forward_kernel, n, dtype, flags | solver, launch, (n * size, n * 4),
                lambda dtype=dtype, link=link: soft_rounds(n, K, dtype, link),  # type: ignore[misc]
            )  # fmt: skip
            moved = n * 2 * size, n * size
            yield Case(f"{name}_backward", soft._backward_kernel, n, dtype, flags, launch, moved)


def sample_cases(n: int) -> Iterator[Case]:
    halvings, short = hard.grouping(n, K)
    for nucleus in (False, True):
        constants = {
            "NUCLEUS": nucleus, "LEAST": False, "WIDE": False, "DROP": 0, "BLOCK": n, "BLOCK_K": K,
            "LOG": halvings, "SHORT": short,
        }  # fmt: skip

        def rounds(nucleus: bool = nucleus) -> Rounds:
            typical, most = hard_rounds(n, K, torch.float32, halvings, short)
            return ([*typical, 32], [*most, 32]) if nucleus else (typical, most)

        launch = hard.launch_shape(n, halvings, 4)
        name = "sample_top_p" if nucleus else "sample"
        yield Case(name, sample._sample_kernel, n, torch.float32, constants, launch, (n * 4, 8), rounds)


def cases() -> Iterator[Case]:
    """Every kernel at every size."""
    yield hard_case("hard", 256, torch.float32)
    for n in SIZES:
        yield hard_case("hard", n, torch.float32)
        yield hard_case("hard_bfloat16", n, torch.bfloat16)
        yield hard_case("hard_masked", n, torch.float32, valid=True)
        yield hard_case("hard_quarter", n, torch.float32, k=n // 4)
        if n == MIDDLE:
            yield hard_case("hard_no_mask", n, torch.float32, mask=False)
            yield hard_case("hard_smallest", n, torch.float32, largest=False)
        if n <= MIDDLE:
            yield hard_case("hard_float64", n, torch.float64)
        yield from sample_cases(n)
        yield from soft_cases(n)
        if n <= MIDDLE:  # longer ones keep the assembler busy too long
            constants = {"BLOCK": n, "BLOCK_K": K}
            moved = n * 4, K * (4 + 8)
            yield Case("sort", _sort_kernel, n, torch.float32, constants, {"num_warps": n // 512}, moved)
    for weighted in (False, True):
        flags = {"WEIGHTED": weighted, "WIDE": False, "BLOCK": SIZES[0]}
        for name, kernel in (
            ("take_weighted" if weighted else "take", route._take_kernel),
            ("combine" if weighted else "take_backward", route._add_kernel),
        ):
            yield Case(name, kernel, SIZES[0], torch.float32, flags, {"ROWS": 1, "num_warps": 2}, (0, 0))


def _type(name: str, case: Case) -> str:
    """The type of a kernel's argument, as Triton writes types."""
    constants, wide = case.constants, "*fp64" if case.dtype == torch.float64 else "*fp32"
    if name in constants or name == "ROWS":
        return "constexpr"
    if name in ("scores", "logits", "out_values", "grads", "g_scores"):
        return TYPES[case.dtype]
    if name == "ks":
        return wide if "LINK" in constants else "*i32"
    if name == "out" and "WEIGHTED" in constants:
        return wide
    known = {"valid": "*i1", "out_mask": "*i1", "shortlists": "*i32", "uniforms": "*fp64"}
    known |= dict.fromkeys(("out_indices", "out", "slots", "order", "starts"), "*i64")
    known |= dict.fromkeys(("rows", "n", "d", "width", "chunk", "chunks", "stride"), "i32")
    return known.get(name, "i32" if name.endswith("_stride") else wide)


def compiled(case: Case, card: str) -> dict[str, Any]:
    """What ``count`` finds, with the launch, instructions a score and byte, and both least times.

    Pointers and numbers are divisible by 16, as they are at run time for these sizes.
    """
    kernel, rows = case.kernel, case.launch.get("ROWS", 1)
    signature = {name: _type(name, case) for name in kernel.arg_names}
    constants = case.constants | ({"ROWS": rows} if "ROWS" in signature else {})
    even = {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(signature.values())
            if kind != "constexpr" and kernel.arg_names[i] != "rows"}  # fmt: skip
    warps = case.launch["num_warps"]
    binary = triton.compile(
        ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=even),
        target=GPUTarget("cuda", CARDS[card].capability, 32),
        options={"num_warps": warps},
    )
    facts: dict[str, Any] = count(binary.asm["cubin"])
    facts |= {"shared_bytes": binary.metadata.shared, "warps": warps, "rows_of_a_program": rows}
    if case.moved == (0, 0):
        return facts
    typical, most = case.rounds()
    bodies = facts["loop_instructions"]
    if len(bodies) != len(typical):
        raise RuntimeError(f"{case.name}: {len(bodies)} loops in the code, {len(typical)} in the kernel")
    read, written = case.moved
    facts |= {"rounds": typical, "most_rounds": most, "bytes_read": read, "bytes_written": written}
    for label, rounds in (("", typical), ("most_", most)):
        thread = facts["other_instructions"] + sum(a * b for a, b in zip(bodies, rounds, strict=True))
        row = thread * warps / rows  # instructions of warps
        facts[f"{label}per_score"] = 32 * row / case.n
        facts[f"{label}per_byte"] = 32 * row / read
        facts[f"{label}bounds"] = bounds = {}
        for name, limit in CARDS.items():
            if limit.capability == CARDS[card].capability:
                issue, memory = ROWS * row / limit.issued, ROWS * (read + written) / limit.bandwidth
                larger = "memory" if memory >= issue else "arithmetic"
                bounds[name] = {"issue_us": 1e6 * issue, "memory_us": 1e6 * memory, "larger": larger}
    return facts


def cards_of(case: Case) -> tuple[str, ...]:
    """Every case on an H200; the telling ones on an A100, and on a T4 at one size."""
    telling = case.name in ("hard", "hard_bfloat16", "soft_sigmoid", "sample")
    return ("T4",) * (telling and case.n == MIDDLE) + ("A100",) * (telling or case.name == "sort") + ("H200",)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", help="only cases that begin so, printed")
    parser.add_argument("--check", action="store_true", help="compile only, the smallest size, two cards")
    parser.add_argument("--n", type=int, help="only this size")
    options = parser.parse_args()
    start, metrics = time.perf_counter(), {}
    for case in cases():
        if options.names and not case.name.startswith(tuple(options.names)):
            continue
        if (case.n > SIZES[0] and options.check) or options.n not in (None, case.n):
            continue
        for card in ("T4", "H200") if options.check else cards_of(case):
            facts = metrics[f"{case.name}-{case.n}-{card}"] = compiled(case, card)
            if options.names:
                print(case.name, case.n, card, facts, flush=True)
    print(f"{len(metrics)} kernels compiled in {time.perf_counter() - start:.0f} s")
    if not (options.check or options.names or options.n):
        cards_used = {name: card._asdict() | {"clock": card.clock} for name, card in CARDS.items()}
        records.write(
            "kernels", "compiled", metrics=metrics,
            settings={"sizes": SIZES, "rows": ROWS, "k": K, "temperature": TEMPERATURE, "cards": cards_used},
            data={"source": "random normal rows, for the rounds"}, seconds=time.perf_counter() - start,
        )  # fmt: skip


if __name__ == "__main__":
    main()
