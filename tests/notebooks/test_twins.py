"""The twins run from top to bottom on the embedded data, without a network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("twin", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_twin_runs(twin: Path) -> None:
    # A proxy where nothing listens: whatever asks for the network fails.
    nowhere = {f"{scheme}_PROXY": "http://127.0.0.1:9" for scheme in ("HTTP", "HTTPS", "http", "https")}
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "--nbmake", "--nbmake-timeout=1200", str(twin)],
        cwd=ROOT,
        env=os.environ | nowhere | {"TOPK_IMDB": "embedded", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-3000:]
