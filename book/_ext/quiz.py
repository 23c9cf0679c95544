"""Questions whose answers stand on the page: written in Markdown, marked in the browser."""

from __future__ import annotations

import re
from html import escape
from typing import Any, ClassVar, NamedTuple

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective, SphinxRole
from sphinx.util.nodes import make_refnode

ASKED = {"one": "one answer", "several": "several answers", "number": "a number", "order": "an order"}
_CHOICE = re.compile(r"- \[(.+?)\] ?(.*)")
# 0.83, -1 ± 0.01, "otherwise"
_NUMBER = re.compile(r"(-?\d+(?:\.\d+)?)(?: ± (\d+(?:\.\d+)?))?|otherwise")


class Choice(NamedTuple):
    """One thing to answer: how it is marked, its words, and the lines that explain it."""

    mark: str
    words: str
    why: list[str]


class Question(SphinxDirective):  # type: ignore[misc]
    """A question; its kind, one of ``ASKED``, is the argument.

    After the question come the choices: ``- [x]`` is right, ``- [ ]`` wrong, and in an order ``- [2]``
    is the second. The lines below a choice, indented by two, explain it. A number's choices are the right
    one and those that a known mistake gives, each with what it may be off by, and ``otherwise``.
    """

    has_content = True
    required_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {}

    def run(self) -> list[nodes.Node]:
        kind = self.arguments[0]
        stem, choices = split(list(self.content))
        wrong = fault(kind, choices)
        if wrong:
            raise self.error(wrong)
        number = self.env.temp_data["questions"] = self.env.temp_data.get("questions", 0) + 1
        legend = f"<legend>Question {number} <span>({ASKED[kind]})</span></legend>"
        page = raw(f'<fieldset class="quiz" id="question-{number}" data-kind="{kind}">{legend}')
        page += self.parsed(stem)
        opened, closed = "", "</ul></fieldset>"
        if kind == "number":
            opened = '<details class="quiz-number"><summary>The answer</summary>'
            closed = "</ul></details></fieldset>"
        page += raw(f'{opened}<ul class="quiz-choices">')
        for choice in choices:
            page += self.shown(kind, choice)
        return [*page, *raw(closed)]

    def shown(self, kind: str, choice: Choice) -> list[nodes.Node]:
        data = f'data-mark="{escape(choice.mark)}"'
        verdict = {"x": "Right.", " ": "Wrong."}.get(choice.mark, f"Place {choice.mark}.")
        opened, closed = '<details class="quiz-why"><summary>Right or wrong?</summary>', "</details></li>"
        if kind == "order":
            opened = opened.replace("Right or wrong?", "Which place?")
        if kind == "number":
            found = _NUMBER.fullmatch(choice.words)
            assert found is not None  # fault() has looked
            if found[1]:
                data += f' data-number="{found[1]}" data-within="{found[2] or 0}"'
            opened, closed = '<div class="quiz-why">', "</div></li>"
        why = self.parsed([line[2:] for line in choice.why])
        why[0].insert(0, raw(f'<b class="quiz-mark">{verdict}</b> '))
        words = nodes.inline("", "", *self.parsed([choice.words])[0].children, classes=["quiz-choice"])
        return [*raw(f"<li {data}>"), words, *raw(opened), *why, *raw(closed)]

    def parsed(self, lines: list[str]) -> list[nodes.Node]:
        box = nodes.Element()
        self.state.nested_parse(StringList(lines, self.get_source_info()[0]), self.content_offset, box)
        return list(box.children)


def raw(html: str) -> list[nodes.Node]:
    return [nodes.raw("", html, format="html")]


def split(lines: list[str]) -> tuple[list[str], list[Choice]]:
    """The lines of the question, and its choices."""
    stem: list[str] = []
    choices: list[Choice] = []
    for line in lines:
        found = _CHOICE.fullmatch(line)
        if found:
            choices.append(Choice(found[1], found[2], []))
        elif not choices:
            stem.append(line)
        else:
            choices[-1].why.append(line)
    return stem, choices


def fault(kind: str, choices: list[Choice]) -> str:
    """What is wrong with a question, in one sentence; nothing where nothing is."""
    if kind not in ASKED:
        return f"a question is one of {', '.join(ASKED)}, not {kind!r}"
    marks = [choice.mark for choice in choices]
    for choice in choices:
        if not any(line.strip() for line in choice.why):
            return f"the choice {choice.words!r} needs an explanation below it, indented by two"
        if any(line.strip() and not line.startswith("  ") for line in choice.why):
            return f"every line of the explanation of {choice.words!r} must be indented by two"
    if kind == "order":
        if len(marks) < 3 or sorted(marks) != [str(i + 1) for i in range(len(marks))]:
            return f"an order needs the marks [1], [2], [3] and so on, each once, not {marks}"
        return ""
    right = marks.count("x")
    if len(marks) < 3 and kind != "number":
        return f"a question needs at least three choices, not {len(marks)}"
    if set(marks) - {"x", " "}:
        return f"a choice is marked [x] or [ ], not {marks}"
    if kind == "several" and not 2 <= right < len(marks):
        return f"of several answers at least two are right and one is wrong; here {right} of {len(marks)} are"
    if kind != "several" and right != 1:
        return f"exactly one answer must be marked [x], not {right}"
    if kind == "number":
        for choice in choices:
            if not _NUMBER.fullmatch(choice.words):
                return f"write a number as 0.83 ± 0.01, or otherwise, not {choice.words!r}"
        if [choice.mark for choice in choices if choice.words == "otherwise"] != [" "]:
            return "a number needs one wrong answer that is called otherwise"
    return ""


class SectionRole(SphinxRole):  # type: ignore[misc]
    """``{section}`ch-soft-topk Temperature` `` leads to that section of that chapter."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        link = pending_xref(
            self.text, nodes.inline("", self.text), refdomain="", reftype="section", reftarget=self.text,
            refdoc=self.env.docname, refexplicit=True, refwarn=True,
        )  # fmt: skip
        return [link], []


def plain(text: str) -> str:
    return text.translate({0x2019: "'", 0x201C: '"', 0x201D: '"'})


def find_section(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: nodes.Element
) -> nodes.Element | None:
    if node["reftype"] != "section":
        return None
    chapter, _, title = node["reftarget"].partition(" ")
    page = env.get_domain("std").labels.get(chapter, ("",))[0]
    if page not in env.tocs:
        return None
    for entry in env.tocs[page].findall(nodes.reference):
        if plain(entry.astext()) == title:
            words = nodes.inline("", "", nodes.emphasis("", title))
            words += nodes.Text(f" ({env.titles[page].astext()})")
            return make_refnode(app.builder, node["refdoc"], page, entry["anchorname"][1:], words)
    return None


def add_files(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """The script and the style, only on pages with a question."""
    if doctree is not None and any('class="quiz"' in n.astext() for n in doctree.findall(nodes.raw)):
        app.add_js_file("quiz.js", loading_method="defer")
        app.add_css_file("quiz.css")


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("question", Question)
    app.add_role("section", SectionRole())
    app.connect("missing-reference", find_section)
    app.connect("html-page-context", add_files)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
