"""The study of the three products, whole, on the embedded sets and with few steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from topk_lib import records
from topk_lib.claims.compare import wrong
from topk_lib.studies import products
from topk_lib.studies.base import Made, Run


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[str], Made]]:
    small = {"_STEPS": 100, "_TRAINED": ("ids", "both"), "_LOSS_KS": (5,), "_QUERIES": 4, "_CELLS": 8,
             "_PROBES": (1, 8), "_REPLAYS": 4, "_TEXTS": 3}  # fmt: skip
    for name, value in small.items():
        monkeypatch.setattr(products, name, value)
    monkeypatch.setenv("TOPK_RESULTS", str(tmp_path))
    monkeypatch.delenv("TOPK_DATA", raising=False)
    caches: list[Any] = [products._task, products._vectors]
    for cached in caches:
        cached.cache_clear()
    runs: dict[str, Run] = {one.name: one for one in products.runs(gpu=False)}

    def make(name: str) -> Made:
        made = runs[name].measure()
        records.write(
            "products", name, metrics=made.metrics, settings=made.settings, data=made.data, seconds=1
        )
        return made

    yield make
    for cached in caches:
        cached.cache_clear()


def test_the_choice_comes_first_and_no_run_twice() -> None:
    names = [one.name for one in products.runs(gpu=False)]
    assert names[0] == "recommend-dev"
    assert len(set(names)) == len(names)
    drawn = ("recommend-both", "recommend-ids", "monitor-", "support-logistic-e")
    trained = {name.rpartition("-s")[0] for name in names if name.startswith(drawn)}
    assert all({f"{name}-s{seed}" for seed in range(3)} <= set(names) for name in trained)


def test_without_earlier_ratings_nothing_is_recommended(study: Callable[[str], Made]) -> None:
    with pytest.raises(ValueError, match="chosen on earlier ratings first"):
        study("recommend-popular-s0")


def test_the_recommender_is_chosen_and_tested(study: Callable[[str], Made]) -> None:
    dev = study("recommend-dev")
    assert set(dev.metrics["both-softmax"]) == {"50", "100"}
    found = dev.metrics["neighbours"]
    assert found[str(products.chosen("neighbours")["shrink"])] == max(found.values())
    assert products.chosen("both")["steps"] in (50, 100)
    assert products.chosen("ids", "topk")["k"] == 5
    made = {name: study(f"recommend-{name}-s0") for name in ("popular", "vectors", "both", "both-topk")}
    for name, one in made.items():
        metrics, data = one.metrics, one.data
        assert len(metrics["people"]) == data["people"]
        assert metrics["recall_10"]["mean"] == pytest.approx(sum(metrics["people"]) / data["people"])
        assert metrics["ndcg_10"]["mean"] <= metrics["recall_10"]["mean"] <= metrics["recall_50"]["mean"]
        assert metrics["recall_10"]["low"] <= metrics["recall_10"]["mean"] <= metrics["recall_10"]["high"]
        assert data["cold_events"] > 0
        assert data["n_eval"] > dev.data["n_eval"] / 2
        assert 0 <= metrics["cold_among"]["mean"] <= 1, name
    assert dev.data["cuts"]["dev"] < dev.data["cuts"]["test"]
    # Popularity tells nothing among films that nobody has rated.
    assert made["popular"].metrics["cold_recall_10"]["mean"] == 0


def test_an_index_is_raced(study: Callable[[str], Made]) -> None:
    study("recommend-dev")
    metrics = study("recommend-index").metrics
    assert list(metrics) == ["170", "1700"]
    for rows in metrics.values():
        assert rows["hard_topk"]["found"] == rows["torch.topk"]["found"] == 1
        assert rows["sklearn"]["found"] > 0.9
        assert rows["cells-1"]["found"] <= rows["cells-8"]["found"]
        assert all(rows[way]["milliseconds"] > 0 for way in ("hard_topk", "sklearn", "cells-8"))


def test_the_desk_is_measured(study: Callable[[str], Made]) -> None:
    made = study("support-logistic-e5-s1")
    assert made.metrics["accuracy"] > made.metrics["commonest"]
    assert made.settings["examples"] == 5
    few = study("support-logistic-e10-tfidf-k8-s0")
    assert few.metrics["tokens"] <= 8
    assert few.data["n_eval"] == made.data["n_eval"] > 40
    assert few.data["eval_fingerprint"] == made.data["eval_fingerprint"]
    each = wrong({"run": "few", "metrics": few.metrics, "data": few.data})
    assert each.mean() == pytest.approx(1 - few.metrics["accuracy"])


def test_reading_is_timed_whole_and_in_part(study: Callable[[str], Made]) -> None:
    metrics = study("reading").metrics
    for product, ks in (("support", (8, 12)), ("monitor", (12, 24))):
        assert set(metrics[product]) == {"all", *(f"tfidf-k{k}" for k in ks)}
        assert all(row["texts_per_second"] > 0 for row in metrics[product].values())


def test_the_monitor_is_measured(study: Callable[[str], Made]) -> None:
    made = study("monitor-words-s0")
    assert 0 < made.metrics["accuracy"] <= 1
    assert set(made.metrics["alarms"]) == {"e-detector", "cusum", "window"}
    for row in made.metrics["alarms"].values():
        assert 0 <= row["false_alarms"] <= 1
    few = study("monitor-vectors-first-k12-s0")
    assert few.metrics["tokens"] <= 12
    each = wrong({"run": "few", "metrics": few.metrics, "data": few.data})
    assert each.mean() == pytest.approx(1 - few.metrics["accuracy"])


def test_the_embedded_sets_stay_out_of_the_course_s_records(
    study: Callable[[str], Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = {one.name: one for one in products.runs(gpu=False)}
    monkeypatch.delenv("TOPK_RESULTS")
    for name in ("recommend-dev", "support-words-e5-s0", "monitor-words-s0"):
        with pytest.raises(ValueError, match="records are of public sets, and they are not at hand"):
            runs[name].measure()
