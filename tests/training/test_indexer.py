"""An indexer learns where attention looks, is saved, and leaves the model as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from topk_lib import hard_topk
from topk_lib.attention import Indexer, KeptCache, attention_layers, choose_keys
from topk_lib.training.indexer import _divergence, fit_indexer


def tiny() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.4,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def test_it_learns_where_attention_looks(tmp_path: Path) -> None:
    model = tiny()
    before = {name: p.clone() for name, p in model.state_dict().items()}
    texts = torch.randint(32, (101, 24), generator=torch.Generator().manual_seed(0))
    indexer, losses = fit_indexer(model, texts[1:].tolist(), heads=8, head_width=8, learning_rate=2e-2)
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
    assert all(torch.equal(before[name], p) for name, p in model.state_dict().items())
    assert model.config._attn_implementation == "sdpa"
    untrained = Indexer.of(model, heads=8, head_width=8)
    assert _mass(model, indexer, texts) > 1.05 * _mass(model, untrained, texts)

    indexer.save(tmp_path / "indexer.safetensors")
    again = Indexer.load(tmp_path / "indexer.safetensors")
    assert again.sizes == indexer.sizes
    model.set_attn_implementation("sdpa")
    with torch.inference_mode(), choose_keys(model, 4, indexer=indexer):
        expected = model(texts[:1], use_cache=False).logits
    got = model(texts[:1], past_key_values=KeptCache(model, 4, "indexer", indexer=again)).logits
    torch.testing.assert_close(got, expected)


@torch.no_grad()
def _mass(model: LlamaForCausalLM, indexer: Indexer, texts: torch.Tensor) -> float:
    """The share of the later queries' attention that falls on 6 keys, in a text unseen."""
    found: list[float] = []

    def look(module: Any, _: Any, kwargs: dict[str, Any], output: Any) -> None:
        told = indexer(module.layer_idx, kwargs["hidden_states"], kwargs["position_embeddings"]).scores()
        seen = torch.ones(24, 24).tril().bool()[12:]
        mask = hard_topk(told[0, 12:], 6, valid=seen).mask
        found.append(float((output[1].mean(1)[0, 12:] * mask).sum(-1).mean()))

    model.set_attn_implementation("eager")
    hooks = [part.register_forward_hook(look, with_kwargs=True) for part in attention_layers(model)]
    model(texts[:1])
    for hook in hooks:
        hook.remove()
    model.set_attn_implementation("sdpa")
    return sum(found) / len(found)


def test_the_divergence_is_that_of_kullback_and_leibler() -> None:
    scores = torch.randn(2, 5, 5, dtype=torch.float64)
    weights = torch.rand(2, 5, 5, dtype=torch.float64).tril()
    weights = weights / weights.sum(-1, keepdim=True)
    expected = 0.0
    for b in range(2):
        for t in range(5):
            p, q = weights[b, t, : t + 1], scores[b, t, : t + 1].softmax(-1)
            expected += float((p * (p / q).log()).sum()) / 10
    assert float(_divergence(scores, weights)) == pytest.approx(expected)
    assert float(_divergence(weights.log(), weights)) == pytest.approx(0)


def test_bad_input_is_said_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 2 tokens"):
        fit_indexer(tiny(), [[1]])
    with pytest.raises(ValueError, match="even"):
        Indexer(1, 8, head_width=3)
    with pytest.raises(ValueError, match="at most attention's own, 8, got 16"):
        fit_indexer(tiny(), [[1, 2, 3]], head_width=16)
    (tmp_path / "none.safetensors").write_bytes(b"nothing")
    with pytest.raises(OSError, match=r"holds no indexer that can be read .* Indexer\.save"):
        Indexer.load(tmp_path / "none.safetensors")
    model = tiny()
    with choose_keys(model, 4, indexer=Indexer.of(model, head_width=8)):
        past = model(torch.ones(1, 3).long()).past_key_values
        with pytest.raises(ValueError, match="saw 1 of 4 tokens"):
            model(torch.ones(1, 1).long(), past_key_values=past)
