"""Loading labelled film reviews from a folder, the hub or the package."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import datasets
import numpy as np
from datasets import ClassLabel, Dataset, load_dataset

from topk_lib.data.files import Rows, canonical, class_names, files_of_splits, read_files
from topk_lib.data.hub import asked_once
from topk_lib.data.labels import CLASS, NUMBER, Labels, labels_of, match_labels, read_labels, with_labels
from topk_lib.data.texts import as_texts

__all__ = ["CORPUS_FILE", "fingerprint", "load_reviews", "source_of", "train_and_eval"]

CORPUS_FILE = Path(__file__).parent / "corpus" / "reviews.jsonl"
"""The embedded corpus: original reviews of invented films, CC0."""

HUB_NAME = "stanfordnlp/imdb"
EMBEDDED = "the embedded corpus"
IMDB_NAMES = ("negative", "positive")
_DEV_SEED = 20240101
_BREAKS = re.compile(r"\s*(?:<br\s*/?>\s*)+", re.IGNORECASE)


@contextmanager
def no_bars() -> Iterator[None]:
    shown = datasets.are_progress_bars_disabled() is False
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


@no_bars()
def load_reviews(
    source: str | Path | None = None,
    *,
    split: str = "train",
    n: int | None = None,
    longest: int | None = None,
    seed: int = 0,
    quiet: bool = False,
) -> Dataset:
    """Load labelled texts, film reviews or others, and say in one line which they are and how many.

    Where ``source`` is None the first of these that exists is taken: the folder in the environment
    variable ``TOPK_IMDB``, the hub's ``stanfordnlp/imdb``, the corpus embedded in this package. A
    source that was named is never replaced by another.

    What the labels are is read from the data, see :func:`~topk_lib.data.labels.read_labels`: classes with
    their names, decimal numbers, or lists of labels. :func:`~topk_lib.data.labels_of` says what was found.

    Args:
        source: a folder of parquet, arrow, csv, tsv, jsonl or json files (packed by gzip, bzip2 or xz, too)
            with columns ``text`` and ``label``, laid out as ``datasets.load_dataset`` reads it; "hub"; or
            "embedded". None looks in the order above.
        split: "train", "test", or another that the source has; "dev", "validation", "valid" and "val"
            are one.
        n: how many reviews to draw at random, as even between the classes as can be; None, or
            more than there are: all.
        longest: leave out texts of more characters; None: none.
        seed: of that draw.
        quiet: leave out the line.

    Returns:
        A ``datasets.Dataset`` with columns ``text`` (HTML line breaks turned into newlines) and
        ``label``: class ids (of film reviews: 0 negative, 1 positive), float64 numbers, or lists of ids;
        and ``text_pair``, the second text of each, where the files have this column.

    Raises:
        FileNotFoundError: the named folder is not there.
        ConnectionError: the hub was named and cannot be reached.
        ValueError: no such split or column, an empty split, a broken file, a review without label, n < 1,
            or every text is longer than ``longest``.
    """
    rows, label = _load(source, split)
    data = checked(rows, label, split, _is_imdb(source, label))
    if longest is not None:
        short = [i for i, text in enumerate(data["text"]) if len(text) <= longest]
        if not short:
            raise ValueError(f"{label}, split {split}, has no text of at most {longest} characters")
        data = data.select(short).flatten_indices()
    if n is not None:
        data = draw(data, n, seed, label)
    data.info.description = label
    if not quiet:
        print(f"{len(data):,} reviews ({counted(data)}) from {label}, split {split}")
    return data


def breaks_to_newlines(text: str) -> str:
    """A text with its HTML line breaks turned into newlines."""
    return _BREAKS.sub("\n", text)


def source_of(reviews: Dataset) -> str:
    """Where :func:`load_reviews` took these reviews from, in a few words."""
    return str(reviews.info.description)


def fingerprint(reviews: Dataset) -> str:
    """The first 16 hex digits of a SHA-256 over all texts and labels, in order."""
    digest = hashlib.sha256()
    for text, label in zip(reviews["text"], reviews["label"], strict=True):
        digest.update(f"{label}\t{text}\0".encode())
    for pair in reviews["text_pair"] if "text_pair" in reviews.column_names else ():
        digest.update(f"{pair}\0".encode())
    return digest.hexdigest()[:16]


@no_bars()
def train_and_eval(
    source: str | Path | None = None,
    *,
    evaluate_on: str = "test",
    n_train: int | None = None,
    n_eval: int | None = None,
    seed: int = 0,
    quiet: bool = False,
) -> tuple[Dataset, Dataset]:
    """Load reviews to train on and reviews to evaluate on, with the same class ids.

    With ``evaluate_on="dev"`` the second are the source's own dev split or, where it has none, a
    fifth of the training split (drawn with a fixed seed of its own, so that it never changes), which is
    then left out of the first, and so are copies of it. Hyper-parameters are chosen there, never on "test".

    Raises:
        ValueError: as :func:`load_reviews`; or what is evaluated has a class that no training review has.
    """
    if evaluate_on not in ("test", "dev"):
        raise ValueError(f'evaluate_on must be "test" or "dev", got {evaluate_on!r}')
    train = load_reviews(source, split="train", quiet=quiet)
    label = source_of(train)
    if evaluate_on == "dev" and not _has_dev(source, label):
        train, held_out = _hold_out(train, label)
        if not quiet:
            print(f"{len(held_out):,} of them are held out to choose settings on")
    else:
        held_out = load_reviews(source, split=evaluate_on, quiet=quiet)
        held_out = match_labels(held_out, labels_of(train), "the training split")
        _check_learnable(train, held_out)
        shared = len(set(train["text"]) & set(held_out["text"]))
        if shared and evaluate_on == "dev" and not quiet:
            print(f"{shared:,} of the dev texts stand in the training split, too")
    if n_train is not None:
        train = draw(train, n_train, seed, label)
    if n_eval is not None:
        held_out = draw(held_out, n_eval, 0, label)
    return train, held_out


def _check_learnable(train: Dataset, held_out: Dataset) -> None:
    labels = labels_of(train)
    if labels.problem == CLASS and (new := set(held_out["label"]) - set(train["label"])):
        raise ValueError(
            f"reviews to evaluate on are of the class {labels.names[min(new)]!r}, of which the training "
            "split has none: label both alike"
        )


def _has_dev(source: str | Path | None, label: str) -> bool:
    source = source or os.environ.get("TOPK_IMDB") or None
    if label == EMBEDDED:
        return True
    return label != f"the hub's {HUB_NAME}" and "dev" in files_of_splits(Path(str(source)).expanduser())


def _hold_out(train: Dataset, label: str) -> tuple[Dataset, Dataset]:
    """A training split without a fifth of it, and that fifth."""
    if len(train) < 5:
        raise ValueError(
            f"{label} has {len(train)} training reviews and no dev split: to hold out a fifth takes 5"
        )

    def without(held_out: Dataset) -> Dataset:
        out = set(held_out["text"])
        return train.select([i for i, text in enumerate(train["text"]) if text not in out])

    held_out = draw(train, len(train) // 5, _DEV_SEED, label)
    left = without(held_out)
    if len(left) < 0.75 * len(train):  # many copies: draw among different texts
        first = {text: i for i, text in reversed(list(enumerate(train["text"])))}
        different = train.select(sorted(first.values()))
        held_out = draw(different, max(1, len(different) // 5), _DEV_SEED, label)
        left = without(held_out)
    if labels_of(train).problem == CLASS and set(left["label"]) < set(train["label"]):
        raise ValueError(
            f"{label} has {len(set(train['text'])):,} different texts among {len(train):,} training reviews: "
            "too few to hold out a fifth; add a dev file, or evaluate on test"
        )
    left.info.description = label
    return left, held_out


def _load(source: str | Path | None, split: str) -> tuple[Rows, str]:
    if source is None:
        source = os.environ.get("TOPK_IMDB") or None
    hub = f"the hub's {HUB_NAME}"
    if source is None:
        try:
            return _from_hub(split), hub
        except ConnectionError:
            return _embedded(split), EMBEDDED
    if str(source) == "embedded":
        return _embedded(split), EMBEDDED
    if str(source) in ("hub", HUB_NAME):
        return _from_hub(split), hub
    folder = Path(source).expanduser()
    if not str(source).strip() or not folder.is_dir():
        raise FileNotFoundError(
            f"no folder {str(source)!r} with reviews: check the path (or TOPK_IMDB), "
            'or say "hub" or "embedded"'
        )
    splits = files_of_splits(folder)
    if not splits:
        raise FileNotFoundError(
            f"the folder {str(source)!r} holds no data file (parquet, arrow, csv, tsv, jsonl, json): "
            "put train and test files there"
        )
    if canonical(split) not in splits:
        raise ValueError(
            f"the folder {str(source)!r} has no usable split {split!r}: it has {', '.join(sorted(splits))}"
        )
    rows = read_files(splits[canonical(split)])
    return rows._replace(names=rows.names or class_names(folder)), f"the folder {folder.absolute().name}"


def _is_imdb(source: str | Path | None, label: str) -> bool:
    """The reviews are IMDB's or the embedded ones, whose classes have no names in the files."""
    named = os.environ.get("TOPK_IMDB")
    same = source is None or (
        named and Path(source).expanduser().resolve() == Path(named).expanduser().resolve()
    )
    return bool(same) or label in (EMBEDDED, f"the hub's {HUB_NAME}", "the folder imdb")


def _from_hub(split: str) -> Rows:
    try:
        with asked_once(HUB_NAME):
            data = load_dataset(HUB_NAME, split=split)
    except ValueError as error:
        if "split" in str(error):
            raise ValueError(f"the hub's {HUB_NAME} has no split {split!r}: {error}") from error
        raise _unreachable(error) from error
    except Exception as error:  # hub clients raise many kinds: offline, DNS, time-out, refused
        raise _unreachable(error) from error
    feature = data.features["label"]
    names = list(feature.names) if isinstance(feature, ClassLabel) else None
    return Rows(list(data["text"]), list(data["label"]), names)


def _unreachable(error: Exception) -> ConnectionError:
    return ConnectionError(
        f"the hub's {HUB_NAME} cannot be reached ({type(error).__name__}): check the network, set "
        'TOPK_IMDB to a folder that holds the set, or take source="embedded"'
    )


def _embedded(split: str) -> Rows:
    rows = [json.loads(line) for line in CORPUS_FILE.read_text(encoding="utf-8").splitlines()]
    splits = sorted({row["split"] for row in rows})
    if canonical(split) not in splits:
        raise ValueError(f"the embedded corpus has no split {split!r}: choose one of {', '.join(splits)}")
    chosen = [row for row in rows if row["split"] == canonical(split)]
    return Rows([row["text"] for row in chosen], [row["label"] for row in chosen], None)


def checked(rows: Rows, label: str, split: str, imdb: bool) -> Dataset:
    where = f"{label}, split {split}"
    if not rows.texts:
        raise ValueError(f"{where}, is empty: at least one review is needed")
    try:
        texts = as_texts(rows.texts, "row")
        pairs = None if rows.pairs is None else as_texts(rows.pairs, "text_pair of row")
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}, {error}") from None
    values, labels = read_labels(rows.labels, rows.names, where)
    if imdb and labels == Labels(CLASS, ("0", "1")):
        labels = Labels(CLASS, IMDB_NAMES)
    seconds = None if pairs is None else [breaks_to_newlines(text) for text in pairs]
    return with_labels([breaks_to_newlines(text) for text in texts], values, labels, seconds)


def counted(data: Dataset) -> str:
    labels = labels_of(data)
    if labels.problem == NUMBER:
        return f"labels from {min(data['label']):g} to {max(data['label']):g}"
    if labels.problem != CLASS:
        return f"{len(labels.names):,} labels, several at once"
    if len(labels.names) > 5:
        return f"{len(labels.names):,} classes"
    count = Counter(data["label"])
    return ", ".join(
        f"{count[i]:,} {'labelled ' if labels.nameless else ''}{name}" for i, name in enumerate(labels.names)
    )


def draw(data: Dataset, n: int, seed: int, label: str) -> Dataset:
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    n = min(n, len(data))
    order = np.random.default_rng(seed).permutation(len(data)).tolist()
    chosen = set(order[:n])
    if (labels := labels_of(data)).problem == CLASS:
        values = list(data["label"])
        groups: list[list[int]] = [[] for _ in labels.names]
        for i in order:
            groups[values[i]].append(i)
        shares = _even(n, [len(group) for group in groups])
        chosen = {i for group, share in zip(groups, shares, strict=True) for i in group[:share]}
    drawn = data.select([i for i in order if i in chosen]).flatten_indices()
    drawn.info.description = label
    return drawn


def _even(n: int, most: Sequence[int]) -> list[int]:
    """Shares of n, as even as can be, none above its most; what does not divide goes to the first."""
    shares = [0] * len(most)
    while left := n - sum(shares):
        room = sorted((i for i, share in enumerate(shares) if share < most[i]), key=shares.__getitem__)
        for rank, i in enumerate(room):
            shares[i] = min(most[i], shares[i] + left // len(room) + (rank < left % len(room)))
    return shares
