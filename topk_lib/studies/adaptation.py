"""A few parameters: ways of adapting an encoder and a language model, beside full fine-tuning, on IMDB.

The methods are compared on the *first* 64 tokens of each review, since these are running text, as the
methods were made for, and the same whatever the number of labels; a rule fitted on 200 labels would
choose worse than one fitted on 4,000. What choosing does beside adapting is measured on its own, with
the linear rule.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from sklearn.linear_model import LogisticRegression
from torch.profiler import ProfilerActivity
from transformers import set_seed

from topk_lib import records
from topk_lib.data import fingerprint, load_reviews, source_of, train_and_eval
from topk_lib.models import DEFAULT_ENCODER, DEFAULT_LANGUAGE_MODEL, errors_only, load_encoder
from topk_lib.models.reading import special_tokens
from topk_lib.selectors import ids_to_batch, make_selector, select_tokens
from topk_lib.studies.base import Made, Row, Rows, Run, in_turns, packed
from topk_lib.training import Settings, classification_metrics, tokenize
from topk_lib.training.adapt import adapt, trainable
from topk_lib.training.trainer import logits_of, make_trainer

__all__ = ["COST", "EPOCHS", "EXPERIMENT", "METHODS", "RATES", "SIZES", "Stand", "peak_bytes", "runs"]

EXPERIMENT, RATES, COST = "adaptation", "adaptation_rates", "adaptation_cost"
METHODS = ("full", "lora", "adapter", "bitfit", "prompt", "head")
SIZES = (4000, 200)
EPOCHS = {4000: 2, 1000: 2, 200: 10}
SEEDS = range(3)
K, BATCH = 64, 16
TEST, TEST_LM, LOOK = 5000, 1000, 1000  # test reviews; training reviews that are asked again, at most

_TRIED = {
    "full": (5e-5, 1e-4, 2e-4),
    "lora": (1e-3, 3e-3, 1e-2),
    "adapter": (1e-3, 3e-3, 1e-2),
    "bitfit": (1e-3, 3e-3, 1e-2),
    "prompt": (3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0),
    "head": (3e-3, 1e-2, 3e-2),
}
_FOUND = {"full": 1e-4, "head": 1e-2, "prompt": 3e-1}  # where no rate was recorded; else 3e-3
_LANGUAGE_MODEL_RATE = 1e-3  # taken, not chosen
_PROMPT = "Is this review of a film positive or negative?"


def runs(*, gpu: bool) -> Iterator[Run]:
    """Learning rates first, then each method by labels and seed, then costs, then what choosing adds."""

    def one(method: str, n: int, seed: int, rule: str = "first", k: int = K, **more: Any) -> Run:
        name = f"{method}-{rule}-k{k}-n{n}-s{seed}"
        return Run(EXPERIMENT, name, partial(_adapted, method, n, seed, rule, k, **more))

    for method in METHODS:
        yield Run(RATES, method, partial(_rates, method))
    for seed in SEEDS:
        for n in SIZES:
            yield from (one(method, n, seed) for method in METHODS)
            yield Run(EXPERIMENT, f"vectors-first-k{K}-n{n}-s{seed}", partial(_vectors, n, seed))
        if seed == 0:
            yield Run(COST, "steps", cost)
    for k in (64, 32, 128):
        for seed in SEEDS:
            yield from (one(method, SIZES[0], seed, "linear", k) for method in ("full", "lora"))
    for seed in SEEDS:
        for rule in ("linear", "first"):
            name = f"language_model-{rule}-k{K}-n1000-s{seed}"
            call = partial(_adapted, "lora", 1000, seed, rule, K, model=DEFAULT_LANGUAGE_MODEL)
            yield Run(EXPERIMENT, name, call)


def rate_of(method: str) -> float:
    """The learning rate with which a method was best on the dev reviews."""
    try:
        return float(records.load(RATES, method)["metrics"]["best"])
    except FileNotFoundError:
        return _FOUND.get(method, 3e-3)


class _Texts:
    """Tokenised reviews, k tokens of each."""

    def __init__(self, train: Dataset, asked: Dataset, tokenizer: Any, rule: str, k: int) -> None:
        self.labels, self.truth = list(train["label"]), list(asked["label"])
        self.data = {
            "source": source_of(train),
            "n_train": len(train),
            "n_eval": len(asked),
            "train_fingerprint": fingerprint(train),
            "eval_fingerprint": fingerprint(asked),
        }
        cut = k if rule == "first" else None
        self.ids, self.asked = (tokenize(tokenizer, list(some["text"]), cut) for some in (train, asked))
        if rule != "first":
            selector = make_selector(rule, vocabulary=len(tokenizer)).fit(self.ids, self.labels)
            special, _, _ = special_tokens(tokenizer)
            self.ids, self.asked = (
                select_tokens(selector, some, k, special) for some in (self.ids, self.asked)
            )


def _adapted(method: str, n: int, seed: int, rule: str, k: int, *, model: str = DEFAULT_ENCODER) -> Made:
    """Adapt on ``n`` reviews, and measure on the test reviews and on those it learned from."""
    encoder = model == DEFAULT_ENCODER
    rate = rate_of(method) if encoder else _LANGUAGE_MODEL_RATE
    texts, tokenizer = _read(n, seed, rule, k, model)
    epochs = EPOCHS[n] if encoder else 1
    metrics, wrong = _learn(method, texts, tokenizer, epochs, seed, rate, model)
    print(f"accuracy {metrics['accuracy']:.2%}, on its own {metrics['train']['accuracy']:.2%}", flush=True)
    settings = {"method": method, "model": model, "rule": rule, "k": k, "seed": seed, "epochs": epochs,
                "batch_size": BATCH, "learning_rate": rate}  # fmt: skip
    return Made(metrics | {"wrong": packed(wrong)}, settings, texts.data)


def _read(n: int, seed: int, rule: str, k: int, model: str) -> tuple[_Texts, Any]:
    _, tokenizer = _load(model)
    train = load_reviews(split="train", n=n, seed=seed, quiet=True)
    test = load_reviews(split="test", n=TEST if model == DEFAULT_ENCODER else TEST_LM, quiet=True)
    return _Texts(train, test, tokenizer, rule, k), tokenizer


def _load(name: str) -> tuple[Any, Any]:
    """A classifier with a new head for two classes, and its tokenizer."""
    model, tokenizer = load_encoder(name, attention_dropout=0.0, labels=["negative", "positive"])
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id
    tokenizer.model_max_length = int(1e30)
    return model, tokenizer


def _model(method: str, name: str, seed: int) -> Any:
    set_seed(seed)
    model, tokenizer = _load(name)
    begin = tokenize(tokenizer, [_PROMPT])[0] if method == "prompt" else None
    return adapt(model, method, begin=begin)


def _learn(
    method: str, texts: _Texts, tokenizer: Any, epochs: int, seed: int, rate: float, name: str
) -> tuple[dict[str, Any], np.ndarray]:
    """Train, and give the metrics and (n_eval,) bool, which reviews came out wrong."""
    model = _model(method, name, seed)
    settings = Settings(epochs=epochs, learning_rate=rate, batch_size=BATCH, seed=seed)
    train = Dataset.from_dict({"input_ids": texts.ids, "label": texts.labels})
    with tempfile.TemporaryDirectory() as folder, errors_only():
        trainer = make_trainer(model, tokenizer, settings, Path(folder), True, train)
        trainer.args.save_strategy = "no"
        seconds = in_turns({"train": trainer.train}, rounds=1)["train"][0]
        logits = logits_of(trainer, Dataset.from_dict({"input_ids": texts.asked}))
        own = logits_of(trainer, Dataset.from_dict({"input_ids": texts.ids[:LOOK]}))
    metrics = _measured(texts.truth, logits)
    metrics["train"] = _measured(texts.labels[:LOOK], own)
    metrics["gap"] = {what: metrics["train"][what] - metrics[what] for what in ("accuracy", "loss")}
    metrics |= {"trainable": trainable(model), "train_seconds": seconds}
    return metrics, logits.argmax(-1).numpy() != np.asarray(texts.truth)


def _measured(truth: Sequence[int], logits: torch.Tensor) -> dict[str, Any]:
    found = classification_metrics(truth, logits.argmax(-1).tolist(), 2)
    keys = ("accuracy", "accuracy_low", "accuracy_high", "macro_f1")
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(truth)).item()
    return {key: found[key] for key in keys} | {"loss": loss}


def _rates(method: str, n: int = 1000, n_eval: int = 1000) -> Made:
    """Try each learning rate once, on reviews held out of the training split."""
    _, tokenizer = _load(DEFAULT_ENCODER)
    train, dev = train_and_eval(evaluate_on="dev", n_train=n, n_eval=n_eval, quiet=True)
    texts = _Texts(train, dev, tokenizer, "first", K)
    rows = Rows(Path("runs") / RATES / f"{method}.json", texts.data)

    def tried(rate: float) -> Row:
        metrics, _ = _learn(method, texts, tokenizer, EPOCHS[n], 0, rate, DEFAULT_ENCODER)
        print(f"{method}, {rate:g}: {metrics['accuracy']:.2%}", flush=True)
        return {"rate": rate, "accuracy": metrics["accuracy"], "loss": metrics["loss"]}

    tries = [rows.measure(f"{rate:g}", partial(tried, rate)) for rate in _TRIED[method]]
    best = max(tries, key=lambda row: (row["accuracy"], -row["loss"]))["rate"]
    settings = {"method": method, "seed": 0, "epochs": EPOCHS[n], "batch_size": BATCH, "k": K}
    return Made({"best": best, "tried": tries}, settings, texts.data | {"evaluated_on": "dev"})


def _vectors(n: int, seed: int) -> Made:
    """Nothing in the encoder moves: logistic regression on the mean of the states that it gives."""
    texts, _ = _read(n, seed, "first", K, DEFAULT_ENCODER)
    model, _ = _load(DEFAULT_ENCODER)
    read, asked = (_means(model.base_model.eval(), some) for some in (texts.ids, texts.asked))
    head = LogisticRegression(max_iter=1000).fit(read, texts.labels)
    metrics, own = (
        _measured(truth, torch.as_tensor(np.log(np.maximum(head.predict_proba(some), 1e-12))))
        for truth, some in ((texts.truth, asked), (texts.labels[:LOOK], read[:LOOK]))
    )
    metrics["train"] = own
    metrics["gap"] = {what: own[what] - metrics[what] for what in ("accuracy", "loss")}
    metrics["trainable"] = head.coef_.size + head.intercept_.size
    wrong = head.predict(asked) != np.asarray(texts.truth)
    settings = {"method": "vectors", "model": DEFAULT_ENCODER, "rule": "first", "k": K, "seed": seed}
    return Made(metrics | {"wrong": packed(wrong)}, settings, texts.data)


@torch.inference_mode()
def _means(encoder: Any, token_ids: Sequence[Sequence[int]]) -> np.ndarray:
    """(texts, d) float32: the mean of the encoder's states of each text."""
    device = records.device_kind()
    encoder.to(device)
    order = sorted(range(len(token_ids)), key=lambda i: len(token_ids[i]))
    found = np.empty((len(order), encoder.config.hidden_size), dtype=np.float32)
    for start in range(0, len(order), 128):
        rows = order[start : start + 128]
        ids, mask = (x.to(device) for x in ids_to_batch([token_ids[i] for i in rows]))
        states = encoder(ids, mask).last_hidden_state
        found[rows] = ((states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)).float().cpu().numpy()
    return found


def cost(ks: Sequence[int] = (32, K, 128), rounds: int = 5, batches: int = 3) -> Made:
    """What a step of training costs: seconds, in turns, and bytes, counted and measured.

    The same training reviews for all, ``BATCH`` at a time, their first k tokens, in float32.

    Returns:
        ``metrics``: for each method at k = 64, and for ``full`` and ``lora`` at the others
        (``lora-k32``), ``trainable``; ``seconds`` of a step (median, ``fastest`` and ``slowest`` round);
        and in bytes ``weights``, ``gradients`` and ``state`` (of AdamW), counted, and ``peak``, measured:
        the most that PyTorch holds during a step beside the weights and the state.
    """
    _, tokenizer = _load(DEFAULT_ENCODER)
    reviews = load_reviews(split="train", n=max(1000, BATCH * batches), quiet=True)
    rows = zip(tokenize(tokenizer, list(reviews["text"])), reviews["label"], strict=True)
    longest = sorted(rows, key=lambda row: -len(row[0]))[: BATCH * batches]
    device = records.device_kind()

    def of(k: int) -> list[tuple[torch.Tensor, ...]]:
        parts = [longest[start : start + BATCH] for start in range(0, len(longest), BATCH)]
        return [
            tuple(
                x.to(device)
                for x in (
                    *ids_to_batch([ids[: k - 1] + ids[-1:] for ids, _ in part]),
                    torch.tensor([label for _, label in part]),
                )
            )
            for part in parts
        ]

    wanted = [(method, K) for method in METHODS]
    wanted += [(method, k) for k in ks if k != K for method in ("full", "lora")]
    stands = {
        f"{method}-k{k}": Stand(_model(method, DEFAULT_ENCODER, 0).to(device), of(k)) for method, k in wanted
    }
    held = {name: stand.bytes() for name, stand in stands.items()}
    seconds = in_turns({name: stand.epoch for name, stand in stands.items()}, rounds)
    metrics = {
        name: held[name]
        | {
            "seconds": float(np.median(found)) / batches,
            "fastest": min(found) / batches,
            "slowest": max(found) / batches,
        }
        for name, found in seconds.items()
    }
    settings = {"seed": 0, "batch_size": BATCH, "rounds": rounds, "threads": torch.get_num_threads()}
    return Made(metrics, settings, {"source": source_of(reviews), "n_train": len(longest)})


class Stand:
    """A model that takes steps of training, always on the same batches.

    Args:
        model: a classifier, where the batches are.
        batches: of token ids, attention mask and labels.
        low: compute in bfloat16 where that loses little, as Trainer does.
    """

    def __init__(self, model: Any, batches: list[tuple[torch.Tensor, ...]], *, low: bool = False) -> None:
        self.model, self.batches, self.low = model.train(), batches, low
        self.learned = [x for x in self.model.parameters() if x.requires_grad]
        self.optimiser = torch.optim.AdamW(self.learned, lr=1e-5, fused=True)

    def step(self, batch: tuple[torch.Tensor, ...]) -> int:
        """Returns how many bytes of gradients there were."""
        ids, mask, labels = batch
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=self.low):
            loss = self.model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        gradients = sum(int(x.grad.nbytes) for x in self.learned if x.grad is not None)
        self.optimiser.step()
        self.optimiser.zero_grad()
        return gradients

    def epoch(self) -> None:
        for batch in self.batches:
            self.step(batch)

    def bytes(self) -> Row:
        """Of weights, gradients and AdamW's state, and the peak of a step beside weights and state."""
        gradients = self.step(self.batches[0])  # the first makes the optimiser's state
        state = self.optimiser.state.values()
        return {
            "trainable": trainable(self.model),
            "weights": sum(x.nbytes for x in self.model.parameters()),
            "gradients": gradients,
            "state": sum(x.nbytes for one in state for x in one.values()),
            "peak": peak_bytes(partial(self.step, self.batches[0])),
        }


def peak_bytes(call: Callable[[], object]) -> int:
    """The most bytes that PyTorch holds during a call beside what it held before."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return int(torch.cuda.max_memory_allocated() - before)
    with torch.profiler.profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profile:
        call()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    held = sorted((e for e in events if e["name"] == "[memory]"), key=lambda e: float(e["ts"]))
    totals = [int(e["args"]["Total Allocated"]) for e in held]
    return max(totals) - (totals[0] - int(held[0]["args"]["Bytes"])) if held else 0
