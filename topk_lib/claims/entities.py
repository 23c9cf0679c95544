"""What the study of names found, over its seeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

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
_MEASURES = ("f1", "f1_unseen", "recall_unseen", "f1_surface", "names_kept")


def leaving(found: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """One row a share k and rule, k falling, rules in the order of :data:`NAMES`.

    A row has ``k``, ``rule``, ``seeds`` (how many), for each measure the mean, the ``least`` and the ``most``
    of them, and where they were counted ``flops``, a post, and ``texts_per_second``. ``beside`` says how its
    F1 on unseen names compares with that of as many layers for all tokens: "ahead" or "behind" where every
    seed of the one is above every seed of the other, "no telling" where they overlap or are fewer than three
    seeds. A rule without a record is left out; ``names_kept`` is lacking where all tokens take the same way,
    and ``beside`` in the rows that the others stand beside.

    Args:
        found: the records of ``results/entities``, by run.
    """
    cost = found["cost"]["metrics"] if "cost" in found else {}
    rows: list[Row] = []
    for k, depth in _DEPTHS.items():
        for rule, name in NAMES.items():
            what = f"layers{depth}" if rule == "layers" else rule
            metrics = [one["metrics"] for run, one in found.items() if run.rpartition("-s")[0] == what]
            each = metrics if rule == "layers" else [one[k] for one in metrics]
            if not each:
                continue
            row: Row = {"k": k, "rule": name, "seeds": len(each)}
            for measure in _MEASURES:
                values = [one[measure] for one in each if measure in one]
                if values:
                    row[measure] = float(np.mean(values))
                    row[f"{measure} least"], row[f"{measure} most"] = min(values), max(values)
            spent = cost.get(what if rule == "layers" else f"{rule} {k}", {})
            names = {"flops": "flops_per_post", "texts_per_second": "texts_per_second"}
            row |= {here: spent[there] for here, there in names.items() if there in spent}
            rival = next((one for one in rows if one["k"] == k and one["rule"] == NAMES["layers"]), None)
            if rival is not None and {"f1_unseen"} <= row.keys() & rival.keys():
                row["beside"] = _beside(row, rival)
            rows.append(row)
    return rows


def _beside(row: Row, rival: Row) -> str:
    if min(row["seeds"], rival["seeds"]) >= 3:
        if row["f1_unseen least"] > rival["f1_unseen most"]:
            return "ahead"
        if row["f1_unseen most"] < rival["f1_unseen least"]:
            return "behind"
    return "no telling"
