"""The study of learning task after task, on a tiny encoder and the embedded sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from topk_lib import claims
from topk_lib.data import load_set
from topk_lib.models import load_encoder
from topk_lib.studies import continual
from topk_lib.studies.continual import METHODS, Choice, Texts, chosen, continual_run
from topk_lib.training.continual import Schedule, labelled

TASKS = {"a": ["change_pin", "pin_blocked"], "b": ["exchange_rate", "country_support"]}


@pytest.fixture(autouse=True)
def _small(tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny encoder, and sequences as small as the embedded sets allow."""
    monkeypatch.delenv("TOPK_DATA", raising=False)
    monkeypatch.setenv("TOPK_IMDB", "embedded")
    monkeypatch.setattr(continual, "load_encoder", lambda **options: load_encoder(tiny_encoder, **options))
    for name, value in {"_EACH": 2, "_TRAIN": 4, "_DEV": 3, "_INTENTS": 4, "_DOMAIN_TRAIN": 16}.items():
        monkeypatch.setattr(continual, name, value)


def texts(tokenizer: Any) -> Texts:
    train, test = (load_set("banking77", "embedded", split=split, quiet=True) for split in ("train", "test"))
    names = {name for classes in TASKS.values() for name in classes}
    rows = [[one for one in labelled(data, tokenizer, each=3) if one[1] in names] for data in (train, test)]
    return Texts(TASKS, rows[0], rows[1], {"source": "a test"})


@pytest.mark.parametrize("method", METHODS)
def test_every_method_makes_a_record(method: str, tiny_encoder: Path) -> None:
    own = texts(load_encoder(tiny_encoder)[1])
    schedule = Schedule(epochs=1, batch_size=4)
    made = continual_run("classes", method, 0, Choice(1.0, method == "lwf"), schedule=schedule, texts=own)
    m = json.loads(json.dumps(made.metrics, allow_nan=False))
    assert m["matrix"][0][1] is None
    wrong = np.unpackbits(np.frombuffer(bytes.fromhex(m["wrong"]), dtype=np.uint8))[: len(own.test)]
    assert m["accuracy"] == pytest.approx(1 - wrong.mean())
    assert m["average_accuracy"] == pytest.approx(np.mean(m["matrix"][1]))  # both tasks have as many texts
    assert (m["kept_bytes"] > 0) == (method in ("ewc", "lwf", "adapters", "joint") or "replay" in method)
    assert (m["trained"] == 0) == (method == "means")
    assert len(m["train_seconds"]) == 2
    assert made.settings["tasks"] == TASKS
    record = {"settings": made.settings, "metrics": m}
    assert claims.by_method({"one": record})[0]["method"] == method


def test_what_needs_no_choice_comes_first() -> None:
    labels = [one.label for one in continual.runs(gpu=False)]
    assert len(set(labels)) == len(labels)
    assert labels.index("continual_classes/joint-s2") < labels.index("continual_dev/classes-lwf-own-1")
    assert labels.index("continual_dev/classes-lwf-own-1") < labels.index("continual_classes/ewc-s0")
    assert labels.index("continual_classes/lwf-s2") < labels.index("continual_domains/naive-s0")
    for scenario in ("classes", "domains"):
        for method in METHODS:
            expected = 0 if (scenario, method) == ("domains", "naive_own") else 3
            assert sum(label.startswith(f"continual_{scenario}/{method}-s") for label in labels) == expected


def test_the_choice_is_the_best_of_the_dev_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOPK_RESULTS", str(tmp_path))
    assert chosen("classes", "naive") == Choice(0.0, False)
    assert chosen("classes", "naive_own") == chosen("domains", "naive") == Choice(0.0, True)
    with pytest.raises(ValueError, match=r"first topk-lib study continual --only continual_dev/classes-ewc"):
        chosen("classes", "ewc")
    (tmp_path / "continual_dev").mkdir()
    for name, strength, within, accuracy in (("a", 10.0, True, 0.5), ("b", 100.0, False, 0.7)):
        settings = {"scenario": "classes", "method": "ewc", "strength": strength, "within": within}
        record = {"settings": settings, "metrics": {"average_accuracy": accuracy}}
        (tmp_path / "continual_dev" / f"{name}.cpu.json").write_text(json.dumps(record))
    assert chosen("classes", "ewc") == Choice(100.0, False)
    with pytest.raises(ValueError, match="chosen from records that are not there yet"):
        chosen("domains", "ewc")


def test_every_seed_is_tested_on_the_same(tiny_encoder: Path) -> None:
    tokenizer = load_encoder(tiny_encoder)[1]
    for make, tasks in ((continual._classes, 7), (continual._domains, 4)):
        first, second = make(tokenizer, 0, False), make(tokenizer, 1, False)
        assert len(first.tasks) == tasks
        assert first.data["eval_fingerprint"] == second.data["eval_fingerprint"]
        assert first.data["train_fingerprint"] != second.data["train_fingerprint"]
        assert [name for _, name in first.test] == [name for _, name in second.test]
        assert list(first.tasks.items()) != list(second.tasks.items())


@pytest.mark.parametrize("make", [continual._classes, continual._domains])
def test_nothing_is_chosen_on_what_was_learned(make: Any, tiny_encoder: Path) -> None:
    found = make(load_encoder(tiny_encoder)[1], 0, True)
    learned = {tuple(ids) for ids, _ in found.train}
    assert found.test
    assert not [ids for ids, _ in found.test if tuple(ids) in learned]


def test_a_set_with_too_few_intents_gets_a_sentence(
    monkeypatch: pytest.MonkeyPatch, tiny_encoder: Path
) -> None:
    tokenizer = load_encoder(tiny_encoder)[1]
    monkeypatch.setattr(continual, "_EACH", 11)
    with pytest.raises(ValueError, match=r"needs the 77 intents .* has 14: set TOPK_DATA"):
        continual._classes(tokenizer, 0, False)
    monkeypatch.setattr(continual, "_INTENTS", 60)
    with pytest.raises(ValueError, match=r"needs 60 intents of banking77 and of clinc_oos"):
        continual._domains(tokenizer, 0, False)
