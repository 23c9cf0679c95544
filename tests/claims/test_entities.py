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
        *((k, NAMES["doubt"]) for k in ("all", "3/4", "1/2")),
        *(("1/4", NAMES[rule]) for rule in ("layers", "doubt")),
    ]
    half = rows["1/2", NAMES["doubt"]]
    assert (half["seeds"], half["f1"], half["f1 least"], half["f1 most"]) == (2, 2.5, 2.25, 2.75)
    assert (half["names_kept"], half["flops"], half["texts_per_second"]) == (0.5, 4.0, 7.0)
    shallow = rows["1/4", NAMES["layers"]]
    assert shallow["f1"] == pytest.approx(0.5)
    assert shallow["flops"] == 3
    assert "names_kept" not in shallow
    assert "texts_per_second" not in shallow
    assert leaving({}) == []


@pytest.mark.parametrize(
    ("seeds", "mine", "said"),
    [(3, 0.31, "ahead"), (3, 0.19, "behind"), (3, 0.27, "no telling"), (2, 0.31, "no telling")],
)
def test_a_rule_is_ahead_where_all_its_seeds_are(seeds: int, mine: float, said: str) -> None:
    found: dict[str, Any] = {}
    for seed in range(seeds):
        found[f"layers4-s{seed}"] = record(f1_unseen=0.25 + 0.02 * seed)
        found[f"random-s{seed}"] = record(**{k: {"f1_unseen": mine + 0.02 * seed} for k in entities.SHARES})
    rows = {(row["k"], row["rule"]): row for row in leaving(found)}
    assert rows["1/2", NAMES["random"]]["beside"] == said
    assert "beside" not in rows["1/2", NAMES["layers"]]
    assert "beside" not in rows["1/4", NAMES["random"]]  # nothing to stand beside


def test_rules_and_depths_are_the_study_s() -> None:
    found = {f"layers{depth}-s0": record(f1=float(depth)) for depth in entities.DEPTHS.values()}
    assert {row["k"]: row["f1"] for row in leaving(found)} == entities.DEPTHS
    assert set(NAMES) == {"layers", *entities.RULES}
