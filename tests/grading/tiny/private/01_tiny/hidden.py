"""Hidden checks of the assignment that the grader is tested with."""

from __future__ import annotations

from collections.abc import Callable

from topk_lib.grading import Answer, Draw, expect, hidden


@hidden("largest", points=25, about="ties")
def ties(answer: Answer, draw: Draw) -> None:
    """Equal scores: the lowest index wins."""
    scores = draw.tensor(9, low=0, high=2)
    right, got = scores.tolist().index(max(scores.tolist())), answer(scores)
    expect(got == right, f"for {scores.tolist()} it is {right}, yours {got}")


@hidden("largest", points=15, about="infinity")
def infinity(answer: Answer, draw: Draw) -> None:
    """Plus infinity is the largest."""
    place = draw.integer(0, 5)
    scores = draw.tensor(5)
    scores[place] = float("inf")
    expect(answer(scores) == place, f"for {scores.tolist()} it is {place}")


@hidden("root", points=30, about="large numbers")
def large(answer: Answer, draw: Draw) -> None:
    """The square of a root is the number."""
    x = float(draw.integer(10, 1000)) ** 2
    expect(abs(answer(x) ** 2 - x) < 1e-6 * x, f"root({x:g}) is {x**0.5:g}, yours {answer(x)}")


def leaderboard(answer_of: Callable[[str], Answer], draw: Draw) -> dict[str, float]:
    root = answer_of("root")
    return {"root of 2": root(2.0), "drawn": root(float(draw.integer(1, 9) ** 2))}
