"""The study of smaller vocabularies: its rows, and that an interruption loses none of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from topk_lib.data import load_pairs, load_reviews
from topk_lib.models import TopKForSequenceClassification
from topk_lib.selectors import ids_to_batch
from topk_lib.studies import vocabulary
from topk_lib.studies.imdb import options_of
from topk_lib.studies.vocabulary import vocabulary_study
from topk_lib.training import finetune, load_model

FEW: dict[str, Any] = {"ks": (3000, 500), "n_train": 40, "n_fit": 20, "n_test": 16, "k": 16}


@pytest.fixture
def folder(tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TOPK_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("TOPK_IMDB", "embedded")
    monkeypatch.chdir(tmp_path)
    reviews = load_reviews("embedded", n=8, quiet=True)
    model, tokenizer = TopKForSequenceClassification.from_encoder(tiny_encoder, "linear", 32)
    model.selector.fit(tokenizer(list(reviews["text"]))["input_ids"], list(reviews["label"]))
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_row_a_vocabulary(folder: Path) -> None:
    rows = vocabulary_study(folder, **FEW).metrics["rows"]
    assert list(rows) == ["whole", *(f"{rule}-{k}" for rule in ("frequency", "linear") for k in (3000, 500))]
    whole = rows["whole"]
    assert whole["coverage"] == 1
    for name, row in rows.items():
        types = 30_522 if name == "whole" else int(name.split("-")[1])
        assert row["embedding"] == 16 * types
        assert whole["parameters"] - row["parameters"] == 16 * (30_522 - types)
        assert whole["bytes"] - row["bytes"] == 4 * 16 * (30_522 - types)
        assert row["accuracy_low"] <= row["accuracy"] <= row["accuracy_high"]
        assert row["mean_tokens"] >= whole["mean_tokens"]
        assert 0 <= row["unknown"] < 0.01
    for rule in ("frequency", "linear"):
        small, large = rows[f"{rule}-500"], rows[f"{rule}-3000"]
        assert small["coverage"] < large["coverage"]
        assert small["mean_tokens"] > large["mean_tokens"]
    assert rows["frequency-500"]["coverage"] > rows["linear-500"]["coverage"]


def test_rows_are_measured_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[int] = []
    stop_after = [2]

    def measure(encoder: Any, *_: Any) -> dict[str, Any]:
        if len(measured) == stop_after[0]:
            raise KeyboardInterrupt
        measured.append(encoder.config.vocab_size)
        return {"accuracy": 0.5}

    monkeypatch.setattr(vocabulary, "_measure", measure)
    with pytest.raises(KeyboardInterrupt):
        vocabulary_study(folder, **FEW)
    stop_after[0] = 99
    vocabulary_study(folder, **FEW)
    assert measured == [30_522, 3000, 500, 3000, 500]
    vocabulary_study(folder, **FEW)
    assert len(measured) == 5
    vocabulary_study(folder, **FEW | {"n_test": 12})  # other reviews: all anew
    assert len(measured) == 10


def test_types_and_weights_come_from_reviews_that_the_model_learned_from(
    folder: Path, tiny_encoder: Path
) -> None:
    options = options_of("linear-k128-s0", 24) | {"n_eval": 16, "precision": "fp32"}
    own = finetune("own", model=str(tiny_encoder), quiet=True, **options)
    made = vocabulary_study("own", **FEW | {"n_train": 24})
    assert made.data["train_fingerprint"] == own.data["train_fingerprint"]


def test_the_answers_are_those_of_the_model(folder: Path) -> None:
    """A model that reads every token, its vocabulary whole, answers as its plain encoder does."""
    model, tokenizer, _ = load_model(folder)
    ids = tokenizer(["A warm film.", "Dull. I left.", "Fine"] * 15)["input_ids"]
    answers = vocabulary._answers(model, ids)
    batch, mask = ids_to_batch(ids)
    expected = model.encoder(batch, attention_mask=mask).logits.argmax(-1)
    assert answers.tolist() == expected.tolist()


def test_a_cut_encoder_is_fine_tuned(
    folder: Path, tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {"linear-1000-s0", "frequency-5000-s2"} <= {one.name for one in vocabulary.runs(gpu=False)}
    few = {"model": str(tiny_encoder), "n_train": 24, "n_eval": 16, "k": 16, "precision": "fp32"}
    made = vocabulary.tuned_after("linear", 500, 1, **few)
    model, tokenizer, _ = load_model(Path("runs") / "study_vocabulary_tuned" / "linear-500-s1")
    assert model.get_input_embeddings().num_embeddings == len(tokenizer) == 500
    assert (made.metrics["embedding"], made.settings["types"], made.settings["rule"]) == (8000, 500, "linear")
    assert (made.settings["selector"], made.settings["seed"]) == ("linear", 1)
    assert str(tiny_encoder) not in str(made.settings)
    assert made.metrics["pairs"]["n"] == len(load_pairs()) // 2
    assert 0 < made.metrics["coverage"] < 1
