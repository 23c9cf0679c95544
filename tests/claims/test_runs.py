"""Runs as rows of a table."""

from __future__ import annotations

from typing import Any

from topk_lib import claims


def test_plain_runs_become_rows() -> None:
    accuracy = {"accuracy": 0.8, "accuracy_low": 0.78, "accuracy_high": 0.82}
    record: dict[str, Any] = {"metrics": accuracy | {"seconds": {}}}
    assert claims.runs({"gate-k16-s2": record, "gate-k64-batch-s0": record}) == [
        {"run": "gate-k16-s2", "selector": "gate", "k": 16, "seed": 2} | accuracy
    ]
