"""The checks of the chapter on pretraining tell right from wrong, and name the mistake."""

from __future__ import annotations

import math
from collections import Counter
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from topk_lib import checks


def hide(
    ids: Tensor, special: Tensor, rate: float, mask_id: int, types: int,
    *, masks: float = 0.8, other: float = 0.1, spare: bool = True, low: int = 0,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    chosen = torch.rand(ids.shape) < rate
    if spare:
        chosen &= ~special
    u = torch.rand(ids.shape)
    inputs = ids.masked_fill(chosen & (u < masks), mask_id)
    drawn = torch.randint(low, types, ids.shape)
    return torch.where(chosen & (u >= masks) & (u < masks + other), drawn, inputs), chosen


def test_hidden() -> None:
    check = checks.check_hidden

    def by_bernoulli(ids: Tensor, special: Tensor, rate: float, mask_id: int, types: int) -> Any:
        chosen = torch.bernoulli(torch.full(ids.shape, rate).masked_fill(special, 0)).bool()
        hidden = chosen & torch.bernoulli(torch.full(ids.shape, 0.8)).bool()
        other = chosen & ~hidden & torch.bernoulli(torch.full(ids.shape, 0.5)).bool()
        inputs = ids.clone()
        inputs[hidden] = mask_id
        inputs[other] = torch.randint(types, (int(other.sum()),))
        return [inputs, chosen]

    def two_draws(ids: Tensor, special: Tensor, rate: float, mask_id: int, types: int) -> Any:
        chosen = (torch.rand(ids.shape) < rate) & ~special
        inputs = ids.masked_fill(chosen & (torch.rand(ids.shape) < 0.8), mask_id)
        return torch.where(
            chosen & (torch.rand(ids.shape) < 0.1), torch.randint(types, ids.shape), inputs
        ), chosen

    def in_place(ids: Tensor, *rest: Any) -> Any:
        inputs, chosen = hide(ids, *rest)
        ids[:] = inputs
        return ids, chosen

    def same_rows(ids: Tensor, special: Tensor, rate: float, mask_id: int, types: int) -> Any:
        chosen = (torch.rand(ids.shape[1]) < rate).expand_as(ids) & ~special
        return ids.masked_fill(chosen, mask_id), chosen

    def always_nine(ids: Tensor, special: Tensor, rate: float, mask_id: int, types: int) -> Any:
        inputs, chosen = hide(ids, special, rate, mask_id, types, other=0)
        u = torch.rand(ids.shape) < 0.5
        return inputs.masked_fill(chosen & (inputs == ids) & u, 9), chosen

    def one_fate(ids: Tensor, special: Tensor, rate: float, mask_id: int, types: int, dim: int) -> Any:
        chosen = (torch.rand(ids.shape) < rate) & ~special
        u = torch.rand(ids.shape).select(dim, 0).unsqueeze(dim).expand_as(ids)
        inputs = ids.masked_fill(chosen & (u < 0.8), mask_id)
        return torch.where(chosen & (u >= 0.9), torch.randint(types, ids.shape), inputs), chosen

    def leaking(ids: Tensor, *rest: Any) -> Any:
        inputs, chosen = hide(ids, *rest)
        return inputs.roll(1, 1), chosen

    assert check(hide) == check(by_bernoulli) == "Right."
    assert "never hidden" in check(lambda *given: hide(*given, spare=False))
    assert "100% are [MASK]" in check(lambda *given: hide(*given, masks=1, other=0))
    assert "20% as they were" in check(lambda *given: hide(*given, other=0))
    assert "20% another type" in check(lambda *given: hide(*given, other=0.2))
    assert "One draw of u" in check(two_draws)
    assert "share of chosen tokens" in check(lambda i, s, r, m, t: hide(i, s, 0.15, m, t))
    assert "work on ids.clone()" in check(in_place)
    assert "bool tensor" in check(lambda *given: (hide(*given)[0], hide(*given)[1].long()))
    assert "return two tensors" in check(lambda *given: hide(*given)[0])  # type: ignore[arg-type]
    assert "nothing was chosen" in check(lambda i, *_: (i, torch.zeros_like(i).bool()))
    assert "same few" in check(always_nine)
    assert "a part of the vocabulary" in check(lambda *given: hide(*given, low=350))
    assert "not in the vocabulary" in check(lambda i, s, r, m, t: hide(i, s, r, m, 2 * t))
    assert "has changed; the loss" in check(leaking)
    assert "the shape of ids" in check(lambda *given: (hide(*given)[0][0], hide(*given)[1][0]))
    assert "same in every row" in check(same_rows)
    assert "of a row share" in check(partial(one_fate, dim=1))
    assert "of a column share" in check(partial(one_fate, dim=0))


def test_next_labels() -> None:
    check = checks.check_next_labels

    def labels(ids: Tensor, valid: Tensor, *, both: bool = True) -> Tensor:
        after = F.pad(ids[:, 1:], (0, 1), value=-100)
        there = F.pad(valid[:, 1:], (0, 1), value=False)
        return after.masked_fill(~(there & valid) if both else ~there, -100)

    assert check(labels) == check(lambda ids, valid: labels(ids, valid).double()) == "Right."
    assert "the token it sees" in check(lambda ids, valid: ids.masked_fill(~valid, -100))
    assert "the one after" in check(lambda ids, valid: F.pad(ids[:, :-1], (1, 0), value=-100))
    assert "nothing follows the last" in check(lambda ids, valid: ids.roll(-1, 1))
    assert "(5, 8, padding" in check(lambda ids, valid: F.pad(ids[:, 1:], (0, 1), value=-100))
    assert "predicts nothing either" in check(lambda ids, valid: labels(ids, valid, both=False))
    assert "the last position stays" in check(lambda ids, valid: ids[:, 1:]).lower()
    assert "yours [3, 9, 4, 0]" in check(lambda ids, valid: F.pad(ids[:, 1:], (0, 1)))

    def in_place(ids: Tensor, valid: Tensor) -> Tensor:
        ids[:] = labels(ids.clone(), valid)
        return ids

    assert "work on a copy" in check(in_place)


def merge_step(words: Any, *, weigh: bool = True, each: bool = True, left: bool = True) -> Any:
    pairs: Counter[Any] = Counter()
    for word, count in words.items():
        found = list(pairwise(word))
        for pair in found if each else set(found):
            pairs[pair] += count if weigh else 1
    best = pairs.most_common(1)[0][0]
    merged = {}
    for word, count in words.items():
        pieces = list(word)
        places = range(len(pieces) - 1)
        for at in places if left else reversed(places):
            if tuple(pieces[at : at + 2]) == best:
                pieces[at : at + 2] = ["".join(best), ""]
        merged[tuple(piece for piece in pieces if piece)] = count
    return best, merged


def test_merge_step() -> None:
    check = checks.check_merge_step

    def letters(words: Any) -> Any:
        best, _ = merge_step(words)
        joined = {" ".join(word).replace(" ".join(best), "".join(best)): n for word, n in words.items()}
        return best, {tuple(word.split()): n for word, n in joined.items()}

    assert check(merge_step) == "Right."
    assert check(lambda words: (merge_step(words)[0], Counter(merge_step(words)[1]))) == "Right."
    assert "as often as its word" in check(lambda words: merge_step(words, weigh=False))
    assert "each time it stands" in check(lambda words: merge_step(words, each=False))
    assert "from left to right" in check(lambda words: merge_step(words, left=False))
    assert check(letters).startswith("Almost")
    assert "whole tokens" in check(letters)
    assert "after merging" in check(lambda words: (merge_step(words)[0], words))
    assert "return two things" in check(lambda words: merge_step(words)[1])
    assert "yours l+y" in check(lambda words: (("l", "y"), merge_step(words)[1]))


def entropy(ids: Tensor) -> float:
    p = torch.tensor([*Counter(ids.tolist()).values()]) / len(ids)
    return float(-(p * p.log()).sum())


def test_unigram_entropy() -> None:
    check = checks.check_unigram_entropy

    def by_bincount(ids: Tensor) -> Tensor:
        p = ids.bincount() / len(ids)
        return -(p * p.log()).sum()

    assert check(entropy) == "Right."
    assert check(lambda ids: entropy(ids.flip(0).int())) == "Right."
    assert "0 times log 0" in check(by_bincount)  # type: ignore[arg-type]
    assert "in bits" in check(lambda ids: entropy(ids) / math.log(2))
    assert "equal frequencies" in check(lambda ids: math.log(len(set(ids.tolist()))))
    assert "minus sign" in check(lambda ids: -entropy(ids))
    assert "the mean" in check(lambda ids: len(ids) * entropy(ids))
    assert "perplexity" in check(lambda ids: math.exp(entropy(ids)))
    assert "number of tokens" in check(lambda ids: math.log(len(ids)))
    assert "with its frequency" in check(lambda ids: float(-(ids.bincount() / len(ids)).log().sum()))
    assert "one type only" in check(lambda ids: entropy(ids) if len(set(ids.tolist())) > 1 else 1)


def table(ids: Tensor, types: int, *, shift: int = 1, sharp: float = 1.0) -> Any:
    """A model that counts which token stands ``shift`` after which."""
    pairs = ids[: len(ids) - shift] * types + ids[shift:]
    counts = 0.1 + pairs.bincount(minlength=types * types).view(types, types)
    return lambda batch: sharp * counts.log()[batch]


def network(ids: Tensor, types: int, *, steps: int = 60, shift: bool = True) -> Any:
    net = nn.Sequential(nn.Embedding(types, 16), nn.Linear(16, types))
    optimiser = torch.optim.Adam(net.parameters(), lr=0.1)
    x, y = (ids[:-1], ids[1:]) if shift else (ids, ids)
    for _ in range(steps):
        optimiser.zero_grad()
        torch.autograd.backward(F.cross_entropy(net(x), y))
        optimiser.step()
    return net


def test_pretrained() -> None:
    check = checks.check_pretrained

    def seer(ids: Tensor, types: int) -> Any:
        return lambda batch: 9 * F.one_hot(batch.roll(-1, 1), types).float()

    assert check(network).startswith("Right: your loss on a new text is 0.")
    assert check(table).startswith("Right")
    assert "shift the labels" in check(lambda ids, types: network(ids, types, shift=False))
    assert "shift the labels" in check(lambda ids, types: table(ids, types, shift=0))
    assert "reads what it predicts" in check(seer)
    assert "has not learned" in check(lambda ids, types: network(ids, types, steps=0))
    assert "has not learned" in check(lambda ids, types: lambda b: torch.zeros(*b.shape, types))
    assert "must come below" in check(lambda ids, types: table(ids, types, sharp=0.2))
    assert "learning rate too high" in check(
        lambda ids, types: lambda b: torch.full((*b.shape, types), math.nan)
    )
    assert "have the shape (1, 200, 12)" in check(lambda ids, types: lambda b: b.float())
    assert "return the trained model" in check(lambda ids, types: 0.5)  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize("share", [0.7, 0.9])
def test_a_share_that_is_off_by_a_tenth_is_seen(share: float) -> None:
    assert "they should be 80, 10 and 10" in checks.check_hidden(
        lambda *given: hide(*given, masks=share, other=(1 - share) / 2)
    )
