"""What all checks share: whatever an answer is or does, the learner gets a sentence."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, ParamSpec

import torch
from torch import Tensor

__all__ = ["check", "check_of_optional", "close", "differ", "floats"]

P = ParamSpec("P")


class _NothingReturned(NotImplementedError):
    pass


def check(function: Callable[P, str]) -> Callable[P, str]:
    """Decorate a check, whose first argument is a learner's answer or function.

    An answer that is missing, a function that returns nothing, and whatever either raises become
    sentences; the check itself sees answers only.
    """
    return _told(function, _watched)


def check_of_optional(function: Callable[P, str]) -> Callable[P, str]:
    """As :func:`check`, for functions to which None is an answer."""
    return _told(function, lambda answer: answer)


def _told(function: Callable[P, str], seen: Callable[[Any], Any]) -> Callable[P, str]:
    @functools.wraps(function)
    def told(*args: P.args, **kwargs: P.kwargs) -> str:
        answer: Any = args[0]
        if answer is None or answer is Ellipsis:
            return "Not yet: there is no answer yet; put yours in its place."
        first: Any = seen(answer) if inspect.isroutine(answer) else answer
        try:
            return function(first, *args[1:], **kwargs)  # type: ignore[arg-type]
        except _NothingReturned:
            return "Not yet: your function returns nothing (None): end it with return."
        except NotImplementedError:
            return "Not yet: nothing is written here yet."
        except Exception as error:  # whatever a learner's code raises, or an answer of another kind
            said = str(error).strip().splitlines() or ["no more is said"]
            return f"Not yet: it stops with {type(error).__name__}: {said[0][:200]}"

    return told


def _watched(answer: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(answer)
    def call(*args: Any, **kwargs: Any) -> Any:
        got = answer(*args, **kwargs)
        if got is None:
            raise _NothingReturned
        return got

    return call


def close(got: Any, right: float, within: float = 1e-5) -> bool:
    """Whether a number of any kind is right but for rounding: relative, absolute near 0."""
    return math.isclose(float(got), right, rel_tol=within, abs_tol=min(within, 1e-6))


def differ(right: float, got: Any) -> tuple[str, str]:
    """Both numbers with as many digits as it takes to see the difference."""
    for digits in range(4, 18):
        texts = f"{right:.{digits}g}", f"{float(got):.{digits}g}"
        if texts[0] != texts[1]:
            break
    return texts


def floats(got: Any) -> Tensor:
    """Scores of any kind of number as a float tensor of their own (whole numbers are scores, too)."""
    tensor = torch.as_tensor(got)
    return tensor.detach().clone() if tensor.dtype == torch.float32 else tensor.detach().float()
