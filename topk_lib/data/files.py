"""Reading a folder of data files: which file is of which split, and what stands in it."""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import lzma
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from datasets import ClassLabel, Features

__all__ = ["Rows", "canonical", "class_names", "files_of_splits", "read_files"]

_OPEN: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_SUFFIXES = (".parquet", ".arrow", ".csv", ".tsv", ".jsonl", ".ndjson", ".json")
_NOT_DATA = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
_SPLITS = {
    "train": ("train", "training"),
    "dev": ("dev", "validation", "valid", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}


class Rows(NamedTuple):
    """The columns text and label as they stand in the files, and the class names where these have them.

    ``pairs`` is the column text_pair, the second text of each row; None where the files have none.
    """

    texts: list[Any]
    labels: list[Any]
    names: list[str] | None
    pairs: list[Any] | None = None


def canonical(split: str) -> str:
    """The one name of a split that goes by several: "validation", "valid" and "val" are "dev"."""
    return next((name for name, words in _SPLITS.items() if split in words), split)


def files_of_splits(folder: Path) -> dict[str, list[Path]]:
    """The data files in a folder and below it, by split.

    The folder's README.md tells where its header has ``configs``, as on the hub. Else the names do, that of
    the file first and then those of the folders it is in. Where no name speaks of a split, all is "train".

    Raises:
        ValueError: README.md names several sets, and none as the default.
    """
    found = _from_card(folder)
    if found is None:
        found = {}
        for path in sorted(folder.rglob("*")):
            inside = path.relative_to(folder)
            if _is_data(path) and not any(part.startswith((".", "__")) for part in inside.parts):
                found.setdefault(_split_of(inside), []).append(path)
        if found and not found.keys() & _SPLITS.keys():
            found = {"train": sorted(path for paths in found.values() for path in paths)}
    return found


def _check_once(paths: Sequence[Path]) -> None:
    seen: dict[str, Path] = {}
    for path in paths:
        other = seen.setdefault(_stem(path), path)
        if other is not path and (path.parent != other.parent or path.suffixes != other.suffixes):
            raise ValueError(
                f"{other} and {path} look like the same reviews twice: keep one, or name the subfolder "
                "that is meant"
            )


def _is_data(path: Path) -> bool:
    return _kind(path) in _SUFFIXES and path.name not in _NOT_DATA and path.is_file()


def _kind(path: Path) -> str:
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix in _OPEN else suffix


def _stem(path: Path) -> str:
    while path.suffix.lower() in (*_SUFFIXES, *_OPEN):
        path = path.with_suffix("")
    return path.name


def _split_of(path: Path) -> str:
    stem = _stem(path).lower()
    for name in (stem, *(part.lower() for part in reversed(path.parts[:-1]))):
        words = re.split(r"[^a-z]+", name)
        splits = [split for split, known in _SPLITS.items() if set(words) & set(known)]
        if len(splits) == 1:
            return splits[0]
    return re.sub(r"[-_.]?\d+(-of-\d+)?$", "", stem)


def _card(folder: Path) -> dict[str, Any]:
    """The header of README.md, as data sets have it on the hub."""
    path = folder / "README.md"
    try:
        text = path.read_text(encoding="utf-8")
        found = yaml.safe_load(text.split("---")[1]) if text.startswith("---") else {}
    except (OSError, UnicodeDecodeError, IndexError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def _from_card(folder: Path) -> dict[str, list[Path]] | None:
    configs = _card(folder).get("configs")
    if not isinstance(configs, list) or not all(isinstance(c, dict) and "data_files" in c for c in configs):
        return None
    chosen = [c for c in configs if c.get("default")] or configs
    if len(chosen) > 1:
        raise ValueError(
            f"the folder {str(folder)!r} holds several sets "
            f"({', '.join(str(c.get('config_name')) for c in configs)}): name the subfolder of one"
        )
    parts = chosen[0]["data_files"]
    if isinstance(parts, dict) and "path" not in parts:
        parts = [{"split": split, "path": where} for split, where in parts.items()]
    parts = parts if isinstance(parts, list) else [parts]
    found: dict[str, list[Path]] = {}
    for part in parts:
        split, where = (part.get("split"), part.get("path")) if isinstance(part, dict) else ("train", part)
        for pattern in where if isinstance(where, list) else [where]:
            try:
                paths = sorted(filter(_is_data, folder.glob(str(pattern))))
            except (ValueError, NotImplementedError) as error:
                raise ValueError(
                    f"{folder / 'README.md'}: {str(pattern)!r} names no file in the folder ({error}): write "
                    "its path from there"
                ) from None
            found.setdefault(canonical(str(split)), []).extend(paths)
    return {split: paths for split, paths in found.items() if paths} or None


def class_names(folder: Path) -> list[str] | None:
    """The class names of the column label, where the folder's README.md has them."""
    infos: Any = _card(folder).get("dataset_info")
    for info in infos if isinstance(infos, list) else [infos]:
        try:
            for feature in info["features"]:
                if feature["name"] == "label":
                    names = feature["dtype"]["class_label"]["names"]
                    keys = range(len(names)) if isinstance(names, list) else sorted(names, key=int)
                    return [str(names[key]) for key in keys]
        except (KeyError, TypeError, ValueError):
            continue
    return None


def read_files(paths: Sequence[Path]) -> Rows:
    """The rows of some files, one after another.

    Raises:
        ValueError: a file is broken, lacks a column, or names other classes than the first; or it looks
            like another once more. The sentence says which, and where.
    """
    _check_once(paths)
    texts: list[Any] = []
    labels: list[Any] = []
    names: list[str] | None = None
    pairs: list[Any] | None = None
    for number, path in enumerate(paths):
        try:
            rows = _read(path)
        except (
            UnicodeDecodeError,
            pa.ArrowException,
            EOFError,
            OSError,
            lzma.LZMAError,
            zlib.error,
        ) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # of the system, which names the file; those of pyarrow, gzip and bz2 do not
            raise ValueError(_broken(path, error)) from error
        if number and rows.names != names:
            raise ValueError(f"{path} has other classes ({rows.names}) than {paths[0].name} ({names})")
        if number and (rows.pairs is None) != (pairs is None):
            raise ValueError(f"{path} and {paths[0].name}: only one has a column text_pair: give it to both")
        names = rows.names
        texts += rows.texts
        labels += rows.labels
        pairs = None if rows.pairs is None else [*(pairs or []), *rows.pairs]
    return Rows(texts, labels, names, pairs)


def _broken(path: Path, error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        byte = error.object[error.start]
        line = error.object.count(b"\n", 0, error.start) + 1
        return f"{path}, line {line}: byte {byte:#04x} is not UTF-8: save the file as UTF-8"
    return f"{path} is damaged or cut off ({str(error).strip().splitlines()[0]}): fetch or write it again"


def _read(path: Path) -> Rows:
    kind = _kind(path)
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty: at least one review is needed")
    if kind in (".parquet", ".arrow"):
        return _read_table(path)
    with _OPEN.get(path.suffix.lower(), open)(path, "rb") as file:
        text = file.read().decode("utf-8-sig")
    if not text.strip():
        raise ValueError(f"{path} is empty: at least one review is needed")
    rows = (
        _read_csv(path, text, "\t" if kind == ".tsv" else ",")
        if kind in (".csv", ".tsv")
        else _read_json(path, text)
    )
    found = list(rows)
    seconds = [pair for _, pair, _ in found]
    with_pairs = any(pair is not None for pair in seconds)
    return Rows(
        [text for text, _, _ in found],
        [label for _, _, label in found],
        None,
        seconds if with_pairs else None,
    )


def _read_table(path: Path) -> Rows:
    with _OPEN.get(path.suffix.lower(), open)(path, "rb") as file:
        if _kind(path) == ".parquet":
            table = pq.read_table(file)
        else:
            try:
                table = pa.ipc.open_stream(file).read_all()
            except pa.ArrowInvalid:
                file.seek(0)
                table = pa.ipc.open_file(file).read_all()
    _check_columns(path, table.column_names)
    label = Features.from_arrow_schema(table.schema)["label"]
    label = getattr(label, "feature", label)
    names = list(label.names) if isinstance(label, ClassLabel) else None
    pairs = table["text_pair"].to_pylist() if "text_pair" in table.column_names else None
    return Rows(table["text"].to_pylist(), table["label"].to_pylist(), names, pairs)


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    for column in ("text", "label"):
        if list(columns).count(column) != 1:
            has = "has no" if column not in columns else "has more than one"
            raise ValueError(
                f"{path} {has} column {column!r} (it has {', '.join(columns)}): "
                "name the columns text and label"
            )


def _read_csv(path: Path, text: str, separator: str) -> Iterator[tuple[str, str | None, str]]:
    most = csv.field_size_limit(2**31 - 1)  # Python refuses texts over 131,072 characters
    reader = csv.reader(_lines(text), delimiter=separator, strict=True)
    try:
        columns = next(row for row in reader if row)
        _check_columns(path, columns)
        places = columns.index("text"), columns.index("label")
        second = columns.index("text_pair") if "text_pair" in columns else None
        for row in reader:
            if not row:
                continue
            if len(row) != len(columns):
                raise ValueError(
                    f"{path}, line {reader.line_num}: {len(row)} fields, where the first line names "
                    f"{len(columns)}: put a text that holds a {'comma' if separator == ',' else 'tab'} "
                    "in quotes"
                )
            yield row[places[0]], None if second is None else row[second], row[places[1]]
    except csv.Error as error:
        raise ValueError(
            f"{path}, line {reader.line_num}: {error} (a quote is open, or stands in the middle of a field): "
            'put the text in quotes and write each " in it twice'
        ) from None
    finally:
        csv.field_size_limit(most)


def _lines(text: str) -> Iterator[str]:
    """Lines with their ends, of whichever system; ``splitlines`` would break at other signs, too."""
    return (found[0] for found in re.finditer(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+$", text))


def _read_json(path: Path, text: str) -> Iterator[tuple[Any, Any, Any]]:
    if text.lstrip().startswith("["):
        word, rows = "record", list(enumerate(_parsed(path, 1, text), 1))
    else:
        lines = enumerate(text.split("\n"), 1)
        word, rows = "line", [(n, _parsed(path, n, line)) for n, line in lines if line.strip()]
    for number, row in rows:
        if not isinstance(row, dict):
            raise ValueError(f'{path}, {word} {number} is no object: write {{"text": ..., "label": ...}}')
        if not {"text", "label"} <= row.keys():
            lacking = "text" if "text" not in row else "label"
            raise ValueError(
                f"{path}, {word} {number}, has no column {lacking!r} (it has {', '.join(row)}): "
                "name the columns text and label"
            )
        yield row["text"], row.get("text_pair"), row["label"]


def _parsed(path: Path, line: int, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path}, line {getattr(error, 'lineno', 1) + line - 1} is no JSON ({error}): is it cut off?"
        ) from None
