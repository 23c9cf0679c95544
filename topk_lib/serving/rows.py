"""Files of texts, a row at a time: what cannot be read is said of its row and costs no other."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

__all__ = ["KINDS", "Row", "kind_of", "read_rows"]

KINDS = (".csv", ".tsv", ".jsonl", ".parquet")
_OPEN: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_LONGEST = 10_000_000  # characters of a field: past them a quote was left open


class Row(NamedTuple):
    """One row of a file.

    Attributes:
        number: from 1; of a csv file the line of names is not counted.
        fields: what stands in it, by column; None where it cannot be read.
        fault: why not, a sentence; "" where it can.
        done: how much of the file lies behind it, 0 to 1.
    """

    number: int
    fields: dict[str, Any] | None
    fault: str
    done: float


def kind_of(path: Path) -> str:
    """ ".csv", ".tsv", ".jsonl" or ".parquet", whatever it is packed with.

    Raises:
        ValueError: none of these.
    """
    suffix = path.suffix.lower()
    kind = Path(path.stem).suffix.lower() if suffix in _OPEN else suffix
    kind = ".jsonl" if kind == ".ndjson" else kind
    if kind not in KINDS or (kind == ".parquet" and suffix in _OPEN):
        raise ValueError(
            f"{path}: write or name a file that ends in {', '.join(KINDS)} (text files may be .gz)"
        )
    return kind


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a csv, tsv, jsonl or parquet file, with no more than a few of them in memory.

    Raises:
        OSError: there is no such file.
        ValueError: it is no such file, or damaged as a whole; the sentence says where.
    """
    kind = kind_of(path)
    try:
        if kind == ".parquet":
            yield from _parquet(path)
            return
        size = max(1, path.stat().st_size)
        with path.open("rb") as raw:
            opener = _OPEN.get(path.suffix.lower())
            file: IO[bytes] = opener(raw, "rb") if opener else raw

            def done() -> float:
                return min(1.0, raw.tell() / size)

            yield from (_json(file, done) if kind == ".jsonl" else _csv(path, file, kind, done))
    except (pa.ArrowException, EOFError, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise ValueError(
            f"{path} is damaged or cut off ({str(error).strip().splitlines()[0]}): fetch or write it again"
        ) from error


def _parquet(path: Path) -> Iterator[Row]:
    with pq.ParquetFile(path) as file:
        total, number = max(1, file.metadata.num_rows), 0
        for batch in file.iter_batches(batch_size=256):
            for fields in batch.to_pylist():
                number += 1
                yield Row(number, fields, "", number / total)


def _json(file: IO[bytes], done: Callable[[], float]) -> Iterator[Row]:
    number = 0
    while line := file.readline(_LONGEST):
        if not line.strip():
            continue
        number += 1
        if len(line) == _LONGEST and not line.endswith(b"\n"):
            while (more := file.readline(_LONGEST)) and not more.endswith(b"\n"):
                pass
            yield Row(number, None, f"the line is longer than {_LONGEST:,} bytes", done())
            continue
        try:
            fields = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            fault = "" if isinstance(fields, dict) else 'it is no object: write {"text": ...}'
        except UnicodeDecodeError as error:
            fields, fault = None, f"byte {line[error.start]:#04x} is not UTF-8"
        except (ValueError, RecursionError) as error:
            fields, fault = None, f"it is no JSON ({error})"
        yield Row(number, None if fault else fields, fault, done())


def _csv(path: Path, file: IO[bytes], kind: str, done: Callable[[], float]) -> Iterator[Row]:
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
    most = csv.field_size_limit(_LONGEST)  # of the whole process; it is small by default
    try:
        reader = csv.reader(text, delimiter="\t" if kind == ".tsv" else ",", strict=True)
        names = next((row for row in reader if row), [])
        if len(set(names)) < len(names) or not names:
            raise ValueError(f"{path}: its first line must name the columns, each once, got {names}")
        number = 0
        while True:
            csv.field_size_limit(_LONGEST)
            fields: dict[str, Any] | None = None
            try:
                row = next(reader)
                if not row:
                    continue
                fault = _fault(row, len(names))
                fields = None if fault else dict(zip(names, row, strict=True))
            except StopIteration:
                return
            except csv.Error as error:
                fault = f"{error} (line {reader.line_num}; a quote is open, or stands inside a field)"
            number += 1
            yield Row(number, fields, fault, done())
    finally:
        csv.field_size_limit(most)
        text.detach()


def _fault(row: list[str], columns: int) -> str:
    if len(row) != columns:
        return f"it has {len(row)} fields, where the first line names {columns}"
    for field in row:
        if half := next((sign for sign in field if "\udc80" <= sign <= "\udcff"), ""):
            return f"byte {ord(half) - 0xDC00:#04x} is not UTF-8"
    return ""
