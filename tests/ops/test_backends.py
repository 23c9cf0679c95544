"""One contract, whatever runs it: Triton kernels, the fast CPU path, torch.compile, vmap."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from topk_lib import hard_topk, reference, sample_topk, soft_topk
from topk_lib.ops.hard import _choose

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LINKS = ["sigmoid", "laplace", "clip", "exp"]
links = pytest.mark.parametrize("link", LINKS)


@pytest.fixture
def triton_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels natively on a GPU, in Triton's interpreter elsewhere (set in conftest.py)."""
    pytest.importorskip("triton")
    monkeypatch.setenv("TOPK_BACKEND", "triton")


def awkward(rows: int, n: int, dtype: torch.dtype, seed: int) -> Tensor:
    """Many ties, both zeros, both infinities, NaN of both signs."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(-3, 4, (rows, n), generator=generator).to(dtype) / 2
    for value in (math.nan, -math.nan, math.inf, -math.inf, -0.0):
        scores[torch.rand(rows, n, generator=generator) < 0.06] = value
    return scores.to(DEVICE)


@pytest.mark.gpu
@pytest.mark.usefixtures("triton_backend")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("n", [1, 16, 100, 1030])
def test_hard_kernel_is_the_definition(dtype: torch.dtype, masked: bool, n: int) -> None:
    scores = awkward(5, n, dtype, seed=n)
    valid = torch.rand(5, n, device=DEVICE) < 0.7 if masked else None
    ks = torch.tensor([0, 1, n // 3, n - 1, n], device=DEVICE)
    got = hard_topk(scores, ks, valid=valid)
    again = hard_topk(scores, ks, valid=valid)
    for a, b in zip(got, again, strict=True):
        assert torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0))
    for row in range(5) if n <= 100 else (2,):
        mask = None if valid is None else valid[row : row + 1].cpu()
        expected = reference.hard_topk(scores[row : row + 1].cpu(), int(ks[row]), mask)
        assert torch.equal(got.mask[row].cpu(), expected[0])
        where = expected[0].nonzero().flatten().tolist()
        assert got.indices[row].tolist() == where + [-1] * (n - len(where))


@pytest.mark.gpu
@pytest.mark.usefixtures("triton_backend")
@pytest.mark.parametrize(("k", "masked"), [(1, False), (70, False), (70, True), (9000, False)])
def test_long_rows_in_two_stages(k: int, masked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = torch.randint(0, 3000, (2, 40_000)).float().to(DEVICE)
    valid = torch.ones(2, 40_000, dtype=torch.bool, device=DEVICE)
    valid[0, 60:] = not masked  # fewer than k
    valid[1, ::3] = not masked
    ks = torch.tensor([k, max(k - 3, 0)], device=DEVICE)
    got = hard_topk(scores, ks, valid=valid)
    monkeypatch.setenv("TOPK_BACKEND", "torch")
    expected = hard_topk(scores, ks, valid=valid)
    for a, b in zip(got, expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.gpu
@pytest.mark.usefixtures("triton_backend")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("masked", [False, True])
def test_short_lists_leave_nobody_out(
    dtype: torch.dtype, masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = torch.cat([awkward(4, 600, dtype, seed=7), torch.zeros(3, 600, dtype=dtype, device=DEVICE)])
    scores[5, 300:] = 1  # groups full of ties, more than a list may hold
    scores[6] = -math.inf
    scores = torch.cat([scores, torch.randn(1, 600, device=DEVICE).to(dtype)])
    valid = torch.rand(8, 600, device=DEVICE) < 0.6 if masked else None
    if valid is not None:
        valid[3, 10:] = False  # fewer than k
        valid[6] = torch.arange(600, device=DEVICE) % 30 == 7
    ks = torch.tensor([0, 1, 13, 30, 32, 31, 29, 32], device=DEVICE)
    got = hard_topk(scores, ks, valid=valid)
    monkeypatch.setenv("TOPK_BACKEND", "torch")
    expected = hard_topk(scores, ks, valid=valid)
    for a, b in zip(got, expected, strict=True):
        assert torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(("n", "masked"), [(100, False), (100, True), (700, False), (700, True)])
def test_the_smallest_in_the_kernel(
    dtype: torch.dtype, n: int, masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole rows and short lists; NaN comes last, also where it fills groups and k."""
    pytest.importorskip("triton")
    scores = torch.cat([awkward(4, n, dtype, seed=n), torch.randn(4, n, device=DEVICE).to(dtype)])
    scores[5, 20:] = math.nan
    scores[6] = math.inf
    scores[7, -n // 3 :] = -math.nan
    valid = torch.rand(8, n, device=DEVICE) < 0.6 if masked else None
    ks = torch.tensor([0, 1, 13, 30, 32, 31, 29, 32], device=DEVICE)
    found = []
    for backend in ("torch", "triton"):
        monkeypatch.setenv("TOPK_BACKEND", backend)
        found.append(hard_topk(scores, ks, valid=valid, largest=False))
    for a, b in zip(*found, strict=True):
        assert torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0))


@pytest.mark.gpu
@pytest.mark.usefixtures("triton_backend")
@pytest.mark.parametrize("largest", [True, False])
def test_no_pass_over_the_scores_but_the_kernels(largest: bool) -> None:
    """What runs before the kernel hands it the scores themselves: no operation makes their like."""
    made: list[str] = []

    class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **kwargs or {})
            for one in result if isinstance(result, tuple) else (result,):
                if isinstance(one, Tensor) and one.shape == scores.shape and not one.is_set_to(scores):
                    made.append(f"{func}: {one.dtype}")
            return result

    scores = torch.randn(3, 700, device=DEVICE)
    with Watch():  # type: ignore[no-untyped-call]
        _choose(scores, 8, None, None, largest)
    assert made
    assert all(one.endswith("torch.bool") for one in made)  # the mask


@pytest.mark.gpu
@pytest.mark.parametrize("top_p", [None, 0.6])
def test_draws_from_a_short_list_are_those_from_the_row(
    top_p: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton")
    generator = torch.Generator().manual_seed(0)
    logits = (2 * torch.randn(12, 700, generator=generator)).to(DEVICE)
    logits[1] = logits[1].round()  # ties
    logits[2, 20:] = -math.inf
    logits[3, 500], logits[4, 650], logits[5] = math.nan, math.inf, -math.inf
    ks, seeds = torch.arange(20, 32, device=DEVICE), torch.arange(12, device=DEVICE)

    def draw() -> Tensor:
        return sample_topk(logits, ks, temperature=0.9, top_p=top_p, seed=seeds)

    drawn = []
    for backend in ("torch", "triton"):
        monkeypatch.setenv("TOPK_BACKEND", backend)
        drawn.append(draw())
    assert torch.equal(*drawn)


@pytest.mark.gpu
@pytest.mark.usefixtures("triton_backend")
@links
@pytest.mark.parametrize("temperature", [2.0, 0.3, 1e-3, 1e-7])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_soft_kernel_follows_float64(
    link: str, temperature: float, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    scores = torch.randn(4, 60).to(dtype).to(DEVICE)
    scores[0, :7] = 0.5  # ties
    scores[1, 3], scores[1, 4] = math.inf, -math.inf
    valid = (torch.rand(4, 60) < 0.8).to(DEVICE)
    k = torch.tensor([1.0, 3.5, 20.0, 0.0], device=DEVICE)
    grad = torch.randn(4, 60, device=DEVICE)

    def run(s: Tensor, k: Tensor) -> list[Tensor]:
        s, k = s.detach().requires_grad_(), k.detach().requires_grad_()
        t = torch.tensor(temperature, dtype=torch.float64, device=DEVICE, requires_grad=True)
        weights = soft_topk(s, k, t, link=link, valid=valid)
        return [weights, *torch.autograd.grad(weights, (s, k, t), grad.to(weights.dtype))]

    got = run(scores, k)
    monkeypatch.setenv("TOPK_BACKEND", "torch")
    expected = run(scores.double(), k.double())
    wide = dtype == torch.float64
    # tau has 20 steps for its fine part, which a temperature of 1e-7 uses up
    floor = 1e-4 if temperature < 1e-6 else 1e-9
    assert (got[0].double() - expected[0]).abs().max() <= max(16 * torch.finfo(dtype).eps, floor)
    if dtype in (torch.float32, torch.float64):
        total = torch.minimum(k, valid.sum(-1)).double()
        # the scores in float32, summed over 60 entries
        assert (got[0].double().sum(-1) - total).abs().max() <= (
            1e-10 if wide and floor < 1e-6 else 1e-5 if floor < 1e-6 else 1e-3
        )
    if temperature >= 0.3:
        eps = max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)  # k and its gradient are float32
        for a, b in zip(got[1:], expected[1:], strict=True):
            assert (a.double() - b).abs().max() / (b.abs().max() + 1e-6) <= 2000 * eps


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_all_paths_agree_from_the_least_number_to_the_largest(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton")
    torch.manual_seed(0)
    info = torch.finfo(dtype)
    sizes = [info.smallest_normal * 2**-5, info.smallest_normal, 1e-4, 1.0, 1e4, info.max / 8]
    heat = [1e-45, 1e-30, 1e-3, 1.0, 1e30]
    # (sizes * heat, n): every size meets every temperature
    scores = torch.stack([torch.randn(40).double() * size for size in sizes for _ in heat])
    scores = scores.clamp(-info.max, info.max).to(dtype).to(DEVICE)
    temperature = torch.tensor(heat * len(sizes), dtype=torch.float64, device=DEVICE)
    seeds = torch.arange(len(scores), device=DEVICE)

    def run() -> list[Tensor]:
        return [
            hard_topk(scores, 7).mask,
            sample_topk(scores, 7, temperature=temperature.float(), seed=seeds),
            sample_topk(scores, 7, temperature=temperature.float(), top_p=0.7, min_p=0.02, seed=seeds),
            *(soft_topk(scores, 7.5, temperature, link=link) for link in LINKS),
        ]

    by_backend = {}
    for backend in ("torch", "triton"):
        monkeypatch.setenv("TOPK_BACKEND", backend)
        by_backend[backend] = run()
    (*chosen, _, _, _, _), (*by_kernel, _, _, _, _) = by_backend.values()
    for path, kernel in zip(chosen, by_kernel, strict=True):
        assert torch.equal(path, kernel)
    weights, kernel_weights = (found[len(chosen) :] for found in by_backend.values())
    for link, one, other in zip(LINKS, weights, kernel_weights, strict=True):
        assert other.isfinite().all(), link
        assert (one.double() - other.double()).abs().max() <= max(2e-5, 2 * info.eps), link
        assert (other.double().sum(-1) - 7.5).abs().max() <= max(1e-3, 40 * info.eps), link


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 40), st.integers(0, 3), st.integers(600, 9000), st.integers(0, 10**6))
def test_the_fast_cpu_path_is_the_stable_sort(k: int, kind: int, n: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(2, n, generator=generator)
    if kind:
        scores = (scores * (1, 8, 64)[kind - 1]).round()  # ties, many to few
        scores[0, torch.randint(n, (3,), generator=generator)] = (math.nan, math.inf, -0.0)[kind - 1]
    got = hard_topk(scores, k)
    slow = hard_topk(scores, k, valid=torch.ones(n, dtype=torch.bool))
    assert torch.equal(got.indices, slow.indices)
    assert torch.equal(got.mask, slow.mask)


def test_a_million_columns() -> None:
    scores = torch.randn(1, 1_000_000)
    assert hard_topk(scores, 50, order="value").indices.tolist() == scores.topk(50).indices.tolist()
    assert soft_topk(scores.double(), 50, 0.1).sum().item() == pytest.approx(50, abs=1e-9)


@pytest.mark.parametrize("backward", [False, True])
def test_compiles_without_a_break(backward: bool) -> None:
    def both(scores: Tensor) -> Tensor:
        chosen = hard_topk(scores, 3)
        return soft_topk(scores, 3, 0.5).sum(-1) + chosen.values.sum(-1)

    scores = torch.randn(4, 10, requires_grad=backward)
    compiled: Any = torch.compile(both, fullgraph=True, backend="aot_eager")
    got, expected = compiled(scores), both(scores)
    torch.testing.assert_close(got, expected)
    if backward:
        (a,) = torch.autograd.grad(got.sum(), scores)
        (b,) = torch.autograd.grad(expected.sum(), scores)
        torch.testing.assert_close(a, b)


def test_opcheck() -> None:
    from topk_lib.ops.soft import _solved

    scores, choose = torch.randn(3, 8), torch.ops.topk_lib.choose.default
    torch.library.opcheck(choose, (scores, 2, None, None))
    torch.library.opcheck(choose, (scores, 2, torch.tensor([0, 1, 2]), torch.rand(3, 8) > 0.3))
    per_row = torch.full((3,), 2.0, dtype=torch.float64)
    scores = scores.requires_grad_()
    torch.library.opcheck(_solved, (scores, per_row, per_row, None, "sigmoid"))


def test_vmap() -> None:
    scores = torch.randn(5, 3, 8)
    each = torch.stack([hard_topk(s, 2).indices for s in scores])
    assert torch.equal(torch.vmap(lambda s: hard_topk(s, 2).indices)(scores), each)
    soft = torch.stack([soft_topk(s, 2, 0.5) for s in scores])
    torch.testing.assert_close(torch.vmap(lambda s: soft_topk(s, 2, 0.5))(scores), soft)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_traced_and_wrapped_tensors_take_the_registered_way() -> None:
    x, y = torch.tensor([3.0, 1.0, 2.0, 5.0]), torch.tensor([0.0, 9.0, 8.0, 1.0])

    def indices(s: Tensor) -> Tensor:
        return hard_topk(s, 2).indices

    traced: Any = torch.jit.trace(indices, x, check_trace=False)  # type: ignore[no-untyped-call]
    assert traced(y).tolist() == [1, 2]
    assert torch.func.functionalize(indices)(x).tolist() == [0, 3]
    assert torch.func.grad(lambda s: hard_topk(s, 2).values.sum())(x).tolist() == [1, 0, 0, 1]
    masks = torch.tensor([[True, True, True, False], [False, True, True, True]])
    assert torch.vmap(lambda v: hard_topk(x, 2, valid=v).indices)(masks).tolist() == [[0, 2], [2, 3]]
    assert hard_topk(torch.complex(x, x).conj().imag, 2).indices.tolist() == [1, 2]


def test_a_wrong_backend_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOPK_BACKEND", "cuda")
    with pytest.raises(ValueError, match=r'must be "auto", "torch", "numpy" or "triton", got .cuda.'):
        hard_topk(torch.zeros(3), 1)
    monkeypatch.setenv("TOPK_BACKEND", "triton")
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    if DEVICE == "cpu":
        with pytest.raises(RuntimeError, match="TRITON_INTERPRET=1 before Python starts"):
            hard_topk(torch.zeros(3), 1)
