"""What a smaller vocabulary costs: a fine-tuned model that is not trained again, and one that is."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from topk_lib import records
from topk_lib.data import fingerprint, load_reviews, source_of, train_and_eval
from topk_lib.models import TopKForSequenceClassification, load_encoder
from topk_lib.models.vocabulary import select_vocabulary, sizes
from topk_lib.selectors import ids_to_batch, make_selector
from topk_lib.studies.base import Made, Row, Rows, Run, packed
from topk_lib.studies.imdb import SMALL, finetuned, options_of, teacher
from topk_lib.training import accuracy_interval, load_model, tokenize

__all__ = ["runs", "tuned_after", "vocabulary_study"]

_RULES = ("frequency", "linear")  # by count, by weight for the task
_TUNED = "study_vocabulary_tuned"
_TYPES = (5000, 2000, 1000)
_LIKE = "linear-k64"  # the run of the study imdb with which these have everything else in common
_ROWS = Path("runs") / "study_vocabulary" / "rows.json"


def runs(*, gpu: bool) -> Iterator[Run]:
    yield Run("study_vocabulary", "minilm", vocabulary_study)
    for seed in range(3):
        for types in _TYPES:
            for rule in _RULES:
                name = f"{rule}-{types}-s{seed}"
                yield Run(_TUNED, name, partial(tuned_after, rule, types, seed))


def vocabulary_study(
    folder: str | Path | None = None,
    *,
    ks: Sequence[int] = (20_000, 10_000, 5000, 2000, 1000),
    n_train: int = SMALL,
    n_fit: int = 2000,
    n_test: int = 2000,
    k: int = 64,
) -> Made:
    """Shrink the vocabulary of a fine-tuned model by two rules, and measure it without retraining.

    The encoder keeps its weights. Each smaller one is wrapped again, with the linear selector fitted on
    the training texts as its own tokenizer splits them. The first row has the whole vocabulary. Rows
    that were measured before an interruption are not measured again.

    Args:
        folder: of a model that ``finetune`` saved; None: the study's linear one with k = 128, which is
            trained where it is missing.
        ks: sizes of the vocabulary besides the whole.
        n_train: reviews whose tokens decide which types are useful; for the study's own model those it
            was trained on.
        n_fit: the first so many of them fit the selector anew.
        n_test: test reviews.
        k: tokens of each review that the encoder reads.

    Returns:
        In ``metrics["rows"]`` for "whole", "frequency-20000", "linear-20000" and so on

        - ``accuracy`` with ``accuracy_low`` and ``accuracy_high``, and ``wrong``, a bit a review;
        - ``parameters``, ``embedding`` and ``bytes`` of the encoder;
        - ``mean_tokens`` a text, special tokens included, and ``unknown``, the share of them that is
          the unknown token;
        - ``coverage``: the share of the tokens, as the whole vocabulary splits, whose types are kept.
    """
    folder = Path(folder) if folder is not None else teacher(SMALL, 0)
    model, tokenizer, _ = load_model(folder)
    train, _ = train_and_eval(n_train=n_train, n_eval=2, seed=0, quiet=True)  # as that model drew them
    test = load_reviews(split="test", n=n_test, quiet=True)
    texts, labels = list(train["text"]), list(train["label"])
    settings = {
        "seed": 0, "model": folder.name, "ks": list(ks), "k": k, "n_fit": n_fit, "selector": "linear",
        "rules": list(_RULES),
    }  # fmt: skip
    data = {
        "source": source_of(test), "n_train": len(train), "n_eval": len(test),
        "train_fingerprint": fingerprint(train), "eval_fingerprint": fingerprint(test),
    }  # fmt: skip
    rows = Rows(_ROWS, settings | data)

    ids = tokenize(tokenizer, texts)
    old = torch.tensor([i for text in tokenize(tokenizer, test["text"]) for i in text])
    size = model.config.encoder.vocab_size

    def shrunk(types: int, table: Tensor | None) -> Row:
        kept, encoder, own = torch.arange(types), model.encoder, tokenizer
        if table is not None:
            encoder, own, kept, *_ = select_vocabulary(model.encoder, tokenizer, table, types)
        row = sizes(encoder)._asdict() | {"coverage": torch.isin(old, kept).float().mean().item()}
        return row | _measure(encoder, own, texts[:n_fit], labels[:n_fit], test, k)

    for rule in ("whole", *_RULES):
        fitted: Any = None if rule == "whole" else make_selector(rule, vocabulary=size).fit(ids, labels)
        for types in ks if fitted else (size,):
            name = f"{rule}-{types}" if fitted else rule
            row = rows.measure(name, partial(shrunk, types, fitted.table if fitted else None))
            print(f"{name}: accuracy {row['accuracy']:.2%}", flush=True)
    return Made({"rows": rows.found}, settings, data)


def tuned_after(rule: str, types: int, seed: int, **options: Any) -> Made:
    """Cut the pretrained encoder's vocabulary, then fine-tune it as the study ``imdb`` does.

    The types are chosen on the training reviews alone. All else is as in that study's run of the linear
    rule with k = 64 and this seed, so that the two can be compared review by review.

    Args:
        rule: "frequency" or "linear".
        types: that are kept.
        seed: of the run.
        **options: of :func:`~topk_lib.training.finetune`, in place of that run's.

    Returns:
        What :func:`~topk_lib.studies.imdb.finetuned` measures, and ``parameters``, ``embedding``, ``bytes``
        and ``coverage`` as :func:`vocabulary_study` has them.
    """
    options = options_of(f"{_LIKE}-s{seed}", SMALL) | options
    train, test = train_and_eval(
        n_train=options["n_train"], n_eval=options["n_eval"], seed=options["seed"], quiet=True
    )
    encoder, tokenizer = load_encoder(options.get("model"))
    ids = tokenize(tokenizer, train["text"])
    table: Any = make_selector(rule, vocabulary=encoder.config.vocab_size).fit(ids, list(train["label"]))
    smaller, own, kept, *_ = select_vocabulary(encoder, tokenizer, table.table, types)
    cut = Path("runs") / _TUNED / f"cut-{rule}-{types}-s{seed}"
    smaller.save_pretrained(cut)
    own.save_pretrained(cut)
    made = finetuned(Path("runs") / _TUNED / f"{rule}-{types}-s{seed}", options | {"model": str(cut)})
    seen = torch.tensor([i for text in tokenize(tokenizer, test["text"]) for i in text])
    row = sizes(smaller)._asdict() | {"coverage": torch.isin(seen, kept).float().mean().item()}
    settings = made.settings | {"model": "the encoder with fewer types", "rule": rule, "types": types}
    return made._replace(metrics=made.metrics | row, settings=settings)


def _measure(
    encoder: Any, tokenizer: Any, texts: Sequence[str], labels: Sequence[int], test: Any, k: int
) -> Row:
    """Wrap the encoder with a selector fitted on ``texts``, and let it answer the test reviews."""
    selector = make_selector("linear", vocabulary=encoder.config.vocab_size)
    selector.fit(tokenize(tokenizer, texts), labels)
    with tempfile.TemporaryDirectory() as folder:
        encoder.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        model, _ = TopKForSequenceClassification.from_encoder(folder, selector, k, attention_dropout=0.0)
    ids = tokenize(tokenizer, test["text"])
    right = _answers(model.eval(), ids).numpy() == np.asarray(test["label"])
    low, high = accuracy_interval(int(right.sum()), len(right))
    tokens = sum(map(len, ids))
    return {
        "accuracy": float(right.mean()), "accuracy_low": low, "accuracy_high": high, "wrong": packed(~right),
        "mean_tokens": tokens / len(ids),
        "unknown": sum(text.count(tokenizer.unk_token_id) for text in ids) / tokens,
    }  # fmt: skip


@torch.inference_mode()
def _answers(model: TopKForSequenceClassification, ids: Sequence[Sequence[int]]) -> Tensor:
    """(texts,) int64: the answers, texts of like length 32 at a time."""
    device = records.device_kind()
    model = model.to(device)
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    answers = torch.empty(len(ids), dtype=torch.int64)
    for start in range(0, len(ids), 32):
        some = order[start : start + 32]
        batch = (x.to(device) for x in ids_to_batch([ids[i] for i in some]))
        answers[some] = model(*batch).logits.argmax(-1).cpu()
    return answers
