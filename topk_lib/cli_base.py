"""What the files of the ``topk-lib`` command share: arguments, lines of input, and errors in a sentence."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

__all__ = ["AsJson", "Folder", "Source", "Texts", "lines_of", "one_sentence"]

Source = Annotated[
    str | None,
    typer.Option(help='A folder of reviews, "hub" or "embedded". [default: TOPK_IMDB, the hub, embedded]'),
]
Folder = Annotated[str, typer.Argument(help="The output folder of topk-lib finetune.")]
Texts = Annotated[list[str] | None, typer.Argument(help="Texts; without any, one a line from stdin.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


@contextmanager
def one_sentence() -> Iterator[None]:
    """Turn the library's errors into one line on stderr and exit code 2."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:  # who reads has read enough, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None
    except (OSError, ValueError, TypeError, RuntimeError, ImportError) as error:
        if os.environ.get("TOPK_TRACEBACK"):
            raise
        from topk_lib.training.together import first_to_tell

        if first_to_tell():
            typer.secho(f"topk-lib: {' '.join(str(error).split())}", fg="red", err=True)
        raise typer.Exit(2) from None


def lines_of(texts: list[str] | None) -> Iterator[str]:
    """The texts, or the lines of standard input that are not empty, whatever ends them."""
    if texts:
        yield from texts
        return
    for number, raw in enumerate(sys.stdin.buffer, 1):
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"line {number} of standard input is not UTF-8 (byte {raw[error.start]:#04x}): convert it, "
                "as with iconv -f latin1 -t utf-8"
            ) from None
        yield from (part for part in re.split(r"[\r\n]", line) if part.strip())
