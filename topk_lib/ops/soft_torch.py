"""Soft top-k in plain PyTorch: its links, a solver for any device, and what differentiates in every mode."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["LINKS", "held", "inside", "newton_steps", "solve_rows"]

_MAX_STEPS = 100
_FAR = 300.0  # as in soft_cpu, in float64: beyond it a weight is 0 or 1
_STEPS = 3  # in newton_steps: each doubles the order from which on derivatives are wrong, 2, 4, 8


class _Link(NamedTuple):
    """``f`` and its derivative, elementwise.

    The derivative that autograd finds of ``f`` is ``slope``, at the kinks too, and to the last digits.
    """

    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]


def _sigmoid(z: Tensor) -> Tensor:
    below = torch.exp(z.clamp(max=0))
    return torch.where(z < 0, below / (1 + below), 1 / (1 + torch.exp(-z.clamp(min=0))))


def _laplace(z: Tensor) -> Tensor:
    return torch.where(z < 0, 0.5 * torch.exp(z.clamp(max=0)), 1 - 0.5 * torch.exp(-z.clamp(min=0)))


# sigma(z) sigma(-z), not w (1 - w), which loses its digits near w = 1.
LINKS: dict[str, _Link] = {
    "sigmoid": _Link(_sigmoid, lambda z: torch.sigmoid(z) * torch.sigmoid(-z)),
    "laplace": _Link(_laplace, lambda z: 0.5 * torch.exp(-z.abs())),
    "clip": _Link(
        lambda z: torch.where((z > 0) & (z < 1), z, (z >= 1).to(z.dtype)),
        lambda z: ((z > 0) & (z < 1)).to(z.dtype),
    ),
    "exp": _Link(
        lambda z: torch.where(z < 0, torch.exp(z.clamp(max=0)), 1),
        lambda z: torch.where(z < 0, torch.exp(z.clamp(max=0)), 0),
    ),
}


def held(temperature: Tensor, wide: torch.dtype) -> Tensor:
    """Temperatures whose quotients ``wide`` holds; beyond them the weights no longer change."""
    limits = torch.finfo(wide)
    return temperature.clamp(4 * limits.tiny, limits.max / 1024)


def inside(
    rows: Tensor, taus: Tensor, temperature: Tensor, ok: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """z (..., n), which entries have a finite one that moves, and the temperature (..., 1)."""
    wide = taus.dtype
    finite = taus.isfinite().all(-1, keepdim=True)
    inner = held(temperature, wide).to(wide).unsqueeze(-1)
    live = rows.isfinite() & finite
    if ok is not None:
        live = live & ok
    parts = taus.masked_fill(~finite, 0)
    z = (rows.to(wide).masked_fill(~live, 0) - parts[..., :1] - parts[..., 1:]) / inner
    live = live & z.isfinite()
    return z.masked_fill(~live, 0), live, inner


def newton_steps(
    weights: Tensor,
    taus: Tensor,
    rows: Tensor,
    k: Tensor,
    temperature: Tensor,
    ok: Tensor | None,
    link: str,
) -> tuple[Tensor, Tensor]:
    """The same weights and taus (summed), as constants and Newton steps of size 0 that bring the derivatives.

    One step is right to first order, two to the third, three to the seventh; all of it is plain PyTorch,
    so that every transform knows it.
    """
    f, slope = LINKS[link]
    z, live, inner = inside(rows, taus, temperature, ok)
    budget, shift = k.to(taus.dtype).unsqueeze(-1), torch.zeros_like(inner)
    for _ in range(_STEPS):
        at = z - shift / inner
        excess = f(at).masked_fill(~live, 0).sum(-1, keepdim=True) - budget
        total = slope(at).masked_fill(~live, 0).sum(-1, keepdim=True)
        step = (excess - excess.detach()) * inner / total.masked_fill(total == 0, 1)
        shift = shift + step.masked_fill(total == 0, 0)
    moving = f(z - shift / inner).masked_fill(~live, 0)
    return weights + (moving - moving.detach()).to(weights.dtype), taus.sum(-1) + shift.squeeze(-1)


def solve_rows(
    rows: Tensor, k: Tensor, temperature: Tensor, ok: Tensor | None, link: str
) -> tuple[Tensor, Tensor]:
    """Any device and length, in float64: as :mod:`topk_lib.ops.soft_cpu` does it, step by step.

    Returns:
        weights (..., n), and tau (..., 2): the k-th largest score, and what is to be added to it.
    """
    f, slope = LINKS[link]
    s, t = rows.double(), temperature.unsqueeze(-1)
    every = torch.ones_like(s, dtype=torch.bool) if ok is None else ok
    live, top, bottom = s.isfinite() & every, (s == math.inf) & every, (s == -math.inf) & every
    count, tops = live.sum(-1, keepdim=True), top.sum(-1, keepdim=True)
    budget = k.unsqueeze(-1)
    left = budget - tops  # what +inf takes is not there for the others
    solving = (left > 0) & (left < count)
    left = torch.where(solving, left, 0.5)
    if s.shape[-1]:
        ranked = s.masked_fill(~live, -math.inf).sort(-1, descending=True).values
        pivot = ranked.gather(-1, left.ceil().long() - 1)
    else:
        pivot = left
    pivot = pivot.where(solving, 0)
    u = ((s - pivot) / t).clamp(-_FAR, _FAR).masked_fill(~live, 0)
    delta, before = torch.zeros_like(pivot), torch.full_like(pivot, math.inf)
    low, high = delta - _FAR, delta + _FAR
    for _ in range(_MAX_STEPS):
        excess = f(u - delta).masked_fill(~live, 0).sum(-1, keepdim=True) - left
        excess = excess.where(solving, 0)
        newton = delta + excess / slope(u - delta).masked_fill(~live, 0).sum(-1, keepdim=True)
        # What summing in float64, and float64 at delta, can tell.
        done = excess.abs() <= 1e-13 * left.clamp(min=1)
        done |= high - low <= 1e-15 * delta.abs().clamp(min=1)
        if bool(done.all()):
            break
        low, high = torch.where(excess > 0, delta, low), torch.where(excess < 0, delta, high)
        good = (newton > low) & (newton < high) & (excess.abs() < before / 2)
        before = excess.abs()
        delta = torch.where(done, delta, torch.where(good, newton, (low + high) / 2))
    all_in = budget - tops >= count
    weights = torch.where(solving, f(u - delta), all_in.double()).masked_fill(~live, 0)
    # Infinite scores of one sign are tied: they share what is theirs.
    rest = (budget - tops).clamp(min=0) - count
    for group, share in ((top, budget), (bottom, rest)):
        weights = torch.where(group, (share / group.sum(-1, keepdim=True).clamp(min=1)).clamp(0, 1), weights)
    broken = (s.isnan() & every).any(-1, keepdim=True)
    weights = weights.masked_fill(broken & every, math.nan)
    pivot = torch.where(solving, pivot, torch.where(all_in, -math.inf, math.inf))
    taus = torch.cat([pivot, (delta * t).where(solving, 0)], -1).masked_fill(broken, math.nan)
    return weights, taus
