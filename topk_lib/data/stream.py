"""Texts without labels, one after another, however many there are: what is pretrained on."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from datasets import get_dataset_split_names, load_dataset
from datasets.exceptions import DatasetGenerationError

from topk_lib.data.files import canonical, files_of_splits
from topk_lib.data.hub import asked_once
from topk_lib.data.reviews import CORPUS_FILE, EMBEDDED, HUB_NAME, breaks_to_newlines
from topk_lib.data.texts import as_texts, text_hash

__all__ = ["TextStream", "stream_texts"]

_BUILDERS = {
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".txt": "text",
}
_PACKED = re.compile(r"\.(gz|bz2|xz)$")
_NEVER = ("test", "dev")


class TextStream:
    """Texts that are read from where they lie each time they are asked for; none is held in memory.

    Args:
        label: where they come from, in a few words.
        parts: a source for each split: an iterable that can be gone through again and gives rows.
        kept_back: the same, for splits that are measured on: their texts are given to nobody, nor are
            copies of them that stand in other splits.
    """

    def __init__(
        self, label: str, parts: dict[str, Iterable[Any]], kept_back: dict[str, Iterable[Any]] | None = None
    ) -> None:
        self.label, self._parts, self._kept_back = label, parts, kept_back or {}
        self._measured_on: set[int] | None = None
        self.empty = 0
        """How many were left out because nothing stands in them; counted by :meth:`__iter__`."""
        self.copies: dict[str, int] = {}
        """How many of each split were left out as copies of texts kept back; counted by :meth:`__iter__`."""

    @property
    def splits(self) -> list[str]:
        return list(self._parts)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """The split and the text, HTML line breaks turned into newlines."""
        if self._measured_on is None:
            self._measured_on = {text_hash(text) for _, text in self._read(self._kept_back)}
        self.empty, self.copies = 0, dict.fromkeys(self._parts, 0)
        for split, text in self._read(self._parts):
            if not text.strip():
                self.empty += 1
            elif self._measured_on and text_hash(text) in self._measured_on:
                self.copies[split] += 1
            else:
                yield split, text

    def _read(self, parts: dict[str, Iterable[Any]]) -> Iterator[tuple[str, str]]:
        for split, rows in parts.items():
            number = 0
            try:
                for number, row in enumerate(rows):
                    if "text" not in row:
                        raise ValueError(
                            f"{self.label}, split {split}, has no column 'text' (it has {', '.join(row)}): "
                            "name the column text"
                        )
                    (text,) = as_texts([row["text"]], f"{self.label}, split {split}, row {number}, text")
                    yield split, breaks_to_newlines(text)
            except (DatasetGenerationError, UnicodeDecodeError, EOFError) as error:
                raise ValueError(
                    f"{self.label}, split {split}, cannot be read after row {number} "
                    f"({str(error.__cause__ or error).splitlines()[0]}): is the file cut off, or no UTF-8?"
                ) from error


def stream_texts(source: str | Path | None = None, *, splits: Sequence[str] | None = None) -> TextStream:
    """Texts to pretrain on, labelled or not.

    Args:
        source: as in :func:`~topk_lib.data.load_reviews`; or a file of plain text (``.txt``) with a text on
            each line, or a folder of such files.
        splits: None: every split but test and dev.

    Returns:
        A stream that can be gone through as often as one likes. Texts that stand word for word in a test or
        dev split are not in it, unless that split was asked for.

    Raises:
        FileNotFoundError: the named folder or file is not there, or holds nothing to read.
        ConnectionError: the hub was named and cannot be reached.
        ValueError: no such split.
    """
    label, parts = _parts(source)
    known = {canonical(split): part for split, part in parts.items()}
    asked = (
        [split for split in known if split not in _NEVER]
        if splits is None
        else [canonical(split) for split in dict.fromkeys(splits)]
    )
    if not asked or (lacking := [split for split in asked if split not in known]):
        wanted = repr(lacking[0]) if asked else "to learn from"
        raise ValueError(f"{label} has no split {wanted}: it has {', '.join(sorted(known))}")
    kept_back = {split: known[split] for split in _NEVER if split in known and split not in asked}
    return TextStream(label, {split: known[split] for split in asked}, kept_back)


def _parts(source: str | Path | None) -> tuple[str, dict[str, Iterable[Any]]]:
    if source is None:
        source = os.environ.get("TOPK_IMDB") or None
    if source is None:
        try:
            return _hub()
        except ConnectionError:
            source = "embedded"
    if str(source) == "embedded":
        rows = load_dataset("json", data_files=str(CORPUS_FILE), split="train", streaming=True)
        return EMBEDDED, {split: _Where(rows, split) for split in ("train", "dev", "test")}
    if str(source) in ("hub", HUB_NAME):
        return _hub()
    path = Path(source).expanduser()
    if path.is_file():
        return f"the file {path.name}", {"train": _files([path])}
    if not str(source).strip() or not path.is_dir():
        raise FileNotFoundError(
            f"no folder or file {str(source)!r} with texts: check the path (or TOPK_IMDB), "
            'or say "hub" or "embedded"'
        )
    found = files_of_splits(path)
    if not found and (plain := sorted(path.glob("*.txt"))):
        found = {"train": plain}
    if not found:
        raise FileNotFoundError(
            f"the folder {str(source)!r} holds no texts: put files of plain text there (.txt, a text on each "
            "line), or parquet, arrow, csv, tsv, jsonl or json files with a column text"
        )
    return f"the folder {path.absolute().name}", {split: _files(paths) for split, paths in found.items()}


def _hub() -> tuple[str, dict[str, Iterable[Any]]]:
    try:
        with asked_once(HUB_NAME):
            names = get_dataset_split_names(HUB_NAME)
            return f"the hub's {HUB_NAME}", {
                name: load_dataset(HUB_NAME, split=name).select_columns("text") for name in names
            }
    except Exception as error:  # hub clients raise many kinds: offline, DNS, time-out, refused
        raise ConnectionError(
            f"the hub's {HUB_NAME} cannot be reached ({type(error).__name__}): check the network, set "
            'TOPK_IMDB to a folder that holds the set, or take source="embedded"'
        ) from error


def _files(paths: Sequence[Path]) -> Iterable[Any]:
    path = paths[0]
    suffix = Path(_PACKED.sub("", path.name)).suffix.lower()
    if suffix not in _BUILDERS:
        raise ValueError(
            f"{path} is no kind of file that can be read: take {', '.join(_BUILDERS)} (a .txt file has a "
            "text on each line)"
        )
    rows: Iterable[Any] = load_dataset(
        _BUILDERS[suffix], data_files=[str(path) for path in paths], split="train", streaming=True,
        **({"delimiter": "\t"} if suffix == ".tsv" else {}),
    )  # fmt: skip
    return rows


class _Where:
    """The rows of one split of a file that holds several."""

    def __init__(self, rows: Iterable[Any], split: str) -> None:
        self.rows, self.split = rows, split

    def __iter__(self) -> Iterator[Any]:
        return (row for row in self.rows if row["split"] == self.split)
