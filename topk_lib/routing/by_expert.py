"""Each expert chooses its tokens; and how to decode with it, where later tokens are not there yet."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from topk_lib.ops.arguments import number, whole
from topk_lib.ops.hard import topk_mask
from topk_lib.routing.choice import Taken, expert_choice, room
from topk_lib.routing.layers import Choice, Routed

__all__ = ["ExpertChoice", "Gap", "MixtureOfDepths"]

_LOOKS_AHEAD = (
    "an expert that takes the best tokens of a text looks at later ones: for a causal model choose "
    'causal="threshold" or causal="predictor", with which each token decides alone once training is over'
)


class Gap(NamedTuple):
    """How far tokens that decide alone are from the choice that the layer was trained with.

    Attributes:
        agree: the share of (token, expert) pairs on which both say the same.
        kept: of the pairs that the choice takes, the share that is taken alone, too.
        added: of the pairs that are taken alone, the share that the choice does not take.
        load_choice: pairs a token by choice.
        load_alone: pairs a token, each deciding alone.
        output: the length of the difference of the layer's answers over that of the answer by choice.
    """

    agree: float
    kept: float
    added: float
    load_choice: float
    load_alone: float
    output: float


class ExpertChoice(Routed):
    """A feed-forward layer in which each expert takes the tokens that score it highest (Zhou et al., 2022).

    The router's softmax is over the experts. Each expert takes ceil(capacity * tokens / experts) tokens, so
    that all have the same work and it is one batched product; a token is taken by some number of experts,
    from none to all.

    Args:
        d, inner, experts, activation, bias, normalise, rest: see :class:`Routed`.
        capacity: how many experts take a token on average; at least 0.
        over: what an expert chooses from: "sequence" (each text by itself, so that a text's answer does not
            depend on the others) or "batch".
        most: the most experts that may take one token, see :func:`expert_choice`; None: any number.
        causal: False; or how each token decides alone, without a look at any other, once training is over:

            - "threshold": an expert takes a token whose score reaches the expert's threshold, a running
              average of the lowest score that it took in training;
            - "predictor": a small network guesses from the token whether an expert would take it, and
              learns it by :attr:`loss`, whose gradient stops at the token (Raposo et al., 2024).

            True is refused, with a word on both.
        alone_in_training: let each token decide alone in training, too. With "threshold" then no gradient
            ever comes from a choice that looked ahead; the thresholds still follow the choice.
        momentum: of the running average, in 0..1.

    Raises:
        ValueError, TypeError: an argument that is none of these.
    """

    threshold: Tensor
    passes: Tensor

    def __init__(
        self,
        d: int,
        inner: int,
        experts: int,
        *,
        capacity: float = 2.0,
        over: str = "sequence",
        most: int | None = None,
        causal: bool | str = False,
        alone_in_training: bool = False,
        momentum: float = 0.99,
        activation: str = "gelu",
        bias: bool = True,
        normalise: bool = False,
        rest: str = "pass",
    ) -> None:
        super().__init__(d, inner, experts, activation=activation, bias=bias, normalise=normalise, rest=rest)
        if over not in ("sequence", "batch"):
            raise ValueError(f'over must be "sequence" or "batch", got {over!r}')
        if causal is True:
            raise ValueError(_LOOKS_AHEAD)
        if causal not in (False, "threshold", "predictor"):
            raise ValueError(f'causal must be False, "threshold" or "predictor", got {causal!r}')
        if alone_in_training and not causal:
            raise ValueError(
                'alone_in_training needs a way to decide alone: causal="threshold" or "predictor"'
            )
        self.capacity = number("capacity", capacity, 0.0)
        self.over, self.causal, self.alone_in_training = over, causal, alone_in_training
        self.most = None if most is None else whole("most", most, 1)
        self.momentum = number("momentum", momentum, 0.0, 1.0)
        if causal == "threshold":
            # until something is learned: what a score is where the router prefers nobody
            self.register_buffer("threshold", torch.full((experts,), self._indifferent(experts)))
            self.register_buffer("passes", torch.zeros((), dtype=torch.int64))
        elif causal == "predictor":
            width = max(d // 4, 8)
            self.predictor = nn.Sequential(nn.Linear(d, width), nn.GELU(), nn.Linear(width, experts))

    def choose(self, scores: Tensor, hidden: Tensor, valid: Tensor | None) -> Choice:
        self._last.loss = None
        if self.causal and not self.training:
            return self.alone(scores, hidden, valid)
        taken = self._take(scores, valid)
        if self.causal and self.training and scores.requires_grad and scores.numel():
            self._observe(scores, hidden, valid, taken)
        if self.alone_in_training:
            return self.alone(scores, hidden, valid)
        mask = self._finish(scores, taken.mask, valid)
        # Without padding or limits every expert takes exactly C of each text.
        exact = valid is None and self.rest == "pass" and self.most is None
        return Choice(mask, taken.indices if exact else None)

    def alone(self, scores: Tensor, hidden: Tensor, valid: Tensor | None = None) -> Choice:
        """Who takes whom where each token decides by itself.

        Raises:
            ValueError: the layer has no way to.
        """
        if not self.causal:
            raise ValueError(_LOOKS_AHEAD)
        if self.causal == "threshold":
            mask = scores.detach() >= self.threshold
        else:
            mask = self._predicted(hidden) >= 0
        if valid is not None:
            mask = mask & valid.unsqueeze(-1)
        if self.most is not None and self.most < mask.shape[-1]:
            mask = topk_mask(scores.detach(), self.most, valid=mask)
        return Choice(self._finish(scores, mask, valid))

    @torch.no_grad()
    def gap(self, hidden: Tensor, valid: Tensor | None = None) -> Gap:
        """What changes when tokens decide alone: training's choice beside decoding's, on the same input.

        Args:
            hidden, valid: see :meth:`forward`.
        """
        self._check(hidden, valid)
        scores = self.scores(hidden)
        choice = Choice(self._finish(scores, self._take(scores, valid).mask, valid))
        alone = self.alone(scores, hidden, valid)
        answer = self.apply_choice(hidden, scores, choice).float()
        moved = self.apply_choice(hidden, scores, alone).float() - answer
        tokens = hidden.shape[:2].numel() if valid is None else int(valid.sum())
        by_choice, by_itself = int(choice.mask.sum()), int(alone.mask.sum())
        both = int((choice.mask & alone.mask).sum())
        pairs = max(tokens * scores.shape[-1], 1)
        return Gap(
            agree=1 - (by_choice + by_itself - 2 * both) / pairs,
            kept=both / by_choice if by_choice else 1.0,
            added=1 - both / by_itself if by_itself else 0.0,
            load_choice=by_choice / max(tokens, 1),
            load_alone=by_itself / max(tokens, 1),
            output=float(moved.norm() / answer.norm().clamp(min=1e-30)),
        )

    def _take(self, scores: Tensor, valid: Tensor | None) -> Taken:
        """The choice, over each text or over the batch."""
        shape = scores.shape
        if self.over == "batch":
            scores, valid = scores.flatten(0, 1)[None], None if valid is None else valid.flatten()[None]
        tokens = scores.shape[1] if valid is None else valid.sum(-1)
        capacity = room(self.capacity, tokens, shape[-1])
        taken = expert_choice(scores, capacity, valid=valid, most=self.most)
        return Taken(taken.mask.reshape(shape), taken.indices)

    def _observe(self, scores: Tensor, hidden: Tensor, valid: Tensor | None, taken: Taken) -> None:
        """Learn from this call what decides when each token is alone."""
        if self.causal == "predictor":
            target = taken.mask.to(scores.dtype)
            guess = self._predicted(hidden.detach())
            if valid is not None:
                guess, target = guess[valid], target[valid]
            self._last.loss = F.binary_cross_entropy_with_logits(guess, target) if len(target) else None
            return
        seen, mask = scores.detach(), taken.mask
        if self.over == "batch":
            seen, mask = seen.flatten(0, 1)[None], mask.flatten(0, 1)[None]
        # (batch or 1, experts), the lowest score taken of each text, or of all
        lowest = seen.masked_fill(~mask, torch.inf).amin(1)
        some = mask.any(1)
        edge = lowest.masked_fill(~some, 0).sum(0) / some.sum(0)
        scores.register_hook(lambda _: self._learn(edge))  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def _learn(self, edge: Tensor) -> None:
        self.passes += 1
        # At first the mean of what was seen, so that the beginning counts no more than the rest.
        step = torch.clamp(1 / self.passes, min=1 - self.momentum)
        moved = self.threshold + step * (edge.to(self.threshold.dtype) - self.threshold)
        self.threshold.copy_(torch.where(edge.isfinite(), moved, self.threshold))

    def _predicted(self, hidden: Tensor) -> Tensor:
        guess: Tensor = self.predictor(hidden.to(self.router.weight.dtype))
        return guess.float()

    def _indifferent(self, experts: int) -> float:
        return 1 / experts


class MixtureOfDepths(ExpertChoice):
    """One expert and the identity: a share of the tokens goes through the layer, the rest pass by.

    Raposo et al. (2024), "Mixture-of-Depths". It is :class:`ExpertChoice` with one expert, whose score is
    the softmax over the expert and the identity, the identity's logit being 0: the sigmoid of the router's
    number.

    Args:
        d, inner: see :class:`Routed`.
        share: of the tokens that the layer takes, in 0..1.
        **options: further ones of :class:`ExpertChoice`.
    """

    def __init__(self, d: int, inner: int, *, share: float = 0.125, **options: Any) -> None:
        super().__init__(d, inner, 1, capacity=number("share", share, 0.0, 1.0), **options)

    def scores(self, hidden: Tensor) -> Tensor:
        """(batch, n, 1), in float32 at least."""
        return self._logits(hidden).sigmoid()

    def _indifferent(self, experts: int) -> float:
        return 0.5
