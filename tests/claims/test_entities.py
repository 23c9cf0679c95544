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
    assert (shallow["flops"], shallow["layers"]) == (3, 3)
    assert "layers" not in half
    assert "names_kept" not in shallow
    assert "texts_per_second" not in shallow
    assert leaving({}) == []


@pytest.mark.parametrize(
    ("seeds", "mine", "noise", "said"),
    [
        (3, 0.31, 0.001, "ahead"), (3, 0.19, 0.001, "behind"), (3, 0.252, 0.001, "open"),
        (3, 0.31, 0.03, "open"), (2, 0.31, 0.001, "too few seeds"), (1, 0.31, 0.0, "too few seeds"),
    ],
)  # fmt: skip
def test_a_rule_is_ahead_where_the_luck_of_the_training_cannot_be_all(
    seeds: int, mine: float, noise: float, said: str
) -> None:
    found: dict[str, Any] = {}
    for seed in range(seeds):
        luck = 0.02 * seed  # of both, so that it is none of their gap
        found[f"layers4-s{seed}"] = record(f1_unseen=0.25 + luck)
        gained = mine + luck + noise * (seed - 1)
        found[f"random-s{seed}"] = record(**{k: {"f1_unseen": gained} for k in entities.SHARES})
    found["random-s9"] = record(**{k: {"f1_unseen": 0.9} for k in entities.SHARES})  # with nobody beside it
    rows = {(row["k"], row["rule"]): row for row in leaving(found)}
    row = rows["1/2", NAMES["random"]]
    assert row["so"] == said
    if seeds > 1:
        assert row["from"] < row["points"] < row["to"]
    if seeds == 3:
        assert row["points"] == pytest.approx(100 * (mine - 0.25))
    assert "so" not in rows["1/2", NAMES["layers"]]
    assert "so" not in rows["1/4", NAMES["random"]]  # nothing to stand beside


def test_many_comparisons_share_the_level() -> None:
    def found(*rules: str) -> dict[str, Any]:
        records = {f"layers4-s{seed}": record(f1_unseen=0.25) for seed in range(3)}
        for rule in rules:
            for seed in range(3):
                f1 = {"f1_unseen": 0.285 + 0.01 * seed}
                records[f"{rule}-s{seed}"] = record(**dict.fromkeys(entities.SHARES, f1))
        return records

    alone, among = (
        next(row for row in leaving(found(*rules)) if row["rule"] == NAMES["doubt"] and row["k"] == "1/2")
        for rules in (("doubt",), entities.RULES)
    )
    assert alone["points"] == among["points"]
    assert among["to"] - among["from"] > 1.5 * (alone["to"] - alone["from"])
    assert (alone["so"], among["so"]) == ("ahead", "open")


def test_rules_and_depths_are_the_study_s() -> None:
    found = {f"layers{depth}-s0": record(f1=float(depth)) for depth in entities.DEPTHS.values()}
    assert {row["k"]: row["f1"] for row in leaving(found)} == entities.DEPTHS
    assert set(NAMES) == {"layers", *entities.RULES}
