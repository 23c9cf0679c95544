"""Selectors with a learned function of the token embeddings: soft selection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from topk_lib.selectors.base import Selector, ids_to_batch, register, whole
from topk_lib.selectors.corpus import LinearSelector
from topk_lib.selectors.interaction import copies_last

__all__ = ["DistilledSelector", "GateSelector", "HistorySelector", "TaughtSelector"]


@register
class GateSelector(Selector):
    """A small network on the token embeddings, trained end to end with the encoder.

    h_i = U x_i + b with x_i the normalised embedding of token i; for ``context`` > 1 a depth-wise
    convolution over its neighbours is added to h_i; s_i = p . gelu(h_i). Without a hidden layer U is one
    row and s_i = h_i: logistic regression. In training the choice is hard and the gradient that of
    :func:`~topk_lib.ops.soft_topk` (straight-through), so that the encoder reads k tokens and
    no more; see :class:`~topk_lib.models.TopKForSequenceClassification`.

    ``fit`` gives the gate a start: it learns to rank tokens as the linear selector does.

    Args:
        hidden: width of the hidden layer; 0 for none.
        context: tokens that the convolution sees, odd; 1 for the token alone.
    """

    name: ClassVar[str] = "gate"
    rule: ClassVar[str] = "learned gate"
    needs_embeddings: ClassVar[bool] = True
    trainable: ClassVar[bool] = True
    TEXTS: ClassVar[int] = 2000  # a gate is small: so many teach it all it can learn

    def __init__(
        self, seed: int = 0, vocabulary: int | None = None, *, hidden: int = 64, context: int = 5
    ) -> None:
        super().__init__(seed, vocabulary)
        self.hidden, self.context = whole("hidden", hidden, 0), whole("context", context)
        if self.context < 1 or self.context % 2 == 0:
            raise ValueError(f"context must be odd and at least 1, got {context}")
        self.net: nn.ModuleDict | None = None

    def attach(self, embedding: nn.Embedding) -> GateSelector:
        super().attach(embedding)
        if self.net is None:
            width = embedding.embedding_dim
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(self.seed)  # manual_seed would seed GPUs, too
                channels = self.hidden or 1
                layers: dict[str, nn.Module] = {
                    "norm": nn.LayerNorm(width, elementwise_affine=False),
                    "project": nn.Linear(width, channels),
                }
                if self.context > 1:
                    layers["context"] = nn.Conv1d(
                        channels, channels, self.context, padding=self.context // 2, groups=channels
                    )
                if self.hidden:
                    layers["score"] = nn.Linear(channels, 1, bias=False)
                self.net = nn.ModuleDict(layers)
            self.net.to(embedding.weight.device)
        return self

    def scores(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.gate(input_ids, attention_mask)

    def project(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """h_i of every token, (batch, length, channels) float32, before it sees its neighbours."""
        assert self.net is not None
        # The embeddings have their gradient from the encoder; from here they would get a second.
        table = self.embedding.weight.detach()
        if input_ids.numel() < len(table) or torch.compiler.is_exporting():
            found: Tensor = self.net["project"](self.net["norm"](table[input_ids].float()))
            return found
        # each type once
        return nn.functional.embedding(input_ids, self.net["project"](self.net["norm"](table.float())))

    def gate(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """What the network alone makes of every token, (batch, length) float32."""
        embedding = self.embedding  # it says what is missing
        assert self.net is not None
        with torch.autocast(embedding.weight.device.type, enabled=False):  # a ranking needs float32
            x = self.project(input_ids, attention_mask)
            if "context" in self.net:
                seen = x * attention_mask.unsqueeze(-1)  # padding must not leak in
                x = x + self.net["context"](seen.transpose(1, 2)).transpose(1, 2)
            if "score" in self.net:
                x = self.net["score"](nn.functional.gelu(x))
            scores: Tensor = x.squeeze(-1)
        return scores

    def fit(self, token_ids: Sequence[Sequence[int]], labels: Sequence[int] | None = None) -> Selector:
        teacher = LinearSelector(vocabulary=self.embedding.num_embeddings).fit(
            token_ids, self._labels(token_ids, labels)
        )
        self.teach(token_ids, [teacher.table[torch.as_tensor(list(ids))] for ids in token_ids])
        return self

    def teach(
        self,
        token_ids: Sequence[Sequence[int]],
        targets: Sequence[Tensor],
        *,
        texts: int = TEXTS,
        epochs: int = 3,
        batch_size: int = 16,
        learning_rate: float = 2e-3,
    ) -> float:
        """Train the gate alone to predict a score for each token, by least squares.

        Args:
            token_ids: the texts.
            targets: for each text one number a token, float; their mean and spread over all
                texts are brought to 0 and 1.
            texts: at most so many are drawn.
            epochs, batch_size, learning_rate: of the training (Adam).

        Returns:
            The share of the targets' variance that the gate explains at the end (R^2, on the
            texts of the last epoch).

        Raises:
            RuntimeError: no embeddings are attached.
            ValueError: there is no token to learn from.
        """
        device = self.embedding.weight.device
        assert self.net is not None  # attach made it
        generator = torch.Generator().manual_seed(self.seed)
        drawn = [i for i in torch.randperm(len(token_ids), generator=generator).tolist() if token_ids[i]]
        drawn = drawn[:texts]
        if not drawn:
            raise ValueError(f"the {self.name} selector learns from texts: give at least one with a token")
        every = torch.cat([targets[i].float() for i in drawn])
        mean, spread = every.mean(), every.std(correction=min(1, len(every) - 1)).clamp(min=1e-12)
        optimiser = torch.optim.Adam(self.net.parameters(), lr=learning_rate)
        error = 1.0
        for _ in range(epochs):
            wrong = total = 0.0
            # Texts of like length share a batch; the batches come in any order.
            order = sorted(drawn, key=lambda i: len(token_ids[i]))
            batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
            for which in torch.randperm(len(batches), generator=generator).tolist():
                rows = batches[which]
                ids, mask = (x.to(device) for x in ids_to_batch([token_ids[i] for i in rows]))
                wanted = torch.cat([(targets[i].float() - mean) / spread for i in rows]).to(device)
                loss = (self.gate(ids, mask)[mask.bool()] - wanted).square().mean()
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                wrong += float(loss.detach()) * len(wanted)
                total += len(wanted)
            error = wrong / total
        optimiser.zero_grad()
        return 1.0 - error

    def options(self) -> dict[str, Any]:
        return {"hidden": self.hidden, "context": self.context}


@register
class TaughtSelector(GateSelector):
    """A gate that starts from a teacher's token labels, and is then trained end to end.

    The labels are attributions: how much each token moved the answer of a model that has been trained,
    see :func:`~topk_lib.training.attributions`. They say how much a token moves an answer, so that copies of
    a word share its mark.

    Args:
        once: whether copies come last, see :func:`~topk_lib.selectors.interaction.copies_last`.
        hidden, context: of the gate.
    """

    name: ClassVar[str] = "taught"
    rule: ClassVar[str] = "taught gate"

    def __init__(
        self,
        seed: int = 0,
        vocabulary: int | None = None,
        *,
        once: bool = False,
        hidden: int = 64,
        context: int = 5,
    ) -> None:
        super().__init__(seed, vocabulary, hidden=hidden, context=context)
        if not isinstance(once, bool):
            raise TypeError(f"once must be True or False, got {once!r}")
        self.once = once

    def scores(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        scores = self.gate(input_ids, attention_mask)
        return copies_last(scores, input_ids, attention_mask) if self.once else scores

    def options(self) -> dict[str, Any]:
        return {"once": self.once} | super().options()

    def fit(self, token_ids: Sequence[Sequence[int]], labels: Sequence[int] | None = None) -> Selector:
        raise ValueError(
            f"the {self.name} selector learns from a teacher: call teach(token_ids, attributions)"
        )


@register
class DistilledSelector(TaughtSelector):
    """A gate that learns a teacher's token labels, and is then kept as it is.

    Nothing flows back from the encoder.
    """

    name: ClassVar[str] = "distilled"
    rule: ClassVar[str] = "distilled gate"
    trainable: ClassVar[bool] = False


@register
class HistorySelector(GateSelector):
    """A gate whose scores are corrected by how each token type has done so far.

    In training every token that is read has a contribution -dL/dw_i: how much, to first order,
    reading it lowered the loss L of its text. With n contributions of a type, of mean m brought to the
    spread of the scores, the score is (1 - r) s + r m where r = n / (n + prior): the less is
    known of a type, the more its history is shrunk toward the gate. At inference the history
    stands still, since there are no labels.

    Args:
        prior: how many contributions weigh as much as the gate.
        hidden, context: of the gate.

    Attributes:
        loss_scale: by how much the loss is multiplied before the backward pass, as float16 needs it.
    """

    name: ClassVar[str] = "history"
    rule: ClassVar[str] = "gate + history"
    count: Tensor
    total: Tensor

    def __init__(
        self,
        seed: int = 0,
        vocabulary: int | None = None,
        *,
        prior: float = 50.0,
        hidden: int = 64,
        context: int = 5,
    ) -> None:
        super().__init__(seed, vocabulary, hidden=hidden, context=context)
        if not prior > 0:
            raise ValueError(f"prior must be above 0, got {prior}")
        self.prior = float(prior)
        self.loss_scale = 1.0
        self._new: Tensor | None = None

    def attach(self, embedding: nn.Embedding) -> GateSelector:
        super().attach(embedding)
        size = embedding.num_embeddings
        for name in ("count", "total"):
            if name not in self._buffers:
                self.register_buffer(name, torch.zeros(size, device=embedding.weight.device))
            elif more := size - len(getattr(self, name)):  # a vocabulary that was resized
                setattr(self, name, nn.functional.pad(getattr(self, name), (0, more)))
                self._new = None
        return self

    def scores(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        gate = self.gate(input_ids, attention_mask)
        mean = self.total / self.count.clamp(min=1)
        weight = self.count / self.count.sum().clamp(min=1)
        centre = (weight * mean).sum()
        spread = (weight * (mean - centre).square()).sum().sqrt().clamp(min=1e-12)
        trust = (self.count / (self.count + self.prior))[input_ids]
        return (1 - trust) * gate + trust * ((mean - centre) / spread)[input_ids]

    @torch.no_grad()
    def observe(self, input_ids: Tensor, contributions: Tensor) -> None:
        """Remember contributions, (tokens,) float, of tokens ``input_ids``, (tokens,) int64.

        In one of several processes they wait for :meth:`settle`.
        """
        if self._new is None:
            self._new = torch.zeros(2, len(self.count), device=self.count.device)
        good = contributions.isfinite()
        ids, values = input_ids[good], contributions[good].float() / self.loss_scale
        self._new[0].index_add_(0, ids, torch.ones_like(values))
        self._new[1].index_add_(0, ids, values)
        if not _together():
            self.settle()

    @torch.no_grad()
    def settle(self) -> None:
        """Add up what all processes have observed; after each step, in each of them."""
        if self._new is not None:
            if _together():
                torch.distributed.all_reduce(self._new)
            self.count += self._new[0]
            self.total += self._new[1]
            self._new = None

    def options(self) -> dict[str, Any]:
        return {"prior": self.prior} | super().options()


def _together() -> bool:
    """Is this one of several processes?"""
    return torch.distributed.is_available() and torch.distributed.is_initialized()
