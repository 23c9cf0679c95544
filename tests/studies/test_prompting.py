"""The study of prompts: what it draws, what it measures, and whole runs with a tiny model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from topk_lib import claims, records
from topk_lib.models import load_encoder
from topk_lib.studies import prompting
from topk_lib.studies.base import Made, Run


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[str], Made]]:
    """Runs by their name, on a few embedded texts, with a random model of the encoder's words."""
    tokenizer = load_encoder()[1]
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1,
    )  # fmt: skip
    pair = LlamaForCausalLM(config).eval(), tokenizer
    for name, value in {"_N": 10, "_DEV": 6, "_FIT": 40, "_QUESTIONS": 6}.items():
        monkeypatch.setattr(prompting, name, value)
    monkeypatch.setattr(prompting, "_model", lambda *_: pair)
    monkeypatch.setenv("TOPK_RESULTS", str(tmp_path))
    monkeypatch.delenv("TOPK_DATA", raising=False)
    caches: list[Any] = [prompting._test, prompting._train, prompting._bank]
    for cached in caches:
        cached.cache_clear()
    runs = {one.name: one for one in prompting.runs(gpu=False)}

    def make(name: str) -> Made:
        one: Run = runs[name]
        made = one.measure()
        records.write(
            "prompting", name, metrics=made.metrics, settings=made.settings, data=made.data, seconds=1
        )
        return made

    yield make
    for cached in caches:
        cached.cache_clear()


def test_the_choice_comes_first_and_no_run_twice() -> None:
    names = [one.name for one in prompting.runs(gpu=False)]
    assert names[0] == "dev"
    assert len(set(names)) == len(names)
    assert len(prompting.TEMPLATES) >= 10
    assert {f"template-{name}" for name in prompting.TEMPLATES} < set(names)
    assert sum(name.startswith("read-random-k32") for name in names) == 3
    assert sum(name.startswith("read-first-k32") for name in names) == 1  # nothing is drawn
    assert sum(name.startswith("shots-first-n4-d1-o") for name in names) == 6


def test_what_is_measured_by_hand() -> None:
    odds = torch.tensor([[0.0, -1.0], [0.0, 1.0], [0.0, 2.0], [0.0, 3.0], [0.0, 4.0], [0.0, 5.0]])
    found = prompting.measured(odds, torch.tensor([0.0, 1.5]), [0, 0, 1, 1, 1, 0])
    assert found["raw"]["accuracy"] == pytest.approx(4 / 6)
    assert found["raw"]["says"] == pytest.approx(5 / 6)
    assert found["content_free"]["accuracy"] == pytest.approx(5 / 6)
    assert found["content_free"]["wrong"] == "04"  # the last of six
    assert found["auc"] == pytest.approx(6 / 9)
    # Of the texts 0, 2 and 4 the median is 2, of the others 3; each half is judged by the other's.
    assert found["median"]["says"] == 0.5
    assert found["median"]["wrong"] == "24"  # the texts 2 and 5
    assert set(prompting.measured(torch.randn(4, 3), None, [0, 1, 2, 0])) == {"raw", "median", "mass"}


def test_examples_are_of_both_labels_and_their_order_is_drawn(study: Callable[[str], Made]) -> None:
    first, labels = prompting._drawn(0, 8, 0)
    again, others = prompting._drawn(0, 8, 1)
    assert sorted(labels) == sorted(others) == [0] * 4 + [1] * 4
    assert sorted(first) == sorted(again)
    assert first != again
    assert prompting._drawn(0, 0, 0) == ([], [])


def test_without_a_template_from_the_dev_reviews_nothing_is_asked(study: Callable[[str], Made]) -> None:
    with pytest.raises(ValueError, match="chosen on dev reviews first"):
        study("read-first-k160-s0")


def test_whole_runs(study: Callable[[str], Made]) -> None:
    dev = study("dev").metrics
    template, way = prompting.chosen()
    every = [dev[name][one]["accuracy"] for name in prompting.TEMPLATES for one in prompting.WAYS]
    assert dev[template][way]["accuracy"] == max(every)
    for name in ("read-first-k160-s0", "read-first-k64-s0", "read-linear-k32-s1", "template-chat"):
        made = study(name)
        assert made.data["n_eval"] == len(made.metrics["margins"]) == 10
    for n in (2, 4, 8):
        for draw in range(3):
            made = study(f"shots-first-n{n}-d{draw}-o0")
            assert len(made.settings["labels_in_order"]) == n
    rows = {row["run"]: row for row in claims.arms(records.load_all("prompting"))}
    assert rows["shots-first-n8-d0-o0"]["tokens"] > rows["shots-first-n2-d0-o0"]["tokens"]
    assert rows["read-linear-k32-s1"]["tokens"] < rows["read-first-k64-s0"]["tokens"]
    assert not claims.verdict("C17").startswith("not yet")
    free = study("free-plain").metrics
    assert free["named"] == 0  # a random model names neither
    assert free["accuracy"] == 0
    assert len(free["first"]) == 8
    assert set(study("labels-s0").metrics) == {"8", "32", "128", "512", "2000"}


def test_the_last_tokens_and_no_others(study: Callable[[str], Made]) -> None:
    (kept,) = prompting._shorten([["one two three four five", "six"]], "last", 2, 0)
    words = prompting._model()[1].convert_ids_to_tokens
    assert [words(ids) for ids in kept] == [["five", "[SEP]"], ["six", "[SEP]"]]


def test_questions_to_a_bank(study: Callable[[str], Made]) -> None:
    words = study("bank-words").metrics
    assert words["labels"] >= 3
    assert {"raw", "content_free", "median", "mean"} < set(words)
    vectors = study("bank-vectors-s0").metrics
    assert vectors["all"]["accuracy"] > 1 / words["labels"]
    assert {"names", "sentences", "examples-1", "examples-5", "examples-10"} < set(vectors)
    assert np.isfinite([row["accuracy_low"] for row in vectors.values()]).all()


def test_cloze_without_a_masked_model(study: Callable[[str], Made]) -> None:
    with pytest.raises(ValueError, match=r"no masked model in .*10m-s0.*--only 10m-60min makes it"):
        study("cloze-10m-60min")


def test_cloze(study: Callable[[str], Made], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import BertConfig, BertForMaskedLM

    monkeypatch.chdir(tmp_path)
    tokenizer = load_encoder()[1]
    folder = tmp_path / "runs" / "pretraining" / "1m-s0" / "snapshot-10min"
    config = BertConfig(vocab_size=len(tokenizer), hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
                        intermediate_size=8, max_position_embeddings=128)  # fmt: skip
    BertForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    metrics = study("cloze-1m-10min").metrics
    assert set(metrics) == set(prompting.CLOZE)
    assert 0 <= metrics["just"]["test"]["content_free"]["accuracy"] <= 1
    assert metrics["just"]["dev"]["mass"] < 0.01  # two words among 30,522
