# ruff: noqa: RUF001  (Chinese has marks of its own)
"""Paragraphs in pieces: sentences and words are where they should be, and answers keep their place."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from topk_lib import reference
from topk_lib.data import load_set
from topk_lib.tasks.pieces import (
    Piece,
    Question,
    answer_still_there,
    cut_down,
    keep,
    questions_of,
    sentences,
    words,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Dr. Li came. She sat.", ["Dr. Li came.", "She sat."]),
        ("It cost 3.5 pounds. U.S. ships paid. No. 5 did not!", ["It cost 3.5 pounds.", "U.S. ships paid.",
                                                                  "No. 5 did not!"]),
        ('"Why?" he asked. "Go!" (She went.) J. Smith stayed', ['"Why?" he asked.', '"Go!"', "(She went.)",
                                                                 "J. Smith stayed"]),
        ("One line\nanother one.  Then\n\na third", ["One line", "another one.", "Then", "a third"]),
        ("What?! Yes... Perhaps.", ["What?!", "Yes...", "Perhaps."]),
        ("蜜蜂跳舞。它们说：“来吧！”跑得越久，花田越远。还有3.5公里", ["蜜蜂跳舞。", "它们说：“来吧！”",
                                                     "跑得越久，花田越远。", "还有3.5公里"]),
        ("", []),
        (" \n ", []),
    ],
)  # fmt: skip
def test_sentences(text: str, expected: list[str]) -> None:
    assert [text[a:b] for a, b in sentences(text)] == expected


@settings(deadline=None)
@given(st.text(alphabet='aB. !?\n"。！”中x', max_size=40))
def test_every_character_lies_in_one_sentence(text: str) -> None:
    found = sentences(text)
    inside = [i for a, b in found for i in range(a, b)]
    assert inside == sorted(set(inside))
    assert {i for i, c in enumerate(text) if not c.isspace()} <= set(inside)
    assert all(text[a:b] == text[a:b].strip() != "" for a, b in found)


def test_words() -> None:
    found = words("Li's 2 bees, 蜜蜂3只")
    assert [word.text for word in found] == ["li", "s", "2", "bees", "蜜", "蜂", "3", "只"]
    assert found[3][1:] == (7, 11)


@settings(deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, -2.0, 3.0]), max_size=8), st.integers(0, 9))
def test_the_k_best_in_the_order_of_the_text(scores: list[float], k: int) -> None:
    row = torch.tensor(scores)
    expected = reference.hard_topk(row[None], min(k, len(scores)))[0]
    assert keep(row, k) == expected.nonzero()[:, 0].tolist()


TEXT = "Salt went inland on mules. It was dry.  The fire came in 1611."
ASKED = Question(TEXT, "How?", ("on mules", "mules", "1611"), (17, 20, 57))


def test_an_answer_is_there_when_all_of_it_is() -> None:
    whole = [Piece(0, 26)]
    assert answer_still_there(ASKED, whole)
    assert not answer_still_there(ASKED, [Piece(27, 38)])
    assert not answer_still_there(ASKED, [])
    only = ASKED._replace(answers=("on mules",), starts=(17,))
    assert answer_still_there(only, [Piece(17, 19), Piece(20, 25)])  # the space is no matter
    assert not answer_still_there(only, [Piece(17, 19), Piece(20, 24)])
    assert not answer_still_there(Question(TEXT, "How?"), whole)


def test_the_same_question_on_what_is_kept() -> None:
    pieces = sentences(TEXT)
    assert [TEXT[a:b] for a, b in pieces] == [
        "Salt went inland on mules.", "It was dry.", "The fire came in 1611."
    ]  # fmt: skip
    short = cut_down(ASKED, [pieces[0], pieces[2]])
    assert short.context == "Salt went inland on mules. The fire came in 1611."
    assert short.answers == ASKED.answers
    assert cut_down(ASKED, [pieces[1]]) == Question("It was dry.", "How?")
    assert cut_down(ASKED, []).context == ""
    for question in (short, cut_down(ASKED, [pieces[2]])):
        for answer, start in zip(question.answers, question.starts, strict=True):
            assert question.context[start : start + len(answer)] == answer
    chinese = Question("甲乙。丙丁。", "谁？", ("丙",), (3,))
    assert cut_down(chinese, sentences(chinese.context)) == chinese  # no space where none was


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_embedded_set(language: str) -> None:
    questions = questions_of(load_set("xquad", "embedded", config=language, split="test", quiet=True))
    for question in questions:
        assert question.context[question.starts[0] :].startswith(question.answers[0])
        pieces = sentences(question.context)
        assert len(pieces) > 2
        assert answer_still_there(question, pieces)
        assert cut_down(question, pieces).answers == question.answers
