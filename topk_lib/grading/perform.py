"""Operations on a student's function: they run where the function runs."""

from __future__ import annotations

import linecache
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.overrides
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from topk_lib.grading.reads import counted_reads

__all__ = ["ANSWER", "Counts", "reply", "said"]

_FORBIDDEN = ("can't start new thread", "[Errno 1] Operation not permitted", "[Errno 13] Permission denied")
ANSWER = "<answer>"
"""The file name that a student's code goes by."""


class _WrongForm(Exception):
    """A result whose form the operation cannot use; the message is a sentence."""


@dataclass(frozen=True)
class Counts:
    """``calls`` of PyTorch operations, the ``elements`` of their results, calls ``by_name``.

    Names are as PyTorch's dispatcher has them (``topk``, ``sort``, ``_local_scalar_dense`` for ``item``).
    What is done without PyTorch is not counted, but ``tolist`` and ``numpy``, by which numbers leave it, are.
    Views count as calls, and have no elements. Of interpreted Triton kernels ``by_name`` has, beside the
    calls, how many numbers they took: ``triton read``, ``triton written``, ``triton at once`` (by one load).
    """

    calls: int = 0
    elements: int = 0
    by_name: dict[str, int] = field(default_factory=dict)


class _Count(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.elements = 0
        self.by_name: dict[str, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        self.by_name[name] = self.by_name.get(name, 0) + 1
        if not func.is_view:
            self.elements += sum(part.numel() for part in tree_flatten(out)[0] if isinstance(part, Tensor))
        return out


class _Leaving(torch.overrides.TorchFunctionMode):
    def __init__(self, by_name: dict[str, int]) -> None:
        super().__init__()
        self.by_name = by_name

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = {"numpy": "numpy", "__array__": "numpy", "tolist": "tolist"}.get(getattr(func, "__name__", ""))
        if name:
            self.by_name[name] = self.by_name.get(name, 0) + 1
        return func(*args, **(kwargs or {}))


def _call(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    return function(*args, **kwargs)


def _counted(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    reading: AbstractContextManager[dict[str, int]] = nullcontext({})
    if "triton.runtime.interpreter" in sys.modules:
        reading = counted_reads()
    with _Count() as count, _Leaving(count.by_name), reading as reads:
        result = function(*args, **kwargs)
    calls = sum(count.by_name.values())
    kernels = {f"triton {name}": numbers for name, numbers in reads.items() if numbers}
    return result, calls, count.elements, count.by_name | kernels


def _vjp(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    given, cotangent, wrt = list(args[0]), args[1], args[2]
    for place in wrt:
        given[place] = tree_map(lambda part: part.detach().requires_grad_(), given[place])
    output = function(*given, **kwargs)
    parts = list(output) if isinstance(output, (list, tuple)) else [output]
    asked = list(cotangent) if isinstance(cotangent, (list, tuple)) else [cotangent]
    if len(parts) != len(asked):
        raise _WrongForm(f"returned {len(parts)} parts where {len(asked)} are asked for")
    pairs = [(part, right) for part, right in zip(parts, asked, strict=True) if right is not None]
    for part, right in pairs:
        if not isinstance(part, Tensor):
            raise _WrongForm(f"returned a {type(part).__name__} where a tensor is asked for")
        if part.shape != right.shape:
            raise _WrongForm(f"returned shape {tuple(part.shape)} where {tuple(right.shape)} is asked for")
    leaves, form = tree_flatten([given[place] for place in wrt])
    gradients: Sequence[Tensor | None] = [None] * len(leaves)
    connected = [(part, right) for part, right in pairs if part.requires_grad]
    if connected:
        gradients = torch.autograd.grad(
            [part for part, _ in connected],
            leaves,
            [right.to(part.dtype) for part, right in connected],
            allow_unused=True,
        )
    filled = [torch.zeros_like(leaf) if g is None else g for leaf, g in zip(leaves, gradients, strict=True)]
    return output, tree_unflatten(filled, form)


OPERATIONS: dict[str, Callable[[Callable[..., Any], Sequence[Any], Mapping[str, Any]], Any]] = {
    "call": _call,
    "counted": _counted,
    "vjp": _vjp,
}


def reply(
    function: Callable[..., Any] | None,
    operation: str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    faults: Sequence[str] = (),
) -> dict[str, Any]:
    """What came of an operation, as plain data: ``result``, or ``refused`` (the kind) and ``sentence``; with
    ``names`` and ``message`` where an exception came. ``faults`` are of loading the function's file."""
    before = f"; before that, {faults[0]}" if faults else ""
    if function is None:
        return {"refused": "missing", "sentence": f"is missing: there is no function of this name{before}"}
    try:
        return {"result": OPERATIONS[operation](function, args, kwargs)}
    except _WrongForm as error:
        return {"refused": "wrong type", "sentence": str(error)}
    except SystemExit as error:
        return {"refused": "ended itself", "sentence": f"ended the program (exit code {error.code})"}
    except BaseException as error:
        name, message = type(error).__name__, said(error)
        first = (message.strip().splitlines() or ["no more is said"])[0][:300]
        kind, verb = "raised", "raised"
        if isinstance(error, MemoryError) or "can't allocate memory" in message:
            kind = "too much memory"
        elif isinstance(error, PermissionError) or any(each in message for each in _FORBIDDEN):
            kind, verb = "not allowed", "tried what is not allowed:"
        if not isinstance(error, NameError):
            before = ""
        return {
            "refused": kind,
            "sentence": f"{verb} {name}: {first}{_place(error)}{before}",
            "names": [each.__name__ for each in type(error).__mro__],
            "message": message[:2000],
        }


def said(error: BaseException) -> str:
    """An exception's message, whatever it does when asked for it."""
    try:
        return str(error)
    except BaseException:
        return "its message cannot be shown"


def _place(error: BaseException) -> str:
    found = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        code = frame.f_code
        if code.co_filename == ANSWER:
            text = linecache.getline(ANSWER, line).strip()[:100]
            where = (
                ""
                if code.co_name == "<module>"
                else f"line {line - code.co_firstlineno + 1} of {code.co_name}: "
            )
            found = f" ({where}{text})"
    return found
