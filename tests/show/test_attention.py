"""A text that says whom each token reads, without a browser (tests/book asks it in one)."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from bs4 import BeautifulSoup

from topk_lib import show

TOKENS = ["[CLS]", "a", "<dull>", "##ish"]
FLAT = torch.full((4, 4), 0.25)
BEFORE = torch.tensor([[1, 0, 0, 0], [1, 0, 0, 0], [0.125, 0.75, 0, 0.125], [0, 0, 1, 0]])


def drawn(**keywords: Any) -> BeautifulSoup:
    page = show.attention(TOKENS, {"before": BEFORE, "flat": FLAT}, **keywords)
    return BeautifulSoup(page.data, "html.parser")


def test_without_scripts_one_token_stands_there_asked() -> None:
    page = drawn(token=2)
    words = page.select_one(".topk-tokens")
    assert words is not None
    assert words.get_text() == " [CLS] a <dull>ish"
    assert [mark.get_text() for mark in words.select("mark")] == ["<dull>"]
    assert [one["style"] for one in words.select("b, mark")] == ["--w:2", "--w:10", "--w:0", "--w:2"]
    said = page.select_one(".topk-reads")
    assert said is not None
    assert said.get_text() == "<dull> reads a 75%, [CLS] 12%, ##ish 12%"
    options = page.select("option")
    assert [(one.get_text(), one.has_attr("selected")) for one in options] == [
        ("before", True),
        ("flat", False),
    ]


def test_all_that_the_browser_needs_is_there() -> None:
    page = show.attention(["a", "</script>"], {"x": torch.eye(2)}, head="x").data
    found = BeautifulSoup(page, "html.parser").select_one("script[type='application/json']")
    assert found is not None
    data = json.loads(found.get_text())
    assert data == {"tokens": ["a", "</script>"], "percent": {"x": [[100, 0], [0, 100]]}, "said": 3}


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"weights": {}}, "there are none"),
        ({"head": "third"}, "head must be one of first, got 'third'"),
        ({"token": 4}, r"token must lie in 0\.\.3"),
        ({"weights": {"first": FLAT[:3]}}, r"first: weights must be \(4, 4\) for 4 tokens, got \(3, 4\)"),
        ({"weights": {"first": 4 * FLAT}}, "first: each row must hold shares that sum to 1"),
        ({"weights": {"first": FLAT.log()}}, "is a softmax missing"),
    ],
)
def test_what_does_not_fit_is_refused(changed: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        show.attention(**{"tokens": TOKENS, "weights": {"first": FLAT}, **changed})
