"""What is compiled: the kernels, for real cards (the interpreter accepts more), and the C++ of a CPU."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from topk_lib import argtopk, hard_topk, topk_mask
from topk_lib.ops import native

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


built = pytest.mark.skipif(native.module is None, reason="the compiled operators were not built")


@pytest.mark.skipif(
    shutil.which("c++") is None or not Path(sysconfig.get_path("include"), "Python.h").exists(),
    reason="no compiler, or none of Python's headers",
)
def test_where_there_is_a_compiler_the_operators_were_compiled() -> None:
    assert native.module is not None, "install the project again: pip install -e ."


def scores(kind: str, rows: int, n: int, dtype: torch.dtype) -> Tensor:
    """Scores that all differ; with many ties and every special one; all the same."""
    torch.manual_seed(n)
    if kind == "all differ":
        return torch.randn(rows, n, dtype=torch.float64).to(dtype)
    if kind == "all the same":
        return torch.full((rows, n), -0.0, dtype=dtype)
    x = (torch.randn(rows, n, dtype=torch.float64) * 8).round() / 2
    for special in (float("nan"), -float("nan"), float("inf"), -float("inf"), -0.0, 1e-40):
        x[torch.rand(rows, n) < 0.01] = special
    return x.to(dtype)


@built
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("n", [1, 31, 32, 33, 64, 257, 1000, 4099, 33000])
def test_bit_for_bit_the_numpy_path(
    dtype: torch.dtype, n: int, cpu_code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every way through the code: few and many, ties at the edge, a mask, one k a row, strides."""
    if cpu_code == "numpy":
        pytest.skip("it is what the others are compared with")
    for kind, layout in product(("all differ", "ties", "all the same"), ("rows", "columns", "masked", "ks")):
        x = scores(kind, 3, n, dtype)
        x = x.t().contiguous().t() if layout == "columns" else x
        valid = torch.rand(3, n) < 0.7 if layout == "masked" else None
        for k in sorted({0, 1, min(n, 8), n // 200, n // 64, n // 10, n // 2, n - 1, n}):
            ks: int | Tensor = torch.tensor([k, k // 2, 0]) if layout == "ks" else k
            for largest, order in product((True, False), ("position", "value")):

                def choose(ks: int | Tensor = ks, **how: Any) -> list[Tensor]:
                    values, indices, mask = hard_topk(x, ks, valid=valid, **how)  # noqa: B023
                    return [values.nan_to_num(7.0), indices, mask]

                monkeypatch.setenv("TOPK_BACKEND", "numpy")
                by_numpy = choose(largest=largest, order=order)
                monkeypatch.delenv("TOPK_BACKEND")
                got = choose(largest=largest, order=order)
                where = f"{kind}, {layout}, k = {k}, largest = {largest}, by {order}"
                assert all(map(torch.equal, got, by_numpy)), where
                assert torch.equal(topk_mask(x, ks, valid=valid, largest=largest), by_numpy[2]), where
                alone = argtopk(x, ks, valid=valid, largest=largest, order=order)
                assert torch.equal(alone, by_numpy[1]), where


@built
def test_denormal_scores_are_told_apart_where_the_processor_flushes_them() -> None:
    x = torch.tensor([1e-40, 3e-40, 2e-40, 0.0])
    assert torch.set_flush_denormal(True)
    try:
        assert hard_topk(x, 2).indices.tolist() == [1, 2]
    finally:
        torch.set_flush_denormal(False)


@built
def test_threads_share_the_rows() -> None:
    """Rows of many sizes, so that shares end unevenly; a forked process goes on alone."""
    program = (
        "import os, torch, topk_lib\n"
        "from topk_lib.ops import native\n"
        "torch.set_num_threads(2)\n"
        "assert native.threads() == 2\n"
        "for rows, n, k in ((2, 20000, 9), (301, 700, 60), (40000, 1, 1), (9, 40000, 10000)):\n"
        "    x = torch.randn(rows, n)\n"
        "    mask = topk_lib.topk_mask(x, k)\n"
        "    assert torch.equal(mask, torch.zeros_like(mask).scatter(1, x.topk(k).indices, True))\n"
        "if os.name == 'posix' and os.fork() == 0:\n"
        "    torch_hangs_here = topk_lib.topk_mask(x, k).numpy()\n"
        "    assert (torch_hangs_here == mask.numpy()).all()\n"
        "    os._exit(0)\n"
        "print('done', os.wait()[1] if os.name == 'posix' else 0)\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert run.stdout.split() == ["done", "0"], run.stderr


@built
def test_a_k_that_was_expanded() -> None:
    ks = torch.tensor(2).expand(3)
    assert hard_topk(torch.arange(12.0).reshape(3, 4), ks).indices.tolist() == [[2, 3]] * 3


@built
@pytest.mark.parametrize("layout", ["rows", "columns", "every other"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_no_hidden_copy_of_the_scores(layout: str, dtype: torch.dtype) -> None:
    """PyTorch allocates the results and nothing of the scores' size, whatever their dtype and strides."""
    x = torch.randn(64, 1024).to(dtype)
    x = {"rows": x, "columns": x.T.contiguous().T, "every other": x[:, ::2]}[layout]
    with torch.profiler.profile(profile_memory=True) as watched:
        results = hard_topk(x, 8)
    events = [e.nbytes() for e in watched.profiler.kineto_results.events() if e.name() == "[memory]"]
    allocated = sum(size for size in events if size > 0)
    assert 0 <= allocated - sum(result.nbytes for result in results) < x.nbytes / 16


@built
@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is counted in KiB on Linux")
@pytest.mark.parametrize("share", [1 << 20, 4])
def test_work_space_is_a_row_at_most(share: int) -> None:
    """Of one long row: beside the scores and the results no more than as many keys as it has scores."""
    program = (
        "import resource, torch\n"
        "from topk_lib import hard_topk\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024\n"
        "n = 1 << 24\n"
        "hard_topk(torch.randn(1, 1024), 8)\n"
        "x = torch.randn(1, n)\n"
        "before = peak()\n"
        f"results = hard_topk(x, n // {share})\n"
        "print(peak() - before - sum(r.nbytes for r in results) - 4 * n)\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) < 8 << 20
