"""Answers to assignment 2 that are known to be wrong, and right ones in another style."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from topk_lib.grading import right, wrong

Weights = dict[str, Tensor]
Batches = list[tuple[Tensor, Tensor, Tensor]]
Model = Callable[[Tensor], Tensor]
Found = dict[str, list[int]]


def _attend(
    q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None, causal: bool, scale: float | None,
    *, tile: bool = False, shift: int | None = None, clean: bool = True, least: float = -math.inf,
    width: int | None = None, empty: str = "zeros", after: bool = False, rows: bool = False,
    single: bool = False,
) -> Tensor:  # fmt: skip
    """Attention, right unless a fault is asked for."""
    n, m = q.shape[2], k.shape[2]
    allowed = torch.ones(n, m, dtype=torch.bool)
    if causal:
        allowed = allowed.tril(m - n if shift is None else shift)
    if valid is not None:
        allowed = allowed & (valid[:, None, :, None][:, :, :n] if rows else valid[:, None, None])
        if clean:
            k, v = (t.masked_fill(~valid[:, None, :, None], 0) for t in (k, v))
    shared = q.shape[1] // k.shape[1]
    k, v = (t.repeat(1, shared, 1, 1) if tile else t.repeat_interleave(shared, 1) for t in (k, v))
    scale = (width or q.shape[-1]) ** -0.5 if scale is None else scale
    if single:
        q, k, v = q.float(), k.float(), v.float()
    scores, some = q @ k.mT * scale, allowed.any(-1, keepdim=True)
    if after:
        return scores.softmax(-1) * allowed @ v
    if empty == "nan":
        return scores.masked_fill(~allowed, least).softmax(-1) @ v
    if empty == "nan_to_num":
        return scores.masked_fill(~allowed, -math.inf).softmax(-1).nan_to_num() @ v
    out = scores.masked_fill(~allowed & some, least).softmax(-1) @ v
    return out.masked_fill(~some, 0)


@wrong("attention", "key heads tiled: query head i reads key head i modulo their number")
def tiled_heads(q: Any, k: Any, v: Any, valid: Any = None, causal: bool = False, scale: Any = None) -> Any:
    return _attend(q, k, v, valid, causal, scale, tile=True)


@wrong("attention", "queries stand at the first places: PyTorch's own is_causal with a cache")
def top_left(q: Any, k: Any, v: Any, valid: Any = None, causal: bool = False, scale: Any = None) -> Any:
    return _attend(q, k, v, valid, causal, scale, shift=0)


@wrong("attention", "one token of the future: the diagonal above is allowed")
def one_ahead(q: Any, k: Any, v: Any, valid: Any = None, causal: bool = False, scale: Any = None) -> Any:
    return _attend(q, k, v, valid, causal, scale, shift=k.shape[2] - q.shape[2] + 1)


@wrong("attention", "a token may not read itself")
def not_itself(q: Any, k: Any, v: Any, valid: Any = None, causal: bool = False, scale: Any = None) -> Any:
    return _attend(q, k, v, valid, causal, scale, shift=k.shape[2] - q.shape[2] - 1)


@wrong("attention", "0 times nan: padding is masked, its values are not cleaned")
def nan_gets_through(
    q: Any, k: Any, v: Any, valid: Any = None, causal: bool = False, scale: Any = None
) -> Any:
    return _attend(q, k, v, valid, causal, scale, clean=False)


@wrong("attention", "padding gets the score -5, which is a score")
def least_is_a_score(
    q: Any, k: Any, v: Any, valid: Any = None, causal: bool = False, scale: Any = None
) -> Any:
    return _attend(q, k, v, valid, causal, scale, least=-5.0)


@wrong("attention", "a score of 0 where nothing may be read")
def score_zero(q: Any, k: Any, v: Any, valid: Any = None, causal: bool = False, scale: Any = None) -> Any:
    return _attend(q, k, v, valid, causal, scale, least=0.0)


@wrong("attention", "shares set to 0 after the softmax: they no longer sum to 1")
def zero_after(q: Any, k: Any, v: Any, valid: Any = None, causal: bool = False, scale: Any = None) -> Any:
    return _attend(q, k, v, valid, causal, scale, after=True)


@wrong("attention", "a row of -inf becomes nan")
def nan_rows(q: Any, k: Any, v: Any, valid: Any = None, causal: bool = False, scale: Any = None) -> Any:
    return _attend(q, k, v, valid, causal, scale, empty="nan")


@wrong("attention", "the lowest finite number for -inf: who may read nothing reads everything")
def finite_least(q: Any, k: Any, v: Any, valid: Any = None, causal: bool = False, scale: Any = None) -> Any:
    return _attend(q, k, v, valid, causal, scale, least=torch.finfo(q.dtype).min, empty="nan")


@wrong("attention", "divided by the root of the width of a value")
def root_of_values(q: Any, k: Any, v: Any, valid: Any = None, causal: bool = False, scale: Any = None) -> Any:
    return _attend(q, k, v, valid, causal, scale, width=v.shape[-1])


@wrong("attention", "a scale of 0 taken for none: `scale or ...`")
def falsy_scale(q: Any, k: Any, v: Any, valid: Any = None, causal: bool = False, scale: Any = None) -> Any:
    return _attend(q, k, v, valid, causal, scale or None)


@wrong("attention", "the mask on the rows of the padding, not on its columns")
def masked_rows(q: Any, k: Any, v: Any, valid: Any = None, causal: bool = False, scale: Any = None) -> Any:
    return _attend(q, k, v, valid, causal, scale, rows=True)


@wrong("attention", "float64 is calculated in float32")
def in_single(q: Any, k: Any, v: Any, valid: Any = None, causal: bool = False, scale: Any = None) -> Any:
    return _attend(q, k, v, valid, causal, scale, single=True).to(q.dtype)


@wrong("attention", "exponentials without taking the largest score off: they overflow")
def overflowing(q: Any, k: Any, v: Any, valid: Any = None, causal: bool = False, scale: Any = None) -> Any:
    n, m = q.shape[2], k.shape[2]
    allowed = torch.ones(n, m, dtype=torch.bool).tril(m - n) if causal else torch.ones(n, m, dtype=torch.bool)
    if valid is not None:
        allowed = allowed & valid[:, None, None]
        k, v = (t.masked_fill(~valid[:, None, :, None], 0) for t in (k, v))
    k, v = (t.repeat_interleave(q.shape[1] // k.shape[1], 1) for t in (k, v))
    shares = (q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)).exp() * allowed
    return shares @ v / shares.sum(-1, keepdim=True).clamp(min=1e-30)


@right("attention", "PyTorch's own, with the masks made by hand")
def by_library(q: Any, k: Any, v: Any, valid: Any = None, causal: bool = False, scale: Any = None) -> Any:
    batch, _, n, _ = q.shape
    m = k.shape[2]
    allowed = torch.ones(batch, 1, n, m, dtype=torch.bool)
    if causal:
        allowed &= torch.arange(m) <= torch.arange(m - n, m)[:, None]
    if valid is not None:
        allowed &= valid[:, None, None, :]
        k, v = (torch.where(valid[:, None, :, None], t, torch.zeros_like(t)) for t in (k, v))
    some = allowed.any(-1, keepdim=True)
    out = F.scaled_dot_product_attention(q, k, v, allowed | ~some, scale=scale, enable_gqa=True)
    return out * some


@right("attention", "nan_to_num after the softmax: the mask keeps nan out of the gradient, too")
def nan_to_zero(q: Any, k: Any, v: Any, valid: Any = None, causal: bool = False, scale: Any = None) -> Any:
    return _attend(q, k, v, valid, causal, scale, empty="nan_to_num")


@right("attention", "head by head, with grouped products")
def by_group(q: Any, k: Any, v: Any, valid: Any = None, causal: bool = False, scale: Any = None) -> Any:
    n, m = q.shape[2], k.shape[2]
    scale = 1 / math.sqrt(q.shape[3]) if scale is None else scale
    readable = torch.ones(len(q), 1, 1, m, dtype=torch.bool) if valid is None else valid[:, None, None]
    if valid is not None:
        k, v = (t.clone() for t in (k, v))
        k.transpose(1, 2)[~valid], v.transpose(1, 2)[~valid] = 0, 0
    if causal:
        readable = readable & (torch.arange(m) <= torch.arange(n)[:, None] + m - n)
    heads = []
    for h in range(q.shape[1]):
        own = h * k.shape[1] // q.shape[1]
        scores = torch.einsum("bnd,bmd->bnm", q[:, h], k[:, own]) * scale
        mask = readable[:, 0].expand(scores.shape)
        scores = torch.where(mask, scores, torch.finfo(scores.dtype).min)
        shares = (scores - scores.amax(-1, keepdim=True)).exp() * mask
        heads.append(shares @ v[:, own] / shares.sum(-1, keepdim=True).clamp(min=1e-9))
    return torch.stack(heads, 1)


def _block(
    x: Tensor, weights: Weights, size: int, theta: float, eps: float, valid: Tensor | None,
    *, bias: bool = True, head_norm: str = "before", pairs: str = "halves", gate: str = "gate",
    act: Callable[[Tensor], Tensor] = F.silu, norm: str = "rms", order: str = "pre", turned: str = "qk",
    width: int | None = None, causal: bool = True, masked: bool = True, tile: bool = False, safe: bool = True,
    stream: bool = True,
) -> Tensor:  # fmt: skip
    """A layer, right unless a fault is asked for."""

    def normed(x: Tensor, name: str) -> Tensor:
        if norm == "layer":
            x = x - x.mean(-1, keepdim=True)
        square = x.square().mean(-1, keepdim=True)
        root = square.sqrt() + eps if norm == "outside" else (square + eps).sqrt()
        return x / root * weights[f"{name}.weight"]

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias") if bias else None)

    def turn(x: Tensor) -> Tensor:
        half = size // 2
        angle = torch.arange(x.shape[-2], dtype=x.dtype)[:, None] / theta ** (
            torch.arange(half, dtype=x.dtype) / half
        )
        a, b = (x[..., ::2], x[..., 1::2]) if pairs == "neighbours" else (x[..., :half], x[..., half:])
        c, s = angle.cos(), -angle.sin() if pairs == "backwards" else angle.sin()
        out = a * c - b * s, a * s + b * c
        return torch.stack(out, -1).flatten(-2) if pairs == "neighbours" else torch.cat(out, -1)

    def heads(x: Tensor, part: str) -> Tensor:
        own = f"self_attn.{part}_norm"
        cut = linear(x, f"self_attn.{part}_proj").view(*x.shape[:2], -1, size).transpose(1, 2)
        norms = f"{own}.weight" in weights and head_norm != "none"
        if norms and head_norm == "before":
            cut = normed(cut, own)
        if part in turned:
            cut = turn(cut)
        return normed(cut, own) if norms and head_norm == "after" else cut

    y = normed(x, "input_layernorm") if order != "post" else x
    q, k, v = (heads(y, part) for part in "qkv")
    shared = q.shape[1] // k.shape[1]
    k, v = (t.repeat(1, shared, 1, 1) if tile else t.repeat_interleave(shared, 1) for t in (k, v))
    allowed = torch.ones(x.shape[1], x.shape[1]).bool()
    allowed = allowed.tril() if causal else allowed
    if masked and valid is not None:
        allowed = allowed & valid[:, None, None]
    scores = (q @ k.mT * (width or size) ** -0.5).masked_fill(~allowed, -1e9 if safe else -math.inf)
    mixed = linear((scores.softmax(-1) @ v).transpose(1, 2).flatten(2), "self_attn.o_proj")
    x = x + mixed if stream else mixed
    x = normed(x, "input_layernorm") if order == "post" else x
    y = x if order in ("post", "once") else normed(x, "post_attention_layernorm")
    open_, through = ("gate", "up") if gate == "gate" else ("up", "gate")
    inner = act(linear(y, f"mlp.{open_}_proj")) * linear(y, f"mlp.{through}_proj")
    x = x + linear(inner, "mlp.down_proj")
    return normed(x, "post_attention_layernorm") if order == "post" else x


@wrong("block", "biases are forgotten")
def no_bias(x: Any, weights: Any, size: int, theta: float, eps: float, valid: Any = None) -> Any:
    return _block(x, weights, size, theta, eps, valid, bias=False)


@wrong("block", "the norms of the heads are forgotten")
def no_head_norm(x: Any, weights: Any, size: int, theta: float, eps: float, valid: Any = None) -> Any:
    return _block(x, weights, size, theta, eps, valid, head_norm="none")


@wrong("block", "the norms of the heads come after the turn")
def head_norm_after(x: Any, weights: Any, size: int, theta: float, eps: float, valid: Any = None) -> Any:
    return _block(x, weights, size, theta, eps, valid, head_norm="after")


@wrong("block", "rotary pairs are neighbours, as in the paper, where these weights pair the two halves")
def neighbours(x: Any, weights: Any, size: int, theta: float, eps: float, valid: Any = None) -> Any:
    return _block(x, weights, size, theta, eps, valid, pairs="neighbours")


@wrong("block", "values are turned, too")
def turned_values(x: Any, weights: Any, size: int, theta: float, eps: float, valid: Any = None) -> Any:
    return _block(x, weights, size, theta, eps, valid, turned="qkv")


@wrong("block", "keys are not turned")
def unturned_keys(x: Any, weights: Any, size: int, theta: float, eps: float, valid: Any = None) -> Any:
    return _block(x, weights, size, theta, eps, valid, turned="q")


@wrong("block", "the rotary base is always 10,000")
def fixed_base(x: Any, weights: Any, size: int, theta: float, eps: float, valid: Any = None) -> Any:
    return _block(x, weights, size, 10_000.0, eps, valid)


@wrong("block", "eps is added outside the root")
def eps_outside(x: Any, weights: Any, size: int, theta: float, eps: float, valid: Any = None) -> Any:
    return _block(x, weights, size, theta, eps, valid, norm="outside")


@wrong("block", "LayerNorm in place of RMSNorm")
def layer_normed(x: Any, weights: Any, size: int, theta: float, eps: float, valid: Any = None) -> Any:
    return _block(x, weights, size, theta, eps, valid, norm="layer")


@wrong("block", "the sum is normed, as BERT does")
def post_norm(x: Any, weights: Any, size: int, theta: float, eps: float, valid: Any = None) -> Any:
    return _block(x, weights, size, theta, eps, valid, order="post")


@wrong("block", "the feed-forward block reads the stream without a norm")
def one_norm(x: Any, weights: Any, size: int, theta: float, eps: float, valid: Any = None) -> Any:
    return _block(x, weights, size, theta, eps, valid, order="once")


@wrong("block", "GELU in place of x times sigmoid of x")
def with_gelu(x: Any, weights: Any, size: int, theta: float, eps: float, valid: Any = None) -> Any:
    return _block(x, weights, size, theta, eps, valid, act=F.gelu)


@wrong("block", "gate and up have changed places")
def gate_and_up(x: Any, weights: Any, size: int, theta: float, eps: float, valid: Any = None) -> Any:
    return _block(x, weights, size, theta, eps, valid, gate="up")


@wrong("block", "scores are divided by the root of the stream's width")
def root_of_stream(x: Any, weights: Any, size: int, theta: float, eps: float, valid: Any = None) -> Any:
    return _block(x, weights, size, theta, eps, valid, width=x.shape[-1])


@wrong("block", "key heads are tiled")
def tiled(x: Any, weights: Any, size: int, theta: float, eps: float, valid: Any = None) -> Any:
    return _block(x, weights, size, theta, eps, valid, tile=True)


@wrong("block", "tokens read what comes later")
def both_ways(x: Any, weights: Any, size: int, theta: float, eps: float, valid: Any = None) -> Any:
    return _block(x, weights, size, theta, eps, valid, causal=False)


@wrong("block", "padding is read")
def reads_padding(x: Any, weights: Any, size: int, theta: float, eps: float, valid: Any = None) -> Any:
    return _block(x, weights, size, theta, eps, valid, masked=False)


@wrong("block", "queries at padding on the left become nan, and spread in the next layer")
def nan_at_padding(x: Any, weights: Any, size: int, theta: float, eps: float, valid: Any = None) -> Any:
    return _block(x, weights, size, theta, eps, valid, safe=False)


@wrong("block", "what attention brings replaces the stream")
def no_residual(x: Any, weights: Any, size: int, theta: float, eps: float, valid: Any = None) -> Any:
    return _block(x, weights, size, theta, eps, valid, stream=False)


@right("block", "by hand, with a finite lowest score")
def by_hand(x: Any, weights: Any, size: int, theta: float, eps: float, valid: Any = None) -> Any:
    return _block(x, weights, size, theta, eps, valid)


@right("block", "PyTorch's norm and attention, rotary with the library's doubled cosines")
def with_library_parts(x: Any, weights: Any, size: int, theta: float, eps: float, valid: Any = None) -> Any:
    n, w = x.shape[1], dict(weights)
    speeds = theta ** -(torch.arange(0, size, 2).double() / size)
    angle = (torch.arange(n).double()[:, None] * speeds).repeat(1, 2).to(x.dtype)

    def heads(part: str) -> Tensor:
        bias = w.get(f"self_attn.{part}_proj.bias")
        cut = F.linear(y, w[f"self_attn.{part}_proj.weight"], bias).view(len(x), n, -1, size)
        if f"self_attn.{part}_norm.weight" in w:
            cut = F.rms_norm(cut, (size,), w[f"self_attn.{part}_norm.weight"], eps)
        cut = cut.transpose(1, 2)
        if part == "v":
            return cut
        a, b = cut.chunk(2, -1)
        return cut * angle.cos() + torch.cat([-b, a], -1) * angle.sin()

    y = F.rms_norm(x, x.shape[-1:], w["input_layernorm.weight"], eps)
    allowed = torch.ones(n, n).tril().bool()[None, None]
    if valid is not None:
        allowed = (allowed & valid[:, None, None]) | torch.eye(n).bool()
    mixed = F.scaled_dot_product_attention(heads("q"), heads("k"), heads("v"), allowed, enable_gqa=True)
    x = x + mixed.transpose(1, 2).reshape(len(x), n, -1) @ w["self_attn.o_proj.weight"].T
    y = F.rms_norm(x, x.shape[-1:], w["post_attention_layernorm.weight"], eps)
    gate, up = y @ w["mlp.gate_proj.weight"].T, y @ w["mlp.up_proj.weight"].T
    return x + (gate * up / (1 + (-gate).exp())) @ w["mlp.down_proj.weight"].T


def _surprise(batch: Any, both: bool = True, shift: bool = True, coarse: bool = False) -> Tensor:
    """Surprises in nats of the tokens of a batch that count, text after text."""
    logits, ids, valid = batch
    logits = logits if coarse else logits.double()
    if shift:
        counts = valid[:, 1:] & valid[:, :-1] if both else valid[:, 1:]
        logits, ids = logits[:, :-1][counts], ids[:, 1:][counts]
    else:
        logits, ids = logits[valid], ids[valid]
    nats: Tensor = -logits.log_softmax(-1).gather(-1, ids[:, None])[:, 0]
    return nats


def _exp(nats: Tensor) -> float:
    return float(nats.mean().double().exp())


def _all(batches: Batches, **fault: Any) -> Tensor:
    return torch.cat([torch.zeros(0), *(_surprise(batch, **fault) for batch in batches)])


@wrong("perplexity", "the mean of the texts' means")
def mean_of_texts(batches: Any) -> Any:
    texts = [tuple(one[i : i + 1] for one in batch) for batch in batches for i in range(len(batch[1]))]
    means = [_surprise(text).mean() for text in texts if len(_surprise(text))]
    return _exp(torch.stack(means)) if means else math.nan


@wrong("perplexity", "the mean of the batches' means")
def mean_of_batches(batches: Any) -> Any:
    means = [_surprise(batch).mean() for batch in batches if len(_surprise(batch))]
    return _exp(torch.stack(means)) if means else math.nan


@wrong("perplexity", "the mean of the texts' perplexities")
def mean_of_perplexities(batches: Any) -> Any:
    texts = [tuple(one[i : i + 1] for one in batch) for batch in batches for i in range(len(batch[1]))]
    each = [_surprise(text).mean().exp() for text in texts if len(_surprise(text))]
    return float(torch.stack(each).mean()) if each else math.nan


@wrong("perplexity", "logits and tokens are not shifted against each other")
def unshifted(batches: Any) -> Any:
    return _exp(_all(batches, shift=False))


@wrong("perplexity", "the first real token is predicted from padding")
def from_padding(batches: Any) -> Any:
    return _exp(_all(batches, both=False))


@wrong("perplexity", "padding counts as tokens")
def padding_counts(batches: Any) -> Any:
    every = [(logits, ids, torch.ones_like(valid)) for logits, ids, valid in batches]
    return _exp(_all(every))


@wrong("perplexity", "divided by all real tokens, the first of each text included")
def divided_by_all(batches: Any) -> Any:
    count = sum(int(valid.sum()) for _, _, valid in batches)
    return float((_all(batches).sum() / count).exp()) if count else math.nan


@wrong("perplexity", "the loss, without its exponential")
def loss_alone(batches: Any) -> Any:
    return float(_all(batches).mean())


@wrong("perplexity", "2 to the power of nats")
def two_to_nats(batches: Any) -> Any:
    return float(2 ** _all(batches).mean())


@wrong("perplexity", "the mean of 1/p")
def mean_of_inverse(batches: Any) -> Any:
    return float(_all(batches).exp().mean())


@wrong("perplexity", "surprises times 0 at padding: nan and -100 get through")
def times_zero(batches: Any) -> Any:
    total, count = 0.0, 0
    for logits, ids, valid in batches:
        counts = valid[:, 1:] & valid[:, :-1]
        log_p = logits[:, :-1].double().log_softmax(-1).gather(-1, ids[:, 1:, None].clamp(min=0))[..., 0]
        total, count = total - float((log_p * counts).sum()), count + int(counts.sum())
    return float(torch.tensor(total / count).double().exp()) if count else math.nan


@wrong("perplexity", "the logarithm of a softmax in float32, kept from 0 by 1e-9")
def clamped(batches: Any) -> Any:
    shares = [
        logits[:, :-1][valid[:, 1:] & valid[:, :-1]].float().softmax(-1).gather(
            -1, ids[:, 1:][valid[:, 1:] & valid[:, :-1]][:, None]
        )[:, 0]
        for logits, ids, valid in batches
    ]  # fmt: skip
    return float((-(torch.cat([torch.zeros(0), *shares]) + 1e-9).log().mean()).exp())


@wrong("perplexity", "calculated in the coarse type of the logits")
def in_coarse_type(batches: Any) -> Any:
    return _exp(_all(batches, coarse=True)) if batches else math.nan


@wrong("perplexity", "math.exp stops at 709 nats, and at nothing to count")
def overflows(batches: Any) -> Any:
    nats = _all(batches)
    return math.exp(float(nats.sum()) / len(nats))


@right("perplexity", "cross_entropy with ignored places, in float32")
def by_cross_entropy(batches: Any) -> Any:
    total, count = 0.0, 0
    for logits, ids, valid in batches:
        counts = valid[:, 1:] & valid[:, :-1]
        target = torch.where(counts, ids[:, 1:], -100)
        lost = F.cross_entropy(logits[:, :-1].float().flatten(0, 1), target.flatten(), reduction="none")
        total, count = total + float(lost[counts.flatten()].sum()), count + int(counts.sum())
    if not count:
        return math.nan
    return math.inf if total / count > 700 else math.exp(total / count)


def _moved(
    a: Tensor, b: Tensor, rtol: float = 1e-4, atol: float = 1e-5, nan: bool = True, every: bool = False
) -> set[int]:
    off = ~torch.isclose(a, b, rtol=rtol, atol=atol, equal_nan=nan)
    return set((off.all(-1) if every else off.any(-1)).any(0).nonzero().flatten().tolist())


def _leaks(
    model: Model, ids: Tensor, types: int, *, moved: Callable[[Tensor, Tensor], set[int]] = _moved,
    news: Callable[[int, int], Any] = lambda _, types: range(types), places: str = "all",
    rows: int | None = None, cuts: str = "all", twice: bool = True, before: bool = True,
    alone_first: bool = True,
) -> Found:  # fmt: skip
    """The prefix test, right unless a fault is asked for."""
    whole, n = model(ids), ids.shape[1]
    if twice and moved(whole, model(ids)):
        raise ValueError("two answers to the same ids")
    later: set[int] = set()
    length: set[int] = set()
    batch: set[int] = set()
    for row in range(len(ids) if rows is None else rows):
        text = ids[row : row + 1]
        alone = model(text)
        batch |= moved(alone, whole[row : row + 1])
        for m in range(1, n) if cuts == "all" else ([n - 1] if cuts == "last" else []):
            length |= moved(alone[:, :m], model(text[:, :m]))
        for at in range(1, n) if places == "all" else [n - 1]:
            for new in news(int(text[0, at]), types):
                if alone_first:
                    changed = text.clone()
                    changed[0, at] = new
                    seen = moved(alone, model(changed))
                else:
                    changed = ids.clone()
                    changed[row, at] = new
                    seen = moved(whole, model(changed))
                later |= {t for t in seen if t < at} if before else seen
    return {"later": sorted(later), "length": sorted(length), "batch": sorted(batch)}


@wrong("leaks", "each token is changed to one other type only")
def one_change(model: Any, ids: Any, types: int) -> Any:
    return _leaks(model, ids, types, news=lambda old, types: [(old + 1) % types])


@wrong("leaks", "only the last token is changed")
def last_token_only(model: Any, ids: Any, types: int) -> Any:
    return _leaks(model, ids, types, places="last")


@wrong("leaks", "only the first text is tried")
def first_text_only(model: Any, ids: Any, types: int) -> Any:
    return _leaks(model, ids, types, rows=1)


@wrong("leaks", "the text is cut by one token only")
def last_cut_only(model: Any, ids: Any, types: int) -> Any:
    return _leaks(model, ids, types, cuts="last")


@wrong("leaks", "the text is never cut")
def never_cut(model: Any, ids: Any, types: int) -> Any:
    return _leaks(model, ids, types, cuts="none")


@wrong("leaks", "tokens are changed inside the batch: neighbours notice")
def inside_the_batch(model: Any, ids: Any, types: int) -> Any:
    return _leaks(model, ids, types, alone_first=False)


@wrong("leaks", "the changed position itself, and those after it, count")
def counts_later_positions(model: Any, ids: Any, types: int) -> Any:
    return _leaks(model, ids, types, before=False)


@wrong("leaks", "bit for bit: rounding is taken for a leak")
def bit_for_bit(model: Any, ids: Any, types: int) -> Any:
    return _leaks(model, ids, types, moved=lambda a, b: _moved(a, b, 0.0, 0.0))


@wrong("leaks", "nan differs from itself")
def nan_moves(model: Any, ids: Any, types: int) -> Any:
    return _leaks(model, ids, types, moved=lambda a, b: _moved(a, b, nan=False))


@wrong("leaks", "a position's numbers are summed before they are compared")
def summed(model: Any, ids: Any, types: int) -> Any:
    return _leaks(model, ids, types, moved=lambda a, b: _moved(a.sum(-1, True), b.sum(-1, True)))


@wrong("leaks", "a position has moved only where all its numbers have")
def all_numbers(model: Any, ids: Any, types: int) -> Any:
    return _leaks(model, ids, types, moved=lambda a, b: _moved(a, b, every=True))


@wrong("leaks", "a model that wavers is judged all the same")
def trusts_dropout(model: Any, ids: Any, types: int) -> Any:
    return _leaks(model, ids, types, twice=False)


@wrong("leaks", "the batch is never compared with a text alone")
def never_alone(model: Any, ids: Any, types: int) -> Any:
    return {**_leaks(model, ids, types), "batch": []}


@right("leaks", "text by text, all beginnings first, sets made of masks")
def with_masks(model: Any, ids: Any, types: int) -> Any:
    def off(a: Any, b: Any) -> Any:
        return ~torch.isclose(a, b, 1e-4, 1e-5, equal_nan=True).all(-1)[0]

    whole = model(ids)
    if not torch.allclose(whole, model(ids), 1e-4, 1e-5, equal_nan=True):
        raise ValueError("the model gives two answers: put it into evaluation first")
    n = ids.shape[1]
    found = {name: torch.zeros(n).bool() for name in ("later", "length", "batch")}
    for row in range(len(ids)):
        alone = model(ids[row : row + 1])
        found["batch"] |= off(alone, whole[row : row + 1])
        for m in range(n - 1, 0, -1):
            found["length"][:m] |= off(alone[:, :m], model(ids[row : row + 1, :m]))
            for step in range(1, types):
                other = ids[row : row + 1].clone()
                other[0, m] = (other[0, m] + step) % types
                found["later"][:m] |= off(alone, model(other))[:m]
    return {name: [int(t) for t in mask.nonzero()[:, 0]] for name, mask in found.items()}
