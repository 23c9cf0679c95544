"""A few processes that take work one piece at a time, and whose death costs only that piece."""

from __future__ import annotations

import multiprocessing
import os
import platform
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

__all__ = ["STEADY", "Died", "run_in_workers"]

T = TypeVar("T")
R = TypeVar("R")

STEADY = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "TRITON_INTERPRET": "1",
}
if platform.machine().lower() in ("x86_64", "amd64"):  # AVX2: what all of the last ten years have
    STEADY |= {"ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "AVX2,STRICT", "ONEDNN_MAX_CPU_ISA": "AVX2"}
"""The environment of all that is marked: sums come out in one order, on one kind of instructions."""


class Died(Exception):
    """The process that had a piece of work ended without a result."""


class _Worker(Generic[T, R]):
    def __init__(self, make: Callable[..., Callable[[T], R]], args: Sequence[Any]) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, make, args))
        with _environment(STEADY):
            self.process.start()
        theirs.close()  # so that the pipe ends with the process
        self.piece: tuple[int, T] | None = None

    def end(self) -> None:
        self.pipe.close()
        self.process.join(5)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def run_in_workers(
    make: Callable[..., Callable[[T], R]], args: Sequence[Any], pieces: Sequence[T], *, workers: int
) -> Iterator[tuple[T, R | Exception]]:
    """Each piece with its result, or the exception that came of it, as they become ready.

    Args:
        make: called once in each process with ``args``, gives the function that takes a piece.
        args: what can be pickled.
        pieces: handed out in this order.
        workers: processes, each new (spawned), in the environment :data:`STEADY`.

    A process that dies is replaced, and its piece tried once more; if that dies, too, the piece's result is
    :class:`Died`. The processes end when this one does, however it ends. An exception of ``make`` is raised
    here.
    """
    left = deque(enumerate(pieces))
    deaths: dict[int, int] = {}
    running: dict[Connection, _Worker[T, R]] = {}
    try:
        while left or any(worker.piece for worker in running.values()):
            while left and len(running) < workers:
                worker = _Worker(make, args)
                running[worker.pipe] = worker
            for worker in running.values():
                if left and worker.piece is None:
                    worker.piece = left.popleft()
                    with suppress(OSError):  # where it has died since, it is found below
                        worker.pipe.send(worker.piece[1])
            for pipe in wait([pipe for pipe, worker in running.items() if worker.piece]):
                assert isinstance(pipe, Connection)
                worker = running[pipe]
                assert worker.piece is not None
                number, piece = worker.piece
                worker.piece = None
                try:
                    fatal, result = pipe.recv()
                except (EOFError, OSError):
                    running.pop(pipe).end()
                    deaths[number] = deaths.get(number, 0) + 1
                    if deaths[number] == 1:
                        left.appendleft((number, piece))
                    else:
                        yield piece, Died()
                    continue
                if fatal:
                    raise result
                yield piece, result
    finally:
        for worker in running.values():
            worker.end()


def _work(pipe: Connection, make: Callable[..., Callable[[T], R]], args: Sequence[Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who hands out the work
    failed: Exception | None = None
    try:
        work = make(*args)
    except Exception as error:
        failed, work = _told(error), None
    while True:
        try:
            piece = pipe.recv()
        except (EOFError, OSError):  # no more work, or nobody to give it
            break
        try:
            result: Any = failed or work(piece)  # type: ignore[misc]
        except Exception as error:
            result = _told(error)
        try:
            pipe.send((failed is not None, result))
        except OSError:
            break
    if close := getattr(work, "close", None):
        close()


def _told(error: Exception) -> Exception:
    """One that travels: what others are made of may not."""
    return RuntimeError(str(error) if isinstance(error, (ValueError, OSError, RuntimeError)) else
                        f"{type(error).__name__}: {error}")  # fmt: skip


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
