"""Hard top-k on a CPU: NumPy's vectorised selection finds the k-th largest, one comparison the rest.

``np.partition`` is two to ten times faster than ``torch.topk`` and has the order of the contract
(NaN highest, -0.0 equal to +0.0), but says nothing of ties; those are settled afterwards, as the
Triton kernel does it. NumPy lets other threads run meanwhile, so that the rows are shared among
PyTorch's number of threads.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["by_threshold", "in_pieces", "kth_largest"]

_BLOCK = 64
_MANY = 1 << 17  # entries from which on blocks pay
_PIECE = 1 << 16  # entries that one thread takes at a time: their work space stays in its cache

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
    if ks is None and valid is None and rows * n >= _MANY and width * _BLOCK * 8 <= n:
        _choose_in_blocks(scores, width, indices, mask)
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
    # A pool does not survive a fork: each process has its own.
    run = _pool(threads, os.getpid()).map if threads > 1 else map
    for _ in run(piece, (slice(start, start + step) for start in range(0, rows, step))):
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


def _choose_in_blocks(x: Floats, k: int, indices: Ints, mask: Bools) -> None:
    """Search only the k blocks of a row with the largest maxima, and the entries after the last block.

    An entry of another block comes after k others, the maxima of those blocks.
    """
    rows, n = x.shape
    blocks = n // _BLOCK
    body = torch.from_numpy(x)[:, : blocks * _BLOCK].view(rows, blocks, _BLOCK)
    best, _ = by_threshold(body.amax(-1).numpy(), k)  # (rows, k)
    row = np.arange(rows)[:, None]
    near = body.numpy()[row, best].reshape(rows, k * _BLOCK)
    found, _ = by_threshold(np.concatenate([near, x[:, blocks * _BLOCK :]], axis=-1), k)
    # Entries of the tail stand behind k blocks there, behind all blocks in the row.
    shift = np.concatenate([best - np.arange(k), np.full((rows, 1), blocks - k)], axis=-1)
    block = np.minimum(found // _BLOCK, k)
    np.add(found, _BLOCK * np.take_along_axis(shift, block, axis=-1), out=indices)
    mask.fill(False)
    mask[row, indices] = True


def _choose(x: Floats, width: int, ks: Ints | None, valid: Bools | None, indices: Ints, mask: Bools) -> None:
    rows, n = x.shape
    limit: Ints | None = ks
    if valid is not None:
        x = np.where(valid, x, -np.inf)
        limit = np.minimum(width if ks is None else ks, np.count_nonzero(valid, axis=-1))
    # (rows, 1): the k-th largest, or the largest where k is 0
    if limit is None:
        place = n - max(width, 1)
        edge = np.partition(x, place, axis=-1)[:, place, None]
        total: Ints | int = width
    else:
        edge = kth_largest(x, np.maximum(limit, 1))
        total = limit
    np.less(x, edge, out=mask)
    np.logical_not(mask, out=mask)  # NaN is not less
    if valid is not None:
        mask &= valid
    if limit is None:
        where = mask.reshape(-1).nonzero()[0]
        # Every row has its k or more, so that none has more where the total is right.
        if len(where) == rows * width:
            np.subtract(where.reshape(rows, width), np.arange(0, rows * n, n)[:, None], out=indices)
            return
    crowded = (np.count_nonzero(mask, axis=-1) != total).nonzero()[0]
    if len(crowded):
        part = None if valid is None else valid[crowded]
        mask[crowded] = _settle(
            x[crowded], edge[crowded], part, limit[crowded] if limit is not None else width
        )
    row, column = mask.nonzero()
    if limit is None:
        indices[:] = column.reshape(rows, width)
        return
    indices.fill(-1)
    indices[row, np.arange(len(row)) - (limit.cumsum() - limit)[row]] = column


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
