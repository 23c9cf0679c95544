"""The checks of the chapter on vocabulary selection tell right from wrong, and name the likely mistakes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from topk_lib.checks import vocabulary as checks
from topk_lib.models.vocabulary import sizes

Scores = dict[str, float]
Merges = list[tuple[str, str]]


def test_the_share_is_that_of_the_real_model() -> None:
    with torch.device("meta"):
        before = sizes(GPT2LMHeadModel(GPT2Config()))
        after = sizes(GPT2LMHeadModel(GPT2Config(vocab_size=5000)))
    assert before.parameters == 124_439_808
    assert checks.check_share_after(after.embedding / after.parameters).startswith("Right")


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (0.0428, "Right"),
        (4.28, "between 0 and 1"),
        (0.0309, "before the cut; the whole"),
        (0.3102, "share before the cut"),
        (0.0447, "plus the rows that are left"),
        (0.5, "0.5 is not it"),
    ],
)
def test_share_after(share: float, said: str) -> None:
    assert said in checks.check_share_after(share)


@pytest.mark.parametrize(
    ("pieces", "said"),
    [
        (["lo", "##ve", "##ly"], "Right"),
        (["love", "##ly"], "are gone"),
        (["lo", "##vel", "##y"], "are gone"),
        (["lo", "##v", "##ely"], "##ve"),
        (["l", "##o", "##v", "##e", "##l", "##y"], "not the longest"),
        (["lo", "ve", "ly"], "begins with ##"),
        (["lo", "##ly"], "do not spell"),
        ([], "do not spell"),
    ],
)
def test_pieces(pieces: list[str], said: str) -> None:
    assert said in checks.check_pieces(pieces)


@pytest.mark.parametrize(
    ("coverage", "said"),
    [
        (lambda counts, k: counts.sort(descending=True).values[:k].sum() / counts.sum(), "Right."),
        (lambda counts, k: counts[:k].sum() / counts.sum(), "first 2"),
        (lambda counts, k: k / len(counts), "share of the types"),
        (lambda counts, k: 100 * counts.topk(k).values.sum() / counts.sum(), "per cent"),
        (lambda counts, k: counts.topk(k).values.sum(), "divide by"),
        (lambda counts, k: 0.123, "0.123"),
        (lambda counts, k: None, "returns nothing"),
    ],
)
def test_coverage(coverage: Callable[[Tensor, int], float], said: str) -> None:
    assert said in checks.check_coverage(coverage)


def raising(*, turned: bool = True, combine: Callable[[float, float], float] = max) -> Callable[..., Scores]:
    """The parts raised with a chosen mistake, or none."""

    def raise_parts(scores: Scores, merges: Merges) -> Scores:
        for a, b in reversed(merges) if turned else merges:
            for part in (a, b):
                scores[part] = combine(scores[part], scores[a + b])
        return scores

    return raise_parts


@pytest.mark.parametrize(
    ("raise_parts", "said"),
    [
        (raising(), "Right."),
        (raising(turned=False), "from the last to the first"),
        (raising(combine=lambda own, whole: own + whole), "higher than"),
        (raising(combine=lambda own, whole: whole), "must not fall"),
        (raising(combine=lambda own, whole: own), "nothing has changed"),
        (lambda scores, merges: {"a": 1.0}, "every token"),
        (lambda scores, merges: scores | {"d": 2.0}, "a should have 9"),
        (lambda scores, merges: None, "returns nothing"),
    ],
)
def test_merge_parts(raise_parts: Callable[..., Scores], said: str) -> None:
    assert said in checks.check_merge_parts(raise_parts)
