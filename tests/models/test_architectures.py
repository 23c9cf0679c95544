"""Encoders of many kinds read k tokens as they would read a text of them, and train a gate or say why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import (
    AlbertConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaV2Config,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    ModernBertConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    XLMRobertaConfig,
)

from topk_lib.models import TopKConfig, TopKForSequenceClassification, errors_only
from topk_lib.models.presence import presence_mask, run_with_presence
from topk_lib.selectors import ids_to_batch

WIDE: dict[str, Any] = {
    "vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 32, "max_position_embeddings": 64, "pad_token_id": 1,
}  # fmt: skip
ENDS: dict[str, Any] = {"bos_token_id": 2, "eos_token_id": 3}
MODERN: dict[str, Any] = {**WIDE, **ENDS, "cls_token_id": 2, "sep_token_id": 3, "local_attention": 8}
CONFIGS: dict[str, Any] = {
    "bert": lambda: BertConfig(**WIDE),
    "albert": lambda: AlbertConfig(**WIDE, embedding_size=8),
    "xlm-roberta": lambda: XLMRobertaConfig(**WIDE),
    "modernbert": lambda: ModernBertConfig(**MODERN),
    "modernbert-mean": lambda: ModernBertConfig(**MODERN, classifier_pooling="mean"),
    "gpt2": lambda: GPT2Config(
        vocab_size=60, n_embd=16, n_layer=2, n_head=2, n_positions=64, pad_token_id=1, **ENDS
    ),
    "deberta-v2": lambda: DebertaV2Config(**WIDE, relative_attention=True, pos_att_type=["c2p", "p2c"]),
    "llama": lambda: LlamaConfig(**WIDE, **ENDS),
    "mistral": lambda: MistralConfig(**WIDE, **ENDS, sliding_window=4, num_key_value_heads=1),
    "qwen2": lambda: Qwen2Config(
        **WIDE, sliding_window=4, use_sliding_window=True, max_window_layers=1, num_key_value_heads=1
    ),
}
REFUSED = ("deberta-v2",)
TEXTS = [
    [2, *torch.randint(5, 60, (n,), generator=torch.Generator().manual_seed(n)).tolist(), 3]
    for n in (30, 20, 4)
]
K = 12
CUT = 9  # the token whose presence is in question: a window of 4 lets two layers see 6 back


def built(kind: str, selector: str) -> Any:
    torch.manual_seed(0)
    with errors_only():
        model = TopKForSequenceClassification(
            TopKConfig(encoder=CONFIGS[kind](), selector={"name": selector}, k=K, special_ids=[2, 3])
        )
    for parameter in model.encoder.parameters():  # small random numbers would leave attention nearly even
        parameter.data = 3 * parameter.data if parameter.dim() > 1 else parameter.data
    if selector == "linear":
        model.selector.fit(TEXTS, [0, 1, 1])
    return model.eval()


@pytest.mark.parametrize("kind", CONFIGS)
def test_read_save_and_learn(kind: str, tmp_path: Path) -> None:
    ids, mask = ids_to_batch(TEXTS, 1)
    left = torch.stack([torch.cat([i[m == 0], i[m == 1]]) for i, m in zip(ids, mask, strict=True)])
    for selector in ("head_tail", "linear", "gate"):
        model = built(kind, selector)
        with torch.no_grad():
            together = model(ids, mask)
            for row, text in enumerate(TEXTS):
                # The encoder reads the kept tokens as a text of its own: its mask, places and last token.
                read = torch.tensor([[text[i] for i in together.kept[row].tolist() if i >= 0]])
                torch.testing.assert_close(together.logits[row : row + 1], model.encoder(read).logits)
            torch.testing.assert_close(model(left, mask.flip(-1)).logits, together.logits)
        if selector == "gate":
            model.save_pretrained(tmp_path)
            again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
            assert torch.equal(again(ids, mask).logits, together.logits)
        model.train()
        if selector == "gate" and kind in REFUSED:
            with pytest.raises(ValueError, match="DebertaV2ForSequenceClassification cannot have tokens"):
                model(ids, mask, labels=torch.tensor([0, 1, 1]))
            continue
        model(ids, mask, labels=torch.tensor([0, 1, 1])).loss.backward()
        assert float(model.get_input_embeddings().weight.grad.abs().sum()) > 0
        for parameter in model.selector.parameters():
            assert parameter.grad is not None
            assert float(parameter.grad.abs().sum()) > 0


@pytest.mark.parametrize(
    ("kind", "attention"),
    [
        ("albert", "eager"), ("modernbert", "sdpa"), ("modernbert-mean", "eager"), ("gpt2", "sdpa"),
        ("llama", "eager"), ("mistral", "sdpa"), ("qwen2", "eager"), ("xlm-roberta", "sdpa"),
    ],
)  # fmt: skip
def test_presence_at_both_ends(kind: str, attention: str) -> None:
    """At 1 a token is read as usual; at 0 nobody reads it; in between the slope is the true one."""
    encoder = built(kind, "first").encoder.double()
    encoder.set_attn_implementation(attention)
    ids = torch.tensor([TEXTS[1][:14]])
    seen = torch.ones_like(ids)
    one = torch.ones(1, 14, dtype=torch.float64)

    def logits(presence: Tensor) -> Tensor:
        found: Tensor = run_with_presence(encoder, presence, seen, input_ids=ids).logits
        return found

    torch.testing.assert_close(logits(one), encoder(ids, attention_mask=seen).logits)
    gone = one.clone()
    gone[0, CUT] = 1e-250
    holes = seen.clone()
    holes[0, CUT] = 0
    torch.testing.assert_close(logits(gone), encoder(ids, attention_mask=holes).logits)
    assert (logits(gone) - logits(one)).abs().max() > 1e-6
    # Some of these compute in float32 whatever they are given: no gradcheck.
    there = one.clone().requires_grad_()
    (slope,) = torch.autograd.grad(logits(there)[0, 0], there)
    way = torch.linspace(-1, 1, 14, dtype=torch.float64)
    rise = (logits(one + 0.01 * way) - logits(one - 0.01 * way))[0, 0] / 0.02
    torch.testing.assert_close((slope * way).sum(), rise.detach(), rtol=0.02, atol=2e-4)


def test_a_layer_that_takes_no_mask_is_named() -> None:
    config = BertConfig()
    config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(ValueError, match="types full_attention, linear_attention, which take no such mask"):
        presence_mask(torch.ones(1, 3), torch.ones(1, 3), config, torch.float32)


def words() -> Any:
    vocabulary = {word: i for i, word in enumerate(["<unk>", "<eos>", *"abcdefghijklmnopqrstuvwxyz"])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="<eos>")


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_decoder_without_padding_or_special_tokens(kind: str, tmp_path: Path) -> None:
    config = CONFIGS[kind]()
    config.pad_token_id, config.eos_token_id, config.bos_token_id = None, 1, 1
    with errors_only():
        AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    words().save_pretrained(tmp_path)
    model, tokenizer = TopKForSequenceClassification.from_encoder(tmp_path, "gate", 4, max_length=6)
    assert model.config.special_ids == []
    assert model.config.closing == 0
    assert model.config.pad_token_id == model.encoder.config.pad_token_id == tokenizer.pad_token_id == 1
    texts = ["a b c", "d e f g h i j k", "z"]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        together = model.eval()(**batch)
        alone = torch.cat([model(**tokenizer(text, return_tensors="pt")).logits for text in texts])
    torch.testing.assert_close(together.logits, alone)
    assert int(together.kept.max()) < 6
    with pytest.raises(ValueError, match="there is no token to read"):
        model(torch.zeros(1, 0, dtype=torch.int64))
    model.train()(**batch, labels=torch.tensor([0, 1, 1])).loss.backward()
