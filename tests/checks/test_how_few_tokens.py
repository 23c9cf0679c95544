"""The checks of the chapter on how few tokens tell right from wrong, and name the likely mistakes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import comb
from typing import Any

import pytest

from topk_lib import checks

Points = Sequence[Mapping[str, float]]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (3648, "Right"),
        (6144, "both layers on all 8"),
        (1152, "the first reads all 8"),
        (3072, "first layer alone"),
        (576, "second layer alone"),
        (3840, "falls to a sixteenth"),
        (2560, "leaves out"),
        (17, "Not yet: 17; count each layer"),
    ],
)
def test_staged_flops(answer: float, said: str) -> None:
    assert said in checks.check_staged_flops(answer)


def one_tail(b: int, c: int) -> float:
    return sum(comb(b + c, i) for i in range(min(b, c) + 1)) / 2 ** (b + c)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("p_value", "said"),
    [
        (lambda b, c: min(1.0, 2 * one_tail(b, c)), "Right."),
        (lambda b, c: 2 * one_tail(b, c), "at most 1"),
        (one_tail, "one tail"),
        (lambda b, c: 2 * sum(comb(b + c, i) for i in range(c + 1)) / 2 ** (b + c), "at most 1"),
        (lambda b, c: min(1.0, 2 * sum(comb(b + c, i) for i in range(c + 1)) / 2 ** (b + c)), "order"),
        (lambda b, c: min(1.0, 2 * one_tail(b, c)) if b + c else 1 / (b + c), "divides by zero"),
        (lambda b, c: 0.5, "Sum the chances"),
        (lambda b, c: None, "returns nothing"),
    ],
)
def test_mcnemar(p_value: Callable[[int, int], Any], said: str) -> None:
    assert said in checks.check_mcnemar(p_value)


def enough(points: Points, full: float, within: float) -> list[float]:
    return [p["k"] for p in points if p["accuracy"] >= full - within]


@pytest.mark.parametrize(
    ("smallest_k", "said"),
    [
        (lambda points, full, within: min(enough(points, full, within), default=None), "Right"),
        (lambda points, full, within: next(iter(enough(points, full, within)), None), "not in the order"),
        (lambda points, full, within: min((p["k"] for p in points if p["accuracy"] > full - within),
                                          default=None), "As good as"),
        (lambda points, full, within: min(enough(points, full, within), default=512), "return None"),
        (lambda points, full, within: min((p["k"] for p in points if abs(p["accuracy"] - full) <= within),
                                          default=None), "Better than"),
    ],
)  # fmt: skip
def test_smallest_k(smallest_k: Callable[[Points, float, float], Any], said: str) -> None:
    assert said in checks.check_smallest_k(smallest_k)


@pytest.mark.parametrize(
    ("level", "said"),
    [
        (0.05 / 12, "Right"),
        (0.00417, "Right"),
        (0.05, "0.6 false alarms"),
        (0.6, "smaller level"),
        (1 - 0.95 ** (1 / 12), "Almost"),
        (0.01, "the sum over 12 comparisons is 0.12"),
    ],
)
def test_shared_level(level: float, said: str) -> None:
    assert said in checks.check_shared_level(level)
