"""segment_topk against hard_topk of each segment, and against bad input."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from topk_lib import hard_topk, segment_topk

VALUES = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, math.inf, -math.inf, math.nan])


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, Tensor, int | Tensor]:
    lengths = draw(st.lists(st.integers(0, 6), max_size=5))
    total = sum(lengths)
    dtype = draw(st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]))
    scores = torch.tensor(draw(st.lists(VALUES, min_size=total, max_size=total)), dtype=dtype)
    offsets = torch.tensor([0, *lengths]).cumsum(0).to(draw(st.sampled_from([torch.int32, torch.int64])))
    if draw(st.booleans()):
        return scores, offsets, draw(st.integers(0, 8))
    ks = draw(st.lists(st.integers(0, 8), min_size=len(lengths), max_size=len(lengths)))
    return scores, offsets, torch.tensor(ks, dtype=torch.int64)


@settings(max_examples=300, deadline=None)
@given(cases(), st.booleans(), st.sampled_from(["position", "value"]))
def test_is_the_choice_of_each_segment(
    case: tuple[Tensor, Tensor, int | Tensor], largest: bool, order: str
) -> None:
    scores, offsets, k = case
    got = segment_topk(scores, offsets, k, order=order, largest=largest)
    rows = len(offsets) - 1
    ks = k.tolist() if isinstance(k, Tensor) else [k] * rows
    width = max(ks, default=0) if isinstance(k, Tensor) else k
    assert got.indices.shape == got.values.shape == (rows, width)
    assert got.mask.shape == scores.shape
    for row in range(rows):
        first, last = int(offsets[row]), int(offsets[row + 1])
        alone = hard_topk(scores[first:last], min(ks[row], last - first), order=order, largest=largest)
        taken = len(alone.indices)
        assert got.indices[row].tolist() == (alone.indices + first).tolist() + [-1] * (width - taken)
        assert torch.equal(got.values[row, :taken].nan_to_num(7.0), alone.values.nan_to_num(7.0))
        assert got.values[row, taken:].eq(0).all()
        assert torch.equal(got.mask[first:last], alone.mask)


def test_gradient_reaches_the_chosen_entries_alone() -> None:
    scores = torch.tensor([3.0, 1.0, 2.0, 5.0, 4.0], dtype=torch.float64, requires_grad=True)
    offsets = torch.tensor([0, 3, 3, 5])
    assert torch.autograd.gradcheck(lambda s: segment_topk(s, offsets, 2).values, scores)
    torch.autograd.backward(segment_topk(scores, offsets, 1).values.sum())
    assert scores.grad is not None
    assert scores.grad.tolist() == [1.0, 0.0, 0.0, 1.0, 0.0]


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"scores": torch.zeros(2, 4)}, ValueError, "scores must have one dimension"),
    ({"scores": torch.zeros(4, dtype=torch.int64)}, TypeError, "scores must be a float16"),
    ({"offsets": [0, 4]}, TypeError, "offsets must be an integer tensor, got list"),
    ({"offsets": torch.tensor([0.0, 4.0])}, TypeError, "got torch.float32"),
    ({"offsets": torch.tensor([[0, 4]])}, ValueError, r"shape \(rows \+ 1,\), got \(1, 2\)"),
    ({"offsets": torch.tensor([], dtype=torch.int64)}, ValueError, r"got \(0,\)"),
    ({"offsets": torch.tensor([1, 4])}, ValueError, "start at 0, never fall and end at 4"),
    ({"offsets": torch.tensor([0, 3])}, ValueError, "got 0 to 3"),
    ({"offsets": torch.tensor([0, 3, 2, 4])}, ValueError, "falling"),
    ({"k": -1}, ValueError, "k must be at least 0, got -1"),
    ({"k": 1.0}, TypeError, "k must be a whole number"),
    ({"k": torch.tensor([1, 2])}, ValueError, r"one int per row, shape \(1,\), got \(2,\)"),
    ({"k": torch.tensor([-2])}, ValueError, "got -2"),
    ({"order": "index"}, ValueError, "order must be"),
]


@pytest.mark.parametrize(("arguments", "kind", "message"), BAD)
def test_bad_input_says_what_is_wrong(arguments: dict[str, Any], kind: type[Exception], message: str) -> None:
    right: dict[str, Any] = {"scores": torch.zeros(4), "offsets": torch.tensor([0, 4]), "k": 1}
    with pytest.raises(kind, match=message):
        segment_topk(**(right | arguments))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32])
def test_k_of_few_bits_in_long_segments(dtype: torch.dtype) -> None:
    found = segment_topk(torch.arange(400.0), torch.tensor([0, 300, 400]), torch.tensor([1, 2], dtype=dtype))
    assert found.indices.tolist() == [[299, -1], [398, 399]]
