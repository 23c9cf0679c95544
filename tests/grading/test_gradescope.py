"""Marks as Gradescope's harness reads them."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pytest

from topk_lib.grading import gradescope
from topk_lib.grading.grade import Graded
from topk_lib.grading.marks import Marked, Outcome
from topk_lib.grading.report import Form

TINY = Path(__file__).parent / "tiny"
FORM = Form("Two small functions", {"largest": 60, "root": 40})
ONE = Marked(
    "Ann",
    notes=["Cell 3 is left out."],
    questions={
        "largest": [
            Outcome("public 1", True, Fraction(20), True),
            Outcome("ties", False, Fraction(40), False, "wrong result", "for [1, 1] it is 0", "ties",
                    "The lowest."),
        ],
        "root": [Outcome("large", False, Fraction(40), True, about="size", rule="The square.")],
    },
    board={"accuracy": 0.5},
)  # fmt: skip
TOP = {"score", "execution_time", "output", "output_format", "test_output_format", "test_name_format",
       "visibility", "stdout_visibility", "extra_data", "tests", "leaderboard"}  # fmt: skip
TEST = {"score", "max_score", "status", "name", "name_format", "number", "output", "output_format", "tags",
        "visibility", "extra_data"}  # fmt: skip
WHEN = {"hidden", "after_due_date", "after_published", "visible"}


def test_the_form() -> None:
    told = gradescope.results(FORM, ONE)
    assert set(told) <= TOP
    assert told["score"] == 60
    assert told["output"] == "Cell 3 is left out."
    assert told["stdout_visibility"] == "hidden"
    assert told["leaderboard"] == [{"name": "accuracy", "value": 0.5}]
    for test in told["tests"]:
        assert set(test) <= TEST
        assert test["visibility"] in WHEN
        assert test["status"] in ("passed", "failed")
    assert sum(test.get("max_score", 0) for test in told["tests"]) == 100
    assert sum(test.get("score", 0) for test in told["tests"]) == told["score"]


def test_hidden_checks_are_explained_after_the_due_date_only() -> None:
    tests = gradescope.results(FORM, ONE)["tests"]
    early = json.dumps([test for test in tests if test["visibility"] == "visible"])
    late = json.dumps([test for test in tests if test["visibility"] == "after_due_date"])
    for secret in ("ties", "The lowest", "[1, 1]", "The square"):
        assert secret not in early
        assert secret in late
    assert {"name": "largest: hidden check 1 of 1", "score": 0.0, "max_score": 40.0, "status": "failed",
            "output": "wrong result", "output_format": "md", "visibility": "visible"} in tests  # fmt: skip


def test_what_could_not_be_read_is_told() -> None:
    told = gradescope.results(FORM, Marked("Ann", trouble="01.ipynb is not a notebook."))
    assert told["score"] == 0
    assert told["output"] == "01.ipynb is not a notebook."
    assert [test["max_score"] for test in told["tests"]] == [60, 40]


def container(tmp_path: Path) -> Path:
    (tmp_path / "submission").mkdir()
    (tmp_path / "submission" / "01_tiny.ipynb").write_text("{}")
    users = [{"name": "Ann Lee", "email": "a@x.org"}, {"name": "Bo", "email": "b@x.org"}]
    (tmp_path / "submission_metadata.json").write_text(json.dumps({"id": 7, "users": users}))
    return tmp_path


def test_in_its_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The student's name is the one of a download of all submissions, so the inputs are the same."""
    called: dict[str, object] = {}

    def grade(folder: Path, assignment: str, **options: object) -> Graded:
        from topk_lib.grading.submissions import find_submissions

        (one,), _ = find_submissions(folder)
        called.update(options, student=one.student, trouble=one.trouble, assignment=assignment)
        assert (one.path / "01_tiny.ipynb").is_file()
        return Graded(tmp_path, [ONE], {})

    monkeypatch.setattr(gradescope, "grade", grade)
    root = container(tmp_path)
    gradescope.main(["1", "--coursework", str(TINY), "--seed", "2026", "--autograder", str(root)])
    assert capsys.readouterr().out.strip() == str(root / "results" / "results.json")
    assert json.loads((root / "results" / "results.json").read_text()) == gradescope.results(FORM, ONE)
    assert (called["student"], called["assignment"], called["term"]) == ("Ann Lee + Bo", "01_tiny", "2026")
    assert not called["trust"]


def test_where_marking_fails_there_is_no_mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = Graded(tmp_path, [ONE], {}, failed=["root of Ann: its process ended twice"])
    monkeypatch.setattr(gradescope, "grade", lambda *args, **options: failed)
    root = container(tmp_path)
    with pytest.raises(SystemExit, match="could not be marked: root of Ann"):
        gradescope.main(["1", "--coursework", str(TINY), "--autograder", str(root)])
    assert not (root / "results").exists()
