"""Hard top-k on a CPU: NumPy's vectorised selection finds the k-th largest, one comparison the rest.

``np.partition`` is two to ten times faster than ``torch.topk`` and has the order of the contract
(NaN highest, -0.0 equal to +0.0), but says nothing of ties; those are settled afterwards, as the
Triton kernel does it. NumPy lets other threads run meanwhile, so that the rows are shared among
PyTorch's number of threads.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["by_threshold", "in_pieces", "kth_largest"]

_GROUPS = 16  # groups for each of the k
_PIECE = 1 << 19  # entries that one thread takes at a time: few enough for its cache, many for its while

Floats = NDArray[np.floating]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


def by_threshold(
    scores: Floats, width: int, ks: Ints | None = None, valid: Bools | None = None
) -> tuple[Ints, Bools]:
    """Choose in each row the largest entries, ties to the lowest index.

    Args:
        scores: (rows, n) float32 or float64.
        width: the largest k.
        ks: (rows,) one k a row; ``width`` in each where None.
        valid: (rows, n), True for entries that may be chosen; all where None.

    Returns:
        indices (rows, width), ascending, -1 in spare slots; mask (rows, n).
    """
    rows, n = scores.shape
    indices: Ints = np.empty((rows, width), dtype=np.int64)
    mask: Bools = np.empty((rows, n), dtype=np.bool_)
    if rows == 0 or n == 0:
        indices.fill(-1)
        return indices, mask

    def piece(part: slice) -> None:
        own_k = None if ks is None else ks[part]
        own_valid = None if valid is None else valid[part]
        _choose(scores[part], width, own_k, own_valid, indices[part], mask[part])

    in_pieces(piece, rows, n)
    return indices, mask


def in_pieces(piece: Callable[[slice], None], rows: int, n: int) -> None:
    """Call ``piece`` on slices of the rows, by several threads where there are many entries."""
    step = max(1, _PIECE // max(n, 1))
    if rows <= step:
        piece(slice(0, rows))
        return
    threads = torch.get_num_threads()
    parts = [slice(start, start + step) for start in range(0, rows, step)]
    done: Iterator[None] = map(piece, parts)
    if threads > 1:
        # While the interpreter ends, no pool takes work.
        with contextlib.suppress(RuntimeError):
            # A pool does not survive a fork: each process has its own.
            done = _pool(threads, os.getpid()).map(piece, parts)
    for _ in done:
        pass


def kth_largest(x: Floats, ks: Ints) -> Floats:
    """(rows, 1): of each row of x (rows, n) the k-th largest, 1 <= k <= n, NaN being the largest."""
    places = x.shape[1] - ks
    wanted = np.unique(places)
    ordered = np.partition(x, wanted, axis=-1) if len(wanted) <= 4 else np.sort(x, axis=-1)
    found: Floats = np.take_along_axis(ordered, places[:, None], axis=-1)
    return found


@functools.cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="topk_lib")


def _choose(x: Floats, width: int, ks: Ints | None, valid: Bools | None, indices: Ints, mask: Bools) -> None:
    rows, n = x.shape
    limit: Ints | None = ks
    if valid is not None:
        x = np.where(valid, x, -np.inf)
        limit = np.minimum(width if ks is None else ks, np.count_nonzero(valid, axis=-1))
    if limit is None:
        total: Ints | int = width
        if 0 < width * _GROUPS * 4 <= n and _choose_few(x, width, indices, mask):
            return
        place = n - max(width, 1)  # the k-th largest, or the largest where k is 0
        edge = np.partition(x, place, axis=-1)[:, place, None]
        if _write(_reaching(x, edge, mask), rows, n, indices):
            return
    else:
        total = limit
        edge = kth_largest(x, np.maximum(limit, 1))
        _reaching(x, edge, mask)
        if valid is not None:
            mask &= valid
    crowded = (np.count_nonzero(mask, axis=-1) != total).nonzero()[0]
    if len(crowded):
        part = None if valid is None else valid[crowded]
        room = limit[crowded] if limit is not None else width
        mask[crowded] = _settle(x[crowded], edge[crowded], part, room)
    row, column = mask.nonzero()
    if limit is None:
        indices[:] = column.reshape(rows, width)
        return
    indices.fill(-1)
    indices[row, np.arange(len(row)) - (limit.cumsum() - limit)[row]] = column


def _choose_few(x: Floats, k: int, indices: Ints, mask: Bools) -> bool:
    """Where k is small: the k-th largest maximum of groups of entries is a floor that few reach.

    At least k entries reach it, the maxima of k groups; among those that do are the k largest.

    Returns:
        False where a tie at the edge asks for the general way.
    """
    rows, n = x.shape
    groups = k * _GROUPS
    size = n // groups
    # Entry i belongs to group i mod groups, so that whole vectors are compared.
    best = x[:, : size * groups].reshape(rows, size, groups).max(axis=1)
    rest = n - size * groups
    np.maximum(best[:, :rest], x[:, size * groups :], out=best[:, :rest])
    floor = np.partition(best, groups - k, axis=-1)[:, groups - k, None]
    where = _reaching(x, floor, mask)
    if _write(where, rows, n, indices):
        return True
    row = where // n
    counts = np.bincount(row, minlength=rows)
    reached = x.reshape(-1)[where]
    wide = int(counts.max())
    table = np.full((rows, wide), -np.inf, x.dtype)
    table[row, np.arange(len(row)) - (counts.cumsum() - counts)[row]] = reached
    edge = np.partition(table, wide - k, axis=-1)[:, wide - k]
    keep = ~(reached < edge[row])
    mask.reshape(-1)[where[~keep]] = False
    return _write(where[keep], rows, n, indices)


def _reaching(x: Floats, floor: Floats, mask: Bools) -> Ints:
    """Mark the entries not below the floor of their row, NaN among them; their places, row after row."""
    np.less(x, floor, out=mask)
    np.logical_not(mask, out=mask)
    return mask.reshape(-1).nonzero()[0]


def _write(where: Ints, rows: int, n: int, indices: Ints) -> bool:
    """Write the chosen places, if there are k a row (there are never fewer, so that the sum tells)."""
    if len(where) != indices.size:
        return False
    np.subtract(where.reshape(indices.shape), np.arange(0, rows * n, n)[:, None], out=indices)
    return True


def _settle(x: Floats, edge: Floats, valid: Bools | None, limit: Ints | int) -> Bools:
    """Of the entries equal to the edge the first ones that there is room for."""
    nan = edge != edge
    greater = ~(x <= edge) & ~nan
    equal = (x == edge) | (nan & (x != x))
    if valid is not None:
        greater &= valid
        equal &= valid
    spare = limit - np.count_nonzero(greater, axis=-1)
    chosen: Bools = greater | (equal & (equal.cumsum(axis=-1) <= spare[:, None]))
    return chosen
