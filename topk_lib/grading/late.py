"""Late days: how many each student used, what a budget over all assignments covers, what the rest costs."""

from __future__ import annotations

import csv
import math
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, time, timedelta, timezone
from fractions import Fraction
from pathlib import Path

__all__ = ["Lateness", "days_late", "lateness", "parse_due", "read_late", "written"]

_ANYWHERE = timezone(timedelta(hours=-12))  # a day has ended when it has ended everywhere on earth
_COLUMNS = ("student", "assignment", "days", "covered")


@dataclass(frozen=True)
class Lateness:
    """Days late, those that the student's budget covers, and the share of the points that is left."""

    days: int = 0
    covered: int = 0
    share: Fraction = Fraction(1)


def parse_due(due: str) -> datetime:
    """A deadline: ``2026-11-30`` is the end of that day anywhere on earth, the same moment on every machine.

    Raises:
        ValueError: it is no date, or a time without its offset, which would differ between machines.
    """
    try:
        if re.fullmatch(r"\d{4}-\d\d-\d\d", due.strip()):
            return datetime.combine(datetime.fromisoformat(due.strip()), time(23, 59, 59), _ANYWHERE)
        moment = datetime.fromisoformat(re.sub(r"Z$", "+00:00", due.strip()))
    except ValueError:
        raise ValueError(f"--due {due!r} is no date: write 2026-11-30 or 2026-11-30T18:00+08:00") from None
    if moment.tzinfo is None:
        raise ValueError(
            f"--due {due!r} does not say in which zone: add the offset, as in {due.strip()}+08:00 "
            "(a date alone is the end of that day anywhere on earth)"
        )
    return moment


def days_late(at: datetime | None, due: datetime | None) -> int:
    """Whole days, a begun one included."""
    if at is None or due is None:
        return 0
    return max(0, math.ceil((at - due) / timedelta(days=1)))


def read_late(path: Path, students: Iterable[str]) -> dict[str, int]:
    """A table ``student,days`` that a lecturer keeps; it goes before the files' dates.

    Raises:
        ValueError: a column is missing, a number is none, or a student of it handed in nothing.
    """
    known = {student.casefold(): student for student in students}
    found: dict[str, int] = {}
    for number, row in enumerate(_rows(path, ("student", "days")), 2):
        name = row["student"].strip()
        if name.casefold() not in known:
            raise ValueError(f"{path}, line {number}: nobody is called {name!r}: write names as in marks.csv")
        found[known[name.casefold()]] = _whole(path, number, row["days"])
    return found


def lateness(
    days: dict[str, int], assignment: str, *, budget: int, penalty: float, ledger: Path | None = None
) -> dict[str, Lateness]:
    """What each student's late days cost in one assignment, and the new ledger.

    Args:
        days: days late by student.
        assignment: its name; its own old rows in the ledger do not count.
        budget: late days that a student has over all assignments for nothing; first come, first served.
        penalty: percent of the points that each day beyond costs.
        ledger: a table of all assignments, read and then written anew; None for one without others.

    Raises:
        ValueError: a budget or penalty that makes no sense, or a damaged ledger.
    """
    if budget < 0:
        raise ValueError(f"--late-days is {budget}: it must be 0 or more")
    if not 0 <= penalty <= 100:
        raise ValueError(f"--late-penalty is {penalty}: it must be a percentage from 0 to 100")
    rows = _others(ledger, assignment)
    used: dict[str, int] = {}
    for student, _, _, covered in rows:
        used[student] = used.get(student, 0) + covered
    found = {}
    for student, late in sorted(days.items()):
        covered = min(late, max(0, budget - used.get(student, 0)))
        lost = Fraction(str(penalty)) / 100 * (late - covered)
        found[student] = Lateness(late, covered, max(Fraction(0), 1 - lost))
    if ledger is not None:
        rows += [(student, assignment, one.days, one.covered) for student, one in found.items() if one.days]
        lines = sorted(rows, key=lambda row: (row[0].casefold(), row))
        written(ledger, "".join(_line(map(str, row)) for row in (_COLUMNS, *lines)))
    return found


def written(path: Path, text: str) -> None:
    """Write a file at once and whole: a crash leaves the old one or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    fresh.write_text(text, encoding="utf-8", newline="\n")
    fresh.replace(path)


def _others(ledger: Path | None, assignment: str) -> list[tuple[str, str, int, int]]:
    if ledger is None or not ledger.exists():
        return []
    return [
        (row["student"], row["assignment"], _whole(ledger, number, row["days"]),
         _whole(ledger, number, row["covered"]))
        for number, row in enumerate(_rows(ledger, _COLUMNS), 2)
        if row["assignment"] != assignment
    ]  # fmt: skip


def _rows(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        missing = [column for column in columns if column not in (reader.fieldnames or [])]
        if missing:
            raise ValueError(f"{path} has no column {missing[0]!r}: its first line is {','.join(columns)}")
        return [{column: row[column] or "" for column in columns} for row in reader]


def _whole(path: Path, number: int, text: str) -> int:
    if not text.strip().isdecimal():
        raise ValueError(f"{path}, line {number}: {text!r} is no whole number of days")
    return int(text)


def _line(cells: Iterable[str]) -> str:
    return ",".join(f'"{cell}"' if "," in cell or '"' in cell else cell for cell in cells) + "\n"
