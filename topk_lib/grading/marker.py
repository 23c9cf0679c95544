"""What a worker process does: collect a submission, and mark one question of it in the sandbox."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from topk_lib.grading.collect import Collected, collect
from topk_lib.grading.judging import Answer, Draw, Private, Refused, load_private
from topk_lib.grading.marking import mark_question
from topk_lib.grading.marks import Outcome
from topk_lib.grading.master import read_master
from topk_lib.grading.sandbox import Sandbox
from topk_lib.grading.submissions import student_seed

__all__ = ["BOARD", "Piece", "Reply", "board_of", "marker"]

BOARD = "leaderboard"
"""Stands for a question in a :class:`Piece` that asks for a student's values on the leaderboard."""
Board = Callable[[Callable[[str], Answer], Draw], dict[str, float]]


@dataclass(frozen=True)
class Piece:
    """Work: one question of one student's submission."""

    student: str
    path: Path
    question: str


@dataclass(frozen=True)
class Reply:
    """What came of it; ``trouble`` where nothing that is asked for can be read."""

    outcomes: list[Outcome] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    doubtful: list[str] = field(default_factory=list)
    trouble: str = ""
    board: dict[str, float] = field(default_factory=dict)
    off_board: str = ""


def board_of(private: Private) -> Board | None:
    """The function ``leaderboard(answer_of, draw)`` of an overlay's hidden.py, where it has one."""
    return next((check.function.__globals__.get(BOARD) for check in private.hidden), None)


def marker(root: Path, name: str, term: str, trust: bool, hide: tuple[Path, ...]) -> Callable[[Piece], Reply]:
    """The work of one process; the arguments are :func:`~topk_lib.grading.grade.grade`'s."""
    torch.set_num_threads(1)
    return _Marker(root, name, term, trust, hide)


class _Marker:
    def __init__(self, root: Path, name: str, term: str, trust: bool, hide: tuple[Path, ...]) -> None:
        self.task = read_master(root / name)
        self.private = load_private(name, root)
        self.term = term
        self.sandbox = Sandbox(hide=[root, *hide], preload=_modules(self.task.imports), trust=trust)
        self.path, self.whole = Path(), Collected()

    def __call__(self, piece: Piece) -> Reply:
        if piece.path != self.path:
            every = [name for question in self.task.questions for name in question.functions]
            self.path, self.whole = piece.path, collect(piece.path, every)
        if not self.whole.source:
            return Reply(trouble=" ".join(self.whole.notes))
        reply = self.board() if piece.question == BOARD else self.question(piece)
        return replace(reply, notes=self.whole.notes, doubtful=self.whole.doubtful)

    def question(self, piece: Piece) -> Reply:
        question = next(each for each in self.task.questions if each.name == piece.question)
        # What another question needs is left out: it may never end, or raise.
        source = collect(piece.path, question.functions).source
        seconds, megabytes = question.seconds, question.megabytes
        with self.sandbox.question(source, seconds=seconds, megabytes=megabytes) as answer_of:
            seed = student_seed(self.term, piece.student)
            return Reply(mark_question(question, self.task.imports, self.private.hidden, answer_of, seed))

    def board(self) -> Reply:
        """On the same inputs for everybody."""
        function = board_of(self.private)
        assert function is not None
        seconds = max(question.seconds for question in self.task.questions)
        megabytes = max(question.megabytes for question in self.task.questions)
        source = self.whole.source
        with self.sandbox.question(source, seconds=seconds, megabytes=megabytes) as answer_of:
            try:
                values = function(answer_of, Draw(self.term, BOARD, BOARD))
                board = {name: float(f"{value:.6g}") for name, value in values.items()}
                fault = "" if all(map(math.isfinite, board.values())) else "wrong result"
            except Refused as error:
                board, fault = {}, error.kind
            except Exception:  # what a result of another kind does to it
                board, fault = {}, "wrong type"
        if fault:
            return Reply(off_board=f"no values came of it ({fault})")
        return Reply(board=board)

    def close(self) -> None:
        self.sandbox.close()


def _modules(imports: str) -> list[str]:
    found = []
    for node in ast.parse(imports).body:
        if isinstance(node, ast.ImportFrom):
            found.append(str(node.module))
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return found
