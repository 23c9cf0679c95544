"""The pictures of what a model expects show its numbers, and the text."""

from __future__ import annotations

import re

import pytest
import torch

from topk_lib import show


class Words:
    """A tokenizer of six types; the last is a part of a character."""

    names = ("the", " film", " cast", " <b>", "\n", "�")

    def decode(self, ids: list[int]) -> str:
        return "".join(self.names[i] for i in ids)

    def convert_ids_to_tokens(self, token: int) -> str:
        return "ðŁ" if token == 5 else self.names[token]


P = torch.tensor([[0.5, 0.2, 0.1, 0.1, 0.06, 0.04], [0.0, 0.3, 0.3, 0.3, 0.09, 0.01]])


def shown(read: int, ids: tuple[int, ...] = (0, 2), k: int = 2) -> str:
    html: str = show.next_token(Words(), ids, P, read, k=k).data
    return html.split("<style>")[0]


def rows(html: str) -> list[tuple[str, str, bool]]:
    found = []
    for row in re.findall(r"<li.*?</li>", html):
        name, share = (re.sub("<.*?>", "", part) for part in re.findall(r"<span>(.*?)</span>", row))
        found.append((name, share, "<b>next</b>" in row))
    return found


def test_the_best_types_come_first_and_the_others_are_added_up() -> None:
    html = shown(0)
    assert rows(html) == [("the", "50%", True), ("␣film", "20%", False), ("4 others", "30%", False)]
    assert "<b>the</b><span> cast</span>" in html
    assert "<code>the</code>: 50%, place 1 of 6" in html


def test_among_equals_the_lowest_id_is_listed() -> None:
    html = shown(1)
    assert [name for name, _, _ in rows(html)] == ["␣film", "␣cast", "4 others"]
    assert rows(html)[1][2]
    assert "the <b>cast</b><span></span>" in html


def test_what_comes_may_be_among_the_others_and_is_escaped() -> None:
    html = shown(1, (0, 3))
    assert [comes for _, _, comes in rows(html)] == [False, False, True]
    assert "<code>␣&lt;b&gt;</code>: 30%, place 1 of 6" in html
    assert "the <b>&lt;b&gt;</b>" in html


@pytest.mark.parametrize("read", [-1, 2])
def test_a_token_must_be_left_to_come(read: int) -> None:
    with pytest.raises(ValueError, match=r"read must be in 0\.\.1"):
        shown(read)


def test_each_token_has_its_row_of_probabilities() -> None:
    with pytest.raises(ValueError, match="a row for each of 3 tokens"):
        shown(0, (0, 2, 1))


def test_names_of_white_space_and_of_parts() -> None:
    assert [show.token_name(Words(), i) for i in range(6)] == ["the", "␣film", "␣cast", "␣<b>", "↵", "ðŁ"]


def test_surprise_stands_over_each_token() -> None:
    html = show.surprise(
        ["A", " <i>", "\n", "电", "", " "], torch.tensor([0.4, 7.25, 30.0, 21.0, 2.0, 1.0])
    ).data
    found = re.findall(r'<ruby style="--w:(\d+)">(.*?)<rt>(.*?)</rt></ruby>', html)
    assert found == [
        ("0", "A", "0.4"), ("4", "&lt;i&gt;", "7.2"), ("10", "↵", "30.0"),
        ("10", "电", "21.0"), ("1", "‥", "2.0"), ("0", "␣", "1.0"),
    ]  # fmt: skip
    assert "</ruby></span> <span><ruby" in html.split("&lt;i")[0]  # a line may break between words,
    assert html.count("<span>") == html.count("</span>") == 3  # and not within them


def test_as_many_numbers_as_pieces() -> None:
    with pytest.raises(ValueError, match="1 surprises for 2 pieces"):
        show.surprise(["a", "b"], [1.0])
    with pytest.raises(ValueError, match="0 surprises for 0 pieces"):
        show.surprise([], [])
