"""How many numbers Triton kernels read and write, counted in Triton's interpreter."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

__all__ = ["counted_reads"]


@contextmanager
def counted_reads() -> Iterator[dict[str, int]]:
    """Count what kernels load and store inside the ``with``.

    The dict that it gives is filled as they run: ``read`` and ``written``, the numbers loaded and stored,
    and ``at once``, the most that one load took. What a mask leaves out does not count; an atomic operation
    counts as a writing.

    Raises:
        RuntimeError: Triton is not installed, or was imported without being told to interpret.
    """
    try:
        from triton import knobs
        from triton.runtime.interpreter import interpreter_builder as builder
    except ImportError:
        raise RuntimeError("Triton is not installed here: open this notebook on Linux, or on Colab") from None
    if not knobs.runtime.interpret or os.environ.get("TRITON_INTERPRET") != "1":
        raise RuntimeError(
            'set os.environ["TRITON_INTERPRET"] = "1" before Triton is imported: restart the kernel'
        )
    counts = {"read": 0, "written": 0, "at once": 0}
    names = ("create_masked_load", "create_masked_store", "create_atomic_rmw", "create_atomic_cas")
    before = {name: getattr(builder, name) for name in names}

    def load(ptrs: Any, mask: Any, *rest: Any, **named: Any) -> Any:
        numbers = int(np.count_nonzero(mask.data))
        counts["read"] += numbers
        counts["at once"] = max(counts["at once"], numbers)
        return before["create_masked_load"](ptrs, mask, *rest, **named)

    def store(ptrs: Any, value: Any, mask: Any, *rest: Any, **named: Any) -> Any:
        counts["written"] += int(np.count_nonzero(mask.data))
        return before["create_masked_store"](ptrs, value, mask, *rest, **named)

    def rmw(op: Any, ptrs: Any, value: Any, mask: Any, *rest: Any, **named: Any) -> Any:
        counts["written"] += int(np.count_nonzero(mask.data))
        return before["create_atomic_rmw"](op, ptrs, value, mask, *rest, **named)

    def cas(ptrs: Any, *rest: Any, **named: Any) -> Any:
        counts["written"] += int(ptrs.data.size)
        return before["create_atomic_cas"](ptrs, *rest, **named)

    try:
        for name, counting in zip(before, (load, store, rmw, cas), strict=True):
            setattr(builder, name, counting)
        yield counts
    finally:
        for name in before:
            delattr(builder, name)
