from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from topk_lib.data import Labels
from topk_lib.data.labels import CLASS, NUMBER, SEVERAL
from topk_lib.training import (
    accuracy_interval,
    classification_metrics,
    measure,
    nb_svm,
    number_metrics,
    several_metrics,
    tfidf_logistic,
)
from topk_lib.training.metrics import to_maximise


def test_by_hand() -> None:
    got = classification_metrics([0] * 5 + [1] * 5, [0, 0, 0, 1, 1] + [1] * 5)
    assert got["confusion"] == [[3, 2], [0, 5]]
    assert got["precision"] == [1.0, pytest.approx(5 / 7)]
    assert got["recall"] == [pytest.approx(3 / 5), 1.0]
    assert got["f1"] == [pytest.approx(3 / 4), pytest.approx(10 / 12)]
    assert got["support"] == [5, 5]
    assert got["accuracy"] == 0.8


def test_interval_of_wilson() -> None:
    # Newcombe (1998), table I: 81 of 263 gives 0.2553 to 0.3662.
    low, high = accuracy_interval(81, 263)
    assert low == pytest.approx(0.2553, abs=5e-5)
    assert high == pytest.approx(0.3662, abs=5e-5)
    assert accuracy_interval(5, 5)[1] == 1.0


def test_a_class_never_predicted() -> None:
    assert classification_metrics([0, 1], [0, 0])["precision"] == [0.5, 0.0]


def test_bad_lengths() -> None:
    with pytest.raises(ValueError, match="equally long and not empty, got 2 and 1"):
        classification_metrics([0, 1], [0])
    with pytest.raises(ValueError, match="got 0 and 0"):
        classification_metrics([], [])


@pytest.mark.parametrize("baseline", [tfidf_logistic, nb_svm])
def test_baselines_learn_words_and_not_noise(baseline: object) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 400).tolist()
    words = rng.integers(0, 50, (400, 6))
    texts = [
        " ".join(f"w{w}" for w in row) + (" fine" if y else " poor")
        for row, y in zip(words, labels, strict=True)
    ]
    noise = [" ".join(f"w{w}" for w in row) for row in words]
    assert callable(baseline)
    assert baseline(texts[:200], labels[:200], texts[200:], labels[200:])["accuracy"] > 0.98
    assert baseline(noise[:200], labels[:200], noise[200:], labels[200:])["accuracy"] < 0.65


def test_nb_svm_sees_word_pairs() -> None:
    texts = ["not good", "good not", "not bad", "bad not"] * 20
    labels = [0, 1, 1, 0] * 20
    assert nb_svm(texts, labels, texts[:4], labels[:4])["accuracy"] == 1.0
    assert tfidf_logistic(texts, labels, texts[:4], labels[:4])["accuracy"] < 1.0


def test_three_classes_by_hand() -> None:
    got = classification_metrics([0, 0, 1, 2], [0, 1, 1, 2], 4)
    assert got["confusion"] == [[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert got["recall"] == [0.5, 1.0, 1.0, 0.0]
    assert got["support"] == [2, 1, 1, 0]
    assert got["macro_f1"] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3), "over the classes that occur"
    assert classification_metrics([0, 2], [0, 2])["support"] == [1, 0, 1]


def test_several_labels_by_hand() -> None:
    got = several_metrics([[0, 1], [1], []], [[0], [1, 2], []], 3)
    assert got["exact"] == pytest.approx(1 / 3)
    assert got["precision"] == [1.0, 1.0, 0.0]
    assert got["recall"] == [1.0, 0.5, 0.0]
    assert got["f1"] == [1.0, pytest.approx(2 / 3), 0.0]
    assert got["support"] == [1, 2, 0]
    assert got["micro_f1"] == pytest.approx(4 / 6)
    with pytest.raises(ValueError, match="equally long and not empty, got 1 and 2"):
        several_metrics([[0]], [[0], [1]], 2)


def test_numbers_by_hand() -> None:
    got = number_metrics([1.0, 2.0, 6.0], [1.0, 4.0, 5.0])
    assert got["mean_absolute_error"] == 1.0
    assert got["root_mean_squared_error"] == pytest.approx(math.sqrt(5 / 3))
    assert got["r2"] == pytest.approx(1 - 5 / 14)
    assert got["pearson"] == pytest.approx(np.corrcoef([1, 2, 6], [1, 4, 5])[0, 1])
    assert json.loads(json.dumps(number_metrics([2.0, 2.0], [1.0, 3.0]), allow_nan=False))["r2"] is None
    assert number_metrics([1.0, 3.0], [2.0, 2.0])["pearson"] is None


def test_what_is_measured_depends_on_the_labels() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.0], [-3.0, -2.0, -1.0]])
    metrics, guess = measure(Labels(CLASS, ("a", "b", "c")), [0, 1], logits)
    assert (metrics["accuracy"], metrics["classes"], guess) == (0.5, ["a", "b", "c"], [0, 2])
    metrics, several = measure(Labels(SEVERAL, ("a", "b", "c")), [[0, 2], []], logits)
    assert (metrics["exact"], several) == (1.0, [[0, 2], []])
    assert to_maximise(metrics) == metrics["micro_f1"] == 1.0
    metrics, numbers = measure(Labels(NUMBER, ("score",)), [2.0, -3.0], logits[:, :1])
    assert (metrics["mean_absolute_error"], numbers) == (0.0, [2.0, -3.0])
    assert to_maximise({"root_mean_squared_error": 2.0}) < to_maximise({"root_mean_squared_error": 1.0})


@pytest.mark.parametrize("baseline", [tfidf_logistic, nb_svm])
def test_baselines_of_three_classes(baseline: object) -> None:
    texts = [f"{word} day {i}" for i in range(20) for word in ("good", "bad", "odd")]
    labels = [0, 1, 2] * 20
    assert callable(baseline)
    assert baseline(texts, labels, texts, labels)["accuracy"] == 1.0


def test_equal_numbers_explain_nothing() -> None:
    """The mean of three times 0.1 is not 0.1."""
    for equal in (0.1, 0.5):
        got = number_metrics([equal] * 3, [0.2, 0.3, 0.1])
        assert (got["r2"], got["pearson"]) == (None, None)
        assert number_metrics([0.2, 0.3, 0.1], [equal] * 3)["pearson"] is None
