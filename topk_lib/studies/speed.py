"""Texts a second: answering, training and fitting, all models in turns on the same reviews."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from topk_lib import records
from topk_lib.data import load_reviews, source_of
from topk_lib.models import TopKForSequenceClassification, load_encoder
from topk_lib.selectors import ids_to_batch, make_selector
from topk_lib.studies.base import Made, Run, in_turns, rate
from topk_lib.studies.imdb import FULL, PUPILS, RATE, SELECTORS, SMALL
from topk_lib.training import tokenize

__all__ = ["fitting", "inference", "runs", "training"]


def runs(*, gpu: bool) -> Iterator[Run]:
    for measure in (inference, training, fitting):
        yield Run("study_speed", measure.__name__, measure)


def inference(ks: Sequence[int] = (16, 32, 64, 128, 256, FULL), texts: int = 256) -> Made:
    """Measure texts a second and FLOPs a text, the selector's own cost included, side by side.

    The models are untrained: what is chosen takes as long to read. The same test reviews for all,
    sorted by length, 32 at a time; the models take turns, in a new order each round.
    """
    models, tokenizer = _models(("first", "linear", "tfidf", "gate"), ks)
    test = load_reviews(split="test", n=texts, quiet=True)
    ids = sorted(tokenizer(list(test["text"]), verbose=False)["input_ids"], key=len)
    device = records.device_kind()
    batches = [
        tuple(x.to(device) for x in ids_to_batch(ids[start : start + 32])) for start in range(0, len(ids), 32)
    ]
    flops = {}
    with torch.inference_mode():
        for name, model in models.items():
            model.eval()
            # the counter does not see into fused attention
            with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
                for batch in batches:
                    model(*batch)
            flops[name] = counter.get_total_flops() / len(ids)

        def answer(call: Any) -> None:
            for batch in batches:
                call(*batch)

        seconds = in_turns({name: partial(answer, model) for name, model in models.items()})
        choosing = in_turns({name: partial(answer, model.select) for name, model in models.items()})
    metrics: dict[str, Any] = {"texts": len(ids), "mean_tokens": float(np.mean([len(i) for i in ids]))}
    for name, found in seconds.items():
        metrics[name] = rate(len(ids), found) | {
            "selector_share": float(np.median(choosing[name]) / np.median(found)),
            "flops_per_text": flops[name],
        }
    return Made(
        metrics,
        {"seed": 0, "batch_size": 32, "rounds": 3, "threads": torch.get_num_threads()},
        {"source": source_of(test), "n_eval": len(ids)},
    )


def training(ks: Sequence[int] = (32, 64, FULL), texts: int = 64) -> Made:
    """Measure texts trained on a second, side by side: forward, backward and a step of AdamW.

    The same training reviews for all, sorted by length, 32 at a time; the models take turns, in a new
    order each round.
    """
    models, tokenizer = _models(("first", "linear", "gate", "history"), ks)
    train = load_reviews(split="train", n=texts, quiet=True)
    texts_ids = tokenizer(list(train["text"]), verbose=False)["input_ids"]
    rows = sorted(zip(texts_ids, train["label"], strict=True), key=lambda row: len(row[0]))
    device = records.device_kind()
    batches = []
    for start in range(0, len(rows), 32):
        ids, labels = zip(*rows[start : start + 32], strict=True)
        batches.append(tuple(x.to(device) for x in (*ids_to_batch(ids), torch.tensor(labels))))

    def steps(model: TopKForSequenceClassification) -> Callable[[], None]:
        optimiser = torch.optim.AdamW(model.train().parameters(), lr=RATE)

        def take() -> None:
            for batch in batches:
                model(*batch).loss.backward()
                optimiser.step()
                optimiser.zero_grad()

        take()  # the first makes the optimiser's state
        return take

    seconds = in_turns({name: steps(model) for name, model in models.items()})
    metrics = {"texts": len(rows)} | {name: rate(len(rows), found) for name, found in seconds.items()}
    return Made(
        metrics,
        {"seed": 0, "batch_size": 32, "rounds": 3, "threads": torch.get_num_threads()},
        {"source": source_of(train), "n_train": len(rows)},
    )


def fitting(n_train: int = SMALL) -> Made:
    """Measure the seconds that each selector takes to be fitted, in turns on the same tokenised reviews."""
    train = load_reviews(split="train", n=n_train, quiet=True)
    encoder, tokenizer = load_encoder()
    ids, labels = tokenize(tokenizer, list(train["text"])), list(train["label"])

    def fit(name: str) -> None:
        selector = make_selector(name, vocabulary=encoder.config.vocab_size, tokenizer=tokenizer)
        selector.attach(encoder.get_input_embeddings())
        selector.fit(ids, labels)

    names = [name for name in SELECTORS if name not in PUPILS]  # their teacher is a training of its own
    seconds = in_turns({name: partial(fit, name) for name in names})
    metrics = {
        name: {"seconds": float(np.median(found)), "fastest": min(found), "slowest": max(found)}
        for name, found in seconds.items()
    }
    return Made(
        metrics,
        {"seed": 0, "rounds": 3, "threads": torch.get_num_threads()},
        {"source": source_of(train), "n_train": len(train)},
    )


def _models(
    selectors: Sequence[str], ks: Sequence[int]
) -> tuple[dict[str, TopKForSequenceClassification], Any]:
    """Untrained, with selectors fitted on 1,000 reviews; the full length with the first of them only."""
    train = load_reviews(split="train", n=1000, quiet=True)
    models = {}
    for selector in selectors:
        for k in ks:
            if selector == selectors[0] or k < FULL:
                model, tokenizer = TopKForSequenceClassification.from_encoder(
                    selector=selector, k=k, attention_dropout=0.0
                )
                if k == ks[0]:
                    ids = tokenizer(list(train["text"]), verbose=False)["input_ids"]
                    state = model.selector.fit(ids, list(train["label"])).state_dict()
                model.selector.load_state_dict(state)
                models[f"{selector}-k{k}"] = model.to(records.device_kind())
    return models, tokenizer
