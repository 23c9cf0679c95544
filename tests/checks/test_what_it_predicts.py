"""The checks of the chapter on what a language model predicts tell right from wrong, and name the mistake."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from topk_lib import checks, hard_topk
from topk_lib.checks.what_it_predicts import Probability, _bigram


def by_numpy(logits: Tensor, temperature: float) -> Any:
    z = logits.double().numpy() / temperature
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def naive(logits: Tensor, temperature: float) -> Tensor:
    e = (logits / temperature).exp()
    return e / e.sum(-1, keepdim=True)


@pytest.mark.parametrize(
    ("probabilities", "said"),
    [
        (lambda s, t: (s / t).softmax(-1), "Right."),
        (lambda s, t: (s / t).log_softmax(-1).exp(), "Right."),
        (by_numpy, "Right."),
        (lambda s, t: s.softmax(-1), "what T = 1 gives"),
        (lambda s, t: (s * t).softmax(-1), "you multiply"),
        (lambda s, t: s.softmax(-1) / t, "before the softmax"),
        (lambda s, t: (s / t).exp(), "so that they sum to 1"),
        (lambda s, t: (s / t).sigmoid(), "sigmoid"),
        (lambda s, t: s / s.sum(-1, keepdim=True), "not by that of the logits"),
        (lambda s, t: (s / t).softmax(0), "each must sum to 1 by itself"),
        (lambda s, t: (s / t).exp() / (s / t).exp().sum(), "each must sum to 1 by itself"),
        (naive, "overflows"),
        (lambda s, t: (s / t).softmax(-1).max(), "three probabilities"),
        (lambda s, t: (s / t).softmax(-1).flip(-1), "yours gives (0.01588"),
        (lambda s, t: None, "returns nothing"),
    ],
)
def test_next_probabilities(probabilities: Callable[[Tensor, float], Any], said: str) -> None:
    assert said in checks.check_next_probabilities(probabilities)


@pytest.mark.parametrize(
    ("perplexity", "said"),
    [
        (lambda p: math.exp(-p.mean()), "Right."),
        (lambda p: torch.exp(-p.double().mean()), "Right."),
        (lambda p: 2 ** (-p / math.log(2)).mean(), "Right."),
        (lambda p: math.exp(-sum(p.tolist()) / len(p)), "Right."),
        (lambda p: float((1 / p.double().exp()).prod()) ** (1 / len(p)), "add logarithms"),
        (lambda p: (1 / math.prod(p.exp().tolist())) ** (1 / len(p)), "add logarithms"),
        (lambda p: math.exp(-min(p.sum(), torch.tensor(700.0))), "take the mean of the losses first"),
        (lambda p: math.exp(p.mean()), "minus sign"),
        (lambda p: -p.mean(), "mean loss in nats"),
        (lambda p: -p.mean() / math.log(2), "mean loss in bits"),
        (lambda p: 2 ** -p.mean(), "e to the power, not 2"),
        (lambda p: math.exp(-p.mean() / math.log(2)), "bits go with powers of 2"),
        (lambda p: (-p).exp().mean(), "mean of 1/p"),
        (lambda p: 1 / p.exp().mean(), "1 / the mean of p"),
        (lambda p: 7.0, "yours is 7; exp of the mean"),
        (lambda p: math.exp(-p.median()), "yours is 2"),
        (lambda p: math.exp(-(p.min() + p.max()) / 2), "yours is 5.6"),
        (lambda p: None, "returns nothing"),
    ],
)
def test_perplexity(perplexity: Callable[[Tensor], Any], said: str) -> None:
    assert said in checks.check_perplexity(perplexity)


def by_library(logits: Tensor, k: int) -> Tensor:
    return hard_topk(logits, k, order="value").indices


def all_that_reach(logits: Tensor, k: int) -> list[int]:
    ids = by_sorting(logits, len(logits))
    return [i for i in ids if logits[i] >= logits[ids[k - 1]]]


def by_sorting(logits: Tensor, k: int) -> list[int]:
    return sorted(range(len(logits)), key=lambda i: -float(logits[i]))[:k]


@pytest.mark.parametrize(
    ("top_next", "said"),
    [
        (by_library, "Right."),
        (by_sorting, "Right."),
        (lambda s, k: s.sort(descending=True, stable=True).indices[:k].numpy(), "Right."),
        (lambda s, k: hard_topk(s, k).indices, "comes first, not the lowest id"),
        (lambda s, k: len(s) - 1 - by_library(s.flip(0), k), "the lower id wins"),
        (lambda s, k: (len(s) - 1 - by_library(s.flip(0), k)).sort().values, "the lower id wins; and"),
        (all_that_reach, "k = 2 means two"),
        (lambda s, k: sorted(all_that_reach(s, k)), "k = 2 means two"),
        (lambda s, k: by_library(-s, k), "the smallest"),
        (lambda s, k: s.topk(k).values, "ids, not the logits"),
        (lambda s, k: by_library(s.softmax(-1), k), "rounded to 0"),
        (lambda s, k: by_library(s, 2), "k = 6"),
        (lambda s, k: [0] * k, "yours [0, 0]; the best is type 5"),
        (lambda s, k: by_library(s, k) if len(s) < 9 else [4000, 7, 8, 9], "promise nothing among equals"),
        (lambda s, k: None, "returns nothing"),
    ],
)
def test_top_next(top_next: Callable[[Tensor, int], Any], said: str) -> None:
    assert said in checks.check_top_next(top_next)


@pytest.mark.parametrize(
    ("bits", "said"),
    [
        (lambda p, text: -p.sum() / math.log(2) / len(text), "Right."),
        (lambda p, text: -sum(p.tolist()) / (len(text) * math.log(2)), "Right."),
        (lambda p, text: -p.exp().log2().double().sum() / len(text), "Right."),
        (lambda p, text: -p.sum() / len(text), "nats"),
        (lambda p, text: p.sum() / math.log(2) / len(text), "minus sign"),
        (lambda p, text: -p.mean() / math.log(2), "bits a token"),
        (lambda p, text: -p.sum() / math.log(2), "of the whole text"),
        (lambda p, text: -p.sum() / math.log(2) / len(text.encode()), "12 bytes"),
        (lambda p, text: -p.sum() / math.log(2) / len(text.replace(" ", "")), "a space is a character"),
        (lambda p, text: -p.sum() / math.log(2) / len(text.split()), "bits a word"),
        (lambda p, text: -p.mean() / math.log(2) / len(text), "yours is their mean"),
        (lambda p, text: 2 ** (-p.sum() / math.log(2) / len(text)), "a perplexity"),
        (lambda p, text: 17.0, "bits of all tokens"),
        (lambda p, text: None, "returns nothing"),
    ],
)
def test_bits_per_character(bits: Callable[[Tensor, str], Any], said: str) -> None:
    assert said in checks.check_bits_per_character(bits)


def trigram(text: str, alphabet: Sequence[str], share: float = 5.0) -> Probability:
    pairs, triples = Counter(pairwise(text)), Counter(zip(text, text[1:], text[2:], strict=False))
    less = _bigram(text, alphabet)

    def probability(before: str, character: str) -> float:
        a, b = list(before.rjust(2)[-2:])
        counted = triples[a, b, character] + share * less(before, character)
        total = pairs[a, b] + share
        return counted / total if total else 0.0

    return probability


def test_a_character_model_is_measured() -> None:
    check = checks.check_character_model
    assert check(trigram).startswith("Right: ")
    assert "Look further back" in check(_bigram)
    assert "came all the same" in check(lambda text, alphabet: lambda before, c: float(c == alphabet[0]))
    assert "sum to 0," in check(lambda text, alphabet: trigram(text[:400], alphabet, 0.0))
    assert "the more surprised" in check(lambda text, alphabet: lambda before, c: 1 / len(alphabet))
    assert "not to 1" in check(lambda text, alphabet: lambda before, c: 0.9)
    assert "returns nothing" in check(lambda text, alphabet: None)  # type: ignore[arg-type, return-value]
