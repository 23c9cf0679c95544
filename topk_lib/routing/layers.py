"""Feed-forward layers of experts behind one interface: what all of them do, and what each call tells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from topk_lib.ops.arguments import whole
from topk_lib.ops.hard import topk_mask
from topk_lib.ops.route import combine, places, take
from topk_lib.routing.experts import Experts

__all__ = ["Choice", "Routed", "Stats", "routing_loss", "routing_stats"]


@dataclass(frozen=True)
class Stats:
    """What a layer's last call did; padding is not counted.

    Attributes:
        tokens: how many there were.
        unchosen: the share of them that no expert took.
        experts_per_token: how many tokens 0, 1, 2, ... experts took.
        load: how many tokens each expert took.
        entropy: of the router, in nats, the mean over the tokens.
    """

    tokens: int
    unchosen: float
    experts_per_token: list[int]
    load: list[int]
    entropy: float


class Choice(NamedTuple):
    """Who takes whom in one call.

    Attributes:
        mask: (batch, n, experts) bool.
        indices: (batch, experts, C) int64 where each expert takes exactly C of each text, or (1, experts, C)
            where it is C of the batch; else None.
    """

    mask: Tensor
    indices: Tensor | None = None


class _Last:
    """What the last call left. A copy of a layer begins without it."""

    def __init__(self) -> None:
        self.scores: Tensor | None = None
        self.choice: Choice | None = None
        self.valid: Tensor | None = None
        self.loss: Tensor | None = None

    def __deepcopy__(self, memo: Any) -> _Last:
        return _Last()

    def __reduce__(self) -> Any:
        return _Last, ()


class Routed(nn.Module):
    """A feed-forward layer of which each token uses a part: a router, experts, and who takes whom.

    It stands where a feed-forward layer stands and returns what that returns: what is added to the residual
    stream. A token that nobody took gets zeros, so that it passes through unchanged.

    A subclass implements :meth:`choose`. What a layer learns without gradients (a bias, a threshold) moves
    once for each backward pass in training, so that checkpointing, which repeats the forward pass, and passes
    without gradients leave it alone.

    Args:
        d: width of a token.
        inner: width inside an expert.
        experts: how many.
        activation, bias: see :class:`Experts`.
        normalise: divide a token's weights by their sum, so that they sum to 1.
        rest: what becomes of a token that nobody took: "pass" (the residual alone), or "best" (the expert
            that scores it highest takes it, beyond its capacity).
    """

    def __init__(
        self,
        d: int,
        inner: int,
        experts: int,
        *,
        activation: str = "gelu",
        bias: bool = True,
        normalise: bool = False,
        rest: str = "pass",
    ) -> None:
        super().__init__()
        if rest not in ("pass", "best"):
            raise ValueError(f'rest must be "pass" or "best", got {rest!r}')
        self.normalise, self.rest = normalise, rest
        self.router = nn.Linear(whole("d", d, 1), whole("experts", experts, 1), bias=False)
        self.experts = Experts(experts, d, whole("inner", inner, 1), activation=activation, bias=bias)
        self.work: Any = None  # of experts that several processes share
        self.given: Tensor | None = None  # valid, where who calls the layer cannot say it
        self._last = _Last()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Routed:
        """Biases and thresholds move in steps that half precision would round away: they stay out of it."""
        kept = dict(self._buffers)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, before in kept.items():
            moved = self._buffers[name]
            if before is not None and moved is not None and moved.dtype in (torch.float16, torch.bfloat16):
                self._buffers[name] = before.to(moved.device)
        return self

    def forward(self, hidden: Tensor, valid: Tensor | None = None) -> Tensor:
        """What is added to each token.

        Args:
            hidden: (batch, n, d) float.
            valid: (batch, n) bool, True for tokens and False for padding, which is left out; None: all are.

        Returns:
            (batch, n, d) in the type of ``hidden``.

        Raises:
            ValueError: a shape that does not fit.
            TypeError: ``valid`` is not bool.
        """
        valid = self.given if valid is None else valid
        self._check(hidden, valid)
        scores = self.scores(hidden)
        choice = self.choose(scores, hidden, valid)
        self._last.scores, self._last.choice, self._last.valid = scores.detach(), choice, valid
        return self.apply_choice(hidden, scores, choice)

    def scores(self, hidden: Tensor) -> Tensor:
        """(batch, n, experts), in float32 at least: each token's softmax over the experts."""
        return self._logits(hidden).softmax(-1)

    def choose(self, scores: Tensor, hidden: Tensor, valid: Tensor | None) -> Choice:
        """Who takes whom."""
        raise NotImplementedError

    def apply_choice(self, hidden: Tensor, scores: Tensor, choice: Choice) -> Tensor:
        """The layer's answer where it is given who takes whom; see :meth:`forward`."""
        flat, mask = hidden.flatten(0, 1), choice.mask.flatten(0, 1)  # (N, d), (N, experts)
        gates = scores.flatten(0, 1) * mask
        if self.normalise:
            gates = gates / gates.sum(-1, keepdim=True).clamp(min=torch.finfo(gates.dtype).tiny)
        slots, counts = _slots(choice, hidden.shape[1])
        expert = torch.arange(len(counts), device=flat.device)
        expert = expert.repeat_interleave(torch.tensor(counts, device=flat.device), output_size=len(slots))
        weights = gates.flatten().gather(0, slots * len(counts) + expert)
        at = places(slots, len(flat))
        work = self.work or self.experts.each
        out = combine(work(take(flat, at), counts), weights, at)
        return out.to(hidden.dtype).reshape(hidden.shape)

    @property
    def loss(self) -> Tensor:
        """What the last call adds to the loss, a scalar; 0 where there is nothing."""
        loss = self._last.loss
        return self.router.weight.new_zeros(()) if loss is None else loss

    @property
    def taken(self) -> Tensor:
        """(batch, n, experts) bool: who took whom in the last call.

        Raises:
            RuntimeError: there was none.
        """
        if self._last.choice is None:
            raise RuntimeError("the layer has not been called yet: call it first")
        return self._last.choice.mask

    @property
    def stats(self) -> Stats:
        """What the last call did.

        Raises:
            RuntimeError: there was none.
        """
        last = self._last
        if last.choice is None or last.scores is None:
            raise RuntimeError("the layer has not been called yet: call it, then read its stats")
        mask = last.choice.mask.flatten(0, 1)
        scores = last.scores.flatten(0, 1)
        if last.valid is not None:
            mask, scores = mask[last.valid.flatten()], scores[last.valid.flatten()]
        taken = mask.sum(-1)
        rest = (1 - scores.sum(-1)).clamp(min=0)  # of the identity, where it is one of the choices
        entropy = -(torch.xlogy(scores, scores).sum(-1) + torch.xlogy(rest, rest))
        histogram = torch.bincount(taken, minlength=1).tolist()
        return Stats(
            tokens=len(mask),
            unchosen=histogram[0] / max(len(mask), 1),
            experts_per_token=histogram,
            load=mask.sum(0).tolist(),
            entropy=float(entropy.mean()) if len(mask) else 0.0,
        )

    def _check(self, hidden: Tensor, valid: Tensor | None) -> None:
        d = self.router.in_features
        if hidden.dim() != 3 or hidden.shape[-1] != d:
            raise ValueError(f"hidden must have the shape (batch, n, {d}), got {tuple(hidden.shape)}")
        if valid is None:
            return
        if valid.dtype != torch.bool:
            raise TypeError(f"valid must be a bool tensor, got {valid.dtype}: give attention_mask.bool()")
        if valid.shape != hidden.shape[:2]:
            raise ValueError(f"valid must have the shape {tuple(hidden.shape[:2])}, got {tuple(valid.shape)}")

    def _logits(self, hidden: Tensor) -> Tensor:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        with torch.autocast(hidden.device.type, enabled=False):  # a ranking needs it
            return F.linear(hidden.to(wide), self.router.weight.to(wide))

    def _finish(self, scores: Tensor, mask: Tensor, valid: Tensor | None) -> Tensor:
        """Give those that nobody took to their best expert, where it is asked for."""
        if self.rest == "pass":
            return mask
        alone = ~mask.any(-1, keepdim=True)
        if valid is not None:
            alone = alone & valid.unsqueeze(-1)
        return mask | topk_mask(scores.detach(), 1, valid=alone)


def _slots(choice: Choice, n: int) -> tuple[Tensor, Sequence[int]]:
    """The tokens of expert 0, then those of expert 1, and so on, counted through the batch; and how many."""
    if choice.indices is None:
        by_expert = choice.mask.flatten(0, 1).T
        return by_expert.nonzero()[:, 1], by_expert.sum(1).tolist()
    batch, experts, _ = choice.indices.shape
    first = (
        torch.arange(0, batch * n, n, device=choice.indices.device) if n else choice.indices.new_zeros(batch)
    )
    slots = (choice.indices + first[:, None, None]).transpose(0, 1).flatten()
    return slots, [len(slots) // experts] * experts


def routing_loss(model: nn.Module) -> Tensor | float:
    """The sum of what the routed layers of a model add to the loss in their last call; 0.0 without such."""
    losses = [part.loss for part in model.modules() if isinstance(part, Routed)]
    return torch.stack(losses).sum() if losses else 0.0


def routing_stats(model: nn.Module) -> dict[str, Stats]:
    """The :class:`Stats` of each routed layer of a model, by its name."""
    return {name: part.stats for name, part in model.named_modules() if isinstance(part, Routed)}
