"""How long processes of this machine take to exchange tensors, measured."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from topk_lib.training.cost import Traffic, all_gather, all_reduce, all_to_all, reduce_scatter

__all__ = ["OPERATIONS", "in_processes", "operation_seconds", "timed"]

OPERATIONS: dict[str, Callable[[float, int], Traffic]] = {
    "all-reduce": all_reduce, "all-gather": all_gather, "reduce-scatter": reduce_scatter,
    "all-to-all": all_to_all,
}  # fmt: skip
"""What can be timed, and how many bytes a device sends in it."""
_GATHER: Any = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # before PyTorch 2.13
_SCATTER: Any = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
_LEAST = 2**18  # bytes of a measurement; smaller tensors are sent several times


def operation_seconds(
    name: str, sizes: Sequence[int], *, rounds: int = 5, processes: int = 2
) -> dict[int, list[float]]:
    """Time an operation between new processes of this machine (gloo, one thread each), sizes in turns.

    Args:
        name: one of :data:`OPERATIONS`.
        sizes: bytes of the tensors (float32) that each process holds, or gets, in whole.
        rounds: how often each is timed.
        processes: how many.

    Returns:
        For each size the seconds of each round, of the slowest process.

    Raises:
        ValueError: an unknown operation, or a size that does not share out.
    """
    if name not in OPERATIONS:
        raise ValueError(f"the operation must be one of {', '.join(OPERATIONS)}; got {name!r}")
    for size in sizes:
        if size < 1 or size % (4 * processes):
            raise ValueError(f"a size must be a multiple of {4 * processes} bytes, got {size}")
    found = in_processes(_measure, processes, name, tuple(sizes), rounds)
    return {size: np.max([one[size] for one in found], axis=0).tolist() for size in sizes}


def in_processes(work: Callable[..., object], processes: int, *given: object) -> list[Any]:
    """What ``work(*given)``, a function that can be imported, returns in each of new gloo processes."""
    with tempfile.TemporaryDirectory() as name:
        torch.multiprocessing.spawn(  # type: ignore[attr-defined, no-untyped-call]
            _join, (processes, name, work, given), nprocs=processes
        )
        return [torch.load(Path(name) / f"{rank}.pt", weights_only=True) for rank in range(processes)]


def _join(rank: int, world: int, folder: str, work: Callable[..., object], given: tuple[object, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    torch.save(work(*given), Path(folder) / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def _measure(name: str, sizes: Sequence[int], rounds: int) -> dict[int, list[float]]:
    found: dict[int, list[float]] = {size: [] for size in sizes}
    for turn in range(rounds + 1):  # the first is slower, and is not counted
        for size, each in found.items():
            spent = timed(_operation(name, size), repeat=max(1, _LEAST // size))
            if turn:
                each.append(spent)
    return found


def timed(call: Callable[[], object], repeat: int = 1) -> float:
    """Seconds of a call in this process, all processes beginning together."""
    dist.barrier()
    begun = time.perf_counter()
    for _ in range(repeat):
        call()
    return (time.perf_counter() - begun) / repeat


def _operation(name: str, size: int) -> Callable[[], object]:
    whole, part = torch.ones(size // 4), torch.ones(size // 4 // dist.get_world_size())
    received = torch.empty_like(whole)
    calls: dict[str, Callable[[], object]] = {
        "all-reduce": lambda: dist.all_reduce(whole),
        "all-gather": lambda: _GATHER(whole, part),
        "reduce-scatter": lambda: _SCATTER(part, whole),
        "all-to-all": lambda: dist.all_to_all_single(received, whole),
    }
    return calls[name]
