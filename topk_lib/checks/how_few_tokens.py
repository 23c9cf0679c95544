"""Checks for the chapter on how few tokens are enough."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from scipy.stats import binomtest

from topk_lib.checks.base import check, check_of_optional, close, differ

__all__ = ["check_mcnemar", "check_shared_level", "check_smallest_k", "check_staged_flops"]


@check
def check_staged_flops(answer: float) -> str:
    """Check the FLOPs of two layers, d = 4 and f = 8, that read 8 tokens and then 2."""
    if answer == 3648:
        return "Right: 3,072 in the first layer and 576 in the second."
    near: dict[float, str] = {
        6144: "that is both layers on all 8 tokens",
        1152: "that is both layers on 2 tokens; the first reads all 8",
        3072: "that is the first layer alone",
        576: "that is the second layer alone",
        3840: "that quarters the second layer's FLOPs, but its n² falls to a sixteenth",
        2560: "that leaves out attention's n²",
    }
    hint = near.get(answer, "count each layer with its own n: 2 n P + 4 n² d, where P = 4 d² + 2 d f = 128")
    return f"Not yet: {answer:g}; {hint}."


@check
def check_mcnemar(p_value: Callable[[int, int], float]) -> str:
    """Check a learner's exact two-sided McNemar test of b and c discordant reviews."""
    for b, c in ((6, 1), (1, 6), (10, 3), (4, 4), (0, 0)):
        expected = float(binomtest(b, b + c).pvalue) if b + c else 1.0
        try:
            got = p_value(b, c)
        except ZeroDivisionError:
            return f"Almost: p_value({b}, {c}) divides by zero; where no review tells them apart, p is 1."
        if close(got, expected):
            continue
        right, yours = differ(expected, got)
        start = f"Not yet: p_value({b}, {c}) is {right}, yours gives {yours}"
        if got > 1:
            return f"{start}. A probability is at most 1: where b = c the two tails overlap."
        if close(2 * got, expected):
            return f"{start}. You counted one tail: as uneven the other way is as surprising."
        if (b, c) == (1, 6):
            return f"{start}. The order must not matter: take the smaller of the two."
        return f"{start}. Sum the chances of 0, 1, ..., min(b, c) heads in b + c tosses, and double."
    return "Right."


@check_of_optional
def check_smallest_k(
    smallest_k: Callable[[Sequence[Mapping[str, float]], float, float], int | None],
) -> str:
    """Check a learner's ``smallest_k(points, full, within)``; a point has k and accuracy."""
    points = [{"k": k, "accuracy": a} for k, a in ((64, 0.90), (16, 0.80), (128, 0.915), (32, 0.92))]
    cases: tuple[tuple[float, float, int | None, str], ...] = (
        (0.92, 0.02, 32, "The points are not in the order of k: look at all of them."),
        (0.92, 0.0, 32, "As good as the full model is good enough."),
        (0.93, 0.001, None, "No point comes near enough: return None."),
        (0.70, 0.05, 16, "Better than the full model is good enough, too."),
    )
    for full, within, expected, hint in cases:
        got = smallest_k(points, full, within)
        if got != expected:
            return f"Not yet: full = {full}, within = {within}: the answer is {expected}, yours {got}. {hint}"
    return "Right. On noisy points the smallest such k is a lucky one: look at the next larger, too."


@check
def check_shared_level(level: float) -> str:
    """Check the level of each of 12 comparisons that share a chance of 5%."""
    if abs(level - 0.05 / 12) < 5e-5:  # 0.0042, too
        return "Right: 12 times 0.0042 is 5%, and the chance of one false alarm or more is at most their sum."
    if abs(level - 0.05) < 1e-9:
        return "Not yet: at 0.05 each, 12 comparisons expect 0.6 false alarms."
    if abs(level - 0.6) < 1e-9:
        return "Not yet: that is how many false alarms to expect; you want a smaller level, not a larger one."
    if abs(level - (1 - 0.95 ** (1 / 12))) < 4e-5:
        return "Almost: that is exact for comparisons that know nothing of each other; these share a model."
    return f"Not yet: with {level:g} each the sum over 12 comparisons is {12 * level:.3g}; it should be 0.05."
