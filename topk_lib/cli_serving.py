"""The commands that put a fine-tuned model to work: ``predict`` and ``serve``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from topk_lib.cli_base import AsJson, Folder, Texts, lines_of, one_sentence

if TYPE_CHECKING:
    from topk_lib.serving import Predictor

__all__ = ["predict", "serve"]


def predict(
    folder: Folder,
    texts: Texts = None,
    source: Annotated[
        str | None, typer.Option("--input", help="A csv, tsv, jsonl or parquet file, in place of texts.")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option("--output", help="The file to write, of any of these kinds. The same command resumes."),
    ] = None,
    text: Annotated[str, typer.Option(help="Its column of texts.")] = "text",
    pair: Annotated[str | None, typer.Option(help="For a model of text pairs: the second column.")] = None,
    batch_size: Annotated[int, typer.Option(help="Texts that are read at once.")] = 32,
    record: Annotated[
        str | None,
        typer.Option(help="Write results/EXPERIMENT/RUN.DEVICE.json: give EXPERIMENT/RUN. Takes --output."),
    ] = None,
    quiet: bool = False,
    as_json: AsJson = False,
) -> None:
    """Print what a fine-tuned model makes of each text, one JSON object a line; or answer a whole file.

    A line holds "label" and "probabilities", and where the classes are negative and positive also "positive",
    the probability of that one; "labels" and "probabilities" where a text has several labels; or "number".
    Without --output a file is answered on standard output, and a row that cannot be read has a "fault".
    """
    with one_sentence():
        if (target or record or pair) and not source:
            raise ValueError("--output, --pair and --record go with --input FILE")
        if source and texts:
            raise ValueError("give texts or --input FILE, not both")
        if record and not target:
            raise ValueError("--record measures the writing of a file: name it with --output")
        if source and target:
            _file(folder, source, target, text, pair, batch_size, record, quiet or as_json, as_json)
            return
        from topk_lib.serving import Predictor

        predictor = Predictor(folder, batch_size=batch_size)
        for told in _answers(predictor, source, texts, text, pair):
            print(json.dumps(told, default=str))


def _answers(
    predictor: Predictor, source: str | None, texts: list[str] | None, text: str, pair: str | None
) -> Iterator[dict[str, Any]]:
    from topk_lib.serving.batch import answer_rows
    from topk_lib.serving.rows import read_rows

    if source is None:
        lines = lines_of(texts)
        while some := list(islice(lines, 512)):
            for line, answer in zip(some, predictor(some), strict=True):
                yield predictor.told(answer) | {"text": line}
        return
    for row, found in answer_rows(predictor, read_rows(Path(source)), text, pair):
        told = {"fault": found["fault"]} if "fault" in found else predictor.told(found["answer"])
        yield (row.fields or {"row": row.number}) | told


def _file(
    folder: str, source: str, target: str, text: str, pair: str | None, batch_size: int, record: str | None,
    quiet: bool, as_json: bool,
) -> None:  # fmt: skip
    from dataclasses import asdict

    from topk_lib import records
    from topk_lib.serving import predict_file

    summary = predict_file(folder, source, target, text=text, pair=pair, batch_size=batch_size, quiet=quiet)
    told = asdict(summary)
    if record:
        path = records.write(
            *record.split("/"), metrics=told, settings={"batch_size": batch_size},
            data={"source": Path(source).name, "rows": summary.rows}, seconds=summary.seconds,
            command=f"topk-lib predict MODEL --input {Path(source).name} --output {Path(target).name}",
        )  # fmt: skip
        told["record"] = str(path)
    if as_json:
        print(json.dumps(told))
        return
    print(f"{summary.answered:,} rows answered in {target}, {summary.texts_per_second:,.0f} texts a second")
    if summary.unread_file:
        print(f"{summary.unread:,} rows could not be read: see {summary.unread_file}")


def serve(
    folder: Folder,
    host: Annotated[
        str, typer.Option(help='Where to listen; "0.0.0.0" for other machines, too.')
    ] = "127.0.0.1",
    port: int = 8000,
    batch_size: Annotated[int, typer.Option(help="Texts that are read at once.")] = 32,
    most_texts: Annotated[int, typer.Option(help="In one request.")] = 64,
    most_characters: Annotated[int, typer.Option(help="In one text.")] = 20_000,
    most_waiting: Annotated[
        int, typer.Option(help="Texts that may wait before new ones are refused.")
    ] = 1024,
    seconds: Annotated[float, typer.Option(help="After which a request is given up.")] = 30.0,
) -> None:
    """Answer over HTTP: POST /predict, GET /health and /metrics, and /docs for a browser."""
    with one_sentence():
        try:
            from topk_lib.serving.server import Limits
            from topk_lib.serving.server import serve as run
        except ImportError:
            raise ImportError("serve needs FastAPI and others: pip install 'topk-lib[serve]'") from None
        limits = Limits(most_texts, most_characters, most_waiting, seconds, batch_size)
        run(folder, host=host, port=port, limits=limits)
