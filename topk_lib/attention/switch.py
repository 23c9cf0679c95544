"""Making a loaded model choose its keys: transformers' attention interface, and what stands at each layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from topk_lib.attention.chosen import topk_attention
from topk_lib.attention.indexer import Indexer, Indices

__all__ = ["NAME", "Reader", "attention_layers", "choose_keys", "switch"]

NAME = "topk_lib"
"""Of the attention, among those that transformers knows; without a choice it is PyTorch's own."""


class Reader(Protocol):
    """What may stand at an attention layer, and reads for it."""

    indexer: Indexer | None

    def read(
        self, query: Tensor, key: Tensor, value: Tensor, *, seen: Tensor | None, causal: bool, scale: float,
        indices: Indices | None,
    ) -> Tensor: ...  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """k keys a query; of what :func:`choose_keys` is given."""

    k: int
    first: int
    window: int
    indexer: Indexer | None

    def read(
        self, query: Tensor, key: Tensor, value: Tensor, *, seen: Tensor | None, causal: bool, scale: float,
        indices: Indices | None,
    ) -> Tensor:  # fmt: skip
        if indices is not None and indices.keys.shape[1] != key.shape[2]:
            raise ValueError(
                f"the indexer saw {indices.keys.shape[1]} of {key.shape[2]} tokens: text in several pieces "
                'needs a cache that keeps its keys, too: KeptCache(model, k, "indexer", indexer=...)'
            )
        return topk_attention(
            query, key, value, self.k, causal=causal, valid=seen, first=self.first, window=self.window,
            scale=scale, scores=None if indices is None else indices.scores()[:, None],
        )  # fmt: skip


@contextmanager
def choose_keys(
    model: Any, k: int, *, first: int = 0, window: int = 0, indexer: Indexer | None = None
) -> Iterator[Any]:
    """Inside ``with``, let each query of every layer read k keys only (:func:`topk_attention`).

    Args:
        model: of transformers, whose attention goes through its attention interface, as Llama's does.
        k, first, window: as in :func:`topk_attention`.
        indexer: chooses the keys; None: attention's own dot products, each head for itself.

    Raises:
        ValueError: the model's attention cannot be replaced, or the indexer is made for another model.
    """
    before = getattr(getattr(model, "config", None), "_attn_implementation", None)
    layers = switch(model)
    if indexer is not None:
        indexer.check(model)
    outer = [getattr(layer, "topk_choice", None) for layer in layers]
    try:
        for layer in layers:
            layer.topk_choice = Choice(k, first, window, indexer)
        yield model
    finally:
        for layer, choice in zip(layers, outer, strict=True):
            layer.topk_choice = choice
        model.set_attn_implementation(before)


def attention_layers(model: Any) -> list[Any]:
    """The attention of each layer."""
    return [part for part in model.modules() if hasattr(part, "layer_idx") and hasattr(part, "is_causal")]


def switch(model: Any) -> list[Any]:
    """Give a model our attention, which is PyTorch's own until a choice or a cache asks for another.

    Returns:
        The attention of each layer.

    Raises:
        ValueError: the model's attention cannot be replaced.
    """
    layers = attention_layers(model)
    if not layers or not getattr(model, "_supports_sdpa", False):
        raise ValueError(
            f"the attention of {type(model).__name__} cannot be replaced: take a model whose attention goes "
            "through transformers' attention interface, as Llama's does"
        )
    if model.config._attn_implementation != NAME:
        model.set_attn_implementation(NAME)
    for layer in layers:
        if not hasattr(layer, "topk_now"):
            layer.topk_now = None
            layer.register_forward_pre_hook(_before, with_kwargs=True)
    return layers


def _before(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Find who reads for this layer, while the cache and the layer's input are at hand."""
    if module.config._attn_implementation != NAME:
        return
    cache = kwargs.get("past_key_values")
    layers = getattr(cache, "layers", None) or []
    held = layers[module.layer_idx] if layers and module.layer_idx < len(layers) else None
    reader: Reader | None = held if hasattr(held, "read") else getattr(module, "topk_choice", None)
    indices = None
    if reader is not None and reader.indexer is not None:
        hidden = args[0] if args else kwargs["hidden_states"]
        indices = reader.indexer(module.layer_idx, hidden, kwargs["position_embeddings"])
    module.topk_now = (reader, indices)


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Query (batch, heads, q, d) to what is read (batch, q, heads, width), as transformers wants it."""
    reader, indices = getattr(module, "topk_now", None) or (None, None)
    if reader is None:
        plain: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return plain
    module.topk_now = None  # or the last cache would live as long as the model
    if dropout:
        raise ValueError("attention that chooses its keys knows no dropout: set attention_dropout to 0")
    seen = attention_mask
    if seen is not None and seen.dtype != torch.bool:
        seen = seen >= 0
    causal = kwargs.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    read = reader.read(
        query, key, value, seen=seen, causal=causal and seen is None, indices=indices,
        scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
    )  # fmt: skip
    return read.transpose(1, 2).contiguous(), None


ALL_ATTENTION_FUNCTIONS.register(NAME, _attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, sdpa_mask)
