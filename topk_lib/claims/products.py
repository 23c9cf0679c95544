"""What the study of three products found, over its seeds: tables for pages, and one way against another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from topk_lib.claims.compare import Difference, Record, of_items

__all__ = ["ahead", "alarms", "desks", "index", "monitors", "offers"]

Row = dict[str, Any]
Found = Mapping[str, Record]

_WAYS = {
    "popular": "most liked", "neighbours": "neighbours", "vectors": "text, encoder as it is",
    "text": "text, trained", "ids": "ratings, softmax loss", "ids-topk": "ratings, top-k loss",
    "both": "both, softmax loss", "both-topk": "both, top-k loss",
}  # fmt: skip
_RULES = {"e-detector": "e-detector", "cusum": "CUSUM", "window": "three errors in the last 20"}


def _seeds(found: Found, start: str) -> list[Record]:
    """The records of one arm, a seed each."""
    return [found[name] for seed in range(10) if (name := f"{start}-s{seed}") in found]


def _people(arm: Sequence[Record]) -> np.ndarray:
    """(seeds, people) recall@10."""
    return np.array([record["metrics"]["people"] for record in arm])


def ahead(found: Found, first: str, second: str) -> Difference | None:
    """By how much the first way's recall@10 is higher, over seeds and people; None where one is missing.

    Args:
        found: the records of ``results/products``, by run.
        first, second: such as "both" and "both-topk"; one where nothing is drawn stands for every seed.
    """
    a, b = (_seeds(found, f"recommend-{way}") for way in (first, second))
    if not a or not b:
        return None
    n = max(len(a), len(b)) if 1 in (len(a), len(b)) else min(len(a), len(b))
    a, b = (some * n if len(some) == 1 else some[:n] for some in (a, b))
    return of_items(_people(a) - _people(b))


def offers(found: Found) -> list[Row]:
    """A row a way to recommend: seeds; recall@10 with the ends of its 95% interval, NDCG@10, recall@50;
    recall@10 of cold films, among all and among the cold ones alone; and seconds to make it."""
    rows = []
    for way, name in _WAYS.items():
        arm = _seeds(found, f"recommend-{way}")
        if not arm:
            continue
        told = of_items(_people(arm))
        low, high = told.limits()
        row: Row = {"way": name, "seeds": len(arm), "recall@10": told.mean, "low": low, "high": high}
        columns = (
            ("NDCG@10", "ndcg_10"), ("recall@50", "recall_50"), ("cold", "cold_recall_10"),
            ("cold alone", "cold_among"),
        )  # fmt: skip
        for column, key in columns:
            each = [record["metrics"][key]["mean"] for record in arm if key in record["metrics"]]
            if each:
                row[column] = float(np.mean(each))
        rows.append(row | {"seconds": float(np.mean([record["metrics"]["seconds"] for record in arm]))})
    return rows


def desks(found: Found) -> list[Row]:
    """A row a desk: head, examples an intent, tokens read; and means over the seeds of what it does, with
    the least and the greatest accuracy."""
    arms = dict.fromkeys(name.rpartition("-s")[0] for name in found if name.startswith("support-"))
    rows = []
    for start in arms:
        arm = _seeds(found, start)
        given, every = arm[0]["settings"], [record["metrics"] for record in arm]
        rule = f" ({given['selector']})" if given["tokens"] else ""
        accuracy = [one["accuracy"] for one in every]
        row: Row = {
            "head": given["head"], "examples": given["examples"] or "all",
            "tokens": f"{given['tokens'] or 'all'}{rule}", "seeds": len(arm),
            "accuracy": float(np.mean(accuracy)), "least": min(accuracy), "greatest": max(accuracy),
            "commonest": every[0]["commonest"],
        }  # fmt: skip
        for column, key in (("answered", "answered"), ("of these wrong", "wrong_given"),
                            ("outside handed on", "outside_recall"), ("ms", "milliseconds")):  # fmt: skip
            row[column] = _mean([one[key] for one in every])
        rows.append(row)
    return sorted(rows, key=lambda row: (str(row["examples"]), row["tokens"], -row["accuracy"]))


def monitors(found: Found) -> list[Row]:
    """A row a way to read: head, tokens; accuracy, its least and greatest, and that of the commonest."""
    arms = dict.fromkeys(name.rpartition("-s")[0] for name in found if name.startswith("monitor-"))
    rows = []
    for start in arms:
        arm = _seeds(found, start)
        given, every = arm[0]["settings"], [record["metrics"] for record in arm]
        rule = f" ({given['selector']})" if given["tokens"] else ""
        accuracy = [one["accuracy"] for one in every]
        rows.append(
            {
                "head": given["head"], "tokens": f"{given['tokens'] or 'all'}{rule}", "seeds": len(arm),
                "accuracy": float(np.mean(accuracy)), "least": min(accuracy), "greatest": max(accuracy),
                "macro F1": float(np.mean([one["macro_f1"] for one in every])),
                "commonest": every[0]["commonest"],
            }
        )  # fmt: skip
    return rows


def alarms(found: Found, start: str = "monitor-vectors") -> list[Row]:
    """A row a rule, over the seeds: false alarms in calm replays, surges found, alarms before them, delay."""
    arm = _seeds(found, start)
    rows = []
    for rule, name in _RULES.items() if arm else ():
        every = [record["metrics"]["alarms"][rule] for record in arm]
        row: Row = {"rule": name, "seeds": len(arm)}
        columns = (
            ("false alarms", "false_alarms"), ("at most", "false_alarms_high"), ("found", "found"),
            ("too early", "early"), ("delay, days", "delay_days"), ("planted till then", "delay_sentences"),
        )  # fmt: skip
        for column, key in columns:
            row[column] = _mean([one[key] for one in every])
        rows.append(row)
    return rows


def index(found: Found) -> list[Row]:
    """A row a way to find the ten best of so many films: milliseconds a person, and the share found."""
    record = found.get("recommend-index")
    rows = []
    for films, ways in record["metrics"].items() if record else ():
        for way, row in ways.items():
            if isinstance(row, Mapping):
                rows.append(
                    {
                        "films": int(films), "way": way, "ms, one at a time": row["milliseconds"],
                        "ms, all at once": row["milliseconds_at_once"], "found": row["found"],
                    }
                )  # fmt: skip
    return rows


def _mean(values: Sequence[float | None]) -> float | None:
    """Over those that there are."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
