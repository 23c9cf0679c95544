"""Prompt compression: surprises against a pass by hand, and what is kept."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from topk_lib.tasks.compression import compress, surprises

TEXTS = [[3, 7, 7, 2, 9, 4], [5], [1, 8, 6]]


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=12, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def test_surprises_are_those_of_each_text_alone(model: Any) -> None:
    for text, told in zip(TEXTS, surprises(model, TEXTS), strict=True):
        assert told.shape == (len(text),)
        assert told[0] == torch.inf
        with torch.inference_mode():
            table = model(torch.tensor([text])).logits[0].log_softmax(-1)
        by_hand = torch.tensor([-float(table[i, token]) for i, token in enumerate(text[1:])])
        assert torch.allclose(told[1:], by_hand, atol=1e-5)
    assert torch.allclose(surprises(model, TEXTS, batch_size=1)[0], surprises(model, TEXTS)[0], atol=1e-5)


def test_the_most_surprising_are_kept_in_order(model: Any) -> None:
    told = surprises(model, TEXTS)[0]
    best = sorted(told.argsort(descending=True)[:3].tolist())
    kept = compress(model, TEXTS, 3)
    assert kept[0] == [TEXTS[0][i] for i in best]
    assert kept[0][0] == TEXTS[0][0], "nothing foretold the first token"
    assert kept[1:] == TEXTS[1:]
