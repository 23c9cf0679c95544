"""Checks for the chapter on pretraining."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from topk_lib.checks.base import check, close, differ, floats

__all__ = [
    "check_hidden",
    "check_merge_step",
    "check_next_labels",
    "check_pretrained",
    "check_unigram_entropy",
]

Pair = tuple[str, str]
Words = dict[tuple[str, ...], int]

_IGNORED = -100


@check
def check_hidden(hide: Callable[[Tensor, Tensor, float, int, int], tuple[Tensor, Tensor]]) -> str:
    """Check masking by 80/10/10: hide(ids, special, rate, mask_id, types) to (inputs, chosen).

    ``ids`` (batch, length) int64, ``special`` of that shape bool; ``inputs`` as ids, ``chosen`` bool.
    """
    types, mask_id, rate = 500, 4, 0.2
    ids = torch.randint(5, types, (256, 64), generator=torch.Generator().manual_seed(0))
    special = torch.zeros_like(ids, dtype=torch.bool)
    ids[:, 0], special[:, 0] = 2, True
    ids[:64, 40:], special[:64, 40:] = 0, True
    given = ids.clone()
    torch.manual_seed(0)
    answer = hide(given, special.clone(), rate, mask_id, types)
    if not isinstance(answer, (tuple, list)) or len(answer) != 2:
        return "Not yet: return two tensors, the inputs and where the loss is taken."
    inputs, chosen = (torch.as_tensor(part) for part in answer)
    if inputs.shape != ids.shape or chosen.shape != ids.shape:
        return f"Not yet: both have the shape of ids, {tuple(ids.shape)}."
    if chosen.dtype != torch.bool:
        return "Not yet: the second is yes or no for each position, a bool tensor."
    if not torch.equal(given, ids):
        return "Almost: the batch you were given has changed; it holds the answers: work on ids.clone()."
    if (chosen & special).any():
        return "Not yet: a special token or padding was chosen; they are never hidden."
    if not chosen.any():
        return "Not yet: nothing was chosen."
    if (chosen == chosen[-1])[64:].all():
        return "Not yet: the chosen positions are the same in every row: draw anew for every token."
    if not torch.equal(inputs[~chosen], ids[~chosen]):
        return "Not yet: a token that was not chosen has changed; the loss looks at chosen positions only."
    if not _about(chosen.sum() / (~special).sum(), rate, int((~special).sum())):
        return (
            f"Not yet: at a rate of {rate:g} your share of chosen tokens is "
            f"{float(chosen.sum() / (~special).sum()):.3f} (special tokens do not count)."
        )
    hidden = chosen & (inputs == mask_id)
    for dim, line in ((1, "row"), (0, "column")):
        some, all_of_them = hidden.sum(dim), chosen.sum(dim)
        alike = ((some == 0) | (some == all_of_them)).float().mean()
        if alike > 0.9 and 0 < some.sum() < all_of_them.sum():
            return f"Not yet: all chosen tokens of a {line} share one fate: draw u anew for every token."
    return _eighty_ten_ten(inputs[chosen], ids[chosen], mask_id, types)


def _eighty_ten_ten(shown: Tensor, right: Tensor, mask_id: int, types: int) -> str:
    n = len(right)
    hidden = shown == mask_id
    kept = shown == right
    other = ~hidden & ~kept
    shares = [float(part.float().mean()) for part in (hidden, kept, other)]
    said = "of your chosen tokens {:.0%} are [MASK], {:.0%} as they were, {:.0%} another type".format(*shares)
    for share, wanted in zip(shares, (0.8, 0.1, 0.1), strict=True):
        if not _about(share, wanted, n):
            hint = ""
            if shares[0] > 0.995:
                hint = " All of them are hidden: 10% stay, and 10% become a random type."
            elif _about(shares[0], 0.72, n) or _about(shares[2], 0.02, n):
                hint = " One draw of u for each token is enough: below 0.8, from 0.8 to 0.9, above."
            return f"Not yet: {said}; they should be 80, 10 and 10.{hint}"
    drawn = shown[other]
    if len(set(drawn.tolist())) < 40:
        return "Almost: the random types are always the same few: draw one for every position."
    if int(drawn.max()) >= types or int(drawn.min()) < 0:
        return f"Almost: a random type is not in the vocabulary: ids go from 0 to {types - 1}."
    if abs(float((drawn < types / 2).float().mean()) - 0.5) > 0.15:
        return "Almost: the random types come from a part of the vocabulary only."
    return "Right."


def _about(share: Tensor | float, wanted: float, n: int) -> bool:
    """Whether a share of n draws is what a chance of ``wanted`` gives, five standard errors wide."""
    return abs(float(share) - wanted) < 5 * math.sqrt(wanted * (1 - wanted) / n) + 2 / n


@check
def check_next_labels(labels: Callable[[Tensor, Tensor], Tensor]) -> str:
    """Check the labels of causal language modelling: labels(ids, valid), both (batch, length)."""
    ids = torch.tensor([[7, 3, 9, 4], [5, 8, 0, 0], [0, 0, 6, 2]])
    valid = ids != 0
    given = ids.clone()
    got = torch.as_tensor(labels(given, valid))
    right = torch.tensor([[3, 9, 4, _IGNORED], [8] + [_IGNORED] * 3, [_IGNORED, _IGNORED, 2, _IGNORED]])
    if got.shape != right.shape:
        hint = " The last position stays, with the label -100." if got.shape == (3, 3) else ""
        return f"Not yet: labels have the shape of ids {tuple(ids.shape)}, yours {tuple(got.shape)}.{hint}"
    if not torch.equal(given, ids):
        return "Almost: the ids you were given have changed: work on a copy."
    if torch.equal(got.long(), right):
        return "Right."
    row = got[0].tolist()
    whole, short, left = "(7, 3, 9, 4)", "(5, 8, padding, padding)", "(padding, padding, 6, 2)"
    if row == ids[0].tolist():
        return f"Not yet: of {whole} yours are {row}: each position would be asked for the token it sees."
    if row[1:] == [7, 3, 9]:
        return f"Not yet: of {whole} yours are {row}: that asks for the token before; take the one after."
    if row == [3, 9, 4, 7]:
        return "Not yet: the last token's label is the first token: nothing follows the last, so it is -100."
    if row != right[0].tolist():
        return f"Not yet: the labels of {whole} are {right[0].tolist()}, yours {row}."
    if got[1].tolist() != right[1].tolist():
        return f"Not yet: the labels of {short} are {right[1].tolist()}, yours {got[1].tolist()}."
    return (
        f"Almost: the labels of {left} are {right[2].tolist()}, yours {got[2].tolist()}: padding sees "
        "no text, so it predicts nothing either."
    )


@check
def check_merge_step(step: Callable[[Words], tuple[Pair, Mapping[tuple[str, ...], int]]]) -> str:
    """Check one step of byte-pair encoding: step(words) to (commonest pair, words with it merged)."""
    for words, hint in (
        ({"bad": 4, "badly": 1, "sad": 2, "sadly": 2}, ""),
        ({"xy": 5, "abc": 1, "abd": 1, "abe": 1}, " A pair counts as often as its word."),
        ({"ababab": 2, "cd": 5}, " A pair counts each time it stands in a word."),
        ({"aaa": 3, "bc": 1}, " A merged token is used up: go from left to right."),
    ):
        given: Words = {tuple(word): count for word, count in words.items()}
        if said := _wrong_step(step, given, hint):
            return f"Not yet: {said}"
    pieces: Words = {("a", "d"): 5, ("ba", "d"): 2, ("a", "dd"): 1}
    if said := _wrong_step(step, pieces, " Compare whole tokens, not letters."):
        return f"Almost: {said}"
    return "Right."


def _wrong_step(
    step: Callable[[Words], tuple[Pair, Mapping[tuple[str, ...], int]]], words: Words, hint: str
) -> str:
    pairs: Counter[Pair] = Counter()
    for word, count in words.items():
        for pair in pairwise(word):
            pairs[pair] += count
    best = pairs.most_common(1)[0][0]
    shown = ", ".join(f"{' '.join(word)}: {count}" for word, count in words.items())
    given = dict(words)
    answer = step(given)
    if not isinstance(answer, (tuple, list)) or len(answer) != 2:
        return "return two things: the pair, and the words after the merge."
    pair, merged = answer
    if tuple(pair) != best:
        yours = "+".join(map(str, pair))
        return f"of {{{shown}}} the commonest pair is {'+'.join(best)}, yours {yours}.{hint}"
    right = {_merged(word, best): count for word, count in words.items()}
    got = {tuple(word): int(count) for word, count in dict(merged).items()}
    if got != right:
        wrong = next((w for w in got if w not in right), next(iter(right)))
        return (
            f"after merging {best[0]}+{best[1]} the words of {{{shown}}} are "
            f"{{{', '.join(' '.join(w) for w in right)}}}, and yours have {' '.join(wrong)}: "
            f"{got.get(wrong, 'nothing')}.{hint}"
        )
    return ""


def _merged(word: tuple[str, ...], pair: Pair) -> tuple[str, ...]:
    pieces: list[str] = []
    at = 0
    while at < len(word):
        if word[at : at + 2] == pair:
            pieces.append("".join(pair))
            at += 2
        else:
            pieces.append(word[at])
            at += 1
    return tuple(pieces)


@check
def check_unigram_entropy(entropy: Callable[[Tensor], float]) -> str:
    """Check the entropy, in nats, of the frequencies in ids (n,) int64."""
    ids = torch.tensor([0, 1, 0, 2, 0, 1, 0, 2])
    right = 1.5 * math.log(2)
    got = float(entropy(ids))
    if not close(got, right, 1e-4):
        near = {
            1.5: "that is in bits: take the natural logarithm",
            math.log(3): "that is what equal frequencies give",
            math.log(8): "that is the logarithm of the number of tokens",
            -right: "a minus sign is missing",
            8 * right: "that is the sum over the tokens: take the mean",
            5 * math.log(2): "each type counts with its frequency",
            math.exp(right): "that is e to the entropy, the perplexity",
        }
        hint = next((why for value, why in near.items() if close(got, value, 1e-3)), "sum of -p log p")
        yours = differ(right, got)
        return (
            "Not yet: types 0, 1, 2 with the frequencies 1/2, 1/4, 1/4 have an entropy of "
            f"{yours[0]}, yours {yours[1]}; {hint}."
        )
    gap = float(entropy(torch.tensor([5, 0, 5, 0])))
    if not close(gap, math.log(2), 1e-4):
        return (
            f"Almost: ids (5, 0, 5, 0) have an entropy of {math.log(2):.4f}, yours {gap:.4f}: a type that "
            "does not occur adds nothing, and 0 times log 0 is NaN."
        )
    one = float(entropy(torch.tensor([3, 3, 3])))
    if not math.isclose(one, 0, abs_tol=1e-6):
        return f"Almost: one type only has an entropy of 0, yours {one:.4f}."
    return "Right."


_TYPES = 12


@cache
def _language(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """(n,) ids of a language in which each type is followed by one of three; and its table of chances."""
    chances = torch.zeros(_TYPES, _TYPES)
    for one in range(_TYPES):
        for rank, chance in enumerate((0.7, 0.2, 0.1)):
            chances[one, (5 * one + 3 * rank + 1) % _TYPES] = chance
    generator = torch.Generator().manual_seed(seed)
    draws = torch.multinomial(chances, n, replacement=True, generator=generator).tolist()
    ids = [0]
    for at in range(n - 1):
        ids.append(draws[ids[-1]][at])
    return torch.tensor(ids), chances


@check
def check_pretrained(train: Callable[[Tensor, int], Callable[[Tensor], Tensor]]) -> str:
    """Check a learner's language model: train(ids (n,), types) to a model of ids (batch, length).

    The model gives logits (batch, length, types) of the token after each position. On a new text of the same
    small language its loss must lie below the middle between the entropy of the frequencies and the
    language's own.
    """
    ids, chances = _language(4000, seed=0)
    new, _ = _language(2000, seed=1)
    torch.manual_seed(0)
    model = train(ids.clone(), _TYPES)
    if not callable(model):
        return "Not yet: return the trained model: something that turns ids (batch, length) into logits."
    text = new[None, :200].clone()
    with torch.no_grad():
        logits = floats(model(text.clone()))
        if logits.shape != (1, 200, _TYPES):
            return (
                f"Not yet: for ids (1, 200) the logits have the shape (1, 200, {_TYPES}), "
                f"yours {tuple(logits.shape)}."
            )
        if not logits.isfinite().all():
            return "Not yet: your logits are not numbers: is the learning rate too high?"
        changed = text.clone()
        changed[0, 100:] = (changed[0, 100:] + 1) % _TYPES
        again = floats(model(changed))
    if not torch.allclose(logits[0, :100], again[0, :100], atol=1e-4):
        return "Not yet: later tokens change earlier predictions: your model reads what it predicts."
    losses = [_loss(model, part) for part in new.view(-1, 200)]
    loss = sum(losses) / len(losses)
    shares = ids.bincount(minlength=_TYPES) / len(ids)
    unigram = float(-(shares.clamp(min=1e-9).log()[new]).mean())
    own = float(-(chances.clamp(min=1e-9).log()[new[:-1], new[1:]]).mean())
    goal = (unigram + own) / 2
    told = (
        f"your loss on a new text is {loss:.2f}; without context one reaches {unigram:.2f}, "
        f"and the language itself has {own:.2f}"
    )
    if loss < goal:
        return f"Right: {told}."
    same = float(F.cross_entropy(logits[0], text[0]))
    if same < goal:
        return f"Not yet: {told}. Your model predicts the token it is given: shift the labels by one."
    if loss > unigram - 0.05:
        return f"Not yet: {told}. It has not learned from the token before: train on, or at a higher rate."
    return f"Not yet: {told}. It must come below {goal:.2f}: train on."


def _loss(model: Callable[[Tensor], Tensor], ids: Tensor) -> float:
    with torch.no_grad():
        logits = floats(model(ids[None].clone()))[0]
    return float(F.cross_entropy(logits[:-1], ids[1:]))
