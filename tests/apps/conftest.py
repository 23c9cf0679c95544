"""The three products, made once from the embedded sets, and a real browser."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Error, sync_playwright

from topk_lib.apps.monitor import Monitor
from topk_lib.apps.recommend import Recommender, fit
from topk_lib.apps.support import Desk
from topk_lib.data import load_ratings


@pytest.fixture(scope="session")
def desk() -> Desk:
    """To be left as it is."""
    return Desk(source="embedded")


@pytest.fixture(scope="session")
def monitor() -> Monitor:
    return Monitor("embedded")


@pytest.fixture(scope="session")
def recommender() -> Recommender:
    return fit(load_ratings("embedded", quiet=True), "ids", steps=50, width=16)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The system's Chromium or Chrome, else Playwright's own; for a module, since others run event loops."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    path = next((found for name in names if (found := shutil.which(name))), None)
    flags = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=path, args=flags)
        except Error:
            pytest.fail("no browser: install Chromium, or run 'playwright install chromium'", pytrace=False)
        yield browser
        browser.close()
