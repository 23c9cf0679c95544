"""Loading reviews: the order of sources, what is checked, what is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from topk_lib.data import fingerprint, load_reviews, reviews, source_of, train_and_eval

ROWS = [{"text": f"review {i}<br /><br />end", "label": i % 2} for i in range(20)]


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
    line = "20 reviews (10 negative, 10 positive) from the folder mine, split train\n"
    assert capsys.readouterr().out == line
    assert source_of(data) == "the folder mine"


def test_the_environment_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOPK_IMDB", str(folder_with(tmp_path / "mine", ROWS)))
    assert len(load_reviews(quiet=True)) == 20


def test_the_hub_is_asked_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def answer(name: str, split: str) -> datasets.Dataset:
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
        ([{"text": "x", "label": 0}, {"text": "y", "label": 2}], "row 1: label 2 is not 0"),
        ([{"text": "x", "label": -1}], "row 0: label -1 is not 0"),
        ([{"text": "x", "label": "pos"}], "row 0: label 'pos' is not 0"),
        ([{"text": None, "label": 0}, {"text": "a", "label": 1}], "row 0: the text is None"),
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
