"""Answers to assignment 6 that are known to be wrong, and right ones in another style."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from topk_lib.grading import right, wrong

Weights = dict[str, Tensor]
Layer = Callable[[Tensor, Tensor], Tensor]


def _room(real: Tensor, n: int, capacity: float, experts: int, round_: str, count: str) -> Tensor:
    counted = {"real": real, "all": torch.full_like(real, n), "most": real.amax().expand_as(real)}[count]
    exact = counted.double() * capacity / experts
    room = {
        "up": (exact - 1e-9).ceil(),
        "raw": exact.ceil(),
        "down": exact.floor(),
        "near": exact.round(),
        "one": (exact - 1e-9).ceil().clamp(min=1),
    }[round_]
    return room.clamp(min=0).long()


def _choose(
    scores: Tensor, capacity: float, valid: Tensor | None,
    *, round_: str = "up", count: str = "real", ties: str = "low", padding: str = "behind",
    bounded: bool = True,
) -> Tensor:  # fmt: skip
    """The choice, right unless a fault is asked for."""
    batch, n, experts = scores.shape
    valid = torch.ones(batch, n, dtype=torch.bool) if valid is None else valid
    real = valid.sum(1)
    room = _room(real, n, capacity, experts, round_, count)
    room = torch.minimum(room, real) if bounded else room.clamp(max=n)
    mask = torch.zeros(scores.shape, dtype=torch.bool)
    for b in range(batch):
        for e in range(experts):
            own, c = scores[b, :, e], int(room[b])
            if padding == "first":  # as if all padding stood behind
                own, places = own[: int(real[b])], torch.arange(int(real[b]))
            elif padding == "-inf":
                own, places = own.masked_fill(~valid[b], -math.inf), torch.arange(n)
            elif padding == "times":
                own, places = own * valid[b], torch.arange(n)
            elif padding == "after":
                places = torch.arange(n)
            else:
                places = valid[b].nonzero()[:, 0]
                own = own[places]
            c = min(c, len(places))
            if ties == "low":
                best = own.sort(descending=True, stable=True).indices[:c]
            elif ties == "high":
                best = len(own) - 1 - own.flip(0).sort(descending=True, stable=True).indices[:c]
            else:
                least = own.sort(descending=True).values[c - 1] if c else torch.tensor(math.inf)
                best = (own >= least).nonzero()[:, 0] if c else places[:0]
            mask[b, places[best], e] = True
    return mask & valid[..., None] if padding == "after" else mask


@wrong("choose", "a threshold with >= takes more than C where scores tie")
def threshold_takes_more(scores: Any, capacity: float, valid: Any = None) -> Any:
    return _choose(scores, capacity, valid, ties="all")


@wrong("choose", "ties go to the highest position, as argsort().flip() has it")
def highest_position(scores: Any, capacity: float, valid: Any = None) -> Any:
    return _choose(scores, capacity, valid, ties="high")


@wrong("choose", "noise breaks ties: another choice at each call")
def broken_by_noise(scores: Any, capacity: float, valid: Any = None) -> Any:
    return _choose(scores + 1e-6 * torch.rand(scores.shape), capacity, valid)


@wrong("choose", "room by the padded length")
def padded_length(scores: Any, capacity: float, valid: Any = None) -> Any:
    return _choose(scores, capacity, valid, count="all")


@wrong("choose", "room by the longest text of the batch")
def longest_text(scores: Any, capacity: float, valid: Any = None) -> Any:
    return _choose(scores, capacity, valid, count="most")


@wrong("choose", "rounded down")
def rounded_down(scores: Any, capacity: float, valid: Any = None) -> Any:
    return _choose(scores, capacity, valid, round_="down")


@wrong("choose", "rounded to the nearest")
def rounded_near(scores: Any, capacity: float, valid: Any = None) -> Any:
    return _choose(scores, capacity, valid, round_="near")


@wrong("choose", "2.2 * 25 / 5 is rounded up to 12")
def rounding_error_counts(scores: Any, capacity: float, valid: Any = None) -> Any:
    return _choose(scores, capacity, valid, round_="raw")


@wrong("choose", "at least one token, even at capacity 0")
def at_least_one(scores: Any, capacity: float, valid: Any = None) -> Any:
    return _choose(scores, capacity, valid, round_="one")


@wrong("choose", "padding takes places, and is struck out afterwards")
def struck_out_after(scores: Any, capacity: float, valid: Any = None) -> Any:
    return _choose(scores, capacity, valid, padding="after")


@wrong("choose", "padding is set to -inf, and ties with real scores of -inf")
def padding_ties(scores: Any, capacity: float, valid: Any = None) -> Any:
    return _choose(scores, capacity, valid, padding="-inf")


@wrong("choose", "padding gets the score 0, by multiplication")
def padding_times_zero(scores: Any, capacity: float, valid: Any = None) -> Any:
    return _choose(scores, capacity, valid, padding="times")


@wrong("choose", "padding is taken to stand on the right")
def padding_on_the_right(scores: Any, capacity: float, valid: Any = None) -> Any:
    return _choose(scores, capacity, valid, padding="first")


@wrong("choose", "C may exceed the number of real tokens")
def unbounded(scores: Any, capacity: float, valid: Any = None) -> Any:
    return _choose(scores, capacity, valid, bounded=False, padding="-inf")


@wrong("choose", "experts choose from the whole batch")
def over_the_batch(scores: Any, capacity: float, valid: Any = None) -> Any:
    flat = None if valid is None else valid.flatten()[None]
    return _choose(scores.flatten(0, 1)[None], capacity, flat).reshape(scores.shape)


@wrong("choose", "each token chooses its experts")
def tokens_choose(scores: Any, capacity: float, valid: Any = None) -> Any:
    k = min(math.ceil(capacity), scores.shape[2])
    mask = torch.zeros(scores.shape).bool().scatter(2, scores.topk(k, 2).indices, True)
    return mask if valid is None else mask & valid[..., None]


@right("choose", "text by text and expert by expert")
def by_loops(scores: Any, capacity: float, valid: Any = None) -> Any:
    return _choose(scores, capacity, valid)


@right("choose", "ranks counted in pairs, without any sort")
def by_counting(scores: Any, capacity: float, valid: Any = None) -> Any:
    batch, n, experts = scores.shape
    valid = torch.ones(batch, n).bool() if valid is None else valid
    at = torch.arange(n)
    mine, other = scores[:, :, None], scores[:, None]  # (batch, n, n, experts)
    earlier = (at[None, :] < at[:, None])[None, :, :, None]
    beats = ((other > mine) | ((other == mine) & earlier)) & valid[:, None, :, None]
    counts = [int(r) for r in valid.sum(1)]
    room = [min(math.ceil(r * capacity / experts - 1e-9), r) for r in counts]
    return (beats.sum(2) < torch.tensor(room)[:, None, None]) & valid[..., None]


def _routed(
    x: Tensor, weights: Weights, mask: Tensor,
    *, gate: str = "softmax", act: Callable[[Tensor], Tensor] = F.gelu, wide: bool = True,
    detach: bool = False,
    write: str = "add", residual: str = "all", bias: bool = True, who: str = "mask",
) -> Tensor:  # fmt: skip
    """The layer, right unless a fault is asked for."""
    kind = torch.promote_types(x.dtype, torch.float32) if wide else x.dtype
    w = {name: one.to(kind) for name, one in weights.items()}
    rows, taken = x.flatten(0, 1).to(kind), mask.flatten(0, 1)
    logits = rows @ w["router"]
    if who == "best":
        taken = taken & (logits == logits.masked_fill(~taken, -math.inf).amax(1, keepdim=True))
    gates = {
        "softmax": lambda: logits.softmax(-1),
        "tokens": lambda: logits.masked_fill(~taken, -math.inf).softmax(0).nan_to_num(),
        "all tokens": lambda: logits.softmax(0),
        "again": lambda: logits.masked_fill(~taken, -math.inf).softmax(-1).nan_to_num(),
        "ones": lambda: torch.ones_like(logits),
        "mean": lambda: logits.softmax(-1) / taken.sum(1, keepdim=True).clamp(min=1),
        "sigmoid": lambda: logits.sigmoid(),
    }[gate]()
    gates = gates.detach() if detach else gates
    added = torch.zeros_like(rows)
    for e in range(mask.shape[-1]):
        own = taken[:, e].nonzero()[:, 0]
        inner = act(rows[own] @ w["up"][e] + (w["up_bias"][e] if bias else 0))
        said = gates[own, e, None] * (inner @ w["down"][e] + (w["down_bias"][e] if bias else 0))
        added = added.index_add(0, own, said) if write == "add" else added.index_copy(0, own, said)
    base = {"all": rows, "none": 0 * rows, "taken": rows * taken.any(1, keepdim=True)}[residual]
    return (base + added).to(x.dtype).view_as(x)


@wrong("routed", "a softmax over the tokens that an expert took")
def over_chosen_tokens(x: Any, weights: Any, mask: Any) -> Any:
    return _routed(x, weights, mask, gate="tokens")


@wrong("routed", "a softmax over all tokens of the batch")
def over_all_tokens(x: Any, weights: Any, mask: Any) -> Any:
    return _routed(x, weights, mask, gate="all tokens")


@wrong("routed", "a softmax over the experts that took the token")
def over_takers(x: Any, weights: Any, mask: Any) -> Any:
    return _routed(x, weights, mask, gate="again")


@wrong("routed", "the scores are left out")
def without_gates(x: Any, weights: Any, mask: Any) -> Any:
    return _routed(x, weights, mask, gate="ones")


@wrong("routed", "a mean over the experts that took the token")
def mean_of_takers(x: Any, weights: Any, mask: Any) -> Any:
    return _routed(x, weights, mask, gate="mean")


@wrong("routed", "a sigmoid for each expert")
def sigmoid_gates(x: Any, weights: Any, mask: Any) -> Any:
    return _routed(x, weights, mask, gate="sigmoid")


@wrong("routed", "the last expert overwrites the others")
def last_one_wins(x: Any, weights: Any, mask: Any) -> Any:
    return _routed(x, weights, mask, write="copy")


@wrong("routed", "only the best of the experts that took a token speaks")
def best_only(x: Any, weights: Any, mask: Any) -> Any:
    return _routed(x, weights, mask, who="best")


@wrong("routed", "returns what is added, without the stream")
def without_stream(x: Any, weights: Any, mask: Any) -> Any:
    return _routed(x, weights, mask, residual="none")


@wrong("routed", "tokens that nobody took become zeros")
def dropped_tokens(x: Any, weights: Any, mask: Any) -> Any:
    return _routed(x, weights, mask, residual="taken")


@wrong("routed", "biases are forgotten")
def without_biases(x: Any, weights: Any, mask: Any) -> Any:
    return _routed(x, weights, mask, bias=False)


@wrong("routed", "no gradient reaches the router")
def detached(x: Any, weights: Any, mask: Any) -> Any:
    return _routed(x, weights, mask, detach=True)


@wrong("routed", "GELU by its tanh formula")
def tanh_gelu(x: Any, weights: Any, mask: Any) -> Any:
    return _routed(x, weights, mask, act=lambda z: F.gelu(z, approximate="tanh"))


@wrong("routed", "bfloat16 is summed in bfloat16")
def coarse_sums(x: Any, weights: Any, mask: Any) -> Any:
    return _routed(x, weights, mask, wide=False)


@wrong("routed", "all experts work on all tokens: too much work, and nan at padding gets through")
def everybody_works(x: Any, weights: Any, mask: Any) -> Any:
    kind = torch.promote_types(x.dtype, torch.float32)
    rows, w = x.to(kind), {name: one.to(kind) for name, one in weights.items()}
    gates = (rows @ w["router"]).softmax(-1) * mask
    inner = F.gelu(torch.einsum("bnd,edf->bnef", rows, w["up"]) + w["up_bias"])
    said = torch.einsum("bnef,efd->bned", inner, w["down"]) + w["down_bias"]
    return (rows + (gates[..., None] * said).sum(2)).to(x.dtype)


@right("routed", "pairs sorted by expert, in-place sums")
def by_pairs(x: Any, weights: Any, mask: Any) -> Any:
    kind = torch.float64 if x.dtype == torch.float64 else torch.float32
    w = {name: one.to(kind) for name, one in weights.items()}
    flat = x.reshape(-1, x.shape[-1]).to(kind)
    expert, token = mask.flatten(0, 1).T.nonzero(as_tuple=True)
    gates = torch.softmax(flat @ w["router"], 1)[token, expert]
    parts = []
    for e, own in enumerate(flat[token].split(expert.bincount(minlength=mask.shape[2]).tolist())):
        inner = F.gelu(torch.addmm(w["up_bias"][e], own, w["up"][e]))
        parts.append(torch.addmm(w["down_bias"][e], inner, w["down"][e]))
    out = flat.clone()
    out.index_add_(0, token, gates[:, None] * torch.cat(parts))
    return out.to(x.dtype).reshape(x.shape)


@right("routed", "text by text, added where it belongs")
def by_text(x: Any, weights: Any, mask: Any) -> Any:
    kind = torch.float64 if x.dtype == torch.float64 else torch.float32
    texts = []
    for text, taken in zip(x.to(kind), mask, strict=True):
        shares = (text @ weights["router"].to(kind)).softmax(1)
        out = text
        for e in taken.any(0).nonzero().flatten().tolist():
            own = taken[:, e]
            inner = F.gelu(text[own] @ weights["up"][e].to(kind) + weights["up_bias"][e].to(kind))
            said = inner @ weights["down"][e].to(kind) + weights["down_bias"][e].to(kind)
            place = own.nonzero().expand(-1, text.shape[1])
            out = out.scatter_add(0, place, said * shares[own, e].unsqueeze(1))
        texts.append(out)
    return torch.stack(texts).to(x.dtype)


def _audit(
    layer: Layer, x: Tensor,
    *, factors: Sequence[float] = (-1.0, 0.0, 10.0), places: str = "all", cuts: str = "all",
    texts: slice = slice(None), before: bool = True, loud: float = 100.0, behind: int | None = None,
    told: bool = True, exact: bool = False, inside: bool = False, together: bool = True,
) -> dict[str, bool]:  # fmt: skip
    """The audit, right unless a fault is asked for."""
    batch, n, _ = x.shape
    behind = n if behind is None else behind

    def moved(a: Tensor, b: Tensor) -> bool:
        return not (torch.equal(a, b) if exact else torch.allclose(a, b, rtol=1e-4, atol=1e-5))

    found = dict.fromkeys(("later", "length", "neighbours", "padding"), False)
    whole = layer(x, torch.ones(batch, n).bool())
    for b in range(batch)[texts]:
        text, real = x[b : b + 1], torch.ones(1, n).bool()
        alone = layer(text, real)
        found["neighbours"] |= together and moved(whole[b : b + 1], alone)
        padded = torch.cat([text, torch.full_like(text[:, :1].expand(1, behind, -1), loud)], 1)
        seen = torch.arange(n + behind)[None] < (n if told else n + behind)
        found["padding"] |= moved(layer(padded, seen)[:, :n], alone)
        for at in range(1, n):
            if cuts == "all" or (cuts == "last" and at == n - 1):
                found["length"] |= moved(layer(text[:, :at], real[:, :at]), alone[:, :at])
            if places == "last" and at < n - 1:
                continue
            for factor in factors:
                changed = x.clone() if inside else text.clone()
                changed[b if inside else 0, at] *= factor
                answer = layer(changed, torch.ones(changed.shape[:2]).bool())
                old = whole if inside else alone
                end = at if before else n
                found["later"] |= moved(answer[:, :end], old[:, :end])
    return found


@wrong("audit", "tokens are only negated")
def negated_only(layer: Any, x: Any) -> Any:
    return _audit(layer, x, factors=(-1.0,))


@wrong("audit", "tokens are only set to zero")
def zeroed_only(layer: Any, x: Any) -> Any:
    return _audit(layer, x, factors=(0.0,))


@wrong("audit", "tokens are only changed a little")
def changed_a_little(layer: Any, x: Any) -> Any:
    return _audit(layer, x, factors=(1.001,))


@wrong("audit", "only the last token is changed")
def last_token_only(layer: Any, x: Any) -> Any:
    return _audit(layer, x, places="last")


@wrong("audit", "cut by one token only")
def last_cut_only(layer: Any, x: Any) -> Any:
    return _audit(layer, x, cuts="last")


@wrong("audit", "never cut: the prefix test of changes alone")
def never_cut(layer: Any, x: Any) -> Any:
    return _audit(layer, x, cuts="none")


@wrong("audit", "only the first text is tried")
def first_text_only(layer: Any, x: Any) -> Any:
    return _audit(layer, x, texts=slice(0, 1))


@wrong("audit", "positions after the change count, too")
def later_positions_count(layer: Any, x: Any) -> Any:
    return _audit(layer, x, before=False)


@wrong("audit", "padding is a single row")
def little_padding(layer: Any, x: Any) -> Any:
    return _audit(layer, x, behind=1)


@wrong("audit", "padding is zeros")
def quiet_padding(layer: Any, x: Any) -> Any:
    return _audit(layer, x, loud=0.0)


@wrong("audit", "the layer is not told which rows are padding")
def padding_untold(layer: Any, x: Any) -> Any:
    return _audit(layer, x, told=False)


@wrong("audit", "bit for bit: rounding is taken for a leak")
def bit_for_bit(layer: Any, x: Any) -> Any:
    return _audit(layer, x, exact=True)


@wrong("audit", "tokens are changed inside the batch: a layer that hears its neighbours seems to look ahead")
def inside_the_batch(layer: Any, x: Any) -> Any:
    return _audit(layer, x, inside=True)


@wrong("audit", "the batch is never compared with a text alone")
def never_alone(layer: Any, x: Any) -> Any:
    return _audit(layer, x, together=False)


@right("audit", "one question after the other, stopping at the first difference")
def one_after_the_other(layer: Any, x: Any) -> Any:
    n = x.shape[1]

    def yes(*shape: int) -> Tensor:
        return torch.ones(shape, dtype=torch.bool)

    def same(a: Tensor, b: Tensor) -> bool:
        return bool(torch.isclose(a, b, 1e-4, 1e-5).all())

    texts = [x[b : b + 1] for b in range(len(x))]
    alone = [layer(text, yes(1, n)) for text in texts]

    def later(text: Tensor, old: Tensor) -> bool:
        for at in range(n - 1, 0, -1):
            for row in (-text[0, at], 0 * text[0, at], 10 * text[0, at]):
                changed = torch.cat([text[:, :at], row[None, None], text[:, at + 1 :]], 1)
                if not same(layer(changed, yes(1, n))[:, :at], old[:, :at]):
                    return True
        return False

    pairs = list(zip(texts, alone, strict=True))
    tail = torch.full((1, n, x.shape[2]), 100.0)
    seen = torch.cat([yes(1, n), ~yes(1, n)], 1)
    return {
        "later": any(later(text, old) for text, old in pairs),
        "length": any(
            not same(layer(text[:, :m], yes(1, m)), old[:, :m]) for text, old in pairs for m in range(1, n)
        ),
        "neighbours": not same(layer(x, yes(len(x), n)), torch.cat(alone)),
        "padding": any(not same(layer(torch.cat([text, tail], 1), seen)[:, :n], old) for text, old in pairs),
    }


def _thresholds(
    passes: Any, experts: int, momentum: float,
    *, step: str = "both", start: float = math.inf, edge_of: str = "mean", count: str = "own",
    which: str = "min",
) -> Tensor:  # fmt: skip
    """The thresholds, right unless a fault is asked for."""
    levels = torch.full((experts,), start)
    for e in range(experts):
        level, taught = start, 0
        for number, (scores, mask) in enumerate(passes, 1):
            texts = [own[taken] for own, taken in zip(scores[..., e], mask[..., e], strict=True)]
            found = [float(getattr(t, which)()) for t in texts if len(t)]
            if edge_of == "zeros":
                found += [0.0] * sum(len(t) == 0 for t in texts)
            if not found or (edge_of == "zeros" and not any(len(t) for t in texts)):
                continue
            edge = min(found) if edge_of == "lowest" else sum(found) / len(found)
            taught = taught + 1 if count == "own" else number
            size = {
                "both": max(1 / taught, 1 - momentum),
                "plain": 1 / taught,
                "running": 1 - momentum,
                "first": 1.0 if taught == 1 else 1 - momentum,
                "reversed": max(1 / taught, momentum),
                "least": min(1 / taught, 1 - momentum) if taught > 1 else 1.0,
            }[step]
            level = edge if math.isinf(level) else level + size * (edge - level)
        levels[e] = level
    return levels


@wrong("thresholds", "the momentum from the start, after the first edge")
def running_from_the_start(passes: Any, experts: int, momentum: float) -> Any:
    return _thresholds(passes, experts, momentum, step="first")


@wrong("thresholds", "a plain mean throughout")
def plain_mean(passes: Any, experts: int, momentum: float) -> Any:
    return _thresholds(passes, experts, momentum, step="plain")


@wrong("thresholds", "momentum and what comes in have changed places")
def reversed_momentum(passes: Any, experts: int, momentum: float) -> Any:
    return _thresholds(passes, experts, momentum, step="reversed")


@wrong("thresholds", "the smaller of the two steps")
def smaller_step(passes: Any, experts: int, momentum: float) -> Any:
    return _thresholds(passes, experts, momentum, step="least")


@wrong("thresholds", "begins at 0 and runs from there: the first passes count too little")
def begins_at_zero(passes: Any, experts: int, momentum: float) -> Any:
    return _thresholds(passes, experts, momentum, step="running", start=0.0)


@wrong("thresholds", "an expert that nobody taught asks for what an indifferent router gives, 1 / experts")
def indifferent(passes: Any, experts: int, momentum: float) -> Any:
    level = _thresholds(passes, experts, momentum)
    return torch.where(level.isinf(), 1 / experts, level)


@wrong("thresholds", "passes are counted for all experts together")
def shared_count(passes: Any, experts: int, momentum: float) -> Any:
    return _thresholds(passes, experts, momentum, count="all")


@wrong("thresholds", "the lowest of the batch, not the mean of the texts' lowest")
def lowest_of_all(passes: Any, experts: int, momentum: float) -> Any:
    return _thresholds(passes, experts, momentum, edge_of="lowest")


@wrong("thresholds", "a text of which it took nothing counts as 0")
def nothing_is_zero(passes: Any, experts: int, momentum: float) -> Any:
    return _thresholds(passes, experts, momentum, edge_of="zeros")


@wrong("thresholds", "the mean score taken, not the lowest")
def mean_taken(passes: Any, experts: int, momentum: float) -> Any:
    return _thresholds(passes, experts, momentum, which="mean")


@wrong("thresholds", "the highest score taken")
def highest_taken(passes: Any, experts: int, momentum: float) -> Any:
    return _thresholds(passes, experts, momentum, which="max")


@wrong("thresholds", "scores times the mask: 0 is the lowest wherever a token was left, and nan gets through")
def times_the_mask(passes: Any, experts: int, momentum: float) -> Any:
    masked = [(scores * mask, torch.ones_like(mask)) for scores, mask in passes]
    return _thresholds(masked, experts, momentum)


@wrong("thresholds", "the infinity of an empty text runs into the average")
def infinity_spreads(passes: Any, experts: int, momentum: float) -> Any:
    level = torch.full((experts,), math.inf)
    for t, (scores, mask) in enumerate(passes, 1):
        edge = scores.masked_fill(~mask, math.inf).amin(1).mean(0)
        level = edge if t == 1 else level + max(1 / t, 1 - momentum) * (edge - level)
    return level


@right("thresholds", "expert by expert, in Python's numbers")
def by_expert(passes: Any, experts: int, momentum: float) -> Any:
    return _thresholds(passes, experts, momentum)


def _mend(
    scores: Tensor, chosen: Tensor, threshold: Tensor, valid: Tensor | None,
    *, equal: bool = True, alone_at_padding: bool = False, pairs: str = "real", swap: bool = False,
    of: str = "pairs", per: str = "real", empty: tuple[float, float, float, float] = (1.0, 1.0, 0.0, 0.0),
    complement: bool = False,
) -> Any:  # fmt: skip
    """The mended choice and its gap, right unless a fault is asked for."""
    valid = torch.ones(scores.shape[:2]).bool() if valid is None else valid
    alone = scores >= threshold if equal else scores > threshold
    if not alone_at_padding:
        alone = alone & valid[..., None]
    counted = valid if pairs == "real" else torch.ones_like(valid)
    a, c = alone[counted], chosen[counted]
    both, by_choice, by_itself = int((a & c).sum()), int(c.sum()), int(a.sum())
    union = int((a | c).sum())
    total = a.numel() if of == "pairs" else union
    kept = both / by_choice if by_choice else empty[1]
    added = 1 - both / by_itself if by_itself else empty[2]
    if complement:
        added = 1 - kept
    if swap:
        kept, added = 1 - added, 1 - kept
    tokens = int(valid.sum()) if per == "real" else valid.numel() if per == "all" else scores.shape[2]
    agree = (int((a == c).sum()) if of == "pairs" else both) / total if total else empty[0]
    return alone, {
        "agree": agree,
        "kept": kept,
        "added": added,
        "load_choice": by_choice / tokens if tokens else empty[3],
        "load_alone": by_itself / tokens if tokens else empty[3],
    }


@wrong("mend", "a score equal to the threshold is not taken")
def only_above(scores: Any, chosen: Any, threshold: Any, valid: Any = None) -> Any:
    return _mend(scores, chosen, threshold, valid, equal=False)


@wrong("mend", "padding is taken, too")
def takes_padding(scores: Any, chosen: Any, threshold: Any, valid: Any = None) -> Any:
    return _mend(scores, chosen, threshold, valid, alone_at_padding=True)


@wrong("mend", "padding counts among the pairs: nobody takes it, so both agree")
def padding_agrees(scores: Any, chosen: Any, threshold: Any, valid: Any = None) -> Any:
    return _mend(scores, chosen, threshold, valid, pairs="all")


@wrong("mend", "kept is taken of those alone, added of the choice")
def swapped(scores: Any, chosen: Any, threshold: Any, valid: Any = None) -> Any:
    return _mend(scores, chosen, threshold, valid, swap=True)


@wrong("mend", "added is what kept leaves over")
def what_is_left_over(scores: Any, chosen: Any, threshold: Any, valid: Any = None) -> Any:
    return _mend(scores, chosen, threshold, valid, complement=True)


@wrong("mend", "agreement among the pairs that either takes")
def among_taken(scores: Any, chosen: Any, threshold: Any, valid: Any = None) -> Any:
    return _mend(scores, chosen, threshold, valid, of="union")


@wrong("mend", "loads by all positions, padding included")
def loads_by_positions(scores: Any, chosen: Any, threshold: Any, valid: Any = None) -> Any:
    return _mend(scores, chosen, threshold, valid, per="all")


@wrong("mend", "loads by expert, not by token")
def loads_by_expert(scores: Any, chosen: Any, threshold: Any, valid: Any = None) -> Any:
    return _mend(scores, chosen, threshold, valid, per="experts")


@wrong("mend", "a share of nothing is 0")
def nothing_is_zero_here(scores: Any, chosen: Any, threshold: Any, valid: Any = None) -> Any:
    return _mend(scores, chosen, threshold, valid, empty=(0.0, 0.0, 0.0, 0.0))


@wrong("mend", "a share of nothing is nan")
def nothing_is_nan(scores: Any, chosen: Any, threshold: Any, valid: Any = None) -> Any:
    return _mend(scores, chosen, threshold, valid, empty=(math.nan, math.nan, math.nan, math.nan))


@wrong("mend", "an expert takes no more than it took by choice: that needs the others, and leaks")
def no_more_than_the_choice(scores: Any, chosen: Any, threshold: Any, valid: Any = None) -> Any:
    alone, gap = _mend(scores, chosen, threshold, valid)
    return alone & (alone.cumsum(1) <= chosen.sum(1, keepdim=True)), gap


@wrong("mend", "one threshold for all experts, their mean")
def one_for_all(scores: Any, chosen: Any, threshold: Any, valid: Any = None) -> Any:
    return _mend(scores, chosen, threshold.mean().expand_as(threshold), valid)


@right("mend", "with means and products of numbers")
def with_means(scores: Any, chosen: Any, threshold: Any, valid: Any = None) -> Any:
    real = torch.ones(scores.shape[:2]).bool() if valid is None else valid
    alone = torch.where(real[..., None], scores >= threshold[None, None], False)
    a, c = alone[real].double(), chosen[real].double()
    if len(a) == 0:
        return alone, {"agree": 1.0, "kept": 1.0, "added": 0.0, "load_choice": 0.0, "load_alone": 0.0}
    both = float((a * c).sum())
    return alone, {
        "agree": 1 - float((a - c).abs().mean()),
        "kept": both / float(c.sum()) if c.any() else 1.0,
        "added": 1 - both / float(a.sum()) if a.any() else 0.0,
        "load_choice": float(c.sum(1).mean()),
        "load_alone": float(a.sum(1).mean()),
    }
