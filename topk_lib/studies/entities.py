"""Names in posts: whole taggers, taggers whose tokens leave early, and shallow ones that cost as much.

Every tagger is a whole one that reads some posts once more: with all its layers, with the upper ones taken
off, or with tokens that leave after the second of six layers. There a share k of the tokens costs 2 + 4 k
layers a token, as much as 5, 4 or 3 layers for every token at k = 3/4, 1/2 and 1/4.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from topk_lib import records
from topk_lib.data import load_set, source_of
from topk_lib.studies.base import Made, Run, check_public, in_turns, rate
from topk_lib.tasks.entities import (
    Posts,
    entity_scores,
    flops,
    forms,
    lexicon_tags,
    linear_tags,
    load_tagger,
    names_kept,
    read_posts,
    shorten,
    tag,
    tag_names,
    tagged,
    train_tagger,
)
from topk_lib.tasks.leaving import Leaving

__all__ = ["AFTER", "DEPTHS", "EXPERIMENT", "RATES", "RULES", "SEEDS", "SHARES", "chosen_rate", "runs"]

EXPERIMENT = "entities"
SEEDS = range(3)
RULES = ("doubt", "capital", "attention", "random")
SHARES = {"all": 1.0, "3/4": 0.75, "1/2": 0.5, "1/4": 0.25}
AFTER = 1
"""The layer, counted from 0, after which tokens leave."""
DEPTHS = {"all": 6, "3/4": 5, "1/2": 4, "1/4": 3}
"""Layers for all tokens that cost what a share costs."""
RATES = (5e-5, 1.5e-4, 5e-4)
"""Learning rates to choose from, on the dev posts."""

_EPOCHS = 2
_MORE = 2000  # training posts that are read once more, the same for all
_BATCH = 16
_FIT = 700  # training posts of the choice of a rate
_TIMED = 200  # test posts that are timed
_STRENGTHS = (1.0, 3.0, 10.0, 30.0)  # of the linear tagger


def runs(*, gpu: bool) -> Iterator[Run]:
    """A rate, chosen on dev posts; seed by seed the whole, who stays, fewer layers for all; then costs."""

    def run(name: str, call: Callable[..., Made], *given: Any) -> Run:
        return Run(EXPERIMENT, name, partial(call, *given))

    yield run("dev", _dev)
    yield run("plain", _plain)
    yield run("cost", _cost)
    for seed in SEEDS:
        yield run(f"whole-s{seed}", _whole, seed)
        for layers in (6, 4):
            yield run(f"layers{layers}-s{seed}", _shallow, layers, seed)
        for rule in RULES:
            yield run(f"{rule}-s{seed}", _left, rule, seed)
    for seed in SEEDS:
        for layers in (3, 5):
            yield run(f"layers{layers}-s{seed}", _shallow, layers, seed)


@cache
def _read(split: str) -> tuple[Posts, list[str], dict[str, Any]]:
    """Posts, the names of their tags, and what a record says of them."""
    data = load_set("wnut_17", split=split, quiet=True)
    check_public(source_of(data))
    names = tag_names(data)
    posts = read_posts(data, load_tagger(names)[1])
    told = json.dumps([posts.words, posts.tags]).encode()
    return posts, names, {"source": source_of(data), "fingerprint": hashlib.sha256(told).hexdigest()[:16]}


@cache
def _seen() -> set[str]:
    train = _read("train")[0]
    return forms(train.words, train.tags)


def _data(split: str, train: Posts | None = None) -> dict[str, Any]:
    posts, _, told = _read(split)
    learned, _, of_train = _read("train")
    return {
        "source": told["source"], "split": split, "n_train": len(learned if train is None else train),
        "n_eval": len(posts), "pieces": sum(map(len, posts.ids)),
        "train_fingerprint": of_train["fingerprint"], "eval_fingerprint": told["fingerprint"],
    }  # fmt: skip


def _some(count: int, split: str = "train") -> Posts:
    """So many posts, drawn, always the same."""
    posts = _read(split)[0]
    return posts.take(random.Random(0).sample(range(len(posts)), min(count, len(posts))))


def chosen_rate() -> float:
    """The learning rate that was best on the dev posts.

    Raises:
        ValueError: that was not measured yet.
    """
    try:
        return float(records.load(EXPERIMENT, "dev")["metrics"]["best"])
    except FileNotFoundError:
        raise ValueError(
            "the learning rate is chosen on dev posts first: make that with topk-lib study entities "
            "--only entities/dev"
        ) from None


def _new(seed: int, folder: Path | None = None) -> tuple[Any, Any]:
    model, tokenizer = load_tagger(_read("train")[1], folder, seed=seed)
    return model.to(records.device_kind()), tokenizer


def _scores(said: list[list[str]], split: str = "test") -> dict[str, Any]:
    posts = _read(split)[0]
    return entity_scores(posts.words, posts.tags, said, _seen())


def _judged(model: Any, leaving: Leaving | None = None, split: str = "test") -> dict[str, Any]:
    """:func:`entity_scores`, and with ``leaving`` also ``names_kept``."""
    posts = _read(split)[0]
    said = tagged(model, posts, leaving=leaving)
    found = _scores(said.tags, split)
    if leaving is not None:
        found["names_kept"] = names_kept(posts, said.stayed)
    print(f"F1 {found['f1']:.1%}, of unseen names {found['f1_unseen']:.1%}", flush=True)
    return found


def _dev() -> Made:
    """A rate for all that follow: each learns from the same few posts, and is judged on the dev posts."""
    few = _some(_FIT)
    rows: dict[str, Any] = {}
    for one in RATES:
        model = _new(0)[0]
        losses = train_tagger(model, few, epochs=_EPOCHS, learning_rate=one, batch_size=_BATCH)
        rows[f"{one:g}"] = _judged(model, split="dev") | {"losses": losses}
    best = max(rows, key=lambda name: rows[name]["f1"])
    settings = {"seed": 0, "epochs": _EPOCHS, "batch_size": _BATCH, "rates": list(RATES)}
    return Made({"best": float(best), "rates": rows}, settings, _data("dev", few))


def _plain() -> Made:
    """Taggers without an encoder; the strength of the linear one is chosen on the dev posts."""
    train, dev, test = (_read(split)[0] for split in ("train", "dev", "test"))
    tried = {}
    for c in _STRENGTHS:
        said = linear_tags(train.words, train.tags, dev.words, c=c)
        tried[f"{c:g}"] = _scores(said, "dev")["f1"]
    best = max(tried, key=lambda name: tried[name])
    metrics = {
        "lexicon": _scores(lexicon_tags(train.words, train.tags, test.words)),
        "linear": _scores(linear_tags(train.words, train.tags, test.words, c=float(best))),
        "tried": tried,
        "tags": {"O": sum(t == "O" for row in test.tags for t in row) / sum(map(len, test.tags))},
    }
    return Made(metrics, {"seed": 0, "c": float(best)}, _data("test"))


def _trained(seed: int) -> tuple[Any, list[float]]:
    """The whole tagger of a seed, from its folder where it was trained like this before, and its losses."""
    folder = Path("runs") / EXPERIMENT / f"whole-s{seed}"
    notes = folder / "losses.json"
    of = _settings(seed) | _data("test")
    if not notes.is_file() or json.loads(notes.read_text(encoding="utf-8"))["of"] != of:
        model, tokenizer = _new(seed)
        losses = train_tagger(
            model,
            _read("train")[0],
            epochs=_EPOCHS,
            learning_rate=chosen_rate(),
            batch_size=_BATCH,
            seed=seed,
        )
        fresh = folder.with_suffix(".part")  # an interrupted writing is never taken for a whole one
        for old in (fresh, folder):
            shutil.rmtree(old, ignore_errors=True)
        model.save_pretrained(fresh)
        tokenizer.save_pretrained(fresh)
        (fresh / notes.name).write_text(json.dumps({"of": of, "losses": losses}), encoding="utf-8")
        os.replace(fresh, folder)
    return _new(seed, folder)[0], json.loads(notes.read_text(encoding="utf-8"))["losses"]


def _settings(seed: int, **more: Any) -> dict[str, Any]:
    return {"seed": seed, "epochs": _EPOCHS, "batch_size": _BATCH, "learning_rate": chosen_rate()} | more


def _whole(seed: int) -> Made:
    """All tokens through all layers, before any further epoch."""
    model, losses = _trained(seed)
    return Made(_judged(model) | {"losses": losses}, _settings(seed), _data("test"))


def _further(model: Any, seed: int, leaving: Leaving | None = None) -> list[float]:
    """Once more over some posts; where tokens leave, each step draws how many."""
    return train_tagger(
        model, _some(_MORE), epochs=1, learning_rate=chosen_rate(), batch_size=_BATCH,
        seed=1000 + seed, leaving=leaving, shares=tuple(SHARES.values()),
    )  # fmt: skip


def _left(rule: str, seed: int) -> Made:
    """One tagger for all shares, whose tokens stay by a rule."""
    model = _trained(seed)[0]
    leaving = Leaving(model, AFTER, 1.0, rule, seed=seed)
    metrics: dict[str, Any] = {"losses": _further(model, seed, leaving)}
    for name, share in SHARES.items():
        leaving.share = share
        metrics[name] = _judged(model, leaving)
    return Made(metrics, _settings(seed, rule=rule, after=AFTER, more=_MORE), _data("test"))


def _shallow(layers: int, seed: int) -> Made:
    """The first so many layers for all tokens."""
    model = shorten(_trained(seed)[0], layers)
    losses = _further(model, seed)
    metrics = _judged(model) | {"losses": losses}
    return Made(metrics, _settings(seed, layers=layers, more=_MORE), _data("test"))


def _cost() -> Made:
    """FLOPs a post and posts a second, side by side; what a tagger has learned changes neither.

    The calls take turns, in a new order each round; each reads the same test posts, at most 64 at a time, all
    of one length.
    """
    posts = _some(_TIMED, "test")
    whole = _new(0)[0]
    calls: dict[str, Callable[[Callable[..., Any]], Any]] = {}
    for layers in DEPTHS.values():
        calls[f"layers{layers}"] = partial(_with, shorten(copy.deepcopy(whole), layers), None, 1.0, posts)
    for rule in RULES:
        for name, share in SHARES.items():
            calls[f"{rule} {name}"] = partial(_with, whole, rule, share, posts)
    timed = [
        name for name in calls if name.endswith("1/2") or name.startswith(("layers", "doubt", "attention"))
    ]
    seconds = in_turns({name: partial(calls[name], tag) for name in timed})
    metrics: dict[str, Any] = {name: {"flops_per_post": call(flops)} for name, call in calls.items()}
    for name in timed:
        metrics[name] |= rate(len(posts), seconds[name])
    settings = {"seed": 0, "after": AFTER, "batch_size": 64, "rounds": 3, "threads": torch.get_num_threads()}
    return Made(metrics, settings, _data("test") | {"n_timed": len(posts)})


def _with(model: Any, rule: str | None, share: float, posts: Posts, call: Callable[..., Any]) -> Any:
    """Call ``tag`` or ``flops`` with tokens that leave, and take the hooks off again."""
    if rule is None:
        return call(model, posts)
    leaving = Leaving(model, AFTER, share, rule)
    try:
        return call(model, posts, leaving=leaving)
    finally:
        leaving.remove()
