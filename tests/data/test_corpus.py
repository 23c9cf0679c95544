"""The embedded corpus is what its README says: balanced, split by film, no two reviews alike."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict

import pytest

from topk_lib.data import CORPUS_FILE

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
