"""What is carried over: four starts at equal labels, what is forgotten, and an encoder pretrained further.

Where a run needs a snapshot of :mod:`topk_lib.studies.pretraining`, that one must have been made first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.nn import functional as F
from transformers import AutoModel, AutoModelForMaskedLM, get_linear_schedule_with_warmup, set_seed

from topk_lib import records
from topk_lib.data import fingerprint, source_of, train_and_eval
from topk_lib.models import (
    DEFAULT_ENCODER,
    DEFAULT_LANGUAGE_MODEL,
    errors_only,
    load_encoder,
    load_language_model,
)
from topk_lib.models.loading import encoder_path
from topk_lib.selectors import ids_to_batch
from topk_lib.studies import imdb
from topk_lib.studies.base import Made, Run
from topk_lib.studies.pretraining import EPOCHS, N_TEST, SEEDS, own_corpus, rates, searched, snapshot, tuned
from topk_lib.training import classification_metrics, tokenize
from topk_lib.training.objective import block_losses, mean_and_error, to_guess, token_losses
from topk_lib.training.pretrain import pretrain

__all__ = ["BEST", "further_pretrained", "runs"]

BEST = ("3m", 30)
"""The snapshot that stands for our own pretraining: the lowest held-out loss of all within half an hour."""

K = 64  # tokens that are read of a review
_EVERY = 20  # steps of fine-tuning to one of pretraining, where they are mixed
_FURTHER: dict[str, Any] = {"length": 64, "batch_size": 32, "learning_rate": 1e-4, "warmup": 100}
_FURTHER_MINUTES = (15, 60, 180)  # the last is one epoch
_TRIED = (4e-5, 1e-4, 2.5e-4)  # learning rates of fine-tuning after it
_ROOT = Path("runs")


def runs(*, gpu: bool) -> Iterator[Run]:
    """Few labels first, the language model's many and the long run last."""

    def begun(starts: Sequence[str], labels: Sequence[int]) -> Iterator[Run]:
        for n, seed, start in product(labels, SEEDS, starts):
            name = f"{start}-n{n}-s{seed}"
            yield Run("pretraining_transfer", name, partial(_transferred, name, start, n, seed))

    def further(minutes: int, labels: Sequence[int]) -> Iterator[Run]:
        if minutes:
            yield Run("pretraining_further_loss", f"{minutes}min", partial(_further, minutes))
        name = f"further-{minutes}min"
        yield Run("pretraining_rates", name, partial(rates, name, _start(minutes), _TRIED))
        for n, seed in product(labels, SEEDS):
            name = f"{minutes}min-n{n}-s{seed}"
            yield Run("pretraining_further", name, partial(_after_further, name, minutes, n, seed))

    yield from begun(("encoder", "random", "self"), (1000, 100))
    for seed, way in product(SEEDS, ("plain", "mixed")):
        yield Run("pretraining_forgetting", f"{way}-s{seed}", partial(_forgotten, way, seed))
    yield from begun(("language",), (100, 1000))
    *short, epoch = _FURTHER_MINUTES
    for minutes in (0, *short):
        yield from further(minutes, (1000, 100))
    yield from begun(("encoder", "random", "self", "language"), (10_000,))
    yield from further(epoch, (1000, 100))


def _best_rate(minutes: int) -> float:
    """For fine-tuning, chosen on reviews held out of the training split."""
    return float(records.load("pretraining_rates", f"{BEST[0]}-{searched(minutes)}min")["metrics"]["best"])


def _transferred(name: str, start: str, n: int, seed: int) -> Made:
    if start == "language":
        return _frozen(n, seed)
    model, rate = DEFAULT_ENCODER, imdb.RATE
    if start != "encoder":
        minutes = BEST[1] if start == "self" else 0
        model, rate = str(snapshot(BEST[0], minutes)), _best_rate(minutes)
    return tuned(_ROOT / "pretraining_transfer" / name, model, rate, n, seed, K)


def _frozen(n: int, seed: int) -> Made:
    """A linear head on what the language model, left as it is, makes of a review's last token read."""
    train, test = train_and_eval(n_train=n, n_eval=N_TEST, seed=seed, quiet=True)
    features = _last_vectors([*train["text"], *test["text"]])
    strengths = {"C": np.logspace(-5, 0, 6)}
    head = make_pipeline(StandardScaler(), GridSearchCV(LogisticRegression(max_iter=2000), strengths, cv=5))
    head.fit(features[:n], train["label"])
    metrics = classification_metrics(test["label"], head.predict(features[n:]))
    print(f"accuracy {metrics['accuracy']:.2%}", flush=True)
    data = {
        "source": source_of(train), "n_train": len(train), "n_eval": len(test),
        "train_fingerprint": fingerprint(train), "eval_fingerprint": fingerprint(test),
    }  # fmt: skip
    return Made(metrics, {"seed": seed, "model": DEFAULT_LANGUAGE_MODEL, "k": K, "n_train": n}, data)


@torch.no_grad()
def _last_vectors(texts: Sequence[str]) -> np.ndarray:
    """(texts, hidden) float32: the state above the K-th token, or the last; kept in a file."""
    path = _ROOT / "pretraining_transfer" / "language.npz"
    keys = [hashlib.sha256(text.encode()).hexdigest()[:16] for text in texts]
    known: dict[str, np.ndarray] = {}
    if path.is_file():
        with np.load(path) as kept:
            known = dict(zip(kept["keys"].tolist(), kept["vectors"], strict=True))
    lacking = [(key, text) for key, text in zip(keys, texts, strict=True) if key not in known]
    model, tokenizer = load_language_model(dtype=torch.bfloat16) if lacking else (None, None)
    for start in range(0, len(lacking), 512):
        some = lacking[start : start + 512]
        ids = tokenize(tokenizer, [text for _, text in some], K)
        for first in range(0, len(ids), 32):
            batch, mask = ids_to_batch(ids[first : first + 32])
            states = model.base_model(batch, attention_mask=mask).last_hidden_state  # type: ignore[union-attr]
            last = states[torch.arange(len(batch)), mask.sum(1) - 1].float().numpy()
            known.update(zip((key for key, _ in some[first : first + 32]), last, strict=True))
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name("fresh.npz")
        np.savez(fresh, keys=np.array(list(known)), vectors=np.stack(list(known.values())))
        fresh.replace(path)
    return np.stack([known[key] for key in keys])


def _forgotten(way: str, seed: int, n: int = 1000) -> Made:
    """Fine-tune our own model, and put its encoder back under the head that guesses words.

    ``mixed`` goes on with pretraining between: one step of it after each twenty of fine-tuning.
    """
    train, test = train_and_eval(n_train=n, n_eval=N_TEST, seed=seed, quiet=True)
    corpus = own_corpus()
    folder = snapshot(*BEST)
    set_seed(seed)
    classifier, tokenizer = load_encoder(folder, labels=["negative", "positive"])
    with errors_only():
        guesser = AutoModelForMaskedLM.from_pretrained(folder, local_files_only=True)
    blocks = corpus.held_out_blocks(1000)

    def loss() -> float:
        with torch.autocast("cpu", torch.bfloat16):
            guesses = block_losses(guesser, tokenizer, blocks)
        return mean_and_error(guesses.losses, guesses.block)[0]

    before = loss()
    setattr(guesser, guesser.base_model_prefix, classifier.base_model)
    guesser.tie_weights()
    ids, labels = tokenize(tokenizer, train["text"], K), torch.tensor(list(train["label"]))
    order = [
        torch.from_numpy(np.random.default_rng([seed, e]).permutation(len(ids))) for e in range(EPOCHS[n])
    ]
    steps = [epoch[i : i + 32] for epoch in order for i in range(0, len(ids), 32)]
    weights = {id(p): p for model in (classifier, guesser) for p in model.parameters()}
    optimiser = torch.optim.AdamW(weights.values(), lr=_best_rate(BEST[1]), weight_decay=0.01)
    schedule = get_linear_schedule_with_warmup(optimiser, round(0.06 * len(steps)), len(steps))
    pretrained = 0
    for step, some in enumerate(steps):
        classifier.train()
        batch, mask = ids_to_batch([ids[i] for i in some.tolist()])
        with torch.autocast("cpu", torch.bfloat16):
            wrong = F.cross_entropy(classifier(batch, attention_mask=mask).logits.float(), labels[some])
            if way == "mixed" and step % _EVERY == _EVERY - 1:
                text = corpus.batch(pretrained, 16, seed)
                read, chosen = to_guess(text, tokenizer, 0.15, seed=seed, step=pretrained)
                wrong = wrong + token_losses(guesser, read, text, chosen).mean()
                pretrained += 1
        wrong.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        schedule.step()
    metrics = classification_metrics(
        test["label"], _answers(classifier, tokenize(tokenizer, test["text"], K))
    )
    metrics |= {"before": before, "after": loss(), "steps": len(steps), "pretraining_steps": pretrained}
    print(f"accuracy {metrics['accuracy']:.2%}, loss {before:.3f} -> {metrics['after']:.3f}", flush=True)
    data = {
        "source": source_of(train), "n_train": len(train), "n_eval": len(test),
        "train_fingerprint": fingerprint(train), "eval_fingerprint": fingerprint(test),
    }  # fmt: skip
    return Made(metrics, {"seed": seed, "model": str(folder), "k": K, "way": way, "every": _EVERY}, data)


@torch.no_grad()
def _answers(classifier: Any, ids: Sequence[Sequence[int]]) -> list[int]:
    """The class of each text."""
    classifier.eval()
    found: list[int] = []
    for start in range(0, len(ids), 64):
        batch, mask = ids_to_batch(list(ids[start : start + 64]))
        with torch.autocast("cpu", torch.bfloat16):
            found += classifier(batch, attention_mask=mask).logits.argmax(-1).tolist()
    return found


def _further(minutes: int) -> Made:
    """Pretrain the general encoder on reviews, and give it back its own pooler for fine-tuning."""
    folder = _ROOT / "pretraining_further" / "encoder"
    result = pretrain(
        folder, corpus=_ROOT / "pretraining_further" / "corpus", start=DEFAULT_ENCODER, minutes=minutes,
        snapshots="0", quiet=True, **_FURTHER,
    )  # fmt: skip
    with errors_only():
        whole = AutoModel.from_pretrained(encoder_path(), local_files_only=True)
        guesser = AutoModelForMaskedLM.from_pretrained(result.folder, local_files_only=True)
        whole.load_state_dict(guesser.base_model.state_dict(), strict=False)
        whole.save_pretrained(_start(minutes))
        load_encoder(DEFAULT_ENCODER)[1].save_pretrained(_start(minutes))
    print(f"loss {result.metrics['loss']:.3f}", flush=True)
    curve = [[round(m, 3), round(value, 3)] for _, m, value in result.losses]
    seconds = result.metrics["wall_minutes"] * 60
    return Made(result.metrics | {"curve": curve}, result.settings, result.data, seconds)


def _start(minutes: int) -> str:
    return str(_ROOT / "pretraining_further" / f"ready-{minutes}min") if minutes else DEFAULT_ENCODER


def further_pretrained(minutes: int) -> str:
    """The folder of the general encoder after so many minutes on reviews; made where it is not there.

    The same call after an interruption goes on from the last checkpoint. 0 minutes: the encoder as it comes.
    """
    if minutes and not (Path(_start(minutes)) / "model.safetensors").is_file():
        _further(minutes)
    return _start(minutes)


def _after_further(name: str, minutes: int, n: int, seed: int) -> Made:
    rate = records.load("pretraining_rates", f"further-{minutes}min")["metrics"]["best"]
    return tuned(_ROOT / "pretraining_further" / name, _start(minutes), rate, n, seed, K)
