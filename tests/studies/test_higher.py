"""The recipe for more: what it chooses on dev reviews, and that the choice is what it uses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from topk_lib import records, studies
from topk_lib.data import load_reviews, train_and_eval
from topk_lib.models import DEFAULT_ENCODER
from topk_lib.studies import higher, transfer
from topk_lib.training import nb_svm, predict
from topk_lib.training.baselines import nb_svm_margins


@pytest.fixture
def small(tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TOPK_IMDB", "embedded")
    monkeypatch.setenv("TOPK_RESULTS", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(higher, "further_pretrained", lambda minutes: str(tiny_encoder))
    monkeypatch.setattr(higher, "_STARTS", ((0, 1e-4), (60, 1e-3)))


def test_what_runs_in_which_order() -> None:
    cpu, gpu = ([one.name for one in higher.runs(gpu=gpu)] for gpu in (False, True))
    assert cpu == [
        "linear-k128-s0", "start", "weight", "average-k256-s0", "linear-k128-s1", "linear-k128-s2",
    ]  # fmt: skip
    assert gpu == [*cpu, "average-k256-s1", "average-k256-s2"]


def test_the_weight_by_hand() -> None:
    """The encoder is sure and wrong on the third text, the words only on the second."""
    encoder, words = np.array([2.0, 3.0, -1.0, -2.0]), np.array([1.0, -1.0, 4.0, -1.0])
    found = higher.best_weight(encoder, words, [1, 1, 1, 0])
    assert (found["accuracy"]["0"], found["accuracy"]["1"]) == (0.75, 0.75)
    # right where 4w > 1 and 4 > 5w
    right = {w for w, accuracy in found["accuracy"].items() if accuracy == 1}
    assert right == {f"{w:g}" for w in np.arange(0.3, 0.8, 0.05).round(2)}
    margins = {w: np.array([1 + w, 4 * w - 1, 4 - 5 * w, 1 + w]) for w in np.arange(0.3, 0.8, 0.05)}
    best = min(margins, key=lambda w: float(np.log1p(np.exp(-margins[w])).mean()))
    assert found["best"] == pytest.approx(best)


def test_margins_are_what_nb_svm_decides_by() -> None:
    train, test = train_and_eval("embedded", n_train=60, n_eval=40, quiet=True)
    margins = nb_svm_margins(train["text"], train["label"], test["text"])
    assert margins.shape == (40, 1)
    right = ((margins[:, 0] > 0) == np.asarray(test["label"])).mean()
    assert right == nb_svm(train["text"], train["label"], test["text"], test["label"])["accuracy"]
    # log-odds of the other class are the negative
    turned = nb_svm_margins(train["text"], [1 - label for label in train["label"]], test["text"])
    np.testing.assert_allclose(turned, -margins, atol=0.05)


def test_what_was_chosen_is_used(small: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert studies.run("higher", only="higher/weight") == ["higher/weight"]
    assert "the start is chosen on dev reviews first" in capsys.readouterr().err
    made = higher._start(n=40, k=8)
    assert {row["minutes"] for row in made.metrics["tried"]} == {0, 60}
    assert made.metrics["best"] in [{"minutes": 0, "rate": 1e-4}, {"minutes": 60, "rate": 1e-3}]
    assert made.data["evaluated_on"] == "dev"
    best = {"minutes": 60, "rate": 3e-4}  # none that was tried
    records.write("higher", "start", metrics={"best": best}, settings={}, data={}, seconds=1.0)
    made = higher._weight(n=40, k=8)
    assert made.settings["learning_rate"] == 3e-4
    assert made.settings["evaluate_on"] == "dev"
    assert set(made.metrics["accuracy"]) >= {"0", "0.5", "1"}
    records.write("higher", "weight", metrics={"best": 0.25}, settings={}, data={}, seconds=1.0)
    made = higher._average(1, n=40, k=8)
    m, test = made.metrics, load_reviews(split="test", quiet=True)
    assert (m["weight"], made.settings["seed"], made.settings["epochs"]) == (0.25, 1, 2.0)
    assert made.settings["learning_rate"] == 3e-4
    assert made.data["n_eval"] == len(test)
    for part in (m, m["encoder"], m["nb_svm"]):
        wrong = np.unpackbits(np.frombuffer(bytes.fromhex(part["wrong"]), dtype=np.uint8))[: len(test)]
        assert 1 - wrong.mean() == pytest.approx(part["accuracy"])
    assert m["encoder"]["pairs"]["n"] == higher._plain(0, n=40, k=8).metrics["pairs"]["n"] > 100
    asked = np.asarray(predict(tmp_path / "runs" / "higher" / "average-k8-s1", test["text"]))
    assert ((asked > 0.5) == np.asarray(test["label"])).mean() == pytest.approx(m["encoder"]["accuracy"])


def test_weights_that_are_there_are_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made: list[int] = []
    monkeypatch.setattr(transfer, "_further", made.append)
    assert transfer.further_pretrained(0) == DEFAULT_ENCODER
    folder = Path(transfer.further_pretrained(60))
    assert made == [60]
    folder.mkdir(parents=True)
    (folder / "model.safetensors").touch()
    assert transfer.further_pretrained(60) == str(folder)
    assert made == [60]
