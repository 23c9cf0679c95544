"""From a master: the student's copy, the solution, the autograder, the archive for Gradescope.

``otter assign`` makes the copies; what it is given, and the archives, are the same bytes each time.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from topk_lib.grading.handout import METADATA, REPOSITORY, cells
from topk_lib.grading.master import Assignment, chosen, names, read_master
from topk_lib.grading.sources import solved, starter

__all__ = ["Built", "archive", "build", "differences"]

_ANSWER, _SOLUTION = "otter_answer_cell", "otter_assign_solution_cell"  # tags of otter's

_SETUP = """\
#!/usr/bin/env bash
# Gradescope runs this once, when it makes the image; choose a container with 2 CPUs and 3 GB or more.
set -euo pipefail
PIP_ARGS=${PIP_ARGS:-}  # the address of a CPU-only wheel index, to spare PyTorch's CUDA packages
apt-get update
apt-get install -y --no-install-recommends python3-venv
python3 -m venv /autograder/venv
# shellcheck disable=SC2086
/autograder/venv/bin/python -m pip install --quiet $PIP_ARGS '/autograder/source[coursework,offline]'
"""
_RUN = """\
#!/usr/bin/env bash
TERM_SEED=0  # the word that topk-lib grade is given by --seed, if any
cd /autograder/source
python=/autograder/venv/bin/python
exec $python -m topk_lib.grading.gradescope {name} --coursework coursework --seed "$TERM_SEED"
"""


@dataclass(frozen=True)
class Built:
    """What was built of one assignment, and where.

    Attributes:
        missing: why there is no autograder and no archive for Gradescope, in a sentence; else empty.
    """

    name: str
    folder: Path
    missing: str = ""


def build(
    root: str | Path | None = None,
    wanted: Sequence[str] = (),
    output: str | Path = "dist/coursework",
) -> list[Built]:
    """Build assignments into ``output/NAME/``: student/, NAME.zip (the same), solution/ and, with the private
    overlay, autograder/ and gradescope.zip.

    Args:
        root: the folder ``coursework/``; by default the repository's.
        wanted: names of assignments, or their numbers; by default all.
        output: what was built there before is replaced.

    Raises:
        ValueError: a master breaks a rule, or there is no such assignment.
        ImportError: otter-grader is not installed.
    """
    root = Path(root) if root is not None else REPOSITORY / "coursework"
    found = [chosen(each, root) for each in wanted] or names(root)
    return [_build(read_master(root / name), root, Path(output) / name) for name in found]


def _build(assignment: Assignment, root: Path, folder: Path) -> Built:
    name = assignment.name
    with tempfile.TemporaryDirectory() as scratch:
        made = _assigned(assignment, root, Path(scratch))
        copies = {kind: made / kind / f"{name}.ipynb" for kind in ("student", "autograder")}
        student, solution = _finished(_read(copies["student"]), _read(copies["autograder"]), name)
        if wrong := differences(student, solution, assignment):
            raise ValueError(f"{name}: the copies differ outside the marked places: {wrong[0]}")
        tests = {f"tests/{path.name}": path.read_bytes() for path in (made / "student" / "tests").iterdir()}
        otter = _unzipped(next((made / "autograder").glob("*.zip")))
    beside = {file: (assignment.path.parent / file).read_bytes() for file in assignment.files}
    beside["AGENTS.md"] = (root / "AGENTS.md").read_bytes()
    handed = {f"{name}.ipynb": _bytes(student), **tests, **beside}
    shutil.rmtree(folder, ignore_errors=True)
    _write(folder / "student", handed)
    archive(folder / f"{name}.zip", {f"{name}/{file}": content for file, content in handed.items()})
    _write(folder / "solution", {f"{name}.ipynb": _bytes(solution), **tests})
    private = root / "private" / name
    if not (private / "hidden.py").is_file():
        return Built(name, folder, f"{name}: built without autograder and archive for Gradescope, "
                     f"which need the private overlay {private}")  # fmt: skip
    tree = _tree(assignment.path.parent, f"coursework/{name}") | _tree(private, f"coursework/private/{name}")
    _write(folder / "autograder", tree)
    archive(folder / "autograder" / "otter.zip", otter)
    scripts = {"setup.sh": _SETUP.encode(), "run_autograder": _RUN.format(name=name).encode()}
    archive(folder / "gradescope.zip", {**_package(), **tree, **scripts}, executable=scripts)
    return Built(name, folder)


def differences(student: Any, solution: Any, master: Assignment) -> list[str]:
    """What differs between the two copies outside the marked places of the master; empty where nothing does.

    Args:
        student: the student's notebook, as nbformat reads it.
        solution: the solution's.
    """
    marked = [cell for cell in master.cells if cell.block == "solution"]
    allowed = {(starter(cell.source), solved(cell.source)) for cell in marked if cell.kind == "code"}
    only = {cell.source for cell in marked if cell.kind == "markdown"}
    said = [] if student["metadata"] == solution["metadata"] else ["the notebooks' metadata differ"]
    left = list(solution["cells"])
    for number, cell in enumerate(student["cells"], 1):
        while left and left[0]["id"] != cell["id"] and left[0]["source"] in only:
            left.pop(0)
        if not left or left[0]["id"] != cell["id"]:
            return [*said, f"cell {number} of the student's copy has no counterpart in the solution"]
        other = left.pop(0)
        if any(cell[key] != other[key] for key in ("cell_type", "metadata")):
            said.append(f"cell {number} differs in its type or metadata")
        if cell["source"] != other["source"] and (cell["source"], other["source"]) not in allowed:
            said.append(f"cell {number} differs outside a marked solution")
    return said + [
        f"the solution alone holds {cell['source'][:40]!r}" for cell in left if cell["source"] not in only
    ]


def archive(
    path: Path, files: Mapping[str, bytes], executable: Sequence[str] | Mapping[str, Any] = ()
) -> None:
    """Write a zip whose bytes depend on names and contents alone."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name)  # dated 1980
            entry.external_attr = (0o100755 if name in executable else 0o100644) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            target.writestr(entry, files[name])


def _assigned(assignment: Assignment, root: Path, scratch: Path) -> Path:
    """Where ``otter assign`` left its copies."""
    import nbformat
    from otter.assign import main

    notebook = nbformat.v4.new_notebook(cells=list(cells(assignment, root)), metadata=METADATA)
    source = scratch / f"{assignment.name}.ipynb"
    nbformat.write(notebook, source)
    main(str(source), str(scratch / "made"), no_pdfs=True, no_run_tests=True)
    return scratch / "made"


def _finished(student: Any, solution: Any, name: str) -> tuple[Any, Any]:
    """Both copies with stable ids, the same metadata, and no marks left in the solution."""
    twins = [cell for cell in solution["cells"] if not _alone(cell)]
    for number, (cell, twin) in enumerate(zip(student["cells"], twins, strict=True)):
        digest = hashlib.sha256(f"{cell['cell_type']}\0{cell['source']}".encode()).hexdigest()
        cell["id"] = twin["id"] = f"{number:03d}-{digest[:8]}"
    for cell in solution["cells"]:
        if _SOLUTION in (tags := cell["metadata"].get("tags", [])):
            tags[tags.index(_SOLUTION)] = _ANSWER
            if cell["cell_type"] == "markdown":
                cell["id"] = f"only-{hashlib.sha256(cell['source'].encode()).hexdigest()[:8]}"
            else:
                cell["source"] = solved(cell["source"])
    for copy in (student, solution):
        copy["metadata"] = {**METADATA, "otter": {"assignment_name": name}}
        copy["nbformat"], copy["nbformat_minor"] = 4, 5
    return student, solution


def _alone(cell: Any) -> bool:
    """Whether a cell explains a solution, which students do not get."""
    return cell["cell_type"] == "markdown" and _SOLUTION in cell["metadata"].get("tags", [])


def _read(path: Path) -> Any:
    import nbformat

    return nbformat.read(path, as_version=4)


def _bytes(notebook: Any) -> bytes:
    import nbformat

    return f"{nbformat.writes(nbformat.from_dict(notebook))}\n".encode()


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _unzipped(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as source:
        return {name: source.read(name) for name in source.namelist()}


def _tree(folder: Path, below: str) -> dict[str, bytes]:
    """All files of a folder but what Python or a compiler leaves there."""
    return {
        f"{below}/{path.relative_to(folder).as_posix()}": path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts and path.suffix not in (".so", ".pyd")
    }


def _package() -> dict[str, bytes]:
    """The library as it is here, to be installed where no clone is, and compiled where a compiler is."""
    names = ("pyproject.toml", "setup.py", "README.md", "LICENSE")
    files = {name: (REPOSITORY / name).read_bytes() for name in names}
    return files | _tree(REPOSITORY / "topk_lib", "topk_lib") | _tree(REPOSITORY / "LICENSES", "LICENSES")
