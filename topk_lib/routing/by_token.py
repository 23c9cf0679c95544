"""Each token chooses its experts: top-1, top-2, with a loss or a bias that keeps the loads alike."""

from __future__ import annotations

import torch
from torch import Tensor

from topk_lib.ops.arguments import number, whole
from topk_lib.routing.choice import room, token_choice
from topk_lib.routing.layers import Choice, Routed

__all__ = ["TokenChoice"]


class TokenChoice(Routed):
    """A feed-forward layer in which each token takes the k experts that it scores highest.

    With k = 1 that of Switch (Fedus et al., 2022), with k = 2 that of GShard (Lepikhin et al., 2021), whose
    two weights are divided by their sum. Every token decides alone, and nothing looks ahead, unless experts
    have a capacity.

    Args:
        d, inner, experts, activation, bias: see :class:`Routed`.
        k: experts a token.
        balance: what keeps the loads alike: "loss" (``experts * sum f_e P_e``, f_e the share of choices that
            fell on expert e and P_e its mean probability; 1 where all are alike), "bias" (a number added to
            each expert's score for the choice alone, raised where the load is below the mean and lowered
            where it is above; Wang et al., 2024, as in DeepSeek-V3), or None.
        rate: what the loss is multiplied with, or the step of the bias; None: 0.01, or 0.001.
        capacity: an expert takes at most ceil(capacity * k * tokens / experts) tokens of what ``over`` says;
            None: as many as come (dropless).
        over: "sequence" or "batch".
        causal: refuse what looks ahead.
        normalise: see :class:`Routed`; None: where k > 1.
        rest: see :class:`Routed`.

    Raises:
        ValueError, TypeError: an argument that is none of these; ``causal`` with a capacity.
    """

    balance_bias: Tensor

    def __init__(
        self,
        d: int,
        inner: int,
        experts: int,
        *,
        k: int = 1,
        balance: str | None = "loss",
        rate: float | None = None,
        capacity: float | None = None,
        over: str = "batch",
        causal: bool = False,
        activation: str = "gelu",
        bias: bool = True,
        normalise: bool | None = None,
        rest: str = "pass",
    ) -> None:
        k = whole("k", k, 1, whole("experts", experts, 1))
        normalise = k > 1 if normalise is None else normalise
        super().__init__(d, inner, experts, activation=activation, bias=bias, normalise=normalise, rest=rest)
        if balance not in ("loss", "bias", None):
            raise ValueError(f'balance must be "loss", "bias" or None, got {balance!r}')
        if over not in ("sequence", "batch"):
            raise ValueError(f'over must be "sequence" or "batch", got {over!r}')
        if causal and capacity is not None:
            raise ValueError(
                "a capacity looks ahead: how many tokens an expert takes depends on how many there will be, "
                "and a later token's first choice comes before an earlier one's second: choose capacity=None"
            )
        self.k, self.balance, self.over = k, balance, over
        self.capacity = None if capacity is None else number("capacity", capacity, 0.0)
        self.rate = number("rate", (0.001 if balance == "bias" else 0.01) if rate is None else rate, 0.0)
        self.register_buffer("balance_bias", torch.zeros(experts) if balance == "bias" else None)

    def choose(self, scores: Tensor, hidden: Tensor, valid: Tensor | None) -> Choice:
        ranked = scores if self.balance != "bias" else scores.detach() + self.balance_bias
        wanted = token_choice(ranked, self.k, valid=valid)
        self._last.loss = None
        if self.training and scores.requires_grad:
            if self.balance == "loss":
                self._last.loss = self.rate * balance_loss(scores, wanted, valid)
            elif self.balance == "bias":
                load = wanted.sum((0, 1))
                scores.register_hook(lambda _: self._learn(load))  # type: ignore[no-untyped-call]
        mask = wanted if self.capacity is None else self._within(ranked, valid)
        return Choice(self._finish(scores, mask, valid))

    def _within(self, ranked: Tensor, valid: Tensor | None) -> Tensor:
        """The choice of which each expert takes as many as it has room for."""
        assert self.capacity is not None
        shape, factor = ranked.shape, self.capacity * self.k
        if self.over == "batch":
            ranked, valid = ranked.flatten(0, 1), None if valid is None else valid.flatten()
        tokens = ranked.shape[-2] if valid is None else valid.sum(-1)
        mask = token_choice(ranked, self.k, valid=valid, capacity=room(factor, tokens, shape[-1]))
        return mask.reshape(shape)

    @torch.no_grad()
    def _learn(self, load: Tensor) -> None:
        load = load.to(self.balance_bias.dtype)
        self.balance_bias += self.rate * (load.mean() - load).sign()


def balance_loss(scores: Tensor, mask: Tensor, valid: Tensor | None) -> Tensor:
    """``experts * sum f_e P_e`` over the tokens: 1 where choices and probabilities are spread evenly.

    Args:
        scores: (batch, n, experts), probabilities; the gradient flows through them.
        mask: (batch, n, experts) bool, who was chosen.
        valid: (batch, n) bool, or None.
    """
    if valid is not None:
        scores, mask = scores[valid], mask[valid]
    share = mask.flatten(0, -2).sum(0) / mask.sum().clamp(min=1)
    mean = scores.flatten(0, -2).sum(0) / max(scores.shape[:-1].numel(), 1)
    loss: Tensor = scores.shape[-1] * (share * mean).sum()
    return loss
