"""hard_topk against its definition in reference.py, and against bad input."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from topk_lib import TopK, argtopk, hard_topk, reference, topk_mask, topk_threshold

pytestmark = pytest.mark.usefixtures("cpu_code")

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
# Few values, so that ties are common; every special one among them.
VALUES = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, 2.0, math.inf, -math.inf, math.nan])


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, int, Tensor | None]:
    rows, n = draw(st.integers(0, 3)), draw(st.integers(0, 9))
    numbers = draw(st.lists(VALUES, min_size=rows * n, max_size=rows * n))
    scores = torch.tensor(numbers, dtype=draw(st.sampled_from(DTYPES))).reshape(rows, n)
    valid = None
    if draw(st.booleans()):
        bits = draw(st.lists(st.booleans(), min_size=rows * n, max_size=rows * n))
        valid = torch.tensor(bits, dtype=torch.bool).reshape(rows, n)
    return scores, draw(st.integers(0, n)), valid


@settings(max_examples=300, deadline=None)
@given(cases(), st.booleans())
def test_is_the_definition(case: tuple[Tensor, int, Tensor | None], largest: bool) -> None:
    scores, k, valid = case
    got = hard_topk(scores, k, valid=valid, largest=largest)
    expected = reference.hard_topk(scores, k, valid, largest)
    assert torch.equal(got.mask, expected)
    for row in range(len(scores)):
        where = expected[row].nonzero().flatten()
        spare = k - len(where)
        assert got.indices[row].tolist() == where.tolist() + [-1] * spare
        values = torch.cat([scores[row, where], torch.zeros(spare, dtype=scores.dtype)])
        assert torch.equal(got.values[row].nan_to_num(7.0), values.nan_to_num(7.0))


@settings(max_examples=200, deadline=None)
@given(cases(), st.booleans())
def test_order_by_value_is_the_same_choice_sorted(
    case: tuple[Tensor, int, Tensor | None], largest: bool
) -> None:
    scores, k, valid = case
    by_value = hard_topk(scores, k, valid=valid, order="value", largest=largest)
    by_position = hard_topk(scores, k, valid=valid, largest=largest)
    assert torch.equal(by_value.mask, by_position.mask)
    sign = -1 if largest else 1
    for row in range(len(scores)):
        chosen = [i for i in by_value.indices[row].tolist() if i >= 0]
        key = [(math.isnan(s) != largest, sign * s if not math.isnan(s) else 0.0, i)
               for i, s in ((i, scores[row, i].item()) for i in chosen)]  # fmt: skip
        assert key == sorted(key)


@settings(max_examples=200, deadline=None)
@given(cases(), st.booleans(), st.sampled_from(["position", "value"]))
def test_parts_alone_are_parts_of_the_whole(
    case: tuple[Tensor, int, Tensor | None], largest: bool, order: str
) -> None:
    scores, k, valid = case
    whole = hard_topk(scores, k, valid=valid, order=order, largest=largest)
    found = argtopk(scores, k, valid=valid, order=order, largest=largest)
    assert torch.equal(found, whole.indices)
    assert torch.equal(topk_mask(scores, k, valid=valid, largest=largest), whole.mask)
    module = TopK(k, order=order, largest=largest)
    assert torch.equal(module(scores, valid).indices, whole.indices)

    edge = topk_threshold(scores, k, valid=valid, largest=largest)
    assert edge.shape == scores.shape[:1]
    assert edge.dtype == scores.dtype
    ranked = hard_topk(scores, k, valid=valid, order="value", largest=largest)
    for row in range(len(scores)):
        taken = [scores[row, i].item() for i in ranked.indices[row].tolist() if i >= 0]
        expected = taken[-1] if taken else (math.inf if largest else -math.inf)
        assert edge[row].item() == expected or (math.isnan(edge[row].item()) and math.isnan(expected))


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_parts_alone_along_any_dimension(dim: int) -> None:
    scores = torch.randn(5, 6, 7, generator=torch.Generator().manual_seed(2)).transpose(0, 2)
    for largest in (True, False):
        moved = hard_topk(scores.movedim(dim, -1).contiguous(), 3, largest=largest)
        indices = argtopk(scores, 3, dim=dim, largest=largest)
        assert torch.equal(indices.movedim(dim, -1), moved.indices)
        edge = moved.values.amin(-1) if largest else moved.values.amax(-1)
        assert torch.equal(topk_threshold(scores, 3, dim=dim, largest=largest), edge)
        assert torch.equal(topk_mask(scores, 3, dim=dim, largest=largest).movedim(dim, -1), moved.mask)


def test_the_thresholds_gradient_goes_to_one_entry_even_among_ties() -> None:
    scores = torch.tensor([[1.0, 4.0, 2.0, 2.0], [3.0, 3.0, 3.0, 0.0]], requires_grad=True)
    torch.autograd.backward(topk_threshold(scores, 2).sum())
    assert scores.grad is not None
    assert scores.grad.tolist() == [[0.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 0.0]]
    smooth = torch.tensor([[0.3, -1.0, 2.0, 0.7]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: topk_threshold(s, 3, largest=False), smooth)


def test_smallest_with_one_k_per_row_and_nan() -> None:
    scores = torch.tensor([[3.0, math.nan, 2.0], [math.nan, math.nan, 1.0], [5.0, math.inf, math.nan]])
    got = hard_topk(scores, torch.tensor([2, 2, 3]), largest=False)
    assert got.indices.tolist() == [[0, 2, -1], [0, 2, -1], [0, 1, 2]]
    assert topk_threshold(scores, torch.tensor([2, 0, 2]), largest=False).tolist() == [
        3.0,
        -math.inf,
        math.inf,
    ]
    per_example = torch.vmap(lambda s: argtopk(s, 2, largest=False))(scores)
    assert per_example.tolist() == [[0, 2], [0, 2], [0, 1]]
    compiled = torch.compile(lambda s: topk_mask(s, 2, largest=False), fullgraph=True, backend="eager")
    assert torch.equal(compiled(scores), topk_mask(scores, 2, largest=False))


def test_matches_torch_topk_without_ties() -> None:
    scores = torch.randn(4, 5, 200, generator=torch.Generator().manual_seed(0))
    got = hard_topk(scores, 17, order="value")
    values, indices = scores.topk(17)
    assert torch.equal(got.values, values)
    assert torch.equal(got.indices, indices)


@pytest.mark.parametrize("dim", [0, 1, 2, -1, -2])
def test_any_dimension_and_strides(dim: int) -> None:
    scores = torch.randn(6, 8, 7, generator=torch.Generator().manual_seed(1)).transpose(0, 2)
    got = hard_topk(scores, 3, dim=dim)
    moved = hard_topk(scores.movedim(dim, -1).contiguous(), 3)
    assert torch.equal(got.mask.movedim(dim, -1), moved.mask)
    assert torch.equal(got.indices.movedim(dim, -1), moved.indices)
    assert torch.equal(got.values, scores.gather(dim, got.indices))


def test_one_k_per_row() -> None:
    scores = torch.tensor([[3.0, 1.0, 2.0], [1.0, 2.0, 3.0], [5.0, 5.0, 5.0]])
    got = hard_topk(scores, torch.tensor([2, 0, 1]))
    assert got.indices.tolist() == [[0, 2], [-1, -1], [0, -1]]
    assert got.values.tolist() == [[3.0, 2.0], [0.0, 0.0], [5.0, 0.0]]
    assert got.mask.sum(-1).tolist() == [2, 0, 1]


def test_gradient_flows_through_values() -> None:
    scores = torch.tensor([[1.0, 4.0, 2.0, 3.0]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: hard_topk(s, 2).values, scores)
    torch.autograd.backward(hard_topk(scores, 2).values.sum())
    assert scores.grad is not None
    assert scores.grad.tolist() == [[0.0, 1.0, 0.0, 1.0]]


def test_real_minus_infinity_beats_padding() -> None:
    scores = torch.tensor([[9.0, -math.inf, 9.0]])
    got = hard_topk(scores, 2, valid=torch.tensor([[False, True, False]]))
    assert got.indices.tolist() == [[1, -1]]


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"k": -1}, ValueError, r"k must lie in 0\.\.4 .* got -1"),
    ({"k": 5}, ValueError, r"k must lie in 0\.\.4 .* got 5"),
    ({"k": 2.0}, TypeError, "k must be an int or an integer tensor, got float"),
    ({"k": True}, TypeError, "got bool"),
    ({"k": torch.tensor([1.0, 2.0])}, TypeError, r"got torch\.float32"),
    ({"k": torch.tensor([1, 2, 3])}, ValueError, r"shape \(2,\), got \(3,\)"),
    ({"k": 1, "scores": torch.zeros(2, 4, dtype=torch.int64)}, TypeError, "scores must be"),
    ({"k": 1, "scores": torch.tensor(1.0)}, ValueError, "scalar"),
    ({"k": 1, "valid": torch.ones(2, 4)}, TypeError, "valid must be a bool tensor"),
    ({"k": 1, "valid": torch.ones(3, 4, dtype=torch.bool)}, ValueError, "valid must broadcast"),
    ({"k": 1, "order": "index"}, ValueError, 'order must be "position" or "value"'),
    ({"k": 1, "largest": "no"}, TypeError, "largest must be True or False, got 'no'"),
]


@pytest.mark.parametrize(("arguments", "kind", "message"), BAD)
def test_bad_input_says_what_is_wrong(arguments: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        hard_topk(**({"scores": torch.zeros(2, 4)} | arguments))


def test_many_rows_while_the_interpreter_ends() -> None:
    """Then no thread pool takes work: the rows are done one piece after the other."""
    program = (
        "import atexit, torch, topk_lib\n"
        "x = torch.arange(4 << 18).float().reshape(4, -1)\n"
        "atexit.register(lambda: print(topk_lib.hard_topk(x, 2).values[:, 1].tolist()))\n"
        "topk_lib.hard_topk(x, 2)\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=600)
    assert run.stdout.strip() == str([float((i + 1) * (1 << 18) - 1) for i in range(4)]), run.stderr
