"""Adapting by a few parameters: what is trained, how it begins, what merging and saving keep."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    XLNetConfig,
    XLNetForSequenceClassification,
)

from topk_lib.models import TopKForSequenceClassification
from topk_lib.training.adapt import METHODS, Adapter, adapt, merge, trainable

D, INNER, VOCABULARY, LAYERS = 16, 32, 40, 2
IDS = torch.arange(12).reshape(2, 6) + 3
BERT: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": D, "num_hidden_layers": LAYERS, "num_attention_heads": 2,
    "intermediate_size": INNER, "max_position_embeddings": 32,
}  # fmt: skip
HEAD = 2 * D + 2


def bert() -> Any:
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(**BERT)).eval()


def distilbert() -> Any:
    torch.manual_seed(0)
    config = DistilBertConfig(vocab_size=VOCABULARY, dim=D, n_layers=LAYERS, n_heads=2, hidden_dim=INNER)
    return DistilBertForSequenceClassification(config).eval()


def llama(kind: Any = LlamaForSequenceClassification) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(**{**BERT, "num_key_value_heads": 2, "pad_token_id": 0, "tie_word_embeddings": True})
    return kind(config).eval()


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits
    return found


def learn(model: Any, rate: float = 0.1) -> None:
    """Two steps of gradient descent on whatever may move."""
    moved = [x for x in model.parameters() if x.requires_grad]
    optimiser = torch.optim.SGD(moved, lr=rate)
    for _ in range(2):
        loss = model(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits.float().square().mean()
        (loss - model(input_ids=IDS.flip(0), attention_mask=torch.ones_like(IDS)).logits.sum()).backward()
        optimiser.step()
        optimiser.zero_grad()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("make", [bert, distilbert])
def test_only_the_methods_own_parameters_move(method: str, make: Any) -> None:
    model = make()
    inside = dict(model.base_model.named_parameters())
    before = {name: x.detach().clone() for name, x in inside.items()}
    learn(adapt(model, method, size=3))
    moved = {name for name, x in inside.items() if not torch.equal(x, before[name])}
    if method == "full":
        assert any("word_embeddings" in name for name in moved)
    elif method == "bitfit":
        assert moved
        assert all(name.endswith("bias") for name in moved)
    else:
        assert not moved


@pytest.mark.parametrize(
    ("method", "count"),
    [
        ("head", HEAD),
        ("bitfit", LAYERS * (4 * D + INNER + D + 2 * D) + D + D + HEAD),
        ("prompt", 3 * D + HEAD),
        ("lora", LAYERS * 2 * 3 * (D + D) + HEAD),
        ("adapter", LAYERS * 2 * (2 * 3 * D + 3 + D) + HEAD),
    ],
)
def test_how_many_parameters_are_trained(method: str, count: int) -> None:
    assert trainable(adapt(bert(), method, size=3)) == count


def test_full_trains_all_even_after_another_method() -> None:
    model = adapt(bert(), "head")
    assert trainable(adapt(model, "full")) == sum(x.numel() for x in model.parameters())


@pytest.mark.parametrize("method", [m for m in METHODS if m != "prompt"])
@pytest.mark.parametrize("make", [bert, distilbert, llama])
def test_it_begins_as_the_model_was(method: str, make: Any) -> None:
    if method == "bitfit" and make is llama:
        return
    model = make()
    before = logits(model)
    assert torch.equal(logits(adapt(model, method).eval()), before)


def test_an_adapter_is_the_layer_and_a_bend() -> None:
    layer, x = nn.Linear(4, 6), torch.randn(3, 4)
    adapter = Adapter(layer, 2)
    assert torch.equal(adapter(x), layer(x))
    nn.init.normal_(adapter.up.weight)
    y = layer(x)
    low = y @ adapter.down.weight.T + adapter.down.bias
    by_hand = y + (low * 0.5 * (1 + torch.erf(low / 2**0.5))) @ adapter.up.weight.T + adapter.up.bias
    assert torch.allclose(adapter(x), by_hand, atol=1e-6)


@pytest.mark.parametrize("method", ["lora", "bitfit", "head", "full"])
@pytest.mark.parametrize("make", [bert, llama])
def test_merged_equals_unmerged(method: str, make: Any) -> None:
    if method == "bitfit" and make is llama:
        return
    model = make()
    kind, size, before = type(model), sum(x.numel() for x in model.parameters()), logits(model)
    adapted = adapt(model, method, size=2)
    learn(adapted)
    learned = logits(adapted.eval())
    assert not torch.allclose(learned, before)
    merged = merge(adapted)
    assert type(merged) is kind
    assert sum(x.numel() for x in merged.parameters()) == size
    assert torch.allclose(logits(merged), learned, atol=1e-5)


def test_a_lora_layer_by_hand() -> None:
    model = bert()
    weight = model.bert.encoder.layer[0].attention.self.query.weight.clone()
    adapted = adapt(model, "lora", size=2)
    learn(adapted)
    layer = model.bert.encoder.layer[0].attention.self.query
    product = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    assert torch.linalg.matrix_rank(product) == 2
    assert torch.allclose(layer.get_delta_weight("default"), product)
    assert torch.equal(layer.base_layer.weight, weight)


def test_a_prompt_stands_in_front_and_begins_as_its_tokens() -> None:
    model, begin = bert(), [5, 9, 7]
    adapted = adapt(model, "prompt", begin=begin).eval()
    vectors = adapted.prompt_encoder["default"].embedding.weight
    assert torch.equal(vectors, model.get_input_embeddings().weight[begin])
    longer = torch.cat([torch.tensor(begin).expand(2, -1), IDS], -1)
    with torch.no_grad():
        right = bert()(input_ids=longer, attention_mask=torch.ones_like(longer)).logits
    assert torch.allclose(logits(adapted), right, atol=1e-6)


def test_what_is_saved_is_small_and_comes_back(tmp_path: Path) -> None:
    adapted = adapt(bert(), "lora", size=2)
    learn(adapted)
    learned = logits(adapted.eval())
    adapted.save_pretrained(tmp_path)
    assert (tmp_path / "adapter_model.safetensors").stat().st_size < 4 * trainable(adapted) + 5000
    assert torch.equal(logits(PeftModel.from_pretrained(bert(), tmp_path).eval()), learned)


def test_a_language_model_keeps_its_output() -> None:
    model = llama(LlamaForCausalLM)
    before = logits(model)
    adapted = adapt(model, "lora", size=2)
    assert trainable(adapted) == LAYERS * 2 * 2 * (D + D)
    assert torch.equal(logits(adapted.eval()), before)
    with pytest.raises(ValueError, match="LlamaForCausalLM has no head of its own"):
        adapt(llama(LlamaForCausalLM), "head")


def test_layers_are_chosen_by_the_ends_of_their_names() -> None:
    adapted = adapt(bert(), "lora", size=2, layers=["attention.output.dense"])
    changed = {name.split(".lora_A")[0] for name, _ in adapted.named_parameters() if ".lora_A" in name}
    assert len(changed) == LAYERS
    assert all(name.endswith("attention.output.dense") for name in changed)
    adapters = adapt(bert(), "adapter", layers=["intermediate.dense"])
    assert sum(isinstance(part, Adapter) for part in adapters.modules()) == LAYERS


def refused(match: str, call: Any, kind: type[Exception] = ValueError) -> None:
    with pytest.raises(kind, match=match) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_bad_input_gets_one_sentence() -> None:
    refused("there is no method 'lorra': choose one of head, bitfit", lambda: adapt(bert(), "lorra"))
    refused("no linear layer called q_proj: name some of dense, key, query, value",
            lambda: adapt(bert(), "lora", layers=["q_proj"]))  # fmt: skip
    refused("no linear layer called qery", lambda: adapt(bert(), "adapter", layers=["query", "qery"]))
    refused("has no bias to train: choose lora", lambda: adapt(llama(), "bitfit"))
    refused("size must be", lambda: adapt(bert(), "lora", size=0))
    refused("adapted already", lambda: adapt(adapt(bert(), "lora"), "lora"))
    refused("adapted already", lambda: adapt(adapt(bert(), "adapter"), "head"))
    for method in ("prompt", "adapter"):
        adapted = adapt(bert(), method)
        refused("a prompt and adapters stay beside", lambda adapted=adapted: merge(adapted))
    refused("takes a model of transformers, got Linear", lambda: adapt(nn.Linear(2, 2), "lora"), TypeError)


def test_a_model_that_selects_is_adapted_by_its_encoder(tiny_encoder: Path) -> None:
    model, _ = TopKForSequenceClassification.from_encoder(tiny_encoder, "first", 4)
    refused("give its encoder", lambda: adapt(model, "lora"), TypeError)
    before = logits(model.eval())
    model.encoder = adapt(model.encoder, "lora")
    assert torch.equal(logits(model.eval()), before)


def test_an_unknown_architecture_is_told_which_layers_to_name() -> None:
    torch.manual_seed(0)
    model = XLNetForSequenceClassification(
        XLNetConfig(vocab_size=40, d_model=16, n_layer=1, n_head=2, d_inner=32)
    )
    refused("has no linear layer called query or value .*: name some of layer_1, layer_2",
            lambda: adapt(model, "lora"))  # fmt: skip
    model = GPT2ForSequenceClassification(GPT2Config(vocab_size=40, n_embd=16, n_layer=1, n_head=2))
    refused("has no linear layer .*: choose another method", lambda: adapt(model, "adapter"))
