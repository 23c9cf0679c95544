"""The checks of the chapter on the whole picture: right answers of any kind, and wrong ones by name."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from graphlib import CycleError, TopologicalSorter

import pytest

from topk_lib import checks

Arrows = Sequence[tuple[str, str]]
Read = Callable[[int], None]
Clock = Callable[[], float]


def sorted_graph(arrows: Arrows) -> list[str]:
    graph: dict[str, set[str]] = {}
    for before, after in arrows:
        graph.setdefault(after, set()).add(before)
    try:
        return list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        raise ValueError("a circle") from error


def peeled(arrows: Arrows) -> list[str]:
    left, found = sorted({b for a in arrows for b in a}), list[str]()
    while left:
        free = [b for b in left if not any(after == b and before in left for before, after in arrows)]
        if not free:
            raise ValueError("no box is free")
        found.append(free[0])
        left.remove(free[0])
    return found


@pytest.mark.parametrize("right", [sorted_graph, peeled])
def test_any_order_that_respects_the_arrows_is_right(right: Callable[[Arrows], list[str]]) -> None:
    assert checks.check_order(right) == "Right."


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda arrows: sorted({b for a in arrows for b in a}), "must come before"),
        (lambda arrows: sorted_graph(arrows)[::-1], "must come before"),
        (lambda arrows: [b for a in arrows for b in a], "each once"),
        (lambda arrows: sorted_graph(arrows[:-1]), "each once"),
    ],
)
def test_wrong_orders_are_told_apart(wrong: Callable[[Arrows], list[str]], said: str) -> None:
    assert said in checks.check_order(wrong)


def test_a_circle_must_be_refused() -> None:
    def any_order(arrows: Arrows) -> list[str]:
        try:
            return sorted_graph(arrows)
        except ValueError:
            return sorted({b for a in arrows for b in a})

    assert "raise ValueError" in checks.check_order(any_order)


def downstream(arrows: Arrows, changed: str) -> set[str]:
    found, new = set[str](), {changed}
    while new:
        new = {after for before, after in arrows if before in new} - found
        found |= new
    return found - {changed}


def test_what_must_be_made_again() -> None:
    assert checks.check_again(downstream) == "Right."
    assert checks.check_again(lambda a, c: sorted(downstream(a, c))) == "Right."
    assert "itself" in checks.check_again(lambda a, c: downstream(a, c) | {c})
    assert "next boxes only" in checks.check_again(lambda a, c: {after for b, after in a if b == c})
    assert "comes before" in checks.check_again(lambda a, c: downstream([(y, x) for x, y in a], c))
    assert "must be made again; yours []" in checks.check_again(lambda a, c: set())


WHERE = {
    "a search engine's model knows 8,000 of 30,522 words": "vocabulary",
    "a classifier is given the 64 most telling words of a review": "sequence",
    "a chat model reads its last 4,096 tokens and forgets the others": "sequence",
    "each word looks back at the 32 earlier words that fit it best": "attention",
    "a cache throws out the keys that were hardly ever looked at": "attention",
    "each of 16 feed-forward blocks takes an eighth of the tokens": "routing",
    "the next word is drawn among the 50 likeliest": "decoding",
    "four half-written sentences are carried on, the likeliest ones": "decoding",
}


def test_where_k_is_chosen() -> None:
    assert checks.check_where(WHERE) == "Right."
    named = {
        what: name if name in ("routing", "decoding") else f"{name} selection" for what, name in WHERE.items()
    }
    assert checks.check_where(named) == "Right."
    both = "a cache throws out the keys that were hardly ever looked at"
    assert checks.check_where(WHERE | {both: "sequence"}) == "Right."
    assert "has no answer" in checks.check_where(dict.fromkeys(WHERE, ...))  # type: ignore[arg-type]
    for situation, name in WHERE.items():
        other = "routing" if name != "routing" else "sequence"
        assert f"{situation!r} is not {other}" in checks.check_where(WHERE | {situation: other})
        assert "not one of" in checks.check_where(WHERE | {situation: "beam"})
        assert "has no answer" in checks.check_where({k: v for k, v in WHERE.items() if k != situation})


def timed(read: Read, tokens: int, clock: Clock) -> float:
    start = clock()
    read(tokens)
    return clock() - start


def saving(read: Read, n: int, k: int, clock: Clock = time.perf_counter, rounds: int = 5) -> float:
    times = [(timed(read, n, clock), timed(read, k, clock)) for _ in range(rounds)]
    long, short = zip(*times, strict=True)
    return float(statistics.median(long) / statistics.median(short))


def mean_saving(read: Read, n: int, k: int, clock: Clock) -> float:
    times = [(timed(read, n, clock), timed(read, k, clock)) for _ in range(5)]
    return sum(a for a, _ in times) / sum(b for _, b in times)


def test_a_measurement_is_robust_and_the_right_way_round() -> None:
    check = checks.check_saving
    assert check(saving) == "Right."
    assert check(lambda r, n, k, c: 1 / saving(r, k, n, c)) == "Right."
    assert "in turns" in check(lambda r, n, k, c: statistics.median(timed(r, n, c) for _ in range(9))
                               / statistics.median(timed(r, k, c) for _ in range(9)))  # fmt: skip
    assert "turn it round" in check(lambda r, n, k, c: 1 / saving(r, n, k, c))
    assert "median" in check(mean_saving)
    assert "at least three times" in check(lambda r, n, k, c: saving(r, n, k, c, rounds=1))
    assert "called read with" in check(lambda r, n, k, c: n / k)
    assert "the ratio is 8" in check(lambda r, n, k, c: saving(r, n, k, c) - 1)
