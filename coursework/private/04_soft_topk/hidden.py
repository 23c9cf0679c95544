"""Hidden checks of *Soft top-k*."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from topk_lib import soft_topk, topk_mask
from topk_lib.grading import Answer, Draw, expect, hidden

LINKS = ("sigmoid", "cauchy")
VALUE: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "cauchy": lambda z: 0.5 + torch.atan(z) / math.pi,
}
SLOPE: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": lambda z: torch.sigmoid(z) * torch.sigmoid(-z),
    "cauchy": lambda z: 1 / (math.pi * (1 + z * z)),
}


def right_tau(scores: Tensor, k: float, temperature: float, link: str, valid: Tensor | None = None) -> Tensor:
    """The threshold of each row, as its definition says it, in float64."""
    found = []
    for row, ok in zip(scores.double(), valid if valid is not None else [None] * len(scores), strict=True):
        numbers = row if ok is None else row[ok]
        if k <= 0 or k >= len(numbers):
            found.append(math.inf if k <= 0 else -math.inf)
            continue
        room = temperature
        while total(numbers, numbers.min() - room, temperature, link) < k:
            room *= 2
        low = float(numbers.min()) - room
        room = temperature
        while total(numbers, numbers.max() + room, temperature, link) > k:
            room *= 2
        high = float(numbers.max()) + room
        for _ in range(200):
            tau = (low + high) / 2
            low, high = (tau, high) if total(numbers, tau, temperature, link) > k else (low, tau)
        found.append(low)
    return torch.tensor(found, dtype=torch.float64)


def total(numbers: Tensor, tau: Tensor | float, temperature: float, link: str) -> float:
    return float(VALUE[link]((numbers - tau) / temperature).sum())


def weights(
    scores: Tensor, tau: Tensor, temperature: float, link: str, valid: Tensor | None = None
) -> Tensor:
    """The weights that a threshold gives, padding 0."""
    w = VALUE[link]((scores.double() - tau.double().reshape(-1, 1)) / temperature)
    return w if valid is None else w.masked_fill(~valid, 0)


def soft(scores: Tensor, k: float, temperature: float, link: str, valid: Tensor | None = None) -> Tensor:
    return weights(scores, right_tau(scores, k, temperature, link, valid), temperature, link, valid)


def worst(got: Tensor, right: Tensor) -> int:
    """The row that differs most."""
    return int(
        (got.double().reshape(right.shape) - right.double()).abs().nan_to_num(math.inf).amax(-1).argmax()
    )


def some(numbers: Tensor) -> list[float]:
    return [round(float(x), 5) for x in numbers.flatten()[:8]]


def expect_threshold(
    answer: Answer, scores: Tensor, k: float, temperature: float, link: str, valid: Tensor | None = None
) -> Tensor:
    """One call, compared by the weights that follow from it."""
    tau = torch.as_tensor(answer(scores, k, temperature, link, valid)).double().reshape(-1)
    case = f"{link}, k = {k:g}, temperature {temperature:g}"
    expect(
        len(tau) == len(scores),
        f"{case}: {len(scores)} rows have {len(scores)} thresholds, yours {len(tau)}",
    )
    expect(not tau.isnan().any(), f"{case}: your threshold is NaN")
    right = soft(scores, k, temperature, link, valid)
    got = weights(scores, tau, temperature, link, valid)
    row = worst(got, right)
    shown = (right[row], got[row]) if valid is None else (right[row][valid[row]], got[row][valid[row]])
    expect(
        (got - right).abs().max() <= 1e-6
        and (got.sum(-1) - right.sum(-1)).abs().max() <= 1e-6 * scores.shape[1],
        f"{case}, scores {some(scores[row])}: the weights are {some(shown[0])}, with your threshold "
        f"{some(shown[1])}",
    )
    return tau


@hidden("threshold", points=4, about="both links")
def the_weights_sum_to_k(answer: Answer, draw: Draw) -> None:
    """The weights that follow from tau are right and sum to k, for both links and any temperature."""
    for link, temperature in itertools.product(LINKS, (0.2, 1.0, 4.0)):
        scores = draw.normal(5, 9).double()
        k = draw.integer(1, 8) + 0.5 * draw.integer(0, 2)
        tau = expect_threshold(answer, scores, k, temperature, link)
        if link == "sigmoid":
            library = soft_topk(scores, k, temperature)
            expect(
                torch.allclose(weights(scores, tau, temperature, link), library, atol=1e-6),
                f"sigmoid, k = {k:g}, temperature {temperature:g}: soft_topk gives other weights",
            )


@hidden("threshold", points=4, about="extreme k")
def the_bracket_is_wide_enough(answer: Answer, draw: Draw) -> None:
    """k may be 0.01, or as little below the number of scores: tau then lies far outside of them."""
    n = draw.integer(8, 14)
    for link, k in itertools.product(LINKS, (0.01, 0.05, n - 0.02)):
        expect_threshold(answer, draw.normal(3, n), k, draw.choice([0.5, 2.0, 30.0]), link)


@hidden("threshold", points=4, about="padding")
def padding_changes_nothing(answer: Answer, draw: Draw) -> None:
    """Rows of different lengths; NaN, infinities and huge numbers at padding; k = 0; rows that k exhausts."""
    n = 8
    lengths = torch.tensor([0, 1, 3, 4, 6, 8])
    valid = torch.arange(n) < lengths[:, None]
    valid = valid.gather(1, torch.rand(6, n, generator=draw.torch).argsort(-1))
    clean = draw.normal(6, n).double()
    rubbish = torch.tensor([math.nan, math.inf, -math.inf, 1e300])
    dirty = clean.where(valid, rubbish[torch.randint(0, 4, (6, n), generator=draw.torch)])
    for link, k in itertools.product(LINKS, (0, 1, 3, 3.5)):
        tau = torch.as_tensor(answer(dirty, k, 0.7, link, valid)).double().reshape(-1)
        right = right_tau(clean, k, 0.7, link, valid)
        rows = right.isinf()
        expect(
            torch.equal(tau[rows], right[rows]),
            f"rows with {lengths.tolist()} valid entries, k = {k:g}: tau is +inf for k = 0, -inf where k "
            f"takes all: {some(right)}, yours {some(tau)}",
        )
        got, wanted = (weights(clean, t, 0.7, link, valid)[~rows] for t in (tau, right))
        expect(
            not bool((~rows).any()) or (got - wanted).abs().max() <= 1e-6,
            f"{link}, k = {k:g}, rows with {lengths.tolist()} valid entries: the thresholds are "
            f"{some(right)}, yours {some(tau)}",
        )


@hidden("threshold", points=2, about="large scores, low temperature")
def precise_where_float32_is_not(answer: Answer, draw: Draw) -> None:
    """Large scores and low temperatures need float64 inside; scores that are tied share."""
    for link in LINKS:
        base = draw.tensor(4, 10, low=0, high=64) / 1024
        scores = base + draw.choice([2048.0, -4096.0, 8000.0])
        expect_threshold(answer, scores, 4, draw.choice([0.001, 0.003]), link)
        tied = torch.tensor([[5.0, 1.0, 1.0, 1.0, -3.0]])
        tied = tied[:, torch.randperm(5, generator=draw.torch)] + draw.integer(-50, 50)
        expect_threshold(answer, tied, 2, 0.0001, link)
        expect_threshold(answer, draw.normal(2, 6), 2, 10000.0, link)


@hidden("threshold", points=2, about="operations")
def many_rows_cost_few_operations(answer: Answer, draw: Draw) -> None:
    """60 rows take at most 5,000 PyTorch operations."""
    scores = draw.normal(60, 20)
    tau, counts = answer.counted(scores, 5, 0.5, "cauchy")
    expect(
        counts.calls <= 5000,
        f"60 rows took {counts.calls:,} PyTorch operations; 5,000 are allowed: work on all rows at once",
    )
    few, right = torch.as_tensor(tau).double().reshape(-1)[:3], right_tau(scores[:3], 5, 0.5, "cauchy")
    expect(
        torch.allclose(few, right, atol=1e-5),
        f"the thresholds of 60 rows begin with {some(right)}, yours {some(few)}",
    )


def by_differences(
    scores: Tensor, k: float, temperature: float, upstream: Tensor, link: str, valid: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The three gradients of float64 scores, by moving each input a little."""
    step, n = 1e-5, scores.shape[1]

    def value(s: Tensor, budget: float, t: float) -> Tensor:
        return (upstream * soft(s, budget, t, link, valid)).sum(-1)

    by_score = torch.zeros_like(scores)
    for i in range(n):
        move = step * torch.eye(n, dtype=scores.dtype)[i]
        change = value(scores + move, k, temperature) - value(scores - move, k, temperature)
        by_score[:, i] = change / (2 * step)
    by_k = (value(scores, k + step, temperature) - value(scores, k - step, temperature)) / (2 * step)
    by_t = (value(scores, k, temperature + step) - value(scores, k, temperature - step)) / (2 * step)
    return by_score, by_k, by_t


def closed(
    scores: Tensor, tau: Tensor, temperature: float, upstream: Tensor, link: str
) -> tuple[Tensor, Tensor, Tensor]:
    """The three gradients in closed form, float64."""
    z = (scores.double() - tau[:, None]) / temperature
    d, g = SLOPE[link](z), upstream.double()
    g_k = (d * g).sum(-1) / d.sum(-1)
    g_scores = d / temperature * (g - g_k[:, None])
    return g_scores, g_k, -(z * g_scores).sum(-1)


def three(answer: Answer, *args: Any) -> list[Tensor]:
    got = answer(*args)
    expect(
        isinstance(got, (tuple, list)) and len(got) == 3,
        "the result is a tuple of three: of the scores, of k and of the temperature",
    )
    return [torch.as_tensor(part) for part in got]


def near(got: Tensor, right: Tensor, within: float = 1e-4) -> bool:
    """Within a share of the largest number of its row (of each number, where it is one a row)."""
    got = got.double().reshape(right.shape)
    size = right.abs().amax(-1, keepdim=True) if right.ndim == 2 else right.abs()
    return bool(((got - right).abs() <= within * size + 1e-9 * (within > 1e-6)).all())


@hidden("gradient", points=4, about="scores")
def of_the_scores(answer: Answer, draw: Draw) -> None:
    """The gradient of the scores is what finite differences say, sums to 0 and keeps the dtype."""
    for link, temperature in itertools.product(LINKS, (0.4, 1.5)):
        scores, upstream = draw.normal(3, 7).double(), draw.normal(3, 7).double()
        k = draw.integer(1, 6) + 0.5
        tau = right_tau(scores, k, temperature, link)
        right = by_differences(scores, k, temperature, upstream, link, None)[0]
        got = three(answer, scores, tau, temperature, upstream, link)[0]
        at = worst(got, right)
        case = (
            f"{link}, temperature {temperature:g}, tau {float(tau[at]):.4f}, scores {some(scores[at])}, "
            f"upstream {some(upstream[at])}"
        )
        expect(near(got, right), f"{case}: finite differences say {some(right[at])}, you {some(got[at])}")
        expect(
            got.sum(-1).abs().max() < 1e-9,
            f"{case}: the gradients of a row sum to 0, yours to {some(got.sum(-1))}",
        )
        if link == "sigmoid":
            leaf = scores.clone().requires_grad_()
            (library,) = torch.autograd.grad((soft_topk(leaf, k, temperature) * upstream).sum(), leaf)
            expect(near(got, library), f"{case}: soft_topk says {some(library[at])}, you {some(got[at])}")
        single = three(answer, scores.float(), tau, temperature, upstream.float(), link)
        expect(
            all(part.dtype == torch.float32 for part in single),
            f"float32 scores have float32 gradients, yours are {[str(part.dtype) for part in single]}",
        )


@hidden("gradient", points=3, about="k and temperature")
def of_k_and_of_the_temperature(answer: Answer, draw: Draw) -> None:
    """The gradients of k and of the temperature are what finite differences say."""
    for link, temperature in itertools.product(LINKS, (0.4, 1.5)):
        scores, upstream = draw.normal(3, 7).double(), draw.normal(3, 7).double()
        k = draw.integer(1, 6) + 0.5
        tau = right_tau(scores, k, temperature, link)
        _, by_k, by_t = by_differences(scores, k, temperature, upstream, link, None)
        _, got_k, got_t = three(answer, scores, tau, temperature, upstream, link)
        case = f"{link}, temperature {temperature:g}, scores {some(scores[0])}, upstream {some(upstream[0])}"
        expect(near(got_k, by_k), f"{case}: k gets {some(by_k)}, yours {some(got_k)}")
        expect(near(got_t, by_t), f"{case}: the temperature gets {some(by_t)}, yours {some(got_t)}")


@hidden("gradient", points=3, about="padding")
def of_padding(answer: Answer, draw: Draw) -> None:
    """Whatever stands at padding, in the scores or upstream, its gradient is 0 and the rest stays."""
    lengths = torch.tensor([2, 4, 6])
    valid = torch.arange(6) < lengths[:, None]
    valid = valid.gather(1, torch.rand(3, 6, generator=draw.torch).argsort(-1))
    rubbish = torch.tensor([math.nan, math.inf, -math.inf, 1e30])
    for link in LINKS:
        scores, upstream = draw.normal(3, 6).double(), draw.normal(3, 6).double()
        tau = right_tau(scores, 1.5, 0.8, link, valid)
        dirt = [rubbish[torch.randint(0, 4, (3, 6), generator=draw.torch)] for _ in range(2)]
        right = by_differences(scores, 1.5, 0.8, upstream * valid, link, valid)
        got = three(
            answer, scores.where(valid, dirt[0]), tau, 0.8, upstream.where(valid, dirt[1]), link, valid
        )
        expect(
            not bool(got[0].double().reshape(3, 6)[~valid].ne(0).any()),
            f"{link}: at padding (valid {valid[0].tolist()}) the gradient is 0, yours {some(got[0][0])}",
        )
        for name, a, b in zip(("the scores", "k", "the temperature"), got, right, strict=True):
            expect(
                not bool(a.isnan().any()) and near(a, b),
                f"{link}, valid {valid.tolist()}: {name} should get {some(b)}, with rubbish at padding yours "
                f"{some(a)}",
            )


@hidden("gradient", points=3, about="far tokens")
def of_tokens_far_from_the_threshold(answer: Answer, draw: Draw) -> None:
    """Tokens 40 temperatures away count with their right share: sigma(z) sigma(-z), not w (1 - w)."""
    for link, dtype in itertools.product(LINKS, (torch.float32, torch.float64)):
        signs = torch.tensor([1.0, 1.0, -1.0, -1.0, -1.0])[torch.randperm(5, generator=draw.torch)]
        scores = ((signs * 80 + draw.tensor(2, 5, low=-4, high=5)) / 2).to(dtype)
        upstream = draw.normal(2, 5).to(dtype)
        tau = right_tau(scores, 2, 1.0, link)
        right, got = closed(scores, tau, 1.0, upstream, link), three(answer, scores, tau, 1.0, upstream, link)
        case = f"{link}, {dtype}, temperature 1, scores {some(scores[0])}, upstream {some(upstream[0])}"
        a, b = got[1].double().reshape(-1), right[1]
        expect(
            (a - b).abs().max() <= 1e-4 * (1 + b.abs().max()), f"{case}: k gets {some(b)}, yours {some(a)}"
        )
        share, largest = got[0].double() - right[0], right[0].abs().amax(-1, keepdim=True)
        expect(
            bool((share.abs() <= 1e-3 * largest).all()),
            f"{case}: the largest gradient of a score is {float(largest[0]):.4g}, yours "
            f"{float(got[0][0].abs().max()):.4g}",
        )


@hidden("gradient", points=2, about="nothing moves")
def of_rows_in_which_nothing_moves(answer: Answer, draw: Draw) -> None:
    """Where tau is infinite, or every slope is 0, the three gradients are 0, and not NaN."""
    scores = torch.stack([draw.normal(4), draw.normal(4), torch.tensor([9000.0, -9000.0, -9500.0, 9800.0])])
    tau = torch.tensor([math.inf, -math.inf, 0.0], dtype=torch.float64)
    got = three(answer, scores.double(), tau, 1.0, draw.normal(3, 4).double(), "sigmoid")
    for name, part in zip(("the scores", "k", "the temperature"), got, strict=True):
        expect(
            not bool(part.ne(0).any()),
            f"rows with tau +inf, -inf and with all scores 9,000 temperatures away: {name} get 0, yours "
            f"{some(part)}",
        )
    two = torch.stack([draw.normal(4), draw.normal(4)]).double()
    tau = torch.tensor([math.inf, float(right_tau(two[1:], 2, 0.5, "cauchy"))], dtype=torch.float64)
    upstream = draw.normal(2, 4).double()
    got, right = (
        three(answer, two, tau, 0.5, upstream, "cauchy"),
        closed(two[1:], tau[1:], 0.5, upstream[1:], "cauchy"),
    )
    expect(
        not bool(got[0][0].ne(0).any()) and near(got[0][1:], right[0]),
        f"cauchy, one row with tau = inf beside another: the first gets 0, the other {some(right[0])}; yours "
        f"{some(got[0])}",
    )


@hidden("gradient", points=1, about="operations")
def no_table_of_n_by_n(answer: Answer, draw: Draw) -> None:
    """A row of 3,000 scores writes at most 100 numbers for each."""
    scores, upstream = draw.normal(2, 3000), draw.normal(2, 3000)
    tau = right_tau(scores, 500, 1.0, "sigmoid")
    got, counts = answer.counted(scores, tau, 1.0, upstream)
    expect(
        counts.elements <= 100 * scores.numel(),
        f"6,000 scores took {counts.elements:,} numbers; 600,000 are allowed: no table of n by n is needed",
    )
    expect(
        near(torch.as_tensor(got[0]), closed(scores, tau, 1.0, upstream, "sigmoid")[0], 1e-3),
        "a row of 3,000 scores: the gradient of the scores is another",
    )


@hidden("straight_through", points=3, about="forward")
def forward_it_is_the_mask(answer: Answer, draw: Draw) -> None:
    """Forward: exactly 0 and 1, the k highest noisy scores, of equals the first, dtype kept."""
    for dtype, k in itertools.product((torch.float32, torch.float64), (0, 1, 3, 7)):
        scores, noise = draw.tensor(4, 7, low=0, high=4).to(dtype), draw.tensor(4, 7, low=0, high=3).to(dtype)
        for added in (None, noise):
            got = torch.as_tensor(answer(scores, k, 0.3, "sigmoid", added))
            noisy = scores if added is None else scores + added
            right = topk_mask(noisy, k).to(dtype)
            row = worst(got, right)
            case = (
                f"scores {some(scores[row])}, noise {added if added is None else some(added[row])}, k = {k}"
            )
            expect(
                torch.equal(got.double(), right.double()),
                f"{case}: the mask is {some(right[row])}, yours {some(got[row])}",
            )
            expect(got.dtype == dtype, f"scores of {dtype} have a mask of the same, yours of {got.dtype}")


def expect_backward(
    answer: Answer, draw: Draw, link: str, dtype: torch.dtype, *, noisy: bool, k: int, temperature: float
) -> None:
    scores, upstream = draw.normal(3, 6).to(dtype), draw.normal(3, 6).to(dtype)
    noise = 1.5 * draw.normal(3, 6).to(dtype) if noisy else None
    output, (got,) = answer.vjp((scores, k, temperature, link, noise), upstream)
    seen = scores if noise is None else scores + noise
    expect(
        torch.equal(torch.as_tensor(output).double(), topk_mask(seen, k).double()),
        f"{link}, k = {k}: with requires_grad the mask is another",
    )
    if k in (0, 6):
        expect(
            not bool(got.ne(0).any()),
            f"{link}, k = {k} of 6: nothing can move, the gradient is 0; yours {some(got[0])}",
        )
        return
    right = closed(seen, right_tau(seen, k, temperature, link), temperature, upstream, link)[0]
    within, row = 1e-4 if dtype == torch.float32 else 1e-5, worst(got, right)
    expect(
        near(got, right, within),
        f"{link}, k = {k}, temperature {temperature:g}, scores with noise {some(seen[row])}, sent back "
        f"{some(upstream[row])}: the scores get {some(right[row])}, yours {some(got[row])}",
    )


@hidden("straight_through", points=3, about="backward")
def backward_it_is_soft(answer: Answer, draw: Draw) -> None:
    """Backward, without noise: the gradient of the soft weights, link sigmoid; 0 for k = 0 and k = n."""
    for dtype, k in itertools.product((torch.float32, torch.float64), (0, 1, 3, 6)):
        expect_backward(
            answer, draw, "sigmoid", dtype, noisy=False, k=k, temperature=draw.choice([0.3, 1.0, 2.5])
        )


@hidden("straight_through", points=3, about="backward with noise")
def backward_the_noise_counts(answer: Answer, draw: Draw) -> None:
    """The soft gradient is that of the noisy scores, as the mask is."""
    for k in (1, 2, 4):
        expect_backward(
            answer, draw, "sigmoid", torch.float64, noisy=True, k=k, temperature=draw.choice([0.4, 1.0])
        )


@hidden("straight_through", points=3, about="the other link")
def backward_with_the_other_link(answer: Answer, draw: Draw) -> None:
    """The same with the link cauchy, with noise and without."""
    for noisy, k in itertools.product((False, True), (0, 2, 5, 6)):
        expect_backward(
            answer, draw, "cauchy", torch.float64, noisy=noisy, k=k, temperature=draw.choice([0.4, 1.0])
        )


def expected_loss(scores: list[float], k: int, losses: dict[tuple[int, ...], float]) -> float:
    """The mean loss of all ordered draws, each with its probability."""
    whole = 0.0
    for order in itertools.permutations(range(len(scores)), k):
        left, p = list(range(len(scores))), 1.0
        for i in order:
            p /= sum(math.exp(scores[j] - scores[i]) for j in left)
            left.remove(i)
        whole += p * losses[tuple(sorted(order))]
    return whole


def right_exact(scores: Tensor, k: int, A: Tensor, b: Tensor) -> Tensor:
    """The gradient of the expected loss, by differences."""
    n, step = len(scores), 1e-5
    losses = {
        chosen: float(torch.tanh(A[list(chosen)].sum(0)) @ b)
        for chosen in itertools.combinations(range(n), k)
    }
    found = []
    for i in range(n):
        up, down = scores.tolist(), scores.tolist()
        up[i] += step
        down[i] -= step
        found.append((expected_loss(up, k, losses) - expected_loss(down, k, losses)) / (2 * step))
    return torch.tensor(found, dtype=torch.float64)


def problem(draw: Draw, n: int) -> tuple[Tensor, Tensor, Tensor]:
    return draw.normal(n).double(), draw.normal(n, 3).double(), draw.normal(3).double()


def expect_exact(answer: Answer, scores: Tensor, k: int, A: Tensor, b: Tensor, within: float = 1e-6) -> None:
    got = torch.as_tensor(answer.other("exact_gradient")(scores, k, A, b)).double().reshape(-1)
    right = right_exact(scores - scores.max(), k, A, b)
    case = f"exact_gradient, scores {some(scores)}, k = {k}"
    expect(got.shape == right.shape, f"{case}: {len(right)} scores have as many slopes, yours {len(got)}")
    expect(
        bool(((got - right).abs() <= within * right.abs().max() + 1e-8).all()),
        f"{case}: the gradient is {some(right)}, yours {some(got)}",
    )


@hidden("bias", points=4, about="the true gradient")
def the_true_gradient_of_all_draws(answer: Answer, draw: Draw) -> None:
    """exact_gradient is what differences of the listed expectation say, for k from 1 to 4."""
    for k in (1, 2, 3, 4):
        expect_exact(answer, *((p := problem(draw, 5))[0], k, p[1], p[2]))


@hidden("bias", points=2, about="far scores")
def the_true_gradient_of_far_scores(answer: Answer, draw: Draw) -> None:
    """exact_gradient stands k = n, scores that are 1,000 larger, and scores that lie 40 apart."""
    scores, A, b = problem(draw, 4)
    expect_exact(answer, scores, 4, A, b)
    expect_exact(answer, scores + draw.choice([1000.0, -1000.0]), 2, A, b)
    order = torch.randperm(4, generator=draw.torch)
    expect_exact(answer, torch.tensor([40.0, 1.0, 0.0, 0.5]).double()[order], 2, A, b)


def right_bias(
    scores: Tensor, k: int, temperature: float, A: Tensor, b: Tensor, noise: Tensor, exact: Tensor, c: float
) -> dict[str, Tensor]:
    noisy = scores + noise
    m = topk_mask(noisy, k).double()
    pulls = ((1 - torch.tanh(m @ A) ** 2) * b) @ A.T + c * (2 * m - 1)
    each = closed(noisy, right_tau(noisy, k, temperature, "sigmoid"), temperature, pulls, "sigmoid")[0]
    mean = each.mean(0)
    spread = (each - mean).square().sum(-1).mean().sqrt()
    return {"mean": mean, "bias": (mean - exact).norm() / exact.norm(), "noise": spread / exact.norm()}


def expect_bias(answer: Answer, draw: Draw, c: float, parts: tuple[str, ...]) -> None:
    for k in (1, 3):
        scores, A, b = problem(draw, 5)
        noise = -(-torch.rand(40, 5, generator=draw.torch, dtype=torch.float64).log()).log()
        exact, temperature = draw.normal(5).double(), draw.choice([0.4, 0.7, 2.0])
        right = right_bias(scores, k, temperature, A, b, noise, exact, c)
        got = answer(scores, k, temperature, A, b, noise, exact, c)
        expect(
            isinstance(got, dict) and set(parts) <= set(got),
            f"the result is a dict with {', '.join(right)}; yours {str(got)[:80]}",
        )
        for part in parts:
            value = torch.as_tensor(got[part]).double().reshape(right[part].shape)
            expect(
                bool((value - right[part]).abs().max() <= 2e-6 * right[part].abs().max()),
                f"k = {k}, temperature {temperature:g}, c = {c:g}, 40 draws, exact {some(exact)}: {part} is "
                f"{some(right[part])}, yours {some(value)}",
            )


@hidden("bias", points=3, about="the mean estimate")
def the_mean_of_the_estimates(answer: Answer, draw: Draw) -> None:
    """The mean of the straight-through estimates, also with a term that no mask can see."""
    expect_bias(answer, draw, 0.0, ("mean",))
    expect_bias(answer, draw, float(draw.choice([1.5, 3.0, -2.0])), ("mean",))


@hidden("bias", points=3, about="bias and noise")
def bias_and_noise_as_multiples(answer: Answer, draw: Draw) -> None:
    """bias is |mean - exact| / |exact|; noise the root mean square distance from the mean, over |exact|."""
    expect_bias(answer, draw, 0.0, ("bias", "noise"))


class Task:
    """Texts with telling, shouting and idle tokens, and a reader that counts what it reads."""

    def __init__(
        self,
        draw: Draw,
        texts: int = 400,
        n: int = 24,
        k: int = 3,
        tell: int = 8,
        shout: int = 8,
        idle: int = 48,
    ) -> None:
        dice, types, first = draw.torch, tell + shout + idle, tell + shout
        says = 0.2 * torch.randn(types, generator=dice)
        says[:tell] = torch.tensor([1.0, -1.0]).repeat(tell // 2)
        says[tell:first] = torch.tensor([2.0, -2.0]).repeat(shout // 2)
        label = torch.randint(0, 2, (texts + 300, 1), generator=dice)
        ids = torch.randint(first, types, (texts + 300, n), generator=dice)
        place = torch.rand(texts + 300, n, generator=dice).argsort(-1)
        told = torch.randint(0, tell // 2, (texts + 300, k), generator=dice)
        ids.scatter_(1, place[:, :k], 2 * told + 1 - label)
        ids.scatter_(1, place[:, k : 2 * k], torch.randint(tell, first, (texts + 300, k), generator=dice))
        name = torch.randperm(types, generator=dice)
        self.types, self.k, self.read_in_all, self.widest = types, k, 0, 0
        self.old, self.new = name[ids[:texts]], name[ids[texts:]]
        self.telling = torch.isin(torch.arange(types), name[:tell])
        self._says, self._ids, self._label = says, ids[:texts], label[:texts]

    def read(self, rows: Any, positions: Any) -> Tensor:
        rows, positions = torch.as_tensor(rows).long().reshape(-1), torch.as_tensor(positions).long()
        positions = positions.reshape(len(rows), -1)
        self.read_in_all += positions.numel()
        self.widest = max(self.widest, positions.shape[1])
        said = self._says[self._ids[rows].gather(1, positions)]
        return (said.sum(-1, keepdim=True).sigmoid() - self._label[rows]) * said

    def learned(self, answer: Answer, seed: int) -> Tensor:
        scores = torch.as_tensor(answer(self.old, self.read, self.k, self.types, seed)).double()
        expect(
            scores.shape == (self.types,),
            f"{self.types} types have as many scores, yours have shape {tuple(scores.shape)}",
        )
        return scores

    def found(self, scores: Tensor) -> float:
        right = self.telling[self.new]
        return float((topk_mask(scores[self.new], self.k) & right).sum() / right.sum())


def expect_found(task: Task, scores: Tensor, share: float) -> None:
    got = task.found(scores)
    expect(
        got >= share,
        f"{task.types} types, texts of {task.old.shape[1]} tokens, k = {task.k}: of the telling tokens in "
        f"new texts {share:.0%} must be among those read, with your scores {got:.0%} are",
    )


@hidden("learn_gate", points=4, about="what it finds")
def the_gate_finds_the_telling_tokens(answer: Answer, draw: Draw) -> None:
    """Of the telling tokens of new texts at least 90% are among the k highest scores."""
    task = Task(draw)
    expect_found(task, task.learned(answer, draw.integer(0, 1000)), 0.9)


@hidden("learn_gate", points=3, about="another size")
def the_gate_finds_them_in_other_sizes(answer: Answer, draw: Draw) -> None:
    """The same with 30 tokens a text, 75 types and k = 4."""
    task = Task(draw, n=30, k=4, tell=10, shout=10, idle=55)
    expect_found(task, task.learned(answer, draw.integer(0, 1000)), 0.9)


@hidden("learn_gate", points=3, about="tokens read")
def few_tokens_are_read(answer: Answer, draw: Draw) -> None:
    """At most 20,000 tokens are read in all, and k of a text at once; here k = 4."""
    task = Task(draw, n=30, k=4, tell=10, shout=10, idle=55)
    scores = task.learned(answer, draw.integer(0, 1000))
    expect(task.widest <= 4, f"k = 4: your gate asked for {task.widest} tokens of a text at once")
    expect(
        task.read_in_all <= 20_000,
        f"k = 4: at most 20,000 tokens may be read, your gate read {task.read_in_all:,}",
    )
    expect_found(task, scores, 0.5)


@hidden("learn_gate", points=2, about="seed")
def the_seed_decides(answer: Answer, draw: Draw) -> None:
    """The same arguments give the same scores."""
    task, seed = Task(draw), draw.integer(0, 1000)
    first, second = task.learned(answer, seed), task.learned(answer, seed)
    expect(
        torch.equal(first, second),
        "two calls with the same arguments gave different scores; draw all from seed",
    )
    expect_found(task, first, 0.5)
