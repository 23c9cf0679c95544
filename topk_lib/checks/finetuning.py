"""Checks for the chapter on fine-tuning."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from topk_lib.checks.base import check, check_of_optional, close, floats

__all__ = ["check_rate", "check_step", "check_steps", "check_train"]

Batches = Sequence[tuple[Tensor, Tensor]]


@check
def check_step(step: Callable[[Tensor, Tensor, Tensor, float], Tensor]) -> str:
    """Check one step of gradient descent on the logistic loss: step(w, x, y, rate) to the new w (d,)."""
    w, rate = torch.tensor([0.5, -1.0]), 0.3
    x, y = torch.tensor([[1.0, 2.0], [-1.0, 0.5], [3.0, 1.0], [0.0, -2.0]]), torch.tensor([1.0, 0, 1, 1])
    given = w.clone()
    got = step(given, x, y, rate)
    got = floats(got)
    if got.shape != w.shape:
        return f"Not yet: the new weights have the shape of w (2,), yours {tuple(got.shape)}."
    pull = (torch.sigmoid(x @ w) - y) @ x
    if _near(got, w - rate * pull / 4):
        return "Right."
    mistakes = {
        "w has not moved": w,
        "that goes up the slope: subtract": w + rate * pull / 4,
        "that goes up the slope, and takes the sum over the batch: subtract the mean": w + rate * pull,
        "that is the sum over the batch: take the mean": w - rate * pull,
        "the learning rate is missing": w - pull / 4,
        "p is the sigmoid of x @ w": w - rate * ((x @ w - y) @ x) / 4,
        "that divides by the number of weights: divide by the number of reviews": w - rate * pull / 2,
        "that is the change alone: add w": -rate * pull / 4,
    }
    for why, wrong in mistakes.items():
        if _near(got, wrong):
            return f"Not yet: {why}."
    expected = [round(v, 4) for v in (w - rate * pull / 4).tolist()]
    return f"Not yet: expected {expected}, yours {[round(v, 4) for v in got.tolist()]}."


@check
def check_steps(steps: Callable[[int, int, int], int]) -> str:
    """Check the number of steps: steps(n, batch_size, epochs)."""
    for n, size, epochs in ((100, 30, 3), (96, 32, 2), (5, 8, 4)):
        expected = math.ceil(n / size) * epochs
        got = steps(n, size, epochs)
        if got == expected:
            continue
        hint = ""
        if got == math.ceil(n / size):
            hint = " That is one epoch."
        elif got == n // size * epochs:
            hint = " The last, smaller batch of each epoch is a step too."
        elif got in (n * epochs // size, math.ceil(n * epochs / size), n * epochs / size):
            hint = " Each epoch has a last batch of its own: round up before you multiply."
        return f"Not yet: steps({n}, {size}, {epochs}) is {expected}, yours {got}.{hint}"
    return "Right."


@check
def check_rate(rate: Callable[[int, int, int, float], float]) -> str:
    """Check a learning rate with linear warm-up and decay: rate(step, steps, warmup, peak)."""
    for step, expected, where in (
        (10, 0.6, "at the end of the warm-up it is the peak"),
        (0, 0.0, "it begins at 0"),
        (5, 0.3, "half-way through the warm-up it is half the peak"),
        (110, 0.0, "it ends at 0"),
        (60, 0.3, "half-way from the end of the warm-up to the last step it is half the peak"),
        (85, 0.15, "after the warm-up it falls in a straight line"),
    ):
        got = rate(step, 110, 10, 0.6)
        if not close(got, expected):
            return f"Not yet: rate({step}, 110, 10, 0.6) is {expected:g}, yours {got}: {where}."
    for step, expected in ((0, 1.0), (2, 0.5)):
        try:
            got = rate(step, 4, 0, 1.0)
        except ZeroDivisionError:
            return "Almost: without warm-up (warmup = 0) it divides by zero; it starts at the peak."
        if not close(got, expected):
            return f"Almost: without warm-up rate({step}, 4, 0, 1.0) is {expected:g}, yours {got}."
    return "Right."


@check_of_optional
def check_train(train: Callable[[nn.Module, Batches, float], object]) -> str:
    """Check a learner's training loop: train(model, batches, rate) changes the model."""
    generator = torch.Generator().manual_seed(0)
    start = nn.Linear(3, 2)
    for parameter in start.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    batches = [
        (torch.randn(4, 3, generator=generator), torch.randint(0, 2, (4,), generator=generator))
        for _ in range(3)
    ]
    model = copy.deepcopy(start)
    train(model, batches, 0.5)
    got = _flat(model.parameters())
    if _near(got, _trained(start, batches)):
        return "Right."
    mistakes = {
        "the model has not changed: is there a backward() and a step()?": _flat(start.parameters()),
        "the slopes of earlier steps are still there: call zero_grad() once a step": _trained(
            start, batches, forget=False
        ),
        "that goes up the slope": _trained(start, batches, rate=-0.5),
        "the learning rate is not used": _trained(start, batches, rate=1.0),
        "only the first batch was used": _trained(start, batches[:1]),
        "only the last batch was used": _trained(start, batches[-1:]),
        "that takes one step for all batches together: step after each": _one_step(start, batches),
        "each batch was used twice": _trained(start, [*batches, *batches]),
        "the loss is the mean over the batch, not the sum": _trained(start, batches, reduction="sum"),
    }
    for why, wrong in mistakes.items():
        if _near(got, wrong):
            return f"Not yet: {why}."
    return (
        "Not yet: after three batches the weights differ from those of plain SGD on F.cross_entropy; "
        f"the first is {_trained(start, batches)[0]:.4f}, yours {got[0]:.4f}."
    )


def _trained(
    start: nn.Module, batches: Batches, rate: float = 0.5, forget: bool = True, reduction: str = "mean"
) -> Tensor:
    model = copy.deepcopy(start)
    for x, y in batches:
        torch.autograd.backward(F.cross_entropy(model(x), y, reduction=reduction))
        _descend(model, rate)
        if forget:
            model.zero_grad()
    return _flat(model.parameters())


def _one_step(start: nn.Module, batches: Batches) -> Tensor:
    model = copy.deepcopy(start)
    for x, y in batches:
        torch.autograd.backward(F.cross_entropy(model(x), y))
    _descend(model, 0.5)
    return _flat(model.parameters())


def _descend(model: nn.Module, rate: float) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.sub_(rate * parameter.grad)


def _flat(parameters: Iterable[Tensor]) -> Tensor:
    return torch.cat([p.detach().flatten() for p in parameters])


def _near(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a.double(), b.double(), rtol=1e-4, atol=1e-5)
