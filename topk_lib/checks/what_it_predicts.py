"""Checks for the chapter on what a language model predicts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from topk_lib.checks.base import check, close, differ, floats
from topk_lib.data import load_reviews

__all__ = [
    "check_bits_per_character",
    "check_character_model",
    "check_next_probabilities",
    "check_perplexity",
    "check_top_next",
]

Probability = Callable[[str, str], float]


@check
def check_next_probabilities(probabilities: Callable[[Tensor, float], Tensor]) -> str:
    """Check a softmax with temperature: probabilities(logits (..., types), temperature)."""
    logits, temperature = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 0.0]]), 0.5
    got = floats(probabilities(logits[0].clone(), temperature))
    right = (logits[0] / temperature).softmax(-1)
    if got.shape != right.shape:
        return f"Not yet: three logits have three probabilities; the shape of yours is {tuple(got.shape)}."
    mistakes = {
        "that is what T = 1 gives: divide the logits by the temperature": logits[0].softmax(-1),
        "you multiply by the temperature: divide": (logits[0] * temperature).softmax(-1),
        "divide the logits, before the softmax, and not the probabilities after": logits[0].softmax(-1)
        / temperature,
        "divide by the sum of the exponentials, so that they sum to 1": (logits[0] / temperature).exp(),
        "that is each logit's sigmoid, which does not know of the others": (
            logits[0] / temperature
        ).sigmoid(),
        "divide by the sum of the exponentials, not by that of the logits": logits[0] / logits[0].sum(),
    }
    for why, wrong in mistakes.items():
        if torch.allclose(got, wrong, rtol=1e-4, atol=1e-5):
            return f"Not yet: {why}."
    if not torch.allclose(got, right, rtol=1e-4, atol=1e-5):
        return f"Not yet: logits (2, 1, 0) at T = 0.5 give {_short(right)}, yours gives {_short(got)}."
    rows = floats(probabilities(logits.clone(), temperature))
    if rows.shape != logits.shape or not torch.allclose(rows, (2 * logits).softmax(-1), rtol=1e-4, atol=1e-5):
        return "Almost: of two rows of logits each must sum to 1 by itself: work along the last dimension."
    large = floats(probabilities(torch.tensor([1000.0, 999.0, 0.0]), 1.0))
    if not torch.allclose(large, torch.tensor([0.731059, 0.268941, 0.0]), rtol=1e-4, atol=1e-5):
        return (
            f"Almost: logits (1000, 999, 0) give (0.73, 0.27, 0), yours gives {_short(large)}: the "
            "exponential overflows. Take the largest logit off all of them first: no probability changes."
        )
    return "Right."


@check
def check_perplexity(perplexity: Callable[[Tensor], float]) -> str:
    """Check perplexity from the natural logarithms of the tokens' probabilities (n,)."""
    probabilities = torch.tensor([0.5, 0.5, 0.5, 0.125, 0.0625])  # 2 bits on average, 1 in the middle
    got = float(perplexity(probabilities.log()))
    if not close(got, 4.0):
        near = {
            1024.0: "that is 1 / the probability of the whole text: take the mean of the losses first",
            0.25: "a minus sign is missing: the loss is minus the logarithm",
            math.log(4): "that is the mean loss in nats: its exponential is wanted",
            2.0: "that is the mean loss in bits: 2 to its power is wanted",
            2 ** math.log(4): "the logarithms are natural ones: take e to the power, not 2",
            math.exp(2): "bits go with powers of 2, nats with powers of e",
            6.0: "that is the mean of 1/p: average the logarithms",
            80 / 27: "that is 1 / the mean of p: average the logarithms",
        }
        hint = next(
            (why for value, why in near.items() if close(got, value, 1e-4)), "exp of the mean of -log p"
        )
        told = "probabilities 1/2, 1/2, 1/2, 1/8, 1/16"
        return f"Not yet: the {told} have the perplexity 4, yours is {got:.4g}; {hint}."
    try:
        long = float(perplexity(torch.full((2000,), -7.0)))
    except (ZeroDivisionError, OverflowError):
        long = math.inf
    if not close(long, math.exp(7), 1e-3):
        return (
            f"Almost: 2,000 tokens of the loss 7 have the perplexity e^7 = 1097, yours is {long:.4g}. The "
            "product of so many probabilities is too small for a float: add logarithms."
        )
    return "Right."


@check
def check_top_next(top_next: Callable[[Tensor, int], Sequence[int]]) -> str:
    """Check the ids of the k highest logits, the most probable first, the lowest id among equals."""
    told = "logits (1, 3, 2, 3, 0, 4)"
    logits = torch.tensor([1.0, 3.0, 2.0, 3.0, 0.0, 4.0])
    got = _ids(top_next(logits.clone(), 2))
    if got != [5, 1]:
        near = {
            (1, 5): "the most probable comes first, not the lowest id",
            (5, 3): "types 1 and 3 are equal: the lower id wins",
            (3, 5): "types 1 and 3 are equal and the lower id wins; and the most probable comes first",
            (5, 1, 3): "k = 2 means two, also where the border is tied",
            (1, 3, 5): "k = 2 means two, also where the border is tied",
            (4, 0): "those are the smallest",
            (4, 3): "give the ids, not the logits",
        }
        hint = near.get(tuple(got), "the best is type 5, and of the equal types 1 and 3 the lower id wins")
        return f"Not yet: {told}, k = 2: the answer is [5, 1], yours {got}; {hint}."
    if (all_six := _ids(top_next(logits.clone(), 6))) != [5, 1, 3, 2, 0, 4]:
        return f"Not yet: {told}, k = 6: the answer is [5, 1, 3, 2, 0, 4], yours {all_six}."
    if (far := _ids(top_next(torch.tensor([300.0, 100.0, 101.0]), 2))) != [0, 2]:
        return (
            f"Almost: logits (300, 100, 101), k = 2: the answer is [0, 2], yours {far}. As probabilities the "
            "last two are both rounded to 0: compare the logits."
        )
    many = torch.zeros(5000)
    many[4000] = 1.0
    if (tied := _ids(top_next(many, 4))) != [4000, 0, 1, 2]:
        return (
            f"Almost: of 5,000 types all are equal but type 4000, which is ahead; k = 4: [4000, 0, 1, 2], "
            f"yours {tied}. torch.topk and an unstable sort promise nothing among equals."
        )
    return "Right."


@check
def check_bits_per_character(bits_per_character: Callable[[Tensor, str], float]) -> str:
    """Check bits a character from the natural log probabilities of the tokens (n,) and the text itself."""
    log_probs = torch.tensor([0.5, 0.25, 0.125, 0.25]).log()  # 8 bits
    for text, why_bytes in (("good film", ""), ("电影 ok", "12 bytes: count characters, len(text)")):
        right = 8 / len(text)
        got = float(bits_per_character(log_probs.clone(), text))
        if close(got, right):
            continue
        n_bytes = len(text.encode())
        near = {
            8 * math.log(2) / len(text): "those are nats: divide by log 2",
            -right: "a minus sign is missing: surprise is minus the logarithm",
            2.0: "that is bits a token: divide by the characters",
            8.0: "those are the bits of the whole text: divide by its characters",
            8 / n_bytes if n_bytes != len(text) else math.nan: why_bytes or "count characters",
            8 / len(text.replace(" ", "")): "a space is a character, too",
            8 / len(text.split()): "that is bits a word",
            2 / len(text): "sum over the tokens before you divide by the characters; yours is their mean",
            2**right: "that is 2 to the power of it, a perplexity",
        }
        hint = next(
            (why for value, why in near.items() if close(got, value, 1e-4)), "bits of all tokens / characters"
        )
        expected, yours = differ(right, got)
        return (
            f"Not yet: tokens of probability 1/2, 1/4, 1/8, 1/4 for {text!r} make {expected} bits a "
            f"character, yours {yours}; {hint}."
        )
    return "Right."


@check
def check_character_model(train: Callable[[str, Sequence[str]], Probability]) -> str:
    """Measure a learner's character model on held-out reviews.

    ``train(text, alphabet)`` returns ``probability(before, character)``, of a character of the alphabet after
    the text ``before``.
    """
    text = "\n".join(load_reviews("embedded", split="train", quiet=True)["text"])
    held_out = "\n".join(load_reviews("embedded", split="test", quiet=True)["text"])[:3000]
    alphabet = sorted({*text, *held_out})
    probability = train(text, alphabet)
    for at in range(0, 3000, 150):
        before = held_out[max(0, at - 40) : at]
        total = sum(float(probability(before, character)) for character in alphabet)
        if not close(total, 1.0, 1e-3):
            return (
                f"Not yet: after {before[-8:]!r} the probabilities of all {len(alphabet)} characters sum to "
                f"{total:.3g}, not to 1."
            )
    needed, bits = _bits(_bigram(text, alphabet), held_out), 0.0
    for at, character in enumerate(held_out):
        p = float(probability(held_out[max(0, at - 40) : at], character))
        if not p > 0:
            return (
                f"Not yet: {character!r} after {held_out[max(0, at - 8) : at]!r} has the probability {p:g} "
                "and came all the same: an infinite surprise. Leave a little for what was never seen."
            )
        bits -= math.log2(p)
    bits /= len(held_out)
    found = f"{bits:.2f} bits a character on held-out reviews; the bigram needs {needed:.2f}"
    if bits > needed + 0.01:
        return f"Not yet: {found}, so yours is the more surprised of the two."
    if bits > needed - 0.3:
        return f"Not yet: {found}. Look further back than one character, and save at least 0.3."
    return f"Right: {found}."


def _bigram(text: str, alphabet: Sequence[str]) -> Probability:
    """The page's model: counted pairs, and a tenth of a count for every pair that might be."""
    pairs, singles = Counter(pairwise(text)), Counter(text[:-1])

    def probability(before: str, character: str) -> float:
        last = before[-1:] or "\n"
        return (pairs[last, character] + 0.1) / (singles[last] + 0.1 * len(alphabet))

    return probability


def _bits(probability: Probability, text: str) -> float:
    return -sum(math.log2(probability(text[:at][-40:], c)) for at, c in enumerate(text)) / len(text)


def _ids(got: Sequence[int] | Tensor) -> list[int]:
    return [int(one) for one in got]


def _short(values: Tensor) -> str:
    return f"({', '.join(f'{v:.4g}' for v in values.flatten().tolist())})"
