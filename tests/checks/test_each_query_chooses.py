"""The checks of the chapter on keys tell right from wrong, and name the mistake."""

from __future__ import annotations

import torch
from torch import Tensor

from topk_lib import checks, hard_topk, topk_mask


def read(scores: Tensor, values: Tensor, k: int) -> Tensor:
    best = scores.topk(k)
    return best.values.softmax(-1) @ values[best.indices]


def masked(scores: Tensor, k: int, low: float = -torch.inf) -> Tensor:
    return scores.masked_fill(~topk_mask(scores, k), low).softmax(-1)


def test_read_k() -> None:
    check = checks.check_read_k
    assert check(read) == check(lambda s, v, k: float(read(s.double(), v.double(), k))) == "Right."
    assert check(lambda s, v, k: masked(s, k) @ v) == "Right."
    assert "over all keys" in check(lambda s, v, k: s.softmax(-1) @ v)
    assert "sum to 1 again" in check(lambda s, v, k: (s.softmax(-1) * topk_mask(s, k)) @ v)
    assert "-inf" in check(lambda s, v, k: masked(s, k, 0.0) @ v)
    assert "not the values" in check(lambda s, v, k: read(s[v.topk(k).indices], v[v.topk(k).indices], k))
    assert "lowest" in check(lambda s, v, k: s[(-s).topk(k).indices].softmax(-1) @ v[(-s).topk(k).indices])
    assert "plain mean" in check(lambda s, v, k: v[s.topk(k).indices].mean())
    assert "first k" in check(lambda s, v, k: s[:k].softmax(-1) @ v[:k])
    assert "yours 7" in check(lambda s, v, k: 7.0)
    assert "no answer yet" in check(None)  # type: ignore[arg-type]


def window(n: int, k: int, first: int) -> list[int]:
    return [at for at in range(n) if at < first or at >= n - (k - first)]


def test_window_places() -> None:
    check = checks.check_window_places
    assert check(window) == check(lambda *a: torch.tensor(window(*a))) == check(lambda *a: iter(window(*a)))
    assert check(window) == "Right."
    assert "order of the text" in check(lambda *a: window(*a)[::-1])
    assert "among the k." in check(lambda n, k, first: list(range(max(0, n - k), n)))
    assert "what they leave" in check(
        lambda n, k, first: list(range(n)) if n <= k else [*range(first), *range(n - k, n)]
    )
    assert "stay, too" in check(lambda n, k, first: range(n - k + first if n > k else 0, n))
    assert "while there is room" in check(lambda n, k, first: [*range(first), *range(n - k + first, n)])
    assert "-0" in check(lambda n, k, first: window(n, k, first) if first else list(range(n)))
    assert "yours []" in check(lambda n, k, first: [])


def heavy(weights: Tensor, k: int) -> Tensor:
    before = weights.cumsum(0) - weights
    n = len(weights)
    earlier = torch.ones(n, n).tril(-1).bool()
    chosen = hard_topk(before, min(k - 1, n), valid=earlier).mask
    return chosen | torch.eye(n).bool()


def one_by_one(weights: Tensor, k: int) -> Tensor:
    mask = torch.eye(len(weights))
    for t in range(1, len(weights)):
        mask[t, weights[:t].sum(0)[:t].topk(min(k - 1, t)).indices] = 1
    return mask


def test_heavy_mask() -> None:
    check = checks.check_heavy_mask
    assert check(heavy) == check(one_by_one) == check(lambda w, k: heavy(w.double(), k)) == "Right."

    def leaky(weights: Tensor, k: int) -> Tensor:
        received = weights.sum(0).expand(len(weights), -1)
        earlier = torch.ones(len(weights), len(weights)).tril(-1).bool()
        return hard_topk(received, k - 1, valid=earlier).mask | torch.eye(len(weights)).bool()

    assert "with the weights of later queries" in check(leaky)

    def own(weights: Tensor, k: int) -> Tensor:
        earlier = torch.ones(len(weights), len(weights)).tril(-1).bool()
        return hard_topk(weights.cumsum(0), k - 1, valid=earlier).mask | torch.eye(len(weights)).bool()

    assert "with the weights of that query itself" in check(own)
    assert "stands after it" in check(lambda w, k: topk_mask(w.sum(0).expand(len(w), -1), k))
    assert "may read 3 keys" in check(lambda w, k: torch.ones(len(w), len(w)).tril())
    assert "reads itself" in check(lambda w, k: _without_self(w, k))
    assert "had received the most" in check(lambda w, k: heavy(1 - w, k))
    assert "a row for each query" in check(lambda w, k: w.sum(0) > 1)


def _without_self(weights: Tensor, k: int) -> Tensor:
    n = len(weights)
    mask = torch.zeros(n, n).bool()
    for t in range(n):
        mask[t, : min(t + 1, k)] = True
    return mask


def test_cache_bytes() -> None:
    check = checks.check_cache_bytes
    assert check(lambda a, b, c, d, e: 2 * a * b * c * d * e) == "Right."
    assert check(lambda a, b, c, d, e: 2.0 * a * b * c * d * e) == "Right."
    for wrong, said in (
        (lambda a, b, c, d, e: a * b * c * d * e, "and a value"),
        (lambda a, b, c, d, e: 2 * b * c * d * e, "Each layer"),
        (lambda a, b, c, d, e: 2 * a * c * d * e, "key head"),
        (lambda a, b, c, d, e: 2 * a * b * c * d * d * e, "squared"),
        (lambda a, b, c, d, e: 16 * a * b * c * d * e, "bits"),
        (lambda a, b, c, d, e: a * b * c * d, "A key and a value"),
        (lambda a, b, c, d, e: 17.0, "yours 17"),
    ):
        assert said in check(wrong)
    numbers = check(lambda a, b, c, d, e: 2 * a * b * c * d)
    assert "bytes" in numbers
    assert numbers != "Right."


def mass(weights: Tensor, k: int) -> Tensor:
    return weights.topk(k).values.sum(-1).mean()


def test_mass() -> None:
    check = checks.check_mass
    assert check(mass) == check(lambda w, k: float(mass(w.double(), k))) == "Right."
    assert check(lambda w, k: (w * topk_mask(w, k)).sum(-1).mean()) == "Right."
    assert "not the sum" in check(lambda w, k: w.topk(k).values.sum())
    assert "before you take the mean" in check(lambda w, k: w.topk(k).values.mean())
    assert "own best keys" in check(lambda w, k: w.mean((0, 1)).topk(k).values.sum())
    assert "the others have" in check(lambda w, k: 1 - mass(w, k))
    assert "first k keys" in check(lambda w, k: w[..., :k].sum(-1).mean())
    assert "yours says 3" in check(lambda w, k: 3)
