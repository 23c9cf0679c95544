"""The checks of the chapter on three products: right in any guise, wrong in ways that look right."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from topk_lib import checks, hard_topk, soft_topk, soft_topk_threshold
from topk_lib.apps.questions import choose_threshold
from topk_lib.apps.ranking import lift
from topk_lib.apps.recommend import topk_loss

Rows = list[tuple[int, str, float, int]]


def sure(
    confidence: Sequence[float], right: Sequence[bool], wrong: float, *, stop: bool = False,
    of_all: bool = False, strict: bool = False, one_by_one: bool = False, never: float = math.inf,
) -> float:  # fmt: skip
    pairs = sorted(zip(confidence, right, strict=True), key=lambda pair: -pair[0])
    best = never
    for at, (level, _) in enumerate(pairs):
        given = pairs[: at + 1] if one_by_one else [pair for pair in pairs if pair[0] >= level]
        bad = sum(not ok for _, ok in given)
        allowed = wrong * (len(pairs) if of_all else len(given))
        if bad < allowed or (bad == allowed and not strict):
            best = level
        elif stop:
            break
    return best


def alarm(
    flags: Sequence[bool], p: float, q: float, h: float, *, floor: bool = True, fall: bool = True,
    restart: bool = False, ratio: bool = False,
) -> int | None:  # fmt: skip
    total = 0.0
    for place, flag in enumerate(flags):
        step = q / p if flag else (1 - q) / (1 - p)
        if flag or (fall and not restart):
            total += step if ratio else math.log(step)
        elif restart:
            total = 0.0
        if floor:
            total = max(0.0, total)
        if total >= h:
            return place
    return None


def later(place: int | None) -> int | None:
    return None if place is None else place + 1


def cases(
    rows: Rows, cut: int, *, known: Callable[..., bool] = lambda me, other: other[3] < me[3],
    labels: Callable[..., bool] = lambda me, cut: me[3] >= cut and me[2] >= 4, least: int = 1,
    mine: bool = True,
) -> list[tuple[list[str], str]]:  # fmt: skip
    found = []
    for me in rows:
        if labels(me, cut):
            past = [o for o in rows if known(me, o) and (o[0] == me[0] or not mine) and o[1] != me[1]]
            if len(past) >= least:
                found.append(([o[1] for o in sorted(past, key=lambda o: o[3])], me[1]))
    return found


def gain(offered: Sequence[str], liked: set[str], k: int) -> float:
    return sum(1 / math.log2(i + 2) for i, film in enumerate(offered[:k]) if film in liked)


def best(n: int) -> float:
    return sum(1 / math.log2(i + 2) for i in range(n))


def ndcg(offered: Sequence[str], liked: set[str], k: int) -> float:
    return gain(offered, liked, k) / best(min(k, len(liked)))


def plain_ndcg(offered: Sequence[str], liked: set[str], k: int) -> float:
    top = sum(1 / (i + 1) for i, film in enumerate(offered[:k]) if film in liked)
    return top / sum(1 / (i + 1) for i in range(min(k, len(liked))))


def by_threshold(scores: Tensor, target: Tensor, k: int) -> Tensor:
    above = scores.gather(1, target[:, None])[:, 0] - soft_topk_threshold(scores, k)
    return -torch.nn.functional.logsigmoid(above)


def weight(scores: Tensor, target: Tensor, k: int) -> Tensor:
    return soft_topk(scores, k).gather(1, target[:, None])[:, 0]


def hard_loss(scores: Tensor, target: Tensor, k: int) -> Tensor:
    return -hard_topk(scores, k).mask.gather(1, target[:, None])[:, 0].double().log()


def lifted(films: Tensor, more: Callable[[Tensor], Tensor]) -> Tensor:
    return torch.cat([films, more(films.norm(dim=-1, keepdim=True))], 1)


def neighbours(likes: Tensor, films: Tensor, stars: Tensor) -> Tensor:
    item = likes / (likes.sum(0) + 10).sqrt()
    return ((item.T @ item)[films] * (stars - 3)[:, None]).sum(0)


RIGHT: dict[str, list[Any]] = {
    "check_sure_enough": [sure, choose_threshold, lambda *given: np.float32(sure(*given))],
    "check_first_alarm": [
        alarm,
        lambda *given: None if alarm(*given) is None else np.int64(alarm(*given) or 0),
    ],
    "check_cases": [
        cases,
        lambda rows, cut: [(set(h), f) for h, f in cases(rows[::-1], cut)],
        lambda rows, cut: tuple((tuple(h), f) for h, f in cases(rows, cut)),
    ],
    "check_ndcg": [
        ndcg,
        lambda *given: torch.tensor(ndcg(*given)),
        # Another base of the logarithm cancels out.
        lambda o, liked, k: (
            sum(1 / math.log(i + 2) for i, film in enumerate(o[:k]) if film in liked)
            / sum(1 / math.log(i + 2) for i in range(min(k, len(liked))))
        ),
    ],
    "check_topk_loss": [topk_loss, by_threshold, lambda *given: topk_loss(given[0].double(), *given[1:])],
    "check_lift": [
        lift,
        lambda films: lift(films.double()),
        lambda films: torch.cat([lift(films)[:, :-1], -lift(films)[:, -1:]], 1),
        lambda films: lifted(films, lambda size: (1000 - size.square()).sqrt()),  # any M that is long enough
    ],
}

WRONG: dict[str, list[Any]] = {
    "check_sure_enough": [
        lambda *given: sure(*given, stop=True),
        lambda *given: sure(*given, of_all=True),
        lambda *given: sure(*given, strict=True),
        lambda *given: sure(*given, one_by_one=True),
        lambda *given: sure(*given, never=1.0),
        lambda confidence, right, wrong: 1 - wrong,
    ],
    "check_first_alarm": [
        lambda *given: alarm(*given, floor=False),
        lambda *given: alarm(*given, fall=False),
        lambda *given: alarm(*given, restart=True),
        lambda *given: alarm(*given, ratio=True),
        lambda flags, p, q, h: alarm(flags, q, p, h),
        lambda *given: later(alarm(*given)),
        lambda flags, p, q, h: None,
        lambda flags, p, q, h: len(flags),
    ],
    "check_cases": [
        lambda rows, cut: cases(rows, cut, known=lambda me, other: other[3] <= me[3]),
        lambda rows, cut: cases(rows, cut, known=lambda me, other: other[3] < me[3] and other[2] >= 4),
        lambda rows, cut: cases(rows, cut, known=lambda me, other: other[3] < cut),
        lambda rows, cut: cases(rows, cut, known=lambda me, other: True),
        lambda rows, cut: cases(rows, cut, mine=False),
        lambda rows, cut: cases(rows, cut, least=0),
        lambda rows, cut: cases(rows, cut, labels=lambda me, cut: me[3] >= cut),
        lambda rows, cut: cases(rows, cut, labels=lambda me, cut: me[3] > cut and me[2] >= 4),
        lambda rows, cut: cases(rows, cut, labels=lambda me, cut: me[2] >= 4),
        lambda rows, cut: cases(rows, cut)[:2],
        lambda rows, cut: [([*h, f], f) for h, f in cases(rows, cut)],
    ],
    "check_ndcg": [
        gain,
        plain_ndcg,
        lambda o, liked, k: len(set(o[:k]) & liked) / len(liked),
        lambda o, liked, k: len(set(o[:k]) & liked) / k,
        lambda o, liked, k: ndcg(o, liked, len(o)),
        lambda o, liked, k: gain(o, liked, k) / best(len(liked)),
        lambda o, liked, k: gain(o, liked, k) / best(k),
    ],
    "check_topk_loss": [
        lambda *given: topk_loss(*given).mean(),
        lambda *given: topk_loss(*given)[None],
        lambda *given: 1 - weight(*given),
        lambda *given: weight(*given),
        lambda *given: -topk_loss(*given),
        hard_loss,
        lambda s, t, k: torch.nn.functional.cross_entropy(s, t, reduction="none"),
        lambda s, t, k: topk_loss(s, t, 1),
        lambda s, t, k: topk_loss(s, t, k, link="laplace"),
        lambda *given: topk_loss(*given).tolist(),
    ],
    "check_lift": [
        lambda films: films,
        lambda films: lifted(films, lambda size: size.square().max() - size.square()),
        lambda films: lifted(films, lambda size: size.max() - size),
        lambda films: lifted(films, lambda size: size),
        lambda films: lifted(films, lambda size: 0 * size),
        lambda films: lifted(films, lambda size: (size.square().min() - size.square()).sqrt()),
        lambda films: lifted(films / films.norm(dim=-1, keepdim=True), lambda size: 0 * size),
        lambda films: lifted(films, lambda size: (size.square().mean() - size.square()).clamp(min=0).sqrt()),
    ],
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_is_accepted_in_any_guise(name: str) -> None:
    for number, answer in enumerate(RIGHT[name]):
        assert getattr(checks, name)(answer) == "Right.", number


@pytest.mark.parametrize("name", WRONG)
def test_wrong_is_refused_in_one_sentence_of_its_own(name: str) -> None:
    said = [getattr(checks, name)(answer) for answer in WRONG[name]]
    assert all(text.startswith(("Not yet", "Almost")) and "\n" not in text for text in said), said
    assert len(set(said)) == len(said), "two mistakes, one message"


def test_a_rule_of_ones_own_is_measured() -> None:
    check = checks.check_beats_popular
    assert check(neighbours).startswith("Right: recall@10 is")
    assert check(lambda likes, films, stars: likes.sum(0)).startswith("Not yet: recall@10 is")
    assert check(lambda likes, films, stars: neighbours(likes, films, -stars + 6)).startswith(
        "Not yet: recall"
    )
    assert check(lambda likes, films, stars: torch.full((170,), math.nan)).startswith("Not yet: recall@10")
    assert "need as many scores" in check(lambda likes, films, stars: stars)
