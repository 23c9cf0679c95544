"""Asking a fine-tuned model: what it makes of texts, and how often it is right."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from topk_lib.data import Labels, as_texts, load_reviews, match_labels
from topk_lib.data.labels import CLASS, NUMBER
from topk_lib.models import TopKForSequenceClassification, errors_only, load_encoder, probabilities
from topk_lib.training.folder import SETTINGS, damaged, named, read_fields
from topk_lib.training.metrics import measure
from topk_lib.training.settings import Settings, checked_settings
from topk_lib.training.trainer import logits_of, make_trainer

__all__ = [
    "answers", "columns_of", "evaluate", "labels_of_model", "load_model", "predict", "second_of", "tokenize",
]  # fmt: skip


def load_model(folder: str | Path) -> tuple[TopKForSequenceClassification, Any, int | None]:
    """Load a model that chooses tokens from its folder.

    Returns:
        The model, ready to answer; its tokenizer; and ``max_length``, the tokens of a text that it may
        see, None for all.

    Raises:
        FileNotFoundError: no such folder, or no model in it.
        ValueError: another model is in it.
    """
    folder = named(folder)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} holds no model of topk-lib finetune: name its output folder")
    model, tokenizer = load_encoder(folder)
    if not isinstance(model, TopKForSequenceClassification):
        raise ValueError(f"{folder} holds a {type(model).__name__}, no model of topk-lib finetune")
    max_length = getattr(model.config, "max_length", None)
    if max_length is None:  # a folder of an earlier version
        max_length = _settings(folder).max_length
    return model.eval(), tokenizer, max_length


def _settings(folder: Path) -> Settings:
    path = folder / SETTINGS
    if not path.is_file():
        return Settings()
    fields = read_fields(path, Settings)
    try:
        return checked_settings(fields)
    except (TypeError, ValueError) as error:
        raise damaged(path, error) from None


def tokenize(tokenizer: Any, texts: Iterable[str], max_length: int | None = None) -> list[list[int]]:
    """The token ids of each text, special tokens included; texts over ``max_length`` are cut.

    Raises:
        TypeError, ValueError: a text is none, see :func:`~topk_lib.data.as_texts`.
    """
    texts = as_texts(texts)
    if not texts:
        return []
    with errors_only():  # it would warn of texts over the maximum, which the selector shortens
        ids: list[list[int]] = tokenizer(texts, truncation=max_length is not None, max_length=max_length)[
            "input_ids"
        ]
    return ids


def columns_of(
    model: Any, tokenizer: Any, texts: Iterable[str], pairs: Iterable[str] | None, max_length: int | None
) -> dict[str, list[list[int]]]:
    """What a model reads of texts, or of pairs of texts: ``input_ids``, and ``token_type_ids`` of pairs."""
    texts = as_texts(texts)
    if pairs is None:
        return {"input_ids": tokenize(tokenizer, texts, max_length)}
    with errors_only():
        read = tokenizer(
            texts, as_texts(pairs, "text_pair"), truncation=max_length is not None, max_length=max_length
        )
    names = ("input_ids", "token_type_ids") if model.reads_token_types else ("input_ids",)
    return {name: read[name] for name in names}


def second_of(reviews: Dataset) -> list[str] | None:
    """The second text of each row, where the set has pairs."""
    return list(reviews["text_pair"]) if "text_pair" in reviews.column_names else None


def labels_of_model(model: Any) -> Labels:
    """The problem that a model solves, and the names of its classes."""
    config = model.config
    problem = config.problem_type or (NUMBER if config.num_labels == 1 else CLASS)
    return Labels(problem, tuple(str(config.id2label[i]) for i in range(config.num_labels)))


def evaluate(
    folder: str | Path,
    *,
    source: str | Path | None = None,
    split: str = "test",
    n: int | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Measure a model that :func:`~topk_lib.training.finetune` saved on labelled reviews.

    Returns:
        The metrics of :func:`~topk_lib.training.metrics.measure`.

    Raises:
        ValueError: the reviews have a class that the model lacks.
    """
    loaded = load_model(folder)
    labels = labels_of_model(loaded[0])
    reviews = match_labels(load_reviews(source, split=split, n=n, quiet=quiet), labels, "the model")
    logits = _logits(folder, loaded, list(reviews["text"]), second_of(reviews), quiet)
    return measure(labels, list(reviews["label"]), logits)[0]


def predict(
    folder: str | Path, texts: Iterable[str], *, quiet: bool = True
) -> list[float] | list[list[float]]:
    """What a model that :func:`~topk_lib.training.finetune` saved makes of each text.

    Args:
        folder: of the model.
        texts: a list of strings, or a column, an array or a series of them.

    Returns:
        Of two classes the probability of the second ("positive"); of a model that gives numbers, the number;
        else the probability of each class or label.

    Raises:
        TypeError, ValueError: a text is none, see :func:`~topk_lib.data.as_texts`.
        RuntimeError: the model's answer is no number.
    """
    texts = as_texts(texts)
    if not texts:
        return []
    labels, rows = answers(folder, texts, quiet=quiet)
    if labels.problem == NUMBER:
        return [row[0] for row in rows]
    return [row[1] for row in rows] if labels.problem == CLASS and len(labels.names) == 2 else rows


def answers(
    folder: str | Path, texts: Iterable[str], *, quiet: bool = True
) -> tuple[Labels, list[list[float]]]:
    """As :func:`predict`, but for every kind of model a list a text, and what its entries stand for.

    Returns:
        The labels of the model, and for each text the probability of each of them, or the number.
    """
    texts = as_texts(texts)
    loaded = load_model(folder)
    labels = labels_of_model(loaded[0])
    if not texts:
        return labels, []
    logits = _logits(folder, loaded, texts, None, quiet)
    return labels, probabilities(logits, loaded[0].config).tolist()


@contextmanager
def _own_luck() -> Iterator[None]:
    """``Trainer`` seeds every generator there is; the caller's go on as if nobody had asked."""
    plain, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002, it is the legacy one that is seeded
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(plain)
        np.random.set_state(numpy)  # noqa: NPY002


def _logits(
    folder: str | Path,
    loaded: tuple[Any, Any, int | None],
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    quiet: bool,
) -> torch.Tensor:
    """(texts, labels) float32."""
    model, tokenizer, max_length = loaded
    read = columns_of(model, tokenizer, texts, pairs, max_length)
    with _own_luck():
        trainer = make_trainer(model, tokenizer, _settings(Path(folder)), Path(folder), quiet)
        logits = logits_of(trainer, Dataset.from_dict(read))
    if not torch.isfinite(logits).all():
        raise RuntimeError(
            f"the model in {folder} answers with what is no number: its training diverged, or its weights "
            "are damaged; fine-tune it anew with a lower learning rate"
        )
    return logits
