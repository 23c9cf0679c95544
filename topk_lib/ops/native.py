"""The compiled operators of ``cpp/``, where they were built; elsewhere NumPy does the same.

Hard choices are the same bit for bit, soft weights to the spacing of their dtype.

A compiled extension and not Numba: Numba compiles in the first call of every process (seconds, or a cache on
disk that must be trusted), is one more dependency of every installation, lags behind new Pythons, and costs
microseconds a call; this one needs a compiler once, where the wheel is built, and serves every Python. It is
optional: ``setup.py`` goes on where there is no compiler.

Soft top-k has a polynomial of its own for the exponential function (``lanes.h``): that of the C library takes
one number at a time.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import math
import os
from typing import Any

import torch
from torch import Tensor

from topk_lib.ops.arguments import laid_out, plain

__all__ = [
    "argtopk",
    "choose",
    "module",
    "ready",
    "sample",
    "serves",
    "soft",
    "soft_backward",
    "soft_ready",
    "threads",
    "topk",
    "topk_mask",
]

_KINDS = {torch.float16: 0, torch.bfloat16: 1, torch.float32: 2, torch.float64: 3}
_LINKS = {"sigmoid": 0, "laplace": 1, "clip": 2, "exp": 3}
_TOO_LONG = 2**31

module: Any = None
with contextlib.suppress(ImportError):
    module = importlib.import_module("topk_lib.ops._native")


@functools.cache
def _shared() -> bool:
    """Lend the compiled code PyTorch's own threads; False where there are none of a kind it can use."""
    with contextlib.suppress(AttributeError, OSError, TypeError):
        module.share(ctypes.cast(ctypes.CDLL(None).GOMP_parallel, ctypes.c_void_p).value)
        # In a process that was forked OpenMP would wait forever for threads that were left behind.
        os.register_at_fork(after_in_child=functools.partial(module.share, 0))
        return True
    return False


def threads() -> int:
    """How many threads the compiled code may use."""
    most = torch.get_num_threads()
    return most if most > 1 and _shared() else 1


def serves(n: int) -> bool:
    """Whether rows of n entries are for the compiled code: ``TOPK_BACKEND`` may ask for NumPy."""
    asked = module is not None and module.named() and os.environ.get("TOPK_BACKEND") == "numpy"
    return module is not None and not asked and n < _TOO_LONG


def ready(scores: Tensor, k: int, dim: int = -1) -> bool:
    """Whether the compiled code may be called directly: no backend is asked for, and k is possible."""
    return (
        module is not None
        and plain(scores, dim)
        and not module.named()
        and 0 <= k <= scores.shape[-1] < _TOO_LONG
    )


def topk(
    scores: Tensor, k: int, dim: int, smallest: bool = False, by_value: bool = False
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Values, indices and mask in as few steps of Python as can be; None where not :func:`ready`."""
    if not ready(scores, k, dim):
        return None
    *lead, n = scores.shape
    values = scores.new_empty(*lead, k)
    indices = scores.new_empty(*lead, k, dtype=torch.int64)
    mask = scores.new_empty(*lead, n, dtype=torch.bool)
    _write(scores, k, values.data_ptr(), indices.data_ptr(), mask.data_ptr(), smallest, by_value)
    return values, indices, mask


def argtopk(
    scores: Tensor, k: int, dim: int, smallest: bool = False, by_value: bool = False
) -> Tensor | None:
    """The indices of :func:`topk` alone."""
    if not ready(scores, k, dim):
        return None
    indices = scores.new_empty(*scores.shape[:-1], k, dtype=torch.int64)
    _write(scores, k, 0, indices.data_ptr(), 0, smallest, by_value)
    return indices


def topk_mask(scores: Tensor, k: int, dim: int, smallest: bool = False) -> Tensor | None:
    """The mask of :func:`topk` alone."""
    if not ready(scores, k, dim):
        return None
    mask = torch.empty_like(scores, dtype=torch.bool)
    _write(scores, k, 0, 0, mask.data_ptr(), smallest, False)
    return mask


def _write(
    scores: Tensor, k: int, values: int, indices: int, mask: int, smallest: bool, by_value: bool
) -> None:
    """Hard top-k of contiguous rows, to the addresses of the results that are wanted."""
    n = scores.shape[-1]
    rows = scores.numel() // n if n else 0
    module.hard(
        1 if rows < 2 else threads(), scores.data_ptr(), _KINDS[scores.dtype], rows, n, n, 1, k, 0, 0, 0, 0,
        values, indices, mask, smallest, by_value,
    )  # fmt: skip


def sample(
    logits: Tensor, k: int, temperature: float, top_p: float, min_p: float, seed: int | Tensor
) -> Tensor:
    """One of the k most likely entries of each row, (...) int64, -1 where nothing can be drawn.

    Args:
        logits: (..., n), for which :func:`ready` holds.
        k, temperature, top_p, min_p: as in ``sample_topk``, checked; 1 and 0 leave all.
        seed: (...) int64, contiguous; or that of the first row, which grows by 1 a row.
    """
    *lead, n = logits.shape
    rows = logits.numel() // n
    columns = logits.new_empty(lead, dtype=torch.int64)
    wide = torch.finfo(torch.float64 if logits.dtype == torch.float64 else torch.float32)
    heat = min(max(float(temperature), 4 * wide.tiny), wide.max / 1024)  # as in soft_torch.held
    seeds, first = (seed.data_ptr(), 0) if isinstance(seed, Tensor) else (0, seed)
    module.sample(
        1 if rows < 2 else threads(), logits.data_ptr(), _KINDS[logits.dtype], rows, n, k,
        heat, top_p, min_p, seeds, first, columns.data_ptr(),
    )  # fmt: skip
    return columns


def choose(
    flat: Tensor,
    width: int,
    per_row: Tensor | None = None,
    ok: Tensor | None = None,
    *,
    smallest: bool = False,
    values: Tensor | None = None,
    indices: Tensor | None = None,
    mask: Tensor | None = None,
) -> None:
    """Hard top-k of the rows; writes only the results that are given.

    Args:
        flat: (rows, n) float16, bfloat16, float32 or float64, on a CPU, of any strides, n < 2**31.
        width: the largest k.
        per_row: (rows,) int64, one k a row; ``width`` in each where None.
        ok: (rows, n) bool of any strides, True for entries that may be chosen; all where None.
        smallest: whether the k smallest are meant.
        values: (rows, width), dtype of the scores; only with ``indices``.
        indices: (rows, width) int64.
        mask: (rows, n) bool. All three are contiguous.
    """
    rows, n = flat.shape
    per_row = None if per_row is None else per_row.contiguous()  # an expanded k has no step
    module.hard(
        1 if rows < 2 else threads(),
        flat.data_ptr(),
        _KINDS[flat.dtype],
        rows,
        n,
        *flat.stride(),
        width,
        0 if per_row is None else per_row.data_ptr(),
        *((0, 0, 0) if ok is None else (ok.data_ptr(), *ok.stride())),
        0 if values is None else values.data_ptr(),
        0 if indices is None else indices.data_ptr(),
        0 if mask is None else mask.data_ptr(),
        smallest,
        False,
    )


def soft_ready(scores: Tensor, k: Any, temperature: Any, dim: int, link: str) -> bool:
    """Whether :func:`soft` may be called directly: no backend is asked for, and what is given is right."""
    return (
        module is not None
        and type(k) in (int, float)
        and type(temperature) in (int, float)
        and laid_out(scores, dim)
        and not module.named()
        and 0 <= k <= scores.shape[-1]
        and 0 < scores.shape[-1] < _TOO_LONG
        and 0 < temperature < math.inf
        and link in _LINKS
    )


def soft(
    rows: Tensor,
    k: float | Tensor,
    temperature: float | Tensor,
    ok: Tensor | None,
    link: str,
    taus: Tensor | None = None,
) -> Tensor:
    """The weights of soft top-k, (..., n) contiguous, dtype of the scores.

    Args:
        rows: (..., n) float16, bfloat16, float32 or float64, on a CPU, 0 < n < 2**31.
        k, temperature: a number, or (...) float64.
        ok: (..., n) bool, True for entries that may have weight; all where None.
        link: "sigmoid", "laplace", "clip" or "exp".
        taus: (..., 2) float64 for float64 scores, else float32, contiguous: gets tau as a sum of two.
    """
    rows, ok, k, temperature = _in_rows(rows), _in_rows(ok), _each(k), _each(temperature)
    weights = rows.new_empty(rows.shape)
    module.soft(
        *_asked(rows, temperature, ok, link), *_number(k), weights.data_ptr(),
        0 if taus is None else taus.data_ptr(),
    )  # fmt: skip
    return weights


def soft_backward(
    rows: Tensor, taus: Tensor, temperature: float | Tensor, ok: Tensor | None, link: str, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of the scores, (..., n), of k and of the temperature, (...) float64, all contiguous.

    Args:
        rows, temperature, ok, link: as in :func:`soft`.
        taus: what it wrote there.
        grad: (..., n), the gradient of the weights, in their dtype.
    """
    rows, ok, grad, temperature = _in_rows(rows), _in_rows(ok), _in_rows(grad), _each(temperature)
    of_scores = rows.new_empty(rows.shape)
    of_k = rows.new_empty(rows.shape[:-1], dtype=torch.float64)
    of_temperature = torch.empty_like(of_k)
    module.soft_backward(
        *_asked(rows, temperature, ok, link), taus.data_ptr(), grad.data_ptr(),
        of_scores.data_ptr(), of_k.data_ptr(), of_temperature.data_ptr(),
    )  # fmt: skip
    return of_scores, of_k, of_temperature


def _asked(rows: Tensor, temperature: float | Tensor, ok: Tensor | None, link: str) -> tuple[float, ...]:
    """What all functions of soft top-k are told."""
    n = rows.shape[-1]
    count = rows.numel() // n
    return (
        1 if count < 2 else threads(), rows.data_ptr(), _KINDS[rows.dtype], count, n, _LINKS[link],
        *_number(temperature), 0 if ok is None else ok.data_ptr(),
    )  # fmt: skip


# What is handed over by its address must lie row after row, and live until the call is over.
def _in_rows(x: Any) -> Any:
    return None if x is None else x.contiguous()


def _each(number: Any) -> Any:
    return number.reshape(-1).contiguous() if isinstance(number, Tensor) else number


def _number(number: float | Tensor) -> tuple[float, int]:
    return (0.0, number.data_ptr()) if isinstance(number, Tensor) else (number, 0)
