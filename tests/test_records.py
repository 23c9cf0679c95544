"""Records where the machine lacks something, or a file is damaged."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from topk_lib import records


def test_without_the_module_resource(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows."""
    memory = SimpleNamespace(memory_info=lambda: SimpleNamespace(peak_wset=300 * 2**20))
    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.setattr("psutil.Process", lambda: memory)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setenv("TOPK_RESULTS", str(tmp_path))
    path = records.write("e", "r", metrics={}, settings={}, data={}, seconds=1.0)
    assert json.loads(path.read_text())["peak_memory_mib"] == 300


def test_the_package_comes_in_without_what_windows_lacks() -> None:
    program = "import sys\nsys.modules['resource'] = None\nfrom topk_lib import cli, records, training"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("content", ["", '{"metrics": ', "[1]", "\xff"])
def test_a_damaged_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    monkeypatch.setenv("TOPK_RESULTS", str(tmp_path))
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "r.cpu.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=r"the record .*r.cpu.json is damaged"):
        records.load("e", "r")
    with pytest.raises(ValueError, match="is damaged"):
        records.load_all("e")


def test_reading_a_record_needs_no_pytorch() -> None:
    program = "import sys, topk_lib.records, topk_lib.claims\nassert 'torch' not in sys.modules"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
