"""Pairs of texts, LoRA and early stopping: what they learn, save and resume."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from topk_lib.data import load_reviews
from topk_lib.serving import Predictor
from topk_lib.training import evaluate, finetune, load_model
from topk_lib.training.folder import last_checkpoint

SMALL: dict[str, Any] = {"k": 16, "batch_size": 8, "precision": "fp32", "quiet": True}


def write(folder: Path, split: str, rows: list[dict[str, Any]], kind: str = "jsonl") -> None:
    if kind == "jsonl":
        text = "".join(json.dumps(row) + "\n" for row in rows)
    else:
        text = "\n".join([",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)])
    (folder / f"{split}.{kind}").write_text(text)


def pairs(n: int) -> list[dict[str, Any]]:
    """The colour in the second text is the label; the first text's is by chance."""
    colours = ("red", "blue")
    return [
        {"text": f"a {colours[i // 2 % 2]} house", "text_pair": f"a {colours[i % 2]} door",
         "label": colours[i % 2]}
        for i in range(n)
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_the_second_text_is_learned_from(tiny_encoder: Path, tmp_path: Path, kind: str) -> None:
    write(tmp_path, "train", pairs(200), kind)
    write(tmp_path, "test", pairs(40), kind)
    result = finetune(
        tmp_path / "out", model=str(tiny_encoder), source=tmp_path, epochs=3, learning_rate=1e-2, **SMALL
    )
    assert result.metrics["accuracy"] == 1.0
    assert evaluate(tmp_path / "out", source=tmp_path, quiet=True)["accuracy"] == 1.0
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers")
    assert f"on 200 texts of {result.data['source']}" in card
    assert "| learning_rate | `0.01` |" in card
    assert card.count("## How it was made") == 1
    predictor = Predictor(tmp_path / "out")
    red, blue = predictor(["a red house"] * 2, ["a red door", "a blue door"])
    assert red["red"] > 0.5 > blue["red"]


def test_a_column_of_pairs_is_in_all_files_or_in_none(tmp_path: Path) -> None:
    write(tmp_path, "train-0", pairs(4))
    write(tmp_path, "train-1", [{"text": "x", "label": "red"}])
    with pytest.raises(ValueError, match="only one has a column text_pair"):
        load_reviews(tmp_path, quiet=True)
    (tmp_path / "train-1.jsonl").unlink()
    write(tmp_path, "test", [{"text": "x", "text_pair": 3, "label": "same"}])
    with pytest.raises(ValueError, match="text_pair of row 0 is 3, not a string"):
        load_reviews(tmp_path, split="test", quiet=True)


def test_lora_leaves_the_encoder_and_is_merged_at_the_end(tiny_encoder: Path, tmp_path: Path) -> None:
    rows = [{"text": "good day" if i % 2 else "bad day", "label": i % 2} for i in range(200)]
    write(tmp_path, "train", rows)
    write(tmp_path, "test", rows[:40])
    options = SMALL | {"model": str(tiny_encoder), "source": tmp_path, "learning_rate": 1e-2, "epochs": 3}
    assert finetune(tmp_path / "lora", lora=2, **options).metrics["accuracy"] == 1.0
    finetune(tmp_path / "head", lora=2, **options | {"epochs": 0.05, "learning_rate": 1e-9})
    after, start = (load_model(tmp_path / name)[0].encoder.state_dict() for name in ("lora", "head"))
    assert after.keys() == start.keys(), "the folder is that of a model without LoRA"
    changed = {name for name in after if not torch.allclose(after[name], start[name], atol=1e-6)}
    assert any("query" in name for name in changed)
    assert any("classifier" in name for name in changed)
    assert all("query" in name or "value" in name or "classifier" in name for name in changed)
    difference = after["bert.encoder.layer.0.attention.self.query.weight"]
    difference = difference - start["bert.encoder.layer.0.attention.self.query.weight"]
    assert torch.linalg.matrix_rank(difference, rtol=1e-4) <= 2


def test_lora_resumes(tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = SMALL | {
        "model": str(tiny_encoder), "source": "embedded", "n_train": 400, "n_eval": 40, "lora": 2,
        "learning_rate": 3e-3,
    }  # fmt: skip
    whole = finetune(tmp_path / "whole", **options)

    def broken(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(sys.modules["topk_lib.training.finetune"], "logits_of", broken)
        with pytest.raises(KeyboardInterrupt):
            finetune(tmp_path / "cut", **options)
    newest = last_checkpoint(tmp_path / "cut")
    assert newest is not None
    shutil.rmtree(newest)
    assert last_checkpoint(tmp_path / "cut") is not None, "half of the steps are to be made anew"
    assert finetune(tmp_path / "cut", **options).predictions == whole.predictions


def test_patience_stops_and_keeps_the_best(tiny_encoder: Path, tmp_path: Path) -> None:
    rows = [{"text": f"word{i} thing{i * 7 % 50}", "label": (i * 31 + 7) % 5 % 2} for i in range(300)]
    write(tmp_path, "train", rows)  # nothing to learn: the dev loss soon rises
    write(tmp_path, "dev", [{"text": f"other{i}", "label": i % 2} for i in range(40)])
    write(tmp_path, "test", [{"text": f"more{i}", "label": i % 2} for i in range(40)])
    options = SMALL | {"model": str(tiny_encoder), "source": tmp_path, "epochs": 30, "learning_rate": 1e-2}
    result = finetune(tmp_path / "out", patience=2, **options)
    states = sorted((tmp_path / "out").glob("checkpoint-*/trainer_state.json"))
    state = json.loads(states[-1].read_text())
    losses = [row["eval_loss"] for row in state["log_history"] if "eval_loss" in row]
    assert len(losses) < 10, "ten checkpoints an epoch at most, and it should have stopped before the end"
    assert state["best_metric"] == pytest.approx(min(losses))
    assert result.data["n_dev"] == 40
    best = losses.index(min(losses))
    assert best < len(losses) - 1
    model = load_model(tmp_path / "out")[0]
    from safetensors.torch import load_file

    kept = load_file(Path(state["best_model_checkpoint"]) / "model.safetensors")
    for name, value in model.state_dict().items():
        if name in kept:
            assert torch.equal(value, kept[name]), name


def test_what_lora_cannot_be_put_on_is_said(tiny_encoder: Path) -> None:
    with pytest.raises(TypeError, match="lora"):
        finetune("never", model=str(tiny_encoder), lora="much", source="embedded", quiet=True)
    with pytest.raises(ValueError, match="patience"):
        finetune("never", model=str(tiny_encoder), patience=0, source="embedded", quiet=True)
    assert not Path("never").exists()
