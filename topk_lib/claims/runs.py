"""The plain runs of a study as rows of a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from topk_lib.claims.compare import PLAIN

__all__ = ["runs"]


def runs(records: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """List the runs that differ in nothing but selector, k and seed, in the order given.

    Args:
        records: from a run's name to its record, as :func:`topk_lib.records.load_all` gives them.
            Names with anything else in them, such as ``gate-k64-batch-s0``, are left out.

    Returns:
        A dict a run: ``run`` (its name), ``selector``, ``k``, ``seed``, and ``accuracy`` with the ends
        ``accuracy_low`` and ``accuracy_high`` of its 95% interval, all three in [0, 1].
    """
    return [
        {"run": name, "selector": plain[1], "k": int(plain[2]), "seed": int(plain[3])}
        | {key: record["metrics"][key] for key in ("accuracy", "accuracy_low", "accuracy_high")}
        for name, record in records.items()
        if (plain := PLAIN.fullmatch(name))
    ]
