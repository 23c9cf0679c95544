"""The four families of continual learning: a table of their runs, and how their claim is judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from topk_lib.claims.compare import LEVEL, Missing, Record, Results, between, cite, two_sources
from topk_lib.claims.rules import Finding, listed

__all__ = ["FAMILIES", "SCENARIOS", "by_method", "prevents"]

FAMILIES = {
    "ewc": "regularisation",
    "replay_random": "replay",
    "adapters": "dynamic architecture",
    "lwf": "distillation",
}
"""The method that stands for each family."""
SCENARIOS = {"continual_classes": "with the task unknown", "continual_domains": "with the task known"}
"""The experiment of each, and its words."""

_RIVALS = {"continual_classes": ("naive", "naive_own"), "continual_domains": ("naive",)}
_LITTLE = 0.05


class _Judged(NamedTuple):
    family: str
    better: bool
    little: bool


def prevents(results: Results) -> Finding:
    """Better than naive training at the end, and surely less than five points forgotten on the way."""
    judged: dict[str, list[_Judged]] = {}
    evidence: list[str] = []
    counts = []
    for experiment, where in SCENARIOS.items():
        runs = results.get(experiment, {})
        rivals = _RIVALS[experiment]
        seeds = [s for s in range(10) if all(f"{m}-s{s}" in runs for m in (*rivals, *FAMILIES))]
        if not seeds:
            raise Missing(f"runs of naive training and of all four families {where}")
        counts.append(len(seeds))
        judged[where] = [_judge(runs, method, rivals, seeds) for method in FAMILIES]
        evidence += [_told(experiment, where, method, seeds) for method in (*rivals, *FAMILIES)]
    return Finding(_answer(judged), tuple(evidence), (), min(counts))


def _judge(runs: Mapping[str, Record], method: str, rivals: Sequence[str], seeds: Sequence[int]) -> _Judged:
    mine = [runs[f"{method}-s{seed}"] for seed in seeds]
    gaps = [between(mine, [runs[f"{rival}-s{seed}"] for seed in seeds]) for rival in rivals]
    better = all(gap.mean > 0 and gap.p <= LEVEL / (len(FAMILIES) * len(rivals)) for gap in gaps)
    return _Judged(FAMILIES[method], better, _at_most([r["metrics"]["forgetting"] for r in mine]) < _LITTLE)


def _at_most(values: Sequence[float]) -> float:
    """The upper confidence bound of their mean at 95%, by Student's t; of one value, itself."""
    return two_sources(np.array(values, dtype=float), 0.0, np.inf).bound()


def _answer(judged: Mapping[str, Sequence[_Judged]]) -> str:
    every = [one for some in judged.values() for one in some]
    if all(one.better and one.little for one in every):
        return "holds"
    if not any(one.better for one in every):
        return "fails"
    parts = []
    for where, some in judged.items():
        kinds = {
            "prevented by": [one.family for one in some if one.better and one.little],
            "lessened by": [one.family for one in some if one.better and not one.little],
            "no clear gain from": [one.family for one in some if not one.better],
        }
        said = ", ".join(f"{kind} {listed(names)}" for kind, names in kinds.items() if names)
        parts.append(f"{where} forgetting is {said}")
    return "holds with a condition: " + "; ".join(parts)


def _told(experiment: str, where: str, method: str, seeds: Sequence[int]) -> str:
    def every(key: str) -> str:
        return " · ".join(cite(f"{experiment}/{method}-s{s}", f"metrics.{key}") for s in seeds)

    family = f" ({FAMILIES[method]})" if method in FAMILIES else ""
    return (
        f"{where}, `{method}`{family}: right at the end {every('accuracy .1%')}, forgotten "
        f"{every('forgetting .1%')} (seeds: {len(seeds)})"
    )


def by_method(runs: Mapping[str, Record]) -> list[dict[str, Any]]:
    """The methods of one experiment over their seeds, a row each, the most accurate first.

    Args:
        runs: from a run's name to its record, as :func:`topk_lib.records.load_all` gives them.

    Returns:
        For each ``method`` the number of ``seeds``; ``accuracy`` on all test texts at the end, its mean, and
        ``lowest`` and ``highest`` seed; the means of ``forgetting``, ``backward transfer`` and ``forward
        transfer``; ``kept MB`` for the sake of earlier tasks; and ``seconds`` of training, all tasks.
    """
    found: dict[str, list[Mapping[str, Any]]] = {}
    for record in runs.values():
        found.setdefault(record["settings"]["method"], []).append(record["metrics"])
    rows = []
    for method, metrics in found.items():
        every = [float(m["accuracy"]) for m in metrics]
        row = {"method": method, "seeds": len(every), "accuracy": float(np.mean(every)),
               "lowest": min(every), "highest": max(every)}  # fmt: skip
        for key in ("forgetting", "backward_transfer", "forward_transfer"):
            row[key.replace("_", " ")] = float(np.mean([m[key] for m in metrics]))
        row["kept MB"] = float(np.mean([m["kept_bytes"] for m in metrics])) / 1e6
        row["seconds"] = float(np.mean([sum(m["train_seconds"]) for m in metrics]))
        rows.append(row)
    return sorted(rows, key=lambda row: -float(row["accuracy"]))
