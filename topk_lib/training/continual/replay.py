"""Replaying earlier examples: which k of a class to keep, and drawing from them."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import TypeVar

import torch
from torch import Tensor, nn

from topk_lib.ops import hard_topk
from topk_lib.selectors.base import whole
from topk_lib.training.continual.learner import Learner
from topk_lib.training.continual.strategies import Strategy
from topk_lib.training.continual.tasks import Examples, Task

__all__ = ["RULES", "Replay", "draw", "hardest", "herding", "reservoir"]

T = TypeVar("T")
RULES = ("random", "hardest", "herding")


def herding(features: Tensor, k: int) -> Tensor:
    """The k examples whose mean follows the class's, one after another (Welling, 2009; Rebuffi et al., 2017).

    Each is the one that brings the mean of those chosen so far nearest to the mean of all. Not a top-k
    of scores: what an example is worth depends on those before it.

    Args:
        features: (n, width).
        k: how many.

    Returns:
        (k,) int64 in the order of choice; of equals the first.

    Raises:
        ValueError, TypeError: k is not in 0..n.
    """
    k = whole("k", k, 0, len(features))
    mean, total = features.mean(0), torch.zeros_like(features[0]) if len(features) else features.sum(0)
    free = torch.ones(len(features), dtype=torch.bool, device=features.device)
    chosen = []
    for size in range(1, k + 1):
        distance = ((total + features) / size - mean).norm(dim=-1).masked_fill(~free, torch.inf)
        best = int(distance.argmin())
        chosen.append(best)
        free[best] = False
        total = total + features[best]
    return torch.tensor(chosen, dtype=torch.int64)


def hardest(losses: Tensor, k: int) -> Tensor:
    """(k,) int64: the k examples with the highest loss, (n,) float; an ordinary top-k."""
    return hard_topk(losses, k).indices


def reservoir(items: Iterable[T], k: int, dice: random.Random) -> list[T]:
    """k of a stream of unknown length, each with the same chance (Vitter, 1985, algorithm R).

    The first k fill the reservoir; item number i > k (counted from 1) enters with chance k / i, in
    place of one drawn at random.

    Args:
        items: the stream, read once.
        k: how many; a shorter stream is kept whole.
        dice: for the draws.

    Raises:
        ValueError, TypeError: k is no whole number, or below 0.
    """
    k = whole("k", k, 0)
    kept: list[T] = []
    for number, item in enumerate(items):
        if number < k:
            kept.append(item)
        elif (place := dice.randrange(number + 1)) < k:
            kept[place] = item
    return kept


def draw(examples: Examples, n: int, generator: torch.Generator) -> Examples:
    """n different ones (all, where there are fewer), each with the same chance."""
    return examples.take(torch.randperm(len(examples), generator=generator)[:n])


class Replay(Strategy):
    """A memory of some examples of every class, from which each step draws as many as it has new ones.

    Args:
        per_class: how many are kept of a class. None: all, of which each step draws in proportion, so that
            an epoch sees every example once: joint training, which is no continual learning, but its ceiling.
        rule: which are kept: "random", "hardest" (highest loss when the task has been learned) or
            "herding".

    Raises:
        ValueError, TypeError: no such rule, or ``per_class`` is no whole number above 0.
    """

    def __init__(self, per_class: int | None, rule: str = "random") -> None:
        if rule not in RULES:
            raise ValueError(f"rule must be one of {', '.join(RULES)}, got {rule!r}")
        self.per_class = None if per_class is None else whole("per_class", per_class, 1)
        self.rule = rule
        self.memory: Examples | None = None

    def mix(self, new: int, of: int, generator: torch.Generator) -> Examples | None:
        if self.memory is None:
            return None
        n = new if self.per_class is not None else round(new * len(self.memory) / of)
        return draw(self.memory, n, generator)

    def after(self, learner: Learner, task: Task, generator: torch.Generator) -> None:
        kept = task.train
        if self.per_class is not None:
            kept = kept.take(self._choose(learner, task.train, self.per_class, generator))
        self.memory = kept if self.memory is None else self.memory + kept

    def _choose(self, learner: Learner, train: Examples, k: int, generator: torch.Generator) -> Tensor:
        """(kept,) int64: at most k rows of each class."""
        features = torch.empty(0) if self.rule == "random" else learner.features_of(train).cpu()
        if self.rule == "hardest":
            logits = torch.cat([head(features.to(learner.device)) for head in learner.heads], -1).detach()
            losses = nn.functional.cross_entropy(logits.cpu(), train.labels, reduction="none")
        rows = []
        for label in sorted(set(train.labels.tolist())):
            mine = (train.labels == label).nonzero()[:, 0]
            n = min(k, len(mine))
            if self.rule == "random":
                picked = torch.randperm(len(mine), generator=generator)[:n]
            elif self.rule == "hardest":
                picked = hardest(losses[mine], n)
            else:
                picked = herding(nn.functional.normalize(features[mine], dim=-1), n)
            rows.append(mine[picked])
        return torch.cat(rows)

    def kept_bytes(self) -> int:
        # Token ids take four bytes, a label, too.
        return 4 * sum(len(ids) + 1 for ids in self.memory.ids) if self.memory else 0
