"""gumbel_topk and sample_topk against their definitions, their laws and each other's backends."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor

from topk_lib import gumbel_topk, hard_topk, likely_mask, reference, sample_topk
from topk_lib.ops.sample import uniform

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def law(logits: Tensor, drawn: tuple[int, ...]) -> float:
    """The probability of these draws in this order, by hand."""
    weights = logits.double().exp().tolist()
    p, left = 1.0, sum(weights)
    for i in drawn:
        p *= weights[i] / left
        left -= weights[i]
    return p


def test_gumbel_follows_plackett_luce() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0])
    draws = gumbel_topk(logits.expand(40_000, 4), 2, seed=7).indices
    orders = list(itertools.permutations(range(4), 2))
    expected = [40_000 * law(logits, order) for order in orders]
    seen = [int((draws == torch.tensor(order)).all(-1).sum()) for order in orders]
    assert chisquare(seen, expected).pvalue > 0.001


@pytest.mark.parametrize("k", [0, 1, 3, 5])
def test_gumbel_log_prob_is_the_law(k: int) -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 5, dtype=torch.float64)
    draw = gumbel_topk(logits, k, seed=0)
    for row in range(3):
        expected = math.log(law(logits[row], tuple(draw.indices[row].tolist())))
        assert draw.log_prob[row].item() == pytest.approx(expected, abs=1e-12)
        assert draw.mask[row].nonzero().flatten().tolist() == sorted(draw.indices[row].tolist())


def test_gumbel_log_prob_has_a_gradient() -> None:
    torch.manual_seed(1)
    logits = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    valid = torch.tensor([True, True, False, True, True])
    for k in (2, 5):

        def log_prob(x: Tensor, k: int = k) -> Tensor:
            return gumbel_topk(x, k, valid=valid, seed=3).log_prob

        assert torch.autograd.gradcheck(log_prob, logits)


def test_gumbel_never_draws_the_impossible() -> None:
    inf = math.inf
    draw = gumbel_topk(torch.tensor([[-inf, 0.0, 1.0], [-inf, -inf, -inf]]), 2, seed=0)
    assert sorted(draw.indices[0].tolist()) == [1, 2]
    assert draw.indices[1].tolist() == [-1, -1]
    assert draw.log_prob[1].item() == 0
    only = gumbel_topk(torch.zeros(4), 3, valid=torch.tensor([True, False, True, False]), seed=0)
    assert only.mask.tolist() == [True, False, True, False]
    assert only.indices[2] == -1


@pytest.mark.usefixtures("cpu_code")
@settings(max_examples=150, deadline=None)
@given(st.data())
def test_sample_is_the_definition(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 9))
    numbers = data.draw(st.lists(st.sampled_from([-2.0, -0.5, 0.0, 0.7, 1.0, 3.0]), min_size=n, max_size=n))
    logits, k, seed = torch.tensor(numbers), data.draw(st.integers(1, n)), data.draw(st.integers(0, 10**9))
    temperature = data.draw(st.sampled_from([0.3, 1.0, 4.0]))
    top_p = data.draw(st.sampled_from([0.11, 0.53, 0.87, 1.0]))
    u = uniform(torch.tensor(seed), 1).item()
    min_p = data.draw(st.sampled_from([0.0, 0.13, 0.51, 1.0]))
    got = sample_topk(logits, k, temperature, top_p=top_p, min_p=min_p, seed=seed)
    assert int(got) == reference.sample_topk(logits.double(), k, u, temperature, top_p, min_p)
    mask = likely_mask(logits, k, temperature, top_p=top_p, min_p=min_p)
    assert mask.nonzero().flatten().tolist() == list(
        reference.likely(logits.double(), k, temperature, top_p, min_p)
    )


@pytest.mark.usefixtures("cpu_code")
def test_sample_follows_its_probabilities() -> None:
    logits = torch.tensor([0.0, 3.0, 1.0, 2.0, -5.0])
    drawn = sample_topk(logits.expand(30_000, 5), 3, 1.5, seed=11)
    assert set(drawn.tolist()) == {1, 2, 3}
    p = (logits[[1, 2, 3]] / 1.5).softmax(-1)
    seen = [int((drawn == i).sum()) for i in (1, 2, 3)]
    assert chisquare(seen, (30_000 * p.double() / p.double().sum()).tolist()).pvalue > 0.001
    assert set(sample_topk(logits.expand(1000, 5), 5, top_p=0.6, seed=0).tolist()) == {1}  # p(1) = 0.64


@pytest.mark.parametrize("n", [50, 3000, 12_000])
@pytest.mark.parametrize(
    ("k", "top_p", "min_p"),
    [(12, 0.8, None), (50, 0.8, None), (50, 0.999, None), (40, None, 0.05), (12, 0.9, 0.2)],
)
def test_what_may_be_drawn_is_what_transformers_leaves(
    n: int, k: int, top_p: float | None, min_p: float | None
) -> None:
    from transformers import MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    k = n if k == 50 else k
    logits = torch.randn(3, n, generator=torch.Generator().manual_seed(2)) * torch.tensor(
        [[1.0], [3.0], [9.0]]
    )
    empty = torch.zeros(3, 0, dtype=torch.long)
    left = TopKLogitsWarper(k)(empty, logits.double() / 0.7)
    left = left if top_p is None else TopPLogitsWarper(top_p)(empty, left)
    left = left if min_p is None else MinPLogitsWarper(min_p)(empty, left)
    assert torch.equal(likely_mask(logits.double(), k, 0.7, top_p=top_p, min_p=min_p), left > -math.inf)
    drawn = sample_topk(logits[:1].expand(2000, n), k, 0.7, top_p=top_p, min_p=min_p, seed=0)
    assert bool((left[0, drawn] > -math.inf).all())


def test_one_rule_a_row() -> None:
    """Rows of every kind in one batch keep what they keep alone, few sorted or all."""
    generator = torch.Generator().manual_seed(3)
    logits = (
        torch.randn(6, 10_000, generator=generator) * torch.tensor([9.0, 9.0, 1.0, 1.0, 3.0, 3.0])[:, None]
    )
    k = torch.tensor([10_000, 5, 10_000, 9_999, 10_000, 10_000])
    temperature = torch.tensor([0.5, 1.0, 2.0, 1.0, 1.0, 0.7])
    top_p = torch.tensor([0.9, 0.5, 0.95, 0.3, 1.0, 0.99])
    min_p = torch.tensor([0.0, 0.1, 0.0, 0.0, 0.02, 0.0])
    seeds = torch.arange(6)
    kept = likely_mask(logits, k, temperature, top_p=top_p, min_p=min_p)
    drawn = sample_topk(logits, k, temperature, top_p=top_p, min_p=min_p, seed=seeds)
    for row in range(6):
        numbers = [float(x[row]) for x in (temperature, top_p, min_p)]
        alone: dict[str, Any] = {"top_p": numbers[1], "min_p": numbers[2]}
        assert torch.equal(likely_mask(logits[row], int(k[row]), numbers[0], **alone), kept[row])
        one = sample_topk(logits[row : row + 1], int(k[row]), numbers[0], seed=row, **alone)
        assert one.item() == drawn[row].item()
        assert kept[row, drawn[row]]
    assert kept.sum(-1).tolist()[4] < 10_000 == int(likely_mask(logits[4], 10_000, top_p=1.0).sum())


def test_a_mask_of_what_cannot_be_drawn_is_empty() -> None:
    inf = math.inf
    rows = torch.tensor([[0.0, math.nan], [inf, 0.0], [-inf, -inf], [-inf, 1.0]])
    expected = [[False, False], [False, False], [False, False], [False, True]]
    for k in (2, torch.tensor([2, 1, 1, 2])):
        assert likely_mask(rows, k, top_p=0.9, min_p=0.1).tolist() == expected
    assert likely_mask(torch.tensor([1.0, 3.0, 3.0, 3.0]), 2).tolist() == [False, True, True, False]
    far = torch.tensor([0.0, -1e9])  # of no probability, but not forbidden
    assert likely_mask(far, 2, top_p=1.0).tolist() == [True, True]
    assert sample_topk(far.expand(100, 2), 2, seed=0).tolist() == [0] * 100


@pytest.mark.parametrize("backend", ["torch", pytest.param("triton", marks=pytest.mark.gpu)])
def test_a_row_draws_the_same_in_any_batch(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOPK_BACKEND", backend)
    logits = torch.randn(7, 300, device=DEVICE)
    seeds = torch.arange(7, device=DEVICE) * 1000
    together = sample_topk(logits, 20, 0.9, top_p=0.9, seed=seeds)
    for row in range(7):
        alone = sample_topk(logits[row : row + 1], 20, 0.9, top_p=0.9, seed=seeds[row : row + 1])
        assert alone.item() == together[row].item()
    order = torch.randperm(7, device=DEVICE)
    assert torch.equal(sample_topk(logits[order], 20, 0.9, top_p=0.9, seed=seeds[order]), together[order])
    drawn = gumbel_topk(logits, 5, seed=seeds).indices
    assert torch.equal(gumbel_topk(logits[order], 5, seed=seeds[order]).indices, drawn[order])


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(("top_p", "min_p"), [(None, None), (0.7, None), (1.0, 0.05), (None, 0.3)])
@pytest.mark.parametrize(("n", "k"), [(1, 1), (70, 20), (1000, 1000), (40_000, 50)])
def test_kernel_draws_as_the_definition(
    dtype: torch.dtype,
    top_p: float | None,
    min_p: float | None,
    n: int,
    k: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("triton")
    generator = torch.Generator().manual_seed(n)
    rows = 6 if n < 10_000 else 2
    logits = (torch.randn(rows, n, generator=generator) * 3).to(dtype).to(DEVICE)
    if n > 10:
        logits[0, ::3] = -math.inf
        logits[1] = -math.inf
    monkeypatch.setenv("TOPK_BACKEND", "triton")
    per_row = None if min_p is None else torch.linspace(0, min_p, rows, device=DEVICE)
    got = sample_topk(logits, k, 0.8, top_p=top_p, min_p=per_row, seed=5)
    monkeypatch.setenv("TOPK_BACKEND", "torch")
    assert got.tolist() == sample_topk(logits, k, 0.8, top_p=top_p, min_p=per_row, seed=5).tolist()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(
    "rule", [{}, {"top_p": 0.8}, {"min_p": 0.2}, {"top_p": 0.9, "min_p": 0.05}, {"top_p": 1}]
)
def test_every_code_of_a_cpu_draws_the_same(
    dtype: torch.dtype, rule: dict[str, float], cpu_code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n, k, heat in ((9, 9, 1.0), (70, 20, 1e-9), (5000, 50, 0.8), (2000, 1000, 3)):
        logits = (torch.randn(40, n, generator=torch.Generator().manual_seed(n)) * 4).to(dtype)
        logits[::5, ::3] = -torch.inf
        got = sample_topk(logits, k, heat, seed=2**63 - 9, **rule)
        seeds = torch.arange(40) + (2**63 - 9)  # wraps around
        assert torch.equal(sample_topk(logits, k, heat, seed=seeds, **rule), got)
        with monkeypatch.context() as patch:
            patch.setenv("TOPK_BACKEND", "numpy")
            assert torch.equal(sample_topk(logits, k, heat, seed=seeds, **rule), got)


@pytest.mark.usefixtures("cpu_code")
def test_infinite_and_nan_logits() -> None:
    inf = math.inf
    rows = torch.tensor([[0.0, math.nan], [inf, 0.0], [-inf, -inf], [-inf, 1.0]])
    assert sample_topk(rows, 2, seed=0).tolist() == [-1, -1, -1, 1]
    assert sample_topk(rows.half(), torch.tensor([1, 2, 1, 2]), seed=0).tolist() == [-1, -1, -1, 1]


@pytest.mark.usefixtures("cpu_code")
def test_shapes_and_seeds() -> None:
    torch.manual_seed(3)
    logits = torch.randn(4, 5, 9).transpose(0, 1)
    assert sample_topk(logits, 3).shape == (5, 4)
    assert sample_topk(logits[0, 0], 3).shape == ()
    assert sample_topk(torch.empty(0, 5), 2).shape == (0,)
    assert gumbel_topk(logits, 2, dim=1).indices.shape == (5, 2, 9)
    assert gumbel_topk(logits, 2, dim=1).log_prob.shape == (5, 9)
    torch.manual_seed(4)
    first = gumbel_topk(logits, 3).indices
    torch.manual_seed(4)
    assert torch.equal(first, gumbel_topk(logits, 3).indices)
    flat = logits.reshape(20, 9)
    assert torch.equal(sample_topk(flat, 9, seed=0)[4:], sample_topk(flat[4:], 9, seed=4))


def test_uniform_numbers_are_uniform() -> None:
    u = uniform(torch.arange(200), 500)
    assert 0 < u.min() < 1e-4
    assert 1 - 1e-4 < u.max() < 1
    counts = torch.histc(u.float(), 20, 0, 1)
    assert chisquare(counts.tolist()).pvalue > 0.001
    neighbours = torch.corrcoef(torch.stack([u[:-1].flatten(), u[1:].flatten()]))[0, 1]
    assert abs(neighbours) < 0.015


def test_compiles_vmaps_and_passes_opcheck() -> None:
    from topk_lib.ops.sample import _draw, _likely

    logits, seeds = torch.randn(3, 4, 8), torch.arange(12).reshape(3, 4)

    def both(x: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        drawn = sample_topk(x, 3, 0.7, top_p=0.9, min_p=0.1, seed=s)
        return drawn, gumbel_topk(x, 2, seed=s).log_prob, likely_mask(x, 3, 0.7, top_p=0.9)

    compiled: Any = torch.compile(both, fullgraph=True, backend="aot_eager")
    for run in (compiled, torch.vmap(both)):
        for got, expected in zip(run(logits, seeds), both(logits, seeds), strict=True):
            torch.testing.assert_close(got, expected)
    per_row = torch.full((4,), 3)
    u = torch.rand(4, dtype=torch.float64)
    torch.library.opcheck(_draw, (logits[0], per_row, 3, torch.ones(4, dtype=torch.float64), None, None, u))
    torch.library.opcheck(_likely, (logits[0], per_row, 3, torch.ones(4, dtype=torch.float64), None, u))


def test_order_of_the_draw() -> None:
    """A draw of all entries, repeated, starts with the likeliest in the share softmax says."""
    logits = torch.tensor([2.0, 0.0, 1.0])
    first = gumbel_topk(logits.expand(20_000, 3), 3, seed=0).indices[:, 0]
    share = torch.bincount(first, minlength=3) / 20_000
    torch.testing.assert_close(share, logits.softmax(-1), atol=0.015, rtol=0)
    assert hard_topk(logits, 1).indices.item() == share.argmax().item()


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"k": 0}, ValueError, r"k must lie in 1\.\.4 .* got 0"),
        ({"k": 5}, ValueError, r"k must lie in 0\.\.4"),
        ({"k": 2.0}, TypeError, "k must be an int"),
        ({"k": 2, "temperature": 0.0}, ValueError, "temperature must be above 0"),
        ({"k": 2, "top_p": 0.0}, ValueError, "top_p must be above 0 and at most 1, got 0.0"),
        ({"k": 2, "top_p": 1.5}, ValueError, "top_p must be above 0"),
        ({"k": 2, "min_p": -0.1}, ValueError, r"min_p must lie in 0\.\.1, got -0\.1"),
        ({"k": 2, "min_p": torch.tensor([0.1, 2.0])}, ValueError, r"min_p must lie in 0\.\.1, got 2\.0"),
        ({"k": 2, "min_p": torch.tensor([0.1, 0.1, 0.1])}, ValueError, "min_p must hold one number per row"),
        ({"k": 2, "seed": 0.5}, TypeError, "seed must be an int"),
        ({"k": 2, "seed": torch.zeros(2)}, TypeError, r"seed must be an int .* got torch\.float32"),
        ({"k": 2, "seed": torch.tensor([1, 2, 3])}, ValueError, "one int per row"),
    ],
)
def test_bad_input(keywords: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        sample_topk(torch.zeros(2, 4), **keywords)
