"""Texts a second: answering, training and fitting, all models in turns on the same reviews."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from topk_lib import records
from topk_lib.data import load_reviews, source_of
from topk_lib.models import DEFAULT_ENCODER, TopKForSequenceClassification, export_onnx, load_encoder
from topk_lib.selectors import GateSelector, ids_to_batch, make_selector
from topk_lib.studies.base import Made, Run, in_turns, rate
from topk_lib.studies.imdb import FULL, PUPILS, RATE, SELECTORS, SMALL
from topk_lib.training import finetune, load_model, tokenize

__all__ = ["ENGINES", "engines", "fitting", "inference", "runs", "training"]

ENGINES = ("PyTorch", "torch.compile", "ONNX Runtime", "ONNX Runtime int8")
_Engine = Callable[[Tensor, Tensor], Tensor]  # ids and mask to logits


def runs(*, gpu: bool) -> Iterator[Run]:
    for measure in (inference, training, fitting):
        yield Run("study_speed", measure.__name__, measure)
    if not gpu:  # the ONNX Runtime that the course installs computes on a processor
        yield Run("study_speed", "engines", engines)


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
    models, tokenizer = _models(("first", "linear", "gate", "history", *PUPILS), ks)
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


def engines(
    k: int = 64, whole: int = FULL, texts: int = 128, alone: int = 32, n_train: int = 2000, rounds: int = 5,
    model_name: str = DEFAULT_ENCODER,
) -> Made:  # fmt: skip
    """Measure texts a second of one encoder in four engines, its choice of tokens included.

    It is fine-tuned on the k tokens of highest linear weight, and reads those, or the first ``whole``. The
    same test reviews for all, sorted by length, 32 at a time, and ``alone`` of them one by one;
    all take turns in one process, in a new order each round, on as many threads as PyTorch has.

    Returns:
        ``metrics``: by what is read (``linear-k64``) and by engine: ``batch_32`` and ``batch_1`` (median,
        slowest and fastest round); ``prepare_seconds`` (to compile or to write, and the first answers);
        ``bytes`` of an ONNX file; ``same_answers`` and ``largest_change`` against PyTorch's logits;
        ``accuracy`` on these reviews. ``choosing`` is the selector's share of PyTorch's time.
    """
    tuned = finetune(
        Path("runs") / "study_speed" / "engines", model=model_name, selector="linear", k=k,
        n_train=n_train, n_eval=texts, learning_rate=RATE, quiet=True,
    )  # fmt: skip
    folder = tuned.folder
    test = load_reviews(split="test", n=texts, quiet=True)
    chosen, tokenizer, _ = load_model(folder)
    first, _ = TopKForSequenceClassification.from_encoder(folder, "first", whole)
    rows = sorted(
        zip(tokenize(tokenizer, list(test["text"])), test["label"], strict=True), key=lambda row: len(row[0])
    )
    ids = [one for one, _ in rows]
    truth = torch.tensor([label for _, label in rows])
    batches = {
        "batch_32": [ids_to_batch(ids[start : start + 32]) for start in range(0, len(ids), 32)],
        "batch_1": [ids_to_batch([one]) for one in ids[:: max(1, len(ids) // alone)][:alone]],
    }

    def answer(engine: _Engine, size: str) -> Tensor:
        return torch.cat([engine(*batch) for batch in batches[size]])

    metrics: dict[str, Any] = {"texts": len(ids), "texts_alone": len(batches["batch_1"])}
    calls: dict[tuple[str, str, str], Callable[[], object]] = {}
    with torch.inference_mode():
        for what, model in ((f"linear-k{k}", chosen.eval()), (f"first-k{whole}", first.eval())):
            expected = answer(lambda *batch, model=model: model(*batch).logits, "batch_32")
            metrics[what] = {}
            for name in ENGINES:
                begun = time.perf_counter()
                engine, size = _engine(name, model, tokenizer, folder / f"{what}.onnx")
                found = answer(engine, "batch_32")
                answer(engine, "batch_1")
                metrics[what][name] = {
                    "prepare_seconds": time.perf_counter() - begun,
                    "same_answers": float((found.argmax(-1) == expected.argmax(-1)).float().mean()),
                    "largest_change": float((found - expected).abs().max()),
                    "accuracy": float((found.argmax(-1) == truth).float().mean()),
                } | ({} if size is None else {"bytes": size})
                for batch in batches:
                    calls[what, name, batch] = partial(answer, engine, batch)
            for batch in batches:
                choose: Any = lambda *given, model=model: model.select(*given).input_ids  # noqa: E731
                calls[what, "choosing", batch] = partial(_run_all, choose, batches[batch])
        seconds = in_turns({"/".join(key): call for key, call in calls.items()}, rounds)
    for what, name, batch in calls:
        found_seconds = seconds[f"{what}/{name}/{batch}"]
        if name == "choosing":
            whole_time = np.median(seconds[f"{what}/{ENGINES[0]}/{batch}"])
            metrics[what].setdefault("choosing", {})[batch] = float(np.median(found_seconds) / whole_time)
        else:
            n = len(ids) if batch == "batch_32" else len(batches[batch])
            metrics[what][name][batch] = rate(n, found_seconds)
    settings = {"seed": 0, "k": k, "whole": whole, "rounds": rounds, "threads": torch.get_num_threads()}
    return Made(metrics, settings, tuned.data)  # the reviews that it was judged on are those timed here


def _run_all(call: Callable[..., object], batches: Sequence[tuple[Tensor, ...]]) -> None:
    for batch in batches:
        call(*batch)


def _engine(
    name: str, model: TopKForSequenceClassification, tokenizer: Any, path: Path
) -> tuple[_Engine, int | None]:
    """A way to compute the same model's logits, and the bytes of its file where it has one."""
    if name == ENGINES[0]:
        return lambda ids, mask: model(ids, mask).logits, None
    if name == ENGINES[1]:  # what is chosen depends on the texts, so that is left as it is
        encoder: Any = torch.compile(model.encoder, dynamic=True)

        def compiled(ids: Tensor, mask: Tensor) -> Tensor:
            read = model.select(ids, mask)
            logits: Tensor = encoder(
                input_ids=read.input_ids, attention_mask=read.attention_mask, position_ids=read.positions
            ).logits
            return logits

        return compiled, None
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic

    if name == ENGINES[2]:
        export_onnx(model, tokenizer, path)
    else:
        small = path.with_suffix(".int8.onnx")
        quantize_dynamic(path, small, weight_type=QuantType.QInt8)
        path = small
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = {one.name for one in session.get_inputs()}

    def run(ids: Tensor, mask: Tensor) -> Tensor:
        given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
        found = session.run(["logits"], {key: x.numpy() for key, x in given.items() if key in names})
        return torch.from_numpy(found[0])

    return run, path.stat().st_size


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
                    # a pupil learns the linear scores: what it has learned takes no other time
                    fit: Any = GateSelector.fit if selector in PUPILS else type(model.selector).fit
                    state = fit(model.selector, ids, list(train["label"])).state_dict()
                model.selector.load_state_dict(state)
                models[f"{selector}-k{k}"] = model.to(records.device_kind())
    return models, tokenizer
