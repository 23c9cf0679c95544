"""Each operator under each way PyTorch has to look at a function: derivatives, vmap, compiler, export."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap

from topk_lib import (
    SoftTopK,
    TopK,
    gumbel_topk,
    hard_topk,
    likely_mask,
    sample_topk,
    soft_topk,
    soft_topk_threshold,
    topk_mask,
)

links = pytest.mark.parametrize("link", ["sigmoid", "laplace", "clip", "exp"])
Function = Callable[..., Any]
jacobian: Any = torch.autograd.functional.jacobian
slow_hessian: Any = torch.autograd.functional.hessian
unpack_dual: Any = forward_ad.unpack_dual

torch.manual_seed(0)
X = torch.randn(3, 5, dtype=torch.float64)
K = torch.tensor([1.2, 2.0, 3.1], dtype=torch.float64)
T = torch.tensor([0.5, 0.8, 1.1], dtype=torch.float64)
VALID = torch.tensor([True, True, False, True, True]).expand(3, 5)
WHOLE = torch.tensor([1, 3, 2])
SEEDS = torch.tensor([7, -1, 2**62])
TOP_P = torch.tensor([0.3, 0.9, 1.0])


def same(got: Any, expected: Any, tol: float = 1e-8) -> None:
    torch.testing.assert_close(got, expected, rtol=tol, atol=tol, equal_nan=True)


def soft_functions(link: str) -> list[Function]:
    """Functions of scores, k and temperature with one output for all rows."""
    return [
        lambda s, k, t: soft_topk(s, k, t, link=link, valid=VALID),
        lambda s, k, t: soft_topk_threshold(s, k, t, link=link, valid=VALID),
        lambda s, k, t: soft_topk(s.T, k, t, link=link, dim=0).T,
        lambda s, k, t: soft_topk(s, k.round().detach(), t, link=link, hard=True) + 0 * k.sum(),
    ]


@links
@pytest.mark.parametrize("which", range(4))
def test_derivatives_of_every_mode_are_those_of_reverse_mode(link: str, which: int) -> None:
    f, inputs, every = soft_functions(link)[which], (X, K, T), (0, 1, 2)
    jacobians = jacobian(f, inputs)
    same(jacrev(f, every)(*inputs), jacobians)
    same(jacfwd(f, every)(*inputs), jacobians)
    tangents = tuple(torch.cos(7 * x) for x in inputs)
    pushed = sum(j.flatten(-v.dim()) @ v.flatten() for j, v in zip(jacobians, tangents, strict=True))
    same(jvp(f, inputs, tangents)[1], pushed)
    with forward_ad.dual_level():
        duals = map(forward_ad.make_dual, inputs, tangents)
        same(unpack_dual(f(*duals)).tangent, pushed)


@pytest.mark.parametrize("link", ["sigmoid", "laplace", "exp"])
@pytest.mark.parametrize("which", range(4))
def test_second_derivatives_in_every_mixture(link: str, which: int) -> None:
    f = soft_functions(link)[which]

    def loss(s: Tensor, k: Tensor, t: Tensor) -> Any:
        found = f(s, k, t)
        return (found * (s.sin() if found.dim() == 2 else s.sum(-1).sin())).square().sum()

    expected = slow_hessian(loss, (X, K, T))
    same(hessian(loss, (0, 1, 2))(X, K, T), expected, 1e-7)
    same(jacrev(jacrev(loss))(X, K, T), expected[0][0], 1e-7)
    same(jacrev(jacfwd(loss))(X, K, T), expected[0][0], 1e-7)


def test_the_fourth_derivative() -> None:
    def weight(x: Tensor) -> Any:
        return soft_topk(torch.stack([x, 0 * x + 0.3, 0 * x - 0.2]), 1.5, 0.7)[0]

    by_func, x = weight, torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    by_autograd = weight(x)
    for _ in range(4):
        by_func = grad(by_func)
        (by_autograd,) = torch.autograd.grad(by_autograd, x, create_graph=True)
    assert abs(by_autograd.item()) > 0.01
    same(by_func(x.detach()), by_autograd.detach())


@links
@pytest.mark.parametrize("k", [1.0, 1.5, 2.0])
def test_forward_mode_at_a_tie(link: str, k: float) -> None:
    """Where z is 0, at a kink of three of the links."""
    tied = torch.tensor([1.0, 1.0, 0.0, 2.0], dtype=torch.float64)

    def f(s: Tensor) -> Tensor:
        return soft_topk(s, k, 0.5, link=link)

    same(jacfwd(f)(tied), jacobian(f, tied))


@links
def test_gradcheck_of_everything(link: str) -> None:
    inputs = tuple(x.clone().requires_grad_() for x in (X, K, T))
    f = soft_functions(link)[0]
    assert torch.autograd.gradcheck(
        f, inputs, check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True
    )
    if link != "clip":
        assert torch.autograd.gradgradcheck(f, inputs, check_fwd_over_rev=True)


def test_low_precision_in_forward_mode() -> None:
    v = torch.arange(5.0)
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        got = jvp(lambda s: soft_topk(s, 2), (X[0].to(dtype),), (v.to(dtype),))[1]
        expected = jvp(lambda s: soft_topk(s, 2), (X[0].to(dtype).double(),), (v.double(),))[1]
        assert got.dtype == dtype
        same(got.double(), expected, 8 * torch.finfo(dtype).eps)


# One row and its own k, temperature, top_p, seed, valid, as each example of a vmap gets them.
ROWS: dict[str, tuple[Function, tuple[Tensor, ...]]] = {
    "soft": (lambda s, k, t, v: soft_topk(s, k, t, valid=v), (X, K, T, VALID)),
    "threshold": (lambda s, k, t, v: soft_topk_threshold(s, k, t, valid=v), (X, K, T, VALID)),
    "straight": (lambda s, k, t, v: soft_topk(s, k, t, valid=v, hard=True), (X, WHOLE, T, VALID)),
    "mask": (lambda s, k, v: topk_mask(s, k, valid=v), (X, WHOLE, VALID)),
    "sample": (
        lambda s, k, t, p, m, seed: sample_topk(s, k, t, top_p=p, min_p=m, seed=seed),
        (X, WHOLE, T, TOP_P, TOP_P / 9, SEEDS),
    ),
    "likely": (
        lambda s, k, t, p, m: likely_mask(s, k, t, top_p=p, min_p=m),
        (X, WHOLE, T, TOP_P, TOP_P / 9),
    ),
    "gumbel": (
        lambda s, k, seed, v: gumbel_topk(s, k, seed=seed, valid=v)[1:],
        (X, WHOLE, SEEDS, VALID),
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_vmap_over_every_argument(name: str) -> None:
    f, batch = ROWS[name]

    def one_by_one(*choose: Callable[[Tensor, int], Tensor]) -> Any:
        each = [f(*(pick(x, i) for pick, x in zip(choose, batch, strict=True))) for i in range(3)]
        return (
            torch.stack(each)
            if isinstance(each[0], Tensor)
            else tuple(map(torch.stack, zip(*each, strict=True)))
        )

    every = [lambda x, i: x[i]] * len(batch)
    same(vmap(f)(*batch), one_by_one(*every))
    twice = vmap(vmap(f))(*(x.expand(2, *x.shape) for x in batch))
    same(twice[0] if isinstance(twice, Tensor) else tuple(x[0] for x in twice), one_by_one(*every))
    for at in range(len(batch)):
        dims = [0 if i == at else None for i in range(len(batch))]
        args = [x if i == at else x[1] for i, x in enumerate(batch)]
        alone = [(lambda x, i: x[i]) if i == at else (lambda x, i: x[1]) for i in range(len(batch))]
        same(vmap(f, in_dims=tuple(dims))(*args), one_by_one(*alone))


@pytest.mark.parametrize("order", ["position", "value"])
def test_vmap_of_one_k_per_row_is_as_wide_as_the_largest(order: str) -> None:
    def f(s: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        return hard_topk(s, k, order=order, valid=v)

    same(vmap(f)(X, WHOLE, VALID), tuple(hard_topk(X, WHOLE, order=order, valid=VALID)))
    g = vmap(grad(lambda s, k: hard_topk(s, k, order=order).values.square().sum()))
    same(g(X, WHOLE), 2 * X * topk_mask(X, WHOLE))


def test_vmap_checks_the_numbers_of_the_whole_batch() -> None:
    with pytest.raises(ValueError, match="temperature must be above 0 and finite, got -1"):
        vmap(lambda s, t: soft_topk(s, 2, t))(X, torch.tensor([1.0, -1.0, 2.0]))
    with pytest.raises(ValueError, match=r"k must lie in 0\.\.5 .* got 6"):
        vmap(lambda s, k: hard_topk(s, k).mask)(X, torch.tensor([1, 6, 2]))
    with pytest.raises(ValueError, match=r"k must lie in 1\.\.5 .* got 0"):
        vmap(lambda s, k: sample_topk(s, k))(X, torch.tensor([1, 0, 2]))
    with pytest.raises(ValueError, match="whole numbers"):
        vmap(lambda s, k: soft_topk(s, k, hard=True))(X, K)


def test_derivatives_of_draws_and_choices() -> None:
    x = X[0]
    one_hot = torch.nn.functional.one_hot(sample_topk(x, 3, seed=0), 5).double()
    same(grad(lambda s: s[sample_topk(s, 3, seed=0)])(x), one_hot)

    def log_prob(s: Tensor) -> Tensor:
        return gumbel_topk(s, WHOLE, seed=SEEDS, valid=VALID).log_prob

    same(jacfwd(log_prob)(X), jacobian(log_prob, X))
    assert torch.autograd.gradgradcheck(log_prob, X.clone().requires_grad_(), check_fwd_over_rev=True)

    def cubes(s: Tensor) -> Tensor:
        return hard_topk(s, 2, valid=VALID[0], order="value").values.pow(3).sum()

    same(hessian(cubes)(x), torch.diag(6 * x * topk_mask(x, 2, valid=VALID[0])))


GRAPHS: dict[str, tuple[Function, tuple[Tensor, ...]]] = {
    "straight": (lambda s: soft_topk(s, 2.0, hard=True), (X,)),
    "k of a tensor": (lambda s, k: soft_topk(s, k, hard=True), (X, torch.tensor(2))),
    "k per row": (lambda s, k, t, v: soft_topk(s, k, t, valid=v, hard=True), (X, WHOLE, T, VALID)),
    "dim": (lambda s, k: soft_topk(s.T, k, dim=0, link="laplace"), (X, K)),
    "threshold": (soft_topk_threshold, (X, K, T)),
    "SoftTopK": (SoftTopK(2, hard="always", learnable=True), (X, VALID)),
    "SoftTopK eval": (SoftTopK(2).eval(), (X, VALID)),
    "TopK": (TopK(2, order="value", dim=0), (X,)),
    "mask": (topk_mask, (X, WHOLE)),
    "sample": ROWS["sample"],
    "gumbel": (lambda s, seed: gumbel_topk(s, 2, seed=seed), (X, SEEDS)),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_compiles_into_one_graph_and_exports(name: str) -> None:
    f, inputs = GRAPHS[name]
    torch._dynamo.reset()
    compiled: Any = torch.compile(f, fullgraph=True, backend="aot_eager")
    same(compiled(*inputs), f(*inputs), 1e-6)

    class Module(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.f = f

        def forward(self, *args: Tensor) -> Any:
            return self.f(*args)

    exported = torch.export.export(Module(), inputs).module()
    same(tuple(exported(*inputs)), tuple(f(*inputs)), 1e-6)
    if name in ("straight", "dim", "threshold", "SoftTopK"):
        leaves = X.clone().requires_grad_(), X.clone().requires_grad_()
        by_graph = torch.autograd.grad(compiled(leaves[0], *inputs[1:]).sin().sum(), leaves[0])
        same(by_graph, torch.autograd.grad(f(leaves[1], *inputs[1:]).sin().sum(), leaves[1]), 1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_strides_are_as_the_compiler_is_told(dtype: torch.dtype) -> None:
    """Those of transposed scores, too; inductor stops where they are not."""
    from topk_lib.ops.soft import _fused_backward, _solved

    rows = torch.randn(5, 3).to(dtype).T
    _, taus = _solved(rows, K, T, None, "sigmoid")
    torch.library.opcheck(_solved, (rows, K, T, None, "sigmoid"), test_utils="test_faketensor")
    grad_and_rows = (rows, taus, T, None, "sigmoid", rows)
    torch.library.opcheck(_fused_backward, grad_and_rows, test_utils="test_faketensor")
    by_real, by_fake = _fused_backward(*grad_and_rows), _on_meta(_fused_backward, grad_and_rows)
    assert [x.stride() for x in by_real] == [x.stride() for x in by_fake]


def _on_meta(op: Function, args: tuple[Any, ...]) -> Any:
    return op(*(x.to("meta") if isinstance(x, Tensor) else x for x in args))


def test_transforms_inside_one_graph() -> None:
    def f(s: Tensor) -> Tensor:
        return soft_topk(s, 2, hard=True)

    torch._dynamo.reset()
    for transform in (jacfwd, jacrev):
        compiled: Any = torch.compile(transform(f), fullgraph=True, backend="eager")
        same(compiled(X[0]), jacobian(f, X[0]), 1e-7)


def test_a_width_that_no_graph_can_know() -> None:
    def f(s: Tensor, k: Tensor) -> tuple[Tensor, ...]:
        return hard_topk(s, k)

    torch._dynamo.reset()
    compiled: Any = torch.compile(f, fullgraph=True, backend="eager")
    with pytest.raises(Exception, match=r"as wide as the largest k.*topk_mask.*capture_scalar_outputs"):
        compiled(X, WHOLE)
    with torch._dynamo.config.patch(capture_scalar_outputs=True):
        torch._dynamo.reset()
        compiled = torch.compile(f, fullgraph=True, backend="eager")
        same(compiled(X, WHOLE), tuple(hard_topk(X, WHOLE)))
    with pytest.raises(ValueError, match="take topk_mask"):
        hard_topk(X.to("meta"), WHOLE.to("meta"))


def test_on_meta_only_shapes() -> None:
    x, k = X.to("meta"), WHOLE.to("meta")
    assert hard_topk(x, 2).indices.shape == (3, 2)
    assert topk_mask(x, k).shape == soft_topk(x, k, hard=True).shape == (3, 5)
    assert sample_topk(x, k).shape == soft_topk_threshold(x, 2).shape == (3,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: soft_topk(X, 2, valid=VALID.to("meta")),
            "valid must be on the device of scores, cpu, got meta",
        ),
        (lambda: sample_topk(X, 2, seed=SEEDS.to("meta")), "seed is on the device meta"),
        (lambda: sample_topk(X, 2, top_p=TOP_P.to("meta")), "top_p is on the device meta"),
        (lambda: hard_topk(X, WHOLE.to("meta")), "k is on the device meta"),
        (lambda: soft_topk(X, 2, T.to("meta")), "temperature is on the device meta"),
    ],
)
def test_another_device_gets_a_sentence(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_numbers_of_numpy() -> None:
    half: Any = np.float32(0.5)
    twos: list[Any] = [np.int64(2), np.uint8(2), np.array(2)]
    for two in twos:
        same(hard_topk(X, two), hard_topk(X, 2))
        same(soft_topk(X, two, half), soft_topk(X, 2, 0.5))
        same(gumbel_topk(X, two, seed=two), gumbel_topk(X, 2, seed=2))
        same(sample_topk(X, two, top_p=np.float64(0.5), seed=two), sample_topk(X, 2, top_p=0.5, seed=2))
        same(SoftTopK(two).eval()(X), SoftTopK(2).eval()(X))
    wrongs: list[Any] = [np.float64(2), np.bool_(True), np.array([2])]
    for wrong in wrongs:
        with pytest.raises(TypeError, match="k must be an int"):
            hard_topk(X, wrong)


def test_seeds_of_any_size() -> None:
    x = torch.zeros(4, 1000)
    seeds = [0, -1, 2**63, 2**63 - 2, 2**64, 2**64 + 1, 3**100, -(3**100)]
    draws = [sample_topk(x, 1000, seed=seed) for seed in seeds]
    assert len({tuple(draw.tolist()) for draw in draws}) == len(seeds)
    same(sample_topk(x, 1000, seed=2**64 - 1), draws[1])  # the same 64 bits
    same(draws[1][1:], draws[0][:3])


def test_nan_draws_nothing() -> None:
    logits = torch.tensor([[0.0, math.nan, 1.0], [0.0, math.inf, 1.0], [0.0, -math.inf, 1.0]])
    draw = gumbel_topk(logits, 2, seed=0)
    assert draw.indices[:2].tolist() == [[-1, -1]] * 2
    assert draw.mask.sum(-1).tolist() == [0, 0, 2]
    assert draw.log_prob.isnan().tolist() == [True, True, False]
    masked = gumbel_topk(logits, 2, seed=0, valid=torch.tensor([True, False, True]))
    assert masked.mask.sum(-1).tolist() == [2, 2, 2]


def test_an_empty_batch() -> None:
    empty, none = torch.empty(0, 5), torch.empty(0, dtype=torch.int64)
    assert sample_topk(empty, none, top_p=0.5).shape == (0,)
    assert hard_topk(empty, none).values.shape == (0, 0)
    assert gumbel_topk(empty, none).indices.shape == (0, 0)
    assert soft_topk(empty, none, hard=True).shape == (0, 5)


def test_a_module_does_not_cut_a_fraction_off() -> None:
    with pytest.raises(ValueError, match=r"whole numbers k, got 2\.5"):
        SoftTopK(2.5).eval()(X)
