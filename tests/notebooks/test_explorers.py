"""What a reader moves in a live notebook still works after all later cells have run."""

from __future__ import annotations

import ast
import symtable
from collections.abc import Iterator
from pathlib import Path

import jupytext
import pytest

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
_SCOPES = (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def code(path: Path) -> list[str]:
    return [cell["source"] for cell in jupytext.read(path)["cells"] if cell["cell_type"] == "code"]


def globals_of(table: symtable.SymbolTable) -> set[str]:
    """What a function, and each one inside it, reads from the notebook."""
    own = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_global()}
    return own.union(*map(globals_of, table.get_children()))


def bound(source: str) -> set[str]:
    """The names that a cell binds, but for those in functions and comprehensions."""
    found, left = set[str](), list[ast.AST]([ast.parse(source)])
    while left:
        node = left.pop()
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif not isinstance(node, _SCOPES):
            if isinstance(node, ast.alias):
                found.add((node.asname or node.name).split(".")[0])
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
            left += ast.iter_child_nodes(node)
    return found


def explored(source: str) -> Iterator[str]:
    """The functions that the explorers of a cell call."""
    for node in ast.walk(ast.parse(source)):
        called = node.func if isinstance(node, ast.Call) else None
        if isinstance(node, ast.Call) and isinstance(called, ast.Attribute) and called.attr == "explore":
            given = [*node.args[:1], *(word.value for word in node.keywords if word.arg == "alt")]
            yield from (one.id for one in given if isinstance(one, ast.Name))


def rebound(cells: list[str]) -> list[str]:
    """Names that an explorer's functions read, and that a later cell binds anew."""
    reads: dict[str, set[str]] = {}
    found = []
    for number, source in enumerate(cells):
        for table in symtable.symtable(source, "cell", "exec").get_children():
            reads[table.get_name()] = globals_of(table)
        names, left = set[str](), list(explored(source))
        while left:
            if (name := left.pop()) not in names:
                names.add(name)
                left += reads.get(name, ())
        later = set[str]().union(*map(bound, cells[number + 1 :]))
        found += sorted(names & later)
    return found


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("[0-9]*.md")), ids=lambda path: path.stem)
def test_no_later_cell_takes_what_an_explorer_reads(path: Path) -> None:
    assert rebound(code(path)) == [], "an explorer calls its function again whenever it is moved"


def test_what_is_read_is_found_through_functions() -> None:
    first = (
        "xs = [1]\nk = 2\ndef inner(a):\n    return [x + a for x in xs]\n"
        "def outer(k):\n    return inner(k)\nshow.explore(outer, k=[1])"
    )
    assert rebound([first, "ys = [xs for xs in [1]]\nk = 3\ndef f(xs):\n    inner = xs"]) == []
    for later in ("xs = 3", "def inner():\n    return 1", "for xs in []:\n    pass", "import xs"):
        assert rebound([first, later]), later
