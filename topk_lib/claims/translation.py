"""What the study of translation found, over its seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

__all__ = ["covered", "raced", "shortened", "written_with"]

Row = dict[str, Any]
Records = Mapping[str, Mapping[str, Any]]


def written_with(found: Records, search: str = "greedy") -> list[Row]:
    """One row a way and k: BLEU, how far it lies below that with all types, and how many texts are the same.

    ``bleu`` and ``below`` are means over the seeds that there are, with the ``least`` and the ``most`` of
    them; ``below`` is taken within a seed.

    Args:
        found: the records of ``results/translation``, by run.
        search: "greedy" or "beam".
    """
    seeds = [record for run, record in found.items() if run.startswith("k-s")]
    if not seeds:
        return []
    sizes = {name: seeds[0]["settings"][name] for name in ("types", "seen")}
    rows = []
    for row in _over([one["metrics"][search] for one in seeds]):
        way, _, k = row.pop("name").partition("-")
        same = [one["metrics"]["same"].get(f"{way}-{k}" if k else way) for one in seeds]
        known = {"same": float(np.mean(same))} if search == "greedy" else {}
        size = int(k) if k else sizes["types" if way == "all" else way]
        rows.append({"way": way, "k": size, **row, **known})
    return rows


def shortened(found: Records) -> list[Row]:
    """One row a rule and share of the source that is read: BLEU as in :func:`written_with`, and ``orphans``,
    the share of the words that people wrote whose likeliest origin was not read.

    Args:
        found: the records of ``results/translation``, by run.
    """
    seeds = [record["metrics"] for run, record in found.items() if run.startswith("source-s")]
    rows = []
    for row in _over([one["test"] for one in seeds]):
        name = row.pop("name")
        rule, _, share = name.partition("-")
        orphans = [one["orphans"].get(name, 0.0) for one in seeds]
        rows.append(
            {"rule": rule, "share": float(share or 1), **row, "orphans": float(np.mean(orphans))}
        )  # fmt: skip
    return rows


def covered(found: Records) -> list[Row]:
    """One row a way and k: the share of the words that people wrote that may be written (``tokens``), and of
    sentences that may be written as they are (``sentences``).

    Args:
        found: the records of ``results/translation``, by run.
    """
    if "coverage" not in found:
        return []
    metrics = found["coverage"]["metrics"]
    rows = [
        {"way": way, "k": int(k), **row} for way, by_k in metrics["test"].items() for k, row in by_k.items()
    ]
    return [*rows, {"way": "seen", "k": metrics["seen_types"], **metrics["seen"]}]


def raced(found: Records) -> list[Row]:
    """One row a batch size, number of beams and k: captions a second, how many times faster than with all
    types, and the shares of the time that went to ``output`` (layer, softmax, choice) and the other parts.

    Args:
        found: the records of ``results/translation``, by run.
    """
    if "speed" not in found:
        return []
    rows = []
    for place, by_k in found["speed"]["metrics"].items():
        _, batch, _, beams = place.split("-")
        for name, row in by_k.items():
            told = {key: row[key] for key in ("per_second", "times_faster")}
            rows.append({"batch": int(batch), "beams": int(beams), "k": name, **told, **row["shares"]})
    return rows


def _over(seeds: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Of what :func:`~topk_lib.tasks.translation.compared` found for each seed, one row a system."""
    found = list(seeds)
    rows = []
    for name in (name for name in (found[0] if found else ()) if name != "signature"):
        here = [one for one in found if name in one]
        bleu = [one[name]["bleu"] for one in here]
        below = [one["all"]["bleu"] - one[name]["bleu"] for one in here]
        rows.append({"name": name, "seeds": len(here), **_spread("bleu", bleu), **_spread("below", below)})
    return rows


def _spread(name: str, values: list[float]) -> Row:
    return {name: float(np.mean(values)), f"{name} least": min(values), f"{name} most": max(values)}
