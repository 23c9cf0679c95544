"""A pretrained model whose layers become experts says what it said, and loads as any other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
)

from topk_lib.checks.prefix import prefix_test
from topk_lib.models import TopKForSequenceClassification
from topk_lib.routing import Routed, TokenChoice, routing_loss, routing_stats, upcycle
from topk_lib.routing.upcycling import _spots

SMALL: dict[str, Any] = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2,
                         "num_attention_heads": 2, "intermediate_size": 24, "pad_token_id": 0}  # fmt: skip
MODERN = SMALL | {"cls_token_id": 1, "bos_token_id": 1, "sep_token_id": 2, "eos_token_id": 2}
MODELS: dict[str, Any] = {
    "bert": lambda: BertForMaskedLM(BertConfig(**SMALL)),
    "modernbert": lambda: ModernBertForMaskedLM(ModernBertConfig(**MODERN)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SMALL)),
}
IDS = torch.randint(3, 40, (2, 9), generator=torch.Generator().manual_seed(0))
MASK = (torch.arange(9) < torch.tensor([[9], [5]])).long()


@pytest.mark.parametrize("family", MODELS)
def test_new_experts_are_spread_as_the_layer_was(family: str) -> None:
    torch.manual_seed(0)
    model = MODELS[family]()
    layer = next(_spots(model))
    stds = [layer.up[0].weight.std(), layer.down.weight.std()]
    upcycle(model, 3, start="fresh", causal="threshold" if family == "llama" else False)
    experts = next(part for part in model.modules() if isinstance(part, Routed)).experts
    for weight, std in zip((experts.up, experts.down), stds, strict=True):
        assert 0.8 < weight.std() / std < 1.25
    assert experts.up_bias is None or not experts.up_bias.any()


def made(name: str) -> Any:
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    for parameter in model.parameters():  # random weights as they are drawn say next to nothing
        if parameter.dim() == 2:
            nn.init.normal_(parameter, std=0.3)
    return model


@torch.no_grad()
def logits(model: Any, ids: Tensor = IDS, mask: Tensor = MASK) -> Tensor:
    found: Tensor = model(input_ids=ids, attention_mask=mask).logits
    return found[mask.bool()]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("bert", {}),
        ("bert", {"kind": "token_choice", "k": 1, "layers": [1]}),
        ("modernbert", {"capacity": 0.3, "over": "batch"}),
        ("modernbert", {"kind": "token_choice"}),
        ("llama", {"kind": "token_choice", "balance": "bias"}),
        ("llama", {"causal": "threshold"}),
    ],
)
def test_says_what_it_said_and_comes_back(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    model = made(name)
    before = logits(model)
    assert upcycle(model, 3, **options) is model
    torch.testing.assert_close(logits(model), before, rtol=1e-4, atol=1e-4)
    stats = routing_stats(model)
    assert len(stats) == len(options.get("layers", range(2)))
    assert all(s.tokens == 14 and s.unchosen == 0 for s in stats.values())
    for part in model.modules():
        if isinstance(part, Routed):
            assert part.given is None
            nn.init.normal_(part.experts.down, std=0.3)  # from here on the experts differ
            nn.init.normal_(part.router.weight)
    changed = logits(model)
    assert not torch.allclose(changed, before, atol=1e-2)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    assert type(again) is type(model)
    assert again.config.model_type == f"routed-{name}"
    assert torch.equal(logits(again), changed)


def test_auto_classes_and_who_has_not_imported_us(tmp_path: Path) -> None:
    model = upcycle(made("bert"), 3)
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(AutoModelForMaskedLM.from_pretrained(tmp_path).eval()), logits(model))
    program = (
        "from transformers import AutoModelForMaskedLM\n"
        f"try: AutoModelForMaskedLM.from_pretrained({str(tmp_path)!r})\n"
        "except ValueError as error: print(error)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=600)
    assert "routed-bert" in run.stdout, run.stderr


def test_inside_our_classifier(tiny_encoder: Path, tmp_path: Path) -> None:
    model, tokenizer = TopKForSequenceClassification.from_encoder(tiny_encoder, "first", k=8)
    batch = tokenizer(["a fine film indeed, and long", "bad"], padding=True, return_tensors="pt")
    with torch.no_grad():
        before = model.eval()(batch["input_ids"], batch["attention_mask"]).logits
        upcycle(model.encoder, 3)
        after = model(batch["input_ids"], batch["attention_mask"]).logits
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)
    model.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(again(batch["input_ids"], batch["attention_mask"]).logits, after)
    assert len(routing_stats(again)) == 2


def test_padding_is_known_and_checkpointing_knows_it_too() -> None:
    model = upcycle(made("bert"), 3, capacity=0.5, rest="pass", start="fresh", inner=10)
    alone = logits(model, IDS[1:, :5], MASK[1:, :5])
    torch.testing.assert_close(logits(model)[9:], alone, rtol=1e-4, atol=1e-4)
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0

    def gradient() -> Tensor:
        model.zero_grad()
        out = model(input_ids=IDS, attention_mask=MASK, labels=IDS)
        (out.loss + routing_loss(model)).backward()
        found: Tensor = model.bert.encoder.layer[0].intermediate.router.weight.grad.clone()
        return found

    expected = gradient()
    model.gradient_checkpointing_enable()
    torch.testing.assert_close(gradient(), expected)
    without = model(input_ids=IDS[:, :4]).logits  # the padding before is not taken for this
    assert torch.equal(
        without, model(input_ids=IDS[:, :4], attention_mask=torch.ones_like(IDS[:, :4])).logits
    )


def test_a_causal_model_does_not_look_ahead() -> None:
    for options in ({"kind": "token_choice"}, {"causal": "threshold"}, {"causal": "predictor"}):
        model = upcycle(made("llama"), 3, start="fresh", inner=8, **options)  # type: ignore[arg-type]
        seen = prefix_test(lambda ids, m=model: m(ids).logits, IDS[:1], types=40, shorter=True)  # type: ignore[misc]
        assert seen == (None, None, None)
        written = model.generate(IDS[:1, :3], max_new_tokens=3, do_sample=False)
        with torch.no_grad():  # with a cache, token after token, the same as without
            assert torch.equal(model(written).logits[0, 2:5].argmax(-1), written[0, 3:])
    with pytest.raises(ValueError, match="looks at later ones"):
        upcycle(made("llama"), 3)
    with pytest.raises(ValueError, match="a capacity looks ahead"):
        upcycle(made("llama"), 3, kind="token_choice", capacity=1.0)


def test_depths_in_a_layer() -> None:
    model = upcycle(made("llama"), kind="mixture_of_depths", start="fresh", layers=[1], share=0.5,
                    causal="threshold")  # fmt: skip
    assert isinstance(model.model.layers[1].mlp, Routed)
    assert not isinstance(model.model.layers[0].mlp, Routed)
    model.train()(input_ids=IDS, labels=IDS).loss.backward()
    assert next(iter(routing_stats(model).values())).load == [10]


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (
            lambda: upcycle(made("bert"), 3, kind="both"),
            ValueError,
            "kind must be one of expert_choice",
        ),
        (lambda: upcycle(made("bert"), 3, start="new"), ValueError, 'start must be "copy" or "fresh"'),
        (lambda: upcycle(made("bert"), kind="mixture_of_depths"), ValueError, 'choose start="fresh"'),
        (lambda: upcycle(made("bert"), 3, layers=[2]), ValueError, "layers must be at most 1, got 2"),
        (lambda: upcycle(made("bert"), 3, inner=5), ValueError, "a copy is as wide as the layer, 24"),
        (lambda: upcycle(made("bert"), cast(Any, 2.5)), TypeError, "experts must be a whole number"),
        (lambda: upcycle(upcycle(made("bert"), 2), 2), ValueError, "has experts already"),
        (lambda: upcycle(nn.Linear(2, 2), 2), ValueError, "no feed-forward layers that are known"),
        (
            lambda: upcycle(made("bert"), 2)(IDS, MASK[:, None]),
            ValueError,
            "give attention_mask as",
        ),
    ],
)
def test_bad_input_says_what_is_wrong(call: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        call()


def test_copies_hold_the_layer_and_a_refused_call_changes_nothing() -> None:
    model = made("modernbert")
    before, dense = logits(model), model.model.layers[0].mlp.Wi.weight.clone()
    with pytest.raises(ValueError, match="k must be at most 2"):
        upcycle(model, 2, kind="token_choice", k=3)
    assert torch.equal(logits(model), before)
    assert type(model) is ModernBertForMaskedLM
    layer = upcycle(model, 2, kind="token_choice").model.layers[0].mlp
    assert isinstance(layer, TokenChoice)
    for expert in layer.experts.up:
        assert torch.equal(expert, dense.T)


def test_a_classifier_of_bert() -> None:
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(**SMALL, num_labels=3)).eval()
    with torch.no_grad():
        before = model(IDS, MASK).logits
        torch.testing.assert_close(upcycle(model, 3)(IDS, MASK).logits, before)
        torch.testing.assert_close(model(inputs_embeds=model.bert.embeddings.word_embeddings(IDS),
                                         attention_mask=MASK).logits, before)  # fmt: skip
