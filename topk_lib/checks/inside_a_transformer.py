"""Checks for the chapter on the inside of a transformer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from topk_lib.checks.base import check, close, differ, floats
from topk_lib.checks.prefix import prefix_test

__all__ = ["check_head", "check_layer_cost", "check_padding", "check_prefix", "check_rms_norm"]


def _near(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-6)


def _told(got: Tensor, right: Tensor, mistakes: dict[str, Tensor], what: str) -> str:
    """Right, or the first mistake that gives what was got, or the first number that differs."""
    if got.shape != right.shape:
        return f"Not yet: {what} have the shape {tuple(right.shape)}, yours {tuple(got.shape)}."
    if _near(got, right):
        return "Right."
    for why, wrong in mistakes.items():
        if _near(got, wrong):
            return f"Not yet: {why}."
    place = tuple(int(i) for i in (got != right).nonzero()[0])
    expected, yours = differ(float(right[place]), got[place])
    return f"Not yet: the number at {place} is {expected}, yours {yours}."


@check
def check_head(head: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> str:
    """Check one attention head: head(x, w_q, w_k, w_v) to (n, width of the head)."""
    generator = torch.Generator().manual_seed(0)
    x, w_q, w_k, w_v = (torch.randn(shape, generator=generator) for shape in ((5, 6), (6, 4), (6, 4), (6, 4)))
    q, k, v = x @ w_q, x @ w_k, x @ w_v
    scores = q @ k.T

    def read(s: Tensor) -> Tensor:
        return s.softmax(-1) @ v

    mistakes = {
        "divide the scores by the root of the head's width": read(scores),
        "divide by the root of the head's width, not by the width": read(scores / 4),
        "the root of 2 is for keys of two numbers: take the root of their width": read(scores / 2**0.5),
        "the width whose root counts is that of the queries and keys, not of x": read(scores / 6**0.5),
        "the root is of the head's width, not of the number of tokens": read(scores / 5**0.5),
        "a query's weights sum to 1: take the softmax over the keys, the last dimension": (
            (scores / 2).softmax(0) @ v
        ),
        "take the softmax over the keys, the last dimension; and divide the scores by a root": (
            scores.softmax(0) @ v
        ),
        "queries and keys have changed places": read(scores.T / 2),
        "the softmax is missing": scores / 2 @ v,
        "the softmax turns scores into weights, before the values come in": (scores / 2 @ v).softmax(-1),
        "the mean is that of the values, not of the keys": (scores / 2).softmax(-1) @ k,
        "these are the values alone: nobody has read anybody": v,
    }
    return _told(floats(head(x, w_q, w_k, w_v)), read(scores / 2), mistakes, "five tokens of width 4")


@check
def check_padding(weigh: Callable[[Tensor, Tensor], Tensor]) -> str:
    """Check attention weights beside padding: weigh(scores (batch, n, n), valid (batch, n)) to weights."""
    generator = torch.Generator().manual_seed(0)
    scores = 2 * torch.randn(2, 4, 4, generator=generator)
    valid = torch.tensor([[True, True, True, False], [True, True, False, False]])
    got = floats(weigh(scores.clone(), valid.clone()))
    right = scores.masked_fill(~valid[:, None], -torch.inf).softmax(-1)
    queries = valid[:, :, None]  # what padding reads is nobody's business
    mistakes = {
        "that lets the padding be read": scores.softmax(-1),
        "the weights of a token must sum to 1: mask the scores, before the softmax": (
            scores.softmax(-1) * valid[:, None]
        ),
        "a score of 0 is a score: what must not be read needs -inf": (scores * valid[:, None]).softmax(-1),
        "that reads the padding and nothing else": scores.masked_fill(valid[:, None], -torch.inf).softmax(-1),
    }
    if got.shape != right.shape:
        return _told(got, right, {}, "the weights")
    mistakes = {why: wrong.where(queries, 0) for why, wrong in mistakes.items()}
    if bool(got[~valid].isnan().any()):
        return "Not yet: padding must not be read, so look for it among the keys, the last dimension."
    return _told(got.where(queries, 0), right.where(queries, 0), mistakes, "the weights")


@check
def check_prefix(model: Callable[[Tensor], Tensor], types: int = 16) -> str:
    """Check that a model does not look ahead: changing later tokens changes nothing before them.

    Args:
        model: takes int64 token ids (1, n), gives one row of numbers a position, (1, n, ...).
        types: ids are drawn below this number.
    """
    n, generator = 8, torch.Generator().manual_seed(0)
    ids = torch.randint(types, (1, n), generator=generator)
    before = floats(model(ids.clone()))
    if before.shape[:2] != ids.shape:
        return f"Not yet: {n} tokens must give {n} rows, (1, {n}, ...); yours are {tuple(before.shape)}."
    if before.isnan().any():
        at = int(before.isnan().reshape(n, -1).any(-1).nonzero()[0])
        return f"Not yet: position {at} is nan: may it read nothing at all? Each position reads itself, too."
    if not _near(before, floats(model(ids.clone()))):
        return "Not yet: the same tokens gave two different answers: is dropout still on?"
    seen = prefix_test(model, ids, types=types, before=before)
    if seen.leak:
        at, first = seen.leak
        return f"Not yet: changing token {at} changed position {first}, which stands before it."
    if seen.deaf is not None:
        return f"Almost: nothing looks ahead, but no later position notices that token {seen.deaf} changed."
    return "Right."


@check
def check_rms_norm(norm: Callable[[Tensor, Tensor, float], Tensor]) -> str:
    """Check RMSNorm over the last dimension: norm(x, weight, eps) to the shape of x."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 4, generator=generator) + 0.7
    weight, eps = torch.tensor([1.0, 2.0, 0.5, -1.0]), 0.3
    square = x.square().mean(-1, keepdim=True)
    centred = x - x.mean(-1, keepdim=True)
    mistakes = {
        "RMSNorm takes no mean away: that is LayerNorm": (
            centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt() * weight
        ),
        "the mean of the squares, not their sum": x / (4 * square + eps).sqrt() * weight,
        "the root is missing": x / (square + eps) * weight,
        "the weight is missing": x / (square + eps).sqrt(),
        "eps is missing": x / square.sqrt() * weight,
        "eps belongs under the root": x / (square.sqrt() + eps) * weight,
        "each token by itself: the mean is over the last dimension alone": (
            x / (x.square().mean() + eps).sqrt() * weight
        ),
        "multiply by the weight, after dividing": x / (square + eps).sqrt() / weight,
        "that is the root mean square: divide x by it": (square + eps).sqrt().expand_as(x) * weight,
    }
    return _told(
        floats(norm(x.clone(), weight.clone(), eps)),
        x / (square + eps).sqrt() * weight,
        mistakes,
        "the numbers",
    )


class _Layer(nn.Module):
    """Attention and a feed-forward block, of sizes that the learner does not know."""

    def __init__(self, d: int, f: int, gated: bool) -> None:
        super().__init__()
        self.inputs = nn.ModuleList(nn.Linear(d, d) for _ in range(4))
        self.up = nn.ModuleList(nn.Linear(d, f) for _ in range(1 + gated))
        self.down = nn.Linear(f, d)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v, out = self.inputs
        x = x + out((q(x) @ k(x).mT / x.shape[-1] ** 0.5).softmax(-1) @ v(x))
        inner = F.gelu(self.up[0](x))
        answer: Tensor = x + self.down(inner * self.up[1](x) if len(self.up) == 2 else inner)
        return answer


@check
def check_layer_cost(split: Callable[[nn.Module, int], Sequence[float]]) -> str:
    """Check what a learner measures of layers: split(layer, d) to (FLOPs a token, FLOPs a pair of tokens)."""
    torch.manual_seed(0)
    for d, f, gated in ((8, 32, False), (16, 24, True), (12, 12, False)):
        linear, quadratic = 8 * d * d + (6 if gated else 4) * d * f, 4 * d
        got = split(_Layer(d, f, gated), d)
        try:
            mine = [float(one) for one in got]
        except (TypeError, ValueError):
            mine = []
        if len(mine) != 2:
            return "Not yet: return two numbers, what a token costs and what a pair of tokens costs."
        if all(close(one, right) for one, right in zip(mine, (linear, quadratic), strict=True)):
            continue
        hint = ""
        if all(close(one, right) for one, right in zip(mine, (quadratic, linear), strict=True)):
            hint = " The token comes first, then the pair."
        elif all(close(2 * one, right) for one, right in zip(mine, (linear, quadratic), strict=True)):
            hint = " A multiplication and its addition count as two."
        elif close(mine[0], linear + quadratic):
            hint = " One token is a pair with itself: take the pair's share away."
        elif close(mine[0], linear):
            hint = " The tokens are right; n tokens make n * n pairs."
        elif close(mine[1], quadratic):
            hint = " The pairs are right."
        return (
            f"Not yet: for a layer of width {d} a token costs {linear:,} and a pair {quadratic:,}; "
            f"yours {mine[0]:,.6g} and {mine[1]:,.6g}.{hint}"
        )
    return "Right."
