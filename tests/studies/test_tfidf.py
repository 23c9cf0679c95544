"""The parts of TF-IDF that the study takes out, on texts that a pencil can follow."""

from __future__ import annotations

import numpy as np
import pytest
from transformers import AutoTokenizer

from topk_lib.data import load_reviews
from topk_lib.models import load_encoder
from topk_lib.selectors import make_selector, select_tokens
from topk_lib.studies import tfidf
from topk_lib.studies.tfidf import VARIANTS, Texts, flat, kept

NONE = np.zeros(7, dtype=bool)


@pytest.fixture(scope="module")
def tokenizer() -> AutoTokenizer:
    return load_encoder()[1]


def test_flat_leaves_the_special_tokens_out() -> None:
    texts = flat([[101, 5, 6, 102], [101, 102], [101, 7, 102]])
    assert texts.ids.tolist() == [5, 6, 7]
    assert texts.text.tolist() == [0, 0, 2]
    assert texts.n == 3


def test_what_is_kept() -> None:
    texts = Texts(np.array([5, 6, 5, 7, 8, 8, 9]), np.array([0, 0, 0, 0, 1, 1, 1]), 2)
    score = np.array([3.0, 1, 3, 2, 4, 4, 4])
    assert kept(texts, score, 2, NONE).tolist() == [1, 0, 1, 0, 1, 1, 0]  # of equals the first
    assert kept(texts, score, 2, NONE, once=True).tolist() == [1, 0, 0, 1, 1, 0, 1]
    assert kept(texts, score, 2, texts.ids == 5).tolist() == [0, 1, 0, 1, 1, 1, 0]
    assert kept(texts, score, 3, texts.ids == 5, once=True).tolist() == [
        1,
        1,
        0,
        1,
        1,
        1,
        1,
    ]  # nothing else left


def test_the_plain_one_is_the_librarys(tokenizer: AutoTokenizer) -> None:
    reviews = load_reviews("embedded", split="train", n=60, quiet=True)
    ids = tokenizer(list(reviews["text"]))["input_ids"]
    texts, labels = flat(ids), np.asarray(reviews["label"])
    rules = tfidf.Fitted(texts, labels, tokenizer, 0)
    width = len(tokenizer)
    bare = [text[1:-1] for text in ids]
    for name in ("tfidf", "linear"):
        selector = make_selector(name, vocabulary=width)
        # idf and weights fitted on the texts without [CLS] and [SEP], which stand in every one
        expected = [i for text in select_tokens(selector.fit(bare, labels.tolist()), bare, 14) for i in text]
        assert texts.ids[rules.keep(texts, VARIANTS[name], 14)].tolist() == expected


def test_each_variant_keeps_what_its_name_says(tokenizer: AutoTokenizer) -> None:
    reviews = load_reviews("embedded", split="train", n=60, quiet=True)
    texts = flat(tokenizer(list(reviews["text"]))["input_ids"])
    rules = tfidf.Fitted(texts, np.asarray(reviews["label"]), tokenizer, 0)
    looks = {name: rules.look(texts, rules.keep(texts, one, 14)) for name, one in VARIANTS.items()}
    assert looks["tfidf_no_copies"]["distinct"] == 1 > looks["tfidf"]["distinct"]
    assert looks["tfidf_no_common"]["common"] < 0.05 < looks["tfidf"]["common"]
    assert (
        looks["idf"]["rare"] >= looks["idf_squared"]["rare"] >= looks["tfidf"]["rare"] >= looks["tf"]["rare"]
    )
    assert looks["linear_no_copies"]["opinion"] == max(look["opinion"] for look in looks.values())
    assert 0 < looks["random"]["middle_types"] < 14


def test_bands_share_out_all_tokens_and_all_opinion(tokenizer: AutoTokenizer) -> None:
    reviews = load_reviews("embedded", split="train", n=60, quiet=True)
    texts = flat(tokenizer(list(reviews["text"]))["input_ids"])
    rules = tfidf.Fitted(texts, np.asarray(reviews["label"]), tokenizer, 0)
    bands = tfidf._bands(rules, texts, {"all": np.ones(len(texts.ids), dtype=bool)})
    for key in ("tokens", "opinion"):
        assert sum(band[key] for band in bands.values()) == pytest.approx(1)
    assert all(band["kept"]["all"] in (0, 1) for band in bands.values())
