"""The first cell of a notebook, where package or records are missing, with a git that works or fails."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CLONE = 'mkdir -p choosing-k/results choosing-k/topk_lib && touch choosing-k/_toc.yml && echo cloned "$@"'


def first_cell(tmp_path: Path, *, git: str, installed: bool = True, here: str = ".") -> str:
    """What it prints, whether it succeeded, where it ended; of a package as a wheel installs it."""
    for program, does in (("git", git), ("python", "echo installing"), ("python3", "echo installing")):
        path = tmp_path / "bin" / program
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{does}\n")
        path.chmod(0o755)
    site = tmp_path / "site"
    site.mkdir()
    if installed:
        (site / "topk_lib").mkdir()
        for name in ("__init__", "records"):
            shutil.copy(ROOT / "topk_lib" / f"{name}.py", site / "topk_lib")
    program = (
        f"import os, sys\nsys.path.insert(0, {str(site)!r})\n"
        "sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in repr(f)]\n"
        f"sys.path[:] = [p for p in sys.path if os.path.realpath(p) != {str(ROOT)!r}]\n"
        f"sys.path.append({str(ROOT / 'notebooks')!r})\n"
        "from IPython.core.interactiveshell import InteractiveShell\n"
        "shell = InteractiveShell.instance()\n"
        "shell.register_magic_function(lambda line: print('pip', line), magic_name='pip')\n"
        f"cell = {cell()!r}\n"
        "print('success', shell.run_cell(cell).success, os.getcwd())\n"
    )
    (tmp_path / "work" / here).mkdir(parents=True, exist_ok=True)
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("TOPK", "PYTHONPATH"))
    }
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path / "work" / here, capture_output=True, text=True,
        env=environment | {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "IPYTHONDIR": str(tmp_path)},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return run.stdout + run.stderr


def cell() -> str:
    make = "import sys; sys.path.insert(0, 'notebooks'); import make_twins; print(make_twins.install_cell())"
    return subprocess.run(
        [sys.executable, "-c", make], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.parametrize("installed", [True, False])
def test_where_the_clone_fails_it_stops_in_a_sentence(tmp_path: Path, installed: bool) -> None:
    said = first_cell(tmp_path, git="echo no network >&2; exit 128", installed=installed)
    assert "The course could not be fetched: check the network" in said
    assert "success False" in said
    assert "pip" not in said
    assert "Traceback" not in said


def test_an_installed_package_gets_the_records(tmp_path: Path) -> None:
    said = first_cell(tmp_path, git=CLONE)
    assert "cloned clone --quiet --depth 1 https://" in said
    assert f"success True {tmp_path / 'work' / 'choosing-k'}" in said
    assert "pip" not in said, "the package that is there stays"


def test_without_the_package_it_is_installed(tmp_path: Path) -> None:
    said = first_cell(tmp_path, git=CLONE, installed=False)
    assert 'pip install --quiet --editable ".[offline,gpu]"' in said
    assert f"success True {tmp_path / 'work' / 'choosing-k'}" in said


def test_inside_a_clone_nothing_is_fetched(tmp_path: Path) -> None:
    for name in ("results", "notebooks"):
        (tmp_path / "work" / name).mkdir(parents=True)
    (tmp_path / "work" / "_toc.yml").touch()
    said = first_cell(tmp_path, git="echo cloned", here="notebooks")
    assert said.strip().endswith(f"success True {tmp_path / 'work' / 'notebooks'}")
    assert "cloned" not in said
