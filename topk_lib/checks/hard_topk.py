"""Checks for the chapter on hard top-k."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from topk_lib.checks.base import check
from topk_lib.ops import hard_topk as _hard_topk

__all__ = ["check_best_block", "check_key_to_float", "check_never_nan", "check_rows_mask", "check_tie_mask"]


@check
def check_key_to_float(decode: Callable[[int], float]) -> str:
    """Check a learner's way back from a float32 sort key (an int in 0 .. 2**32 - 1) to the number."""
    numbers = [1.0, 0.0, 2.5, 2.0**-140, math.inf, -1.0, -2.0, -0.15625, -math.inf]
    for number in numbers:
        bits = _bits(number)
        key = bits ^ 0xFFFFFFFF if bits >> 31 else bits | 1 << 31
        try:
            got = float(decode(key))
        except NotImplementedError:
            raise
        except Exception as error:  # whatever a learner's code may raise
            return f"Not yet: for the key of {number} it stops with {type(error).__name__}: {error}"
        if got == number:
            continue
        written = None if math.isnan(got) else _bits(got)
        hint = ""
        if got == key:
            hint = " That is the key itself, read as a number."
        elif written == key and number < 0:
            hint = " A key that begins with 0 belongs to a negative number: turn all 32 bits over."
        elif written == key:
            hint = " Those are the bits of the key as they are; the first one was turned on the way in."
        elif number < 0 and written == key ^ 1 << 31:
            hint = " You turned the first bit alone; for a negative number all 32 were turned over."
        elif number > 0 and written == key ^ 0xFFFFFFFF:
            hint = " You turned all bits over; a key that begins with 1 had its first bit turned alone."
        return f"Not yet: the key {key:#010x} belongs to {number:g}, yours gives {got:g}.{hint}"
    return "Right: tau can be told as a score again."


@check
def check_tie_mask(mask: Callable[[Tensor, int], Tensor]) -> str:
    """Check a learner's mask of the k largest of one row, ties to the lowest index."""
    for numbers, k in (
        ([5.0, 12.0, 9.0, 3.0, 9.0, 7.0], 2),
        ([1.0, 1.0, 1.0, 1.0], 3),
        ([2.0, 7.0, 4.0], 3),
        ([-1.0, -3.0, -1.0, -2.0, -1.0], 2),
        ([4.0, 4.0, 1.0, 4.0, 6.0], 3),
    ):
        scores = torch.tensor(numbers)
        if problem := _mask_problem(mask(scores.clone(), k), scores, k):
            return f"Not yet, for scores {_plain(scores)} and k = {k}: {problem}"
    return "Right: exactly k, and the same ones every time."


@check
def check_rows_mask(mask: Callable[[Tensor, Tensor], Tensor]) -> str:
    """Check a learner's mask for a batch of rows with one k each: scores (rows, n), ks (rows,) int64."""
    scores = torch.tensor([[3.0, 1.0, 2.0, 5.0], [4.0, 4.0, 4.0, 4.0], [9.0, 8.0, 7.0, 6.0]])
    ks = torch.tensor([2, 3, 0])
    try:
        got = mask(scores.clone(), ks.clone())
    except (IndexError, RuntimeError) as error:  # PyTorch raises either
        if "index" not in str(error):
            raise
        return f"Not yet: it stops with {error}. Is it k - 1 = -1 in the row with k = 0?"
    if not isinstance(got, Tensor) or got.shape != scores.shape:
        shape = tuple(got.shape) if isinstance(got, Tensor) else type(got).__name__
        return f"Not yet: one mask a row, of shape {tuple(scores.shape)}, is needed; yours is {shape}."
    counts = got.sum(-1).tolist()
    if len(set(counts)) == 1 and counts[0] in (2, 3):
        return f"Not yet: every row keeps {counts[0]}; row i must keep ks[i], here {ks.tolist()}."
    for row, k in enumerate(ks.tolist()):
        if problem := _mask_problem(got[row], scores[row], k):
            return f"Not yet, for the row {_plain(scores[row])} with k = {k}: {problem}"
    return "Right: every row its own k, 0 included."


@check
def check_never_nan(choose: Callable[[Tensor, int], Tensor]) -> str:
    """Check a learner's choice of the k largest scores that never takes a NaN.

    The learner returns indices (k,), -1 where no real score is left.
    """
    nan, inf = math.nan, math.inf
    cases: list[tuple[list[float], int, list[int]]] = [
        ([0.3, nan, 0.7, nan, 1.0], 2, [2, 4]),
        ([nan, -inf, 2.0], 2, [1, 2]),
        ([nan, nan, -5.0], 2, [2, -1]),
        ([3.4028234663852886e38, inf, 1.0], 1, [1]),
    ]
    for numbers, k, expected in cases:
        scores = torch.tensor(numbers)
        answer = choose(scores.clone(), k)
        got = answer.tolist() if isinstance(answer, Tensor) else list(answer)
        if sorted(got) == sorted(expected):  # in whatever order
            continue
        where = f"for scores {_plain(scores)} and k = {k}"
        if any(i >= 0 and math.isnan(numbers[i]) for i in got):
            if numbers is cases[0][0]:  # real scores are left, so nobody tried to avoid it
                return f"Not yet, {where}: position {got[0]} holds a NaN, which ranks highest in hard_topk."
            return (
                f"Almost, {where}: {got} has a NaN in it. A NaN turned into a small number can still be "
                "taken where real scores run out, or tie with a real -inf. Say with valid= who may be chosen."
            )
        if inf in numbers:
            return f"Almost, {where}: inf is a real score and the largest, so {expected}; yours gives {got}."
        return f"Not yet, {where}: {expected} is right, yours gives {got}."
    return "Right: a NaN is never chosen, and a row without enough numbers says so with -1."


@check
def check_best_block(answer: int, n: int = 1_000_000, k: int = 100) -> str:
    """Check the block size that makes n / block + k * block smallest."""
    best = round(math.sqrt(n / k))
    if abs(answer - best) <= 1:
        return f"Right: {best}, the square root of n / k; then {2 * k * best:,} numbers are left of {n:,}."
    if answer <= 0:
        return "Not yet: a block holds at least one number."
    left = round(n / answer + k * answer)
    hint = ""
    if abs(answer - math.sqrt(n * k)) <= 1:
        hint = " That is the root of n k: should blocks grow or shrink when more of them are kept?"
    elif abs(answer - math.sqrt(n)) <= 1:
        hint = " That is the root of n, right for k = 1."
    return (
        f"Not yet: with {answer} a block {n / answer:,.0f} maxima and {k * answer:,} candidates are left, "
        f"{left:,} in all; fewer is possible.{hint}"
    )


def _mask_problem(got: object, scores: Tensor, k: int) -> str:
    """What is wrong with one row's mask, or nothing."""
    if not isinstance(got, Tensor) or got.shape != scores.shape:
        return f"a mask has one entry a score, shape {tuple(scores.shape)}."
    if got.dtype != torch.bool:
        return f"a mask is bool, yours is {got.dtype}."
    right = _hard_topk(scores, k).mask
    if torch.equal(got, right):
        return ""
    mine = got.nonzero().flatten().tolist()
    count = len(mine)
    ranked = scores.sort(descending=True).values
    if k and torch.equal(got, scores >= ranked[k - 1]):
        return (
            f"{count} are chosen, all that reach tau; of those equal to it only the first may fill up to k."
        )
    if k and torch.equal(got, scores > ranked[k - 1]):
        return f"{count} are chosen, those above tau; the places left go to scores equal to it."
    if k and torch.equal(got, _hard_topk(scores.flip(-1), k).mask.flip(-1)):
        return f"positions {mine} are chosen: of equal scores the lowest index wins, not the highest."
    if torch.equal(got, _hard_topk(-scores, k).mask):
        return f"positions {mine} are chosen, which are the smallest."
    if count != k:
        return f"{count} are chosen instead of {k}."
    return f"positions {mine} are chosen; right are {right.nonzero().flatten().tolist()}."


def _bits(number: float) -> int:
    return int(torch.tensor(number, dtype=torch.float32).view(torch.int32)) & 0xFFFFFFFF


def _plain(scores: Tensor) -> str:
    return "(" + ", ".join(f"{value:g}" for value in scores.tolist()) + ")"
