"""The language model on board is a real one, and everything that models here can do works on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from topk_lib.data import load_reviews
from topk_lib.models import (
    TopKForSequenceClassification,
    export_onnx,
    load_language_model,
    select_vocabulary,
)
from topk_lib.selectors import TaughtSelector, ids_to_batch, selector_names
from topk_lib.selectors.corpus import count_tokens

pytestmark = pytest.mark.slow  # the first of them loads half a gigabyte

K = 16


@pytest.fixture(scope="module")
def reviews() -> tuple[list[str], list[int]]:
    data = load_reviews("embedded", split="train", n=24, quiet=True)
    return list(data["text"]), list(data["label"])


def after(model: Any, tokenizer: Any, text: str, n: int) -> str:
    inputs = tokenizer(text, return_tensors="pt")
    ids = model.generate(**inputs, max_new_tokens=n, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    return str(tokenizer.decode(ids))


@torch.inference_mode()
def test_it_knows_what_its_makers_taught_it(language_model: tuple[Any, Any]) -> None:
    model, tokenizer = language_model
    assert sum(p.numel() for p in model.parameters()) == 134_515_008
    assert after(model, tokenizer, "The capital of France is", 1) == " Paris"
    good, bad = tokenizer([" positive", " negative"])["input_ids"]

    def lean(review: str) -> float:
        text = f"Film review: {review}\nThe sentiment of this review is"
        logits = model(**tokenizer(text, return_tensors="pt")).logits[0, -1]
        return float(logits[good[0]] - logits[bad[0]])

    assert lean("A wonderful film, I loved every minute.") > lean("A terrible film, I hated every minute.")


def test_its_chat_template(language_model: tuple[Any, Any]) -> None:
    tokenizer = language_model[1]
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert chat.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    assert tokenizer("<|im_end|>")["input_ids"] == [tokenizer.eos_token_id]


@torch.inference_mode()
def test_a_part_of_its_vocabulary(
    language_model: tuple[Any, Any], reviews: tuple[list[str], list[int]], tmp_path: Path
) -> None:
    """A sixth of the types says the same of texts that it can spell, also when saved and loaded."""
    model, tokenizer = language_model
    start = "This film is good, and it is not bad. It was a"
    said = after(model, tokenizer, start, 5)
    ids = tokenizer([*reviews[0], start + said])["input_ids"]
    counts = torch.from_numpy(np.asarray(count_tokens(ids, len(tokenizer)).sum(axis=0)).ravel())
    result = select_vocabulary(model, tokenizer, counts, 8192)
    assert (len(result.tokenizer), result.model.config.vocab_size) == (8192, 8192)
    assert result.before.parameters - result.after.parameters == (49_152 - 8192) * 576
    assert result.before.bytes - result.after.bytes == (49_152 - 8192) * 576 * 4
    text = min(reviews[0], key=len)
    old = tokenizer(text, return_tensors="pt")["input_ids"]
    new = result.tokenizer(text, return_tensors="pt")["input_ids"]
    assert torch.equal(result.kept[new], old)
    expected = model(old).logits[..., result.kept]
    torch.testing.assert_close(result.model(new).logits, expected, rtol=1e-4, atol=1e-4)
    assert after(result.model, result.tokenizer, start, 5) == said
    result.model.save_pretrained(tmp_path)
    result.tokenizer.save_pretrained(tmp_path)
    loaded, spelling = load_language_model(tmp_path)
    assert torch.equal(loaded(new).logits, result.model(new).logits)
    assert spelling("电影 <|im_end|> 12")["input_ids"] == result.tokenizer("电影 <|im_end|> 12")["input_ids"]
    assert spelling.decode(spelling("电影 🎬 12")["input_ids"]) == "电影 🎬 12"


def built(folder: Path | str, selector: str, reviews: tuple[list[str], list[int]]) -> tuple[Any, Any, Any]:
    torch.manual_seed(0)
    model, tokenizer = TopKForSequenceClassification.from_encoder(folder, selector, K)
    ids = tokenizer(reviews[0])["input_ids"]
    if isinstance(model.selector, TaughtSelector):
        model.selector.teach(ids, [torch.arange(len(i)).float() for i in ids], epochs=1)
    else:
        model.selector.fit(ids, reviews[1])
    return model.eval(), tokenizer, ids_to_batch([*ids[:3], []], tokenizer.pad_token_id)


@pytest.mark.parametrize("selector", selector_names())
def test_every_selector_before_it(
    selector: str, cut_language_model: Path, reviews: tuple[list[str], list[int]], tmp_path: Path
) -> None:
    """It reads k tokens and no more, answers as on those alone, learns, and is saved whole."""
    model, _, (ids, mask) = built(cut_language_model, selector, reviews)
    assert type(model.encoder).__name__ == "LlamaForSequenceClassification"
    with torch.inference_mode():
        output = model(ids, mask)
        for row, kept in enumerate(output.kept[:3]):
            alone = model.encoder(input_ids=ids[row, kept][None]).logits[0]
            torch.testing.assert_close(output.logits[row], alone, rtol=1e-4, atol=1e-4)
    assert output.kept.shape == (4, K)
    assert output.kept[3].eq(-1).all()  # a text without a token
    assert output.logits.isfinite().all()
    model.train()
    model(ids[:3], mask[:3], labels=torch.tensor([0, 1, 1])).loss.backward()
    assert model.get_input_embeddings().weight.grad.abs().sum() > 0
    if model.selector.trainable:
        learned = [p.grad for p in model.selector.parameters()]
        assert all(grad is not None and grad.isfinite().all() for grad in learned)
        assert any(grad.abs().sum() > 0 for grad in learned)
        reading = model.select(ids[:3], mask[:3])  # all of a token's presence is the token
        there = model.read(reading, presence=torch.ones(reading.input_ids.shape)).logits
        torch.testing.assert_close(there, model.read(reading._replace(weights=None)).logits)
    model.eval().save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    with torch.inference_mode():  # a history has grown meanwhile
        assert torch.equal(again(ids, mask).logits, model(ids, mask).logits)


def test_as_onnx(cut_language_model: Path, reviews: tuple[list[str], list[int]], tmp_path: Path) -> None:
    """Its tokenizer has no special tokens around a text: nothing is pinned in the graph either."""
    model, tokenizer, (ids, mask) = built(cut_language_model, "linear", reviews)
    assert model.config.special_ids == []
    path = export_onnx(model, tokenizer, tmp_path / "model.onnx")
    run = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for rows in ([0, 1, 2, 3], [1], [3, 0]):
        logits, kept = run.run(None, {"input_ids": ids[rows].numpy(), "attention_mask": mask[rows].numpy()})
        with torch.inference_mode():
            expected = model(ids[rows], mask[rows])
        np.testing.assert_array_equal(kept, expected.kept)
        assert np.isfinite(logits).all()  # of the empty text too, which says nothing
        told = mask[rows].any(-1).numpy()
        np.testing.assert_allclose(logits[told], expected.logits[told], atol=1e-4)
