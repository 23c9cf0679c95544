"""Checks for the chapter that draws all of a language model's life on one page."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import pairwise

from topk_lib.checks.base import check, close

__all__ = ["check_again", "check_order", "check_saving", "check_where"]

Arrows = Sequence[tuple[str, str]]

_STAGES: Arrows = (
    ("text", "tokenizer"), ("tokenizer", "pretraining"), ("text", "pretraining"),
    ("pretraining", "encoder"), ("encoder", "fine-tuning"), ("labels", "fine-tuning"),
    ("fine-tuning", "classifier"),
)  # fmt: skip
_DIAMOND: Arrows = (("d", "e"), ("b", "d"), ("c", "d"), ("a", "b"), ("a", "c"))
_CIRCLE: Arrows = (("a", "b"), ("b", "c"), ("c", "a"))


@check
def check_order(order: Callable[[Arrows], Sequence[str]]) -> str:
    """Check a learner's order of work: from arrows (before, after) to all boxes, each after what it needs."""
    for arrows in (_STAGES, _DIAMOND, (("b", "a"),)):
        boxes = {box for arrow in arrows for box in arrow}
        got = list(order(list(arrows)))
        if sorted(got) != sorted(boxes):
            return f"Not yet: the arrows name {sorted(boxes)}, each once; yours gives {got}."
        for before, after in arrows:
            if got.index(before) > got.index(after):
                return f"Not yet: {before!r} must come before {after!r}; yours gives {got}."
    for arrows in (_CIRCLE, (("x", "y"), *_CIRCLE)):
        try:
            got = list(order(list(arrows)))
        except ValueError:
            continue
        return (
            f"Almost: in {list(arrows)} no box of the circle can be first, so raise ValueError; yours "
            f"gives {got}."
        )
    return "Right."


@check
def check_again(again: Callable[[Arrows, str], Collection[str]]) -> str:
    """Check a learner's set of what must be made again when one box changes."""
    for arrows, changed, right in (
        (_STAGES, "tokenizer", {"pretraining", "encoder", "fine-tuning", "classifier"}),
        (_STAGES, "labels", {"fine-tuning", "classifier"}),
        (_STAGES, "classifier", set()),
        (_DIAMOND, "c", {"d", "e"}),
        (_CIRCLE, "b", {"c", "a"}),
    ):
        got = set(again(list(arrows), changed))
        if got == right:
            continue
        if got == right | {changed}:
            return f"Almost: {changed!r} itself has just been made; leave it out of what must be made again."
        direct = {after for before, after in arrows if before == changed}
        if got == direct:
            return (
                f"Not yet: those are the next boxes only; what they feed must be made again, too, here "
                f"{sorted(right)}."
            )
        upstream = {before for before, after in arrows if after == changed}
        if upstream and upstream <= got:
            return f"Not yet: {sorted(upstream)[0]!r} comes before {changed!r} and need not be made again."
        return f"Not yet: when {changed!r} changes, {sorted(right)} must be made again; yours {sorted(got)}."
    return "Right."


_WHERE = {
    "a search engine's model knows 8,000 of 30,522 words": "vocabulary",
    "a classifier is given the 64 most telling words of a review": "sequence",
    "a chat model reads its last 4,096 tokens and forgets the others": "sequence",
    "each word looks back at the 32 earlier words that fit it best": "attention",
    "a cache throws out the keys that were hardly ever looked at": "attention",
    "each of 16 feed-forward blocks takes an eighth of the tokens": "routing",
    "the next word is drawn among the 50 likeliest": "decoding",
    "four half-written sentences are carried on, the likeliest ones": "decoding",
}
# What is gone for all words to come is gone as a position, too.
_ALSO = {"a cache throws out the keys that were hardly ever looked at": "sequence"}
_NAMES = ("vocabulary", "sequence", "attention", "routing", "decoding")


@check
def check_where(answer: Mapping[str, str]) -> str:
    """Check which of the five choices each situation is."""
    for situation, right in _WHERE.items():
        if answer.get(situation, ...) in (..., None):
            return f"Not yet: {situation!r} has no answer."
        got = str(answer[situation]).removesuffix(" selection")
        if got not in _NAMES:
            return f"Not yet: {got!r} is not one of {', '.join(_NAMES)}."
        if got not in (right, _ALSO.get(situation)):
            return f"Not yet: {situation!r} is not {got}: ask what is counted there, and when."
    return "Right."


@check
def check_saving(saving: Callable[..., float]) -> str:
    """Check a learner's measurement: ``saving(read, n, k, clock)``, how many times faster k tokens are.

    ``read`` and ``clock`` are the check's own, so that no machine's mood can decide.
    """
    for cost, unlucky, right in ((0.01, 0.0, 8.0), (0.002, 5.0, 8.0)):
        now, calls = [100.0], list[int]()

        def read(tokens: int, cost: float = cost, unlucky: float = unlucky) -> None:
            calls.append(tokens)  # noqa: B023 - both are made anew in each turn, and used in it
            first = calls.count(tokens) == 1  # noqa: B023
            now[0] += cost * tokens + (unlucky if first else 0.0)  # noqa: B023

        got = saving(read, 256, 32, lambda: now[0])  # noqa: B023
        long, short = calls.count(256), calls.count(32)
        if set(calls) - {256, 32} or not long or not short:
            return f"Not yet: read(256) and read(32) are to be called; yours called read with {calls}."
        if min(long, short) < 3:
            return f"Not yet: time each at least three times; yours read {long} and {short} times."
        if close(got, 1 / right, 1e-3):
            return "Almost: that is the time of k over the time of n; turn it round."
        if unlucky and not close(got, right, 1e-3):
            return (
                "Almost: the first call of a size was slow by an accident, and your answer moved to "
                f"{float(got):.3g}. Take the median of the times, not their mean or sum."
            )
        if not close(got, right, 1e-3):
            return f"Not yet: here a token costs {cost} s, so the ratio is {right:g}; yours {float(got):.3g}."
        if sum(a != b for a, b in pairwise(calls)) < min(long, short):
            return (
                "Almost: the number is right, but you timed one size first and then the other, so that a "
                "machine that grows busy in between would decide. Read n and k in turns."
            )
    return "Right."
