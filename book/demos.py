"""Take the pictures of the three demos: book/_static/demo-NAME.png, from the embedded sets, with Chromium."""

from __future__ import annotations

import shutil
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import uvicorn
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from topk_lib.apps.monitor import Monitor
from topk_lib.apps.recommend import Recommender, fit
from topk_lib.apps.support import Desk
from topk_lib.apps.web import make_app
from topk_lib.data import load_ratings

STATIC = Path(__file__).resolve().parent / "_static"
WIDTH, SHARP = 760, 1.5  # as wide as the book's text, and pixels a pixel


def _support(page: Page) -> None:
    page.get_by_role("button", name="My card has not come yet").click()
    expect(page.locator(".badge")).to_have_text("answered")
    # A picture is no place for how long this machine took.
    page.evaluate("one('.guess').textContent = one('.guess').textContent.replace(/; \\d+ ms$/, '')")


def _monitor(page: Page) -> None:
    page.get_by_label("Replay", exact=True).fill("3")
    page.get_by_role("button", name="Replay").click()
    expect(page.locator("#alarms .card").first).to_be_visible()
    page.evaluate("document.querySelectorAll('h2, #read').forEach((one) => one.remove())")


def _recommend(page: Page, maker: Recommender) -> None:
    for word, stars in (("Evidence of Snow", "5"), ("Red Umbrella", "4"), ("Lawn Gnomes", "1")):
        page.get_by_label("A film that you have seen").fill(next(t for t in maker.titles if word in t))
        page.get_by_label("Stars").select_option(stars)
        page.get_by_role("button", name="Add").click()
        expect(page.locator("#rated")).to_contain_text(word)


def take(browser: Browser, address: str, maker: Recommender, folder: Path) -> None:
    """One picture of each page, in use."""
    acts: dict[str, Callable[[Page], None]] = {
        "support": _support,
        "monitor": _monitor,
        "recommend": lambda page: _recommend(page, maker),
    }
    for name, act in acts.items():
        page = browser.new_page(
            viewport={"width": WIDTH, "height": 400}, device_scale_factor=SHARP, color_scheme="light"
        )
        page.set_default_timeout(600_000)
        page.goto(f"{address}/{name}", wait_until="networkidle")
        act(page)
        page.mouse.move(0, 0)
        page.evaluate("document.activeElement.blur()")
        path = folder / f"demo-{name}.png"
        page.screenshot(path=path, full_page=True)
        page.close()
        with Image.open(path) as taken:
            few = taken.convert("RGB").quantize(128, Image.Quantize.MAXCOVERAGE)
        few.save(path, optimize=True)


def main() -> None:
    maker = fit(load_ratings("embedded"), "both")
    app = make_app(desk=Desk(source="embedded"), monitor=Monitor("embedded"), recommender=maker)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    path = next((found for name in names if (found := shutil.which(name))), None)
    with socket.create_server(("127.0.0.1", 0)) as listening, sync_playwright() as playwright:
        threading.Thread(target=server.run, args=([listening],), daemon=True).start()
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        take(browser, f"http://127.0.0.1:{listening.getsockname()[1]}", maker, STATIC)
        browser.close()
        server.should_exit = True


if __name__ == "__main__":
    main()
