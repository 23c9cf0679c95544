"""Rows of the study of decoding, from records made here."""

from __future__ import annotations

from typing import Any

import pytest

from topk_lib.claims.decoding import NAMES, speculation, writing
from topk_lib.studies.decoding import RULES


def test_rows_are_means_over_the_seeds_there_are() -> None:
    found: dict[str, dict[str, Any]] = {
        "k5-s0": {"metrics": {"perplexity": 4.0, "repeated_4": 0.1}},
        "k5-s1": {"metrics": {"perplexity": 6.0, "repeated_4": 0.3}},
        "k1-s0": {"metrics": {"perplexity": 2.0}},
        "ties-s0": {"metrics": {"float32": {}}},
        "self_bleu": {"metrics": {"self_bleu": {"k1-s0": 100.0}}},
    }
    one, five = writing(found)
    assert one == {
        "rule": "k = 1", "seeds": 1, "perplexity": 2.0, "perplexity least": 2.0, "perplexity most": 2.0,
        "self_bleu": 100.0, "self_bleu least": 100.0, "self_bleu most": 100.0,
    }  # fmt: skip
    assert (five["rule"], five["seeds"], five["perplexity"]) == ("k = 5", 2, 5.0)
    assert five["repeated_4"] == pytest.approx(0.2)
    assert (five["repeated_4 least"], five["repeated_4 most"]) == (0.1, 0.3)
    assert writing({}) == []


def test_every_rule_of_the_study_has_a_name() -> None:
    assert {*RULES, "beam", "contrastive", "human"} == set(NAMES)


def test_drafts_over_seeds() -> None:
    def seed(accepted: int, speed: float) -> dict[str, dict[str, dict[str, float]]]:
        draft = {"drafted": 10, "accepted": accepted, "tokens_per_pass": 1.5, "speed": speed}
        return {"metrics": {"none": draft, "lookup": draft}}

    (row,) = speculation({"speculative-sampled-s0": seed(2, 0.5), "speculative-sampled-s1": seed(6, 1.5)})
    assert (row["temperature"], row["draft"], row["seeds"]) == (1, "lookup", 2)
    assert (row["stays"], row["speed"], row["speed least"], row["speed most"]) == (0.4, 1.0, 0.5, 1.5)
    assert speculation({}) == []
