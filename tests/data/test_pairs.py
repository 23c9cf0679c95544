"""The rewritten reviews are what the corpus's README says: balanced, minimal, read by two."""

from __future__ import annotations

import json
from collections import Counter
from difflib import SequenceMatcher
from statistics import median

import pytest

from topk_lib.data import CORPUS_FILE, load_pairs, load_reviews, source_of
from topk_lib.data.pairs import PAIRS_FILE

CORPUS = [json.loads(line) for line in CORPUS_FILE.read_text(encoding="utf-8").splitlines()]
PAIRS = [json.loads(line) for line in PAIRS_FILE.read_text(encoding="utf-8").splitlines()]
EDITS = ("advice", "comparison", "concession", "ending", "expectation", "irony", "negation", "word")


def changed(original: str, rewritten: str) -> int:
    """Words put in, taken out or put in another's place."""
    before, after = original.split(), rewritten.split()
    steps = SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
    return sum(max(i2 - i1, j2 - j1) for kind, i1, i2, j1, j2 in steps if kind != "equal")


def test_form() -> None:
    for number, pair in enumerate(PAIRS, 1):
        assert list(pair) == [
            "id", "film", "split", "style", "edit", "original", "rewritten", "changed", "readings",
        ]  # fmt: skip
        assert pair["id"] == f"pair-{number:03d}"
        assert list(pair["original"]) == list(pair["rewritten"]) == ["text", "label"]
        text = pair["rewritten"]["text"]
        assert text == text.strip()
        assert "  " not in text


def test_the_readme_tells_their_number() -> None:
    readme = PAIRS_FILE.with_name("README.md").read_text(encoding="utf-8")
    assert f"`pairs.jsonl` holds {len(PAIRS)} of these reviews" in readme


def test_originals_stand_in_the_corpus_word_for_word() -> None:
    corpus = {row["text"]: row for row in CORPUS}
    for pair in PAIRS:
        row = corpus[pair["original"]["text"]]
        assert [pair[key] for key in ("film", "split", "style")] == [
            row[key] for key in ("film", "split", "style")
        ]
        assert pair["original"]["label"] == row["label"]


def test_size_and_balance() -> None:
    assert len(PAIRS) >= 200
    assert Counter(pair["original"]["label"] for pair in PAIRS) == {0: len(PAIRS) / 2, 1: len(PAIRS) / 2}
    assert {pair["style"] for pair in PAIRS} == {row["style"] for row in CORPUS}
    assert min(Counter(pair["split"] for pair in PAIRS).values()) >= 20
    assert median(len(pair["original"]["text"].split()) for pair in PAIRS) >= 40


def test_labels_are_opposite_and_both_readings_agree() -> None:
    for pair in PAIRS:
        assert pair["original"]["label"] == 1 - pair["rewritten"]["label"]
        assert pair["readings"] == [pair["rewritten"]["label"]] * 2, pair["id"]


def test_few_words_are_changed() -> None:
    for pair in PAIRS:
        assert 1 <= pair["changed"] <= 12, pair["id"]
        assert pair["changed"] == changed(pair["original"]["text"], pair["rewritten"]["text"]), pair["id"]
        assert pair["changed"] / len(pair["original"]["text"].split()) <= 0.3, pair["id"]
    assert median(pair["changed"] for pair in PAIRS) <= 6


def test_no_two_are_alike() -> None:
    texts = [pair[version]["text"] for pair in PAIRS for version in ("original", "rewritten")]
    assert len(set(texts)) == len(texts)
    assert not {pair["rewritten"]["text"] for pair in PAIRS} & {row["text"] for row in CORPUS}


@pytest.mark.parametrize("edit", EDITS)
def test_every_kind_of_edit_occurs_and_turns_both_ways(edit: str) -> None:
    labels = Counter(pair["original"]["label"] for pair in PAIRS if pair["edit"] == edit)
    assert labels.total() >= 15
    assert min(labels[0], labels[1]) >= 4


def test_there_are_no_other_kinds_of_edit() -> None:
    assert {pair["edit"] for pair in PAIRS} == set(EDITS)


def test_no_word_put_in_gives_the_label_away() -> None:
    """A reader of single new words can do little: hardly one is put in again and again for one verdict."""
    put_in: Counter[tuple[str, int]] = Counter()
    for pair in PAIRS:
        new = Counter(pair["rewritten"]["text"].lower().split())
        new -= Counter(pair["original"]["text"].lower().split())
        put_in.update((word.strip(".,:;!?"), pair["rewritten"]["label"]) for word in new)
    for (word, label), count in put_in.items():
        if count - put_in[word, 1 - label] > 0.06 * len(PAIRS):
            pytest.fail(f"{word!r} is put in {count} times for label {label}")


def test_load_pairs() -> None:
    data = load_pairs()
    assert data.column_names == ["pair", "text", "label", "rewritten", "edit"]
    assert len(data) == 2 * len(PAIRS)
    assert data["rewritten"] == [False, True] * len(PAIRS)
    assert data["pair"][0::2] == data["pair"][1::2] == [pair["id"] for pair in PAIRS]
    assert data["label"][0::2] == [pair["original"]["label"] for pair in PAIRS]
    assert data["label"][1::2] == [pair["rewritten"]["label"] for pair in PAIRS]
    assert data.features["label"].names == ["negative", "positive"]
    assert source_of(data) == "the embedded pairs"


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_load_pairs_of_a_split(split: str) -> None:
    data = load_pairs(split)
    assert 0 < len(data) < 2 * len(PAIRS)
    originals = {text for text, new in zip(data["text"], data["rewritten"], strict=True) if not new}
    assert originals < set(load_reviews("embedded", split=split, quiet=True)["text"])


def test_load_pairs_names_the_splits_there_are() -> None:
    with pytest.raises(ValueError, match="no split 'tset': choose one of dev, test, train, or None"):
        load_pairs("tset")
