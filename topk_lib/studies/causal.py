"""A language model that reads k tokens of a review, and a head on the last of them.

SmolLM2 is fine-tuned whole and by LoRA, each review met once. It reads from left to right: the last token
that is kept has seen all the others, and no other has. On one thread of a CPU the runs take some
five hours; a GPU makes every rule at every k with three seeds.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import set_seed

from topk_lib import records
from topk_lib.data import load_reviews, source_of
from topk_lib.models import DEFAULT_LANGUAGE_MODEL, TopKForSequenceClassification
from topk_lib.selectors import ids_to_batch
from topk_lib.studies.adaptation import Stand
from topk_lib.studies.base import Made, Run, in_turns, packed
from topk_lib.studies.pretraining import best_of
from topk_lib.training import finetune, tokenize
from topk_lib.training.adapt import adapt
from topk_lib.training.finetune import FinetuneResult
from topk_lib.training.trainer import fastest

__all__ = ["COST", "EXPERIMENT", "METHODS", "RATES", "RULES", "TEST", "runs"]

EXPERIMENT, RATES, COST = "causal", "causal_rates", "causal_cost"
METHODS = ("lora", "full")
RULES = ("linear", "first", "last", "tfidf")
KS = (32, 64, 128)
WHOLE = 512
SIZES = (2000, 8000)
SEEDS = range(3)
TEST = 2000  # test reviews where a CPU does all the work
BATCH, RANK = 8, 8

_TRIED = {"lora": (3e-4, 1e-3, 3e-3), "full": (2e-5, 5e-5, 1.2e-4)}


def runs(*, gpu: bool) -> Iterator[Run]:
    """Which rule at k = 64 first; 512 tokens, which take longest, are the last that a CPU reads."""
    begun: set[str] = set()
    for name, options in dict(_plan(gpu)).items():
        method = name.partition("-")[0]
        if method not in begun:
            if begun:
                yield Run(COST, "steps", cost)
            begun.add(method)
            yield Run(RATES, method, partial(_rates, method))
        yield Run(EXPERIMENT, name, partial(_finetuned, name, method, options))


def _plan(gpu: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names and settings; on a GPU some twice."""

    def one(
        method: str, rule: str, k: int, n: int = SIZES[0], seed: int = 0, positions: str = "compact"
    ) -> tuple[str, dict[str, Any]]:
        own = "" if positions == "compact" else f"-{positions}"
        return f"{method}-{rule}-k{k}{own}-n{n}-s{seed}", {
            "selector": rule, "k": k, "n_train": n, "seed": seed, "positions": positions,
            "lora": RANK if method == "lora" else None, "n_eval": None if gpu else TEST,
        }  # fmt: skip

    yield from (one("lora", rule, 64) for rule in RULES)
    yield one("lora", "first", 128)
    yield from (one("lora", rule, 32) for rule in RULES[:2])
    yield from (one("full", rule, 64) for rule in RULES[:2])
    yield from (one("lora", rule, 64, seed=seed) for seed in (1, 2) for rule in RULES[:2])
    yield one("lora", "linear", 64, positions="original")
    yield from (one("lora", rule, 64, SIZES[1]) for rule in RULES[:2])
    yield one("lora", "first", WHOLE)
    if gpu:
        for seed, n, method in product(SEEDS, SIZES, METHODS):
            yield from (one(method, rule, k, n, seed) for k in KS for rule in RULES)
            yield one(method, "first", WHOLE, n, seed)
            yield from (one(method, "linear", k, n, seed, "original") for k in KS)


def _reading(folder: Path, options: dict[str, Any]) -> FinetuneResult:
    """Fine-tune on each review once; what is left is what was measured, not the half gigabyte of weights."""
    result = finetune(folder, model=DEFAULT_LANGUAGE_MODEL, batch_size=BATCH, quiet=True, **options)
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    for weights in folder.glob("*.safetensors"):
        weights.unlink()
    return result


def rate_of(method: str) -> float:
    """The learning rate with which a method was best on the dev reviews.

    Raises:
        ValueError: that was not measured yet.
    """
    try:
        return float(records.load(RATES, method)["metrics"]["best"])
    except FileNotFoundError:
        raise ValueError(
            f"the learning rate is chosen on dev reviews first: topk-lib study causal --only {RATES}/{method}"
        ) from None


def _finetuned(name: str, method: str, options: dict[str, Any]) -> Made:
    """Fine-tune, and measure on the test reviews."""
    result = _reading(Path("runs") / EXPERIMENT / name, options | {"learning_rate": rate_of(method)})
    test = load_reviews(split="test", n=options["n_eval"], quiet=True)
    wrong = np.asarray(result.predictions) != np.asarray(test["label"])
    print(f"accuracy {result.metrics['accuracy']:.2%}", flush=True)
    return Made(
        result.metrics | {"seconds": result.seconds, "wrong": packed(wrong)},
        result.settings | {"method": method}, result.data, sum(result.seconds.values()),
    )  # fmt: skip


def _rates(method: str, n: int = 1000, n_eval: int = 1000, k: int = KS[0]) -> Made:
    """Try each learning rate once, on reviews held out of the training split."""
    found: dict[float, FinetuneResult] = {}

    def accuracy(rate: float) -> float:
        found[rate] = _reading(
            Path("runs") / RATES / f"{method}-{rate:g}",
            {"selector": RULES[0], "k": k, "n_train": n, "n_eval": n_eval, "evaluate_on": "dev",
             "lora": RANK if method == "lora" else None, "learning_rate": rate},
        )  # fmt: skip
        print(f"{method}, {rate:g}: {found[rate].metrics['accuracy']:.2%}", flush=True)
        return float(found[rate].metrics["accuracy"])

    rows, best = best_of(accuracy, _TRIED[method], further=1)
    settings = {key: value for key, value in found[best].settings.items() if key != "learning_rate"}
    told = {f"{rate:g}": value for rate, value in rows.items()}
    return Made(
        {"best": best, "accuracy": told}, settings, found[best].data | {"evaluated_on": "dev"},
        sum(sum(one.seconds.values()) for one in found.values()),
    )  # fmt: skip


def cost(ks: Sequence[int] = (*KS, WHOLE), rounds: int = 5) -> Made:
    """What a step of training costs: seconds, in turns, and bytes, counted and measured.

    The same ``BATCH`` training reviews for all, the longest of many, their first k tokens.

    Returns:
        ``metrics``: for each method and k (``lora-k32``) what :meth:`Stand.bytes` counts, and ``seconds``
        of a step (median, ``fastest`` and ``slowest`` round). ``full`` is measured at two k, the
        smallest and the largest, since each holds two gigabytes.
    """
    reviews = load_reviews(split="train", n=1000, quiet=True)
    longest = sorted(zip(reviews["text"], reviews["label"], strict=True), key=lambda r: -len(r[0]))[:BATCH]
    device, low = records.device_kind(), fastest("auto") == "bf16"
    stands = {}
    for method, k in [*(("lora", k) for k in ks), *(("full", k) for k in (ks[0], ks[-1]))]:
        set_seed(0)
        model, tokenizer = TopKForSequenceClassification.from_encoder(
            DEFAULT_LANGUAGE_MODEL, "first", k, attention_dropout=0.0
        )
        model.encoder = adapt(model.encoder, method, size=RANK)
        ids, mask = ids_to_batch(tokenize(tokenizer, [text for text, _ in longest]), tokenizer.pad_token_id)
        labels = torch.tensor([label for _, label in longest])
        batch = tuple(x.to(device) for x in (ids, mask, labels))
        stands[f"{method}-k{k}"] = Stand(model.to(device), [batch], low=low)
    held = {name: stand.bytes() for name, stand in stands.items()}
    seconds = in_turns({name: stand.epoch for name, stand in stands.items()}, rounds)
    metrics = {
        name: held[name] | {"seconds": float(np.median(s)), "fastest": min(s), "slowest": max(s)}
        for name, s in seconds.items()
    }
    settings = {"seed": 0, "batch_size": BATCH, "rank": RANK, "rounds": rounds, "bf16": low,
                "threads": torch.get_num_threads()}  # fmt: skip
    return Made(metrics, settings, {"source": source_of(reviews), "n_train": BATCH})
