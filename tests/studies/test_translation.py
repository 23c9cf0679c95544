"""The study of translation, whole, with a tiny model on the embedded captions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from topk_lib import records
from topk_lib.claims import translation as claims
from topk_lib.studies import translation
from topk_lib.studies.base import Made
from topk_lib.tasks.translation import RULES, TranslatorSettings, measures

SMALL = {
    "KS": (8, 32, 4096), "SHARES": (0.5,), "_SEEDS": range(2), "_VOCABULARY": 400, "_AT": 32,
    "_ALPHAS": (0.6, 1.0), "_BEAMS": 2, "_ROUNDS": 1, "_SPEED_KS": (32,),
    "_SPEED": ({"batch": 1, "sentences": 2}, {"batch": 4, "sentences": 6}),
    "TranslatorSettings": partial(
        TranslatorSettings, hidden_size=16, layers=1, heads=2, inner=16, epochs=1, precision="fp32"
    ),
}  # fmt: skip


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[str], Made]]:
    for name, value in SMALL.items():
        monkeypatch.setattr(translation, name, value)
    monkeypatch.setattr(measures, "_DRAWS", 10)
    monkeypatch.setenv("TOPK_RESULTS", str(tmp_path))
    monkeypatch.delenv("TOPK_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so short are the steps that a second one is only waited for
    caches: list[Any] = [translation._data, translation._lexicon, translation.translator]
    for cached in caches:
        cached.cache_clear()
    runs = {one.name: one for one in translation.runs(gpu=False)}

    def make(name: str) -> Made:
        made = runs[name].measure()
        records.write(
            "translation", name, metrics=made.metrics, settings=made.settings, data=made.data, seconds=1
        )
        return made

    yield make
    torch.set_num_threads(threads)
    for cached in caches:
        cached.cache_clear()


def test_the_order_of_runs() -> None:
    names = [one.name for one in translation.runs(gpu=False)]
    assert names[:5] == ["coverage", "model-s0", "k-s0", "speed", "source-s0"]
    assert len(set(names)) == len(names)
    assert {f"{what}-s{seed}" for what in ("model", "k", "source") for seed in range(3)} < set(names)


def test_a_translator_is_by_default_the_one_that_was_measured() -> None:
    settings = records.load("translation", "model-s0")["settings"]
    assert vars(TranslatorSettings()).items() <= settings.items()


def test_what_is_chosen_on_dev_comes_first(study: Callable[[str], Made]) -> None:
    with pytest.raises(ValueError, match="common is chosen on the dev captions first"):
        translation.chosen_common()
    with pytest.raises(FileNotFoundError, match="there is no trained translator"):
        study("k-s0")


def test_coverage_grows_with_k(study: Callable[[str], Made]) -> None:
    metrics = study("coverage").metrics
    for way in translation.WAYS:
        assert list(metrics["test"][way]) == ["8", "32"], "4096 types there are not"
        assert metrics["test"][way]["8"]["tokens"] < metrics["test"][way]["32"]["tokens"] <= 1
    assert metrics["dev"][f"{metrics['common']:g}"]["tokens"] == max(
        row["tokens"] for share, row in metrics["dev"].items() if share != "0"
    )
    assert metrics["test"]["lexicon"]["32"]["tokens"] > metrics["test"]["random"]["32"]["tokens"]
    assert metrics["test"]["both"]["32"]["tokens"] <= metrics["seen"]["tokens"] <= 1
    assert set(metrics["iterations"]) == {"1", "5"}
    found = records.load_all("translation")
    rows = claims.covered(found)
    assert len(rows) == 2 * len(translation.WAYS) + 1
    assert translation.chosen_common() == metrics["common"]


@pytest.mark.slow
def test_whole_runs(study: Callable[[str], Made], tmp_path: Path) -> None:
    study("coverage")
    made = study("model-s0")
    metrics = made.metrics
    assert made.data["n_train"] == 445
    assert made.data["source"] == "the embedded corpus"
    assert metrics["dev"][f"{metrics['alpha']:g}"] == max(metrics["dev"].values())
    assert set(metrics["test"]) == {"greedy", "beam", "copied", "signature"}
    assert len(metrics["examples"]) == 88
    by_k = study("k-s0").metrics
    assert set(by_k["dev"]) == {"all", "seen", "both-8", "both-32", "signature"}
    assert set(by_k["greedy"]) == {
        "all", "seen", "signature", *(f"{way}-{k}" for way in translation.WAYS for k in (8, 32))
    }  # fmt: skip
    assert by_k["same"]["all"] == 1
    assert by_k["greedy"]["all"] == metrics["test"]["greedy"]
    assert by_k["enough"] in (None, 8, 32)
    assert set(by_k["examples"]) == {"all", "8", "32"}
    assert by_k["examples"]["all"] == [one["written"] for one in metrics["examples"]]
    speed = study("speed").metrics
    assert set(speed) == {f"batch-{b}-beams-{n}" for b in (1, 4) for n in (1, 2)}
    assert set(speed["batch-4-beams-2"]) == {"all", "32", "32 shared"}
    for rows in speed.values():
        assert rows["all"]["times_faster"] == 1
        assert all(0 < sum(row["shares"].values()) < 1.001 for row in rows.values())
        assert rows["32"]["shares"]["choosing"] > 0
    sources = study("source-s0").metrics
    assert set(sources["orphans"]) == {f"{rule}-0.5" for rule in RULES}
    assert all(0 < share < 1 for share in sources["orphans"].values())
    short = study("short-s0")
    assert set(short.metrics["test"]) == {"all", "untrained", "trained", "signature"}
    assert (short.settings["rule"], short.settings["share"]) == translation._SHORT
    found = records.load_all("translation")
    greedy = claims.written_with(found)
    assert [row["k"] for row in greedy if row["way"] == "all"] == [400]
    assert [row["below"] for row in greedy if row["way"] == "all"] == [0]
    assert {row["way"] for row in claims.written_with(found, "beam")} == {"all", "seen", "both"}
    assert {row["rule"] for row in claims.shortened(found)} == {"all", *RULES}
    assert {(row["batch"], row["beams"]) for row in claims.raced(found)} == {(1, 1), (1, 2), (4, 1), (4, 2)}


def test_the_k_types_of_every_way(study: Callable[[str], Made]) -> None:
    study("coverage")
    sources = translation._data().test.sources[:3]
    for way in translation.WAYS:
        types = translation._types(way, 32, sources)
        assert [len(one) for one in types] == [32] * 3, way
        for one in types:
            assert 1 in one.tolist()
            assert one.tolist() == sorted(set(one.tolist()))
    first, second, _ = translation._types("random", 32, sources)
    assert first.tolist() != second.tolist()
    rank = translation._lexicon().rank
    assert max(rank[i] for i in translation._types("commonest", 8, sources)[0].tolist() if i != 1) == 6
    seen = translation._seen().tolist()
    assert np.all(translation._lexicon().counts[[i for i in seen if i != 1]] > 0)
