"""Build the book: find the reviews, drop stale outputs, run jupyter-book, print the index page.

python book/build.py                build it
python book/build.py --if-changed   only where something that a page is made of has changed since
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from topk_lib.data import load_reviews, source_of
from topk_lib.models.loading import language_model_path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "book" / "_build"

# jupyter-book's own index lacks a doctype and a title.
_REDIRECT = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Choosing k</title>
<meta http-equiv="refresh" content="0; url={to}"></head>
<body><a href="{to}">Choosing k</a></body></html>
"""
MOVED = json.loads((ROOT / "notebooks" / "moved.json").read_text())  # names that chapters had before
REDIRECTS = {"index": "book/intro.html"} | {f"notebooks/{old}": f"{new}.html" for old, new in MOVED.items()}


def cache_key(source: str) -> str:
    """What the outputs of the notebooks depend on, besides the notebooks themselves."""
    digest = hashlib.sha256(source.encode())
    files = [
        ROOT / "constraints.txt",
        *(ROOT / "topk_lib").rglob("*"),
        *(ROOT / "results").rglob("*.json"),
    ]
    return _hashed(digest, files)


def page_key(source: str) -> str:
    """What the pages depend on."""
    digest = hashlib.sha256(cache_key(source).encode())
    files = [
        *ROOT.glob("*.yml"),
        ROOT / "pyproject.toml",
        *(ROOT / "notebooks").glob("*.md"),
        *(path for path in (ROOT / "book").rglob("*") if BUILD not in path.parents),
    ]
    return _hashed(digest, files)


def _hashed(digest: Any, files: Iterable[Path]) -> str:
    for path in sorted(files):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return str(digest.hexdigest())


def keep_or_drop_cache(key: str) -> None:
    """Drop outputs that were made under another key.

    The new key is written before anything runs: a build that is broken off leaves outputs of its own.
    """
    key_file = BUILD / "cache.key"
    if not key_file.is_file() or key_file.read_text() != key:
        shutil.rmtree(BUILD / ".jupyter_cache", ignore_errors=True)
        BUILD.mkdir(parents=True, exist_ok=True)
        key_file.write_text(key)


def main() -> int:
    source = source_of(load_reviews(split="test", quiet=True))
    if source == "the embedded corpus" and not os.environ.get("TOPK_IMDB"):
        print("no IMDB reviews (TOPK_IMDB is not set, the hub does not answer): the embedded corpus is taken")
    # Every notebook takes what was found now, without asking the hub again.
    if source == "the embedded corpus":
        os.environ["TOPK_IMDB"] = "embedded"
    os.environ["TOPK_BOOK_SOURCE"] = source
    os.environ["TOPK_STATIC"] = "1"
    stamp, key = BUILD / "html" / ".key", page_key(source)
    if "--if-changed" in sys.argv and stamp.is_file() and stamp.read_text() == key:
        print(f"the book is up to date: {BUILD / 'html' / 'index.html'}")
        return 0
    keep_or_drop_cache(cache_key(source))
    language_model_path()  # unpacked once, with a bar that no page should show
    shutil.rmtree(BUILD / "html", ignore_errors=True)
    code = subprocess.call(
        [
            *(str(Path(sys.executable).with_name("jupyter-book")), "build", str(ROOT)),
            *("--config", str(ROOT / "_config.yml"), "--toc", str(ROOT / "_toc.yml")),
            *("--path-output", str(ROOT / "book")),
            *("--all", "-W", "-n", "--keep-going", "--quiet"),
        ],
        cwd=ROOT,
    )
    if code:
        print("the book was not built: see the warnings above", file=sys.stderr)
        return code
    for old, new in REDIRECTS.items():
        (BUILD / "html" / f"{old}.html").write_text(_REDIRECT.format(to=new), encoding="utf-8")
    stamp.write_text(key)
    print(f"the book, with outputs on {source}, 0 warnings: {BUILD / 'html' / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
