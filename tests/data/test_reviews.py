"""Loading reviews: the order of sources, what is checked, what is said."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pytest

from topk_lib.data import fingerprint, labels_of, load_reviews, reviews, source_of, train_and_eval

ROWS = [{"text": f"review {i}<br /><br />end", "label": i % 2} for i in range(20)]


DRAWN = ["fb85ff703795e5dd", "5abecaac76b015a2", "a66b6761b0c2151e"]


def folder_with(tmp_path: Path, rows: list[dict[str, Any]], split: str = "train") -> Path:
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str, **_: object) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(reviews, "load_dataset", refuse)


def test_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = load_reviews(folder_with(tmp_path / "mine", ROWS))
    assert isinstance(data, datasets.Dataset)
    assert data.column_names == ["text", "label"]
    assert data[0]["text"] == "review 0\nend"
    line = "20 reviews (10 labelled 0, 10 labelled 1) from the folder mine, split train\n"
    assert capsys.readouterr().out == line
    assert source_of(data) == "the folder mine"


def test_the_environment_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOPK_IMDB", str(folder_with(tmp_path / "mine", ROWS)))
    assert len(load_reviews(quiet=True)) == 20


def test_the_hub_is_asked_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def answer(name: str, *, split: str) -> datasets.Dataset:
        asked.append((name, split))
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(reviews, "load_dataset", answer)
    assert source_of(load_reviews(split="test", quiet=True)) == "the hub's stanfordnlp/imdb"
    assert asked == [("stanfordnlp/imdb", "test")]


@pytest.mark.usefixtures("no_hub")
def test_without_hub_the_embedded_corpus(capsys: pytest.CaptureFixture[str]) -> None:
    data = load_reviews()
    assert source_of(data) == "the embedded corpus"
    assert "from the embedded corpus" in capsys.readouterr().out


@pytest.mark.usefixtures("no_hub")
def test_a_named_hub_is_not_replaced() -> None:
    with pytest.raises(ConnectionError, match=r"cannot be reached \(ConnectionError\): check the net"):
        load_reviews("hub")


def test_draw_is_even_repeatable_and_seeded(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, ROWS)
    data = load_reviews(folder, n=8, seed=1, quiet=True)
    assert sorted(data["label"]) == [0] * 4 + [1] * 4
    assert fingerprint(data) == fingerprint(load_reviews(folder, n=8, seed=1, quiet=True))
    assert fingerprint(data) != fingerprint(load_reviews(folder, n=8, seed=2, quiet=True))
    assert len(load_reviews(folder, n=1000, quiet=True)) == 20


def test_short_texts_only() -> None:
    short = load_reviews("embedded", longest=200, quiet=True)
    whole = load_reviews("embedded", quiet=True)
    assert list(short["text"]) == [text for text in whole["text"] if len(text) <= 200]
    assert 0 < len(short) < len(whole)
    assert Counter(load_reviews("embedded", longest=200, n=8, quiet=True)["label"]) == {0: 4, 1: 4}
    with pytest.raises(ValueError, match="split train, has no text of at most 3 characters"):
        load_reviews("embedded", longest=3)


def test_draw_from_uneven_labels(tmp_path: Path) -> None:
    rows = [{"text": f"t{i}", "label": int(i < 2)} for i in range(20)]
    data = load_reviews(folder_with(tmp_path, rows), n=10, quiet=True)
    assert sorted(data["label"]) == [0] * 8 + [1] * 2


def test_dev_is_held_out_of_train(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, ROWS)
    train, dev = train_and_eval(folder, evaluate_on="dev", quiet=True)
    assert (len(train), len(dev)) == (16, 4)
    assert not set(train["text"]) & set(dev["text"])
    again = train_and_eval(folder, evaluate_on="dev", seed=5, quiet=True)[1]
    assert fingerprint(again) == fingerprint(dev)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"review": "x", "label": 1}], "has no column 'text' .it has review, label"),
        ([{"text": "x", "sentiment": 1}], "has no column 'label'"),
        ([{"text": "x", "label": 0}, {"text": "y", "label": -2}], "row 1: label -2 is no class"),
        ([{"text": "x", "label": 123456}], "label 123456 is no class .at most 10,000"),
        ([{"text": "x", "label": 1}, {"text": "y", "label": "pos"}], "row 1: label 'pos' is a name, where"),
        ([{"text": "x", "label": {}}], "label {} is no class"),
        ([{"text": None, "label": 0}, {"text": "a", "label": 1}], "row 0 is None, not a string"),
        ([{"text": 7, "label": 0}], "row 0 is 7, not a string"),
        ([{"text": "a", "label": 1}, {"text": "x \ud83d", "label": 1}], "row 1 holds half a character"),
        ([{"text": "x"}], "line 1, has no column 'label' .it has text"),
        (["x"], 'line 1 is no object: write {"text"'),
        ([{"text": "x", "label": 0.5}, {"text": "y", "label": float("inf")}], "row 1: the label inf is no"),
    ],
)
def test_bad_rows(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_reviews(folder_with(tmp_path, rows))


def test_empty_split(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text,label\n")
    with pytest.raises(ValueError, match="is empty: at least one review"):
        load_reviews(tmp_path)


def test_missing_things(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no folder .* with reviews: check the path"):
        load_reviews(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="holds no data file"):
        load_reviews(tmp_path)
    with pytest.raises(ValueError, match="no usable split 'test'"):
        load_reviews(folder_with(tmp_path, ROWS), split="test")
    with pytest.raises(ValueError, match="the embedded corpus has no split 'tset'"):
        load_reviews("embedded", split="tset")
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        load_reviews("embedded", n=0)
    with pytest.raises(ValueError, match='evaluate_on must be "test" or "dev"'):
        train_and_eval("embedded", evaluate_on="train")


@pytest.mark.parametrize("value", [None, "", -1, float("nan")])
def test_a_review_without_label(tmp_path: Path, value: object) -> None:
    rows = [{"text": "x", "label": value}]
    if value is not None and value != "":
        rows.insert(0, {"text": "y", "label": 1})
    with pytest.raises(ValueError, match=r"row \d: the review has no label .*choose a split with labels"):
        load_reviews(folder_with(tmp_path, rows))


def test_an_own_dev_split_is_taken_by_any_of_its_names(tmp_path: Path) -> None:
    for name in ("dev", "validation", "val", "valid-00000-of-00001"):
        folder = folder_with(tmp_path / name, ROWS)
        folder_with(folder, [{"text": "own", "label": 1}, {"text": "review 0", "label": 0}], name)
        train, dev = train_and_eval(folder, evaluate_on="dev", quiet=True)
        assert (len(train), list(dev["text"])) == (20, ["own", "review 0"])
        for split in ("dev", "validation", "valid", "val"):
            assert len(load_reviews(folder, split=split, quiet=True)) == 2


def test_copies_of_a_held_out_text_are_not_trained_on(tmp_path: Path) -> None:
    rows = [{"text": f"text {i % 40}", "label": i % 2} for i in range(400)]
    train, dev = train_and_eval(folder_with(tmp_path / "many", rows), evaluate_on="dev", quiet=True)
    assert (len(train), len(dev)) == (320, 8), "a fifth of the different texts"
    assert not set(train["text"]) & set(dev["text"])
    two = [{"text": ("bad", "good")[i % 2], "label": i % 2} for i in range(40)]
    with pytest.raises(ValueError, match="2 different texts among 40 training reviews: too few to hold out"):
        train_and_eval(folder_with(tmp_path / "two", two), evaluate_on="dev", quiet=True)
    with pytest.raises(ValueError, match="3 training reviews and no dev split"):
        train_and_eval(folder_with(tmp_path / "three", ROWS[:3]), evaluate_on="dev", quiet=True)


def test_draw_from_three_classes(tmp_path: Path) -> None:
    rows = [{"text": f"t{i}", "label": "abbccccccc"[i % 10]} for i in range(60)]
    drawn = load_reviews(folder_with(tmp_path, rows), n=29, quiet=True)
    assert sorted(drawn["label"]) == [0] * 6 + [1] * 12 + [2] * 11
    assert reviews._even(5, [9, 9]) == [3, 2]
    assert reviews._even(7, [9, 1, 9]) == [3, 1, 3]


def test_the_same_draws_as_ever() -> None:
    """Published results are of these reviews."""
    drawn = load_reviews("embedded", n=51, seed=3, quiet=True)
    train, dev = train_and_eval("embedded", evaluate_on="dev", quiet=True)
    assert [fingerprint(x) for x in (drawn, train, dev)] == DRAWN


def test_classes_of_train_are_those_of_test(tmp_path: Path) -> None:
    train = [{"text": f"t{i}", "label": ("ham", "spam", "eggs")[i % 3]} for i in range(6)]
    folder = folder_with(tmp_path, train)
    folder_with(folder, [{"text": "a", "label": "spam"}, {"text": "b", "label": "ham"}], "test")
    first, second = train_and_eval(folder, quiet=True)
    assert labels_of(first).names == labels_of(second).names == ("eggs", "ham", "spam")
    assert list(second["label"]) == [2, 1]
    assert source_of(second) == source_of(first)
    folder_with(folder, [{"text": "a", "label": "cheese"}], "test")
    with pytest.raises(ValueError, match=r"class 'cheese', which the training split lacks .known: eggs, ham"):
        train_and_eval(folder, quiet=True)
    folder_with(folder, [{"text": "a", "label": 0.5}], "test")
    with pytest.raises(
        ValueError, match="labels of the reviews are numbers, those of the training split class"
    ):
        train_and_eval(folder, quiet=True)
    folder_with(folder, [{"text": f"t{i}", "label": i % 2 + 1} for i in range(6)])
    folder_with(folder, [{"text": "a", "label": 0}, {"text": "b", "label": 1}], "test")
    with pytest.raises(ValueError, match=r"of the class '0', of which the training split has none"):
        train_and_eval(folder, quiet=True)
