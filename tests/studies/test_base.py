"""Runs are made once and go on after a failure; rows outlive an interruption; calls take turns."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest

from topk_lib import records, studies
from topk_lib.studies import base
from topk_lib.studies.base import Made, Rows, Run

ROOT = Path(__file__).resolve().parents[2]


def study(*runs: Run) -> ModuleType:
    def those(*, gpu: bool) -> Iterator[Run]:
        yield from runs

    return cast(ModuleType, SimpleNamespace(runs=those))


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TOPK_RESULTS", str(tmp_path))
    return tmp_path


def test_a_run_becomes_a_record_that_says_how_to_repeat_it(results: Path) -> None:
    one = Run("e", "r", lambda: Made({"accuracy": 0.5}, {"seed": 3}, {"n_eval": 7}, seconds=12.0))
    assert base.make_missing({"mine": study(one)}) == []
    record = records.load("e", "r")
    assert record["command"] == "topk-lib study mine --only e/r"
    assert (record["metrics"], record["settings"], record["data"]) == (
        {"accuracy": 0.5},
        {"seed": 3},
        {"n_eval": 7},
    )
    assert record["wall_seconds"] == 12.0


def test_only_what_lacks_a_record_is_made(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made: list[str] = []

    def measure(name: str) -> Made:
        made.append(name)
        return Made({}, {}, {})

    def runs() -> ModuleType:
        return study(*(Run("e", name, partial(measure, name)) for name in ("a", "b", "ab")))

    base.make_missing({"mine": runs()}, only="a")
    assert made == ["a", "ab"]
    base.make_missing({"mine": runs()}, list_only=True)
    assert capsys.readouterr().out.splitlines()[-1] == "== e/b"
    base.make_missing({"mine": runs()})
    assert made == ["a", "ab", "b"]
    base.make_missing({"mine": runs()})
    assert "nothing to do: all 3 have a record" in capsys.readouterr().out
    with pytest.raises(ValueError, match="no run has 'zzz' in its name: they are called like e/a"):
        base.make_missing({"mine": runs()}, only="zzz")


def test_the_embedded_corpus_stays_out_of_the_course_s_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOPK_RESULTS", raising=False)
    monkeypatch.setenv("TOPK_IMDB", "embedded")
    before = sorted(records.results_folder().rglob("*"))

    def fail() -> base.Made:
        raise AssertionError("nothing is run")

    study = ModuleType("study")
    study.runs = lambda *, gpu: [base.Run("not", "there", fail)]  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="records are of the IMDB reviews, and none are at hand"):
        base.make_missing({"study": study})
    assert sorted(records.results_folder().rglob("*")) == before


def test_every_study_is_found_and_names_its_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"imdb", "rules", "speed", "vocabulary", "tfidf", "neighbours", "slices"} <= set(studies.names())
    assert "base" not in studies.names()
    labels = [label for name in studies.names() for label in listed(name)]
    assert len(labels) == len(set(labels))


def listed(name: str, gpu: bool = False) -> list[str]:
    module = __import__(f"topk_lib.studies.{name}", fromlist=["runs"])
    return [one.label for one in module.runs(gpu=gpu)]


def test_the_commands_of_old_records_still_make_the_same_runs() -> None:
    """``topk-lib study NAME --only X``; what ``python benchmarks/imdb.py`` made is the study ``rules``."""
    made = {name: listed(name) for name in studies.names()}
    made["imdb"] = made["imdb"] + made["speed"] + made["vocabulary"]
    assert studies._ALSO["imdb"] == ("speed", "vocabulary")
    checked = set()
    for path in sorted((ROOT / "results").rglob("*.cpu.json")):
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        words = record["command"].split()
        label = f"{record['experiment']}/{record['run']}"
        if words[:2] == ["topk-lib", "study"]:
            assert label in made[words[2]], record["command"]
            assert label == words[4]
            checked.add(words[2])
        elif words[:2] == ["python", "benchmarks/imdb.py"] or record["experiment"].startswith("imdb_"):
            assert label in made["rules"], record["command"]
            checked.add("rules")
    assert {"imdb", "rules"} <= checked


def test_rows_are_kept_for_the_same_call_only(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "rows.json"
    rows = Rows(path, {"seeds": (0, 1)})
    assert rows.measure("a", lambda: {"x": 1}) == {"x": 1}
    again = Rows(path, {"seeds": (0, 1)})
    assert again.measure("a", lambda: pytest.fail("measured twice")) == {"x": 1}
    assert Rows(path, {"seeds": (0, 2)}).found == {}
    assert [p.name for p in path.parent.iterdir()] == ["rows.json"]


def test_calls_take_turns() -> None:
    order: list[str] = []
    seconds = base.in_turns({name: partial(order.append, name) for name in "abc"}, rounds=4)
    rounds = [order[i : i + 3] for i in range(0, 12, 3)]
    assert all(sorted(one) == ["a", "b", "c"] for one in rounds)
    assert len({tuple(one) for one in rounds}) > 1
    assert all(len(found) == 4 for found in seconds.values())
    assert base.rate(6, [1.0, 2.0, 3.0]) == {"texts_per_second": 3.0, "slowest": 2.0, "fastest": 6.0}
