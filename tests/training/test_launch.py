"""The launch scripts, dry: what they would start is recorded by stand-ins, and torchrun and we take it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from torch.distributed.run import parse_args

LAUNCH = Path(__file__).resolve().parents[2] / "benchmarks" / "launch"
SLURM = LAUNCH / "slurm.sh"


def _slurm(folder: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The script as Slurm would run it, with stand-ins for srun and scontrol."""
    (folder / "srun").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (folder / "scontrol").write_text('#!/bin/sh\n[ "$3" = "gpu[3-4]" ] && printf "gpu3\\ngpu4\\n"\n')
    for name in ("srun", "scontrol"):
        (folder / name).chmod(0o755)
    job = {"SLURM_JOB_ID": "41234", "SLURM_JOB_NODELIST": "gpu[3-4]", "SLURM_NNODES": "2",
           "SLURM_GPUS_ON_NODE": "8"}  # fmt: skip
    return subprocess.run(
        ["bash", str(SLURM), *command], capture_output=True, text=True,
        env={"PATH": f"{folder}:{os.environ['PATH']}"} | job | environment,
    )  # fmt: skip


def test_slurm_starts_a_torchrun_on_each_node(tmp_path: Path) -> None:
    ours = ["pretrain", "/shared/my run", "--steps", "100", "--shard"]
    run = _slurm(tmp_path, *ours)
    assert run.returncode == 0, run.stderr
    given = run.stdout.splitlines()
    at = given.index("torchrun")
    assert given[:at] == ["--kill-on-bad-exit=1", "--wait=30"]
    torchrun = parse_args(given[at + 1 :])  # type: ignore[no-untyped-call]
    assert (torchrun.nnodes, torchrun.nproc_per_node, torchrun.max_restarts) == ("2", "8", 0)
    assert (torchrun.rdzv_backend, torchrun.rdzv_endpoint, torchrun.rdzv_id) == (
        "c10d",
        "gpu3:21234",
        "41234",
    )
    assert (torchrun.module, torchrun.training_script) == (True, "topk_lib.cli")
    assert torchrun.training_script_args == ours  # one argument stays one


def test_slurm_without_a_command_is_told_what_to_say(tmp_path: Path) -> None:
    run = _slurm(tmp_path)
    assert run.returncode == 2
    assert "say which command of topk-lib to run" in run.stderr


@pytest.mark.parametrize("script", sorted((LAUNCH.parent).rglob("*.sh")), ids=lambda path: path.name)
def test_shell_scripts_have_no_slips(script: Path) -> None:
    linters = [["bash", "-n"], *([["shellcheck"]] if shutil.which("shellcheck") else [])]
    for linter in linters:
        run = subprocess.run([*linter, str(script)], capture_output=True, text=True)
        assert run.returncode == 0, run.stdout + run.stderr


@pytest.fixture
def ray_train(monkeypatch: pytest.MonkeyPatch) -> tuple[Any, list[Any]]:
    """The script for Ray with a stand-in for ray, and what that is asked for."""
    asked: list[Any] = []

    class TorchTrainer(SimpleNamespace):
        def __init__(self, work: Any, **options: Any) -> None:
            super().__init__(work=work, **options)

        def fit(self) -> None:
            asked.append(self)

    train, torch = ModuleType("ray.train"), ModuleType("ray.train.torch")
    for name in ("FailureConfig", "RunConfig", "ScalingConfig"):
        setattr(train, name, type(name, (SimpleNamespace,), {}))
    torch.TorchTrainer = TorchTrainer  # type: ignore[attr-defined]
    for stand in (ModuleType("ray"), train, torch):
        monkeypatch.setitem(sys.modules, stand.__name__, stand)
    spec = importlib.util.spec_from_file_location("ray_train", LAUNCH / "ray_train.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script, asked


def test_ray_is_asked_for_the_same_command(ray_train: tuple[Any, list[Any]]) -> None:
    script, asked = ray_train
    script.main(["--workers", "16", "--storage", "/shared/ray", "--", "pretrain", "/shared/run", "--shard"])
    (trainer,) = asked
    assert trainer.train_loop_config == {"command": ["pretrain", "/shared/run", "--shard"]}
    assert vars(trainer.scaling_config) == {"num_workers": 16, "use_gpu": True}
    assert trainer.run_config.storage_path == "/shared/ray"
    assert trainer.run_config.failure_config.max_failures == 3
    with pytest.raises(SystemExit):
        script.main(["--workers", "16", "--"])


def test_a_worker_of_ray_runs_the_command_and_fails_with_it(
    ray_train: tuple[Any, list[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    script, _ = ray_train
    script.work({"command": ["--version"]})
    assert capsys.readouterr().out.startswith("topk-lib ")
    with pytest.raises(RuntimeError, match="exit code 2; its sentence stands above"):
        script.work({"command": ["pretrain", "never", "--steps", "5", "--objective", "next"]})
    assert "objective must be masked or causal" in capsys.readouterr().err
