"""What a compiled kernel will do, read from the card's own instructions (SASS), and the least time of it."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import triton

_TOOL = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


class Card(NamedTuple):
    """From NVIDIA's data sheets and white papers (nvidia_t4, _a100, _h100, _h200 in references.bib).

    The documents themselves were not at hand: confirmed were multiprocessors, lanes, float32 rates and
    bandwidths, in lists that others made of them. An A100 says 108 multiprocessors at 1410 MHz of itself
    on a university's cluster. The clock, worked out, lies within 0.5% of the listed boost clocks of the
    T4, A100 and H100 (1590, 1410, 1980 MHz). Not confirmed: the H200's clock; it is given the H100's rate.
    """

    capability: int
    multiprocessors: int
    lanes: int  # float32 units of a multiprocessor
    flops: float  # float32, a product and its sum counted as two
    bandwidth: float  # bytes a second

    @property
    def clock(self) -> float:
        """Hertz at which the data sheet's float32 rate is reached."""
        return self.flops / (2 * self.lanes * self.multiprocessors)

    @property
    def issued(self) -> float:
        """Instructions of a warp that can start in a second: 4 schedulers, one each at a tick.

        So it is from Volta to Hopper (NVIDIA's developers' forum, on pipelines and functional units). It
        is a ceiling: for whole numbers an A100 and an H100 have 64 lanes a multiprocessor, half of that.
        """
        return 4 * self.multiprocessors * self.clock


CARDS = {
    "T4": Card(75, 40, 64, 8.1e12, 320e9),
    "A100": Card(80, 108, 64, 19.5e12, 1555e9),  # 40 GB
    "H100": Card(90, 132, 128, 67e12, 3350e9),  # SXM
    "H200": Card(90, 132, 128, 67e12, 4800e9),
}


class Block(NamedTuple):
    """Instructions that run one after another, and where they may go then."""

    code: list[str]
    next: list[int]


def dump(cubin: bytes) -> tuple[str, str]:
    """Resource usage and SASS of a compiled kernel, as text."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage, code = (
            subprocess.run([_TOOL, flag, file.name], capture_output=True, text=True, check=True).stdout
            for flag in ("--dump-resource-usage", "-sass")
        )
    return usage, code


def blocks(sass: str) -> dict[int, Block]:
    """The basic blocks that can be reached, by the address of their first instruction.

    A branch for a warp that has come apart (BRA.DIV) is not followed: whole warps run these kernels. Nor
    is one that is never taken (@!PT).
    """
    code = [(int(at, 16), what.strip()) for at, what in re.findall(r"/\*([0-9a-f]{4,})\*/ +([^;/]+);", sass)]
    code = [(at, what) for at, what in code if not re.search(r"BRA\.DIV|NOP|^@!PT", what)]
    target = {at: int(to[1], 16) for at, what in code if (to := re.search(r"BRA.* 0x([0-9a-f]+)", what))}
    after = {at: code[i + 1][0] for i, (at, _) in enumerate(code[:-1])}
    # A target may be an instruction left out above: the next that is left stands for it.
    places = [at for at, _ in code]
    target = {at: next((p for p in places if p >= goal), places[-1]) for at, goal in target.items()}
    ends = [at for at, what in code if at in target or re.search(r"EXIT|RET", what)]
    leaders = {places[0], *target.values(), *(after[at] for at in ends if at in after)}
    found: dict[int, Block] = {}
    for at, what in code:
        if at in leaders:
            found[at] = current = Block([], [])
        current.code.append(what)
        always = not what.startswith("@")
        if at in target:
            current.next.append(target[at])
        if after.get(at) in leaders and not (always and re.match(r"BRA|EXIT|RET", what)):
            current.next.append(after[at])
    reached, left = set(), [places[0]]
    while left:
        if (at := left.pop()) not in reached:
            reached.add(at)
            left += found[at].next
    return {at: found[at] for at in sorted(reached)}


def loops(graph: dict[int, Block]) -> list[set[int]]:
    """The blocks of each outermost loop, in the order of the program."""
    every = set(graph)
    before = {at: {b for b in graph if at in graph[b].next} for at in graph}
    start = min(graph)
    above = {at: {start} if at == start else every for at in graph}  # what every way to a block passes
    changed = True
    while changed:
        changed = False
        for at in graph:
            if at != start:
                new = set.intersection(*(above[b] for b in before[at])) | {at}
                changed, above[at] = changed or new != above[at], new
    found: list[set[int]] = []
    for at in graph:
        for head in set(graph[at].next) & above[at]:
            body, left = {head}, [at]
            while left:
                if (b := left.pop()) not in body:
                    body.add(b)
                    left += before[b]
            for other in [o for o in found if o & body]:
                body |= other
                found.remove(other)
            found.append(body)
    return sorted(found, key=min)


def _bytes(code: list[str], operations: str) -> int:
    """The bytes that so many instructions move for one thread, none left out."""
    sizes = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16}
    moved = 0
    for what in code:
        if found := re.search(rf"\b({operations})((?:\.\w+)*)", what):
            moved += next((sizes[part] for part in found[2].split(".") if part in sizes), 4)
    return moved


def count(cubin: bytes) -> dict[str, Any]:
    """What one thread does: instructions outside loops and of each loop once, memory, barriers, spills."""
    usage, sass = dump(cubin)
    registers, stack = re.findall(r"REG:(\d+) STACK:(\d+)", usage)[-1]
    graph = blocks(sass)
    inner = loops(graph)
    in_loops = set().union(*inner)
    rest = [what for at, block in graph.items() if at not in in_loops for what in block.code]
    every = [what for block in graph.values() for what in block.code]
    return {
        "registers": int(registers),
        "spilled_bytes": int(stack),
        "spills": sum(bool(re.search(r"\b(STL|LDL)\b", what)) for what in every),
        "barriers": sum(bool(re.search(r"\bBAR\b", what)) for what in every),
        "global_read_bytes": _bytes(rest, "LDG"),
        "global_written_bytes": _bytes(rest, "STG"),
        "shared_bytes_moved": _bytes(every, "LDS|STS"),
        "other_instructions": len(rest),
        "loop_instructions": [sum(len(graph[at].code) for at in body) for body in inner],
    }
