"""Training an indexer to find the keys that attention would have read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from topk_lib.attention import Indexer, attention_layers

__all__ = ["fit_indexer"]


def fit_indexer(
    model: Any,
    texts: Sequence[Sequence[int]],
    *,
    heads: int = 4,
    head_width: int = 16,
    learning_rate: float = 3e-3,
    seed: int = 0,
) -> tuple[Indexer, list[float]]:
    """Train an :class:`~topk_lib.attention.Indexer` beside a language model that stays as it is.

    In each layer the softmax of the scores is brought near the mean of the layer's attention weights, by
    their Kullback-Leibler divergence: the first of the two stages of DeepSeek-AI (2025). One step of Adam a
    text, the rate falling to 0.

    Args:
        model: a language model that turns keys by their positions, as Llama.
        texts: token ids of each text, at least 2; a text of n tokens needs layers * heads * n^2 numbers of
            memory for a moment.
        heads, head_width: of the indexer.

    Returns:
        The indexer, and for each text the divergence in nats, the mean over queries and layers.

    Raises:
        ValueError: no texts, a text of fewer than 2 tokens, a model whose attention says no weights.
    """
    if not texts or min(map(len, texts)) < 2:
        raise ValueError("an indexer is trained on texts of at least 2 tokens each: give some")
    torch.manual_seed(seed)
    indexer = Indexer.of(model, heads=heads, head_width=head_width).to(model.device)
    layers, losses = attention_layers(model), list[float]()
    divergences: list[float] = []

    def learn(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        weights = output[1].float().mean(1)
        with torch.enable_grad():
            told = indexer(module.layer_idx, hidden, kwargs["position_embeddings"]).scores()
            loss = _divergence(told, weights)
            (loss / len(layers)).backward()  # type: ignore[no-untyped-call]
        divergences.append(float(loss.detach()))

    optimiser = torch.optim.Adam(indexer.parameters(), lr=learning_rate)
    falling = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, total_iters=len(texts))
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")  # the one that says its weights
    hooks = [layer.register_forward_hook(learn, with_kwargs=True) for layer in layers]
    try:
        for text in texts:
            divergences.clear()
            with torch.no_grad():
                model.base_model(torch.tensor([list(text)], device=model.device), use_cache=False)
            if not divergences:
                raise ValueError(f"the layers of {type(model).__name__} do not say their attention weights")
            losses.append(sum(divergences) / len(divergences))
            optimiser.step()
            optimiser.zero_grad()
            falling.step()
    finally:
        for hook in hooks:
            hook.remove()
        model.set_attn_implementation(before)
    return indexer.eval(), losses


def _divergence(scores: Tensor, weights: Tensor) -> Tensor:
    """Of weights (batch, n, n) from the softmax of scores over what is not ahead: the mean over queries."""
    ahead = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
    told = scores.masked_fill(ahead, -torch.inf).log_softmax(-1).masked_fill(ahead, 0)
    return F.kl_div(told, weights, reduction="sum") / weights.shape[:-1].numel()
