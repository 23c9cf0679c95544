"""Leaving early: tokens that skip an encoder's upper layers, in a task that needs an output for each token.

Such a task cannot drop tokens. What can be dropped is work: a token that leaves after a layer keeps the state
it has there, the layers above run on those who stay, and every token is tagged from its last state.
Li et al. (ACL 2021, "Accelerating BERT Inference for Sequence Labeling via Early-Exit") let tokens leave when
the tagger is sure of them, and those who stay can still attend to them; here k is fixed, and they cannot.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from topk_lib.models import TokenPruner

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["RULES", "Leaving", "restore", "staying"]

RULES = ("gate", "attention", "doubt", "capital", "random")
"""Who stays, as :class:`Leaving` takes it."""


def staying(n: int, share: float) -> int:
    """How many of n tokens stay: the share, rounded up, and at least one."""
    return max(1, math.ceil(share * n - 1e-9))  # 0.1 * 30 is a little over 3


def restore(early: Tensor, late: Tensor, places: Tensor) -> Tensor:
    """Every token's last state: the late one of those who stayed, the early one of all others.

    Args:
        early: (batch, n, width), the states where tokens could leave.
        late: (batch, k, width), the states of those who stayed, at the end.
        places: (batch, k) int64, where those stand in the text, -1 in spare slots.

    Returns:
        (batch, n, width), of the dtype of ``early``.
    """
    slots = places.masked_fill(places < 0, early.shape[1]).unsqueeze(-1).expand_as(late)
    wide = torch.cat([early, early[:, :1]], 1)  # one place more, for what stands in spare slots
    return wide.scatter(1, slots, late.to(early.dtype))[:, :-1]


class _Ranked(TokenPruner):
    """A pruner that keeps those whom a function of the hidden states ranks highest; nothing is learned."""

    def __init__(self, model: Any, after: int, rank: Callable[[Tensor], Tensor]) -> None:
        super().__init__(model, {after: 1}, by="gate")
        self.gates, self.rank = nn.ModuleDict(), rank
        self.eval()

    def train(self, mode: bool = True) -> Self:
        super().train(False)  # in training a gate gets noise and a gradient
        return self

    def _gated(self, number: int, hidden: Tensor) -> Tensor:
        with torch.no_grad():
            return self.rank(hidden)


class Leaving(nn.Module):
    """Lets only a share of the tokens of each post go on after a layer; all of them are tagged.

    Hooks do it (:class:`~topk_lib.models.TokenPruner`), so that the model is called as before and gives a
    state for every token; :meth:`remove` takes them off. The first token stays, and counts. A share is of the
    longest text of a batch: :meth:`Posts.batches` makes batches of one length, with nothing padded.

    - "gate" learns a linear score from the loss, "attention" keeps those who receive most of it in that layer
      (both are the pruner's).
    - "doubt" keeps those whose early state the tagger's own head is least sure to be no name: 1 - P("O"). In
      training the head learns to read early states, too.
    - "capital" keeps words whose first letter is a capital, then the first of all others; it sees the words,
      through :func:`tag` and :func:`train_tagger`. "random" draws.

    Args:
        model: of :func:`load_tagger`.
        after: the number of the layer, from 0.
        share: of the tokens that go on, in (0, 1]; can be set anew.
        by: one of :data:`RULES`.
        seed: of "random".

    Attributes:
        early: (batch, n, width) of the last pass, the states where tokens could leave.
        pruner: the hooks on the layers; ``pruner.kept[after]`` are the places of those who stayed.

    Raises:
        ValueError: an unknown rule, a share outside (0, 1], a model or layer that TokenPruner does not take.
    """

    def __init__(self, model: Any, after: int, share: float, by: str = "gate", *, seed: int = 0) -> None:
        super().__init__()
        if by not in RULES:
            raise ValueError(f"by must be one of {', '.join(RULES)}, got {by!r}")
        self.after, self.by, self.seed, self.share = after, by, seed, share
        self.dice = torch.Generator().manual_seed(seed)
        self.capital: Tensor | None = None
        self.early = torch.empty(0)
        ranks: dict[str, Callable[[Tensor], Tensor]] = {
            "doubt": partial(_doubt, model),
            "capital": self._capital,
            "random": self._random,
        }
        self.pruner = (
            _Ranked(model, after, ranks[by]) if by in ranks else TokenPruner(model, {after: 1}, by=by)
        )
        encoder = model.base_model.encoder
        self._handles = [
            encoder.register_forward_pre_hook(self._begin, with_kwargs=True),
            # before the pruner's own, which drops tokens
            encoder.layer[after].register_forward_hook(self._remember, prepend=True),
            encoder.register_forward_hook(self._restore),
        ]

    @property
    def share(self) -> float:
        return self._share

    @share.setter
    def share(self, share: float) -> None:
        if not 0 < share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, got {share}")
        self._share = share

    def remove(self) -> None:
        """Take the hooks off: the model is as it was before."""
        self.pruner.remove()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def extra_repr(self) -> str:
        return f"after={self.after}, share={self.share}, by={self.by!r}"

    def _begin(self, encoder: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        read: Tensor = args[0] if args else kwargs["hidden_states"]
        self.pruner.keep_after[self.after] = staying(read.shape[1], self.share)

    def _remember(self, layer: Any, args: tuple[Any, ...], output: Any) -> None:
        self.early = output if isinstance(output, Tensor) else output[0]

    def _restore(self, encoder: Any, args: tuple[Any, ...], output: Any) -> Any:
        places = self.pruner.kept[self.after]
        output.last_hidden_state = restore(self.early, output.last_hidden_state, places)
        return output

    def _capital(self, hidden: Tensor) -> Tensor:
        if self.capital is None or self.capital.shape != hidden.shape[:2]:
            raise ValueError(
                "the rule 'capital' sees the words, not the pieces: call tag or train_tagger, or first set "
                f"capital, {tuple(hidden.shape[:2])} numbers"
            )
        return self.capital.to(hidden.device)

    def _random(self, hidden: Tensor) -> Tensor:
        return torch.rand(hidden.shape[:2], generator=self.dice).to(hidden.device)


def _doubt(model: Any, hidden: Tensor) -> Tensor:
    """(batch, length): how likely the head finds that a token is of a name."""
    logits: Tensor = model.classifier(hidden).float()
    return 1 - logits.softmax(-1)[..., model.config.label2id["O"]]
