"""The checks of the chapter on the next token: right in any guise, wrong in ways that look right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from topk_lib import checks, likely_mask
from topk_lib.decoding import repeated


def may(logits: Tensor, temperature: float, k: int, top_p: float, min_p: float) -> Tensor:
    return likely_mask(logits, min(k, len(logits)), temperature, top_p=top_p, min_p=min_p)


def by_hand(
    logits: Tensor, temperature: float, k: int, top_p: float, min_p: float, *, crossing: bool = True,
    renormalise: bool = True, relative: bool = True, late: bool = False, all_ties: bool = False,
    tempered: bool = True,
) -> list[bool]:  # fmt: skip
    p = (logits / (1 if late else temperature)).softmax(-1)
    order = p.argsort(descending=True, stable=True)
    best = order[:k]
    if all_ties:
        best = (p >= p[best[-1]]).nonzero()[:, 0]
        best = best[p[best].argsort(descending=True, stable=True)]
    share = p[best] / p[best].sum() if renormalise else p[best]
    reached = share.cumsum(0) if not crossing else share.cumsum(0) - share
    stays = (reached < top_p) | (torch.tensor(top_p) >= 1)
    stays[0] = True
    q = p if tempered else logits.softmax(-1)
    stays &= q[best] >= (min_p * q.max() if relative else min_p)
    kept = torch.zeros(len(p), dtype=torch.bool)
    kept[best[stays]] = True
    said: list[bool] = kept.tolist()
    return said


def rest(p: Tensor, q: Tensor) -> Tensor:
    left = (p - q).clamp(min=0)
    return left / left.sum() if left.sum() > 0 else p


def counted(text: Sequence[int], n: int) -> list[tuple[int, ...]]:
    return [tuple(text[i : i + n]) for i in range(len(text) - n + 1)]


RIGHT: dict[str, list[Any]] = {
    "check_may_come": [
        may,
        by_hand,
        lambda *given: may(*given).int(),
        lambda *given: np.array(by_hand(*given)),
    ],
    "check_acceptance": [0.7, 7 / 10, torch.tensor(0.7), np.float32(0.7)],
    "check_rejected": [rest, lambda p, q: rest(p.double(), q.double()), lambda p, q: rest(p, q).tolist()],
    "check_repeated": [
        repeated,
        lambda text, n: 1 - len(set(counted(text, n))) / len(counted(text, n)),
        lambda text, n: np.mean([g in counted(text, n)[:i] for i, g in enumerate(counted(text, n))]),
    ],
}

WRONG: dict[str, list[Callable[..., Any] | float]] = {
    "check_may_come": [
        lambda *given: by_hand(*given, crossing=False),
        lambda *given: by_hand(*given, renormalise=False),
        lambda *given: by_hand(*given, relative=False),
        lambda *given: by_hand(*given, late=True),
        lambda *given: by_hand(*given, tempered=False),
        lambda *given: by_hand(*given, all_ties=True),
        lambda logits, *rest: may(-logits, *rest),
        lambda logits, t, k, *rest: may(logits, t, min(k, 6), *rest)[:3],
        lambda logits, t, k, p, m: may(logits, t, k, p, m) if k < 7 else torch.zeros(6),
    ],
    "check_acceptance": [0.3, 0.29, 0.2, 70, 1.3, 0.5],
    "check_rejected": [
        lambda p, q: p,
        lambda p, q: q,
        lambda p, q: (p - q).clamp(min=0),
        lambda p, q: rest(q, p),
        lambda p, q: p - q,
        lambda p, q: (p - q).abs() / (p - q).abs().sum(),
        lambda p, q: (p - q).softmax(-1),
        lambda p, q: rest(p, q)[:2],
        lambda p, q: (p - q).clamp(min=0) / (p - q).clamp(min=0).sum().clamp(min=1e-9),
    ],
    "check_repeated": [
        lambda text, n: 1 - repeated(text, n),
        lambda text, n: len(set(counted(text, n))) / len(text),
        lambda text, n: len(counted(text, n)) - len(set(counted(text, n))),
        lambda text, n: 1 - len(set(counted(text, n))) / len(text),
        lambda text, n: np.mean([counted(text, n).count(g) > 1 for g in counted(text, n)]),
    ],
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_is_accepted_in_any_guise(name: str) -> None:
    for answer in RIGHT[name]:
        assert getattr(checks, name)(answer) == "Right."


@pytest.mark.parametrize("name", WRONG)
def test_wrong_is_refused_in_one_sentence_of_its_own(name: str) -> None:
    said = [getattr(checks, name)(answer) for answer in WRONG[name]]
    assert all(text.startswith(("Not yet", "Almost")) and "\n" not in text for text in said), said
    assert len(set(said)) == len(said), "two mistakes, one message"


def test_a_rule_that_divides_by_nothing_is_told() -> None:
    assert "0 by 0" in checks.check_rejected(lambda p, q: (p - q).clamp(min=0) / (p - q).clamp(min=0).sum())


@pytest.mark.slow
def test_a_writing_rule_is_measured() -> None:
    check = checks.check_writing_rule
    assert check({"k": 10}).startswith("Right: perplexity")
    assert "let more tokens in" in check({"k": 1})
    assert "let fewer tokens in" in check({"temperature": 1.5})
    assert "'top_k' is none of" in check({"top_k": 5})
    assert "temperature must be 0 or above" in check({"temperature": -1.0})
