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

_DEPTHS = {"all": 6, "1/2": 4, "1/4": 3}
_MEASURES = ("f1", "f1_unseen", "recall_unseen", "f1_surface", "names_kept")


def leaving(found: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """One row a share k and rule, k falling, rules in the order of :data:`NAMES`.

    A row has ``k``, ``rule``, ``seeds`` (how many), for each measure the mean, the ``least`` and the ``most``
    of them, and where they were counted ``flops``, a post, and ``texts_per_second``. A rule without a record
    is left out; ``names_kept`` is lacking where all tokens take the same way.

    Args:
        found: the records of ``results/entities``, by run.
    """
    cost = found["cost"]["metrics"] if "cost" in found else {}
    rows = []
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
            rows.append(row | {here: spent[there] for here, there in names.items() if there in spent})
    return rows
