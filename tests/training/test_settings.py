"""Every setting is checked before anything is loaded or written."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from topk_lib.cli import app
from topk_lib.training import Settings, finetune
from topk_lib.training.settings import checked_settings, layers_kept

NUMBERS = ("epochs", "learning_rate", "selector_learning_rate", "start_temperature", "final_temperature")
WHOLE = ("k", "batch_size", "max_length", "n_train", "n_eval")
ALL = (*NUMBERS, *WHOLE)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        *[({name: 0}, ValueError, f"{name} must be (above 0|at least 1), got 0") for name in ALL],
        *[({name: -5}, ValueError, f"{name} must be (above 0|at least 1), got -5") for name in ALL],
        *[({name: 10**20}, ValueError, f"{name} must be at most 2147483647, got") for name in WHOLE],
        *[({name: math.nan}, ValueError, f"{name} must be above 0, got nan") for name in NUMBERS],
        *[({name: math.inf}, ValueError, f"{name} must be a finite number, got inf") for name in NUMBERS],
        *[({name: "8"}, TypeError, f"{name} must be a (whole )?number, got '8'") for name in ALL],
        *[({name: True}, TypeError, f"{name} must be a (whole )?number, got True") for name in ALL],
        *[({name: 2.5}, TypeError, f"{name} must be a whole number, got 2.5") for name in (*WHOLE, "seed")],
        ({"epochs": [1]}, TypeError, "epochs must be a number"),
        ({"seed": -1}, ValueError, "seed must be at least 0, got -1"),
        ({"seed": 2**32}, ValueError, "seed must be at most 4294967295, got"),
        ({"attention_dropout": 1.0}, ValueError, "attention_dropout must be from 0 to below 1, got 1.0"),
        ({"attention_dropout": -0.1}, ValueError, "attention_dropout must be from 0"),
        ({"attention_dropout": math.nan}, ValueError, "attention_dropout must be a finite number"),
        *[({"share": x}, ValueError, f"share must be above 0 and at most 1, got {x}") for x in (0.0, -1.0)],
        ({"share": 1.5}, ValueError, "share must be above 0 and at most 1, got 1.5"),
        ({"share": math.nan}, ValueError, "share must be a finite number"),
        ({"spend": "x"}, ValueError, "spend must be text or batch, got 'x'"),
        ({"positions": "x"}, ValueError, "positions must be compact or original, got 'x'"),
        ({"precision": "int8"}, ValueError, "precision must be auto, fp32, bf16 or fp16, got 'int8'"),
        ({"evaluate_on": "train"}, ValueError, "evaluate_on must be test or dev, got 'train'"),
        ({"model": " "}, ValueError, "model is empty"),
        ({"keep_after": ""}, ValueError, "keep_after is empty"),
        ({"keep_after": "2-48"}, ValueError, 'keep_after must look like "2:48,4:16"'),
        ({"keep_after": "2:48,2:4"}, ValueError, "names a layer twice"),
        ({"selector": "best"}, ValueError, "unknown selector 'best'"),
        ({"selector": "distilled"}, ValueError, "learns from a teacher: name the folder"),
        ({"selector": "linear", "teacher": "x"}, ValueError, "have a teacher, not linear"),
        ({"marks": "x"}, ValueError, "marks must be slopes, pieces or left_out, got 'x'"),
        ({"marks": "pieces"}, ValueError, "marks is for a selector with a teacher, not for first"),
        ({"selector": "gate", "once": True}, ValueError, "once is for a selector with a teacher, not for"),
        ({"once": 1}, TypeError, "once must be True or False, got 1"),
        ({"kk": 3}, TypeError, "no option 'kk': choose from model"),
    ],
)  # fmt: skip
def test_bad_settings(tmp_path: Path, options: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        finetune(tmp_path / "x", source="nowhere", **options)
    assert not list(tmp_path.iterdir())


def test_numbers_of_other_libraries() -> None:
    found = checked_settings(
        {
            "k": np.int64(8),
            "seed": np.uint8(3),
            "epochs": np.float32(0.5),
            "share": Fraction(1, 4),
            "n_eval": None,
        }
    )
    assert found == Settings(k=8, seed=3, epochs=0.5, share=0.25)
    assert {type(found.k), type(found.seed)} == {int}
    assert {type(found.epochs), type(found.share)} == {float}
    assert layers_kept("2:48, 4:16") == {2: 48, 4: 16}


@pytest.mark.parametrize(
    "words",
    [
        ["--k", "0"], ["--share", "0"], ["--spend", "x"], ["--epochs", "nan"], ["--epochs", "inf"],
        ["--learning-rate", "nan"], ["--learning-rate", "inf"], ["--max-length", "0"], ["--max-length", "-5"],
        ["--model", ""], ["--record", "a/../b"], ["--record", "a/"], ["--record", ""], ["--search", "0"],
    ],
)  # fmt: skip
def test_the_command_refuses_them_in_one_sentence(tmp_path: Path, words: list[str]) -> None:
    run = CliRunner().invoke(app, ["finetune", str(tmp_path / "run"), "--source", "embedded", *words])
    assert run.exit_code == 2
    assert len(run.output.strip().splitlines()) == 1
    assert run.output.startswith("topk-lib: ")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words",
    [
        ["finetune", ""], ["evaluate", " "], ["predict", "", "x"], ["explain", "", "x"], ["export", "", "x"],
        ["export", "x", ""], ["export", "x", "/"], ["export", "x", "/dev/null/model.onnx"],
    ],
)  # fmt: skip
def test_a_place_without_a_name(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = CliRunner().invoke(app, words)
    assert run.exit_code == 2
    assert "name" in run.output
    assert len(run.output.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())
