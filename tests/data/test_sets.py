"""Other sets: found where the docstring says, with their names; what cannot be read is said in a sentence."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, Features, Value

from topk_lib.data import CORPUS_FILE, EMBEDDED, SETS, labels_of, load_set, source_of


def put(folder: Path, split: str = "train", column: str = "text", label: str = "label") -> Path:
    """A set of 20 texts in two classes, as a parquet file in the hub's layout."""
    folder.mkdir(parents=True, exist_ok=True)
    features = Features({column: Value("string"), label: ClassLabel(names=["no", "yes"])})
    rows = {column: [f"{split} text {i}" for i in range(20)], label: [i % 2 for i in range(20)]}
    Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return folder


@pytest.fixture(autouse=True)
def no_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TOPK_DATA", raising=False)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))


LABELLED = [name for name, one in SETS.items() if not one.columns]
TASKS = [name for name, one in SETS.items() if one.columns]


@pytest.mark.parametrize("name", LABELLED)
def test_the_embedded_sets_are_what_they_should_be(name: str) -> None:
    rows = [json.loads(line) for line in (CORPUS_FILE.parent / f"{name}.jsonl").read_text().splitlines()]
    assert len(rows) >= 150
    assert len({row["text"].lower() for row in rows}) == len(rows)
    train, test = (Counter(row["label"] for row in rows if row["split"] == s) for s in ("train", "test"))
    assert set(train) == set(test)
    assert len(set(train.values())) == len(set(test.values())) == 1  # as many of each class
    loaded = load_set(name, "embedded", split="test", quiet=True)
    assert source_of(loaded) == EMBEDDED
    assert labels_of(loaded).names == tuple(sorted(train))
    assert len(loaded) == sum(test.values())


@pytest.mark.parametrize("below", ["banking77/default", "banking77"])
def test_the_folder_of_sets_is_looked_in_first(
    below: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path / below)
    put(tmp_path / below, "test")
    monkeypatch.setenv("TOPK_DATA", str(tmp_path))
    found = load_set("banking77", split="test", n=6)
    assert capsys.readouterr().out == "6 questions (3 no, 3 yes) from the folder banking77, split test\n"
    assert all(text.startswith("test text") for text in found["text"])
    assert load_set("banking77", tmp_path, split="test", n=6, quiet=True)["text"] == found["text"]


def test_a_set_of_one_split_is_cut_always_alike(tmp_path: Path) -> None:
    put(tmp_path, column="sentence")
    parts = [
        load_set("financial_phrasebank", tmp_path, split=s, quiet=True)["text"]
        for s in ("train", "test", "test")
    ]
    assert len(parts[0]) == 16
    assert parts[1] == parts[2]
    assert set(parts[0]).isdisjoint(parts[1])


def test_without_folder_and_hub_the_embedded_set_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object, **__: object) -> None:
        raise OSError("no route")

    monkeypatch.setattr("topk_lib.data.sets.load_dataset", away)
    monkeypatch.setattr("topk_lib.data.hub._answers", lambda _: False)
    assert source_of(load_set("clinc_oos", quiet=True)) == EMBEDDED
    with pytest.raises(ConnectionError, match=r"clinc/clinc_oos cannot be reached .*TOPK_DATA"):
        load_set("clinc_oos", "hub")


def test_the_hub_is_asked_for_its_own_copy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[object] = []
    data = Dataset.from_parquet(str(put(tmp_path) / "train-00000-of-00001.parquet"))

    def load(*args: object, **options: object) -> dict[str, Dataset]:
        asked.extend([*args, options])
        return {"train": data}

    monkeypatch.setattr("topk_lib.data.sets.load_dataset", load)
    monkeypatch.setattr("topk_lib.data.hub._answers", lambda _: True)
    assert len(load_set("banking77", quiet=True)) == 16
    assert asked == ["PolyAI/banking77", "default", {"revision": "refs/convert/parquet"}]


def test_film_reviews_are_a_set_too() -> None:
    assert source_of(load_set("imdb", "embedded", quiet=True)) == EMBEDDED


def test_what_cannot_be_loaded_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="no set 'sst2': choose one of imdb, banking77"):
        load_set("sst2")
    with pytest.raises(FileNotFoundError, match="no folder 'nowhere'"):
        load_set("banking77", "nowhere")
    with pytest.raises(ValueError, match="embedded banking77 has no split 'dev': choose one of test, train"):
        load_set("banking77", "embedded", split="validation")
    put(tmp_path / "a", label="class")
    with pytest.raises(ValueError, match=r"no column 'label' \(it has text, class\)"):
        load_set("banking77", tmp_path / "a")
    with pytest.raises(ValueError, match="no split 'dev': it has train"):
        load_set("banking77", put(tmp_path / "b"), split="dev")
    (tmp_path / "c").mkdir()
    with pytest.raises(ValueError, match="cannot be read as a data set"):
        load_set("banking77", tmp_path / "c")
    monkeypatch.setenv("TOPK_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"no folder 'clinc_oos' in .*TOPK_DATA"):
        load_set("clinc_oos")


@pytest.mark.parametrize("name", TASKS)
def test_the_sets_of_tasks_have_the_columns_of_the_hub(name: str) -> None:
    parts = {split: load_set(name, "embedded", split=split, quiet=True) for split in ("train", "dev", "test")}
    for data in parts.values():
        assert tuple(data.column_names) == SETS[name].columns
        assert source_of(data) == EMBEDDED
    assert sum(map(len, parts.values())) >= 150
    drawn = load_set(name, "embedded", n=5, seed=1, quiet=True)
    assert len(drawn) == 5
    assert drawn[0] in list(parts["train"])
    with pytest.raises(ValueError, match="n must be at least 1"):
        load_set(name, "embedded", n=0)


def test_tags_have_their_names_and_numbers() -> None:
    tags = load_set("wnut_17", "embedded", split="test", quiet=True).features["ner_tags"].feature
    assert tags.names[:3] == ["O", "B-corporation", "I-corporation"]
    assert len(tags.names) == 13


def paragraphs(folder: Path, language: str, copies: int = 3) -> None:
    rows = [
        {"id": f"{i}-{c}", "context": f"{language} {i}", "question": f"{c}?",
         "answers": {"text": ["x"], "answer_start": [0]}}
        for i in range(50) for c in range(copies)
    ]  # fmt: skip
    folder.mkdir(parents=True)
    Dataset.from_list(rows).to_parquet(folder / "validation-00000-of-00001.parquet")


def test_articles_stay_together_and_are_the_same_ones_in_every_language(tmp_path: Path) -> None:
    for language in ("en", "zh"):
        paragraphs(tmp_path / "xquad" / f"xquad.{language}", language)

    def ids(language: str, split: str) -> list[str]:
        return list(load_set("xquad", tmp_path, config=language, split=split, quiet=True)["id"])

    parts = {split: ids("en", split) for split in ("train", "dev", "test")}
    assert {split: len(part) for split, part in parts.items()} == {"train": 60, "dev": 15, "test": 75}
    assert len({one for part in parts.values() for one in part}) == 150
    whole = [{int(one.split("-")[0]) // 5 for one in part} for part in parts.values()]
    assert not whole[0] & whole[2] | whole[1] & whole[2] | whole[0] & whole[1]
    assert parts["test"] == ids("zh", "test")
    with pytest.raises(ValueError, match="no variant 'fr': choose one of en, zh, de"):
        load_set("xquad", tmp_path, config="fr")
    with pytest.raises(ValueError, match=r"nothing in xquad\.de"):
        load_set("xquad", "embedded", config="de")
    with pytest.raises(ValueError, match="it has none"):
        load_set("multi30k", "embedded", config="fr")
