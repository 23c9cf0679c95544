"""A file of texts in, a file of answers out: in little memory, and never from the beginning again."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from topk_lib.data import as_texts
from topk_lib.serving.predictor import Predictor
from topk_lib.serving.rows import KINDS, Row, kind_of, read_rows

__all__ = ["Summary", "answer_rows", "predict_file"]

_CHUNK_TEXTS, _CHUNK_SIGNS = 512, 2_000_000
_Line = dict[str, Any]


@dataclass(frozen=True)
class Summary:
    """What became of a file.

    Attributes:
        rows: in the file.
        answered, unread: their numbers.
        unread_file: where rows that could not be read stand with the reason; None: there are none.
        seconds: in which the model answered, earlier sittings included.
        texts_per_second: answered in a second of these.
    """

    rows: int
    answered: int
    unread: int
    unread_file: str | None
    seconds: float
    texts_per_second: float


def predict_file(
    folder: str | Path,
    source: str | Path,
    target: str | Path,
    *,
    text: str = "text",
    pair: str | None = None,
    batch_size: int = 32,
    quiet: bool = True,
) -> Summary:
    """Ask a model of :func:`~topk_lib.training.finetune` about every row of a file.

    The answers go to ``TARGET.part`` first, a line a row, each chunk flushed to the disk before the next is
    read. The same call after an interruption goes on behind its last whole line, and moves the finished
    file into place at the end, so that no row is lost or answered twice. A row that cannot be read goes to
    ``TARGET.unread.jsonl`` with its number and the reason.

    Args:
        folder: of the model.
        source: a csv, tsv, jsonl or parquet file; text files may be packed (.gz, .bz2, .xz).
        target: the file to write, of any of these kinds (not packed). It has the columns of ``source`` and
            those of the answer: ``prediction`` (a class, several joined by commas, or a number) and, of
            classes, ``probability_NAME`` for each. Columns keep their types from parquet to parquet and from
            jsonl to jsonl; else they become text.
        text, pair: the columns that are read; ``pair`` for a model of text pairs.
        batch_size: texts that the model reads at once.
        quiet: show no bar.

    Raises:
        OSError: no such file or model, or the disk is full.
        ValueError: a file of another kind; no such column; ``target`` exists, or its part belongs to
            another input or model.
        RuntimeError: another command is writing the same file.
    """
    source, target = Path(source), Path(target)
    _check(source, target)
    part = _part(target)
    with _alone(part):
        predictor = Predictor(folder, batch_size=batch_size)
        about = _about(predictor, source, text, pair)
        done = _begun(part, about, target)
        with part.open("ab") as file, _bar(source.name, quiet) as shown:
            rows = islice(read_rows(source), done, None)
            for lines, seconds, share in _answered(predictor, rows, text, pair):
                chunk = [*lines, {"seconds": seconds}]
                file.write("".join(json.dumps(line) + "\n" for line in chunk).encode())
                file.flush()
                os.fsync(file.fileno())
                shown(share)
        return _finish(predictor, source, target, part)


def answer_rows(
    predictor: Predictor, rows: Iterable[Row], text: str = "text", pair: str | None = None
) -> Iterator[tuple[Row, _Line]]:
    """Each row with its line: ``{"row": ..., "answer": ...}`` or ``{"row": ..., "fault": ...}``."""
    for chunk in _chunks(rows, text):
        good: list[tuple[int, str, str]] = []
        lines: list[_Line] = []
        for row in chunk:
            line: _Line = {"row": row.number}
            fault = row.fault
            if row.fields is not None and not fault:
                try:
                    first, second = _text(row, text), _text(row, pair) if pair else ""
                    good.append((len(lines), first, second))
                except ValueError as error:
                    fault = str(error)
            lines.append(line | ({"fault": fault} if fault else {}))
        pairs = [second for *_, second in good] if pair else None
        answers = predictor([first for _, first, _ in good], pairs)
        for (at, *_), answer in zip(good, answers, strict=True):
            lines[at]["answer"] = answer
        yield from zip(chunk, lines, strict=True)


def _answered(
    predictor: Predictor, rows: Iterator[Row], text: str, pair: str | None
) -> Iterator[tuple[list[_Line], float, float]]:
    for chunk in _chunks(rows, text):
        begun = time.perf_counter()
        lines = [line for _, line in answer_rows(predictor, chunk, text, pair)]
        yield lines, time.perf_counter() - begun, chunk[-1].done


def _chunks(rows: Iterable[Row], text: str) -> Iterator[list[Row]]:
    """So many rows, or so many characters, whichever is less."""
    chunk: list[Row] = []
    signs = 0
    for row in rows:
        chunk.append(row)
        signs += len(str((row.fields or {}).get(text) or ""))
        if len(chunk) == _CHUNK_TEXTS or signs >= _CHUNK_SIGNS:
            yield chunk
            chunk, signs = [], 0
    if chunk:
        yield chunk


def _text(row: Row, column: str) -> str:
    assert row.fields is not None
    if column not in row.fields:
        raise ValueError(f"it has no column {column!r} (it has {', '.join(map(str, row.fields))})")
    value = row.fields[column]
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"column {column!r} holds {str(value)[:40]!r}, no text")
    try:
        return as_texts([value], column)[0]
    except ValueError as error:
        raise ValueError(str(error)) from None


def _part(target: Path) -> Path:
    return target.with_name(f"{target.name}.part")


def _check(source: Path, target: Path) -> None:
    if not source.is_file():
        raise FileNotFoundError(f"there is no file {source}: name a {', '.join(KINDS)} file of texts")
    kind_of(source)
    if target.suffix.lower() not in KINDS:
        raise ValueError(f"{target}: name a file to write that ends in {', '.join(KINDS)}")
    if target.exists() and not _part(target).exists():  # with it, the last call ended just before its end
        raise ValueError(f"{target} exists already: delete it, or name another file to write")
    if not target.absolute().parent.is_dir():
        raise FileNotFoundError(f"there is no folder {target.absolute().parent}: make it first")


def _about(predictor: Predictor, source: Path, text: str, pair: str | None) -> _Line:
    """What a part must have in common with a call that goes on with it."""
    first = next(read_rows(source), None)
    if first is None:
        raise ValueError(f"{source} has no rows: at least one text is needed")
    if clash := {name for name in first.fields or {} if name.split("_")[0] in ("prediction", "probability")}:
        raise ValueError(f"{source} has a column {min(clash)!r}, as the answer will have: rename it")
    for column in filter(None, (text, pair)):
        if first.fields is not None and column not in first.fields:
            raise ValueError(
                f"{source} has no column {column!r} (it has {', '.join(first.fields)}): "
                "name the column of the texts with --text"
            )
    stat = source.stat()
    weights = predictor.folder / "model.safetensors"
    model = weights.stat() if weights.is_file() else predictor.folder.stat()
    return {
        "source": [stat.st_size, stat.st_mtime_ns], "model": [model.st_size, model.st_mtime_ns],
        "columns": [text, pair], "labels": list(predictor.labels.names),
    }  # fmt: skip


@contextmanager
def _alone(part: Path) -> Iterator[None]:
    name = hashlib.sha256(str(part.absolute()).encode()).hexdigest()[:24]
    try:
        with FileLock(Path(tempfile.gettempdir()) / f"topk-{name}.lock", timeout=0):
            yield
    except Timeout:
        raise RuntimeError(f"another command is writing {part}: wait for it, or name another file") from None


def _begun(part: Path, about: _Line, target: Path) -> int:
    """How many rows are answered already; what the end of a killed call left of a line is cut off."""
    if not part.exists():
        part.write_text(json.dumps(about) + "\n")
        return 0
    whole, rows = 0, 0
    with part.open("rb") as file:
        for number, raw in enumerate(file):
            line = _whole(raw)
            if line is None:
                break
            if number == 0 and line != about:
                raise ValueError(
                    f"{part} belongs to a call with another input, model or columns: delete it to begin "
                    f"anew, or name another file than {target}"
                )
            whole += len(raw)
            rows += "row" in line
    if whole == 0:
        part.write_text(json.dumps(about) + "\n")
    else:
        os.truncate(part, whole)
    return rows


def _whole(raw: bytes) -> _Line | None:
    try:
        line = json.loads(raw) if raw.endswith(b"\n") else None
    except ValueError:
        return None
    return line if isinstance(line, dict) else None


def _finish(predictor: Predictor, source: Path, target: Path, part: Path) -> Summary:
    """Put rows and answers side by side, once more from the beginning, and move the file into place."""
    beside = target.with_name(f"{target.name}.tmp")
    unread = target.with_name(f"{target.name}.unread.jsonl")
    counts = {"answered": 0, "unread": 0}
    seconds = 0.0

    def lines() -> Iterator[_Line]:
        nonlocal seconds
        with part.open("rb") as file:
            for raw in islice(file, 1, None):
                line = json.loads(raw)
                seconds += line.get("seconds", 0.0)
                if "row" in line:
                    yield line

    def good() -> Iterator[_Line]:
        for row, line in zip(read_rows(source), lines(), strict=True):
            if "fault" in line:
                counts["unread"] += 1
                told = {"row": row.number, "fault": line["fault"], "fields": row.fields}
                apart.write(json.dumps(told, default=str, ensure_ascii=False) + "\n")
                continue
            counts["answered"] += 1
            assert row.fields is not None
            yield row.fields | _columns(predictor, line["answer"])

    with unread.open("w", encoding="utf-8", errors="backslashreplace") as apart:
        _WRITERS[target.suffix.lower()](beside, good(), source)
    if not counts["unread"]:
        unread.unlink()
    beside.replace(target)
    part.unlink()
    return Summary(
        sum(counts.values()), counts["answered"], counts["unread"], str(unread) if counts["unread"] else None,
        round(seconds, 3), round(counts["answered"] / max(seconds, 1e-9), 2),
    )  # fmt: skip


def _columns(predictor: Predictor, answer: _Line) -> _Line:
    told = predictor.told(answer)
    if "number" in told:
        return {"prediction": told["number"]}
    one = ", ".join(told["labels"]) if "labels" in told else told["label"]
    return {"prediction": one} | {f"probability_{name}": p for name, p in told["probabilities"].items()}


def _write_jsonl(path: Path, rows: Iterator[_Line], _: Path) -> None:
    with path.open("w", encoding="utf-8", errors="backslashreplace") as file:  # half a surrogate pair
        for row in rows:
            file.write(json.dumps(row, default=str, ensure_ascii=False) + "\n")


def _write_csv(path: Path, rows: Iterator[_Line], source: Path) -> None:
    rows, names = _names(rows, source)
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        tab = "\t" if [s.lower() for s in path.suffixes[-2:-1]] == [".tsv"] else ","
        writer = csv.writer(file, delimiter=tab)
        writer.writerow(names)
        writer.writerows([_as_text(row.get(name)) for name in names] for row in rows)


def _write_parquet(path: Path, rows: Iterator[_Line], source: Path) -> None:
    rows, names = _names(rows, source)
    first = next(rows, None)
    typed = pq.read_schema(source) if kind_of(source) == ".parquet" else None
    fields = []
    for name in names:
        ours = (
            first is not None
            and isinstance(first.get(name), float)
            and name.partition("_")[0] in ("prediction", "probability")
        )
        kind = typed.field(name).type if typed is not None and name in typed.names else None
        fields.append(pa.field(name, kind or (pa.float64() if ours else pa.string())))
    schema = pa.schema(fields, metadata=None if typed is None else typed.metadata)
    everything = rows if first is None else chain([first], rows)
    with pq.ParquetWriter(path, schema) as writer:
        while chunk := list(islice(everything, 4096)):
            columns = {
                field.name: [
                    _as_text(row.get(field.name)) if field.type == pa.string() else row.get(field.name)
                    for row in chunk
                ]
                for field in schema
            }
            writer.write_table(pa.table(columns, schema=schema))


_WRITERS: dict[str, Callable[[Path, Iterator[_Line], Path], None]] = {
    ".jsonl": _write_jsonl, ".csv": _write_csv, ".tsv": _write_csv, ".parquet": _write_parquet,
}  # fmt: skip


def _names(rows: Iterator[_Line], source: Path) -> tuple[Iterator[_Line], list[str]]:
    """All columns in the order in which they come; of a jsonl file each row may have others."""
    first = next(rows, None)
    if first is None:
        return rows, []
    names = dict.fromkeys(first)
    if kind_of(source) == ".jsonl":
        ours = set(first) - set(next((r.fields for r in read_rows(source) if r.fields is not None), {}))
        more = chain.from_iterable(row.fields or {} for row in read_rows(source))
        names = dict.fromkeys(chain((n for n in dict.fromkeys(more)), (n for n in first if n in ours)))
    return chain([first], rows), list(names)


def _as_text(value: Any) -> Any:
    """As a field of text: None and text as they are, what has parts as JSON."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if value is None:
        return value
    return json.dumps(value, default=str, ensure_ascii=False)


def _bar(name: str, quiet: bool) -> AbstractContextManager[Callable[[float], None]]:
    return nullcontext(lambda share: None) if quiet else _shown(name)


@contextmanager
def _shown(name: str) -> Iterator[Callable[[float], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True) as progress:
        task = progress.add_task(name, total=1.0)
        yield lambda share: progress.update(task, completed=share)
