"""Names, judged by hand, and the taggers that need no encoder."""

from __future__ import annotations

import sys

import pytest

from topk_lib.data import load_set
from topk_lib.tasks.entities import tag_names
from topk_lib.tasks.names import entity_scores, forms, lexicon_tags, linear_tags, spans

WORDS = [
    ["met", "Quintilla", "Brackwater", "in", "Tooting"],
    ["\u200d", "nothing", "here"],
    ["back", "in", "tooting", "again", "now"],
    ["Quintilla", "rules"],
]
TAGS = [
    ["O", "B-person", "I-person", "O", "B-location"],
    ["O", "O", "O"],
    ["O", "O", "B-location", "O", "O"],
    ["B-person", "O"],
]


def test_scores_by_hand() -> None:
    said = [
        ["O", "B-person", "I-person", "O", "B-person"],  # the place is taken for a person
        ["O", "O", "I-person"],  # a name may begin with "I-", and this one is none
        ["O", "O", "B-location", "O", "O"],
        ["B-person", "I-person"],  # too long
    ]
    found = entity_scores(WORDS, TAGS, said, seen={"tooting"})
    # right: Quintilla Brackwater, tooting; 4 names there, 5 said
    assert found["names"] == 4
    assert found["precision"] == pytest.approx(2 / 5)
    assert found["recall"] == pytest.approx(2 / 4)
    assert found["f1"] == pytest.approx(4 / 9)
    # strictly there are 4 said, and "I-person" alone is none
    assert found["f1_strict"] == pytest.approx(2 * 2 / (4 + 4))
    # without the two tootings: 2 there, 3 said, 1 right
    assert found["names_unseen"] == 2
    assert found["recall_unseen"] == pytest.approx(1 / 2)
    assert found["f1_unseen"] == pytest.approx(2 / 5)
    # different: 3 there, 5 said, 2 in both
    assert found["f1_surface"] == pytest.approx(4 / 8)
    assert found["kinds"] == {"person": pytest.approx(2 / 6), "location": pytest.approx(2 / 3)}
    assert entity_scores(WORDS, TAGS, TAGS)["f1"] == entity_scores(WORDS, TAGS, TAGS)["f1_surface"] == 1
    one = [["B-creative-work", "I-creative-work"]]
    assert entity_scores([["Two", "Rivers"]], one, one)["f1_strict"] == 1
    assert entity_scores([["Two", "Rivers"]], one, [["B-creative-work", "I-group"]])["f1_strict"] == 0
    nothing = [["O"] * len(words) for words in WORDS]
    assert entity_scores(WORDS, TAGS, nothing)["f1"] == 0
    assert entity_scores(WORDS, nothing, nothing)["names"] == 0
    with pytest.raises(ValueError, match="one tag a word"):
        entity_scores(WORDS, TAGS, nothing[:-1])
    with pytest.raises(ValueError, match="one tag a word"):
        entity_scores(WORDS, TAGS, [*nothing[:-1], ["O"]])


def test_spans_and_forms() -> None:
    assert spans(["I-a", "I-a", "B-a", "O", "I-b-c"]) == [("a", 0, 1), ("a", 2, 2), ("b-c", 4, 4)]
    assert forms(WORDS, TAGS) == {"quintilla brackwater", "tooting", "quintilla"}


def test_a_lexicon_knows_what_it_saw_and_takes_the_longest() -> None:
    others = [["QUINTILLA", "brackwater", "of", "Tooting", "and", "Delia"]]
    said = lexicon_tags(WORDS, TAGS, others)
    assert said == [["B-person", "I-person", "O", "B-location", "O", "O"]]
    truth = [["B-person", "I-person", "O", "B-location", "O", "B-person"]]
    scores = entity_scores(others, truth, said, forms(WORDS, TAGS))
    assert scores["recall"] == pytest.approx(2 / 3)
    assert scores["f1_unseen"] == 0
    assert lexicon_tags(WORDS, TAGS, [[]]) == [[]]


def test_a_linear_tagger_finds_names_it_never_saw() -> None:
    train = load_set("wnut_17", "embedded", quiet=True)
    test = load_set("wnut_17", "embedded", split="test", quiet=True)
    names = tag_names(train)
    (words, tags), (others, truth) = (
        (list(map(list, one["tokens"])), [[names[tag] for tag in row] for row in one["ner_tags"]])
        for one in (train, test)
    )
    said = linear_tags(words, tags, others)
    scores = entity_scores(others, truth, said, forms(words, tags))
    assert [len(row) for row in said] == [len(row) for row in others]
    assert scores["names_unseen"] == scores["names"]  # no name occurs in two splits
    assert scores["recall_unseen"] > 0.05
    assert linear_tags(words, tags, []) == []


def test_without_seqeval_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "seqeval.metrics", None)
    with pytest.raises(ImportError, match="pip install --use-pep517 seqeval"):
        spans(["O"])
