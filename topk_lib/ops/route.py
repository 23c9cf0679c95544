"""Moving tokens to experts and back: rows are copied into slots, what returns is added up in a fixed order.

Each is the other's adjoint, so that the gradient of the one is a call of the other.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from topk_lib.ops.arguments import transformed
from topk_lib.ops.backend import use_triton

__all__ = ["Places", "combine", "places", "take"]


class Places(NamedTuple):
    """Which token stands in each slot, and which slots a token has.

    Attributes:
        slots: (s,) int64, the token of each slot.
        order: (s,) int64, the slots, token after token, those of a token ascending.
        starts: (n + 1,) int64; token t has the slots ``order[starts[t]:starts[t + 1]]``.
    """

    slots: Tensor
    order: Tensor
    starts: Tensor


def places(slots: Tensor, n: int) -> Places:
    """The places of n tokens, of whom ``slots`` (s,) int64 says who stands in each slot."""
    order = slots.argsort(stable=True)
    tokens = torch.arange(n + 1, device=slots.device)
    return Places(slots, order, torch.searchsorted(slots[order], tokens))


def take(x: Tensor, at: Places) -> Tensor:
    """Copy each slot's token: x (n, d) to (s, d)."""
    if transformed():
        return x.index_select(0, at.slots)
    taken: Tensor = _take(x, *at)
    return taken


def combine(y: Tensor, weights: Tensor, at: Places) -> Tensor:
    """Add up, for each token, the rows of its slots times their weights.

    The sum is made in float32 at least and in the order of the slots, without atomics: the same bits at each
    call. A token without a slot gets zeros. Derivatives of every order and mode.

    Args:
        y: (s, d) float16, bfloat16, float32 or float64.
        weights: (s,) float32 (float64 for float64).
        at: of :func:`places`, for n tokens.

    Returns:
        (n, d) in the type of y.
    """
    wide = torch.promote_types(y.dtype, torch.float32)
    weights = weights.to(wide)
    if transformed():
        zeros = torch.zeros(len(at.starts) - 1, y.shape[1], dtype=wide, device=y.device)
        return zeros.index_add(0, at.slots, y.to(wide) * weights[:, None]).to(y.dtype)
    added: Tensor = _add(y, weights, *at)
    return added


@torch.library.custom_op("topk_lib::take_rows", mutates_args=())
def _take(x: Tensor, slots: Tensor, order: Tensor, starts: Tensor) -> Tensor:
    if use_triton(x.device):
        from topk_lib.kernels import route as kernels

        return kernels.take_rows(x.contiguous(), slots)
    return x.index_select(0, slots)


@torch.library.custom_op("topk_lib::add_rows", mutates_args=())
def _add(y: Tensor, weights: Tensor | None, slots: Tensor, order: Tensor, starts: Tensor) -> Tensor:
    if use_triton(y.device):
        from topk_lib.kernels import route as kernels

        return kernels.add_rows(y.contiguous(), weights, order, starts)
    wide = y.contiguous().to(torch.promote_types(y.dtype, torch.float32))
    if not wide.numel():
        return y.new_zeros(len(starts) - 1, y.shape[1])
    of_slot = None if weights is None else weights[order]
    total: Tensor = torch.embedding_bag(wide, order, starts, False, 0, False, of_slot, True)[0]
    return total.to(y.dtype)


@torch.library.custom_op("topk_lib::take_weighted", mutates_args=())
def _take_weighted(
    g: Tensor, y: Tensor, weights: Tensor, slots: Tensor, order: Tensor, starts: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradients of :func:`_add`: of y (s, d), and of weights (s,)."""
    if use_triton(g.device):
        from topk_lib.kernels import route as kernels

        return kernels.take_weighted(g.contiguous(), y.contiguous(), weights, slots)
    return _weighted(g.index_select(0, slots), y, weights)


def _weighted(taken: Tensor, y: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    wide = taken.to(weights.dtype)
    dots = torch.linalg.vecdot(wide, y.to(weights.dtype))
    return (wide * weights[:, None]).to(y.dtype), dots


@_take.register_fake
def _(x: Tensor, slots: Tensor, order: Tensor, starts: Tensor) -> Tensor:
    return x.new_empty(slots.shape[0], x.shape[1])


@_add.register_fake
def _(y: Tensor, weights: Tensor | None, slots: Tensor, order: Tensor, starts: Tensor) -> Tensor:
    return y.new_empty(starts.shape[0] - 1, y.shape[1])


@_take_weighted.register_fake
def _(
    g: Tensor, y: Tensor, weights: Tensor, slots: Tensor, order: Tensor, starts: Tensor
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(y), torch.empty_like(weights)


def _keep_places(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[-3:])


def _take_backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    return _add(g, None, *ctx.saved_tensors), None, None, None


def _keep_all(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.weighted = inputs[1] is not None
    ctx.save_for_backward(*(x for x in inputs if x is not None))


def _add_backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    if not ctx.weighted:
        _, *at = ctx.saved_tensors
        return _take(g, *at), None, None, None, None
    y, weights, *at = ctx.saved_tensors
    if torch.is_grad_enabled():  # whose own derivative is wanted
        return *_weighted(_take(g, *at), y, weights), None, None, None
    return *_take_weighted(g, y, weights, *at), None, None, None


_take.register_autograd(_take_backward, setup_context=_keep_places)
_add.register_autograd(_add_backward, setup_context=_keep_all)
