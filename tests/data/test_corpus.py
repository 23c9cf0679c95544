"""The embedded corpus is what its README says: balanced, split by film, no two reviews alike."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict

import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import AutoModel, AutoTokenizer

from topk_lib.data import CORPUS_FILE
from topk_lib.models.loading import encoder_path

ROWS = [json.loads(line) for line in CORPUS_FILE.read_text(encoding="utf-8").splitlines()]


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9']+", text.lower())


def test_form() -> None:
    for row in ROWS:
        assert list(row) == ["film", "split", "label", "stars", "style", "text"]
        assert row["label"] == int(row["stars"] >= 7)
        assert row["stars"] in (1, 2, 3, 4, 7, 8, 9, 10)
        assert 25 <= len(words(row["text"])) <= 400, row["text"][:60]


def test_no_film_is_in_two_splits() -> None:
    splits: defaultdict[str, set[str]] = defaultdict(set)
    for row in ROWS:
        splits[row["film"]].add(row["split"])
    assert all(len(found) == 1 for found in splits.values())
    assert {row["split"] for row in ROWS} == {"train", "dev", "test"}


def test_every_film_is_praised_as_often_as_it_is_blamed() -> None:
    films: defaultdict[str, Counter[int]] = defaultdict(Counter)
    for row in ROWS:
        films[row["film"]][row["label"]] += 1
    for film, labels in films.items():
        assert labels[0] == labels[1], film


def test_no_two_reviews_share_six_words_in_a_row() -> None:
    seen: dict[tuple[str, ...], int] = {}
    for number, row in enumerate(ROWS):
        tokens = words(row["text"])
        for start in range(len(tokens) - 5):
            gram = tuple(tokens[start : start + 6])
            assert seen.setdefault(gram, number) == number, " ".join(gram)


@pytest.mark.parametrize("style", ["plain", "mixed", "negation", "irony", "plot_first"])
def test_every_style_occurs_with_both_labels(style: str) -> None:
    assert {row["label"] for row in ROWS if row["style"] == style} == {0, 1}


def test_size_and_lengths() -> None:
    lengths = [len(words(row["text"])) for row in ROWS]
    assert len(ROWS) >= 400
    assert min(lengths) < 35
    assert max(lengths) > 330


@pytest.mark.slow
def test_counting_words_does_not_solve_it_and_the_encoder_does_better() -> None:
    """On films never seen: words counted, against what the default encoder's layers hold."""
    texts, labels = [row["text"] for row in ROWS], np.array([row["label"] for row in ROWS])
    films = [row["film"] for row in ROWS]

    def accuracy(model: object, features: object) -> float:
        scores = cross_val_score(model, features, labels, groups=films, cv=GroupKFold(8))
        return float(np.mean(scores))

    counted = make_pipeline(TfidfVectorizer(sublinear_tf=True), LogisticRegression(C=10))
    tokenizer, encoder = (
        AutoTokenizer.from_pretrained(encoder_path()),
        AutoModel.from_pretrained(encoder_path()),
    )
    states = []
    with torch.inference_mode():
        for start in range(0, len(texts), 32):
            batch = tokenizer(texts[start : start + 32], padding=True, truncation=True, max_length=512,
                              return_tensors="pt")  # fmt: skip
            mask = batch["attention_mask"].unsqueeze(-1)
            layers = encoder.eval()(**batch, output_hidden_states=True).hidden_states
            states.append(torch.cat([(h * mask).sum(1) / mask.sum(1) for h in layers], -1))
    read = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
    by_counting, by_reading = accuracy(counted, texts), accuracy(read, torch.cat(states).numpy())
    assert by_counting < 0.8
    assert by_reading > by_counting + 0.03
