"""What the study of decoding found, over its seeds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["NAMES", "speculation", "writing"]

Row = dict[str, Any]

NAMES = {
    **{f"k{k}": f"k = {k}" for k in (1, 2, 5, 10, 20, 50, 200)},
    "all": "all tokens",
    **{f"p{p}": f"top_p = {p}" for p in (0.5, 0.8, 0.9, 0.95)},
    **{f"minp{p}": f"min_p = {p}" for p in (0.05, 0.1, 0.2)},
    **{f"t{t}": f"temperature {t}" for t in (0.5, 0.7, 1.3)},
    "beam": "beam search",
    "contrastive": "contrastive",
    "human": "the reviewer",
}
"""What the study calls its runs, and what pages do."""

_MEASURES = ("perplexity", "repeated_4", "own_distinct_2", "distinct_2", "in_a_loop", "self_bleu")


def writing(found: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """One row a rule, in the order of :data:`NAMES`: its name, how many seeds there are, and for each measure
    the mean, the ``least`` and the ``most`` of them; a measure that is lacking is left out.

    Args:
        found: the records of ``results/decoding``, by run.
    """
    bleu = found["self_bleu"]["metrics"]["self_bleu"] if "self_bleu" in found else {}
    by_rule: dict[str, list[Row]] = defaultdict(list)
    for run, record in found.items():
        rule = run.rpartition("-s")[0]
        if rule in NAMES:
            by_rule[rule].append(record["metrics"] | ({"self_bleu": bleu[run]} if run in bleu else {}))
    rows = []
    for rule, name in NAMES.items():
        row: Row = {"rule": name, "seeds": len(by_rule[rule])}
        for measure in _MEASURES:
            values = [one[measure] for one in by_rule[rule] if measure in one]
            if values:
                row[measure] = float(np.mean(values))
                row[f"{measure} least"], row[f"{measure} most"] = min(values), max(values)
        if row["seeds"]:
            rows.append(row)
    return rows


def speculation(found: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """One row a draft and temperature: what share of the draft stays, tokens a pass, and speed beside the
    model alone, each a mean over seeds, with the ``least`` and the ``most`` of the speed.

    Args:
        found: the records of ``results/decoding``, by run.
    """
    rows = []
    for kind, heat in (("greedy", 0), ("sampled", 1)):
        seeds = [record["metrics"] for run, record in found.items() if run.startswith(f"speculative-{kind}-")]
        for draft in seeds[0] if seeds else ():
            every = [one[draft] for one in seeds]
            if draft != "none":
                drafted = sum(one["drafted"] for one in every)
                speeds = [one["speed"] for one in every]
                rows.append(
                    {
                        "temperature": heat, "draft": draft, "seeds": len(seeds),
                        "stays": sum(one["accepted"] for one in every) / drafted if drafted else None,
                        "tokens_per_pass": float(np.mean([one["tokens_per_pass"] for one in every])),
                        "speed": float(np.mean(speeds)),
                        "speed least": min(speeds), "speed most": max(speeds),
                    }
                )  # fmt: skip
    return rows
