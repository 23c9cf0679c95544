"""Compile every Triton kernel for real GPUs, without one, and record what the compiler says.

    python benchmarks/kernels.py            write results/kernels/compiled.*.json
    python benchmarks/kernels.py --check    compile only

A kernel that runs in Triton's interpreter may still not compile. Triton brings NVIDIA's assembler,
so that each kernel can be compiled for a T4 (sm_75), an A100 (sm_80) and an H100 or H200 (sm_90) on
any x86 machine. Registers spilled to memory would be re-read: bytes that the roofline must count.
Instructions are counted in the card's own code (SASS): those of the loop, which run again for each bit
or step, and the others, which each thread meets at most once.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from topk_lib import records
from topk_lib.kernels import hard, route, sample, soft

CARDS = {"T4": 75, "A100": 80, "H200": 90}
_TOOL = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
BLOCKS = (256, 512, 2048, 8192, 16384)
_NUMBERS = {
    "rows",
    "n",
    "d",
    "width",
    "score_stride",
    "valid_stride",
    "grad_stride",
    "stride",
    "chunks",
    "chunk",
}
_PLACES = {"slots", "order", "starts"}
_POINTERS = {"valid": "*i1", "out_mask": "*i1", "out_indices": "*i64", "out": "*i64", "uniforms": "*fp64"}


def cases() -> list[tuple[str, Any, dict[str, Any]]]:
    """Each kernel with its compile-time constants, without block sizes: name, kernel, constants."""
    hard_flags = {"WRITE_MASK": True, "WIDE": False, "DROP": 0, "BLOCK_K": 64}
    found: list[tuple[str, Any, dict[str, Any]]] = [
        ("hard", hard._hard_kernel, hard_flags | {"HAS_VALID": False}),
        ("hard_masked", hard._hard_kernel, hard_flags | {"HAS_VALID": True}),
        ("hard_float64", hard._hard_kernel, hard_flags | {"HAS_VALID": False, "WIDE": True}),
    ]
    for link, number in soft._LINKS.items():
        flags = {"HAS_VALID": False, "LINK": number}
        solver = soft._SOLVER[torch.float32] | {"WIDE": False, "DROP": 0}
        found.append((f"soft_{link}", soft._forward_kernel, flags | solver))
        found.append((f"soft_{link}_backward", soft._backward_kernel, flags))
    for nucleus in (False, True):
        name = "sample_top_p" if nucleus else "sample"
        found.append((name, sample._sample_kernel, {"NUCLEUS": nucleus, "WIDE": False, "DROP": 0}))
    for weighted in (False, True):
        flags = {"WEIGHTED": weighted, "WIDE": False}
        found.append(("take_weighted" if weighted else "take", route._take_kernel, flags))
        found.append(("combine" if weighted else "take_backward", route._add_kernel, flags))
    return found


def _type(name: str, constants: dict[str, Any]) -> str:
    """The type of a kernel's argument, as Triton writes types."""
    if name in constants:
        return "constexpr"
    if name in _NUMBERS:
        return "i32"
    if name in _PLACES or (name == "out" and "WEIGHTED" in constants):
        return "*i64" if name in _PLACES else "*fp32"
    if name == "ks" and "LINK" not in constants:
        return "*i32"
    return _POINTERS.get(name, "*fp64" if constants.get("WIDE") else "*fp32")


def compiled(kernel: Any, constants: dict[str, Any], block: int, card: str) -> dict[str, int]:
    """Registers a thread, bytes spilled a thread, shared memory, warps, instructions a thread."""
    rows = max(1, 1024 // block)
    constants = constants | {"BLOCK": block, "ROWS": rows}
    signature = {name: _type(name, constants) for name in kernel.arg_names}
    warps = min(max(block * rows // 512, 1), 16)
    binary = triton.compile(
        ASTSource(fn=kernel, signature=signature, constexprs=constants),
        target=GPUTarget("cuda", CARDS[card], 32),
        options={"num_warps": warps},
    )
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.asm["cubin"])
        file.flush()
        usage, code = (
            subprocess.run([_TOOL, flag, file.name], capture_output=True, text=True, check=True).stdout
            for flag in ("--dump-resource-usage", "-sass")
        )
    registers, stack = re.findall(r"REG:(\d+) STACK:(\d+)", usage)[-1]
    return {
        "registers": int(registers),
        "spilled_bytes": int(stack),
        "shared_bytes": binary.metadata.shared,
        "warps": warps,
        **instructions(code),
    }


def instructions(sass: str) -> dict[str, int]:
    """The instructions inside loops (between a backward branch and its target) and outside, each once."""
    found = [(int(at, 16), what) for at, what in re.findall(r"/\*([0-9a-f]{4,})\*/ +([^;/]+);", sass)]
    loops: set[int] = set()
    for at, what in found:
        target = re.search(r"BRA.* 0x([0-9a-f]+)", what)
        if target and int(target[1], 16) < at:
            loops |= {inner for inner, _ in found if int(target[1], 16) <= inner <= at}
    real = [at for at, what in found if "NOP" not in what]
    return {
        "loop_instructions": sum(at in loops for at in real),
        "other_instructions": sum(at not in loops for at in real),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compile only, two block sizes, two cards")
    options = parser.parse_args()
    start, metrics = time.perf_counter(), {}
    for name, kernel, constants in cases():
        for card in ("T4", "H200") if options.check else CARDS:
            for block in (256, 2048) if options.check else BLOCKS:
                metrics[f"{name}-{block}-{card}"] = compiled(kernel, constants, block, card)
    print(f"{len(metrics)} kernels compiled in {time.perf_counter() - start:.0f} s")
    if not options.check:
        records.write(
            "kernels", "compiled", metrics=metrics, settings={"blocks": BLOCKS, "cards": CARDS},
            data={"source": "none"}, seconds=time.perf_counter() - start,
        )  # fmt: skip


if __name__ == "__main__":
    main()
