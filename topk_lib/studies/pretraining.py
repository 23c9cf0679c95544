"""The clock: what masked models of three sizes have learned after so many minutes, and what it is good for.

Minutes are of processor time (``time.process_time``), since the machine is shared: so much work takes one
idle core so long. The time on the wall is recorded beside it. Reading and splitting the corpus is not
counted.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from topk_lib import records
from topk_lib.data import fingerprint, source_of, stream_texts, train_and_eval
from topk_lib.models import errors_only
from topk_lib.studies.base import Made, Run
from topk_lib.training import finetune, tfidf_logistic
from topk_lib.training.corpus import Corpus, prepare_corpus
from topk_lib.training.folder import read_fields
from topk_lib.training.learned import attention_by_distance, blanks_filled, by_frequency
from topk_lib.training.objective import block_losses, mean_and_error
from topk_lib.training.pretrain import pretrain
from topk_lib.training.pretrain_loop import RESULT

__all__ = [
    "EPOCHS",
    "MINUTES",
    "N_TEST",
    "SEEDS",
    "SIZES",
    "best_of",
    "own_corpus",
    "rates",
    "runs",
    "searched",
    "snapshot",
    "tuned",
]

SIZES: dict[str, dict[str, Any]] = {
    "1m": {"hidden_size": 96, "layers": 2, "heads": 3},
    "3m": {"hidden_size": 192, "layers": 3, "heads": 3},
    "10m": {"hidden_size": 320, "layers": 6, "heads": 5},
}
"""The models, named by their millions of parameters, embeddings included."""

MINUTES = {"1m": (0, 1, 3, 10), "3m": (0, 1, 3, 10, 30), "10m": (0, 1, 3, 10, 30, 60)}
RATES = {"1m": 4e-3, "3m": 1e-3, "10m": 5e-4}
_STEEP = 2e-3  # for the largest: it stands still at the loss of the frequencies
SEEDS = range(3)
N_TEST = 5000
K = 128  # tokens that are read of a labelled review
EPOCHS = {100: 20, 1000: 5, 4000: 3, 10_000: 2}
_TRIED = (2e-4, 5e-4, 1.2e-3, 3e-3, 8e-3)  # learning rates of fine-tuning
_ROOT = Path("runs") / "pretraining"
_COMMON: dict[str, Any] = {"length": 128, "batch_size": 16, "vocabulary": 8192, "held_out": 1000}


def snapshot(size: str, minutes: float, seed: int = 0, rate: float | None = None) -> Path:
    """Where a model lies that was pretrained so long; ``topk-lib study pretraining`` makes it."""
    other = "" if rate is None else f"-{rate:g}"
    return _ROOT / f"{size}-s{seed}{other}" / f"snapshot-{minutes:g}min"


def runs(*, gpu: bool) -> Iterator[Run]:
    """The first ten minutes of the clock, what its models are good for, then what takes longer."""
    yield Run("pretraining_corpus", "tokens", _tokens)
    for size in ("1m", "10m", "3m"):
        for minutes in MINUTES[size][:4]:
            yield _clock(size, minutes, 0)
        yield from _tuned(size, MINUTES[size][:4], 0)
        if size == "1m":
            for seed, n in product(SEEDS, EPOCHS):
                yield Run("pretraining_words", f"n{n}-s{seed}", partial(_words, n, seed))
    yield Run("pretraining_steep", "10m-10min", partial(_pretrained, "10m", 10, 0, _STEEP))
    for seed in (1, 2):
        for minutes in MINUTES["1m"]:
            yield _clock("1m", minutes, seed)
        yield from _tuned("1m", MINUTES["1m"], seed)
    for size in ("10m", "3m"):
        yield _clock(size, 30, 0)
        for seed in SEEDS:
            yield from _tuned(size, (30,) if seed == 0 else MINUTES[size][:5], seed)
    yield _clock("10m", 60, 0)
    for seed in SEEDS:
        yield from _tuned("10m", (60,), seed)


def _clock(size: str, minutes: int, seed: int) -> Run:
    name = f"{size}-{minutes}min-s{seed}"
    return Run("pretraining_clock", name, partial(_pretrained, size, minutes, seed))


def _tuned(size: str, which: Sequence[int], seed: int) -> Iterator[Run]:
    """Of one size three models were pretrained; of the others the seed only draws the labelled reviews."""
    if seed == 0:
        for minutes in sorted({searched(minutes) for minutes in which}):
            name = f"{size}-{minutes}min"
            yield Run("pretraining_rates", name, partial(rates, name, str(snapshot(size, minutes))))
    for n, minutes in product((1000, 4000), which):
        name = f"{size}-{minutes}min-n{n}-s{seed}"
        call = partial(_finetuned, name, size, minutes, n, seed)
        yield Run("pretraining_finetuned", name, call)


def own_corpus() -> Corpus:
    """What all sizes are pretrained on."""
    return prepare_corpus(
        _ROOT / "corpus", stream_texts(), length=_COMMON["length"], vocabulary=_COMMON["vocabulary"],
        objective="masked", held_out=_COMMON["held_out"],
    )  # fmt: skip


def _masked_model(folder: Path) -> tuple[Any, Any]:
    """A snapshot whose attention weights can be looked at, and its tokenizer."""
    with errors_only():
        model = AutoModelForMaskedLM.from_pretrained(
            folder, attn_implementation="eager", local_files_only=True
        )
    return model.eval(), AutoTokenizer.from_pretrained(folder, local_files_only=True)


def _pretrained(size: str, minutes: int, seed: int, rate: float | None = None) -> Made:
    """Pretrain on from where the run stands, and look at what the model has learned."""
    folder = snapshot(size, minutes, seed, rate)
    highest = rate or RATES[size]
    if not (folder / RESULT).is_file():
        pretrain(
            folder.parent, corpus=_ROOT / "corpus", minutes=minutes or 1, snapshots="0", quiet=True,
            learning_rate=highest, seed=seed, **_COMMON, **SIZES[size],
        )  # fmt: skip
    made = read_fields(folder / RESULT)
    corpus = own_corpus()
    blocks = corpus.held_out_blocks(1000)
    model, tokenizer = _masked_model(folder)
    with torch.autocast("cpu", torch.bfloat16):
        losses, types, read, block = block_losses(model, tokenizer, blocks)
    loss, error = mean_and_error(losses, block)
    hidden = read == tokenizer.mask_token_id  # the other guesses can be got right by copying
    counts = torch.from_numpy(np.bincount(corpus.train, minlength=len(tokenizer)))
    unigram = -((counts + 1).double() / (counts + 1).sum()).log()
    metrics = made["metrics"] | {
        "loss": loss, "loss_error": error, "unigram_loss": unigram[types].mean().item(),
        "loss_hidden": losses[hidden].double().mean().item(),
        "unigram_hidden": unigram[types[hidden]].mean().item(),
        "curve": [[round(m, 3), round(value, 3)] for _, m, value in made["losses"]],
        "blanks": blanks_filled(model, tokenizer),
        "attention": attention_by_distance(model, tokenizer, blocks[:64]),
        "bands": by_frequency(losses[hidden], types[hidden], counts),
    }  # fmt: skip
    if minutes:
        metrics["tokens_per_second"] = metrics["tokens"] / (metrics["minutes"] * 60)
    print(f"loss {loss:.3f}, blanks {metrics['blanks']['top5']:.0%}", flush=True)
    settings = {"seed": seed, "minutes": minutes, "learning_rate": highest, **_COMMON, **SIZES[size]}
    return Made(metrics, settings, dict(corpus.about), made["metrics"]["wall_minutes"] * 60)


def searched(minutes: int) -> int:
    """The snapshot for which the learning rate is searched: the first ten minutes have one together."""
    return 10 if 0 < minutes < 10 else minutes


def rates(name: str, model: str, tried: Sequence[float] = _TRIED) -> Made:
    """Which learning rate fine-tunes this model best, on reviews held out of the training split."""
    folder = Path("runs") / "pretraining_rates" / name
    found: dict[float, Any] = {}

    def accuracy(rate: float) -> float:
        found[rate] = finetune(
            folder / f"{rate:g}", model=model, k=64, n_train=1000, n_eval=1000,
            evaluate_on="dev", epochs=EPOCHS[1000], learning_rate=rate, quiet=True,
        )  # fmt: skip
        return float(found[rate].metrics["accuracy"])

    rows, best = best_of(accuracy, tried)
    told = {f"{rate:g}": value for rate, value in rows.items()}
    print(f"accuracy {told}", flush=True)
    settings = {name: value for name, value in found[best].settings.items() if name != "learning_rate"}
    return Made({"accuracy": told, "best": best}, settings, found[best].data)


def best_of(
    accuracy: Callable[[float], float], tried: Sequence[float] = _TRIED, further: int = 2
) -> tuple[dict[float, float], float]:
    """What each rate gives, ascending, and the best; at an end of the list up to ``further`` rates beyond."""
    rows = {rate: accuracy(rate) for rate in tried}
    while True:
        best = max(sorted(rows), key=rows.__getitem__)  # the lowest of equals
        beyond = best / 2.5 if best == min(rows) else best * 2.5 if best == max(rows) else None
        if beyond is None or len(rows) == len(tried) + further:
            return dict(sorted(rows.items())), best
        rows[beyond] = accuracy(beyond)


def _finetuned(name: str, size: str, minutes: int, n: int, seed: int) -> Made:
    """Fine-tune with the labels of n reviews at the rate chosen for this start, and measure on test."""
    rate = records.load("pretraining_rates", f"{size}-{searched(minutes)}min")["metrics"]["best"]
    start = snapshot(size, minutes, seed if size == "1m" else 0)
    return tuned(Path("runs") / "pretraining_finetuned" / name, str(start), rate, n, seed, K)


def tuned(folder: Path, model: str, rate: float, n: int, seed: int, k: int) -> Made:
    """Fine-tune on the first k tokens of n reviews, and measure on the test reviews."""
    result = finetune(
        folder, model=model, k=k, n_train=n, n_eval=N_TEST, seed=seed, epochs=EPOCHS[n],
        learning_rate=rate, quiet=True,
    )  # fmt: skip
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    print(f"accuracy {result.metrics['accuracy']:.2%}", flush=True)
    return Made(
        result.metrics | {"seconds": result.seconds}, result.settings, result.data,
        sum(result.seconds.values()),
    )  # fmt: skip


def _words(n: int, seed: int) -> Made:
    """TF-IDF and logistic regression on the reviews that a model is given: whole, and as far as it reads."""
    train, test = train_and_eval(n_train=n, n_eval=N_TEST, seed=seed, quiet=True)
    tokenizer = own_corpus().tokenizer

    def start(texts: Sequence[str]) -> list[str]:
        encoded = tokenizer(list(texts), truncation=True, max_length=K, return_offsets_mapping=True)
        return [text[: spans[-2][1]] for text, spans in zip(texts, encoded["offset_mapping"], strict=True)]

    metrics = tfidf_logistic(train["text"], train["label"], test["text"], test["label"])
    cut = tfidf_logistic(start(train["text"]), train["label"], start(test["text"]), test["label"])
    data = {
        "source": source_of(train), "n_train": len(train), "n_eval": len(test),
        "train_fingerprint": fingerprint(train), "eval_fingerprint": fingerprint(test),
    }  # fmt: skip
    return Made(metrics | {"start": cut}, {"seed": seed, "n_train": n, "k": K}, data)


def _tokens() -> Made:
    """The corpus, and how many of its texts were left out as copies of test reviews."""
    about = dict(own_corpus().about)
    metrics = {name: about[name] for name in ("texts", "tokens", "held_out", "held_out_tokens", "vocabulary")}
    metrics["tokens_per_text"] = about["tokens"] / about["texts"]
    metrics["test_copies"] = about["copies"]
    return Made(metrics, {"seed": 0, **_COMMON}, about)
