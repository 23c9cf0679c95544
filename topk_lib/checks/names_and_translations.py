"""Checks for the chapter on names and translations."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from topk_lib.checks.base import check, close, differ, floats
from topk_lib.data import load_set
from topk_lib.tasks.leaving import restore
from topk_lib.tasks.translation import (
    Lexicon,
    Pairs,
    candidates,
    coverage,
    learn_lexicon,
    make_pairs,
    shared_tokenizer,
)

__all__ = [
    "check_em_step",
    "check_my_types",
    "check_name_f1",
    "check_name_spans",
    "check_output_share",
    "check_restored",
    "check_written_with",
]

Span = tuple[str, int, int]
Table = dict[tuple[str, str], float]

_K = 64  # types a caption, in the measured exercise


@check
def check_name_spans(name_spans: Callable[[Sequence[str]], Sequence[Any]]) -> str:
    """Check name_spans(tags): the names of a post, (kind, first word, last word) each."""
    cases: list[tuple[list[str], list[Span], str]] = [
        (
            ["O", "B-group", "I-group"],
            [("group", 1, 2)],
            "the last word is the last inside, and a name may end with the post",
        ),
        (["B-person", "I-person", "O"], [("person", 0, 1)], "an O ends a name, and is no part of it"),
        (["B-person", "B-person"], [("person", 0, 0), ("person", 1, 1)], "each B begins a name of its own"),
        (
            ["B-person", "I-location"],
            [("person", 0, 0), ("location", 1, 1)],
            "another kind is another name, with I as with B",
        ),
        (["O", "I-person", "I-person"], [("person", 1, 2)], "a name without a B begins at its first I"),
        (
            ["B-creative-work", "I-creative-work"],
            [("creative-work", 0, 1)],
            "a kind may have a hyphen of its own: cut off only what stands before the first",
        ),
        (["B-person", "O", "I-person"], [("person", 0, 0), ("person", 2, 2)], "an O ends a name"),
        (["O", "O"], [], "there is no name"),
        ([], [], "a post without words has no names"),
    ]
    for tags, right, why in cases:
        got = sorted((str(kind), int(a), int(b)) for kind, a, b in name_spans(list(tags)))
        if got != sorted(right):
            return f"Not yet: {tags}: {right}, yours {got}; {why}."
    return "Right."


@check
def check_name_f1(name_f1: Callable[[Sequence[Sequence[Span]], Sequence[Sequence[Span]]], float]) -> str:
    """Check name_f1(truth, said): F1 over all names; each side has one list of spans a post."""
    ann, bern, acme = ("person", 0, 1), ("location", 4, 4), ("corporation", 2, 3)
    cases: list[tuple[list[list[Span]], list[list[Span]], float, str]] = [
        (
            [[ann, bern]], [[ann]], 2 / 3,
            "of one that was said one is right, of two that are there one was found: precision 1, recall 1/2",
        ),
        (
            [[ann], [bern], [acme, bern]], [[ann], [], [acme, ann, bern]], 6 / 8,
            "count over all posts, then divide once",
        ),
        ([[ann]], [[("location", 0, 1)]], 0.0, "the kind must be right, too"),
        ([[ann]], [[("person", 0, 0)]], 0.0, "a part of a name is no name: both ends must be right"),
        ([[ann], []], [[], [ann]], 0.0, "the same words of another post are another name"),
        ([[bern], [bern]], [[bern], [bern]], 1.0, "the same place in two posts is two names"),
        ([[ann]], [[]], 0.0, "where nothing is right, F1 is 0"),
        ([[]], [[ann]], 0.0, "where nothing is right, F1 is 0: no division by 0"),
    ]  # fmt: skip
    for truth, said, right, why in cases:
        got = float(name_f1([list(one) for one in truth], [list(one) for one in said]))
        if not close(got, right):
            expected, yours = differ(right, got)
            return f"Not yet: truth {truth}, said {said}: {expected}, yours {yours}; {why}."
    return "Right."


@check
def check_restored(restored: Callable[[Tensor, Tensor, Tensor], Tensor]) -> str:
    """Check restored(early, late, places) of one text: (n, width), (k, width), (k,) to (n, width)."""
    early = torch.arange(10.0).view(5, 2)
    for places in ([0, 2, 3], [0], [0, 1, 2, 3, 4], [3, 0]):
        at = torch.tensor(places)
        late = 100 + torch.arange(2.0 * len(places)).view(-1, 2)
        given = early.clone(), late.clone(), at.clone()
        got = floats(restored(*given))
        right = restore(early[None], late[None], at[None])[0]
        told = f"n = 5 tokens, those at {places} stayed"
        if got.shape != right.shape:
            return f"Not yet: {told}: five tokens have five states; the shape of yours is {tuple(got.shape)}."
        if not torch.equal(got, right):
            wrong = int((got != right).any(1).nonzero()[0, 0])
            mistakes = {
                "those who left keep the state that they had": torch.zeros(5, 2).index_copy(0, at, late),
                "those who stayed have their late states": early,
                "late states go to where their tokens stand, not to the front": torch.cat(
                    [late, early[len(places) :]]
                ),
                "a late state takes the place of the early one; it is not added": early.index_add(
                    0, at, late
                ),
            }
            why = next((said for said, bad in mistakes.items() if torch.equal(got, bad)), "")
            return f"Not yet: {told}: the state of token {wrong} is another one{f'; {why}' if why else ''}."
        if not torch.equal(given[0], early):
            return "Almost: the early states were changed on the way: begin with early.clone()."
    return "Right."


@check
def check_em_step(em_step: Callable[[list[tuple[list[str], list[str]]], Table], Mapping[Any, Any]]) -> str:
    """Check em_step(pairs, t): one iteration of Model 1, from t[e, f] to the next; sources hold NULL."""
    even: Table = defaultdict(lambda: 0.25)
    house = [(["the", "house"], ["das", "Haus"]), (["the"], ["das"])]
    double = [(["very", "very", "old"], ["alt"]), (["very"], ["sehr"])]
    learned: Table = {
        ("the", "das"): 0.6,
        ("the", "Haus"): 0.1,
        ("house", "das"): 0.2,
        ("house", "Haus"): 0.7,
    }
    for pairs, t, what in (
        (house, even, "all t equal"),
        (
            house,
            learned,
            "t(das | the) = 0.6, t(das | house) = 0.2, t(Haus | the) = 0.1, t(Haus | house) = 0.7",
        ),
        (double, even, "all t equal, and a word that stands twice"),
    ):
        right = _stepped(pairs, t)
        answer = em_step([(list(s), list(f)) for s, f in pairs], dict.fromkeys(right, 0.25) | dict(t))
        got = {key: float(value) for key, value in dict(answer).items() if float(value) != 0}
        if more := sorted(set(got) - set(right)):
            return f"Not yet: pairs {pairs}: {more[0]} stand in no pair together."
        bad = next((key for key in right if not close(got.get(key, 0.0), right[key])), None)
        if bad is None:
            continue
        mistakes = {
            "share each target word out in proportion to t, not evenly": _stepped(
                pairs, defaultdict(lambda: 1.0)
            ),
            "divide by the sum over what e gives, so that each row of e sums to 1": _stepped(pairs, t, by=1),
            "a target word is shared among its origins; it does not count 1 for each": _stepped(
                pairs, t, shared=False
            ),
            "each origin gets its share; the likeliest does not take all": _stepped(pairs, t, hard=True),
            "counts must be divided by their sum for each e": _stepped(pairs, t, by=None),
            "a word that stands twice in the source has two shares": _stepped(pairs, t, once=True),
            "that is the t that went in": {key: t[key] for key in right},
        }
        why = next((said for said, table in mistakes.items() if _same(got, table)), "count, then divide")
        expected, yours = differ(right[bad], got.get(bad, 0.0))
        return f"Not yet: pairs {pairs}, {what}: t({bad[1]} | {bad[0]}) = {expected}, yours {yours}; {why}."
    return "Right."


def _same(got: Mapping[Any, float], table: Mapping[Any, float]) -> bool:
    there = {key: value for key, value in table.items() if value}
    return got.keys() == there.keys() and all(close(got[key], there[key]) for key in there)


def _stepped(
    pairs: Sequence[tuple[list[str], list[str]]], t: Table, *, by: int | None = 0, shared: bool = True,
    hard: bool = False, once: bool = False,
) -> Table:  # fmt: skip
    count: Table = defaultdict(float)
    for source, target in pairs:
        for f in target:
            origins = list(dict.fromkeys(source)) if once else source
            odds = [t[e, f] for e in origins]
            best = max(range(len(origins)), key=odds.__getitem__)
            for i, e in enumerate(origins):
                share = float(i == best) if hard else odds[i] / sum(odds) if shared else 1.0
                count[e, f] += share
    if by is None:
        return dict(count)
    whole: dict[str, float] = defaultdict(float)
    for key, value in count.items():
        whole[key[by]] += value
    return {key: value / whole[key[by]] if value else 0.0 for key, value in count.items()}


@check
def check_output_share(output_share: Callable[[int, int, int, int], float]) -> str:
    """Check output_share(d, layers, inner, types): of a step's multiplications, those of the output layer."""
    for d, layers, inner, types in ((256, 3, 640, 8192), (256, 3, 512, 256), (512, 6, 2048, 32_000)):
        got = float(output_share(d, layers, inner, types))
        layer, last = 6 * d * d + 2 * d * inner, d * types
        right = last / (layers * layer + last)
        if close(got, right, 1e-3):
            continue
        near = {
            last / (layers * (layer + 2 * d * d) + last): "the source's keys and values are computed once a "
            "sentence, not at each step: attention to it costs two products of d times d",
            last / (layers * (layer - 2 * d * d) + last): "the decoder also attends to the source: query and "
            "result are two more products of d times d",
            last / (layers * (layer - d * inner) + last): "the feed-forward block has two products",
            last / (layer + last): "there are several layers",
            last / (layers * layer): "that is its size beside the layers: divide by all of them together",
            layers * layer / (layers * layer + last): "that is the share of the layers",
            100 * right: "give a share, not per cent",
        }
        why = next((said for value, said in near.items() if close(got, value, 1e-3)), "count one layer first")
        expected, yours = differ(right, got)
        return (
            f"Not yet: d = {d}, {layers} layers, inner = {inner}, {types:,} types: {expected}, yours "
            f"{yours}; {why}."
        )
    return "Right."


@check
def check_written_with(written_with: Callable[[Tensor, Tensor], Tensor]) -> str:
    """Check written_with(logits, chosen): (types,) and (k,) ids to (types,) probabilities."""
    logits, chosen = torch.tensor([2.0, 0.0, 1.0, 3.0, -1.0]), torch.tensor([0, 2, 4])
    right = torch.zeros(5).index_copy(0, chosen, logits[chosen].softmax(0))
    got = floats(written_with(logits.clone(), chosen.clone()))
    if got.shape != right.shape:
        return f"Not yet: five types have five probabilities; the shape of yours is {tuple(got.shape)}."
    whole = logits.softmax(0)
    mistakes = {
        "that is the softmax over all types": whole,
        "they must sum to 1: the softmax is over the chosen types alone": torch.zeros(5).index_copy(
            0, chosen, whole[chosen]
        ),
        "the chosen ids say where a probability belongs": torch.cat([right[chosen], torch.zeros(2)]),
        "those not chosen have probability 0, that is logit minus infinity; logit 0 is a chance": (
            torch.zeros(5).index_copy(0, chosen, logits[chosen]).softmax(0)
        ),
        "that chooses the largest logits; what may be written is given": torch.zeros(5).index_copy(
            0, logits.topk(3).indices, logits.topk(3).values.softmax(0)
        ),
        "that leaves out the chosen ones, and keeps the others": logits.index_fill(
            0, chosen, -torch.inf
        ).softmax(0),
    }
    if not torch.allclose(got, right, atol=1e-5):
        why = next((said for said, bad in mistakes.items() if torch.allclose(got, bad, atol=1e-5)), "")
        return (
            f"Not yet: logits (2, 0, 1, 3, -1) and types 0, 2, 4: {_short(right)}, yours {_short(got)}"
            f"{f'; {why}' if why else ''}."
        )
    far = floats(written_with(torch.tensor([0.0, -200.0, -201.0]), torch.tensor([1, 2])))
    if not torch.allclose(far, torch.tensor([0.0, 0.7311, 0.2689]), atol=1e-3):
        return (
            "Almost: logits (0, -200, -201) and types 1, 2: (0, 0.7311, 0.2689), yours "
            f"{_short(far)}; over all types both round to 0: take the softmax of the chosen logits."
        )
    return "Right."


@cache
def _captions() -> tuple[Pairs, Lexicon]:
    train, test = (load_set("multi30k", "embedded", split=split, quiet=True) for split in ("train", "test"))
    tokenizer = shared_tokenizer([*train["en"], *train["de"]], 1500)
    pairs = make_pairs(tokenizer, list(train["en"]), list(train["de"]))
    lexicon = learn_lexicon(pairs.sources, pairs.targets, len(tokenizer))
    return make_pairs(tokenizer, list(test["en"]), list(test["de"])), lexicon


@check
def check_my_types(choose: Callable[[Lexicon, list[int], int], Any]) -> str:
    """Measure choose(lexicon, source, k): k = 64 types for each of the embedded test captions."""
    pairs, lexicon = _captions()
    found = []
    for source in pairs.sources:
        got = np.asarray(torch.as_tensor(choose(lexicon, list(source), _K))).reshape(-1)
        if len(got) != _K or len(np.unique(got)) != _K:
            return (
                f"Not yet: for a caption of {len(source)} tokens {_K} different types are wanted; yours are "
                f"{len(got)}, of which {len(np.unique(got))} differ."
            )
        if got.min() < 0 or got.max() >= lexicon.types:
            return (
                f"Not yet: types are numbered from 0 to {lexicon.types - 1}; yours go from {got.min()} to "
                f"{got.max()}."
            )
        if 1 not in got:
            return "Not yet: type 1 is the end, without which no translation ends: put it among the types."
        found.append(torch.from_numpy(got.astype(np.int64)))
    mine = coverage(pairs.targets, found)[0]
    plain = torch.from_numpy(np.append(np.argsort(lexicon.rank)[: _K - 1], 1))
    common = coverage(pairs.targets, [plain] * len(found))[0]
    ours = coverage(pairs.targets, [candidates(lexicon, s, _K, common=_K // 4) for s in pairs.sources])[0]
    told = f"{mine:.1%} of what people wrote may be written; with the commonest types {common:.1%}"
    if mine <= common:
        return f"Not yet: {told}. Look at the source: lexicon.expected(source) says what it asks for."
    if mine < ours - 0.01:
        return (
            f"Almost: {told}, with ours {ours:.1%}. Ask for every token of the source, and for the empty "
            "word, which the commonest types come from: lexicon.expected(source) adds them up."
        )
    return f"Right: {told}."


def _short(values: Tensor) -> str:
    return f"({', '.join(f'{v:.4g}' for v in values.flatten().tolist())})"
