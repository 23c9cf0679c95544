"""Prompt compression: a language model reads the k tokens of a text that it could least have guessed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from topk_lib.ops import hard_topk
from topk_lib.selectors import ids_to_batch

__all__ = ["compress", "surprises"]


@torch.inference_mode()
def surprises(model: Any, texts: Sequence[Sequence[int]], *, batch_size: int = 4) -> list[Tensor]:
    """For each text (n,) float32: -log p of each token given those before it, in nats; inf for the first.

    Args:
        model: a causal language model.
        texts: lists of token ids, none of them empty.
        batch_size: texts read together; the logits of all their tokens are held at once.
    """
    found = []
    for at in range(0, len(texts), batch_size):
        some = texts[at : at + batch_size]
        ids, mask = (x.to(model.device) for x in ids_to_batch(some))
        logits = model(input_ids=ids, attention_mask=mask).logits
        for row, told, text in zip(ids, logits, some, strict=True):
            n = len(text)
            loss = nn.functional.cross_entropy(told[: n - 1].float(), row[1:n], reduction="none")
            found.append(torch.cat([torch.tensor([torch.inf]), loss.cpu()]))
    return found


def compress(model: Any, texts: Sequence[Sequence[int]], k: int) -> list[list[int]]:
    """The k tokens of each text that surprise the model most, in the order of the text; all where n <= k.

    What can be guessed from what stands before it is left out: prompt compression at its plainest, with
    one model as judge and reader and one k for all (Jiang et al., 2023, "LLMLingua", has a small judge for a
    large reader, and a budget for each part of a prompt).

    Args:
        model: a causal language model.
        texts: lists of token ids, none of them empty.
        k: tokens to keep.
    """
    return [
        [text[i] for i in hard_topk(told, min(k, len(text))).indices.tolist()]
        for text, told in zip(texts, surprises(model, texts), strict=True)
    ]
