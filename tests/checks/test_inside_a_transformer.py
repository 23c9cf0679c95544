"""The checks of the chapter on the inside of a transformer tell right from wrong, and name the mistake."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from topk_lib import checks


def head(x: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor, *, by: float = 2, dim: int = -1) -> Tensor:
    return (x @ w_q @ (x @ w_k).T / by).softmax(dim) @ (x @ w_v)


def test_head() -> None:
    check = checks.check_head
    assert check(head) == check(lambda *given: head(*(g.double() for g in given))) == "Right."
    assert (
        check(
            lambda x, q, k, v: F.scaled_dot_product_attention((x @ q)[None], (x @ k)[None], (x @ v)[None])[0]
        )
        == "Right."
    )
    assert "divide the scores" in check(lambda *given: head(*given, by=1))
    assert "not by the width" in check(lambda *given: head(*given, by=4))
    assert "keys of two numbers" in check(lambda *given: head(*given, by=2**0.5))
    assert "not of x" in check(lambda *given: head(*given, by=6**0.5))
    assert "number of tokens" in check(lambda *given: head(*given, by=5**0.5))
    assert "over the keys" in check(lambda *given: head(*given, dim=0))
    assert "over the keys, the last dimension; and" in check(lambda *given: head(*given, by=1, dim=0))
    assert "changed places" in check(lambda x, q, k, v: head(x, k, q, v))
    assert "softmax is missing" in check(lambda x, q, k, v: x @ q @ (x @ k).T / 2 @ (x @ v))
    assert "before the values" in check(lambda x, q, k, v: (x @ q @ (x @ k).T / 2 @ (x @ v)).softmax(-1))
    assert "not of the keys" in check(lambda x, q, k, v: head(x, q, k, k))
    assert "nobody has read" in check(lambda x, q, k, v: x @ v)
    assert "shape (5, 4), yours (5, 5)" in check(lambda x, q, k, v: x @ q @ (x @ k).T)
    assert "the number at" in check(lambda *given: head(*given, by=3))
    assert "returns nothing" in check(lambda *_: None)  # type: ignore[arg-type]


def weigh(scores: Tensor, valid: Tensor, least: float = -math.inf) -> Tensor:
    return scores.masked_fill(~valid[:, None], least).softmax(-1)


def test_padding() -> None:
    check = checks.check_padding
    assert check(weigh) == check(lambda s, v: weigh(s, v, -1e9)) == "Right."
    assert check(lambda s, v: weigh(s, v) * v[:, :, None]) == "Right."  # padding reads nothing
    assert check(lambda s, v: (s + (~v[:, None]).float() * torch.finfo().min).softmax(-1)) == "Right."
    assert "be read" in check(lambda s, v: s.softmax(-1))
    assert "before the softmax" in check(lambda s, v: s.softmax(-1) * v[:, None])
    assert "a score of 0" in check(lambda s, v: weigh(s, v, 0))
    assert "nothing else" in check(lambda s, v: weigh(s, ~v))
    assert "among the keys" in check(lambda s, v: s.masked_fill(~v[:, :, None], -math.inf).softmax(-1))
    assert "the number at" in check(lambda s, v: weigh(s, v, -10))
    assert "shape (2, 4, 4)" in check(lambda s, v: weigh(s, v)[0])


def reader(allowed: Callable[[int], Tensor], spread: float = 0) -> Callable[[Tensor], Tensor]:
    """Attention over a table of vectors, each position reading those that it may."""
    generator = torch.Generator().manual_seed(1)
    table = torch.randn(16, 6, generator=generator)

    def model(ids: Tensor) -> Tensor:
        x = table[ids] + spread * torch.rand(1)
        scores = (x @ x.mT).masked_fill(~allowed(ids.shape[-1]), -math.inf)
        return scores.softmax(-1) @ x

    return model


def below(n: int, diagonal: int = 0) -> Tensor:
    return torch.ones(n, n).tril(diagonal).bool()


def test_prefix() -> None:
    check = checks.check_prefix
    assert check(reader(below)) == "Right."
    assert check(reader(lambda n: below(n) & ~below(n, -3))) == "Right."  # a window of three
    assert check(lambda ids: ids.cumsum(-1)) == "Right."
    assert check(lambda ids: reader(below)(ids).half()) == "Right."
    assert "changing token 1 changed position 0" in check(reader(lambda n: torch.ones(n, n).bool()))
    assert "changed position 0" in check(reader(lambda n: ~below(n, -1)))
    assert "changing token 1 changed position 0" in check(reader(lambda n: below(n, 1)))
    assert "changed position" in check(
        lambda ids: reader(below)(ids) - reader(below)(ids).mean(1, keepdim=True)
    )
    assert "position 0 is nan" in check(reader(lambda n: below(n, -1)))
    assert "no later position notices that token 0" in check(reader(lambda n: torch.eye(n).bool()))
    assert "Almost" in check(lambda ids: ids * 0)
    assert "dropout" in check(reader(below, spread=1))
    assert "8 tokens must give 8 rows" in check(lambda ids: reader(below)(ids)[:, :-1])
    assert "IndexError" in checks.check_prefix(reader(below), types=99)


def test_prefix_of_the_language_models_that_the_chapter_is_about() -> None:
    from transformers import BertConfig, BertForMaskedLM, LlamaConfig, LlamaForCausalLM

    small: dict[str, Any] = {"vocab_size": 16, "hidden_size": 8, "num_hidden_layers": 2,
                             "num_attention_heads": 2, "intermediate_size": 8}  # fmt: skip
    torch.manual_seed(0)
    causal = LlamaForCausalLM(LlamaConfig(**small)).eval()
    assert checks.check_prefix(lambda ids: causal(ids).logits) == "Right."
    both = BertForMaskedLM(BertConfig(**small)).eval()
    assert "stands before it" in checks.check_prefix(lambda ids: both(ids).logits)
    assert "dropout" in checks.check_prefix(lambda ids: both.train()(ids).logits)


def rms(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


def test_rms_norm() -> None:
    check = checks.check_rms_norm
    assert check(rms) == check(lambda x, w, eps: rms(x.double(), w, eps)) == "Right."
    assert check(lambda x, w, eps: F.rms_norm(x, (4,), w, eps)) == "Right."
    assert "LayerNorm" in check(lambda x, w, eps: F.layer_norm(x, (4,), w, None, eps))
    assert "not their sum" in check(lambda x, w, eps: x / (x.square().sum(-1, keepdim=True) + eps).sqrt() * w)
    assert "root is missing" in check(lambda x, w, eps: x / (x.square().mean(-1, keepdim=True) + eps) * w)
    assert "weight is missing" in check(lambda x, w, eps: rms(x, torch.ones(4), eps))
    assert "eps is missing" in check(lambda x, w, eps: rms(x, w, 0))
    assert "under the root" in check(
        lambda x, w, eps: x / (x.square().mean(-1, keepdim=True).sqrt() + eps) * w
    )
    assert "by itself" in check(lambda x, w, eps: x / (x.square().mean() + eps).sqrt() * w)
    assert "multiply by the weight" in check(lambda x, w, eps: rms(x, 1 / w, eps))
    assert "divide x by it" in check(
        lambda x, w, eps: ((x.square().mean(-1, keepdim=True) + eps).sqrt()).expand_as(x) * w
    )
    assert "shape (2, 3, 4)" in check(lambda x, w, eps: rms(x, w, eps)[0])
    assert "the number at" in check(lambda x, w, eps: 2 * rms(x, w, eps))


def measured(layer: nn.Module, d: int, n: int) -> int:
    with FlopCounterMode(display=False) as counter:
        layer(torch.zeros(1, n, d))
    return int(counter.get_total_flops())


def split(layer: nn.Module, d: int, short: int = 3, long: int = 7) -> tuple[float, float]:
    a, b = measured(layer, d, short) / short, measured(layer, d, long) / long
    pair = (b - a) / (long - short)
    return a - short * pair, pair


def test_layer_cost() -> None:
    check = checks.check_layer_cost
    assert check(split) == check(lambda layer, d: split(layer, d, 1, 2)) == "Right."
    assert check(lambda layer, d: torch.tensor(split(layer, d, 64, 512))) == "Right."  # type: ignore[arg-type, return-value]
    assert "token comes first" in check(lambda layer, d: split(layer, d)[::-1])
    assert "count as two" in check(lambda layer, d: [one / 2 for one in split(layer, d)])
    assert "pair with itself" in check(lambda layer, d: (measured(layer, d, 1), 4 * d))
    assert "n * n pairs" in check(lambda layer, d: (split(layer, d)[0], 9 * split(layer, d)[1]))
    assert "pairs are right" in check(lambda layer, d: (24 * d * d + 1, 4 * d))
    assert "a token costs 1,536 and a pair 32" in check(lambda layer, d: (0, 0))
    assert "two numbers" in check(lambda layer, d: measured(layer, d, 1))  # type: ignore[arg-type, return-value]
    assert "two numbers" in check(lambda layer, d: (1, 2, 3))


@pytest.mark.parametrize(
    "name", ["check_head", "check_layer_cost", "check_padding", "check_prefix", "check_rms_norm"]
)
def test_nothing_written_yet(name: str) -> None:
    assert getattr(checks, name)(...).startswith("Not yet: there is no answer yet")
