"""The checks of the chapter on soft selection recognise the answer and the likely mistakes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from topk_lib import hard_topk, soft_topk
from topk_lib.checks import soft_selection as checks
from topk_lib.selectors import row_budgets


def shrunk(gate: float, n: int, mean: float, prior: float) -> float:
    trust = n / (n + prior)
    return (1 - trust) * gate + trust * mean


def shares(
    lengths: list[int],
    share: float,
    k: int,
    pinned: int,
    rounded: Callable[[float], float] = math.ceil,
    most: bool = True,
    least: bool = True,
) -> list[float]:
    found = []
    for n in lengths:
        each = rounded(share * n)
        each = min(each, k) if most else each
        each = max(each, min(pinned, n)) if least else each
        found.append(each)
    return found


def test_the_score_gradient_is_what_torch_computes() -> None:
    scores = torch.tensor([0.0, 1.0, 4.0], dtype=torch.float64, requires_grad=True)
    numbers = torch.tensor([5.0, 2.0, 1.0], dtype=torch.float64)
    read = hard_topk(scores.detach(), 2).indices
    weights = soft_topk(scores, 2, 2.0, link="clip")[read]
    answer = ((weights + (1 - weights.detach())) * numbers[read]).sum()
    (gradient,) = torch.autograd.grad((answer - 1) ** 2 / 2, scores)
    assert checks.check_score_gradient(gradient.tolist()).startswith("Right")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ([-1, 1, 0], "Right"),
        ([1, -1, 0], "the sign"),
        ([-2, 2, 0], "divide by the temperature"),
        ([1.5, -1.5, 0], "It was not read"),
        ([0, 4, 2], "those are the pulls"),
        ([-1, 1, 1], "cut off at 1"),
        ([0, 2, 0], "tau moves too"),
        ([1, 1, 1], "yours sum to 3"),
        ([3, -3, 0], "the slopes d are (1, 1, 0)"),
        ([1, 2], "yours are 2"),
    ],
)
def test_score_gradient(answer: list[float], said: str) -> None:
    assert said in checks.check_score_gradient(answer)


def test_the_chance_is_what_draws_show() -> None:
    torch.manual_seed(0)
    noise = -torch.empty(200_000, 2).exponential_().log()
    noisy = torch.tensor([0.0, -0.6]) + 0.3 * noise
    share = float((noisy[:, 1] > noisy[:, 0]).float().mean())
    assert share == pytest.approx(1 / (1 + math.exp(2)), abs=0.005)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (0.1192, "Right"),
        (0.12, "Right"),
        (0.8808, "the one above"),
        (0.3543, "divide the gap"),
        (0.4551, "do not multiply"),
        (0.1353, "for each time"),
        (0.0, "without noise"),
        (27.0, "between 0 and 1"),
        (0.5, "put in the gap"),
    ],
)
def test_chance(answer: float, said: str) -> None:
    assert said in checks.check_chance(answer)


def attended(logits: Tensor, values: Tensor, u: Tensor) -> Tensor:
    return torch.softmax(logits + u.log(), -1) @ values


def by_hand(logits: Tensor, values: Tensor, u: Tensor) -> Tensor:
    shares = u * logits.exp()
    return (shares * values).sum() / shares.sum()


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (attended, "Right"),
        (by_hand, "Right"),
        (lambda a, v, u: (u * torch.softmax(a, -1) * v).sum(), "no longer sum to 1"),
        (lambda a, v, u: torch.softmax(u * a, -1) @ v, "Multiply exp(logit)"),
        (lambda a, v, u: torch.softmax(a + u, -1) @ v, "add its logarithm"),
        (lambda a, v, u: torch.softmax(a, -1) @ v, "changes nothing"),
        (lambda a, v, u: torch.softmax(a[u > 0], -1) @ v[u > 0], "half a presence"),
        (lambda a, v, u: torch.softmax(a + u.log(), -1) * v, "sum over the tokens"),
        (lambda a, v, u: (u * a.exp() * u.log() * v).sum(), "NaN"),
        (lambda a, v, u: 3.0, "it should read"),
        (lambda a, v, u: attended(a, v, u.detach()), "no slope comes back"),
        (lambda a, v, u: attended(a, v, u.detach()) + 0 * u.sum(), "Almost"),
    ],
)
def test_presence(function: Callable[[Tensor, Tensor, Tensor], Any], said: str) -> None:
    assert said in checks.check_presence(function)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (shrunk, "Right"),
        (lambda g, n, m, p: n / (n + p) * g + p / (n + p) * m, "swapped"),
        (lambda g, n, m, p: (g * p / n + m) / (1 + p / n), "divides by zero"),
        (lambda g, n, m, p: g + n / (n + p) * m, "the gate must lose"),
        (lambda g, n, m, p: (1 - n / p) * g + n / p * m, "past 1"),
        (lambda g, n, m, p: g if n < p else m, "r is n / (n + prior)"),
        (lambda g, n, m, p: g + 1, "must stand"),
    ],
)
def test_corrected(function: Callable[[float, int, float, float], float], said: str) -> None:
    assert said in checks.check_corrected(function)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rounded": math.floor}, "2.5, rounded up"),
        ({"rounded": round}, "2.5, rounded up"),
        ({"rounded": lambda x: math.floor(x + 0.5)}, "5.25, rounded up"),
        ({"rounded": lambda x: x}, "whole number"),
        ({"most": False}, "32 at most"),
        ({"least": False}, "the pinned tokens"),
    ],
)
def test_share_budgets(options: dict[str, Any], said: str) -> None:
    assert said in checks.check_share_budgets(lambda *given: shares(*given, **options))  # type: ignore[arg-type]


def test_share_budgets_right_and_almost() -> None:
    assert checks.check_share_budgets(shares).startswith("Right")  # type: ignore[arg-type]
    assert "yours are 1" in checks.check_share_budgets(lambda *given: [2])

    def over(lengths: list[int], share: float, k: int, pinned: int) -> list[int]:
        return [max(pinned, min(k, math.ceil(share * n))) for n in lengths]

    assert "cap it at the length" in checks.check_share_budgets(over)  # type: ignore[arg-type]


def test_share_budgets_are_those_of_the_library() -> None:
    def library(lengths: list[int], share: float, k: int, pinned: int) -> list[int]:
        real = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
        held = real & (torch.arange(max(lengths)) < pinned)
        found = row_budgets(torch.zeros(real.shape), real, held, k, share=share)
        return found.tolist()  # type: ignore[union-attr]

    assert checks.check_share_budgets(library).startswith("Right")  # type: ignore[arg-type]
