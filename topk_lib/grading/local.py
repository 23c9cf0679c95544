"""Hidden checks on functions of this process: for who writes them. Nothing is refused here."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from topk_lib.grading.judging import Answer, Refused, Session, Wrong, judge, load_private, unpacked
from topk_lib.grading.perform import reply
from topk_lib.grading.wire import Unsendable, copied, dumps, loads

__all__ = ["local", "try_hidden"]


def local(
    functions: Callable[..., Any] | Mapping[str, Callable[..., Any]], name: str | None = None
) -> Answer:
    """An answer of this process: a function, or several by their names (the first, or the one named)."""
    if not isinstance(functions, Mapping):
        name = name or functions.__name__
        functions = {name: functions}
    return Answer(_Local(functions), name or next(iter(functions)))


def try_hidden(
    assignment: str,
    functions: Mapping[str, Callable[..., Any]],
    seed: int | str = 0,
    root: str | os.PathLike[str] | None = None,
) -> list[tuple[str, str, int, str]]:
    """(question, check, points, sentence or "") of every hidden check, with functions of this process."""
    told = []
    for check in load_private(assignment, root).hidden:
        verdict = judge(check, local(functions, check.question), seed)
        told.append((check.question, check.name, verdict.points, verdict.sentence))
    return told


class _Local(Session):
    def __init__(self, functions: Mapping[str, Callable[..., Any]]) -> None:
        self._functions = functions
        self._folder = tempfile.TemporaryDirectory()
        self._path = Path(self._folder.name)

    def ask(self, function: str, operation: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        call_backs: list[Callable[..., Any]] = []
        stops: list[Exception] = []

        def back(number: int) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                try:
                    return copied(call_backs[number](*copied(args), **copied(kwargs)))
                except (Wrong, Refused) as error:  # ends the check, whatever the student's code catches
                    stops.append(error)
                    raise

            return call

        given = loads(dumps({"args": list(args), "kwargs": kwargs}, call_backs), back)
        here = os.getcwd()
        os.chdir(self._path)
        try:
            told = reply(self._functions.get(function), operation, given["args"], given["kwargs"])
        finally:
            os.chdir(here)
        if stops:
            raise stops[0]
        try:
            return unpacked(loads(dumps(told)))
        except Unsendable as error:
            raise Refused("wrong type", f"returned {error}: results are plain data") from None

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted(self._path.iterdir()) if path.is_file()}

    def put(self, name: str, data: bytes) -> None:
        (self._path / name).write_bytes(data)

    def fresh(self) -> Session:
        return _Local(self._functions)

    def printed(self) -> str:
        return ""
