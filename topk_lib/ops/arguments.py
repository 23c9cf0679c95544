"""What the operators' arguments may be: one sentence for each that may not, and one number a row."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import _get_current_dispatch_mode

__all__ = [
    "check_integers",
    "check_scores",
    "laid_out",
    "last",
    "number",
    "number_per_row",
    "plain",
    "rows_of_k",
    "seeds_per_row",
    "seen",
    "transformed",
    "untraced",
    "whole",
]

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_UNSEEN_WIDTH = (
    "the result is as wide as the largest k, and the numbers in k cannot be read here: give k as an int, "
    "or take topk_mask, whose shape does not depend on k; torch.compile with fullgraph=True reads them "
    "after torch._dynamo.config.capture_scalar_outputs = True"
)


def untraced(*tensors: Tensor | None) -> bool:
    """Whether the tensors hold numbers that nothing traces: no compiler, transform, mode or subclass."""
    return not _tracing() and all(tensor is None or _bare(tensor) for tensor in tensors)


def plain(scores: Any, dim: int) -> bool:
    """Whether these are numbers of a CPU, row after row, that nothing traces or differentiates."""
    return laid_out(scores, dim) and not (scores.requires_grad and torch.is_grad_enabled())


def laid_out(scores: Any, dim: int) -> bool:
    """Whether these are numbers of a CPU, row after row, that nothing but reverse mode looks at."""
    return (
        not _tracing()
        and _bare(scores)
        and scores.is_cpu
        and scores.is_contiguous()
        and scores.dtype in _DTYPES
        and scores.dim() > 0
        and dim in (-1, scores.dim() - 1)
        and not transformed()
    )


def _tracing() -> bool:
    return (
        torch.compiler.is_compiling()
        or _get_current_dispatch_mode() is not None
        or torch._C._get_tracing_state() is not None
    )


def _bare(tensor: Any) -> bool:
    return (
        type(tensor) in (Tensor, torch.nn.Parameter)
        and not tensor.is_neg()
        and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)
        and torch._C._has_storage(tensor)  # none inside ``is_grads_batched``
    )


def transformed() -> bool:
    """Whether a transform of ``torch.func`` or forward-mode differentiation is at work."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def seen(tensor: Tensor) -> Tensor | None:
    """The numbers in a tensor, those of the whole batch inside ``vmap``; None where there are none to see."""
    if torch.compiler.is_compiling():
        return None
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    if tensor.device.type == "meta" or isinstance(tensor, FakeTensor) or _is_recorded():
        return None
    return tensor.detach()


def _is_recorded() -> bool:
    """Whether ``make_fx`` writes down what happens, for other numbers than these."""
    if _get_current_dispatch_mode() is None:
        return False
    from torch.fx.experimental.proxy_tensor import get_proxy_mode

    return get_proxy_mode() is not None


def check_scores(name: str, scores: Tensor, valid: Tensor | None) -> None:
    """Refuse scores and valid of a wrong type, shape or device."""
    if not isinstance(scores, Tensor) or scores.dtype not in _DTYPES:
        raise TypeError(f"{name} must be a float16, bfloat16, float32 or float64 tensor, got {_kind(scores)}")
    if scores.dim() == 0:
        raise ValueError(f"{name} must have at least one dimension, got a scalar")
    if valid is None:
        return
    if not isinstance(valid, Tensor) or valid.dtype != torch.bool:
        raise TypeError(f"valid must be a bool tensor, got {_kind(valid)}")
    if valid.device != scores.device:
        raise ValueError(
            f"valid must be on the device of {name}, {scores.device}, got {valid.device}: "
            f"move it with valid.to({name}.device)"
        )
    try:
        valid.expand_as(scores)
    except RuntimeError:
        raise ValueError(
            f"valid must broadcast to the shape of {name} {tuple(scores.shape)}, got {tuple(valid.shape)}"
        ) from None


def last(scores: Tensor, valid: Tensor | None, dim: int) -> tuple[Tensor, Tensor | None]:
    """Scores, and valid in their shape, with ``dim`` moved to the end."""
    ok = None if valid is None else valid.expand_as(scores)
    if dim in (-1, scores.dim() - 1):
        return scores, ok
    return scores.movedim(dim, -1), None if ok is None else ok.movedim(dim, -1)


def rows_of_k(
    k: int | Tensor, rows: Tensor, least: int = 0, unseen_width: int | None = None
) -> tuple[int, Tensor | None]:
    """The width of the result and, where they may differ, one k per row, (rows,) int64.

    Args:
        rows: (..., n), whose last dimension is chosen from.
        least: the least k that is allowed.
        unseen_width: the width where a compiler or transform hides the numbers in ``k``; an error if None.
    """
    n = rows.shape[-1]
    if not isinstance(k, Tensor):
        width = _integer("k", k)
        if width < least or width > n:
            raise ValueError(
                f"k must lie in {least if width < least else 0}..{n} (the length along dim), got {k}"
            )
        return width, None
    check_integers("k", k, rows)
    inside = seen(k)
    per_row = k.to(device=rows.device, dtype=torch.int64).reshape(-1)
    if inside is not None:
        inside = inside.to(torch.int64)
        low, high = (int(x) for x in inside.aminmax()) if inside.numel() else (least, 0)
        if low < least or high > n:
            raise ValueError(
                f"k must lie in {least if low < least else 0}..{n} (the length along dim), "
                f"got {low if low < least else high}"
            )
        return high, per_row
    if unseen_width is not None:
        return unseen_width, per_row
    if torch.compiler.is_dynamo_compiling():
        if not _captures_scalars():
            torch._dynamo.graph_break(msg=_UNSEEN_WIDTH)
    elif not torch.compiler.is_exporting():
        raise ValueError(_UNSEEN_WIDTH)
    widest: Any = per_row.max().item()
    torch._check(widest >= 0)  # type: ignore[no-untyped-call]
    torch._check(widest <= n)  # type: ignore[no-untyped-call]
    return widest, per_row


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _captures_scalars() -> bool:
    return bool(torch._dynamo.config.capture_scalar_outputs)


def number_per_row(
    name: str, value: float | Tensor, rows: Tensor, allowed: Callable[[Any], Any], range_text: str
) -> Tensor:
    """One float64 a row, in the shape of ``rows`` without its last dimension.

    Args:
        allowed: whether a number is; it is asked of a number or of a tensor.
        range_text: what the numbers must be, in words.
    """
    if not isinstance(value, Tensor):
        value = _of_python(name, value)
        if isinstance(value, bool) or not isinstance(value, int | float | torch.SymInt | torch.SymFloat):
            raise TypeError(f"{name} must be a number or a tensor, got {_kind(value)}")
        if not allowed(value):
            raise ValueError(f"{name} must {range_text}, got {value}")
        return torch.full((), value, dtype=torch.float64, device=rows.device).expand(rows.shape[:-1])
    if value.dtype.is_complex or value.dtype == torch.bool:
        raise TypeError(f"{name} must be a number or a tensor of numbers, got {value.dtype}")
    _check_device(name, value, rows)
    inside = seen(value)
    if inside is not None:
        wrong = ~allowed(inside)
        if bool(wrong.any()):
            raise ValueError(f"{name} must {range_text}, got {inside[wrong][0].item()}")
    tensor = value.to(rows.device, torch.float64)
    try:
        return tensor.expand(rows.shape[:-1])
    except RuntimeError:
        raise ValueError(
            f"{name} must hold one number per row, shape {tuple(rows.shape[:-1])}, got {tuple(tensor.shape)}"
        ) from None


def seeds_per_row(seed: int | Tensor | None, rows: Tensor) -> Tensor:
    """One int64 a row: an int s stands for s, s + 1, ... that wrap around at 64 bits."""
    shape = rows.shape[:-1]
    if seed is None:
        return torch.randint(-(2**63), 2**63 - 1, shape, device=rows.device)
    if isinstance(seed, Tensor):
        check_integers("seed", seed, rows)
        return seed.to(rows.device, torch.int64)
    first: Any = _integer("seed", seed)
    if isinstance(first, int):
        if not -(2**63) <= first < 2**64:  # no bit of it is lost
            words = np.random.SeedSequence([abs(first), int(first < 0)]).generate_state(1, np.uint64)
            first = int(words[0])
        first = (first + 2**63) % 2**64 - 2**63
    return torch.add(torch.arange(math.prod(shape), device=rows.device).reshape(shape), first)


def whole(name: str, value: Any, least: int | None = None, most: int | None = None) -> int:
    """A whole number of any library as an ``int``.

    Raises:
        TypeError: it is none; True and 64.0 are none either.
        ValueError: it is below ``least`` or above ``most``.
    """
    try:
        number: int | None = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if least is not None and number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
    if most is not None and number > most:
        raise ValueError(f"{name} must be at most {most}, got {number}")
    return number


def number(name: str, value: Any, least: float, most: float = math.inf) -> float:
    """A finite number of any library as a ``float``.

    Raises:
        TypeError: it is none.
        ValueError: it is not finite, below ``least`` or above ``most``.
    """
    if isinstance(value, str | bool) or not hasattr(value, "__float__"):
        raise TypeError(f"{name} must be a number, got {value!r}")
    found = float(value)
    if not (math.isfinite(found) and least <= found <= most):
        raise ValueError(f"{name} must lie in {least:g}..{most:g} and be finite, got {found:g}")
    return found


def _integer(name: str, value: Any) -> Any:
    """An int of Python, NumPy or a compiler (whose ints are symbols)."""
    value = _of_python(name, value)
    if isinstance(value, bool) or not isinstance(value, int | torch.SymInt):
        raise TypeError(f"{name} must be an int or an integer tensor, got {_kind(value)}")
    return value


def _of_python(name: str, value: Any) -> Any:
    """A number of NumPy as one of Python."""
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
        if torch.compiler.is_dynamo_compiling():
            torch._dynamo.graph_break(
                msg=f"a graph cannot hold {name} as a number of NumPy: give int({name}) or float({name})"
            )
        return value.item()
    return value


def check_integers(name: str, value: Tensor, rows: Tensor) -> None:
    """Refuse what are not integers, one for each row of ``rows`` (..., n), or on no device to read from."""
    if value.dtype.is_floating_point or value.dtype.is_complex or value.dtype == torch.bool:
        raise TypeError(f"{name} must be an int or an integer tensor, got {value.dtype}")
    _check_device(name, value, rows)
    if value.shape != rows.shape[:-1]:
        raise ValueError(
            f"{name} must hold one int per row, shape {tuple(rows.shape[:-1])}, got {tuple(value.shape)}"
        )


def _check_device(name: str, value: Tensor, rows: Tensor) -> None:
    """From one device to another numbers are copied; meta holds none."""
    if value.device.type == "meta" and rows.device.type != "meta":
        raise ValueError(
            f"{name} is on the device meta, which holds no numbers: give it on {rows.device}, like the scores"
        )


def _kind(value: Any) -> str:
    return str(value.dtype) if isinstance(value, Tensor) else type(value).__name__
