"""The checks of the chapter on answers and summaries: right in any guise, wrong in ways that look right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from topk_lib import checks, soft_topk, topk_mask
from topk_lib.tasks.pieces import Piece, Question, answer_still_there
from topk_lib.tasks.spans import best_span

Pieces = list[tuple[int, int]]


def f1(said: Sequence[str], marked: Sequence[str]) -> float:
    both = (Counter(said) & Counter(marked)).total()
    return 2 * both / (len(said) + len(marked))


def by_parts(said: Sequence[str], marked: Sequence[str], mean: Callable[[float, float], float]) -> float:
    both = (Counter(said) & Counter(marked)).total()
    return mean(both / len(said), both / len(marked)) if both else 0.0


def once(said: Sequence[str], marked: Sequence[str]) -> float:
    a, b = set(said), set(marked)
    return 2 * len(a & b) / (len(a) + len(b))


def kept(text: str, pieces: Pieces, start: int, end: int) -> bool:
    there = {i for a, b in pieces for i in range(a, b)}
    return all(i in there or text[i] == " " for i in range(start, end))


def by_library(text: str, pieces: Pieces, start: int, end: int) -> bool:
    question = Question(text, "?", (text[start:end],), (start,))
    return answer_still_there(question, [Piece(*pair) for pair in pieces])


def spans(starts: Tensor, ends: Tensor, most: int) -> list[tuple[float, int, int]]:
    n = len(starts)
    return [(float(starts[i] + ends[j]), i, j) for i in range(n) for j in range(i, min(n, i + most))]


def span(starts: Tensor, ends: Tensor, most: int) -> tuple[int, int]:
    return max(spans(starts, ends, most), key=lambda one: one[0])[1:]


def common(a: Sequence[str], b: Sequence[str]) -> int:
    if not a or not b:
        return 0
    if a[-1] == b[-1]:
        return common(a[:-1], b[:-1]) + 1
    return max(common(a[:-1], b), common(a, b[:-1]))


def rouge_l(a: Sequence[str], b: Sequence[str]) -> float:
    return 2 * common(a, b) / (len(a) + len(b))


def run(a: Sequence[str], b: Sequence[str]) -> float:
    lengths = [
        n for n in range(1, len(a) + 1)
        if {tuple(a[i : i + n]) for i in range(len(a) - n + 1)}
        & {tuple(b[i : i + n]) for i in range(len(b) - n + 1)}
    ]  # fmt: skip
    return 2 * max(lengths, default=0) / (len(a) + len(b))


def gain(scores: Tensor, gains: Tensor, k: int) -> Tensor:
    return -(soft_topk(scores, k) * gains).sum() / k


def shared_words(sentences: list[str]) -> list[float]:
    """How much of the abstract's rarer words a sentence has."""
    words = [{w.strip(".,;:").lower() for w in s.split() if len(w) > 4} for s in sentences]
    count = Counter(w for some in words for w in some)
    return [float(sum(count[w] > 1 for w in some)) + len(some) / 10 for some in words]


RIGHT: dict[str, list[Any]] = {
    "check_answer_f1": [
        f1,
        lambda said, marked: np.float32(f1(said, marked)),
        lambda said, marked: by_parts(said, marked, lambda p, r: 2 * p * r / (p + r)),
    ],
    "check_answer_kept": [kept, by_library, lambda *given: np.bool_(kept(*given))],
    "check_best_span": [
        span,
        lambda *given: best_span(*given)[:2],
        lambda *given: torch.tensor(span(*given)),
        lambda starts, ends, most: list(span(starts.double(), ends.double(), most)),
    ],
    "check_rouge_l": [rouge_l, lambda a, b: rouge_l(b, a), lambda a, b: torch.tensor(rouge_l(a, b))],
    "check_expected_gain": [
        gain,
        lambda s, g, k: -(soft_topk(s.double(), k) * g.double()).sum() / k,
        lambda s, g, k: (-soft_topk(s, k) @ g / k)[None],
    ],
}  # fmt: skip

WRONG: dict[str, list[Callable[..., Any]]] = {
    "check_answer_f1": [
        lambda said, marked: by_parts(said, marked, lambda p, r: (p + r) / 2),
        lambda said, marked: by_parts(said, marked, lambda p, r: p),
        lambda said, marked: by_parts(said, marked, lambda p, r: r),
        lambda said, marked: by_parts(said, marked, lambda p, r: p * r / (p + r)),
        lambda said, marked: f1(said, marked) / (2 - f1(said, marked)),
        once,
        lambda said, marked: 2 * len(set(said) & set(marked)) / (len(said) + len(marked)),
        lambda said, marked: said == marked,
    ],
    "check_answer_kept": [
        lambda text, pieces, a, b: any(x < b and y > a for x, y in pieces),
        lambda text, pieces, a, b: any(x <= a and b <= y for x, y in pieces),
        lambda text, pieces, a, b: set(range(a, b)) <= {i for x, y in pieces for i in range(x, y)},
        lambda text, pieces, a, b: all(
            word in "".join(text[x:y] for x, y in pieces) for word in text[a:b].split()
        ),
        lambda text, pieces, a, b: any(x <= a < y for x, y in pieces),
        lambda text, pieces, a, b: kept(text, pieces, a, b - 1),
        lambda text, pieces, a, b: True,
    ],
    "check_best_span": [
        lambda starts, ends, most: (starts.argmax(), ends.argmax()),
        lambda starts, ends, most: span(starts, ends, len(starts)),
        lambda starts, ends, most: span(starts, ends, most - 1) if most > 1 else (0, 0),
        lambda starts, ends, most: span(starts, ends, most + 1),
        lambda starts, ends, most: max(spans(starts, ends, most), key=lambda one: (one[0], one[1:]))[1:],
        lambda starts, ends, most: span(starts.clamp(min=0), ends.clamp(min=0), most),
        lambda starts, ends, most: (starts.argmax(), starts.argmax() + ends[starts.argmax():].argmax()),
    ],
    "check_rouge_l": [
        f1,
        run,
        lambda a, b: common(a, b) / len(a),
        lambda a, b: common(a, b) / len(b),
        common,
        lambda a, b: rouge_l(a, b) ** 2,
    ],
    "check_expected_gain": [
        lambda s, g, k: -gain(s, g, k),
        lambda s, g, k: gain(s, g, k) * k,
        lambda s, g, k: -(soft_topk(s, k) * g).mean(),
        lambda s, g, k: -(topk_mask(s, k) * g).sum() / k,
        lambda s, g, k: -(s.softmax(-1) * g).sum(),
        lambda s, g, k: -(s.sigmoid() * g).sum() / k,
        lambda s, g, k: gain(s.detach(), g, k),
        lambda s, g, k: gain(s, g, k).item(),
        lambda s, g, k: -(soft_topk(s, k) * g) / k,
        lambda s, g, k: gain(s.detach(), g, k) + 0 * s.sum(),
        lambda s, g, k: gain(s, g, k) + 1,
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_right_is_accepted_in_any_guise(name: str) -> None:
    for answer in RIGHT[name]:
        assert getattr(checks, name)(answer) == "Right."


@pytest.mark.parametrize("name", WRONG)
def test_wrong_is_refused_in_one_sentence_of_its_own(name: str) -> None:
    said = [getattr(checks, name)(answer) for answer in WRONG[name]]
    assert all(text.startswith(("Not yet", "Almost")) and "\n" not in text for text in said), said
    assert len(set(said)) == len(said), "two mistakes, one message"


def test_a_rule_for_sentences_is_measured() -> None:
    rule = checks.check_sentence_rule
    assert rule(shared_words).startswith("Right: ROUGE-1")
    assert "no better than the first" in rule(lambda sentences: [-i for i in range(len(sentences))])
    # The first sentence everywhere but in one abstract, where the fourth says the result.
    once = rule(lambda texts: [i == 3 * ("Jumping spiders" in texts[0]) for i in range(len(texts))])
    assert once.startswith("Almost: ROUGE-1")
    assert "may be luck" in once
    assert "sentences need as many scores, yours gives 2" in rule(lambda sentences: [1, 2])
    assert "(NaN)" in rule(lambda sentences: [float("nan")] * len(sentences))
