"""The checks of the chapter on learning task after task tell right from wrong, and name the mistake."""

from __future__ import annotations

import random
from collections.abc import Iterable
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from topk_lib import checks
from topk_lib.training.continual import (
    Examples,
    Learner,
    Replay,
    Strategy,
    Task,
    backward_transfer,
    forgetting,
    herding,
    reservoir,
)


def test_forgetting() -> None:
    check = checks.check_forgetting

    def by_hand(matrix: list[list[float]]) -> float:
        last = len(matrix) - 1
        return sum(max(matrix[i][j] for i in range(j, last)) - matrix[last][j] for j in range(last)) / last

    def best_of_all(matrix: list[list[float]]) -> float:
        found = np.array(matrix)
        return float((np.nanmax(found, axis=0) - found[-1])[:-1].mean())

    assert check(forgetting) == check(by_hand) == "Right."
    assert check(lambda m: np.float32(forgetting(m))) == "Right."  # type: ignore[arg-type, return-value]
    assert "counts as positive" in check(lambda m: -forgetting(m))
    assert "from the diagonal" in check(lambda m: -backward_transfer(m))
    assert "nan" in check(lambda m: float(np.max(np.array(m), axis=0).mean()))
    assert "Divide by the tasks" in check(lambda m: forgetting(m) * (len(m) - 1) / len(m))
    assert "Take the mean" in check(lambda m: forgetting(m) * (len(m) - 1))
    assert "rows before the last" in check(best_of_all)
    assert "best before the last row" in check(lambda m: 0.123)


def test_penalty() -> None:
    check = checks.check_penalty

    def right(now: Tensor, anchor: Tensor, fisher: Tensor, strength: float) -> Tensor:
        return strength / 2 * (fisher * (now - anchor) ** 2).sum()

    assert check(right) == check(lambda *given: float(right(*given))) == "Right."
    assert check(lambda n, a, f, s: s / 2 * (n - a) @ torch.diag(f) @ (n - a)) == "Right."
    assert "half is missing" in check(lambda n, a, f, s: 2 * right(n, a, f, s))
    assert "do not average" in check(lambda n, a, f, s: s / 2 * (f * (n - a) ** 2).mean())
    assert "Fisher value" in check(lambda n, a, f, s: right(n, a, torch.ones_like(f), s))
    both = check(lambda n, a, f, s: s * (n - a).square().sum())
    assert "Fisher value, and the half" in both
    assert "alone" in check(lambda n, a, f, s: s / 2 * ((f * (n - a)) ** 2).sum())
    assert "counts squared" in check(lambda n, a, f, s: s / 2 * (f * (n - a).abs()).sum())
    assert "at the anchor" in check(lambda n, a, f, s: right(n, torch.zeros_like(a), f, s))
    assert "strength is missing" in check(lambda n, a, f, s: right(n, a, f, 1.0))
    assert "sum it up" in check(lambda n, a, f, s: s / 2 * f * (n - a) ** 2)
    assert "yours gives 7" in check(lambda n, a, f, s: 7.0)


def test_reservoir() -> None:
    check = checks.check_reservoir

    def by_keys(items: Iterable[int], k: int, dice: random.Random) -> list[int]:
        """Another right way: a random key each, the k largest stay."""
        return [item for _, item in sorted((dice.random(), item) for item in items)[:k]]

    def first(items: Iterable[int], k: int, dice: random.Random) -> list[int]:
        return list(islice(items, k))

    def late(items: Iterable[int], k: int, dice: random.Random) -> list[int]:
        kept: list[int] = []
        for item in items:
            if len(kept) < k:
                kept.append(item)
            else:
                kept[dice.randrange(k)] = item
        return kept

    def early(items: Iterable[int], k: int, dice: random.Random) -> list[int]:
        kept: list[int] = []
        for number, item in enumerate(items):
            if len(kept) < k:
                kept.append(item)
            elif dice.randrange(number + 1) == 0:
                kept[dice.randrange(k)] = item
        return kept

    assert check(reservoir).startswith("Right")
    assert check(by_keys).startswith("Right")
    assert "ever gets in" in check(first)
    assert "late ones are favoured" in check(late)
    assert "early ones are favoured" in check(early)
    assert "kept twice" in check(lambda items, k, dice: [0] * k if len(list(items)) > 3 else [0, 1])
    assert "is kept whole" in check(lambda items, k, dice: [])
    assert "holds 2 items" in check(lambda items, k, dice: list(items))


def test_herding() -> None:
    check = checks.check_herding
    assert check(herding) == check(lambda points, k: herding(points, k).tolist()) == "Right."  # type: ignore[arg-type]

    def distance(points: Tensor) -> Tensor:
        found: Tensor = (points - points.mean(0)).norm(dim=-1)
        return found

    def repeating(points: Tensor, k: int) -> list[int]:
        total, got = torch.zeros_like(points[0]), []
        for size in range(1, k + 1):
            got.append(int(((total + points) / size - points.mean(0)).norm(dim=-1).argmin()))
            total = total + points[got[-1]]
        return got

    assert "each for itself" in check(lambda points, k: distance(points).argsort()[:k].tolist())
    assert "farthest" in check(lambda points, k: distance(points).argsort(descending=True)[:k].tolist())
    assert "order of choice" in check(lambda points, k: sorted(herding(points, k).tolist()))
    assert "Pick k" in check(lambda points, k: list(range(len(points))))
    assert "picked twice" in check(lambda points, k: [1] * k)
    assert "picked twice" in check(repeating)
    assert "that is left" in check(lambda points, k: list(range(k)))


class Own(Strategy):
    """What a learner writes: the first four of each class."""

    def __init__(self) -> None:
        self.memory: Examples | None = None

    def after(self, learner: Learner, task: Task, generator: torch.Generator) -> None:
        labels = task.train.labels
        rows = torch.cat([(labels == label).nonzero()[:4, 0] for label in sorted(set(labels.tolist()))])
        kept = task.train.take(rows)
        self.memory = kept if self.memory is None else self.memory + kept

    def mix(self, new: int, of: int, generator: torch.Generator) -> Examples | None:
        return self.memory


class OneClass(Own):
    def after(self, learner: Learner, task: Task, generator: torch.Generator) -> None:
        self.memory = task.train.take((task.train.labels == task.train.labels[0]).nonzero()[:4, 0])


class Stingy(Own):
    def mix(self, new: int, of: int, generator: torch.Generator) -> Examples | None:
        few = (
            torch.tensor([0, 4])
            if torch.randint(20, (), generator=generator) == 0
            else torch.tensor([], dtype=torch.int64)
        )
        return self.memory.take(few) if self.memory is not None and len(few) else None


def test_memory() -> None:
    check: Any = checks.check_memory
    assert check(Own).startswith("Right")
    assert check(lambda: Replay(4, "herding")).startswith("Right")
    assert check(Strategy).startswith("Not yet: mix gave no earlier example")
    assert check(lambda: Replay(None)).startswith("Almost: 16 examples of a class")
    assert "only 0 was replayed" in check(OneClass)
    assert "more of both" in check(Stingy)
    assert "is no Strategy" in check(lambda: 1)
