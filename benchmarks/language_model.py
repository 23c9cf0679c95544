"""What the embedded language model knows, and what it costs to work with it.

    python benchmarks/language_model.py

Writes ``results/language_model/cost.<device>.json``. Every step runs in a process of its own, so that its
peak of memory is its own; seconds are the processor's, those of all threads together, so that whatever else
the machine does is not counted. The reviews are those of ``load_reviews()``.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from topk_lib import records
from topk_lib.data import fingerprint, load_reviews, source_of
from topk_lib.models import (
    DEFAULT_LANGUAGE_MODEL,
    TopKForSequenceClassification,
    export_onnx,
    load_language_model,
    select_vocabulary,
)
from topk_lib.models.embedded import embedded_language_model, sha256
from topk_lib.selectors import LinearSelector, ids_to_batch, selector_names
from topk_lib.selectors.corpus import count_tokens
from topk_lib.training.metrics import accuracy_interval

SETTINGS: dict[str, Any] = {
    "seed": 0, "n_train": 200, "n_eval": 150, "tokens": 160, "k": 64, "batch": 8, "vocabulary": 8192,
    "prompt": "Film review: {review} The sentiment of this review is",
    "answers": [" negative", " positive"],  # in the order of the labels
}  # fmt: skip


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    start = time.process_time()
    result = call()
    return result, round(time.process_time() - start, 3)


def train_reviews() -> Any:
    return load_reviews(split="train", n=SETTINGS["n_train"], quiet=True)


def test_reviews() -> Any:
    return load_reviews(split="test", n=SETTINGS["n_eval"], quiet=True)


def unpack() -> dict[str, Any]:
    """Into an empty cache."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TOPK_CACHE"] = folder
        path, seconds = timed(embedded_language_model)
        size = sum(file.stat().st_size for file in path.iterdir())
        return {"seconds": seconds, "bytes": size, "weights_sha256": sha256(path / "model.safetensors")}


def load() -> dict[str, Any]:
    (model, _), seconds = timed(load_language_model)
    return {"seconds": seconds, "parameters": sum(p.numel() for p in model.parameters())}


@torch.inference_mode()
def zero_shot() -> dict[str, Any]:
    """Which of two words is more probable after a review; nothing is trained."""
    model, tokenizer = load_language_model()
    before, after = SETTINGS["prompt"].split("{review}")
    answers = [tokenizer(word)["input_ids"] for word in SETTINGS["answers"]]
    assert [len(ids) for ids in answers] == [1, 1]

    def lean(text: str) -> float:
        review = tokenizer(text, truncation=True, max_length=SETTINGS["tokens"])["input_ids"]
        ids = tokenizer(before)["input_ids"] + review + tokenizer(after)["input_ids"]
        negative, positive = model(torch.tensor([ids]), logits_to_keep=1).logits[0, -1, answers].flatten()
        return float(positive - negative)

    test = test_reviews()
    leans, seconds = timed(lambda: np.array([lean(text) for text in test["text"]]))
    labels = np.array(test["label"])

    def score(threshold: float) -> dict[str, float]:
        right = int(((leans > threshold) == labels).sum())
        low, high = accuracy_interval(right, len(labels))
        return {"accuracy": right / len(labels), "accuracy_low": low, "accuracy_high": high}

    return {
        **score(0.0), "at_the_median": score(float(np.median(leans))),
        "said_positive": float((leans > 0).mean()), "commonest": float(max(labels.mean(), 1 - labels.mean())),
        "seconds": seconds,
    }  # fmt: skip


@torch.inference_mode()
def vocabulary() -> dict[str, Any]:
    """The commonest types of the training reviews; the largest change where all types of a text are kept."""
    model, tokenizer = load_language_model()
    ids = tokenizer(list(train_reviews()["text"]))["input_ids"]
    counts, others = (
        torch.from_numpy(np.asarray(count_tokens(rows, len(tokenizer)).sum(axis=0)).ravel())
        for rows in (ids, tokenizer(list(test_reviews()["text"]))["input_ids"])
    )
    result, seconds = timed(lambda: select_vocabulary(model, tokenizer, counts, SETTINGS["vocabulary"]))
    new = torch.full((len(tokenizer),), -1)
    new[result.kept] = torch.arange(len(result.kept))
    text = next(row for row in (torch.tensor(ids) for ids in ids) if bool((new[row] >= 0).all()))
    old_logits = model(text[None]).logits[0, :, result.kept]
    return {
        "seconds": seconds, "k": len(result.kept),
        "before": result.before._asdict(), "after": result.after._asdict(),
        "coverage": float(others[result.kept].sum() / others.sum()),  # of the test reviews' tokens
        "largest_change": float((result.model(new[text][None]).logits[0] - old_logits).abs().max()),
    }  # fmt: skip


def _built(selector: str) -> tuple[Any, Any, list[list[int]], list[int]]:
    train = train_reviews()
    model, tokenizer = TopKForSequenceClassification.from_encoder(
        DEFAULT_LANGUAGE_MODEL, selector, SETTINGS["k"], seed=SETTINGS["seed"]
    )
    return model, tokenizer, tokenizer(list(train["text"]))["input_ids"], list(train["label"])


def _fit(model: Any, ids: list[list[int]], labels: list[int]) -> None:
    if model.selector.name in ("taught", "distilled", "contextual"):  # they learn from another's scores
        table = LinearSelector(vocabulary=model.config.encoder.vocab_size).fit(ids, labels).table
        model.selector.teach(ids, [table[torch.tensor(row)] for row in ids], epochs=1)
    else:
        model.selector.fit(ids, labels)


def classifier() -> dict[str, Any]:
    """With every selector before it: to build, to fit, to read a batch, to train on it."""
    return {"selectors": {name: _classifier(name) for name in selector_names()}}


def _classifier(selector: str) -> dict[str, Any]:
    (model, tokenizer, ids, labels), built = timed(lambda: _built(selector))
    _, fitted = timed(lambda: _fit(model, ids, labels))
    size = SETTINGS["batch"]
    inputs, mask = ids_to_batch(ids[:size], tokenizer.pad_token_id)
    model.eval()
    with torch.inference_mode():
        output, read = timed(lambda: model(inputs, mask))
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)

    def step() -> Tensor:
        loss: Tensor = model(inputs, mask, labels=torch.tensor(labels[:size])).loss
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss.detach()

    loss, trained = timed(step)
    assert bool(loss.isfinite())
    return {
        "build_seconds": built, "fit_seconds": fitted, "read_seconds": read, "step_seconds": trained,
        "read_tokens": int((output.kept >= 0).sum()), "whole_tokens": int(mask.sum()), "loss": float(loss),
    }  # fmt: skip


@torch.no_grad()
def onnx() -> dict[str, Any]:
    """The classifier with a linear selector as an ONNX file, against the model itself."""
    import onnxruntime

    model, tokenizer, ids, labels = _built("linear")
    _fit(model, ids, labels)
    inputs, mask = ids_to_batch(ids[: SETTINGS["batch"]], tokenizer.pad_token_id)
    expected, read = timed(lambda: model.eval()(inputs, mask))
    with tempfile.TemporaryDirectory() as folder:
        path, seconds = timed(lambda: export_onnx(model, tokenizer, Path(folder) / "lm.onnx"))
        size = sum(file.stat().st_size for file in path.parent.iterdir())
        run = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        feed = {"input_ids": inputs.numpy(), "attention_mask": mask.numpy()}
        (logits, kept), run_seconds = timed(lambda: run.run(None, feed))
    return {
        "seconds": seconds, "bytes": size, "read_seconds": read, "onnx_read_seconds": run_seconds,
        "kept_is_the_same": bool((kept == expected.kept.numpy()).all()),
        "largest_change": float(np.abs(logits - expected.logits.numpy()).max()),
    }  # fmt: skip


def alone(step: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The metrics of a step and the peak of memory of the process that it had for itself."""
    print(f"== {step.__name__}", flush=True)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_measured, step).result()


def _measured(step: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    torch.manual_seed(SETTINGS["seed"])
    return {**step(), "peak_memory_mib": records.peak_memory()}


def main() -> None:
    start = time.perf_counter()
    steps = (unpack, load, vocabulary, onnx, classifier, zero_shot)
    metrics = {step.__name__: alone(step) for step in steps}
    train, test = train_reviews(), test_reviews()
    path = records.write(
        "language_model", "cost", metrics=metrics, seconds=time.perf_counter() - start,
        settings={**SETTINGS, "model": DEFAULT_LANGUAGE_MODEL},
        data={"source": source_of(test), "n_train": len(train), "n_eval": len(test),
              "train_fingerprint": fingerprint(train), "eval_fingerprint": fingerprint(test)},
        command="python benchmarks/language_model.py",
    )  # fmt: skip
    print(path)


if __name__ == "__main__":
    main()
