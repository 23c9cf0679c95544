"""The layers: what they promise, what they count, and whether their gradients mean what they should."""

from __future__ import annotations

import copy
import pickle
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from topk_lib import reference
from topk_lib.routing import (
    ACTIVATIONS,
    ExpertChoice,
    Experts,
    MixtureOfDepths,
    Routed,
    TokenChoice,
    balance_loss,
    routing_loss,
    routing_stats,
)

LAYERS: dict[str, Any] = {
    "experts": lambda: ExpertChoice(6, 8, 3),
    "experts, batch": lambda: ExpertChoice(6, 8, 3, over="batch", activation="swiglu", bias=False),
    "experts, at most two": lambda: ExpertChoice(6, 8, 3, most=2),
    "experts, none left": lambda: ExpertChoice(6, 8, 3, capacity=0.5, normalise=True, rest="best"),
    "top-1": lambda: TokenChoice(6, 8, 3),
    "top-2": lambda: TokenChoice(6, 8, 3, k=2, balance="bias"),
    "top-2, room": lambda: TokenChoice(6, 8, 3, k=2, capacity=1.0, over="sequence"),
    "depths": lambda: MixtureOfDepths(6, 8, share=0.5),
}
every = pytest.mark.parametrize("name", LAYERS)


def made(name: str, dtype: torch.dtype = torch.float32) -> Routed:
    torch.manual_seed(0)
    layer: Routed = LAYERS[name]().to(dtype)
    return layer


def texts(batch: int = 3, n: int = 7, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    hidden = torch.randn(batch, n, 6, generator=torch.Generator().manual_seed(1)).to(dtype)
    return hidden, torch.arange(n) < torch.tensor([[n], [n - 3], [0]])[:batch]


@every
def test_is_the_definition(name: str) -> None:
    layer, (hidden, valid) = made(name, torch.float64), texts(dtype=torch.float64)
    for ok in (None, valid):
        got = layer(hidden, ok)
        scores, mask = layer._last.scores, layer._last.choice.mask  # type: ignore[union-attr]
        assert scores is not None
        gates = scores * mask
        if layer.normalise:
            gates = gates / gates.sum(-1, keepdim=True).clamp(min=1e-300)
        count = scores.shape[-1]
        one = [lambda x, e=e, n=count: layer.experts(x.expand(n, 1, 6))[e, 0] for e in range(count)]
        expected = [reference.routed(h, g, m, one) for h, g, m in zip(hidden, gates, mask, strict=True)]
        torch.testing.assert_close(got, torch.stack(expected))
        assert ok is None or not got[~ok].any()
        assert not got[~mask.any(-1)].any()
        assert torch.equal(got, layer(hidden, ok))


@every
def test_stats_add_up(name: str) -> None:
    layer, (hidden, valid) = made(name), texts()
    with pytest.raises(RuntimeError, match="has not been called yet"):
        _ = layer.stats
    layer(hidden, valid)
    stats = layer.stats
    assert stats.tokens == sum(stats.experts_per_token) == 11
    assert sum(i * count for i, count in enumerate(stats.experts_per_token)) == sum(stats.load)
    assert stats.unchosen == stats.experts_per_token[0] / 11
    uniform = torch.tensor(float(max(len(stats.load), 2))).log().item()
    assert 0.5 * uniform < stats.entropy <= uniform + 1e-6
    layer.router.weight.data.zero_()
    layer(hidden, valid)
    assert layer.stats.entropy == pytest.approx(uniform)


def test_every_expert_takes_exactly_its_share() -> None:
    hidden, valid = texts()
    by_text = ExpertChoice(6, 8, 3, capacity=1.5)
    by_text(hidden)
    assert by_text.stats.load == [12, 12, 12]  # ceil(1.5 * 7 / 3) of each of three texts
    by_text(hidden, valid)
    assert by_text.stats.load == [6, 6, 6]  # 4 of seven tokens, 2 of four, none of none
    at_once = ExpertChoice(6, 8, 3, capacity=1.5, over="batch")
    at_once(hidden, valid)
    assert at_once.stats.load == [6, 6, 6]  # ceil(1.5 * 11 / 3)


def test_the_softmax_is_over_the_experts() -> None:
    """One over the chosen tokens, seen elsewhere, lets a token's weights say nothing about its experts."""
    layer, (hidden, _) = made("experts"), texts()
    scores = layer.scores(hidden)
    torch.testing.assert_close(scores.sum(-1), torch.ones(3, 7))
    expected = torch.nn.functional.linear(hidden, layer.router.weight).softmax(-1)
    assert torch.equal(scores, expected)
    alone = layer.scores(hidden[:1, :2])  # what other tokens there are does not matter
    torch.testing.assert_close(alone, scores[:1, :2])


@pytest.mark.parametrize("name", ["experts", "experts, at most two", "experts, none left", "top-1", "top-2",
                                  "top-2, room", "depths"])  # fmt: skip
def test_a_text_does_not_depend_on_its_batch(name: str) -> None:
    layer, (hidden, valid) = made(name), texts()
    together = layer(hidden, valid)
    for i, n in enumerate((7, 4)):
        torch.testing.assert_close(layer(hidden[i : i + 1, :n])[0], together[i, :n])
    torch.testing.assert_close(layer(hidden.flip(0), valid.flip(0)).flip(0), together)


@every
def test_the_order_of_the_experts_is_nobodys_business(name: str) -> None:
    layer, (hidden, valid) = made(name), texts()
    expected = layer(hidden, valid)
    if layer.router.out_features > 1:
        for weight in (layer.router.weight, *layer.experts.parameters()):
            weight.data = weight.data.flip(0)
    torch.testing.assert_close(layer(hidden, valid), expected)


@every
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_follows(name: str, dtype: torch.dtype) -> None:
    layer, (hidden, valid) = made(name, dtype), texts(dtype=dtype)
    got = layer(hidden, valid)
    assert got.dtype == dtype
    assert layer._last.scores is not None
    assert layer._last.scores.dtype == torch.float32
    wide = copy.deepcopy(layer).float()
    torch.testing.assert_close(got.float(), wide(hidden.float(), valid), rtol=0.05, atol=0.01)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = wide(hidden.float(), valid)
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, wide(hidden.float(), valid), rtol=0.05, atol=0.02)


@every
def test_gradients(name: str) -> None:
    layer, (hidden, valid) = made(name, torch.float64), texts(2, 3, torch.float64)
    inputs = hidden.requires_grad_(), *layer.parameters()
    # Steps this small change nobody's choice.
    assert torch.autograd.gradcheck(lambda *_: layer(hidden, valid[:, :3]), inputs, fast_mode=True)


def test_the_routers_gradient_says_what_leaving_an_expert_out_would_do() -> None:
    """To first order, a gate times its gradient is what the loss gains where the token loses that expert."""
    layer, (hidden, _) = made("experts", torch.float64), texts(dtype=torch.float64)
    for weight in (layer.experts.down, layer.experts.down_bias):
        weight.data *= 1e-3  # type: ignore[union-attr]  # so that first order is what counts
    target = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def loss(scores: Tensor) -> Tensor:
        choice = layer.choose(scores.detach(), hidden, None)
        return (layer.apply_choice(hidden, scores, choice) - target).square().sum()

    scores = layer.scores(hidden).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(scores), scores)
    choice = layer.choose(scores, hidden, None)
    assert not gradient[~choice.mask].any()
    for place in choice.mask.nonzero()[::5].tolist():
        without = choice.mask.clone()
        without[tuple(place)] = False
        left = layer.apply_choice(hidden, scores, choice._replace(mask=without, indices=None))
        gain = (loss(scores) - (left - target).square().sum()).item()
        assert gain == pytest.approx((scores * gradient)[tuple(place)].item(), rel=0.02)


@every
def test_nothing_to_do(name: str) -> None:
    layer, (hidden, valid) = made(name), texts()
    for empty in (hidden[:, :0], hidden[:0]):
        assert layer(empty).shape == empty.shape
    silent = layer(hidden, torch.zeros_like(valid))
    assert not silent.any()
    assert (layer.stats.tokens, layer.stats.unchosen) == (0, 0.0)
    (layer(hidden, valid).sum() + layer.loss).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize(("capacity", "load"), [(0.0, 0), (0.01, 1), (3.0, 7), (50.0, 7)])
def test_any_capacity(capacity: float, load: int) -> None:
    layer, (hidden, _) = ExpertChoice(6, 8, 3, capacity=capacity), texts(1)
    answer = layer(hidden)
    assert layer.stats.load == [load] * 3
    assert bool(answer.any()) == (load > 0)


def test_one_expert_that_takes_all_is_the_dense_layer() -> None:
    layer, (hidden, _) = ExpertChoice(6, 8, 1, capacity=1.0), texts()
    torch.testing.assert_close(layer(hidden), layer.experts(hidden.reshape(1, -1, 6)).reshape(hidden.shape))


def test_strange_numbers_and_strides() -> None:
    layer, (hidden, valid) = made("experts"), texts()
    expected = layer(hidden, valid)
    strided = hidden.transpose(0, 2).contiguous().transpose(0, 2)
    torch.testing.assert_close(layer(strided, valid), expected)
    broken = hidden.clone()
    broken[~valid] = torch.nan  # padding may hold anything
    torch.testing.assert_close(layer(broken, valid), expected)
    broken[0, 2] = torch.nan
    got = layer(broken, valid)
    assert got[0, 2].isnan().all()  # it is not hidden, and stays where it is
    assert got[0, [0, 1, 3, 4, 5, 6]].isfinite().all()
    torch.testing.assert_close(got[1], expected[1])
    broken[0, 2] = torch.inf
    assert layer(broken, valid)[1].isfinite().all()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_experts_alike_and_apart(activation: str) -> None:
    torch.manual_seed(0)
    experts = Experts(3, 4, 5, activation=activation).double()
    x = torch.randn(6, 4, dtype=torch.float64)
    together = experts(x.reshape(3, 2, 4)).reshape(6, 4)
    for e in range(3):
        a = x[2 * e : 2 * e + 2] @ experts.up[e] + experts.up_bias[e]  # type: ignore[index]
        act, gated = ACTIVATIONS[activation]
        inner = act(a[:, :5]) * a[:, 5:] if gated else act(a)
        expected = inner @ experts.down[e] + experts.down_bias[e]  # type: ignore[index]
        torch.testing.assert_close(together[2 * e : 2 * e + 2], expected)
    torch.testing.assert_close(experts.each(x, [2, 2, 2]), together)
    apart = experts.each(x, [0, 5, 1])
    torch.testing.assert_close(apart[:5], experts(x[:5].expand(3, 5, 4))[1])
    torch.testing.assert_close(apart[5:], experts(x[5:].expand(3, 1, 4))[2])


def test_the_balance_loss_is_least_where_all_are_alike() -> None:
    even = torch.full((1, 6, 3), 1 / 3)
    mask = torch.eye(3).bool().repeat(2, 1)[None]
    assert float(balance_loss(even, mask, None)) == pytest.approx(1)
    one = torch.zeros(1, 6, 3)
    one[..., 0] = 1
    assert float(balance_loss(one, one.bool(), None)) == pytest.approx(3)
    layer, (hidden, valid) = TokenChoice(6, 8, 3, rate=0.1), texts()
    layer(hidden, valid)
    assert layer._last.choice is not None
    scores, mask = layer.scores(hidden)[valid], layer._last.choice.mask[valid]
    expected = 0.1 * 3 * (mask.float().mean(0) * scores.mean(0)).sum()
    torch.testing.assert_close(layer.loss, expected)
    both = torch.nn.Sequential(layer, TokenChoice(6, 8, 2, balance=None))
    both[1](hidden)
    torch.testing.assert_close(routing_loss(both), expected)
    assert list(routing_stats(both)) == ["0", "1"]
    assert routing_loss(torch.nn.Linear(1, 1)) == 0.0
    layer.eval()(hidden)
    assert layer.loss == 0


def test_a_bias_evens_the_loads_and_moves_once_a_step() -> None:
    torch.manual_seed(0)
    layer = TokenChoice(6, 8, 4, balance="bias", rate=0.04)
    hidden = torch.randn(4, 50, 6) + 1
    layer(hidden)
    first = layer.stats.load
    with torch.no_grad():
        layer(hidden)
    assert not layer.balance_bias.any()
    load = torch.tensor(first, dtype=torch.float32)
    checkpoint(layer, hidden, use_reentrant=False).sum().backward()
    torch.testing.assert_close(layer.balance_bias, 0.04 * (50 - load).sign())
    for _ in range(25):
        layer(hidden).sum().backward()
    layer(hidden)
    assert max(layer.stats.load) < max(first)
    assert max(layer.stats.load) <= 1.5 * 50
    # the weights are those of the router, not of the bias
    assert layer._last.scores is not None
    torch.testing.assert_close(layer._last.scores.sum(-1), torch.ones(4, 50))


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["experts", "top-2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernels_give_the_same_layer(name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    layer, hidden = made(name, dtype).to(device), texts(2, 4, dtype)[0].to(device)
    found = []
    for backend in ("torch", "triton"):
        monkeypatch.setenv("TOPK_BACKEND", backend)
        answer = layer(hidden)
        found.append([answer, *torch.autograd.grad(answer.float().square().sum(), tuple(layer.parameters()))])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=8 * torch.finfo(dtype).eps, atol=4 * torch.finfo(dtype).eps)


def test_compiles_without_a_break() -> None:
    layer, (hidden, _) = made("experts"), texts()
    compiled: Any = torch.compile(layer.eval(), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(hidden), layer(hidden))
    (got,) = torch.autograd.grad(compiled(hidden).sum(), layer.router.weight)
    (expected,) = torch.autograd.grad(layer(hidden).sum(), layer.router.weight)
    torch.testing.assert_close(got, expected)


def test_copies_and_pickles_after_a_call() -> None:
    layer, (hidden, valid) = made("top-1"), texts()
    expected = layer(hidden, valid)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(hidden, valid), expected)


BAD: list[tuple[Any, type[Exception], str]] = [
    (lambda: ExpertChoice(6, 8, 0), ValueError, "experts must be at least 1, got 0"),
    (lambda: ExpertChoice(6, *cast(Any, (8.0, 2))), TypeError, r"inner must be a whole number, got 8\.0"),
    (lambda: ExpertChoice(6, 8, 2, capacity=-1), ValueError, r"capacity must lie in 0\.\."),
    (
        lambda: ExpertChoice(6, 8, 2, capacity=cast(Any, "all")),
        TypeError,
        "capacity must be a number, got 'all'",
    ),
    (lambda: ExpertChoice(6, 8, 2, over="text"), ValueError, 'over must be "sequence" or "batch", got'),
    (lambda: ExpertChoice(6, 8, 2, most=0), ValueError, "most must be at least 1"),
    (lambda: ExpertChoice(6, 8, 2, activation="elu"), ValueError, "activation must be one of gelu"),
    (lambda: ExpertChoice(6, 8, 2, rest="drop"), ValueError, 'rest must be "pass" or "best"'),
    (lambda: TokenChoice(6, 8, 2, k=3), ValueError, "k must be at most 2, got 3"),
    (lambda: TokenChoice(6, 8, 2, balance="even"), ValueError, 'balance must be "loss", "bias" or None'),
    (lambda: MixtureOfDepths(6, 8, share=1.5), ValueError, r"share must lie in 0\.\.1"),
    (lambda: ExpertChoice(6, 8, 2)(torch.zeros(3, 6)), ValueError, r"\(batch, n, 6\), got \(3, 6\)"),
    (lambda: ExpertChoice(6, 8, 2)(torch.zeros(1, 3, 5)), ValueError, r"got \(1, 3, 5\)"),
    (
        lambda: ExpertChoice(6, 8, 2)(torch.zeros(1, 3, 6), torch.ones(1, 3)),
        TypeError,
        r"attention_mask\.bool",
    ),
    (
        lambda: ExpertChoice(6, 8, 2)(torch.zeros(1, 3, 6), torch.ones(3, 1).bool()),
        ValueError,
        r"got \(3, 1\)",
    ),
]


@pytest.mark.parametrize(("call", "kind", "message"), BAD)
def test_bad_input_says_what_is_wrong(call: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        call()


def test_what_moves_in_small_steps_stays_in_float32() -> None:
    layers: list[Any] = [
        ExpertChoice(8, 8, 2, causal="threshold").bfloat16(), TokenChoice(8, 8, 2, balance="bias").half(),
    ]  # fmt: skip
    for layer, name in zip(layers, ("threshold", "balance_bias"), strict=True):
        assert layer.get_buffer(name).dtype == torch.float32
        assert layer.router.weight.dtype in (torch.bfloat16, torch.float16)
        layer.double()
        assert layer.get_buffer(name).dtype == torch.float64
    assert torch.isfinite(
        ExpertChoice(8, 8, 2, causal="threshold").bfloat16()(torch.randn(1, 4, 8).bfloat16())
    ).all()
