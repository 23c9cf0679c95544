# ruff: noqa: RUF001  (Chinese has marks of its own)
"""A paragraph in pieces, sentences or tokens, and questions on it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from torch import Tensor

from topk_lib.ops import hard_topk

__all__ = [
    "CJK",
    "Piece",
    "Question",
    "Word",
    "answer_still_there",
    "cut_down",
    "keep",
    "questions_of",
    "sentences",
    "token_pieces",
    "words",
]

CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
"""Characters that are words of their own, inside the brackets of a regular expression."""

_WORD = re.compile(rf"[{CJK}]|[^\W{CJK}]+")
_END = re.compile(r"[.!?]+[\"'”’)\]]*(?=\s)|[。！？]+[”’」』）》\"]*|\n+")
_SHORT = frozenset(
    ["Mr", "Mrs", "Ms", "Dr", "Prof", "St", "No", "Vol", "Fig", "Jr", "Sr", "Col", "Gen", "Lt", "Sgt", "Rev",
     "Mt", "Ft", "v", "vs", "al", "cf", "ca", "e.g", "i.e", "approx"]
)  # fmt: skip
_INITIALS = re.compile(r"[A-Z](\.[A-Z])*")


class Piece(NamedTuple):
    """``text[start:end]``, in characters."""

    start: int
    end: int


class Word(NamedTuple):
    """A word in lower case, and where it stands, in characters."""

    text: str
    start: int
    end: int


class Question(NamedTuple):
    """A question on a paragraph.

    Attributes:
        context: the paragraph.
        question: what is asked.
        answers: what people marked as the answer, parts of the paragraph.
        starts: the character at which each of them begins.
    """

    context: str
    question: str
    answers: tuple[str, ...] = ()
    starts: tuple[int, ...] = ()


def questions_of(rows: Iterable[Any]) -> list[Question]:
    """The rows of ``load_set("xquad")``, or of any set in SQuAD's columns, as :class:`Question`."""
    return [
        Question(
            row["context"], row["question"], tuple(row["answers"]["text"]),
            tuple(row["answers"]["answer_start"]),
        )
        for row in rows
    ]  # fmt: skip


def sentences(text: str) -> list[Piece]:
    """Split English or Chinese text into sentences.

    One ends at ``. ! ?`` before a space (not after an initial, a common abbreviation, or before a small
    letter), at ``。！？`` wherever they stand, closing quotes included, and at the end of a line. Every
    character that is no space lies in exactly one sentence.

    Example:
        >>> [text[a:b] for text in ["Dr. Li came. She sat."] for a, b in sentences(text)]
        ['Dr. Li came.', 'She sat.']
    """
    ends = [m.end() for m in _END.finditer(text) if _ends_here(text, m)] + [len(text)]
    found, start = [], 0
    for end in ends:
        part = text[start:end]
        if part.strip():
            found.append(Piece(start + len(part) - len(part.lstrip()), start + len(part.rstrip())))
        start = end
    return found


def _ends_here(text: str, end: re.Match[str]) -> bool:
    if text[end.start()] not in ".!?":
        return True
    if text[end.end() :].lstrip()[:1].islower():
        return False
    before = text[: end.start()].rsplit(maxsplit=1)[-1:] or [""]
    word = before[0].lstrip("([\"'“‘")
    return end[0][0] != "." or not (word in _SHORT or _INITIALS.fullmatch(word))


def words(text: str) -> list[Word]:
    """The words of a text in lower case; of Chinese every character is one."""
    return [Word(m[0].lower(), m.start(), m.end()) for m in _WORD.finditer(text)]


def token_pieces(tokenizer: Any, text: str) -> tuple[list[int], list[Piece]]:
    """The token ids of a text, and which characters each stands for.

    A character that is several tokens (of Chinese, in a tokenizer of bytes) is the piece of each of them.
    """
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return list(found["input_ids"]), [Piece(*pair) for pair in found["offset_mapping"]]


def keep(scores: Tensor, k: int) -> list[int]:
    """Which k of n pieces have the highest scores, in the order of the text; all where n <= k."""
    return hard_topk(scores, min(k, len(scores))).indices.tolist()


def answer_still_there(question: Question, kept: Iterable[Piece]) -> bool:
    """Whether one of the answers, where it was marked, is kept to the last character that is no space."""
    there = {i for a, b in kept for i in range(a, b)}
    return any(
        all(i in there or question.context[i].isspace() for i in range(start, start + len(text)))
        for text, start in zip(question.answers, question.starts, strict=True)
    )


def cut_down(question: Question, kept: Iterable[Piece]) -> Question:
    """The same question on what is kept alone.

    Args:
        question: on the whole paragraph.
        kept: pieces of it that do not overlap, in the order of the text.

    Returns:
        A question whose paragraph is these pieces, with a space between two where one stood before the
        second, and whose answers are those that lie within a piece.
    """
    context, answers, starts = "", [], []
    for a, b in kept:
        context += " " if context and question.context[a - 1].isspace() else ""
        for text, start in zip(question.answers, question.starts, strict=True):
            if a <= start and start + len(text) <= b:
                answers.append(text)
                starts.append(len(context) + start - a)
        context += question.context[a:b]
    return Question(context, question.question, tuple(answers), tuple(starts))
