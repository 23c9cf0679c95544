"""Who chooses whom, judged: which kind of model ends lower, and which gets there in fewer steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from topk_lib.claims.compare import ENOUGH, LEVEL, Record, Results, two_sources

__all__ = ["NAMES", "Race", "against_time", "by_kind", "decoding", "race", "sentence", "table"]

NAMES = {
    "dense": "dense",
    "top1": "top-1",
    "top2": "top-2",
    "expert_choice": "expert choice",
    "sum_to_1": "expert choice, weights that sum to 1",
    "expert_choice_1": "expert choice, one expert a token",
    "top2_bias": "top-2, balanced by a bias",
    "top2_free": "top-2, balanced by nothing",
    "threshold": "expert threshold",
    "alone": "expert threshold, in training too",
    "depths": "Mixture-of-Depths",
    "token_choice": "token choice",
}
"""Kinds of models as pages call them."""


class Race(NamedTuple):
    """Two kinds of models on the same batches, a value for each seed.

    Attributes:
        gaps: the loss of the second less that of the first, at the end: above 0 where the first is better.
        pace: steps in which the second came to its loss at the end of the steady rate, over those in which
            the first came to it: above 1 where the first is faster; nan where it never did.
        low, high: the 95% interval of the mean gap (Student's t over the seeds).
    """

    gaps: list[float]
    pace: list[float]
    low: float
    high: float


def by_kind(runs: Mapping[str, Record]) -> dict[str, list[Record]]:
    """The recorded runs of each kind, in the order of their seeds."""
    found: dict[str, list[Record]] = {}
    for one in sorted(runs.values(), key=lambda one: int(one["settings"]["seed"])):
        found.setdefault(one["settings"]["kind"], []).append(one)
    return {kind: found[kind] for kind in NAMES if kind in found}


def race(runs: Mapping[str, Record], first: str, second: str, together: int = 1) -> Race | None:
    """Compare two kinds on the seeds that both have; None where there is none.

    ``together``: the comparisons that share the level of the interval.
    """
    kinds = by_kind(runs)
    mine, other = ({one["settings"]["seed"]: one for one in kinds.get(kind, [])} for kind in (first, second))
    seeds = sorted(mine.keys() & other.keys())
    if not seeds:
        return None
    gaps = [float(other[s]["metrics"]["loss"] - mine[s]["metrics"]["loss"]) for s in seeds]
    ends = (-np.inf, np.inf)
    if len(gaps) > 1:
        ends = two_sources(np.array(gaps), 0.0, np.inf).limits(LEVEL / together)
    return Race(gaps, [_pace(mine[s], other[s]) for s in seeds], *ends)


def _pace(mine: Record, other: Record) -> float:
    curve = other["metrics"]["curve"]
    end = other["metrics"]["steps"] * (1 - other["settings"]["decay"])
    steady = [(step, loss) for step, _, loss in curve if step <= end]
    step, goal = steady[-1]
    # until the rate falls: what comes then is another race
    mine_steady = [(at, loss) for at, _, loss in mine["metrics"]["curve"] if at <= end]
    before = (0.0, float("inf"))
    for at, loss in mine_steady:
        if loss <= goal:
            share = (before[1] - goal) / (before[1] - loss) if np.isfinite(before[1]) else 1.0
            return float(step / (before[0] + share * (at - before[0])))
        before = (at, loss)
    return float("nan")


def sentence(runs: Mapping[str, Record], first: str, second: str, together: int = 1) -> str:
    """What the records say of two kinds, in words; ``together`` as in :func:`race`."""
    found, a, b = race(runs, first, second, together), NAMES[first], NAMES[second]
    if found is None:
        return f"{a[0].upper()}{a[1:]} beside {b}: not yet measured."
    seeds = len(found.gaps)
    gap = float(np.mean(found.gaps))
    start = (
        f"{a[0].upper()}{a[1:]} ends {abs(gap):.3f} nats {'below' if gap > 0 else 'above'} {b} "
        f"({', '.join(f'{-one:+.3f}' for one in found.gaps)}"
    )
    if seeds < ENOUGH:
        return f"{start}; {'one seed' if seeds == 1 else f'{seeds} seeds'}, too few to say more)."
    sure = found.low > 0 or found.high < 0
    said = "which three seeds or more bear out" if sure else "which may be the luck of the seeds"
    reached = [one for one in found.pace if np.isfinite(one)]
    if len(reached) < seeds:
        told = f"It came to the other's loss in {len(reached)} of {seeds} runs."
    else:
        told = (
            "It came to the other's loss at the end of the steady rate "
            f"{np.mean(reached):.2f} times as fast, in steps ({min(reached):.2f} to {max(reached):.2f})."
        )
    return f"{start}), {said}. {told}"


def table(results: Results, experiment: str) -> list[dict[str, Any]]:
    """A row a kind: the loss at the end, its spread, and what its experts did.

    Returns:
        ``kind``, ``seeds``, ``loss`` (the mean), ``least``, ``most``, ``unchosen`` and ``fullest`` (the load
        of the fullest expert over the mean), both means over layers and seeds; ``ms`` a step, where it was
        timed.
    """
    rows = []
    speed = results.get("experts_speed", {}).get(experiment.removeprefix("experts_"))
    for kind, found in by_kind(results.get(experiment, {})).items():
        losses = [one["metrics"]["loss"] for one in found]
        layers = [layer for one in found for layer in one["metrics"]["layers"]]
        rows.append(
            {
                "kind": NAMES[kind], "seeds": len(found), "loss": float(np.mean(losses)),
                "least": min(losses), "most": max(losses),
                "unchosen": _mean([layer["unchosen"] for layer in layers]),
                "fullest": _mean([max(layer["load"]) for layer in layers]),
                "ms": speed["metrics"][kind]["ms"] if speed else float("nan"),
            }
        )  # fmt: skip
    return rows


def against_time(
    results: Results, experiment: str, kinds: Sequence[str], points: int = 30
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The mean curve of each kind against the time that its steps take.

    The time of a step is the one that was measured for all kinds in turns: that of the training itself holds
    whatever else the machine did.

    Returns:
        (points,) minutes of processor time, as far as the fastest kind goes, and for each kind's name its
        held-out loss there; nothing where no time or no curve is recorded.
    """
    speed = results.get("experts_speed", {}).get(experiment.removeprefix("experts_"))
    found = {k: v for k, v in by_kind(results.get(experiment, {})).items() if k in kinds}
    if not speed or not found:
        return np.empty(0), {}
    per_step = {kind: speed["metrics"][kind]["ms"] / 60_000 for kind in found}
    steps = np.array([step for step, *_ in next(iter(found.values()))[0]["metrics"]["curve"]])
    first = max(steps[0] * each for each in per_step.values())
    minutes = np.linspace(first, steps[-1] * min(per_step.values()), points)
    losses = {
        NAMES[kind]: np.interp(
            minutes,
            steps * per_step[kind],
            np.mean([[loss for *_, loss in one["metrics"]["curve"]] for one in runs], axis=0),
        )
        for kind, runs in found.items()
    }
    return minutes, losses


def decoding(runs: Mapping[str, Record]) -> list[dict[str, Any]]:
    """A row for each kind of causal model: what it loses when each token decides alone.

    Returns:
        ``kind``, ``seeds``, ``loss``; ``by choice``, the loss with the choice of training; and over all
        layers and seeds the means of ``agree`` and ``moved`` (see :class:`~topk_lib.routing.Gap`).
    """
    rows = []
    for kind, found in by_kind(runs).items():
        gaps = [gap for one in found for gap in one["metrics"].get("gap", [])]
        ahead = [one["metrics"]["loss_choice"] for one in found if "loss_choice" in one["metrics"]]
        rows.append(
            {
                "kind": NAMES[kind], "seeds": len(found),
                "loss": _mean([one["metrics"]["loss"] for one in found]), "by choice": _mean(ahead),
                "agree": _mean([gap["agree"] for gap in gaps]),
                "moved": _mean([gap["output"] for gap in gaps]),
            }
        )  # fmt: skip
    return rows


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
