"""Grading a folder of submissions: resumable, the same on every machine.

Marks depend on the submission, the assignment, the term's seed and the student's name, and on nothing else:

- every input is drawn from (student's seed, question, check), and generators are seeded anew before each
  check, so that no check sees how many ran before it;
- each question runs in a process of its own, with one thread, on one kind of instructions and without a GPU
  (:data:`topk_lib.grading.workers.STEADY`), so that neither the order of work nor the number of workers
  counts;
- limits of time are CPU seconds of the question's process, and several times what a right answer takes;
- speed is judged by counted operations, never by a clock;
- marks, reports and the class's table hold no date, no duration and no path, and are sorted by name.

Dates stand in ``history.csv`` alone, which keeps each mark that was replaced.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

import filelock

import topk_lib
from topk_lib.grading import late as late_days
from topk_lib.grading.judging import load_private
from topk_lib.grading.late import Lateness, written
from topk_lib.grading.locks import unlockable
from topk_lib.grading.marker import BOARD, Piece, Reply, board_of, marker
from topk_lib.grading.marks import Marked, number
from topk_lib.grading.master import Assignment, chosen, names, read_master
from topk_lib.grading.report import Form, board_table, class_report, marks_table, student_report
from topk_lib.grading.submissions import Submission, find_submissions, fingerprint
from topk_lib.grading.workers import Died, run_in_workers

__all__ = ["Graded", "coursework_folder", "find_assignment", "grade"]

Progress = Callable[[int, int, str], None]
"""Called with questions done, questions in all, and what was done last."""


@dataclass
class Graded:
    """What :func:`grade` made.

    Attributes:
        output: the folder of marks.csv, class.md and reports/.
        marked: every student of the folder, by name.
        late: days late of those who were.
        told: sentences about the folder, each once.
        failed: questions that the grader itself could not mark; the same command tries them again.
        fresh: questions that this call marked; the others were marked before.
    """

    output: Path
    marked: list[Marked]
    late: dict[str, Lateness]
    told: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    fresh: int = 0


def coursework_folder() -> Path:
    """The folder ``coursework/`` nearest above the working directory, or beside this package.

    Raises:
        FileNotFoundError: there is none (an installed package carries no coursework).
    """
    for start in (Path.cwd(), Path(__file__).resolve().parent):
        for folder in (start, *start.parents):
            if names(folder / "coursework"):
                return folder / "coursework"
    raise FileNotFoundError(
        "no folder coursework/: run inside a clone of the course, or name it: --coursework"
    )


def find_assignment(asked: str, root: Path) -> Assignment:
    """The assignment of that number (``3``) or name (``03_hard_topk``).

    Raises:
        ValueError: there is none.
    """
    return read_master(root / chosen(asked, root))


def grade(
    folder: str | Path,
    assignment: str,
    *,
    output: str | Path | None = None,
    root: str | Path | None = None,
    term: str = "0",
    after_deadline: bool = False,
    due: str | None = None,
    budget: int = 0,
    penalty: float = 0,
    ledger: str | Path | None = None,
    only: Sequence[str] = (),
    again: bool = False,
    workers: int = 2,
    trust: bool = False,
    progress: Progress | None = None,
) -> Graded:
    """Mark a folder of submissions of one assignment; the same call goes on where another stopped.

    What was marked before stays as it is, unless the submission, the assignment or the term's seed has
    changed since.

    Args:
        folder: see :mod:`topk_lib.grading.submissions`; a table ``late.csv`` (student,days) may lie in it.
        assignment: its number or name.
        output: where marks.csv, class.md, reports/ and, where there is one, leaderboard.csv go; by default
            FOLDER-marks beside it.
        root: the folder ``coursework/`` with its private overlay.
        term: from it and the student's name the student's inputs follow: another one each term.
        after_deadline: reports tell what hidden checks test, and on which input an answer was wrong.
        due: see :func:`~topk_lib.grading.late.parse_due`; without it only late.csv says who was late.
        budget, penalty, ledger: see :func:`~topk_lib.grading.late.lateness`.
        only: mark only these students.
        again: mark anew what is marked; the old mark goes to history.csv.
        workers: processes.
        trust: do without the sandbox; the student's code can then do all that you can.
        progress: told of every question.

    Raises:
        ValueError, OSError: an argument, a folder or a file that makes no sense, in one sentence.
    """
    if workers < 1:
        raise ValueError(f"--workers is {workers}: it must be 1 or more")
    folder = Path(folder)
    root = Path(root) if root is not None else coursework_folder()
    task = find_assignment(assignment, root)
    private = load_private(task.name, root)
    submissions, told = find_submissions(folder)
    beside = folder.resolve()
    output = Path(output) if output is not None else beside.with_name(f"{beside.name}-marks")
    if output.resolve() == beside:
        raise ValueError(f"--output is the folder of the submissions, {folder}: name another")
    chosen = _chosen(submissions, only)
    if (reason := unlockable()) and not trust:
        raise RuntimeError(reason)
    late = _late(folder, submissions, due, task.name, budget, penalty, ledger)
    (output / "state").mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(output / "state" / "lock", timeout=0):
            has_board = board_of(private) is not None
            marking = _Marking(task, root, output, term, trust, has_board, (folder, output))
            marking.run(submissions, chosen, again=again, workers=workers, progress=progress)
    except filelock.Timeout:
        raise RuntimeError(f"another command is marking into {output}: wait for it, or stop it") from None
    marked = [marking.states[one.student] for one in submissions]
    form = Form(task.title, {question.name: question.points for question in task.questions})
    stale = sum(one.checks != marking.version and bool(one.checks) for one in marked)
    if stale:
        told.append(f"{stale} were marked before the assignment or the seed was changed: the same command "
                    "without --only marks them anew")  # fmt: skip
    written(output / "marks.csv", marks_table(form, marked, late))
    written(output / "class.md", class_report(form, marked, told))
    if board := board_table(marked):
        written(output / "leaderboard.csv", board)
    for one in (one for one in marked if one.checks):
        text = student_report(form, one, late.get(one.student, Lateness()), after_deadline=after_deadline)
        written(output / "reports" / f"{one.student}.md", text)
    return Graded(output, marked, late, told, marking.failed, marking.fresh)


def _chosen(submissions: Sequence[Submission], only: Sequence[str]) -> list[Submission]:
    known = {one.student.casefold(): one for one in submissions}
    for name in only:
        if name.casefold() not in known:
            near = [one.student for key, one in known.items() if name.casefold() in key][:3]
            hint = f"did you mean {' or '.join(near)}?" if near else "write the name as in marks.csv"
            raise ValueError(f"--only {name!r}: no such student handed in; {hint}")
    return [known[name.casefold()] for name in only] if only else list(submissions)


def _late(
    folder: Path, submissions: Sequence[Submission], due: str | None, assignment: str, budget: int,
    penalty: float, ledger: str | Path | None,
) -> dict[str, Lateness]:  # fmt: skip
    moment = late_days.parse_due(due) if due else None
    days = {one.student: late_days.days_late(one.at, moment) for one in submissions}
    if (table := folder / "late.csv").is_file():
        days |= late_days.read_late(table, days)
    where = Path(ledger) if ledger is not None else None
    return late_days.lateness(days, assignment, budget=budget, penalty=penalty, ledger=where)


class _Marking:
    """The states of the students, one file each, and the work that is left."""

    def __init__(
        self, task: Assignment, root: Path, output: Path, term: str, trust: bool, board: bool,
        hide: tuple[Path, ...],
    ) -> None:  # fmt: skip
        self.task, self.output, self.board = task, output, board
        self.arguments = (root, task.name, term, trust, hide)
        self.version = _version(task, root, term)
        self.states: dict[str, Marked] = {}
        self.failed: list[str] = []
        self.fresh = 0

    def run(
        self, submissions: Sequence[Submission], chosen: Sequence[Submission], *, again: bool, workers: int,
        progress: Progress | None,
    ) -> None:  # fmt: skip
        for one in submissions:
            self.states[one.student] = self.read(one.student)
        asked = "\n".join(one.student for one in chosen)
        begun = self.output / "state" / "again"  # so that such a command goes on, too
        again = again and not (begun.is_file() and begun.read_text(encoding="utf-8") == asked)
        pieces: list[Piece] = []
        for one in chosen:
            self.begin(one, again)
            state = self.states[one.student]
            if not state.trouble:
                left = [q.name for q in self.task.questions if q.name not in state.questions]
                left += [BOARD] * (self.board and not state.board and not state.off_board)
                pieces += [Piece(one.student, one.path, question) for question in left]
        if again:
            written(begun, asked)
        results = run_in_workers(marker, self.arguments, pieces, workers=min(workers, len(pieces)))
        for done, (piece, result) in enumerate(results, 1):
            self.take(piece, result)
            if progress:
                progress(done, len(pieces), f"{piece.student}: {piece.question}")
        begun.unlink(missing_ok=True)

    def begin(self, one: Submission, again: bool) -> None:
        """Leave a mark that still holds, else put it into the history and start a new one."""
        mark = one.trouble or fingerprint(one.path)
        old = self.states[one.student]
        reason = (
            "asked for" if again
            else "new submission" if old.submission != mark
            else "new checks" if old.checks != self.version
            else ""
        )  # fmt: skip
        if not reason:
            return
        if old.questions or old.trouble:
            self.remember(old, reason)
        self.states[one.student] = Marked(one.student, mark, self.version, one.trouble)
        self.write(one.student)

    def take(self, piece: Piece, result: Reply | Exception) -> None:
        if isinstance(result, Exception):
            why = "its process ended twice" if isinstance(result, Died) else str(result)
            self.failed.append(f"{piece.question} of {piece.student}: {why}")
            return
        state = self.states[piece.student]
        state.notes, state.doubtful, state.trouble = result.notes, result.doubtful, result.trouble
        if piece.question == BOARD:
            state.board, state.off_board = result.board, result.off_board
        elif not result.trouble:
            state.questions[piece.question] = result.outcomes
        self.fresh += 1
        self.write(piece.student)

    def read(self, student: str) -> Marked:
        path = self.path(student)
        try:
            return Marked.from_json(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return Marked(student)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is damaged ({error}): delete it to mark {student} anew") from None

    def write(self, student: str) -> None:
        written(self.path(student), json.dumps(self.states[student].to_json(), indent=1) + "\n")

    def path(self, student: str) -> Path:
        return self.output / "state" / f"{student}.json"

    def remember(self, old: Marked, reason: str) -> None:
        path = self.output / "history.csv"
        text = io.StringIO()
        lines = csv.writer(text, lineterminator="\n")
        if not path.exists():
            lines.writerow(["replaced", "why", "student", "total", *(q.name for q in self.task.questions)])
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        each = [number(old.points(q.name)) if q.name in old.questions else "" for q in self.task.questions]
        lines.writerow([now, reason, old.student, number(old.total), *each])
        with path.open("a", encoding="utf-8") as file:
            file.write(text.getvalue())


def _version(task: Assignment, root: Path, term: str) -> str:
    """A fingerprint of all that marks depend on beside the submission."""
    digest = hashlib.sha256(f"{topk_lib.__version__}\0{term}\0".encode())
    overlay = sorted(path for path in (root / "private" / task.name).rglob("*") if path.is_file())
    for path in [task.path, *overlay]:
        if not re.fullmatch(r"wrong\.py|.*\.pyc", path.name):  # known answers mark nobody
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]
