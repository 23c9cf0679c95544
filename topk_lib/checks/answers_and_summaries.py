"""Checks for the chapter on answers and summaries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from topk_lib.checks.base import check, close, differ
from topk_lib.claims.summaries import interval
from topk_lib.data import load_set
from topk_lib.ops import soft_topk, topk_mask
from topk_lib.tasks.summaries import best_sentences, oracle, rouge

__all__ = [
    "check_answer_f1",
    "check_answer_kept",
    "check_best_span",
    "check_expected_gain",
    "check_rouge_l",
    "check_sentence_rule",
]

Words = Sequence[str]


@check
def check_answer_f1(answer_f1: Callable[[list[str], list[str]], float]) -> str:
    """Check the F1 of an answer's words: answer_f1(said, marked), two lists of words."""
    cases = [
        ("on the mules", "on two mules at night"),
        ("a bronze bird", "a stainless beak"),
        ("so so it", "so so low fat"),
        ("wine", "in red wine from hills"),
        ("noon", "midnight"),
        ("", "noon"),
    ]
    for said, marked in cases:
        a, b = said.split(), marked.split()
        both = (Counter(a) & Counter(b)).total()
        right = 2 * both / (len(a) + len(b))
        try:
            got = answer_f1(list(a), list(b))
        except ZeroDivisionError:
            return (
                f"Almost: {said!r} against {marked!r} shares no word, so its F1 is 0; yours divides by zero."
            )
        if close(got, right, 1e-4):
            continue
        expected, yours = differ(right, got)
        p, r = both / max(1, len(a)), both / len(b)
        once = len(set(a) & set(b))
        near = {
            p: "that is the precision, the share of what was said",
            r: "that is the recall, the share of what was marked",
            (p + r) / 2: "that is the arithmetic mean: take the harmonic one",
            both / (len(a) + len(b) - both): "that is the Jaccard index: what is shared over all there is",
            2 * once / (len(a) + len(b)): "a word said twice and marked twice is shared twice",
            2 * once / (len(set(a)) + len(set(b))): "those are sets: a word that comes twice counts twice",
            both / (len(a) + len(b)): "the harmonic mean of p and r is 2 p r / (p + r): a 2 is missing",
        }
        hint = next((why for value, why in near.items() if close(got, value, 1e-4)), "count shared words")
        return f"Not yet: {said!r} against {marked!r}: {expected}, yours {yours}; {hint}."
    return "Right."


@check
def check_answer_kept(kept: Callable[[str, list[tuple[int, int]], int, int], bool]) -> str:
    """Check whether the answer is still there: kept(text, pieces, start, end).

    ``pieces`` are the kept parts of the text, as (start, end) in characters, and ``text[start:end]`` is the
    answer where it was marked.
    """
    town, month = "born in New York City", "May met May Li"
    cases: list[tuple[str, list[tuple[int, int]], tuple[int, int], bool, str]] = [
        (town, [], (8, 16), False, "nothing is kept"),
        (town, [(0, 9), (9, 21)], (8, 16), True, "two pieces hold it between them"),
        (town, [(8, 11), (12, 16)], (8, 16), True, "both words are kept; the space between them is no loss"),
        (town, [(0, 21)], (8, 16), True, "one large piece holds all of it"),
        (town, [(12, 16)], (8, 16), False, "the first half of the answer is gone"),
        (town, [(8, 11)], (8, 16), False, "the second half of the answer is gone"),
        (town, [(7, 12), (12, 15)], (8, 16), False, "the last letter is gone"),
        (town, [(0, 7), (17, 21)], (8, 16), False, "what is kept stands around the answer"),
        (month, [(0, 3), (12, 14)], (8, 14), False, "the same word is kept, but not where it was marked"),
    ]
    for text, pieces, (start, end), right, why in cases:
        got = kept(text, list(pieces), start, end)
        if bool(got) != right:
            parts = ", ".join(repr(text[a:b]) for a, b in pieces) or "nothing"
            return (
                f"Not yet: {text!r}, the answer {text[start:end]!r} in {start}:{end}, and {parts} kept: "
                f"{right}, yours {bool(got)}; {why}."
            )
    return "Right."


@check
def check_best_span(best_span: Callable[[Tensor, Tensor, int], Any]) -> str:
    """Check best_span(starts, ends, most): the first and the last token of the best allowed span."""
    cases: list[tuple[list[float], list[float], int, tuple[int, int], str]] = [
        ([0, 3, 1, 0], [0, 1, 4, 0], 4, (1, 2), "3 + 4 is the highest sum"),
        ([0, 4, 0, 5], [0, 0, 4, 1], 4, (1, 2), "5 + 4 would end before it begins"),
        ([5, 0, 0, 3], [0, 0, 0, 4], 2, (3, 3), "5 + 4 would be four tokens, and two are allowed"),
        ([5, 0, 2, 1], [0, 1, 3, 4], 3, (0, 2), "three tokens are allowed, the first and the last counted"),
        ([2, 2, 2], [1, 1, 1], 3, (0, 0), "of equal spans the first counts: smallest start, then end"),
        ([-5, -2, -9], [-3, -8, -1], 3, (1, 2), "logits may be negative: -2 - 1 is the highest sum"),
        ([7], [7], 5, (0, 0), "there is one token only"),
    ]  # fmt: skip
    for starts, ends, most, right, why in cases:
        got = tuple(int(i) for i in best_span(torch.tensor(starts).float(), torch.tensor(ends).float(), most))
        if got != right:
            return f"Not yet: starts {starts}, ends {ends}, most {most}: {right}, yours {got}; {why}."
    return "Right."


@check
def check_rouge_l(rouge_l: Callable[[list[str], list[str]], float]) -> str:
    """Check ROUGE-L, the F1 of the longest common subsequence: rouge_l(summary, reference), of words."""
    cases = [
        ("ice melts in spring", "the ice melts"),
        ("birds that sing at night", "birds sing all night"),
        ("sing birds", "birds sing"),
        ("a b a b", "b a b a"),
        ("sun", "moon"),
        ("x a y b z c", "c b a b c"),
    ]
    for summary, reference in cases:
        a, b = summary.split(), reference.split()
        common = _common(a, b)
        right = 2 * common / (len(a) + len(b))
        try:
            got = rouge_l(list(a), list(b))
        except ZeroDivisionError:
            return f"Almost: {summary!r} and {reference!r} share nothing, so it is 0; yours divides by zero."
        if close(got, right, 1e-4):
            continue
        expected, yours = differ(right, got)
        run = max((n for n in range(len(a) + 1) if _grams(a, n) & _grams(b, n)), default=0)
        near = {
            float(common): "that is the number of words: make it an F1",
            common / len(a): "that is the precision",
            common / len(b): "that is the recall",
            2 * (Counter(a) & Counter(b)).total() / (len(a) + len(b)): "that is ROUGE-1: order counts here",
            2 * run / (len(a) + len(b)): "a subsequence may have gaps: words between do no harm",
        }
        usual = "find the most words that stand in both in the same order"
        hint = next((why for value, why in near.items() if close(got, value, 1e-4)), usual)
        return f"Not yet: {summary!r} against {reference!r}: {expected}, yours {yours}; {hint}."
    return "Right."


def _common(a: Words, b: Words) -> int:
    row = [0] * (len(b) + 1)
    for word in a:
        before, row = row, [0]
        for j, other in enumerate(b):
            row.append(before[j] + 1 if word == other else max(before[j + 1], row[j]))
    return row[-1]


def _grams(words: Words, n: int) -> set[tuple[str, ...]]:
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}


@check
def check_expected_gain(loss: Callable[[Tensor, Tensor, int], Tensor]) -> str:
    """Check loss(scores, gains, k): minus the mean gain of k sentences, weighted by soft top-k.

    Weights are those of ``soft_topk(scores, k)`` at temperature 1; the gradient goes to the scores.
    """
    cases = [([1.0, -1.0, 0.5, 0.0], [0.6, 0.1, 0.2, 0.3], 1), ([0.2, 2.0, -0.7], [0.1, 0.5, 0.9], 2)]
    for raw, gained, k in cases:
        scores, gains = torch.tensor(raw, requires_grad=True), torch.tensor(gained)
        weights = soft_topk(scores, k)
        whole = -(weights * gains).sum() / k
        (slope,), right = torch.autograd.grad(whole, scores), float(whole.detach())
        mine = torch.tensor(raw, requires_grad=True)
        got = loss(mine, gains.clone(), k)
        if not isinstance(got, Tensor):
            return f"Not yet: a loss is a tensor, yours is {type(got).__name__}: .item() has no gradient."
        start = f"Not yet: scores {raw}, gains {gained}, k = {k}"
        if got.numel() != 1:
            return f"{start}: a loss is one number; the shape of yours is {tuple(got.shape)}."
        value = got.detach()
        if not close(value, right, 1e-4):
            expected, yours = differ(right, value)
            plain, hard = torch.tensor(raw), topk_mask(torch.tensor(raw), k).float()
            near = {
                -right: "a loss is made small, so the gain has a minus",
                right * k: "divide by k: a mean is easier to compare between k",
                right * k / len(raw): "the weights sum to k, so divide by k and not by n",
                -float((hard * gains).sum()) / k: "that is the hard choice: nothing flows back through it",
                -float((plain.softmax(-1) * gains).sum()): "that is softmax: its weights sum to 1, not to k",
                -float((plain.sigmoid() * gains).sum()) / k: "sigmoids of the scores do not sum to k",
            }
            usual = "weigh each gain by soft_topk(scores, k), add up, divide by k, and change the sign"
            hint = next((why for near_by, why in near.items() if close(value, near_by, 1e-4)), usual)
            return f"{start}: {expected}, yours {yours}; {hint}."
        if not got.requires_grad:
            return (
                f"{start}: the number is right, but no gradient reaches the scores: keep them in the graph."
            )
        (found,) = torch.autograd.grad(got.sum(), mine, allow_unused=True)
        if found is None or not torch.allclose(found, slope, atol=1e-4):
            return (
                f"{start}: the number is right, its gradient is not: {_short(slope)}, yours {_short(found)}."
            )
    return "Right."


def _short(values: Tensor | None) -> str:
    return "none" if values is None else f"({', '.join(f'{v:.3f}' for v in values.tolist())})"


@check
def check_sentence_rule(rule: Callable[[list[str]], Any]) -> str:
    """Measure a rule on the course's own abstracts: rule(sentences) gives each sentence a score.

    The best sentence of each test abstract is compared with the summaries by ROUGE-1; the rule sees the
    sentences alone, and has to beat the first sentence by more than luck.
    """
    found = load_set("scitldr", "embedded", split="test", quiet=True)
    abstracts, references = [list(x) for x in found["source"]], [list(x) for x in found["target"]]
    said = []
    for sentences in abstracts:
        scores = torch.as_tensor(rule(list(sentences))).detach().float().flatten()
        if len(scores) != len(sentences):
            return f"Not yet: {len(sentences)} sentences need as many scores, yours gives {len(scores)}."
        if bool(scores.isnan().any()):
            return f"Not yet: a score of an abstract of {len(sentences)} sentences is no number (NaN)."
        said += best_sentences(sentences, scores, 1)
    first = rouge([sentences[0] for sentences in abstracts], references)[:, 0]
    best = [
        best_sentences(a, oracle(a, r, 1).float(), 1)[0] for a, r in zip(abstracts, references, strict=True)
    ]
    bound = rouge(best, references)[:, 0].mean()
    mine = rouge(said, references)[:, 0]
    _, low, high = interval(mine - first)
    told = (
        f"ROUGE-1 {mine.mean():.3f}; the first sentence has {first.mean():.3f}, the best one {bound:.3f}; "
        f"the difference to the first lies between {low:+.3f} and {high:+.3f}"
    )
    if mine.mean() <= first.mean():
        return f"Not yet: {told}. That is no better than the first sentence."
    return f"Right: {told}." if low > 0 else f"Almost: {told}, which may be luck."
