"""A master is read; each rule that one can break refuses it in a sentence with the file and the line."""

from __future__ import annotations

from pathlib import Path

import pytest

from topk_lib.grading.master import Assignment, names, read_master
from topk_lib.grading.sources import free_names, solved, starter

EXAMPLE = (Path(__file__).parent / "example" / "master.md").read_text(encoding="utf-8")
NAME = "01_tiny_example"


def written(root: Path, text: str = EXAMPLE, name: str = NAME) -> Path:
    """A folder coursework/ with one master, in a repository with one chapter."""
    page = root / "notebooks" / "11_hard_topk.md"
    page.parent.mkdir(exist_ok=True)
    page.write_text("(ch-hard-topk)=\n# Hard top-k\n")
    folder = root / "coursework" / name
    folder.mkdir(parents=True)
    (folder / "master.md").write_text(text, encoding="utf-8")
    (folder / "examples" / "__pycache__").mkdir(parents=True)
    for file in ("rubric.md", "examples/weak.json", "examples/__pycache__/weak.pyc"):
        (folder / file).write_text("# Rubric\n")
    return folder


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Assignment:
    return read_master(written(tmp_path_factory.mktemp("course")))


def test_what_a_master_says(example: Assignment) -> None:
    assert (example.name, example.number, example.title) == (NAME, 1, "The tiny example")
    assert (example.hours, example.minutes, example.read) == (1, 1, ("ch-hard-topk",))
    assert example.files == ("examples/weak.json", "rubric.md")
    assert example.imports == "import math\nimport torch"
    assert [(q.name, q.points, q.public, q.functions) for q in example.questions] == [
        ("largest", 60, 10, ("largest",)),
        ("spread", 40, 10, ("spread", "middle")),
    ]
    assert [len(q.checks) for q in example.questions] == [2, 1]
    lines = EXAMPLE.splitlines()
    for cell in example.cells:
        assert lines[cell.line - 1] == cell.source.splitlines()[0]


def test_the_starter_raises_and_the_solution_solves(example: Assignment) -> None:
    largest = example.questions[0]
    before: dict[str, object] = {}
    after: dict[str, object] = {}
    exec(largest.starter, before)
    exec(largest.solution, after)
    import torch

    with pytest.raises(NotImplementedError, match="largest: nothing is written here yet"):
        before["largest"](torch.zeros(3))  # type: ignore[operator]
    assert after["largest"](torch.tensor([1.0, 3.0, 3.0])) == 1  # type: ignore[operator]
    for text in (largest.starter, largest.solution):
        assert "SOLUTION" not in text
        assert "PROMPT" not in text


def test_marks_become_one_copy_or_the_other() -> None:
    cell = (
        "def f(x):\n    y = x  # shared\n    # BEGIN SOLUTION NO PROMPT\n    return 2 * y\n"
        '    # END SOLUTION\n    """ # BEGIN PROMPT\n    return ...\n    """ # END PROMPT\n'
        "# BEGIN SOLUTION\nz = f(1)\n# END SOLUTION"
    )
    assert starter(cell) == "def f(x):\n    y = x  # shared\n    return ...\n..."
    assert solved(cell) == "def f(x):\n    y = x  # shared\n    return 2 * y\nz = f(1)"


def test_names_that_code_takes_from_elsewhere() -> None:
    source = (
        "import math\nfor i in range(3):\n    assert [f(i, j) for j in g] == (lambda k: h + k)(i), math.pi"
    )
    assert free_names(source) == {"f", "g", "h"}
    assert free_names("def f(x):\n    return f(x) + torch.e\nf(1)") == {"torch"}


WRONG = [
    ("coursework:\n", "courses:\n", 1, "the block coursework: lacks title, number"),
    ("  hours: 1\n", "", 10, "the block coursework: lacks hours"),
    ("  hours: 1\n", "  hours: one\n", 10, "hours of the block coursework: is 'one'; it is a number"),
    ("  title: The tiny example", "  title: 7", 10, "title of the block coursework: is 7; it is text"),
    ("  hours: 1\n", "  hours: 1\n  weeks: 2\n", 10, "the block coursework: has the unknown key weeks"),
    ("  number: 1", "  number: 2", 12, "number 2 stands in the folder 01_tiny_example"),
    ("  read: [ch-hard-topk]", "  read: [ch-hard]", 16, "no page of the book has the label ch-hard"),
    ("points: 60, public: 10", "points: 50, public: 10", 17, "the points of the questions sum to 90"),
    ("points: 60, public: 10", "points: 60, public: 25", 18, "25 of the 60 points of largest are public"),
    ("points: 60, public: 10", "points: 60, public: 0", 18, "0 of the 60 points of largest are public"),
    ("points: 60, public: 10", "points: 60.5, public: 10", 18, "points of the question largest is 60.5"),
    ("seconds: 5, megabytes: 1500}\n    - ", "seconds: 0, megabytes: 1500}\n    - ", 18, "limits of largest"),
    ("seconds: 5, megabytes: 1500}\n    - ", "seconds: 5}\n    - ", 18, "largest lacks megabytes"),
    ("also: [middle]", "also: [largest]", 19, "largest is named twice"),
    ("also: [middle]", "also: [Middle]", 19, "'Middle' cannot name a function"),
    ("# ASSIGNMENT CONFIG\n", "# CONFIG\n", 24, "the first cell is not the raw cell # ASSIGNMENT CONFIG"),
    ("name: 01_tiny_example\n", "name: 02_tiny_example\n", 24, "has to say name: 01_tiny_example"),
    ("{{ policy }}", "No policy.", 1, "the handout holds {{ policy }}"),
    ("It needs", "```{note}\nIt\n```\n\nIt needs", 31, "'```{' is MyST"),
    ("It needs", "It needs {term}`top-k` and", 31, "'{term}`' is MyST"),
    ("It needs {ref}`ch-hard-topk`", "It needs {ref}`ch-soft`", 31, "no page of the book has the label"),
    ("# BEGIN QUESTION\nname: largest", "# BEGIN QUESTION\nname: biggest", 0, "biggest is not in"),
    ("# BEGIN QUESTION\nname: spread", "# BEGIN QUESTION\nname: largest", 0, "largest begins twice"),
    ("# BEGIN QUESTION\nname: largest", "# BEGIN QUESTION\nname: spread", 0, "spread comes in another order"),
    ("name: largest\npoints: 10", "name: largest\npoints: 60", 0, "the raw cell of largest says"),
    ("name: largest\npoints: 10", "name: [largest", 0, "the raw cell is no YAML"),
    ("# END SOLUTION\n```", "# END PART\n```", 0, "the raw cell '# END PART' marks nothing"),
    ("# END TESTS\n", "# END SOLUTION\n", 0, "SOLUTION has no counterpart"),
    ("```{raw-cell}\n\n# END QUESTION\n```\n\nProse", "Prose", 0, "QUESTION stands inside or after"),
    ("```{raw-cell}\n\n# END QUESTION\n```\n\n## Before", "## Before", 0, "the question spread is not ended"),
    ("got = largest(torch.tensor", "# HIDDEN\ngot = largest(torch.tensor", 0, "otter's mark '# HIDDEN'"),
    ("```{code-cell} ipython3\nfor value", "Text.\n\n```{code-cell} ipython3\nfor value", 0, "hold text"),
    ("scores = torch.tensor", "%time scores = torch.tensor", 0, "the cell is not Python (line 1 of it"),
    ("scores = torch.tensor", "import os\nscores = torch.tensor", None, ""),
    ("try:\n    print", "import os\ntry:\n    print", 0, "'import os': imports name what they bring"),
    ("import math\n", "from math import *\n", 0, "'from math import *': imports name"),
    ("scores = torch", "x = 1\n" * 25 + "scores = torch", 0, "the cell has more than 25 lines"),
    ("## Question 1:", "```{code-cell} ipython3\nprint()\n```\n\n## Question 1", 0, "begin with a text"),
    ("def middle", "def median", 0, "solution of the question spread does not define"),
    ("    # BEGIN SOLUTION NO PROMPT\n    return int", "    return int", 0, "are not in pairs"),
    ("# BEGIN SOLUTION NO PROMPT\n    return int", "# BEGIN ANSWER\n    return int", 0, "# BEGIN ANSWER"),
    ('raise NotImplementedError("largest: nothing is written here yet")',
     "return int((scores == scores.max()).nonzero()[0])", 0, "the solution of largest is not marked"),
    ("assert got == 1, f\"for scores [1, 3, 2] the index is 1, yours is {got}\"", "assert got == 1", 0,
     "asserts nothing, or without a sentence"),
    ("got = spread([1, 5, 3])", "got = spread(scores)", 0, "uses scores, which is neither"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "line", "sentence"), WRONG, ids=[w[3][:50] or "fine" for w in WRONG])
def test_a_rule_that_is_broken(tmp_path: Path, old: str, new: str, line: int | None, sentence: str) -> None:
    assert old in EXAMPLE
    folder = written(tmp_path, EXAMPLE.replace(old, new, 1))
    if line is None:  # the rule's other side: imports before the first question are fine
        assert "import os" in read_master(folder).imports
        return
    with pytest.raises(ValueError, match=r"^coursework/01_tiny_example/master\.md, line \d+: ") as refused:
        read_master(folder)
    said = str(refused.value)
    assert sentence in said
    assert "\n" not in said
    if line:
        assert f", line {line}:" in said


def test_a_question_without_its_block_or_without_checks(tmp_path: Path) -> None:
    start = EXAMPLE.index("```{raw-cell}\n\n# BEGIN QUESTION\nname: spread")
    (tmp_path / "a").mkdir()
    with pytest.raises(ValueError, match="the question spread has no # BEGIN QUESTION"):
        read_master(written(tmp_path / "a", EXAMPLE[:start] + EXAMPLE[EXAMPLE.index("## Before") :]))
    start = EXAMPLE.rindex("```{code-cell} ipython3\ngot = spread")
    (tmp_path / "b").mkdir()
    with pytest.raises(ValueError, match="1 cells with a solution and 0 public checks"):
        read_master(
            written(tmp_path / "b", EXAMPLE[:start] + EXAMPLE[EXAMPLE.index("```{raw-cell}", start) :])
        )


def test_code_in_prose_is_not_taken_for_myst(tmp_path: Path) -> None:
    prose = "It needs `{a}` and ``x`` and\n\n```python\nf'{a}`b`'\n```\n\n"
    assert read_master(written(tmp_path, EXAMPLE.replace("It needs", prose, 1))).title


def test_where_there_is_no_master(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="an assignment is a folder that holds a master"):
        read_master(tmp_path)
    with pytest.raises(ValueError, match="it is no MyST notebook"):
        read_master(written(tmp_path, "---\ncoursework: [\n---\n"))
    assert names(tmp_path / "coursework") == [NAME]


def test_an_autograder_that_holds_no_book_asks_for_no_labels(tmp_path: Path) -> None:
    folder = written(tmp_path)
    (tmp_path / "notebooks" / "11_hard_topk.md").unlink()
    assert read_master(folder).read == ("ch-hard-topk",)
