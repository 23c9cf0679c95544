"""The study of questions: what is asked in which order, and whole runs on a few embedded questions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from topk_lib import records
from topk_lib.data import EMBEDDED, source_of
from topk_lib.models import load_encoder
from topk_lib.studies import answers
from topk_lib.studies.base import Made
from topk_lib.tasks.relevance import RULES
from topk_lib.tasks.spans import train_reader


@pytest.fixture
def study(
    tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Callable[[str], Made]]:
    """Runs by their name, on a few embedded questions, with a random model of the encoder's words."""
    tokenizer = load_encoder()[1]
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1,
    )  # fmt: skip
    pair = LlamaForCausalLM(config).eval(), tokenizer
    few = dict.fromkeys(answers._ASKED, 3)
    for name, value in {"_ASKED": few, "_DEV": {"en": 3, "zh": 3}, "_SPANS": 6, "_EPOCHS": 1}.items():
        monkeypatch.setattr(answers, name, value)
    monkeypatch.setattr(answers, "_model", lambda: pair)
    monkeypatch.setattr(answers, "KS", {"sentences": (1,), "tokens": (8,)})
    small = partial(train_reader, name=tiny_encoder, length=128, stride=20)
    monkeypatch.setattr(answers, "train_reader", small)
    monkeypatch.setenv("TOPK_RESULTS", str(tmp_path / "results"))
    monkeypatch.delenv("TOPK_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    answers._rules.cache_clear()
    runs = {one.name: one for one in answers.runs(gpu=False)}

    def make(name: str) -> Made:
        made = runs[name].measure()
        records.write(
            "answers", name, metrics=made.metrics, settings=made.settings, data=made.data, seconds=1
        )
        return made

    yield make
    answers._rules.cache_clear()


def test_the_choice_comes_before_what_is_chosen_for() -> None:
    names = [one.name for one in answers.runs(gpu=False)]
    assert len(set(names)) == len(names)
    for language in ("en", "zh"):
        asked = [name for name in names if f"-{language}-s" in name and "spans" not in name]
        assert len(asked) == (6 if language == "en" else 3)
        assert names.index(f"dev-{language}") < min(names.index(name) for name in asked)
    assert [name for name in names if name.startswith("spans")] == [f"spans-en-s{seed}" for seed in range(3)]
    assert names.index("spans-en-s2") < names.index("dev-zh")


def test_nothing_is_asked_before_the_choice(study: Callable[[str], Made]) -> None:
    with pytest.raises(ValueError, match="--only answers/dev-en"):
        study("sentences-en-s0")


def test_draws_share_no_question(study: Callable[[str], Made]) -> None:
    """Pooled over three seeds, none counts twice."""
    drawn = [answers._drawn("en", 10**6, seed)[0] for seed in range(3)]
    assert len({question for some in drawn for question in some}) == 3 * len(drawn[0]) == 48
    assert drawn[0] != answers._load("en", "test")[0][:16]
    few = answers._drawn("en", 4, 1)
    assert few[0] == answers._drawn("en", 4, 1)[0]
    assert len(few[1]) == 4
    assert source_of(few[1]) == EMBEDDED


def test_the_embedded_set_stays_out_of_the_courses_records(
    study: Callable[[str], Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TOPK_RESULTS")
    with pytest.raises(ValueError, match="set TOPK_DATA"):
        study("dev-en")


@pytest.mark.slow
def test_sentences_and_tokens(study: Callable[[str], Made], monkeypatch: pytest.MonkeyPatch) -> None:
    dev = study("dev-en")
    assert set(dev.metrics) == set(answers.WAYS["en"])
    best = max(row["f1"] for row in dev.metrics.values())
    assert dev.metrics[answers.chosen("en")]["f1"] == best
    made = study("sentences-en-s1")
    assert set(made.metrics) == {"all", "none", "oracle-k1", *(f"{rule}-k1" for rule in RULES)}
    assert made.settings["prompt"] == answers.chosen("en")
    assert made.settings["strength"] in (0.01, 0.1, 1.0, 10.0)
    rows = made.metrics
    assert rows["all"]["there"] == rows["oracle-k1"]["there"] == 1
    assert rows["none"]["there"] == rows["none"]["tokens"] == 0
    assert rows["none"]["prompt_tokens"] < rows["first-k1"]["prompt_tokens"] < rows["all"]["prompt_tokens"]
    for row in rows.values():
        assert row["f1"] == pytest.approx(np.mean(row["each"]), abs=1e-4)
        assert len(row["each"]) == 3
        assert 0 < row["select_seconds"] < row["seconds"]
        missing = np.unpackbits(np.frombuffer(bytes.fromhex(row["missing"]), dtype=np.uint8), count=3)
        assert row["there"] == pytest.approx(1 - missing.mean())
    tokens = study("tokens-en-s0").metrics
    assert set(tokens) == {f"{rule}-k8" for rule in RULES}
    assert all(row["tokens"] == 8 for row in tokens.values())

    def never(*_: Any, **__: Any) -> list[str]:
        return []

    monkeypatch.setattr(answers, "judge", never)  # what was measured is not measured again
    assert study("sentences-en-s1").metrics == made.metrics
    with pytest.raises(TypeError):
        study("sentences-en-s2")


@pytest.mark.slow
def test_what_is_kept_of_all_test_questions(study: Callable[[str], Made]) -> None:
    made = study("kept-zh")
    assert made.data["n_eval"] == 48
    assert made.data["n_fit"] == 8
    for unit, ks in answers._MORE.items():
        rows = made.metrics[unit]
        for rule in (*RULES, "oracle"):
            shares = [rows[f"{rule}-k{k}"]["there"] for k in ks]
            assert shares == sorted(shares)  # k pieces are among k + 1
            assert len(rows[f"{rule}-k{ks[0]}"]["by_draw"]) == (3 if rule == "random" else 1)
            assert all(rows[f"{rule}-k{k}"]["tokens"] <= rows["all"]["tokens"] for k in ks)
        assert rows["all"]["pieces"] > 3
    assert made.metrics["sentences"]["oracle-k5"]["there"] == 1


@pytest.mark.slow
def test_spans(study: Callable[[str], Made]) -> None:
    made = study("spans-en-s0")
    rows = made.metrics
    assert set(rows) == {
        "all", "oracle-k1", "trained-k1", "first-k1", "sentence", "epochs", "train_seconds"
    }  # fmt: skip
    assert len(rows["epochs"]) == 1
    assert rows["oracle-k1"]["tokens"] < rows["all"]["tokens"]
    assert rows["all"]["there"] == 1
    assert rows["trained-k1"]["there"] <= 1
    assert rows["sentence"]["exact"] == 0  # no sentence is an answer
    assert made.data["n_train"] == 96
    assert made.data["n_eval"] == 6
    assert made.data["train_fingerprint"] != made.data["eval_fingerprint"]
