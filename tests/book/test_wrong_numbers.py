"""The page of wrong numbers: its small programs print what stands below them, its tests exist."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "book" / "wrong_numbers.md").read_text(encoding="utf-8")


def test_each_program_says_what_stands_below_it() -> None:
    found = re.findall(r"^```python\n(.*?)^```\n```text\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    assert len(found) == PAGE.count("```python") >= 3
    for program, printed in found:
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            try:
                exec(compile(program, "book/wrong_numbers.md", "exec"), {})
            except AssertionError as broken:
                print(f"AssertionError: {broken}")
        assert out.getvalue() == printed


def test_the_tests_that_it_names_exist() -> None:
    named = set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE))
    assert len(named) > 3
    for file, test in named:
        assert f"def {test}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file} has no {test}"


def test_the_table_of_borrowed_vectors_adds_up() -> None:
    rows = re.findall(r"^\| (?:first|second|third) \|(.+)\|$", PAGE, re.MULTILINE)
    words, own, sums, borrowed, mixed = zip(
        *([int(cell.strip(" *")) for cell in row.split("|")] for row in rows), strict=True
    )
    assert words == own
    assert borrowed == own[1:] + own[:1]
    assert sums == tuple(a + b for a, b in zip(words, own, strict=True))
    assert mixed == tuple(a + b for a, b in zip(words, borrowed, strict=True))
