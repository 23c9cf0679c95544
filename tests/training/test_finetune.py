"""Fine-tuning for real, with a tiny encoder: what it saves, resumes, shares and refuses."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, pipeline
from typer.testing import CliRunner

from topk_lib.cli import app
from topk_lib.selectors.gate import GateSelector
from topk_lib.training import Settings, attributions, evaluate, finetune, load_model, predict
from topk_lib.training.folder import last_checkpoint
from topk_lib.training.trainer import make_trainer

OPTIONS: dict[str, Any] = {
    "source": "embedded",
    "k": 16,
    "batch_size": 8,
    "n_train": 64,
    "n_eval": 40,
}
TEXTS = ["Hardly a minute that I would want back.", "My seat was the warmest thing in the room."]


@pytest.fixture(scope="module")
def trained(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "first"
    finetune(folder, model=str(tiny_encoder), selector="first", quiet=True, **OPTIONS)
    return folder


def test_the_result_counts_every_review(trained: Path) -> None:
    result = finetune(trained, quiet=True, **OPTIONS | {"selector": "first"} | _model(trained))
    assert sum(result.metrics["support"]) == 40 == len(result.predictions)
    assert np.argmax(result.logits, axis=1).tolist() == result.predictions
    assert result.data["source"] == "the embedded corpus"
    assert result.data["n_train"] == 64


def test_from_pretrained_and_pipeline_read_it_back(trained: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(trained)
    assert model.config.id2label == {0: "negative", 1: "positive"}
    classify = pipeline("text-classification", model=str(trained), device="cpu")
    for text, mine in zip(TEXTS, predict(trained, TEXTS), strict=True):
        answer = classify(text, truncation=True, top_k=None)
        theirs = next(a["score"] for a in answer if a["label"] == "positive")
        assert mine == pytest.approx(theirs, abs=5e-3)  # bf16 where the machine has it


def test_asking_leaves_the_callers_luck_alone(trained: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    predict(trained, TEXTS)
    assert torch.equal(torch.rand(3), expected)


def test_evaluate_repeats_what_finetune_measured(trained: Path) -> None:
    measured = json.loads((trained / "topk_result.json").read_text())["metrics"]
    again = evaluate(trained, source="embedded", split="test", n=40, quiet=True)
    assert again["confusion"] == measured["confusion"]


def test_it_learns(tiny_encoder: Path, tmp_path: Path) -> None:
    rows = [{"text": "good day" if i % 2 else "bad day", "label": i % 2} for i in range(200)]
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    result = finetune(
        tmp_path / "out", model=str(tiny_encoder), source=tmp_path, selector="linear", k=3,
        epochs=3, learning_rate=1e-2, precision="fp32", quiet=True,
    )  # fmt: skip
    assert result.metrics["accuracy"] == 1.0


def test_a_gate_cools_down_to_the_temperature_that_was_asked_for(tiny_encoder: Path, tmp_path: Path) -> None:
    finetune(
        tmp_path, model=str(tiny_encoder), selector="gate", start_temperature=0.4, final_temperature=0.02,
        quiet=True, **OPTIONS,
    )  # fmt: skip
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert model.config.start_temperature == 0.4
    # the eighth and last step began when 7/8 of the way was gone
    assert model.soft.temperature.item() == pytest.approx(0.4 * (0.02 / 0.4) ** (7 / 8))


def test_a_teacher_gives_a_gate_its_start(trained: Path, tmp_path: Path) -> None:
    # so low a rate leaves the gate where the teacher put it
    options = _model(trained) | OPTIONS | {"selector_learning_rate": 1e-12, "quiet": True}
    ids, mask = torch.randint(1000, (2, 30)), torch.ones(2, 30, dtype=torch.int64)
    scores = {}
    for selector in ("taught", "distilled", "gate"):
        teacher = None if selector == "gate" else str(trained)
        folder = finetune(tmp_path / selector, selector=selector, teacher=teacher, **options).folder
        with torch.no_grad():
            scores[selector] = load_model(folder)[0].selector.scores(ids, mask)
    assert torch.allclose(scores["taught"], scores["distilled"], atol=1e-4)
    assert not torch.allclose(scores["gate"], scores["distilled"], atol=1e-1)


def test_what_a_teacher_marks(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole texts; or pieces that it reads whole, and fewer and shorter ones where tokens are left out."""
    module = sys.modules["topk_lib.training.finetune"]  # its name is also that of the function
    monkeypatch.setattr(module, "_LEFT_OUT", 10)
    monkeypatch.setattr(module, "_PIECE", 8)
    marked: dict[str, tuple[int, int, bool]] = {}
    for marks in ("slopes", "pieces", "left_out"):

        def watched(model: Any, ids: list[list[int]], *, left_out: bool, marks: str = marks) -> Any:
            marked[marks] = len(ids), max(map(len, ids)), left_out
            return attributions(model, ids, left_out=left_out)

        monkeypatch.setattr(module, "attributions", watched)
        once = marks != "slopes"
        folder = finetune(
            tmp_path / marks, selector="distilled", teacher=str(trained), marks=marks, once=once, quiet=True,
            **_model(trained) | OPTIONS,
        ).folder  # fmt: skip
        selector = load_model(folder)[0].selector
        assert selector.once == once  # in the folder, too
    (n, longest, left_out), *rest = marked.values()
    assert (n, left_out) == (64, False)
    assert longest > 16
    assert rest == [(64, 16, False), (10, 8, True)]


def test_other_settings_in_the_folder_are_refused(trained: Path) -> None:
    with pytest.raises(ValueError, match=r"other settings \(k: 16 -> 32\): choose another output"):
        finetune(trained, quiet=True, **OPTIONS | {"k": 32} | _model(trained))


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"k": 9999}, ValueError, r"k = 9999 is more than .* reads: choose k <= 128"),
        ({"k": 1}, ValueError, "k must be above 2, got 1: 2 tokens of each text are special ones"),
        ({"max_length": 1}, ValueError, "max_length must be at least 2, got 1"),
        ({"keep_after": "9:4"}, ValueError, "layer"),
        ({"keep_after": "0:0"}, ValueError, "0"),
        (
            {"selector": "taught", "teacher": "nowhere"},
            OSError,
            "nowhere holds no model of topk-lib finetune",
        ),
        ({"model": "nowhere/at-all"}, OSError, "nowhere/at-all"),
        ({"source": "nowhere"}, FileNotFoundError, "no folder 'nowhere' with reviews"),
    ],
)
def test_what_is_refused_leaves_nothing_behind(
    tiny_encoder: Path, tmp_path: Path, options: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        finetune(tmp_path / "a" / "b", quiet=True, **OPTIONS | {"model": str(tiny_encoder)} | options)
    assert not list(tmp_path.iterdir())


def test_predict_input() -> None:
    assert predict("anywhere", []) == []
    with pytest.raises(TypeError, match="write"):
        predict("anywhere", "one string")
    with pytest.raises(TypeError, match="text 1 is None"):
        predict("anywhere", ["fine", None])  # type: ignore[list-item]
    with pytest.raises(FileNotFoundError, match="holds no model of topk-lib finetune"):
        predict("nowhere", ["x"])


def _command(output: Path, model: Path, *more: str) -> list[str]:
    return [
        "finetune", str(output), "--model", str(model), "--source", "embedded", "--k", "16",
        "--n-eval", "40", "--batch-size", "8", "--precision", "fp32", *more,
    ]  # fmt: skip


def test_the_same_command_resumes_after_kill_9(tiny_encoder: Path, tmp_path: Path) -> None:
    epochs = ["--n-train", "240", "--epochs", "12"]
    program = [sys.executable, "-m", "topk_lib.cli"]
    whole = subprocess.run(
        [*program, *_command(tmp_path / "whole", tiny_encoder, *epochs)],
        capture_output=True,
        text=True,
    )
    assert whole.returncode == 0, whole.stderr
    broken = tmp_path / "broken"
    process = subprocess.Popen(
        [*program, *_command(broken, tiny_encoder, *epochs)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 600
    while last_checkpoint(broken) is None and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert last_checkpoint(broken) is not None
    assert not (broken / "topk_result.json").exists(), "it ended before it could be killed"
    again = subprocess.run(
        [*program, *_command(broken, tiny_encoder, *epochs)], capture_output=True, text=True
    )
    assert again.returncode == 0, again.stderr
    logged = [float(epoch) for epoch in re.findall(r"'epoch': '?([\d.]+)", again.stdout)]
    assert logged, again.stdout
    assert min(logged) >= 25 / 30  # the first checkpoint is of step 25, of 30 an epoch
    results = [json.loads((tmp_path / name / "topk_result.json").read_text()) for name in ("whole", "broken")]
    assert results[0]["predictions"] == results[1]["predictions"]


def test_two_processes_measure_what_one_does(tiny_encoder: Path, tmp_path: Path) -> None:
    command = ["--n-train", "128", "--epochs", "2", "--learning-rate", "1e-3", "--quiet"]
    program = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "-m",
        "topk_lib.cli",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    two = subprocess.run(
        [*program, *_command(tmp_path / "two", tiny_encoder, *command)],
        capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert two.returncode == 0, two.stderr
    assert two.stdout.count("accuracy") == 1  # one process reports
    one = finetune(
        tmp_path / "one", model=str(tiny_encoder), source="embedded", k=16, n_train=128, n_eval=40,
        batch_size=8, epochs=2, learning_rate=1e-3, precision="fp32", quiet=True,
    )  # fmt: skip
    both = json.loads((tmp_path / "two" / "topk_result.json").read_text())
    assert sum(both["metrics"]["support"]) == 40
    assert both["data"] == one.data
    # The order of the batches differs, so agreement is within noise: the intervals overlap.
    assert both["metrics"]["accuracy_low"] <= one.metrics["accuracy_high"]
    assert one.metrics["accuracy_low"] <= both["metrics"]["accuracy_high"]


def test_the_command_line(trained: Path) -> None:
    run = CliRunner().invoke(app, ["evaluate", str(trained), "--source", "embedded", "--n", "40", "--quiet"])
    assert run.exit_code == 0, run.output
    assert "accuracy" in run.output
    assert "support" in run.output
    run = CliRunner().invoke(app, ["predict", str(trained)], input="one text\n\nanother\n")
    lines = [json.loads(line) for line in run.output.splitlines()]
    assert [line["text"] for line in lines] == ["one text", "another"]
    assert all(0 <= line["positive"] <= 1 for line in lines)


def test_the_command_line_says_errors_in_one_sentence(tmp_path: Path) -> None:
    run = CliRunner().invoke(app, ["evaluate", str(tmp_path), "--source", "embedded", "--n", "4"])
    assert run.exit_code == 2
    assert "holds no model of topk-lib finetune" in run.output
    assert "Traceback" not in run.output


def _model(trained: Path) -> dict[str, str]:
    return {"model": json.loads((trained / "topk_settings.json").read_text())["model"]}


def test_other_reviews_in_the_folder_are_refused(trained: Path, tmp_path: Path) -> None:
    for split in ("train", "test"):
        rows = [{"text": f"good day {i}", "label": i % 2} for i in range(80)]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    with pytest.raises(
        ValueError, match=r"other reviews \(from the embedded corpus, now .*\): choose another"
    ):
        finetune(trained, quiet=True, **OPTIONS | _model(trained) | {"source": tmp_path, "selector": "first"})


def test_a_teacher_sees_both_classes_of_a_sorted_source(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for split in ("train", "test"):
        rows = [{"text": f"{'good' if i >= 40 else 'bad'} day {i}", "label": int(i >= 40)} for i in range(80)]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    seen: list[list[int]] = []

    def pretend(_: Any, ids: list[list[int]], **__: Any) -> list[torch.Tensor]:
        seen.extend(ids)
        return [torch.ones(len(i)) for i in ids]

    # the name of the module is also that of the function
    monkeypatch.setattr(sys.modules["topk_lib.training.finetune"], "attributions", pretend)
    monkeypatch.setattr(GateSelector, "TEXTS", 20)
    finetune(
        tmp_path / "out", selector="distilled", teacher=str(trained), source=tmp_path, k=4, n_eval=8,
        quiet=True, **_model(trained),
    )  # fmt: skip
    assert len(seen) == 20
    assert 4 <= sum(ids[1] == seen[0][1] for ids in seen) <= 16


def test_the_loss_is_the_mean_of_a_batch_for_trainer_too(trained: Path) -> None:
    model, tokenizer, _ = load_model(trained)
    trainer = make_trainer(model, tokenizer, Settings(), trained, quiet=True)
    assert not trainer.model_accepts_loss_kwargs


def rows_in(
    folder: Path, labels: list[Any], words: list[str], splits: tuple[str, ...] = ("train", "test")
) -> Path:
    folder.mkdir()
    rows = [{"text": f"{word} day {i}", "label": label}
            for i in range(12) for word, label in zip(words, labels, strict=True)]  # fmt: skip
    for split in splits:
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def told(*words: Any) -> Any:
    run = CliRunner().invoke(app, [str(word) for word in words])
    assert run.exit_code == 0, run.output
    return json.loads(run.output)


@pytest.mark.parametrize(
    ("labels", "names", "problem", "selector", "epochs"),
    [
        (["ham", "spam", "eggs"], ["eggs", "ham", "spam"], "single_label_classification", "linear", 8),
        ([0.5, 2.0, 4.5], ["score"], "regression", "first", 30),
        ([["rude"], ["rude", "loud"], []], ["loud", "rude"], "multi_label_classification", "gate", 2),
    ],
)
def test_every_kind_of_label(
    tiny_encoder: Path, tmp_path: Path, labels: list[Any], names: list[str], problem: str, selector: str,
    epochs: int,
) -> None:  # fmt: skip
    data = rows_in(tmp_path / "data", labels, ["good", "bad", "odd"])
    out = tmp_path / "out"
    result = told(
        "finetune", out, "--source", data, "--model", tiny_encoder, "--selector", selector, "--k", 3,
        "--learning-rate", 1e-2, "--epochs", epochs, "--batch-size", 12, "--precision", "fp32", "--json",
    )  # fmt: skip
    model = AutoModelForSequenceClassification.from_pretrained(out)
    assert (model.config.problem_type, list(model.config.id2label.values())) == (problem, names)
    again = told("evaluate", out, "--source", data, "--json")
    answer = told("predict", out, "bad day 3")
    shown = CliRunner().invoke(app, ["explain", str(out), "bad day 3"]).output
    table = CliRunner().invoke(app, ["evaluate", str(out), "--source", str(data), "--quiet"]).output
    if problem == "regression":
        assert result["root_mean_squared_error"] < 1.2 < 1.6  # of the mean alone: 1.64
        assert again["pearson"] == pytest.approx(result["pearson"], abs=1e-4)
        assert answer["number"] == pytest.approx(predict(out, ["bad day 3"])[0], rel=1e-4)
        assert "score " in shown
        assert "mean absolute error" in table
        return
    assert result["classes"] == names == list(answer["probabilities"])
    assert len(predict(out, ["bad day 3"])[0]) == len(names)  # type: ignore[arg-type]
    assert again["f1"] == pytest.approx(result["f1"])
    assert all(f"\n{name} " in table for name in names)
    if problem == "single_label_classification":
        assert result["accuracy"] >= 0.6  # of one class alone: a third
        assert answer["label"] == max(answer["probabilities"], key=answer["probabilities"].__getitem__)
        assert answer["label"] in shown
    else:
        assert answer["labels"] == [name for name, p in answer["probabilities"].items() if p >= 0.5]


def test_one_class_is_too_few(tiny_encoder: Path, tmp_path: Path) -> None:
    data = rows_in(tmp_path / "data", ["ham", "ham"], ["good", "bad"])
    with pytest.raises(
        ValueError, match="all 24 training reviews are of the class 'ham': to learn takes two"
    ):
        finetune(tmp_path / "out", source=data, model=str(tiny_encoder), k=4, quiet=True)


def test_evaluating_goes_by_the_names_of_classes(trained: Path, tmp_path: Path) -> None:
    other = rows_in(tmp_path / "a", ["positive"], ["good"], ("test",))
    numbered = rows_in(tmp_path / "b", [1], ["good"], ("test",))
    found = [evaluate(trained, source=source, quiet=True)["confusion"] for source in (other, numbered)]
    assert found[0] == found[1]
    assert sum(found[0][1]) == 12
    with pytest.raises(
        ValueError, match=r"the class 'spam', which the model lacks .known: negative, positive"
    ):
        evaluate(trained, source=rows_in(tmp_path / "c", ["spam"], ["good"], ("test",)), quiet=True)
