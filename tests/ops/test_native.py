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

import numpy as np
import pytest
import torch
from torch import Tensor

from topk_lib import argtopk, hard_topk, soft_topk, topk_mask
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


DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
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
@pytest.mark.parametrize("dtype", DTYPES)
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


def close(a: Tensor, b: Tensor, most: float) -> bool:
    return torch.allclose(a, b, rtol=0, atol=most, equal_nan=True)


def softly(x: Tensor, k: Any, t: Any, valid: Tensor | None, link: str, g: Tensor) -> list[Tensor]:
    """Weights, and the gradients of what are tensors, in float64."""
    x, k, t = (y.clone().requires_grad_() if isinstance(y, Tensor) else y for y in (x, k, t))
    weights = soft_topk(x, k, t, link=link, valid=valid)
    leaves = [y for y in (x, k, t) if isinstance(y, Tensor)]
    return [y.detach().double() for y in (weights, *torch.autograd.grad(weights, leaves, g))]


@built
@pytest.mark.parametrize("link", ["sigmoid", "laplace", "clip", "exp"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_soft_weights_and_gradients_are_those_of_numpy_in_float64(
    dtype: torch.dtype, link: str, cpu_code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if cpu_code == "numpy":
        pytest.skip("it is what the others are compared with")
    eps = torch.finfo(dtype).eps
    cases = product(("all differ", "ties", "all the same"), ("rows", "columns", "masked", "ks"), (1, 33, 700))
    for kind, layout, n in cases:
        x = scores(kind, 3, n, dtype)
        x = x.t().contiguous().t() if layout == "columns" else x
        valid = torch.rand(3, n) < 0.7 if layout == "masked" else None
        g = torch.randn(3, n).to(dtype)
        for k, t in ((0.0, 1.0), (n / 8, 0.5), (n // 2, 1e-3), (n - 0.5, 30.0), (n, 0.5)):
            per_row = layout == "ks"
            ks: Any = torch.tensor([k, k / 2, 1.0], dtype=torch.float64) if per_row else k
            ts: Any = torch.tensor([t, 2 * t, 1.0], dtype=torch.float64) if per_row else t
            monkeypatch.setenv("TOPK_BACKEND", "numpy")
            expected = softly(x.double(), ks, ts, valid, link, g.double())
            monkeypatch.delenv("TOPK_BACKEND")
            got = softly(x, ks, ts, valid, link, g)
            where = f"{kind}, {layout}, n = {n}, k = {k}, t = {t}"
            assert close(got[0], expected[0], {torch.float32: 2e-5, torch.float64: 1e-11}.get(dtype, eps)), (
                where
            )
            if t < 0.1:  # between scores far apart the threshold, and so a gradient, is anything
                continue
            off = 64 * max(eps, 1e-12) * g.double().abs()
            for a, b, most in zip(
                got[1:], expected[1:], (off.max(), off.max(), off.sum(-1).max()), strict=False
            ):
                assert close(a, b, most.item() / min(t, 1)), where


@built
@pytest.mark.usefixtures("cpu_code")
@pytest.mark.parametrize(("dtype", "ends"), [(torch.float32, 87), (torch.float64, 708)])
def test_the_exponential_function_is_right_to_a_spacing(dtype: torch.dtype, ends: int) -> None:
    x = torch.cat([torch.linspace(-ends, ends, 200_003).double(), torch.linspace(-1, 1, 50_000).double()]).to(
        dtype
    )
    found = torch.empty_like(x)
    native.module.exponentials(x.data_ptr(), found.data_ptr(), len(x), dtype == torch.float64)
    exact = np.exp(x.numpy().astype(np.longdouble))
    spacing = np.spacing(exact.astype(found.numpy().dtype))
    # A long double may be no longer than float64, and then NumPy's own may be off by as much.
    most = 1.05 if dtype == torch.float32 or np.finfo(np.longdouble).eps < 1e-18 else 2
    assert np.abs((found.numpy() - exact) / spacing).max() <= most


@built
@pytest.mark.parametrize("tensors", [False, True])
def test_soft_second_derivatives_and_batches_of_gradients(tensors: bool) -> None:
    """What the compiled code leaves to PyTorch after a forward call of its own."""
    torch.manual_seed(0)
    x = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    k = torch.full((2,), 1.5, dtype=torch.float64)

    def f(x: Tensor) -> Tensor:
        return soft_topk(x, k if tensors else 1.5, 0.7)

    assert torch.autograd.gradgradcheck(f, x)
    weights, grads = f(x), torch.randn(3, 2, 5, dtype=torch.float64)
    (batch,) = torch.autograd.grad(weights, x, grads, is_grads_batched=True, retain_graph=True)
    (again,) = torch.vmap(lambda g: torch.autograd.grad(weights, x, g, retain_graph=True))(grads)
    for i, g in enumerate(grads):
        (one,) = torch.autograd.grad(weights, x, g, retain_graph=True)
        torch.testing.assert_close(batch[i], one)
        torch.testing.assert_close(again[i], one)
    x.data.add_(0)
    with torch.no_grad():
        x.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(weights.sum(), x)


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
        "    found = []\n"
        "    for threads in (2, 1):\n"
        "        torch.set_num_threads(threads)\n"
        "        leaf = x.clone().requires_grad_()\n"
        "        weights = topk_lib.soft_topk(leaf, k, 0.5)\n"
        "        found.append((weights, *torch.autograd.grad(weights, leaf, x)))\n"
        "    assert all(map(torch.equal, *found))\n"
        "    torch.set_num_threads(2)\n"
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
@pytest.mark.parametrize("dtype", DTYPES)
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
@pytest.mark.parametrize("dtype", DTYPES)
def test_soft_allocates_weights_and_gradients_alone(dtype: torch.dtype) -> None:
    x = torch.randn(64, 1024).to(dtype).requires_grad_()
    with torch.profiler.profile(profile_memory=True) as watched:
        weights = soft_topk(x, 8, 0.5)
        (grad,) = torch.autograd.grad(weights, x, weights)
    events = [e.nbytes() for e in watched.profiler.kineto_results.events() if e.name() == "[memory]"]
    allocated = sum(size for size in events if size > 0)
    assert 0 <= allocated - weights.nbytes - grad.nbytes < x.nbytes / 16


PEAK = "import resource, torch\npeak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024\n"


def printed(program: str) -> int:
    """The number that a process of its own prints."""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
    return int(run.stdout)


@built
@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is counted in KiB on Linux")
@pytest.mark.parametrize("share", [1 << 20, 4])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_work_space_of_soft_is_a_row_of_float32_at_most(share: int, dtype: str) -> None:
    """None at all for float32, whose weights stand where the work was done."""
    program = (
        f"{PEAK}from topk_lib import soft_topk\n"
        "n = 1 << 24\n"
        f"x = torch.randn(1, n).to(torch.{dtype})\n"
        "soft_topk(x[:, :1024].contiguous(), 8, 1e-4)\n"
        "before = peak()\n"
        f"weights = soft_topk(x, n // {share}, 1e-4)\n"
        "print(peak() - before - weights.nbytes)\n"
    )
    assert printed(program) < (8 << 20) + (4 << 24 if dtype == "float16" else 0)


@built
@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is counted in KiB on Linux")
@pytest.mark.parametrize("share", [1 << 20, 4])
def test_work_space_is_a_row_at_most(share: int) -> None:
    """Of one long row: beside the scores and the results no more than as many keys as it has scores."""
    program = (
        f"{PEAK}from topk_lib import hard_topk\n"
        "n = 1 << 24\n"
        "hard_topk(torch.randn(1, 1024), 8)\n"
        "x = torch.randn(1, n)\n"
        "before = peak()\n"
        f"results = hard_topk(x, n // {share})\n"
        "print(peak() - before - sum(r.nbytes for r in results) - 4 * n)\n"
    )
    assert printed(program) < 8 << 20


def test_a_negative_k_in_a_compiled_graph_keeps_nothing() -> None:
    """A graph checks no numbers; what is compiled must not write before its rows."""
    graph = torch.compile(lambda s, k: topk_mask(s, k), backend="aot_eager", fullgraph=True)
    kept = graph(torch.randn(4, 64), torch.tensor([-1, 2, 2, -300]))
    assert kept.sum(1).tolist() == [0, 2, 2, 0]
