"""The likelihood of a text is that of its tokens, one after the other, and the text is whole again."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from topk_lib.models import Likelihood, likelihood
from topk_lib.models.likelihood import _start

TEXT = "Plum 电影 🎬\n\nyodels  twice."


@pytest.fixture(scope="module")
def small() -> tuple[Any, Any]:
    """A tiny random causal model on single bytes: an emoji is four tokens."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE

    types = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "<|endoftext|>"]
    backend = Tokenizer(BPE({t: i for i, t in enumerate(types)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(types), hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=64, bos_token_id=256, eos_token_id=256,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval(), tokenizer


def test_each_token_is_scored_after_those_before_it(small: tuple[Any, Any]) -> None:
    model, tokenizer = small
    scored = likelihood(model, tokenizer, TEXT)
    ids = tokenizer(TEXT)["input_ids"]
    assert len(ids) == len(TEXT.encode()) == len(scored.pieces)
    for t, token in enumerate(ids):  # a pass for each, that cannot see what comes
        with torch.inference_mode():
            logits = model(torch.tensor([[256, *ids[:t]]])).logits[0, -1]
        assert float(scored.log_probs[t]) == pytest.approx(float(logits.log_softmax(-1)[token]), abs=1e-4)


def test_the_pieces_are_the_text(small: tuple[Any, Any]) -> None:
    pieces = likelihood(*small, TEXT).pieces
    assert "".join(pieces) == TEXT
    at = pieces.index("🎬")
    assert pieces[at + 1 : at + 4] == ["", "", ""]


def test_bits_loss_perplexity_and_bits_a_character() -> None:
    scored = Likelihood(["a", "", "bc", " d"], torch.tensor([0.5, 0.25, 0.125, 0.25]).log())
    assert scored.bits.tolist() == pytest.approx([1, 2, 3, 2])
    assert scored.loss == pytest.approx(2 * math.log(2))
    assert scored.perplexity == pytest.approx(4)
    assert scored.bits_per_character == pytest.approx(8 / 5)


def test_what_cannot_be_scored_is_said(small: tuple[Any, Any]) -> None:
    with pytest.raises(ValueError, match="has no token to score"):
        likelihood(*small, "")
    with pytest.raises(ValueError, match="64 tokens, the model reads at most 63"):
        likelihood(*small, "x" * 64)
    assert len(likelihood(*small, "x" * 63).pieces) == 63
    none = SimpleNamespace(get_vocab=dict, bos_token_id=None, eos_token_id=None, cls_token_id=None)
    with pytest.raises(ValueError, match="no token that begins a text"):
        _start(none)
    assert _start(SimpleNamespace(get_vocab=dict, bos_token_id=None, eos_token_id=3, cls_token_id=2)) == 3


@pytest.mark.slow
def test_the_real_model_prefers_sense(language_model: tuple[Any, Any]) -> None:
    sense = likelihood(*language_model, "The film was good")
    nonsense = likelihood(*language_model, "good was film The")
    assert sense.log_probs.sum() > nonsense.log_probs.sum() + 5
    assert "".join(likelihood(*language_model, TEXT).pieces) == TEXT


def test_a_tokenizer_that_adds_tokens_is_told_not_to(small: tuple[Any, Any], tiny_encoder: Path) -> None:
    from transformers import AutoTokenizer

    wordpiece = AutoTokenizer.from_pretrained(tiny_encoder)
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=len(wordpiece), hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                    num_attention_heads=1)
    ).eval()  # fmt: skip
    scored = likelihood(model, wordpiece, "Unwatchable, twice ")
    assert scored.pieces == ["Un", "watch", "able", ",", " twice "]
