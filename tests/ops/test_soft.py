"""soft_topk against its definition, SciPy's root finder and finite differences.

test_mathematics.py holds what the chapter on the mathematics proves, test_peers.py published operators.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from torch import Tensor

from topk_lib import reference, soft_topk, soft_topk_threshold

LINKS = ["sigmoid", "laplace", "clip", "exp"]
links = pytest.mark.parametrize("link", LINKS)
pytestmark = pytest.mark.usefixtures("cpu_code")


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, float, float, str]:
    n = draw(st.integers(2, 12))
    numbers = draw(st.lists(st.sampled_from([-3.0, -1.0, 0.0, 0.25, 0.5, 2.0, 4.0]), min_size=n, max_size=n))
    k = draw(st.floats(0.1, n - 0.1))
    return torch.tensor(numbers, dtype=torch.float64), k, draw(st.sampled_from([0.05, 0.3, 1.0, 5.0])), draw(
        st.sampled_from(LINKS)
    )  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(cases())
def test_is_the_definition(case: tuple[Tensor, float, float, str]) -> None:
    scores, k, temperature, link = case
    got = soft_topk(scores, k, temperature, link=link)
    torch.testing.assert_close(got, reference.soft_topk(scores, k, temperature, link), rtol=0, atol=1e-10)


@settings(max_examples=100, deadline=None)
@given(cases())
def test_threshold_is_the_root_that_scipy_finds(case: tuple[Tensor, float, float, str]) -> None:
    scores, k, temperature, link = case
    assume(link in ("sigmoid", "laplace"))  # strictly monotone: one root
    f = reference.LINKS[link]

    def total(tau: float) -> float:
        return sum(f((s - tau) / temperature) for s in scores.tolist())

    root = brentq(lambda tau: total(tau) - k, -200, 200, xtol=1e-13)
    # In a wide gap the sum hardly moves with tau: no sum in float64 tells where the root is.
    assume(total(root - 1e-3) - total(root + 1e-3) > 1e-5)
    assert soft_topk_threshold(scores, k, temperature, link=link).item() == pytest.approx(root, abs=1e-9)


@links
@pytest.mark.parametrize("masked", [False, True])
def test_gradients(link: str, masked: bool) -> None:
    torch.manual_seed(1)
    scores = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    k = torch.tensor([1.5, 2.0, 2.7], dtype=torch.float64, requires_grad=True)
    temperature = torch.tensor([0.7, 1.3, 0.4], dtype=torch.float64, requires_grad=True)
    valid = torch.rand(3, 6) > 0.3 if masked else None
    if valid is not None:
        valid[:, :4] = True

    def weights(s: Tensor, k: Tensor, t: Tensor) -> Tensor:
        return soft_topk(s, k, t, link=link, valid=valid)

    assert torch.autograd.gradcheck(weights, (scores, k, temperature))


@links
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_low_precision_follows_float64(link: str, dtype: torch.dtype) -> None:
    torch.manual_seed(2)
    scores = torch.randn(4, 100).to(dtype)
    got = soft_topk(scores, 10, 0.5, link=link)
    assert got.dtype == dtype
    expected = soft_topk(scores.double(), 10, 0.5, link=link)
    torch.testing.assert_close(got.double(), expected, rtol=2 * torch.finfo(dtype).eps, atol=1e-7)
    if dtype == torch.float32:
        assert (got.sum(-1) - 10).abs().max() < 1e-5


@links
def test_masked_entries_count_for_nothing(link: str) -> None:
    scores = torch.tensor([[0.3, 1e30, -1.0, 2.0, math.nan]], dtype=torch.float64)
    valid = torch.tensor([[True, False, True, True, False]])
    got = soft_topk(scores, 2, link=link, valid=valid)
    alone = soft_topk(scores[:, [0, 2, 3]], 2, link=link)
    assert got[0, [1, 4]].tolist() == [0, 0]
    torch.testing.assert_close(got[:, [0, 2, 3]], alone)
    assert soft_topk(scores, 4, link=link, valid=valid).tolist() == [[1, 0, 1, 1, 0]]
    assert soft_topk(scores, 2, link=link, valid=torch.zeros(5, dtype=torch.bool)).sum() == 0


@links
def test_infinities_and_nan(link: str) -> None:
    inf = math.inf
    row = torch.tensor([inf, 0.0, 0.0, -inf])
    assert soft_topk(row, 2, link=link).tolist() == pytest.approx([1, 0.5, 0.5, 0])
    assert soft_topk(row, 3.5, link=link).tolist() == pytest.approx([1, 1, 1, 0.5])
    assert soft_topk(torch.tensor([inf, inf, 0.0]), 1, link=link).tolist() == pytest.approx([0.5, 0.5, 0])
    beside_nan = soft_topk(torch.tensor([[1.0, math.nan], [1.0, 1.0]]), 1, link=link)[1]
    assert beside_nan.tolist() == pytest.approx([0.5, 0.5])
    assert soft_topk(torch.tensor([1.0, math.nan]), 1, link=link).isnan().all()


@links
def test_ends_of_k_and_empty(link: str) -> None:
    scores = torch.tensor([[3.0, 1.0, 2.0]], requires_grad=True)
    assert soft_topk(scores, 0, link=link).tolist() == [[0, 0, 0]]
    everything = soft_topk(scores, 3, link=link)
    assert everything.tolist() == [[1, 1, 1]]
    torch.autograd.backward(everything.sum())
    assert scores.grad is not None
    assert scores.grad.tolist() == [[0, 0, 0]]
    assert soft_topk(torch.empty(0, 5), 2, link=link).shape == (0, 5)
    assert soft_topk(torch.empty(3, 0), 0, link=link).shape == (3, 0)
    assert soft_topk_threshold(scores, 0, link=link).item() == math.inf
    assert soft_topk_threshold(scores, 3, link=link).item() == -math.inf


def test_any_dimension_and_stride() -> None:
    torch.manual_seed(3)
    scores = torch.randn(4, 5, 6).transpose(0, 2)  # not contiguous
    got = soft_topk(scores, 2, 0.3, dim=1)
    torch.testing.assert_close(got.sum(1), torch.full((6, 4), 2.0))
    torch.testing.assert_close(got[2, :, 3], soft_topk(scores[2, :, 3], 2, 0.3))


@pytest.mark.parametrize(
    ("arguments", "keywords", "error", "message"),
    [
        ((4,), {}, ValueError, r"k must lie in 0\.\.3"),
        ((-1,), {}, ValueError, r"k must lie in 0\.\.3"),
        ((math.nan,), {}, ValueError, "k must lie"),
        (("2",), {}, TypeError, "k must be a number"),
        ((torch.ones(2),), {}, ValueError, "one number per row"),
        ((1, 0.0), {}, ValueError, "temperature must be above 0"),
        ((1, math.inf), {}, ValueError, "temperature must be above 0"),
        ((1,), {"link": "softmax"}, ValueError, "link must be one of sigmoid"),
        ((1.5,), {"hard": True}, ValueError, "whole numbers"),
        ((1,), {"valid": torch.ones(3)}, TypeError, "valid must be a bool"),
    ],
)
def test_bad_input(
    arguments: tuple[Any, ...], keywords: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        soft_topk(torch.zeros(3), *arguments, **keywords)


@pytest.mark.parametrize("link", ["sigmoid", "laplace", "exp"])
def test_second_derivatives(link: str) -> None:
    torch.manual_seed(4)
    scores = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    temperature = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda s, t: soft_topk(s, 2, t, link=link), (scores, temperature))


@links
def test_gradient_of_the_threshold(link: str) -> None:
    torch.manual_seed(5)
    scores = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    k = torch.tensor([1.5, 2.5], dtype=torch.float64, requires_grad=True)
    t = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s, k, t: soft_topk_threshold(s, k, t, link=link), (scores, k, t))


@links
def test_scores_and_temperatures_at_the_ends_of_float32(link: str) -> None:
    far = torch.tensor([1e30, -1e30, 0.0, 0.0])
    temperature = torch.tensor(1e-9, requires_grad=True)
    torch.autograd.backward(soft_topk(far, 1.5, temperature, link=link)[0])
    assert temperature.grad is not None
    assert temperature.grad.item() == 0
    scores = torch.tensor([1.0, 1.0, 2.0, 0.0])
    assert soft_topk(scores, 1.5, 1e-40, link=link).tolist() == pytest.approx([0.25, 0.25, 1, 0], abs=1e-6)
    assert soft_topk(scores, 1.5, 1e38, link=link).tolist() == pytest.approx([0.375] * 4, abs=1e-6)


@links
def test_a_long_row_sums_to_k_in_float32(link: str) -> None:
    k = torch.tensor(3e5, requires_grad=True)
    weights = soft_topk(torch.zeros(1_000_000), k, link=link)
    assert weights.double().sum().item() == pytest.approx(3e5, rel=1e-5)
    if link != "exp":  # tied entries stand on exp's kink only where k = n
        torch.autograd.backward(weights.sum())
        assert k.grad is not None
        assert k.grad.item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("link", ["sigmoid", "laplace", "clip", "exp"])
@pytest.mark.parametrize("left_out", [0.05, 0.5, 20.0])
def test_weights_that_are_nearly_all_1(link: str, left_out: float) -> None:
    """What they lack to 1 is small, and decides where the threshold lies."""
    torch.manual_seed(0)
    x = torch.cat([torch.randn(4, 2000), 10 * torch.randn(4, 2000)])
    valid = torch.rand(8, 2000) < 0.9
    for t in (0.01, 0.5, 3.0):
        for ok, k in ((None, 2000 - left_out), (valid, valid.sum(-1) - left_out)):
            exact = soft_topk(x.double(), k, t, link=link, valid=ok)
            torch.testing.assert_close(
                soft_topk(x, k, t, link=link, valid=ok).double(), exact, rtol=0, atol=2e-5
            )
