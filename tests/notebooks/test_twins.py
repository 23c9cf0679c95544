"""The twins run from top to bottom on the embedded data, without a network.

The book has just run the same cells on what reviews there were, and a twin has the cells of its source
(test_project.py). So only the chapters that load texts run again: on other texts they may fail.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


LOADS = re.compile(r"\b(?:load_reviews|train_and_eval|finetune)\(")
TWINS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def test_some_twins_load_texts() -> None:
    assert any(LOADS.search(twin.read_text(encoding="utf-8")) for twin in TWINS)


@pytest.mark.slow
@pytest.mark.parametrize(
    "twin",
    [twin for twin in TWINS if LOADS.search(twin.read_text(encoding="utf-8"))],
    ids=lambda path: path.stem,
)
def test_twin_runs(twin: Path, tmp_path: Path) -> None:
    # On the path, nvidia-smi; but no GPU that could be used.
    broken = tmp_path / "nvidia-smi"
    broken.write_text("#!/bin/sh\nexit 9\n")
    broken.chmod(0o755)
    path = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    # A proxy where nothing listens: whatever asks for the network fails.
    nowhere = {f"{scheme}_PROXY": "http://127.0.0.1:9" for scheme in ("HTTP", "HTTPS", "http", "https")}
    # One thread: beside another test, two wait for each other most of the time.
    mine = {"TOPK_IMDB": "embedded", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "--nbmake", "--nbmake-timeout=1200", str(twin)],
        cwd=ROOT,
        env=os.environ | nowhere | path | mine,
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-3000:]
