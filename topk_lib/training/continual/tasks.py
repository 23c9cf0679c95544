"""A sequence of tasks: texts as token ids, each with a class that one task alone has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor

from topk_lib.selectors import ids_to_batch
from topk_lib.training.answer import tokenize

__all__ = ["Examples", "Labelled", "Task", "labelled", "sequence"]

Labelled = Sequence[tuple[Sequence[int], str]]
"""Texts, each as its token ids and the name of its class."""


@dataclass(frozen=True)
class Examples:
    """Labelled texts of one task or of several.

    Attributes:
        ids: the token ids of each of the n texts, special tokens included.
        labels: (n,) int64, classes counted through all tasks of the sequence.
        tasks: (n,) int64, the number of the task that each is of.
        places: (n,) int64, where each stands in the list that :func:`sequence` was given.
    """

    ids: Sequence[Sequence[int]]
    labels: Tensor
    tasks: Tensor
    places: Tensor

    def __len__(self) -> int:
        return len(self.ids)

    def __add__(self, others: Examples) -> Examples:
        parts = ((getattr(self, name), getattr(others, name)) for name in ("labels", "tasks", "places"))
        return Examples([*self.ids, *others.ids], *(torch.cat(pair) for pair in parts))

    def take(self, rows: Tensor) -> Examples:
        """Those at ``rows``, (m,) int64."""
        ids = [self.ids[row] for row in rows.tolist()]
        return Examples(ids, self.labels[rows], self.tasks[rows], self.places[rows])

    def batch(self, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """``input_ids`` and ``attention_mask``, both (n, longest) int64."""
        input_ids, attention_mask = ids_to_batch(self.ids)
        return input_ids.to(device), attention_mask.to(device)

    def by_length(self, size: int) -> Iterator[tuple[Tensor, Examples]]:
        """At most ``size`` texts of like length at a time, with their rows."""
        order = torch.tensor([len(ids) for ids in self.ids]).argsort(stable=True)
        for rows in torch.split(order, size):
            yield rows, self.take(rows)


@dataclass(frozen=True)
class Task:
    """One task of a sequence.

    Attributes:
        name: for tables and sentences.
        number: its place in the sequence, from 0.
        classes: their names, in the order of their numbers.
        train, test: its texts.
    """

    name: str
    number: int
    classes: tuple[str, ...]
    train: Examples
    test: Examples


def labelled(data: Dataset, tokenizer: Any, *, each: int | None = None, max_length: int = 32) -> Labelled:
    """Texts as :func:`sequence` takes them.

    Args:
        data: with columns ``text`` and ``label``, as :func:`topk_lib.data.load_set` gives them.
        tokenizer: of the encoder.
        each: only the first so many of each class; None: all.
        max_length: longer texts are cut to so many tokens.
    """
    names, met, texts = data.features["label"].names, Counter[int](), []
    for text, label in zip(data["text"], data["label"], strict=True):
        met[label] += 1
        if each is None or met[label] <= each:
            texts.append((text, names[label]))
    ids = tokenize(tokenizer, [text for text, _ in texts], max_length)
    return [(one, name) for one, (_, name) in zip(ids, texts, strict=True)]


def sequence(classes: Mapping[str, Sequence[str]], train: Labelled, test: Labelled) -> list[Task]:
    """Cut labelled texts into tasks that are learned one after another.

    Args:
        classes: for the name of each task, in the order of learning, the names of its classes. Texts of
            other classes are left out.
        train, test: all texts with their classes' names.

    Raises:
        ValueError: fewer than two tasks, a task with fewer than two classes, a class that two tasks
            share, or one without texts to train or to test on.
    """
    if len(classes) < 2:
        raise ValueError(
            f"a sequence needs two tasks or more to forget, got {', '.join(classes) or 'none'}: add one"
        )
    of: dict[str, str] = {}
    for task, names in classes.items():
        if len(set(names)) < 2:
            raise ValueError(
                f"task {task!r} has {len(set(names)) or 'no'} class ({', '.join(names)}), so that its head "
                "could only ever be right: give it two or more"
            )
        for name in names:
            if name in of:
                where = f"tasks {of[name]!r} and {task!r}" if of[name] != task else f"task {task!r}, twice"
                raise ValueError(f"class {name!r} is in {where}: give every class to one task, once")
            of[name] = task
    label = {name: number for number, name in enumerate(of)}
    tasks = []
    for number, (task, names) in enumerate(classes.items()):
        parts = []
        for split, texts in (("train", train), ("test", test)):
            mine = [(place, *one) for place, one in enumerate(texts) if of.get(one[1]) == task]
            if missing := set(names) - {name for _, _, name in mine}:
                raise ValueError(f"class {min(missing)!r} of task {task!r} has no {split} text: leave it out")
            parts.append(Examples(
                [ids for _, ids, _ in mine], torch.tensor([label[name] for _, _, name in mine]),
                torch.full((len(mine),), number), torch.tensor([place for place, _, _ in mine]),
            ))  # fmt: skip
        tasks.append(Task(task, number, tuple(names), *parts))
    return tasks
