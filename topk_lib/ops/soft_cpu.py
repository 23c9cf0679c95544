"""Soft top-k on a CPU: Newton's method in NumPy, piece by piece, so that the work stays in the cache.

The threshold is written tau = pivot + temperature * delta, the pivot being the k-th largest score.
Scores near the threshold lose nothing when the pivot is taken off, so that float32 will do. With
u = (s - pivot) / temperature, exp(u) and exp(-u) are computed once; a Newton step then needs only
products with exp(delta).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from topk_lib.ops.hard_cpu import Bools, Floats, in_pieces, kth_largest

__all__ = ["soft_backward", "soft_forward"]

_MAX_STEPS = 100
_FAR = {np.dtype(np.float32): 60.0, np.dtype(np.float64): 300.0}  # beyond it a weight is 0 or 1

# At a delta: writes the weights, returns the slope of their sum, (rows,).
Step = Callable[[Floats, Floats], Floats]


def soft_forward(
    scores: Floats, ks: Floats, temperatures: Floats, valid: Bools | None, link: str
) -> tuple[Floats, Floats]:
    """Solve each row.

    Args:
        scores: (rows, n) float32 or float64.
        ks, temperatures: (rows,) float64; quotients by temperatures must be finite in ``scores``' type.
        valid: (rows, n) or None.
        link: "sigmoid", "laplace", "clip" or "exp".

    Returns:
        weights (rows, n), and tau as a sum of two, (rows, 2), in the type of ``scores``.
    """
    weights, taus = np.empty(scores.shape, scores.dtype), np.empty((len(scores), 2), scores.dtype)
    if scores.shape[1] == 0:
        taus.fill(0)
        return weights, taus

    def piece(part: slice) -> None:
        own = None if valid is None else valid[part]
        s, w, tau = scores[part], weights[part], taus[part]
        given = (ks[part], temperatures[part], own, link)
        rest = (s.shape[1] if own is None else np.count_nonzero(own, axis=-1)) - given[0]
        if s.dtype == np.float32 and (rest < s.shape[1] / 16).any():
            # What weights near 1 lack to it has few digits in float32.
            wide, shift = np.empty(s.shape), np.empty(tau.shape)
            _forward(s.astype(np.float64), *given, wide, shift)
            w[:], tau[:] = wide, shift
        else:
            _forward(s, *given, w, tau)

    in_pieces(piece, *scores.shape)
    return weights, taus


def soft_backward(
    scores: Floats, taus: Floats, temperatures: Floats, valid: Bools | None, link: str, grads: Floats
) -> tuple[Floats, Floats, Floats]:
    """The gradients with respect to scores (rows, n), k (rows,) and temperature (rows,)."""
    g_scores = np.empty(scores.shape, scores.dtype)
    g_ks, g_temperatures = np.zeros(len(scores)), np.zeros(len(scores))

    def piece(part: slice) -> None:
        own = None if valid is None else valid[part]
        g_ks[part], g_temperatures[part] = _backward(
            scores[part], taus[part], temperatures[part], own, link, grads[part], g_scores[part]
        )

    in_pieces(piece, *scores.shape)
    return g_scores, g_ks, g_temperatures


def _forward(
    s: Floats, k: Floats, t: Floats, valid: Bools | None, link: str, out: Floats, taus: Floats
) -> None:
    n, dtype = s.shape[1], s.dtype
    live: Bools | None = None
    left, count = k, np.full(len(s), float(n))
    if valid is not None or not _all_finite(s):
        live = np.isfinite(s)
        if valid is not None:
            live &= valid
        top = s == np.inf
        if valid is not None:
            top &= valid
        left = k - np.count_nonzero(top, axis=-1)  # what +inf takes is not there for the others
        count = np.count_nonzero(live, axis=-1).astype(np.float64)
    solve = (left > 0) & (left < count)
    left = np.where(solve, left, 0.5)
    x = s if live is None else np.where(live, s, -np.inf)
    pivot = np.where(solve[:, None], kth_largest(x, np.ceil(left).astype(np.int64)), 0).astype(dtype)
    far = _FAR[dtype]
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        u = (x - pivot) * (1 / t)[:, None].astype(dtype)
        np.clip(u, -far, far, out=u)
        if live is not None:
            u[~live] = -np.inf
        delta = _start(u, left, count, link) if live is None else np.zeros(len(s))
        smooth = link in ("sigmoid", "laplace")
        delta = _newton(_STEPS[link](u), smooth, delta, left, solve, far, out)
    taus[:, 0] = pivot[:, 0]
    taus[:, 1] = delta * t
    all_in = ~solve & (k >= count) if live is None else ~solve & (k - np.count_nonzero(top, axis=-1) >= count)
    if not solve.all():
        out[~solve] = 0
        out[all_in] = 1
        taus[~solve, 1] = 0
        taus[~solve, 0] = np.where(all_in, -np.inf, np.inf)[~solve]
    if live is None:
        return
    out[~live] = 0
    bottom = s == -np.inf
    if valid is not None:
        bottom &= valid
    # Infinite scores of one sign are tied: they share what is theirs.
    rest = np.maximum(k - np.count_nonzero(top, axis=-1), 0) - count
    for group, budget in ((top, k), (bottom, rest)):
        share = np.clip(budget / np.maximum(np.count_nonzero(group, axis=-1), 1), 0, 1)
        np.copyto(out, share[:, None].astype(dtype), where=group)
    nan = s != s
    if valid is not None:
        nan &= valid
    broken = nan.any(-1)
    out[broken] = np.nan
    if valid is not None:
        out[~valid] = 0
    taus[broken] = np.nan


def _all_finite(x: Floats) -> bool:
    """False may be wrong where the sum overflows; then the general code runs, which is right too."""
    with np.errstate(invalid="ignore", over="ignore"):
        return math.isfinite(np.add.reduce(x, axis=None))


def _start(u: Floats, k: Floats, count: Floats, link: str) -> Floats:
    """A first delta: 0 (the k-th largest) where scores lie far apart, else as if they were normal."""
    mean = np.vecdot(u, np.ones(u.shape[1], u.dtype)) / u.shape[1]
    spread = np.sqrt(np.maximum(np.vecdot(u, u) / u.shape[1] - mean**2, 0))
    share = np.clip(k / count, 1e-9, 1 - 1e-9)
    if link == "clip":
        near = mean - share
    elif link == "exp":
        near = mean + spread**2 / 2 - np.log(share)
    else:
        near = mean - np.sqrt(1 + math.pi / 8 * spread**2) * np.log(share / (1 - share))
    start: Floats = np.where(spread < 1.5, near, 0.0)
    return start


def _newton(
    step: Step, smooth: bool, delta: Floats, k: Floats, solve: Bools, far: float, out: Floats
) -> Floats:
    """Find the delta of each row, and leave its weights in ``out``."""
    ones = np.ones(out.shape[1], out.dtype)
    eps = 1e-7 if out.dtype == np.float32 else 1e-15
    low, high = np.full(len(k), -far), np.full(len(k), far)
    before = np.full(len(k), np.inf)
    k = np.where(solve, k, 0)
    for _ in range(_MAX_STEPS):
        slope = step(delta, out)
        excess = np.where(solve, _sum(out, ones) - k, 0)
        size = np.abs(excess)
        near = size <= 10 * eps * k
        if smooth:  # |f''| <= f', so that one step more leaves at most size^2 / (2 slope)
            near |= size * size <= 2 * eps * k * slope
        near |= high - low <= eps * np.maximum(np.abs(delta), 1)
        if near.all():
            break
        low, high = np.where(excess > 0, delta, low), np.where(excess < 0, delta, high)
        newton = delta + excess / slope
        # Outside or slow: halve the bracket.
        good = (newton > low) & (newton < high) & (size < before / 2)
        before = size
        delta = np.where(near, delta, np.where(good, newton, (low + high) / 2))
    excess = np.where(solve, np.add.reduce(out, axis=-1, dtype=np.float64) - k, 0)
    newton = delta + excess / slope
    last = np.where((newton > low) & (newton < high), newton, delta)
    step(last, out)
    worse = np.abs(_sum(out, ones) - k) > np.maximum(np.abs(excess), 10 * eps * k)
    if (worse & solve).any():  # over a kink of the link
        last = np.where(worse & solve, delta, last)
        step(last, out)
    return last


def _sum(x: Floats, times: Floats) -> Floats:
    """The sum of the products of each row; pairwise where the plain sum would lose digits."""
    if x.shape[1] <= 32768:
        plain: Floats = np.vecdot(x, times)
        return plain
    pairwise: Floats = np.add.reduce(x * times, axis=-1)
    return pairwise


def _count(mask: Bools) -> Floats:
    counted: Floats = np.add.reduce(mask.view(np.int8), axis=-1, dtype=np.int32).astype(np.float64)
    return counted


def _sigmoid(u: Floats) -> Step:
    e, ones = np.exp(-u), np.ones(u.shape[1], u.dtype)

    def step(delta: Floats, out: Floats) -> Floats:
        np.multiply(e, np.exp(delta)[:, None].astype(u.dtype), out=out)
        out += 1
        np.reciprocal(out, out=out)
        slope: Floats = np.vecdot(out, ones) - np.vecdot(out, out)
        return slope

    return step


def _laplace(u: Floats) -> Step:
    up, down = np.exp(u) / 2, np.exp(-u) / 2
    work, ones = np.empty_like(u), np.ones(u.shape[1], u.dtype)

    def step(delta: Floats, out: Floats) -> Floats:
        c = np.exp(delta)[:, None].astype(u.dtype)
        np.multiply(down, c, out=out)
        np.multiply(up, 1 / c, out=work)
        slope: Floats = np.vecdot(np.minimum(out, work), ones)
        # The weight is up below the threshold, 1 - down above it: min(up, 1/2) + 1/2 - min(down, 1/2).
        np.minimum(out, 0.5, out=out)
        np.subtract(0.5, out, out=out)
        np.minimum(work, 0.5, out=work)
        out += work
        return slope

    return step


def _clip(u: Floats) -> Step:
    def step(delta: Floats, out: Floats) -> Floats:
        np.subtract(u, delta[:, None].astype(u.dtype), out=out)
        inside = _count((out > 0) & (out < 1))
        np.clip(out, 0, 1, out=out)
        return inside

    return step


def _exp(u: Floats) -> Step:
    up, ones = np.exp(u), np.ones(u.shape[1], u.dtype)

    def step(delta: Floats, out: Floats) -> Floats:
        np.multiply(up, np.exp(-delta)[:, None].astype(u.dtype), out=out)
        np.minimum(out, 1, out=out)
        slope: Floats = np.vecdot(out, ones) - _count(out >= 1)
        return slope

    return step


_STEPS: dict[str, Callable[[Floats], Step]] = {
    "sigmoid": _sigmoid,
    "laplace": _laplace,
    "clip": _clip,
    "exp": _exp,
}


def _backward(
    s: Floats, taus: Floats, t: Floats, valid: Bools | None, link: str, g: Floats, out: Floats
) -> tuple[Floats, Floats]:
    """d = f'(z) and what follows from it; writes the gradient of the scores."""
    dtype = s.dtype
    still = ~np.isfinite(taus[:, 0])
    inner = t[:, None].astype(dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        z = s - np.where(still, 0, taus[:, 0])[:, None]
        z -= np.where(still, 0, taus[:, 1])[:, None]
        z /= inner
        dead: Bools | None = None
        if valid is not None or still.any() or not _all_finite(z):
            dead = ~np.isfinite(z) | still[:, None]
            if valid is not None:
                dead |= ~valid
            z[dead] = 0
        d = _slope(z, link)
    if dead is not None:
        d[dead] = 0
    total = d.sum(-1, dtype=np.float64)
    # Where nothing moves (the slopes sum to 0) the gradient is 0.
    gbar = _sum(d, g) / np.where(total == 0, 1, total)
    np.subtract(g, gbar[:, None].astype(dtype), out=out)
    out *= d
    out /= inner
    return gbar, -np.vecdot(z, out)


def _slope(z: Floats, link: str) -> NDArray[np.floating]:
    if link == "clip":
        return ((z > 0) & (z < 1)).astype(z.dtype)
    d = np.abs(z)
    np.negative(d, out=d)
    np.exp(d, out=d)
    if link == "sigmoid":  # e / (1 + e)^2, which keeps its digits at both ends
        under = d + 1
        under *= under
        d /= under
    elif link == "laplace":
        d *= 0.5
    else:
        d[z >= 0] = 0
    return d
