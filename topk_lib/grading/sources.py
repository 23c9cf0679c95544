"""Code in the cells of masters: what of it a student gets, and what it takes from elsewhere."""

from __future__ import annotations

import ast
import builtins
import symtable

__all__ = ["asserts", "free_names", "functions", "imported", "solved", "starter", "unpaired"]


def starter(source: str) -> str:
    """A solution cell as the student gets it."""
    lines: list[str] = []
    solving = False
    for line in source.split("\n"):
        mark = line.rstrip()
        if mark.endswith("# END SOLUTION"):
            solving = False
        elif solving or mark.endswith(("# BEGIN PROMPT", "# END PROMPT")):
            continue
        elif "# BEGIN SOLUTION" in mark:
            solving = True
            if not mark.endswith("NO PROMPT"):
                lines.append(mark[: mark.index("#")] + "...")
        else:
            lines.append(line)
    return "\n".join(lines)


def solved(source: str) -> str:
    """A solution cell without its marks."""
    lines: list[str] = []
    prompting = False
    for line in source.split("\n"):
        mark = line.rstrip()
        if mark.endswith(("# BEGIN PROMPT", "# END PROMPT")):
            prompting = mark.endswith("# BEGIN PROMPT")
        elif not prompting and not mark.lstrip().startswith(("# BEGIN SOLUTION", "# END SOLUTION")):
            lines.append(line)
    return "\n".join(lines)


def free_names(source: str) -> set[str]:
    """Names that a piece of code takes from elsewhere, Python's own left out."""
    top = symtable.symtable(source, "check", "exec")
    made = {s.get_name() for s in top.get_symbols() if s.is_assigned() or s.is_imported()}
    used = {s.get_name() for s in top.get_symbols() if s.is_referenced()}
    tables = list(top.get_children())
    while tables:
        table = tables.pop()
        used |= {s.get_name() for s in table.get_symbols() if s.is_global()}
        tables += table.get_children()
    return used - made - set(dir(builtins))


def functions(source: str) -> dict[str, str]:
    """The functions that a piece of code defines at its top, each as its syntax tree in words."""
    return {node.name: ast.dump(node) for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}


def imported(source: str) -> set[str]:
    """The names that import statements at the top bring."""
    return {
        alias.asname or alias.name.split(".")[0]
        for node in ast.parse(source).body
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    }


def asserts(source: str) -> bool:
    """Whether there are assertions, and each has a sentence."""
    found = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Assert)]
    return bool(found) and all(node.msg is not None for node in found)


def unpaired(marks: list[str]) -> bool:
    """Whether marks, as ``# BEGIN SOLUTION``, are not each begun and then ended."""
    opened = ""
    for mark in marks:
        edge, what = mark.split()[1:3]
        if (edge == "BEGIN") == bool(opened) or (edge == "END" and what != opened):
            return True
        opened = what if edge == "BEGIN" else ""
    return bool(opened)
