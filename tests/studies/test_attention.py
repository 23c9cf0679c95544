"""The study of keys on a model of two layers: what it measures is what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from topk_lib.attention import KeptCache
from topk_lib.models import load_language_model
from topk_lib.studies import attention


@pytest.fixture
def small(cut_language_model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[Any, Any]:
    loaded = load_language_model(cut_language_model)
    monkeypatch.setattr(attention, "_model", lambda: loaded)
    monkeypatch.setattr(attention, "_SIZES", {64: (2, (16,))})
    short = tuple(one for one in attention.COLOURS if len(loaded[1](f" {one}")["input_ids"]) == 1)
    monkeypatch.setattr(attention, "COLOURS", short)  # in the cut vocabulary some are two tokens
    attention._trained.cache_clear()
    attention._reviews.cache_clear()
    monkeypatch.chdir(tmp_path)
    return loaded


def test_texts_are_as_long_as_asked_and_drawn_by_seed(small: tuple[Any, Any]) -> None:
    reviews = [f"Review number {i} is not a long one." for i in range(30)]
    drawn = attention.joined(small[1], reviews, 3, 40, 0)
    assert drawn.shape == (3, 40)
    assert torch.equal(drawn, attention.joined(small[1], reviews, 3, 40, 0))
    assert not torch.equal(drawn, attention.joined(small[1], reviews, 3, 40, 1))
    long = attention.joined(small[1], [*reviews, "And so on. " * 40], 3, 40, 0, long=True)
    assert long.shape == (1, 40)  # only one is long enough
    with pytest.raises(ValueError, match="no text here has 40 tokens"):
        attention.joined(small[1], reviews, 3, 40, 0, long=True)


def test_losses_in_pieces_are_the_models_own(small: tuple[Any, Any]) -> None:
    ids = attention.joined(small[1], ["A plum yodels twice. " * 30], 1, 30, 0)
    with torch.inference_mode():
        full = float(small[0](ids, labels=ids).loss)
    for piece in (7, 64):
        losses = attention.losses_by(small[0], ids, KeptCache(small[0], 100, "votes"), piece)
        assert losses.shape == (1, 29)
        assert float(losses.mean()) == pytest.approx(full, abs=1e-4)


def test_perplexity_is_resumed_row_by_row(small: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    made = attention._perplexity("joined", 64, 0, ("window", "exact"))
    rows = made.metrics["rows"]
    assert list(rows) == ["full", "window-16", "exact-16"]
    assert all(row["bytes"] > 0 and row["late"] > 0 and len(row["by_text"]) == 2 for row in rows.values())
    assert rows["window-16"]["bytes"] < rows["full"]["bytes"] / 3
    assert rows["exact-16"]["bytes"] == rows["full"]["bytes"]
    monkeypatch.setattr(attention, "losses_by", None)  # what is there is not measured again
    assert attention._perplexity("joined", 64, 0, ("window", "exact")) == made


def test_a_fact_is_planted_and_asked_for(small: tuple[Any, Any]) -> None:
    made = attention._needles(64, 0, items=2, ks=(16,))
    rows, settings = made.metrics["rows"], made.settings
    assert made.metrics["items"] == 2
    assert rows["full"]["held"] == rows["told-exact-16"]["held"] == rows["asked-indexer-16"]["held"] == 1
    assert rows["asked-no-sinks-16"]["held"] == 0  # the question is longer than the window
    assert all(row["accuracy"] == sum(row["right"]) / 2 for row in rows.values())
    assert len(rows) == 1 + 2 * 6
    kept = json.loads(Path("runs/attention/needle-n64-s0/rows.json").read_text())["rows"]
    assert {row["colour"] for row in kept.values()} <= set(settings["colours"])
    assert len(settings["colours"]) > 1


def test_mass_and_speed(small: tuple[Any, Any]) -> None:
    mass = attention._indexer(0, texts=2, n=32, ks=(4, 32)).metrics["mass"]
    assert mass["4"]["exact"] >= mass["4"]["exact-layer"] >= mass["4"]["indexer"]
    assert mass["4"]["exact-layer"] >= mass["4"]["window"]
    assert all(share == pytest.approx(1, abs=1e-3) for share in mass["32"].values())
    rows = attention._speed((48,), k=16, steps=1, rounds=1).metrics["rows"]
    assert rows["window-n48-b4"]["bytes"] == 4 * rows["window-n48-b1"]["bytes"]
    assert rows["window-n48-b1"]["bytes"] < rows["full-n48-b1"]["bytes"] / 2
    assert all(row["fastest"] <= row["seconds"] <= row["slowest"] for row in rows.values())


def test_colours_are_one_token_each(
    language_model: tuple[Any, Any], small: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("red", "blue", "green", "yellow", "purple", "orange", "brown", "pink")
    ids = [language_model[1](f" {one}")["input_ids"] for one in names]
    assert all(len(one) == 1 for one in ids)
    monkeypatch.setattr(attention, "COLOURS", names)
    with pytest.raises(ValueError, match="must be one token"):
        attention.needle(*small, torch.ones(40, dtype=torch.int64), 0, 0.5, [16])


def test_the_runs_are_named_once() -> None:
    labels = [run.label for run in attention.runs(gpu=False)]
    assert len(labels) == len(set(labels))
    assert "attention/needle-n1024-s2" in labels
