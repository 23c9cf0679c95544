"""Searching settings on the dev split: what is tried, what is remembered, what is refused."""

from __future__ import annotations

import importlib
import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from typer.testing import CliRunner

from topk_lib.cli import app
from topk_lib.training import search

TRIALS = 12


class Stand:
    """Stands for ``finetune``: accuracy falls with the distance from a learning rate of 1e-4."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.stop_at: int | None = None

    def __call__(self, place: Path, **options: Any) -> Any:
        self.calls.append(options | {"place": place})
        (place / "checkpoint-1").mkdir(parents=True, exist_ok=True)
        if len(self.calls) == self.stop_at:
            raise KeyboardInterrupt
        return SimpleNamespace(metrics={"accuracy": 1 - abs(math.log10(options["learning_rate"]) + 4)})


@pytest.fixture
def stand(monkeypatch: pytest.MonkeyPatch) -> Stand:
    stand = Stand()
    monkeypatch.setattr(importlib.import_module("topk_lib.training.search"), "finetune", stand)
    return stand


def test_trials(stand: Stand, tmp_path: Path) -> None:
    best = search(tmp_path, TRIALS, quiet=True, selector="linear", k=8, evaluate_on="test")
    assert len(stand.calls) == TRIALS
    assert {call["evaluate_on"] for call in stand.calls} == {"dev"}
    assert {(call["selector"], call["k"], call["selector_learning_rate"]) for call in stand.calls} == {
        ("linear", 8, 1e-3)
    }
    first = stand.calls[0]
    assert (first["learning_rate"], first["batch_size"]) == (5e-5, 32), "the settings as given come first"
    rates = [call["learning_rate"] for call in stand.calls]
    assert len(set(rates)) == TRIALS
    assert all(1e-5 <= rate <= 2.5e-4 for rate in rates)
    assert {call["batch_size"] for call in stand.calls} <= {16, 32, 64}
    assert set(best) == {"learning_rate", "batch_size"}
    assert best["learning_rate"] == min(rates, key=lambda rate: abs(math.log10(rate) + 4))
    assert not (tmp_path / "trials").exists()


def test_a_trained_selector_has_a_rate_of_its_own(stand: Stand, tmp_path: Path) -> None:
    best = search(tmp_path, 4, quiet=True, selector="gate", selector_learning_rate=0.01, batch_size=1)
    assert 0.002 <= best["selector_learning_rate"] <= 0.05
    assert {call["batch_size"] for call in stand.calls} <= {1, 2}


def test_an_interrupted_search_goes_on(stand: Stand, tmp_path: Path) -> None:
    stand.stop_at = 4
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, TRIALS, quiet=True)
    assert len(stand.calls) == 4
    cut_off = stand.calls[3]
    best = search(tmp_path, TRIALS, quiet=True)
    assert stand.calls[4] == cut_off, "the same trial, in the same folder, on its checkpoints"
    assert len(stand.calls) == TRIALS + 1
    rates = [call["learning_rate"] for call in stand.calls]
    assert len(set(rates)) == TRIALS, "nothing is proposed twice"
    assert search(tmp_path, TRIALS, quiet=True) == best
    assert len(stand.calls) == TRIALS + 1
    search(tmp_path, TRIALS + 2, quiet=True)
    assert len(stand.calls) == TRIALS + 3


def test_a_failed_trial_is_told_and_replaced(
    stand: Stand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(place: Path, **_: Any) -> Any:
        place.mkdir(parents=True)
        raise RuntimeError("out of memory")

    module = importlib.import_module("topk_lib.training.search")
    monkeypatch.setattr(module, "finetune", full)
    with pytest.raises(RuntimeError, match="out of memory"):
        search(tmp_path, 2, quiet=True)
    assert not list((tmp_path / "trials").iterdir())
    monkeypatch.setattr(module, "finetune", stand)
    search(tmp_path, 2, quiet=True)
    assert len(stand.calls) == 2


def test_what_is_refused(stand: Stand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="at least 1 trial, got 0"):
        search(tmp_path / "a", 0)
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        search(tmp_path / "a", 2, k=0)
    assert not (tmp_path / "a").exists()
    search(tmp_path / "b", 1, quiet=True, k=8)
    with pytest.raises(ValueError, match=r"search with other settings \(k: 8 -> 9\): choose another"):
        search(tmp_path / "b", 2, quiet=True, k=9)
    (tmp_path / "b" / "topk_settings.json").write_text("{}")
    search(tmp_path / "b", 1, quiet=True, k=8)
    with pytest.raises(ValueError, match="holds a model already, after a search of 1 trials"):
        search(tmp_path / "b", 2, quiet=True, k=8)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match="the search runs in one process"):
        search(tmp_path / "c", 2)
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ImportError, match=r"pip install 'topk-lib\[search\]'"):
        search(tmp_path / "c", 2)


def test_the_command(tiny_encoder: Path, tmp_path: Path) -> None:
    command = [
        "finetune", str(tmp_path), "--model", str(tiny_encoder), "--source", "embedded", "--k", "16",
        "--n-train", "32", "--n-eval", "20", "--batch-size", "8", "--precision", "fp32",
        "--search", "2", "--quiet",
    ]  # fmt: skip
    run = CliRunner().invoke(app, command)
    assert run.exit_code == 0, run.output
    assert "best on dev: learning_rate" in run.output
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{tmp_path / 'search.db'}")
    result = json.loads((tmp_path / "topk_result.json").read_text())
    assert result["settings"]["evaluate_on"] == "test"
    assert {name: result["settings"][name] for name in study.best_params} == study.best_params
    again = CliRunner().invoke(app, command)
    assert again.output == run.output
    assert len(study.get_trials()) == 2


def test_what_stands_in_the_folder_of_a_search(stand: Stand, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"no run of topk-lib's .notes.txt."):
        search(tmp_path, 1, quiet=True)
    (tmp_path / "notes.txt").unlink()
    for name in ("old copy", "999"):
        (tmp_path / "trials" / name).mkdir(parents=True)
    search(tmp_path, 1, quiet=True)
    assert len(stand.calls) == 1
    (tmp_path / "search.db").write_text("no database")
    with pytest.raises(ValueError, match=r"search.db cannot be read .*: delete it to search anew"):
        search(tmp_path, 1, quiet=True)
