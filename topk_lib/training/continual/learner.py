"""A classifier that grows: one encoder, a head for each task that it meets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from topk_lib.training.adapt import Bottleneck
from topk_lib.training.continual.tasks import Examples

__all__ = ["Learner", "class_means", "nearest_mean"]


class Learner(nn.Module):
    """An encoder whose mean over a text's tokens is read by a head a task.

    The heads side by side are one head over all classes seen so far. Whoever knows the task looks only at
    its own (:meth:`within`). The token embeddings stay as they are, whatever the strategy.

    Args:
        encoder: a ``PreTrainedModel`` of BERT's kind without a head.
        bf16: run the encoder in bfloat16, where there are fast units for it; the heads stay exact.

    Attributes:
        heads: one ``nn.Linear`` a task met so far.
        adapters: one ``nn.ModuleList`` a task, an adapter a layer; empty: the tasks share the encoder.
    """

    def __init__(self, encoder: Any, *, bf16: bool = False) -> None:
        super().__init__()
        self.bf16 = bf16
        self.encoder = encoder.requires_grad_(True)
        self.encoder.get_input_embeddings().requires_grad_(False)
        if getattr(encoder, "pooler", None) is not None:
            encoder.pooler.requires_grad_(False)  # it is not read
        self.heads, self.adapters = nn.ModuleList(), nn.ModuleList()

    @property
    def width(self) -> int:
        return int(self.encoder.config.hidden_size)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def sizes(self) -> list[int]:
        """How many classes each head has."""
        return [len(head.weight) for head in self.heads]  # type: ignore[arg-type]

    @property
    def task_of_class(self) -> Tensor:
        """(classes so far,) int64: the task that each class is of."""
        sizes = torch.tensor(self.sizes, device=self.device)
        return torch.arange(len(sizes), device=self.device).repeat_interleave(sizes)

    def grow(self, classes: int) -> None:
        """Add a head for the classes of one more task; it begins at zero, so that none is favoured."""
        head = nn.Linear(self.width, classes)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        self.heads.append(head.to(self.device))

    def grow_adapters(self, inner: int) -> None:
        """Freeze the encoder and add an adapter a layer for one more task; earlier ones freeze, too."""
        self.encoder.requires_grad_(False)
        self.adapters.requires_grad_(False)
        layers = (Bottleneck(self.width, inner) for _ in self.encoder.encoder.layer)
        self.adapters.append(nn.ModuleList(layers).to(self.device))

    def features(self, input_ids: Tensor, attention_mask: Tensor, task: int | None = None) -> Tensor:
        """(batch, width): the mean over a text's tokens, through the adapters of ``task`` if one is named."""
        with self._through(task), torch.autocast(self.device.type, torch.bfloat16, self.bf16):
            hidden = self.encoder(input_ids, attention_mask).last_hidden_state
        real = attention_mask.unsqueeze(-1)
        mean: Tensor = (hidden.float() * real).sum(1) / real.sum(1)
        return mean

    @contextmanager
    def _through(self, task: int | None) -> Iterator[None]:
        adapters: Any = () if task is None else self.adapters[task]
        pairs = zip(self.encoder.encoder.layer, adapters, strict=task is not None)
        hooks = [layer.register_forward_hook(_after(adapter)) for layer, adapter in pairs]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def forward(self, input_ids: Tensor, attention_mask: Tensor, tasks: Tensor | None = None) -> Tensor:
        """(batch, classes so far): a logit of every class.

        Without adapters ``tasks`` are not looked at. With adapters each head reads the features of its own
        and its logits are log-probabilities among its own classes: the largest of all belongs to the most
        confident head. There ``tasks``, (batch,) int64, save the work of other heads than a text's own; those
        logits are -inf.
        """
        if not self.adapters:
            features = self.features(input_ids, attention_mask)
            return torch.cat([head(features) for head in self.heads], -1)
        parts = []
        for task, (head, size) in enumerate(zip(self.heads, self.sizes, strict=True)):
            rows = torch.ones_like(input_ids[:, 0], dtype=torch.bool) if tasks is None else tasks == task
            part = torch.full((len(rows), size), -torch.inf, device=rows.device)
            if rows.any():
                logits = head(self.features(input_ids[rows], attention_mask[rows], task))
                part[rows] = logits.log_softmax(-1)
            parts.append(part)
        return torch.cat(parts, -1)

    def within(self, logits: Tensor, tasks: Tensor) -> Tensor:
        """Logits with -inf at the classes of other tasks than each text's own, (batch,) int64."""
        return logits.masked_fill(self.task_of_class != tasks.unsqueeze(-1), -torch.inf)

    @torch.no_grad()
    def features_of(self, examples: Examples, task: int | None = None) -> Tensor:
        """(n, width) float32 of texts, in their order, without dropout."""
        found = torch.empty(len(examples), self.width, device=self.device)
        was = self.training
        self.eval()
        for rows, some in examples.by_length(64):
            found[rows.to(self.device)] = self.features(*some.batch(self.device), task)
        self.train(was)
        return found


def _after(adapter: nn.Module) -> Any:
    return lambda layer, given, hidden: adapter(hidden)


def class_means(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of each class's features.

    Args:
        features: (n, width).
        labels: (n,) int64.

    Returns:
        The classes there are, (c,) int64 ascending, and their means, (c, width).
    """
    classes, which = labels.unique(return_inverse=True)  # type: ignore[no-untyped-call]
    sums = features.new_zeros(len(classes), features.shape[-1]).index_add_(0, which, features)
    return classes, sums / which.bincount().unsqueeze(-1)


def nearest_mean(means: Tensor) -> tuple[Tensor, Tensor]:
    """The linear head whose largest logit is that of the nearest mean.

    |x - m|² = |x|² - 2 (x m - |m|²/2), so the weights are the means and the biases -|m|²/2.

    Args:
        means: (c, width).

    Returns:
        Weight (c, width) and bias (c,).
    """
    return means, -means.square().sum(-1) / 2
