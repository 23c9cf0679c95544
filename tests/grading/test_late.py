"""Late days: deadlines, tables, a budget over assignments."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from fractions import Fraction
from pathlib import Path

import pytest

from topk_lib.grading.late import Lateness, days_late, lateness, parse_due, read_late

UTC = timezone.utc


def test_due() -> None:
    assert parse_due("2026-11-30") == datetime(2026, 12, 1, 11, 59, 59, tzinfo=UTC)
    assert parse_due("2026-11-30T18:00+08:00") == datetime(2026, 11, 30, 10, tzinfo=UTC)
    assert parse_due("2026-11-30T18:00Z") == datetime(2026, 11, 30, 18, tzinfo=UTC)
    with pytest.raises(ValueError, match="does not say in which zone"):
        parse_due("2026-11-30T18:00")
    for text in ("soon", "2026-13-01", "", "30.11.2026"):
        with pytest.raises(ValueError, match="is no date: write 2026-11-30 or"):
            parse_due(text)


def test_a_begun_day_is_a_day() -> None:
    due = datetime(2026, 11, 30, 18, tzinfo=UTC)
    for after, days in [(-90000, 0), (0, 0), (1, 1), (86400, 1), (86401, 2)]:
        assert days_late(due + timedelta(seconds=after), due) == days
    assert days_late(None, due) == days_late(due, None) == 0


def test_the_table(tmp_path: Path) -> None:
    table = tmp_path / "late.csv"
    table.write_text("\ufeffstudent,days,why\nann,2,ill\n")  # as Excel writes it
    assert read_late(table, ["Ann", "Bo"]) == {"Ann": 2}
    for text, wrong in [
        ("name,days\n", "no column 'student'"),
        ("student,days\nDee,1\n", "nobody is called 'Dee'"),
        ("student,days\nAnn,-1\n", "'-1' is no whole number"),
    ]:
        table.write_text(text)
        with pytest.raises(ValueError, match=wrong):
            read_late(table, ["Ann", "Bo"])


def test_the_budget_holds_over_assignments(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.csv"

    def used(assignment: str, days: int) -> Lateness:
        found = lateness({"Ann": days, "Bo, jun": 0}, assignment, budget=3, penalty=10, ledger=ledger)
        assert found["Bo, jun"] == Lateness()
        return found["Ann"]

    assert used("01", 2) == Lateness(2, 2)
    assert used("02", 2) == Lateness(2, 1, Fraction(9, 10))
    assert used("02", 2) == Lateness(2, 1, Fraction(9, 10)), "graded again it counts once"
    assert used("03", 1) == Lateness(1, 0, Fraction(9, 10))
    assert ledger.read_text() == "student,assignment,days,covered\nAnn,01,2,2\nAnn,02,2,1\nAnn,03,1,0\n"
    assert used("02", 0) == Lateness()
    assert used("03", 1) == Lateness(1, 1)


def test_no_points_are_taken_that_are_not_there() -> None:
    assert lateness({"Ann": 30}, "01", budget=0, penalty=10)["Ann"].share == 0
    assert lateness({"Ann": 1}, "01", budget=0, penalty=0.1)["Ann"].share == Fraction(999, 1000)
    with pytest.raises(ValueError, match="--late-days is -1"):
        lateness({}, "01", budget=-1, penalty=0)
    with pytest.raises(ValueError, match="--late-penalty is 101"):
        lateness({}, "01", budget=0, penalty=101)


def test_a_damaged_ledger_is_refused(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.csv"
    ledger.write_text("student,assignment\n")
    with pytest.raises(ValueError, match="has no column 'days'"):
        lateness({"Ann": 1}, "01", budget=1, penalty=0, ledger=ledger)
