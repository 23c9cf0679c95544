"""The built book, a server for it and a real browser."""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from playwright.sync_api import Browser, Error, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
_ENVIRONMENT = dict(os.environ)  # before other fixtures take TOPK_IMDB away
_FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="session")
def book() -> Path:
    """The folder of the built book; built here, by one process at a time, unless nothing has changed."""
    command = [sys.executable, "book/build.py", "--if-changed"]
    (ROOT / "book" / "_build").mkdir(exist_ok=True)
    with FileLock(ROOT / "book" / "_build" / ".lock"):
        run = subprocess.run(command, cwd=ROOT, env=_ENVIRONMENT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    return ROOT / "book" / "_build" / "html"


@pytest.fixture(scope="session")
def pages(book: Path) -> list[str]:
    """Every page, as a path below the book's folder; of the redirects only the first."""
    shown = [path for path in sorted(book.rglob("*.html")) if 'http-equiv="refresh"' not in path.read_text()]
    found = ["index.html", *(str(path.relative_to(book)) for path in shown)]
    found = [page for page in found if not page.startswith("_")]
    assert "notebooks/01_must_it_read_it_all.html" in found
    return found


@pytest.fixture(scope="session")
def site(book: Path) -> Iterator[str]:
    """The address of a server for the book."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(book)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The system's Chromium or Chrome, else Playwright's own."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    path = next((found for name in names if (found := shutil.which(name))), None)
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=path, args=_FLAGS)
        except Error:
            pytest.fail("no browser: install Chromium, or run 'playwright install chromium'", pytrace=False)
        yield browser
        browser.close()
