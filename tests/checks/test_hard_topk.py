"""The checks of the chapter on hard top-k tell right answers from likely mistakes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from topk_lib import checks, hard_topk


def floats(bits: int) -> float:
    return float(torch.tensor(bits).to(torch.uint32).view(torch.float32))


KEY_ANSWERS: list[tuple[Callable[[int], float], str]] = [
    (lambda key: floats(key - 2**31 if key >= 2**31 else 0xFFFFFFFF - key), "Right"),
    (float, "the key itself, read as a number"),
    (floats, "the bits of the key as they are"),
    (lambda key: floats(key ^ 2**31), "first bit alone"),
    (lambda key: floats(0xFFFFFFFF - key), "all bits over"),
    (lambda key: floats(key - 2**31 if key >= 2**31 else key), "turn all 32 bits over"),
    (lambda key: floats(-1), "Not yet"),
    (lambda key: 1 / 0, "stops with ZeroDivisionError"),
]


@pytest.mark.parametrize(("decode", "expected"), KEY_ANSWERS)
def test_key_to_float(decode: Callable[[int], float], expected: str) -> None:
    assert expected in checks.check_key_to_float(decode)


def right_mask(scores: Tensor, k: int) -> Tensor:
    tau = scores.sort(descending=True).values[k - 1]
    above, equal = scores > tau, scores == tau
    return above | (equal & (equal.cumsum(0) <= k - above.sum()))


def tau_of(scores: Tensor, k: int) -> Tensor:
    return scores.sort(descending=True).values[k - 1]


MASK_ANSWERS: list[tuple[Callable[[Tensor, int], Any], str]] = [
    (right_mask, "Right"),
    (lambda s, k: s >= tau_of(s, k), "3 are chosen, all that reach tau"),
    (lambda s, k: s > tau_of(s, k), "those above tau"),
    (lambda s, k: right_mask(s.flip(0), k).flip(0), "the lowest index wins"),
    (lambda s, k: right_mask(-s, k), "which are the smallest"),
    (lambda s, k: right_mask(s, k).long(), "bool"),
    (lambda s, k: hard_topk(s, k).indices, "one entry a score"),
    (lambda s, k: torch.ones(len(s), dtype=torch.bool), "6 are chosen instead of 2"),
    (lambda s, k: torch.arange(len(s)) < k, r"positions [0, 1] are chosen; right are [1, 2]"),
]


@pytest.mark.parametrize(("mask", "expected"), MASK_ANSWERS)
def test_tie_mask(mask: Callable[[Tensor, int], Any], expected: str) -> None:
    assert expected in checks.check_tie_mask(mask)


def rows_by_threshold(scores: Tensor, ks: Tensor, clamp: bool = True) -> Tensor:
    ranked = scores.sort(dim=-1, descending=True).values
    tau = ranked.gather(-1, (ks - 1).clamp(min=0 if clamp else -1)[:, None])
    above, equal = scores > tau, scores == tau
    return above | (equal & (equal.cumsum(-1) <= ks[:, None] - above.sum(-1, keepdim=True)))


ROWS_ANSWERS: list[tuple[Callable[[Tensor, Tensor], Any], str]] = [
    (rows_by_threshold, "Right"),
    (lambda s, ks: hard_topk(s, ks).mask, "Right"),
    (lambda s, ks: hard_topk(s, int(ks.max())).mask, "every row keeps 3"),
    (lambda s, ks: hard_topk(s, int(ks[0])).mask, "every row keeps 2"),
    (lambda s, ks: rows_by_threshold(s, ks, clamp=False), "k - 1 = -1"),
    (lambda s, ks: hard_topk(s, ks).indices, "one mask a row"),
    (lambda s, ks: [1, 2], "yours is list"),
    (lambda s, ks: hard_topk(s, ks.clamp(min=1)).mask, "1 are chosen instead of 0"),
    (lambda s, ks: hard_topk(s, ks.flip(0)).mask, "with k = 2: 0 are chosen instead of 2"),
]


@pytest.mark.parametrize(("mask", "expected"), ROWS_ANSWERS)
def test_rows_mask(mask: Callable[[Tensor, Tensor], Any], expected: str) -> None:
    assert expected in checks.check_rows_mask(mask)


NAN_ANSWERS: list[tuple[Callable[[Tensor, int], Any], str]] = [
    (lambda s, k: hard_topk(s, k, valid=~s.isnan()).indices, "Right"),
    (lambda s, k: hard_topk(s, k).indices, "holds a NaN, which ranks highest"),
    (lambda s, k: hard_topk(s.nan_to_num(-math.inf), k).indices, "has a NaN in it"),
    (lambda s, k: hard_topk(torch.where(s.isnan(), -1e9, s), k).indices, "has a NaN in it"),
    (lambda s, k: hard_topk(s.nan_to_num(), k, valid=~s.isnan()).indices, "inf is a real score"),
    (lambda s, k: list(range(0, 2 * k, 2)), "[2, 4] is right"),
]


@pytest.mark.parametrize(("choose", "expected"), NAN_ANSWERS)
def test_never_nan(choose: Callable[[Tensor, int], Any], expected: str) -> None:
    assert expected in checks.check_never_nan(choose)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [(100, "Right: 100"), (1000, "root of n, right for k = 1"), (10_000, "root of n k"), (0, "at least one"),
     (64, "fewer is possible")],
)  # fmt: skip
def test_best_block(answer: int, expected: str) -> None:
    assert expected in checks.check_best_block(answer)
