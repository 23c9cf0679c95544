"""The study of summaries: what it runs, in which order, and whole runs with a tiny model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from topk_lib import records
from topk_lib.claims import summaries as claims
from topk_lib.data import load_set
from topk_lib.models import load_encoder
from topk_lib.studies import summaries
from topk_lib.studies.base import Made

_N = {"train": 24, "dev": 12, "test": 20}


@pytest.fixture(scope="module")
def few() -> Iterator[None]:
    """A few embedded abstracts, whose vectors are made once, and a random model of the encoder's words."""
    tokenizer = load_encoder()[1]
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1,
    )  # fmt: skip
    pair = LlamaForCausalLM(config).eval(), tokenizer
    caches: list[Any] = [summaries._part, summaries._padded]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"_ASKED": 6, "_ASKED_DEV": 4, "_MOST": 5, "_model": lambda: pair}.items():
            patch.setattr(summaries, name, value)
        patch.setattr(
            summaries, "GATES", {name: g | {"epochs": 3} for name, g in [*summaries.GATES.items()][::3]}
        )
        patch.setattr(
            summaries,
            "load_set",
            lambda name, **more: load_set(name, "embedded", n=_N[more["split"]], **more),
        )
        for cached in caches:
            cached.cache_clear()
        yield
        for cached in caches:
            cached.cache_clear()


@pytest.fixture
def study(few: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], Made]:
    """Runs by their name, with records of their own."""
    monkeypatch.setenv("TOPK_RESULTS", str(tmp_path))
    summaries._gate.cache_clear()  # it rests on a record
    runs = {one.name: one for one in summaries.runs(gpu=False)}

    def make(name: str) -> Made:
        made = runs[name].measure()
        records.write(
            "summaries", name, metrics=made.metrics, settings=made.settings, data=made.data, seconds=1
        )
        return made

    return make


def test_choices_come_first_and_no_run_twice() -> None:
    names = [one.name for one in summaries.runs(gpu=False)]
    assert names[:2] == ["dev-gate", "dev-ask"]
    assert len(set(names)) == len(names)
    for kind in ("extract", "write"):
        assert sum(name.startswith(f"{kind}-gate-k1-") for name in names) == 3
        assert sum(name.startswith(f"{kind}-random-k3-") for name in names) == 3
        assert sum(name.startswith(f"{kind}-lead-k1-") for name in names) == 1  # nothing is drawn
    assert {"write-all", "tokens-first-k32-s0", "tokens-surprise-k64-s0"} < set(names)


def test_nothing_is_measured_before_it_is_chosen_on_dev(study: Callable[[str], Made]) -> None:
    with pytest.raises(ValueError, match=r"rests on a choice on dev abstracts: .* --only summaries/dev-gate"):
        study("extract-gate-k1-s0")
    with pytest.raises(ValueError, match=r"rests on a choice on dev abstracts: .* --only summaries/dev-ask"):
        study("write-all")


def test_whole_runs(study: Callable[[str], Made]) -> None:
    gates = study("dev-gate").metrics
    assert gates[summaries.chosen_gate()]["gain"] == max(one["gain"] for one in gates.values())
    asks = study("dev-ask").metrics
    assert asks[summaries.chosen_ask()]["rouge1"]["mean"] == max(a["rouge1"]["mean"] for a in asks.values())
    for name in ("extract-lead-k1-s0", "extract-oracle-k1-s0", "extract-oracle-k2-s0"):
        study(name)
    for seed in range(3):
        study(f"extract-gate-k1-s{seed}")
        study(f"extract-random-k1-s{seed}")
    for name in ("write-all", "write-lead-k1-s0", "write-gate-k1-s0", "tokens-surprise-k32-s0",
                 "tokens-first-k32-s0", "tokens-random-k64-s1"):  # fmt: skip
        made = study(name)
        assert made.data["n_eval"] == len(made.metrics["each"]["rouge1"]) == 6
    found = records.load_all("summaries")

    extracted = {(row["rule"], row["k"]): row for row in claims.rows(found, "extract")}
    assert extracted["gate", 1]["seeds"] == 3
    best = extracted["oracle", 1]["rouge1"]
    assert best[1] <= best[0] <= best[2]
    assert best[0] >= max(row["rouge1"][0] for (_, k), row in extracted.items() if k == 1)
    assert "tokens" not in extracted["lead", 1]
    assert extracted["oracle", 2]["words"] > extracted["oracle", 1]["words"]
    assert extracted["lead", 1]["new_words"] == 0  # what is taken from the text has nothing new

    written = {(row["rule"], row["k"]): row for row in claims.rows(found, "write")}
    assert written["lead", 1]["tokens"] < written["all", 0]["tokens"]
    assert written["all", 0]["seconds"] > 0
    tokens = {row["rule"]: row for row in claims.rows(found, "tokens")}
    assert tokens["first"]["tokens"] == tokens["surprise"]["tokens"] == 32
    assert tokens["random"]["tokens"] == 64

    lead, gate = extracted["oracle", 1]["records"], extracted["gate", 1]["records"]
    gap = claims.ahead(lead, gate)
    low, high = gap.limits()
    assert gap.mean > 0
    assert low <= gap.mean <= high
    assert claims.ahead(gate, lead).mean == pytest.approx(-gap.mean)
    with pytest.raises(ValueError, match="only methods on the same abstracts"):
        claims.ahead(lead, written["all", 0]["records"])


def test_the_same_abstracts_are_asked_about_each_time(study: Callable[[str], Made]) -> None:
    part = summaries._part("test")
    assert part.some(6) == part.some(6)
    assert set(part.some(3)) < set(part.some(6))
    assert np.array(part.some(6)).max() < len(part.abstracts)
    assert len(part.some(10**6)) == len(part.abstracts)


def test_a_verdict_has_a_reason_and_is_of_one_sentence() -> None:
    for sentence, told in summaries._READ.items():
        verdict, _, why = told.partition(": ")
        assert verdict in {"faithful", "adds", "false"}
        assert why
        assert summaries.verdict_of(sentence) == told
        assert summaries.verdict_of(sentence + " And more.") == "–"  # noqa: RUF001
