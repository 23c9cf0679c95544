"""Print every page of the built book in a browser and bind them in one PDF with bookmarks."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import yaml
from playwright.sync_api import sync_playwright
from pypdf import PdfReader, PdfWriter

ROOT = Path(__file__).resolve().parent.parent
HTML = ROOT / "book" / "_build" / "html"


def pages() -> list[str]:
    """The pages in the order of the table of contents."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    return [toc["root"], *(c["file"] for part in toc["parts"] for c in part["chapters"])]


def main() -> None:
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    path = next((found for name in names if (found := shutil.which(name))), None)
    writer = PdfWriter()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        tab = browser.new_page(color_scheme="light")
        for name in pages():
            tab.goto((HTML / f"{name}.html").as_uri(), wait_until="load")
            tab.evaluate("async () => { if (window.MathJax) await MathJax.startup.promise; }")
            tab.wait_for_timeout(500)  # diagrams
            title = tab.locator("article h1").first.inner_text().rstrip("#").strip()
            start = len(writer.pages)
            writer.append(
                PdfReader(io.BytesIO(tab.pdf(format="A4", print_background=True))), import_outline=False
            )
            writer.add_outline_item(title, start)
        browser.close()
    writer.add_metadata({"/Title": "Choosing k: top-k token selection in large language models"})
    target = ROOT / "book" / "_build" / "choosing-k.pdf"
    writer.write(target)
    print(f"{len(writer.pages)} pages: {target}")


if __name__ == "__main__":
    main()
