"""Hidden checks of the example: properties, on inputs drawn from the student's seed."""

from __future__ import annotations

import torch

from topk_lib.grading import Answer, Draw, expect, hidden


@hidden("largest", points=30, about="ties")
def ties_go_to_the_lowest_index(answer: Answer, draw: Draw) -> None:
    """Where several scores are the largest, the lowest of their indices is asked for."""
    scores = draw.tensor(9, low=0, high=3)
    places = draw.rng.choice(9, size=2, replace=False)
    scores[places] = 3
    right = int(places.min())
    got = answer(scores)
    expect(got == right, f"for scores {scores.tolist()} the index is {right}, yours {got}")


@hidden("largest", points=20, about="negative scores")
def all_scores_may_be_negative(answer: Answer, draw: Draw) -> None:
    """Scores may all be below zero, and one that is minus infinity is still a score."""
    scores = draw.normal(7) - 20
    scores[0] = -torch.inf
    got = answer(scores)
    right = int(scores.argmax())
    expect(got == right, f"for scores {scores.tolist()} the index is {right}, yours {got}")


@hidden("spread", points=20, about="order")
def the_order_does_not_matter(answer: Answer, draw: Draw) -> None:
    """Smallest and largest may stand anywhere."""
    low, width = draw.integer(-9, 9), draw.integer(2, 9)
    values = [low + 1, low, low + width, low + 1]
    got = answer(values)
    expect(got == width, f"for {values} it is {width}, yours {got}")


@hidden("spread", points=10, about="the middle")
def the_middle_lies_between(answer: Answer, draw: Draw) -> None:
    """The middle is half-way between smallest and largest, whatever lies between them."""
    values = [draw.integer(-9, 9) for _ in range(4)]
    got = answer.other("middle")(values)
    right = (min(values) + max(values)) / 2
    expect(got == right, f"for {values} the middle is {right}, yours {got}")
