"""Masters: one file an assignment, from which its copies and its grader are built.

A master is a MyST notebook for ``otter assign`` (raw cells mark questions, solutions and public checks)
whose front matter has a block ``coursework:``, which says what the assignment asks and what it gives.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from topk_lib.grading.sources import asserts, free_names, functions, imported, solved, starter, unpaired

__all__ = ["LINES", "Assignment", "Cell", "Question", "chapters", "chosen", "names", "read_master"]

LINES = 25
"""The most lines of a code cell, in the student's copy and in the solution."""
PUBLIC = 0.4
"""The largest share of the points that public checks may carry."""

_HEAD = {"title": str, "number": int, "hours": (int, float), "device": str, "minutes": (int, float),
         "read": list, "questions": list}  # fmt: skip
_ASKED = {"name": str, "points": int, "public": int, "seconds": (int, float), "megabytes": int}
_BOUNDARY = re.compile(r"# (BEGIN|END) (QUESTION|SOLUTION|TESTS)")
_OTTER = re.compile(r"# ?(?:SOLUTION|SEED|HIDDEN|IGNORE|(?:BEGIN|END) \w+)\b.*$", re.MULTILINE)
_MARKERS = ("# BEGIN SOLUTION NO PROMPT", "# BEGIN SOLUTION", "# END SOLUTION", "# BEGIN PROMPT",
            "# END PROMPT")  # fmt: skip
_CODE = re.compile(r"(\{[\w:-]+\}`[^`]*`)|^```(?!\{).*?^```$|`[^`\n]+`", re.DOTALL | re.MULTILINE)
_MYST = re.compile(r"^(?:`{3,}|:{3,})\{|^\([\w-]+\)=$|\{(?!ref\})[\w:-]+\}`", re.MULTILINE)


@dataclass(frozen=True)
class Question:
    """One question: the graded function and what belongs to it.

    Attributes:
        name: of the question and of its graded function.
        points: in all.
        public: those of them that the public checks carry, split evenly over the checks.
        seconds: limit of one call.
        megabytes: limit of memory.
        also: other graded functions.
        starter: the source of the student's cells, with nothing solved.
        solution: the same cells, solved.
        checks: the source of each public check: assertions, each with its sentence.
    """

    name: str
    points: int
    public: int
    seconds: float
    megabytes: int
    also: tuple[str, ...]
    starter: str
    solution: str
    checks: tuple[str, ...]

    @property
    def functions(self) -> tuple[str, ...]:
        """All graded functions, the one with the question's name first."""
        return (self.name, *self.also)


@dataclass(frozen=True)
class Cell:
    """A cell of the master: kind "markdown" or "code"; block "", "solution" or "tests" of a question."""

    kind: str
    source: str
    line: int
    question: str = ""
    block: str = ""


@dataclass(frozen=True)
class Assignment:
    """A master, read.

    Attributes:
        name: the folder's, as ``01_table_detective``.
        path: of the master.
        read: labels of the pages that it presumes.
        files: paths of the files that lie beside the master, which the student's copy holds too.
        imports: the import statements of the notebook, for its checks.
        cells: all cells but the raw ones, in their order.
    """

    name: str
    path: Path
    title: str
    number: int
    hours: float
    device: str
    minutes: float
    read: tuple[str, ...]
    files: tuple[str, ...]
    imports: str
    questions: tuple[Question, ...]
    cells: tuple[Cell, ...]


def names(root: Path) -> list[str]:
    """The assignments of a folder ``coursework/``, in their order."""
    return sorted(path.parent.name for path in root.glob("[0-9][0-9]_*/master.md"))


def chosen(asked: str, root: Path) -> str:
    """The name of the assignment that a number (``3``) or a name (``03_hard_topk``) stands for.

    Raises:
        ValueError: there is none.
    """
    known = names(root)
    for name in known:
        if asked == name or (asked.isdecimal() and int(asked) == int(name[:2])):
            return name
    raise ValueError(f"{root} holds no assignment {asked!r}: there are {', '.join(known) or 'none'}")


def chapters(repository: Path) -> dict[str, str]:
    """The title that stands below each label of the book's pages."""
    found = {}
    for folder in ("notebooks", "book"):
        for page in sorted((repository / folder).glob("*.md")):
            text = page.read_text(encoding="utf-8")
            for label, title in re.findall(r"^\(([\w-]+)\)=\n#+ +(.+)$", text, re.MULTILINE):
                found[label] = title.strip()
    return found


def read_master(path: str | Path) -> Assignment:
    """The assignment of a master file, or of the folder that holds it.

    Raises:
        ValueError: the master breaks a rule; the sentence names the file, the place and the way out.
        FileNotFoundError: there is no master.
    """
    path = Path(path)
    path = path / "master.md" if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there: an assignment is a folder that holds a master.md")
    return _Reader(path).assignment()


class _Reader:
    """Reads one master; each rule refuses in one sentence."""

    def __init__(self, path: Path) -> None:
        import jupytext

        self.path = path
        self.text = path.read_text(encoding="utf-8")
        try:
            notebook = jupytext.reads(self.text, fmt="md:myst")
        except Exception as error:  # whatever YAML and MyST may raise
            raise self.wrong(1, f"it is no MyST notebook: {' '.join(str(error).split())}") from None
        self.pages = chapters(path.resolve().parents[2])  # none in an autograder, which holds no book
        self.head: Mapping[str, Any] = notebook.metadata.get("coursework") or {}
        self.raw = [(str(cell.cell_type), str(cell.source)) for cell in notebook.cells]

    def wrong(self, line: int, sentence: str) -> ValueError:
        return ValueError(f"{'/'.join(self.path.parts[-3:])}, line {line}: {sentence}")

    def at(self, words: str) -> int:
        """The line of the front matter that holds these words."""
        return self.text[: max(self.text.find(words), 0)].count("\n") + 1

    def assignment(self) -> Assignment:
        asked = self.front()
        name = self.path.parent.name
        if not re.fullmatch(rf"{self.head['number']:02d}_[a-z0-9_]+", name):
            raise self.wrong(self.at("number:"), f"number {self.head['number']} stands in the folder {name}; "
                             f"the folder's name begins with the number, as 01_table_detective")  # fmt: skip
        cells = list(self.walk({q["name"]: q for q in asked}))
        self.prose(cells)
        imports = self.imported(cells)
        return Assignment(
            name=name, path=self.path, imports=imports, cells=tuple(cells),
            questions=tuple(self.question(q, cells, imports) for q in asked),
            read=tuple(self.head["read"]), files=tuple(self.beside()),
            **{key: self.head[key] for key in ("title", "number", "hours", "device", "minutes")},
        )  # fmt: skip

    def beside(self) -> Iterator[str]:
        for path in sorted(self.path.parent.rglob("*")):
            if (
                path.is_file()
                and path != self.path
                and not {"__pycache__", ".ipynb_checkpoints"} & {*path.parts}
            ):
                yield path.relative_to(self.path.parent).as_posix()

    def front(self) -> Sequence[Mapping[str, Any]]:
        """The questions of the front matter, after its rules."""
        line = self.at("coursework:")
        self.keys(self.head, _HEAD, set(), "the block coursework:", line)
        questions: list[Mapping[str, Any]] = self.head["questions"]
        seen: set[str] = set()
        for number, asked in enumerate(questions, 1):
            asked = asked if isinstance(asked, dict) else {}
            name = asked.get("name", f"number {number}")
            line = self.at(f"name: {name}")
            self.keys(asked, _ASKED, {"also"}, f"the question {name}", line)
            for function in (name, *asked.get("also", ())):
                if not (isinstance(function, str) and function.isidentifier() and function.islower()):
                    raise self.wrong(line, f"{function!r} cannot name a function; write lower_case")
                if function in seen:
                    raise self.wrong(line, f"{function} is named twice; a function belongs to one question")
                seen.add(function)
            points, public = asked["points"], asked["public"]
            if not 0 < public <= PUBLIC * points:
                raise self.wrong(line, f"{public} of the {points} points of {name} are public; at least 1 "
                                 f"and at most {PUBLIC:.0%} may be")  # fmt: skip
            if asked["seconds"] <= 0 or asked["megabytes"] < 500:
                raise self.wrong(line, f"the limits of {name} are too small: seconds above 0, "
                                 "megabytes 500 or more (PyTorch alone takes some hundred)")  # fmt: skip
        if (total := sum(q["points"] for q in questions)) != 100:
            raise self.wrong(self.at("questions:"), f"the points of the questions sum to {total}, not to 100")
        for label in self.head["read"]:
            self.label(label, self.at("read:"))
        return questions

    def keys(self, block: Any, kinds: Mapping[str, Any], spare: set[str], where: str, line: int) -> None:
        if not isinstance(block, dict) or (missing := [key for key in kinds if key not in block]):
            lacking = ", ".join(missing) if isinstance(block, dict) else ", ".join(kinds)
            raise self.wrong(line, f"{where} lacks {lacking}")
        if unknown := set(block) - set(kinds) - spare:
            raise self.wrong(line, f"{where} has the unknown key {min(unknown)}")
        for key, kind in kinds.items():
            if not isinstance(block[key], kind) or isinstance(block[key], bool):
                wanted = {str: "text", int: "a whole number", list: "a list"}.get(kind, "a number")
                raise self.wrong(line, f"{key} of {where} is {block[key]!r}; it is {wanted}")

    def walk(self, asked: Mapping[str, Mapping[str, Any]]) -> Iterator[Cell]:
        """The cells that are not raw, each with its place."""
        question = block = ""
        done: list[str] = []
        cursor, line = 0, 1
        for number, (kind, source) in enumerate(self.raw):
            first = source.split("\n", 1)[0]
            if (found := self.text.find(first, cursor)) >= 0:
                line = self.text.count("\n", 0, found) + 1
                cursor = found + len(source)
            if number == 0:
                self.config(kind, source, line)
            elif kind != "raw":
                if kind == "markdown" and block == "tests":
                    raise self.wrong(line, f"the public checks of {question} hold text; they are code cells")
                if block != "solution" and (mark := _OTTER.search(source)):
                    raise self.wrong(line, f"otter's mark {mark[0]!r} may stand in a solution only")
                yield Cell(kind, source, line, question, block)
            elif not (edge := _BOUNDARY.fullmatch(first.rstrip())):
                raise self.wrong(line, f"the raw cell {first!r} marks nothing; see # BEGIN QUESTION, # BEGIN "
                                 "SOLUTION, # BEGIN TESTS and their ends")  # fmt: skip
            elif edge[2] == "QUESTION":
                if block or bool(question) == (edge[1] == "BEGIN"):
                    raise self.wrong(line, f"{edge[0]} stands inside or after something that is not ended")
                question = self.begin(source, line, asked, done) if edge[1] == "BEGIN" else ""
            else:
                named = edge[2].lower()
                if not question or block != ("" if edge[1] == "BEGIN" else named):
                    raise self.wrong(line, f"{edge[0]} has no counterpart: each part begins and ends once, "
                                     "inside a question")  # fmt: skip
                block = named if edge[1] == "BEGIN" else ""
        if question or block:
            raise self.wrong(line, f"the question {question} is not ended")
        if missing := [name for name in asked if name not in done]:
            raise self.wrong(
                self.at(f"name: {missing[0]}"), f"the question {missing[0]} has no # BEGIN QUESTION"
            )

    def config(self, kind: str, source: str, line: int) -> None:
        if kind != "raw" or not source.startswith("# ASSIGNMENT CONFIG"):
            raise self.wrong(line, "the first cell is not the raw cell # ASSIGNMENT CONFIG")
        config, name = self.yaml(source, line), self.path.parent.name
        if config.get("name") != name or config.get("tests") != {"files": True}:  # the builder sets the rest
            raise self.wrong(line, f"# ASSIGNMENT CONFIG has to say name: {name} and tests: {{files: true}}")

    def begin(self, source: str, line: int, asked: Mapping[str, Any], done: list[str]) -> str:
        config = self.yaml(source, line)
        name = str(config.get("name"))
        if name not in asked:
            raise self.wrong(line, f"the question {name} is not in the front matter")
        if name in done:
            raise self.wrong(line, f"the question {name} begins twice")
        if list(asked)[len(done)] != name:
            raise self.wrong(line, f"the question {name} comes in another order than in the front matter")
        if config != {"name": name, "points": asked[name]["public"]}:
            raise self.wrong(line, f"the raw cell of {name} says {config}; it says name, and points: "
                             f"{asked[name]['public']}, the public ones of the front matter")  # fmt: skip
        done.append(name)
        return name

    def yaml(self, source: str, line: int) -> Mapping[str, Any]:
        import yaml

        try:
            config = yaml.safe_load(source)
        except yaml.YAMLError as error:
            raise self.wrong(line, f"the raw cell is no YAML: {' '.join(str(error).split())}") from None
        return config if isinstance(config, dict) else {}

    def prose(self, cells: Sequence[Cell]) -> None:
        text = [cell for cell in cells if cell.kind == "markdown"]
        if sum(len(re.findall(r"^\{\{ policy \}\}$", cell.source, re.MULTILINE)) for cell in text) != 1:
            raise self.wrong(1, "the handout holds {{ policy }}, alone in a line, exactly once")
        for cell in text:
            plain = _CODE.sub(lambda found: found[1] or "", cell.source)  # but no code
            for label in re.findall(r"\{ref\}`([^`]+)`", plain):
                self.label(label, cell.line)
            if mark := _MYST.search(plain):
                raise self.wrong(cell.line, f"{mark[0]!r} is MyST, which JupyterLab does not show; "
                                 "only {ref}`label` becomes a title")  # fmt: skip

    def label(self, label: str, line: int) -> None:
        if self.pages and label not in self.pages:
            raise self.wrong(line, f"no page of the book has the label {label}")

    def imported(self, cells: Sequence[Cell]) -> str:
        """The import statements of the cells before the first question; every code cell is looked at."""
        first = next((n for n, cell in enumerate(cells) if cell.question), len(cells))
        imports = []
        for number, cell in enumerate(cells):
            if cell.kind != "code":
                continue
            for form in (starter, solved) if cell.block == "solution" else (str,):
                shown = form(cell.source)
                if shown.rstrip().count("\n") + 1 > LINES:
                    raise self.wrong(cell.line, f"the cell has more than {LINES} lines; split it")
                for node in self.parsed(shown, cell).body:
                    if not isinstance(node, (ast.Import, ast.ImportFrom)):
                        continue
                    if number >= first or any(alias.name == "*" for alias in node.names):
                        raise self.wrong(cell.line, f"{ast.unparse(node)!r}: imports name what they bring, "
                                         "in a cell before the first question")  # fmt: skip
                    imports.append(ast.unparse(node))
        return "\n".join(imports)

    def parsed(self, source: str, cell: Cell) -> ast.Module:
        try:
            compile(source, "cell", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            return ast.parse(source)
        except SyntaxError as error:
            raise self.wrong(
                cell.line, f"the cell is not Python (line {error.lineno} of it: {error.msg})"
            ) from None

    def question(self, asked: Mapping[str, Any], cells: Sequence[Cell], imports: str) -> Question:
        name, also = asked["name"], tuple(asked.get("also", ()))
        mine = [cell for cell in cells if cell.question == name]
        line = mine[0].line if mine else 1
        answer = [cell for cell in mine if cell.block == "solution" and cell.kind == "code"]
        checks = [cell for cell in mine if cell.block == "tests"]
        if not mine or mine[0].kind != "markdown":
            raise self.wrong(line, f"the question {name} does not begin with a text that says what is asked")
        if not answer or not 1 <= len(checks) <= 3:
            raise self.wrong(line, f"the question {name} has {len(answer)} cells with a solution and "
                             f"{len(checks)} public checks; it has 1 or more, and 1 to 3")  # fmt: skip
        for cell in answer:
            self.marked(cell)
        forms = ["\n\n\n".join(form(cell.source) for cell in answer) for form in (starter, solved)]
        before, after = functions(forms[0]), functions(forms[1])
        for function in (name, *also):
            if function not in before or function not in after:
                copy = "starter" if function in after else "solution"
                raise self.wrong(
                    line, f"the {copy} of the question {name} does not define the function {function}"
                )
            if before[function] == after[function]:
                raise self.wrong(line, f"the solution of {function} is not marked: put it between "
                                 "# BEGIN SOLUTION NO PROMPT and # END SOLUTION")  # fmt: skip
        known = imported(imports) | {name, *also}
        for cell in checks:
            if not asserts(cell.source):
                raise self.wrong(cell.line, f"a public check of {name} asserts nothing, or without a "
                                 "sentence that says what differs")  # fmt: skip
            if strange := free_names(cell.source) - known:
                raise self.wrong(cell.line, f"a public check of {name} uses {min(strange)}, which is neither "
                                 "imported nor a function of the question")  # fmt: skip
        return Question(**{key: asked[key] for key in _ASKED}, also=also, starter=forms[0], solution=forms[1],
                        checks=tuple(cell.source for cell in checks))  # fmt: skip

    def marked(self, cell: Cell) -> None:
        """The marks of a solution cell are known ones, in pairs."""
        marks = [mark[0].rstrip() for mark in _OTTER.finditer(cell.source)]
        if strange := [mark for mark in marks if mark not in _MARKERS]:
            raise self.wrong(
                cell.line, f"the mark {strange[0]!r} is unknown; known are {', '.join(_MARKERS)}"
            )
        if unpaired(marks):
            raise self.wrong(cell.line, "the marks of the solution are not in pairs of BEGIN and END")
