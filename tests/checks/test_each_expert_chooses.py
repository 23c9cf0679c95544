"""The checks of the chapter on experts: right in any guise, wrong in ways that look right."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from topk_lib import checks
from topk_lib.checks.each_expert_chooses import three_layers
from topk_lib.checks.prefix import prefix_test
from topk_lib.routing import routing_loss


def room(valid: Tensor, experts: int, factor: float) -> list[int]:
    return [min(math.ceil(n * factor / experts), n) for n in valid.sum(1).tolist()]


def in_tensors(valid: Tensor, experts: int, factor: float) -> Tensor:
    n = valid.sum(1)
    return torch.minimum((n * factor / experts).ceil().long(), n)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (room, "Right"),
        (in_tensors, "Right"),
        (lambda v, e, f: [min(math.ceil(v.shape[1] * f / e), v.shape[1])] * len(v), "counted padding"),
        (lambda v, e, f: [math.ceil(n * f / e) for n in v.sum(1).tolist()], "more tokens than there are"),
        (lambda v, e, f: [min(int(n * f / e), n) for n in v.sum(1).tolist()], "rounded up"),
        (lambda v, e, f: [n * f / e for n in v.sum(1).tolist()], "Whole tokens"),
        (lambda v, e, f: v.sum(1).tolist(), "Not yet"),
        (lambda v, e, f: room(v.cumprod(1), e, f), "factor 4: [3, 2]"),  # up to the first padding
    ],
)
def test_room(answer: Callable[..., Any], said: str) -> None:
    assert said in checks.check_room(answer)


def gated(answers: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
    return ((scores * mask)[..., None] * answers).sum(1)


def by_loop(answers: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
    out = torch.zeros_like(answers[:, 0])
    for e in range(scores.shape[1]):
        taken = mask[:, e].nonzero()[:, 0]
        out[taken] += scores[taken, e, None] * answers[taken, e]
    return out


def normalised(answers: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
    gates = scores * mask
    return gated(answers, gates / gates.sum(1, keepdim=True).clamp(min=1e-9), mask)


def two_best(answers: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
    gates = scores * mask
    return gated(answers, gates, gates >= gates.topk(2, 1).values[:, 1:])


def best_only(answers: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
    gates = scores * mask
    return gated(answers, gates, gates == gates.amax(1, keepdim=True))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (gated, "Right"),
        (by_loop, "Right"),
        (lambda a, s, m: gated(a.double(), s.double(), m), "Right"),
        (lambda a, s, m: gated(a, s, torch.ones_like(m)), "only those that took it"),
        (lambda a, s, m: gated(a, torch.ones_like(s), m), "scores are left out"),
        (lambda a, s, m: gated(a, s.masked_fill(~m, -math.inf).softmax(0), m), "over the tokens"),
        (
            lambda a, s, m: gated(a, s.masked_fill(~m, -math.inf).softmax(-1).nan_to_num(), m),
            "a second softmax",
        ),
        (normalised, "divided by their sum"),
        (lambda a, s, m: gated(a, s / (s * m).sum(1, keepdim=True), m) / m.any(1, keepdim=True), "nan"),
        (lambda a, s, m: gated(a, s, m) / m.sum(1, keepdim=True).clamp(min=1), "a mean over"),
        (best_only, "only the best"),
        (two_best, "token 5 should get"),
        (lambda a, s, m: gated(a, s, m).T, r"\(6, 4\)"),
        (lambda a, s, m: gated(a, s, m) + 1, "should get"),
    ],
)
def test_combine(answer: Callable[..., Any], said: str) -> None:
    assert said.replace("\\", "") in checks.check_combine(answer)


def balance(scores: Tensor, mask: Tensor) -> Tensor:
    return scores.shape[1] * (mask.sum(0) / mask.sum() * scores.mean(0)).sum()


def mean_of_chosen(scores: Tensor, mask: Tensor) -> Tensor:
    mean = (scores * mask).sum(0) / mask.sum(0).clamp(min=1)
    return scores.shape[1] * (mask.sum(0) / mask.sum() * mean).sum()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (balance, "Right"),
        (lambda s, m: s.shape[1] * (m.float() / m.sum()).sum(0) @ s.mean(0), "Right"),
        (lambda s, m: balance(s, m) / s.shape[1], "number of experts"),
        (lambda s, m: s.shape[1] * (m.float().mean(0) * s.mean(0)).sum(), "share of all choices"),
        (lambda s, m: s.shape[1] * (m.sum(0) * s.mean(0)).sum(), "not a number"),
        (lambda s, m: balance(s, m) * len(s), "not their sum"),
        (lambda s, m: s.shape[1] * s.mean(0).square().sum(), "P_e twice"),
        (lambda s, m: s.shape[1] * (m.sum(0) / m.sum()).square().sum(), "f_e twice"),
        (mean_of_chosen, "over those that chose"),
        (lambda s, m: balance(s, m).item(), "no gradient"),
        (lambda s, m: balance(s, m) + 1, "Not yet"),
        (lambda s, m: s, "one number"),
    ],
)
def test_balance(answer: Callable[..., Any], said: str) -> None:
    assert said in checks.check_balance(answer)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (2, "Right"),
        (torch.tensor(2), "Right"),
        (0, "two best experts"),
        (torch.tensor(0), "two best experts"),
        (1, "threshold"),
        (3, "0, 1 or 2"),
        (True, "0, 1 or 2"),
    ],
)
def test_leak(answer: Any, said: str) -> None:
    assert said in checks.check_leak(answer)


def test_only_the_last_layer_leaks_and_only_a_cut_shows_it() -> None:
    x = torch.randn(1, 9, 8, generator=torch.Generator().manual_seed(0))
    seen = [prefix_test(layer, x, shorter=True) for layer in three_layers()]
    assert [one.leak for one in seen] == [None] * 3
    assert [one.cut is None for one in seen] == [True, True, False]


def step(
    model: nn.Module, optimiser: Any, hidden: Tensor, target: Tensor, *, add: float = 1, clear: bool = True,
    total: bool = False, backward: bool = True,
) -> float:  # fmt: skip
    error = nn.functional.mse_loss(model(hidden), target)
    loss = error + add * routing_loss(model)
    if backward:
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    if clear:
        optimiser.zero_grad()
    return (loss if total else error).item()


def stale(model: nn.Module, optimiser: Any, hidden: Tensor, target: Tensor) -> float:
    own = routing_loss(model)
    error = nn.functional.mse_loss(model(hidden), target)
    optimiser.zero_grad()
    (error + (own.detach() if isinstance(own, Tensor) else own)).backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    return error.item()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "Right"),
        ({"add": 0}, "left out"),
        ({"clear": False}, "zero_grad"),
        ({"clear": False, "add": 0}, "pile up, and"),
        ({"add": -1}, "not added"),
        ({"total": True}, "the error alone"),
        ({"backward": False}, "no weight has moved"),
        ({"add": 2}, "after three steps"),
    ],
)
def test_routed_step(options: dict[str, Any], said: str) -> None:
    assert said in checks.check_routed_step(lambda *given: step(*given, **options))


def test_a_loss_of_the_call_before_teaches_the_router_nothing() -> None:
    assert "left out" in checks.check_routed_step(stale)
