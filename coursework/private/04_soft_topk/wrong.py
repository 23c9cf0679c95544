"""Known answers to *Soft top-k*: wrong ones, and right ones in another style."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
from scipy.optimize import brentq
from torch import Tensor

from topk_lib import soft_topk, soft_topk_threshold, topk_mask
from topk_lib.grading import right, wrong

Parts = tuple[Tensor, ...]
Judged = dict[str, Any]
Read = Callable[[Tensor, Tensor], Tensor]


def _f(z: Tensor, link: str) -> Tensor:
    return torch.sigmoid(z) if link == "sigmoid" else 0.5 + torch.atan(z) / math.pi


def _slope(z: Tensor, link: str) -> Tensor:
    return torch.sigmoid(z) * torch.sigmoid(-z) if link == "sigmoid" else 1 / (math.pi * (1 + z * z))


def _halved(
    s: Tensor,
    k: float,
    temperature: float,
    link: str,
    valid: Tensor | None = None,
    room: float = 1e6,
    steps: int = 150,
) -> Tensor:
    """The threshold of each row by halving, from ``room`` temperatures around the scores."""
    valid = torch.ones_like(s).bool() if valid is None else valid
    count = valid.sum(-1)
    clean = s.masked_fill(~valid, 0)
    low = s.masked_fill(~valid, math.inf).amin(-1).where(count > 0, 0) - room * temperature
    high = s.masked_fill(~valid, -math.inf).amax(-1).where(count > 0, 0) + room * temperature
    for _ in range(steps):
        tau = (low + high) / 2
        above = _f((clean - tau[:, None]) / temperature, link).masked_fill(~valid, 0).sum(-1) > k
        low, high = tau.where(above, low), high.where(above, tau)
    tau = tau.where(count > k, -math.inf)
    return tau if k > 0 else torch.full_like(tau, math.inf)


# 1 threshold


@right("threshold", "row by row with SciPy's root finder, on plain numbers")
def threshold_by_roots(
    scores: Tensor, k: float, temperature: float, link: str = "sigmoid", valid: Tensor | None = None
) -> Tensor:
    rows = scores.double().tolist()
    flags = [[True] * len(row) for row in rows] if valid is None else valid.tolist()
    found = []
    for row, ok in zip(rows, flags, strict=True):
        s = [x for x, v in zip(row, ok, strict=True) if v]
        if k <= 0 or k >= len(s):
            found.append(math.inf if k <= 0 else -math.inf)
            continue

        def excess(tau: float, s: list[float] = s) -> float:
            z = [(x - tau) / temperature for x in s]
            if link == "cauchy":
                return sum(0.5 + math.atan(x) / math.pi for x in z) - k
            return sum(1 / (1 + math.exp(-x)) if x > -700 else 0.0 for x in z) - k

        room = 1e4 * temperature
        found.append(brentq(excess, min(s) - room, max(s) + room, xtol=1e-14, rtol=1e-15, maxiter=500))
    return torch.tensor(found, dtype=torch.float64)


@right("threshold", "a bracket that doubles until it holds the root, and 200 halvings")
def threshold_doubling(
    scores: Tensor, k: float, temperature: float, link: str = "sigmoid", valid: Tensor | None = None
) -> Tensor:
    ok = torch.ones_like(scores).bool() if valid is None else valid
    tau = torch.full((len(scores),), math.inf if k <= 0 else -math.inf, dtype=torch.float64)
    rows = (ok.sum(-1) > k) & (k > 0)
    if not rows.any():
        return tau
    ok = ok[rows]
    s = scores[rows].double().masked_fill(~ok, 0)

    def total(t: Tensor) -> Tensor:
        return (_f((s - t[:, None]) / temperature, link) * ok).sum(-1)

    middle, room = s.amin(-1), torch.full((int(rows.sum()),), float(temperature)).double()
    while (total(middle - room) < k).any() or (total(middle + room) > k).any():
        room = room * 2
    low, high = middle - room, middle + room
    for _ in range(200):
        half = (low + high) / 2
        above = total(half) > k
        low, high = torch.where(above, half, low), torch.where(above, high, half)
    tau[rows] = low
    return tau


@wrong("threshold", "50 temperatures of room: enough for the sigmoid only (the exercise's solution)")
def threshold_narrow(
    scores: Tensor, k: float, temperature: float, link: str = "sigmoid", valid: Tensor | None = None
) -> Tensor:
    return _halved(scores.double(), k, temperature, link, valid, room=50)


@wrong("threshold", "no room: the threshold is looked for among the scores")
def threshold_no_room(
    scores: Tensor, k: float, temperature: float, link: str = "sigmoid", valid: Tensor | None = None
) -> Tensor:
    return _halved(scores.double(), k, temperature, link, valid, room=0)


@wrong("threshold", "the temperature is forgotten")
def threshold_one_temperature(
    scores: Tensor, k: float, temperature: float, link: str = "sigmoid", valid: Tensor | None = None
) -> Tensor:
    return _halved(scores.double(), k, 1.0, link, valid)


@wrong("threshold", "twenty halvings are too few")
def threshold_few_steps(
    scores: Tensor, k: float, temperature: float, link: str = "sigmoid", valid: Tensor | None = None
) -> Tensor:
    return _halved(scores.double(), k, temperature, link, valid, room=1000, steps=20)


@wrong("threshold", "solved in the precision of the scores")
def threshold_in_float32(
    scores: Tensor, k: float, temperature: float, link: str = "sigmoid", valid: Tensor | None = None
) -> Tensor:
    return _halved(scores, k, temperature, link, valid, room=1e4).double()


@wrong("threshold", "padding is ignored")
def threshold_without_valid(
    scores: Tensor, k: float, temperature: float, link: str = "sigmoid", valid: Tensor | None = None
) -> Tensor:
    return _halved(scores.double(), k, temperature, link)


@wrong("threshold", "padding becomes a score of 0, and takes its share of k")
def threshold_padding_as_zero(
    scores: Tensor, k: float, temperature: float, link: str = "sigmoid", valid: Tensor | None = None
) -> Tensor:
    s = scores.double() if valid is None else scores.double().masked_fill(~valid, 0)
    return _halved(s, k, temperature, link)


@wrong("threshold", "padding is multiplied by 0, and NaN times 0 is NaN")
def threshold_padding_times_zero(
    scores: Tensor, k: float, temperature: float, link: str = "sigmoid", valid: Tensor | None = None
) -> Tensor:
    ok = torch.ones_like(scores) if valid is None else valid.double()
    s = scores.double()
    low, high = s.amin(-1) - 1e6 * temperature, s.amax(-1) + 1e6 * temperature
    for _ in range(150):
        tau = (low + high) / 2
        above = (_f((s - tau[:, None]) / temperature, link) * ok).sum(-1) > k
        low, high = torch.where(above, tau, low), torch.where(above, high, tau)
    tau = tau.where(ok.sum(-1) > k, -math.inf)
    return tau if k > 0 else torch.full_like(tau, math.inf)


@wrong("threshold", "k = 0 and rows that k exhausts get a finite threshold")
def threshold_always_finite(
    scores: Tensor, k: float, temperature: float, link: str = "sigmoid", valid: Tensor | None = None
) -> Tensor:
    return _halved(scores.double(), k, temperature, link, valid).clamp(-1e9, 1e9)


@wrong("threshold", "the infinities are exchanged")
def threshold_turned_ends(
    scores: Tensor, k: float, temperature: float, link: str = "sigmoid", valid: Tensor | None = None
) -> Tensor:
    tau = _halved(scores.double(), k, temperature, link, valid)
    return torch.where(tau.isinf(), -tau, tau)


@wrong("threshold", "a row that has fewer valid entries than k is solved as if k were the full length")
def threshold_rows_alike(
    scores: Tensor, k: float, temperature: float, link: str = "sigmoid", valid: Tensor | None = None
) -> Tensor:
    tau = _halved(scores.double(), min(k, scores.shape[1] - 1e-9), temperature, link, valid)
    return tau.where(tau > -math.inf, scores.double().nan_to_num(0, 0, 0).amin(-1))


@wrong("threshold", "half-way between the k-th score and the next: right only for the hard choice")
def threshold_of_the_mask(
    scores: Tensor, k: float, temperature: float, link: str = "sigmoid", valid: Tensor | None = None
) -> Tensor:
    ok = torch.ones_like(scores).bool() if valid is None else valid
    ranked = scores.double().masked_fill(~ok, -math.inf).sort(-1, descending=True).values
    at = max(1, min(int(k), scores.shape[1] - 1))
    tau = (ranked[:, at - 1] + ranked[:, at]) / 2
    tau = tau.where(ok.sum(-1) > k, -math.inf)
    return tau if k > 0 else torch.full_like(tau, math.inf)


@wrong("threshold", "the library's sigmoid for both links")
def threshold_of_the_library(
    scores: Tensor, k: float, temperature: float, link: str = "sigmoid", valid: Tensor | None = None
) -> Tensor:
    return soft_topk_threshold(scores.double(), k, temperature, valid=valid)


@wrong("threshold", "one row after the other, sixty steps each")
def threshold_row_by_row(
    scores: Tensor, k: float, temperature: float, link: str = "sigmoid", valid: Tensor | None = None
) -> Tensor:
    found = []
    for i in range(len(scores)):
        ok = None if valid is None else valid[i : i + 1]
        found.append(_halved(scores[i : i + 1].double(), k, temperature, link, ok, room=1e4, steps=60))
    return torch.cat(found)


# 2 gradient


def _parts(
    scores: Tensor, tau: Tensor, temperature: float, upstream: Tensor, link: str, valid: Tensor | None
) -> Parts:
    """z, slopes and pulls, 0 where nothing moves."""
    live = tau.isfinite()[:, None].expand_as(scores)
    live = live if valid is None else live & valid
    z = ((scores.double() - tau.double()[:, None]) / temperature).masked_fill(~live, 0)
    return z, _slope(z, link).masked_fill(~live, 0), upstream.double().masked_fill(~live, 0)


def _told(d: Tensor, z: Tensor, g: Tensor, mean: Tensor, temperature: float, dtype: torch.dtype) -> Parts:
    """The three parts for a given mean pull."""
    by_score = d / temperature * (g - mean)
    return by_score.to(dtype), mean.squeeze(-1).to(dtype), -(z * by_score).sum(-1).to(dtype)


def _mean(d: Tensor, g: Tensor) -> Tensor:
    total = d.sum(-1, keepdim=True)
    return (d * g).sum(-1, keepdim=True) / total.masked_fill(total == 0, 1)


@right("gradient", "one row at a time, over the entries that count")
def gradient_of_rows(
    scores: Tensor,
    tau: Tensor,
    temperature: float,
    upstream: Tensor,
    link: str = "sigmoid",
    valid: Tensor | None = None,
) -> Parts:
    by_s, by_k = torch.zeros_like(scores), torch.zeros_like(scores[:, 0])
    by_t = torch.zeros_like(by_k)
    for i, t in enumerate(tau.tolist()):
        at = torch.arange(scores.shape[1]) if valid is None else valid[i].nonzero()[:, 0]
        if math.isinf(t) or not len(at):
            continue
        z = (scores[i, at].double() - t) / temperature
        g = upstream[i, at].double()
        d = (
            torch.exp(-z.abs()) / (1 + torch.exp(-z.abs())) ** 2
            if link == "sigmoid"
            else 1 / math.pi / (1 + z**2)
        )
        if d.sum() == 0:
            continue
        p = d / d.sum()
        row = (d * g - d * (p @ g)) / temperature
        by_s[i, at], by_k[i], by_t[i] = row.to(scores.dtype), p @ g, -(row @ z)
    return by_s, by_k, by_t


@wrong("gradient", "the plain mean of the pulls")
def gradient_plain_mean(
    scores: Tensor,
    tau: Tensor,
    temperature: float,
    upstream: Tensor,
    link: str = "sigmoid",
    valid: Tensor | None = None,
) -> Parts:
    z, d, g = _parts(scores, tau, temperature, upstream, link, valid)
    return _told(d, z, g, g.mean(-1, keepdim=True), temperature, scores.dtype)


@wrong("gradient", "the threshold is taken for a constant")
def gradient_constant_tau(
    scores: Tensor,
    tau: Tensor,
    temperature: float,
    upstream: Tensor,
    link: str = "sigmoid",
    valid: Tensor | None = None,
) -> Parts:
    z, d, g = _parts(scores, tau, temperature, upstream, link, valid)
    by_score, _, by_t = _told(d, z, g, 0 * _mean(d, g), temperature, scores.dtype)
    return by_score, _mean(d, g).squeeze(-1).to(scores.dtype), by_t


@wrong("gradient", "w (1 - w) as the slope, which loses its digits near 1")
def gradient_of_weights(
    scores: Tensor,
    tau: Tensor,
    temperature: float,
    upstream: Tensor,
    link: str = "sigmoid",
    valid: Tensor | None = None,
) -> Parts:
    z, d, g = _parts(scores, tau, temperature, upstream, link, valid)
    w = torch.sigmoid(z)
    d = (w * (1 - w)).masked_fill(d == 0, 0) if link == "sigmoid" else d
    return _told(d, z, g, _mean(d, g), temperature, scores.dtype)


@wrong("gradient", "not divided by the temperature")
def gradient_undivided(
    scores: Tensor,
    tau: Tensor,
    temperature: float,
    upstream: Tensor,
    link: str = "sigmoid",
    valid: Tensor | None = None,
) -> Parts:
    z, d, g = _parts(scores, tau, temperature, upstream, link, valid)
    return _told(d, z, g, _mean(d, g), 1.0, scores.dtype)


@wrong("gradient", "the sign of the temperature's gradient")
def gradient_turned_temperature(
    scores: Tensor,
    tau: Tensor,
    temperature: float,
    upstream: Tensor,
    link: str = "sigmoid",
    valid: Tensor | None = None,
) -> Parts:
    z, d, g = _parts(scores, tau, temperature, upstream, link, valid)
    by_score, by_k, by_t = _told(d, z, g, _mean(d, g), temperature, scores.dtype)
    return by_score, by_k, -by_t


@wrong("gradient", "the temperature's gradient forgets that tau moves")
def gradient_still_tau(
    scores: Tensor,
    tau: Tensor,
    temperature: float,
    upstream: Tensor,
    link: str = "sigmoid",
    valid: Tensor | None = None,
) -> Parts:
    z, d, g = _parts(scores, tau, temperature, upstream, link, valid)
    by_score, by_k, _ = _told(d, z, g, _mean(d, g), temperature, scores.dtype)
    return by_score, by_k, (-(d * g * z).sum(-1) / temperature).to(scores.dtype)


@wrong("gradient", "the slope of the sigmoid for both links")
def gradient_sigmoid_always(
    scores: Tensor,
    tau: Tensor,
    temperature: float,
    upstream: Tensor,
    link: str = "sigmoid",
    valid: Tensor | None = None,
) -> Parts:
    z, d, g = _parts(scores, tau, temperature, upstream, "sigmoid", valid)
    return _told(d, z, g, _mean(d, g), temperature, scores.dtype)


@wrong("gradient", "the slope of arctan without its 1 / pi")
def gradient_without_pi(
    scores: Tensor,
    tau: Tensor,
    temperature: float,
    upstream: Tensor,
    link: str = "sigmoid",
    valid: Tensor | None = None,
) -> Parts:
    z, d, g = _parts(scores, tau, temperature, upstream, link, valid)
    d = d * math.pi if link == "cauchy" else d
    return _told(d, z, g, _mean(d, g), temperature, scores.dtype)


@wrong("gradient", "0 / 0 where nothing moves")
def gradient_of_nothing(
    scores: Tensor,
    tau: Tensor,
    temperature: float,
    upstream: Tensor,
    link: str = "sigmoid",
    valid: Tensor | None = None,
) -> Parts:
    z, d, g = _parts(scores, tau, temperature, upstream, link, valid)
    return _told(d, z, g, (d * g).sum(-1, keepdim=True) / d.sum(-1, keepdim=True), temperature, scores.dtype)


@wrong("gradient", "padding is multiplied by 0, and NaN times 0 is NaN")
def gradient_times_valid(
    scores: Tensor,
    tau: Tensor,
    temperature: float,
    upstream: Tensor,
    link: str = "sigmoid",
    valid: Tensor | None = None,
) -> Parts:
    ok = torch.ones_like(scores) if valid is None else valid.double()
    z, d, _ = _parts(scores, tau, temperature, upstream, link, valid)
    g = upstream.double() * ok
    return _told(d, z, g, _mean(d, g), temperature, scores.dtype)


@wrong("gradient", "padding keeps its slope")
def gradient_without_valid(
    scores: Tensor,
    tau: Tensor,
    temperature: float,
    upstream: Tensor,
    link: str = "sigmoid",
    valid: Tensor | None = None,
) -> Parts:
    z, d, g = _parts(scores.nan_to_num(0, 0, 0), tau, temperature, upstream.nan_to_num(0, 0, 0), link, None)
    return _told(d, z, g, _mean(d, g), temperature, scores.dtype)


@wrong("gradient", "a table of n by n")
def gradient_by_table(
    scores: Tensor,
    tau: Tensor,
    temperature: float,
    upstream: Tensor,
    link: str = "sigmoid",
    valid: Tensor | None = None,
) -> Parts:
    z, d, g = _parts(scores, tau, temperature, upstream, link, valid)
    total = d.sum(-1, keepdim=True)
    share = d / total.masked_fill(total == 0, 1)
    table = (torch.diag_embed(d) - d[:, :, None] * share[:, None, :]) / temperature
    by_score = (table * g[:, :, None]).sum(1)
    rest = _mean(d, g).squeeze(-1), -(z * by_score).sum(-1)
    return tuple(part.to(scores.dtype) for part in (by_score, *rest))


@wrong("gradient", "float64 for float32 scores")
def gradient_in_float64(
    scores: Tensor,
    tau: Tensor,
    temperature: float,
    upstream: Tensor,
    link: str = "sigmoid",
    valid: Tensor | None = None,
) -> Parts:
    z, d, g = _parts(scores, tau, temperature, upstream, link, valid)
    return _told(d, z, g, _mean(d, g), temperature, torch.float64)


# 3 straight_through


def _moving(noisy: Tensor, k: int, temperature: float, link: str) -> Tensor:
    """Soft weights whose threshold has its slope."""
    s = noisy.detach().double()
    tau = _halved(s, k, temperature, link)
    if tau.isinf().any():
        return noisy * 0
    d = _slope((s - tau[:, None]) / temperature, link)
    share = d / d.sum(-1, keepdim=True)
    wide = noisy.double()
    moved = tau[:, None] + (share * (wide - s)).sum(-1, keepdim=True)
    return _f((wide - moved) / temperature, link).to(noisy.dtype)


def _before(hard: Tensor, soft: Tensor) -> Tensor:
    return hard.to(soft.dtype) + (soft - soft.detach())


@right("straight_through", "the threshold gets its slope, and autograd does the rest")
def straight_through_tau(
    scores: Tensor, k: int, temperature: float, link: str = "sigmoid", noise: Tensor | None = None
) -> Tensor:
    noisy = scores if noise is None else scores + noise
    return _before(topk_mask(noisy.detach(), k), _moving(noisy, k, temperature, link))


@wrong("straight_through", "the library's operator, whatever the link")
def straight_through_library(
    scores: Tensor, k: int, temperature: float, link: str = "sigmoid", noise: Tensor | None = None
) -> Tensor:
    noisy = scores if noise is None else scores + noise
    return soft_topk(noisy, k, temperature, hard=True)


@wrong("straight_through", "soft weights forward")
def straight_through_soft(
    scores: Tensor, k: int, temperature: float, link: str = "sigmoid", noise: Tensor | None = None
) -> Tensor:
    return _moving(scores if noise is None else scores + noise, k, temperature, link)


@wrong("straight_through", "everything is detached")
def straight_through_detached(
    scores: Tensor, k: int, temperature: float, link: str = "sigmoid", noise: Tensor | None = None
) -> Tensor:
    noisy = scores if noise is None else scores + noise
    return topk_mask(noisy.detach(), k).to(scores.dtype)


@wrong("straight_through", "the gradient has the other sign")
def straight_through_turned(
    scores: Tensor, k: int, temperature: float, link: str = "sigmoid", noise: Tensor | None = None
) -> Tensor:
    noisy = scores if noise is None else scores + noise
    soft = _moving(noisy, k, temperature, link)
    return topk_mask(noisy.detach(), k).to(scores.dtype) + (soft.detach() - soft)


@wrong("straight_through", "what comes back is handed on as it is (the identity, as for binary units)")
def straight_through_identity(
    scores: Tensor, k: int, temperature: float, link: str = "sigmoid", noise: Tensor | None = None
) -> Tensor:
    noisy = scores if noise is None else scores + noise
    return _before(topk_mask(noisy.detach(), k), noisy)


@wrong("straight_through", "the noise moves the mask only")
def straight_through_noise_before(
    scores: Tensor, k: int, temperature: float, link: str = "sigmoid", noise: Tensor | None = None
) -> Tensor:
    noisy = scores if noise is None else scores + noise
    return _before(topk_mask(noisy.detach(), k), _moving(scores, k, temperature, link))


@wrong("straight_through", "the noise moves the soft weights only")
def straight_through_noise_behind(
    scores: Tensor, k: int, temperature: float, link: str = "sigmoid", noise: Tensor | None = None
) -> Tensor:
    noisy = scores if noise is None else scores + noise
    return _before(topk_mask(scores.detach(), k), _moving(noisy, k, temperature, link))


@wrong("straight_through", "all that reach the k-th score are chosen, so ties keep too many")
def straight_through_ties(
    scores: Tensor, k: int, temperature: float, link: str = "sigmoid", noise: Tensor | None = None
) -> Tensor:
    noisy = scores if noise is None else scores + noise
    if k == 0:
        return _before(torch.zeros_like(noisy), _moving(noisy, k, temperature, link))
    edge = noisy.detach().topk(k).values[:, -1:]
    return _before(noisy.detach() >= edge, _moving(noisy, k, temperature, link))


@wrong("straight_through", "the threshold is a constant behind")
def straight_through_constant_tau(
    scores: Tensor, k: int, temperature: float, link: str = "sigmoid", noise: Tensor | None = None
) -> Tensor:
    noisy = scores if noise is None else scores + noise
    tau = _halved(noisy.detach().double(), k, temperature, link)[:, None].to(noisy.dtype)
    soft = noisy * 0 if tau.isinf().any() else _f((noisy - tau) / temperature, link)
    return _before(topk_mask(noisy.detach(), k), soft)


@wrong("straight_through", "k times softmax behind")
def straight_through_softmax(
    scores: Tensor, k: int, temperature: float, link: str = "sigmoid", noise: Tensor | None = None
) -> Tensor:
    noisy = scores if noise is None else scores + noise
    return _before(topk_mask(noisy.detach(), k), k * (noisy / temperature).softmax(-1))


@wrong("straight_through", "the mask times the soft weights: only what is kept learns")
def straight_through_product(
    scores: Tensor, k: int, temperature: float, link: str = "sigmoid", noise: Tensor | None = None
) -> Tensor:
    noisy = scores if noise is None else scores + noise
    mask = topk_mask(noisy.detach(), k)
    return _before(mask, mask * _moving(noisy, k, temperature, link))


@wrong("straight_through", "the temperature is forgotten")
def straight_through_one_temperature(
    scores: Tensor, k: int, temperature: float, link: str = "sigmoid", noise: Tensor | None = None
) -> Tensor:
    noisy = scores if noise is None else scores + noise
    return _before(topk_mask(noisy.detach(), k), _moving(noisy, k, 1.0, link))


# 4 bias


def _listed(
    scores: Tensor, k: int, A: Tensor, b: Tensor, probability: Callable[[Tensor, tuple[int, ...]], Any]
) -> Tensor:
    """The gradient of the expected loss for a given probability of an ordered draw."""
    x = scores.detach().clone().requires_grad_()
    whole: Any = 0.0
    for order in itertools.permutations(range(len(x)), k):
        m = torch.zeros(len(x)).double()
        m[list(order)] = 1.0
        whole = whole + probability(x, order) * (torch.tanh(m @ A) @ b)
    (found,) = torch.autograd.grad(whole, x)
    return torch.as_tensor(found)


def _drawn(x: Tensor, order: tuple[int, ...]) -> Tensor:
    log_p, left = torch.zeros(()).double(), list(range(len(x)))
    for i in order:
        log_p = log_p + x[i] - x[left].logsumexp(0)
        left.remove(i)
    return log_p.exp()


def _estimates(
    scores: Tensor, k: int, temperature: float, A: Tensor, b: Tensor, noise: Tensor, c: float
) -> Tensor:
    x = scores.detach().expand_as(noise).clone().requires_grad_()
    m = soft_topk(x + noise, k, temperature, hard=True)
    loss = torch.tanh(m @ A) @ b + c * (m * m - m).sum(-1)
    return torch.autograd.grad(loss.sum(), x)[0]


def _judged(each: Tensor, exact: Tensor) -> Judged:
    mean, size = each.mean(0), exact.norm()
    spread = (each - mean).square().sum(-1).mean().sqrt()
    return {"mean": mean, "bias": float((mean - exact).norm() / size), "noise": float(spread / size)}


@right("bias", "one draw after the other, in the order in which they may come", name="exact_gradient")
def exact_one_by_one(scores: Tensor, k: int, A: Tensor, b: Tensor) -> Tensor:
    return _listed(scores, k, A, b, _drawn)


@right("bias", "the gradient of a log probability times it, without autograd", name="exact_gradient")
def exact_by_hand(scores: Tensor, k: int, A: Tensor, b: Tensor) -> Tensor:
    n, found = len(scores), torch.zeros(len(scores)).double()
    for order in itertools.permutations(range(n), k):
        log_p, slope, left = torch.zeros(()).double(), torch.zeros(n).double(), list(range(n))
        for i in order:
            share = scores[left].softmax(0)
            log_p = log_p + share[left.index(i)].log()
            slope[i] += 1
            slope[left] -= share
            left.remove(i)
        if log_p > -700:
            found += log_p.exp() * slope * (torch.tanh(A[list(order)].sum(0)) @ b)
    return found


@right("bias", "the pulls by hand, the closed form behind")
def bias_by_hand(
    scores: Tensor,
    k: int,
    temperature: float,
    A: Tensor,
    b: Tensor,
    noise: Tensor,
    exact: Tensor,
    c: float = 0.0,
) -> Judged:
    noisy = scores + noise
    m = topk_mask(noisy, k).double()
    g = ((1 - torch.tanh(m @ A).square()) * b) @ A.T + c * (2 * m - 1)
    d = _slope((noisy - _halved(noisy, k, temperature, "sigmoid")[:, None]) / temperature, "sigmoid")
    each = d / temperature * (g - (d * g).sum(-1, keepdim=True) / d.sum(-1, keepdim=True))
    return _judged(each, exact)


@wrong("bias", "draws with putting back", name="exact_gradient")
def exact_put_back(scores: Tensor, k: int, A: Tensor, b: Tensor) -> Tensor:
    return _listed(scores, k, A, b, lambda x, order: x.softmax(0)[list(order)].prod())


@wrong("bias", "divides by 1 - p: 0 / 0 where one token is sure", name="exact_gradient")
def exact_one_less(scores: Tensor, k: int, A: Tensor, b: Tensor) -> Tensor:
    def probability(x: Tensor, order: tuple[int, ...]) -> Any:
        p, result, gone = x.softmax(0), torch.ones(()), torch.zeros(())
        for i in order:
            result = result * p[i] / (1 - gone)
            gone = gone + p[i]
        return result

    return _listed(scores, k, A, b, probability)


@wrong("bias", "exponentials of the scores as they are, which overflow", name="exact_gradient")
def exact_overflows(scores: Tensor, k: int, A: Tensor, b: Tensor) -> Tensor:
    def probability(x: Tensor, order: tuple[int, ...]) -> Any:
        result, left = torch.ones(()).double(), list(range(len(x)))
        for i in order:
            result = result * x[i].exp() / x[left].exp().sum()
            left.remove(i)
        return result

    return _listed(scores, k, A, b, probability)


@wrong("bias", "each set in one order only", name="exact_gradient")
def exact_one_order(scores: Tensor, k: int, A: Tensor, b: Tensor) -> Tensor:
    def probability(x: Tensor, order: tuple[int, ...]) -> Any:
        return _drawn(x, order) * (list(order) == sorted(order))

    return _listed(scores, k, A, b, probability)


@wrong("bias", "sets are weighted by the product of their exponentials", name="exact_gradient")
def exact_of_sets(scores: Tensor, k: int, A: Tensor, b: Tensor) -> Tensor:
    sets = torch.tensor(list(itertools.combinations(range(len(scores)), k)))
    x = scores.detach().clone().requires_grad_()
    p = x[sets].sum(-1).softmax(0)
    loss = torch.tanh(A[sets].sum(1)) @ b
    return torch.autograd.grad((p * loss).sum(), x)[0]


@wrong("bias", "the formula of the chapter, for two draws", name="exact_gradient")
def exact_of_two(scores: Tensor, k: int, A: Tensor, b: Tensor) -> Tensor:
    def probability(x: Tensor, order: tuple[int, ...]) -> Any:
        p = x.softmax(0)
        return p[order[0]] if k == 1 else p[order[0]] * p[order[1]] / (1 - p[order[0]])

    return _listed(scores, k, A, b, probability) / math.factorial(max(k, 2) - 2)


@wrong("bias", "the gradient of the loss at the soft weights", name="exact_gradient")
def exact_is_soft(scores: Tensor, k: int, A: Tensor, b: Tensor) -> Tensor:
    x = scores.detach().clone().requires_grad_()
    return torch.autograd.grad(torch.tanh(soft_topk(x, k) @ A) @ b, x)[0]


@wrong("bias", "a mean over drawn masks, which scatters", name="exact_gradient")
def exact_by_chance(scores: Tensor, k: int, A: Tensor, b: Tensor) -> Tensor:
    dice = torch.Generator().manual_seed(0)
    x = scores.detach().expand(2000, len(scores)).clone().requires_grad_()
    u = -torch.empty_like(x).exponential_(generator=dice).log()
    order = (x.detach() + u).topk(k).indices
    taken, log_p = torch.zeros_like(x).bool(), torch.zeros(len(x)).double()
    for drawn in order.T:
        left = x.masked_fill(taken, -math.inf).logsumexp(-1)
        log_p = log_p + x.gather(1, drawn[:, None])[:, 0] - left
        taken = taken.scatter(1, drawn[:, None], True)
    loss = torch.tanh(taken.double() @ A) @ b
    return torch.autograd.grad((log_p * loss).sum(), x)[0].mean(0)


@wrong("bias", "soft weights forward as well")
def bias_of_soft(
    scores: Tensor,
    k: int,
    temperature: float,
    A: Tensor,
    b: Tensor,
    noise: Tensor,
    exact: Tensor,
    c: float = 0.0,
) -> Judged:
    x = scores.detach().expand_as(noise).clone().requires_grad_()
    m = soft_topk(x + noise, k, temperature)
    loss = torch.tanh(m @ A) @ b + c * (m * m - m).sum(-1)
    return _judged(torch.autograd.grad(loss.sum(), x)[0], exact)


@wrong("bias", "the noise is left out")
def bias_without_noise(
    scores: Tensor,
    k: int,
    temperature: float,
    A: Tensor,
    b: Tensor,
    noise: Tensor,
    exact: Tensor,
    c: float = 0.0,
) -> Judged:
    return _judged(_estimates(scores, k, temperature, A, b, 0 * noise, c), exact)


@wrong("bias", "the noise is multiplied by the temperature")
def bias_hot_noise(
    scores: Tensor,
    k: int,
    temperature: float,
    A: Tensor,
    b: Tensor,
    noise: Tensor,
    exact: Tensor,
    c: float = 0.0,
) -> Judged:
    return _judged(_estimates(scores, k, temperature, A, b, temperature * noise, c), exact)


@wrong("bias", "the term with c is left out, since no mask sees it")
def bias_without_c(
    scores: Tensor,
    k: int,
    temperature: float,
    A: Tensor,
    b: Tensor,
    noise: Tensor,
    exact: Tensor,
    c: float = 0.0,
) -> Judged:
    return _judged(_estimates(scores, k, temperature, A, b, noise, 0.0), exact)


@wrong("bias", "not as multiples of the true gradient")
def bias_absolute(
    scores: Tensor,
    k: int,
    temperature: float,
    A: Tensor,
    b: Tensor,
    noise: Tensor,
    exact: Tensor,
    c: float = 0.0,
) -> Judged:
    size = float(exact.norm())
    got = _judged(_estimates(scores, k, temperature, A, b, noise, c), exact)
    return {**got, "bias": got["bias"] * size, "noise": got["noise"] * size}


@wrong("bias", "the mean distance from the truth, which mixes bias and noise")
def bias_mixed(
    scores: Tensor,
    k: int,
    temperature: float,
    A: Tensor,
    b: Tensor,
    noise: Tensor,
    exact: Tensor,
    c: float = 0.0,
) -> Judged:
    each = _estimates(scores, k, temperature, A, b, noise, c)
    got = _judged(each, exact)
    return {**got, "bias": float((each - exact).norm(dim=-1).mean() / exact.norm())}


@wrong("bias", "the square of the spread, without the root")
def bias_without_root(
    scores: Tensor,
    k: int,
    temperature: float,
    A: Tensor,
    b: Tensor,
    noise: Tensor,
    exact: Tensor,
    c: float = 0.0,
) -> Judged:
    each = _estimates(scores, k, temperature, A, b, noise, c)
    spread = (each - each.mean(0)).square().sum(-1).mean()
    return {**_judged(each, exact), "noise": float(spread / exact.norm())}


@wrong("bias", "the standard deviation of each number, averaged over the scores")
def bias_by_numbers(
    scores: Tensor,
    k: int,
    temperature: float,
    A: Tensor,
    b: Tensor,
    noise: Tensor,
    exact: Tensor,
    c: float = 0.0,
) -> Judged:
    each = _estimates(scores, k, temperature, A, b, noise, c)
    return {**_judged(each, exact), "noise": float(each.std(0, unbiased=False).mean() / exact.norm())}


@wrong("bias", "the sum over the draws in place of the mean")
def bias_of_the_sum(
    scores: Tensor,
    k: int,
    temperature: float,
    A: Tensor,
    b: Tensor,
    noise: Tensor,
    exact: Tensor,
    c: float = 0.0,
) -> Judged:
    each = _estimates(scores, k, temperature, A, b, noise, c)
    return {**_judged(each, exact), "mean": each.sum(0) if len(each) > 1 else 2 * each[0]}


# 5 learn_gate


def _trained(
    tokens: Tensor,
    read: Read,
    k: int,
    types: int,
    seed: int,
    steps: int = 100,
    batch: int = 32,
    sign: float = 1.0,
    dice: torch.Generator | None = None,
    pulled: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """The loop of the chapter, with a place for a fault or two."""
    dice = dice or torch.Generator().manual_seed(seed)
    gate = torch.zeros(types, requires_grad=True)
    optimiser = torch.optim.Adam([gate], lr=0.1)
    for step in range(steps):
        temperature = 0.1 ** (step / steps)
        rows = torch.randint(len(tokens), (batch,), generator=dice)
        scores = gate[tokens[rows]]
        noisy = scores - temperature * torch.empty(scores.shape).exponential_(generator=dice).log()
        mask = soft_topk(noisy, k, temperature, hard=True)
        positions = topk_mask(noisy.detach(), k).nonzero()[:, 1].reshape(batch, k)
        pulls = read(rows, positions)
        pulls = sign * pulls if pulled is None else pulled(pulls)
        (gate.grad,) = torch.autograd.grad((mask.gather(1, positions) * pulls).sum(-1).mean(), gate)
        optimiser.step()
    return gate.detach()


@right("learn_gate", "the gradient by hand, in closed form, and plain descent")
def gate_by_hand(tokens: Tensor, read: Read, k: int, types: int, seed: int) -> Tensor:
    dice = torch.Generator().manual_seed(seed)
    gate, batch, steps = torch.zeros(types), 32, 150
    for step in range(steps):
        t = 1.0 - 0.8 * step / steps
        rows = torch.randint(len(tokens), (batch,), generator=dice)
        here = tokens[rows]
        noisy = gate[here] - t * torch.empty(here.shape).exponential_(generator=dice).log()
        chosen = topk_mask(noisy, k)
        at = chosen.nonzero()[:, 1].reshape(batch, k)
        g = torch.zeros_like(noisy).scatter(1, at, read(rows, at))
        d = _slope((noisy - soft_topk_threshold(noisy, k, t)[:, None]) / t, "sigmoid")
        slope = d / t * (g - (d * g).sum(-1, keepdim=True) / d.sum(-1, keepdim=True))
        total = torch.zeros(types).index_add(0, here.flatten(), slope.flatten())
        gate = gate - 0.15 * total / (1e-3 + total.square().mean().sqrt())
    return gate


@right("learn_gate", "no gate at all: reads at random, then what remains, and keeps the mean contributions")
def gate_of_experience(tokens: Tensor, read: Read, k: int, types: int, seed: int) -> Tensor:
    dice = torch.Generator().manual_seed(seed)
    total, count = torch.zeros(types), torch.zeros(types)
    for step in range(48):
        rows = torch.randint(len(tokens), (100,), generator=dice)
        hope = total / (count + 5) + (0.5 if step < 24 else 0.05) * torch.randn(types, generator=dice)
        at = (hope[tokens[rows]] + 0.01 * torch.rand(100, tokens.shape[1], generator=dice)).topk(k).indices
        seen = tokens[rows].gather(1, at).flatten()
        total.index_add_(0, seen, -read(rows, at).flatten())
        count.index_add_(0, seen, torch.ones(len(seen)))
    return total / (count + 5)


@wrong("learn_gate", "nothing is learned")
def gate_of_zeros(tokens: Tensor, read: Read, k: int, types: int, seed: int) -> Tensor:
    read(torch.arange(10), torch.arange(k).expand(10, k))
    return torch.zeros(types)


@wrong("learn_gate", "scores by chance")
def gate_of_chance(tokens: Tensor, read: Read, k: int, types: int, seed: int) -> Tensor:
    read(torch.arange(10), torch.arange(k).expand(10, k))
    return torch.randn(types, generator=torch.Generator().manual_seed(seed))


@wrong("learn_gate", "climbs the loss")
def gate_upwards(tokens: Tensor, read: Read, k: int, types: int, seed: int) -> Tensor:
    return _trained(tokens, read, k, types, seed, sign=-1.0)


@wrong("learn_gate", "one step is too few")
def gate_too_short(tokens: Tensor, read: Read, k: int, types: int, seed: int) -> Tensor:
    return _trained(tokens, read, k, types, seed, steps=1)


@wrong("learn_gate", "reads more than 20,000 tokens")
def gate_too_long(tokens: Tensor, read: Read, k: int, types: int, seed: int) -> Tensor:
    return _trained(tokens, read, k, types, seed, steps=300)


@wrong("learn_gate", "takes the size of a pull for its use, and finds what shouts")
def gate_of_sizes(tokens: Tensor, read: Read, k: int, types: int, seed: int) -> Tensor:
    return _trained(tokens, read, k, types, seed, pulled=lambda pulls: -pulls.abs())


@wrong("learn_gate", "draws from the global generator, so that no run is like another")
def gate_without_seed(tokens: Tensor, read: Read, k: int, types: int, seed: int) -> Tensor:
    return _trained(tokens, read, k, types, seed, dice=torch.default_generator)


@wrong("learn_gate", "reads every token of a text, soft")
def gate_reads_all(tokens: Tensor, read: Read, k: int, types: int, seed: int) -> Tensor:
    dice, gate = torch.Generator().manual_seed(seed), torch.zeros(types, requires_grad=True)
    optimiser = torch.optim.Adam([gate], lr=0.1)
    for step in range(100):
        rows = torch.randint(len(tokens), (8,), generator=dice)
        pulls = read(rows, torch.arange(tokens.shape[1]).expand(8, -1))
        soft = soft_topk(gate[tokens[rows]], k, 0.1 ** (step / 100))
        (gate.grad,) = torch.autograd.grad((soft * pulls).sum(), gate)
        optimiser.step()
    return gate.detach()


@wrong("learn_gate", "the mask is detached, so the gate never moves")
def gate_detached(tokens: Tensor, read: Read, k: int, types: int, seed: int) -> Tensor:
    dice = torch.Generator().manual_seed(seed)
    gate = 0.01 * torch.randn(types, generator=dice)
    for _ in range(50):
        rows = torch.randint(len(tokens), (32,), generator=dice)
        read(rows, gate[tokens[rows]].topk(k).indices)
    return gate


@wrong("learn_gate", "learns a score for each position, where a type has none")
def gate_of_positions(tokens: Tensor, read: Read, k: int, types: int, seed: int) -> Tensor:
    dice, use = torch.Generator().manual_seed(seed), torch.zeros(tokens.shape[1])
    for _ in range(60):
        rows = torch.randint(len(tokens), (32,), generator=dice)
        at = torch.rand(32, tokens.shape[1], generator=dice).topk(k).indices
        use.index_add_(0, at.flatten(), -read(rows, at).flatten())
    scores = torch.zeros(types)
    return scores.index_add(0, tokens.flatten(), use.repeat(len(tokens)))


@wrong("learn_gate", "the rarest types, without a question to the reader")
def gate_of_rarity(tokens: Tensor, read: Read, k: int, types: int, seed: int) -> Tensor:
    read(torch.arange(10), torch.arange(k).expand(10, k))
    return -torch.bincount(tokens.flatten(), minlength=types).float()


@wrong(
    "learn_gate", "multiplies what was kept by its own score, without noise: what is not read learns nothing"
)
def gate_of_what_is_kept(tokens: Tensor, read: Read, k: int, types: int, seed: int) -> Tensor:
    dice = torch.Generator().manual_seed(seed)
    gate = torch.zeros(types, requires_grad=True)
    optimiser = torch.optim.SGD([gate], lr=0.01)
    for _ in range(150):
        rows = torch.randint(len(tokens), (32,), generator=dice)
        scores = gate[tokens[rows]]
        at = topk_mask(scores.detach(), k).nonzero()[:, 1].reshape(32, k)
        loss = (scores.gather(1, at).sigmoid() * read(rows, at)).sum(-1).mean()
        (gate.grad,) = torch.autograd.grad(loss, gate)
        optimiser.step()
    return gate.detach()
