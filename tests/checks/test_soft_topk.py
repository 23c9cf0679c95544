"""The checks of the chapter on soft top-k tell right from wrong, and name the likely mistakes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from topk_lib import checks

Search = Callable[[Tensor, float, float], Tensor]


def halving(room: float = 100.0, steps: int = 100, *, divide: bool = True, turned: bool = False) -> Search:
    """A threshold search with a chosen mistake, or none."""

    def threshold(scores: Tensor, k: float, temperature: float) -> Tensor:
        low, high = scores.min() - room, scores.max() + room
        for _ in range(steps):
            tau = (low + high) / 2
            above = bool(torch.sigmoid((scores - tau) / (temperature if divide else 1)).sum() > k)
            low, high = (tau, high) if above is not turned else (low, tau)
        return tau

    return threshold


@pytest.mark.parametrize(
    ("tau", "said"),
    [
        (0.2, "Right"),
        (0.6, "to lie inside"),
        (0.4 / 3, "look at the smallest"),
        (-0.2, "sign is turned"),
        (0.7, "Half-way"),
        (0.1, "A higher tau"),
        (2.0, "A lower tau"),
    ],
)
def test_clip_threshold(tau: float, said: str) -> None:
    assert said in checks.check_clip_threshold(tau)


def test_clip_threshold_of_a_wrong_answer_says_the_sum() -> None:
    assert "sum to 1.3" in checks.check_clip_threshold(0.6)


@pytest.mark.parametrize(
    ("search", "said"),
    [
        (halving(), "Right."),
        (halving(divide=False), "divide by the temperature"),
        (halving(room=0.0), "wider interval"),
        (halving(steps=12), "more often"),
        (halving(turned=True), "which half do you keep"),
        (lambda scores, k, temperature: scores, "one number"),
    ],
)
def test_threshold_search(search: Search, said: str) -> None:
    assert said in checks.check_threshold_search(search)


def test_threshold_search_without_return() -> None:
    def forgets(scores: Tensor, k: float, temperature: float) -> Tensor:
        return None  # type: ignore[return-value]

    assert "returns nothing" in checks.check_threshold_search(forgets)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda mask, soft: mask + (soft - soft.detach()), "Right"),
        (lambda mask, soft: mask + (soft.detach() - soft), "wrong sign"),
        (lambda mask, soft: mask + (soft - soft), "cancels backward"),
        (lambda mask, soft: mask, "everything was detached"),
        (lambda mask, soft: mask.detach() + (soft - soft).detach(), "everything was detached"),
        (lambda mask, soft: soft, "forward it gives the soft weights"),
        (lambda mask, soft: soft + mask, "must give the mask"),
        (lambda mask, soft: mask + 2 * (soft - soft.detach()), "2 times"),
    ],
)
def test_straight_through(function: Callable[[Tensor, Tensor], Tensor], said: str) -> None:
    assert said in checks.check_straight_through(function)


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ([0, 0, 2], "Right"),
        ([0, 1, 1], "hard mask"),
        ([0, 0, 1], "times k"),
        ([2 / 3, 2 / 3, 2 / 3], "*high*"),
        ([0, 2], "three tokens"),
        ([0, 0.5, 1], "sums to k"),
        ([0, 0.5, 1.5], "wins everything"),
    ],
)
def test_softmax_limit(weights: list[float], said: str) -> None:
    assert said in checks.check_softmax_limit(weights)
