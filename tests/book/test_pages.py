"""The built pages, as a person meets them in a browser."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from bs4 import BeautifulSoup
from playwright.sync_api import Browser, Error, Locator, Page, Request

from topk_lib import records

FIRST = "book/intro.html"

HANGING = 600_000  # milliseconds; a slow machine fails nothing

# A page with its formulas takes seconds to draw. So each is opened once, with every check that
# wants it so made on it in turn; what they found is told apart by the tests.
Found = dict[str, list[str]]


@pytest.fixture(scope="session")
def found(pages: list[str], site: str, browser: Browser) -> Found:
    """What each of the checks found wrong, on all pages."""
    found: Found = defaultdict(list)
    for name in pages:
        requests: list[str] = []
        context = browser.new_context(has_touch=True)
        context.set_default_timeout(HANGING)
        page = context.new_page()
        watch(page, requests, found["no_request_leaves_the_folder"])
        page.goto(f"{site}/{name}", wait_until="networkidle")
        drawn(page)
        found["no_request_leaves_the_folder"] += [r for r in requests if not at_home(r, site)]
        for check in CHECKS:
            try:
                wrong = check(page)
            except Error as error:
                wrong = [str(error)]
            found[check.__name__] += [f"{name}: {one}" for one in wrong]
        context.close()
    return found


def watch(page: Page, requests: list[str], problems: list[str]) -> None:
    page.on("request", lambda request: requests.append(request.url))
    page.on("requestfailed", lambda request: failed(request, problems))
    page.on("pageerror", lambda error: problems.append(str(error)))


def failed(request: Request, problems: list[str]) -> None:
    if request.failure != "net::ERR_ABORTED":  # a page closed while it leads on to another
        problems.append(f"failed: {request.url}")


def drawn(page: Page) -> None:
    """Wait until the formulas are drawn."""
    page.wait_for_function("() => !window.MathJax || !MathJax.startup || MathJax.startup.promise")
    page.evaluate("async () => { if (window.MathJax && MathJax.startup) await MathJax.startup.promise; }")


def at_home(address: str, home: str) -> bool:
    return address.startswith((home, "data:", "blob:", "about:"))


def mathematics_and_diagrams_are_drawn(page: Page) -> list[str]:
    wrong = []
    wanted, got = page.locator(".math").count(), page.locator(".math mjx-container").count()
    if got < wanted:
        wrong.append(f"{got} of {wanted} formulas")
    if page.locator("mjx-merror, [data-mml-node='merror']").count():
        wrong.append("a formula with an error")
    for diagram in page.locator("pre.mermaid").all():
        diagram.locator("svg").wait_for(timeout=HANGING)
        if "Syntax error" in (diagram.text_content() or ""):
            wrong.append("a diagram with an error")
    return wrong


def every_image_says_what_it_shows(page: Page) -> list[str]:
    wrong = []
    for image in page.locator("article img").all():
        alt = image.get_attribute("alt") or ""
        if len(alt.split()) < 4 or re.search(r"\.(png|svg|webp)$|^\.\.|_images", alt):
            wrong.append(f"alt text {alt!r}")
        image.scroll_into_view_if_needed()  # some are loaded only then
        if not image.evaluate("i => i.decode().then(() => i.naturalWidth > 0, () => false)"):
            wrong.append(f"broken: {alt!r}")
    for figure in page.locator("article .mermaid-box").all():
        if len((figure.get_attribute("aria-label") or "").split()) < 4:
            wrong.append("a diagram without a label")
    return wrong


# Listings have thousands of coloured words in some thirty styles; each style is judged once.
ONE_OF_EACH = """() => {
    const seen = new Set();
    for (const word of document.querySelectorAll(".highlight span[class]")) {
        const style = `${word.className} in ${word.closest(".highlight").parentElement.className}`;
        if (seen.has(style)) word.replaceWith(...word.childNodes);
        seen.add(style);
    }
}"""


# MathJax makes half the elements of a page, all in the colour of the text around them.
OUTSIDE_FORMULAS = {"exclude": [["mjx-container"]]}


def axe_finds_nothing_serious(page: Page) -> list[str]:
    wrong = []
    if page.locator("article").count() == 0:
        return []  # the redirect
    page.evaluate(ONE_OF_EACH)
    # colours half-way through a transition are nobody's reading
    style = page.add_style_tag(content="*, *::before, *::after { transition: none !important; }")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.wait_for_function("scheme => document.documentElement.dataset.theme === scheme", arg=scheme)
        # all but colours are the same in both
        options: dict[str, list[str]] = {"resultTypes": ["violations"]}
        if scheme == "dark":
            options["runOnly"] = ["color-contrast"]
        judged = Axe().run(page, context=OUTSIDE_FORMULAS, options=options)
        for violation in judged.response["violations"]:
            if violation["impact"] in ("serious", "critical"):
                nodes = [node["html"][:150] for node in violation["nodes"][:5]]
                wrong.append(f"{scheme}: {violation['id']}, {len(violation['nodes'])} times: {nodes}")
    style.evaluate("style => style.remove()")
    page.emulate_media(color_scheme="light")
    return wrong


def a_phone_needs_no_sideways_scrolling(page: Page) -> list[str]:
    wrong = []
    before = page.viewport_size
    assert before is not None
    page.set_viewport_size({"width": 390, "height": 844})
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        wide = page.evaluate("document.scrollingElement.scrollWidth")
        if wide > 390:
            wrong.append(f"{scheme}: {wide} pixels wide")
    page.emulate_media(color_scheme="light")
    page.set_viewport_size(before)
    return wrong


def print_shows_no_controls(page: Page) -> list[str]:
    page.emulate_media(media="print")
    seen = sum(controls.is_visible() for controls in page.locator(".topk-controls").all())
    page.emulate_media(media="screen")
    return [f"{seen} explorers print their controls"] if seen else []


def every_explorer_moves(page: Page) -> list[str]:
    wrong = []
    for i, explorer in enumerate(page.locator(".topk-explore").all()):
        wrong += [f"explorer {i}: {one}" for one in explorer_is_stuck(page, explorer)]
    return wrong


def explorer_is_stuck(page: Page, explorer: Locator) -> list[str]:
    wrong = []
    for slider in explorer.locator("input[type=range]").all():
        slider.focus()
        page.keyboard.press("Home")
        first, label = frame(explorer), slider.get_attribute("aria-valuetext")
        page.keyboard.press("End")
        if frame(explorer) == first or slider.get_attribute("aria-valuetext") == label:
            wrong.append(f"{label}: keys do not move it")
        box = slider.bounding_box()
        assert box is not None
        # click and tap wait until the slider stands still
        slider.click(position={"x": 3, "y": box["height"] / 2})
        if frame(explorer) != first:
            wrong.append(f"{label}: the mouse does not move it")
        slider.tap(position={"x": box["width"] - 3, "y": box["height"] / 2})
        if frame(explorer) == first:
            wrong.append(f"{label}: a finger does not move it")
    for play in explorer.locator("button").all():
        before = explorer.get_attribute("data-frame")
        play.click()
        page.wait_for_function(
            "([e, before]) => e.dataset.frame !== before", arg=[explorer.element_handle(), before]
        )
        play.click()
        if play.inner_text() != "Play":
            wrong.append("it does not stop")
    return wrong


def frame(explorer: Locator) -> str:
    return explorer.locator(".topk-frame").inner_html()


CHECKS: list[Callable[[Page], list[str]]] = [
    mathematics_and_diagrams_are_drawn,
    every_image_says_what_it_shows,
    a_phone_needs_no_sideways_scrolling,
    print_shows_no_controls,
    every_explorer_moves,
    axe_finds_nothing_serious,  # last: it changes the page
]


@pytest.mark.parametrize("check", ["no_request_leaves_the_folder", *(check.__name__ for check in CHECKS)])
def test_in_a_browser(check: str, found: Found) -> None:
    assert found[check] == []


def test_there_is_something_to_check(book: Path, pages: list[str]) -> None:
    every = [parsed(book, name) for name in pages]
    for what, least in ((".math", 100), ("pre.mermaid", 1), (".topk-explore", 3), ("article img", 3)):
        assert sum(len(page.select(what)) for page in every) >= least, what


@pytest.mark.parametrize(
    ("wrong", "check"),
    [
        ("<p style='width: 900px'>wide</p>", a_phone_needs_no_sideways_scrolling),
        ("<article><img src='x.png' alt='figure'></article>", every_image_says_what_it_shows),
        ("<article><p style='color: #999'>pale words to read</p></article>", axe_finds_nothing_serious),
        ("<div class='math'>x</div>", mathematics_and_diagrams_are_drawn),
        ("<div class='topk-controls'>move</div>", print_shows_no_controls),
        (
            "<div class='topk-explore'><input type='range'><div class='topk-frame'>x</div></div>",
            every_explorer_moves,
        ),
    ],
)
def test_a_check_finds_what_is_wrong(
    wrong: str, check: Callable[[Page], list[str]], browser: Browser
) -> None:
    page = browser.new_page(has_touch=True)
    page.set_default_timeout(HANGING)
    script = (
        "<script>const media = matchMedia('(prefers-color-scheme: dark)'), set = () => "
        "document.documentElement.dataset.theme = media.matches ? 'dark' : 'light';"
        "media.onchange = set; set();</script>"
    )
    page.set_content(
        f"<!doctype html><html lang='en'><title>t</title>{script}<body style='background: white'>{wrong}"
    )
    assert check(page) != []
    page.close()


def test_from_a_disk_no_request_leaves_the_folder(book: Path, pages: list[str], browser: Browser) -> None:
    home = book.as_uri()
    for name in pages:
        requests: list[str] = []
        problems: list[str] = []
        page = browser.new_page()
        page.set_default_timeout(HANGING)
        watch(page, requests, problems)
        page.goto(f"{home}/{name}", wait_until="load")
        page.close()
        assert [r for r in requests if not at_home(r, home)] == [], name
        assert problems == [], name


def test_without_scripts_an_explorer_is_a_plain_picture(
    book: Path, pages: list[str], site: str, browser: Browser
) -> None:
    context = browser.new_context(java_script_enabled=False)
    context.set_default_timeout(HANGING)
    for name in pages:
        if not parsed(book, name).select(".topk-explore"):
            continue  # among them the redirect, which leads on while it is looked at
        page = context.new_page()
        page.goto(f"{site}/{name}", wait_until="load")
        for explorer in page.locator(".topk-explore").all():
            assert not explorer.locator(".topk-controls").is_visible(), name
            assert explorer.locator(".topk-frame").is_visible(), name
        page.close()
    context.close()


def test_the_first_page_marks_k_tokens(site: str, browser: Browser) -> None:
    page = browser.new_page(reduced_motion="reduce")
    page.set_default_timeout(HANGING)
    page.goto(f"{site}/{FIRST}", wait_until="load")
    slider, marks = page.locator(".topk-k input"), page.locator(".topk-words mark")
    budgets = records.load("first_page", "review")["settings"]["budgets"]
    text = page.locator(".topk-words").inner_text()
    slider.focus()
    sure = set()
    for key, k in (("Home", 4), ("ArrowRight", budgets[1]), ("End", 256), ("ArrowLeft", budgets[-2])):
        page.keyboard.press(key)
        assert marks.count() == k
        assert page.locator(".topk-at").inner_text() == page.locator(".topk-count").inner_text() == str(k)
        assert (slider.get_attribute("aria-valuetext") or "").startswith(f"{k} of ")
        sure.add(page.locator(".topk-sure").inner_text())
    assert len(sure) > 1
    kept = marks.all_inner_texts()
    page.get_by_role("radio", checked=True).focus()
    page.keyboard.press("ArrowRight")
    assert marks.count() == budgets[-2]
    assert marks.all_inner_texts() != kept
    page.get_by_role("radio", name="first k").check(force=True)
    slider.focus()
    page.keyboard.press("Home")
    assert marks.all_inner_texts() == ["I", "nearly", "left", "."]
    assert page.locator(".topk-words").inner_text() == text
    page.close()


def test_from_a_disk_and_without_scripts_the_first_page_shows_its_review(
    book: Path, browser: Browser
) -> None:
    for scripts in (True, False):
        context = browser.new_context(java_script_enabled=scripts)
        context.set_default_timeout(HANGING)
        page = context.new_page()
        page.goto((book / FIRST).as_uri(), wait_until="load")
        assert page.locator(".topk-words mark").count() == 16
        assert page.locator(".topk-reading .topk-controls").is_visible() is scripts
        context.close()


def test_a_token_that_is_asked_says_whom_it_reads(site: str, browser: Browser) -> None:
    page = browser.new_page()
    page.set_default_timeout(HANGING)
    page.goto(f"{site}/notebooks/03_inside_a_transformer.html", wait_until="load")
    words, said = page.locator(".topk-tokens button"), page.locator(".topk-reads")
    assert said.inner_text().startswith("not reads cry ")
    page.get_by_label("head").select_option("layer 1, head 3")  # the token before
    assert said.inner_text().startswith("not reads did ")
    words.nth(5).click()
    assert said.inner_text().startswith("cry reads t ")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert said.inner_text().startswith("at reads cry ")
    assert page.locator(".topk-tokens [aria-pressed=true]").all_inner_texts() == ["at"]
    page.close()


def test_the_first_page_leads_on(book: Path) -> None:
    read, run = parsed(book, FIRST).select(".course-buttons a")
    assert (read.get_text(), run.get_text()) == ("Read", "Run")
    chapter = (book / FIRST).parent / str(read["href"]).split("#")[0]
    assert chapter.resolve() == (book / "notebooks" / "01_must_it_read_it_all.html").resolve()
    assert str(run["href"]).endswith("/blob/main/notebooks/01_must_it_read_it_all.ipynb")


def test_every_page_has_a_mark_and_a_card(book: Path, pages: list[str]) -> None:
    for name in pages:
        page = parsed(book, name)
        if not page.select("article") or name in ("genindex.html", "search.html"):
            continue
        (icon,) = page.select("link[rel=icon]")
        assert (book / name).parent.joinpath(str(icon["href"]).split("?")[0]).is_file(), name
        tags = {str(tag["property"]): str(tag["content"]) for tag in page.select("meta[property^='og:']")}
        assert len(tags["og:title"]) > 3, name
        assert len(tags["og:description"]) > 20, name
        assert tags["og:url"].endswith(f"/{name}"), name
        assert (book / "_static" / tags["og:image"].rpartition("/_static/")[2]).is_file(), name
        assert page.select("meta[name='twitter:card']"), name
    card = (book / "_static" / "card.png").read_bytes()
    assert (int.from_bytes(card[16:20], "big"), int.from_bytes(card[20:24], "big")) == (1200, 630)
    assert len(card) < 250_000


def test_the_fonts_of_pages_load(book: Path, site: str, browser: Browser) -> None:
    page = browser.new_page()
    page.set_default_timeout(HANGING)
    for address in (site, book.as_uri()):
        page.goto(f"{address}/book/glossary.html", wait_until="load")
        page.evaluate("document.fonts.ready")
        loaded = page.evaluate(
            "[...document.fonts].filter(f => f.status === 'loaded').map(f => f.family.replaceAll('\"', ''))"
        )
        assert {"Source Sans 3", "Source Serif 4", "Course Chinese"} <= set(loaded)
        assert page.evaluate("document.fonts.check('1em \"Course Chinese\"', '词元')")
    page.close()


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
    numbered = 0
    for name in (name for name in pages if name.startswith("notebooks/")):
        text = parsed(book, name).get_text()
        twin = "".join(
            "".join(cell["source"])
            for cell in json.loads((book.parents[2] / name).with_suffix(".ipynb").read_text())["cells"]
        )
        equations = re.findall(r"\\tag\{([\d.]+)\}", twin)
        labelled = re.findall(r"\*\*((?:Exercise|Proposition) [\d.]+)", twin)
        numbered += bool(equations)
        for number in equations:
            assert f"({number})" in text, f"{name}: equation {number}"
        for label in labelled:
            assert label in text, f"{name}: {label}"
    assert numbered >= 15


def test_weights(book: Path, pages: list[str]) -> None:
    total = sum(path.stat().st_size for path in book.rglob("*") if path.is_file())
    assert total < 60e6
    for name in pages:
        html = (book / name).read_text(encoding="utf-8")
        own = [book / found for found in re.findall(r'src="(?:\.\./)*(_images/[^"]+)"', html)]
        size = len(html.encode()) + sum(path.stat().st_size for path in own)
        assert size < 1.5e6, f"{name} weighs {size / 1e6:.2f} MB"


def test_search_finds_a_word(site: str, browser: Browser) -> None:
    page = browser.new_page()
    page.set_default_timeout(HANGING)
    page.goto(f"{site}/search.html?q=precision", wait_until="load")
    page.locator("#search-results li a").first.wait_for(timeout=HANGING)
    assert page.locator("#search-results li a[href*='notebooks/']").count() >= 1
    page.close()
