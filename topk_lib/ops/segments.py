"""Hard top-k of rows of unlike lengths that lie one after the other."""

from __future__ import annotations

import torch
from torch import Tensor

from topk_lib.ops.arguments import check_integers, check_scores, whole
from topk_lib.ops.hard import Selection, hard_topk

__all__ = ["segment_topk"]


def segment_topk(
    scores: Tensor, offsets: Tensor, k: int | Tensor, *, order: str = "position", largest: bool = True
) -> Selection:
    """Choose the k largest entries of each segment, by the rules of :func:`~topk_lib.hard_topk`.

    Row i is ``scores[offsets[i] : offsets[i + 1]]``, as in nested tensors and packed batches. Rows are laid
    side by side for it: memory is the number of rows times the longest of them.

    Args:
        scores: (total,) float16, bfloat16, float32 or float64.
        offsets: (rows + 1,) integers that start at 0, end at total and never fall.
        k: at least 0; an int, or an integer tensor with one per row. It may exceed a row's length: the slots
            left over hold index -1 and value 0.
        order: "position" or "value".
        largest: False for the k smallest.

    Returns:
        values (rows, width) and indices (rows, width) into ``scores``, where width is the largest k;
        mask (total,).

    Raises:
        TypeError: ``scores`` is not a float tensor, ``offsets`` or ``k`` not an integer.
        ValueError: a wrong shape or device, offsets that are none, ``k`` below 0.

    Example:
        >>> segment_topk(torch.tensor([3.0, 1.0, 2.0, 5.0, 4.0]), torch.tensor([0, 3, 5]), 2).indices
        tensor([[0, 2],
                [3, 4]])
    """
    check_scores("scores", scores, None)
    if scores.dim() != 1:
        raise ValueError(f"scores must have one dimension, the rows one after the other, got {scores.dim()}")
    starts, lengths = _rows(offsets, scores)
    if isinstance(k, Tensor):
        check_integers("k", k, lengths[:, None])
        if len(k) and int(k.min()) < 0:
            raise ValueError(f"k must be at least 0, got {int(k.min())}")
        width = int(k.max()) if len(k) else 0
    else:
        width = whole("k", k, least=0)
    longest = int(lengths.max()) if len(lengths) else 0
    column = torch.arange(longest, device=scores.device)
    inside = column < lengths[:, None]
    place = (starts[:, None] + column).where(inside, 0)
    few = (
        k.to(scores.device, torch.int64).clamp(max=longest) if isinstance(k, Tensor) else min(width, longest)
    )
    values, indices, mask = hard_topk(scores[place], few, valid=inside, order=order, largest=largest)
    indices = (indices + starts[:, None]).where(indices >= 0, -1)
    spare = (0, width - indices.shape[1])
    return Selection(
        torch.nn.functional.pad(values, spare),
        torch.nn.functional.pad(indices, spare, value=-1),
        mask[inside],  # the rows one after the other again
    )


def _rows(offsets: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Where each row starts, and its length: (rows,) int64 on the device of the scores."""
    if not isinstance(offsets, Tensor) or offsets.dtype.is_floating_point or offsets.dtype == torch.bool:
        kind = offsets.dtype if isinstance(offsets, Tensor) else type(offsets).__name__
        raise TypeError(f"offsets must be an integer tensor, got {kind}")
    if offsets.dim() != 1 or not len(offsets):
        raise ValueError(f"offsets must have shape (rows + 1,), got {tuple(offsets.shape)}")
    ends = offsets.to(scores.device, torch.int64)
    lengths = ends.diff()
    if int(ends[0]) != 0 or int(ends[-1]) != len(scores) or bool((lengths < 0).any()):
        raise ValueError(
            f"offsets must start at 0, never fall and end at {len(scores)}, the number of scores; "
            f"got {ends[0].item()} to {ends[-1].item()}{', falling' if bool((lengths < 0).any()) else ''}"
        )
    return ends[:-1], lengths
