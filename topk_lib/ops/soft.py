"""Soft top-k: weights in [0, 1] that sum to k, with an exact gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from topk_lib.ops import native
from topk_lib.ops.arguments import check_scores, last, number_per_row, seen, transformed, untraced
from topk_lib.ops.backend import use_triton
from topk_lib.ops.hard import topk_mask
from topk_lib.ops.soft_cpu import soft_backward, soft_forward
from topk_lib.ops.soft_torch import LINKS, held, inside, newton_steps, solve_rows

__all__ = ["LINKS", "soft_topk", "soft_topk_threshold"]

_TRITON_LONGEST = 32768


def soft_topk(
    scores: Tensor,
    k: int | float | Tensor,
    temperature: float | Tensor = 1.0,
    *,
    dim: int = -1,
    link: str = "sigmoid",
    valid: Tensor | None = None,
    hard: bool = False,
) -> Tensor:
    """Give every entry a weight in [0, 1], so that the weights along ``dim`` sum to k.

    ``weights = f((scores - tau) / temperature)``, with the threshold tau solved for. As the
    temperature goes to 0 the weights become the mask of :func:`hard_topk`, but that entries tied
    at the threshold share. Links: "sigmoid" (Amos et al. 2019, the limited multi-label
    projection), "laplace" (LapSum, Struski et al. 2025), "clip" (projection onto the capped
    simplex; Sander et al. 2023 with p = 2), "exp" (the fixed point of coordinate descent,
    Lei et al. 2023). Derivatives with respect to ``scores``, ``k`` and ``temperature`` are exact: in
    reverse mode of every order; in forward mode and under ``torch.func`` up to the seventh.

    The CPU paths, the kernels and plain PyTorch give the same weights to within 2e-5 (float32) or
    the spacing of the dtype, for finite scores of every size; where k leaves less than one entry out, the
    kernels may be further off (1e-4 was seen). A temperature below 5e-38 counts as
    5e-38 and one above 3e35 as 3e35 (float64 scores: 9e-308 and 1e305), from where on weights hardly
    change.

    Args:
        scores: (..., n) float16, bfloat16, float32 or float64. +inf gets weight 1 before all
            others, -inf weight 0; a NaN makes its row NaN.
        k: 0 <= k <= n; a number, or a tensor with one per row (``scores``' shape without ``dim``), whose
            range a compiled or exported graph does not check.
            A row with at most k valid entries gives each of them weight 1.
        temperature: above 0; a number, or a tensor with one per row.
        dim: the dimension to choose along.
        link: "sigmoid", "laplace", "clip" or "exp".
        valid: bool, broadcastable to ``scores``; False entries get weight 0.
        hard: give the hard mask, with the derivatives of the soft weights (straight-through).

    Returns:
        (..., n) weights, dtype of ``scores``.

    Raises:
        TypeError: ``scores`` is not a float tensor, ``valid`` not bool.
        ValueError: ``k`` outside 0..n, or not whole where ``hard``; ``temperature`` not above 0; a wrong
            shape or device; an unknown link.

    Example:
        >>> soft_topk(torch.tensor([0.0, 1.0, 2.0]), 2, 0.1).round(decimals=3)
        tensor([0.000, 1.000, 1.000])
    """
    if valid is None and native.soft_ready(scores, k, temperature, dim, link):
        rows, ok = scores, None
        if scores.requires_grad and torch.is_grad_enabled():
            weights = _by_compiled(scores, k, temperature, None, link)
        else:
            weights = native.soft(scores, k, temperature, None, link)
    else:
        rows, ok, budget, temp = prepare(scores, k, temperature, dim, link, valid)
        weights = _weights(rows, budget, temp, ok, link)
    if hard:
        # Detached from all transforms at once, so that derivatives of every kind are the soft ones.
        chosen = hard_mask(rows, k, ok).to(weights.dtype)
        weights = chosen + (weights - weights.detach())
    return weights if rows is scores else weights.movedim(-1, dim)


def hard_mask(rows: Tensor, k: int | float | Tensor, ok: Tensor | None) -> Tensor:
    """The mask of the whole numbers k, which :func:`prepare` has checked."""
    numbers = seen(k) if isinstance(k, Tensor) else None
    fractions = [k] if isinstance(k, float) and k != int(k) else []
    if numbers is not None:
        fractions = numbers[numbers != numbers.round()].tolist()
    if fractions:
        raise ValueError(
            f"hard=True (and SoftTopK in evaluation) needs whole numbers k, got {fractions[0]:g}"
        )
    if isinstance(k, Tensor):
        whole: Any = k.detach().round().long().expand(rows.shape[:-1])
    else:
        whole = int(k) if isinstance(k, float) else k
    return topk_mask(rows.detach(), whole, valid=ok)


def soft_topk_threshold(
    scores: Tensor,
    k: int | float | Tensor,
    temperature: float | Tensor = 1.0,
    *,
    dim: int = -1,
    link: str = "sigmoid",
    valid: Tensor | None = None,
) -> Tensor:
    """The threshold tau of :func:`soft_topk`; arguments and errors are the same.

    Returns:
        ``scores``' shape without ``dim``; +inf where k = 0, -inf where k takes all valid entries.
    """
    rows, ok, budget, temp = prepare(scores, k, temperature, dim, link, valid)
    return _solve(rows, budget, temp, ok, link)[1].to(scores.dtype)


def prepare(
    scores: Tensor,
    k: int | float | Tensor,
    temperature: float | Tensor,
    dim: int,
    link: str,
    valid: Tensor | None,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """Rows last, one float64 k and temperature a row."""
    check_scores("scores", scores, valid)
    if link not in LINKS:
        raise ValueError(f"link must be one of {', '.join(LINKS)}, got {link!r}")
    rows, ok = last(scores, valid, dim)
    n = rows.shape[-1]
    budget = number_per_row(
        "k", k, rows, lambda x: (x >= 0) & (x <= n), f"lie in 0..{n} (the length along dim)"
    )
    temp = number_per_row(
        "temperature", temperature, rows, lambda x: (x > 0) & (x < math.inf), "be above 0 and finite"
    )
    return rows, ok, budget, temp


def _weights(rows: Tensor, k: Tensor, temperature: Tensor, ok: Tensor | None, link: str) -> Tensor:
    """Weights (..., n), differentiable in every mode."""
    bare = untraced(rows, k, temperature, ok) and not transformed()
    if bare and _is_compiled(rows) and not _on_triton(rows):  # an op's dispatch costs more than a short row
        return _by_compiled(rows, k, temperature, ok, link)
    return _solve(rows, k, temperature, ok, link)[0]


class _Compiled(torch.autograd.Function):
    """Weights by the compiled code, where nothing but reverse mode looks on; arguments of ``native.soft``."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        k: float | Tensor,
        temperature: float | Tensor,
        ok: Tensor | None,
        link: str,
    ) -> Tensor:
        taus = rows.new_empty(*rows.shape[:-1], 2, dtype=_wide(rows))
        ctx.link, ctx.numbers = link, [x for x in (k, temperature) if not isinstance(x, Tensor)]
        ctx.save_for_backward(rows, taus, ok, *(x for x in (k, temperature) if isinstance(x, Tensor)))
        return native.soft(rows, k, temperature, ok, link, taus)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, taus, ok, *per_row = ctx.saved_tensors
        k, temperature = per_row or ctx.numbers
        once = not torch.is_grad_enabled() and not transformed()
        if once and untraced(grad):
            found = native.soft_backward(rows, taus, temperature, ok, ctx.link, grad)
        else:
            if not per_row:
                k, temperature = (torch.full(rows.shape[:-1], x, dtype=torch.float64) for x in ctx.numbers)
            if torch.is_grad_enabled():  # the same taus, but with derivatives
                taus = _solved(rows, k, temperature, ok, ctx.link)[1]
            if once:
                found = _fused_backward(rows, taus, temperature, ok, ctx.link, grad)
            else:
                found = _gradients(rows, taus, temperature, ok, ctx.link, grad, None)
        wanted = ctx.needs_input_grad
        return *(x if want else None for x, want in zip(found, wanted, strict=False)), None, None


_by_compiled: Callable[..., Tensor] = _Compiled.apply


def _solve(
    rows: Tensor, k: Tensor, temperature: Tensor, ok: Tensor | None, link: str
) -> tuple[Tensor, Tensor]:
    """Weights (..., n) and tau (...), differentiable in every mode."""
    if not transformed():
        weights, taus = _solved(rows, k, temperature, ok, link)
        return weights, taus.sum(-1)
    # PyTorch knows an operator's derivatives in plain reverse mode only.
    weights, taus = _solved(rows.detach(), k.detach(), temperature.detach(), ok, link)
    return newton_steps(weights, taus, rows, k, temperature, ok, link)


@torch.library.custom_op("topk_lib::soft_weights", mutates_args=())
def _solved(
    rows: Tensor, k: Tensor, temperature: Tensor, ok: Tensor | None, link: str
) -> tuple[Tensor, Tensor]:
    """Weights (..., n) and tau (..., 2), the sum of a coarse and a fine part, float32 or float64."""
    rows, k, temperature = rows.detach(), k.detach(), temperature.detach()
    triton = _on_triton(rows)
    if _is_compiled(rows) and not triton:
        taus = rows.new_empty(*rows.shape[:-1], 2, dtype=_wide(rows))
        return native.soft(rows, k, temperature, ok, link, taus), taus
    temperature, flags = held(temperature, _wide(rows)), _flags(ok, rows)
    if triton:
        from topk_lib.kernels.soft import soft_topk_rows

        flat, ks, temperatures = _flat(rows, k, temperature)
        weights, taus = soft_topk_rows(flat, ks, temperatures, flags, link)
    elif rows.device.type == "cpu":
        flat, ks, temperatures = _on_cpu(rows, k, temperature)
        solved = soft_forward(
            flat.numpy(), ks.numpy(), temperatures.numpy(), None if flags is None else flags.numpy(), link
        )
        weights, taus = map(torch.from_numpy, solved)
    else:
        weights, taus = solve_rows(rows, k, temperature, ok, link)
        taus = taus.to(_wide(rows))
    return weights.to(rows.dtype).reshape(rows.shape), taus.reshape(*rows.shape[:-1], 2)


@_solved.register_fake
def _(rows: Tensor, k: Tensor, temperature: Tensor, ok: Tensor | None, link: str) -> tuple[Tensor, Tensor]:
    return rows.new_empty(rows.shape), rows.new_empty(*rows.shape[:-1], 2, dtype=_wide(rows))


@torch.library.custom_op("topk_lib::soft_weights_backward", mutates_args=())
def _fused_backward(
    rows: Tensor, taus: Tensor, temperature: Tensor, ok: Tensor | None, link: str, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """What ``_gradients`` computes for the weights alone, in one go."""
    triton = _on_triton(rows)
    if _is_compiled(rows) and not triton:
        return native.soft_backward(rows, taus.contiguous(), temperature, ok, link, grad)
    wide, flags = _wide(rows), _flags(ok, rows)
    temperature = held(temperature, wide)
    g = grad.reshape(-1, rows.shape[-1]).contiguous()
    taus = taus.reshape(-1, 2).contiguous()
    if triton:
        from topk_lib.kernels.soft import soft_backward_rows

        flat, t = _flat(rows, temperature)
        g_scores, g_k, g_t = soft_backward_rows(flat, taus, t, flags, link, g)
    else:
        flat, t = _on_cpu(rows, temperature)
        arrays = (flat.numpy(), taus.numpy(), t.numpy(), None if flags is None else flags.numpy())
        found = soft_backward(*arrays, link, g.to(wide).numpy())
        g_scores, g_k, g_t = map(torch.from_numpy, found)
        g_scores = g_scores.to(rows.dtype)
    shape = rows.shape[:-1]
    return g_scores.reshape(rows.shape), g_k.reshape(shape).double(), g_t.reshape(shape).double()


@_fused_backward.register_fake
def _(
    rows: Tensor, taus: Tensor, temperature: Tensor, ok: Tensor | None, link: str, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    per_row = rows.new_empty(rows.shape[:-1], dtype=torch.float64)
    return rows.new_empty(rows.shape), per_row, torch.empty_like(per_row)  # contiguous, whatever rows is


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)
    rows, _, temperature, ok, ctx.link = inputs
    ctx.save_for_backward(rows, output[1], temperature, ok)


def _backward(ctx: Any, grad: Tensor | None, grad_taus: Tensor | None) -> tuple[Tensor | None, ...]:
    rows, taus, temperature, ok = ctx.saved_tensors
    fused = rows.shape[-1] > 0 and (_on_triton(rows) or rows.device.type == "cpu")
    once = not torch.is_grad_enabled() and not transformed()
    if grad_taus is None and grad is not None and fused and once:
        return *_fused_backward(rows, taus, temperature, ok, ctx.link, grad), None, None
    return *_gradients(rows, taus, temperature, ok, ctx.link, grad, grad_taus), None, None


def _gradients(
    rows: Tensor,
    taus: Tensor,
    temperature: Tensor,
    ok: Tensor | None,
    link: str,
    grad: Tensor | None,
    grad_taus: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """With d = f'(z), D = sum d and gbar = sum(d g) / D:

    g_scores = (d / temperature) (g - gbar),  g_k = gbar,  g_temperature = -sum(z g_scores);
    from tau's own gradient h come  d h / D,  -temperature h / D  and  -sum(z d) h / D.
    All in differentiable steps, so that second derivatives work.
    """
    z, live, inner = inside(rows, taus, temperature, ok)
    d = LINKS[link].slope(z).masked_fill(~live, 0)
    total = d.sum(-1, keepdim=True)
    # Where nothing moves (D = 0) the gradient is 0.
    pull = d / total.masked_fill(total == 0, 1)
    g = torch.zeros_like(z) if grad is None else grad.to(z.dtype)
    h = 0 if grad_taus is None else grad_taus[..., :1]  # tau is read as the sum of both parts
    gbar = (pull * g).sum(-1, keepdim=True)
    g_scores = d / inner * (g - gbar) + pull * h
    g_k = gbar - h * inner / total.masked_fill(total == 0, math.inf)
    g_temperature = -(z * g_scores).sum(-1)
    return g_scores.to(rows.dtype), g_k.squeeze(-1).double(), g_temperature.double()


_solved.register_autograd(_backward, setup_context=_save)


@_solved.register_vmap
def _(
    info: Any, dims: Any, rows: Tensor, k: Tensor, temperature: Tensor, ok: Tensor | None, link: str
) -> Any:
    """Any leading dimensions will do."""
    batched = [
        None if x is None else x.movedim(at, 0) if at is not None else x.expand(info.batch_size, *x.shape)
        for x, at in zip((rows, k, temperature, ok), dims, strict=False)
    ]
    return _solved(*batched, link), (0, 0)


def _on_triton(rows: Tensor) -> bool:
    return use_triton(rows.device) and 0 < rows.shape[-1] <= _TRITON_LONGEST


def _is_compiled(rows: Tensor) -> bool:
    """Whether the compiled code has such scores (unless Triton is asked for)."""
    return rows.is_cpu and rows.shape[-1] > 0 and native.serves(rows.shape[-1])


def _wide(rows: Tensor) -> torch.dtype:
    return torch.float64 if rows.dtype == torch.float64 else torch.float32


def _flat(rows: Tensor, *per_row: Tensor) -> list[Tensor]:
    wide = _wide(rows)
    flat = rows.reshape(-1, rows.shape[-1]).contiguous()
    return [flat, *(x.to(wide).reshape(-1).contiguous() for x in per_row)]


def _on_cpu(rows: Tensor, *per_row: Tensor) -> list[Tensor]:
    flat = rows.to(_wide(rows)).reshape(math.prod(rows.shape[:-1]), rows.shape[-1])
    return [flat, *(x.double().reshape(-1) for x in per_row)]


def _flags(ok: Tensor | None, rows: Tensor) -> Tensor | None:
    return None if ok is None else ok.reshape(math.prod(rows.shape[:-1]), rows.shape[-1]).contiguous()
