"""How many tokens each text may keep: the same for all, a share of its length, or what pays most."""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor

from topk_lib.ops import hard_topk
from topk_lib.selectors.base import ranked

__all__ = ["SPENDING", "row_budgets"]

SPENDING = ("text", "batch")


def row_budgets(
    scores: Tensor,
    real: Tensor,
    pinned: Tensor,
    k: int,
    *,
    share: float | None = None,
    spend: str = "text",
    most: int | None = None,
) -> int | Tensor:
    """k for each text of a batch.

    Args:
        scores: (batch, length) float; on one scale for all texts where the batch shares.
        real: (batch, length) bool, False for padding.
        pinned: (batch, length) bool, always kept.
        k: tokens a text may have.
        share: of each text's tokens, 0 < share <= 1, rounded up, at most k; None: k for each text.
        spend: "text": each text has its own budget. "batch": the texts of the batch put theirs
            together, and the highest scores of the batch are kept, whose text they may be of; what
            is kept of a text then depends on the others of its batch.
        most: no text gets more; what is over is not spent.

    Returns:
        k itself where all are alike, else (batch,) int64.

    Raises:
        ValueError: ``share`` or ``spend`` is none of these.
    """
    if spend not in SPENDING:
        raise ValueError(f"spend must be one of {', '.join(SPENDING)}, got {spend!r}")
    if share is not None and not 0 < share <= 1:
        raise ValueError(f"share must be above 0 and at most 1, got {share}")
    if share is None and spend == "text":
        return k if most is None else min(k, most)
    lengths = real.sum(-1)
    least = (pinned & real).sum(-1)
    # In integers, also in ONNX: rounded to float32 first, 0.1 of 30 would be 4.
    part = Fraction(1 if share is None else share).limit_denominator(10**6)
    each = (lengths * part.numerator + part.denominator - 1) // part.denominator
    each = torch.minimum(each, lengths).clamp(max=k).maximum(least).clamp(min=1)
    if spend == "batch":
        flat = ranked(scores, pinned & real).reshape(1, -1)
        total = int(torch.minimum(each, lengths).sum())
        mask = hard_topk(flat, min(total, flat.shape[-1]), valid=real.reshape(1, -1)).mask
        each = mask.reshape(real.shape).sum(-1).clamp(min=1)
    return each if most is None else each.clamp(max=most)
