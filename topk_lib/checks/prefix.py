"""The prefix test: whether a model that must not look ahead does, seen from outside."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from topk_lib.checks.base import floats

__all__ = ["Prefix", "prefix_test"]


class Prefix(NamedTuple):
    """What :func:`prefix_test` saw.

    Attributes:
        leak: a token that was changed, and the first position before it whose answer moved; None: nothing
            moved.
        cut: the length of a beginning whose answers are others when it stands alone; None: none, or not
            asked.
        deaf: a token that no later position noticed; None: all were noticed.
    """

    leak: tuple[int, int] | None
    cut: int | None
    deaf: int | None


def prefix_test(
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    types: int | None = None,
    before: Tensor | None = None,
    shorter: bool = False,
) -> Prefix:
    """Change one token after another, and where asked cut the text short: nothing before may move.

    Args:
        model: gives a row of numbers for each position: of ids (1, n) or hidden states (1, n, d) to
            (1, n, ...). In evaluation, or its dropout is seen as a leak.
        x: the ids (int64) or hidden states, one text of at least two tokens.
        types: for ids: they are changed to others below this number.
        before: the model's answer to x, where it is known.
        shorter: give the model each beginning of the text alone, too, which finds what no change can: an
            answer that depends on how long the text will be, as that of an expert with a capacity.
    """
    n = x.shape[1]
    if before is None:
        before = floats(model(x.clone()))
    leak, cut, deaf = None, None, None
    for at in range(n):
        changed = x.clone()
        if types is not None:
            changed[0, at] = (x[0, at] + 1 + at % (types - 1)) % types
        else:
            changed[0, at] = -2 * x[0, at].flip(-1) + 1
        after = floats(model(changed))
        moved = _moved(before, after)
        if bool(moved[:at].any()):
            leak = leak or (at, int(moved.nonzero()[0]))
        # The least weight is noticed: only what is never read leaves every bit as it was.
        elif deaf is None and at < n - 1 and torch.equal(before[:, at + 1 :], after[:, at + 1 :]):
            deaf = at
    for length in range(n - 1, 0, -1) if shorter else ():
        if bool(_moved(before[:, :length], floats(model(x[:, :length].clone()))).any()):
            cut = length
            break
    return Prefix(leak, cut, deaf)


def _moved(a: Tensor, b: Tensor) -> Tensor:
    """(n,) bool, the positions whose answers differ by more than rounding."""
    return ~torch.isclose(a, b, rtol=1e-4, atol=1e-5, equal_nan=True).reshape(a.shape[1], -1).all(-1)
