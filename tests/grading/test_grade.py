"""A class is marked: the same whatever the order, resumable, and whatever is handed in."""

from __future__ import annotations

import csv
import functools
import io
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import filelock
import nbformat
import pytest
from typer.testing import CliRunner

from topk_lib.cli import app
from topk_lib.grading import Answer, Refused, load_private, local
from topk_lib.grading.grade import Graded, grade
from topk_lib.grading.judging import Session
from topk_lib.grading.marking import PATIENCE, mark_question, run_public
from topk_lib.grading.master import read_master
from topk_lib.grading.workers import Died, run_in_workers

TINY = Path(__file__).parent / "tiny"
RIGHT = """
import math
def largest(scores):
    return int((scores == scores.max()).nonzero()[0])
def root(x):
    if x < 0:
        raise ValueError("negative")
    return math.sqrt(x)
"""
LAST = RIGHT.replace("nonzero()[0]", "nonzero()[-1]")  # ties go to the highest index
HALF = RIGHT[: RIGHT.index("def root")]
ENDLESS = HALF + "def root(x):\n    while True: pass\n"
LEAK = """
def largest(scores):
    raise RuntimeError(f"the hidden scores are {scores.tolist()}")
def root(x):
    return 2.0 if x == 4 else str(x)
"""
MARKS = {
    "Ann": (60, 40), "Bo": (35, 40), "Cy": (60, 0), "Di": (60, 0), "Ed": (0, 0), "Flo": (0, 0), "Gil": (0, 0),
    "Hal": (60, 40), "Ida": (0, 0),
}  # fmt: skip


def hand_in(folder: Path, **sources: str) -> Path:
    """Notebooks, by their students' names, in a folder."""
    folder.mkdir(exist_ok=True)
    for student, source in sources.items():
        cell = nbformat.v4.new_code_cell(source)
        nbformat.write(nbformat.v4.new_notebook(cells=[cell]), folder / f"{student}.ipynb")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five notebooks, and what no system would make."""
    folder = tmp_path_factory.mktemp("class") / "submissions"
    hand_in(folder, Ann=RIGHT, Bo=LAST, Cy=HALF, Di=ENDLESS, Ed=LEAK)
    (folder / "Flo.ipynb").write_text('{"cells": [')
    (folder / "Gil").mkdir()
    with zipfile.ZipFile(folder / "Hal.zip", "w") as archive:
        archive.writestr("work/solved.py", RIGHT)
        archive.writestr("work/.ipynb_checkpoints/solved.py", LAST)
    for ending in ("py", "zip"):
        (folder / f"Ida.{ending}").write_text(RIGHT)
    return folder


@pytest.fixture(scope="module")
def graded(folder: Path) -> Graded:
    return grade(folder, "1", root=TINY, workers=2)


def table(text: str) -> dict[str, dict[str, str]]:
    return {row["student"]: row for row in csv.DictReader(io.StringIO(text))}


def made_by(found: Graded) -> dict[str, bytes]:
    """All that must not depend on machine, time and order."""
    files = [*found.output.glob("*.*"), *found.output.glob("reports/*")]
    return {
        path.relative_to(found.output).as_posix(): path.read_bytes()
        for path in files
        if path.name != "history.csv"
    }


def test_marks(graded: Graded) -> None:
    assert graded.output.name == "submissions-marks"
    assert not graded.failed
    rows = table((graded.output / "marks.csv").read_text())
    assert {name: (int(row["largest"]), int(row["root"])) for name, row in rows.items()} == MARKS
    assert all(int(row["total"]) == sum(MARKS[name]) for name, row in rows.items())
    assert "breaks off" in rows["Flo"]["note"]
    assert rows["Gil"]["note"] == "The folder Gil is empty."
    assert "several submissions, Ida.py and Ida.zip" in rows["Ida"]["note"]
    assert not graded.told


def test_feedback_before_the_deadline_tells_kinds_only(graded: Graded) -> None:
    reports = {path.stem: path.read_text() for path in (graded.output / "reports").iterdir()}
    assert set(reports) == set(MARKS)
    for text in reports.values():
        for secret in (
            "lowest index",
            "ties",
            "infinity",
            "large",
            "square",
            "the hidden scores are",
            "yours",
        ):
            assert secret not in "".join(line for line in text.splitlines(True) if "hidden check" in line)
    assert "- hidden check 1 of 2 (25 points): wrong result\n" in reports["Bo"]
    assert "- hidden check 2 of 2 (15 points): passed\n" in reports["Bo"]
    assert "- root was not found." in reports["Cy"]
    assert "- hidden check 1 of 1 (30 points): missing\n" in reports["Cy"]
    assert "- hidden check 1 of 1 (30 points): too slow\n" in reports["Di"]
    assert "public check 1 of 2 (10 points): raised: largest raised RuntimeError: the hidden" in reports["Ed"]


def test_the_class(graded: Graded) -> None:
    text = (graded.output / "class.md").read_text()
    assert "6 of 9 submissions were marked." in text
    assert "- Gil: The folder Gil is empty." in text
    assert "| largest | 60 | 45.83 | 4 | 1 |" in text
    assert "| ties | 25 | 2 | Equal scores: the lowest index wins. |" in text
    assert "\n- 1 of 6: root is missing" in text
    board = table((graded.output / "leaderboard.csv").read_text())
    assert set(board) == {"Ann", "Bo", "Hal"}
    assert board["Ann"]["root of 2"] == "1.414"
    assert len({row["drawn"] for row in board.values()}) == 1, "one draw for all"


def test_after_the_deadline_all_is_told_and_nothing_marked(graded: Graded, folder: Path) -> None:
    before = made_by(graded)
    found = grade(folder, "01_tiny", root=TINY, after_deadline=True)
    assert found.fresh == 0
    text = (found.output / "reports" / "Bo.md").read_text()
    assert "hidden check 1 of 2 (25 points): wrong result: for [" in text
    assert "(ties: Equal scores: the lowest index wins.)" in text
    assert grade(folder, "1", root=TINY).fresh == 0
    assert made_by(graded) == before


def test_killed_resumed_and_in_another_order_it_is_the_same(
    graded: Graded, folder: Path, tmp_path: Path
) -> None:
    """One worker, other students first, a kill -9 on the way: the same bytes, and nothing marked twice."""
    output = tmp_path / "marks"
    words = ["grade", folder, "--assignment", "1", "--workers", "1", "--coursework", TINY, "--output", output]
    only = ["--only", "hal", "--only", "di", "--only", "cy"]
    process = subprocess.Popen(
        [sys.executable, "-m", "topk_lib.cli", *map(str, words), *only], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    assert any(line == "1 of 9: Hal: largest\n" for line in process.stderr), "it ended before"
    process.send_signal(signal.SIGKILL)  # while the endless loop of Di is before it
    process.wait()
    states = {path.stem: json.loads(path.read_text()) for path in (output / "state").glob("*.json")}
    assert set(states) == {"Hal", "Di", "Cy"}
    done = sum(len(s["questions"]) + bool(s["board"] or s["off_board"]) for s in states.values())
    assert 1 <= done < 9
    found = grade(folder, "1", root=TINY, output=output, workers=1)
    assert found.fresh + done == graded.fresh
    assert made_by(found) == made_by(graded)
    assert not (output / "history.csv").exists()


def test_a_regrade_and_a_new_submission(graded: Graded, folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(folder, tmp_path / "submissions")
    output = shutil.copytree(graded.output, tmp_path / "marks")
    hand_in(folder, Bo=RIGHT)
    found = grade(folder, "1", root=TINY, output=output, only=["Ann"], again=True, workers=1)
    assert found.fresh == 3
    totals = {one.student: int(one.total) for one in found.marked}
    assert (totals["Ann"], totals["Bo"]) == (100, 75), "the others are left as they are"
    found = grade(folder, "1", root=TINY, output=output, workers=1)
    assert found.fresh == 3
    assert {one.student: int(one.total) for one in found.marked} == totals | {"Bo": 100}
    history = list(csv.DictReader((output / "history.csv").open()))
    assert [(row["student"], row["why"], row["total"], row["root"]) for row in history] == [
        ("Ann", "asked for", "100", "40"), ("Bo", "new submission", "75", "40")]  # fmt: skip
    assert all(row["replaced"].startswith("20") for row in history)


def test_a_regrade_that_was_stopped_goes_on(graded: Graded, folder: Path, tmp_path: Path) -> None:
    """Nobody is left to mark, and yet the state says that a regrade was on its way: it is not begun anew."""
    output = shutil.copytree(graded.output, tmp_path / "marks")
    (output / "state" / "again").write_text("Ann")
    found = grade(folder, "1", root=TINY, output=output, only=["Ann"], again=True)
    assert found.fresh == 0
    assert not (output / "state" / "again").exists()


def test_late_days(graded: Graded, folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        os.utime(path, (1_000_000_000, 1_000_000_000))  # 2001-09-09T01:46:40Z
    (folder / "late.csv").write_text("student,days\nAnn,4\n")
    ledger = tmp_path / "ledger.csv"
    try:
        found = grade(folder, "1", root=TINY, due="2001-09-08T01:46:40+00:00", budget=1, penalty=10,
                      ledger=ledger)  # fmt: skip
        rows = table((found.output / "marks.csv").read_text())
        assert [rows["Ann"][name] for name in ("largest", "days_late", "days_covered", "total")] == [
            "60", "4", "1", "70"]  # fmt: skip
        assert [rows["Bo"][name] for name in ("days_late", "days_covered", "total")] == ["1", "1", "75"]
        assert "cost 30% of 100 points" in (found.output / "reports" / "Ann.md").read_text()
        assert "Ann,01_tiny,4,1\n" in ledger.read_text()
        assert found.fresh == 0
    finally:
        (folder / "late.csv").unlink()


def test_refusals(graded: Graded, folder: Path, tmp_path: Path) -> None:
    for words, wrong in [
        (["9"], "holds no assignment '9'"),
        (["1", "--only", "an"], "did you mean Ann"),
        (["1", "--workers", "0"], "--workers is 0"),
        (["1", "--due", "soon"], "is no date"),
        (["1", "--output", str(folder)], "name another"),
    ]:
        given = ["grade", str(folder), "--coursework", str(TINY), "--assignment", *words]
        run = CliRunner().invoke(app, given)
        assert run.exit_code == 2
        assert wrong in run.output
    with (
        filelock.FileLock(graded.output / "state" / "lock"),
        pytest.raises(RuntimeError, match="another command"),
    ):
        grade(folder, "1", root=TINY)
    alone = tmp_path / "coursework"
    (alone / "01_tiny").mkdir(parents=True)
    (alone / "01_tiny" / "master.md").write_bytes((TINY / "01_tiny" / "master.md").read_bytes())
    with pytest.raises(FileNotFoundError, match="private overlay"):
        grade(folder, "1", root=alone)


def test_the_command_says_what_it_made(graded: Graded, folder: Path) -> None:
    words = ["grade", str(folder), "--assignment", "1", "--coursework", str(TINY)]
    run = CliRunner().invoke(app, words)
    assert run.exit_code == 0, run.output
    assert "Ida: There are several submissions" in run.output
    assert "6 submissions are marked: 65.8 of 100 points in the mean" in run.output
    told = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert told["marks"]["Bo"] == 75
    assert set(told["troubles"]) == {"Flo", "Gil", "Ida"}


def test_a_public_check_sees_errors_as_students_do() -> None:
    """In the notebook a check may catch what the function raises."""
    task = read_master(TINY / "01_tiny")
    source = task.questions[1].checks[0]

    def root(x: float) -> float:
        if x < 0:
            raise ValueError("negative")
        return math.sqrt(x)

    def rude(x: float) -> float:
        raise UnicodeDecodeError("a", b"b", 0, 1, "c")  # takes five arguments

    class OwnError(ValueError):
        pass

    def own(x: float) -> float:
        if x < 0:
            raise OwnError
        return 3.0

    assert run_public(source, task.imports, {"root": local(root)}) == ("", "")
    assert run_public(source, task.imports, {"root": local(abs, "root")}) == (
        "wrong result", "root(-4) must raise ValueError, yours 4.0")  # fmt: skip
    assert run_public(source, task.imports, {"root": local({"root": own})})[1] == "root(4) is 2, yours 3.0"
    kind, sentence = run_public(source, task.imports, {"root": local({"root": rude})})
    assert kind == "raised"
    assert sentence.startswith("root raised UnicodeDecodeError")
    kind, sentence = run_public("assert root(4) > 0, 'x'", "", {"root": local({"root": str})})
    assert (kind, sentence.split(":")[1]) == ("wrong type", " TypeError")


def test_a_public_check_shares_its_folder_with_the_function() -> None:
    def copy(words: list[str]) -> None:
        if Path(words[1]).exists():
            raise FileExistsError(words[1])
        Path(words[1]).write_text(Path(words[0]).read_text().upper())
        if words[0] == "bad":
            raise ValueError("after all")

    source = """
for name, wrong in (("good", False), ("bad", True)):
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        open(name, "w").write("x")
        try:
            copy([name, "out"])
            raised = False
        except ValueError:
            raised = True
        assert raised == wrong and open("out").read() == "X", f"{name}: {raised}"
        os.chdir("/")
"""
    here = Path.cwd()
    assert run_public(source, "import os, tempfile", {"copy": local(copy)}) == ("", "")
    assert Path.cwd() == here
    copied = run_public("copy(['a', 'b'])\nassert open('b').read() == 'X', 'b'", "", {"copy": local(copy)})
    assert copied[0] == "raised"
    assert copied[1].startswith("copy raised FileNotFoundError")


def test_a_question_is_given_up_after_some_that_are_too_slow() -> None:
    task, calls = read_master(TINY / "01_tiny"), []

    class Slow(Session):
        def ask(self, function: str, *_: object) -> None:
            calls.append(function)
            raise Refused("too slow", "took more than 2 seconds")

        def files(self) -> dict[str, bytes]:
            return {}

        def put(self, name: str, data: bytes) -> None: ...

        def fresh(self) -> Session:
            return self

        def printed(self) -> str:
            return ""

    hidden = load_private("01_tiny", TINY).hidden
    outcomes = mark_question(task.questions[0], task.imports, hidden, lambda name: Answer(Slow(), name), 0)
    assert len(calls) == PATIENCE
    assert [one.kind for one in outcomes] == ["too slow"] * 4
    assert "not tried" in outcomes[-1].sentence


def test_a_worker_that_dies_costs_its_piece_only() -> None:
    """The second piece ends its process each time; the third raises."""
    pieces = ["1 + 1", "__import__('os')._exit(3)", "1 / 0", "2"]
    found = dict(run_in_workers(functools.partial, [eval], pieces, workers=2))
    assert found["1 + 1"] == found["2"] == 2
    assert isinstance(found["__import__('os')._exit(3)"], Died)
    assert str(found["1 / 0"]) == "ZeroDivisionError: division by zero"
    with pytest.raises(RuntimeError, match="TypeError"):
        list(run_in_workers(functools.partial, ["not a function"], ["x"], workers=1))
