"""Learning a sequence of tasks with a strategy, and what came of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from topk_lib.selectors.base import whole
from topk_lib.training.continual.learner import Learner, class_means
from topk_lib.training.continual.measures import (
    average_accuracy,
    backward_transfer,
    forgetting,
    forward_transfer,
)
from topk_lib.training.continual.strategies import Batch, Strategy
from topk_lib.training.continual.tasks import Examples, Task

__all__ = ["Journey", "Schedule", "learn", "right"]


@dataclass(frozen=True)
class Schedule:
    """How each task is trained: AdamW, a learning rate that rises over a tenth of the steps, then falls to 0.

    Attributes:
        epochs: passes over a task's own examples.
        batch_size: own examples a step; replayed ones come on top.
        learning_rate: of the encoder.
        new_learning_rate: of heads and adapters.
    """

    epochs: int = 3
    batch_size: int = 16
    learning_rate: float = 2e-4
    new_learning_rate: float = 2e-3


@dataclass
class Journey:
    """What came of learning T tasks.

    Attributes:
        matrix: (T, T) lists: R[i][j], the accuracy on task j after task i was learned, NaN where j > i.
        ahead: (T,) what :func:`ahead_of` gives just before each task.
        at_first: (T,) the same before anything was learned.
        seconds: (T,) spent on training each task, what the strategy does before and after it included.
        kept_bytes: what the strategy keeps at the end for the sake of earlier tasks.
        trained: weights that a step of the last task changes.
        answers: for the place of each test text whether the answer was right at the end.
    """

    matrix: list[list[float]] = field(default_factory=list)
    ahead: list[float] = field(default_factory=list)
    at_first: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    kept_bytes: int = 0
    trained: int = 0
    answers: dict[int, bool] = field(default_factory=dict)

    def summary(self) -> dict[str, float]:
        """The measures of :mod:`topk_lib.training.continual.measures`, by name."""
        return {
            "average_accuracy": average_accuracy(self.matrix),
            "forgetting": forgetting(self.matrix),
            "backward_transfer": backward_transfer(self.matrix),
            "forward_transfer": forward_transfer(self.ahead, self.at_first),
        }


def learn(
    learner: Learner,
    tasks: Sequence[Task],
    strategy: Strategy,
    schedule: Schedule | None = None,
    *,
    task_known: bool,
    within: bool | None = None,
    seed: int = 0,
    progress: Callable[[str], object] | None = None,
) -> Journey:
    """Learn tasks one after another, and after each test all that have been met.

    Args:
        learner: is trained in place.
        tasks: of :func:`~topk_lib.training.continual.sequence`.
        strategy: against forgetting.
        schedule: of the training; None: its defaults.
        task_known: whether a test text comes with its task, so that only the task's own classes can
            be the answer (task-incremental), or not (class-incremental).
        within: whether the training's loss looks at the task's own classes only; None: as ``task_known``.
        seed: of heads, order, dropout and the strategy's draws.
        progress: is told a line a task.

    Raises:
        ValueError: fewer than two tasks, or epochs or a batch size below 1.
    """
    schedule = schedule or Schedule()
    if len(tasks) < 2:
        raise ValueError(f"a sequence needs two tasks or more, got {len(tasks)}: with one, fine-tune")
    whole("epochs", schedule.epochs, 1)
    whole("batch_size", schedule.batch_size, 1)
    within = task_known if within is None else within
    found = Journey()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        found.at_first = [ahead_of(learner, task) for task in tasks]
        for task in tasks:
            found.ahead.append(ahead_of(learner, task))
            begun = time.perf_counter()
            learner.grow(len(task.classes))
            strategy.before(learner, task)
            if strategy.trains:
                _train(learner, task, strategy, schedule, within, generator)
            strategy.after(learner, task, generator)
            found.seconds.append(time.perf_counter() - begun)
            met = [right(learner, one.test, task_known=task_known) for one in tasks[: task.number + 1]]
            row = [float(answers.float().mean()) for answers in met]
            found.matrix.append(row + [math.nan] * (len(tasks) - len(row)))
            if progress:
                progress(f"{task.name} learned; " + " ".join(f"{share:.0%}" for share in row))
    for one, answers in zip(tasks, met, strict=True):
        found.answers |= dict(zip(one.test.places.tolist(), answers.tolist(), strict=True))
    found.kept_bytes = strategy.kept_bytes()
    found.trained = sum(p.numel() for p in learner.parameters() if p.requires_grad) if strategy.trains else 0
    return found


def _train(
    learner: Learner, task: Task, strategy: Strategy, schedule: Schedule, within: bool,
    generator: torch.Generator,
) -> None:  # fmt: skip
    n = len(task.train)
    steps = schedule.epochs * math.ceil(n / schedule.batch_size)
    new = [p for part in (learner.heads, learner.adapters) for p in part.parameters() if p.requires_grad]
    old = [p for p in learner.encoder.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(
        [{"params": new, "lr": schedule.new_learning_rate}]
        + ([{"params": old, "lr": schedule.learning_rate}] if old else []),
        weight_decay=0.0,  # it would pull at what no example of this task speaks for
        fused=True,
    )
    rise = max(1, steps // 10)
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min((step + 1) / rise, (steps - step) / max(1, steps - rise))
    )
    learner.train()
    for _ in range(schedule.epochs):
        for rows in torch.split(torch.randperm(n, generator=generator), schedule.batch_size):
            examples = task.train.take(rows)
            if replayed := strategy.mix(len(rows), n, generator):
                examples = examples + replayed
            device = learner.device
            batch = Batch(*examples.batch(device), examples.labels.to(device), examples.tasks.to(device))
            logits = learner(batch.input_ids, batch.attention_mask, batch.tasks if within else None)
            seen = learner.within(logits, batch.tasks) if within else logits
            loss = nn.functional.cross_entropy(seen, batch.labels)
            loss = loss + strategy.extra(learner, batch, logits)
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_([*new, *old], 1.0)
            optimiser.step()
            rate.step()


@torch.no_grad()
def right(learner: Learner, examples: Examples, *, task_known: bool) -> Tensor:
    """(n,) bool on the CPU: which texts the learner answers rightly."""
    found = torch.empty(len(examples), dtype=torch.bool)
    learner.eval()
    for rows, some in examples.by_length(64):
        tasks = some.tasks.to(learner.device)
        logits = learner(*some.batch(learner.device), tasks if task_known else None)
        seen = learner.within(logits, tasks) if task_known else logits
        found[rows] = seen.argmax(-1).cpu() == some.labels
    return found


def ahead_of(learner: Learner, task: Task) -> float:
    """How well a task that has not been learned could be solved: by the nearest class mean.

    An untrained head says nothing of the features under it. So the means of the task's training texts
    stand in for one; what changes between two calls is the encoder alone.
    """
    train, test = learner.features_of(task.train), learner.features_of(task.test)
    classes, means = class_means(train, task.train.labels.to(train.device))
    answers = classes[torch.cdist(test, means).argmin(-1)]
    return float((answers.cpu() == task.test.labels).float().mean())
