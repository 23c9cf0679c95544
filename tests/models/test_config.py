"""Names, kinds of answer and the folder of a model that selects, as a user of transformers meets them."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    pipeline,
)

from topk_lib.models import TopKConfig, TopKForSequenceClassification, load_encoder, probabilities
from topk_lib.models.loading import encoder_path
from topk_lib.training import attributions, explain

TEXT = "a good film"
LONG = " ".join(["good"] * 30)


def classifier(folder: Path, names: list[str], **options: Any) -> Path:
    """A random classifier of these classes in a folder."""
    tokenizer = AutoTokenizer.from_pretrained(encoder_path())
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, id2label=dict(enumerate(names)), label2id={n: i for i, n in enumerate(names)},
        **options,
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    torch.nn.init.normal_(model.classifier.weight, std=3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def agree(model: Any) -> bool:
    inner, outer = model.encoder.config, model.config
    fields = ("id2label", "label2id", "num_labels", "problem_type", "pad_token_id")
    return inner is outer.encoder and all(getattr(inner, f) == getattr(outer, f) for f in fields)


def answers(model: Any, tokenizer: Any, text: str = TEXT) -> dict[str, float]:
    classify = pipeline("text-classification", model=model.eval(), tokenizer=tokenizer)
    return {answer["label"]: answer["score"] for answer in classify(text, top_k=None)}


@pytest.mark.parametrize("names", [["POSITIVE", "NEGATIVE"], ["bad", "fair", "good"], ["stars"]])
def test_a_head_keeps_its_names_and_its_answers(names: list[str], tmp_path: Path) -> None:
    folder = classifier(tmp_path / "encoder", names)
    before = answers(*load_encoder(folder))
    model, tokenizer = TopKForSequenceClassification.from_encoder(folder, k=64)
    assert agree(model)
    assert list(model.config.id2label.values()) == names
    assert model.config.problem_type == ("regression" if len(names) == 1 else None)
    if len(names) > 1:
        assert answers(model, tokenizer) == pytest.approx(before, abs=1e-5)
    model.config.id2label = {i: name.upper() + "!" for i, name in enumerate(names)}
    assert agree(model)
    model.save_pretrained(tmp_path / "out")
    tokenizer.save_pretrained(tmp_path / "out")
    loaded, _ = load_encoder(tmp_path / "out")
    assert agree(loaded)
    assert list(loaded.config.label2id) == [name.upper() + "!" for name in names]
    found = explain(loaded.eval(), tokenizer, TEXT)
    assert found.scores == pytest.approx(answers(loaded, tokenizer), abs=1e-5)
    again, _ = TopKForSequenceClassification.from_encoder(tmp_path / "out", "head_tail", 64)
    assert again.config.id2label == loaded.config.id2label


def test_names_of_the_data(tmp_path: Path) -> None:
    folder = classifier(tmp_path, ["POSITIVE", "NEGATIVE"])
    own = answers(*load_encoder(folder))
    turned, tokenizer = load_encoder(folder, labels=["negative", "positive"])
    assert turned.config.id2label == {0: "negative", 1: "positive"}
    assert answers(turned, tokenizer) == pytest.approx({n.lower(): p for n, p in own.items()}, abs=1e-6)
    selecting, _ = TopKForSequenceClassification.from_encoder(folder, k=64, labels=["negative", "positive"])
    assert answers(selecting, tokenizer) == pytest.approx(answers(turned, tokenizer), abs=1e-5)
    selecting.save_pretrained(tmp_path / "topk")
    tokenizer.save_pretrained(tmp_path / "topk")
    back, _ = load_encoder(tmp_path / "topk", labels=["Positive", "Negative"])
    assert answers(back, tokenizer) == pytest.approx({n.title(): p for n, p in own.items()}, abs=1e-5)

    three, _ = load_encoder(folder, labels=["a", "b", "c"])
    assert three.classifier.weight.shape == (3, 16)
    assert 0 < float(three.classifier.weight.detach().std()) < 0.1  # drawn, and not what lay in memory
    one, _ = load_encoder(folder, labels=["stars"])
    assert one.config.problem_type == "regression"
    several, _ = load_encoder(folder, labels=["x", "y"], problem_type="multi_label_classification")
    assert several.config.problem_type == "multi_label_classification"
    with pytest.raises(ValueError, match="single_label_classification needs two labels or more"):
        load_encoder(folder, labels=["x"], problem_type="single_label_classification")


@pytest.mark.parametrize("names", [{0: "a", 2: "b"}, {"x": "a", "y": "b"}, {"0": "a", 0: "b"}, {None: "a"}])
def test_labels_are_numbered_without_a_gap(names: dict[Any, str]) -> None:
    with pytest.raises(ValueError, match="id2label must name the labels 0, 1, 2"):
        TopKConfig(id2label=names)
    with pytest.raises(ValueError, match="id2label must name the labels 0, 1, 2"):
        TopKConfig().id2label = names


@pytest.mark.parametrize("name", ["encoder", "selector", "k"])
def test_what_a_model_cannot_do_without_is_not_guessed(name: str, tmp_path: Path) -> None:
    TopKConfig(k=7).save_pretrained(tmp_path)
    assert TopKConfig.from_pretrained(tmp_path).k == 7
    fields = json.loads((tmp_path / "config.json").read_text())
    del fields[name]
    (tmp_path / "config.json").write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=f"config.json has no {name}:"):
        TopKConfig.from_pretrained(tmp_path)


def test_an_encoder_without_a_head_is_named_as_transformers_does() -> None:
    model, _ = load_encoder()
    assert model.config.id2label == {0: "LABEL_0", 1: "LABEL_1"}
    number, _ = load_encoder(problem_type="regression")
    assert number.config.id2label == {0: "LABEL_0"}


def test_options_of_the_head_at_load(tmp_path: Path) -> None:
    folder = classifier(tmp_path / "encoder", ["a", "b"])
    TopKForSequenceClassification.from_encoder(folder, "gate", 8)[0].save_pretrained(tmp_path / "topk")
    load = AutoModelForSequenceClassification.from_pretrained
    ids = torch.tensor([[101, 2204, 102]])
    for size in (1, 4):
        model = load(tmp_path / "topk", num_labels=size, ignore_mismatched_sizes=True)
        assert agree(model)
        assert model(ids).logits.shape == (1, size)
        assert 0 < float(model.encoder.classifier.weight.detach().std()) < 0.1
        assert model.config.problem_type == ("regression" if size == 1 else None)
    names = {0: "p", 1: "q", 2: "r"}
    model = load(tmp_path / "topk", num_labels=3, id2label=names, ignore_mismatched_sizes=True)
    assert agree(model)
    assert (model.config.id2label, model.config.label2id) == (names, {"p": 0, "q": 1, "r": 2})
    model = load(tmp_path / "topk", problem_type="multi_label_classification")
    assert agree(model)
    loss = model(ids, labels=torch.tensor([[1.0, 0.0]])).loss
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        model(ids).logits, torch.tensor([[1.0, 0]])
    )
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize(
    ("names", "label", "problem"),
    [
        (["bad", "fair", "good"], lambda i: i % 3, "single_label_classification"),
        (["stars"], lambda i: float(i), "regression"),
        (["stars"], lambda i: i, "regression"),
        (["rude", "long"], lambda i: [float(i % 2), 1.0], "multi_label_classification"),
        (["rude", "long", "odd"], lambda i: [i % 2, 1, 0], "multi_label_classification"),
    ],
)
def test_ones_own_trainer(names: list[str], label: Any, problem: str, tmp_path: Path) -> None:
    """Metrics, checkpointed gradients, and a folder that pipelines read as the model was trained."""
    folder = classifier(tmp_path / "encoder", names)
    model, tokenizer = TopKForSequenceClassification.from_encoder(folder, "gate", 8)
    ids = [tokenizer("good film " * i)["input_ids"] for i in range(1, 7)]
    data = Dataset.from_dict({"input_ids": ids, "label": [label(i) for i in range(6)]})
    seen = []

    def metrics(found: Any) -> dict[str, float]:
        seen.append((found.predictions.shape, np.asarray(found.label_ids).shape[0]))
        return {"mean": float(found.predictions.mean())}

    options = {"gradient_checkpointing": True} if len(names) == 3 else {}
    arguments = TrainingArguments(
        str(tmp_path / "run"), report_to="none", use_cpu=True, disable_tqdm=True, num_train_epochs=1,
        per_device_train_batch_size=4, per_device_eval_batch_size=4, eval_strategy="epoch",
        label_smoothing_factor=0.1 if problem.startswith("single") else 0.0, save_strategy="no",
        logging_strategy="no", **options,
    )  # fmt: skip
    trainer = Trainer(
        model, arguments, DataCollatorWithPadding(tokenizer), data, data, compute_metrics=metrics,
        processing_class=tokenizer,
    )  # fmt: skip
    trainer.train()
    assert seen == [((6, len(names)), 6)]  # texts of other lengths in each batch
    trainer.save_model(str(tmp_path / "out"))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    if not problem.startswith("single"):  # with smoothed labels Trainer computes the loss, and says nothing
        assert config["problem_type"] == config["encoder"]["problem_type"] == problem
    loaded, tokenizer = load_encoder(tmp_path / "out")
    found = explain(loaded.eval(), tokenizer, TEXT)
    served = pipeline("text-classification", model=str(tmp_path / "out"), device="cpu")(TEXT, top_k=None)
    assert found.scores == pytest.approx({a["label"]: a["score"] for a in served}, abs=1e-5)
    (moved,) = attributions(loaded, [tokenizer(TEXT)["input_ids"]])
    assert float(moved.min()) > 0
    if problem == "regression":
        assert found.label == "stars"
        assert math.isnan(found.probability)
        assert found.answer == f"stars {found.scores['stars']:.4g}"
    elif problem == "single_label_classification":
        assert found.probability == max(found.scores.values())
        assert found.answer == f"{found.label} {found.probability:.1%}"


def test_several_labels_at_once_in_words(tmp_path: Path) -> None:
    folder = classifier(
        tmp_path, ["rude", "long", "odd"], problem_type="multi_label_classification", classifier_dropout=0.0
    )
    model, tokenizer = TopKForSequenceClassification.from_encoder(folder, k=8)
    head = model.eval().encoder.classifier
    torch.nn.init.zeros_(head.weight)
    for bias, label, answer in (
        ([3.0, -3.0, 1.0], "rude, odd", "rude 95.3%, odd 73.1%"),
        ([-3.0, 3.0, -1.0], "long", "long 95.3%"),
        ([-3.0, -3.0, -1.0], "none", "none"),
    ):
        head.bias.data = torch.tensor(bias)
        found = explain(model, tokenizer, TEXT)
        assert (found.label, found.answer) == (label, answer)
        assert found.probability == pytest.approx(float(torch.tensor(max(bias)).sigmoid()))


def test_what_logits_say() -> None:
    logits = torch.tensor([[2.0, -1.0]], dtype=torch.bfloat16)
    config = TopKConfig()
    torch.testing.assert_close(probabilities(logits, config).sum(), torch.tensor(1.0))
    config.problem_type = "multi_label_classification"
    torch.testing.assert_close(probabilities(logits, config), logits.float().sigmoid())
    config.problem_type = "regression"
    torch.testing.assert_close(probabilities(logits, config), logits.float())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"k": "8"}, "k must be a whole number, got '8'"),
        ({"k": [8]}, r"k must be a whole number, got \[8\]"),
        ({"selector": ["first"]}, "selector must be a dict with a name"),
        ({"selector": {"name": "first", "depth": 2}}, "the first selector: .*'depth'"),
        ({"selector": {"name": "linear", "seed": "0"}}, "seed must be a whole number, got '0'"),
        ({"selector": {"name": "new"}}, "unknown selector 'new'"),
        ({"encoder": [1]}, r"encoder must be a dict with a model_type, got \[1\]"),
        ({"encoder": {"hidden_size": 16}}, "encoder must be a dict with a model_type"),
        ({"special_ids": 101}, "special_ids must be a list of token ids, got 101"),
        ({"keep_after": [1]}, "keep_after must map layers to numbers of tokens"),
        ({"max_length": "8"}, "max_length must be a whole number, got '8'"),
        ({"share": "half"}, "share must be a number, got 'half'"),
        ({"id2label": ["a", "b"]}, "id2label must map numbers to names"),
        ({"link": "tanh"}, "link must be one of sigmoid"),
        ({"problem_type": "ranking"}, "problem_type must be one of single_label"),
    ],
)
def test_fields_of_the_wrong_type(fields: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        TopKConfig(**fields)


def test_a_folder_says_how_to_load_it_and_does(tmp_path: Path) -> None:
    """In a new process, where nothing of ours is imported."""
    folder = tmp_path / "topk"
    model, tokenizer = TopKForSequenceClassification.from_encoder(
        classifier(tmp_path / "encoder", ["bad", "good"]), "head_tail", 8, max_length=16
    )
    folder.mkdir()
    (folder / "topk_model.py").write_text("old")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    card = (folder / "README.md").read_text()
    for word in ("import topk_lib.models", "trust_remote_code=True", "8 tokens", "first 16", "`bad`, `good`"):
        assert word in card
    expected = answers(model, tokenizer, LONG)
    script = (
        "import json, sys; from transformers import pipeline\n"
        "classify = pipeline('text-classification', model=sys.argv[1], trust_remote_code=True)\n"
        "print(json.dumps(classify(sys.argv[2], top_k=None)))\n"
        "classify.model.save_pretrained(sys.argv[1] + '/again')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder), LONG], capture_output=True, text=True, check=True,
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": os.getcwd(), "HF_HOME": str(tmp_path / "home")},
    )  # fmt: skip
    found = {answer["label"]: answer["score"] for answer in json.loads(done.stdout)}
    assert found == pytest.approx(expected, abs=1e-5)
    assert {p.name for p in (folder / "again").iterdir()} == {
        "README.md", "config.json", "model.safetensors", "topk_model.py",
    }  # fmt: skip
    (folder / "README.md").write_text("mine")
    model.save_pretrained(folder)
    assert (folder / "README.md").read_text() == "mine"


def test_an_encoder_that_reads_any_length() -> None:
    encoder = {"model_type": "xlnet", "vocab_size": 30, "d_model": 8, "n_layer": 1, "n_head": 2, "d_inner": 8}
    model = TopKForSequenceClassification(TopKConfig(encoder, k=600)).eval()
    assert model(torch.tensor([[3, 4, 5]])).logits.shape == (1, 2)
