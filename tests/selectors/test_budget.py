"""Every text gets the tokens that its share or its batch allows, and its pinned ones in any case."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from topk_lib.selectors import choose, row_budgets


@st.composite
def batches(draw: Any) -> tuple[Tensor, Tensor, Tensor]:
    """scores, real and pinned, (batch, length); padding on the right, the first two tokens pinned or not."""
    lengths = draw(st.lists(st.integers(1, 14), min_size=1, max_size=6))
    pins = draw(st.integers(0, 2))
    place = torch.arange(max(lengths)).expand(len(lengths), -1)
    real = place < torch.tensor(lengths)[:, None]
    numbers = st.integers(-3, 3)  # few, so that many are tied
    scores = draw(st.lists(numbers, min_size=real.numel(), max_size=real.numel()))
    return torch.tensor(scores).float().reshape(real.shape), real, place < pins


@settings(max_examples=50, deadline=None)
@given(batches(), st.integers(2, 20))
def test_without_a_share_all_have_k(batch: tuple[Tensor, Tensor, Tensor], k: int) -> None:
    assert row_budgets(*batch, k) == k
    assert row_budgets(*batch, k, most=3) == min(k, 3)


@settings(max_examples=50, deadline=None)
@given(batches(), st.integers(2, 20), st.integers(1, 100))
def test_a_share_is_rounded_up(batch: tuple[Tensor, Tensor, Tensor], k: int, percent: int) -> None:
    _, real, pinned = batch
    budgets = row_budgets(*batch, k, share=percent / 100)
    assert isinstance(budgets, Tensor)
    for row, n in enumerate(real.sum(-1).tolist()):
        wanted = max(1, int((pinned & real)[row].sum()), min(k, -(-n * percent // 100)))
        assert budgets[row] == wanted


@pytest.mark.parametrize("length", [10, 20, 30, 70, 110])
def test_a_tenth_of_ten_is_one_in_spite_of_rounding(length: int) -> None:
    real = torch.ones(1, length, dtype=torch.bool)
    budgets = row_budgets(torch.zeros(1, length), real, ~real, 512, share=0.1)
    assert isinstance(budgets, Tensor)
    assert budgets.tolist() == [length // 10]


@settings(max_examples=50, deadline=None)
@given(batches(), st.integers(2, 20), st.sampled_from([None, 0.1, 0.5, 1.0]))
def test_a_batch_keeps_its_best(batch: tuple[Tensor, Tensor, Tensor], k: int, share: float | None) -> None:
    scores, real, pinned = batch
    pinned = pinned & real
    apart = row_budgets(*batch, k, share=share)
    budgets = row_budgets(*batch, k, share=share, spend="batch")
    assert isinstance(budgets, Tensor)
    assert bool((budgets >= pinned.sum(-1).clamp(min=1)).all())
    lengths = real.sum(-1)
    total = torch.minimum(torch.as_tensor(apart).expand_as(lengths), lengths).sum()
    kept = choose(scores, real, pinned, budgets).mask
    # A text of which none is among the best keeps one all the same.
    spare = int((kept.sum(-1) == 1).sum()) if not pinned.any() else 0
    assert total <= kept.sum() <= total + spare
    # No token that was left out beats one that was kept elsewhere in the batch.
    free = kept & ~pinned & (kept.sum(-1, keepdim=True) > 1)
    left = real & ~kept
    if free.any() and left.any():
        assert scores[free].min() >= scores[left].max()


def test_a_batch_spends_where_it_pays() -> None:
    scores = torch.tensor([[0.0, 9.0, 8.0, 7.0], [0.0, 1.0, 2.0, 3.0]])
    real = torch.ones_like(scores, dtype=torch.bool)
    pinned = torch.zeros_like(real)
    pinned[:, 0] = True
    budgets = row_budgets(scores, real, pinned, 3, spend="batch")
    assert isinstance(budgets, Tensor)
    assert budgets.tolist() == [4, 2]
    chosen = choose(scores, real, pinned, budgets)
    assert chosen.indices.tolist() == [[0, 1, 2, 3], [0, 3, -1, -1]]
    capped = row_budgets(scores, real, pinned, 3, spend="batch", most=3)
    assert isinstance(capped, Tensor)
    assert capped.tolist() == [3, 2]


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5, math.nan])
def test_a_share_is_a_share(share: float) -> None:
    real = torch.ones(1, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match="share must be above 0 and at most 1"):
        row_budgets(torch.zeros(1, 3), real, ~real, 2, share=share)


def test_spend_has_two_ways() -> None:
    real = torch.ones(1, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match="spend must be one of text, batch, got 'all'"):
        row_budgets(torch.zeros(1, 3), real, ~real, 2, spend="all")


@settings(max_examples=50, deadline=None)
@given(batches(), st.integers(2, 20))
def test_choose_keeps_the_pinned_and_the_best(batch: tuple[Tensor, Tensor, Tensor], k: int) -> None:
    scores, real, pinned = batch
    chosen = choose(*batch, k)
    for row in range(len(scores)):
        places = range(int(real[row].sum()))
        best = sorted(places, key=lambda i: (not pinned[row, i], -float(scores[row, i]), i))[:k]
        slots = chosen.indices[row].tolist()
        assert slots == sorted(best) + [-1] * (len(slots) - len(best))
        assert chosen.mask[row].nonzero().flatten().tolist() == sorted(best)


def test_choose_with_one_k_a_text() -> None:
    scores = torch.tensor([[1.0, 3.0, 2.0], [1.0, 3.0, 2.0]])
    real = torch.ones_like(scores, dtype=torch.bool)
    chosen = choose(scores, real, ~real, torch.tensor([1, 9]))
    assert chosen.indices.tolist() == [[1, -1, -1], [0, 1, 2]]


def test_choose_refuses_what_cannot_hold_the_pinned() -> None:
    real = torch.ones(2, 4, dtype=torch.bool)
    pinned = torch.tensor([[True, False, False, False], [True, True, True, False]])
    scores = torch.zeros(2, 4)
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        choose(scores, real, pinned, torch.tensor([2, 0]))
    with pytest.raises(ValueError, match=r"k = 2 cannot hold the 3 special tokens .* k >= 3"):
        choose(scores, real, pinned, 2)
    with pytest.raises(ValueError, match=r"k = 1 cannot hold the 3 special tokens"):
        choose(scores, real, pinned, torch.tensor([4, 1]))
    # Padding is not pinned, whatever the mask says.
    assert choose(scores, pinned[:1].expand(2, 4), pinned, 1).mask.sum() == 2


@pytest.mark.parametrize("high", [torch.inf, torch.nan, 3e38])
def test_the_pinned_come_before_any_score(high: float) -> None:
    scores = torch.tensor([[0.0, high, high, 1.0, 0.0]])
    pinned = torch.tensor([[True, False, False, False, True]])
    real = torch.ones_like(pinned)
    assert choose(scores, real, pinned, 2).indices.tolist() == [[0, 4]]
    third = 3 if high != high else 1  # NaN counts as the lowest
    assert choose(scores, real, pinned, 3).mask[0, third]
    assert row_budgets(scores, real, pinned, 2, spend="batch").tolist() == [2]  # type: ignore[union-attr]
