# ruff: noqa: RUF001  (Chinese has marks of its own)
"""Question answering: the k best sentences or tokens of a paragraph, read by a language model."""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Container, Sequence
from typing import Any, NamedTuple

from topk_lib.tasks.pieces import CJK, Piece, Question, keep, sentences, token_pieces
from topk_lib.tasks.relevance import UNITS, Scorer
from topk_lib.training.prompts import free_answers

__all__ = [
    "PROMPTS",
    "Kept",
    "answer_units",
    "exact_match",
    "f1",
    "judge",
    "narrow",
    "prompt_ids",
    "read_answers",
]

PROMPTS = {
    "plain": "Passage:\n{context}\nQuestion: {question}\nAnswer:",
    "shot": (
        "Passage:\nThe mill at Orrin was built in 1702 by Anna Reth. It burned down in 1750.\n"
        "Question: Who built the mill?\nAnswer: Anna Reth\n\n"
        "Passage:\n{context}\nQuestion: {question}\nAnswer:"
    ),
    "chat": (
        "<|im_start|>user\nAnswer the question with a few words of the passage.\n\nPassage:\n{context}\n\n"
        "Question: {question}<|im_end|>\n<|im_start|>assistant\n"
    ),
    "phrase": (
        "<|im_start|>system\nYou answer with the shortest phrase of the passage that answers the question."
        "<|im_end|>\n<|im_start|>user\n{context}\n\n{question}<|im_end|>\n<|im_start|>assistant\n"
    ),
    "shot_zh": (
        "文章：\n奥林的磨坊是安娜·雷特在1702年建造的。它在1750年被烧毁。\n问题：谁建造了磨坊？\n答案：安娜·雷特\n\n"
        "文章：\n{context}\n问题：{question}\n答案："
    ),
}
"""Ways to ask a language model, written before any was tried; of these one is chosen on dev questions."""


class Kept(NamedTuple):
    """What is left of a paragraph: token ids for the language model, and what can be read of it.

    Attributes:
        ids: of the tokens that were kept.
        pieces: the sentences or tokens that were chosen. Of a character that is several tokens (half of the
            tokens of Chinese, in a tokenizer of bytes) all must be kept, else it cannot be read.
    """

    ids: list[int]
    pieces: list[Piece]


def narrow(
    question: Question, scorer: Scorer, k: int | None, tokenizer: Any, unit: str = "sentences"
) -> Kept:
    """Keep the k best sentences or tokens of a question's paragraph, in the order of the text.

    The tokens are those of the whole paragraph: what is kept is not split anew.

    Args:
        question: what is asked.
        scorer: scores the pieces.
        k: how many pieces; 0 leaves nothing, None everything.
        tokenizer: of the language model.
        unit: "sentences" or "tokens".

    Raises:
        ValueError: k < 0, or another unit.
    """
    if unit not in UNITS:
        raise ValueError(f"unit must be one of {', '.join(UNITS)}, got {unit!r}")
    if k is not None and k < 0:
        raise ValueError(f"k must be at least 0, got {k}")
    ids, tokens = token_pieces(tokenizer, question.context)
    if k is None:
        return Kept(ids, [Piece(0, len(question.context))])
    pieces = tokens if unit == "tokens" else sentences(question.context)
    chosen = keep(scorer(question, pieces), k)
    kept = [pieces[i] for i in chosen]
    if unit == "tokens":
        torn = {c for i in set(range(len(ids))).difference(chosen) for c in range(*tokens[i])}
        return Kept([ids[i] for i in chosen], [whole for piece in kept if (whole := _whole(piece, torn))])
    inside = [any(a < token.end <= b for a, b in kept) for token in tokens]
    return Kept([i for i, there in zip(ids, inside, strict=True) if there], kept)


def _whole(piece: Piece, torn: Container[int]) -> Piece | None:
    """What a piece is without the characters of which a part was dropped; these stand at its ends."""
    a, b = piece
    while a < b and a in torn:
        a += 1
    while a < b and b - 1 in torn:
        b -= 1
    return Piece(a, b) if a < b else None


def prompt_ids(tokenizer: Any, template: str, question: str, context_ids: Sequence[int]) -> list[int]:
    """A prompt as token ids, with the kept tokens of the paragraph as they are.

    Args:
        tokenizer: of the language model.
        template: with ``{context}`` and after it ``{question}``, as in :data:`PROMPTS`.
        question: what is asked.
        context_ids: of what is kept.

    Raises:
        ValueError: the template lacks a slot, or has a space before that of the paragraph, whose first word
            has none.
    """
    before, context, rest = template.partition("{context}")
    middle, asked, after = rest.partition("{question}")
    if not context or not asked or before.endswith(" "):
        raise ValueError(
            "a template needs {context}, with no space before it, and after it {question}, got "
            + repr(template)
        )

    def ids(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []

    return [*ids(before), *context_ids, *ids(middle + question + after)]


def read_answers(
    model: Any, tokenizer: Any, template: str, questions: Sequence[Question],
    contexts: Sequence[Sequence[int]], *, most: int = 16,
) -> list[str]:  # fmt: skip
    """What a language model answers, greedily: the first line of what it writes, at most ``most`` tokens.

    Args:
        model, tokenizer: as :func:`~topk_lib.models.load_language_model` gives them.
        template: of the prompt.
        questions: what is asked.
        contexts: for each the token ids that it reads, as :func:`narrow` keeps them.
        most: tokens of an answer.
    """
    prompts = [
        prompt_ids(tokenizer, template, question.question, ids)
        for question, ids in zip(questions, contexts, strict=True)
    ]
    return [
        text.strip().split("\n")[0].strip() for text in free_answers(model, tokenizer, prompts, most=most)
    ]


def answer_units(text: str) -> list[str]:
    """An answer as SQuAD's script compares it: in lower case, without punctuation and articles, in words.

    So do Rajpurkar et al. (2016), who take out ASCII's punctuation; as in the script of Lewis et al. (2020,
    "MLQA") that of other alphabets goes, too (curly quotes, long dashes), and of Chinese every character is
    a unit.
    """
    bare = "".join(
        c for c in text.lower() if c not in string.punctuation and unicodedata.category(c)[0] != "P"
    )
    return re.findall(rf"[{CJK}]|[^\s{CJK}]+", re.sub(r"\b(a|an|the)\b", " ", bare))


def exact_match(said: str, answers: Sequence[str]) -> bool:
    """Whether an answer is one of those marked, compared by :func:`answer_units`."""
    return any(answer_units(said) == answer_units(answer) for answer in answers)


def f1(said: str, answers: Sequence[str]) -> float:
    """The harmonic mean of precision and recall of an answer's units, the best over those marked.

    Where nothing is left of one of the two it is 1 if nothing is left of the other either, else 0, as in
    SQuAD's second script.

    Example:
        >>> f1("on the mules", ["on mules"])
        1.0
    """
    return max(
        (_f1(Counter(answer_units(said)), Counter(answer_units(answer))) for answer in answers), default=0.0
    )


def _f1(said: Counter[str], answer: Counter[str]) -> float:
    if not said or not answer:
        return float(said == answer)
    return 2 * (said & answer).total() / (said.total() + answer.total())


def judge(said: Sequence[str], questions: Sequence[Question]) -> dict[str, Any]:
    """How good answers are.

    Args:
        said: one answer a question.
        questions: with the answers that people marked.

    Returns:
        ``exact`` and ``f1``, means over the questions of :func:`exact_match` and :func:`f1`; and ``each``, F1
        question by question.

    Raises:
        ValueError: no question, or not one answer each.
    """
    if not questions:
        raise ValueError("there is no question to judge by")
    pairs = [(one, question.answers) for one, question in zip(said, questions, strict=True)]
    each = [f1(*pair) for pair in pairs]
    return {
        "exact": sum(exact_match(*pair) for pair in pairs) / len(pairs),
        "f1": sum(each) / len(each),
        "each": [round(one, 4) for one in each],
    }
