"""What an encoder is to read of a batch of texts."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from topk_lib.ops import Selection
from topk_lib.selectors.position import token_positions

__all__ = ["Reading", "cut_texts", "numbered", "special_tokens"]


class Reading(NamedTuple):
    """What the encoder is to read: all (batch, k)."""

    input_ids: Tensor
    attention_mask: Tensor
    positions: Tensor
    weights: Tensor | None
    chosen: Selection
    token_type_ids: Tensor | None = None


def special_tokens(tokenizer: Any) -> tuple[list[int], int, int]:
    """The ids of the special tokens around every text; how many there are, and how many after it."""
    around = tokenizer("a", return_special_tokens_mask=True)["special_tokens_mask"]
    return sorted(set(tokenizer("")["input_ids"])), sum(around), around[::-1].index(0)


def cut_texts(
    ids: Tensor, mask: Tensor, types: Tensor | None, most: int, closing: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Cut texts at their ends as a tokenizer does, but for the special tokens that close them.

    Args:
        ids, mask, types: (batch, length) int64: tokens, 1 for tokens and 0 for padding, token types.
        most: tokens that are left of a text.
        closing: how many of them are the special tokens at its end.

    Returns:
        The three, of the same shape; what is cut is padding. A text that fits is as it was.
    """
    place = token_positions(mask)
    over = (mask.long().sum(-1, keepdim=True) - most).clamp(min=0)
    moved = torch.where(place >= most - closing, over, 0)  # to the closing tokens, further back
    start = torch.arange(ids.shape[-1], device=ids.device)
    source = (start + moved).clamp(max=ids.shape[-1] - 1)
    mask = mask.masked_fill(place >= most, 0)
    return ids.gather(-1, source), mask, None if types is None else types.gather(-1, source)


def numbered(places: Tensor, real: Tensor, kind: str, limit: int | None) -> Tensor:
    """The position that each chosen token has for the encoder, (batch, k) int64 from 0.

    Args:
        places: (batch, k) int64, where they stand in the batch.
        real: (batch, length) bool, False for padding.
        kind: "compact" numbers them; "original" gives each its place in the text, squeezed where the
            text has more than ``limit`` tokens.
        limit: positions that the encoder has; None: any.
    """
    if kind == "compact":
        return torch.arange(places.shape[-1], device=places.device).expand_as(places)
    places = token_positions(real).gather(-1, places)
    if limit is None:
        return places
    length = real.sum(-1, keepdim=True)
    squeezed = (places * (limit - 1)).div((length - 1).clamp(min=1), rounding_mode="floor")
    return torch.where(length > limit, squeezed, places)
