"""The embedded sets of the applied chapters are what the corpus's README says: sizes, splits, spans, tags."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from typing import Any

from topk_lib.data import CORPUS_FILE


def rows_of(name: str) -> list[dict[str, Any]]:
    text = (CORPUS_FILE.parent / f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def assert_sizes(rows: list[dict[str, Any]], total: int, held_out: int) -> None:
    sizes = Counter(row["split"] for row in rows)
    assert set(sizes) == {"train", "dev", "test"}
    assert sum(sizes.values()) >= total
    assert min(sizes.values()) >= held_out


def assert_nothing_shared(texts: list[str], n: int) -> None:
    """No two texts have ``n`` words in a row in common."""
    seen: dict[tuple[str, ...], int] = {}
    for number, text in enumerate(texts):
        words = re.findall(r"[\w']+", text.lower())
        for start in range(len(words) - n + 1):
            gram = tuple(words[start : start + n])
            assert seen.setdefault(gram, number) == number, " ".join(gram)


def test_every_answer_stands_where_it_is_said_to() -> None:
    for row in rows_of("xquad"):
        assert list(row) == ["split", "config", "id", "context", "question", "answers"]
        assert len(row["answers"]["text"]) == len(row["answers"]["answer_start"]) == 1
        answer, start = row["answers"]["text"][0], row["answers"]["answer_start"][0]
        assert answer[0].isalnum()
        assert answer[-1].isalnum()
        assert row["context"][start : start + len(answer)] == answer
        assert row["question"].endswith("?" if row["config"] == "en" else "\uff1f")


def test_paragraphs_have_four_questions_each_and_stay_in_one_split() -> None:
    rows = rows_of("xquad")
    english = [row for row in rows if row["config"] == "en"]
    assert_sizes(english, 160, 32)
    contexts: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        contexts[row["context"]].append(row)
    for asked in contexts.values():
        assert len({row["question"] for row in asked}) == len(asked) == 4
        assert len({(row["split"], row["config"]) for row in asked}) == 1
    paragraphs = sorted({row["context"] for row in english})
    assert len(paragraphs) >= 40
    assert all(90 <= len(context.split()) <= 160 for context in paragraphs)
    assert_nothing_shared(paragraphs, 6)


def test_the_chinese_questions_are_those_of_the_same_names_in_english() -> None:
    english, chinese = (
        {row["id"]: row for row in rows_of("xquad") if row["config"] == c} for c in ("en", "zh")
    )
    assert len(english) + len(chinese) == len(rows_of("xquad"))
    assert len(chinese) >= 40
    for name, row in chinese.items():
        assert row["split"] == english[name]["split"]
        assert re.search("[一-鿿]", row["context"])
    assert {row["split"] for row in chinese.values()} == {"train", "dev", "test"}


def test_every_abstract_has_one_best_sentence_and_a_summary_of_its_own_words() -> None:
    rows = rows_of("scitldr")
    assert_sizes(rows, 150, 20)
    assert len({row["paper_id"] for row in rows}) == len(rows)
    for row in rows:
        assert list(row) == ["split", "paper_id", "source", "source_labels", "target"]
        assert 4 <= len(row["source"]) <= 8
        assert len(row["source_labels"]) == len(row["source"])
        assert sorted(set(row["source_labels"])) == [0, 1]
        assert sum(row["source_labels"]) == 1
        assert 1 <= len(row["target"]) <= 2
        for sentence in row["source"] + row["target"]:
            assert re.fullmatch(r"[A-Z\d].*[.?]", sentence), sentence
        assert not set(row["target"]) & set(row["source"])
    assert_nothing_shared([" ".join(row["source"]) for row in rows], 7)
    assert len({row["source_labels"].index(1) for row in rows}) >= 4  # no place is always the best


def names_of(row: dict[str, Any]) -> list[tuple[str, str]]:
    """The entities of a post, each with its type; fails where the tags are not well formed."""
    found: list[tuple[str, list[str]]] = []
    before = "O"
    for token, tag in zip(row["tokens"], row["ner_tags"], strict=True):
        if tag.startswith("I-"):
            assert before[2:] == tag[2:], row["id"]
            found[-1][1].append(token)
        elif tag != "O":
            assert tag.startswith("B-")
            found.append((tag[2:], [token]))
        before = tag
    return [(kind, " ".join(tokens).lower()) for kind, tokens in found]


def test_tags_are_well_formed_and_names_of_the_test_posts_are_unseen() -> None:
    rows = rows_of("wnut_17")
    assert_sizes(rows, 250, 40)
    assert len({row["id"] for row in rows}) == len({" ".join(row["tokens"]).lower() for row in rows})
    kinds: Counter[tuple[str, str]] = Counter()
    splits: defaultdict[str, set[str]] = defaultdict(set)
    for row in rows:
        assert list(row) == ["split", "id", "tokens", "ner_tags"]
        assert all(token and not re.search(r"\s", token) for token in row["tokens"])
        for kind, name in names_of(row):
            kinds[row["split"], kind] += 1
            splits[name].add(row["split"])
    six = {"person", "location", "corporation", "product", "creative-work", "group"}
    assert {kind for _, kind in kinds} == six
    assert all(kinds[split, kind] >= 5 for split in ("train", "dev", "test") for kind in six)
    assert all(len(found) == 1 for found in splits.values())
    assert sum(set(row["ner_tags"]) == {"O"} for row in rows) >= 30
    assert_nothing_shared([" ".join(row["tokens"]) for row in rows], 6)


def test_captions_are_pairs_of_unlike_sentences_whose_words_are_mostly_known() -> None:
    rows = rows_of("multi30k")
    assert_sizes(rows, 550, 50)
    for language in ("en", "de"):
        texts = [row[language] for row in rows]
        assert len({text.lower() for text in texts}) == len(texts)
        assert all(re.fullmatch(r"[A-ZÄÖÜ].*\w\.", text) for text in texts)
        assert_nothing_shared(texts, 7)
        known = {word for row in rows if row["split"] == "train" for word in row[language].split()}
        tested = [word for row in rows if row["split"] == "test" for word in row[language].split()]
        assert sum(word in known for word in tested) > 0.7 * len(tested)
    for row in rows:
        assert list(row) == ["split", "en", "de"]
        assert 0.5 < len(row["de"].split()) / len(row["en"].split()) < 1.5, row["en"]
    german = Counter(word for row in rows for word in row["de"].lower().split())
    assert not {"the", "and", "is", "with"} & set(german)
