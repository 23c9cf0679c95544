"""Hidden checks on functions of this process: for who writes them. Nothing is refused here."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from topk_lib.grading.judging import Answer, Raised, Refused, Session, Wrong, judge, load_private
from topk_lib.grading.perform import OPERATIONS, WrongForm

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
        if function not in self._functions:
            raise Refused("missing", "is missing: no function of this name was found")
        here = os.getcwd()
        os.chdir(self._path)
        try:
            return _copied(
                OPERATIONS[operation](self._functions[function], _copied(list(args)), _copied(dict(kwargs)))
            )
        except (Wrong, Refused):
            raise
        except WrongForm as error:
            raise Refused("wrong type", str(error)) from error
        except Exception as error:
            first = (str(error).strip().splitlines() or ["no more is said"])[0][:200]
            names = [kind.__name__ for kind in type(error).__mro__]
            raise Raised(f"raised {names[0]}: {first}", names, str(error)) from error
        except SystemExit as error:
            raise Refused("ended itself", f"ended the program (exit code {error.code})") from error
        finally:
            os.chdir(here)

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted(self._path.iterdir()) if path.is_file()}

    def put(self, name: str, data: bytes) -> None:
        (self._path / name).write_bytes(data)

    def fresh(self) -> Session:
        return _Local(self._functions)


def _copied(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        return value
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, (np.ndarray, np.generic)):
        return value.copy()
    if isinstance(value, dict):
        return {key: _copied(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        parts = [_copied(part) for part in value]
        return parts if isinstance(value, list) else tuple(parts)
    if callable(value):
        return value
    raise Refused("wrong type", f"gave or got a {type(value).__name__}, which is not plain data")
