"""Several processes: they share a run, go on from one another's checkpoints, and end together."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from topk_lib.training import finetune, pretrain
from topk_lib.training.folder import last_checkpoint
from topk_lib.training.together import check_same, first_to_tell, together

TINY: dict[str, Any] = {
    "source": "embedded", "vocabulary": 300, "hidden_size": 16, "layers": 2, "heads": 2, "length": 16,
    "batch_size": 4, "held_out": 10, "precision": "fp32", "warmup": 2,
}  # fmt: skip
OPTIONS = [part for name, value in TINY.items() for part in (f"--{name.replace('_', '-')}", str(value))]
MODULE = ["-m", "topk_lib.cli"]


def _start(program: list[str], *command: object, **environment: str) -> subprocess.Popen[str]:
    """Two processes of a command under torchrun, in a group of their own."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.Popen(
        [sys.executable, *launcher, *program, *map(str, command)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"} | environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def _run(program: list[str], *command: object, **environment: str) -> tuple[int, str, str]:
    process = _start(program, *command, **environment)
    out, err = process.communicate(timeout=600)
    return process.returncode, out, err


def _assert_near(one: Path, other: Path) -> None:
    weights, others = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert weights.keys() == others.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(weight, others[name], atol=2e-5, rtol=1e-3)


def test_a_run_goes_on_with_more_or_fewer_processes(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    options = TINY | {"objective": "causal", "quiet": True}
    changing, whole = tmp_path / "changing", tmp_path / "whole"
    pretrain(changing, steps=3, **options)
    command = ["pretrain", changing, *OPTIONS, "--objective", "causal", "--steps", 6, "--shard", "--quiet"]
    code, out, err = _run(MODULE, *command)
    assert code == 0, err
    assert out.count("held-out loss") == 1
    pretrain(changing, steps=9, **options)  # from what two of them left, in one piece
    pretrain(whole, steps=9, snapshots="3,6", corpus=changing / "corpus", **options)
    for steps in (3, 6, 9):
        _assert_near(changing / f"snapshot-{steps}steps", whole / f"snapshot-{steps}steps")


_EAGER = """
import os, sys
from pathlib import Path
from topk_lib.training import pretrain_loop
pretrain_loop.EVERY = 0.0  # a checkpoint after each step
Path(f"{sys.argv[2]}.{os.environ['RANK']}").write_text(str(os.getpid()))
from topk_lib.cli import app
app(sys.argv[1:])
"""


@pytest.mark.parametrize(("killed", "how"), [(0, []), (1, ["--shard"])])
def test_one_killed_ends_both_with_a_sentence_and_the_run_goes_on(
    killed: int, how: list[str], tmp_path: Path
) -> None:
    (program := tmp_path / "eager.py").write_text(_EAGER)
    broken, checkpoint = tmp_path / "broken", tmp_path / "broken" / "checkpoint.pt"
    process = _start([str(program)], "pretrain", broken, *OPTIONS, "--steps", 100_000, "--quiet", *how)
    while not checkpoint.exists() and process.poll() is None:
        time.sleep(0.05)
    assert process.poll() is None
    os.kill(int(Path(f"{broken}.{killed}").read_text()), signal.SIGKILL)
    _, err = process.communicate(
        timeout=600
    )  # a process that waits for a dead one would wait for half an hour
    assert process.returncode != 0
    said = re.findall(r"topk-lib: .*", err)
    assert len(said) == 1, err
    assert "was ended, so all 2 stop: give the same command again, which goes on from the last" in said[0]
    step = torch.load(checkpoint, weights_only=True)["step"]
    assert step > 0
    torch.set_num_threads(1)
    resumed = pretrain(broken, steps=step + 5, quiet=True, **TINY)
    whole = pretrain(tmp_path / "whole", corpus=broken / "corpus", steps=step + 5, quiet=True, **TINY)
    _assert_near(resumed.folder, whole.folder)


def test_what_all_processes_refuse_is_said_once(tmp_path: Path) -> None:
    code, _, err = _run(MODULE, "pretrain", tmp_path / "a", *OPTIONS, "--steps", 5, "--batch-size", 3)
    assert code != 0
    assert re.findall(r"topk-lib: .*", err) == ["topk-lib: batch_size 3 cannot be shared by 2 processes"]


def _reviews(folder: Path, model: Path, *more: object) -> list[object]:
    return [
        "finetune", folder, "--model", model, "--source", "embedded", "--k", 16, "--n-eval", 40,
        "--batch-size", 8, "--precision", "fp32", "--n-train", 80, "--epochs", 3, "--learning-rate", 1e-3,
        *more,
    ]  # fmt: skip


# Accelerate shards on accelerators alone; gloo stands in for them here, as it would be called on a GPU.
_GLOO = """
import sys
from accelerate import state, utils
state.PartialState._prepare_backend = lambda *_, **__: ("gloo", utils.DistributedType.MULTI_GPU)
begin = state.PartialState.__init__
state.PartialState.__init__ = lambda self, cpu=False, **more: begin(self, **more)
from topk_lib.cli import app
app(sys.argv[1:])
"""


def test_finetuning_is_sharded_and_goes_on(tiny_encoder: Path, tmp_path: Path) -> None:
    (program := tmp_path / "gloo.py").write_text(_GLOO)
    shard = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "ACCELERATE_TORCH_DEVICE": "cpu",
             "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP"}  # fmt: skip
    folder = tmp_path / "sharded"
    code, _, err = _run([str(program)], *_reviews(folder, tiny_encoder, "--quiet"), **shard)
    assert code == 0, err
    checkpoint = Path(str(last_checkpoint(folder)))
    assert (checkpoint / "pytorch_model_fsdp.bin").is_file()  # it was sharded
    plain = finetune(
        tmp_path / "plain", model=str(tiny_encoder), source="embedded", k=16, n_eval=40, batch_size=8,
        precision="fp32", n_train=80, epochs=3, learning_rate=1e-3, quiet=True,
    )  # fmt: skip
    assert (
        load_file(folder / "model.safetensors").keys() == load_file(plain.folder / "model.safetensors").keys()
    )
    (folder / "topk_result.json").unlink()
    code, out, err = _run([str(program)], *_reviews(folder, tiny_encoder), **shard)
    assert code == 0, err
    assert out.count("'epoch'") == 1  # all steps were there: nothing is told but the end


def test_finetuning_goes_on_with_one_process(tiny_encoder: Path, tmp_path: Path) -> None:
    (program := tmp_path / "eager.py").write_text(_EAGER)
    process = _start([str(program)], *_reviews(tmp_path / "run", tiny_encoder, "--epochs", 20, "--quiet"))
    while last_checkpoint(tmp_path / "run") is None and process.poll() is None:
        time.sleep(0.05)
    for rank in range(2):  # which outlive their launcher
        os.kill(int((tmp_path / f"run.{rank}").read_text()), signal.SIGKILL)
    process.communicate(timeout=600)
    checkpoint = last_checkpoint(tmp_path / "run")
    assert checkpoint is not None
    step = int(checkpoint.rsplit("-", 1)[1])
    whole = subprocess.run(
        [sys.executable, *MODULE, *map(str, _reviews(tmp_path / "run", tiny_encoder, "--epochs", 20))],
        capture_output=True, text=True,
    )  # fmt: skip
    assert whole.returncode == 0, whole.stderr
    epochs = [float(epoch) for epoch in re.findall(r"'epoch': '?([\d.]+)", whole.stdout)]
    assert step / 10 < min(epochs) <= max(epochs) == 20  # ten steps an epoch, as before


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        ("first", "over several processes with a GPU each, and here are none: leave out --use_fsdp"),
        ("gate", "the gate selector is trained along .* leave out --use_fsdp, or choose a selector"),
    ],
)
def test_where_finetuning_cannot_be_sharded(
    selector: str, message: str, tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match=message):
        finetune(
            tmp_path / "a", model=str(tiny_encoder), source="embedded", selector=selector, k=16, n_train=16,
            n_eval=8, quiet=True,
        )  # fmt: skip
    with pytest.raises(ValueError, match="pretrain shards a model by itself: leave out --use_fsdp, and say"):
        pretrain(tmp_path / "a", steps=1, **TINY)
    assert not list(tmp_path.iterdir())


def _two(rank: int, file: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    check_same("runs/a", texts="abc", step=3)
    with pytest.raises(ValueError, match=r"differ in the step \(3 and 4\): put runs/a and what"):
        check_same("runs/a", texts="abc", step=3 + rank)
    torch.distributed.destroy_process_group()


def test_processes_that_read_something_else_are_refused(tmp_path: Path) -> None:
    check_same("runs/a", texts="abc")
    torch.multiprocessing.spawn(  # type: ignore[attr-defined, no-untyped-call]
        _two, (str(tmp_path / "meet"),), nprocs=2
    )


def test_alone_nothing_is_caught_and_one_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    assert first_to_tell()
    with pytest.raises(RuntimeError, match="gloo: mine"), together("a"):
        raise RuntimeError("gloo: mine")
    monkeypatch.setenv("WORLD_SIZE", "2")  # without a store to ask
    assert first_to_tell()
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(RuntimeError, match="a process of this run in a was ended"), together("a"):
        signal.raise_signal(signal.SIGTERM)
    # a launcher that is late must not end it before it has said so
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    signal.signal(signal.SIGTERM, before)
    with pytest.raises(RuntimeError, match="diverged"), together("a"):
        raise RuntimeError("the training diverged")
    assert signal.getsignal(signal.SIGTERM) is before
