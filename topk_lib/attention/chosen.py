"""Attention in which each query reads the k keys that fit it best."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from topk_lib.ops import hard_topk

__all__ = ["ENTRIES", "dots", "shares", "topk_attention", "visible_keys"]

ENTRIES = 1 << 24
"""So many numbers at most are held at a time for a chunk of the queries."""


def topk_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    k: int,
    *,
    causal: bool = False,
    valid: Tensor | None = None,
    first: int = 0,
    window: int = 0,
    scores: Tensor | None = None,
    scale: float | None = None,
    chunk: int | None = None,
) -> Tensor:
    """Let each query read the k keys with the highest scores among those that it may see.

    The rest of the attention is computed on these k keys and values, which are gathered; the others take
    no part in it, and get no gradient. Ties go to the earlier key. With as many keys as there are it is full
    attention.

    Args:
        query: (batch, heads, q, d), of any float dtype; the softmax is taken in float32 at least.
        key: (batch, key heads, n, d); heads is a multiple of the key heads, and as many neighbouring heads
            share one.
        value: (batch, key heads, n, any width).
        k: at least 1; a query that may see fewer keys reads them all.
        causal: the queries are the last q of the n positions, and none reads what stands after it.
        valid: bool, True for keys that may be read: (batch, n), or broadcastable to (batch, heads, q, n).
        first: of the keys it may see, the earliest so many are among each query's k.
        window: and the latest so many.
        scores: (batch, heads or 1, q, n) by which the other keys are chosen; None: by attention's own, the
            dot products.
        scale: of the dot products; None: 1 / sqrt(d).
        chunk: so many queries are computed at a time; None: as many as bounded memory allows.

    Returns:
        (batch, heads, q, width of a value) of the queries' dtype; 0 where a query may see no key.

    Raises:
        TypeError: ``k``, ``first`` or ``window`` is no integer, ``valid`` not bool.
        ValueError: shapes that do not fit, ``k`` below 1, more keys pinned than chosen.

    Example:
        >>> q, k = torch.tensor([[[[1.0]]]]), torch.tensor([[[[0.5], [2.0], [1.0]]]])
        >>> topk_attention(q, k, k, 1)
        tensor([[[[2.]]]])
    """
    _check(query, key, value, k, first, window, scores)
    batch, heads, q, d = query.shape
    n = key.shape[-2]
    if valid is not None:
        valid = _four(valid, batch, n)
    scale = d**-0.5 if scale is None else scale
    if k >= n:
        return _full(query, key, value, causal, valid, scale)
    if chunk is None:
        chunk = max(1, ENTRIES // max(1, batch * heads * max(n, k * (d + value.shape[-1]))))
    out = []
    for start in range(0, q, chunk):
        part = slice(start, min(start + chunk, q))
        seen = visible_keys(q, n, causal, valid, query.device, part)
        asked = query[:, :, part]
        ranks = dots(asked.detach(), key.detach()) if scores is None else scores[:, :, part].detach()
        out.append(_read(asked, key, value, _choose(ranks, seen, k, first, window), scale))
    return torch.cat(out, dim=2) if out else query.new_empty(batch, heads, 0, value.shape[-1])


def visible_keys(
    q: int, n: int, causal: bool, valid: Tensor | None, device: torch.device, part: slice = slice(None)
) -> Tensor:
    """Which of n keys each of the last q positions may see, of these a part: bool, (..., part, n)."""
    seen = torch.ones(1, 1, q, n, dtype=torch.bool, device=device)[:, :, part]
    if causal:
        places = torch.arange(n, device=device)
        seen = places <= torch.arange(n - q, n, device=device)[part, None]
        seen = seen[None, None]
    if valid is not None:
        seen = seen & (valid if valid.shape[2] == 1 else valid[:, :, part])
    return seen


def dots(query: Tensor, key: Tensor) -> Tensor:
    """(batch, heads, q, n): each query's dot products with the keys of its head, none of them repeated.

    In float32 at least, since float16 ends at 65,504.
    """
    batch, heads, q, d = query.shape
    query, key = _wide(query), _wide(key)
    by_key = query.reshape(batch, key.shape[1], heads // key.shape[1] * q, d) @ key.mT
    return by_key.reshape(batch, heads, q, key.shape[-2])


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _choose(ranks: Tensor, seen: Tensor, k: int, first: int, window: int) -> Tensor:
    """(batch, heads or 1, q, k) int64: the chosen keys in the order of the text, -1 in spare slots."""
    if first or window:
        count = seen.cumsum(-1)
        pinned = seen & ((count <= first) | (count > count[..., -1:] - window))
        ranks = ranks.masked_fill(pinned, math.inf)
    ranks, seen = torch.broadcast_tensors(ranks, seen)  # type: ignore[no-untyped-call]
    return hard_topk(ranks, k, valid=seen).indices


def _read(query: Tensor, key: Tensor, value: Tensor, chosen: Tensor, scale: float) -> Tensor:
    """Attention on gathered keys: (batch, heads, q, width)."""
    batch, heads, q = query.shape[:3]
    shared, n = key.shape[1:3]
    chosen = chosen.expand(batch, heads, q, -1)
    # The keys of all texts and heads in one list, so that whole rows are copied.
    row = torch.arange(batch * shared, device=key.device).reshape(batch, shared, 1) * n
    each = heads // shared * q * chosen.shape[-1]
    rows = (row + chosen.clamp(min=0).reshape(batch, shared, each)).flatten()
    keys, values = (
        x.flatten(0, 2).index_select(0, rows).reshape(*chosen.shape, x.shape[-1]) for x in (key, value)
    )
    fits = (_wide(keys) @ _wide(query)[..., None]).squeeze(-1) * scale
    weights = shares(fits, chosen >= 0).to(value.dtype)
    return (weights[..., None, :] @ values).squeeze(-2)


def shares(fits: Tensor, seen: Tensor) -> Tensor:
    """Softmax over what is seen, in float32 at least; all 0 where nothing is."""
    wide = fits.to(torch.promote_types(fits.dtype, torch.float32))
    return wide.masked_fill(~seen, -math.inf).softmax(-1).masked_fill(~seen, 0)


def _full(
    query: Tensor, key: Tensor, value: Tensor, causal: bool, valid: Tensor | None, scale: float
) -> Tensor:
    q, n = query.shape[-2], key.shape[-2]
    lower = causal and valid is None and q == n
    mask = (
        None if lower or (not causal and valid is None) else visible_keys(q, n, causal, valid, query.device)
    )
    out = F.scaled_dot_product_attention(
        query, key, value, mask, is_causal=lower, scale=scale, enable_gqa=query.shape[1] != key.shape[1]
    )
    return out if mask is None else out.masked_fill(~mask.any(-1, keepdim=True), 0)


def _four(valid: Tensor, batch: int, n: int) -> Tensor:
    if valid.dtype != torch.bool:
        raise TypeError(f"valid must be bool, True for keys that may be read, got {valid.dtype}")
    if valid.shape == (batch, n):
        return valid[:, None, None]
    if valid.dim() != 4 or valid.shape[-1] != n:
        raise ValueError(
            f"valid must be (batch, n) = ({batch}, {n}) or (batch, heads, q, n), got {tuple(valid.shape)}"
        )
    return valid


def _check(
    query: Tensor, key: Tensor, value: Tensor, k: int, first: int, window: int, scores: Tensor | None
) -> None:
    for name, number, least in (("k", k, 1), ("first", first, 0), ("window", window, 0)):
        if isinstance(number, bool) or not isinstance(number, int):
            raise TypeError(f"{name} must be an int, got {type(number).__name__}")
        if number < least:
            raise ValueError(f"{name} must be at least {least}, got {number}")
    if first + window > k:
        raise ValueError(f"first + window must be at most k = {k}, got {first} + {window}")
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if tensor.dim() != 4:
            raise ValueError(f"{name} must be (batch, heads, tokens, width), got {tuple(tensor.shape)}")
    if key.shape[:3] != value.shape[:3]:
        raise ValueError(
            f"a key and a value belong together: {tuple(key.shape[:3])} keys, {tuple(value.shape[:3])} values"
        )
    if query.shape[0] != key.shape[0] or query.shape[-1] != key.shape[-1] or query.shape[1] % key.shape[1]:
        raise ValueError(
            f"queries {tuple(query.shape)} do not fit keys {tuple(key.shape)}: batch and width must be "
            "equal, and the heads a multiple of the key heads"
        )
    if scores is not None:
        batch, heads, q, _ = query.shape
        most = (batch, heads, q, key.shape[-2])
        if scores.shape not in (most, (batch, 1, q, key.shape[-2])):
            raise ValueError(f"scores must be {most}, or with 1 head, got {tuple(scores.shape)}")
