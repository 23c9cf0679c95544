"""The study of a few parameters: what it runs, what it counts, and that its records say what was done."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from topk_lib import records
from topk_lib.claims.adaptation import FEW
from topk_lib.studies import adaptation


@pytest.fixture
def small(tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TOPK_IMDB", "embedded")
    monkeypatch.setenv("TOPK_RESULTS", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("topk_lib.studies.adaptation.DEFAULT_ENCODER", str(tiny_encoder))
    monkeypatch.setattr(adaptation, "TEST", 30)
    monkeypatch.setitem(adaptation.EPOCHS, 40, 1)


def test_what_runs_in_which_order() -> None:
    labels = [run.label for run in adaptation.runs(gpu=False)]
    assert len(set(labels)) == len(labels)
    assert labels[: len(adaptation.METHODS)] == [f"adaptation_rates/{m}" for m in adaptation.METHODS]
    for method in ("full", "vectors", *FEW):
        for n in (200, 4000):
            for seed in range(3):
                assert f"adaptation/{method}-first-k64-n{n}-s{seed}" in labels
    assert all("language_model" in label for label in labels[-6:])
    assert set(adaptation.METHODS) == {*FEW, "full", "head"}


def test_a_run_says_what_was_learned(small: None, tiny_encoder: Path) -> None:
    for made in (adaptation._adapted("bitfit", 40, 1, "linear", 8, model=str(tiny_encoder)),
                 adaptation._vectors(40, 1)):  # fmt: skip
        m = made.metrics
        assert m["gap"]["accuracy"] == m["train"]["accuracy"] - m["accuracy"]
        assert m["gap"]["loss"] == m["train"]["loss"] - m["loss"]
        wrong = np.unpackbits(np.frombuffer(bytes.fromhex(m["wrong"]), dtype=np.uint8))[:30]
        assert 1 - wrong.mean() == pytest.approx(m["accuracy"])
        assert (made.data["n_train"], made.data["n_eval"]) == (40, 30)
        assert made.settings["seed"] == 1
    assert made.metrics["trainable"] == 16 + 1  # a weight for each of the tiny encoder's numbers


def test_the_rate_is_the_one_that_was_best(small: None) -> None:
    assert adaptation.rate_of("lora") == 3e-3
    records.write("adaptation_rates", "lora", metrics={"best": 0.5}, settings={}, data={}, seconds=1.0)
    assert adaptation.rate_of("lora") == 0.5


def test_bytes_are_counted(small: None) -> None:
    metrics = adaptation.cost(ks=(8, 64), rounds=1, batches=1).metrics
    assert set(metrics) == {*(f"{m}-k64" for m in adaptation.METHODS), "full-k8", "lora-k8"}
    for name, one in metrics.items():
        assert one["gradients"] == 4 * one["trainable"], name
        tensors = one["state"] - 8 * one["trainable"]  # beside two moments, a step count for each tensor
        assert 0 < tensors < 1000
        assert tensors % 4 == 0
        assert one["fastest"] <= one["seconds"] <= one["slowest"]
    assert metrics["full-k8"]["peak"] < metrics["full-k64"]["peak"]
    assert metrics["head-k64"]["peak"] < metrics["lora-k64"]["peak"] < metrics["full-k64"]["peak"]


def test_peak_bytes_by_hand() -> None:
    kept = torch.zeros(1000)

    def call() -> None:
        first = kept + 1  # 4,000 bytes
        second = first.double()  # 8,000
        del first, second
        torch.zeros(500)

    if not torch.cuda.is_available():
        assert 12_000 <= adaptation.peak_bytes(call) < 13_000
    assert adaptation.peak_bytes(lambda: None) == 0
