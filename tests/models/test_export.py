"""ONNX keeps what the model keeps, and says what the model says."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from tokenizers import Tokenizer

from topk_lib.data import load_reviews
from topk_lib.models import TopKForSequenceClassification, export_onnx
from topk_lib.selectors import ids_to_batch

K = 24
SHORT = ["", "Dull.", "Good good good good, bad bad bad bad.", "这部电影很好看 🎬"]


@pytest.fixture(scope="module")
def reviews() -> tuple[list[str], list[int]]:
    data = load_reviews("embedded", split="train", n=60, quiet=True)
    return list(data["text"]), list(data["label"])


def build(
    encoder: Path, reviews: tuple[list[str], list[int]], selector: str, **options: Any
) -> tuple[TopKForSequenceClassification, Any]:
    torch.manual_seed(0)
    model, tokenizer = TopKForSequenceClassification.from_encoder(encoder, selector, K, **options)
    model.selector.fit(tokenizer(reviews[0])["input_ids"], reviews[1])
    torch.nn.init.normal_(model.encoder.classifier.weight)  # logits as large as those of a trained model
    return model.eval(), tokenizer


def session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def feed(ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor | None = None) -> dict[str, Any]:
    types = torch.zeros_like(ids) if types is None else types
    return {"input_ids": ids.numpy(), "attention_mask": mask.numpy(), "token_type_ids": types.numpy()}


@pytest.mark.parametrize(
    ("selector", "options"),
    [
        ("first", {"max_length": 40}),
        ("linear", {"share": 0.3}),
        ("tfidf", {}),
        ("gate", {"positions": "original"}),
        ("head_tail", {}),
        ("random", {}),
    ],
)
def test_onnx_is_the_model(
    tiny_encoder: Path,
    reviews: tuple[list[str], list[int]],
    tmp_path: Path,
    selector: str,
    options: dict[str, Any],
) -> None:
    model, tokenizer = build(tiny_encoder, reviews, selector, **options)
    run = session(export_onnx(model, tokenizer, tmp_path / "new" / "model.onnx"))
    assert {i.name for i in run.get_inputs()} == {"input_ids", "attention_mask", "token_type_ids"}
    assert [i.shape for i in run.get_inputs()] == [["batch", "length"]] * 3
    assert [(o.name, o.shape) for o in run.get_outputs()] == [
        ("logits", ["batch", 2]),
        ("kept", ["batch", K]),
    ]
    ids = tokenizer([*SHORT, *reviews[0][:12]])["input_ids"]
    lengths = [len(i) for i in ids]
    assert min(lengths) < K < max(lengths)
    for rows in (range(len(ids)), range(4), [0], [1], [5], [15, 0]):
        inputs, mask = ids_to_batch([ids[i] for i in rows])
        types = (inputs % 2) * mask  # as of two texts, shuffled
        with torch.inference_mode():
            expected = model(inputs, mask, token_type_ids=types)
            assert (model(inputs, mask).logits - expected.logits).abs().max() > 1e-3
        logits, kept = run.run(None, feed(inputs, mask, types))
        spare = ((0, 0), (0, K - expected.kept.shape[1]))  # ONNX always has k slots
        np.testing.assert_array_equal(kept, np.pad(expected.kept.numpy(), spare, constant_values=-1))
        np.testing.assert_allclose(logits, expected.logits.numpy(), atol=1e-4)


def test_the_tokenizer_beside_it(
    tiny_encoder: Path, reviews: tuple[list[str], list[int]], tmp_path: Path
) -> None:
    """ONNX Runtime and tokenizers are all it takes; a text with no token at all is answered too."""
    model, tokenizer = build(tiny_encoder, reviews, "linear")
    path = export_onnx(model, tokenizer, tmp_path / "model.onnx", max_length=40)
    found = Tokenizer.from_file(str(tmp_path / "model.tokenizer.json")).encode_batch(reviews[0][:5])
    inputs = {
        "input_ids": np.array([f.ids for f in found]),
        "attention_mask": np.array([f.attention_mask for f in found]),
        "token_type_ids": np.array([f.type_ids for f in found]),
    }
    assert inputs["input_ids"].shape == (5, 40)
    logits, kept = session(path).run(None, inputs)
    with torch.inference_mode():
        expected = model(**{name: torch.from_numpy(x) for name, x in inputs.items()})
    np.testing.assert_array_equal(kept, expected.kept)
    np.testing.assert_allclose(logits, expected.logits, atol=1e-4)
    inputs["attention_mask"][1] = 0
    logits, kept = session(path).run(None, inputs)
    assert (kept[1] == -1).all()
    assert np.isfinite(logits).all()


def test_ties_and_infinities(
    tiny_encoder: Path, reviews: tuple[list[str], list[int]], tmp_path: Path
) -> None:
    """All tokens alike: the first win; a real score of -inf beats padding."""
    model, tokenizer = build(tiny_encoder, reviews, "linear")
    model.selector.table[:] = 0.0  # type: ignore[operator]
    model.selector.table[2000:4000] = -torch.inf  # type: ignore[operator]
    run = session(export_onnx(model, tokenizer, tmp_path / "model.onnx"))
    torch.manual_seed(0)
    inputs = torch.randint(1000, 5000, (16, 200))
    mask = (torch.rand(16, 200) < torch.linspace(0, 1, 16)[:, None]).long()  # holes of padding too
    with torch.inference_mode():
        expected = model.select(inputs, mask).chosen.indices
    kept = run.run(["kept"], feed(inputs, mask))[0]
    np.testing.assert_array_equal(kept, expected)


def test_what_cannot_be_exported(tiny_encoder: Path, tmp_path: Path) -> None:
    def export(**options: Any) -> None:
        model, tokenizer = TopKForSequenceClassification.from_encoder(tiny_encoder, k=K, **options)
        export_onnx(model, tokenizer, tmp_path / "model.onnx")

    with pytest.raises(ValueError, match='depends on its batch: ONNX export needs spend="text"'):
        export(spend="batch")
    with pytest.raises(ValueError, match="keep_after, which drops tokens inside the encoder, has no ONNX"):
        export(keep_after={0: 8})
    with pytest.raises(RuntimeError, match="the linear selector has not been fitted"):
        export(selector="linear")
    with pytest.raises(TypeError, match="must be a TopKForSequenceClassification, got Linear"):
        export_onnx(torch.nn.Linear(2, 2), None, tmp_path / "model.onnx")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_a_bad_target_is_refused_before_the_work(
    tiny_encoder: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    model, tokenizer = TopKForSequenceClassification.from_encoder(tiny_encoder, k=K)
    monkeypatch.setattr(torch.export, "export", None)  # it would be a TypeError
    (tmp_path / "file").write_text("")
    (tmp_path / "taken.tokenizer.json").mkdir()
    for target, why in (
        (tmp_path, "is a folder: name the file to write"),
        ("", "is a folder: name the file to write"),
        (tmp_path / "taken.onnx", "taken.tokenizer.json is a folder"),
        (tmp_path / "file" / "model.onnx", r"could not write .*/file/model.onnx \("),
    ):
        with pytest.raises(OSError, match=why):
            export_onnx(model, tokenizer, target)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "taken.tokenizer.json"]


def test_a_full_disk_leaves_the_old_files(tiny_encoder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    model, tokenizer = TopKForSequenceClassification.from_encoder(tiny_encoder, k=K)
    path = tmp_path / "model.onnx"
    path.write_text("old graph")
    path.with_suffix(".tokenizer.json").write_text("old tokenizer")

    def full(self: Any, target: Path, **_: Any) -> None:
        Path(target).write_bytes(b"half a graph")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch.onnx.ONNXProgram, "save", full)
    with pytest.raises(OSError, match=r"could not write .*model.onnx \(No space left on device\)"):
        export_onnx(model, tokenizer, path)
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {
        "model.onnx": "old graph",
        "model.tokenizer.json": "old tokenizer",
    }
