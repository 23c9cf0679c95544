"""One layer of a cache that keeps k entries a head: what it notes, drops and reads."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from topk_lib.attention.chosen import ENTRIES, dots, shares, topk_attention, visible_keys
from topk_lib.attention.indexer import Indexer, Indices
from topk_lib.ops import hard_topk

__all__ = ["KEEPS_ALL", "VOTERS", "WAYS", "KeptLayer", "Plan"]

WAYS = ("window", "heavy", "votes", "exact", "indexer")
KEEPS_ALL = ("exact", "indexer")
VOTERS = 32
"""So many of the latest queries are noted at most where every way's needs are."""

_NOTES = {"heavy": ("received",), "votes": ("asked",)}
_SMOOTH = 5
"""Votes are means over so many neighbours, so that what is kept hangs together."""


@dataclass(frozen=True)
class Plan:
    """What a cache does in each of its layers: see :class:`~topk_lib.attention.KeptCache`."""

    way: str
    k: int
    first: int = 0
    window: int = 0
    per: str = "head"
    turn: Tensor | None = None
    indexer: Indexer | None = None
    record: bool = False

    @property
    def notes(self) -> tuple[str, ...]:
        """What is noted of each entry, or of the latest queries."""
        return ("received", "asked") if self.record else _NOTES.get(self.way, ())


class KeptLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values (batch, key heads, m, d) of the entries kept, and beside them

    - ``places`` (batch, key heads, m) int64: where in the text each stood, -1 in spare slots;
    - ``real`` (batch, tokens seen) bool, False at padding, or None where there was none;
    - ``received`` (batch, key heads, m) float32: the attention each got so far, in "heavy";
    - ``asked`` (batch, heads, up to window, d): the latest queries, in "votes";
    - ``index_keys`` (batch, m, width): what an indexer knows the entries by.
    """

    is_croppable = False

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        self._clear()

    def _clear(self) -> None:
        self.seen, self.unread, self.scale = 0, 0, 1.0
        self.places: Tensor | None = None
        self.real: Tensor | None = None
        self.received: Tensor | None = None
        self.asked: Tensor | None = None
        self.index_keys: Tensor | None = None

    @property
    def indexer(self) -> Indexer | None:
        return self.plan.indexer

    def tensors(self) -> dict[str, Tensor]:
        """What it holds."""
        names = ("keys", "values", "places", "real", "received", "asked", "index_keys")
        return {name: held for name in names if (held := getattr(self, name)) is not None}

    # What transformers asks of a layer

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Take new entries in; gives all keys and values that may be read now."""
        batch, heads, new, _ = key_states.shape
        if self.unread:
            raise ValueError(
                f"attention did not read from this cache: set the model's attention to ours again, by making "
                f"the cache after any set_attn_implementation ({self.unread} tokens are unread)"
            )
        if self.plan.way not in KEEPS_ALL and new < self.plan.k:
            self.cut(self.plan.k - new)
        super().update(key_states, value_states)
        places = torch.arange(self.seen, self.seen + new, device=key_states.device).expand(batch, heads, -1)
        self.places = places if self.places is None else torch.cat([self.places, places], -1)
        if "received" in self.plan.notes:
            none = torch.zeros(batch, heads, new, device=key_states.device)
            self.received = none if self.received is None else torch.cat([self.received, none], -1)
        self.seen += new
        self.unread = new
        return self._side_by_side() if self.plan.turn is not None else self.keys, self.values

    def get_seq_length(self) -> int:
        """Tokens seen, kept or not, so that positions count on."""
        return self.seen

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """As if all were kept: :meth:`read` takes the columns of those that are."""
        return self.seen + query_length, 0

    def reset(self) -> None:
        super().reset()
        self._clear()

    def crop(self, tokens_to_remove: int) -> None:
        raise ValueError(
            "a cache that drops entries cannot take tokens back, which assisted decoding does: "
            "give generate no assistant model, or its own cache"
        )

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        for name, held in self.tensors().items():
            setattr(self, name, held[indices.to(held.device)])

    def batch_repeat_interleave(self, repeats: int) -> None:
        for name, held in self.tensors().items():
            setattr(self, name, held.repeat_interleave(repeats, dim=0))

    # Reading

    def read(
        self, query: Tensor, key: Tensor, value: Tensor, *, seen: Tensor | None, causal: bool, scale: float,
        indices: Indices | None,
    ) -> Tensor:  # fmt: skip
        """What the new queries read of the entries, who is noted for it, and who must go afterwards."""
        plan, q, m = self.plan, query.shape[2], key.shape[2]
        real = None if seen is None else seen[:, 0, -1].expand(len(query), -1)
        self.real = None if real is None or bool(real.all()) else real
        # From the start of the text on, with nothing dropped and no padding, no mask is needed.
        plain = seen is None and q == self.seen
        may = None if plain else self._may_read(q, seen, query.shape[1] // key.shape[1])
        self.scale, scores = scale, None
        if indices is not None:
            old = self.index_keys
            self.index_keys = indices.keys if old is None else torch.cat([old, indices.keys], 1)
            if plan.way == "indexer":
                scores = indices._replace(keys=self.index_keys).scores()[:, None]
        if "received" in plan.notes:
            out, received = _weighed(query, key, value, plain, may, scale)
            self.received = received if self.received is None else self.received + received
        if plan.way in KEEPS_ALL or "received" not in plan.notes:
            k, first, window = (plan.k, plan.first, plan.window) if plan.way in KEEPS_ALL else (m, 0, 0)
            out = topk_attention(
                query, key, value, k, causal=plain, valid=may, first=first, window=window, scale=scale,
                scores=scores,
            )  # fmt: skip
        if "asked" in plan.notes:
            latest = query if self.asked is None else torch.cat([self.asked, query], 2)
            self.asked = latest[:, :, -(VOTERS if plan.record else plan.window) :]
        self.unread = 0
        if plan.way not in KEEPS_ALL:
            self.cut(plan.k)
        return out

    def _may_read(self, q: int, seen: Tensor | None, group: int) -> Tensor | None:
        """(batch or 1, heads or 1, q, m) bool: which entries each new query may read; None: all."""
        assert self.places is not None
        if seen is None:
            if q == 1:
                return None
            at = torch.arange(self.seen - q, self.seen, device=self.places.device)
            may = self.places[:, :, None] <= at[:, None]
        elif self.places.shape[-1] == self.seen and bool((self.places[0, 0] >= 0).all()):
            return seen  # nothing was dropped: the columns are the entries
        else:
            columns = self.places.clamp(min=0)[:, :, None].expand(-1, -1, q, -1)
            may = seen.expand(*columns.shape[:3], -1).gather(-1, columns) & (self.places >= 0)[:, :, None]
        return may.repeat_interleave(group, 1) if may.shape[1] > 1 else may

    def _side_by_side(self) -> Tensor:
        """The keys, each turned on as if no entry between it and the last were missing."""
        assert self.places is not None
        assert self.plan.turn is not None
        held = (self.places >= 0).long()
        after = held.sum(-1, keepdim=True) - held.cumsum(-1)
        missing = self.seen - 1 - self.places - after
        angle = missing[..., None].float() * self.plan.turn.to(self.keys.device, torch.float32)
        a, b = self.keys.float().chunk(2, -1)
        cos, sin = angle.cos(), angle.sin()
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(self.keys.dtype)

    # Dropping

    def cut(self, limit: int) -> None:
        """Drop all entries but ``limit`` a head: those pinned, and then those ranked highest."""
        if self.places is None or self.places.shape[-1] <= limit:
            return
        batch, heads, m = self.places.shape
        valid, from_start = self.places >= 0, self.places
        if self.real is not None:
            at = self.places.clamp(min=0)
            real = self.real[:, None].expand(-1, heads, -1)
            valid = valid & real.gather(-1, at)
            from_start = real.long().cumsum(-1).gather(-1, at) - 1
        first = min(self.plan.first, limit)
        pinned = (from_start < first) | (self.places >= self.seen - min(self.plan.window, limit - first))
        ranks = self._ranks(valid)
        if self.plan.per == "layer":
            ranks = ranks.mean(1, keepdim=True).expand(-1, heads, -1)
        chosen = hard_topk(ranks.masked_fill(pinned, math.inf), limit, valid=valid).indices
        where = chosen.clamp(min=0)
        self.places = self.places.gather(-1, where).masked_fill(chosen < 0, -1)
        rows = torch.arange(batch * heads, device=chosen.device).reshape(batch, heads, 1) * m + where
        for name in ("keys", "values"):
            held = getattr(self, name)
            flat = held.reshape(-1, held.shape[-1]).index_select(0, rows.flatten())
            setattr(self, name, flat.reshape(batch, heads, limit, -1))
        if self.received is not None:
            self.received = self.received.gather(-1, where)

    def _ranks(self, valid: Tensor) -> Tensor:
        """(batch, key heads, m) float32: what each entry's place in the cache is worth."""
        assert self.places is not None
        if self.plan.way == "heavy":
            assert self.received is not None
            return self.received
        if self.plan.way == "votes":
            return self._votes(valid)
        return self.places.float()

    def _votes(self, valid: Tensor) -> Tensor:
        """How much the latest queries read of each entry, now; smoothed over neighbours."""
        assert self.places is not None
        assert self.asked is not None
        asked = self.asked[:, :, -self.plan.window :]
        w, group = asked.shape[2], asked.shape[1] // self.keys.shape[1]
        at = torch.arange(self.seen - w, self.seen, device=asked.device)
        may = valid[:, :, None] & (self.places[:, :, None] <= at[:, None])
        if self.real is not None:
            may = may & self.real[:, None, at, None]  # padding has no vote
        keys = self.keys if self.plan.turn is None else self._side_by_side()
        fits = dots(asked, keys) * self.scale
        votes = shares(fits, may.repeat_interleave(group, 1))
        votes = votes.reshape(len(votes), -1, group, w, votes.shape[-1]).sum((2, 3))
        return F.avg_pool1d(votes, _SMOOTH, 1, _SMOOTH // 2)

    def kept(self) -> Tensor:
        """(batch, key heads, tokens seen) bool."""
        assert self.places is not None
        where = self.places.where(self.places >= 0, self.seen)
        out = torch.zeros(*where.shape[:2], self.seen + 1, dtype=torch.bool, device=where.device)
        out = out.scatter_(-1, where, True)[..., : self.seen]
        return out if self.real is None else out & self.real[:, None]

    def copy(self, plan: Plan) -> KeptLayer:
        """One that holds the same and goes on by another plan."""
        new = copy.copy(self)
        new.plan = plan
        for name in ("received", "asked"):
            if name not in plan.notes:
                setattr(new, name, None)
        if new.asked is not None:
            new.asked = new.asked[:, :, -plan.window :]
        if plan.way != "indexer":
            new.index_keys = None
        if plan.way not in KEEPS_ALL:
            new.cut(plan.k)
        return new


def _weighed(
    query: Tensor, key: Tensor, value: Tensor, causal: bool, may: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """Attention, and what each key received in it: (batch, key heads, m) float32."""
    batch, heads, q, _ = query.shape
    shared, m = key.shape[1:3]
    step = max(1, ENTRIES // (batch * heads * m))
    out, received = [], torch.zeros(batch, shared, m, device=key.device)
    for start in range(0, q, step):
        part = slice(start, min(start + step, q))
        fits = dots(query[:, :, part], key) * scale
        weights = shares(fits, visible_keys(q, m, causal, may, key.device, part))
        together = weights.reshape(batch, shared, -1, m)
        received += together.detach().float().sum(2)
        out.append((together.to(value.dtype) @ value).reshape(batch, heads, -1, value.shape[-1]))
    return torch.cat(out, 2), received
