"""Sphinx extension of the course: recorded numbers and assignments in prose, diagrams, a page's sources."""

from __future__ import annotations

import datetime as dt
import os
import re
import subprocess
from functools import cache
from html import escape
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util.docutils import SphinxDirective, SphinxRole

from topk_lib import claims, records
from topk_lib.grading import master

ROOT = Path(__file__).resolve().parents[2]


class RecordRole(SphinxRole):  # type: ignore[misc]
    """``{record}`imdb/main metrics.accuracy .1%` `` becomes the number in that record."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        try:
            number = records.cite(self.text)
        except (FileNotFoundError, KeyError, ValueError) as error:
            message = self.inliner.reporter.error(f"{{record}} {self.text}: {error}", line=self.lineno)
            return [nodes.Text("?")], [message]
        # The page carries the citation, so that a test can read both and compare.
        html = f'<span class="record" data-record="{escape(self.text)}">{escape(number)}</span>'
        return [nodes.raw("", html, format="html")], []


class VerdictRole(SphinxRole):  # type: ignore[misc]
    """``{verdict}`C5` `` becomes the verdict on that claim, which leads to its evidence."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        try:
            words = claims.verdict(self.text)
        except ValueError as error:
            return [nodes.Text("?")], [self.inliner.reporter.error(f"{{verdict}}: {error}", line=self.lineno)]
        link = pending_xref(
            self.text, refdomain="std", reftype="ref", reftarget=f"claim-{self.text.lower()}",
            refdoc=self.env.docname, refexplicit=True, refwarn=True,
        )  # fmt: skip
        text = nodes.inline(classes=["verdict"])
        for place, part in enumerate(words.split("`")):  # every second one is code
            text += nodes.literal(part, part) if place % 2 else nodes.Text(part)
        link += text
        return [link], []


class Mermaid(SphinxDirective):  # type: ignore[misc]
    """A Mermaid diagram, drawn in the browser by the script in ``_static/vendor``.

    ``click NODE href "PAGE.html"`` makes a box lead to a page.
    """

    has_content = True
    option_spec: ClassVar[dict[str, Any]] = {"alt": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        if "alt" not in self.options:
            raise self.error("a diagram needs :alt: that says what it shows")
        source = "\n".join(self.content)
        html = (
            f'<div class="mermaid-box" role="figure" aria-label="{escape(self.options["alt"])}">'
            f'<pre class="mermaid">{escape(source, quote=False)}</pre></div>'
        )
        return [nodes.raw("", html, format="html")]


class Claims(SphinxDirective):  # type: ignore[misc]
    """The article's claims with their verdicts, from all records there are."""

    def run(self) -> list[nodes.Node]:
        page = claims.markdown(records.load_results())
        lines = StringList(page.splitlines(), source="topk_lib/claims/article.py")
        # Into the page itself: the headings go there, whatever else is named.
        self.state.nested_parse(lines, self.content_offset, self.state_machine.node, match_titles=True)
        return []


class AssignmentRole(SphinxRole):  # type: ignore[misc]
    """``{assignment}`3` `` becomes that assignment's number, title and hours, from its master."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        found = [one for one in assignments(self.env) if str(one.number) == self.text]
        if not found:
            error = self.inliner.reporter.error(f"no assignment {self.text}", line=self.lineno)
            return [nodes.Text("?")], [error]
        text = f"{found[0].number}. {found[0].title} ({found[0].hours:g} h)"
        return [nodes.emphasis(text, text)], []


class Assignments(SphinxDirective):  # type: ignore[misc]
    """A table of all assignments: hours, points and what each presumes, from the masters."""

    def run(self) -> list[nodes.Node]:
        found = assignments(self.env)
        rows = ["| | hours | read first | questions and points | of these public | finished, it runs in |",
                "|---|---|---|---|---|---|"]  # fmt: skip
        for one in found:
            questions = ", ".join(f"`{each.name}` {each.points}" for each in one.questions)
            read = ", ".join(f"{{ref}}`{label}`" for label in one.read)
            public = sum(each.public for each in one.questions)
            rows.append(f"| {one.number}. {one.title} | {one.hours:g} | {read} | {questions} | {public} | "
                        f"{one.minutes:g} min |")  # fmt: skip
        rows.append(f"| together | {sum(one.hours for one in found):g} | | | | |")
        lines = StringList(rows, source="coursework")
        holder = nodes.container()
        self.state.nested_parse(lines, self.content_offset, holder)
        return list(holder.children)


def assignments(env: Any) -> list[master.Assignment]:
    """All masters, on which the page then depends."""
    found = _masters()
    for one in found:
        env.note_dependency(str(one.path))
    return found


@cache
def _masters() -> list[master.Assignment]:
    root = ROOT / "coursework"
    return [master.read_master(root / name) for name in master.names(root)]


def add_mermaid(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """The scripts, only on pages with a diagram."""
    if doctree is not None and any('class="mermaid"' in n.astext() for n in doctree.findall(nodes.raw)):
        app.add_js_file("vendor/mermaid/mermaid.min.js")
        app.add_js_file("mermaid-draw.js")


# What libraries write that is not valid HTML or not accessible, and what it becomes.
_MENDED = (
    (re.compile(r"<style scoped>.*?</style>\s*", re.DOTALL), ""),  # pandas
    (re.compile(r'<table border="1" class="dataframe">'), '<table class="dataframe">'),
    (re.compile(r'<tr style="text-align: right;">\s*<th></th>'), "<tr><td></td>"),
    (re.compile(r'(<th rowspan="\d+") valign="top"'), r"\1"),
    # sphinx-exercise, sphinx-proof: one id many times
    (re.compile(r'<section( class="[\w-]+")? id="(exercise|solution|proof)-content">'), r"<section\1>"),
    (re.compile(r'(<div) role="list"( class="citation-list">)'), r"\1\2"),  # docutils
    (re.compile(r'(<div class="citation"[^>]*) role="[\w-]+"'), r"\1"),
    # myst-nb: a summary may hold no paragraphs, and is named by what it shows
    (re.compile(r'<summary aria-label="Toggle hidden content">'), "<summary>"),
    (
        re.compile(r'<p class="(collapsed|expanded) admonition-title">(.*?)</p>'),
        r'<span class="\1 admonition-title">\2</span>',
    ),
)


def mend(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    for pattern, better in _MENDED:
        if "body" in context:
            context["body"] = pattern.sub(better, context["body"])


def repository_url() -> str:
    """The public address, which stands in pyproject.toml only."""
    found = re.search(r'^Repository = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    if not found:
        raise ValueError("pyproject.toml has no [project.urls] Repository")
    return found[1]


def footer() -> str:
    """From which commit, on which reviews, on what device and when the page was built."""
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    commit = git.stdout.strip() or "an unknown state"
    source = os.environ.get("TOPK_BOOK_SOURCE", "an unknown source")
    note = " (not the IMDB reviews: none were at hand)" if "embedded" in source else ""
    return (
        f"Built from commit {commit} on {dt.date.today():%d %B %Y}, on {records.device_name()}. "
        f"Live outputs: reviews from {source}{note}. Recorded outputs name their own device."
    )


def fill_in(app: Sphinx, config: Config) -> None:
    theme: dict[str, Any] = config.html_theme_options
    theme["repository_url"] = repository_url()
    theme["repository_branch"] = "main"
    theme["path_to_docs"] = ""
    theme["use_repository_button"] = theme["use_issues_button"] = True
    theme["launch_buttons"] = {
        "notebook_interface": "jupyterlab",
        "colab_url": "https://colab.research.google.com",
        "binderhub_url": "https://mybinder.org",
    }
    theme["logo"] = {"image_light": "mark.svg", "image_dark": "mark.svg", "text": "Choosing k"}
    theme["extra_footer"] = f"<p>{footer()}</p>"


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_role("record", RecordRole())
    app.add_role("verdict", VerdictRole())
    app.add_role("assignment", AssignmentRole())
    app.add_directive("assignments", Assignments)
    app.add_directive("mermaid", Mermaid)
    app.add_directive("claims", Claims)
    app.connect("html-page-context", add_mermaid)
    app.connect("html-page-context", mend)
    app.connect("config-inited", fill_in, priority=10)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
