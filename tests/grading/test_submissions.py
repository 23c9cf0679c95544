"""Who handed in what: names as people and systems write them."""

from __future__ import annotations

import os
from datetime import datetime, timezone
from pathlib import Path

import pytest

from topk_lib.grading.submissions import LARGEST, find_submissions, fingerprint, student_seed


def lay(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# {name}")
    return folder


def students(folder: Path) -> list[str]:
    return [one.student for one in find_submissions(folder)[0]]


@pytest.mark.parametrize(
    ("name", "student"),
    [
        ("Ann Lee.ipynb", "Ann Lee"),
        ("Ann Lee/work.ipynb", "Ann Lee"),
        ("Ann Lee_1234_assignsubmission_file/work.ipynb", "Ann Lee"),
        ("Ann Lee_1234_assignsubmission_file_/work.ipynb", "Ann Lee"),
        ("Ann Lee_1234_assignsubmission_file_my_work.ipynb", "Ann Lee"),
        ("leeann_1234_5678_01_table_detective.ipynb", "leeann"),
        ("leeann_LATE_1234_5678_01_table_detective-1.zip", "leeann"),
        ("王小明.py", "王小明"),
        ("=HYPERLINK(1).py", "HYPERLINK(1)"),
        ("<b>Ann</b>.ipynb", "b Ann"),
    ],
)
def test_names(tmp_path: Path, name: str, student: str) -> None:
    if "<b>" in name:
        (tmp_path / "<b>Ann<").write_text("x")  # a slash is no part of a file's name
    else:
        lay(tmp_path, name)
    assert students(tmp_path) == [student]


def test_what_is_no_submission(tmp_path: Path) -> None:
    lay(tmp_path, ".DS_Store", "__MACOSX/x.py", "late.csv", "grades.csv",
        "Ann_1_assignsubmission_onlinetext/onlinetext.html", "Bo_2_assignsubmission_file/a.py")  # fmt: skip
    assert students(tmp_path) == ["Bo"]
    with pytest.raises(ValueError, match="nothing to mark"):
        find_submissions(lay(tmp_path / "empty", "late.csv"))
    with pytest.raises(NotADirectoryError, match="there is no folder"):
        find_submissions(tmp_path / "nowhere")


def test_gradescope(tmp_path: Path) -> None:
    lay(tmp_path, "submission_11/a.ipynb", "submission_12/b.ipynb")
    (tmp_path / "submission_metadata.yml").write_text(
        "submission_11:\n  :submitters:\n  - :name: Ann Lee\n    :sid: 's1'\n  - :name: Bo\n    :sid: 's2'\n"
        "  :created_at: 2026-11-30 10:00:00.5 Z\n"
        "submission_12:\n  :submitters:\n  - :name:\n    :email: c@x.org\n"
        "  :created_at: 2026-11-30 18:00:00 +08:00\n"
        "submission_13:\n  :submitters:\n  - :name: Dee\n"
    )
    found, told = find_submissions(tmp_path)
    assert [one.student for one in found] == ["Ann Lee + Bo", "c@x.org", "Dee"]
    assert [one.trouble for one in found] == ["", "", "submission_13 is missing."]
    ten = datetime(2026, 11, 30, 10, 0, tzinfo=timezone.utc)
    assert found[0].at is not None
    assert found[0].at.replace(microsecond=0) == found[1].at == ten
    assert not told
    (tmp_path / "submission_metadata.yml").write_text("submission_11: [")
    with pytest.raises(ValueError, match="cannot be read as Gradescope writes it"):
        find_submissions(tmp_path)


def test_two_students_of_one_name_are_told_apart(tmp_path: Path) -> None:
    lay(tmp_path, "Ann Lee_11_assignsubmission_file/a.py", "Ann Lee_12_assignsubmission_file/a.py")
    found, told = find_submissions(tmp_path)
    assert [one.student for one in found] == ["Ann Lee 11", "Ann Lee 12"]
    assert not any(one.trouble for one in found)
    assert told == ["2 students are called Ann Lee: their numbers (11, 12) tell them apart"]


@pytest.mark.parametrize("other", ["Ann Lee.zip", "ann lee.ipynb"])  # the second would share a report's file
def test_of_several_files_of_a_student_none_is_marked(tmp_path: Path, other: str) -> None:
    found, told = find_submissions(lay(tmp_path, "Ann Lee.py", other, "Bo.py"))
    assert len(found) == 2
    assert "several submissions" in found[0].trouble
    assert "Ann Lee.py" in found[0].trouble
    assert other in found[0].trouble
    assert not found[1].trouble
    assert not told


def test_troubles(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "nothing.ipynb").write_text("")
    (tmp_path / "words.docx").write_text("x")
    (tmp_path / "secret.py").write_text("x = 1")
    (tmp_path / "link.py").symlink_to(tmp_path / "secret.py")  # to another's work, or the grader's files
    with (tmp_path / "huge.ipynb").open("wb") as file:
        file.truncate(200 * 2**20)
    troubles = {one.student: one.trouble for one in find_submissions(tmp_path)[0]}
    assert troubles["empty"] == "The folder empty is empty."
    assert troubles["nothing"] == "nothing.ipynb is empty."
    assert "hand in the notebook" in troubles["words"]
    assert troubles["link"]
    assert troubles["huge"].startswith(f"huge.ipynb has 200 MB, and at most {LARGEST // 2**20} are read")
    assert troubles["secret"] == ""


def test_the_seed_depends_on_term_and_name_alone() -> None:
    assert student_seed("2026", "José") == student_seed("2026", "Jose\u0301")  # as macOS writes it
    assert len({student_seed(term, name) for term in ("1", "2") for name in ("Ann", "Bo", "An n")}) == 6
    assert student_seed("0", "Ann") == 2508244643


def test_the_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    folder = lay(tmp_path / "Ann", "a.py", "b/c.py")
    before = fingerprint(folder)
    os.utime(folder / "a.py", (0, 0))
    assert fingerprint(folder) == before
    (folder / "b" / "c.py").rename(folder / "b" / "d.py")
    assert fingerprint(folder) != before
