"""Checks for the chapter on three products."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from topk_lib.apps.liked import LIKED, Events, cut_dates, liked_next
from topk_lib.apps.ranking import at_k, by_person, ranks
from topk_lib.apps.recommend import topk_loss
from topk_lib.checks.base import check, check_of_optional, close, differ, floats
from topk_lib.data import load_ratings

__all__ = [
    "check_beats_popular",
    "check_cases",
    "check_first_alarm",
    "check_lift",
    "check_ndcg",
    "check_sure_enough",
    "check_topk_loss",
]

Rows = Sequence[tuple[int, str, float, int]]


@check
def check_sure_enough(sure_enough: Callable[[Sequence[float], Sequence[bool], float], float]) -> str:
    """Check sure_enough(confidence, right, wrong): the lowest confidence from which on answers are given."""
    cases: list[tuple[list[float], list[bool], float, float, str]] = [
        (
            [0.9, 0.5, 0.7, 0.8, 0.6], [True, True, True, False, True], 0.25, 0.5,
            "from 0.5 on one of five answers is wrong; that from 0.8 on it is one of two does not matter",
        ),
        ([0.9, 0.8, 0.7], [True, True, False], 0.25, 0.8, "from 0.7 on one of three is wrong"),
        (
            [0.9, 0.8, 0.7, 0.6], [True, True, True, False], 0.25, 0.6,
            "one of four is exactly the share that is allowed",
        ),
        (
            [0.9, 0.8, 0.4, 0.3, 0.2, 0.1], [True, False, False, False, False, False], 0.2, 0.9,
            "the share is of the answers that are given, not of all questions",
        ),
        (
            [0.9, 0.6, 0.6], [True, True, False], 0.3, 0.9,
            "two questions have 0.6: whoever answers the one answers the other",
        ),
        ([0.9, 0.8], [False, False], 0.2, math.inf, "where no confidence will do, nothing is answered: inf"),
    ]  # fmt: skip
    for confidence, right, wrong, best, why in cases:
        got = float(sure_enough(list(confidence), list(right), wrong))
        if not (got == best or close(got, best)):
            return (
                f"Not yet: confidences {confidence}, right {right}, at most {wrong} wrong: {best:g}, yours "
                f"{got:g}; {why}."
            )
    return "Right."


@check_of_optional
def check_first_alarm(first_alarm: Callable[[Sequence[bool], float, float, float], int | None]) -> str:
    """Check first_alarm(flags, p, q, h): the place of the item at which CUSUM reaches h; None: at none."""
    p, q = 0.2, 0.5  # a negative item adds 0.92, another takes 0.47
    cases: list[tuple[list[int], float]] = [
        ([0, 1, 0, 1, 1, 0], 2.0),
        ([0, 0, 0, 0, 1, 1, 0], 1.5),
        ([1, 0, 1, 0, 1, 0, 1], 2.1),
        ([1, 1, 0, 1, 1, 1, 0], 1.0),
        ([0, 1, 0, 0], 5.0),
    ]
    given = [(flags, p, q, h) for flags, h in cases]
    right = [_alarm(*case) for case in given]
    said = [first_alarm([bool(x) for x in flags], p, q, h) for flags, h in cases]
    got = [None if place is None else int(place) for place in said]
    if got == right:
        return "Right."
    mistakes = {
        "the sum is never below 0: calm items save nothing up": [_alarm(*c, floor=False) for c in given],
        "an item that is not negative takes something off": [_alarm(*c, fall=False) for c in given],
        "a calm item takes off something, not everything": [_alarm(*c, restart=True) for c in given],
        "add logarithms of the ratios, not the ratios": [_alarm(*c, ratio=True) for c in given],
        "p is the calm share, q the one to be found": [_alarm(flags, q, p, h) for flags, h in cases],
        "places count from 0": [None if place is None else place + 1 for place in right],
    }
    why = next((hint for hint, places in mistakes.items() if places == got), "S = max(0, S + ln L)")
    at = next(i for i in range(len(cases)) if got[i] != right[i])
    flags, h = cases[at]
    return f"Not yet: flags {flags}, p = {p}, q = {q}, h = {h:g}: {right[at]}, yours {got[at]}; {why}."


def _alarm(
    flags: Sequence[int], p: float, q: float, h: float, *, floor: bool = True, fall: bool = True,
    restart: bool = False, ratio: bool = False,
) -> int | None:  # fmt: skip
    total = 0.0
    for place, flag in enumerate(flags):
        step = q / p if flag else (1 - q) / (1 - p)
        step = step if ratio else math.log(step)
        if not flag and (restart or not fall):
            step = -total if restart else 0.0
        total = max(0.0, total + step) if floor else total + step
        if total >= h:
            return place
    return None


_RATED: Rows = (
    (1, "f", 5.0, 9), (2, "a", 4.0, 2), (1, "a", 5.0, 1), (3, "h", 5.0, 7), (1, "c", 4.0, 6),
    (1, "b", 3.0, 4), (2, "g", 4.0, 8), (1, "e", 2.0, 7), (1, "d", 4.5, 6), (1, "x", 4.0, 3),
)  # fmt: skip


@check
def check_cases(cases: Callable[[list[tuple[int, str, float, int]], int], Any]) -> str:
    """Check cases(rows, cut): what a recommender is tested on, as pairs of a history and the film liked next.

    A row is a person, a film, stars and a time.
    """
    cut = 6
    right = _cases(_RATED, cut)
    got = _sorted(cases(list(_RATED), cut))
    if got == right:
        return "Right."
    mistakes = {
        "a page of films is rated at one time: only what was rated strictly before is known": "same",
        "a history has every rating, the low ones too: they tell as much": "liked",
        "a history is of one person": "others",
        "a rating at the cut itself belongs to the test": "after",
        "the label is a film that was liked: 4 stars or more": "labels",
        "a person without an earlier rating has no history, and is left out": "empty",
        "what the person rated since the cut is known by the time of the label": "frozen",
        "labels from before the cut were learned from": "all",
        "the film itself must not stand in its own history": "itself",
        "what the person rates later is not known yet": "future",
    }
    for why, flag in mistakes.items():
        if got == _cases(_RATED, cut, flag):
            return f"Not yet: {why}."
    extra = next((one for one in got if one not in right), None)
    missing = next((one for one in right if one not in got), None)
    told = f"{missing} is missing" if missing else f"{extra} should not be there"
    return f"Not yet: of {len(right)} cases you have {len(got)}; {told} (histories are sorted here)."


def _sorted(found: Any) -> list[tuple[list[str], str]]:
    return sorted((sorted(map(str, history)), str(film)) for history, film in found)


def _cases(rows: Rows, cut: int, wrong: str = "") -> list[tuple[list[str], str]]:
    found = []
    for person, film, stars, time in rows:
        late = time > cut if wrong == "after" else time >= cut or wrong == "all"
        if not late or (stars < LIKED and wrong != "labels"):
            continue
        history = [
            f for p, f, s, t in rows
            if (p == person or wrong == "others")
            and (t < time or wrong == "future" or (wrong in ("same", "itself") and t == time))
            and (f != film or wrong == "itself")
            and (s >= LIKED or wrong != "liked")
            and (t < cut or wrong != "frozen")
        ]  # fmt: skip
        if history or wrong == "empty":
            found.append((history, film))
    return _sorted(found)


@check
def check_ndcg(ndcg: Callable[[list[str], set[str], int], float]) -> str:
    """Check ndcg(offered, liked, k): a list in order, the films that were liked, and k."""
    cases = [
        ("abcd", "c", 3, "1 / log2(1 + 3), and the best list has 1"),
        ("abcd", "d", 3, "the fourth is not among three"),
        ("abcd", "ad", 4, "(1 + 1 / log2(5)) over the best that two liked films can get, 1 + 1 / log2(3)"),
        ("abcd", "abcxyz", 2, "with k = 2 no list can show more than two: this one is the best there is"),
        ("abcdef", "bdf", 5, "of three liked films two are shown, and the best list shows three"),
    ]
    right, got = [], []
    near: dict[str, list[float]] = {}
    for offered, liked, k, _ in cases:
        right.append(_ndcg(offered, liked, k))
        got.append(float(ndcg(list(offered), set(liked), k)))
        places = [i for i, film in enumerate(offered[:k]) if film in liked]
        gain = sum(1 / math.log2(i + 2) for i in places)
        mistakes = {
            "that is the share of the liked films that are shown, recall": len(places) / len(liked),
            "that is the share of the films shown that are liked, precision": len(places) / k,
            "divide by what the best list has": gain,
            "a film at place i has 1 / log2(1 + i), not 1 / i": _ndcg(offered, liked, k, log=False),
            "the first k count, no more": _ndcg(offered, liked, len(offered)),
            "the best list is not longer than k": gain / _best(len(liked)),
            "the best list has only the liked films, which may be fewer than k": gain / _best(k),
        }
        for hint, value in mistakes.items():
            near.setdefault(hint, []).append(value)
    wrong = [i for i in range(len(cases)) if not close(got[i], right[i])]
    if not wrong:
        return "Right."
    offered, liked, k, why = cases[wrong[0]]
    same = (hint for hint, row in near.items() if all(map(close, got, row)))
    expected, yours = differ(right[wrong[0]], got[wrong[0]])
    return (
        f"Not yet: offered {list(offered)}, liked {sorted(liked)}, k = {k}: {expected}, yours {yours}; "
        f"{next(same, why)}."
    )


def _best(n: int, log: bool = True) -> float:
    return sum(1 / math.log2(i + 2) if log else 1 / (i + 1) for i in range(n))


def _ndcg(offered: str, liked: str, k: int, *, log: bool = True) -> float:
    places = [i for i, film in enumerate(offered[:k]) if film in liked]
    gain = sum(1 / math.log2(i + 2) if log else 1 / (i + 1) for i in places)
    return gain / _best(min(k, len(liked)), log)


@check
def check_topk_loss(loss: Callable[[Tensor, Tensor, int], Tensor]) -> str:
    """Check loss(scores, target, k): minus the logarithm of the soft weight of each row's target."""
    scores = torch.tensor([[3.0, 2.0, 1.0, 0.0, -1.0], [0.5, 0.0, -0.5, -1.0, 2.0]])
    target = torch.tensor([2, 1])
    right = topk_loss(scores, target, 2)
    asked = scores.clone().requires_grad_()
    said = loss(asked, target.clone(), 2)
    got = floats(said)
    weights = (-right).exp()
    if got.shape != right.shape:
        if got.numel() == 1 and close(got.reshape(()), float(right.mean()), 1e-4):
            return "Not yet: that is the mean of both rows: give one number a row."
        return f"Not yet: two rows have two losses; the shape of yours is {tuple(got.shape)}."
    rows = torch.arange(2)
    mistakes = {
        "that is 1 minus the weight: it has no slope where the weight is 0, and the log has": 1 - weights,
        "that is the softmax loss, which is content with the first place alone": (
            -scores.log_softmax(-1)[rows, target]
        ),
        "the sign: a loss falls as the weight rises": -right,
        "that is the weight itself: take minus its logarithm": weights,
        "that asks to be among the first one, not among the k first": topk_loss(scores, target, 1),
        "a hard mask is 0 or 1, so its loss is 0 or infinite and has no slope": torch.tensor([torch.inf] * 2),
    }  # fmt: skip
    for why, wrong in mistakes.items():
        if torch.allclose(got, wrong, atol=1e-4):
            return f"Not yet: {why}."
    if not torch.allclose(got, right, atol=1e-4):
        return (
            "Not yet: scores (3, 2, 1, 0, -1), the target at 1, k = 2: "
            f"{float(right[0]):.4f}, yours {float(got[0]):.4f}."
        )
    if not isinstance(said, Tensor) or not said.requires_grad:
        return "Almost: the numbers are right, but no gradient reaches the scores: stay with tensors."
    return "Right."


@check
def check_lift(lift: Callable[[Tensor], Tensor]) -> str:
    """Check lift(films): vectors with one number more, so that the nearest has the highest product."""
    dice = torch.Generator().manual_seed(0)
    films = torch.randn(60, 4, generator=dice) * torch.rand(60, 1, generator=dice) * 3
    got = floats(lift(films.clone()))
    if got.shape != (60, 5):
        return f"Not yet: 60 vectors of 4 numbers become 60 of 5; the shape of yours is {tuple(got.shape)}."
    if not torch.allclose(got[:, :4], films, atol=1e-5):
        return "Not yet: the first four numbers stay as they are: change no length, add a number."
    more, squares = got[:, 4], films.square().sum(-1)
    if bool(more.isnan().any()):
        return "Not yet: the new number is NaN for some: M is the length of the longest vector."
    mistakes = {
        "take the root: squares of lengths add up, lengths do not": squares.max() - squares,
        "M^2 - |x|^2 is under the root, not M - |x|": squares.max().sqrt() - squares.sqrt(),
        "the new number fills up to M: a short vector gets much": squares.sqrt(),
        "with 0 for all, a short vector is near to everything, whatever its product": torch.zeros(60),
    }  # fmt: skip
    for why, wrong in mistakes.items():
        if torch.allclose(more, wrong, atol=1e-4):
            return f"Not yet: {why}."
    asked = torch.randn(20, 4, generator=dice)
    near = torch.cdist(torch.cat([asked, torch.zeros(20, 1)], 1).double(), got.double()).argmin(-1)
    high = (asked.double() @ films.double().T).argmax(-1)
    wrong_rows = int((near != high).sum())
    if wrong_rows:
        lengths = got.norm(dim=-1)
        return (
            f"Not yet: for {wrong_rows} of 20 queries the nearest is not the highest; all vectors must be "
            f"equally long, and yours are from {float(lengths.min()):.3g} to {float(lengths.max()):.3g}."
        )
    return "Right."


@cache
def _own() -> tuple[Tensor, Events, float]:
    """Who liked what before the cut; what was liked next after it; and what popularity recalls."""
    ratings = load_ratings("embedded", quiet=True)
    cut = cut_dates(ratings)[1]
    place = {int(film): at for at, film in enumerate(ratings.movies["movieId"])}
    early = ratings.ratings[(ratings.ratings["timestamp"] < cut) & (ratings.ratings["rating"] >= LIKED)]
    people = {int(one): at for at, one in enumerate(sorted(set(early["userId"])))}
    likes = torch.zeros(len(people), len(place))
    for person, film in zip(early["userId"], early["movieId"], strict=True):
        likes[people[int(person)], place[int(film)]] = 1
    events = liked_next(ratings, since=cut)
    return likes, events, _recall(likes, events, lambda likes, films, stars: likes.sum(0))


def _recall(likes: Tensor, events: Events, score: Callable[[Tensor, Tensor, Tensor], Any]) -> float:
    found = []
    for at in torch.arange(len(events.target)):
        films, stars, real = (x[0] for x in events.history(at[None]))
        scores = floats(score(likes.clone(), films[real], stars[real]))
        if scores.shape != likes.shape[1:]:
            raise ValueError(f"{likes.shape[1]} films need as many scores, got shape {tuple(scores.shape)}")
        open_ = ~events.rated(at[None], likes.shape[1])
        found.append(ranks(scores[None], events.target[at[None]], open_))
    return float(by_person(at_k(torch.cat(found), 10)[0], events.person).mean())


@check
def check_beats_popular(score: Callable[[Tensor, Tensor, Tensor], Any]) -> str:
    """Measure score(likes, films, stars): a score for every film, from a history and who liked what.

    ``likes`` (people, films) is 1 where somebody liked a film before the cut; ``films`` are the places of the
    films in the history, ``stars`` what they got. Recall@10 on the embedded set's later ratings must be above
    that of popularity.
    """
    likes, events, popular = _own()
    mine = _recall(likes, events, score)
    found = f"recall@10 is {mine:.1%}, and popularity alone has {popular:.1%}"
    if mine <= popular:
        return f"Not yet: {found}. Offer what the people who liked the same films liked as well."
    return f"Right: {found}."
