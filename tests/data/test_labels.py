"""What labels are: names, numbers, lists; and whose order of classes counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from topk_lib.data import Labels, as_texts, labels_of, load_reviews, match_labels
from topk_lib.data.labels import CLASS, NUMBER, SEVERAL, read_labels, with_labels


@pytest.mark.parametrize(
    ("values", "names", "wanted", "known"),
    [
        ([1, 0], None, [1, 0], ("0", "1")),
        ([True, False], None, [1, 0], ("0", "1")),
        ([1.0, 0.0], None, [1, 0], ("0", "1")),
        (["1", "0"], None, [1, 0], ("0", "1")),
        ([0, 2], None, [0, 2], ("0", "1", "2")),
        ([5, 1], None, [5, 1], ("0", "1", "2", "3", "4", "5")),
        ([1, 1], None, [1, 1], ("0", "1")),
        (["spam", " ham ", "ham"], None, [1, 0, 0], ("ham", "spam")),
        (["007", "7"], None, [0, 1], ("007", "7")),
        (["True", "False"], None, [1, 0], ("False", "True")),
        (["positive", "negative"], None, [1, 0], ("negative", "positive")),
        (["pos", "neg"], None, [1, 0], ("negative", "positive")),
        (["Pos", "Neg"], None, [1, 0], ("negative", "positive")),
        ([0, 1], ["positive", "negative"], [1, 0], ("negative", "positive")),
        ([0, 1], ["neg", "pos"], [0, 1], ("negative", "positive")),
        ([0, 1], ["spam", "ham"], [0, 1], ("spam", "ham")),
        (["ham", "spam"], ["spam", "ham"], [1, 0], ("spam", "ham")),
        ([2, 0], ["a", "c", "b"], [2, 0], ("a", "c", "b")),
    ],
)
def test_classes(
    values: list[Any], names: list[str] | None, wanted: list[int], known: tuple[str, ...]
) -> None:
    assert read_labels(values, names, "here") == (wanted, Labels(CLASS, known))


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([0.5, 1.0], [0.5, 1.0]),
        ([1, 2.5], [1.0, 2.5]),
        (["3", "4.5", "-1e-1"], [3.0, 4.5, -0.1]),
        ([1.0, 2.0, 5.0], [1.0, 2.0, 5.0]),
    ],
)
def test_numbers(values: list[Any], wanted: list[float]) -> None:
    assert read_labels(values, None, "here") == (wanted, Labels(NUMBER, ("score",)))


@pytest.mark.parametrize(
    ("values", "names", "wanted", "known"),
    [
        ([[1, 0, 0], [0, 1, 1], [0, 0, 0]], None, [[0], [1, 2], []], ("0", "1", "2")),
        ([[1.0, 0.0], [1.0, 1.0]], ["a", "b"], [[0], [0, 1]], ("a", "b")),
        ([[2, 0], []], None, [[0, 2], []], ("0", "1", "2")),
        ([[0], [1]], None, [[0], [1]], ("0", "1")),
        ([["rude"], ["rude", "loud", "rude"], []], None, [[1], [0, 1], []], ("loud", "rude")),
        ([[1, 0], [0, 1]], ["a", "b", "c"], [[0, 1], [0, 1]], ("a", "b", "c")),
        (["[0, 2]", "[1]"], None, [[0, 2], [1]], ("0", "1", "2")),
    ],
)
def test_several_at_once(
    values: list[Any], names: list[str] | None, wanted: list[Any], known: tuple[str, ...]
) -> None:
    assert read_labels(values, names, "here") == (wanted, Labels(SEVERAL, known))


@pytest.mark.parametrize("word", ["nan", "NaN", "NA", "null", "None"])
def test_a_number_that_is_missing(word: str) -> None:
    for numbers in (["0.5", "2"], ["0", "1"]):
        with pytest.raises(ValueError, match="here, row 2: the review has no label"):
            read_labels([*numbers, word], None, "here")
    assert read_labels([word, "good"], None, "here")[1].names == tuple(sorted([word, "good"]))


def test_bad_labels() -> None:
    with pytest.raises(ValueError, match="row 1: the label -inf is no number"):
        read_labels(["0.5", "-inf"], None, "here")
    with pytest.raises(ValueError, match=r"here, row 1: label 2 is no class .the classes are a, b"):
        read_labels([0, 2], ["a", "b"], "here")
    with pytest.raises(ValueError, match=r"row 0: label 'c' is no class .they are a, b"):
        read_labels(["c"], ["a", "b"], "here")
    with pytest.raises(
        ValueError, match="row 1: label 1 is a number, where the rows before have names: label all alike"
    ):
        read_labels(["a", 1], None, "here")
    with pytest.raises(ValueError, match="row 1: label -1 is no class"):
        read_labels([[0], [1, -1]], None, "here")
    with pytest.raises(ValueError, match="here, the name of class 1 holds half a character"):
        read_labels(["a", "\ud800"], None, "here")
    with pytest.raises(ValueError, match="two classes have one name"):
        read_labels([0, 1], ["a", "a"], "here")


@pytest.mark.parametrize(
    ("feature", "values", "labels"),
    [
        (ClassLabel(names=["positive", "negative"]), [0, 1], Labels(CLASS, ("negative", "positive"))),
        (ClassLabel(names=["b", "a", "c"]), [0, 1], Labels(CLASS, ("b", "a", "c"))),
        (List(ClassLabel(names=["b", "a"])), [[0, 1], []], Labels(SEVERAL, ("b", "a"))),
        (Value("float32"), [0.5, 2.0], Labels(NUMBER, ("score",))),
    ],
)
def test_a_file_knows_its_classes(tmp_path: Path, feature: Any, values: list[Any], labels: Labels) -> None:
    features = Features({"text": Value("string"), "label": feature})
    Dataset.from_dict({"text": ["x", "y"], "label": values}, features=features).to_parquet(
        tmp_path / "train.parquet"
    )
    data = load_reviews(tmp_path, quiet=True)
    assert labels_of(data) == labels
    if labels.names == ("negative", "positive"):
        assert list(data["label"]) == [1, 0]


def test_names_of_film_reviews(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert labels_of(load_reviews("embedded", quiet=True)).names == ("negative", "positive")
    for name in ("imdb", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.jsonl").write_text('{"text": "x", "label": 1}\n')
    assert labels_of(load_reviews(tmp_path / "imdb", quiet=True)).names == ("negative", "positive")
    assert labels_of(load_reviews(tmp_path / "other", quiet=True)).names == ("0", "1")
    monkeypatch.setenv("TOPK_IMDB", str(tmp_path / "other"))
    assert labels_of(load_reviews(quiet=True)).names == ("negative", "positive")


def test_what_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for values, told in (
        (["b", "a", "a"], "2 a, 1 b"),
        ([0, 2, 2], "1 labelled 0, 0 labelled 1, 2 labelled 2"),
        ([0, 6, 6], "7 classes"),
        ([0.5, 3, 1], "labels from 0.5 to 3"),
        ([[0], [], [1]], "2 labels, several at once"),
    ):
        rows = [{"text": "x", "label": value} for value in values]
        (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        load_reviews(tmp_path)
        assert f"3 reviews ({told}) from" in capsys.readouterr().out


def test_matching() -> None:
    def match(values: list[Any], own: Labels, wanted: Labels) -> list[Any]:
        return list(match_labels(with_labels(["t"] * len(values), values, own), wanted, "the model")["label"])

    named, numbered = Labels(CLASS, ("a", "b", "c")), Labels(CLASS, ("0", "1", "2"))
    assert match([0, 1], Labels(CLASS, ("c", "a")), named) == [2, 0]
    assert match([0, 2], numbered, named) == [0, 2]
    assert match([0, 1], Labels(CLASS, ("c", "a")), numbered) == [0, 1]
    assert match([0, 1], numbered, Labels(CLASS, ("LABEL_0", "LABEL_1"))) == [0, 1]
    assert match([1], numbered, Labels(CLASS, ("2", "1", "0"))) == [1]
    assert match([0, 2], numbered, Labels(NUMBER, ("score",))) == [0.0, 2.0]
    assert match([[1, 0]], Labels(SEVERAL, ("b", "c")), Labels(SEVERAL, ("a", "b", "c"))) == [[1, 2]]
    with pytest.raises(ValueError, match=r"the class '2', which the model lacks .known: x, y"):
        match([0, 2], numbered, Labels(CLASS, ("x", "y")))
    with pytest.raises(ValueError, match=r"the class 'd', which the model lacks .known: a, b, c"):
        match([0], Labels(CLASS, ("d", "a")), named)
    with pytest.raises(ValueError, match="several at once, those of the model classes"):
        match([[0]], Labels(SEVERAL, ("a",)), named)


def test_labels_of_any_dataset() -> None:
    assert labels_of(Dataset.from_dict({"text": ["a"], "label": [2]})).names == ("0", "1", "2")
    with pytest.raises(ValueError, match="load the set with load_reviews"):
        labels_of(Dataset.from_dict({"text": ["a"], "label": ["x"]}))


def test_texts_of_any_container() -> None:
    column = Dataset.from_dict({"text": ["a", "b"]})["text"]
    two = ["a", "b"]
    for given in (two, tuple(two), np.array(two), pd.Series(two, index=[5, 6]), iter("ab"), column):
        found = as_texts(given)
        assert found == ["a", "b"]
        assert all(type(text) is str for text in found)
    assert as_texts([]) == as_texts(np.array([])) == []


@pytest.mark.parametrize(
    ("texts", "kind", "message"),
    [
        ("one", TypeError, r"got one string: write \[text\]"),
        (b"one", TypeError, "got one string"),
        (None, TypeError, "got NoneType"),
        (7, TypeError, "got int"),
        ({"a": 1}, TypeError, "got a dict, which has no order"),
        ({"a"}, TypeError, "got a set"),
        (["fine", None], TypeError, "text 1 is None, not a string"),
        (["fine", float("nan")], TypeError, "text 1 is nan"),
        ([1.5], TypeError, "text 0 is 1.5"),
        ([b"x"], TypeError, "text 0 is b'x'"),
        (pd.DataFrame({"text": ["fine"]}), TypeError, "got a DataFrame: name its column"),
        (np.array([["a", "b"]]), TypeError, "text 0 is array"),
        (
            ["fine", "caf\udce9"],
            ValueError,
            r"text 1 holds half a character .'.udce9', character 3.: it was cut",
        ),
    ],
)
def test_what_is_no_text(texts: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        as_texts(texts)
