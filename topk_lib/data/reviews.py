"""Loading labelled film reviews from a folder, the hub or the package."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import datasets
import numpy as np
from datasets import Dataset, load_dataset

from topk_lib.data.hub import asked_once

__all__ = ["CORPUS_FILE", "fingerprint", "load_reviews", "source_of", "train_and_eval"]

CORPUS_FILE = Path(__file__).parent / "corpus" / "reviews.jsonl"
"""The embedded corpus: original reviews of invented films, CC0."""

HUB_NAME = "stanfordnlp/imdb"
EMBEDDED = "the embedded corpus"
_DEV_SEED = 20240101
_BREAKS = re.compile(r"\s*(?:<br\s*/?>\s*)+", re.IGNORECASE)


def load_reviews(
    source: str | Path | None = None,
    *,
    split: str = "train",
    n: int | None = None,
    seed: int = 0,
    quiet: bool = False,
) -> Dataset:
    """Load film reviews, and say in one line which they are and how many.

    Where ``source`` is None the first of these that exists is taken: the folder in the environment
    variable ``TOPK_IMDB``, the hub's ``stanfordnlp/imdb``, the corpus embedded in this package. A
    source that was named is never replaced by another.

    Args:
        source: a folder that ``datasets.load_dataset`` reads, with columns ``text`` and ``label``;
            "hub"; or "embedded". None looks in the order above.
        split: "train" or "test" (a folder and the embedded corpus may have others, such as "dev").
        n: how many reviews to draw at random, as even between the labels as can be; None, or
            more than there are: all.
        seed: of that draw.
        quiet: leave out the line.

    Returns:
        A ``datasets.Dataset`` with columns ``text`` (HTML line breaks turned into newlines) and
        ``label`` (0 negative, 1 positive).

    Raises:
        FileNotFoundError: the named folder is not there.
        ConnectionError: the hub was named and cannot be reached.
        ValueError: no such split or column, an empty split, a label other than 0 and 1, n < 1.
    """
    with _no_bars():
        data, label = _load(source, split)
        data = _checked(data, label, split)
        if n is not None:
            data = _draw(data, n, seed, label)
    data.info.description = label
    if not quiet:
        count = Counter(data["label"])
        print(
            f"{len(data):,} reviews ({count[0]:,} negative, {count[1]:,} positive) "
            f"from {label}, split {split}"
        )
    return data


def source_of(reviews: Dataset) -> str:
    """Where :func:`load_reviews` took these reviews from, in a few words."""
    return str(reviews.info.description)


def fingerprint(reviews: Dataset) -> str:
    """The first 16 hex digits of a SHA-256 over all texts and labels, in order."""
    digest = hashlib.sha256()
    for text, label in zip(reviews["text"], reviews["label"], strict=True):
        digest.update(f"{label}\t{text}\0".encode())
    return digest.hexdigest()[:16]


def train_and_eval(
    source: str | Path | None = None,
    *,
    evaluate_on: str = "test",
    n_train: int | None = None,
    n_eval: int | None = None,
    seed: int = 0,
    quiet: bool = False,
) -> tuple[Dataset, Dataset]:
    """Load reviews to train on and reviews to evaluate on.

    With ``evaluate_on="dev"`` the second are the source's own dev split or, where it has none, a
    fifth of the training split (drawn with a fixed seed of its own, so that it never changes),
    which is then left out of the first. Hyper-parameters are chosen there, never on "test".
    """
    if evaluate_on not in ("test", "dev"):
        raise ValueError(f'evaluate_on must be "test" or "dev", got {evaluate_on!r}')
    train = load_reviews(source, split="train", quiet=quiet)
    label = source_of(train)
    with _no_bars():
        if evaluate_on == "dev" and label != EMBEDDED:
            held_out = _draw(train, len(train) // 5, _DEV_SEED, label)
            kept = set(held_out["text"])
            train = train.select([i for i, text in enumerate(train["text"]) if text not in kept])
            train.info.description = label
            if not quiet:
                print(f"{len(held_out):,} of them are held out to choose settings on")
        else:
            held_out = load_reviews(source, split=evaluate_on, quiet=quiet)
        if n_train is not None:
            train = _draw(train, n_train, seed, label)
        if n_eval is not None:
            held_out = _draw(held_out, n_eval, 0, label)
    return train, held_out


def _load(source: str | Path | None, split: str) -> tuple[Dataset, str]:
    if source is None:
        source = os.environ.get("TOPK_IMDB") or None
    if source is None:
        try:
            return _from_hub(split), f"the hub's {HUB_NAME}"
        except ConnectionError:
            return _embedded(split), EMBEDDED
    if str(source) == "embedded":
        return _embedded(split), EMBEDDED
    if str(source) in ("hub", HUB_NAME):
        return _from_hub(split), f"the hub's {HUB_NAME}"
    folder = Path(source).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no folder {str(source)!r} with reviews: check the path (or TOPK_IMDB), "
            'or say "hub" or "embedded"'
        )
    try:
        data = load_dataset(str(folder), split=split)
    except (datasets.exceptions.DatasetNotFoundError, FileNotFoundError) as error:
        raise FileNotFoundError(
            f"the folder {str(source)!r} holds no data file that datasets.load_dataset reads "
            "(parquet, csv, jsonl): put train and test files there"
        ) from error
    except ValueError as error:
        if "no data" in str(error):
            raise ValueError(_empty(f"the folder {folder.name}", split)) from error
        raise ValueError(f"the folder {str(source)!r} has no usable split {split!r}: {error}") from error
    return data, f"the folder {folder.name}"


def _from_hub(split: str) -> Dataset:
    try:
        with asked_once(HUB_NAME):
            return load_dataset(HUB_NAME, split=split)
    except ValueError as error:
        if "split" in str(error):
            raise ValueError(f"the hub's {HUB_NAME} has no split {split!r}: {error}") from error
        raise _unreachable(error) from error
    except Exception as error:  # hub clients raise many kinds: offline, DNS, time-out, refused
        raise _unreachable(error) from error


def _unreachable(error: Exception) -> ConnectionError:
    return ConnectionError(
        f"the hub's {HUB_NAME} cannot be reached ({type(error).__name__}): check the network, set "
        'TOPK_IMDB to a folder that holds the set, or take source="embedded"'
    )


@contextmanager
def _no_bars() -> Iterator[None]:
    shown = datasets.are_progress_bars_disabled() is False
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


def _embedded(split: str) -> Dataset:
    rows = [json.loads(line) for line in CORPUS_FILE.read_text(encoding="utf-8").splitlines()]
    splits = sorted({row["split"] for row in rows})
    if split not in splits:
        raise ValueError(f"the embedded corpus has no split {split!r}: choose one of {', '.join(splits)}")
    chosen = [row for row in rows if row["split"] == split]
    return Dataset.from_dict({key: [row[key] for row in chosen] for key in ("text", "label")})


def _checked(data: Dataset, label: str, split: str) -> Dataset:
    for column in ("text", "label"):
        if column not in data.column_names:
            raise ValueError(
                f"{label}, split {split}, has no column {column!r} (it has "
                f"{', '.join(data.column_names)}): name the columns text and label"
            )
    if len(data) == 0:
        raise ValueError(_empty(label, split))
    texts, labels = list(data["text"]), list(data["label"])
    for row, value in enumerate(labels):
        if value not in (0, 1):
            raise ValueError(
                f"{label}, split {split}, row {row}: label {value!r} is not 0 (negative) or 1 (positive)"
            )
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"{label}, split {split}, row {row}: the text is {text!r}, not a string")
    return Dataset.from_dict(
        {"text": [_BREAKS.sub("\n", text) for text in texts], "label": [int(v) for v in labels]}
    )


def _empty(label: str, split: str) -> str:
    return f"{label}, split {split}, is empty: at least one review is needed"


def _draw(data: Dataset, n: int, seed: int, label: str) -> Dataset:
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    n = min(n, len(data))
    labels = list(data["label"])
    order = np.random.default_rng(seed).permutation(len(data)).tolist()
    negative, positive = ([i for i in order if labels[i] == value] for value in (0, 1))
    half = min(len(positive), max(n // 2, n - len(negative)))
    chosen = set(positive[:half] + negative[: n - half])
    drawn = data.select([i for i in order if i in chosen]).flatten_indices()
    drawn.info.description = label
    return drawn
