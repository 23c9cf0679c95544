"""soft_topk against the published operators whose values it must have."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from topk_lib import soft_topk, soft_topk_threshold

Array = NDArray[np.float64]

settings = pytest.mark.parametrize(
    ("n", "k", "temperature"), [(2, 1.0, 1.0), (7, 2.0, 0.5), (40, 8.0, 0.3), (40, 33.5, 2.0)]
)
CLOSE: dict[str, Any] = {"rtol": 0, "atol": 1e-9}


def scores_and_pull(n: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(n)
    return torch.randn(n, dtype=torch.float64, requires_grad=True), torch.randn(n, dtype=torch.float64)


def agree(got: Tensor, expected: Tensor, scores: Tensor, g: Tensor) -> None:
    """Values and gradients."""
    torch.testing.assert_close(got, expected, **CLOSE)
    (a,) = torch.autograd.grad((g * got).sum(), scores)
    (b,) = torch.autograd.grad((g * expected).sum(), scores)
    torch.testing.assert_close(a, b, rtol=0, atol=1e-8)


@settings
def test_sigmoid_is_entropic_transport_by_pot(n: int, k: float, temperature: float) -> None:
    """Xie et al. 2020: squared distance to the bins 1 and 0, epsilon twice the temperature."""
    ot = pytest.importorskip("ot")
    scores, g = scores_and_pull(n)
    cost = torch.stack([(scores - 1) ** 2, scores**2], dim=1)
    rows, columns = torch.ones(n).double() / n, torch.tensor([k, n - k]).double() / n
    plan = ot.bregman.sinkhorn_log(
        rows, columns, cost, reg=2 * temperature, numItermax=20000, stopThr=1e-14, warn=False
    )
    agree(soft_topk(scores, k, temperature), n * plan[:, 0], scores, g)


def lml(x: Array, k: float) -> Array:
    """The problem that defines the limited multi-label projection, by Newton's method on its KKT system.

    min -<x, y> + sum y log y + (1 - y) log(1 - y)  subject to  sum y = k.
    """
    y, nu = np.full(len(x), k / len(x)), 0.0
    for _ in range(500):
        residual = np.concatenate([-x + np.log(y / (1 - y)) + nu, [y.sum() - k]])
        if abs(residual).max() < 1e-13:
            break
        move = np.linalg.solve(lml_system(y), -residual)
        step = 1.0
        while not ((y + step * move[:-1] > 0) & (y + step * move[:-1] < 1)).all():
            step /= 2
        step = step if step == 1 else 0.9 * step
        y, nu = y + step * move[:-1], nu + step * move[-1]
    return y


def lml_system(y: Array) -> Array:
    """The derivative of the KKT conditions, (n + 1, n + 1)."""
    system = np.diag(np.append(1 / y + 1 / (1 - y), 0.0))
    system[-1, :-1] = system[:-1, -1] = 1
    return system


@settings
def test_sigmoid_is_lml(n: int, k: float, temperature: float) -> None:
    """Amos, Koltun and Kolter 2019: values, and gradients through the derivative of the KKT system."""
    scores, g = scores_and_pull(n)
    got = soft_topk(scores, k, temperature)
    y = lml(scores.detach().numpy() / temperature, k)
    np.testing.assert_allclose(got.detach().numpy(), y, rtol=0, atol=1e-9)
    backward = np.linalg.solve(lml_system(y), np.append(g.numpy(), 0.0))[:-1] / temperature
    (ours,) = torch.autograd.grad((g * got).sum(), scores)
    np.testing.assert_allclose(ours.numpy(), backward, rtol=0, atol=1e-9)


@settings
def test_clip_is_the_budget_of_entmax(n: int, k: float, temperature: float) -> None:
    """max <x, p> - ||p||^2 / 2 over 0 <= p <= 1, sum p = budget, at x = scores / temperature."""
    root_finding = pytest.importorskip("entmax.root_finding")
    scores, g = scores_and_pull(n)
    expected = root_finding.budget_bisect(scores / temperature, budget=k, n_iter=60)
    agree(soft_topk(scores, k, temperature, link="clip"), expected, scores, g)


def lapsum(s: Array, k: float, temperature: float) -> tuple[Array, float]:
    """Solve sum_i Lap((s_i - tau) / temperature) = k exactly, Lap the Laplace distribution function.

    Between two neighbouring scores the sum is count + (b x - c / x) / 2 in x = exp(tau / temperature
    - pivot), with count the scores above tau: a quadratic equation.
    """
    order = np.sort(s) / temperature
    n = len(s)

    def total(t: float) -> float:
        z = order - t
        return float(np.where(z < 0, 0.5 * np.exp(-abs(z)), 1 - 0.5 * np.exp(-abs(z))).sum())

    below = sum(total(t) >= k for t in order)  # how many scores lie at or below tau
    pivot = order[min(below, n - 1)]
    c = np.exp(order[:below] - pivot).sum()  # of the scores below, (c / x) / 2
    b = np.exp(pivot - order[below:]).sum()  # of those above, count - (b x) / 2
    # (n - below) - b x / 2 + c / (2 x) = k, times 2 x:  b x^2 - 2 (n - below - k) x - c = 0
    half = n - below - k
    root = math.sqrt(half * half + b * c)
    x = (half + root) / b if half > 0 else c / (root - half)
    tau = pivot + math.log(x)
    assert below == 0 or order[below - 1] <= tau + 1e-12
    assert below == n or tau <= order[below] + 1e-12
    z = s / temperature - tau
    return np.where(z < 0, 0.5 * np.exp(-abs(z)), 1 - 0.5 * np.exp(-abs(z))), tau * temperature


@settings
def test_laplace_is_lapsum(n: int, k: float, temperature: float) -> None:
    """Struski et al. 2025: the closed form, and its gradient (diag(d) - d d' / D) / temperature."""
    scores, g = scores_and_pull(n)
    got = soft_topk(scores, k, temperature, link="laplace")
    expected, tau = lapsum(scores.detach().numpy(), k, temperature)
    np.testing.assert_allclose(got.detach().numpy(), expected, rtol=0, atol=1e-11)
    assert soft_topk_threshold(scores, k, temperature, link="laplace").item() == pytest.approx(tau, abs=1e-9)
    step = 1e-6
    (ours,) = torch.autograd.grad((g * got).sum(), scores)
    for i in range(min(n, 7)):
        nudge = step * np.eye(n)[i]
        s = scores.detach().numpy()
        change = lapsum(s + nudge, k, temperature)[0] - lapsum(s - nudge, k, temperature)[0]
        assert float(g.numpy() @ change) / (2 * step) == pytest.approx(ours[i].item(), abs=1e-8)


@settings
def test_exp_is_the_fixed_point_of_coordinate_descent(n: int, k: float, temperature: float) -> None:
    """Lei et al. 2023, in the code of colt5_attention: eps is the temperature, tau = -a."""
    colt5 = pytest.importorskip("colt5_attention.coor_descent")
    scores, g = scores_and_pull(n)
    expected = colt5.coor_descent(scores, n_iters=1000, k=k, eps=temperature)
    agree(soft_topk(scores, k, temperature, link="exp"), expected, scores, g)


def test_coordinate_descent_closes_in_by_m_over_k() -> None:
    """m entries of weight 1 and k to share: each step leaves the share m / k of the error in tau."""
    colt5 = pytest.importorskip("colt5_attention.coor_descent")
    scores = torch.cat([torch.linspace(5, 6, 9), torch.linspace(-1, 0, 30)]).double()
    exact = soft_topk(scores, 10, 0.1, link="exp")
    assert int((exact == 1).sum()) == 9
    # At weight w < 1 the error in log w is that in tau over the temperature.
    errors = [
        (colt5.coor_descent(scores, n_iters=steps, k=10, eps=0.1)[-1] / exact[-1]).log().item()
        for steps in (60, 61, 62)
    ]
    assert errors[1] / errors[0] == pytest.approx(0.9, abs=0.01)
    assert errors[2] / errors[1] == pytest.approx(0.9, abs=0.01)
