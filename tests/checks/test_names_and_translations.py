"""The checks of the chapter on names and translations: right in any guise, wrong in ways that look right."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from topk_lib import checks
from topk_lib.checks.names_and_translations import _stepped
from topk_lib.tasks.entities import spans
from topk_lib.tasks.leaving import restore
from topk_lib.tasks.translation import Lexicon, candidates

Span = tuple[str, int, int]


def by_hand(
    tags: Sequence[str], *, merge: bool = False, need_b: bool = False, close_at_end: bool = True,
    past: int = 0, last: bool = False, kinds: bool = True, through: bool = False,
) -> list[Span]:  # fmt: skip
    found: list[Span] = []
    begun: int | None = None
    kind = ""
    for i, tag in enumerate([*tags, "O"] if close_at_end else tags):
        here, _, name = tag.partition("-")
        name = tag.rsplit("-", 1)[-1] if last else name
        goes_on = begun is not None and here != "O" and (name == kind or not kinds)
        if through and here == "O" and i < len(tags):
            continue
        if goes_on and (here == "I" or merge):
            continue
        if begun is not None:
            found.append((kind, begun, i - 1 + past))
            begun = None
        if here == "B" or (here == "I" and not need_b):
            begun, kind = i, name
    return found


def f1(
    truth: Sequence[Sequence[Span]], said: Sequence[Sequence[Span]], *, kind: bool = True,
    overlap: bool = False, pooled: bool = False, per_post: bool = False, plain: bool = False,
) -> float:  # fmt: skip
    def flat(side: Sequence[Sequence[Span]]) -> set[Any]:
        return {
            (0 if pooled else i, name if kind else "", a, a if overlap else b)
            for i, post in enumerate(side) for name, a, b in post
        }  # fmt: skip

    def one(a: set[Any], b: set[Any]) -> float:
        total = len(a) + len(b)
        return 2 * len(a & b) / total if total or plain else 0.0

    if per_post:
        each = [one(flat([a]), flat([b])) for a, b in zip(truth, said, strict=True)]
        return sum(each) / len(each)
    return one(flat(truth), flat(said))


def by_definition(truth: Sequence[Sequence[Span]], said: Sequence[Sequence[Span]]) -> float:
    right = sum(len(set(a) & set(b)) for a, b in zip(truth, said, strict=True))
    if not right:
        return 0.0
    precision, recall = right / sum(map(len, said)), right / sum(map(len, truth))
    return 2 * precision * recall / (precision + recall)


def mean_of_both(truth: Sequence[Sequence[Span]], said: Sequence[Sequence[Span]]) -> float:
    right = sum(len(set(a) & set(b)) for a, b in zip(truth, said, strict=True))
    return (right / max(1, sum(map(len, said))) + right / max(1, sum(map(len, truth)))) / 2


def put(early: Tensor, late: Tensor, places: Tensor) -> Tensor:
    whole = early.clone()
    whole[places] = late
    return whole


def in_place(early: Tensor, late: Tensor, places: Tensor) -> Tensor:
    early[places] = late
    return early


def share(
    d: int, layers: int, inner: int, types: int, *, square: int = 6, blocks: int = 2, per_cent: bool = False
) -> float:
    layer = square * d * d + blocks * d * inner
    return (100 if per_cent else 1) * d * types / (layers * layer + d * types)


def among(logits: Tensor, chosen: Tensor) -> Tensor:
    return torch.zeros_like(logits).index_copy(0, chosen, logits[chosen].softmax(0))


def masked(logits: Tensor, chosen: Tensor) -> Tensor:
    mask = torch.full_like(logits, -torch.inf)
    mask[chosen] = 0
    return (logits + mask).softmax(0)


def renormalised(logits: Tensor, chosen: Tensor) -> Tensor:
    kept = torch.zeros_like(logits).index_copy(0, chosen, logits.softmax(0)[chosen])
    return kept / kept.sum()


def commonest(lexicon: Lexicon, source: Sequence[int], k: int) -> list[int]:
    return [1, *np.argsort(lexicon.rank)[: k - 1].tolist()]


def expected(lexicon: Lexicon, source: Sequence[int], k: int) -> Tensor:
    return candidates(lexicon, source, k, common=k // 4)


Table = dict[tuple[str, str], float]

RIGHT: dict[str, list[Any]] = {
    "check_name_spans": [by_hand, spans, lambda tags: [list(one) for one in reversed(by_hand(tags))]],
    "check_name_f1": [f1, by_definition, lambda a, b: torch.tensor(f1(a, b))],
    "check_restored": [
        put,
        lambda early, late, places: restore(early[None], late[None], places[None])[0],
        lambda early, late, places: put(early.double(), late.double(), places),
    ],
    "check_em_step": [_stepped, lambda pairs, t: {k: np.float64(v) for k, v in _stepped(pairs, t).items()}],
    "check_output_share": [share, lambda d, n, m, v: v / (n * (6 * d + 2 * m) + v)],
    "check_written_with": [among, masked, lambda logits, chosen: masked(logits, chosen).tolist()],
}

WRONG: dict[str, list[Callable[..., Any]]] = {
    "check_name_spans": [
        lambda tags: by_hand(tags, merge=True),
        lambda tags: by_hand(tags, need_b=True),
        lambda tags: by_hand(tags, close_at_end=False),
        lambda tags: by_hand(tags, past=1),
        lambda tags: by_hand(tags, last=True),
        lambda tags: by_hand(tags, kinds=False),
        lambda tags: by_hand(tags, through=True),
    ],
    "check_name_f1": [
        lambda a, b: f1(a, b, kind=False),
        lambda a, b: f1(a, b, overlap=True),
        lambda a, b: f1(a, b, pooled=True),
        lambda a, b: f1(a, b, per_post=True),
        lambda a, b: by_definition(a, b) or float("nan"),
        mean_of_both,
    ],
    "check_restored": [
        lambda early, late, places: put(torch.zeros_like(early), late, places),
        lambda early, late, places: early,
        lambda early, late, places: late,
        lambda early, late, places: torch.cat([late, early[len(places) :]]),
        lambda early, late, places: early.index_add(0, places, late),
        in_place,
    ],
    "check_em_step": [
        lambda pairs, t: _stepped(pairs, defaultdict(lambda: 1.0)),
        lambda pairs, t: _stepped(pairs, t, by=1),
        lambda pairs, t: _stepped(pairs, t, shared=False),
        lambda pairs, t: _stepped(pairs, t, hard=True),
        lambda pairs, t: _stepped(pairs, t, by=None),
        lambda pairs, t: _stepped(pairs, t, once=True),
        lambda pairs, t: t,
        lambda pairs, t: _stepped(pairs, t) | {("house", "alt"): 0.1},
    ],
    "check_output_share": [
        lambda *given: share(*given, square=8),
        lambda *given: share(*given, square=4),
        lambda *given: share(*given, blocks=1),
        lambda *given: share(*given, per_cent=True),
        lambda d, n, m, v: share(d, 1, m, v),
        lambda *given: 1 - share(*given),
        lambda d, n, m, v: v / (n * (6 * d + 2 * m)),
        lambda d, n, m, v: v / (n * 12 * d + v),
    ],
    "check_written_with": [
        lambda logits, chosen: logits.softmax(0),
        lambda logits, chosen: torch.zeros(len(logits)).index_copy(0, chosen, logits.softmax(0)[chosen]),
        lambda logits, chosen: logits[chosen].softmax(0),
        lambda logits, chosen: torch.zeros(len(logits)).index_copy(0, chosen, logits[chosen]).softmax(0),
        lambda logits, chosen: among(logits, logits.topk(len(chosen)).indices),
        lambda logits, chosen: logits.index_fill(0, chosen, -torch.inf).softmax(0),
        renormalised,
    ],
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_is_accepted_in_any_guise(name: str) -> None:
    for answer in RIGHT[name]:
        assert getattr(checks, name)(answer) == "Right."


@pytest.mark.parametrize("name", WRONG)
def test_wrong_is_refused_in_one_sentence_of_its_own(name: str) -> None:
    said = [getattr(checks, name)(answer) for answer in WRONG[name]]
    assert all(text.startswith(("Not yet", "Almost")) and "\n" not in text for text in said), said
    assert len(set(said)) == len(said), "two mistakes, one message"


def test_types_are_measured_on_captions() -> None:
    check = checks.check_my_types
    assert check(expected).startswith("Right: ")
    assert check(lambda *given: np.random.default_rng(0).permutation(expected(*given).numpy())).startswith(
        "Right"
    )
    assert "lexicon.expected(source) says" in check(commonest)
    assert "Ask for every token of the source" in check(
        lambda lexicon, source, k: candidates(lexicon, source[:3], k)
    )
    assert "64 different types are wanted; yours are 63" in check(lambda *given: expected(*given)[1:])
    assert "of which 1 differ" in check(lambda lexicon, source, k: [1] * k)
    assert "type 1 is the end" in check(lambda lexicon, source, k: range(2, k + 2))
    assert "numbered from 0 to" in check(lambda lexicon, source, k: range(-1, k - 1))
