"""The checks of the chapter on prompts: right in any guise, wrong in ways that look right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from topk_lib import checks, hard_topk


def score(logits: Tensor, prompt: int, word: list[int], late: int = 0) -> Tensor:
    places = range(prompt - 1 + late, prompt - 1 + len(word) + late)
    table = logits.log_softmax(-1)
    return torch.stack([table[at, i] for at, i in zip(places, word, strict=True)])


def taken_out(said: Tensor, nothing: Tensor) -> Tensor:
    return said / nothing / (said / nothing).sum(-1, keepdim=True)


def few(
    template: str, words: Sequence[str], shots: Sequence[tuple[str, int]], text: str, between: str = "\n\n"
) -> str:
    return between.join(
        [template.replace("{}", s) + words[y] for s, y in shots] + [template.replace("{}", text)]
    )


def best(ids: list[int], scores: Tensor, k: int) -> list[int]:
    return [ids[i] for i in hard_topk(scores, min(k, len(ids))).indices.tolist()]


def last_first(template: str, words: Sequence[str], shots: Sequence[tuple[str, int]], text: str) -> str:
    return "\n\n".join(
        [template.replace("{}", text), *(template.replace("{}", s) + words[y] for s, y in shots)]
    )


def all_that_reach(ids: list[int], scores: Tensor, k: int) -> list[int]:
    edge = scores.sort().values[-min(k, len(ids))]
    return [i for i, score in zip(ids, scores, strict=True) if score >= edge]


def agree(a: Tensor, b: Tensor) -> Tensor:
    return (a.argmax(-1) == b.argmax(-1)).float().mean()


RIGHT: dict[str, list[Callable[..., Any]]] = {
    "check_word_score": [
        lambda *given: score(*given).sum(),
        lambda logits, n, word: float(score(logits.double(), n, word).sum()),
        lambda *given: np.log(np.prod(score(*given).exp().numpy())),
    ],
    "check_calibration": [
        taken_out,
        lambda p, q: (p.log() - q.log()).softmax(-1).double(),
        lambda p, q: taken_out(p, q).tolist(),
    ],
    "check_few_shot": [few, lambda *given: str(np.str_(few(*given)))],
    "check_best_in_order": [
        best,
        lambda ids, s, k: torch.tensor(best(ids, s, k)),
        lambda ids, s, k: [ids[i] for i in sorted(s.sort(descending=True, stable=True).indices[:k].tolist())],
    ],
    "check_agreement": [agree, lambda a, b: np.mean((a.argmax(1) == b.argmax(1)).numpy())],
}

WRONG: dict[str, list[Callable[..., Any]]] = {
    "check_word_score": [
        lambda logits, n, word: score(torch.cat([logits, logits[-1:]]), n, word, late=1).sum(),
        lambda logits, n, word: sum(logits[n - 1 + i, t] for i, t in enumerate(word)),
        lambda *given: score(*given).sum().exp(),
        lambda *given: score(*given)[0],
        lambda *given: score(*given).mean(),
        lambda logits, n, word: logits.log_softmax(-1)[n - 1, word].sum(),
        lambda *given: -score(*given).sum(),
    ],
    "check_calibration": [
        lambda p, q: p / q,
        lambda p, q: p * q / (p * q).sum(-1, keepdim=True),
        lambda p, q: p / q / (p / q).sum(0),
        lambda p, q: p - q,
        lambda p, q: p,
        lambda p, q: p[0],
    ],
    "check_few_shot": [
        lambda *given: few(*given) + " ",
        lambda t, w, shots, x: few(t, w, shots, x) + w[1],
        lambda t, w, shots, x: few(t, w, shots[:1], x),
        lambda t, w, shots, x: few(t, w, shots, ""),
        lambda t, w, shots, x: few(t, ("", ""), shots, x),
        lambda t, w, shots, x: few(t, w, shots[::-1], x),
        last_first,
        lambda t, w, shots, x: few(t, w, shots, x, "\n"),
        lambda t, w, shots, x: few(t, w, [(s, 1 - y) for s, y in shots], x),
        lambda *given: few(*given).encode(),
    ],
    "check_best_in_order": [
        lambda ids, s, k: [ids[i] for i in s.sort(descending=True, stable=True).indices[:k].tolist()],
        lambda ids, s, k: hard_topk(s, min(k, len(ids))).indices,
        lambda ids, s, k: best(ids, s, k) if k <= len(ids) else [],
        lambda ids, s, k: best(ids, -s, k),
        all_that_reach,
        lambda ids, s, k: sorted(best(ids, s, k)),
    ],
    "check_agreement": [
        lambda a, b: (a.argmax(0) == b.argmax(0)).float().mean(),
        lambda a, b: (a.argmax(-1) == b.argmax(-1)).sum(),
        lambda a, b: (a == b).float().mean(),
        lambda a, b: 1.0,
        lambda a, b: 0.5,
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_right_is_accepted_in_any_guise(name: str) -> None:
    for answer in RIGHT[name]:
        assert getattr(checks, name)(answer).startswith("Right"), getattr(checks, name)(answer)


@pytest.mark.parametrize("name", WRONG)
def test_wrong_is_refused_in_one_sentence_of_its_own(name: str) -> None:
    said = [getattr(checks, name)(answer) for answer in WRONG[name]]
    assert all(text.startswith("Not yet") and "\n" not in text for text in said), said
    assert len(set(said)) == len(said), "two mistakes, one message"
