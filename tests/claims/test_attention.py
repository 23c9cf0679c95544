"""Tables of the study of attention, from made-up records."""

from __future__ import annotations

from typing import Any

from topk_lib.claims import attention


def record(rows: dict[str, Any], key: str = "rows") -> dict[str, Any]:
    return {"metrics": {key: rows}}


FOUND = {
    "joined-n1024-s0": record({"full": {"late": 3.0}, "window-64": {"late": 3.5},
                               "no-sinks-64": {"late": 6.0}}),
    "joined-n1024-s1": record({"full": {"late": 4.0}, "window-64": {"late": 5.0},
                               "window-128": {"late": 4.1}}),
    "needle-n1024-s0": record({"full": {"accuracy": 1.0}, "told-votes-64": {"accuracy": 0.5},
                               "asked-votes-64": {"accuracy": 1.0}}),
    "needle-n1024-s1": record({"full": {"accuracy": 1.0}, "told-votes-64": {"accuracy": 0.0}}),
    "speed": record({"exact-n2048-b4": {"seconds": 0.25, "bytes": 3_000_000}}),
    "indexer-s0": record({"16": {"indexer": 0.5}, "64": {"indexer": 0.9}}, "mass"),
    "indexer-s1": record({"16": {"indexer": 0.7}, "64": {"indexer": 0.9}}, "mass"),
}  # fmt: skip


def test_losses_are_told_above_the_full_model_over_the_draws_there_are() -> None:
    table = attention.losses(FOUND, "joined-n1024-")
    assert list(table.columns) == [64, 128]
    assert table.loc["window", 64] == "0.75 (0.50 to 1.00)"
    assert table.loc["no-sinks"].tolist() == ["3.00", ""]


def test_recall_by_when_one_asks() -> None:
    table = attention.recall(FOUND, "needle-n1024-")
    assert table.loc["votes", "asked after, k = 64"] == 0.25
    assert table.loc["votes", "asked before, k = 64"] == 1.0


def test_cost_and_masses() -> None:
    cost = attention.cost(FOUND)
    assert cost.loc["exact"].to_dict() == {
        "2,048 tokens, 4 at a time: ms": 250,
        "2,048 tokens, 4 at a time: MB": 3,
    }
    assert attention.masses(FOUND)["indexer"].round(2).to_dict() == {"16": 0.6, "64": 0.9}


def test_without_records_the_tables_are_empty() -> None:
    for table in (attention.losses({}, "joined"), attention.recall({}, "needle"), attention.cost({}),
                  attention.masses({})):  # fmt: skip
        assert table.empty
