"""From whatever a student's notebook became: the functions that are graded, and what they stand on.

Nothing is run. Kept are the functions asked for and, of what the top level of the notebook says, only what
they use, directly or not: imports, functions, classes, and names that are given a value. Loose statements,
such as a training loop, a print or a check, are left out.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import json
import re
import symtable
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

__all__ = ["Collected", "collect"]

LARGEST = 50 * 2**20
_MOST = 20  # files of one submission
_OTHER = re.compile(r"\s*%%(?!time|timeit|capture|prun)\w+")  # a cell that is not Python
_MAGIC = re.compile(r"^(\s*)(?:[%!?].*|[\w.]+\?{1,2})$")
_ASSIGNED_MAGIC = re.compile(r"^(\s*[\w, ]+=\s*)[%!].*$")
_DOUBTFUL_NAMES = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "ctypes",
    "gc",
    "inspect",
    "subprocess",
    "socket",
    "builtins",
    "grading",
}
_DOUBTFUL_PARTS = {
    "_getframe",
    "currentframe",
    "__subclasses__",
    "__globals__",
    "_exit",
    "settrace",
    "setprofile",
    "modules",
    "fork",
    "fdopen",
}

_DEFINITION = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


@dataclass(frozen=True)
class Collected:
    """What was found.

    Attributes:
        source: a file with the functions, for :meth:`topk_lib.grading.sandbox.Sandbox.question`.
        notes: what was mended, left out or chosen, in sentences to the student.
        missing: functions that were not found.
        doubtful: names in the source that an honest answer seldom needs, for the lecturer's eyes.
    """

    source: str = ""
    notes: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    doubtful: list[str] = field(default_factory=list)


@dataclass
class _Statement:
    """A statement at the top level: the names it gives, those it uses, and where it stands."""

    cell: int
    text: str
    node: ast.stmt
    gives: set[str]
    uses: set[str]


def collect(path: Path | str, functions: Sequence[str]) -> Collected:
    """The functions of a notebook (.ipynb) or Python file; of a folder or .zip, of the file with the most.

    Of several definitions the last counts; a cell that Python cannot read costs only itself. What cannot be
    read at all gives an empty source, and a note that says why. Cells are numbered from 1, text cells too.
    """
    notes: list[str] = []
    found = [(name, _collect(name, text, functions)) for name, text in _files(Path(path), notes)]
    if not found:
        return Collected("", notes or [f"{Path(path).name} holds no notebook."], list(functions))
    name, best = min(found, key=lambda each: (len(each[1].missing), not each[0].endswith(".ipynb"), each[0]))
    if len(found) > 1:
        notes.append(f"{len(found)} files were handed in: {name} counts.")
    return replace(best, notes=notes + best.notes)


def _files(path: Path, notes: list[str]) -> Iterator[tuple[str, str]]:
    """Names and texts of notebooks and Python files. Nothing is unpacked onto the disk, no link followed."""
    found: list[tuple[str, Callable[[], Any]]] = []
    try:
        with contextlib.ExitStack() as stack:
            if path.is_dir():
                inner = [each for each in sorted(path.rglob("*")) if each.is_file() and not each.is_symlink()]
                found = [(str(each.relative_to(path)), partial(open, each, "rb")) for each in inner]
            elif path.suffix.lower() == ".zip":
                archive = stack.enter_context(zipfile.ZipFile(path))
                found = [(each, partial(archive.open, each)) for each in sorted(archive.namelist())]
            else:
                found = [(path.name, partial(open, path, "rb"))]
            wanted = [each for each in found if len(found) == 1 or _notebook(PurePosixPath(each[0]))]
            for name, opened in wanted[:_MOST]:
                with opened() as file:
                    data = file.read(LARGEST + 1)
                if len(data) > LARGEST:
                    notes.append(f"{name} is larger than {LARGEST >> 20} MB: clear its outputs and save it.")
                else:
                    yield name, data.decode("utf-8-sig", errors="replace")
    except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError, zlib.error) as error:
        notes.append(f"{path.name} cannot be read ({error}).")


def _notebook(path: PurePosixPath) -> bool:
    beside = any(part.startswith((".", "__")) for part in path.parts)  # checkpoints, what macOS adds
    return path.suffix.lower() in (".ipynb", ".py") and not beside


def _collect(name: str, text: str, functions: Sequence[str]) -> Collected:
    notes: list[str] = []
    statements: list[_Statement] = []
    for number, cell in _cells(name, text, notes):
        if _OTHER.match(cell):
            notes.append(f"Cell {number} is left out: {cell.split()[0]} makes it something else than Python.")
            continue
        try:
            with warnings.catch_warnings():  # "\d" in a string is the student's affair
                warnings.simplefilter("ignore")
                statements += _statements(number, cell)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            line = getattr(error, "lineno", None)
            what = getattr(error, "msg", str(error)) or type(error).__name__
            notes.append(
                f"Cell {number} is left out, as Python cannot read it"
                f"{f' (line {line}: {what})' if line else f' ({what})'}."
            )
    defined = {name for each in statements if isinstance(each.node, _DEFINITION) for name in each.gives}
    chosen = {name: _definition(name, statements, defined, notes) for name in dict.fromkeys(functions)}
    missing = [name for name, found in chosen.items() if found is None]
    for wanted in missing:
        near = difflib.get_close_matches(wanted, defined - set(functions), 1, 0.8)
        notes.append(f"{wanted} was not found" + (f"; there is {near[0]}: is that a slip?" if near else "."))
    kept = _closure([found for found in chosen.values() if found], statements, defined)
    parts = [each.text for each in kept]
    parts.sort(key=lambda part: not part.startswith("from __future__"))
    source = "\n\n".join(parts) + "\n" if parts else ""
    return Collected(source, notes, missing, _doubtful(kept))


def _cells(name: str, text: str, notes: list[str]) -> Iterator[tuple[int, str]]:
    if not text.strip():
        notes.append(f"{name} is empty.")
        return
    if not name.lower().endswith(".ipynb"):
        yield from enumerate(re.split(r"^# ?%%.*$", text, flags=re.MULTILINE), 1)
        return
    try:
        book = json.loads(text)
    except (ValueError, RecursionError) as error:
        where = f" in line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        notes.append(f"{name} is not a notebook: its text breaks off{where}; save it again in JupyterLab.")
        return
    cells = list(_listed(book))
    if not cells:
        notes.append(f"{name} is not a notebook: it has no cells.")
    for number, cell in enumerate(cells, 1):
        if isinstance(cell, dict) and cell.get("cell_type") == "code":
            held = cell.get("source", cell.get("input", ""))
            yield number, "".join(map(str, held)) if isinstance(held, list) else str(held)


def _listed(book: Any) -> Iterator[Any]:
    """The cells, of nbformat 4 or, in worksheets, of those before."""
    if isinstance(book, dict):
        for holder in [book, *(book["worksheets"] if isinstance(book.get("worksheets"), list) else [])]:
            if isinstance(holder, dict) and isinstance(holder.get("cells"), list):
                yield from holder["cells"]


def _statements(cell: int, text: str) -> Iterator[_Statement]:
    text = text.replace("\r\n", "\n")
    try:
        tree = ast.parse(text)
    except SyntaxError:
        lines = [_ASSIGNED_MAGIC.sub(r"\1None", _MAGIC.sub(r"\1pass", line)) for line in text.split("\n")]
        text = "\n".join(lines)
        tree = ast.parse(text)
    for node in tree.body:
        if _kept(node):
            first = min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", []))])
            whole = "\n".join(text.split("\n")[first - 1 : node.end_lineno])
            alone = isinstance(node, _DEFINITION)
            held = whole if alone else ast.get_source_segment(text, node) or ast.unparse(node)
            yield _Statement(cell, held, node, set(_given(node)), _used(held))


def _used(source: str) -> set[str]:
    """Names that a statement takes from the top level; a function's own are not among them."""
    top = symtable.symtable(source, "cell", "exec")
    used = {symbol.get_name() for symbol in top.get_symbols() if symbol.is_referenced()}
    tables = list(top.get_children())
    while tables:
        table = tables.pop()
        used |= {symbol.get_name() for symbol in table.get_symbols() if symbol.is_global()}
        tables += table.get_children()
    return used


def _kept(node: ast.stmt) -> bool:
    """Whether a statement only says what names mean."""
    if isinstance(node, (ast.If, ast.Try)):
        inner = [*node.body, *node.orelse]
        if isinstance(node, ast.Try):
            inner += [*node.finalbody, *(each for handler in node.handlers for each in handler.body)]
        return all(isinstance(each, ast.Pass) or _kept(each) for each in inner)
    named = isinstance(node, ast.AnnAssign) and node.value is not None
    return named or isinstance(node, (ast.Import, ast.ImportFrom, ast.Assign, _DEFINITION))


def _given(node: ast.AST) -> Iterator[str]:
    if isinstance(node, _DEFINITION):
        yield node.name
    elif isinstance(node, (ast.Import, ast.ImportFrom)):
        for alias in node.names:
            yield (alias.asname or alias.name).split(".")[0]
    elif isinstance(node, (ast.Assign, ast.AnnAssign)):
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            for each in ast.walk(target):
                if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store):
                    yield each.id
    else:
        for child in ast.iter_child_nodes(node):
            yield from _given(child)


def _is_function(each: _Statement, name: str, functions: set[str]) -> bool:
    """Whether a statement makes the name a function: by def, by lambda, or as another name of one."""
    if isinstance(each.node, (ast.Assign, ast.AnnAssign)):
        value = each.node.value
        return isinstance(value, ast.Lambda) or (isinstance(value, ast.Name) and value.id in functions)
    return any(isinstance(node, _DEFINITION) and node.name == name for node in ast.walk(each.node))


def _definition(
    name: str, statements: Sequence[_Statement], functions: set[str], notes: list[str]
) -> _Statement | None:
    givers = [each for each in statements if name in each.gives]
    made = [each for each in givers if _is_function(each, name, functions)]
    if not made:
        return None
    cell = made[-1].cell
    if len(made) > 1:
        notes.append(f"{name} is defined {len(made)} times: the last counts, of cell {cell}.")
    for later in givers[givers.index(made[-1]) + 1 :]:
        notes.append(f"{name} gets another value in cell {later.cell}: your function of cell {cell} counts.")
    return made[-1]


def _closure(
    wanted: Sequence[_Statement], statements: Sequence[_Statement], functions: set[str]
) -> list[_Statement]:
    """What the wanted statements use, and what that uses, in the notebook's order; of each name the last."""
    by_name: dict[str, _Statement] = {}
    for each in statements:
        for name in each.gives:
            if name not in functions or _is_function(each, name, functions):
                by_name[name] = each
    general = [each for each in statements if isinstance(each.node, ast.ImportFrom)
               and (each.gives == {"*"} or each.node.module == "__future__")]  # fmt: skip
    kept: set[int] = set()
    left = [*wanted, *general] if wanted else []
    while left:
        one = left.pop()
        if id(one) not in kept:
            kept.add(id(one))
            left += [by_name[name] for name in one.uses if name in by_name]
    return [each for each in statements if id(each) in kept]


def _doubtful(kept: Sequence[_Statement]) -> list[str]:
    found: set[str] = set()
    for each in kept:
        for node in ast.walk(each.node):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                modules = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
                found |= {part for module in modules for part in module.split(".")} & _DOUBTFUL_NAMES
            elif isinstance(node, ast.Name):
                found |= {node.id} & _DOUBTFUL_NAMES
            elif isinstance(node, ast.Attribute):
                found |= {node.attr} & _DOUBTFUL_PARTS
    return sorted(found)
