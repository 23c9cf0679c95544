from __future__ import annotations

import numpy as np
import pytest

from topk_lib.training import accuracy_interval, classification_metrics, nb_svm, tfidf_logistic


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
