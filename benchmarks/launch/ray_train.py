"""A command of the course on a Ray cluster, as Slurm or torchrun would start it.

    python benchmarks/launch/ray_train.py --workers 16 -- pretrain /shared/run --steps 100000 --shard

Every worker must see the folders that the command names. Where one ends, Ray starts all of them again, and
the command goes on from its last checkpoint; Ray's own checkpoints are not used.
"""

from __future__ import annotations

import argparse
from typing import Any

from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer


def work(config: dict[str, Any]) -> None:
    """One process: Ray has joined it to the others, and set what torchrun would set."""
    from topk_lib.cli import app

    if code := app(config["command"], standalone_mode=False):
        raise RuntimeError(f"topk-lib ended with exit code {code}; its sentence stands above")


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--workers", type=int, required=True, help="processes, one a GPU")
    parser.add_argument("--cpu", action="store_true", help="processes without a GPU")
    parser.add_argument("--restarts", type=int, default=3, help="how often to start them again")
    parser.add_argument("--storage", help="a folder that all nodes see, for Ray's own notes")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="of topk-lib, after --")
    asked = parser.parse_args(given)
    command = asked.command[asked.command[:1] == ["--"] :]
    if not command:
        parser.error("say which command of topk-lib to run, after --, as: -- pretrain FOLDER --steps 1000")
    TorchTrainer(
        work,
        train_loop_config={"command": command},
        scaling_config=ScalingConfig(num_workers=asked.workers, use_gpu=not asked.cpu),
        run_config=RunConfig(
            storage_path=asked.storage, failure_config=FailureConfig(max_failures=asked.restarts)
        ),
    ).fit()


if __name__ == "__main__":
    main()
