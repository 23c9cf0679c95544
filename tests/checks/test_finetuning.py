"""The checks of the chapter on fine-tuning tell right from wrong, and name the mistake."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from topk_lib import checks
from topk_lib.checks import finetuning


def test_step() -> None:
    check = checks.check_step

    def pull(w: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return (torch.sigmoid(x @ w) - y) @ x

    def right(w: Tensor, x: Tensor, y: Tensor, rate: float) -> Tensor:
        return w - rate * pull(w, x, y) / len(y)

    def by_autograd(w: Tensor, x: Tensor, y: Tensor, rate: float) -> Tensor:
        w = w.double().requires_grad_()
        loss = F.binary_cross_entropy_with_logits(x.double() @ w, y.double())
        return w.detach() - rate * torch.autograd.grad(loss, w)[0]

    def in_place(w: Tensor, x: Tensor, y: Tensor, rate: float) -> Tensor:
        w -= rate * pull(w, x, y) / len(y)
        return w

    assert check(right) == check(by_autograd) == check(in_place) == "Right."
    assert "mean" in check(lambda w, x, y, rate: w + rate * pull(w, x, y))
    assert "up the slope: subtract" in check(lambda w, x, y, rate: w + rate * pull(w, x, y) / len(y))
    assert "take the mean" in check(lambda w, x, y, rate: w - rate * pull(w, x, y))
    assert "rate is missing" in check(lambda w, x, y, rate: w - pull(w, x, y) / len(y))
    assert "sigmoid" in check(lambda w, x, y, rate: w - rate * ((x @ w - y) @ x) / len(y))
    assert "number of weights" in check(lambda w, x, y, rate: w - rate * pull(w, x, y) / len(w))
    assert "add w" in check(lambda w, x, y, rate: -rate * pull(w, x, y) / len(y))
    assert "not moved" in check(lambda w, x, y, rate: w)
    assert "returns nothing" in check(lambda w, x, y, rate: None)  # type: ignore[arg-type, return-value]
    assert "shape of w" in check(lambda w, x, y, rate: y)
    assert "expected [" in check(lambda w, x, y, rate: w + 1)


def test_steps() -> None:
    check = checks.check_steps
    assert check(lambda n, size, epochs: -(-n // size) * epochs) == "Right."
    assert check(lambda n, size, epochs: math.ceil(n / size) * epochs) == "Right."
    assert "last, smaller batch" in check(lambda n, size, epochs: n // size * epochs)
    assert "round up before" in check(lambda n, size, epochs: n * epochs // size)
    assert "round up" in check(lambda n, size, epochs: math.ceil(n * epochs / size))
    assert "round up" in check(lambda n, size, epochs: n * epochs / size)  # type: ignore[arg-type, return-value]
    assert "one epoch" in check(lambda n, size, epochs: math.ceil(n / size))
    assert "returns nothing" in check(lambda *_: None)  # type: ignore[arg-type]
    assert "is 6, yours 8" in check(lambda n, size, epochs: (n // size + 1) * epochs)


def test_rate() -> None:
    check = checks.check_rate

    def right(step: int, steps: int, warmup: int, peak: float) -> float:
        return peak * step / warmup if step < warmup else peak * (steps - step) / (steps - warmup)

    assert check(right) == "Right."
    assert "warm-up" in check(lambda step, steps, warmup, peak: peak * (1 - step / steps))
    assert "divides by zero" in check(
        lambda step, steps, warmup, peak: peak * min(step / warmup, (steps - step) / (steps - warmup))
    )
    assert "ends at 0" in check(lambda step, steps, warmup, peak: peak * min(1, step / warmup))
    assert "half-way from the end" in check(
        lambda step, steps, warmup, peak: peak * min(step / max(warmup, 1), (110 - step) / 60, 1)
    )
    assert "begins at 0" in check(
        lambda step, steps, warmup, peak: peak if step < warmup else right(step, steps, warmup, peak)
    )
    assert "returns nothing" in check(lambda *_: None)  # type: ignore[arg-type]


def test_train() -> None:
    check = checks.check_train

    def loop(
        forget: bool = True, scale: float = 1, use: slice = slice(None), step: bool = True,
        times: int = 1, reduction: str = "mean", once: bool = False,
    ) -> str:  # fmt: skip
        def train(model: Any, batches: Any, rate: float) -> None:
            optimiser = torch.optim.SGD(model.parameters(), lr=rate)
            for x, y in list(batches)[use] * times:
                torch.autograd.backward(scale * F.cross_entropy(model(x), y, reduction=reduction))
                if step and not once:
                    optimiser.step()
                if forget and not once:
                    optimiser.zero_grad()
            if once:
                optimiser.step()

        return check(train)

    def by_hand(model: Any, batches: Any, rate: float) -> Any:
        for x, y in batches:
            slopes = torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters()))
            with torch.no_grad():
                for parameter, slope in zip(model.parameters(), slopes, strict=True):
                    parameter -= rate * slope
        return model

    assert loop() == check(by_hand) == "Right."
    assert "zero_grad() once a step" in loop(forget=False)
    assert "up the slope" in loop(scale=-1)
    assert "rate is not used" in loop(scale=2)
    assert "only the first" in loop(use=slice(1))
    assert "only the last" in loop(use=slice(-1, None))
    assert "has not changed" in loop(step=False)
    assert "twice" in loop(times=2)
    assert "not the sum" in loop(reduction="sum")
    assert "step after each" in loop(once=True)
    assert "plain SGD" in loop(scale=0.3)


def test_evaluate() -> None:
    check = checks.check_evaluate

    def program(
        mode: bool = True, dim: int = 1, mean: bool = False, part: slice = slice(None), scale: float = 1
    ) -> str:
        def evaluate(model: Any, batches: Any) -> float:
            if mode:
                model.eval()
            rights = [(int((model(x).argmax(dim=dim) == y).sum()), len(y)) for x, y in batches[part]]
            if mean:
                return scale * sum(right / n for right, n in rights) / len(rights)
            return scale * sum(right for right, _ in rights) / sum(n for _, n in rights)

        return check(evaluate)

    def with_tensors(model: Any, batches: Any) -> Tensor:
        model.eval()
        with torch.no_grad():
            return torch.cat([model(x).argmax(-1) == y for x, y in batches]).double().mean()

    assert program() == program(dim=-1) == check(with_tensors) == "Right."  # type: ignore[arg-type]
    assert "IndexError" in program(dim=2)
    assert "training mode" in program(mode=False)
    assert "training mode" in program(mode=False, mean=True)
    assert "mean of the batches" in program(mean=True)
    assert "divide by the number of reviews" in program(scale=6)
    assert "percent" in program(scale=100)
    assert "last batch alone" in program(part=slice(1, None))
    assert "first batch alone" in program(part=slice(1))
    assert "number of batches" in program(scale=3)
    assert "yours is 0.75" in program(scale=9 / 8)

    def wrong_answers(model: Any, batches: Any) -> float:
        return 1 - float(with_tensors(model, batches))

    assert "wrong answers" in check(wrong_answers)

    def per_label(model: Any, batches: Any) -> float:
        x, y = batches[0]
        return [p[: len(label)] == label for p, label in zip(model(x).argmax(1), y, strict=True)].count(True)

    assert "TypeError" in check(per_label)


def test_beats() -> None:
    check = checks.check_beats

    def until_dev_rises(x: Tensor, y: Tensor, dev_x: Tensor, dev_y: Tensor) -> torch.nn.Module:
        model = torch.nn.Linear(x.shape[1], 2)
        optimiser = torch.optim.Adam(model.parameters(), lr=0.1)
        best, kept = math.inf, model.state_dict()
        for _ in range(100):
            loss = F.cross_entropy(model(dev_x), dev_y).item()
            if loss < best:
                best, kept = loss, {name: w.clone() for name, w in model.state_dict().items()}
            optimiser.zero_grad()
            torch.autograd.backward(F.cross_entropy(model(x), y))
            optimiser.step()
        model.load_state_dict(kept)
        return model

    def baseline(x: Tensor, y: Tensor, *_: Tensor) -> torch.nn.Module:
        return finetuning.too_long(x, y)

    def untrained(x: Tensor, y: Tensor, *_: Tensor) -> torch.nn.Module:
        return torch.nn.Linear(x.shape[1], 2)

    def far_too_long(x: Tensor, y: Tensor, *_: Tensor) -> torch.nn.Module:
        return finetuning.too_long(x, y, epochs=200)

    assert check(until_dev_rises).startswith("Right: a loss of")
    assert "as much as where it goes on" in check(baseline)
    assert "where it goes on" in check(far_too_long)
    assert "a coin 0.693" in check(untrained)
    assert "not a Tensor" in check(lambda x, *_: x)
    assert "returns nothing" in check(lambda *_: None)  # type: ignore[arg-type]


def test_beats_on_the_learners_own_features_gives_away_no_new_text() -> None:
    x, y, new_x, new_y = finetuning._noisy()
    seen: list[Tensor] = []

    def slowly(*given: Tensor) -> torch.nn.Module:
        seen.extend(given)
        return finetuning.too_long(given[0], given[1], epochs=15)

    assert checks.check_beats(slowly, 2 * x, y, 2 * new_x, new_y).startswith("Right")
    assert [len(part) for part in seen[4:]] == [60, 60, 30, 30]
    assert torch.equal(torch.cat([seen[4], seen[6]]), 2 * x)


def test_beats_judges_by_the_learners_own_features_too() -> None:
    x, y, new_x, new_y = finetuning._noisy()

    def on_few_only(x: Tensor, y: Tensor, *_: Tensor) -> torch.nn.Module:
        return finetuning.too_long(x, y, epochs=15 if x.shape[1] == 40 else 100)

    assert checks.check_beats(on_few_only).startswith("Right")
    wide = [torch.cat([part, part[:, :1]], 1) for part in (x, new_x)]
    assert "as much as" in checks.check_beats(on_few_only, wide[0], y, wide[1], new_y)
