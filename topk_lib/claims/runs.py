"""The plain runs of a study as rows of a table, and who of two is ahead."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from topk_lib.claims.compare import ENOUGH, LEVEL, PLAIN, Record, between, wrong

__all__ = ["leads", "on_pairs", "runs"]

_ACCURACY = ("accuracy", "accuracy_low", "accuracy_high")


def runs(records: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """List the runs that differ in nothing but selector, k and seed, in the order given.

    Args:
        records: from a run's name to its record, as :func:`topk_lib.records.load_all` gives them.
            Names with anything else in them, such as ``gate-k64-batch-s0``, are left out.

    Returns:
        A dict a run: ``run`` (its name), ``selector``, ``k``, ``seed``, and ``accuracy`` with the ends
        ``accuracy_low`` and ``accuracy_high`` of its 95% interval, all in [0, 1], the ends where they are
        recorded.
    """
    return [
        {"run": name, "selector": plain[1], "k": int(plain[2]), "seed": int(plain[3])}
        | {key: record["metrics"][key] for key in _ACCURACY if key in record["metrics"]}
        for name, record in records.items()
        if (plain := PLAIN.fullmatch(name))
    ]


def leads(
    records: Mapping[str, Record], pairs: Iterable[tuple[str, str]], level: float = LEVEL
) -> list[dict[str, Any]]:
    """How far the first of two is ahead of the second, over all seeds that both have a record with.

    The luck is that of the reviews and, from two seeds on, that of the training as well, see
    :func:`~topk_lib.claims.compare.difference`. All that is asked in one call shares the level.

    Args:
        records: from a run's name to its record.
        pairs: names of runs without their seed, such as ("gate-k16", "linear-k16"). A pair without a
            common seed has no row.
        level: the chance to see a difference where there is none, shared by all.

    Returns:
        A dict a pair: ``first``, ``second``; ``points`` ahead, with the ends ``from`` and ``to`` of their
        interval at the shared level, 100 to the whole; ``chance``, the p-value; ``seeds``; ``luck of``:
        "reviews" or "reviews, training"; and ``so``: "ahead", "behind", "open", or "too few seeds" where
        there are fewer than three.
    """
    seeds = {
        (first, second): common
        for first, second in dict.fromkeys(pairs)
        if (common := [s for s in range(10) if {f"{first}-s{s}", f"{second}-s{s}"} <= records.keys()])
    }
    rows = []
    for (first, second), common in seeds.items():
        gap = between(*([records[f"{one}-s{s}"] for s in common] for one in (first, second)))
        low, high = gap.limits(level / len(seeds))
        clear = gap.p <= level / len(seeds)
        so = "too few seeds" if gap.seeds < ENOUGH else "open"
        if clear and gap.seeds >= ENOUGH:
            so = "ahead" if gap.mean > 0 else "behind"
        rows.append({
            "first": first, "second": second, "points": 100 * gap.mean, "from": 100 * low, "to": 100 * high,
            "chance": gap.p, "seeds": gap.seeds,
            "luck of": "reviews" if gap.seeds == 1 else "reviews, training", "so": so,
        })  # fmt: skip
    return rows


def on_pairs(records: Mapping[str, Record]) -> dict[str, Record]:
    """The same runs judged by the rewritten pairs: right is who has both texts of a pair right.

    Args:
        records: of the study ``imdb``; those that have not answered the pairs are left out.

    Returns:
        From a run to a record as :func:`leads` takes it, with ``original``, ``rewritten``, ``kept`` and
        ``blind`` of :func:`topk_lib.studies.pairs.answers` among its metrics.
    """
    found: dict[str, Record] = {}
    for run, record in records.items():
        if (row := record["metrics"].get("pairs")) is None:
            continue
        texts: Record = {"run": run, "metrics": row, "data": {"n_eval": 2 * row["n"]}}
        missed = wrong(texts).reshape(-1, 2).any(1)
        kept = {key: row[key] for key in ("original", "rewritten", "kept", "blind")}
        metrics = kept | {"accuracy": row["both"], "wrong": np.packbits(missed).tobytes().hex()}
        found[run] = {
            "run": run,
            "metrics": metrics,
            "data": {"n_eval": row["n"], "eval_fingerprint": "the embedded pairs"},
        }
    return found
