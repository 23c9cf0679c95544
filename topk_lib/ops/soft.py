"""Soft top-k: weights in [0, 1] that sum to k, with an exact gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from topk_lib.ops.backend import use_triton
from topk_lib.ops.hard import _check, hard_topk
from topk_lib.ops.soft_cpu import soft_backward, soft_forward

__all__ = ["LINKS", "soft_topk", "soft_topk_threshold"]

_MAX_STEPS = 100
_TRITON_LONGEST = 32768


class _Link(NamedTuple):
    """``f``, its derivative, and its inverse on (0, 1), all elementwise."""

    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    inverse: Callable[[Tensor], Tensor]


# sigma(z) sigma(-z), not w (1 - w), which loses its digits near w = 1.
LINKS: dict[str, _Link] = {
    "sigmoid": _Link(torch.sigmoid, lambda z: torch.sigmoid(z) * torch.sigmoid(-z), torch.logit),
    "laplace": _Link(
        lambda z: torch.where(z < 0, 0.5 * torch.exp(-z.abs()), 1 - 0.5 * torch.exp(-z.abs())),
        lambda z: 0.5 * torch.exp(-z.abs()),
        lambda p: torch.where(p < 0.5, torch.log(2 * p), -torch.log(2 - 2 * p)),
    ),
    "clip": _Link(lambda z: z.clamp(0, 1), lambda z: ((z > 0) & (z < 1)).to(z.dtype), lambda p: p),
    "exp": _Link(
        lambda z: torch.exp(z.clamp(max=0)),
        lambda z: torch.where(z < 0, torch.exp(z.clamp(max=0)), 0),
        torch.log,
    ),
}


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
    Lei et al. 2023). The gradient is exact, with respect to ``scores``, ``k`` and
    ``temperature``.

    Args:
        scores: (..., n) float16, bfloat16, float32 or float64. +inf gets weight 1 before all
            others, -inf weight 0; a NaN makes its row NaN.
        k: 0 <= k <= n; a number, or a tensor with one per row (``scores``' shape without ``dim``).
            A row with at most k valid entries gives each of them weight 1.
        temperature: above 0; a number, or a tensor with one per row.
        dim: the dimension to choose along.
        link: "sigmoid", "laplace", "clip" or "exp".
        valid: bool, broadcastable to ``scores``; False entries get weight 0.
        hard: give the hard mask forward and the soft gradient backward (straight-through).

    Returns:
        (..., n) weights, dtype of ``scores``.

    Raises:
        TypeError: ``scores`` is not a float tensor, ``valid`` not bool.
        ValueError: ``k`` outside 0..n, ``temperature`` not above 0, a wrong shape, an unknown link.

    Example:
        >>> soft_topk(torch.tensor([0.0, 1.0, 2.0]), 2, 0.1).round(decimals=3)
        tensor([0.000, 1.000, 1.000])
    """
    rows, ok, budget, temp = _prepare(scores, k, temperature, dim, link, valid)
    weights: Tensor = _solved(rows, budget, temp, ok, link)[0]
    if hard:
        if not torch.equal(budget, budget.round()):
            raise ValueError("hard=True needs whole numbers k")
        chosen = hard_topk(rows.detach(), budget.detach().long(), valid=ok).mask.to(weights.dtype)
        weights = chosen + (weights - weights.detach())
    return weights.movedim(-1, dim)


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
    rows, ok, budget, temp = _prepare(scores, k, temperature, dim, link, valid)
    taus: Tensor = _solved(rows, budget, temp, ok, link)[1]
    return taus.sum(-1).to(scores.dtype)


@torch.library.custom_op("topk_lib::soft_weights", mutates_args=())
def _solved(
    rows: Tensor, k: Tensor, temperature: Tensor, ok: Tensor | None, link: str
) -> tuple[Tensor, Tensor]:
    """Weights (..., n) and tau (..., 2), the sum of a coarse and a fine part, float32 or float64."""
    rows, k, temperature = rows.detach(), k.detach(), temperature.detach()
    flags = _flags(ok, rows)
    if _on_triton(rows):
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
        tau = _solve(rows, k, temperature, ok, link)
        weights = _weights(rows, k, tau, temperature, ok, link)
        taus = torch.stack([tau, torch.zeros_like(tau)], -1).to(_wide(rows))
    return weights.to(rows.dtype).reshape(rows.shape), taus.reshape(*rows.shape[:-1], 2)


@_solved.register_fake
def _(rows: Tensor, k: Tensor, temperature: Tensor, ok: Tensor | None, link: str) -> tuple[Tensor, Tensor]:
    return rows.new_empty(rows.shape), rows.new_empty(*rows.shape[:-1], 2, dtype=_wide(rows))


@torch.library.custom_op("topk_lib::soft_weights_backward", mutates_args=())
def _fused_backward(
    rows: Tensor, taus: Tensor, temperature: Tensor, ok: Tensor | None, link: str, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """What ``_backward`` computes for the weights alone, in one go."""
    wide, flags = _wide(rows), _flags(ok, rows)
    g = grad.reshape(-1, rows.shape[-1]).contiguous()
    taus = taus.reshape(-1, 2).contiguous()
    if _on_triton(rows):
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
    return torch.empty_like(rows), per_row, torch.empty_like(per_row)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)
    rows, _, temperature, ok, ctx.link = inputs
    ctx.save_for_backward(rows, output[1], temperature, ok)


def _backward(ctx: Any, grad: Tensor | None, grad_taus: Tensor | None) -> tuple[Tensor | None, ...]:
    """With d = f'(z), D = sum d and gbar = sum(d g) / D:

    g_scores = (d / temperature) (g - gbar),  g_k = gbar,  g_temperature = -sum(z g_scores);
    from tau's own gradient h come  d h / D,  -temperature h / D  and  -sum(z d) h / D.
    All in differentiable steps, so that second derivatives work.
    """
    rows, taus, temperature, ok = ctx.saved_tensors
    fused = rows.shape[-1] > 0 and (_on_triton(rows) or rows.device.type == "cpu")
    if grad_taus is None and grad is not None and fused and not torch.is_grad_enabled():
        return *_fused_backward(rows, taus, temperature, ok, ctx.link, grad), None, None
    wide = taus.dtype
    finite = taus.isfinite().all(-1, keepdim=True)
    inner = temperature.to(wide).unsqueeze(-1)
    live = rows.isfinite() & finite
    if ok is not None:
        live = live & ok
    coarse, fine = taus.masked_fill(~finite, 0).split(1, -1)
    z = (rows.to(wide).masked_fill(~live, 0) - coarse - fine) / inner
    live = live & z.isfinite()
    z = z.masked_fill(~live, 0)
    d = LINKS[ctx.link].slope(z).masked_fill(~live, 0)
    total = d.sum(-1, keepdim=True)
    # Where nothing moves (D = 0) the gradient is 0.
    pull = d / total.masked_fill(total == 0, 1)
    g = torch.zeros_like(z) if grad is None else grad.to(wide)
    h = 0 if grad_taus is None else grad_taus[..., :1]  # tau is read as the sum of both parts
    gbar = (pull * g).sum(-1, keepdim=True)
    g_scores = d / inner * (g - gbar) + pull * h
    g_k = gbar - h * inner / total.masked_fill(total == 0, math.inf)
    g_temperature = -(z * g_scores).sum(-1)
    return g_scores.to(rows.dtype), g_k.squeeze(-1).double(), g_temperature.double(), None, None


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


def _wide(rows: Tensor) -> torch.dtype:
    return torch.float64 if rows.dtype == torch.float64 else torch.float32


def _flat(rows: Tensor, *per_row: Tensor) -> list[Tensor]:
    wide = _wide(rows)
    flat = rows.reshape(-1, rows.shape[-1]).contiguous()
    return [flat, *(x.to(wide).reshape(-1).contiguous() for x in per_row)]


def _on_cpu(rows: Tensor, *per_row: Tensor) -> list[Tensor]:
    flat = rows.to(_wide(rows)).reshape(rows.shape[:-1].numel(), rows.shape[-1])
    return [flat, *(x.double().reshape(-1) for x in per_row)]


def _flags(ok: Tensor | None, rows: Tensor) -> Tensor | None:
    return None if ok is None else ok.reshape(rows.shape[:-1].numel(), rows.shape[-1]).contiguous()


def _prepare(
    scores: Tensor,
    k: int | float | Tensor,
    temperature: float | Tensor,
    dim: int,
    link: str,
    valid: Tensor | None,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """Rows last, one float64 k and temperature a row."""
    _check(scores, valid, "position")
    if link not in LINKS:
        raise ValueError(f"link must be one of {', '.join(LINKS)}, got {link!r}")
    rows = scores.movedim(dim, -1)
    ok = None if valid is None else valid.expand_as(scores).movedim(dim, -1)
    budget = _per_row("k", k, rows)
    temp = _per_row("temperature", temperature, rows)
    n = rows.shape[-1]
    if not _all_true(k, budget, lambda x: (x >= 0) & (x <= n)):
        raise ValueError(f"k must lie in 0..{n} (the length along dim), got {k}")
    if not _all_true(temperature, temp, lambda x: (x > 0) & (x < math.inf)):
        raise ValueError(f"temperature must be above 0 and finite, got {temperature}")
    return rows, ok, budget, temp


def _all_true(given: Any, tensor: Tensor, test: Callable[[Any], Any]) -> bool:
    """Whether the test holds; a compiled graph does not stop to look into a tensor."""
    if not isinstance(given, Tensor):
        return bool(test(given))
    return torch.compiler.is_compiling() or bool(test(tensor).all())


def _per_row(name: str, value: float | Tensor, rows: Tensor) -> Tensor:
    if isinstance(value, bool) or not isinstance(value, int | float | Tensor):
        raise TypeError(f"{name} must be a number or a tensor, got {type(value).__name__}")
    tensor = value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)
    tensor = tensor.to(rows.device, torch.float64)
    try:
        return tensor.expand(rows.shape[:-1])
    except RuntimeError:
        raise ValueError(
            f"{name} must hold one number per row, shape {tuple(rows.shape[:-1])}, got {tuple(tensor.shape)}"
        ) from None


def _solve(rows: Tensor, k: Tensor, temperature: Tensor, ok: Tensor | None, link: str) -> Tensor:
    """Find tau, (...,) float64, by Newton's method kept inside a bracket."""
    f, slope, inverse = LINKS[link]
    s, live, top, _ = _kinds(rows, ok)
    count = live.sum(-1).to(torch.float64)
    left = k - top.sum(-1)  # what +inf takes is not there for the others
    inside = (left > 0) & (left < count)
    share = torch.where(inside, left / count.clamp(min=1), 0.5)
    step = temperature * inverse(share)
    # Were all scores the largest (least) one, this tau would give each the weight k / n.
    low = s.masked_fill(~live, math.inf).amin(-1) - step if s.shape[-1] else step
    high = s.masked_fill(~live, -math.inf).amax(-1) - step if s.shape[-1] else step
    low, high = torch.where(inside, low, 0), torch.where(inside, high, 0)
    tau = (low + high) / 2
    clean, inner = s.masked_fill(~live, 0), temperature.unsqueeze(-1)
    before = torch.full_like(tau, math.inf)
    for _ in range(_MAX_STEPS):
        z = (clean - tau.unsqueeze(-1)) / inner
        excess = f(z).masked_fill(~live, 0).sum(-1) - left
        excess = torch.where(inside, excess, 0)
        d = slope(z).masked_fill(~live, 0).sum(-1)
        newton = tau + excess * temperature / d
        # What summing in float64, and float64 at tau, can tell.
        done = excess.abs() <= 1e-13 * k.clamp(min=1)
        done |= (newton - tau).abs() <= 1e-15 * torch.maximum(tau.abs(), temperature)
        if bool(done.all()):
            break
        low, high = torch.where(excess > 0, tau, low), torch.where(excess < 0, tau, high)
        good = (newton > low) & (newton < high) & (excess.abs() < before / 2)
        before = excess.abs()
        tau = torch.where(done, tau, torch.where(good, newton, (low + high) / 2))
    tau = torch.where(inside, tau, torch.where(left >= count, -math.inf, math.inf))
    nan = s.isnan() if ok is None else s.isnan() & ok
    return tau.masked_fill(nan.any(-1), math.nan)


def _weights(
    rows: Tensor, k: Tensor, tau: Tensor, temperature: Tensor, ok: Tensor | None, link: str
) -> Tensor:
    s, live, top, bottom = _kinds(rows, ok)
    tau = tau.unsqueeze(-1)
    weights = LINKS[link].value((s.masked_fill(~live, 0) - tau) / temperature.unsqueeze(-1))
    weights = weights.masked_fill(~live & ~tau.isnan(), 0)
    # Infinite scores of one sign are tied: they share what is theirs.
    rest = (k - top.sum(-1)).clamp(min=0) - live.sum(-1)
    for group, budget in ((top, k), (bottom, rest)):
        share = (budget / group.sum(-1).clamp(min=1)).clamp(0, 1).unsqueeze(-1)
        weights = torch.where(group & ~tau.isnan(), share, weights)
    return weights if ok is None else weights.masked_fill(~ok, 0)


def _kinds(rows: Tensor, ok: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The scores in float64, and which of them are finite, +inf and -inf, among the valid."""
    s = rows.to(torch.float64)
    every = torch.ones_like(s, dtype=torch.bool) if ok is None else ok
    return s, s.isfinite() & every, (s == math.inf) & every, (s == -math.inf) & every
