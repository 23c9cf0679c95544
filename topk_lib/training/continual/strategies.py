"""Strategies against forgetting behind one small interface: four hooks around a task."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from topk_lib.training.continual.learner import Learner, class_means, nearest_mean
from topk_lib.training.continual.tasks import Examples, Task

__all__ = [
    "EWC",
    "Adapters",
    "Batch",
    "ClassMeans",
    "Distillation",
    "Strategy",
    "diagonal_fisher",
    "distillation_loss",
    "quadratic_penalty",
]


class Batch(NamedTuple):
    """What a step of training reads."""

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    tasks: Tensor


class Strategy:
    """What is done against forgetting. This one does nothing: naive fine-tuning, task after task.

    Attributes:
        trains: whether the learner is trained by gradients at all.
    """

    trains = True

    def before(self, learner: Learner, task: Task) -> None:
        """Called before a task is learned; its head is there."""

    def extra(self, learner: Learner, batch: Batch, logits: Tensor) -> Tensor | float:
        """What is added to the loss of a step; ``logits`` (batch, classes so far) are its own."""
        return 0.0

    def mix(self, new: int, of: int, generator: torch.Generator) -> Examples | None:
        """Earlier examples to mix into a step with ``new`` examples of a task that has ``of``."""
        return None

    def after(self, learner: Learner, task: Task, generator: torch.Generator) -> None:
        """Called when a task has been learned."""

    def kept_bytes(self) -> int:
        """What is kept for the sake of earlier tasks, beside the encoder and its heads."""
        return 0


class ClassMeans(Strategy):
    """No training: the head of a task answers with the class whose mean feature is nearest.

    The encoder stays as it is, so nothing can be forgotten. A baseline, one of none of the four families.
    """

    trains = False

    def after(self, learner: Learner, task: Task, generator: torch.Generator) -> None:
        features = learner.features_of(task.train)
        weight, bias = nearest_mean(class_means(features, task.train.labels.to(features.device))[1])
        head = learner.heads[-1]
        head.load_state_dict({"weight": weight, "bias": bias})


def quadratic_penalty(
    now: Mapping[str, Tensor], anchor: Mapping[str, Tensor], fisher: Mapping[str, Tensor], strength: float
) -> Tensor:
    """strength / 2 times the sum over weights of fisher (now - anchor)² (Kirkpatrick et al., 2017).

    Args:
        now: the weights by name; those that the anchor lacks are free.
        anchor: where they stood.
        fisher: how much each matters, of the anchor's shapes.
        strength: lambda.

    Returns:
        () float: with F = diag(fisher), half of strength · (now - anchor)ᵀ F (now - anchor).
    """
    parts = [(fisher[name] * (now[name] - place).square()).sum() for name, place in anchor.items()]
    return strength / 2 * torch.stack(parts).sum()


def diagonal_fisher(
    learner: Learner, examples: Examples, *, n: int, within: bool, generator: torch.Generator
) -> dict[str, Tensor]:
    """The diagonal of the Fisher information of every trained weight, estimated from examples.

    The mean of the squared gradient of log p(y | x), where y is drawn from the model's own answer:
    with the true label it would be the "empirical Fisher", another thing (Kunstner et al., 2019).

    Args:
        learner: without dropout here, whatever its mode.
        examples: n of them are drawn without replacement.
        n: how many.
        within: whether an answer is one of the text's own task.
        generator: for both draws.

    Returns:
        By name of the weight, of its shape, float32.
    """
    weights = {name: p for name, p in learner.named_parameters() if p.requires_grad}
    fisher = {name: torch.zeros_like(p) for name, p in weights.items()}
    was = learner.training
    learner.eval()
    rows = torch.randperm(len(examples), generator=generator)[:n]
    for row in rows:
        one = examples.take(row.unsqueeze(0))
        tasks = one.tasks.to(learner.device)
        logits = learner(*one.batch(learner.device), tasks)
        chances = (learner.within(logits, tasks) if within else logits).log_softmax(-1)[0]
        drawn = int(torch.multinomial(chances.detach().exp().cpu(), 1, generator=generator))
        gradients = torch.autograd.grad(chances[drawn], list(weights.values()))
        for name, g in zip(weights, gradients, strict=True):
            fisher[name].addcmul_(g, g, value=1 / len(rows))
    learner.train(was)
    return fisher


class EWC(Strategy):
    """Elastic weight consolidation: weights that mattered are held where they were.

    One anchor, at the last task's weights, with the Fisher information of all tasks so far added up
    (Huszár, 2018; "online" in Schwarz et al., 2018), so that the memory does not grow with the tasks.

    Args:
        strength: lambda of :func:`quadratic_penalty`.
        n: examples a task that the Fisher information is estimated from.
        within: see :func:`diagonal_fisher`.
    """

    def __init__(self, strength: float, *, n: int = 150, within: bool) -> None:
        self.strength, self.n, self.within = strength, n, within
        self.anchor: dict[str, Tensor] = {}
        self.fisher: dict[str, Tensor] = {}

    def extra(self, learner: Learner, batch: Batch, logits: Tensor) -> Tensor | float:
        if not self.anchor:
            return 0.0
        return quadratic_penalty(dict(learner.named_parameters()), self.anchor, self.fisher, self.strength)

    def after(self, learner: Learner, task: Task, generator: torch.Generator) -> None:
        found = diagonal_fisher(learner, task.train, n=self.n, within=self.within, generator=generator)
        self.fisher = {name: f + self.fisher.get(name, 0.0) for name, f in found.items()}
        weights = dict(learner.named_parameters())
        self.anchor = {name: weights[name].detach().clone() for name in found}

    def kept_bytes(self) -> int:
        return sum(t.nbytes for kept in (self.anchor, self.fisher) for t in kept.values())


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float = 2.0) -> Tensor:
    """temperature² times the Kullback-Leibler divergence of the softened answers, a mean over texts.

    Source: Hinton et al. (2015).

    Args:
        student, teacher: (batch, classes) logits; no gradient flows into the teacher.
        temperature: above 1 the teacher's second thoughts count more.

    Returns:
        () float, 0 where both give the same answers.

    Raises:
        ValueError: the shapes differ, or the temperature is not above 0.
    """
    if student.shape != teacher.shape:
        raise ValueError(f"student {tuple(student.shape)} and teacher {tuple(teacher.shape)} differ in shape")
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    soft = (teacher.detach().float() / temperature).log_softmax(-1)
    mine = (student.float() / temperature).log_softmax(-1)
    return temperature**2 * nn.functional.kl_div(mine, soft, reduction="batchmean", log_target=True)


class Distillation(Strategy):
    """Learning without forgetting: on the new texts the old classes' answers must stay what they were.

    Source: Li and Hoiem (2016).

    Args:
        strength: of the :func:`distillation_loss` beside the new task's loss.
        within: whether each earlier head's answer is kept by itself, or that of all of them together.
        temperature: of the softened answers.
    """

    def __init__(self, strength: float, *, within: bool, temperature: float = 2.0) -> None:
        self.strength, self.within, self.temperature = strength, within, temperature
        self.old: Learner | None = None

    def before(self, learner: Learner, task: Task) -> None:
        if task.number:
            self.old = copy.deepcopy(learner).requires_grad_(False).eval()

    def extra(self, learner: Learner, batch: Batch, logits: Tensor) -> Tensor | float:
        if self.old is None:
            return 0.0
        with torch.no_grad():
            teacher = self.old(batch.input_ids, batch.attention_mask)
        sizes = self.old.sizes[:-1]  # the last is the new task's
        parts = sizes if self.within else [sum(sizes)]
        both = (torch.split(every[:, : sum(sizes)], parts, -1) for every in (logits, teacher))
        losses = [distillation_loss(a, b, self.temperature) for a, b in zip(*both, strict=True)]
        return self.strength * torch.stack(losses).sum()

    def kept_bytes(self) -> int:
        return sum(p.nbytes for p in self.old.encoder.parameters()) if self.old else 0


class Adapters(Strategy):
    """A dynamic architecture: the encoder is frozen, and each task gets adapters of its own.

    Whose adapters read a text is known with the task; without it the most confident head answers, see
    :meth:`Learner.forward <topk_lib.training.continual.learner.Learner.forward>`. After Progressive networks
    (Rusu et al., 2016) with the adapters of Houlsby et al. (2019).

    Args:
        inner: width of an adapter's bottleneck.
    """

    def __init__(self, inner: int = 32) -> None:
        self.inner, self._bytes = inner, 0

    def before(self, learner: Learner, task: Task) -> None:
        learner.grow_adapters(self.inner)
        learner.heads[:-1].requires_grad_(False)
        self._bytes = sum(p.nbytes for p in learner.adapters.parameters())

    def kept_bytes(self) -> int:
        return self._bytes
