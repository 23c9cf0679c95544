"""The compiled operators of ``cpp/``, where they were built; elsewhere NumPy does the same, bit for bit.

A compiled extension and not Numba: Numba compiles in the first call of every process (seconds, or a cache on
disk that must be trusted), is one more dependency of every installation, lags behind new Pythons, and costs
microseconds a call; this one needs a compiler once, where the wheel is built, and serves every Python. It is
optional: ``setup.py`` goes on where there is no compiler.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import os
from typing import Any

import torch
from torch import Tensor

from topk_lib.ops.arguments import transformed, untraced
from topk_lib.ops.hard_cpu import in_pieces

__all__ = ["choose", "compiled", "plain"]

_KINDS = {torch.float16: 0, torch.bfloat16: 1, torch.float32: 2, torch.float64: 3}
_LONGEST = 2**31 - 1

_module: Any = None
with contextlib.suppress(ImportError):
    _module = importlib.import_module("topk_lib.ops._native")


@functools.cache
def _shares() -> bool:
    """Give the compiled code PyTorch's own threads; whether there are any to be had."""
    with contextlib.suppress(AttributeError, OSError, TypeError):
        _module.share(ctypes.cast(ctypes.CDLL(None).GOMP_parallel, ctypes.c_void_p).value)
        # In a process that was forked OpenMP waits forever for threads that were left behind.
        os.register_at_fork(after_in_child=functools.partial(_module.share, 0))
        return True
    return False


def compiled() -> bool:
    """Whether the compiled code is there and ``TOPK_BACKEND`` does not ask for NumPy."""
    return _module is not None and not (_module.named() and os.environ["TOPK_BACKEND"] == "numpy")


def plain(scores: Tensor, dim: int) -> bool:
    """Whether the compiled code may be called with nothing in between: a tensor of a CPU whose rows lie one
    after the other, which nothing traces or differentiates, and no backend asked for.
    """
    return (
        untraced(scores)
        and _module is not None
        and scores.is_cpu
        and scores.is_contiguous()
        and scores.dtype in _KINDS
        and 0 < scores.dim()
        and dim in (-1, scores.dim() - 1)
        and not (scores.requires_grad and torch.is_grad_enabled())
        and not transformed()
        and not _module.named()
    )


def choose(
    flat: Tensor,
    width: int,
    per_row: Tensor | None = None,
    ok: Tensor | None = None,
    *,
    values: Tensor | None = None,
    indices: Tensor | None = None,
    mask: Tensor | None = None,
) -> None:
    """Hard top-k of the rows; writes only the results that are given.

    Args:
        flat: (rows, n) float16, bfloat16, float32 or float64, on a CPU, of any strides; or, contiguous,
            (..., n).
        width: the largest k.
        per_row: (rows,) int64, one k a row; ``width`` in each where None.
        ok: (rows, n) bool of any strides, True for entries that may be chosen; all where None.
        values: (rows, width), dtype of the scores; only with ``indices``.
        indices: (rows, width) int64.
        mask: (rows, n) bool. All three are contiguous.
    """
    n = flat.shape[-1]
    rows = flat.numel() // n if n else 0
    threads = 1 if rows < 2 else torch.get_num_threads()
    row_step, step = (n, 1) if flat.is_contiguous() else flat.stride()
    _module.hard(
        threads if threads > 1 and _shares() else 1,
        flat.data_ptr(),
        _KINDS[flat.dtype],
        rows,
        n,
        row_step,
        step,
        width,
        0 if per_row is None else per_row.data_ptr(),
        *((0, 0, 0) if ok is None else (ok.data_ptr(), *ok.stride())),
        0 if values is None else values.data_ptr(),
        0 if indices is None else indices.data_ptr(),
        0 if mask is None else mask.data_ptr(),
    )
