"""Rows of the study of names, from records made by hand."""

from __future__ import annotations

from typing import Any

import pytest

from topk_lib.claims.entities import NAMES, leaving
from topk_lib.studies import entities


def record(**metrics: Any) -> dict[str, Any]:
    return {"metrics": metrics}


def test_rows_are_means_over_seeds_beside_their_cost() -> None:
    def shares(f1: float) -> dict[str, Any]:
        return {k: {"f1": f1 + at, "names_kept": 1 - at / 4} for at, k in enumerate(entities.SHARES)}

    timed = {"flops_per_post": 4.0, "texts_per_second": 7.0}
    found = {
        "doubt-s0": record(**shares(0.25)),
        "doubt-s1": record(**shares(0.75)),
        "layers3-s0": record(f1=0.5, losses=[1.0]),
        "whole-s0": record(f1=0.9),
        "cost": {"metrics": {"layers3": {"flops_per_post": 3.0}, "doubt 1/2": timed}},
    }
    rows = {(row["k"], row["rule"]): row for row in leaving(found)}
    assert list(rows) == [
        *((k, NAMES["doubt"]) for k in ("all", "1/2")),
        *(("1/4", NAMES[rule]) for rule in ("layers", "doubt")),
    ]
    half = rows["1/2", NAMES["doubt"]]
    assert (half["seeds"], half["f1"], half["f1 least"], half["f1 most"]) == (2, 1.5, 1.25, 1.75)
    assert (half["names_kept"], half["flops"], half["texts_per_second"]) == (0.75, 4.0, 7.0)
    shallow = rows["1/4", NAMES["layers"]]
    assert shallow["f1"] == pytest.approx(0.5)
    assert shallow["flops"] == 3
    assert "names_kept" not in shallow
    assert "texts_per_second" not in shallow
    assert leaving({}) == []


def test_rules_and_depths_are_the_study_s() -> None:
    found = {f"layers{depth}-s0": record(f1=float(depth)) for depth in entities.DEPTHS.values()}
    assert {row["k"]: row["f1"] for row in leaving(found)} == entities.DEPTHS
    assert set(NAMES) == {"layers", *entities.RULES}
