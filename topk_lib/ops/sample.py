"""Random top-k: k entries without replacement, and one of the most likely entries or all of them."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from topk_lib.ops import native
from topk_lib.ops.arguments import (
    check_scores,
    last,
    number_per_row,
    rows_of_k,
    seeds_per_row,
    untraced,
)
from topk_lib.ops.backend import fold_batch, use_triton
from topk_lib.ops.hard import hard_topk
from topk_lib.ops.soft_torch import held

__all__ = ["Draw", "gumbel_topk", "likely_mask", "sample_topk"]

_GUESSES = (1024, 8192)  # how many entries are sorted for top_p before all are


class Draw(NamedTuple):
    """What :func:`gumbel_topk` drew, with the dimension drawn from last replaced by k.

    Attributes:
        indices: (..., k) int64 in the order of the draw; -1 in spare slots.
        mask: (..., n) bool, True where drawn.
        log_prob: (...) the logarithm of the probability of this draw in this order.
    """

    indices: Tensor
    mask: Tensor
    log_prob: Tensor


def gumbel_topk(
    logits: Tensor,
    k: int | Tensor,
    *,
    dim: int = -1,
    valid: Tensor | None = None,
    seed: int | Tensor | None = None,
) -> Draw:
    """Draw k entries without replacement, the first with probability softmax(logits), each next
    with the same probabilities among those left (Plackett-Luce).

    The k largest of ``logits`` + Gumbel noise are such a draw (Yellott 1977; Kool et al. 2019).
    Entries of logit -inf are never drawn; a row with fewer than k possible entries returns all.
    From a row that holds NaN or +inf among its valid logits nothing is drawn: its indices are -1 and
    its ``log_prob`` is NaN.

    Args:
        logits: (..., n) float16, bfloat16, float32 or float64.
        k: 0 <= k <= n; an int, or an integer tensor with one per row.
        dim: the dimension to draw along.
        valid: bool, broadcastable to ``logits``; True for entries that may be drawn.
        seed: one int64 per row; a row's draw depends on its own seed and logits alone. An int s of
            any size stands for s, s + 1, ..., wrapping around at 64 bits; None takes seeds from
            PyTorch's generator. Inside ``vmap`` an int is the same for each example: give a tensor.

    Raises:
        TypeError: ``logits`` is not a float tensor, ``k`` or ``seed`` not an integer.
        ValueError: ``k`` outside 0..n, a wrong shape or device.

    Example:
        >>> gumbel_topk(torch.tensor([0.0, 9.0, 0.0, 9.0]), 2, seed=1).mask
        tensor([False,  True, False,  True])
    """
    check_scores("logits", logits, valid)
    rows, ok = last(logits, valid, dim)
    wide = rows.double()
    possible = wide != -torch.inf
    if ok is not None:
        possible = possible & ok
    broken = (possible & ~(wide < torch.inf)).any(-1, keepdim=True)
    possible = possible & ~broken
    noise = -torch.log(-torch.log(uniform(seeds_per_row(seed, rows), rows.shape[-1])))
    chosen = hard_topk(wide.detach() + noise, k, valid=possible, order="value")
    log_prob = _plackett_luce(wide, chosen.indices, chosen.mask, possible)
    log_prob = log_prob.masked_fill(broken.squeeze(-1), torch.nan).to(logits.dtype)
    return Draw(chosen.indices.movedim(-1, dim), chosen.mask.movedim(-1, dim), log_prob)


def sample_topk(
    logits: Tensor,
    k: int | Tensor,
    temperature: float | Tensor = 1.0,
    *,
    top_p: float | Tensor | None = None,
    min_p: float | Tensor | None = None,
    seed: int | Tensor | None = None,
) -> Tensor:
    """Draw one of the k most likely entries of each row, as when a language model writes.

    The k largest logits stay (ties to the lowest index), divided by the temperature and turned
    into probabilities; with ``top_p`` the fewest of these that sum to at least ``top_p`` stay
    (Holtzman et al. 2020); with ``min_p`` those that have at least ``min_p`` times the probability of the
    most likely one (Nguyen et al. 2025). One of what is left is drawn with its probability. The CPU path
    and the kernels, which add up in float64 and float32, draw the same for finite logits and temperatures
    of every size, but where the random number, ``top_p`` or ``min_p`` falls within rounding of an edge.

    Args:
        logits: (..., n) float16, bfloat16, float32 or float64. -inf is never drawn.
        k: 1 <= k <= n; an int, or an integer tensor with one per row.
        temperature: above 0; a number, or a tensor with one per row.
        top_p: in (0, 1]; a number, or a tensor with one per row.
        min_p: in [0, 1]; a number, or a tensor with one per row.
        seed: one int64 per row; a row's draw depends on its own seed and logits alone, whatever
            the batch around it. An int s of any size stands for s, s + 1, ..., wrapping around at 64
            bits; None takes seeds from PyTorch's generator. Inside ``vmap`` an int is the same for
            each example: give a tensor.

    Returns:
        (...) int64; -1 in a row that holds NaN or +inf, or nothing but -inf.

    Raises:
        TypeError: ``logits`` is not a float tensor, ``k`` or ``seed`` not an integer.
        ValueError: ``k`` outside 1..n, ``temperature`` not above 0, ``top_p`` outside (0, 1], ``min_p``
            outside [0, 1], a wrong shape or device.

    Example:
        >>> sample_topk(torch.tensor([[0.0, 9.0, 1.0]]), 1, seed=0)
        tensor([1])
    """
    if _simple(logits, k, temperature, top_p, min_p, seed):
        share, least = 1.0 if top_p is None else top_p, min_p or 0.0
        whole = isinstance(seed, int) and not isinstance(seed, bool) and -(2**63) <= seed < 2**63
        seeds: Any = seed if whole else seeds_per_row(seed, logits).contiguous()
        numbers: Any = (k, temperature, share, least, seeds)
        return native.sample(logits, *numbers)
    rule = _rule(logits, k, temperature, top_p, min_p)
    u = uniform(seeds_per_row(seed, logits), 1)
    drawn: Tensor = _draw(*rule, u.reshape(-1))
    return drawn.reshape(logits.shape[:-1])


def likely_mask(
    logits: Tensor,
    k: int | Tensor,
    temperature: float | Tensor = 1.0,
    *,
    top_p: float | Tensor | None = None,
    min_p: float | Tensor | None = None,
) -> Tensor:
    """Say which entries of each row :func:`sample_topk` may draw.

    Args:
        logits, k, temperature, top_p, min_p: as there.

    Returns:
        (..., n) bool; all False in a row that holds NaN or +inf, or nothing but -inf.

    Raises:
        TypeError, ValueError: as there.

    Example:
        >>> likely_mask(torch.tensor([0.0, 9.0, 8.0, 7.0]), 3, min_p=0.2)
        tensor([False,  True,  True, False])
    """
    kept: Tensor = _likely(*_rule(logits, k, temperature, top_p, min_p))
    return kept.reshape(logits.shape)


def _simple(logits: Tensor, k: Any, temperature: Any, top_p: Any, min_p: Any, seed: Any) -> bool:
    """Whether one right rule of numbers holds for all rows, and the compiled code may draw."""
    return (
        type(k) is int
        and native.ready(logits, k)
        and 1 <= k <= _GUESSES[0]  # more are quicker to go through many at a time
        and type(temperature) in (int, float)
        and 0 < temperature < math.inf
        and (top_p is None or (type(top_p) in (int, float) and 0 < top_p <= 1))
        and (min_p is None or (type(min_p) in (int, float) and 0 <= min_p <= 1))
        and (not isinstance(seed, Tensor) or untraced(seed))
    )


def _rule(
    logits: Tensor,
    k: int | Tensor,
    temperature: float | Tensor,
    top_p: float | Tensor | None,
    min_p: float | Tensor | None,
) -> tuple[Tensor, Tensor, int, Tensor, Tensor | None, Tensor | None]:
    """The arguments of :func:`_draw` but the last: checked, in flat rows, and free of gradients."""
    check_scores("logits", logits, None)
    n = logits.shape[-1]
    width, per_row = rows_of_k(k, logits, least=1, unseen_width=n)
    if per_row is None:
        per_row = torch.full((math.prod(logits.shape[:-1]),), width, device=logits.device)
    temp = number_per_row(
        "temperature", temperature, logits, lambda x: (x > 0) & (x < torch.inf), "be above 0 and finite"
    )
    share, least = None, None
    if top_p is not None:
        share = number_per_row(
            "top_p", top_p, logits, lambda x: (x > 0) & (x <= 1), "be above 0 and at most 1"
        )
    if min_p is not None:
        least = number_per_row("min_p", min_p, logits, lambda x: (x >= 0) & (x <= 1), "lie in 0..1")
    share, least = (None if x is None else x.detach().reshape(-1) for x in (share, least))
    return logits.detach().reshape(-1, n), per_row, width, temp.detach().reshape(-1), share, least


@torch.library.custom_op("topk_lib::draw", mutates_args=())
def _draw(
    flat: Tensor,
    per_row: Tensor,
    width: int,
    temperature: Tensor,
    top_p: Tensor | None,
    min_p: Tensor | None,
    uniform: Tensor,
) -> Tensor:
    """One column of each row, (rows,) int64."""
    flat, column = flat.detach(), None
    if use_triton(flat.device):
        from topk_lib.kernels import sample as kernels

        # The survivors fit, the row does not.
        if width <= kernels.MAX_BLOCK and not kernels.fits(flat.shape[1], width):
            flat, column, _ = hard_topk(flat, per_row)
            flat = flat.masked_fill(column < 0, -torch.inf)
        if flat.shape[1] > 0 and kernels.fits(flat.shape[1], width):
            wide = torch.float64 if flat.dtype == torch.float64 else torch.float32
            p, least = (None if x is None else x.to(wide).contiguous() for x in (top_p, min_p))
            t = held(temperature, wide).to(wide).contiguous()
            drawn = kernels.sample_rows(
                flat.contiguous(), per_row.int(), t, p, least, uniform.contiguous(), width
            )
            if column is not None:
                drawn = column.gather(1, drawn.clamp(min=0)[:, None])[:, 0].where(drawn >= 0, -1)
            return drawn
    if not flat.numel():
        return torch.full((len(flat),), -1, device=flat.device)
    p, kept, column = _shares(flat, per_row, width, temperature, top_p, min_p)
    p = p.where(kept, 0)
    walk = p.cumsum(-1)
    whole = walk[:, -1:].contiguous()
    past = torch.searchsorted(walk, uniform[:, None] * whole, right=True)
    first = torch.minimum(past, torch.searchsorted(walk, whole))  # at most the last that has a share
    return column.gather(1, first)[:, 0].masked_fill(whole[:, 0] == 0, -1)


@torch.library.custom_op("topk_lib::likely", mutates_args=())
def _likely(
    flat: Tensor,
    per_row: Tensor,
    width: int,
    temperature: Tensor,
    top_p: Tensor | None,
    min_p: Tensor | None,
) -> Tensor:
    """(rows, n) bool, True where :func:`_draw` may draw."""
    rows, n = flat.shape
    if not flat.numel():
        return torch.zeros_like(flat, dtype=torch.bool)
    _, kept, column = _shares(flat.detach(), per_row, width, temperature, top_p, min_p)
    mask = torch.zeros(rows, n + 1, dtype=torch.bool, device=flat.device)
    return mask.scatter_(1, torch.where(column < 0, n, column), kept)[:, :n].contiguous()


def _shares(
    flat: Tensor,
    per_row: Tensor,
    width: int,
    temperature: Tensor,
    top_p: Tensor | None,
    min_p: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The k largest of each row in the order of position, and which of them stay.

    Returns:
        (rows, w) float64 probabilities, over that of the largest; (rows, w) bool, none in a row from which
        nothing can be drawn; (rows, w) int64 columns, -1 in spare slots.
    """
    n, goal = flat.shape[1], None
    t = held(temperature, torch.float64 if flat.dtype == torch.float64 else torch.float32)[:, None]
    peak = flat.amax(-1, keepdim=True).double()  # NaN and +inf rank highest
    fit = peak.isfinite()
    peak = peak.where(fit, 0)

    def shares(values: Tensor) -> Tensor:
        # The difference first: the quotient of a large score would be infinite.
        return ((values.double() - peak) / t).exp()

    whole = per_row == n
    if (top_p is not None or min_p is not None) and n > _GUESSES[0] and bool(whole.any()):
        if top_p is not None:
            goal = top_p[:, None] * shares(flat).sum(-1, keepdim=True)
        for guess in _GUESSES:  # a few that hold all that stays are quicker to go through than n
            if guess < n and bool((per_row == n).any()):
                few, enough = shares(hard_topk(flat, guess).values), torch.zeros_like(whole)
                if goal is not None and top_p is not None:
                    enough = (few.sum(-1) >= goal[:, 0]) & (top_p < 1)
                if min_p is not None:
                    enough = enough | (few.amin(-1) < min_p)
                per_row = torch.where((per_row == n) & enough, guess, per_row)
        width = int(per_row.max())
    if bool((per_row == n).all()):
        values, column = flat, torch.arange(n, device=flat.device).expand_as(flat)
    else:
        values, column, _ = hard_topk(flat, width if bool((per_row == width).all()) else per_row)
    kept = fit & (column >= 0) & (values != -torch.inf)
    p = shares(values).where(kept, 0)
    if top_p is not None:
        own = top_p[:, None] * p.sum(-1, keepdim=True)
        goal = own if goal is None else goal.where(whole[:, None], own)
        # Not by p, which rounds unlike scores to one number.
        order = values.masked_fill(~kept, -torch.inf).argsort(dim=-1, descending=True, stable=True)
        ranked = p.gather(-1, order)
        needed = ranked.cumsum(-1) - ranked < goal
        kept = kept & (torch.zeros_like(needed).scatter(1, order, needed) | (top_p == 1)[:, None])
    if min_p is not None:
        kept = kept & (p >= min_p[:, None])
    return p, kept, column


@_draw.register_fake
def _(flat: Tensor, *rest: Any) -> Tensor:
    return flat.new_empty(flat.shape[0], dtype=torch.int64)


@_likely.register_fake
def _(flat: Tensor, *rest: Any) -> Tensor:
    return torch.empty_like(flat, dtype=torch.bool)


@_draw.register_vmap
def _(info: Any, dims: tuple[Any, ...], flat: Tensor, per_row: Tensor, width: int, *rest: Any) -> Any:
    flat, per_row, *others = fold_batch(info, (*dims[:2], *dims[3:]), (flat, per_row, *rest))
    drawn: Tensor = _draw(flat, per_row, width, *others)
    return drawn.reshape(info.batch_size, -1), 0


@_likely.register_vmap
def _(info: Any, dims: tuple[Any, ...], flat: Tensor, per_row: Tensor, width: int, *rest: Any) -> Any:
    flat, per_row, *others = fold_batch(info, (*dims[:2], *dims[3:]), (flat, per_row, *rest))
    kept: Tensor = _likely(flat, per_row, width, *others)
    return kept.reshape(info.batch_size, -1, flat.shape[-1]), 0


def _plackett_luce(logits: Tensor, indices: Tensor, mask: Tensor, possible: Tensor) -> Tensor:
    """sum_i (logit_i - log of the sum of exp over those not yet drawn before i)."""
    if not logits.shape[-1]:
        return logits.sum(-1)
    filled = indices >= 0
    never = -1e200  # exp gives 0, and its gradient is not NaN as that of -inf
    chosen = torch.where(filled, logits.gather(-1, indices.clamp(min=0)), never)
    rest = logits.masked_fill(mask | ~possible, never).logsumexp(-1, keepdim=True)
    left = torch.cat([rest, chosen.flip(-1)], -1).logcumsumexp(-1)[..., 1:].flip(-1)
    return torch.where(filled, chosen - left, 0).sum(-1)


_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as int64


def mix(x: Tensor) -> Tensor:
    """One step of SplitMix64 (Steele et al. 2014), in int64 that wraps: scatters the bits of x."""
    x = x + _GOLDEN
    x = (x ^ ((x >> 30) & (2**34 - 1))) * -4658895280553007687
    x = (x ^ ((x >> 27) & (2**37 - 1))) * -7723592293110705685
    return x ^ ((x >> 31) & (2**33 - 1))


def uniform(seeds: Tensor, n: int) -> Tensor:
    """(..., n) float64 in (0, 1), a function of a row's seed and the column alone."""
    column = torch.arange(1, n + 1, device=seeds.device)
    bits = mix(mix(seeds).unsqueeze(-1) + (column - 1) * _GOLDEN)
    return (((bits >> 12) & (2**52 - 1)).double() + 0.5) * 2.0**-52
