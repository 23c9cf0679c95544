"""The linear rule with an eye on the other tokens of the text: on copies, on what a negation denies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from topk_lib.selectors.base import register, whole
from topk_lib.selectors.corpus import LinearSelector

__all__ = ["NEGATIONS", "DistinctSelector", "KeepNegationSelector", "copies_last", "is_copy"]

NEGATIONS = ("not", "no", "never", "nothing", "without", "hardly", "nor", "n't", "'t", "t")
"""Words that deny what follows; the last three for the halves into which tokenizers split *don't*."""


def is_copy(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """(batch, length) bool: True where the same type stands earlier in the text."""
    length = input_ids.shape[-1]
    place = torch.arange(length, device=input_ids.device)
    # Sorted by type, then by place: a copy has its like before it.
    key, order = (input_ids.masked_fill(attention_mask == 0, -1) * length + place).sort(dim=-1)
    ids = key.div(length, rounding_mode="floor")
    again = nn.functional.pad(ids[..., 1:] == ids[..., :-1], (1, 0))
    return torch.zeros_like(again).scatter(-1, order, again)


def copies_last(scores: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """The same scores, but each copy of a type lower than whatever is no copy; copies keep their order.

    A coverage term: the first token of a type covers it, and its like adds nothing until all are covered.
    """
    if not scores.shape[-1]:
        return scores
    real, fixed = attention_mask.bool(), scores.detach()  # a copy's gradient is its own alone
    lowest = fixed.masked_fill(~real, torch.inf).amin(-1, keepdim=True)
    highest = fixed.masked_fill(~real, -torch.inf).amax(-1, keepdim=True)
    lower = (scores - (highest - lowest) - 1).nan_to_num()  # of a text without a token
    return torch.where(is_copy(input_ids, attention_mask), lower, scores)


@register
class DistinctSelector(LinearSelector):
    """The linear weight, each type once: later copies of a type come after all other tokens.

    The least of submodular choice: a copy of what was chosen is worth nothing (Lin and Bilmes, 2011, "A
    class of submodular functions for document summarization"). Negations lose their copies, too.
    """

    name: ClassVar[str] = "distinct"
    rule: ClassVar[str] = "linear, each once"

    def scores(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return copies_last(self.look_up(input_ids), input_ids, attention_mask)


@register
class KeepNegationSelector(LinearSelector):
    """The linear weight, but a negation has at least the weight of what it denies.

    That is the highest weight among the ``reach`` tokens after it, so that *not* is dropped only where
    *good* is, too.

    Args:
        negations: ids of the tokens that deny; :func:`~topk_lib.selectors.make_selector` finds them where it
            is given the tokenizer.
        reach: how many tokens after a negation it may deny.
    """

    name: ClassVar[str] = "keep_negation"
    rule: ClassVar[str] = "linear + negation"
    words: ClassVar[dict[str, Sequence[str]]] = {"negations": NEGATIONS}

    def __init__(
        self,
        seed: int = 0,
        vocabulary: int | None = None,
        *,
        negations: Sequence[int] = (),
        reach: int = 3,
    ) -> None:
        super().__init__(seed, vocabulary)
        if isinstance(negations, str) or not isinstance(negations, Sequence):
            raise TypeError(f"negations must be a list of token ids, got {negations!r}")
        self.negations = [whole("negations", i, 0) for i in negations]
        self.reach = whole("reach", reach, 1)

    def fit(self, token_ids: Sequence[Sequence[int]], labels: Sequence[int] | None = None) -> LinearSelector:
        if not self.negations:
            raise ValueError(
                f"the {self.name} selector knows no negation: give make_selector the tokenizer, or negations"
            )
        return super().fit(token_ids, labels)

    def scores(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        scores = self.look_up(input_ids)
        known = scores.masked_fill(attention_mask == 0, 0.0)  # no weight is below 0
        ahead = known
        for step in range(1, self.reach + 1):
            ahead = torch.maximum(ahead, nn.functional.pad(known, (0, step))[..., step:])
        denies = (input_ids.unsqueeze(-1) == input_ids.new_tensor(self.negations)).any(-1)
        return torch.where(denies, ahead, scores)

    def options(self) -> dict[str, Any]:
        return {"negations": self.negations, "reach": self.reach}
