"""The study of names: what it runs, in which order, and whole runs with a tiny tagger."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertForTokenClassification

from topk_lib import records
from topk_lib.claims.entities import NAMES, leaving
from topk_lib.models.loading import encoder_path
from topk_lib.studies import entities
from topk_lib.studies.base import Made
from topk_lib.tasks.entities import RULES, load_tagger, train_tagger


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[str], Made]]:
    """Runs by their name, on the embedded posts, with a random encoder of six thin layers."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(encoder_path())
    config = BertConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=16, num_hidden_layers=6, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=128,
    )  # fmt: skip
    BertForTokenClassification(config).base_model.save_pretrained(tmp_path / "tiny")
    tokenizer.save_pretrained(tmp_path / "tiny")

    def tiny(names: list[str], folder: Path | None = None, *, seed: int = 0) -> Any:
        return load_tagger(names, folder or tmp_path / "tiny", seed=seed)

    for name, value in {"load_tagger": tiny, "_EPOCHS": 1, "_FIT": 20, "_TIMED": 8}.items():
        monkeypatch.setattr(entities, name, value)
    monkeypatch.setenv("TOPK_RESULTS", str(tmp_path / "results"))
    monkeypatch.delenv("TOPK_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    caches: list[Any] = [entities._read, entities._seen]
    for cached in caches:
        cached.cache_clear()
    runs = {one.name: one for one in entities.runs(gpu=False)}

    def make(name: str) -> Made:
        made = runs[name].measure()
        records.write(
            "entities", name, metrics=made.metrics, settings=made.settings, data=made.data, seconds=1
        )
        return made

    yield make
    for cached in caches:
        cached.cache_clear()


def test_the_rate_comes_first_and_no_run_twice() -> None:
    names = [one.name for one in entities.runs(gpu=False)]
    assert names[0] == "dev"
    assert len(set(names)) == len(names)
    assert set(entities.RULES) < set(RULES)
    for what in (*entities.RULES, "whole", *(f"layers{layers}" for layers in entities.DEPTHS.values())):
        assert {f"{what}-s{seed}" for seed in range(3)} < set(names)


def test_a_share_and_its_depth_cost_the_same() -> None:
    below = entities.AFTER + 1
    for name, share in entities.SHARES.items():
        assert below + share * (6 - below) == entities.DEPTHS[name]


def test_without_a_rate_it_says_what_to_make(study: Callable[[str], Made]) -> None:
    with pytest.raises(ValueError, match="only entities/dev"):
        study("whole-s0")


def test_whole_runs(study: Callable[[str], Made], monkeypatch: pytest.MonkeyPatch) -> None:
    dev = study("dev").metrics
    assert dev["best"] == entities.chosen_rate()
    assert set(dev["rates"]) == {f"{one:g}" for one in entities.RATES}
    assert dev["rates"][f"{dev['best']:g}"]["f1"] == max(row["f1"] for row in dev["rates"].values())

    whole = study("whole-s0")
    assert 0 <= whole.metrics["f1_unseen"] <= 1
    assert len(whole.metrics["losses"]) == 1
    assert whole.data["n_eval"] > 0
    assert whole.settings["learning_rate"] == dev["best"]

    left = study("capital-s0").metrics
    shares = [left[name]["names_kept"] for name in entities.SHARES]
    assert shares[0] == 1
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] < 1

    # what was trained is taken up again, unless it was trained otherwise
    trained: list[Any] = []
    train = train_tagger

    def counting(*given: Any, **more: Any) -> list[float]:
        trained.append(more)
        return train(*given, **more)

    monkeypatch.setattr(entities, "train_tagger", counting)
    again = study("whole-s0").metrics
    assert not trained
    assert again == whole.metrics
    study("layers3-s0")
    assert len(trained) == 1
    rows = {(row["k"], row["rule"]): row for row in leaving(records.load_all("entities"))}
    assert rows["1/4", NAMES["layers"]]["seeds"] == 1
    assert rows["1/2", NAMES["capital"]]["names_kept"] == left["1/2"]["names_kept"]
    monkeypatch.setattr(entities, "chosen_rate", lambda: 1e-3)
    assert study("whole-s0").metrics["losses"] != whole.metrics["losses"]
    assert [one["learning_rate"] for one in trained] == [dev["best"], 1e-3]


def test_what_it_costs(study: Callable[[str], Made]) -> None:
    cost = study("cost").metrics
    flops = {name: row["flops_per_post"] for name, row in cost.items()}
    assert flops["layers6"] > flops["layers5"] > flops["layers4"] > flops["layers3"]
    for name in ("3/4", "1/2", "1/4"):
        assert flops["attention " + name] > flops["doubt " + name]  # who is chosen by attention costs more
    assert flops["random 1/2"] == flops["capital 1/2"] < flops["doubt 1/2"]
    assert flops["random 1/2"] == pytest.approx(flops["layers4"], rel=0.15)  # shares are rounded up
    assert flops["random all"] == flops["layers6"]
    assert all(row["texts_per_second"] > 0 for name, row in cost.items() if name.endswith("1/2"))


def test_plain_taggers(study: Callable[[str], Made]) -> None:
    plain = study("plain").metrics
    assert plain["lexicon"]["f1_unseen"] == 0 <= plain["linear"]["f1_unseen"]
    assert 0.5 < plain["tags"]["O"] < 1
    assert plain["tried"][f"{study('plain').settings['c']:g}"] == max(plain["tried"].values())
