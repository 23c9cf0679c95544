"""Rows to experts and back, against sums written out; on the kernels, too."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from topk_lib.ops.route import combine, places, take

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BACKENDS = ["torch", "triton"]


@pytest.fixture
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "triton":
        pytest.importorskip("triton")
    monkeypatch.setenv("TOPK_BACKEND", request.param)


both = pytest.mark.parametrize("backend", BACKENDS, indirect=True)
SLOTS = [4, 0, 2, 2, 5, 0, 2]  # of six tokens: 1 and 3 have no slot, 2 has three


def rows(n: int, d: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)).to(dtype).to(DEVICE)


@pytest.mark.gpu
@pytest.mark.usefixtures("backend")
@both
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("d", [1, 5, 64, 1100])
def test_is_the_sum_written_out(dtype: torch.dtype, d: int) -> None:
    slots = torch.tensor(SLOTS, device=DEVICE)
    at = places(slots, 6)
    assert at.order.tolist() == [1, 5, 2, 3, 6, 0, 4]
    assert at.starts.tolist() == [0, 2, 2, 5, 5, 6, 7]
    x, y = rows(6, d, dtype), rows(7, d, dtype, 1)
    weights = torch.rand(7, generator=torch.Generator().manual_seed(2)).to(DEVICE)
    assert torch.equal(take(x, at), x[slots])
    wide = torch.promote_types(dtype, torch.float32)
    expected = torch.zeros(6, d, dtype=wide, device=DEVICE)
    for slot, token in enumerate(SLOTS):
        expected[token] += y[slot].to(wide) * weights[slot].to(wide)
    got = combine(y, weights, at)
    assert got.dtype == dtype
    eps = torch.finfo(dtype).eps  # the interpreter cuts where a GPU rounds
    torch.testing.assert_close(got.to(wide), expected.to(dtype).to(wide), rtol=max(eps, 2e-6), atol=1e-5)
    assert torch.equal(got, combine(y, weights, at))
    assert not got[[1, 3]].any()


@pytest.mark.gpu
@pytest.mark.usefixtures("backend")
@both
def test_gradients_of_both_orders() -> None:
    at = places(torch.tensor([2, 0, 2], device=DEVICE), 3)
    x, y = (rows(3, 2, torch.float64, seed).requires_grad_() for seed in range(2))
    weights = torch.rand(3, dtype=torch.float64, device=DEVICE, requires_grad=True)
    for function, inputs in ((lambda x: take(x, at), (x,)), (lambda y, w: combine(y, w, at), (y, weights))):
        call: Any = function
        assert torch.autograd.gradcheck(call, inputs)
        assert torch.autograd.gradgradcheck(call, inputs)


@pytest.mark.gpu
@pytest.mark.usefixtures("backend")
@both
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_gradients_in_low_precision_follow_float64(dtype: torch.dtype) -> None:
    at = places(torch.tensor(SLOTS, device=DEVICE), 6)
    y, weights, g = rows(7, 40, dtype), torch.rand(7, device=DEVICE), rows(6, 40, dtype, 3)

    def gradients(y: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
        inputs = y.requires_grad_(), weights.requires_grad_()
        return torch.autograd.grad(combine(*inputs, at), inputs, g.to(y.dtype))

    got = gradients(y.clone(), weights.clone())
    expected = gradients(y.double(), weights.double())
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=2 * torch.finfo(dtype).eps, atol=1e-5)


@pytest.mark.usefixtures("backend")
@both
@pytest.mark.parametrize("d", [0, 3])
def test_nothing_to_move(d: int) -> None:
    none = places(torch.zeros(0, dtype=torch.int64), 4)
    y = torch.zeros(0, d, requires_grad=True)
    got = combine(y, torch.zeros(0), none)
    assert got.tolist() == [[0.0] * d] * 4
    got.sum().backward()  # type: ignore[no-untyped-call]
    assert take(torch.ones(4, d), none).shape == (0, d)
    assert combine(y.detach(), torch.zeros(0), places(torch.zeros(0, dtype=torch.int64), 0)).shape == (0, d)


def test_transforms_and_compiler() -> None:
    at = places(torch.tensor(SLOTS), 6)
    x, weights = rows(6, 3), torch.rand(7)

    def there_and_back(x: Tensor, weights: Tensor) -> Tensor:
        return combine(take(x, at).sin(), weights, at)

    expected = there_and_back(x, weights)
    compiled: Any = torch.compile(there_and_back, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, weights), expected)
    many = torch.vmap(there_and_back)(x.expand(2, 6, 3), weights.expand(2, 7))
    torch.testing.assert_close(many[1], expected)
    pair: Any = torch.func.jvp(there_and_back, (x, weights), (x, weights))
    moved = pair[1]
    up, down = [there_and_back(x * (1 + h), weights * (1 + h)) for h in (1e-3, -1e-3)]
    torch.testing.assert_close(moved, (up - down) / 2e-3, rtol=1e-2, atol=1e-3)
    leaf = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(there_and_back(leaf, weights).sum(), leaf)
    torch.testing.assert_close(torch.func.grad(lambda x: there_and_back(x, weights).sum())(x), grad)


def test_opcheck() -> None:
    from topk_lib.ops import route

    at = places(torch.tensor(SLOTS), 6)
    x, y, weights = (t.requires_grad_() for t in (rows(6, 3), rows(7, 3), torch.rand(7)))
    torch.library.opcheck(route._take, (x, *at))
    torch.library.opcheck(route._add, (y, weights, *at))
    torch.library.opcheck(route._add, (y, None, *at))
    torch.library.opcheck(route._take_weighted, (rows(6, 3), rows(7, 3), torch.rand(7), *at))
