"""What speed is measured on, and that it is."""

from __future__ import annotations

from pathlib import Path

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
    assert set(metrics) == {f"{name}-k8" for name in ("first", "linear", "gate", "history", *imdb.PUPILS)}
    for one in metrics.values():
        assert 0 < one["slowest"] <= one["texts_per_second"] <= one["fastest"]


def test_fitting_for_real() -> None:
    metrics = speed.fitting(n_train=40).metrics
    assert set(metrics) == set(imdb.SELECTORS) - {"taught", "distilled"}
    for one in metrics.values():
        assert 0 < one["fastest"] <= one["seconds"] <= one["slowest"]


@pytest.mark.slow
def test_four_engines_give_the_same_answers(
    tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = speed.engines(k=8, whole=24, texts=34, alone=3, n_train=40, rounds=1, model_name=str(tiny_encoder))
    assert (made.metrics["texts"], made.metrics["texts_alone"]) == (34, 3)
    for what in ("linear-k8", "first-k24"):
        found = made.metrics[what]
        assert found.keys() == {*speed.ENGINES, "choosing"}
        for name in speed.ENGINES:
            one = found[name]
            for batch in ("batch_1", "batch_32"):
                assert one[batch]["slowest"] <= one[batch]["texts_per_second"] <= one[batch]["fastest"]
            exact = "int8" not in name
            assert one["largest_change"] < (1e-4 if exact else 0.2)
            assert one["same_answers"] == 1 or not exact
        assert found["ONNX Runtime int8"]["largest_change"] > 0
        assert found["ONNX Runtime int8"]["bytes"] < found["ONNX Runtime"]["bytes"]
        assert all(share > 0 for share in found["choosing"].values())
