"""One text under a moving k, without a browser (tests/book moves it in one)."""

from __future__ import annotations

from typing import Any

import pytest
from bs4 import BeautifulSoup

from topk_lib import records, show

GIVEN: dict[str, Any] = {
    "pieces": ["Not", " a", " <dull>", " minute", "."],
    "ranks": {"good": [0, 3, 1, 2, 4], "first": [0, 1, 2, 3, 4]},
    "positive": {"good": [0.1, 0.8], "first": [0.1, 0.2]},
    "budgets": [1, 3],
    "whole": 0.9,
}


def test_without_scripts_the_first_rule_at_k_stands_there() -> None:
    page = BeautifulSoup(show.reading(**GIVEN, k=3).data, "html.parser")
    words = page.select_one(".topk-words")
    assert words is not None
    assert words.get_text() == "Not a <dull> minute."
    assert [mark.get_text() for mark in words.select("mark")] == ["Not", "<dull>", "minute"]
    verdict = page.select_one(".topk-verdict p")
    assert verdict is not None
    assert "3 tokens is 80% sure" in verdict.get_text()
    assert "After all 5 it is 90% sure" in verdict.get_text()


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"ranks": {"good": [0, 3, 1, 2, 3], "first": [0, 1, 2, 3, 4]}}, "good: ranks must be a permutation"),
        ({"positive": {"good": [0.1, 0.8]}}, "must name the same rules"),
        ({"positive": {"good": [0.1], "first": [0.1, 0.2]}}, "good: 1 answers for 2 budgets"),
        ({"budgets": [1, 3, 9]}, r"within 1\.\.5"),
        ({"k": 2}, "k must be one of the budgets, got 2"),
    ],
)
def test_what_does_not_fit_is_refused(changed: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        show.reading(**{**GIVEN, "k": 3, **changed})


def test_the_first_pages_review_reaches_from_4_to_256_tokens() -> None:
    record = records.load("first_page", "review")
    found, budgets = record["metrics"], record["settings"]["budgets"]
    assert (budgets[0], budgets[-1]) == (4, 256)
    assert found["ranks"]["first"] == list(range(len(found["pieces"])))
    assert "".join(found["pieces"]).endswith("See it today.")
    # The linear rule keeps what a linear model finds telling; neither rank nor order is by position.
    assert found["ranks"]["linear"] != found["ranks"]["first"]
