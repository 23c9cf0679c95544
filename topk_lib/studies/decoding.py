"""One language model continues real reviews by many rules: how it repeats itself, varies and surprises."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import TopKLogitsWarper

from topk_lib import records
from topk_lib.data import fingerprint, load_reviews, source_of
from topk_lib.decoding import (
    BigramDraft,
    EarlyExitDraft,
    LookupDraft,
    TopKFilter,
    TopKSampler,
    continuation_losses,
    contrastive_search,
    distinct,
    find_loop,
    repeated,
    self_bleu,
    speculate,
)
from topk_lib.decoding.speculative import Draft
from topk_lib.models import load_language_model
from topk_lib.studies.base import Made, Run, in_turns

__all__ = ["KS", "RULES", "runs"]

KS = (1, 2, 5, 10, 20, 50, 200)
RULES: dict[str, dict[str, Any]] = {
    **{f"k{k}": {"k": k} for k in KS},
    "all": {},
    **{f"p{p}": {"top_p": p} for p in (0.5, 0.8, 0.9, 0.95)},
    **{f"minp{p}": {"min_p": p} for p in (0.05, 0.1, 0.2)},
    **{f"t{t}": {"temperature": t} for t in (0.5, 0.7, 1.3)},
}
"""By name, what :class:`~topk_lib.decoding.TopKSampler` is given; temperature 1 where none is named."""

_SEEDS = range(3)
_PROMPTS, _EACH = 12, 4  # beginnings, and how many times each is continued
_READ, _WRITE = 32, 64  # tokens
_BEAMS = 4
_SPOKEN = 2  # beginnings that are continued one at a time
_EXITS = (10, 20, 25)  # of 30 layers
_COUNTED = 4000  # training reviews whose pairs of tokens are counted


def runs(*, gpu: bool) -> Iterator[Run]:
    """k from 1 to all first, then what else is known, then other rules."""

    def run(name: str, measure: Callable[..., Made], *given: Any) -> Iterator[Run]:
        for seed in _SEEDS:
            yield Run("decoding", f"{name}-s{seed}", partial(measure, *given, seed))

    for name in ("k1", "all", "k50", "k10", "k5", "k2", "k20", "k200", "p0.9"):
        yield from run(name, _sampled, name)
    yield from run("human", _human)
    yield from run("beam", _beam)
    yield from run("contrastive", _contrastive)
    yield from run("speculative-greedy", _speculative, 0.0)
    yield from run("speculative-sampled", _speculative, 1.0)
    for name in ("minp0.1", "t0.7", "p0.95", "minp0.05", "t1.3", "p0.8", "t0.5", "minp0.2", "p0.5"):
        yield from run(name, _sampled, name)
    yield from run("ties", _ties)
    yield Run("decoding", "self_bleu", _self_bleu)


@cache
def _model(dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    model, tokenizer = load_language_model(dtype=dtype)
    return model.to(records.device_kind()), tokenizer


class _Beginnings(NamedTuple):
    """(prompts, 32) tokens that are read, (prompts, 64) that their writers went on with, and where from."""

    ids: Tensor
    rest: Tensor
    data: dict[str, Any]


@cache
def _beginnings(seed: int) -> _Beginnings:
    reviews = load_reviews(split="test", n=8 * _PROMPTS, seed=seed, quiet=True)
    model, tokenizer = _model()
    ids = tokenizer(list(reviews["text"]), add_special_tokens=False, verbose=False)["input_ids"]
    long = [one[: _READ + _WRITE] for one in ids if len(one) >= _READ + _WRITE][:_PROMPTS]
    both = torch.tensor(long, device=model.device)
    found = {"source": source_of(reviews), "fingerprint": fingerprint(reviews), "n_eval": len(long)}
    return _Beginnings(both[:, :_READ], both[:, _READ:], found)


def _sampled(name: str, seed: int) -> Made:
    begun = _beginnings(seed)
    each = 1 if name == "k1" else _EACH  # greedy writes the same each time
    rows = torch.arange(len(begun.ids) * each, device=begun.ids.device)
    sampler = TopKSampler(_READ, **RULES[name], seed=1000 * seed + rows)
    start = time.perf_counter()
    texts = _generate(begun.ids.repeat_interleave(each, 0), logits_processor=[sampler])
    return _told(begun, texts, seed, time.perf_counter() - start, RULES[name])


def _beam(seed: int) -> Made:
    begun, start = _beginnings(seed), time.perf_counter()
    texts = _generate(begun.ids, num_beams=_BEAMS)
    return _told(begun, texts, seed, time.perf_counter() - start, {"num_beams": _BEAMS})


def _contrastive(seed: int) -> Made:
    begun, start = _beginnings(seed), time.perf_counter()
    texts = contrastive_search(_model()[0], begun.ids, _WRITE, k=4, alpha=0.6)
    return _told(begun, texts, seed, time.perf_counter() - start, {"k": 4, "alpha": 0.6})


def _human(seed: int) -> Made:
    begun = _beginnings(seed)
    return _told(begun, begun.rest, seed, 0.0, {}, keep=False)


def _generate(ids: Tensor, **options: Any) -> Tensor:
    """As many tokens for all: the end of a text is not written."""
    model, tokenizer = _model()
    out: Tensor = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, min_new_tokens=_WRITE,
        max_new_tokens=_WRITE, pad_token_id=tokenizer.eos_token_id, **options,
    )  # fmt: skip
    return out[:, ids.shape[1] :]


def _told(
    begun: _Beginnings, texts: Tensor, seed: int, seconds: float, rule: dict[str, Any], keep: bool = True
) -> Made:
    """Measure (prompts * each, 64) tokens; what is of one text a prompt counts as written each time."""
    model, tokenizer = _model()
    each = len(texts) // len(begun.ids)
    losses = continuation_losses(model, begun.ids.repeat_interleave(each, 0), texts)
    lists = texts.tolist()
    again = _EACH // each
    groups = [lists[at : at + each] * again for at in range(0, len(lists), each)]
    loops = [find_loop(text) for text in lists]
    metrics = {
        "perplexity": float(losses.double().mean().exp()),
        "loss_of_each_eighth": [float(part.double().mean()) for part in losses.chunk(8, 1)],
        "repeated_4": float(np.mean([repeated(text, 4) for text in lists])),
        "in_a_loop": float(np.mean([loop is not None for loop in loops])),
        "distinct_1": float(np.mean([distinct(group, 1) for group in groups])),
        "distinct_2": float(np.mean([distinct(group, 2) for group in groups])),
        "own_distinct_2": float(np.mean([distinct([text], 2) for text in lists])),
        "tokens_per_second": texts.numel() / seconds if seconds else None,
    }
    if keep:
        metrics["texts"] = [tokenizer.batch_decode(group) for group in groups]
    settings = {
        "seed": seed, "rule": rule, "prompt_tokens": begun.ids.shape[1], "new_tokens": _WRITE, "each": each,
        "dtype": "float32", "threads": torch.get_num_threads(),
    }  # fmt: skip
    return Made(metrics, settings, begun.data)


@cache
def _bigrams() -> BigramDraft:
    model, tokenizer = _model()
    train: Dataset = load_reviews(split="train", n=_COUNTED, quiet=True)
    ids = tokenizer(list(train["text"]), add_special_tokens=False, verbose=False)["input_ids"]
    return BigramDraft(ids, model.config.vocab_size)


def _speculative(temperature: float, seed: int) -> Made:
    """Every draft continues the same texts, one at a time, in turns with the model alone."""
    model, _ = _model()
    begun, types = _beginnings(seed), model.config.vocab_size
    rule = TopKFilter(temperature=temperature)
    drafts: dict[str, Draft] = {
        "none": lambda text, most, seed: ([], torch.zeros(0, types)),
        "lookup": LookupDraft(types),
        "bigram": _bigrams(),
        **{f"exit{layers}": EarlyExitDraft(model, layers, rule) for layers in _EXITS},
    }
    found: dict[str, dict[str, float]] = {
        name: {"drafted": 0, "accepted": 0, "passes": 0, "seconds": 0.0} for name in drafts
    }

    def write(name: str, at: int) -> None:
        told = speculate(model, drafts[name], begun.ids[at].tolist(), _WRITE, rule=rule, seed=seed)
        for key in ("drafted", "accepted", "passes"):
            found[name][key] += getattr(told, key)

    for at in range(min(_SPOKEN, len(begun.ids))):
        for name, seconds in in_turns({name: partial(write, name, at) for name in drafts}, 1).items():
            found[name]["seconds"] += seconds[0]
    tokens = min(_SPOKEN, len(begun.ids)) * _WRITE
    metrics: dict[str, Any] = {
        name: row
        | {
            "acceptance": row["accepted"] / row["drafted"] if row["drafted"] else None,
            "tokens_per_pass": tokens / row["passes"],
            "speed": found["none"]["seconds"] / row["seconds"],
        }
        for name, row in found.items()
    }
    settings = {
        "seed": seed, "temperature": temperature, "most": 4, "prompts": _SPOKEN, "new_tokens": _WRITE,
        "layers": model.config.num_hidden_layers, "counted_reviews": _COUNTED,
        "threads": torch.get_num_threads(),
    }  # fmt: skip
    return Made(metrics, settings, begun.data)


@torch.inference_mode()
def _ties(seed: int) -> Made:
    """How often equal logits stand at the edge of the choice, over the reviews' own tokens."""
    begun = _beginnings(seed)
    ids = torch.cat([begun.ids, begun.rest], 1)
    metrics = {}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        rows = _model(dtype)[0](ids).logits.flatten(0, 1).float()
        top = rows.topk(51).values
        kept = TopKLogitsWarper(50)(None, rows) > -torch.inf
        metrics[name] = {
            "first_tied": float((top[:, 0] == top[:, 1]).double().mean()),
            "edge_of_50_tied": float((top[:, 49] == top[:, 50]).double().mean()),
            "kept_of_50": float(kept.sum(-1).double().mean()),
        }
    return Made(metrics, {"seed": seed, "positions": int(ids.numel())}, begun.data)


def _self_bleu() -> Made:
    """Of the texts that the other runs wrote: four continuations of one beginning, against each other."""
    written = {name: one for name, one in records.load_all("decoding").items() if "texts" in one["metrics"]}
    if not written:
        raise ValueError("no run has written texts yet: make the other runs of this study first")
    found = {
        name: float(np.mean([self_bleu(group) for group in one["metrics"]["texts"]]))
        for name, one in written.items()
    }
    data = next(iter(written.values()))["data"]
    return Made({"self_bleu": found}, {"seeds": len(_SEEDS)}, data)
