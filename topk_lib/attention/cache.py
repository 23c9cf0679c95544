"""A cache for ``generate`` that keeps, or reads, k entries a head."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from topk_lib.attention.indexer import Indexer
from topk_lib.attention.kept import KEEPS_ALL, VOTERS, WAYS, KeptLayer, Plan
from topk_lib.attention.switch import switch

__all__ = ["KeptCache"]


class KeptCache(Cache):  # type: ignore[misc]
    """Keys and values of k tokens in each layer, or of all of them, of which each query reads k.

    Give it to ``model.generate(..., past_key_values=KeptCache(model, 64, "votes"))``, or to calls of the
    model. The ways to choose:

    ========= ================================================================== =====================
    way       keeps                                                              source
    ========= ================================================================== =====================
    window    the first tokens and the latest                                    StreamingLLM
    heavy     those that have received the most attention so far                 H2O
    votes     those that the latest queries read most, neighbours smoothed       SnapKV
    exact     all; each query reads the k that fit it best: the bound            ``topk_attention``
    indexer   all; each query reads the k that a small scorer finds              DeepSeek-V3.2
    ========= ================================================================== =====================

    The first three drop entries for good. Where fewer than k tokens come at once, each of them reads at most
    k entries, itself included; a longer piece of text, such as a prompt, is read in full and then cut to k.
    With k at least the length nothing is ever dropped, and the model does what it does with its own cache.
    Padding is never kept. A batch must be padded on the left, as for ``generate``.

    The model's attention is replaced by ours (:func:`~topk_lib.attention.switch.switch`), which without such
    a cache computes what the model's own does.

    Args:
        model: a language model with rotary positions whose layers are all alike, as Llama.
        k: entries that a head keeps, or reads.
        way: one of the above.
        first: the earliest tokens, always kept; None: 4, and 0 in "exact" and "indexer".
        window: the latest tokens, always kept; None: in "heavy" half of k, in "votes" a quarter, at most 32;
            in "exact" and "indexer" none. In "votes" it is also who votes; "window" takes all that k leaves.
        per: "head" chooses for each key head, "layer" one set for all of a layer's.
        positions: "text" leaves keys turned by where they stood in the text, so that what is kept keeps its
            distances; "cache" turns them as if what is kept stood side by side, so that no distance is larger
            than k (StreamingLLM's way to read on for ever).
        indexer: for the way of that name.
        record: note what every way would need, for :meth:`copy`.

    Raises:
        ValueError: a way, a number or a model that does not fit; the message says what does.

    Example:
        >>> KeptCache(model, 64, "heavy").keeps
        64
    """

    def __init__(
        self,
        model: Any,
        k: int,
        way: str = "window",
        *,
        first: int | None = None,
        window: int | None = None,
        per: str = "head",
        positions: str = "text",
        indexer: Indexer | None = None,
        record: bool = False,
    ) -> None:
        config = model.config.get_text_config(decoder=True)
        kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
        if getattr(config, "sliding_window", None) is not None:
            kinds.add("sliding_attention")
        if kinds != {"full_attention"} or getattr(config, "is_encoder_decoder", False):
            raise ValueError(
                f"KeptCache takes a model that only writes and whose layers all read everything, as Llama; "
                f"{type(model).__name__} has {', '.join(sorted(kinds))}"
            )
        plan = _planned(Plan(way, k, per=per, turn=_speeds(model, positions), record=record), first, window)
        if way == "indexer":
            if indexer is None:
                raise ValueError('the way "indexer" needs indexer=..., which fit_indexer trains')
            indexer.check(model)
        if way == "indexer" or record:
            plan = replace(plan, indexer=indexer)
        switch(model)
        self.plan = plan
        super().__init__(layers=[KeptLayer(plan) for _ in range(config.num_hidden_layers)])

    @property
    def bytes(self) -> int:
        """What it holds: keys, values, and whatever its way needs beside them."""
        return sum(x.numel() * x.element_size() for layer in self.layers for x in layer.tensors().values())

    @property
    def keeps(self) -> int | None:
        """Entries a head at most; None where all are kept."""
        return None if self.plan.way in KEEPS_ALL else self.plan.k

    def kept(self) -> Tensor:
        """(layers, batch, key heads, tokens seen) bool: True where a token's entry is still there."""
        return torch.stack([layer.kept() for layer in self.layers])

    def copy(self, way: str, k: int, *, first: int | None = None, window: int | None = None) -> KeptCache:
        """A cache that goes on from here by another way, or with fewer entries.

        One reading of a text serves all ways so, if it was made with ``record=True`` and kept everything.

        Raises:
            ValueError: the other way needs what this cache has not noted.
        """
        indexer = self.plan.indexer if way == "indexer" else None
        plan = _planned(replace(self.plan, way=way, k=k, record=False, indexer=indexer), first, window)
        lacks = not set(plan.notes) <= set(self.plan.notes) or (way == "votes" and plan.window > VOTERS)
        if lacks or (way == "indexer" and indexer is None):
            raise ValueError(f"this cache did not note what {way!r} needs: make it with record=True")
        new = copy.copy(self)
        new.plan, new.layers = plan, [layer.copy(plan) for layer in self.layers]
        return new

    def __repr__(self) -> str:
        return f"KeptCache({self.plan.way}, k={self.plan.k}, {self.get_seq_length()} seen)"


def _planned(plan: Plan, first: int | None, window: int | None) -> Plan:
    """The plan with its defaults filled in, checked."""
    if plan.way not in WAYS:
        raise ValueError(f"way must be one of {', '.join(WAYS)}, got {plan.way!r}")
    if plan.per not in ("head", "layer"):
        raise ValueError(f'per must be "head" or "layer", got {plan.per!r}')
    if isinstance(plan.k, bool) or not isinstance(plan.k, int) or plan.k < 1:
        raise ValueError(f"k must be an int of at least 1, got {plan.k!r}")
    all_kept = plan.way in KEEPS_ALL
    if all_kept and plan.turn is not None:
        raise ValueError(f'positions="cache" is for ways that drop entries; {plan.way!r} keeps all')
    if first is None:
        first = 0 if all_kept else min(4, plan.k // 2)
    if window is None:
        window = {"heavy": plan.k // 2, "votes": min(32, plan.k // 4)}.get(plan.way, 0)
        window = min(window, plan.k - first)
    if plan.way == "votes":
        window = max(window, 1)  # somebody must vote
    if first < 0 or window < 0 or first + window > plan.k:
        raise ValueError(
            f"first and window must be 0 or more, and at most k = {plan.k} together, got {first} and {window}"
        )
    return replace(plan, first=first, window=window)


def _speeds(model: Any, positions: str) -> Tensor | None:
    """(d / 2,) by how much each pair of numbers turns from one position to the next."""
    if positions not in ("text", "cache"):
        raise ValueError(f'positions must be "text" or "cache", got {positions!r}')
    if positions == "text":
        return None
    speeds = getattr(getattr(model.base_model, "rotary_emb", None), "inv_freq", None)
    config = model.config.get_text_config(decoder=True)
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if speeds is None or 2 * len(speeds) != width:
        raise ValueError(
            f'positions="cache" turns keys as Llama does, and {type(model).__name__} does not turn them so: '
            'leave positions="text"'
        )
    return torch.as_tensor(speeds).detach()
