"""What the study of attention found, over its draws: tables with a row a way of choosing keys."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from topk_lib.claims.compare import Record

__all__ = ["cost", "losses", "masses", "recall", "rows_of"]

Row = Mapping[str, Any]


def rows_of(found: Mapping[str, Record], start: str) -> list[Mapping[str, Row]]:
    """The rows of each record whose run begins so.

    Args:
        found: the records of ``results/attention``, by run.
    """
    return [record["metrics"]["rows"] for run, record in sorted(found.items()) if run.startswith(start)]


def _each(draws: list[Mapping[str, Row]], value: Callable[[Row, Row], float]) -> dict[str, list[float]]:
    """By the name of a row but the one with all keys: its value beside that one, in each draw."""
    values = defaultdict(list)
    for rows in draws:
        for name, row in rows.items():
            if name != "full":
                values[name].append(value(row, rows["full"]))
    return values


def losses(found: Mapping[str, Record], start: str) -> pd.DataFrame:
    """A row a way, a column for each k: nats above the loss with all keys, as "mean (least to greatest)", of
    one draw the number alone."""
    table: dict[int, dict[str, str]] = defaultdict(dict)
    for name, values in _each(rows_of(found, start), lambda row, full: row["late"] - full["late"]).items():
        way, _, k = name.rpartition("-")
        mean = sum(values) / len(values)
        spread = f" ({min(values):.2f} to {max(values):.2f})" if len(values) > 1 else ""
        table[int(k)][way] = f"{mean:.2f}{spread}"
    return pd.DataFrame({k: table[k] for k in sorted(table)}).fillna("")


def recall(found: Mapping[str, Record], start: str) -> pd.DataFrame:
    """A row a way, two columns for each k: the mean share of facts that are known, by when one asks.

    The columns have one level: a head with two would not be valid HTML.
    """
    words = {"told": "asked after", "asked": "asked before"}
    table: dict[tuple[str, int], dict[str, float]] = defaultdict(dict)
    for name, values in _each(rows_of(found, start), lambda row, full: row["accuracy"]).items():
        when, _, rest = name.partition("-")
        way, _, k = rest.rpartition("-")
        table[words[when], int(k)][way] = sum(values) / len(values)
    return pd.DataFrame({f"{when}, k = {k}": table[when, k] for when, k in sorted(table)})


def cost(found: Mapping[str, Record]) -> pd.DataFrame:
    """A row a way: milliseconds a new token and megabytes of the cache, for each context and batch."""
    table: dict[str, dict[str, float]] = defaultdict(dict)
    for rows in rows_of(found, "speed"):
        for name, row in rows.items():
            way, n, batch = name.rsplit("-", 2)
            place = f"{int(n[1:]):,} tokens, {batch[1:]} at a time"
            table[f"{place}: ms"][way] = 1000 * row["seconds"]
            table[f"{place}: MB"][way] = row["bytes"] / 1e6
    return pd.DataFrame(table)


def masses(found: Mapping[str, Record]) -> pd.DataFrame:
    """A row for each k, a column a way: the mean share of the attention that its keys hold."""
    tables = [pd.DataFrame(r["metrics"]["mass"]).T for n, r in found.items() if n.startswith("indexer-s")]
    return sum(tables[1:], tables[0]) / len(tables) if tables else pd.DataFrame()
