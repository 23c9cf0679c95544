"""Hidden checks of assignment 2: attention, one layer for three families, perplexity, the prefix test."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from topk_lib.grading import Answer, Draw, expect, hidden

Batch = tuple[Tensor, Tensor, Tensor]
Model = Callable[[Tensor], Tensor]


def _near(got: Any, right: Tensor, what: str, rtol: float = 1e-4, atol: float = 1e-4) -> None:
    expect(isinstance(got, Tensor), f"{what}: a tensor is asked for, yours is a {type(got).__name__}")
    expect(got.shape == right.shape, f"{what}: the shape is {tuple(right.shape)}, yours {tuple(got.shape)}")
    off = ~torch.isclose(got.double(), right.double(), rtol=rtol, atol=atol, equal_nan=True)
    if bool(off.any()):
        place = tuple(int(i) for i in off.nonzero()[0])
        expect(False, f"{what}: at {place} it is {right[place]:.5g}, yours {got[place]:.5g}")


# attention


def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    valid: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """The definition, query by query, in float64 and differentiable."""
    shared, gap = q.shape[1] // k.shape[1], k.shape[2] - q.shape[2]
    scale = 1 / math.sqrt(q.shape[3]) if scale is None else scale
    q, k, v = q.double(), k.double(), v.double()
    texts = []
    for b in range(q.shape[0]):
        rows = []
        for h in range(q.shape[1]):
            for t in range(q.shape[2]):
                read = [
                    j
                    for j in range(k.shape[2])
                    if (valid is None or bool(valid[b, j])) and (not causal or j <= gap + t)
                ]
                if read:
                    keys, values = k[b, h // shared, read], v[b, h // shared, read]
                    rows.append((keys @ q[b, h, t] * scale).softmax(0) @ values)
                else:
                    rows.append(torch.zeros(v.shape[-1], dtype=torch.float64))
        texts.append(torch.stack(rows).view(q.shape[1], q.shape[2], -1))
    return torch.stack(texts)


def _qkv(draw: Draw, n: int, m: int, kv: int = 2, shared: int = 2, e: int = 4) -> tuple[Tensor, ...]:
    return draw.normal(2, kv * shared, n, 3), draw.normal(2, kv, m, 3), draw.normal(2, kv, m, e)


def _sides(m: int, left: int, right: int) -> Tensor:
    """(2, m): one text with padding on its left, one with padding on its right."""
    at = torch.arange(m)
    return torch.stack([at >= left, at < m - right])


@hidden("attention", points=4, about="grouped heads")
def several_heads_share_keys(answer: Answer, draw: Draw) -> None:
    """Neighbouring query heads share a key head; values may be wider; the scale goes by the keys."""
    q, k, v = _qkv(draw, 4, 5, kv=draw.integer(2, 4), shared=draw.integer(2, 4))
    _near(answer(q, k, v), _attention(q, k, v), f"attention of {q.shape[1]} heads over {k.shape[1]}")
    _near(answer(q, k, v, scale=0.3), _attention(q, k, v, scale=0.3), "attention with scale=0.3")
    _near(answer(q, k, v, scale=0.0), _attention(q, k, v, scale=0.0), "attention with scale=0.0")


@hidden("attention", points=4, about="causal with a cache")
def queries_stand_at_the_last_places(answer: Answer, draw: Draw) -> None:
    """With fewer queries than keys the queries are the last: each reads all before it, and itself."""
    n = draw.integer(2, 4)
    q, k, v = _qkv(draw, n, 6)
    _near(answer(q, k, v, causal=True), _attention(q, k, v, causal=True), f"{n} queries, 6 keys, causal")
    one = answer(q[:, :, -1:], k, v, causal=True)
    _near(one, _attention(q, k, v)[:, :, -1:], "the newest token alone, which may read all 6 keys")
    valid = _sides(6, 2, 1)
    got, right = answer(q, k, v, valid, causal=True), _attention(q, k, v, valid, causal=True)
    _near(got, right, f"{n} queries, 6 keys, causal, padding {(~valid).int().tolist()}")


@hidden("attention", points=4, about="loud padding")
def padding_never_shows(answer: Answer, draw: Draw) -> None:
    """What stands at padding, be it nan or infinite, reaches nobody; the shares of the others sum to 1."""
    q, k, v = _qkv(draw, 5, 5)
    valid = _sides(5, draw.integer(1, 3), draw.integer(1, 3))
    right = _attention(q, k, v, valid)
    hole = ~valid[:, None, :, None]
    for loud in (0.0, 100.0, math.inf, math.nan):
        got = answer(q, k.masked_fill(hole, loud), v.masked_fill(hole, loud), valid)
        _near(got, right, f"padding that holds {loud}")


@hidden("attention", points=3, about="nothing to read")
def who_may_read_nothing_gets_zeros(answer: Answer, draw: Draw) -> None:
    """A query with no key to read gets exact zeros, and all gradients are finite and right."""
    q, k, v = _qkv(draw, 4, 4)
    valid = torch.stack([torch.arange(4) >= 2, torch.zeros(4).bool()])
    pull = draw.normal(2, 4, 4, 4)
    got, gradients = answer.vjp([q, k, v, valid, True], pull, wrt=[0, 1, 2])
    expect(not bool(got[1].any() or got[0, :, :2].any()), "a query that may read no key gets zeros")
    _near(got, _attention(q, k, v, valid, True), "padding on the left, causal")
    q, k, v = (one.double().requires_grad_() for one in (q, k, v))
    right = torch.autograd.grad(_attention(q, k, v, valid, True), [q, k, v], pull.double())
    for name, mine, slope in zip("qkv", gradients, right, strict=True):
        _near(mine, slope, f"the gradient for {name} beside queries that read nothing")


@hidden("attention", points=3, about="types and size")
def types_are_kept_and_scores_may_be_large(answer: Answer, draw: Draw) -> None:
    """The result has the type of q; float64 is right to 1e-9; scores of 10,000 do no harm."""
    q, k, v = (one.double() for one in _qkv(draw, 3, 5))
    got, right = answer(q, k, v, causal=True), _attention(q, k, v, causal=True)
    expect(got.dtype == torch.float64, f"float64 in, float64 out; yours is {got.dtype}")
    _near(got, right, "float64", rtol=1e-9, atol=1e-9)
    q, k, v = (one.float() for one in (q, k, v))
    expect(answer(q, k, v).dtype == torch.float32, "float32 in, float32 out")
    for size in (1e4, -1e4):
        large = torch.full((1, 1, 2, 1), 100.0)
        keys = torch.tensor([size / 100, size / 100, size / 100 - 0.01]).view(1, 1, 3, 1)
        values = torch.tensor([1.0, 2.0, 6.0]).view(1, 1, 3, 1)
        got, right = answer(large, keys, values, scale=1.0), _attention(large, keys, values, scale=1.0)
        _near(got, right, f"scores of {size:.0f}", rtol=1e-2)  # float32 has few digits left there


# block


def _layer(family: str, draw: Draw, size: int) -> tuple[dict[str, Tensor], Callable[..., Tensor]]:
    """A tiny random layer of the library: its weights, and a call of x to its answer."""
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.for_model(
        family, vocab_size=8, hidden_size=12, num_hidden_layers=1, intermediate_size=10,
        num_attention_heads=4, num_key_value_heads=2, head_dim=size, rms_norm_eps=0.01,
        max_position_embeddings=64, rope_parameters={"rope_type": "default", "rope_theta": 50.0},
    )  # fmt: skip
    model = AutoModel.from_config(config, attn_implementation="eager").eval()
    layer, rotary = model.layers[0], model.rotary_emb
    for name, weight in layer.named_parameters():
        drawn = draw.normal(*weight.shape)
        weight.data = drawn * 0.5 + 1 if "norm" in name else drawn * 0.6
    weights = {name: weight.detach() for name, weight in layer.named_parameters()}

    def call(x: Tensor) -> Tensor:
        n = x.shape[1]
        mask = torch.zeros(len(x), 1, n, n).masked_fill(~torch.ones(n, n).tril().bool(), -1e9)
        with torch.no_grad():
            at = rotary(x, torch.arange(n)[None])
            out: Tensor = layer(x, attention_mask=mask, position_embeddings=at)
        return out

    return weights, call


def _equal_to(family: str, answer: Answer, draw: Draw, size: int) -> None:
    weights, call = _layer(family, draw, size)
    n = draw.integer(5, 9)
    x = draw.normal(2, n, 12)
    _near(answer(x, weights, size, 50.0, 0.01), call(x), f"a layer of {family}, texts of {n} tokens")
    _near(answer(x * 0.1, weights, size, 50.0, 0.01), call(x * 0.1), f"a layer of {family}, eps = 0.01")


@hidden("block", points=5, about="Llama")
def equals_llama(answer: Answer, draw: Draw) -> None:
    """The numbers of the library's Llama layer."""
    _equal_to("llama", answer, draw, 4)


@hidden("block", points=4, about="Qwen2")
def equals_qwen2(answer: Answer, draw: Draw) -> None:
    """The numbers of the library's Qwen2 layer, whose queries, keys and values have biases."""
    _equal_to("qwen2", answer, draw, 4)


@hidden("block", points=4, about="Qwen3")
def equals_qwen3(answer: Answer, draw: Draw) -> None:
    """The numbers of the library's Qwen3 layer: a norm of each head, before the turn."""
    _equal_to("qwen3", answer, draw, draw.choice([4, 6, 8]))


@hidden("block", points=4, about="padding")
def padding_changes_no_answer(answer: Answer, draw: Draw) -> None:
    """A text says the same alone as beside padding, left or right, through two layers."""
    weights, call = _layer("llama", draw, 4)
    n, more = draw.integer(3, 6), draw.integer(1, 4)
    x, noise = draw.normal(1, n, 12), 3 * draw.normal(1, more, 12)
    alone = call(call(x))
    valid = torch.arange(n + more) >= more
    for side, text, real in (("left", (noise, x), valid), ("right", (x, noise), valid.flip(0))):
        padded = torch.cat(text, 1)
        for _ in range(2):
            padded = answer(padded, weights, 4, 50.0, 0.01, real[None])
            expect(
                isinstance(padded, Tensor) and bool(padded.isfinite().all()),
                f"with padding on the {side} some answers are not finite",
            )
        _near(padded[:, real], alone, f"{n} tokens with {more} of padding on the {side}, two layers")


@hidden("block", points=3, about="shapes, types, gradients")
def types_and_gradients(answer: Answer, draw: Draw) -> None:
    """float64 stays float64; a head need not be d / heads wide; gradients reach x."""
    weights, call = _layer("llama", draw, 6)
    x = draw.normal(2, 5, 12)
    right = call(x)
    wide = answer(x.double(), {name: one.double() for name, one in weights.items()}, 6, 50.0, 0.01)
    expect(
        isinstance(wide, Tensor) and wide.dtype == torch.float64,
        f"float64 in, float64 out; yours is {getattr(wide, 'dtype', type(wide).__name__)}",
    )
    _near(wide, right, "four heads of 6 on a stream of 12, in float64")
    out, (slope,) = answer.vjp([x, weights, 6, 50.0, 0.01], torch.ones(2, 5, 12), wrt=[0])
    _near(out, right, "four heads of 6 on a stream of 12")
    step, along = 1e-4, draw.normal(2, 5, 12).double()
    double = {name: one.double() for name, one in weights.items()}
    ahead, behind = (answer(x.double() + s * along, double, 6, 50.0, 0.01).sum() for s in (step, -step))
    measured = (ahead - behind) / (2 * step)
    expect(
        math.isclose(float(measured), float((slope * along).sum()), rel_tol=1e-2, abs_tol=1e-2),
        "the gradient for x is not the slope of the layer: is a step cut off from it?",
    )


# perplexity


def _surprises(batches: list[Batch]) -> list[list[float]]:
    """For each text the surprises, in nats, of the tokens that count."""
    texts = []
    for logits, ids, valid in batches:
        for b in range(len(ids)):
            own = []
            for t in range(ids.shape[1] - 1):
                if bool(valid[b, t] & valid[b, t + 1]):
                    row = logits[b, t].double()
                    own.append(float(row.logsumexp(0) - row[ids[b, t + 1]]))
            texts.append(own)
    return texts


def _perplexity(batches: list[Batch]) -> float:
    nats = [one for own in _surprises(batches) for one in own]
    return math.exp(sum(nats) / len(nats))


def _batch(draw: Draw, lengths: list[int], left: bool = False, spread: float = 2.0) -> Batch:
    n = max(lengths)
    logits, ids = spread * draw.normal(len(lengths), n, 7), draw.tensor(len(lengths), n, high=7).long()
    valid = torch.arange(n) < torch.tensor(lengths)[:, None]
    for b, length in enumerate(lengths):  # the longer a text, the more it surprises: means of means differ
        for t in range(n - 1):
            logits[b, t, ids[b, t + 1]] -= 0.5 * length
    if left:
        valid = valid.flip(1)
    return logits, ids, valid


def _expects(answer: Answer, batches: list[Batch], what: str) -> None:
    got, right = answer(batches), _perplexity(batches)
    expect(
        isinstance(got, (float, int, Tensor)) and math.isclose(float(got), right, rel_tol=1e-4),
        f"{what}: the perplexity is {right:.6g}, yours {got}",
    )


@hidden("perplexity", points=4, about="every token once")
def every_token_counts_once(answer: Answer, draw: Draw) -> None:
    """Texts and batches of different lengths: the mean is over tokens, however they are put into batches."""
    long, short = draw.integer(8, 11), draw.integer(2, 4)
    logits, ids, valid = _batch(draw, [long, short, short + 1])
    one, two = [(logits, ids, valid)], [(logits[:1], ids[:1], valid[:1]), (logits[1:], ids[1:], valid[1:])]
    _expects(answer, one, f"three texts of {long}, {short} and {short + 1} tokens in a batch")
    _expects(answer, two, f"texts of {long} | {short} and {short + 1} tokens in two batches")
    cut = (logits[1:2, :short], ids[1:2, :short], valid[1:2, :short])
    _expects(answer, [two[0], cut], f"texts of {long} | {short} tokens in batches of different shapes")


@hidden("perplexity", points=4, about="padding on both sides")
def padding_does_not_count(answer: Answer, draw: Draw) -> None:
    """Padding left or right: a token counts if it and the one before it are real."""
    lengths = [draw.integer(3, 5), 7, draw.integer(2, 4)]
    _expects(answer, [_batch(draw, lengths, left=True)], f"texts of {lengths} tokens, padding on the left")
    _expects(answer, [_batch(draw, lengths)], f"texts of {lengths} tokens, padding on the right")
    logits, ids, valid = _batch(draw, [8, 8])
    valid[0, 3] = False
    _expects(answer, [(logits, ids, valid)], "a text of 8 tokens of which the fourth is not real")


@hidden("perplexity", points=3, about="loud padding")
def padding_may_hold_anything(answer: Answer, draw: Draw) -> None:
    """At padding ids may be -100 and logits nan."""
    for left in (False, True):
        logits, ids, valid = _batch(draw, [draw.integer(3, 5), 7], left=left)
        ids, logits = ids.masked_fill(~valid, -100), logits.masked_fill(~valid[..., None], math.nan)
        _expects(answer, [(logits, ids, valid)], "ids of -100 and logits of nan at padding")


@hidden("perplexity", points=3, about="infinite and empty")
def infinite_and_empty(answer: Answer, draw: Draw) -> None:
    """What was held impossible makes inf, what nobody asked for does not; nothing to count is nan."""
    logits, ids, valid = _batch(draw, [6, 4], spread=1.0)
    other = (ids[:, 1:] + 1) % 7
    masked = logits.clone()
    masked[:, :-1].scatter_(-1, other[..., None], -math.inf)
    _expects(answer, [(masked, ids, valid)], "types that did not come have the logit -inf")
    masked[0, 2, ids[0, 3]] = -math.inf
    got = answer([(masked, ids, valid)])
    expect(float(got) == math.inf, f"a token that came had the logit -inf: it is inf, yours {got}")
    far = torch.zeros(1, 3, 7)
    far[0, :2, 0] = 1e4
    got = answer([(far, torch.ones(1, 3).long(), torch.ones(1, 3).bool())])
    expect(float(got) == math.inf, f"a surprise of 10,000 nats: too large for a float, so inf; yours {got}")
    single = torch.tensor([[True, False, False]])
    for empty in ([], [(far, torch.ones(1, 3).long(), single)]):
        got = answer(empty)
        expect(math.isnan(float(got)), f"no token counts: the perplexity is nan, yours {got}")


@hidden("perplexity", points=2, about="improbable tokens, coarse types")
def improbable_tokens_and_coarse_types(answer: Answer, draw: Draw) -> None:
    """A share too small for float32 has a logarithm; logits in bfloat16 are summed in float32."""
    logits, ids, valid = _batch(draw, [4, 4], spread=1.0)
    logits = logits.scatter(-1, (ids[:, 1] % 6 + 1)[:, None, None].expand(2, 4, 1), 150.0)
    _expects(answer, [(logits, ids, valid)], "logits of 150 beside some near 0")
    came, length = draw.integer(0, 7), 400 + draw.integer(0, 100)
    unlikely = torch.zeros(1, 2, 7)
    unlikely[0, 0, came] = -20
    pair, both = torch.full((1, 2), came), torch.ones(1, 2).bool()
    for coarse in (torch.bfloat16, torch.float16):
        _expects(answer, [(unlikely.to(coarse), pair, both)], f"a surprise of 21.8 nats, logits in {coarse}")
        long, ids = draw.normal(1, length, 7).to(coarse), draw.tensor(1, length, high=7).long()
        _expects(answer, [(long, ids, torch.ones(1, length).bool())], f"{length} tokens, logits in {coarse}")


# leaks

Found = dict[str, list[int]]


def _causal(draw: Draw, types: int = 6, width: int = 3) -> Model:
    """A model that does not cheat: a running sum of random rows."""
    table = draw.normal(types, width)
    return lambda ids: table[ids].cumsum(1).tanh()


def _says(answer: Answer, model: Model, ids: Tensor, types: int, right: Found, what: str) -> None:
    got = answer(model, ids, types)
    expect(
        isinstance(got, dict) and {k: list(v) for k, v in got.items()} == right,
        f"{what}: {right}, yours {got}",
    )


def _ids(draw: Draw, n: int, types: int = 6, batch: int = 2) -> Tensor:
    return draw.tensor(batch, n, high=types).long()


NONE: Found = {"later": [], "length": [], "batch": []}


@hidden("leaks", points=4, about="honest models")
def honest_models_are_not_accused(answer: Answer, draw: Draw) -> None:
    """A causal model, rounding that differs, and a position that is nan throughout: three empty lists."""
    ids, base = _ids(draw, 5), _causal(draw)
    _says(answer, base, ids, 6, NONE, "a running sum")

    def rounding(ids: Tensor) -> Tensor:
        return base(ids) + 1e-7 * ids.sum() + 1e-7 * ids.shape[1]

    _says(answer, rounding, ids, 6, NONE, "a model whose last digits wander")

    def blind(ids: Tensor) -> Tensor:
        out = base(ids)
        out[:, 0] = math.nan
        return out

    _says(answer, blind, ids, 6, NONE, "a model that says nan at position 0, whatever it reads")


@hidden("leaks", points=5, about="one position, one type")
def one_position_sees_one_type(answer: Answer, draw: Draw) -> None:
    """A single position that notices a single type at a single later place, in one number, in one text."""
    n, base = 7, _causal(draw)
    at, rare = draw.integer(1, 4), draw.integer(0, 6)
    seen = at + draw.integer(2, 4)
    ids = _ids(draw, n, batch=3)
    ids[:, seen] = (rare + 1) % 6  # the type is not there as it stands
    ids[:, 0] = torch.tensor([0, 1, 2])

    def peeks(ids: Tensor) -> Tensor:
        out = base(ids)
        if ids.shape[1] > seen:
            out[:, at, 1] += 0.5 * ((ids[:, seen] == rare) & (ids[:, 0] == 1))
        return out

    right = {"later": [at], "length": [], "batch": []}
    _says(answer, peeks, ids, 6, right, f"position {at} notices type {rare} at position {seen}")

    def cancels(ids: Tensor) -> Tensor:
        out = base(ids)
        if ids.shape[1] > 3:
            out[:, 1, 0] += ids[:, 3] * 0.1
            out[:, 1, 2] -= ids[:, 3] * 0.1
        return out

    ids[:, 3] = torch.tensor([2, 4, 3])
    right = {"later": [1], "length": [1], "batch": []}
    _says(answer, cancels, ids, 6, right, "position 1 reads token 3, two numbers move against each other")


@hidden("leaks", points=4, about="batch statistics")
def neighbours_in_the_batch(answer: Answer, draw: Draw) -> None:
    """A model that takes off the mean of the batch looks at its neighbours, and at nothing later."""
    base, n = _causal(draw), draw.integer(4, 6)
    first = draw.integer(0, 2)
    ids = _ids(draw, n, batch=3)
    ids[:, 0] = torch.tensor([0, 2, 4])

    def centred(ids: Tensor) -> Tensor:
        out = base(ids)
        out[:, first:] -= out[:, first:].mean(0, keepdim=True) * 0.5
        return out

    right = {"later": [], "length": [], "batch": list(range(first, n))}
    _says(answer, centred, ids, 6, right, f"from position {first} on the mean of the batch is taken off")

    def gossip(ids: Tensor) -> Tensor:
        others = ids.sum() - ids.sum(1)
        return base(ids) + 0.1 * others[:, None, None]

    right = {"later": [], "length": [], "batch": list(range(n))}
    ids[:, 1] = 5  # so that the others are never nothing but zeros
    _says(answer, gossip, ids, 6, right, "each text hears the sum of all others")

    def all_together(ids: Tensor) -> Tensor:
        return base(ids) - ids.double().mean().float()

    right = {"later": list(range(n - 1)), "length": list(range(n - 1)), "batch": list(range(n))}
    ids = torch.tensor([[0] * (n - 1) + [5], [1] * n, [4] * n])
    _says(answer, all_together, ids, 6, right, "the mean of all tokens of the batch is taken off")


@hidden("leaks", points=3, about="length")
def the_length_is_the_future_too(answer: Answer, draw: Draw) -> None:
    """Answers that depend on how long the text is: no change of a token shows it, cutting it short does."""
    base, n = _causal(draw), 7
    ids, at = _ids(draw, n), draw.integer(0, 3)

    def room(ids: Tensor) -> Tensor:
        out = base(ids)
        out[:, at : at + 1] += 0.25 * (ids.shape[1] < at + 3)  # only two short beginnings show it
        return out

    right = {"later": [], "length": [at], "batch": []}
    _says(answer, room, ids, 6, right, f"position {at} knows whether the text has fewer than {at + 3} tokens")

    def share(ids: Tensor) -> Tensor:
        place = torch.arange(ids.shape[1]) / ids.shape[1]
        return base(ids) + place[:, None]

    right = {"later": [], "length": list(range(1, n - 1)), "batch": []}
    _says(answer, share, ids, 6, right, "a place is counted as a share of the text's length")


@hidden("leaks", points=2, about="dropout")
def a_model_that_wavers_is_refused(answer: Answer, draw: Draw) -> None:
    """Two answers to the same ids: ValueError, and no verdict."""
    base, last = _causal(draw), draw.integer(3, 5)

    def noisy(ids: Tensor) -> Tensor:
        out = base(ids)
        out[:, min(last, ids.shape[1]) - 1] += torch.rand((), generator=draw.torch)
        return out

    answer.raises(ValueError, noisy, _ids(draw, 5), 6)
