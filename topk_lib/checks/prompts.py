"""Checks for the chapter on prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from topk_lib.checks.base import check, close, differ, floats
from topk_lib.ops import hard_topk

__all__ = [
    "check_agreement",
    "check_best_in_order",
    "check_calibration",
    "check_few_shot",
    "check_word_score",
]


@check
def check_word_score(score: Callable[[Tensor, int, list[int]], Any]) -> str:
    """Check a learner's log-probability of a word after a prompt.

    The learner gets the logits (length, vocabulary) of prompt and word read together, how many tokens
    the prompt has, and the word's token ids.
    """
    dice = torch.Generator().manual_seed(0)
    for prompt, word in ((3, [4]), (2, [1, 5]), (4, [0, 0, 3])):
        logits = 2 * torch.randn(prompt + len(word), 6, generator=dice)
        table = logits.log_softmax(-1)
        places = range(prompt - 1, prompt - 1 + len(word))
        expected = float(sum(table[at, i] for at, i in zip(places, word, strict=True)))
        got = score(logits.clone(), prompt, list(word))
        if close(got, expected, 1e-4):
            continue
        right, yours = differ(expected, got)
        start = (
            f"Not yet: for a word of {len(word)} token{'s' * (len(word) > 1)} it is {right}, yours {yours}"
        )
        late = sum(table[at + 1, i] for at, i in zip(places, word, strict=True))
        raw = sum(logits[at, i] for at, i in zip(places, word, strict=True))
        near: list[tuple[Any, str]] = [
            (late, "Position p holds the forecast of token p + 1: the word's first token is foretold at the "
                   "prompt's last position"),
            (raw, "Those are logits: log_softmax over the vocabulary makes log-probabilities of them"),
            (np.exp(expected), "That is the probability itself: its logarithm is asked for"),
            (table[prompt - 1, word[0]], "That is the first token alone: the others count, too"),
            (expected / len(word), "That is the mean of the tokens: log P of the whole is their sum"),
            (sum(table[prompt - 1, i] for i in word), "Each token is foretold one position on"),
        ]  # fmt: skip
        usual = "Add up, for each token of the word, its log_softmax at the position before it"
        hint = next((text for value, text in near if close(got, float(value), 1e-4)), usual)
        return f"{start}. {hint}."
    return "Right: a sum of logarithms is the logarithm of the product."


@check
def check_calibration(calibrated: Callable[[Tensor, Tensor], Any]) -> str:
    """Check a learner's content-free calibration: probabilities (texts, labels) and (labels,)."""
    cases = (
        (torch.tensor([[0.6, 0.4], [0.9, 0.1]]), torch.tensor([0.8, 0.2])),
        (torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]), torch.tensor([0.2, 0.2, 0.6])),
    )
    for said, nothing in cases:
        expected = said / nothing / (said / nothing).sum(-1, keepdim=True)
        got = floats(calibrated(said.clone(), nothing.clone()))
        if got.shape != said.shape:
            return f"Not yet: a row a text is needed, shape {tuple(said.shape)}; yours is {tuple(got.shape)}."
        if torch.allclose(got, expected, atol=1e-4):
            continue
        row = [round(x, 3) for x in expected[0].tolist()]
        start = f"Not yet: {_row(said[0])} against {_row(nothing)} becomes {row}, yours {_row(got[0])}"
        if torch.allclose(got, said / nothing, atol=1e-4):
            return f"{start}. Divided it is; now let each row sum to 1."
        if torch.allclose(got, said * nothing / (said * nothing).sum(-1, keepdim=True), atol=1e-4):
            return f"{start}. You multiplied: what the model says without reading is to be taken out."
        if torch.allclose(got.sum(0), torch.ones(said.shape[1]), atol=1e-4):
            return f"{start}. The columns sum to 1; the labels of one text should."
        if not torch.allclose(got.sum(-1), torch.ones(len(said)), atol=1e-4):
            return f"{start}. Probabilities of a text's labels sum to 1."
        return f"{start}. Divide each label's share by its share without a text."
    return "Right: what the model would say of any text is taken out of what it says of this one."


@check
def check_few_shot(
    few_shot: Callable[[str, Sequence[str], Sequence[tuple[str, int]], str], str],
) -> str:
    """Check a learner's few-shot prompt: template, words, solved examples (text, label), and the text."""
    template, words = "Review: {}\nSentiment:", (" negative", " positive")
    shots = [("A bore.", 0), ("Loved it.", 1), ("Meh {really}.", 0)]
    for some in ([], shots[:1], shots, shots[::-1]):
        solved = [template.replace("{}", text) + words[label] for text, label in some]
        expected = "\n\n".join([*solved, template.replace("{}", "A gem.")])
        got = few_shot(template, words, list(some), "A gem.")
        if not isinstance(got, str):
            return f"Not yet: a prompt is a text (str), yours is {type(got).__name__}."
        if got == expected:
            continue
        start = f"Not yet, with {len(some)} example{'s' * (len(some) != 1)}"
        if got.rstrip() == expected and got != expected:
            return f"{start}: it ends with white space, which belongs to the word that is to come."
        if got.endswith(words) and got[: -len(" negative")] in (expected, expected[:-1]):
            return f"{start}: the last text has its answer already; that is what you want to ask."
        if any(text not in got for text, _ in some):
            return f"{start}: {next(text for text, _ in some if text not in got)!r} is missing."
        if "A gem." not in got:
            return f"{start}: the text to judge is missing; it stands last."
        if some and not any(word in got for word in words):
            return f"{start}: no example has its answer; without it there is nothing to learn from."
        if [got.index(text) for text, _ in some] != sorted(got.index(text) for text, _ in some):
            return f"{start}: the examples stand in another order than given."
        if got.index("A gem.") < max((got.index(text) for text, _ in some), default=0):
            return f"{start}: the text to judge stands last, since the answer is what follows."
        same = next(i for i in range(len(expected) + 1) if expected[: i + 1] != got[: i + 1])
        before, comes, yours = expected[max(0, same - 12) : same], expected[same:][:8], got[same:][:8]
        return f"{start}: after {before!r} comes {comes!r}, in yours {yours!r}."
    return "Right."


@check
def check_best_in_order(best: Callable[[list[int], Tensor, int], Any]) -> str:
    """Check a learner's k best tokens, in the order of the text: ids, scores (n,), k."""
    cases: list[tuple[list[int], list[float], int]] = [
        ([14, 15, 11, 13, 12], [0.1, 0.9, 0.3, 0.2, 0.8], 2),
        ([23, 21, 24, 22], [0.5, 0.1, 0.7, 0.9], 3),
        ([31, 31, 32], [0.4, 0.4, 0.1], 1),
        ([41, 42], [0.3, 0.2], 5),
    ]
    for ids, scores, k in cases:
        places = hard_topk(torch.tensor(scores), min(k, len(ids))).indices.tolist()
        expected = [ids[i] for i in places]
        got = [int(i) for i in best(list(ids), torch.tensor(scores), k)]
        if got == expected:
            continue
        start = f"Not yet: of {ids} with scores {scores} and k = {k} it is {expected}, yours {got}"
        if k > len(ids):
            return f"{start}. A text shorter than k is kept whole."
        if got == places:
            return f"{start}. Those are the positions: give the tokens that stand there."
        if sorted(got) == sorted(expected):
            return f"{start}. The right ones: but a prompt is read, so put them in the order of the text."
        return f"{start}. Keep the k with the highest scores."
    return "Right: that is what hard_topk gives, whose order is that of the text."


@check
def check_agreement(agreement: Callable[[Tensor, Tensor], Any]) -> str:
    """Check a learner's share of texts that two wordings give the same label: two (texts, labels)."""
    first = torch.tensor([[-1.0, -2, -9], [-3, -0.5, -4], [-2, -4, -3], [-0.1, -9, -5], [-6, -5, -4]])
    second = torch.tensor([[-5.0, -6, -7], [-8, -7, -6], [-4, -3, -9], [-1, -4, -2], [-3, -2, -1]])
    got = agreement(first.clone(), second.clone())
    if close(got, 0.6):
        again = agreement(first[:3].clone(), first[:3].clone() - 5)
        if close(again, 1.0):
            return "Right. Two wordings that ask the same should agree on every text; now see."
        return (
            f"Not yet: a wording agrees with itself on all texts, whatever is taken from all; yours {again}."
        )
    if close(got, 3.0):
        return "Not yet: 3 texts of 5 get the same label; a share is asked for."
    if close(got, 0.0):
        return "Not yet: compare the answers (the label with the highest score), not the scores."
    if close(got, float((first.argmax(0) == second.argmax(0)).float().mean())):
        return "Not yet: a row is a text; you look for the highest score of each column."
    return f"Not yet: texts 0, 3 and 4 of 5 get the same label, so 0.6; yours gives {float(got):g}."


def _row(numbers: Tensor) -> list[float]:
    return [round(float(x), 3) for x in numbers]
