"""Checks for the chapter that asks whether it must read it all."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from topk_lib.checks.base import check, close, differ, floats
from topk_lib.selectors.base import Selector
from topk_lib.selectors.base import shorten as _shorten

__all__ = ["check_f1", "check_middle_scores", "check_recall_accuracy"]


@check
def check_f1(f1: Callable[[float, float], float]) -> str:
    """Check a learner's F1 function of precision and recall."""
    for precision, recall, expected in ((0.5, 1.0, 2 / 3), (0.9, 0.9, 0.9), (0.2, 0.6, 0.3)):
        got = f1(precision, recall)
        if not close(got, expected):
            hint = "that is the arithmetic mean" if close(got, (precision + recall) / 2) else "recompute"
            right, yours = differ(expected, got)
            return f"Not yet: f1({precision}, {recall}) is {right}, yours gives {yours} ({hint})."
    try:
        zero = f1(0.0, 0.0)
    except ZeroDivisionError:
        return "Almost: f1(0.0, 0.0) divides by zero; by convention it is 0."
    return "Right." if zero == 0 else f"Almost: f1(0.0, 0.0) is 0 by convention, yours gives {zero}."


@check
def check_recall_accuracy(answer: float) -> str:
    """Check the accuracy implied by recalls .964 and .980 on 2,000 reviews of each class."""
    if abs(answer - 0.972) < 5e-4:
        return "Right: with equal supports, accuracy is the mean of the two recalls."
    if answer > 1:
        return "Not yet: give the accuracy as a share between 0 and 1."
    return f"Not yet: {answer} is not what 1,928 + 1,960 right answers out of 4,000 give."


@check
def check_middle_scores(scores: Callable[[Tensor, Tensor], Tensor]) -> str:
    """Check a learner's selector that keeps the k tokens in the middle of each text."""

    class Learner(Selector):
        name = "learner"
        rule = "middle"

        def scores(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            return floats(scores(input_ids, attention_mask))

    ids = torch.arange(1, 10).repeat(2, 1)
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    got = scores(ids, mask)
    if got.shape != ids.shape:
        return (
            f"Not yet: scores must have the shape of input_ids {tuple(ids.shape)}, yours {tuple(got.shape)}."
        )
    kept, _, _ = _shorten(Learner(), ids, mask, 3)
    if kept[0].tolist() != [4, 5, 6]:
        return f"Not yet: of tokens 1..9 the middle three are 4, 5, 6; yours keeps {kept[0].tolist()}."
    if kept[1].tolist() != [2, 3, 4]:
        return (
            "Almost: the second text has 5 tokens and padding, its middle three are 2, 3, 4; yours "
            f"keeps {kept[1].tolist()}. Take each text's length from attention_mask."
        )
    return "Right."
