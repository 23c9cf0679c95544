"""Rows of the study of three products, from records made here."""

from __future__ import annotations

from typing import Any

import pytest

from topk_lib.claims import products


def offered(recall: list[float], **more: Any) -> dict[str, Any]:
    mean = sum(recall) / len(recall)
    keys = ("recall_10", "ndcg_10", "recall_50")
    return {"metrics": {"people": recall, "seconds": 2.0} | {key: {"mean": mean} for key in keys} | more}


def test_ways_to_recommend_over_seeds_and_people() -> None:
    found = {
        "recommend-popular-s0": offered([0.0, 0.2, 0.4, 0.2]),
        "recommend-both-s0": offered([0.2, 0.4, 0.6, 0.4], cold_among={"mean": 0.5}),
        "recommend-both-s1": offered([0.4, 0.6, 0.8, 0.6], cold_among={"mean": 0.7}),
        "recommend-dev": {"metrics": {}},
    }
    popular, both = products.offers(found)
    assert (popular["way"], popular["seeds"], popular["recall@10"]) == ("most liked", 1, pytest.approx(0.2))
    assert both["seeds"] == 2
    assert both["recall@10"] == pytest.approx(0.5)
    assert both["low"] < 0.5 < both["high"]
    assert both["high"] - both["low"] > popular["high"] - popular["low"]  # two seeds that differ
    assert both["cold alone"] == pytest.approx(0.6)
    assert "cold alone" not in popular
    gap = products.ahead(found, "both", "popular")
    assert gap is not None
    assert gap.mean == pytest.approx(0.3)
    assert gap.seeds == 2
    assert products.ahead(found, "both", "ids") is None
    assert products.offers({}) == []


def test_desks_with_few_tokens_and_all() -> None:
    def desk(accuracy: float, tokens: int | None = None, wrong: float | None = 0.1) -> dict[str, Any]:
        metrics = {"accuracy": accuracy, "commonest": 0.02, "answered": 0.8, "wrong_given": wrong,
                   "outside_recall": 0.9, "milliseconds": 5.0}  # fmt: skip
        given = {"head": "logistic", "examples": 10, "tokens": tokens, "selector": "tfidf"}
        return {"metrics": metrics, "settings": given}

    found = {
        "support-logistic-e10-s0": desk(0.8), "support-logistic-e10-s1": desk(0.9, wrong=None),
        "support-logistic-e10-tfidf-k8-s0": desk(0.7, 8),
    }  # fmt: skip
    few, whole = products.desks(found)
    assert (few["tokens"], few["seeds"], few["accuracy"]) == ("8 (tfidf)", 1, 0.7)
    assert (whole["tokens"], whole["seeds"], whole["accuracy"]) == ("all", 2, pytest.approx(0.85))
    assert (whole["least"], whole["greatest"], whole["of these wrong"]) == (0.8, 0.9, 0.1)
    assert products.desks({}) == []


def test_readers_and_their_alarms() -> None:
    def monitor(delay: float | None) -> dict[str, Any]:
        row = {"false_alarms": 0.02, "false_alarms_high": 0.05, "found": 0.9, "early": 0.0,
               "delay_days": delay, "delay_sentences": 12.0}  # fmt: skip
        metrics = {"accuracy": 0.7, "macro_f1": 0.6, "commonest": 0.59,
                   "alarms": dict.fromkeys(("e-detector", "cusum", "window"), row)}  # fmt: skip
        return {"metrics": metrics, "settings": {"head": "vectors", "tokens": None, "selector": "tfidf"}}

    found = {"monitor-vectors-s0": monitor(3.0), "monitor-vectors-s1": monitor(None)}
    (row,) = products.monitors(found)
    assert (row["head"], row["tokens"], row["seeds"], row["accuracy"]) == ("vectors", "all", 2, 0.7)
    rows = products.alarms(found)
    assert [one["rule"] for one in rows] == ["e-detector", "CUSUM", "three errors in the last 20"]
    assert (rows[0]["delay, days"], rows[0]["found"], rows[0]["seeds"]) == (3.0, 0.9, 2)
    assert products.alarms({}) == products.monitors({}) == []


def test_ways_to_find_the_ten_best() -> None:
    way = {"milliseconds": 1.0, "milliseconds_at_once": 0.1, "found": 0.9}
    metrics = {"100": {"hard_topk": way, "cells-4": way, "cells": 8, "seconds_to_build_cells": 0.5}}
    rows = products.index({"recommend-index": {"metrics": metrics}})
    assert [(row["films"], row["way"], row["found"]) for row in rows] == [
        (100, "hard_topk", 0.9), (100, "cells-4", 0.9),
    ]  # fmt: skip
    assert products.index({}) == []
