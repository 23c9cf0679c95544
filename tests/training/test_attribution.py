"""Marks of a trained model: what leaving a token out does, and pieces that are read whole."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import BertConfig

from topk_lib.models import TopKConfig, TopKForSequenceClassification
from topk_lib.training import attributions, pieces

TEXTS = [[101, 5, 6, 7, 8, 9, 102], [101, 11, 102], [], [101, 7, 7, 12, 13, 14, 15, 16, 102]]


def model(labels: int = 2, problem: str = "single_label_classification", k: int = 16) -> Any:
    torch.manual_seed(0)
    encoder = BertConfig(
        vocab_size=128, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        num_labels=labels, problem_type=problem, initializer_range=0.5,
    )  # fmt: skip
    return TopKForSequenceClassification(
        TopKConfig(encoder=encoder, selector={"name": "first"}, k=k, special_ids=[101, 102])
    ).eval()


def without(one: Any, ids: list[int], i: int | None) -> torch.Tensor:
    """The logits of all tokens but one, which stand where they stood."""
    left = [at for at in range(len(ids)) if at != i]
    with torch.no_grad():
        logits: torch.Tensor = one.encoder(
            torch.tensor([[ids[at] for at in left]]), position_ids=torch.tensor([left])
        ).logits[0]
    return logits


@pytest.mark.parametrize(
    ("labels", "problem"),
    [(2, "single_label_classification"), (4, "single_label_classification"),
     (3, "multi_label_classification"), (1, "regression")],
)  # fmt: skip
def test_left_out_is_really_left_out(labels: int, problem: str) -> None:
    one = model(labels, problem)
    for ids, moved in zip(TEXTS, attributions(one, TEXTS, left_out=True), strict=True):
        assert moved.shape == (len(ids),)
        if not ids:
            continue
        whole = without(one, ids, None)
        best = whole.argsort(descending=True).tolist()
        for i in range(1, len(ids)):  # the answer is read off the first
            change = whole - without(one, ids, i)
            if problem == "single_label_classification":
                expected = change[best[0]] - change[best[1]]
            else:
                expected = change[whole.abs().argmin()]
            assert moved[i] == pytest.approx(abs(float(expected)), abs=1e-4)


def test_what_was_not_read_has_no_mark_and_modes_stay() -> None:
    one = model(k=4).train()
    for left_out in (False, True):
        moved = attributions(one, TEXTS, left_out=left_out)
        assert moved[0][[0, 1, 2, 6]].min() > 0  # the first two between the special ones
        assert moved[0][3:6].tolist() == [0, 0, 0]
        assert one.training
    assert all(p.grad is None for p in one.parameters())


def test_slopes_are_what_leaving_out_a_little_does() -> None:
    """To first order: tokens that are there by 0.999."""
    one, ids = model(), TEXTS[0]
    (slopes,) = attributions(one, [ids])
    with torch.no_grad():
        reading = one.select(torch.tensor([ids]))
        whole = one.read(reading).logits[0]
        a, b = whole.topk(2).indices.tolist()
        for i in range(len(ids)):
            there = torch.ones(1, len(ids), dtype=torch.float32)
            there[0, i] = 0.999
            less = one.read(reading, presence=there).logits[0]
            change = ((whole - less)[a] - (whole - less)[b]) / 0.001
            assert slopes[i] == pytest.approx(abs(float(change)), rel=0.02, abs=2e-2)


def test_pieces_by_hand() -> None:
    texts = [[1, *range(10, 20), 2], [1, 5, 2], [], [1, 2]]
    starts = set()
    for seed in range(60):
        long, *short = pieces(texts, 6, [1, 2], seed=seed)
        assert short == texts[1:]
        assert (len(long), long[0], long[-1]) == (6, 1, 2)
        assert long[1:-1] == list(range(long[1], long[1] + 4))  # in the text's own words
        starts.add(long[1])
    assert starts == set(range(10, 17))  # anywhere
    assert [*pieces(texts, 6, [1, 2], seed=7)] == [*pieces(texts, 6, [1, 2], seed=7)]
    assert [len(one) for one in pieces([[*range(10, 20)], [1, *range(10, 20)]], 6, [1])] == [6, 6]
