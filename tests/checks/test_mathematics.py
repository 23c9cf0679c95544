"""The checks of the chapter on the mathematics recognise the answer and the likely mistakes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from topk_lib import checks, soft_topk, soft_topk_threshold

RIGHT = [[0.5, -0.25], [1.0, -0.5], [-1.5, 0.75]]


def test_the_right_answers_are_what_torch_computes() -> None:
    logits = torch.log(torch.tensor([0.25, 0.5, 0.25], dtype=torch.float64))
    h = torch.tensor([2.0, -1.0], dtype=torch.float64)
    weight = (logits[:, None] @ (h / 5)[None]).requires_grad_()  # weight @ h = logits
    loss = torch.nn.functional.cross_entropy(weight @ h, torch.tensor(2))
    gradient = torch.autograd.grad(loss, weight)[0]
    torch.testing.assert_close(gradient, torch.tensor(RIGHT, dtype=torch.float64))
    assert checks.check_weight_gradient(gradient.tolist()).startswith("Right")
    scores = torch.tensor([0.0, math.log(2), math.log(4)], dtype=torch.float64)
    tau = soft_topk_threshold(scores, 2, 1.0, link="exp").item()
    assert checks.check_exp_threshold(tau).startswith("Right")
    two = torch.tensor([0.0, 4 * math.log(3)], dtype=torch.float64, requires_grad=True)
    weights = soft_topk(two, 1, 2.0)
    rows = [torch.autograd.grad(w, two, retain_graph=True)[0].tolist() for w in weights]
    assert checks.check_two_token_jacobian(rows).startswith("Right")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (RIGHT, "Right"),
        ([[-x for x in row] for row in RIGHT], "y - p"),
        ([list(column) for column in zip(*RIGHT, strict=True)], "transpose"),
        ([[0.5, -0.25], [1.0, -0.5], [0.5, -0.25]], "you took p alone"),
        ([[0.5, -0.25], [1.0, -0.5], [0.0, 0.75]], "look at row 2"),
        ([0.25, 0.5, -0.75], "yours is 3"),
    ],
)
def test_weight_gradient(answer: Any, message: str) -> None:
    assert message in checks.check_weight_gradient(answer)


@pytest.mark.parametrize(
    ("tau", "message"),
    [
        (math.log(3), "Right"),
        (1.0986, "Right"),
        (math.log(3.5), "more than 1"),
        (-math.log(3), "the sign"),
        (math.log(1.5), "share 1, not 2"),
        (1 / 3, "take the logarithm"),
        (math.log10(3), "base 10"),
        (0.0, "whose sum is 3.000. It is too low"),
        (2.0, "too high"),
    ],
)
def test_exp_threshold(tau: float, message: str) -> None:
    assert message in checks.check_exp_threshold(tau)


def parts(d: Tensor, z: Tensor, g: Tensor, t: float) -> tuple[Tensor, Tensor, Tensor]:
    gbar = (d * g).sum() / d.sum()
    g_scores = d / t * (g - gbar)
    return g_scores, gbar, -(z * g_scores).sum()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d, z, g, t, r: r, "Right"),
        (lambda d, z, g, t, r: (d / t * (g - g.mean()), g.mean(), r[2]), "The wrong term is the mean"),
        (lambda d, z, g, t, r: (d / t * g, *r[1:]), "lacks the term of tau"),
        (lambda d, z, g, t, r: (r[0] * t, *r[1:]), "divided by the temperature"),
        (lambda d, z, g, t, r: (-r[0], *r[1:]), "wrong sign"),
        (lambda d, z, g, t, r: (r[0] + 1, *r[1:]), "sums to 4.000"),
        (lambda d, z, g, t, r: (r[0].sum(), *r[1:]), "one number a token"),
        (lambda d, z, g, t, r: (r[0], g.mean(), r[2]), "the plain mean"),
        (lambda d, z, g, t, r: (r[0], r[1], -r[2]), "the sign of g_temperature"),
        (lambda d, z, g, t, r: (r[0], r[1], 0.0), "is -sum(z g_scores)"),
        (lambda d, z, g, t, r: r[0], "return three things"),
    ],
)
def test_soft_gradient(change: Any, message: str) -> None:
    assert message in checks.check_soft_gradient(lambda d, z, g, t: change(d, z, g, t, parts(d, z, g, t)))


@pytest.mark.parametrize(
    ("a", "b", "c", "d", "message"),
    [
        (3 / 64, -3 / 64, -3 / 64, 3 / 64, "Right"),
        (3 / 32, -3 / 32, -3 / 32, 3 / 32, "divide by the temperature"),
        (-3 / 64, 3 / 64, 3 / 64, -3 / 64, "the sign"),
        (3 / 32, 0, 0, 3 / 32, "tau moves too"),
        (3 / 64, 3 / 64, 3 / 64, 3 / 64, "off the diagonal"),
        (1, 0, 1, 0, "symmetric"),
        (1, 0, 0, 1, "sum to 0"),
        (1, -1, -1, 1, "the size is not"),
    ],
)
def test_two_token_jacobian(a: float, b: float, c: float, d: float, message: str) -> None:
    assert message in checks.check_two_token_jacobian([[a, b], [c, d]])


def test_a_jacobian_of_another_size() -> None:
    assert "yours is 2" in checks.check_two_token_jacobian([0.1, 0.2])  # type: ignore[list-item]
