"""The checks of the chapter on the five meanings tell right from wrong, and name the mistake."""

from __future__ import annotations

import torch
from torch import Tensor

from topk_lib import checks, hard_topk


def test_expert_choice() -> None:
    check = checks.check_expert_choice
    assert check(lambda s, k: hard_topk(s, k, dim=0).mask) == "Right."
    assert "token choice" in check(lambda s, k: hard_topk(s, k, dim=1).mask)
    assert "bool mask" in check(lambda s, k: hard_topk(s, k, dim=0).indices)
    assert "bool mask" in check(lambda s, k: hard_topk(s, k, dim=0))  # type: ignore[arg-type, return-value]
    assert "turned" in check(lambda s, k: hard_topk(s.T, k).mask)
    assert "shape" in check(lambda s, k: s[0] > 0)
    assert "lowest scores" in check(lambda s, k: hard_topk(-s, k, dim=0).mask)
    assert "yours take [4, 4, 4]" in check(lambda s, k: s > 0)
    assert "tied, the lowest" in check(
        lambda s, k: (
            hard_topk(s.flip(0), k, dim=0).mask.flip(0) if s[0, 0] == 0.5 else hard_topk(s, k, dim=0).mask
        )
    )

    def first(s: Tensor, k: int) -> Tensor:
        return (torch.arange(len(s)) < k)[:, None].expand_as(s)

    assert "highest scores" in check(first)


def test_left_out() -> None:
    check = checks.check_left_out
    assert check(lambda m: (~m.any(1)).float().mean().item()) == "Right."
    assert "somebody takes" in check(lambda m: m.any(1).float().mean().item())
    assert "counts them" in check(lambda m: (~m.any(1)).sum().item())
    assert "each row" in check(lambda m: (~m.any(0)).float().mean().item())
    assert "empty cells" in check(lambda m: (~m).float().mean().item())
    assert "any(), not all()" in check(lambda m: (~m.all(1)).float().mean().item())
    assert "3 of 5" in check(lambda m: 0.123)
    assert "the share is 0" in check(lambda m: 0.6)


def test_encoder_flops() -> None:
    check = checks.check_encoder_flops

    def count(qkvo: int = 8, pairs: int = 4, feed: int = 4, times: int = 1) -> str:
        return check(lambda n, d, f, layers: (layers if times else 1) * (
            qkvo * n * d * d + pairs * n * n * d + feed * n * d * f))  # fmt: skip

    assert count() == "Right."
    assert "multiply-adds" in count(4, 2, 2)
    assert "pairs of tokens" in count(pairs=0)
    assert "pairs cost twice" in count(pairs=2)
    assert "four matrices" in count(qkvo=6)
    assert "in and out" in count(feed=2)
    assert "block is missing" in count(feed=0)
    assert "multiply by layers" in count(times=0)
    assert "2 n a b" in check(lambda n, d, f, layers: 1)


def test_cheaper() -> None:
    right: dict[str, set[str]] = {
        "vocabulary": {"parameters"},
        "sequence": {"flops", "memory"},
        "routing": set(),
        "attention": {"flops"},
        "decoding": set(),
    }
    assert checks.check_cheaper(right) == "Right."
    assert "missing" in checks.check_cheaper({})
    assert "'time' is not one of" in checks.check_cheaper(right | {"decoding": {"time"}})
    assert "vocabulary: flops does not fall" in checks.check_cheaper(
        right | {"vocabulary": {"parameters", "flops"}}
    )
    assert "sequence: memory falls too" in checks.check_cheaper(right | {"sequence": {"flops"}})
    assert "another query may choose it" in checks.check_cheaper(right | {"attention": {"flops", "memory"}})
    assert "attention: flops falls too" in checks.check_cheaper(right | {"attention": set()})
    assert "more parameters" in checks.check_cheaper(right | {"routing": {"flops"}})


def test_sampling_probabilities() -> None:
    check = checks.check_sampling_probabilities

    def kept(x: Tensor, k: int) -> Tensor:
        return hard_topk(x, k).mask

    assert check(lambda x, k: x.masked_fill(~kept(x, k), -torch.inf).softmax(-1)) == "Right."
    assert "sum to 0.7" in check(lambda x, k: x.softmax(-1) * kept(x, k))
    assert "all 4 entries" in check(lambda x, k: x.softmax(-1))
    assert "cut with -inf" in check(lambda x, k: (x * kept(x, k)).softmax(-1))
    assert "4 to 3" in check(lambda x, k: kept(x, k) / k)
    assert "one probability for each" in check(lambda x, k: hard_topk(x, k).values.softmax(-1))
    assert "expected [0.0, 0.571, 0.0, 0.429]" in check(lambda x, k: torch.zeros_like(x))
