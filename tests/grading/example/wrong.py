"""Known answers to the example: each wrong one must lose points, each right one keep all."""

from __future__ import annotations

import torch
from torch import Tensor

from topk_lib.grading import right, wrong


@wrong("largest", "the last of equal scores")
def last(scores: Tensor) -> int:
    return len(scores) - 1 - int(scores.flip(0).argmax())


@wrong("largest", "starts from zero, so negative scores never win")
def from_zero(scores: Tensor) -> int:
    best, place = 0.0, 0
    for index, score in enumerate(scores.tolist()):
        if score > best:
            best, place = score, index
    return place


@right("largest", "with torch.max, which gives the first of equal scores on a CPU")
def by_max(scores: Tensor) -> int:
    return int(torch.max(scores, dim=0).indices)


@wrong("spread", "the last number less the first")
def ends(values: list[float]) -> float:
    return values[-1] - values[0]
