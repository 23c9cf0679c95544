"""The built pages, as a person meets them in a browser."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from bs4 import BeautifulSoup
from playwright.sync_api import Browser, Locator, Page

from topk_lib import records

READ = "article, .bd-article"


@contextmanager
def opened(browser: Browser, address: str, *, formulas: bool = True, **options: Any) -> Iterator[Page]:
    """A page, its formulas drawn unless that does not matter (long pages need seconds for it)."""
    context = browser.new_context(**options)
    page = context.new_page()
    if not formulas:
        page.route("**/mathjax/**", lambda route: route.abort())
    page.goto(address, wait_until="load")
    if options.get("java_script_enabled", True):
        page.wait_for_function("() => !window.MathJax || !MathJax.startup || MathJax.startup.promise")
        page.evaluate("async () => { if (window.MathJax && MathJax.startup) await MathJax.startup.promise; }")
    yield page
    context.close()


def at_home(address: str, home: str) -> bool:
    return address.startswith((home, "data:", "blob:", "about:"))


def watch(page: Page, requests: list[str], problems: list[str]) -> None:
    page.on("request", lambda request: requests.append(request.url))
    page.on("requestfailed", lambda request: problems.append(f"failed: {request.url}"))
    page.on("pageerror", lambda error: problems.append(str(error)))


def test_no_request_leaves_the_folder(book: Path, pages: list[str], site: str, browser: Browser) -> None:
    for home in (site, book.as_uri()):
        for name in pages:
            requests: list[str] = []
            problems: list[str] = []
            context = browser.new_context()
            page = context.new_page()
            watch(page, requests, problems)
            page.goto(f"{home}/{name}", wait_until="networkidle")
            context.close()
            assert [r for r in requests if not at_home(r, home)] == [], f"{home}/{name}"
            assert problems == [], f"{home}/{name}"


def test_mathematics_and_diagrams_are_drawn(pages: list[str], site: str, browser: Browser) -> None:
    drawn = {"formulas": 0, "diagrams": 0}
    for name in pages:
        with opened(browser, f"{site}/{name}") as page:
            wanted, got = page.locator(".math").count(), page.locator(".math mjx-container").count()
            assert got >= wanted, f"{name}: {got} of {wanted} formulas"
            assert page.locator("mjx-merror, [data-mml-node='merror']").count() == 0, name
            diagrams = page.locator("pre.mermaid")
            for i in range(diagrams.count()):
                diagrams.nth(i).locator("svg").wait_for(timeout=10_000)
                assert "Syntax error" not in (diagrams.nth(i).text_content() or "")
            drawn["formulas"] += got
            drawn["diagrams"] += diagrams.count()
    assert min(drawn.values()) > 0, drawn


def frame(explorer: Locator) -> str:
    return explorer.locator(".topk-frame").inner_html()


def test_every_explorer_moves(pages: list[str], site: str, browser: Browser) -> None:
    count = 0
    for name in pages:
        with opened(browser, f"{site}/{name}", has_touch=True) as page:
            explorers = page.locator(".topk-explore")
            for i in range(explorers.count()):
                count += 1
                explorer = explorers.nth(i)
                sliders = explorer.locator("input[type=range]")
                for j in range(sliders.count()):
                    slider = sliders.nth(j)
                    slider.focus()
                    page.keyboard.press("Home")
                    first, label = frame(explorer), slider.get_attribute("aria-valuetext")
                    page.keyboard.press("End")  # by keyboard
                    assert frame(explorer) != first, f"{name}, explorer {i}: {label}"
                    assert slider.get_attribute("aria-valuetext") != label
                    box = slider.bounding_box()
                    assert box is not None
                    # click and tap wait until the slider stands still
                    slider.click(position={"x": 3, "y": box["height"] / 2})  # by mouse
                    assert frame(explorer) == first, f"{name}, explorer {i}: {label}"
                    slider.tap(position={"x": box["width"] - 3, "y": box["height"] / 2})  # by touch
                    assert frame(explorer) != first
                play = explorer.locator("button")
                if play.count():
                    before = explorer.get_attribute("data-frame")
                    play.click()
                    page.wait_for_function(
                        "([e, before]) => e.dataset.frame !== before",
                        arg=[explorer.element_handle(), before],
                    )
                    play.click()
                    assert play.inner_text() == "Play"
    assert count >= 3


def test_an_explorer_is_a_plain_picture_without_scripts_and_in_print(
    pages: list[str], site: str, browser: Browser
) -> None:
    for name in pages:
        with opened(browser, f"{site}/{name}", java_script_enabled=False) as page:
            explorers = page.locator(".topk-explore")
            for i in range(explorers.count()):
                assert not explorers.nth(i).locator(".topk-controls").is_visible()
                assert explorers.nth(i).locator(".topk-frame").is_visible()
        with opened(browser, f"{site}/{name}", formulas=False) as page:
            page.emulate_media(media="print")
            for controls in page.locator(".topk-controls").all():
                assert not controls.is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling(
    scheme: str, pages: list[str], site: str, browser: Browser
) -> None:
    phone: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "color_scheme": scheme}
    for name in pages:
        with opened(browser, f"{site}/{name}", **phone) as page:
            wide = page.evaluate("document.scrollingElement.scrollWidth")
            assert wide <= 390, f"{name} is {wide} pixels wide"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(scheme: str, pages: list[str], site: str, browser: Browser) -> None:
    found = []
    for name in pages:
        with opened(browser, f"{site}/{name}", color_scheme=scheme) as page:
            if page.locator("article").count() == 0:
                continue  # the redirect
            assert page.locator("html").get_attribute("data-theme") == scheme
            # colours half-way through a transition are nobody's reading
            page.add_style_tag(content="*, *::before, *::after { transition: none !important; }")
            for violation in Axe().run(page).response["violations"]:
                if violation["impact"] in ("serious", "critical"):
                    nodes = [node["html"][:150] for node in violation["nodes"][:5]]
                    found.append((name, violation["id"], len(violation["nodes"]), nodes))
    assert found == []


def test_every_image_says_what_it_shows(pages: list[str], site: str, browser: Browser) -> None:
    for name in pages:
        with opened(browser, f"{site}/{name}", formulas=False) as page:
            for image in page.locator("article img").all():
                alt = image.get_attribute("alt") or ""
                assert len(alt.split()) >= 4, f"{name}: {alt!r}"
                assert not re.search(r"\.(png|svg|webp)$|^\.\.|_images", alt), f"{name}: {alt!r}"
                assert image.evaluate("i => i.complete && i.naturalWidth > 0"), f"{name}: {alt!r} is broken"
            for figure in page.locator("article .mermaid-box").all():
                assert len((figure.get_attribute("aria-label") or "").split()) >= 4, name


def parsed(book: Path, name: str) -> BeautifulSoup:
    return BeautifulSoup((book / name).read_text(encoding="utf-8"), "html.parser")


def test_numbers_on_pages_are_those_of_their_records(book: Path, pages: list[str]) -> None:
    checked = 0
    for name in pages:
        for number in parsed(book, name).select(".record"):
            citation = str(number["data-record"])
            assert number.get_text() == records.cite(citation), f"{name}: {citation}"
            checked += 1
    assert checked > 3


def test_every_page_says_what_it_was_built_from(book: Path, pages: list[str]) -> None:
    for name in pages:
        page = parsed(book, name)
        if page.select("article"):
            (foot,) = page.select("footer.bd-footer-content")
            text = " ".join(foot.get_text().split())
            assert re.search(r"Built from commit \w+.* on \d+ \w+ \d{4}, on .+reviews from", text), name


def test_the_colab_button_opens_the_twin(book: Path, pages: list[str]) -> None:
    for name in (name for name in pages if name.startswith("notebooks/")):
        (link,) = parsed(book, name).select("a[href*='colab.research.google.com']")
        target = str(link["href"])
        assert target.endswith(f"/blob/main/{name.removesuffix('.html')}.ipynb"), target
        assert (book.parents[2] / name).with_suffix(".ipynb").is_file()


def test_page_and_twin_number_alike(book: Path, pages: list[str]) -> None:
    for name in (name for name in pages if name.startswith("notebooks/")):
        text = parsed(book, name).get_text()
        twin = "".join(
            "".join(cell["source"])
            for cell in json.loads((book.parents[2] / name).with_suffix(".ipynb").read_text())["cells"]
        )
        equations = re.findall(r"\\tag\{([\d.]+)\}", twin)
        labelled = re.findall(r"\*\*((?:Exercise|Proposition) [\d.]+)", twin)
        assert equations, name
        for number in equations:
            assert f"({number})" in text, f"{name}: equation {number}"
        for label in labelled:
            assert label in text, f"{name}: {label}"


def test_weights(book: Path, pages: list[str]) -> None:
    total = sum(path.stat().st_size for path in book.rglob("*") if path.is_file())
    assert total < 60e6
    for name in pages:
        html = (book / name).read_text(encoding="utf-8")
        own = [book / found for found in re.findall(r'src="(?:\.\./)*(_images/[^"]+)"', html)]
        size = len(html.encode()) + sum(path.stat().st_size for path in own)
        assert size < 1.5e6, f"{name} weighs {size / 1e6:.2f} MB"


def test_search_finds_a_word(site: str, browser: Browser) -> None:
    with opened(browser, f"{site}/search.html?q=precision") as page:
        page.locator("#search-results li a").first.wait_for(timeout=10_000)
        assert page.locator("#search-results li a[href*='finetuning']").count() >= 1
