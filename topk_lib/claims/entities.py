"""What the study of names found, over its seeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from topk_lib.claims.compare import ENOUGH, LEVEL, two_sources

__all__ = ["NAMES", "leaving"]

Row = dict[str, Any]

NAMES = {
    "layers": "fewer layers, all tokens",
    "doubt": "those the tagger doubts",
    "capital": "capital letters",
    "attention": "most attention received",
    "random": "random",
}
"""Who goes through the upper layers, as the study calls it and as pages do."""

_DEPTHS = {"all": 6, "3/4": 5, "1/2": 4, "1/4": 3}
_JUDGED = "f1_unseen"
_MEASURES = ("f1", "f1_unseen", "recall_unseen", "f1_surface", "names_kept")


def leaving(found: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """One row a share k and rule, k falling, rules in the order of :data:`NAMES`.

    A row has ``k``, ``rule``, ``seeds`` (how many), for each measure the mean, the ``least`` and the ``most``
    of them, and where they were counted ``flops``, a post, and ``texts_per_second``. A rule without a record
    is left out. Where all tokens take the same way, ``names_kept`` is lacking, and ``layers`` says how many.

    The rows of rules also stand beside as many layers for all tokens, on the seeds that both have: ``points``
    ahead in F1 on unseen names, 100 to the whole; from two such seeds on the ends ``from`` and ``to`` of
    their interval, at 5% for all rows together; and ``so``: "ahead", "behind", "open", or "too few seeds"
    where there are fewer than three. The luck is that of the training: F1 belongs to all posts together.

    Args:
        found: the records of ``results/entities``, by run.
    """
    cost = found["cost"]["metrics"] if "cost" in found else {}
    arms: dict[str, dict[str, Any]] = {}
    for run, one in found.items():
        what, _, seed = run.rpartition("-s")
        arms.setdefault(what, {})[seed] = one["metrics"]
    rows: list[Row] = []
    gaps: dict[int, np.ndarray] = {}
    for k, depth in _DEPTHS.items():
        rival = arms.get(f"layers{depth}", {})
        for rule, name in NAMES.items():
            what = f"layers{depth}" if rule == "layers" else rule
            arm = {seed: one if rule == "layers" else one[k] for seed, one in arms.get(what, {}).items()}
            if not arm:
                continue
            row: Row = {"k": k, "rule": name, "seeds": len(arm)}
            if rule == "layers":
                row["layers"] = depth
            for measure in _MEASURES:
                values = [one[measure] for one in arm.values() if measure in one]
                if values:
                    row[measure] = float(np.mean(values))
                    row[f"{measure} least"], row[f"{measure} most"] = min(values), max(values)
            spent = cost.get(what if rule == "layers" else f"{rule} {k}", {})
            names = {"flops": "flops_per_post", "texts_per_second": "texts_per_second"}
            row |= {here: spent[there] for here, there in names.items() if there in spent}
            pairs = [(arm[seed].get(_JUDGED), rival[seed].get(_JUDGED)) for seed in arm if seed in rival]
            each = np.array([a - b for a, b in pairs if a is not None and b is not None])
            if rule != "layers" and len(each):
                gaps[len(rows)] = each
            rows.append(row)
    for at, each in gaps.items():
        rows[at] |= _beside(each, LEVEL / len(gaps))
    return rows


def _beside(gaps: np.ndarray, level: float) -> Row:
    row: Row = {"points": 100 * float(gaps.mean()), "so": "too few seeds"}
    if len(gaps) > 1:
        low, high = two_sources(gaps, 0.0, np.inf).limits(level)
        row |= {"from": 100 * low, "to": 100 * high}
        if len(gaps) >= ENOUGH:
            row["so"] = "ahead" if low > 0 else "behind" if high < 0 else "open"
    return row
