"""Two linear models that read every word and no order: what an encoder has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from topk_lib.training.metrics import classification_metrics

__all__ = ["nb_svm", "nb_svm_margins", "tfidf_logistic"]


def tfidf_logistic(
    texts: Sequence[str],
    labels: Sequence[int],
    test_texts: Sequence[str],
    test_labels: Sequence[int],
) -> dict[str, Any]:
    """Logistic regression on TF-IDF of single words, with scikit-learn's defaults.

    Returns:
        The metrics of :func:`~topk_lib.training.metrics.classification_metrics`.
    """
    model = make_pipeline(TfidfVectorizer(), LogisticRegression(max_iter=1000))
    model.fit(texts, labels)
    return classification_metrics(test_labels, model.predict(test_texts))


def nb_svm(
    texts: Sequence[str],
    labels: Sequence[int],
    test_texts: Sequence[str],
    test_labels: Sequence[int],
) -> dict[str, Any]:
    """NB-SVM of Wang and Manning (2012), "Baselines and bigrams", with words and word pairs.

    Presence of words and pairs, scaled by the naive Bayes log-count ratio r (their equation 2),
    then a linear classifier; logistic loss stands for the hinge. Pairs in one text only are left out.
    Of more than two classes each is told from the others.

    Returns:
        The metrics of :func:`~topk_lib.training.metrics.classification_metrics`.
    """
    classes = np.unique(np.asarray(labels))
    margins = nb_svm_margins(texts, labels, test_texts)
    best = (margins[:, 0] > 0).astype(int) if len(classes) == 2 else np.argmax(margins, axis=1)
    return classification_metrics(test_labels, classes[best])


def nb_svm_margins(texts: Sequence[str], labels: Sequence[int], test_texts: Sequence[str]) -> np.ndarray:
    """How surely :func:`nb_svm` gives each class to a text, as log-odds.

    Returns:
        (n_test, classes) float64; of two classes one column, for the second.
    """
    vectorizer = CountVectorizer(ngram_range=(1, 2), min_df=2, binary=True, token_pattern=r"\w+|[!?]")
    features = vectorizer.fit_transform(texts)
    truth = np.asarray(labels)
    test = vectorizer.transform(test_texts)
    classes = np.unique(truth)
    margins = []
    for one in classes[-1:] if len(classes) == 2 else classes:
        inside, outside = (
            1.0 + np.asarray(features[rows].sum(0)).ravel() for rows in (truth == one, truth != one)
        )
        ratio = np.log(inside / inside.sum()) - np.log(outside / outside.sum())
        model = LogisticRegression(C=1.0, solver="liblinear")
        model.fit(features.multiply(ratio).tocsr(), truth == one)
        margins.append(model.decision_function(test.multiply(ratio).tocsr()))
    return np.stack(margins, axis=1)
