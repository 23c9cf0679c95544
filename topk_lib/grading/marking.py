"""One question of one submission: its public checks and its hidden ones, each all or nothing."""

from __future__ import annotations

import builtins
import os
import random
import tempfile
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch

from topk_lib.grading.judging import Answer, Check, Raised, Refused, judge
from topk_lib.grading.marks import Outcome
from topk_lib.grading.master import Question

__all__ = ["PATIENCE", "mark_question", "run_public"]

PATIENCE = 2
"""Checks of a question that may take too long before the others are not tried."""


def mark_question(
    question: Question,
    imports: str,
    hidden: list[Check],
    answer_of: Callable[[str], Answer],
    seed: int | str,
) -> list[Outcome]:
    """Outcomes of the question's public checks and then of its hidden ones, in the order of the files.

    Both run here, in the grader's process; of the student's code only results come here. After
    :data:`PATIENCE` checks that took too long the others are lost, too.

    Args:
        question: of the master.
        imports: what public checks import.
        hidden: the assignment's hidden checks; those of other questions are left out.
        answer_of: gives a student's function by its name.
        seed: the student's.
    """
    outcomes: list[Outcome] = []
    share = Fraction(question.public, len(question.checks))
    for number, source in enumerate(question.checks, 1):
        if not (fault := _given_up(outcomes)):
            functions = {name: answer_of(name) for name in question.functions}
            fault = run_public(source, imports, functions)
        outcomes.append(Outcome(f"public {number}", True, share, not fault[0], *fault))
    for check in hidden:
        if check.question != question.name:
            continue
        if not (fault := _given_up(outcomes)):
            _seed()
            verdict = judge(check, answer_of(question.name), seed)
            fault = verdict.kind, verdict.sentence
        points = Fraction(check.points)
        outcomes.append(Outcome(check.name, False, points, not fault[0], *fault, check.about, check.rule))
    return outcomes


def _given_up(outcomes: list[Outcome]) -> tuple[str, str] | None:
    """The fault of all checks after those that took too long: a class has many endless loops."""
    slow = sum(one.kind == "too slow" for one in outcomes)
    return ("too slow", "not tried, as the checks before took too long") if slow >= PATIENCE else None


def run_public(source: str, imports: str, functions: Mapping[str, Answer]) -> tuple[str, str]:
    """The kind of fault and the sentence; both empty where the check passes.

    The check is the master's own code, as students have it: its names are what the notebook imports and the
    student's functions, behind each of which stands an :class:`Answer`. Files of its working folder are there
    for a function that is called, and those that the function writes come back; in another folder (after
    ``os.chdir``) the functions are new ones.
    """
    names: dict[str, Any] = {"__name__": "check"}
    exec(compile(imports, "<imports>", "exec"), names)
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            _seed()
            places = {os.getcwd(): next(iter(functions.values()))}
            names |= {name: _as_function(name, places) for name in functions}
            exec(compile(source, "<public check>", "exec"), names)
        except Refused as error:
            return error.kind, getattr(error, "told", str(error))
        except Exception as error:
            if refused := getattr(error, "refused", None):
                return "raised", refused
            if isinstance(error, AssertionError):
                return "wrong result", str(error)
            said = (str(error).strip().splitlines() or ["no more is said"])[0][:200]
            return "wrong type", f"the result cannot be used: {type(error).__name__}: {said}"
        finally:
            os.chdir(before)
    return "", ""


def _as_function(name: str, places: dict[str, Answer]) -> Callable[..., Any]:
    """Raises what the student's function raised, where that is one of Python's own errors."""

    def call(*args: Any, **kwargs: Any) -> Any:
        folder = Path.cwd()
        if str(folder) not in places:
            places[str(folder)] = next(iter(places.values())).fresh()
        answer = places[str(folder)].other(name)
        here = {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}
        for file, data in here.items():
            answer.put(file, data)
        try:
            result = answer(*args, **kwargs)
        except Raised as raised:
            _fetch(answer, folder, here)
            for kind in (getattr(builtins, each, None) for each in raised.names):
                if isinstance(kind, type) and issubclass(kind, Exception):
                    break
            error = _made(kind, raised.message)
            error.refused = f"{name} {raised}"  # type: ignore[attr-defined]
            raise error from None
        except Refused as refused:
            refused.told = f"{name} {refused}"  # type: ignore[attr-defined]
            raise
        _fetch(answer, folder, here)
        return result

    call.__name__ = name
    return call


def _fetch(answer: Answer, folder: Path, here: Mapping[str, bytes]) -> None:
    for file, data in answer.files().items():
        if here.get(file) != data:
            (folder / file).write_bytes(data)


def _made(kind: Any, message: str) -> Exception:
    try:
        error = kind(message)
    except TypeError:  # UnicodeDecodeError wants five arguments
        return Exception(message)
    assert isinstance(error, Exception)
    return error


def _seed() -> None:
    """Whatever a check draws on the side does not depend on the checks before it."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    random.seed(0)
