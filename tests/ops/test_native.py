"""Triton's interpreter accepts more than its compiler: compile the kernels for real cards."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="NVIDIA's assembler comes with Triton on x86 only")
def test_every_kernel_compiles_for_real_cards(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, "benchmarks/kernels.py", "--check"], cwd=ROOT, text=True, capture_output=True,
        env=environment | {"TRITON_CACHE_DIR": str(tmp_path)},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    assert "kernels compiled" in run.stdout
