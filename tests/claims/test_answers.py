"""Rows of the study of questions, and one way of reading against another."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from topk_lib.claims.answers import ahead, rows
from topk_lib.claims.compare import Record


def way(*each: float, **more: float) -> dict[str, Any]:
    return {"f1": sum(each) / len(each), "exact": 0.5, "each": list(each)} | more


FOUND: dict[str, Record] = {
    "kept-en": {"metrics": {"sentences": {}}},
    "dev-en": {"metrics": {"shot": way(0.0)}},
    "sentences-en-s0": {"metrics": {
        "all": way(0.5, 0.7, there=1.0, prompt_tokens=200.0, seconds=0.4),
        "overlap-k1": way(0.6, 0.6, there=0.5, prompt_tokens=90.0, seconds=0.2),
    }},
    "sentences-en-s1": {"metrics": {
        "all": way(0.2, 0.4, there=1.0, prompt_tokens=220.0, seconds=0.6),
        "overlap-k1": way(0.4, 0.6, there=1.0, prompt_tokens=110.0, seconds=0.2),
    }},
    "spans-en-s0": {"metrics": {"all": way(0.3, there=1.0), "epochs": [{"epoch": 1}], "train_seconds": 3.0}},
}  # fmt: skip


def test_one_row_a_way_over_the_draws() -> None:
    every, one = rows(FOUND, "sentences-en")
    assert (every["reads"], every["draws"]) == ("all", 2)
    assert every["f1"] == pytest.approx(0.45)
    assert (every["f1 least"], every["f1 most"]) == (pytest.approx(0.3), pytest.approx(0.6))
    assert one["there"] == 0.75
    assert one["prompt_tokens"] == 100
    assert [row["reads"] for row in rows(FOUND, "spans-en")] == ["all"]
    assert "prompt_tokens" not in rows(FOUND, "spans-en")[0]
    assert rows({}, "tokens-en") == []


def test_the_lead_is_taken_question_by_question() -> None:
    found = ahead(FOUND, "sentences-en", "overlap-k1", "all")
    assert found is not None
    gaps = np.array([[0.1, -0.1], [0.2, 0.2]])
    assert found.mean == pytest.approx(gaps.mean())
    assert found.seeds == 2
    assert found.error**2 == pytest.approx(gaps.mean(1).var(ddof=1) / 2 + gaps.var(ddof=1) / 4)
    assert ahead(FOUND, "sentences-en", "overlap-k1", "encoder-k1") is None
