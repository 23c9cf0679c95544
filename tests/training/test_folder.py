"""A run's folder: one command at a time, nobody's files replaced, nothing half written taken for whole."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import Trainer

from topk_lib.training import evaluate, finetune, load_model, predict
from topk_lib.training.folder import claimed, last_checkpoint, read_fields, write_fields


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for split in ("train", "test"):
        rows = [
            {"text": f"{('bad', 'good')[i % 2]} day {i}", "label": ("no", "yes")[i % 2]} for i in range(16)
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def options(tiny_encoder: Path, data: Path) -> dict[str, Any]:
    return {"model": str(tiny_encoder), "source": data, "k": 6, "batch_size": 2, "epochs": 10,
            "precision": "fp32", "quiet": True}  # fmt: skip


@pytest.fixture(scope="module")
def made(options: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finetune(tmp_path_factory.mktemp("made") / "run", **options).folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A copy of a run of 80 steps, with the checkpoints of steps 75 and 80."""
    return Path(shutil.copytree(made, tmp_path / "run"))


def test_only_the_last_checkpoints_are_kept_and_no_other_name_is_touched(
    options: dict[str, Any], made: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    others = ("checkpoint-best", "checkpoint-1-copy", "checkpoint-2 (1)", "checkpoint-old.zip", ".cache")
    for name in others:
        (out / name).mkdir(parents=True)
        (out / name / "mine").write_text("mine")
    result = finetune(out, **options)
    assert all((out / name / "mine").read_text() == "mine" for name in others)
    names = {path.name for path in out.iterdir()}
    assert names == {path.name for path in made.iterdir()} | set(others)
    assert {name for name in names if name not in others and name.startswith("checkpoint")} == {
        "checkpoint-75", "checkpoint-80",
    }  # fmt: skip
    assert not names & {"topk.lock", ".saving"}
    assert finetune(out, **options).predictions == result.predictions


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "notes.txt", "checkpoint-5"])
def test_foreign_files_are_refused(options: dict[str, Any], tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(
        ValueError, match=rf"holds files that are no run of topk-lib's \({name}\), which it might"
    ):
        finetune(tmp_path, **options)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: "mine"}


def test_the_encoders_own_folder_is_refused(options: dict[str, Any], tiny_encoder: Path) -> None:
    before = {path.name: path.read_bytes() for path in tiny_encoder.iterdir()}
    with pytest.raises(ValueError, match="choose another output folder"):
        finetune(tiny_encoder, **options)
    assert {path.name: path.read_bytes() for path in tiny_encoder.iterdir()} == before
    with pytest.raises(NotADirectoryError, match="is a file: name a folder"):
        finetune(tiny_encoder / "config.json", **options)


def test_two_at_once(tmp_path: Path, options: dict[str, Any]) -> None:
    out = tmp_path / "run"
    program = (
        "import sys, time, pathlib\nfrom topk_lib.training.folder import claimed\n"
        "with claimed(pathlib.Path(sys.argv[1])):\n    print('mine', flush=True)\n    time.sleep(600)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(out)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"mine\n"
    with pytest.raises(
        RuntimeError, match=r"another command is at work in .*: wait for it, or choose another"
    ):
        finetune(out, **options)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert [path.name for path in out.iterdir()] == ["topk.lock"], "kill -9 leaves it, and releases it"
    with claimed(out):
        assert (out / "topk.lock").exists()
    assert not list(out.iterdir())


def test_the_lock_of_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def locked(*_: Any) -> None:
        raise OSError(errno.EACCES, "Permission denied")

    windows = SimpleNamespace(LK_NBLCK=2, locking=lambda *_: None)
    monkeypatch.setattr("topk_lib.training.folder.fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", windows)
    with claimed(tmp_path / "run"):
        windows.locking = locked
        with pytest.raises(RuntimeError, match="another command is at work"), claimed(tmp_path / "run"):
            pass
    assert not list(tmp_path.iterdir())


def test_settings_that_computed_nothing_do_not_bind(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train", stop)
        with pytest.raises(KeyboardInterrupt):
            finetune(out, **options)
    assert not out.exists()
    out.mkdir()
    write_fields(out / "topk_settings.json", {"k": 99})  # as kill -9 leaves it
    finetune(out, **options | {"epochs": 1})


def test_a_diverged_run_is_an_error(options: dict[str, Any], tmp_path: Path) -> None:
    for rate in (1e38, 1e6):
        with pytest.raises(RuntimeError, match=r"training diverged, .* was not saved: lower learning_rate"):
            finetune(tmp_path / "run", **options | {"learning_rate": rate})
        assert not list(tmp_path.iterdir())


def test_no_answer_that_is_no_number(run: Path, data: Path) -> None:
    model, _, _ = load_model(run)
    with torch.no_grad():
        model.encoder.classifier.bias.fill_(torch.nan)
    model.save_pretrained(run)
    with pytest.raises(
        RuntimeError, match="answers with what is no number: its training diverged, or its weig"
    ):
        predict(run, ["good day"])
    with pytest.raises(RuntimeError, match="no number"):
        evaluate(run, source=data, quiet=True)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"]
)
def test_a_broken_checkpoint_is_passed_over(run: Path, options: dict[str, Any], name: str) -> None:
    assert last_checkpoint(run) == str(run / "checkpoint-80")
    cut(run / "checkpoint-80" / name)
    assert last_checkpoint(run) == str(run / "checkpoint-75")
    (run / "checkpoint-75" / name).write_bytes(b"")
    assert last_checkpoint(run) is None


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"])
def test_a_checkpoint_that_lacks_a_file_is_passed_over(run: Path, name: str) -> None:
    (run / "checkpoint-80" / name).unlink()  # Trainer would begin it anew, without a word
    assert last_checkpoint(run) == str(run / "checkpoint-75")
    for content in ("{}", "[1]", '{"cut'):
        (run / "checkpoint-75" / "config.json").write_text(content)
        assert (last_checkpoint(run) is None) is (content != "{}")
    (run / "checkpoint-75" / "config.json").write_text("{}")
    (run / "checkpoint-75" / "trainer_state.json").write_text("{}")
    assert last_checkpoint(run) is None


def test_from_the_last_whole_checkpoint(run: Path, options: dict[str, Any]) -> None:
    before = json.loads((run / "topk_result.json").read_text())
    whole = {name: weight.clone() for name, weight in load_file(run / "model.safetensors").items()}
    cut(run / "model.safetensors")
    cut(run / "checkpoint-80" / "model.safetensors")
    again = finetune(run, **options)
    assert again.predictions == before["predictions"]
    mended = load_file(run / "model.safetensors")
    for name, weight in whole.items():  # five steps of the tenth epoch were taken again
        assert torch.allclose(mended[name], weight, atol=1e-3), name
    state = json.loads((run / "checkpoint-80" / "trainer_state.json").read_text())
    assert state["global_step"] == 80


def test_a_full_disk_leaves_the_model_that_was_there(
    run: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Trainer, folder: str, **_: Any) -> None:
        Path(folder).mkdir()
        (Path(folder) / "model.safetensors").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    (run / "topk_result.json").unlink()
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    monkeypatch.setattr(Trainer, "save_model", full)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 0))
    with pytest.raises(OSError, match=r"the disk of .* is full: make room, and give the same command again"):
        finetune(run, **options)
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == before
    monkeypatch.undo()
    finetune(run, **options)


@pytest.mark.parametrize("name", ["topk_settings.json", "topk_data.json", "topk_result.json"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"k": 6, "sel', "is damaged"),
        ("[]", "is damaged .it holds a list, no object.: delete it"),
        ("", "is damaged"),
        (b"\xff\xfe", "is damaged"),
    ],
)
def test_broken_files_of_ours(
    run: Path, options: dict[str, Any], name: str, content: str | bytes, message: str
) -> None:
    (run / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ValueError, match=message) as error:
        finetune(run, **options)
    assert str(run / name) in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_files_of_a_newer_version(run: Path, options: dict[str, Any]) -> None:
    for name in ("topk_settings.json", "topk_result.json"):
        before = (run / name).read_text()
        write_fields(run / name, json.loads(before) | {"warp": 9})
        with pytest.raises(
            ValueError, match=rf"{name} is of another version of topk-lib .unknown here: warp.: upgrade"
        ):
            finetune(run, **options)
        (run / name).write_text(before)
    fields = read_fields(run / "topk_result.json")
    del fields["metrics"]
    write_fields(run / "topk_result.json", fields)
    with pytest.raises(ValueError, match=r"topk_result.json is damaged .it lacks a part.: delete it"):
        finetune(run, **options)
    write_fields(run / "topk_result.json", fields | {"metrics": {}})
    with pytest.raises(ValueError, match="it lacks a part"):
        finetune(run, **options)


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"epochs": "x"}, {"precision": 7}])
def test_settings_of_a_wrong_type_are_named(
    run: Path, options: dict[str, Any], wrong: dict[str, Any]
) -> None:
    path = run / "topk_settings.json"
    wanted = predict(run, ["good day"])
    write_fields(path, read_fields(path) | wrong)
    with pytest.raises(
        ValueError,
        match=rf"topk_settings.json is damaged .{next(iter(wrong))} must be .*: delete it to go on",
    ):
        predict(run, ["good day"])
    path.unlink()
    assert predict(run, ["good day"]) == pytest.approx(wanted, abs=1e-2), "the way out is one"


def test_fields_are_written_beside_and_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_fields(tmp_path / "a.json", {"a": 1})

    def full(self: Path, text: str, **_: Any) -> None:
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space"):
        write_fields(tmp_path / "a.json", {"a": 2})
    assert read_fields(tmp_path / "a.json") == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
