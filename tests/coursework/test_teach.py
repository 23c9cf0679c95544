"""The lecturers' page: its syllabi hold, its commands exist, its example is graded as it says."""

from __future__ import annotations

import importlib.util
import io
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer
import yaml
from bs4 import BeautifulSoup
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace

from topk_lib.cli import app
from topk_lib.grading import load_private, try_hidden
from topk_lib.grading.master import Assignment, names, read_master

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "book" / "teach.md").read_text(encoding="utf-8")
EXAMPLE = ROOT / "tests" / "grading" / "example"


@pytest.fixture(scope="module")
def assignments() -> dict[int, Assignment]:
    found = [read_master(ROOT / "coursework" / name) for name in names(ROOT / "coursework")]
    return {one.number: one for one in found}


def weeks(title: str) -> list[tuple[int, list[str], list[int], list[int]]]:
    """Of a syllabus: week, chapters, assignments handed out, assignments due."""
    table = PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]
    rows = []
    for row in re.findall(r"^\| \d+ \|.*\|$", table, re.MULTILINE):
        week, chapters, out, due = (part.strip() for part in row.strip("|").split("|"))
        given, back = ([int(n) for n in re.findall(r"\{assignment\}`(\d+)`", part)] for part in (out, due))
        rows.append((int(week), re.findall(r"\{ref\}`([\w-]+)`", chapters), given, back))
    return rows


@pytest.mark.parametrize(("title", "length"), [("Twelve weeks", 12), ("Six weeks", 6)])
def test_an_assignment_comes_after_its_chapters(
    title: str, length: int, assignments: dict[int, Assignment]
) -> None:
    read: set[str] = set()
    out: dict[int, int] = {}
    due: dict[int, int] = {}
    for week, chapters, given, back in weeks(title):
        read |= set(chapters)
        for number in given:
            missing = set(assignments[number].read) - read
            assert not missing, f"assignment {number} is handed out in week {week} and presumes {missing}"
            out[number] = week
        for number in back:
            assert week - out[number] >= 1
            due[number] = week
    assert out.keys() == due.keys()
    assert len(weeks(title)) >= length


def test_twelve_weeks_hold_everything(assignments: dict[int, Assignment]) -> None:
    rows = weeks("Twelve weeks")
    assert sorted(number for row in rows for number in row[2]) == sorted(assignments)
    parts = yaml.safe_load((ROOT / "_toc.yml").read_text())["parts"]
    files = [page["file"] for part in parts if "numbered" in part for page in part["chapters"]]
    labels = [
        re.search(r"^\((ch-[\w-]+)\)=$", (ROOT / f"{file}.md").read_text(), re.MULTILINE) for file in files
    ]
    assert sorted(label for row in rows for label in row[1]) == sorted(found[1] for found in labels if found)


def test_the_options_that_the_page_names_exist() -> None:
    commands: Any = typer.main.get_command(app)
    known = {option for name in ("grade", "coursework") for each in commands.commands[name].params
             for option in each.opts}  # fmt: skip
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", PAGE))
    assert len(named) >= 10
    assert named <= known, named - known


def test_the_targets_that_the_page_names_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"`?make (\w+)", PAGE)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for path in set(re.findall(r"`((?:coursework|tests|book)/[\w/.]+)`", PAGE)):
        if "your_name" not in path:
            assert (ROOT / path).exists(), path


def test_the_overlay_is_in_no_archive() -> None:
    assert "coursework/private export-ignore" in (ROOT / ".gitattributes").read_text().splitlines()


def test_the_pages_example_tells_right_from_wrong(tmp_path: Path) -> None:
    name, root = "01_tiny_example", tmp_path / "coursework"
    (root / "private" / name).mkdir(parents=True)
    for file in ("hidden.py", "wrong.py"):
        shutil.copy(EXAMPLE / file, root / "private" / name)
    (root / name).mkdir()
    shutil.copy(EXAMPLE / "master.md", root / name)
    private, questions = load_private(name, root), read_master(root / name).questions
    solved: dict[str, Any] = {}
    for question in questions:
        exec(question.solution, solved)
        hidden = sum(check.points for check in private.hidden if check.question == question.name)
        assert hidden == question.points - question.public
    answers: list[tuple[bool, dict[str, Any]]] = [(True, {})]
    answers += [(True, {known.name: known.function}) for known in private.right]
    answers += [(False, {known.name: known.function}) for known in private.wrong]
    assert len(private.wrong) >= 3
    functions = {each: solved[each] for question in questions for each in question.functions}
    for good, changed in answers:
        for seed in range(10):
            told = try_hidden(name, functions | changed, seed, root)
            assert good != any(sentence for *_, sentence in told), (seed, changed, told)


def course_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("course", ROOT / "book" / "_ext" / "course.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["course"] = module
    spec.loader.exec_module(module)
    return module


def test_the_page_shows_hours_and_points_of_the_masters(
    tmp_path: Path, assignments: dict[int, Assignment]
) -> None:
    course = course_module()
    source = tmp_path / "source"
    for folder in ("book", "notebooks", "coursework", "tests/grading"):
        (source / folder).mkdir(parents=True)
    shutil.copytree(EXAMPLE, source / "tests" / "grading" / "example")
    shutil.copy(ROOT / "coursework" / "POLICY.md", source / "coursework")
    shutil.copy(ROOT / "book" / "teach.md", source / "book")
    (source / "book" / "claims.md").write_text("# Claims\n")
    for chapter in (ROOT / "notebooks").glob("[0-9][0-9]_*.md"):
        head = re.search(r"^\(ch-[\w-]+\)=\n# .+$", chapter.read_text(encoding="utf-8"), re.MULTILINE)
        assert head is not None
        (source / "notebooks" / chapter.name).write_text(head[0] + "\n")
    (source / "index.md").write_text("# Index\n\n```{toctree}\n:glob:\nbook/*\nnotebooks/*\n```\n")
    warnings = io.StringIO()
    settings = {
        "extensions": ["myst_parser"],
        "html_theme": "basic",
        "exclude_patterns": ["tests", "coursework"],
    }
    with docutils_namespace():
        sphinx = Sphinx(source, None, tmp_path / "html", tmp_path / "trees", "html", settings,
                        status=None, warning=warnings)  # fmt: skip
        sphinx.add_role("assignment", course.AssignmentRole())
        sphinx.add_directive("assignments", course.Assignments)
        sphinx.build()
    assert not warnings.getvalue()
    page = BeautifulSoup(
        (tmp_path / "html" / "book" / "teach.html").read_text(encoding="utf-8"), "html.parser"
    )
    table = page.find(id="the-assignments")
    assert table is not None
    rows = [[cell.get_text(" ", strip=True) for cell in row.find_all("td")] for row in table.find_all("tr")][
        1:
    ]
    assert len(rows) == len(assignments) + 1
    for row, one in zip(rows, assignments.values(), strict=False):
        assert row[:2] == [f"{one.number}. {one.title}", f"{one.hours:g}"]
        for question in one.questions:
            assert f"{question.name} {question.points}" in row[3]
    assert rows[-1][1] == f"{sum(one.hours for one in assignments.values()):g}"
    first = assignments[1]
    assert f"1. {first.title} ({first.hours:g} h)" in page.get_text()
    assert "def ties_go_to_the_lowest_index" in page.get_text()
    assert "def all_scores_may_be_negative" not in page.get_text()
    assert "Honour and AI." in page.get_text()
