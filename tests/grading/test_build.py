"""From one small master: copies that hold what they may, run, and are the same bytes each time."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import nbformat
import pytest

from topk_lib.grading.build import build, differences
from topk_lib.grading.master import read_master

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = Path(__file__).parent / "example"
NAME = "01_tiny_example"
SECRET = "Where several scores are the largest, the lowest of their indices is asked for."
SOLVED = ("nonzero", "max(values) - min(values)", "The widest pair")


def course(root: Path) -> Path:
    """A folder coursework/ with one assignment and its private overlay."""
    folder = root / "coursework" / NAME
    private = root / "coursework" / "private" / NAME
    for each in (folder, private, root / "notebooks"):
        each.mkdir(parents=True)
    (root / "notebooks" / "11_hard_topk.md").write_text("(ch-hard-topk)=\n# Hard top-k\n")
    shutil.copy(EXAMPLE / "master.md", folder)
    (folder / "rubric.md").write_text("# Rubric\n")
    for name in ("hidden.py", "wrong.py"):
        shutil.copy(EXAMPLE / name, private)
    for name in ("AGENTS.md", "POLICY.md"):
        shutil.copy(ROOT / "coursework" / name, root / "coursework")
    return root / "coursework"


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return course(tmp_path_factory.mktemp("course"))


@pytest.fixture(scope="module")
def built(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    (one,) = build(root, ["1"], tmp_path_factory.mktemp("built"))
    assert (one.name, one.missing) == (NAME, "")
    return one.folder


def notebook(folder: Path) -> Any:
    return nbformat.read(folder / f"{NAME}.ipynb", as_version=4)


def code(folder: Path) -> list[str]:
    return [cell.source for cell in notebook(folder).cells if cell.cell_type == "code"]


def texts(path: Path) -> dict[str, str]:
    """Every file of a folder or archive, archives in it opened."""
    found = {}
    for name, content in files(path).items() if path.is_dir() else [(path.name, path.read_bytes())]:
        if name.endswith(".zip"):
            with zipfile.ZipFile(path / name if path.is_dir() else path) as source:
                found.update(
                    {f"{name}/{n}": source.read(n).decode(errors="replace") for n in source.namelist()}
                )
        else:
            found[name] = content.decode()
    return found


def test_everything_is_built(built: Path) -> None:
    student = {f"{NAME}.ipynb", "AGENTS.md", "rubric.md", "tests/largest.py", "tests/spread.py"}
    assert set(files(built / "student")) == student
    with zipfile.ZipFile(built / f"{NAME}.zip") as handed:
        assert {n.removeprefix(f"{NAME}/") for n in handed.namelist()} == student
        assert handed.read(f"{NAME}/{NAME}.ipynb") == (built / "student" / f"{NAME}.ipynb").read_bytes()
    assert set(files(built / "solution")) == {f"{NAME}.ipynb", "tests/largest.py", "tests/spread.py"}
    tree = {f"coursework/{NAME}/{name}" for name in ("master.md", "rubric.md")}
    tree |= {f"coursework/private/{NAME}/{name}" for name in ("hidden.py", "wrong.py")}
    assert set(files(built / "autograder")) == tree | {"otter.zip"}


def test_students_get_no_solution_and_nothing_hidden(built: Path) -> None:
    handed = texts(built / "student") | texts(built / f"{NAME}.zip")
    assert len(handed) == 10
    for name, text in handed.items():
        for word in (*SOLVED, SECRET, "BEGIN", "ties_go", "coursework/private"):
            assert word not in text, f"{word} is in {name}"
    solution = texts(built / "solution")
    assert all(any(word in text for text in solution.values()) for word in SOLVED)
    assert not any(SECRET in text or "PROMPT" in text for text in solution.values())
    assert any(SECRET in text for text in texts(built / "autograder").values())


def test_the_copies_differ_in_the_marked_places_only(root: Path, built: Path) -> None:
    master = read_master(root / NAME)
    student, solution = notebook(built / "student"), notebook(built / "solution")
    assert differences(student, solution, master) == []
    twins = [cell for cell in solution.cells if "widest" not in cell.source]
    changed = [a.id for a, b in zip(student.cells, twins, strict=True) if a.source != b.source]
    assert len(changed) == 2  # a cell for each question

    def said(change: Any) -> str:
        other = copy.deepcopy(solution)
        change(other)
        return " ".join(differences(student, other, master))

    assert "differs outside a marked solution" in said(lambda n: n.cells[1].update(source="Other words."))
    place = next(i for i, c in enumerate(solution.cells) if "def largest" in c.source)
    assert "differs outside" in said(
        lambda n: n.cells[place].update(source=solution.cells[place].source + "\nx = 1")
    )
    assert "no counterpart" in said(lambda n: n.cells.pop(3))
    assert "the solution alone holds" in said(
        lambda n: n.cells.append(nbformat.v4.new_markdown_cell("More."))
    )
    assert "metadata" in said(lambda n: n.cells[4].metadata.update(tags=["x"]))
    assert "metadata" in said(lambda n: n.metadata.update(kernelspec={}))


def test_the_handout_says_what_it_needs_and_what_it_gives(built: Path) -> None:
    prose = "\n".join(
        cell.source for cell in notebook(built / "student").cells if cell.cell_type == "markdown"
    )
    assert "| read first | *Hard top-k* |" in prose
    assert "| `spread`, `middle` | 40 | 10 |" in prose
    assert "It needs *Hard top-k*." in prose
    assert (ROOT / "coursework" / "POLICY.md").read_text().strip() in prose
    assert "{{" not in prose
    assert prose.rstrip().endswith("the text of each question promises.")
    assert "solve" in (built / "student" / "AGENTS.md").read_text()


def test_cells_have_ids_of_their_own_and_few_lines(built: Path) -> None:
    for copy_ in ("student", "solution"):
        found = notebook(built / copy_)
        assert (found.nbformat, found.nbformat_minor) == (4, 5)
        ids = [cell.id for cell in found.cells]
        assert len(set(ids)) == len(ids)
        nbformat.validate(found)
        for cell in code(built / copy_):
            assert cell.count("\n") < 25
            assert max(map(len, cell.splitlines())) <= 78
        assert all(not cell.outputs for cell in found.cells if cell.cell_type == "code")


def run(folder: Path, cells: list[str], before: str = "") -> str:
    """What the cells print, run in that folder by IPython without a network."""
    program = (
        "import sys, socket\n"
        "from IPython.core.interactiveshell import InteractiveShell\n"
        "shell = InteractiveShell.instance()\n"
        "def refused(*a, **k): raise OSError('no network')\n"
        f"socket.socket.connect = refused\n{before}\n"
        f"for cell in {cells!r}:\n"
        "    done = shell.run_cell(cell)\n"
        "    if not done.success: break\n"
        "print('to the end:', done.success)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=600,
        env=os.environ | {"PYTHONPATH": str(ROOT), "IPYTHONDIR": str(folder / ".ipython")},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_the_handout_runs_and_its_solution_passes_the_public_checks(built: Path, tmp_path: Path) -> None:
    shutil.copytree(built / "student", tmp_path / "student")
    solved = code(built / "solution")
    line = ["print('=====')"]
    wrong = [cell.replace(".max()", ".min()") for cell in solved]
    said = run(tmp_path / "student", [*code(built / "student"), *line, *solved, *line, *wrong])
    assert said.endswith("to the end: True\n")
    untouched, finished, mistaken = said.split("=====")
    assert untouched.count("largest: nothing is written here yet") == 3  # two checks, one guarded call
    assert "All test cases passed" not in untouched
    assert finished.count("All test cases passed") == 2
    assert "Public checks carry 10 of the 60 points of largest; hidden ones carry the rest." in finished
    assert "for scores [1, 3, 2] the index is 1, yours is 0" in mistaken


def test_on_colab_the_first_cell_asks_for_the_archive(built: Path, tmp_path: Path) -> None:
    colab = (
        "import types, pathlib, importlib.util, subprocess\n"
        "files = types.ModuleType('google.colab.files')\n"
        f"archive = pathlib.Path({str(built / f'{NAME}.zip')!r}).read_bytes()\n"
        "def upload():\n"
        "    pathlib.Path('handed (1).zip').write_bytes(archive)\n"
        "    return {'handed (1).zip': archive}\n"
        "files.upload = upload\n"
        "colab = types.ModuleType('google.colab')\ncolab.files = files\n"
        "sys.modules.update({'google': types.ModuleType('google'), 'google.colab': colab})\n"
        "found = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda n: None if n in ('topk_lib', 'otter') else found(n)\n"
        "subprocess.run = lambda *a, **k: print('runs', *a[0][1:])\n"
    )
    first = code(built / "student")[0]
    said = run(tmp_path, [first, "import os; os.getcwd()"], before=colab)
    assert f"Choose {NAME}.zip" in said
    assert "runs -m pip install -q topk-lib[offline] @ git+https://" in said
    assert "runs -m pip install -q otter-grader==" in said
    assert str(tmp_path / NAME) in said
    (tmp_path / "alone").mkdir()
    alone = run(tmp_path / "alone", [first])
    assert f"unpack {NAME}.zip and open its notebook there" in alone
    assert "to the end: False" in alone


def test_gradescope_gets_all_that_it_needs(built: Path) -> None:
    with zipfile.ZipFile(built / "gradescope.zip") as source:
        held = set(source.namelist())
        rights = {i.filename: i.external_attr >> 16 & 0o111 for i in source.infolist()}
        run_it = source.read("run_autograder").decode()
        setup = source.read("setup.sh").decode()
    assert {"setup.sh", "run_autograder", "pyproject.toml", "topk_lib/grading/gradescope.py",
            f"coursework/{NAME}/master.md", f"coursework/private/{NAME}/hidden.py"} <= held  # fmt: skip
    assert any(name.startswith("topk_lib/data/corpus/") for name in held)
    assert {"setup.py", "topk_lib/ops/cpp/module.cpp"} <= held, "to compile the operators"
    assert not [name for name in held if "__pycache__" in name]
    assert rights["run_autograder"]
    assert rights["setup.sh"]
    assert not rights["pyproject.toml"]
    assert f"-m topk_lib.grading.gradescope {NAME} --coursework coursework" in run_it
    for script in (run_it, setup):
        assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    with zipfile.ZipFile(built / "autograder" / "otter.zip") as source:
        config = json.loads(source.read("otter_config.json"))
        assert config["assignment_name"] == NAME
        assert {"tests/largest.py", "tests/spread.py", "run_autograder", "setup.sh"} <= set(source.namelist())


def test_two_builds_are_the_same_bytes_and_leave_nothing_old(root: Path, built: Path, tmp_path: Path) -> None:
    (tmp_path / NAME / "student").mkdir(parents=True)
    (tmp_path / NAME / "student" / "old.txt").write_text("from another term")
    build(root, [NAME], tmp_path)
    assert files(tmp_path / NAME) == files(built)


def test_without_the_overlay_students_copies_are_built_all_the_same(tmp_path: Path) -> None:
    root = course(tmp_path / "repository")
    shutil.rmtree(root / "private")
    (one,) = build(root, [], tmp_path / "built")
    assert one.missing.startswith(f"{NAME}: built without autograder and archive for Gradescope")
    assert {path.name for path in one.folder.iterdir()} == {"student", f"{NAME}.zip", "solution"}


def test_an_assignment_that_is_not_there(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no assignment '9': there are 01_tiny_example"):
        build(root, ["9"], tmp_path)
