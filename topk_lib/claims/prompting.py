"""What the records say of prompts: rows of the study, the lead of one arm over another, and claim C17."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from topk_lib.claims.compare import LEVEL, Difference, Missing, Record, Results, cite, difference, wrong
from topk_lib.claims.rules import Finding, listed

__all__ = ["arms", "lead", "prompts_do"]

_SHOTS = (2, 4, 8)
_COIN = 0.5  # the study draws its reviews half and half
_WORDS = {1: "better than", 0: "no clear difference from", -1: "worse than"}


def arms(runs: Mapping[str, Record], way: str | None = None) -> list[dict[str, Any]]:
    """The runs of the study that read k tokens by a rule, after some examples or none.

    Args:
        runs: from a run's name to its record, as :func:`topk_lib.records.load_all` gives them.
        way: "raw", "content_free" or "median"; None: the one that was chosen on dev reviews.

    Returns:
        A dict a run: ``run``, ``rule``, ``k``, ``seed``, ``shots``, ``order``, ``tokens`` of a prompt,
        and ``accuracy`` with the ends of its 95% interval.
    """
    kinds = ("read-", "shots-")
    return [
        {"run": name}
        | {key: record["settings"][key] for key in ("rule", "k", "seed", "shots", "order")}
        | {"tokens": record["metrics"]["tokens"]}
        | {key: _said(record, way)[key] for key in ("accuracy", "accuracy_low", "accuracy_high")}
        for name, record in runs.items()
        if name.startswith(kinds)
    ]


def _said(record: Record, way: str | None = None) -> Mapping[str, Any]:
    found: Mapping[str, Any] = record["metrics"][way or record["settings"]["way"]]
    return found


def _right(records: Sequence[Record], way: str | None = None) -> np.ndarray:
    """(records, texts) bool."""
    return np.stack([~wrong(record | {"metrics": _said(record, way)}) for record in records])  # type: ignore[operator]


def lead(first: Sequence[Record], second: Sequence[Record], way: str | None = None) -> Difference:
    """How much more often the first arm is right than the second, on the same texts.

    Args:
        first: the records of an arm, a draw each; one, where nothing is drawn: it stands for every draw.
        second: likewise, of as many draws.
        way: as in :func:`arms`.
    """
    a, b = _right(first, way), _right(second, way)
    draws = max(len(a), len(b))
    return difference(*(np.repeat(x, draws, 0) if len(x) == 1 else x for x in (a, b)))


def prompts_do(results: Results) -> Finding:
    """A frozen model must beat a coin when it is asked without examples, and with a few; and in any words.

    Zero shot is read at 160 tokens; examples are compared with none where both have 64. Each number of
    examples has its share of the 5%.
    """
    runs = results.get("prompting", {})
    zero, short = (_run(runs, f"read-first-k{k}-s0") for k in (160, 64))
    draws = {n: [r for d in range(3) if (r := runs.get(f"shots-first-n{n}-d{d}-o0"))] for n in _SHOTS}
    if missing := [n for n, found in draws.items() if not found]:
        raise Missing(f"record prompting/shots-first-n{missing[0]}-d0-o0")
    worded = {name: r for name, r in runs.items() if name.startswith("template-")}
    if not worded:
        raise Missing("templates' records in prompting")
    level = LEVEL / len(_SHOTS)
    gaps = {n: lead(found, [short]) for n, found in draws.items()}
    signs = {n: int(np.sign(gap.mean)) if gap.p <= level else 0 for n, gap in gaps.items()}
    above = {n: _above(found, level) for n, found in draws.items()}
    alone = _said(zero)["accuracy_low"] > _COIN
    lost = [name for name, r in worded.items() if r["metrics"]["raw"]["accuracy_low"] <= _COIN]

    conditions = []
    if not alone:
        conditions.append("only with examples")
    if bad := [n for n, yes in above.items() if not yes]:
        conditions.append(f"with {listed(bad)} examples it is not surely better than a coin")
    for sign, verb in ((0, "change nothing that shows"), (-1, "make it worse")):
        if which := [n for n, s in signs.items() if s == sign]:
            conditions.append(f"{listed(which)} examples {verb}")
    if lost:
        conditions.append(
            f"in {len(lost)} of {len(worded)} wordings its own answers are not surely better than a coin's"
        )
    fails = not alone and not any(above.values())
    answer = "fails" if fails else "holds"
    if conditions and not fails:
        answer = f"holds with a condition: {'; '.join(conditions)}"

    way = zero["settings"]["way"]
    evidence = [
        f"no example, the first 160 tokens: {_cited('read-first-k160-s0', way)}; the first 64: "
        f"{_cited('read-first-k64-s0', way)}"
    ]
    for n, found in draws.items():
        low, high = gaps[n].limits(level)
        each = " · ".join(_cited(r["run"], way) for r in found)
        evidence.append(
            f"{n} examples: {each}: {_WORDS[signs[n]]} none, by {100 * low:+.0f} to {100 * high:+.0f} "
            f"points (draws of examples: {len(found)})"
        )
    best, worst = (
        pick(worded, key=lambda name: worded[name]["metrics"]["raw"]["accuracy"]) for pick in (max, min)
    )
    evidence.append(f"wordings, uncalibrated: from {_cited(worst, 'raw')} to {_cited(best, 'raw')}")
    evidence.append("nothing follows for larger models: few-shot use grows with size {cite:p}`brown2020`")
    return Finding(answer, tuple(evidence), (64, 160), min(map(len, draws.values())))


def _above(records: Sequence[Record], level: float) -> bool:
    """Surely more often right than a coin, the luck of the examples and of the reviews counted."""
    right = _right(records)
    low, _ = difference(right, np.zeros_like(right)).limits(2 * level)
    return low > _COIN


def _run(runs: Mapping[str, Record], name: str) -> Record:
    if name not in runs:
        raise Missing(f"record prompting/{name}")
    return runs[name]


def _cited(run: str, way: str) -> str:
    return cite(f"prompting/{run}", f"metrics.{way}.accuracy .1%")
