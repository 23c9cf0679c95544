"""Draw the picture that links to the book show elsewhere: book/_static/card.png, with Chromium."""

from __future__ import annotations

import shutil
from html import escape
from pathlib import Path

from playwright.sync_api import sync_playwright

from topk_lib import records

STATIC = Path(__file__).resolve().parent / "_static"
SHOW = STATIC.parent.parent / "topk_lib" / "show" / "static"
ROOM = 140  # tokens that fit
K = 16


def page() -> str:
    """The card as HTML: the course's name, and the review of the first page with its kept tokens."""
    found = records.load("first_page", "review")["metrics"]
    tokens = list(zip(found["pieces"], found["ranks"]["linear"], strict=True))
    start = next(i for i in range(len(tokens) - ROOM, len(tokens)) if tokens[i - 1][0] == ".")
    words = []
    for piece, rank in tokens[start:]:
        word = escape(piece.lstrip())
        space = piece[: len(piece) - len(piece.lstrip())]
        words.append(f"{space}<mark>{word}</mark>" if rank < K else space + word)
    sheets = "".join(f'<link rel="stylesheet" href="{path.as_uri()}">'
                     for path in (SHOW / "show.css", STATIC / "course.css"))  # fmt: skip
    return (
        f'<!doctype html><html data-theme="light"><meta charset="utf-8">{sheets}<style>'
        ":root { --pst-color-text-base: #222832 }"
        "body { margin: 0; width: 1200px; height: 630px; box-sizing: border-box; padding: 60px 72px;"
        " overflow: hidden; background: #fff; color: #222832; font-family: var(--pst-font-family-base) }"
        "h1 { font: 600 96px var(--course-serif); margin: 0; display: flex; gap: 34px; align-items: center }"
        "h2 { font: 400 38px/1.3 var(--course-serif); margin: 12px 0 40px }"
        ".topk-words { font-size: 27px; line-height: 1.65; color: var(--topk-dropped); margin: 0 }"
        f'</style><h1><img src="{(STATIC / "mark.svg").as_uri()}" width="104" alt="">Choosing k</h1>'
        "<h2>If a language model may read only k tokens, which k?</h2>"
        f'<p class="topk-words">{"".join(words).lstrip()}</p>'
    )


def main() -> None:
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    path = next((found for name in names if (found := shutil.which(name))), None)
    source = STATIC / "card.tmp.html"  # a page from disk may load the fonts beside it
    source.write_text(page(), encoding="utf-8")
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
            tab = browser.new_page(viewport={"width": 1200, "height": 630}, color_scheme="light")
            tab.goto(source.as_uri(), wait_until="load")
            tab.evaluate("document.fonts.ready")
            tab.wait_for_timeout(500)  # marks fade in
            tab.screenshot(path=STATIC / "card.png")
            browser.close()
    finally:
        source.unlink()


if __name__ == "__main__":
    main()
