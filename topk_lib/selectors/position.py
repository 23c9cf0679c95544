"""Selectors that look at positions only: the controls every other rule must beat."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from topk_lib.ops.sample import mix
from topk_lib.selectors.base import Selector, register

__all__ = ["FirstSelector", "HeadTailSelector", "LastSelector", "RandomSelector"]


@register
class FirstSelector(Selector):
    """The first k tokens: what ``truncation=True`` does."""

    name: ClassVar[str] = "first"
    rule: ClassVar[str] = "first k"

    def scores(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return -token_positions(attention_mask).float()


@register
class LastSelector(Selector):
    """The last k tokens, where a review often sums up."""

    name: ClassVar[str] = "last"
    rule: ClassVar[str] = "last k"

    def scores(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return token_positions(attention_mask).float()


@register
class HeadTailSelector(Selector):
    """A quarter of the k tokens from the beginning, three quarters from the end.

    The share of 128 in 512 is that of Sun et al. (2019), "How to fine-tune BERT for text
    classification", section 5.3.1. The scores rank head and tail tokens in turn (one, then three),
    so that the choice for a smaller k is always part of the choice for a larger one.
    """

    name: ClassVar[str] = "head_tail"
    rule: ClassVar[str] = "head + tail"

    def scores(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        head = token_positions(attention_mask)
        tail = attention_mask.sum(-1, keepdim=True) - 1 - head
        return -torch.minimum(4 * head, tail + tail.div(3, rounding_mode="floor") + 1).float()


@register
class RandomSelector(Selector):
    """k tokens at random.

    The draw for a text depends on its tokens and the seed alone, never on the batch around it.
    """

    name: ClassVar[str] = "random"
    rule: ClassVar[str] = "random k"

    def scores(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        position = token_positions(attention_mask)
        text = (input_ids * attention_mask * (2 * position + 1)).sum(-1, keepdim=True)
        seed = (self.seed + 2**63) % 2**64 - 2**63  # the same 64 bits as a signed number
        mixed = mix(mix(text + mix(torch.full_like(text, seed))) + position)
        return mixed.bitwise_and((1 << 24) - 1).float()  # 24 bits: exact in float32


def token_positions(attention_mask: Tensor) -> Tensor:
    """(batch, length) int64: which token of its text each is, from 0, on whatever side padding stands."""
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)
