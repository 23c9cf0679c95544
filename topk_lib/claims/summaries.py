"""What the study of summaries found, over its seeds, each number with a bootstrap interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from topk_lib.claims.compare import Difference, Record, of_items

__all__ = ["MEASURES", "ahead", "drawn", "interval", "rows", "some_of"]

Row = dict[str, Any]

MEASURES = ("rouge1", "rouge2", "rougeL")
"""As the package rouge-score calls them: shared words, shared pairs of words, longest common subsequence."""


def interval(
    values: np.ndarray, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """The mean and the ends of its bootstrap interval (Efron, 1979).

    Texts are drawn anew, with replacement; and where there are several rows, a seed of training each, rows
    too. The differences of two methods on the same texts may be given as well.

    Args:
        values: (n,), or (seeds, n): one number a text.
        level: the share of drawn means between the ends.
        draws: how many.
        seed: of the draws.

    Raises:
        ValueError: no values.
    """
    rows = np.atleast_2d(values)
    if rows.ndim != 2 or not rows.size:
        raise ValueError(f"values must be (n,) or (seeds, n) with at least one, got shape {values.shape}")
    dice = np.random.default_rng(seed)
    seeds, n = rows.shape
    means = np.empty(draws)
    for i in range(draws):
        texts = dice.integers(n, size=n)
        means[i] = rows[dice.integers(seeds, size=seeds)][:, texts].mean()
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(rows.mean()), float(low), float(high)


def _each(found: Sequence[Record], measure: str) -> np.ndarray:
    """(seeds, abstracts)."""
    return np.array([record["metrics"]["each"][measure] for record in found])


def drawn(of: int, n: int) -> list[int]:
    """The abstracts that the language model is asked about: at most n of so many, drawn once and for all."""
    return sorted(np.random.default_rng(0).permutation(of)[:n].tolist())


def some_of(record: Record, n: int) -> Record:
    """A record of all test abstracts, cut to :func:`drawn` ones: what a rule kept of those."""
    rows = drawn(record["data"]["n_eval"], n)
    each = {name: [values[i] for i in rows] for name, values in record["metrics"]["each"].items()}
    return {**record, "data": record["data"] | {"n_eval": len(rows)}, "metrics": {"each": each}}


def ahead(first: Sequence[Record], second: Sequence[Record], measure: str = "rouge1") -> Difference:
    """How much higher the first method's ROUGE is on the same abstracts.

    Seeds and abstracts are the two sources of chance, see :func:`~topk_lib.claims.compare.of_items`.

    Args:
        first, second: records of a method, one a seed; one alone, where nothing is drawn, stands for all. Of
            several those are compared whose seed the other has, too.
        measure: one of :data:`MEASURES`.

    Raises:
        ValueError: they are of different abstracts, or have no seed in common.
    """
    if len({(r["data"]["eval_fingerprint"], r["data"]["n_eval"]) for r in (*first, *second)}) > 1:
        raise ValueError("only methods on the same abstracts can be compared")
    if min(len(first), len(second)) > 1:
        one, two = ({r["settings"]["seed"]: r for r in some} for some in (first, second))
        common = sorted(one.keys() & two.keys())
        if not common:
            raise ValueError("the two methods have no seed in common: there is nothing to compare")
        first, second = ([some[seed] for seed in common] for some in (one, two))
    return of_items(_each(first, measure) - _each(second, measure))


def rows(found: Mapping[str, Record], kind: str) -> list[Row]:
    """What a page shows: one row a rule and k, over the seeds that there are.

    Args:
        found: the records of ``results/summaries``, by run.
        kind: "extract", "write" or "tokens".

    Returns:
        For each: ``rule``, ``k`` (0: all), ``seeds``, ``records``; each measure as (mean, low, high); and
        ``words``, ``new_words``, ``with_a_new_number``, with ``tokens`` and ``seconds`` (of choosing, too)
        where a language model read.
    """
    by_rule: dict[tuple[str, int], list[Record]] = {}
    for name, record in found.items():
        if name.startswith(f"{kind}-"):
            settings = record["settings"]
            by_rule.setdefault((settings["rule"], settings["k"]), []).append(record)
    told = []
    for (rule, k), some in sorted(by_rule.items(), key=lambda item: (item[0][1], item[0][0])):
        every = [record["metrics"] for record in some]
        row: Row = {"rule": rule, "k": k, "seeds": len(some), "records": some}
        row |= {name: interval(_each(some, name)) for name in MEASURES}
        for key in ("words", "new_words", "with_a_new_number", "tokens"):
            if key in every[0]:
                row[key] = float(np.mean([one[key] for one in every]))
        if "seconds" in every[0]:
            row["seconds"] = float(np.mean([one["seconds"] + one["seconds_choosing"] for one in every]))
        told.append(row)
    return told
