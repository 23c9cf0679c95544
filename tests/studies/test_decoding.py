"""The study of decoding, whole, with a tiny random model on the embedded reviews."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from topk_lib import records
from topk_lib.models import load_encoder
from topk_lib.studies import decoding
from topk_lib.studies.base import Run


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dict[str, Run]]:
    tokenizer = load_encoder()[1]
    tokenizer.eos_token_id = tokenizer.sep_token_id
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, eos_token_id=tokenizer.sep_token_id,
    )  # fmt: skip
    pair = LlamaForCausalLM(config).eval(), tokenizer
    small = {"_PROMPTS": 3, "_READ": 6, "_WRITE": 8, "_COUNTED": 20, "_EXITS": (1,)}
    for name, value in small.items():
        monkeypatch.setattr(decoding, name, value)
    monkeypatch.setattr(decoding, "_model", lambda *_: pair)
    monkeypatch.setenv("TOPK_RESULTS", str(tmp_path))
    for cached in (decoding._beginnings, decoding._bigrams):
        cached.cache_clear()
    yield {one.name: one for one in decoding.runs(gpu=False)}
    for cached in (decoding._beginnings, decoding._bigrams):
        cached.cache_clear()


def test_every_rule_is_written_by(runs: dict[str, Run]) -> None:
    assert {f"{name}-s{seed}" for name in decoding.RULES for seed in range(3)} < set(runs)
    made = {name: runs[f"{name}-s1"].measure() for name in ("k1", "all", "human", "beam", "contrastive")}
    for name, one in made.items():
        assert one.data["n_eval"] == 3
        assert one.metrics["perplexity"] > 1
        assert 0 <= one.metrics["repeated_4"] <= 1, name
        assert len(one.metrics["loss_of_each_eighth"]) == 8
    assert all(len(group) == 4 for group in made["k1"].metrics["texts"])
    assert len(set(made["k1"].metrics["texts"][0])) == 1  # greedy writes the same each time
    assert len(set(made["all"].metrics["texts"][0])) == 4
    assert made["k1"].metrics["distinct_2"] <= 1 / 4
    assert made["k1"].metrics["perplexity"] < made["all"].metrics["perplexity"]
    assert "texts" not in made["human"].metrics  # the reviews are not ours to print
    again = runs["all-s1"].measure()
    assert again.metrics["texts"] == made["all"].metrics["texts"]


def test_drafts_and_ties(runs: dict[str, Run]) -> None:
    told = runs["speculative-greedy-s0"].measure().metrics
    assert set(told) == {"none", "lookup", "bigram", "exit1"}
    assert told["none"]["passes"] == 16
    assert told["none"]["acceptance"] is None
    for row in told.values():
        assert row["tokens_per_pass"] == pytest.approx(16 / row["passes"])
        assert row["accepted"] + row["passes"] == 16
    ties = runs["ties-s0"].measure().metrics
    assert ties["float32"]["kept_of_50"] >= 50


def test_self_bleu_needs_texts_and_sacrebleu(runs: dict[str, Run], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="no run has written texts yet"):
        runs["self_bleu"].measure()
    made = runs["k1-s0"].measure()
    records.write(
        "decoding", "k1-s0", metrics=made.metrics, settings=made.settings, data=made.data, seconds=1
    )
    monkeypatch.setattr(decoding, "self_bleu", lambda texts: 100.0 if len(set(texts)) == 1 else 0.0)
    assert runs["self_bleu"].measure().metrics["self_bleu"] == {"k1-s0": 100.0}


def test_without_sacrebleu_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from topk_lib.decoding import measures

    def nothing(name: str) -> ModuleType | None:
        return None if name == "sacrebleu" else sys

    monkeypatch.setattr("importlib.util.find_spec", nothing)
    with pytest.raises(OSError, match=r"pip install 'topk-lib\[book\]'"):
        measures.self_bleu(["a b", "a c"])
