"""Hidden checks of assignment 6: the choice, the layer, the audit, thresholds, and the mended choice."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from topk_lib.grading import Answer, Draw, expect, hidden

Layer = Callable[[Tensor, Tensor], Tensor]
Passes = list[tuple[Tensor, Tensor]]


def _near(got: Any, right: Tensor, what: str, rtol: float = 1e-4, atol: float = 1e-4) -> None:
    expect(isinstance(got, Tensor), f"{what}: a tensor is asked for, yours is a {type(got).__name__}")
    expect(got.shape == right.shape, f"{what}: the shape is {tuple(right.shape)}, yours {tuple(got.shape)}")
    off = ~torch.isclose(got.double(), right.double(), rtol=rtol, atol=atol, equal_nan=True)
    if bool(off.any()):
        place = tuple(int(i) for i in off.nonzero()[0])
        expect(False, f"{what}: at {place} it is {right[place]:.5g}, yours {got[place]:.5g}")


def _real(draw: Draw, batch: int, n: int, least: int = 1) -> Tensor:
    """Padding on the left of the first text, on the right of the second, in the middle of the others."""
    valid = torch.ones(batch, n, dtype=torch.bool)
    for b in range(batch):
        gap = draw.integer(1, n - least + 1)
        at = [0, n - gap, (n - gap) // 2][min(b, 2)]
        valid[b, at : at + gap] = False
    return valid


# choose


def _room(capacity: float, real: int, experts: int) -> int:
    return max(min(math.ceil(real * capacity / experts - 1e-9), real), 0)


def _choose(scores: Tensor, capacity: float, valid: Tensor | None = None) -> Tensor:
    """The definition: one expert after another."""
    batch, n, experts = scores.shape
    mask = torch.zeros(scores.shape, dtype=torch.bool)
    for b in range(batch):
        real = [t for t in range(n) if valid is None or bool(valid[b, t])]
        for e in range(experts):
            best = sorted(real, key=lambda t: (-float(scores[b, t, e]), t))
            mask[b, best[: _room(capacity, len(real), experts)], e] = True
    return mask


def _takes(answer: Answer, scores: Tensor, capacity: float, valid: Tensor | None, what: str) -> None:
    got, right = answer(scores, capacity, valid), _choose(scores, capacity, valid)
    expect(
        isinstance(got, Tensor) and got.dtype == torch.bool and got.shape == right.shape,
        f"{what}: a bool tensor {tuple(right.shape)} is asked for, yours is "
        f"{(got.dtype, tuple(got.shape)) if isinstance(got, Tensor) else type(got).__name__}",
    )
    for b, e in (got != right).any(1).nonzero().tolist():
        own = [round(one, 3) for one in scores[b, :, e].tolist()]
        real = "" if valid is None else f", real at {valid[b].nonzero().flatten().tolist()}"
        expect(
            False,
            f"{what}: with capacity {capacity:g} and {scores.shape[2]} experts one that scores {own}{real} "
            f"takes {right[b, :, e].nonzero().flatten().tolist()}, yours "
            f"{got[b, :, e].nonzero().flatten().tolist()}",
        )


@hidden("choose", points=4, about="ties")
def ties_go_to_the_lowest_position(answer: Answer, draw: Draw) -> None:
    """Equal scores: the lowest position wins, and exactly C are taken."""
    for n, capacity in ((9, 1.0), (12, 1.5), (40, 1.0)):
        _takes(answer, draw.tensor(2, n, 3, high=3), capacity, None, "scores with ties")
    _takes(answer, torch.zeros(1, 8, 4), 2.0, None, "scores that are all equal")
    zeros = torch.zeros(1, 6, 1).where(torch.arange(6)[:, None] % 2 == 0, torch.tensor(-0.0))
    _takes(answer, zeros, 0.5, None, "zeros, every other one -0.0, which is equal to 0.0")


@hidden("choose", points=4, about="room beside padding")
def room_counts_real_tokens(answer: Answer, draw: Draw) -> None:
    """C goes by the real tokens of each text by itself; padding may stand anywhere."""
    scores, valid = draw.normal(4, 9, 3), _real(draw, 4, 9, least=3)
    for capacity in (1.0, 1.3, 2.0):
        _takes(answer, scores, capacity, valid, "texts of different lengths")
    _takes(answer, scores[2:3], 1.0, valid[2:3], "the third text alone")


@hidden("choose", points=4, about="loud padding")
def padding_is_nobodys_token(answer: Answer, draw: Draw) -> None:
    """Padding is never taken, be its score infinite or nan; a real score of -inf comes before it."""
    scores, valid = draw.tensor(3, 8, 2, high=4), _real(draw, 3, 8, least=3)
    for loud in (math.inf, math.nan, 1e30):
        _takes(answer, scores.masked_fill(~valid[..., None], loud), 1.2, valid, f"padding that scores {loud}")
    low = scores.masked_fill(scores < 3, -math.inf)
    _takes(answer, low, 2.0, valid, "real tokens that score -inf")
    _takes(answer, torch.full((3, 8, 2), -math.inf), 1.0, valid, "nobody scores more than -inf")


@hidden("choose", points=4, about="odd capacities")
def capacities_are_rounded_up_and_bounded(answer: Answer, draw: Draw) -> None:
    """Nothing at capacity 0, all at a large one, one token at a small one; 2.2 * 25 / 5 is 11."""
    scores = draw.normal(2, 10, 4)
    valid = _real(draw, 2, 10, least=4)
    for capacity in (0.0, 0.01, 3.999, 4.0, 40.0):
        _takes(answer, scores, capacity, valid, "small and large capacities")
    _takes(answer, draw.normal(1, 25, 5), 2.2, None, "25 tokens")
    _takes(answer, draw.normal(1, 50, 5).double(), 2.2, None, "50 tokens in float64")
    none = torch.zeros(2, 10).bool()
    none[0, 3] = True
    _takes(answer, scores, 1.0, none, "a text of one token, and one of none")


# routed


def _weights(draw: Draw, d: int, f: int, experts: int) -> dict[str, Tensor]:
    return {
        "router": draw.normal(d, experts),
        "up": draw.normal(experts, d, f) * 0.7,
        "up_bias": draw.normal(experts, f),
        "down": draw.normal(experts, f, d) * 0.7,
        "down_bias": draw.normal(experts, d),
    }


def _routed(x: Tensor, weights: dict[str, Tensor], mask: Tensor) -> Tensor:
    """The definition, in float64 and differentiable: every expert on every token, then the mask."""
    x, w = x.double(), {name: one.double() for name, one in weights.items()}
    gates = (x @ w["router"]).softmax(-1)
    inner = F.gelu(torch.einsum("bnd,edf->bnef", x, w["up"]) + w["up_bias"])
    said = torch.einsum("bnef,efd->bned", inner, w["down"]) + w["down_bias"]
    out: Tensor = x + (said * (gates * mask)[..., None]).sum(2)
    return out


def _mask(draw: Draw, batch: int, n: int, experts: int) -> Tensor:
    """Token 0 of each text is taken by nobody, token 1 by all."""
    mask = draw.tensor(batch, n, experts, high=2).bool()
    mask[:, 0], mask[:, 1] = False, True
    return mask


@hidden("routed", points=5, about="the formula")
def equals_the_formula(answer: Answer, draw: Draw) -> None:
    """The stream after the layer; an expert without tokens does no harm; float64 is right to 1e-9."""
    x, weights, mask = draw.normal(2, 6, 3), _weights(draw, 3, 5, 4), _mask(draw, 2, 6, 4)
    mask[..., 2] = False
    _near(answer(x, weights, mask), _routed(x, weights, mask), "four experts, one of which took nobody")
    wide = {name: one.double() for name, one in weights.items()}
    got = answer(x.double(), wide, mask)
    expect(got.dtype == torch.float64, f"float64 in, float64 out; yours is {got.dtype}")
    _near(got, _routed(x, weights, mask), "float64", rtol=1e-9, atol=1e-9)
    turn = torch.tensor([3, 1, 0, 2])
    other = {name: one[:, turn] if name == "router" else one[turn] for name, one in weights.items()}
    _near(answer(x, other, mask[..., turn]), _routed(x, weights, mask), "the same experts in another order")


@hidden("routed", points=4, about="passing by, loud padding")
def who_is_not_taken_passes(answer: Answer, draw: Draw) -> None:
    """A token that nobody took keeps every bit; nan at padding reaches no other row."""
    x, weights, mask = 3 * draw.normal(2, 6, 3), _weights(draw, 3, 5, 4), _mask(draw, 2, 6, 4)
    got, alone = answer(x, weights, mask), ~mask.any(-1)
    expect(
        bool((got[alone] == x[alone]).all()),
        f"nobody took {x[alone][0].tolist()}: it stays as it is, yours is {got[alone][0].tolist()}",
    )
    loud, real = x.clone(), torch.ones(2, 6).bool()
    real[0, 0], real[1, 5] = False, False
    mask = mask & real[..., None]
    loud[~real] = math.nan
    got = answer(loud, weights, mask)
    _near(got[real], _routed(x, weights, mask)[real], "the real tokens beside padding that is nan")
    nobody = answer(x, weights, torch.zeros_like(mask))
    expect(bool((nobody == x).all()), "an empty mask: the stream comes out as it went in")


@hidden("routed", points=4, about="gradients")
def gradients_are_the_formulas(answer: Answer, draw: Draw) -> None:
    """Gradients reach the stream, the router and all experts, as the formula in float64 has them."""
    x, weights, mask = draw.normal(2, 5, 3), _weights(draw, 3, 4, 3), _mask(draw, 2, 5, 3)
    pull = draw.normal(2, 5, 3)
    _, (for_x, for_weights) = answer.vjp([x, weights, mask], pull, wrt=[0, 1])
    at = x.double().requires_grad_()
    wide = {name: one.double().requires_grad_() for name, one in weights.items()}
    right = torch.autograd.grad(_routed(at, wide, mask), [at, *wide.values()], pull.double())
    _near(for_x, right[0], "the gradient for x", atol=1e-3)
    for name, slope in zip(wide, right[1:], strict=True):
        _near(for_weights[name], slope, f"the gradient for {name}", atol=1e-3)


@hidden("routed", points=2, about="coarse types")
def sums_are_wider_than_bfloat16(answer: Answer, draw: Draw) -> None:
    """bfloat16 is calculated and summed in float32, and rounded once."""
    x, weights = draw.normal(2, 32, 8), _weights(draw, 8, 16, 8)
    mask = _mask(draw, 2, 32, 8)
    coarse = {name: one.bfloat16() for name, one in weights.items()}
    got = answer(x.bfloat16(), coarse, mask)
    expect(got.dtype == torch.bfloat16, f"bfloat16 in, bfloat16 out; yours is {got.dtype}")
    _near(got, _routed(x.bfloat16(), coarse, mask), "bfloat16", rtol=2**-8)


@hidden("routed", points=3, about="work")
def experts_work_on_their_own_tokens(answer: Answer, draw: Draw) -> None:
    """The numbers written are bounded by the pairs taken, not by tokens times experts."""
    d, f, experts, n = 4, 160, 16, 32
    x, weights = draw.normal(2, n, d), _weights(draw, d, f, experts)
    mask = _choose((x @ weights["router"]).softmax(-1), 1.0)
    got, counts = answer.counted(x, weights, mask)
    _near(got, _routed(x, weights, mask), f"{experts} experts", rtol=1e-3, atol=1e-3)
    most = 12 * int(mask.sum()) * (d + f) + 12 * experts * 2 * n * (d + 1)
    expect(
        counts.elements <= most,
        f"{int(mask.sum())} pairs, d = {d}, f = {f}, {experts} experts, {2 * n} tokens: at most {most:,} "
        f"numbers may be written, yours writes {counts.elements:,}",
    )


# audit

NAMES = ("later", "length", "neighbours", "padding")


def _audit(layer: Layer, x: Tensor) -> dict[str, bool]:
    """The definition."""
    n, found = x.shape[1], dict.fromkeys(NAMES, False)
    whole = layer(x.clone(), torch.ones(x.shape[:2]).bool())

    def moved(a: Tensor, b: Tensor) -> bool:
        return not torch.allclose(a, b, rtol=1e-4, atol=1e-5)

    for b in range(len(x)):
        text, real = x[b : b + 1], torch.ones(1, n).bool()
        alone = layer(text.clone(), real)
        found["neighbours"] |= moved(whole[b : b + 1], alone)
        loud = layer(torch.cat([text, torch.full_like(text, 100.0)], 1), torch.arange(2 * n)[None] < n)
        found["padding"] |= moved(loud[:, :n], alone)
        for at in range(1, n):
            found["length"] |= moved(layer(text[:, :at].clone(), real[:, :at]), alone[:, :at])
            for factor in (-1.0, 0.0, 10.0):
                changed = text.clone()
                changed[:, at] *= factor
                found["later"] |= moved(layer(changed, real)[:, :at], alone[:, :at])
    return found


def _says(answer: Answer, layer: Layer, x: Tensor, what: str, *leaks: str) -> None:
    right = _audit(layer, x)
    if leaks != ("*",):  # what the layer was built to show
        assert {name for name in NAMES if right[name]} == set(leaks), (what, right)
    got = answer(layer, x)
    expect(
        isinstance(got, dict) and set(got) == set(NAMES), f"a dict of {NAMES} is asked for, yours is {got}"
    )
    said, true = ([name for name in NAMES if found[name]] for found in (got, right))
    expect(said == true, f"{what}: True are {true or 'none'}, yours {said or 'none'}")


def _expert(draw: Draw, d: int = 3) -> Callable[[Tensor, Tensor], Tensor]:
    """Two experts and their router: (hidden, mask) to the stream after them."""
    router, first, second = draw.normal(d, 2), draw.normal(d, d), draw.normal(d, d)

    def work(hidden: Tensor, mask: Tensor) -> Tensor:
        gates = (hidden @ router).softmax(-1) * mask
        return hidden + gates[..., :1] * (hidden @ first).tanh() + gates[..., 1:] * (hidden @ second).tanh()

    return work


@hidden("audit", points=3, about="honest layers")
def honest_layers_are_not_accused(answer: Answer, draw: Draw) -> None:
    """Each token by itself, a look back, a threshold, digits that wander: all four are False."""
    work, x = _expert(draw), draw.normal(2, 6, 3)
    _says(answer, lambda h, v: work(h, (h[..., :2] > 0) & v[..., None]), x, "each token decides alone")

    def back(h: Tensor, v: Tensor) -> Tensor:
        return (h * v[..., None]).cumsum(1) / v.cumsum(1)[..., None]

    _says(answer, back, x, "the mean of all tokens so far")

    def wander(h: Tensor, v: Tensor) -> Tensor:
        return work(h, v[..., None].expand(*v.shape, 2)) + 1e-7 * h.sign().sum()

    _says(answer, wander, x, "the last digits wander")


@hidden("audit", points=4, about="later tokens")
def one_later_token_is_enough(answer: Answer, draw: Draw) -> None:
    """A layer that notices a later token in one text, at one place, under one kind of change."""
    work, n = _expert(draw), 7
    x = draw.normal(3, n, 3).abs() + 0.1
    x[:, 0, 0] = torch.tensor([1.0, 2.0, 3.0])
    at = draw.integer(1, 4)
    seen = draw.integer(at + 1, n - 1)
    signs: dict[str, Callable[[Tensor], Tensor]] = {
        "below 0": lambda one: one < 0,
        "exactly 0": lambda one: one == 0,
        "grown": lambda one: one > 2 * float(x[:, seen, 1].max()),
    }
    x[:, seen, 1] = 1.0 + torch.arange(3) / 10
    for name, sign in signs.items():

        def peeks(h: Tensor, v: Tensor, sign: Callable[[Tensor], Tensor] = sign) -> Tensor:
            out = work(h, v[..., None].expand(*v.shape, 2))
            if h.shape[1] > seen:
                out[:, at, 2] += 0.3 * (sign(h[:, seen, 1]) & v[:, seen] & (h[:, 0, 0] == 2))
            return out

        what = f"position {at} of the second text notices whether a number of token {seen} is {name}"
        _says(answer, peeks, x, what, "later")

    def chooses(h: Tensor, v: Tensor) -> Tensor:
        return work(h, _choose(h[..., :2], 1.0, v))

    _says(answer, chooses, draw.normal(2, 6, 3), "each expert takes the best half of the text", "*")


@hidden("audit", points=3, about="length")
def the_length_is_the_future_too(answer: Answer, draw: Draw) -> None:
    """A room that goes by the text's length shows in a cut, at times only in a short one."""
    work, x, limit = _expert(draw), draw.normal(2, 7, 3), draw.integer(3, 5)

    def short(h: Tensor, v: Tensor) -> Tensor:
        out = work(h, v[..., None].expand(*v.shape, 2))
        out[:, 0] += 0.2 * (v.sum(1) < limit)[:, None]
        return out

    _says(answer, short, x, f"the first token knows whether fewer than {limit} come", "length")

    def room(h: Tensor, v: Tensor) -> Tensor:  # first come, first served, in half of the text's places
        place = torch.where(v, v.cumsum(1), 10**6)
        return work(h, (place <= (v.sum(1, keepdim=True) + 1) // 2)[..., None].expand(*v.shape, 2))

    _says(answer, room, x, "first come, first served, with room for half of the text", "length")


@hidden("audit", points=3, about="neighbours")
def neighbours_in_the_batch(answer: Answer, draw: Draw) -> None:
    """What depends on the other texts of the batch, and on nothing in the text alone."""
    work, x = _expert(draw), draw.normal(3, 5, 3)

    def gossip(h: Tensor, v: Tensor) -> Tensor:
        out = work(h, v[..., None].expand(*v.shape, 2))
        out[-1] += 0.1 * (h * v[..., None])[:-1].sum((0, 1))  # the last text hears the others
        return out

    _says(answer, gossip, x, "the last text hears the sum of the others", "neighbours")

    def together(h: Tensor, v: Tensor) -> Tensor:
        scores = h[..., :2].flatten(0, 1)[None]
        return work(h, _choose(scores, 1.0, v.flatten()[None]).reshape(*v.shape, 2))

    _says(answer, together, x, "each expert takes the best half of the batch", "*")


@hidden("audit", points=2, about="padding")
def padding_is_noticed(answer: Answer, draw: Draw) -> None:
    """What depends on padding behind the text, on its rows or on how much there is."""
    work, x = _expert(draw), draw.normal(2, 5, 3)

    def counts(h: Tensor, v: Tensor) -> Tensor:
        out = work(h, v[..., None].expand(*v.shape, 2))
        return out + 0.2 * ((~v).sum(1) > 3)[:, None, None]

    _says(answer, counts, x, "answers shift where there is much padding", "padding")

    def loud(h: Tensor, v: Tensor) -> Tensor:
        out = work(h, v[..., None].expand(*v.shape, 2))
        return out + 0.2 * (h.masked_fill(v[..., None], 0).amax((1, 2)) > 50)[:, None, None]

    _says(answer, loud, x, "answers shift where padding is loud", "padding")


# thresholds


def _thresholds(passes: Passes, experts: int, momentum: float) -> Tensor:
    """The definition: one expert after another."""
    levels = []
    for e in range(experts):
        level, taught = math.inf, 0
        for scores, mask in passes:
            lowest = [
                min(scores[b, mask[b, :, e], e].double().tolist())
                for b in range(len(scores))
                if bool(mask[b, :, e].any())
            ]
            if lowest:
                taught += 1
                edge = sum(lowest) / len(lowest)
                level = edge if taught == 1 else level + max(1 / taught, 1 - momentum) * (edge - level)
        levels.append(level)
    return torch.tensor(levels)


def _passes(draw: Draw, count: int, experts: int = 3, capacity: float = 1.0) -> Passes:
    made = []
    for _ in range(count):
        scores = draw.normal(draw.integer(2, 4), draw.integer(5, 8), experts).softmax(-1)
        made.append((scores, _choose(scores, capacity)))
    return made


@hidden("thresholds", points=4, about="the running average")
def a_mean_at_first_then_a_running_average(answer: Answer, draw: Draw) -> None:
    """The first edge as it is, then a plain mean, then the momentum."""
    passes = _passes(draw, 9)
    for count in (1, 2, 3, 9):
        for momentum in (0.6, 0.99, 0.0, 1.0):
            right = _thresholds(passes[:count], 3, momentum)
            got = answer(passes[:count], 3, momentum)
            _near(got, right, f"after {count} passes, momentum {momentum}", atol=1e-5)


@hidden("thresholds", points=3, about="who took nothing")
def who_took_nothing_learns_nothing(answer: Answer, draw: Draw) -> None:
    """A text or a pass of which an expert took nothing teaches that expert nothing; never taught is inf."""
    passes = _passes(draw, 6)
    for number, (_, mask) in enumerate(passes):
        mask[..., 2] = False
        mask[0, :, 1] = False
        if number in (0, 1, 3):
            mask[..., 0] = False
    _near(answer(passes, 3, 0.7), _thresholds(passes, 3, 0.7), "experts that took nothing now and then")
    got = answer([], 2, 0.9)
    expect(len(got) == 2 and bool(torch.as_tensor(got).isposinf().all()), f"no pass: inf each, yours {got}")


@hidden("thresholds", points=3, about="the lowest taken, loud padding")
def the_lowest_that_was_taken(answer: Answer, draw: Draw) -> None:
    """The mean over texts of the lowest score taken, whatever else the text holds, be it nan."""
    passes = [(scores * 4 - 2, mask) for scores, mask in _passes(draw, 4, capacity=2.0)]
    right = _thresholds(passes, 3, 0.8)
    _near(answer(passes, 3, 0.8), right, "scores of both signs", atol=1e-5)
    loud = []
    for scores, mask in passes:
        scores = scores.masked_fill(~mask & (draw.tensor(*mask.shape, high=2) == 0), math.nan)
        loud.append((scores.masked_fill(~mask & ~scores.isnan(), -100.0), mask))
    _near(answer(loud, 3, 0.8), right, "nan and -100 where nobody was taken", atol=1e-5)


# mend


def _mend(
    scores: Tensor, chosen: Tensor, threshold: Tensor, valid: Tensor | None = None
) -> tuple[Tensor, dict[str, float]]:
    """The definition: one pair after another."""
    batch, n, experts = scores.shape
    alone = torch.zeros(scores.shape, dtype=torch.bool)
    pairs, tokens = [], 0
    for b in range(batch):
        for t in range(n):
            if valid is None or bool(valid[b, t]):
                tokens += 1
                for e in range(experts):
                    alone[b, t, e] = float(scores[b, t, e]) >= float(threshold[e])
                    pairs.append((bool(chosen[b, t, e]), bool(alone[b, t, e])))
    by_choice, by_itself = sum(c for c, _ in pairs), sum(a for _, a in pairs)
    both = sum(c and a for c, a in pairs)
    return alone, {
        "agree": sum(c == a for c, a in pairs) / len(pairs) if pairs else 1.0,
        "kept": both / by_choice if by_choice else 1.0,
        "added": 1 - both / by_itself if by_itself else 0.0,
        "load_choice": by_choice / tokens if tokens else 0.0,
        "load_alone": by_itself / tokens if tokens else 0.0,
    }


def _compares(answer: Answer, what: str, *given: Any) -> None:
    alone, gap = _mend(*given)
    got = answer(*given)
    expect(isinstance(got, (tuple, list)) and len(got) == 2, f"{what}: (alone, gap) is asked for")
    expect(isinstance(got[1], dict) and set(got[1]) == set(gap), f"{what}: gap holds {sorted(gap)}")
    expect(
        isinstance(got[0], Tensor) and got[0].shape == alone.shape and got[0].dtype == torch.bool,
        f"{what}: alone is a bool tensor {tuple(alone.shape)}",
    )
    if bool((got[0] != alone).any()):
        b, t, e = (int(i) for i in (got[0] != alone).nonzero()[0])
        expect(
            False,
            f"{what}: a score of {given[0][b, t, e]:.4g} with the threshold {given[2][e]:.4g} at "
            f"{(b, t, e)}: {bool(alone[b, t, e])}, yours {bool(got[0][b, t, e])}",
        )
    for name, value in gap.items():
        expect(
            math.isclose(float(got[1][name]), value, rel_tol=1e-4, abs_tol=1e-4),
            f"{what}: {name} is {value:.4f}, yours {got[1][name]}",
        )


@hidden("mend", points=4, about="each token alone")
def each_token_decides_alone(answer: Answer, draw: Draw) -> None:
    """A score that reaches the threshold is taken, an equal one too, however many come."""
    scores = draw.tensor(2, 8, 3, high=4)
    threshold = torch.tensor([2.0, 0.0, math.inf])
    _compares(answer, "scores that tie with the threshold", scores, _choose(scores, 1.0), threshold)
    few = torch.tensor([[[3.0]] * 6 + [[0.0]] * 2])
    chosen = _choose(few, 0.25)
    _compares(answer, "six of eight reach it, two had room", few, chosen, torch.tensor([3.0]))


@hidden("mend", points=5, about="the gap beside padding")
def the_gap_is_that_of_real_tokens(answer: Answer, draw: Draw) -> None:
    """Shares and loads count real tokens only; kept is a share of the choice, added one of those alone."""
    for _ in range(3):
        scores, valid = draw.normal(3, 9, 3).softmax(-1), _real(draw, 3, 9, least=3)
        threshold = torch.tensor([0.3, 0.2, 0.6])
        loud = scores.masked_fill(~valid[..., None], draw.choice([math.nan, math.inf, 1.0]))
        _compares(answer, "texts beside padding", loud, _choose(scores, 1.0, valid), threshold, valid)
    _compares(answer, "texts without padding", scores, _choose(scores, 1.0), threshold)


@hidden("mend", points=4, about="shares of nothing")
def shares_of_nothing(answer: Answer, draw: Draw) -> None:
    """Nobody taken by choice, nobody alone, nobody real."""
    scores, valid = draw.normal(2, 5, 2).softmax(-1), torch.ones(2, 5).bool()
    nobody = torch.zeros(2, 5, 2).bool()
    never, always = torch.full((2,), math.inf), torch.zeros(2)
    _compares(answer, "nobody taken by choice", scores, nobody, always, valid)
    _compares(answer, "nobody taken alone", scores, _choose(scores, 1.0), never, valid)
    _compares(answer, "nobody taken at all", scores, nobody, never, valid)
    _compares(answer, "nobody real", scores, nobody, always, ~valid)
