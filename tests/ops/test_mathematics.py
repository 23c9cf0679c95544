"""The propositions of the chapter on the mathematics, one test for each."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from topk_lib import hard_topk, reference, soft_topk, soft_topk_threshold

LINKS = ["sigmoid", "laplace", "clip", "exp"]
LIPSCHITZ = {"sigmoid": 0.25, "laplace": 0.5, "clip": 1.0, "exp": 1.0}
CLOSE: dict[str, Any] = {"rtol": 0, "atol": 1e-10}
links = pytest.mark.parametrize("link", LINKS)

Case = tuple[Tensor, float, float, str]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    n = draw(st.integers(2, 9))
    eighths = draw(st.lists(st.integers(-32, 32), min_size=n, max_size=n))  # ties are common
    k = draw(st.floats(0.1, n - 0.1))
    temperature = draw(st.sampled_from([0.1, 0.3, 1.0, 5.0]))
    return torch.tensor(eighths, dtype=torch.float64) / 8, k, temperature, draw(st.sampled_from(LINKS))


def properties(count: int) -> settings:
    return settings(max_examples=count, deadline=None)


def double(numbers: list[float]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def slope(z: Tensor, link: str) -> Tensor:
    """f', written anew: in the tests nothing is taken from the code under test."""
    slopes = {
        "sigmoid": torch.cosh(z / 2).square().reciprocal() / 4,
        "laplace": torch.exp(-z.abs()) / 2,
        "clip": ((z > 0) & (z < 1)).double(),
        "exp": torch.exp(z.clamp(max=0)) * (z < 0),
    }
    return slopes[link]


def penalty(w: Tensor, link: str) -> Tensor:
    """The sum of R, with R' the inverse of the link."""
    small = torch.minimum(w, 1 - w)
    penalties: dict[str, Tensor] = {
        "sigmoid": torch.xlogy(w, w) + torch.xlogy(1 - w, 1 - w),
        "laplace": torch.xlogy(small, 2 * small) - small,
        "clip": w * w / 2,
        "exp": torch.xlogy(w, w) - w,
    }
    return penalties[link].sum()


def away_from_corners(scores: Tensor, k: float, temperature: float, link: str) -> Tensor:
    """z of a case, which is given up where f is not differentiable at it."""
    tau = soft_topk_threshold(scores, k, temperature, link=link)
    z = (scores - tau) / temperature
    corners = {"clip": (0.0, 1.0), "exp": (0.0,)}.get(link, ())
    assume(all(float((z - corner).abs().min()) > 1e-3 for corner in corners))
    return z


def gradients(case: Case, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of <g, weights> with respect to scores, k and temperature, by autograd."""
    scores, k, temperature, link = case
    leaves = (
        scores.clone().requires_grad_(),
        torch.tensor(k, dtype=torch.float64, requires_grad=True),
        torch.tensor(temperature, dtype=torch.float64, requires_grad=True),
    )
    loss = (g * soft_topk(*leaves, link=link)).sum()
    found = torch.autograd.grad(loss, leaves)
    return found[0], found[1], found[2]


def jacobian(scores: Tensor, k: float, temperature: float, link: str) -> Tensor:
    """(n, n): row i holds the derivatives of weight i."""
    every = torch.eye(len(scores), dtype=torch.float64)
    return torch.stack([gradients((scores, k, temperature, link), row)[0] for row in every])


@properties(150)
@given(cases())
@example((double([0.0, 3.0]), 1.0, 1.0, "clip"))
def test_threshold_exists_and_weights_are_unique(case: Case) -> None:
    scores, k, temperature, link = case
    f = reference.LINKS[link]

    def weights(tau: float) -> list[float]:
        return [f((s - tau) / temperature) for s in scores.tolist()]

    tau = soft_topk_threshold(scores, k, temperature, link=link).item()
    assert abs(sum(weights(tau)) - k) <= 1e-9
    # The ends of the interval of all thresholds: from below, and from above.
    ends = []
    for keep_left in (True, False):
        low, high = scores.min().item() - 40 * temperature, scores.max().item() + 40 * temperature
        for _ in range(100):
            middle = (low + high) / 2
            excess = sum(weights(middle)) - k
            left = excess > 1e-11 if keep_left else excess >= -1e-11
            low, high = (middle, high) if left else (low, middle)
        ends.append(high)
    assert weights(ends[0]) == pytest.approx(weights(ends[1]), abs=1e-9)
    if link != "clip":
        assert ends[0] == pytest.approx(ends[1], abs=1e-6)


def test_only_the_threshold_of_clip_can_be_ambiguous() -> None:
    scores = double([0.0, 3.0])
    for tau in (0.0, 0.7, 2.0):
        assert (scores - tau).clamp(0, 1).tolist() == [0, 1]
    assert soft_topk(scores, 1, 1.0, link="clip").tolist() == [0, 1]


@properties(150)
@given(cases())
def test_weights_sum_to_k(case: Case) -> None:
    scores, k, temperature, link = case
    assert abs(soft_topk(scores, k, temperature, link=link).sum().item() - k) <= 1e-12 * max(k, 1)
    single = soft_topk(scores.float(), k, temperature, link=link)
    assert abs(single.double().sum().item() - k) <= 1e-5


@properties(150)
@given(cases())
def test_weights_lie_between_0_and_1(case: Case) -> None:
    scores, k, temperature, link = case
    weights = soft_topk(scores, k, temperature, link=link)
    assert ((weights >= 0) & (weights <= 1)).all()


@properties(150)
@given(cases(), st.integers(0, 8), st.sampled_from([0.125, 1.0]), st.floats(0, 1))
def test_weights_rise_with_their_score_and_with_k(case: Case, which: int, by: float, share: float) -> None:
    scores, k, temperature, link = case
    weights = soft_topk(scores, k, temperature, link=link)
    assert (weights[scores.argsort()].diff() >= -1e-10).all()
    raised = scores.clone()
    raised[which % len(scores)] += by
    change = soft_topk(raised, k, temperature, link=link) - weights
    others = torch.arange(len(scores)) != which % len(scores)
    assert change[~others].item() >= -1e-10
    assert (change[others] <= 1e-10).all()
    more = k + share * (len(scores) - 0.05 - k)
    assert (soft_topk(scores, more, temperature, link=link) >= weights - 1e-10).all()


@properties(100)
@given(cases(), st.floats(-100, 100))
def test_adding_a_constant_changes_nothing(case: Case, constant: float) -> None:
    scores, k, temperature, link = case
    shifted = soft_topk(scores + constant, k, temperature, link=link)
    torch.testing.assert_close(shifted, soft_topk(scores, k, temperature, link=link), **CLOSE)


@properties(100)
@given(cases(), st.randoms(use_true_random=False))
def test_permuting_the_scores_permutes_the_weights(case: Case, random: Any) -> None:
    scores, k, temperature, link = case
    order = torch.tensor(random.sample(range(len(scores)), len(scores)))
    permuted = soft_topk(scores[order], k, temperature, link=link)
    torch.testing.assert_close(permuted, soft_topk(scores, k, temperature, link=link)[order], **CLOSE)
    tied = scores[:, None] == scores[None, :]
    weights = soft_topk(scores, k, temperature, link=link)
    assert ((weights[:, None] - weights[None, :]).abs()[tied] == 0).all()


@properties(100)
@given(cases(), st.floats(0.01, 100))
def test_scaling_scores_and_temperature_changes_nothing(case: Case, factor: float) -> None:
    scores, k, temperature, link = case
    weights = soft_topk(scores, k, temperature, link=link)
    scaled = soft_topk(factor * scores, k, factor * temperature, link=link)
    torch.testing.assert_close(scaled, weights, **CLOSE)
    away_from_corners(scores, k, temperature, link)
    g = torch.linspace(-1, 2, len(scores), dtype=torch.float64)
    g_scores, _, g_temperature = gradients(case, g)
    assert ((scores * g_scores).sum() + temperature * g_temperature).abs() <= 1e-9


@properties(200)
@given(cases(), st.sampled_from([2.0, 1.0, 0.3, 0.1, 0.02]))
def test_temperature_to_zero_gives_the_hard_mask(case: Case, temperature: float) -> None:
    scores, k, _, link = case
    k = min(max(round(k), 1), len(scores) - 1)
    mask = hard_topk(scores, k).mask
    gap = (scores[mask].min() - scores[~mask].max()).item()
    assume(gap > 0)
    f = reference.LINKS[link]
    z = gap / (2 * temperature)
    bound = max(k * (1 - f(z)), (len(scores) - k) * f(-z))
    distance = (soft_topk(scores, k, temperature, link=link) - mask.double()).abs().max().item()
    assert distance <= bound + 1e-12
    if link == "clip" and gap >= temperature:
        assert distance <= 1e-12  # reached before the limit
    assert (soft_topk(scores, k, gap / 200, link=link) - mask.double()).abs().max() <= 1e-12


@links
@pytest.mark.parametrize(("k", "share"), [(2, 1 / 3), (1.5, 1 / 6), (3, 2 / 3)])
def test_temperature_to_zero_lets_ties_share(link: str, k: float, share: float) -> None:
    scores = double([1.0, 2.0, 1.0, 0.0, 1.0])
    got = soft_topk(scores, k, 1e-4, link=link)
    torch.testing.assert_close(got, double([share, 1, share, 0, share]), rtol=0, atol=1e-9)


@links
def test_the_distance_to_the_mask_falls_with_the_temperature(link: str) -> None:
    torch.manual_seed(0)
    scores = torch.randn(5, 40, dtype=torch.float64)
    mask = hard_topk(scores, 7).mask.double()
    gaps = [(soft_topk(scores, 7, t, link=link) - mask).abs().max().item() for t in (1.0, 0.1, 1e-3, 1e-5)]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 1e-9


@properties(150)
@given(cases(), st.sampled_from([0.3, 1.0, 10.0, 1e4]))
def test_temperature_to_infinity_gives_k_over_n(case: Case, temperature: float) -> None:
    scores, k, _, link = case
    weights = soft_topk(scores, k, temperature, link=link)
    spread = (scores.max() - scores.min()).item()
    distance = (weights - k / len(scores)).abs().max().item()
    assert distance <= LIPSCHITZ[link] * spread / temperature + 1e-12
    affine = k / len(scores) + (scores - scores.mean()) / temperature
    if link == "clip" and ((affine >= 0) & (affine <= 1)).all():
        torch.testing.assert_close(weights, affine, **CLOSE)  # reached before the limit


@properties(150)
@given(cases(), st.integers(0, 2**31))
def test_weights_maximise_the_penalised_score(case: Case, seed: int) -> None:
    scores, k, temperature, link = case
    weights = soft_topk(scores, k, temperature, link=link)
    best = (scores * weights).sum() - temperature * penalty(weights, link)
    torch.manual_seed(seed)
    # Other weights between 0 and 1 with the same sum: those of other scores.
    for other_scores in (torch.randn(len(scores)).double(), scores + torch.randn(len(scores)) / 10):
        other = soft_topk(other_scores, k, 0.7, link="sigmoid")
        value = (scores * other).sum() - temperature * penalty(other, link)
        assert value <= best + 1e-9


def sinkhorn(cost: np.ndarray[Any, Any], k: float, epsilon: float) -> np.ndarray[Any, Any]:
    """The transport plan (n, 2): each row sums to 1, the columns to k and n - k."""
    n = len(cost)
    u, v = np.zeros(n), np.zeros(2)
    columns = np.array([k, n - k])
    plan: np.ndarray[Any, Any] = np.zeros_like(cost)
    for _ in range(20000):
        u = -epsilon * np.logaddexp.reduce((v - cost) / epsilon, axis=1)
        v = epsilon * (np.log(columns) - np.logaddexp.reduce((u[:, None] - cost) / epsilon, axis=0))
        plan[:] = np.exp((u[:, None] + v - cost) / epsilon)
        if abs(plan.sum(1) - 1).max() < 1e-13:
            break
    return plan


@properties(40)
@given(cases())
def test_transport_to_two_bins_is_the_sigmoid_link(case: Case) -> None:
    scores, k, _, _ = case
    s = scores.numpy()
    for factor, cost in (
        (1, np.stack([-s, 0 * s], 1)),
        (2, np.stack([(s - 1) ** 2, s**2], 1)),
        (4, np.stack([(s - 1) ** 2, (s + 1) ** 2], 1)),
    ):
        plan = sinkhorn(cost, k, epsilon=3.0 * factor)
        got = soft_topk(scores, k, temperature=3.0, link="sigmoid")
        np.testing.assert_allclose(plan[:, 0], got.numpy(), rtol=0, atol=1e-10)


@properties(100)
@given(cases(), st.integers(0, 2**31))
def test_gradient_formula(case: Case, seed: int) -> None:
    scores, k, temperature, link = case
    z = away_from_corners(*case)
    torch.manual_seed(seed)
    g = torch.randn(len(scores), dtype=torch.float64)
    d = slope(z, link)
    assume(d.sum() > 1e-6)
    gbar = (d * g).sum() / d.sum()
    g_scores = d / temperature * (g - gbar)
    formula = (g_scores, gbar, -(z * g_scores).sum())
    for by_autograd, by_formula in zip(gradients(case, g), formula, strict=True):
        torch.testing.assert_close(by_autograd, by_formula, rtol=1e-9, atol=1e-9)

    def loss(s: Tensor, k: float, t: float) -> float:
        return float((g * reference.soft_topk(s, k, t, link)).sum())

    step = 1e-5
    nudge = torch.randn(len(scores), dtype=torch.float64)
    differences = (
        loss(scores + step * nudge, k, temperature) - loss(scores - step * nudge, k, temperature),
        loss(scores, k + step, temperature) - loss(scores, k - step, temperature),
        loss(scores, k, temperature + step) - loss(scores, k, temperature - step),
    )
    derivatives = ((nudge * g_scores).sum(), formula[1], formula[2])
    for difference, derivative in zip(differences, derivatives, strict=True):
        assert difference / (2 * step) == pytest.approx(derivative.item(), rel=1e-4, abs=1e-5)


@properties(60)
@given(cases())
def test_gradients_of_the_threshold_and_of_k(case: Case) -> None:
    scores, k, temperature, link = case
    d = slope(away_from_corners(*case), link)
    assume(d.sum() > 1e-6)
    s, budget = scores.clone().requires_grad_(), torch.tensor(k, dtype=torch.float64, requires_grad=True)
    tau = soft_topk_threshold(s, budget, temperature, link=link)
    by_scores, by_k = torch.autograd.grad(tau, (s, budget))
    torch.testing.assert_close(by_scores, d / d.sum(), **CLOSE)
    torch.testing.assert_close(by_k, -temperature / d.sum(), rtol=1e-9, atol=1e-10)
    weights_by_k = torch.stack([gradients(case, row)[1] for row in torch.eye(len(scores)).double()])
    torch.testing.assert_close(weights_by_k, d / d.sum(), **CLOSE)
    assert weights_by_k.sum().item() == pytest.approx(1, abs=1e-10)


@properties(60)
@given(cases())
def test_gradients_sum_to_zero(case: Case) -> None:
    away_from_corners(*case)
    matrix = jacobian(*case)
    assert matrix.sum(0).abs().max() <= 1e-10
    assert matrix.sum(1).abs().max() <= 1e-10


@properties(60)
@given(cases(), st.integers(0, 2**31))
def test_jacobian_is_symmetric_and_positive_semidefinite(case: Case, seed: int) -> None:
    scores, _, temperature, link = case
    d = slope(away_from_corners(*case), link)
    matrix = jacobian(*case)
    torch.testing.assert_close(matrix, matrix.T, **CLOSE)
    assert torch.linalg.eigvalsh(matrix).min() >= -1e-10
    assume(d.sum() > 1e-6)
    torch.testing.assert_close(matrix, (d.diag() - d.outer(d) / d.sum()) / temperature, rtol=0, atol=1e-9)
    torch.manual_seed(seed)
    v = torch.randn(len(scores), dtype=torch.float64)
    p = d / d.sum()
    variance = (p * (v - (p * v).sum()) ** 2).sum()
    assert (v @ matrix @ v - d.sum() / temperature * variance).abs() <= 1e-9


@properties(100)
@given(cases())
def test_gradient_of_the_best_value_is_the_weights(case: Case) -> None:
    scores, k, temperature, link = case
    away_from_corners(*case)

    def value(s: Tensor, k: float, t: float) -> float:
        w = reference.soft_topk(s, k, t, link)
        return float((s * w).sum() - t * penalty(w, link))

    step = 1e-5
    weights = soft_topk(scores, k, temperature, link=link)
    nudge = torch.linspace(-1, 1.5, len(scores), dtype=torch.float64)
    by_scores = value(scores + step * nudge, k, temperature) - value(scores - step * nudge, k, temperature)
    assert by_scores / (2 * step) == pytest.approx((weights * nudge).sum().item(), abs=1e-5)
    by_temperature = value(scores, k, temperature + step) - value(scores, k, temperature - step)
    assert by_temperature / (2 * step) == pytest.approx(-penalty(weights, link).item(), abs=1e-4)
    if ((weights > 1e-3) & (weights < 1 - 1e-3)).any():  # tau is the only one
        tau = soft_topk_threshold(scores, k, temperature, link=link).item()
        by_k = value(scores, k + step, temperature) - value(scores, k - step, temperature)
        assert by_k / (2 * step) == pytest.approx(tau, abs=1e-4)


@properties(100)
@given(cases(), st.integers(0, 2**31))
def test_straight_through(case: Case, seed: int) -> None:
    scores, k, temperature, link = case
    whole = min(max(round(k), 1), len(scores) - 1)
    torch.manual_seed(seed)
    g = torch.randn(len(scores), dtype=torch.float64)
    leaf = scores.clone().requires_grad_()
    out = soft_topk(leaf, whole, temperature, link=link, hard=True)
    torch.testing.assert_close(out.detach(), hard_topk(scores, whole).mask.double(), **CLOSE)
    (straight,) = torch.autograd.grad((g * out).sum(), leaf)
    soft = gradients((scores, float(whole), temperature, link), g)[0]
    torch.testing.assert_close(straight, soft, rtol=0, atol=0)


def test_two_tokens_are_a_softmax_at_twice_the_temperature() -> None:
    scores = double([0.3, -1.1])
    torch.testing.assert_close(soft_topk(scores, 1, 0.7), torch.softmax(scores / 1.4, 0), **CLOSE)
    assert math.isclose(soft_topk(double([0.0, 4 * math.log(3)]), 1, 2.0)[1].item(), 0.75)
