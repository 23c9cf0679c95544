"""Checks for the chapter on fine-tuning."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from topk_lib.checks.base import check, check_of_optional, close, floats

__all__ = ["check_beats", "check_evaluate", "check_rate", "check_step", "check_steps", "check_train"]

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


@check
def check_evaluate(evaluate: Callable[[nn.Module, Batches], float]) -> str:
    """Check a program that computes an accuracy: evaluate(model, batches) to a share in [0, 1]."""
    x = torch.tensor([[3.0, 0.0], [1.0, 2.0], [2.0, 1.0], [0.0, 4.0], [5.0, 1.0], [1.0, 3.0]])
    y = torch.tensor([0, 1, 0, 1, 1, 0])
    batches = [(x[:5], y[:5]), (x[5:], y[5:])]
    model = _Mirror()  # right on 4 of 5 and on 0 of 1; in training mode on the others
    got = float(evaluate(model, batches))
    if close(got, 4 / 6):
        return "Right."
    mistakes = {
        "the model is still in training mode: call model.eval() first": (2 / 6, 0.6),
        "that is the mean of the batches' accuracies, and the last batch is smaller: count all reviews": (
            0.4,
        ),
        "that counts the right answers: divide by the number of reviews": (4,),
        "that is in percent: give a share": (400 / 6,),
        "that is the share of wrong answers": (2 / 6,),
        "that is the last batch alone": (0,),
        "that is the first batch alone": (0.8,),
        "that divides by the number of batches": (2,),
    }
    if close(got, 2 / 6) and not model.trained:
        del mistakes["the model is still in training mode: call model.eval() first"]
    for why, wrong in mistakes.items():
        if any(close(got, value) for value in wrong):
            return f"Not yet: {why}."
    return f"Not yet: four of six reviews (batches of five and one) are right, 0.6667; yours is {got:.4g}."


class _Mirror(nn.Module):
    """Its logits are its inputs; in training mode, like a bad dropout, the other way round."""

    trained = False

    def forward(self, x: Tensor) -> Tensor:
        self.trained |= self.training
        return x.flip(-1) if self.training else x


Train = Callable[[Tensor, Tensor, Tensor, Tensor], nn.Module]


@check
def check_beats(
    train: Train,
    x: Tensor | None = None,
    y: Tensor | None = None,
    new_x: Tensor | None = None,
    new_y: Tensor | None = None,
) -> str:
    """Check a training that should beat one that goes on for too long, measured here and now.

    Args:
        train: train(x, y, dev_x, dev_y) to a model whose ``model(x)`` is logits (n, classes).
        x: (n, d) the features of texts, two thirds to learn from and one to choose by. Before these comes a
            small noisy problem of the check's own, on which a coin is to be beaten as well.
        y: (n,) their classes.
        new_x: (m, d) the features of texts that ``train`` does not get.
        new_y: (m,) their classes.
    """
    said = _beats(train, *_noisy(), beat_coin=True)
    if said.startswith("Right") and None not in (x, y, new_x, new_y):
        said = _beats(train, x, y, new_x, new_y)  # type: ignore[arg-type]
    return said


def _beats(
    train: Train, x: Tensor, y: Tensor, new_x: Tensor, new_y: Tensor, *, beat_coin: bool = False
) -> str:
    cut = 2 * len(x) // 3
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = train(x[:cut].clone(), y[:cut].clone(), x[cut:].clone(), y[cut:].clone())
        if not isinstance(model, nn.Module):
            return f"Not yet: return the trained model, not a {type(model).__name__}."
        torch.manual_seed(0)
        baseline = _loss(too_long(x[:cut], y[:cut]), new_x, new_y)
    loss, coin = _loss(model, new_x, new_y), math.log(int(y.max()) + 1)
    if math.isclose(loss, baseline, rel_tol=1e-4):
        return f"Not yet: a loss of {loss:.3f} on new texts, as much as where it goes on too long."
    if not loss < baseline:
        return f"Not yet: a loss of {loss:.3f} on new texts, and {baseline:.3f} where it goes on too long."
    if beat_coin and not loss < coin:
        return (
            f"Not yet: on an easy problem of the check's own it has a loss of {loss:.3f}, a coin {coin:.3f}."
        )
    return f"Right: a loss of {loss:.3f} on new texts, and {baseline:.3f} where it goes on too long."


def too_long(x: Tensor, y: Tensor, epochs: int = 100) -> nn.Module:
    """The baseline of :func:`check_beats`: a linear layer whose training goes on for too long."""
    model = nn.Linear(x.shape[1], int(y.max()) + 1)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(epochs):
        optimiser.zero_grad()
        torch.autograd.backward(F.cross_entropy(model(x), y))
        optimiser.step()
    return model


def _loss(model: nn.Module, x: Tensor, y: Tensor) -> float:
    model.eval()
    with torch.no_grad():
        return F.cross_entropy(model(x), y).item()


def _noisy() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(290, 40, generator=generator)
    lean = x @ torch.randn(40, generator=generator)
    y = (torch.rand(290, generator=generator) < lean.sigmoid()).long()
    return x[:90], y[:90], x[90:], y[90:]


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
