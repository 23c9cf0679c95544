"""The private overlay reaches no student: not by a wheel, an archive, a page or a copy."""

from __future__ import annotations

import ast
import re
import subprocess
import zipfile
from pathlib import Path

import pytest
import yaml

from topk_lib.grading.build import build
from topk_lib.grading.master import names

ROOT = Path(__file__).resolve().parents[2]
PRIVATE = ROOT / "coursework" / "private"
pytestmark = pytest.mark.skipif(not PRIVATE.is_dir(), reason="the private overlay is not here")


def overlay() -> list[Path]:
    return sorted(path for path in PRIVATE.rglob("*") if path.is_file() and "__pycache__" not in path.parts)


def secrets(path: Path) -> set[str]:
    """Sentences of checks and of known answers; lines of code may stand in a chapter, too."""
    if path.suffix != ".py":
        return set()
    held = [node.value for node in ast.walk(ast.parse(text_of(path))) if isinstance(node, ast.Constant)]
    words = [" ".join(value.split()) for value in held if isinstance(value, str)]
    return {text for text in words if len(text) >= 40 and text.count(" ") >= 5}


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def test_it_is_in_no_archive_and_no_wheel(tmp_path: Path) -> None:
    assert overlay()
    archive = tmp_path / "archive.zip"
    subprocess.run(
        ["git", "archive", "--worktree-attributes", "-o", archive, "HEAD", "coursework", "topk_lib",
         "pyproject.toml", "README.md"],
        cwd=ROOT, check=True,
    )  # fmt: skip
    with zipfile.ZipFile(archive) as held:
        found = held.namelist()
    assert [name for name in found if name.startswith("coursework/")]
    assert not [name for name in found if "private" in name]
    settings = text_of(ROOT / "pyproject.toml").split("[tool.setuptools")[1:]
    packages = re.findall(r'"([^"]+)"', settings[0].split("=", 1)[1].split("]")[0])
    assert packages == ["topk_lib*"], "setuptools takes packages of topk_lib alone, so wheels do"
    for path in overlay():
        assert not path.is_relative_to(ROOT / "topk_lib")
    for section in settings[1:]:
        assert "coursework" not in section.split("\n[")[0]
    assert not (ROOT / "MANIFEST.in").exists(), "it could put the overlay into source distributions"


def test_it_is_on_no_page() -> None:
    config = yaml.safe_load(text_of(ROOT / "_config.yml"))
    assert config["only_build_toc_files"] is True
    assert "coursework/private" not in text_of(ROOT / "_toc.yml")
    listed = subprocess.run(
        ["git", "ls-files", "--", "book", "notebooks", "README.md"], cwd=ROOT, capture_output=True, text=True,
        check=True,
    ).stdout.splitlines()  # fmt: skip
    pages = {
        name: text_of(ROOT / name)
        for name in listed
        if name.endswith((".md", ".ipynb", ".js", ".html")) and (ROOT / name).is_file()
    }
    assert len(pages) > 20
    for name, text in pages.items():
        assert not re.search(r"(include|download|literalinclude)\}?[^\n]*coursework/private", text), name
    whole = " ".join(" ".join(pages.values()).split())
    for path in overlay():
        for line in secrets(path):
            assert line not in whole, f"{path.name}: {line}"


@pytest.mark.parametrize("name", names(ROOT / "coursework"))
def test_it_is_in_no_copy_of_a_student(name: str, tmp_path: Path) -> None:
    (built,) = build(ROOT / "coursework", [name], tmp_path)
    handed = [path for path in (built.folder / "student").rglob("*") if path.is_file()]
    with zipfile.ZipFile(built.folder / f"{name}.zip") as archive:
        texts = [*map(text_of, handed), *(archive.read(n).decode() for n in archive.namelist())]
        files = [*(str(path) for path in handed), *archive.namelist()]
    assert not [file for file in files if re.search(r"hidden|wrong\.py|private", Path(file).name)]
    whole = " ".join(" ".join(texts).replace("\\n", " ").split())
    for path in (PRIVATE / name).glob("*.py"):
        assert secrets(path), path.name
        assert not [sentence for sentence in secrets(path) if sentence in whole], path.name
