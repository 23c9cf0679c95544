"""The study's grid, its slices, and that it goes on where it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from topk_lib import records, studies
from topk_lib.data import load_reviews
from topk_lib.studies import imdb
from topk_lib.studies.base import Run, packed
from topk_lib.training.finetune import FinetuneResult


def in_grid(one: Run) -> bool:
    return one.experiment in ("study_4000", "study_25000")


def test_every_selector_at_every_k_once() -> None:
    for gpu in (False, True):
        grid = [one for one in imdb.runs(gpu=gpu, n_train=25_000) if in_grid(one)]
        assert len({one.name for one in grid}) == len(grid)
        every = [imdb.options_of(one.name, 25_000) for one in grid]
        for k in (16, 32, 64, 128, *([256] if gpu else [])):
            for selector in imdb.SELECTORS:
                assert any(one["selector"] == selector and one["k"] == k for one in every)
        for name in (*imdb.SELECTORS, "gate-k64-batch"):
            stem = name if "-k" in name else f"{name}-k64"
            assert sum(one.name.startswith(f"{stem}-s") for one in grid) == 3


def test_the_order_follows_from_the_records(results: Path) -> None:
    """Recorded runs first; then what is close, not what is clear; and each record changes what comes next."""

    def write(name: str, wrong: int) -> None:
        missed = np.arange(800) < wrong
        records.write(
            "study_4000", name, metrics={"accuracy": 1 - wrong / 800, "wrong": packed(missed)},
            settings={}, data={"eval_fingerprint": "f", "n_eval": 800}, seconds=1.0,
        )  # fmt: skip

    there = [*(f"{name}-k16-s0" for name in imdb.SELECTORS), "distilled_pieces-k16-s0", "linear-k128-s0"]
    for name in there:
        write(name, 400 if name.startswith(("frequency", "tfidf")) else 160)
    order = [one.name for one in imdb.runs(gpu=False) if in_grid(one)]
    assert sorted(order) == sorted(name for name, _ in imdb._grid(4000, False))
    assert {*order[: len(there)]} == {*there}
    next_ones = order[len(there) :]
    assert next_ones[0].endswith(("-k16-s1", "-k16-s2"))
    assert next_ones.index("gate-k16-s1") < next_ones.index("frequency-k16-s1")
    assert next_ones.index("linear-k16-s1") < next_ones.index("linear-k64-s0")
    left = (one for one in imdb.runs(gpu=False) if in_grid(one))
    for name in order[: len(there)]:
        assert next(left).name == name
    while (one := next(left)).name.endswith("-k16-s1"):
        write(one.name, 400 if "gate" in one.name else 160)  # so the gate is far behind
    rest = [one.name, *(one.name for one in left)]
    assert {"gate-k16-s2", "linear-k16-s2"} <= {*rest}


def test_a_teacher_comes_before_its_pupils_and_they_share_its_cost(results: Path) -> None:
    order = [one.name for one in imdb.runs(gpu=False) if in_grid(one)]
    grid = {name: imdb.options_of(name, 4000) for name in order}
    for seed in range(3):
        pupils = [name for name in order if grid[name]["selector"] in imdb.PUPILS and name[-1] == str(seed)]
        at = order.index(f"linear-k128-s{seed}")
        assert at < order.index(pupils[0])
        costs, alone = imdb._costs(grid, ()), imdb._costs(grid, [order[at]])
        more = sum(costs[name] - alone[name] for name in pupils)
        assert more == pytest.approx(costs[order[at]])
        assert costs["gate-k16-s0"] == alone["gate-k16-s0"] < alone["taught-k64-s0"]


def test_all_runs_have_one_training_budget() -> None:
    for one in imdb.runs(gpu=False):
        if not in_grid(one):
            continue
        options = imdb.options_of(one.name, 4000)
        assert options["n_train"] == 4000
        assert not options.keys() & {"epochs", "batch_size", "evaluate_on"}


def test_slices() -> None:
    texts = [
        "Not once did it move, not for me, never.",
        "A wonderful, wonderful evening",
        "The best terrible worst awful thing",
        " ".join(["word"] * 50),
        "short",
    ]
    parts = imdb.slices(texts, [0, 0, 1, 1, 0])
    assert parts["contrary"].tolist() == [False, True, True, False, False]
    assert parts["negation"].tolist() == [True, False, False, False, False]
    assert parts["long"].tolist() == [False, False, False, True, False]
    assert parts["short"].tolist() == [False, False, False, False, True]


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TOPK_RESULTS", str(tmp_path))
    monkeypatch.setenv("TOPK_IMDB", "embedded")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(imdb, "answers", lambda folder: {"both": 0.25})  # there is no model in it
    return tmp_path


def test_the_page_of_slices_names_the_words_that_define_them() -> None:
    page = (Path(__file__).parents[2] / "notebooks" / "18_how_few_tokens.md").read_text(encoding="utf-8")
    for title, words in (("Praise", imdb._PRAISE), ("Blame", imdb._BLAME)):
        assert f"{title}: *{', '.join(words.split())}*." in page


def test_runs_are_recorded_once(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def pretend(folder: Path, *, quiet: bool, **options: Any) -> FinetuneResult:
        asked.append(options)
        test = load_reviews(split="test", n=options["n_eval"], quiet=True)
        right = list(test["label"])
        predictions = [1 - right[0], *right[1:]]
        return FinetuneResult(
            folder, {"accuracy": 0.5}, options, {"n_eval": len(right)}, {"fit": 1.0}, predictions
        )

    monkeypatch.setattr(imdb, "finetune", pretend)
    assert studies.run("imdb", only="study_4000/linear-k64-s", n_train=4000) == []
    assert len(asked) == 3
    record = records.load("study_4000", "linear-k64-s0")
    wrong = np.unpackbits(np.frombuffer(bytes.fromhex(record["metrics"]["wrong"]), dtype=np.uint8))
    wrong = wrong[: record["data"]["n_eval"]]
    assert wrong.sum() == 1
    assert wrong[0] == 1
    assert record["metrics"]["pairs"] == {"both": 0.25}
    assert 0 < record["metrics"]["slices"]["long"]["n"] < record["data"]["n_eval"]
    studies.run("imdb", only="study_4000/linear-k64-s", n_train=4000)
    assert len(asked) == 3  # nothing twice


def test_a_teacher_has_read_no_review_that_its_student_has_not(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Path, dict[str, Any]]] = []

    def pretend(folder: Path, *, quiet: bool, **options: Any) -> FinetuneResult:
        asked.append((folder, options))
        labels = list(load_reviews(split="test", n=options["n_eval"], quiet=True)["label"])
        return FinetuneResult(folder, {"accuracy": 1.0}, options, {"n_eval": 1}, {"fit": 1.0}, labels)

    monkeypatch.setattr(imdb, "finetune", pretend)
    for name in ("distilled-k64-s1", "taught-k64-s2"):
        asked.clear()
        assert studies.run("imdb", only=f"study_4000/{name}", n_train=4000) == []
        (folder, teacher), (_, student) = asked
        assert student["teacher"] == str(folder)
        assert (teacher["selector"], teacher["k"]) == ("linear", 128)
        # the seed draws the reviews
        for key in ("seed", "n_train", "n_eval"):
            assert teacher[key] == student[key]
        assert "evaluate_on" not in teacher
        assert records.load("study_4000", name)["settings"]["teacher"] == "linear-k128"


def test_a_new_selector_meets_the_dev_split_alone(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Path, dict[str, Any]]] = []

    def pretend(folder: Path, *, quiet: bool, **options: Any) -> FinetuneResult:
        asked.append((folder, options))
        n = len(load_reviews(split="dev", n=options["n_eval"], quiet=True))
        return FinetuneResult(folder, {"accuracy": 0.5}, options, {"n_eval": n}, {"fit": 1.0}, [0] * n)

    monkeypatch.setattr(imdb, "finetune", pretend)
    assert studies.run("imdb", only="study_dev/contextual-k32-s1", n_train=4000) == []
    assert [options["selector"] for _, options in asked] == ["linear", "contextual"]
    assert [folder.parent.name for folder, _ in asked] == [imdb.DEV] * 2
    assert all(options["evaluate_on"] == "dev" for _, options in asked)
    assert asked[1][1]["teacher"] == str(asked[0][0])
    assert "contextual" not in imdb.SELECTORS
    asked.clear()
    assert studies.run("imdb", only="study_dev/contextual-k32-running-s0", n_train=4000) == []
    (folder, teacher), (_, pupil) = asked
    assert (folder.name, teacher["selector"], teacher["k"]) == ("head_tail-k128-s0", "head_tail", 128)
    assert (pupil["teacher"], pupil["marks"]) == (str(folder), "pieces")
    record = records.load(imdb.DEV, "contextual-k32-running-s0")
    assert record["settings"]["teacher"] == "head_tail-k128"


def test_the_dev_split_tries_every_idea_and_goes_on_with_the_best_two(results: Path) -> None:
    def order() -> list[str]:
        return [one.name for one in imdb.runs(gpu=False) if one.experiment == imdb.DEV]

    before = order()
    ideas = len(imdb._TRIED) + len(imdb.BAR)
    assert len({*before}) == len(before) == 9 * ideas
    first, later = before[:ideas], before[ideas:]
    assert all("-k32-" in name and name.endswith("-s0") for name in first)
    best = ("taught-k32-calm-s0", "distilled-k32-once-s0")
    for name in first:
        # linear weights are the bar, and two epochs no idea
        accuracy = 0.9 if name in best else 0.99 if "linear" in name or "twice" in name else 0.8
        records.write(
            imdb.DEV, name, metrics={"accuracy": accuracy}, settings={}, data={}, seconds=1.0
        )  # fmt: skip
    after = order()
    assert sorted(after) == sorted(before)
    assert after[:ideas] == first
    some = len(imdb.BAR) + 2
    assert {"taught-k16-calm-s0", "distilled-k16-once-s0", "distinct-k16-s0"} <= {*after[ideas:][:some]}
    assert "contextual-k16-s0" not in after[: ideas + 8 * some]
    assert after[ideas:] != later


def test_a_failed_run_does_not_stop_the_others(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ValueError("no such thing")

    monkeypatch.setattr(imdb, "finetune", fail)
    failed = studies.run("imdb", only="study_4000/linear-k64-s", n_train=4000)
    assert failed == [f"study_4000/linear-k64-s{seed}" for seed in range(3)]
    assert "failed, going on: study_4000/linear-k64-s1: no such thing" in capsys.readouterr().err


def test_listing_makes_nothing(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert studies.run("imdb", only="gate-k64", list_only=True, n_train=4000) == []
    assert "== study_4000/gate-k64-s0" in capsys.readouterr().out
    assert list(results.rglob("*.json")) == []


def test_what_dev_chose_has_a_name_in_the_grid() -> None:
    for name in imdb.CHOSEN:
        options = imdb.options_of(f"{name}-k32-s1", 4000)
        assert options["selector"] in imdb.PUPILS  # so that it gets the teacher of its seed
        assert options["k"] == 32
        assert imdb.rule_of(name) != imdb.rule_of(options["selector"])
    assert (options["marks"], options["once"]) == ("pieces", True)
    assert not imdb.options_of("distilled_pieces-k64-s1", 4000)["once"]
    assert imdb.rule_of("linear") == "linear weight"
