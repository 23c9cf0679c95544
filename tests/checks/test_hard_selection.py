"""The checks of the chapter on hard selection tell right from wrong, and name the likely mistakes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from topk_lib import checks

Numbers = Sequence[float]


@pytest.mark.parametrize(
    ("times", "said"),
    [
        (11, "Right"),
        (10, "Almost: 10 times 1"),
        (6, "not that of base 10"),
        (12_501, "the logarithm"),
        (20, "fewer would do"),
        (3, "3 times 1 is 3"),
    ],
)
def test_common_beats_rare(times: int, said: str) -> None:
    assert said in checks.check_common_beats_rare(times)


def right(observed: Numbers, shares: Numbers) -> float:
    expected = [share * sum(observed) for share in shares]
    return sum((o - e) ** 2 / e for o, e in zip(observed, expected, strict=True))


def of_equal_classes(observed: Numbers, shares: Numbers) -> float:
    expected = sum(observed) / len(observed)
    return sum((o - expected) ** 2 / expected for o in observed)


def of_the_first_class(observed: Numbers, shares: Numbers) -> float:
    expected = shares[0] * sum(observed)
    return (observed[0] - expected) ** 2 / expected


def undivided(observed: Numbers, shares: Numbers) -> float:
    return sum((o - s * sum(observed)) ** 2 for o, s in zip(observed, shares, strict=True))


def by_observed(observed: Numbers, shares: Numbers) -> float:
    pairs = zip(observed, shares, strict=True)
    return sum((o - s * sum(observed)) ** 2 / o for o, s in pairs if o)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (right, "Right."),
        (of_equal_classes, "it is 12, yours gives 6 (the classes are not equally large)"),
        (of_the_first_class, "sum over all"),
        (undivided, "divide each square"),
        (by_observed, "not by what was observed"),
        (lambda observed, shares: right(observed, shares) ** 0.5, "no root"),
        (lambda observed, shares: 1.0, "it is 3, yours gives 1."),
        (lambda observed, shares: None, "returns nothing"),
    ],
)
def test_chi_squared(function: Callable[[Numbers, Numbers], float], said: str) -> None:
    assert said in checks.check_chi_squared(function)


def copies(input_ids: Tensor) -> Tensor:
    same = input_ids.unsqueeze(-1) == input_ids.unsqueeze(-2)
    return same.tril(-1).any(-1)


def in_place(scores: Tensor, input_ids: Tensor) -> Tensor:
    return scores.masked_fill_(copies(input_ids), -torch.inf)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda s, ids: s.masked_fill(copies(ids), -torch.inf), "Right"),
        (lambda s, ids: s, "must keep the positions [0, 1, 3, 5], yours keeps [0, 1, 2, 4]"),
        (lambda s, ids: s * ~copies(ids), "0 is not low"),
        (lambda s, ids: s.masked_fill(copies(ids.flip(-1)).flip(-1), -torch.inf), "first occurrence"),
        (lambda s, ids: s.masked_fill(copies(ids), torch.nan), "NaN"),
        (lambda s, ids: s[:, :3], "the shape (2, 6)"),
        (in_place, "work on a copy"),
    ],
)
def test_distinct(function: Callable[[Tensor, Tensor], Tensor], said: str) -> None:
    assert said in checks.check_distinct(function)


def after(scores: Tensor) -> Tensor:
    return nn.functional.pad(scores[:, 1:], (0, 1), value=-torch.inf)


def raised_in_place(scores: Tensor, ids: Tensor, negations: Tensor) -> Tensor:
    return scores.copy_(scores.maximum(after(scores)).where(torch.isin(ids, negations), scores))


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda s, ids, no: torch.where(torch.isin(ids, no), s.maximum(after(s)), s), "Right"),
        (lambda s, ids, no: s, "nothing has changed"),
        (lambda s, ids, no: s.maximum(after(s)), "only negations may change"),
        (lambda s, ids, no: torch.where(torch.isin(ids, no), s.maximum(s.roll(-1, -1)), s), "the first?"),
        (lambda s, ids, no: after(s)[:, :-1], "the shape"),
        (
            lambda s, ids, no: torch.where(torch.isin(ids, no) & after(s).isfinite(), after(s), s),
            "is higher than what follows",
        ),
        (lambda s, ids, no: torch.where(ids == no[0], s.maximum(after(s)), s), "Are all of `negations`"),
        (
            lambda s, ids, no: torch.where(
                torch.isin(ids, no), s.maximum(nn.functional.pad(s[:, 1:], (0, 1))), s
            ),
            "nothing is not a score of 0",
        ),
        (
            lambda s, ids, no: torch.where(
                torch.isin(ids, no), s.maximum(nn.functional.pad(s[:, :-1], (1, 0), value=-torch.inf)), s
            ),
            "you took the token before it",
        ),
        (raised_in_place, "work on a copy"),
    ],
)
def test_keep_negation(function: Callable[[Tensor, Tensor, Tensor], Tensor], said: str) -> None:
    assert said in checks.check_keep_negation(function)
