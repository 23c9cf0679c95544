"""Two linear models that read every word and no order: what an encoder has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from topk_lib.training.metrics import classification_metrics

__all__ = ["nb_svm", "tfidf_logistic"]


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

    Returns:
        The metrics of :func:`~topk_lib.training.metrics.classification_metrics`.
    """
    vectorizer = CountVectorizer(ngram_range=(1, 2), min_df=2, binary=True, token_pattern=r"\w+|[!?]")
    features = vectorizer.fit_transform(texts)
    truth = np.asarray(labels)
    counts = [1.0 + np.asarray(features[truth == label].sum(0)).ravel() for label in (0, 1)]
    ratio = np.log(counts[1] / counts[1].sum()) - np.log(counts[0] / counts[0].sum())
    model = LogisticRegression(C=1.0, solver="liblinear").fit(features.multiply(ratio).tocsr(), truth)
    test = vectorizer.transform(test_texts).multiply(ratio).tocsr()
    return classification_metrics(test_labels, model.predict(test))
