"""Checks for the chapter in which each query chooses its keys."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from topk_lib.checks.base import check, close, differ, floats

__all__ = ["check_cache_bytes", "check_heavy_mask", "check_mass", "check_read_k", "check_window_places"]


@check
def check_read_k(read: Callable[[Tensor, Tensor, int], float | Tensor]) -> str:
    """Check what a query receives from its k best keys: read(scores (n,), values (n,), k) to one number."""
    scores = torch.tensor([1.0, 3.0, 0.0, 2.0, 3.5])
    values = torch.tensor([4.0, -2.0, 10.0, 1.0, 6.0])
    for k in (2, 5, 1):
        best = scores.topk(k).indices
        right = float(scores[best].softmax(0) @ values[best])
        got = float(floats(read(scores.clone(), values.clone(), k)))
        if close(got, right):
            continue
        expected, yours = differ(right, got)
        start = f"Not yet: with k = {k} of 5 keys the query receives {expected}, yours {yours}."
        near = {
            "That is the mean over all keys.": float(scores.softmax(0) @ values),
            "The k weights must sum to 1 again: choose first, and take the softmax of what is left.": float(
                scores.softmax(0)[best] @ values[best]
            ),
            "A dropped key needs the score -inf: 0 is a score, too.": float(
                torch.zeros(5).scatter(0, best, scores[best]).softmax(0) @ values
            ),
            "The scores choose, not the values.": float(
                scores[values.topk(k).indices].softmax(0) @ values[values.topk(k).indices]
            ),
            "Those are the k lowest scores.": float(
                scores[(-scores).topk(k).indices].softmax(0) @ values[(-scores).topk(k).indices]
            ),
            "That is their plain mean: weigh the values.": float(values[best].mean()),
            "Those are the first k keys.": float(scores[:k].softmax(0) @ values[:k]),
        }
        hint = next((said for said, wrong in near.items() if close(got, wrong)), "")
        return f"{start} {hint}".strip()
    return "Right."


@check
def check_window_places(places: Callable[[int, int, int], Iterable[int]]) -> str:
    """Check which of n tokens a cache of k keeps: places(n, k, first), the first tokens and the latest."""
    for n, k, first in ((20, 6, 2), (5, 8, 2), (9, 9, 4), (30, 4, 0), (12, 3, 3)):
        got = [int(at) for at in places(n, k, first)]
        right = list(range(n)) if n <= k else [*range(first), *range(n - k + first, n)]
        if got == right:
            continue
        start = f"Not yet: of {n} tokens, with k = {k} and first = {first}, {right} stay, yours {got}."
        if sorted(got) == right:
            return f"Almost: of {n} tokens these are the right places; give them in the order of the text."
        if n <= k:
            return f"{start} Nothing needs to go while there is room."
        if got == list(range(n - k, n)):
            return f"{start} The first tokens are among the k."
        if got == [*range(first), *range(n - k, n)]:
            return f"{start} The first tokens count among the k: the window is what they leave."
        if got == list(range(n - k + first, n)):
            return f"{start} The first tokens stay, too."
        if first == 0:
            return f"{start} With first = 0 it is the window alone: mind what a slice from -0 gives."
        return start
    return "Right."


@check
def check_heavy_mask(choose: Callable[[Tensor, int], Tensor]) -> str:
    """Check heavy hitters without a leak: choose(weights (n, n), k) to the mask (n, n) of what each may read.

    Query t reads itself and the k - 1 earlier keys that received the most from the queries before t.
    """
    generator = torch.Generator().manual_seed(0)
    n, k = 7, 3
    weights = torch.rand(n, n, generator=generator).tril()
    weights /= weights.sum(-1, keepdim=True)
    got = torch.as_tensor(choose(weights.clone(), k)).bool()
    if got.shape != (n, n):
        return f"Not yet: the mask is ({n}, {n}), a row for each query; yours is {tuple(got.shape)}."
    if bool(got.triu(1).any()):
        t, j = (int(x) for x in got.triu(1).nonzero()[0])
        return f"Not yet: query {t} reads key {j}, which stands after it."
    for start, whose in ((1, "of later queries"), (0, "of that query itself")):  # the prefix test of a choice
        for t in range(n - start):
            changed = weights.clone()
            changed[t + start :] = torch.rand(n - t - start, n, generator=generator).tril(t + start)
            again = torch.as_tensor(choose(changed, k)).bool()
            if not torch.equal(got[: t + 1], again[: t + 1]):
                row = int((got != again).any(-1).nonzero()[0])
                return f"Not yet: the choice of query {row} changes with the weights {whose}."
    for t in range(n):
        count = int(got[t].sum())
        if count != min(t + 1, k):
            return (
                f"Not yet: query {t} may read {min(t + 1, k)} keys, itself among them; yours reads {count}."
            )
        if not got[t, t]:
            return f"Not yet: query {t} reads itself, whatever it received."
        received = weights[:t].sum(0)[:t]
        if t and not bool(got[t, received.topk(min(t, k - 1)).indices].all()):
            best = sorted(received.topk(min(t, k - 1)).indices.tolist())
            mine = got[t, :t].nonzero().flatten().tolist()
            return f"Not yet: before query {t} the keys {best} had received the most; yours reads {mine}."
    return "Right."


@check
def check_cache_bytes(count: Callable[[int, int, int, int, int], float]) -> str:
    """Check a cache's bytes: count(layers, key_heads, width, tokens, bytes a number)."""
    for layers, heads, width, tokens, size in ((30, 3, 64, 1000, 2), (2, 1, 5, 7, 4)):
        right = 2 * layers * heads * width * tokens * size
        got = float(count(layers, heads, width, tokens, size))
        if close(got, right):
            continue
        hint = ""
        for factor, said in (
            (1 / 2, "A key and a value are kept of each token."),
            (1 / size, "That counts numbers: each has several bytes."),
            (1 / (2 * size), "A key and a value are kept, of several bytes a number."),
            (1 / layers, "Each layer keeps its own."),
            (1 / heads, "Each key head keeps its own."),
            (tokens, "One entry a token: nothing here is squared."),
            (8, "That is in bits."),
        ):
            if close(got, right * factor):
                hint = f" {said}"
                break
        return f"Not yet: {layers} layers, {tokens} tokens: {right:,} bytes, yours {got:,.0f}.{hint}"
    return "Right."


@check
def check_mass(mass: Callable[[Tensor, int], float | Tensor]) -> str:
    """Check the share of attention on each query's k best keys: mass(weights (heads, q, n), k), the mean."""
    generator = torch.Generator().manual_seed(0)
    weights = (3 * torch.randn(2, 4, 6, generator=generator)).softmax(-1)
    for k in (2, 1, 6):
        right = float(weights.topk(k).values.sum(-1).mean())
        got = float(floats(mass(weights.clone(), k)))
        if close(got, right, 1e-4):
            continue
        expected, yours = differ(right, got)
        start = f"Not yet: the {k} best of 6 keys have {expected} of the attention, yours says {yours}."
        if close(got, 8 * right, 1e-4):
            return f"{start} Take the mean over the queries, not the sum."
        if close(got, right / k, 1e-4):
            return f"{start} Add up a query's k shares before you take the mean over queries."
        best = weights.mean((0, 1)).topk(k).values.sum()
        if close(got, float(best), 1e-4):
            return f"{start} Each query of each head has its own best keys."
        if close(got, 1 - right, 1e-4):
            return f"{start} That is what the others have."
        if close(got, float(weights[..., :k].sum(-1).mean()), 1e-4):
            return f"{start} Those are the first k keys, not the best."
        return start
    return "Right."
