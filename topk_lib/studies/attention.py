"""Which keys a language model's queries need: perplexity, a planted fact, time and bytes, by way and by k."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import DynamicCache

from topk_lib import hard_topk, records
from topk_lib.attention import Indexer, KeptCache, attention_layers
from topk_lib.data import fingerprint, load_reviews, source_of
from topk_lib.models import load_language_model
from topk_lib.studies.base import Made, Row, Rows, Run, in_turns
from topk_lib.training.indexer import fit_indexer

__all__ = ["COLOURS", "WAYS", "filled", "joined", "losses_by", "mass_held", "needle", "runs"]

WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "window": ("window", {}),
    "no-sinks": ("window", {"first": 0}),
    "moved": ("window", {"positions": "cache"}),
    "heavy": ("heavy", {}),
    "votes": ("votes", {}),
    "indexer": ("indexer", {}),
    "exact": ("exact", {}),
}
"""What a row is called, and the cache it stands for; "moved" has its keys turned side by side."""

COLOURS = ("red", "blue", "green", "yellow", "purple", "orange", "brown", "pink")
_FACT = " The secret colour of the projectionist is {}."
_QUESTION = "\n\nQuestion: What is the secret colour of the projectionist?\nAnswer:"
_STEM = " The secret colour of the projectionist is"
_ALL = 1 << 20
_SIZES = {1024: (4, (64, 128, 256)), 2048: (2, (128, 256, 512)), 4096: (1, (256, 512, 1024))}
_SEEDS = (0, 1, 2)


def runs(*, gpu: bool) -> Iterator[Run]:
    for seed in _SEEDS:
        yield Run("attention", f"indexer-s{seed}", partial(_indexer, seed))
    for seed in _SEEDS:
        yield Run("attention", f"needle-n1024-s{seed}", partial(_needles, 1024, seed))
    for n in (1024, 2048):
        for seed in _SEEDS:
            yield Run("attention", f"joined-n{n}-s{seed}", partial(_perplexity, "joined", n, seed))
    yield Run("attention", "speed", partial(_speed, (2048, 8192)))
    for kind, n in (("joined", 4096), ("long", 1024)):
        for seed in _SEEDS:
            yield Run("attention", f"{kind}-n{n}-s{seed}", partial(_perplexity, kind, n, seed))
    for seed in _SEEDS:
        yield Run("attention", f"needle-n2048-s{seed}", partial(_needles, 2048, seed))


@cache
def _model() -> tuple[Any, Any]:
    """In bfloat16: twice as fast here as float32, and half the bytes, as such models are used."""
    model, tokenizer = load_language_model(dtype=torch.bfloat16)
    return model.to(records.device_kind()).eval(), tokenizer


@cache
def _reviews(split: str) -> Dataset:
    return load_reviews(split=split, quiet=True)


def _of(reviews: Dataset) -> dict[str, Any]:
    return {"source": source_of(reviews), "n_eval": len(reviews), "eval_fingerprint": fingerprint(reviews)}


def joined(
    tokenizer: Any, reviews: Sequence[str], rows: int, n: int, seed: int, *, long: bool = False
) -> Tensor:
    """(rows, n) token ids of reviews drawn at random: one after another, or each from one long review."""
    order = np.random.default_rng(seed).permutation(len(reviews))
    out: list[list[int]] = []
    ids: list[int] = []
    for at in order:
        text = tokenizer(("" if long else "\n\n") + reviews[int(at)])["input_ids"]
        ids = text if long else ids + text
        if len(ids) >= n:
            out.append(ids[:n])
            ids = []
        if len(out) == rows:
            return torch.tensor(out)
    if not out:
        raise ValueError(f"no text here has {n} tokens: give longer reviews, or a smaller n")
    return torch.tensor(out)


# The indexer


@cache
def _trained(seed: int) -> Indexer:
    """The indexer of this seed, trained where it is missing."""
    path = Path("runs") / "attention" / f"indexer-s{seed}" / "indexer.safetensors"
    if not path.is_file():
        _train_indexer(seed, path)
    return Indexer.load(path).to(records.device_kind())


def _train_indexer(seed: int, path: Path, texts: int = 24, n: int = 512) -> list[float]:
    model, tokenizer = _model()
    ids = joined(tokenizer, list(_reviews("train")["text"]), texts, n, seed)
    indexer, losses = fit_indexer(model, ids.tolist(), seed=seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    indexer.save(path)
    return losses


def _indexer(seed: int, texts: int = 24, n: int = 512, ks: Sequence[int] = (16, 32, 64, 128)) -> Made:
    """Train an indexer; how much of attention falls on the k keys that each way finds, on test reviews."""
    model, tokenizer = _model()
    path = Path("runs") / "attention" / f"indexer-s{seed}" / "indexer.safetensors"
    losses = _train_indexer(seed, path, texts, n)
    indexer = _trained(seed)
    test = joined(tokenizer, list(_reviews("test")["text"]), 2, n, seed)
    rows = {str(k): mass_held(model, test, k, indexer) for k in ks}
    metrics = {
        "loss": losses, "mass": rows, "parameters": sum(p.numel() for p in indexer.parameters()),
    }  # fmt: skip
    settings = {"seed": seed, "texts": texts, "n": n, "ks": list(ks), **indexer.sizes}
    return Made(metrics, settings, _of(_reviews("test")))


@torch.no_grad()
def mass_held(model: Any, ids: Tensor, k: int, indexer: Indexer) -> dict[str, float]:
    """Of the attention of queries in the later half of texts (rows, n), the share that falls on k keys.

    Those that fit best, for each head ("exact") or for all heads of a layer together ("exact-layer"); those
    an indexer finds; the first 4 and the latest k - 4. The mean over queries, heads and layers.
    """
    half, found = ids.shape[1] // 2, dict[str, list[float]]()

    def look(module: Any, _: Any, kwargs: dict[str, Any], output: Any) -> None:
        weights = output[1].float()
        n = weights.shape[-1]
        seen = torch.ones(n, n, dtype=torch.bool, device=weights.device).tril()[half:]
        at = torch.arange(n, device=weights.device)
        recent = (at < 4) | (at > at[half:, None] - (k - 4))
        scores = indexer(module.layer_idx, kwargs["hidden_states"], kwargs["position_embeddings"]).scores()
        late = weights[:, :, half:]
        for name, ranks in (
            ("exact", late), ("exact-layer", late.mean(1, keepdim=True)), ("indexer", scores[:, None, half:]),
            ("window", recent.float().expand(len(ids), 1, -1, -1)),
        ):  # fmt: skip
            mask = hard_topk(ranks, k, valid=seen.expand(ranks.shape)).mask
            found.setdefault(name, []).append(float((late * mask).sum(-1).mean()))

    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    hooks = [layer.register_forward_hook(look, with_kwargs=True) for layer in attention_layers(model)]
    try:
        model.base_model(ids.to(model.device), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
        model.set_attn_implementation(before)
    return {name: float(np.mean(each)) for name, each in found.items()}


# Perplexity


def _cache(name: str, k: int, seed: int) -> KeptCache:
    way, settings = WAYS[name]
    indexer = _trained(seed) if way == "indexer" else None
    return KeptCache(_model()[0], k, way, indexer=indexer, **settings)


@torch.inference_mode()
def losses_by(model: Any, ids: Tensor, cache: Any, piece: int) -> Tensor:
    """(rows, n - 1) float32: minus the log probability of each token but the first, read in pieces."""
    out, ids = [], ids.to(model.device)
    targets = torch.cat([ids[:, 1:], ids[:, :1]], 1)
    for start in range(0, ids.shape[1], piece):
        part = slice(start, start + piece)
        logits = model(ids[:, part], past_key_values=cache).logits
        out.append(-logits.float().log_softmax(-1).gather(-1, targets[:, part, None])[..., 0])
    return torch.cat(out, 1)[:, :-1].cpu()


def _perplexity(kind: str, n: int, seed: int, ways: Sequence[str] = tuple(WAYS)) -> Made:
    """Read texts a quarter of k at a time, so that a query reads k entries at most, and 3/4 of k at least."""
    model, tokenizer = _model()
    texts, ks = _SIZES[n]
    ids = joined(tokenizer, list(_reviews("test")["text"]), texts, n, seed, long=kind == "long")
    settings = {
        "seed": seed, "kind": kind, "n": n, "texts": len(ids), "ks": list(ks), "dtype": "bfloat16",
        "indexer": f"indexer-s{seed}",
    }  # fmt: skip
    data = _of(_reviews("test"))
    rows = Rows(Path("runs") / "attention" / f"{kind}-n{n}-s{seed}" / "rows.json", settings | data)

    def read(cache: Callable[[], Any], piece: int) -> Row:
        held = cache()
        losses = losses_by(model, ids, held, piece)
        row: Row = {"loss": float(losses.mean()), "late": float(losses[:, n // 2 :].mean())}
        row |= {"by_text": losses.mean(-1).tolist(), "late_by_text": losses[:, n // 2 :].mean(-1).tolist()}
        return row | ({"bytes": held.bytes // len(ids)} if isinstance(held, KeptCache) else {})

    full = rows.measure("full", partial(read, partial(KeptCache, model, _ALL, "exact"), 256))
    for k in ks:
        for name in ways:
            row = rows.measure(f"{name}-{k}", partial(read, partial(_cache, name, k, seed), k // 4))
            print(f"{name}-{k}: {math.exp(row['late']):.1f}, full {math.exp(full['late']):.1f}", flush=True)
    return Made({"rows": rows.found}, settings, data)


# A fact planted in reviews


def _needles(n: int, seed: int, items: int = 16, ks: Sequence[int] = (64, 128, 256)) -> Made:
    """Plant a fact in joined reviews and ask for it, after the text was cut to k entries, or before."""
    model, tokenizer = _model()
    data = _of(_reviews("test"))
    settings = {
        "seed": seed, "n": n, "items": items, "ks": list(ks), "colours": list(COLOURS), "fact": _FACT,
        "question": _QUESTION, "stem": _STEM, "indexer": f"indexer-s{seed}", "dtype": "bfloat16",
    }  # fmt: skip
    rows = Rows(Path("runs") / "attention" / f"needle-n{n}-s{seed}" / "rows.json", settings | data)
    texts = joined(tokenizer, list(_reviews("test")["text"]), items, n, seed)
    dice = np.random.default_rng(seed)
    plan = [(i, int(dice.integers(len(COLOURS))), float(dice.uniform(0.05, 0.85))) for i in range(len(texts))]
    for i, colour, depth in plan:
        rows.measure(str(i), partial(needle, model, tokenizer, texts[i], colour, depth, ks, _trained(seed)))
    metrics: dict[str, Any] = {}
    for name in next(iter(rows.found.values()))["right"]:
        right = [row["right"][name] for row in rows.found.values()]
        held = [row["held"][name] for row in rows.found.values()]
        metrics[name] = {"accuracy": float(np.mean(right)), "right": right, "held": float(np.mean(held))}
    return Made({"rows": metrics, "items": len(rows.found)}, settings, data)


@torch.inference_mode()
def needle(
    model: Any,
    tokenizer: Any,
    text: Tensor,
    colour: int,
    depth: float,
    ks: Sequence[int],
    indexer: Indexer | None = None,
) -> Row:
    """One text (n,) with one fact, read once; every way (an indexer's where there is one) goes on from there.

    Returns:
        ``right``: for "full" and for "told-votes-64" and so on (the question comes after the cut) and
        "asked-votes-64" (before the cut), whether the planted colour is the most probable of the eight;
        ``held``: the share of heads in which the colour itself is still kept.
    """

    def ids_of(said: str) -> Tensor:
        return torch.tensor([tokenizer(said)["input_ids"]], device=model.device)

    words = [ids_of(f" {one}")[0] for one in COLOURS]
    if max(map(len, words)) > 1:
        raise ValueError(
            f"each of {', '.join(COLOURS)} must be one token, and they are not in this vocabulary"
        )
    named = torch.cat(words)
    fact, question, stem = ids_of(_FACT.format(COLOURS[colour])), ids_of(_QUESTION), ids_of(_STEM)
    at = int(depth * len(text))
    whole = text.to(model.device)[None]
    whole = torch.cat([whole[:, :at], fact, whole[:, at : len(text) - fact.shape[1]]], 1)
    planted = at + int((fact[0] == named[colour]).nonzero()[0])
    read = KeptCache(model, _ALL, "exact", indexer=indexer, record=True)
    model(whole, past_key_values=read, logits_to_keep=1)
    right, held = dict[str, bool](), dict[str, float]()

    def ask(name: str, cache: KeptCache, said: Tensor, piece: int) -> None:
        held[name] = float(cache.kept()[..., planted].float().mean())
        for part in torch.split(said, piece, 1):
            logits = model(part, past_key_values=cache, logits_to_keep=1).logits
        right[name] = int(logits[0, -1, named].argmax()) == colour

    def ask_all(when: str, said: Tensor) -> None:
        for k in ks:
            for name, (way, more) in WAYS.items():
                if "positions" not in more and (indexer is not None or way != "indexer"):
                    ask(f"{when}-{name}-{k}", read.copy(way, k, **more), said, k // 4)

    ask_all("told", torch.cat([question, stem], 1))
    model(question, past_key_values=read, logits_to_keep=1)
    ask_all("asked", stem)
    ask("full", read, stem, stem.shape[1])
    return {"right": right, "held": held, "depth": depth, "colour": COLOURS[colour]}


# Time and bytes


def filled(model: Any, n: int, batch: int, indexer: Indexer) -> KeptCache:
    """A cache of n tokens of noise, as if they had been read: time does not depend on what they say."""
    config = model.config.get_text_config(decoder=True)
    heads, shared = config.num_attention_heads, config.num_key_value_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    torch.manual_seed(0)
    noise = partial(torch.randn, dtype=model.dtype, device=model.device)
    cache = KeptCache(model, _ALL, "exact", indexer=indexer, record=True)
    for layer in cache.layers:
        layer.update(noise(batch, shared, n, width), noise(batch, shared, n, width))
        layer.unread, layer.scale = 0, width**-0.5
        layer.received = noise(batch, shared, n).float()
        layer.asked = noise(batch, heads, 32, width)
        layer.index_keys = noise(batch, n, indexer.sizes["head_width"]).float()
    return cache


@torch.inference_mode()
def _speed(lengths: Sequence[int], k: int = 512, steps: int = 8, rounds: int = 5) -> Made:
    """The seconds of a token, one text at a time and four, after contexts of so many tokens."""
    (model, _), rows = _model(), dict[str, Any]()
    indexer = Indexer.of(model).to(model.device)
    for n in lengths:
        for batch in (1, 4):
            whole, own = filled(model, n, batch, indexer), DynamicCache(config=model.config)
            for i, layer in enumerate(whole.layers):
                own.update(layer.keys, layer.values, i)
            caches: dict[str, Any] = {"full": own}
            caches |= {way: whole.copy(way, k) for way in ("window", "heavy", "votes", "exact", "indexer")}
            token = torch.ones(batch, 1, dtype=torch.int64, device=model.device)

            def write(cache: Any, token: Tensor = token) -> None:
                for _ in range(steps):
                    model(token, past_key_values=cache)

            for held in caches.values():
                write(held)
            seconds = in_turns({name: partial(write, held) for name, held in caches.items()}, rounds)
            full = sum(x.numel() * x.element_size() for one in own.layers for x in (one.keys, one.values))
            for name, took in seconds.items():
                rows[f"{name}-n{n}-b{batch}"] = {
                    "seconds": float(np.median(took)) / steps, "fastest": min(took) / steps,
                    "slowest": max(took) / steps,
                    "bytes": full if name == "full" else caches[name].bytes,
                }  # fmt: skip
    settings = {"seed": 0, "k": k, "lengths": list(lengths), "steps": steps, "dtype": "bfloat16"}
    return Made({"rows": rows}, settings, {"source": "noise"})
