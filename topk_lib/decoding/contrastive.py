"""Contrastive search: of the k most likely tokens, the one least like what was written."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from topk_lib.ops import hard_topk
from topk_lib.ops.arguments import whole

__all__ = ["contrastive_search"]


@torch.inference_mode()
def contrastive_search(model: Any, ids: Tensor, tokens: int, *, k: int = 4, alpha: float = 0.6) -> Tensor:
    """Continue texts by contrastive search (Su et al. 2022).

    Each of the k most likely tokens is tried. It gets (1 - alpha) times its probability, minus alpha times
    the largest cosine between its last hidden state and that of any earlier token; the best one stays,
    of equals the most likely. The forward pass that tries the candidates is that of the next step, so a
    step costs one pass of k times as many rows.

    Args:
        model: as :func:`~topk_lib.models.load_language_model` returns it.
        ids: (rows, n) int64 token ids, no padding.
        tokens: how many are written.
        k: 1 <= k <= types; 1 is greedy.
        alpha: in [0, 1]; 0 is greedy.

    Returns:
        (rows, tokens) int64.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie in 0..1, got {alpha}")
    k = whole("k", k, 1)
    rows, cache = torch.arange(len(ids), device=ids.device), DynamicCache(config=model.config)
    states, probabilities = _read(model, ids, cache)  # (rows, n, size), (rows, types)
    written = ids[:, :0]
    for _ in range(tokens):
        best = hard_topk(probabilities, k, order="value")
        cache.batch_repeat_interleave(k)
        fresh, nexts = _read(model, best.indices.reshape(-1, 1), cache)
        fresh = fresh.reshape(len(ids), k, -1)
        likeness = (fresh @ states.transpose(1, 2)).amax(-1)  # (rows, k)
        score = (1 - alpha) * best.values - alpha * likeness
        winner = hard_topk(score, 1).indices[:, 0]
        cache.batch_select_indices(rows * k + winner)
        written = torch.cat([written, best.indices[rows, winner, None]], 1)
        states = torch.cat([states, fresh[rows, winner, None]], 1)
        probabilities = nexts.reshape(len(ids), k, -1)[rows, winner]
    return written


def _read(model: Any, ids: Tensor, cache: DynamicCache) -> tuple[Tensor, Tensor]:
    """The last hidden states, each of length 1, and the next token's probabilities."""
    out = model(ids, past_key_values=cache, use_cache=True, output_hidden_states=True, logits_to_keep=1)
    states = torch.nn.functional.normalize(out.hidden_states[-1].float(), dim=-1)
    return states, out.logits[:, -1].float().softmax(-1)
