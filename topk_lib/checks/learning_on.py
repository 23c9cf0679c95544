"""Checks for the chapter on learning task after task."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import BertConfig, BertModel

from topk_lib.checks.base import check, close
from topk_lib.training.continual import (
    Batch,
    Examples,
    Learner,
    Schedule,
    Strategy,
    Task,
    backward_transfer,
    forgetting,
    herding,
    learn,
    quadratic_penalty,
    sequence,
)

__all__ = ["check_forgetting", "check_herding", "check_memory", "check_penalty", "check_reservoir"]

_NAN = math.nan


@check
def check_forgetting(of: Callable[[list[list[float]]], float]) -> str:
    """Check a learner's forgetting of an accuracy matrix, NaN above the diagonal."""
    for matrix in (
        [[0.8, _NAN], [0.5, 0.9]],
        [[0.5, _NAN, _NAN], [0.8, 0.7, _NAN], [0.6, 0.7, 0.9]],
        [[0.4, _NAN, _NAN], [0.6, 0.7, _NAN], [0.9, 0.5, 0.8]],
    ):
        right, got = forgetting(matrix), of([list(row) for row in matrix])
        if close(got, right):
            continue
        start = f"Not yet: of {matrix} it is {right:.4g}, yours gives {float(got):.4g}"
        if math.isnan(got):
            return (
                f"{start}. What was not measured is nan, and any sum with it is nan: leave those cells out."
            )
        if close(got, -right):
            return f"{start}. That is minus it: what is lost counts as positive."
        if close(got, -backward_transfer(matrix)):
            return f"{start}. You start from the diagonal, but a task may have stood higher later on."
        found = np.array(matrix)
        best = np.nanmax(found[:-1, :-1], axis=0)
        if close(got, (np.nanmax(found, axis=0) - found[-1])[:-1].mean()):
            return (
                f"{start}. The best is that of the rows before the last: a gain in the last row counts, too."
            )
        if close(got, (best - found[-1, :-1]).sum() / len(found)):
            return f"{start}. Divide by the tasks that could be forgotten; the last one could not."
        if close(got, (best - found[-1, :-1]).sum()):
            return f"{start}. Take the mean over the tasks."
        return f"{start}. For each task but the last: its best before the last row, minus its last row."
    return "Right."


@check
def check_penalty(penalty: Callable[[Tensor, Tensor, Tensor, float], float | Tensor]) -> str:
    """Check a learner's ``penalty(now, anchor, fisher, strength)`` of EWC."""
    for numbers, strength in (
        (([1.5, -2.0], [1.0, 1.0], [2.0, 1.0]), 3.0),
        (([0.0, 2.0, 1.0], [0.0, 1.0, 3.0], [5.0, 1.0, 0.0]), 2.0),
    ):
        now, anchor, fisher = (torch.tensor(x) for x in numbers)
        right = float(quadratic_penalty({"w": now}, {"w": anchor}, {"w": fisher}, strength))
        answer = torch.as_tensor(penalty(now, anchor, fisher, strength))
        if answer.numel() != 1:
            return f"Not yet: the penalty is one number, yours has shape {tuple(answer.shape)}: sum it up."
        got = float(answer)
        if close(got, right):
            continue
        start = f"Not yet: of now {numbers[0]}, anchor {numbers[1]}, fisher {numbers[2]} and strength " \
                f"{strength} it is {right:.4g}, yours gives {got:.4g}"  # fmt: skip
        moved = now - anchor
        near = (
            ((fisher * moved.square()).sum() * strength, "The half is missing."),
            ((fisher * moved.square()).mean() * strength / 2, "Sum over the weights, do not average."),
            (moved.square().sum() * strength / 2, "Each weight counts by its Fisher value."),
            (
                moved.square().sum() * strength,
                "Each weight counts by its Fisher value, and the half is missing.",
            ),
            ((fisher * moved).square().sum() * strength / 2, "Square the way that was moved alone."),
            ((fisher * moved.abs()).sum() * strength / 2, "The way that was moved counts squared."),
            ((fisher * now.square()).sum() * strength / 2, "Weights are held at the anchor, not at 0."),
            ((fisher * moved.square()).sum() / 2, "The strength is missing."),
        )
        hint = next((said for value, said in near if close(got, float(value))), "")
        return f"{start}. {hint}".rstrip()
    return "Right."


@check
def check_reservoir(keep: Callable[[Iterable[int], int, random.Random], Sequence[int]]) -> str:
    """Check a learner's ``keep(stream, k, dice)``: each of the stream with the same chance."""
    dice = random.Random(0)
    short = list(keep(iter(range(2)), 3, dice))
    if sorted(short) != [0, 1]:
        return f"Not yet: a stream of 2 for a memory of 3 is kept whole, yours keeps {short}."
    rounds, n, k = 4000, 8, 2
    seen: Counter[int] = Counter()
    for _ in range(rounds):
        kept = list(keep(iter(range(n)), k, dice))
        if len(kept) != k or not set(kept) <= set(range(n)):
            return f"Not yet: of the stream 0 to {n - 1} a memory of {k} holds {k} items, yours {kept}."
        if len(set(kept)) < k:
            return f"Not yet: an item is kept twice: {kept}."
        seen.update(kept)
    expected = rounds * k / n
    if sum((seen[i] - expected) ** 2 / expected for i in range(n)) < 29.9:  # 99.99%, 7 degrees of freedom
        return "Right: after any number of items each of them is in the memory with the same chance."
    shares = [seen[i] / rounds for i in range(n)]
    told = ", ".join(f"{share:.0%}" for share in shares)
    start = (
        f"Not yet: in {rounds:,} streams the items 0 to {n - 1} were kept in {told}; it should be {k / n:.0%}"
    )
    if max(shares[k:]) == 0:
        return f"{start}. Nothing after the first {k} ever gets in."
    if shares[0] < shares[-1]:
        return f"{start}. The late ones are favoured: item number i enters with chance k / i only."
    return f"{start}. The early ones are favoured: whoever enters drives out any of the k, drawn at random."


@check
def check_herding(pick: Callable[[Tensor, int], Sequence[int]]) -> str:
    """Check a learner's ``pick(points, k)``: the k whose mean follows the mean of all."""
    for numbers, k in (
        ([[0.0], [1.0], [5.0]], 1),
        ([[0.0], [1.0], [5.0]], 2),
        ([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [4.0, 4.0], [1.0, 1.5]], 3),
    ):
        points = torch.tensor(numbers)
        right = herding(points, k).tolist()
        got = [int(i) for i in pick(points.clone(), k)]
        if got == right:
            continue
        start = f"Not yet: of {numbers} with k = {k} it picks {right} in this order, yours {got}"
        if len(set(got)) < len(got):
            return f"{start}. One is picked twice: who is in the memory cannot be picked again."
        if len(got) != k:
            return f"{start}. Pick k of them."
        distance = (points - points.mean(0)).norm(dim=-1)
        if got == distance.argsort(stable=True)[:k].tolist():
            return f"{start}. You take those next to the mean, each for itself; it is their mean that counts."
        if got == distance.argsort(descending=True, stable=True)[:k].tolist():
            return f"{start}. You take those farthest from the mean."
        if sorted(got) == sorted(right):
            return f"{start}. These are the right ones; give them in the order of choice."
        return f"{start}. Try every point that is left: with which is the mean of the picked nearest?"
    return "Right."


def two_tasks() -> list[Task]:
    """Two tasks of two classes, each with five words of its own."""

    def texts(seed: int, each: int) -> list[tuple[list[int], str]]:
        dice = np.random.default_rng(seed)
        return [([1, *(3 + 5 * c + dice.integers(5, size=4)).tolist(), 2], f"c{c}")
                for c in range(4) for _ in range(each)]  # fmt: skip

    return sequence({"first": ["c0", "c1"], "second": ["c2", "c3"]}, texts(0, 16), texts(1, 12))


def tiny_learner() -> Learner:
    """A random encoder of two narrow layers."""
    torch.manual_seed(0)
    return Learner(BertModel(BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=16,
    )))  # fmt: skip


_FAST = Schedule(epochs=6, batch_size=8, learning_rate=3e-3, new_learning_rate=2e-2)
_PER_CLASS = 4


class _Watched(Strategy):
    """Does what a learner's strategy does, and remembers which earlier examples it mixed in."""

    def __init__(self, inner: Strategy) -> None:
        self.inner, self.trains = inner, inner.trains
        self.label_at: dict[int, int] = {}

    def before(self, learner: Learner, task: Task) -> None:
        self.inner.before(learner, task)

    def extra(self, learner: Learner, batch: Batch, logits: Tensor) -> Tensor | float:
        return self.inner.extra(learner, batch, logits)

    def mix(self, new: int, of: int, generator: torch.Generator) -> Examples | None:
        found = self.inner.mix(new, of, generator)
        if found is not None:
            self.label_at |= dict(zip(found.places.tolist(), found.labels.tolist(), strict=True))
        return found

    def after(self, learner: Learner, task: Task, generator: torch.Generator) -> None:
        self.inner.after(learner, task, generator)


@check
def check_memory(kind: Callable[[], Strategy]) -> str:
    """Train a tiny model on two tasks with a learner's strategy: it may keep 4 examples of a class."""
    strategy = kind()
    if not isinstance(strategy, Strategy):
        return f"Not yet: {type(strategy).__name__} is no Strategy: write a class that begins with it."
    watched = _Watched(strategy)
    matrix = learn(tiny_learner(), two_tasks(), watched, _FAST, task_known=False).matrix
    told = f"first task {matrix[0][0]:.0%}, then {matrix[1][0]:.0%}; second task {matrix[1][1]:.0%}"
    counts = Counter(watched.label_at.values())
    if not counts:
        return f"Not yet: mix gave no earlier example ({told})."
    if counts.keys() != {0, 1}:
        return f"Not yet: of the classes 0 and 1 of the first task only {min(counts)} was replayed ({told})."
    if max(counts.values()) > _PER_CLASS:
        many = max(counts.values())
        return f"Almost: {many} examples of a class were replayed, and the memory holds {_PER_CLASS}."
    if min(matrix[1]) < 0.5:
        return f"Not yet: {told}; more of both can be had: mix in as many as the step has new ones."
    return f"Right: {told}."
