"""Who takes whom, against the definition in reference.py; and the faults seen elsewhere, refused by name."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from topk_lib import hard_topk, reference
from topk_lib.routing import capacities, expert_choice, token_choice
from topk_lib.routing.choice import room

# Few values, so that ties are common.
VALUES = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, math.inf, -math.inf, math.nan])


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, int, Tensor | None, int | None]:
    n, experts = draw(st.integers(0, 6)), draw(st.integers(1, 4))
    numbers = draw(st.lists(VALUES, min_size=n * experts, max_size=n * experts))
    scores = torch.tensor(numbers, dtype=draw(st.sampled_from([torch.float32, torch.bfloat16])))
    scores = scores.reshape(experts, n).T if draw(st.booleans()) else scores.reshape(n, experts)
    valid = draw(st.none() | st.lists(st.booleans(), min_size=n, max_size=n))
    most = draw(st.none() | st.integers(1, experts))
    return scores, draw(st.integers(0, n)), None if valid is None else torch.tensor(valid).bool(), most


@settings(max_examples=300, deadline=None)
@given(cases())
def test_is_the_definition(case: tuple[Tensor, int, Tensor | None, int | None]) -> None:
    scores, capacity, valid, most = case
    taken = expert_choice(scores, capacity, valid=valid, most=most)
    assert torch.equal(taken.mask, reference.expert_choice(scores, capacity, valid, most))
    for expert, row in enumerate(taken.indices.tolist()):
        own = taken.mask[:, expert].nonzero().flatten().tolist()
        assert row == own + [-1] * (capacity - len(own))
    if most is None:
        mask = None if valid is None else valid.expand(scores.shape[1], -1)
        assert torch.equal(taken.mask.T, reference.hard_topk(scores.T, capacity, mask))


@settings(max_examples=100, deadline=None)
@given(cases())
def test_a_token_chooses_as_an_expert_does(case: tuple[Tensor, int, Tensor | None, int | None]) -> None:
    scores, capacity, valid, k = case
    k = k or 1
    mask = token_choice(scores, k, valid=valid)
    ok = None if valid is None else valid[:, None].expand(scores.shape)
    assert torch.equal(mask, reference.hard_topk(scores, k, ok))
    within = token_choice(scores, k, valid=valid, capacity=capacity)
    assert not (within & ~mask).any()
    assert (within.sum(0) == mask.sum(0).clamp(max=capacity)).all()


def test_a_tie_at_the_edge_goes_to_the_first_and_none_is_lost() -> None:
    """A threshold with > keeps k - 1, one with >= keeps too many, and a sort by chance others each time."""
    scores = torch.tensor([[0.5], [0.9], [0.5], [0.5]])
    for _ in range(3):
        taken = expert_choice(scores, 2)
        assert taken.indices.tolist() == [[0, 1]]
        assert taken.mask.sum() == 2
    assert expert_choice(torch.ones(9, 3), 4).indices.tolist() == [[0, 1, 2, 3]] * 3


def test_padding_is_never_chosen_and_a_real_minus_infinity_is() -> None:
    scores = torch.tensor([[9.0, 9.0], [-math.inf, 1.0], [9.0, 9.0]])
    valid = torch.tensor([False, True, False])
    taken = expert_choice(scores, 2, valid=valid)
    assert taken.mask.nonzero().tolist() == [[1, 0], [1, 1]]
    assert taken.indices.tolist() == [[1, -1], [1, -1]]
    assert not expert_choice(scores, 3, valid=torch.zeros(3).bool()).mask.any()


def test_a_token_that_many_want_goes_to_its_best() -> None:
    scores = torch.tensor([[0.9, 0.8], [0.7, 0.1], [0.6, 0.5]])
    assert expert_choice(scores, 1).mask.nonzero().tolist() == [[0, 0], [0, 1]]
    assert expert_choice(scores, 1, most=1).mask.nonzero().tolist() == [[0, 0], [2, 1]]


def test_one_capacity_a_text() -> None:
    scores = torch.rand(3, 5, 2, generator=torch.Generator().manual_seed(0))
    both = expert_choice(scores, torch.tensor([1, 0, 5]))
    for one, capacity, mask in zip(scores, (1, 0, 5), both.mask, strict=True):
        assert torch.equal(expert_choice(one, capacity).mask, mask)
    with pytest.raises(ValueError, match=r"capacity must lie in 0\.\.5 .* got 6"):
        expert_choice(scores, 6)
    with pytest.raises(ValueError, match=r"capacity must lie in 0\.\.5 .* got -3"):
        expert_choice(scores, torch.tensor([1, -3, 5]))


def test_who_comes_too_late() -> None:
    scores = torch.tensor([[0.6, 0.4], [0.9, 0.1], [0.7, 0.3]])
    assert token_choice(scores, 1, capacity=2).tolist() == [[True, False], [True, False], [False, False]]
    # first choices before second ones: token 0's second comes after nobody's first on expert 1
    both = token_choice(scores, 2, capacity=2)
    assert both.tolist() == [[True, True], [True, True], [False, False]]
    mixed = torch.tensor([[0.6, 0.4], [0.1, 0.9]])
    assert token_choice(mixed, 2, capacity=1).tolist() == [[True, False], [False, True]]


@pytest.mark.parametrize(
    ("factor", "tokens", "experts", "expected"),
    [(1, 8, 4, 2), (2, 7, 4, 4), (1.1, 10, 1, 10), (1.1, 100, 10, 11), (0, 9, 3, 0), (0.01, 9, 3, 1),
     (9, 5, 2, 5), (2, 0, 4, 0), (0.1, 30, 3, 1)],
)  # fmt: skip
def test_room_is_rounded_up(factor: float, tokens: int, experts: int, expected: int) -> None:
    assert room(factor, tokens, experts) == expected
    assert room(factor, torch.tensor([tokens]), experts).tolist() == [expected]  # type: ignore[union-attr]


def test_capacities_for_a_picture() -> None:
    scores = torch.rand(6, 3, generator=torch.Generator().manual_seed(0))
    valid = torch.tensor([True] * 5 + [False])
    masks = capacities(scores, [0, 0.6, 1.2, 3], valid=valid)
    assert masks.sum(1).tolist() == [[0] * 3, [1] * 3, [2] * 3, [5] * 3]
    assert not (masks[:-1] & ~masks[1:]).any()
    assert torch.equal(masks[1].T, hard_topk(scores.T, 1, valid=valid).mask)
    assert capacities(scores, []).shape == (0, 6, 3)
