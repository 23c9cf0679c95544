"""Questions: how they are written, what they say in a browser, and those of the book."""

from __future__ import annotations

import importlib.util
import io
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace

ROOT = Path(__file__).resolve().parents[2]
HANGING = 600_000  # milliseconds; a slow machine fails nothing
QUIZZES = sorted((ROOT / "book").glob("quiz_*.md"))
FOUR = """# Four questions

(ch-here)=
## Why it's so

:::{question} one
Which is a *fruit*?

- [ ] iron

  It is a metal.
- [x] a `pear`

  It grows on trees: {section}`ch-here Why it's so`.
- [ ] a chair

  It is made of a tree.
:::

:::{question} several
```python
k = 2
```

- [x] two

  It is even.
- [ ] three

  It is odd.
- [x] four

  It is even, too.
:::

:::{question} number
What is a half?

- [x] 0.5 ± 0.01

  One of two.
- [ ] 2

  That is its inverse.
- [ ] otherwise

  Divide 1 by 2.
:::

:::{question} order
From small to large:

- [2] two

  Two is more than one.
- [3] three

  Three is most.
- [1] one

  One is least.
:::
"""


def quiz_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("quiz", ROOT / "book" / "_ext" / "quiz.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["quiz"] = module
    spec.loader.exec_module(module)
    return module


quiz = quiz_module()


def built(source: Path) -> Path:
    """The pages in a folder, in the plainest theme there is; a warning is an error."""
    warnings = io.StringIO()
    settings = {
        "extensions": ["myst_parser", "quiz"],
        "myst_enable_extensions": ["colon_fence", "dollarmath"],
        "mathjax_path": "vendor/mathjax/tex-chtml.js",
        "html_theme": "basic",
        "html_static_path": [str(ROOT / "book" / "_static"), str(ROOT / "topk_lib" / "show" / "static")],
        "html_css_files": ["show.css"],
    }
    html = source.parent / "html"
    with docutils_namespace():
        Sphinx(source, None, html, html / "trees", "html", settings, status=None, warning=warnings).build()
    if warnings.getvalue():
        raise ValueError(warnings.getvalue())
    return html


def outline(chapter: str) -> str:
    """What can be led to: labels, headings and numbered formulas."""
    text = re.sub(r"^```.*?^```$", "", chapter, flags=re.DOTALL | re.MULTILINE)
    kept = re.findall(
        r"^(?:\([\w-]+\)=|#+ [^\n]+|\$\$\n(?:(?!\$\$).)*?\$\$ \([\w-]+\))$", text, re.DOTALL | re.MULTILINE
    )
    return "\n\n".join(kept)


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> str:
    source = tmp_path_factory.mktemp("four") / "source"
    source.mkdir()
    (source / "index.md").write_text(FOUR, encoding="utf-8")
    return (built(source) / "index.html").as_uri()


@pytest.fixture(scope="module")
def quizzes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The book's quizzes, beside pages that hold only what they may lead to."""
    source = tmp_path_factory.mktemp("quizzes") / "source"
    (source / "book").mkdir(parents=True)
    (source / "notebooks").mkdir()
    for path in sorted((ROOT / "notebooks").glob("*.md")):
        (source / "notebooks" / path.name).write_text(outline(path.read_text(encoding="utf-8")))
    claims = "".join(f"\n\n(claim-{name.lower()})=\n## {name}" for name in (f"C{i}" for i in range(1, 19)))
    (source / "book" / "claims.md").write_text(f"# Claims{claims}")
    for path in (ROOT / "book" / "glossary.md", *QUIZZES):
        shutil.copy(path, source / "book")
    (source / "index.md").write_text("# Index\n\n```{toctree}\n:glob:\nbook/*\nnotebooks/*\n```\n")
    return built(source) / "book"


@pytest.fixture
def page(four: str, browser: Browser) -> Iterator[Page]:
    page = browser.new_page(has_touch=True)
    page.set_default_timeout(HANGING)
    page.goto(four, wait_until="load")
    yield page
    page.close()


def question(page: Page, number: int) -> Locator:
    return page.locator(f"#question-{number}")


def check(asked: Locator) -> str:
    asked.get_by_role("button", name="Check").click()
    return asked.get_by_role("status").inner_text()


def explained(asked: Locator) -> list[str]:
    """The explanations that are open."""
    shown = asked.locator(".quiz-why > p").all()
    return [" ".join(one.inner_text().split()).replace("\u2019", "'") for one in shown if one.is_visible()]


def score(page: Page) -> str:
    return page.locator(".quiz-score").inner_text()


def test_by_mouse(page: Page) -> None:
    first, second = question(page, 1), question(page, 2)
    assert check(first) == "Choose an answer first."
    assert explained(first) == []
    first.get_by_text("iron").click()
    assert check(first).startswith("Not yet.")
    assert explained(first) == ["Wrong. It is a metal."]
    assert score(page) == "Answered: 1 of 4. Right at the first try: 0."
    first.get_by_text("a pear").click()
    assert check(first) == "Right."
    assert explained(first) == ["Right. It grows on trees: Why it's so (Four questions)."]
    whys = [why.is_visible() for why in first.get_by_text("Right or wrong?").all()]
    assert whys == [True] * 3  # the others' reasons, one click away
    assert score(page) == "Answered: 1 of 4. Right at the first try: 0."
    second.get_by_text("two").tap()
    second.get_by_text("three").tap()
    assert "you have 1 of 2, and 1 wrong" in check(second)
    assert explained(second) == ["Right. It is even.", "Wrong. It is odd."]
    second.get_by_text("three").tap()
    second.get_by_text("four").tap()
    assert check(second) == "Right."
    assert score(page) == "Answered: 2 of 4. Right at the first try: 0."


def test_by_keyboard(page: Page) -> None:
    press = page.keyboard.press
    first, third, fourth = (question(page, number) for number in (1, 3, 4))
    first.get_by_role("radio").first.focus()
    press("ArrowDown")
    assert first.get_by_role("radio", name="a pear").is_checked()
    press("Tab")
    press("Enter")
    assert explained(first)[0].startswith("Right. It grows on trees")
    assert score(page) == "Answered: 1 of 4. Right at the first try: 1."

    typed = third.get_by_label("Your answer")
    for answer, said, why in (
        ("a half", "Type a number first", []),
        ("3", "Not yet.", ["Wrong. Divide 1 by 2."]),
        ("2", "Not yet.", ["Wrong. That is its inverse."]),
        ("1/2", "Right.", ["Right. One of two."]),
    ):
        typed.fill(answer)
        press("Enter")
        assert third.get_by_role("status").inner_text().startswith(said), answer
        assert explained(third) == why
    for answer in ("0.5", "0,5", ".509", "50%"):
        typed.fill(answer)
        assert check(third) == "Right.", answer
    assert score(page) == "Answered: 2 of 4. Right at the first try: 1."

    assert check(fourth) == "Give each line a place of its own first."
    for name, place in (("two", "2"), ("three", "1"), ("one", "3")):
        fourth.get_by_label(name).focus()
        press(place)
    assert "1 of 3 lines stand in their place" in check(fourth)
    assert explained(fourth) == ["Place 3. Three is most."]
    for name, place in (("three", "3"), ("one", "1")):
        fourth.get_by_label(name).focus()
        press(place)
    assert check(fourth) == "Right."
    assert len(explained(fourth)) == 3


def test_without_scripts_each_answer_is_a_click_away(four: str, browser: Browser) -> None:
    context = browser.new_context(java_script_enabled=False)
    context.set_default_timeout(HANGING)
    page = context.new_page()
    page.goto(four, wait_until="load")
    assert page.locator("fieldset").locator("button, input, select").count() == 0
    assert explained(page.locator("body")) == []
    closed = page.locator("fieldset summary")
    assert closed.count() == 10  # three choices each, and one for the number
    for summary in closed.all():
        summary.focus()
        page.keyboard.press("Enter")
    assert len(explained(page.locator("body"))) == 12
    context.close()


def test_axe_finds_nothing(page: Page) -> None:
    question(page, 1).get_by_text("iron").click()
    check(question(page, 1))
    found = Axe().run(page, context={"include": [".quiz"]}).response["violations"]
    assert [(one["id"], one["nodes"][0]["html"]) for one in found] == []


def choice(mark: str, words: str = "words", why: str = "  because") -> object:
    return quiz.Choice(mark, words, [why])


@pytest.mark.parametrize(
    ("kind", "choices", "complaint"),
    [
        ("two", [], "one of one, several"),
        ("one", [choice("x"), choice(" ")], "at least three"),
        ("one", [choice(" "), choice(" "), choice(" ")], "exactly one"),
        ("one", [choice("x"), choice("x"), choice(" ")], "exactly one"),
        ("one", [choice("x"), choice("o"), choice(" ")], r"marked \[x\]"),
        ("one", [choice("x", why=""), choice(" "), choice(" ")], "needs an explanation"),
        ("one", [choice("x", why="because"), choice(" "), choice(" ")], "indented by two"),
        ("several", [choice("x"), choice(" "), choice(" ")], "at least two are right"),
        ("several", [choice("x"), choice("x"), choice("x")], "one is wrong"),
        ("order", [choice("1"), choice("3"), choice("3")], "each once"),
        ("order", [choice("1"), choice("2")], "each once"),
        ("number", [choice("x", "half"), choice(" ", "otherwise")], "write a number"),
        ("number", [choice("x", "0.5"), choice(" ", "2")], "called otherwise"),
        ("number", [choice(" ", "0.5"), choice("x", "otherwise")], "called otherwise"),
        ("number", [choice("x", "0.5"), choice("x", "2"), choice(" ", "otherwise")], "exactly one"),
    ],
)
def test_a_faulty_question_is_refused(kind: str, choices: list[object], complaint: str) -> None:
    assert re.search(complaint, quiz.fault(kind, choices))


def test_a_link_to_no_section_stops_the_build(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "index.md").write_text("(ch-here)=\n# Here\n\n{section}`ch-here Nowhere`")
    with pytest.raises(ValueError, match="ch-here Nowhere"):
        built(tmp_path / "source")


SOLVE = """() => document.querySelectorAll("fieldset.quiz").forEach((question) => {
    question.querySelectorAll("li[data-mark]").forEach((item) => {
        const control = item.querySelector("input, select");
        if (question.dataset.kind === "number") {
            if (item.dataset.mark === "x") question.querySelector("input").value = item.dataset.number;
        } else if (question.dataset.kind === "order") control.value = item.dataset.mark;
        else control.checked = item.dataset.mark === "x";
    });
    question.querySelector(".quiz-check").click();
})"""
# Every choice by itself: what opens below it.
TRY_EACH = """() => [...document.querySelectorAll("[data-kind=one] li[data-mark]")].map((item) => {
    const question = item.closest("fieldset");
    item.querySelector("input").click();
    question.querySelector(".quiz-check").click();
    return [item.dataset.mark, question.querySelector("[role=status]").textContent,
            ...[...question.querySelectorAll("[open] > p:first-of-type")].map((why) => why.textContent)];
})"""


def test_the_books_questions(quizzes: Path, browser: Browser) -> None:
    in_toc = re.findall(r"file: book/(quiz_\d+)$", (ROOT / "_toc.yml").read_text(), re.MULTILINE)
    assert [path.stem for path in QUIZZES] == in_toc
    assert len(in_toc) >= 5
    page = browser.new_page()
    page.set_default_timeout(HANGING)
    for path in QUIZZES:
        page.goto((quizzes / f"{path.stem}.html").as_uri(), wait_until="load")
        n = page.locator("fieldset.quiz").count()
        assert 6 <= n <= 10, path.stem
        assert n == len(re.findall(r"^:::\{question\}", path.read_text(), re.MULTILINE))
        page.evaluate(SOLVE)
        assert score(page) == f"Answered: {n} of {n}. Right at the first try: {n}.", path.stem
        for why in page.locator(".quiz-why").all():
            assert why.locator("a").count(), f"{path.stem}: no link in {why.inner_text()!r}"
        page.reload(wait_until="load")
        for mark, said, *opened in page.evaluate(TRY_EACH):
            right = mark == "x"
            assert said.startswith("Right." if right else "Not yet."), path.stem
            assert len(opened) == 1, path.stem
            assert opened[0].startswith("Right." if right else "Wrong."), path.stem
    page.close()
