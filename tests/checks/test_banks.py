"""Every check against a bank of answers: right in any guise, wrong in ways that look right."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from torch import Tensor

from topk_lib import checks, hard_topk, soft_topk_threshold
from topk_lib.checks import five_ways


def choose_by_sort(scores: Tensor, k: int, dim: int) -> Tensor:
    order = scores.sort(dim=dim, descending=True, stable=True).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter(dim, order.narrow(dim, 0, k), True)


def last_ties(scores: Tensor, k: int) -> Tensor:
    return choose_by_sort(scores.flip(0), k, 0).flip(0)


def unserved(mask: Tensor) -> Tensor:
    return ~mask.any(1)


def top_probabilities(logits: Tensor, k: int) -> Tensor:
    kept = torch.full_like(logits, -math.inf)
    best = logits.topk(k)
    return kept.scatter(-1, best.indices, best.values).softmax(-1)


def all_that_reach(logits: Tensor, k: int) -> Tensor:
    return logits.where(logits >= logits.topk(k).values[-1], -math.inf).softmax(-1)


def chi_squared(observed: Sequence[float], shares: Sequence[float]) -> float:
    total = sum(observed)
    return sum((o - s * total) ** 2 / (s * total) for o, s in zip(observed, shares, strict=True))


def chi_squared_single(observed: Sequence[float], shares: Sequence[float]) -> Tensor:
    o = torch.tensor(observed, dtype=torch.float32)
    e = torch.tensor(shares, dtype=torch.float32) * o.sum()
    return ((o - e).square() / e).sum()


def distinct(scores: Tensor, ids: Tensor, *, low: float = -math.inf, whole_batch: bool = False) -> Tensor:
    scores, seen = scores.clone(), set[int]()
    for row, types in enumerate(ids.tolist()):
        seen = seen if whole_batch else set()
        for at, one in enumerate(types):
            if one in seen:
                scores[row, at] = low
            seen.add(one)
    return scores


def keep_negation(scores: Tensor, ids: Tensor, negations: Tensor) -> Tensor:
    after = torch.cat([scores[:, 1:], scores[:, -1:]], -1)
    return torch.where(torch.isin(ids, negations), scores.maximum(after), scores)


def coverage(counts: Tensor, k: int) -> Tensor:
    return counts.topk(k).values.sum() / counts.sum()


def coverage_at_edge(counts: Tensor, k: int) -> Tensor:
    return counts[counts >= counts.topk(k).values[-1]].sum() / counts.sum()


def raise_parts(scores: dict[str, float], merges: list[tuple[str, str]]) -> dict[str, float]:
    for a, b in reversed(merges):
        scores[a], scores[b] = max(scores[a], scores[a + b]), max(scores[b], scores[a + b])
    return scores


def rows_mask(scores: Tensor, ks: Tensor) -> Tensor:
    rank = scores.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    return rank < ks[:, None]


def key_to_float(key: int) -> float:
    bits = key ^ 0x80000000 if key >> 31 else key ^ 0xFFFFFFFF
    return float(torch.tensor(bits).to(torch.uint32).view(torch.float32))


def never_nan(scores: Tensor, k: int) -> Tensor:
    return hard_topk(scores, k, valid=~scores.isnan()).indices


def middle(ids: Tensor, mask: Tensor) -> Tensor:
    at = torch.arange(ids.shape[-1]).expand_as(ids)
    return -(2 * at - (mask.sum(-1, keepdim=True) - 1)).abs()


def straight_through(mask: Tensor, soft: Tensor) -> Tensor:
    return mask + soft - soft.detach()


def threshold(scores: Tensor, k: float, temperature: float) -> float:
    low, high = float(scores.min()) - 50 * temperature, float(scores.max()) + 50 * temperature
    for _ in range(80):
        tau = (low + high) / 2
        low, high = (tau, high) if ((scores - tau) / temperature).sigmoid().sum() > k else (low, tau)
    return tau


def mcnemar(b: int, c: int) -> float:
    p = 2 * sum(math.comb(b + c, i) for i in range(min(b, c) + 1)) / 2 ** (b + c)
    return float(min(1.0, p))


def smallest_k(points: Any, full: float, within: float) -> Any:
    return min((p["k"] for p in points if p["accuracy"] >= full - within), default=None)


def budgets(lengths: Sequence[int], share: float, k: int, pinned: int) -> list[int]:
    return [min(n, max(pinned, min(k, math.ceil(share * n)))) for n in lengths]


def corrected(gate: float, n: int, mean: float, prior: float) -> float:
    r = n / (n + prior)
    return (1 - r) * gate + r * mean


def attended(logits: Tensor, values: Tensor, u: Tensor) -> Tensor:
    shares = u * logits.exp()
    return (shares * values).sum() / shares.sum()


def soft_gradient(d: Tensor, z: Tensor, g: Tensor, t: float) -> tuple[Tensor, Tensor, Tensor]:
    bar = (d * g).sum() / d.sum()
    return d / t * (g - bar), bar, -(z * d / t * (g - bar)).sum()


def flops(n: int, d: int, f: int, layers: int) -> int:
    return layers * (8 * n * d * d + 4 * n * n * d + 4 * n * d * f)


def f1(p: float, r: float) -> float:
    return 2 * p * r / (p + r) if p + r else 0.0


def single(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, its answer rounded to float32."""
    return lambda *given: np.float32(function(*given))


CHEAPER = {meaning: costs for meaning, (costs, _) in five_ways._CHEAPER.items()}

RIGHT: dict[str, list[Any]] = {
    "check_cheaper": [CHEAPER, {meaning: sorted(costs) for meaning, costs in CHEAPER.items()}],
    "check_expert_choice": [
        lambda s, k: choose_by_sort(s, k, 0),
        lambda s, k: choose_by_sort(s.T, k, 1).T,
    ],
    "check_left_out": [
        lambda m: unserved(m).float().mean(),
        lambda m: np.mean(unserved(m).numpy()),
        lambda m: Fraction(int(unserved(m).sum()), len(m)),
    ],
    "check_encoder_flops": [flops, lambda n, d, f, layers: float(flops(n, d, f, layers))],
    "check_sampling_probabilities": [
        top_probabilities,
        lambda logits, k: top_probabilities(logits.double(), k),
        lambda logits, k: top_probabilities(logits.flip(0), k).flip(0),  # other ties are kept
    ],
    "check_f1": [f1, single(f1), lambda p, r: torch.tensor(f1(p, r))],
    "check_recall_accuracy": [0.972, np.float32(0.972), torch.tensor(0.972), Fraction(972, 1000)],
    "check_middle_scores": [
        middle,
        lambda ids, mask: middle(ids, mask).double(),
        lambda ids, mask: middle(ids, mask).half(),
    ],
    "check_key_to_float": [key_to_float],
    "check_tie_mask": [lambda s, k: choose_by_sort(s, k, 0), lambda s, k: hard_topk(s, k).mask],
    "check_rows_mask": [
        rows_mask,
        lambda s, ks: torch.stack([hard_topk(r, int(k)).mask for r, k in zip(s, ks, strict=True)]),
    ],
    "check_never_nan": [
        never_nan,
        lambda s, k: never_nan(s, k).tolist(),
        lambda s, k: never_nan(s, k).flip(0),
        lambda s, k: never_nan(s, k).int(),
    ],
    "check_best_block": [100, 100.0, np.int64(100), math.sqrt(10_000)],
    "check_clip_threshold": [0.2, np.float32(0.2), torch.tensor(0.2), Fraction(1, 5)],
    "check_threshold_search": [
        threshold,
        lambda *given: torch.tensor([threshold(*given)]),
        lambda s, k, t: soft_topk_threshold(s, k, t),
    ],
    "check_straight_through": [straight_through, lambda m, s: s + (m - s).detach()],
    "check_softmax_limit": [[0, 0, 2], (0.0, 0.0, 2.0), np.array([0, 0, 2]), torch.tensor([0, 0, 1.99999])],
    "check_weight_gradient": [
        [[0.5, -0.25], [1.0, -0.5], [-1.5, 0.75]],
        np.array([[0.5, -0.25], [1.0, -0.5], [-1.5, 0.75]]),
        torch.tensor([[0.5, -0.25], [1.0, -0.5], [-1.5, 0.75]]).half(),
    ],
    "check_exp_threshold": [math.log(3), 1.1, np.float32(1.0986), torch.tensor(3.0).log()],
    "check_soft_gradient": [
        soft_gradient,
        lambda d, z, g, t: [x.float() for x in soft_gradient(d, z, g, t)],
        lambda d, z, g, t: [x.tolist() for x in soft_gradient(d, z, g, t)],
    ],
    "check_two_token_jacobian": [
        [[3 / 64, -3 / 64], [-3 / 64, 3 / 64]],
        torch.tensor([[3 / 64, -3 / 64], [-3 / 64, 3 / 64]]),
    ],
    "check_bytes": [512_000, 512_000.0, np.int64(512_000)],
    "check_limit": ["arithmetic", " Arithmetic", "compute"],
    "check_common_beats_rare": [11, 11.0, np.int64(11)],
    "check_chi_squared": [chi_squared, single(chi_squared), chi_squared_single],
    "check_distinct": [
        distinct,
        lambda s, ids: distinct(s.double(), ids),
        lambda s, ids: distinct(s, ids, low=-1e6),
    ],
    "check_keep_negation": [keep_negation, lambda s, ids, no: keep_negation(s, ids, no).double()],
    "check_score_gradient": [[-1, 1, 0], (-1.0, 1.0, 0.0), torch.tensor([-1.0, 1.0, 0.0])],
    "check_chance": [1 / (1 + math.exp(2)), 0.12, 0.119, np.float32(0.1192)],
    "check_presence": [attended, lambda a, v, u: attended(a.float(), v.float(), u.float())],
    "check_corrected": [corrected, single(corrected)],
    "check_share_budgets": [
        budgets,
        lambda *given: np.array(budgets(*given)),
        lambda *given: torch.tensor(budgets(*given)),
    ],
    "check_share_after": [3_840_000 / 89_682_432, 0.043, np.float32(0.0428), Fraction(3_840_000, 89_682_432)],
    "check_pieces": [["lo", "##ve", "##ly"], ("lo", "##ve", "##ly"), np.array(["lo", "##ve", "##ly"])],
    "check_coverage": [coverage, lambda c, k: float(coverage(c, k))],
    "check_merge_parts": [raise_parts, lambda s, m: {t: int(x) for t, x in raise_parts(s, m).items()}],
    "check_staged_flops": [3648, 3648.0, np.int64(3648)],
    "check_mcnemar": [mcnemar, single(mcnemar), lambda b, c: binomtest(b, b + c).pvalue if b + c else 1],
    "check_smallest_k": [smallest_k, lambda *given: None if (k := smallest_k(*given)) is None else float(k)],
    "check_shared_level": [0.05 / 12, 0.0042, np.float32(0.00417), Fraction(1, 240)],
}

# Wrong answers that earlier checks let pass, or that look right on small inputs.
WRONG: dict[str, list[Any]] = {
    "check_cheaper": [
        CHEAPER | {"vocabulary": {"parameters", "flops"}},
        CHEAPER | {"sequence": {"flops"}},
        CHEAPER | {"decoding": {"flops"}},
        CHEAPER | {"routing": {"speed"}},
        CHEAPER | {"attention": set()},
        CHEAPER | {"attention": {"flops", "memory"}},
        {"vocabulary": {"parameters"}},
    ],
    "check_expert_choice": [
        lambda s, k: hard_topk(s, k, dim=1).mask,
        lambda s, k: last_ties(s, k),
        lambda s, k: s >= s.sort(dim=0, descending=True).values[k - 1],
        lambda s, k: hard_topk(s, 2, dim=0).mask,
    ],
    "check_left_out": [
        lambda m: m.any(1).float().mean(),
        lambda m: unserved(m).sum() / 5,
        lambda m: unserved(m).sum(),
        lambda m: (~m.all(1)).float().mean(),
        lambda m: 0.6,
    ],
    "check_encoder_flops": [
        lambda *given: flops(*given) // 2,
        lambda n, d, f, layers: flops(n, d, f, 1),
        lambda *given: 0,
    ],
    "check_sampling_probabilities": [
        all_that_reach,
        lambda logits, k: top_probabilities(logits, 2),
        lambda logits, k: logits.softmax(-1),
        lambda logits, k: top_probabilities(logits, k) * 0.7,
        lambda logits, k: top_probabilities(logits, k)[:2],
    ],
    "check_f1": [
        lambda p, r: (p + r) / 2,
        lambda p, r: p * r / (p + r) if p + r else 0,
        lambda p, r: min(p, r),
    ],
    "check_recall_accuracy": [0.963, 97.2, 0.944, math.nan],
    "check_middle_scores": [
        lambda ids, mask: -(torch.arange(9) - 4).abs().expand_as(ids),
        lambda ids, mask: -middle(ids, mask),
        lambda ids, mask: middle(ids, mask)[0],
    ],
    "check_key_to_float": [
        float,
        lambda key: torch.tensor(key).to(torch.uint32).view(torch.float32).item(),
        lambda key: abs(key_to_float(key)),
    ],
    "check_tie_mask": [
        lambda s, k: s >= s.sort(descending=True).values[k - 1],
        last_ties,
        lambda s, k: s > s.sort(descending=True).values[k - 1],
        lambda s, k: hard_topk(s.clamp(min=0), k).mask,
    ],
    "check_rows_mask": [
        lambda s, ks: hard_topk(s, int(ks.max())).mask,
        lambda s, ks: rows_mask(s, ks.clamp(min=1)),
        lambda s, ks: rows_mask(s, ks)[0],
    ],
    "check_never_nan": [
        lambda s, k: hard_topk(s, k).indices,
        lambda s, k: hard_topk(s.nan_to_num(-math.inf), k).indices,
        lambda s, k: hard_topk(s.nan_to_num(0), k).indices,
    ],
    "check_best_block": [1000, 10_000, 0, 50],
    "check_clip_threshold": [0.6, 0.4 / 3, -0.2, 0.7, 1, math.nan],
    "check_threshold_search": [
        lambda s, k, t: threshold(s, k, 1.0),
        lambda s, k, t: s.mean(),
        lambda s, k, t: -threshold(s, k, t),
    ],
    "check_straight_through": [
        lambda m, s: m,
        lambda m, s: s,
        lambda m, s: m + s.detach() - s,
        lambda m, s: m + s - s,
        lambda m, s: m + 2 * (s - s.detach()),
    ],
    "check_softmax_limit": [[0, 1, 1], [0, 0, 1], [2 / 3] * 3, [0, 2], [2, 0, 0]],
    "check_weight_gradient": [
        [[0.5, 1.0, -1.5], [-0.25, -0.5, 0.75]],
        [[-0.5, 0.25], [-1.0, 0.5], [1.5, -0.75]],
        [[0.5, -0.25]],
        3.0,
    ],
    "check_exp_threshold": [math.log(3.5), -math.log(3), math.log(1.5), 3, math.nan],
    "check_soft_gradient": [
        lambda d, z, g, t: (d / t * g, g.mean(), -(z * d).sum()),
        lambda d, z, g, t: soft_gradient(d, z, g, 1.0),
        lambda d, z, g, t: soft_gradient(d, z, g, t)[0],
    ],
    "check_two_token_jacobian": [[[1, -1], [-1, 1]], [[3 / 32, 0], [0, 3 / 32]], [3 / 64, -3 / 64]],
    "check_bytes": [400_000, 412_000, 508_000, 812_000, 512.0],
    "check_limit": ["memory", "both"],
    "check_common_beats_rare": [10, 5, 12_501, 20, 3],
    "check_chi_squared": [
        lambda o, s: chi_squared(o, [1 / len(o)] * len(o)),
        lambda o, s: math.sqrt(chi_squared(o, s)),
        lambda o, s: chi_squared(o, s) / sum(o),
    ],
    "check_distinct": [
        lambda s, ids: distinct(s, ids, whole_batch=True),
        lambda s, ids: distinct(s, ids, low=0),
        lambda s, ids: s,
        lambda s, ids: distinct(s.flip(-1), ids.flip(-1)).flip(-1),
    ],
    "check_keep_negation": [
        lambda s, ids, no: torch.where(
            torch.isin(ids, no), s.maximum(torch.nn.functional.pad(s[:, 1:], (0, 1))), s
        ),
        lambda s, ids, no: s,
        lambda s, ids, no: torch.where(torch.isin(ids, no), s.roll(-1, -1), s),
        lambda s, ids, no: keep_negation(s, ids, no[:1]),
        lambda s, ids, no: torch.where(torch.isin(ids, no), s.maximum(s.roll(1, -1)), s),
    ],
    "check_score_gradient": [[1, -1, 0], [-2, 2, 0], [0, 4, 2], [1, 2], [0, 0, 0]],
    "check_chance": [1 / (1 + math.exp(-2)), 1 / (1 + math.exp(0.6)), math.exp(-2), 0, 12, math.nan],
    "check_presence": [
        lambda a, v, u: (u * a.softmax(-1) * v).sum(),
        lambda a, v, u: (u * a).softmax(-1) @ v,
        lambda a, v, u: attended(a, v, u.detach()),
        lambda a, v, u: attended(a, v, (u > 0).double()),
        lambda a, v, u: v * u,
    ],
    "check_corrected": [
        lambda g, n, m, p: g + n / (n + p) * m,
        lambda g, n, m, p: corrected(m, n, g, p),
        lambda g, n, m, p: (1 - n / p) * g + n / p * m,
        lambda g, n, m, p: g,
    ],
    "check_share_budgets": [
        lambda lengths, share, k, pinned: budgets(lengths, 0.25, 32, 2) if len(lengths) != 1 else [1],
        lambda lengths, share, k, pinned: [min(k, math.ceil(share * n)) for n in lengths],
        lambda lengths, share, k, pinned: [max(pinned, min(k, round(share * n))) for n in lengths],
        lambda lengths, share, k, pinned: [share * n for n in lengths],
    ],
    "check_share_after": [0.31, 3_840_000 / 124_439_808, 4.3, math.nan],
    "check_pieces": [["love", "##ly"], ["lo", "##v", "##ely"], ["lo", "ve", "ly"], [], "lo ##ve ##ly"],
    "check_coverage": [
        coverage_at_edge,
        lambda c, k: c[:k].sum() / c.sum(),
        lambda c, k: k / len(c),
        lambda c, k: 100 * coverage(c, k),
        lambda c, k: c.topk(k).values.sum(),
    ],
    "check_merge_parts": [
        lambda s, m: s,
        lambda s, m: {t: max(s.values()) for t in s},
        lambda s, m: {},
    ],
    "check_staged_flops": [6144, 3840, 2560, math.nan],
    "check_mcnemar": [
        lambda b, c: mcnemar(b, c) / 2,
        lambda b, c: 2 * sum(math.comb(b + c, i) for i in range(min(b, c) + 1)) / 2 ** (b + c),
        lambda b, c: 0.05,
    ],
    "check_smallest_k": [
        lambda points, full, within: next((p["k"] for p in points if p["accuracy"] >= full - within), None),
        lambda points, full, within: min(
            (p["k"] for p in points if p["accuracy"] > full - within), default=None
        ),
        lambda points, full, within: 32,
        lambda points, full, within: None,
    ],
    "check_shared_level": [0.05, 0.6, 0.0043, 0.01, math.nan],
}


def test_every_check_has_a_bank() -> None:
    """Here, or in the file of its chapter."""
    assert RIGHT.keys() == WRONG.keys()
    assert all(len(answers) >= 2 for answers in WRONG.values())
    files = [path for path in Path(__file__).parent.glob("test_*.py") if path != Path(__file__)]
    elsewhere = set(re.findall(r"\b(check_\w+)", "".join(path.read_text("utf-8") for path in files)))
    assert set(checks.__all__) == RIGHT.keys() | elsewhere


@pytest.mark.parametrize("name", sorted(RIGHT))
def test_right_in_any_guise(name: str) -> None:
    for number, answer in enumerate(RIGHT[name]):
        said = getattr(checks, name)(answer)
        assert said.startswith("Right"), f"right answer {number}: {said}"


@pytest.mark.parametrize("name", sorted(WRONG))
def test_wrong_is_refused_in_one_sentence_of_its_own(name: str) -> None:
    said = [getattr(checks, name)(answer) for answer in WRONG[name]]
    for number, text in enumerate(said):
        assert text.startswith(("Not yet", "Almost")), f"wrong answer {number}: {text}"
        assert "\n" not in text
    assert len(set(said)) == len(said), "two mistakes, one message"


@pytest.mark.parametrize("name", sorted(checks.__all__))
def test_junk_gets_a_sentence(name: str) -> None:
    def raising(*_: Any) -> Any:
        raise RuntimeError("my own words")

    def unwritten(*_: Any) -> Any:
        raise NotImplementedError

    for junk in (None, ..., "?", object(), [], {}, raising, unwritten, lambda *_: None, lambda: 1, print):
        said = getattr(checks, name)(junk)
        assert said.startswith(("Not yet", "Almost")), f"{junk!r}: {said}"
    if name in RIGHT and inspect.isroutine(RIGHT[name][0]):
        assert "my own words" in getattr(checks, name)(raising)
        assert "nothing is written" in getattr(checks, name)(unwritten)
