"""What an accuracy matrix says of learning and forgetting.

R[i, j] is the accuracy on task j after task i was learned, both counted from 0; what was not measured is NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["average_accuracy", "backward_transfer", "forgetting", "forward_transfer"]


def average_accuracy(matrix: Any) -> float:
    """Mean accuracy on all tasks after the last (Lopez-Paz and Ranzato, 2017).

    Args:
        matrix: (T, T) accuracies in [0, 1]; its last row is read.

    Raises:
        ValueError: the matrix is not square, or has fewer than two tasks.
    """
    return float(_checked(matrix)[-1].mean())


def forgetting(matrix: Any) -> float:
    """How much lower the tasks but the last stand at the end than at their best (Chaudhry et al., 2018).

    The mean over tasks j < T - 1 of max over i < T - 1 of R[i, j], minus R[T - 1, j]; negative, where the
    later tasks helped.

    Args:
        matrix: (T, T); R[i, j] with i < j may be NaN.

    Raises:
        ValueError: see :func:`average_accuracy`.
    """
    found = _checked(matrix)
    return float((np.nanmax(found[:-1, :-1], axis=0) - found[-1, :-1]).mean())


def backward_transfer(matrix: Any) -> float:
    """How much higher the tasks but the last stand at the end than just after they were learned.

    The mean over j < T - 1 of R[T - 1, j] - R[j, j] (Lopez-Paz and Ranzato, 2017).

    Args:
        matrix: (T, T); only the diagonal and the last row are read.

    Raises:
        ValueError: see :func:`average_accuracy`.
    """
    found = _checked(matrix)
    return float((found[-1] - found.diagonal())[:-1].mean())


def forward_transfer(ahead: Sequence[float], at_first: Sequence[float]) -> float:
    """How much better the tasks but the first are solved before they are learned, thanks to earlier ones.

    The mean over i > 0 of ahead[i] - at_first[i] (Lopez-Paz and Ranzato, 2017, where R[i - 1, i] is
    ahead[i]).

    Args:
        ahead: (T,) the accuracy on each task just before it is learned.
        at_first: (T,) the same before anything is learned.

    Raises:
        ValueError: the lengths differ, or are below two.
    """
    if len(ahead) != len(at_first) or len(ahead) < 2:
        raise ValueError(
            f"forward transfer needs two accuracies of each of two tasks or more, got {len(ahead)} and "
            f"{len(at_first)}"
        )
    return float((np.asarray(ahead, float) - np.asarray(at_first, float))[1:].mean())


def _checked(matrix: Any) -> np.ndarray:
    found = np.asarray(matrix, float)
    if found.ndim != 2 or found.shape[0] != found.shape[1]:
        raise ValueError(f"an accuracy matrix has a row and a column a task, got shape {found.shape}")
    if len(found) < 2:
        raise ValueError("of a single task nothing can be forgotten: give the matrix of two tasks or more")
    return found
