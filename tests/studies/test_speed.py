"""What speed is measured on, and that it is."""

from __future__ import annotations

import pytest

from topk_lib.studies import imdb, speed


@pytest.fixture(autouse=True)
def embedded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOPK_IMDB", "embedded")


def test_throughput_for_real() -> None:
    metrics = speed.inference(ks=(8, 16), texts=8).metrics
    width, inner, layers = 384, 1536, 6
    for k in (8, 16):  # every review is longer
        # Four projections and two of the feed-forward part; scores and sums; the head reads [CLS].
        layer = 2 * k * (4 * width**2 + 2 * width * inner) + 4 * k * k * width
        head = 2 * width**2 + 2 * width * 2
        assert metrics[f"first-k{k}"]["flops_per_text"] == layers * layer + head
    for name in ("first-k8", "linear-k16", "gate-k8", "tfidf-k16"):
        one = metrics[name]
        assert one["slowest"] <= one["texts_per_second"] <= one["fastest"]
        assert one["selector_share"] > 0  # a pause of the machine can put it above 1


def test_training_throughput_for_real() -> None:
    metrics = speed.training(ks=(8,), texts=8).metrics
    assert metrics.pop("texts") == 8
    assert set(metrics) == {f"{name}-k8" for name in ("first", "linear", "gate", "history")}
    for one in metrics.values():
        assert 0 < one["slowest"] <= one["texts_per_second"] <= one["fastest"]


def test_fitting_for_real() -> None:
    metrics = speed.fitting(n_train=40).metrics
    assert set(metrics) == set(imdb.SELECTORS) - {"taught", "distilled"}
    for one in metrics.values():
        assert 0 < one["fastest"] <= one["seconds"] <= one["slowest"]
