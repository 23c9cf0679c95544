"""The support desk: its threshold keeps its word; it learns, hands on, and is taught."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from topk_lib.apps import support as module
from topk_lib.apps.questions import OUTSIDE, Questions, choose_threshold, questions
from topk_lib.apps.store import Store
from topk_lib.apps.support import HEADS, Desk, DeskSettings
from topk_lib.apps.vectors import RULES, Vectors
from topk_lib.cli import app
from topk_lib.data import load_set


@pytest.fixture(scope="module")
def asked() -> Questions:
    return questions("embedded", quiet=True)


@pytest.fixture(scope="module")
def measured(asked: Questions) -> dict[str, dict[str, Any]]:
    """What each head that trains no encoder comes to."""
    return {
        head: Desk(asked, DeskSettings(head=head)).measure(timed=3) for head in HEADS if head != "finetuned"
    }


def test_a_threshold_by_hand() -> None:
    confidence = [0.9, 0.8, 0.7, 0.6, 0.5]
    right = [True, True, False, True, True]
    assert choose_threshold(confidence, right, 0.2) == 0.5  # one of five is wrong
    assert choose_threshold(confidence, right, 0.25) == 0.5
    assert choose_threshold(confidence, right, 0.19) == 0.8
    assert choose_threshold(confidence, [False] * 5, 0.5) == math.inf
    assert choose_threshold([0.9, 0.5, 0.5], [True, True, False], 0.3) == 0.9, "equal ones go together"
    assert choose_threshold(confidence, right, 0.2, sure=0.9) == math.inf, "five prove nothing"


@given(
    st.lists(st.tuples(st.sampled_from([0.1, 0.3, 0.5, 0.7, 0.9]), st.booleans()), min_size=1, max_size=12),
    st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9]),
)
def test_the_threshold_is_the_lowest_that_will_do(rows: list[tuple[float, bool]], wrong: float) -> None:
    confidence, right = zip(*rows, strict=True)
    found = choose_threshold(confidence, right, wrong)
    good = [
        level
        for level in confidence
        if sum(not ok for c, ok in rows if c >= level) <= wrong * sum(c >= level for c in confidence)
    ]
    assert found == min(good, default=math.inf)


def test_a_guarantee_holds_where_the_plain_choice_does_not() -> None:
    wrong, sure, trials = 0.1, 0.9, 300
    dice = np.random.default_rng(0)
    broken: dict[float | None, int] = {None: 0, sure: 0}
    answered = 0
    for _ in range(trials):
        confidence = dice.random(4000)
        right = dice.random(4000) >= 0.5 * (1 - confidence)
        for how in broken:
            at = choose_threshold(confidence.tolist(), right.tolist(), wrong, how)
            # Above a threshold t the true share of wrong answers is the mean of (1 - c) / 2.
            broken[how] += at < 1 and 0.25 * (1 - at) > wrong
            answered += how == sure and at < 1
    assert broken[sure] <= trials * (1 - sure)
    assert broken[None] > 1.5 * trials * (1 - sure)
    assert answered > 0.9 * trials, "one that never answers would keep any promise"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (([], [], 0.1), "at least one: got 0 and 0"),
        (([0.1], [True, False], 0.1), "got 1 and 2"),
        (([0.1], [True], 1.0), "wrong must be from 0 to below 1"),
        (([0.1], [True], 0.1, 1.0), "sure between 0 and 1"),
    ],
)
def test_a_threshold_of_nothing(arguments: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        choose_threshold(*arguments)


def test_no_question_is_learned_from_and_measured_on(asked: Questions) -> None:
    learn, held, test = (set(part[0]) for part in (asked.learn, asked.held_out, asked.test))
    assert not learn & held
    assert not learn & test
    assert not held & test
    assert OUTSIDE not in asked.learn[1]
    for part in (asked.held_out, asked.test):
        share = part[1].count(OUTSIDE) / len(part[1])
        assert share == pytest.approx(0.2, abs=0.02)
    assert sum(asked.far) == asked.told["outside_test"]["out_of_scope"] > 0
    assert all(asked.test[1][i] == OUTSIDE for i, far in enumerate(asked.far) if far)
    bank = load_set("banking77", "embedded", split="train", quiet=True)
    assert learn | {t for t, y in zip(*asked.held_out, strict=True) if y != OUTSIDE} == set(bank["text"])


def test_what_is_asked_elsewhere_has_nothing_to_do_with_money(asked: Questions) -> None:
    clinc = load_set("clinc_oos", "embedded", split="test", quiet=True)
    kinds = dict(zip(clinc["text"], [clinc.features["label"].names[y] for y in clinc["label"]], strict=True))
    outside = [kinds[t] for t, y in zip(*asked.test, strict=True) if y == OUTSIDE]
    assert outside.count("oos") == sum(asked.far)
    assert set(outside) - {"oos"}
    assert "pay_bill" in kinds.values()
    assert "pay_bill" not in outside


def test_k_examples_are_nested_and_change_nothing_else(asked: Questions) -> None:
    few, more = (questions("embedded", examples=k, seed=1, quiet=True) for k in (2, 4))
    other = questions("embedded", examples=2, seed=2, quiet=True)
    assert set(Counter(few.learn[1]).values()) == {2}
    assert set(few.learn[0]) < set(more.learn[0])
    assert set(few.learn[0]) != set(other.learn[0])
    for one in (few, more, other):
        assert one.held_out == asked.held_out
        assert one.test == asked.test


def test_each_head_learns(measured: dict[str, dict[str, Any]]) -> None:
    for head, found in measured.items():
        assert found["accuracy"] > 4 * found["commonest"], head
        assert found["accuracy_low"] < found["accuracy"] < found["accuracy_high"], head
        assert found["outside_recall"] > 0.5, head
        assert found["milliseconds"] > 0
    assert measured["words"]["accuracy"] < measured["logistic"]["accuracy"]


def test_what_is_measured_by_hand(asked: Questions) -> None:
    desk = Desk(asked, DeskSettings(head="prototype", wrong=0.1))
    found = desk.measure(timed=1)
    replies = desk(asked.test[0])
    names = [None if y == OUTSIDE else asked.names[y] for y in asked.test[1]]
    given = [(r.intent == name) for r, name in zip(replies, names, strict=True) if r.answered]
    assert found["wrong"] == pytest.approx(1 - sum(given) / len(given))
    inside = [(r, n) for r, n in zip(replies, names, strict=True) if n is not None]
    assert found["accuracy"] == pytest.approx(sum(r.intent == n for r, n in inside) / len(inside))
    assert found["answered"] == pytest.approx(sum(r.answered for r, _ in inside) / len(inside))
    outside = [r for r, n in zip(replies, names, strict=True) if n is None]
    assert found["outside_recall"] == pytest.approx(sum(not r.answered for r in outside) / len(outside))
    held = desk(asked.held_out[0])
    truth = [None if y == OUTSIDE else asked.names[y] for y in asked.held_out[1]]
    answers = [r.intent == n for r, n in zip(held, truth, strict=True) if r.answered]
    assert answers
    assert sum(not ok for ok in answers) <= 0.1 * len(answers), "the stated share, on held-out questions"


def test_answers_are_ours_or_from_the_template(desk: Desk, asked: Questions) -> None:
    told = json.loads(module._ANSWERS.read_text(encoding="utf-8"))
    assert sorted(told["answers"]) == sorted(asked.names)
    reply = desk(["I forgot my PIN and typed it wrong three times, now it is blocked"])[0]
    assert reply.answered
    assert reply.intent == "pin_blocked"
    assert reply.answer == told["answers"]["pin_blocked"]
    far = desk(["How do I bake sourdough bread?"])[0]
    assert not far.answered
    assert far.answer == told["handed"]
    names = tuple(f"other_{name}?" for name in asked.names)
    other = Desk(asked._replace(names=names))
    assert other(["I forgot my PIN and typed it wrong three times, now it is blocked"])[0].answer == told[
        "template"
    ].format(intent="other pin blocked")


def test_the_nearest_are_the_nearest(desk: Desk, asked: Questions) -> None:
    vectors = Vectors()
    known, mine = vectors(asked.learn[0]), vectors(asked.test[0][:5])
    for text, row in zip(asked.test[0][:5], mine @ known.T, strict=True):
        near = desk([text])[0].near
        assert [one[2] for one in near] == pytest.approx(row.topk(3).values.tolist(), abs=1e-3)
        assert [one[0] for one in near] == [asked.learn[0][i] for i in row.topk(3).indices.tolist()]


def test_one_nearest_question_decides_alone(asked: Questions) -> None:
    desk = Desk(asked, DeskSettings(head="nearest", near=1))
    for reply in desk(asked.test[0][:20]):
        assert reply.intent == reply.near[0][1]
        assert reply.confidence == pytest.approx(reply.near[0][2], abs=1e-3)


@pytest.mark.parametrize("rule", RULES)
def test_k_tokens_are_read(rule: str, asked: Questions) -> None:
    vectors = Vectors(5, rule).fit(*asked.learn)
    found = vectors(["short", asked.test[0][0]])
    assert vectors.read == 4.0  # three and five
    assert found.norm(dim=-1).tolist() == pytest.approx([1, 1])
    torch.testing.assert_close(found[0], Vectors()(["short"])[0])  # a text that fits is read whole


def test_fewer_tokens_are_measured_as_fewer(asked: Questions) -> None:
    whole = Desk(asked).measure(timed=1)
    few = Desk(asked, DeskSettings(tokens=5)).measure(timed=1)
    assert few["tokens"] <= 5 < whole["tokens"]
    assert few["accuracy"] != whole["accuracy"]


def test_a_new_question_is_taught(asked: Questions, tmp_path: Path) -> None:
    new, answer = "Do you sell gold coins to customers?", "Yes, at the counter of every branch."
    with Store(tmp_path / "desk.sqlite") as store:
        desk = Desk(asked, store=store)
        assert desk([new])[0].answer != answer
        others = desk(asked.test[0])
        desk.teach(new, answer)
        reply = desk(["Do you sell gold coins to your customers?"])[0]
        assert (reply.answer, reply.answered, reply.intent) == (answer, True, "taught")
        assert desk(asked.test[0]) == others, "what is asked of other things is answered as before"
        assert store.counts("support") == {"asked": 2 * len(asked.test[0]) + 2, "taught": 1}
        assert set(store.read("support", "asked")[0].fields) == {"answered", "confidence"}
    with Store(tmp_path / "desk.sqlite", keep_texts=True) as store:
        again = Desk(asked, store=store)
        assert again([new])[0].answer == answer, "another process knows it, too"
        told = store.read("support", "asked")[-1].fields
        assert (told["question"], told["answer"], told["intent"]) == (new, answer, "taught")


@pytest.mark.slow
def test_the_fine_tuned_head(asked: Questions, tmp_path: Path) -> None:
    few = questions("embedded", examples=4, quiet=True)
    settings = DeskSettings(head="finetuned", examples=4, tokens=24)
    desk = Desk(few, settings, folder=tmp_path)
    replies = desk(few.learn[0])
    right = [r.intent == few.names[y] for r, y in zip(replies, few.learn[1], strict=True)]
    assert np.mean(right) > 0.8, "it knows what it learned from"
    assert desk.measure(timed=1)["accuracy"] > 0.5
    again = Desk(few, settings, folder=tmp_path)
    assert again(few.learn[0]) == replies, "what was trained is taken up"
    with pytest.raises(ValueError, match="holds a run with other settings"):
        Desk(few, replace(settings, tokens=12), folder=tmp_path)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"head": "oracle"}, "head must be one of logistic, prototype"),
        ({"head": "finetuned"}, "needs a folder for its model"),
        ({"near": 0}, "near must be"),
        ({"tokens": 2}, "tokens must be above 2, got 2: 2 of each text are special ones"),
        ({"selector": "gate"}, "the selector must be one of first"),
        ({"wrong": 1.5}, "wrong must be from 0 to below 1"),
    ],
)
def test_settings_that_are_none(changed: dict[str, Any], said: str, asked: Questions) -> None:
    with pytest.raises(ValueError, match=said):
        Desk(asked, replace(DeskSettings(), **changed))


def test_questions_that_are_none(desk: Desk) -> None:
    with pytest.raises(ValueError, match="question 1 is empty"):
        desk(["My card?", " \n"])
    with pytest.raises(ValueError, match="holds half a character"):
        desk(["\ud800"])
    with pytest.raises(TypeError, match="got one string"):
        desk("My card?")
    with pytest.raises(ValueError, match="one of them is empty"):
        desk.teach("My card?", " ")
    assert desk([]) == []
    for outside in (-0.1, 1.0):
        with pytest.raises(ValueError, match="outside must be a share"):
            questions("embedded", outside=outside)
    with pytest.raises(ValueError, match="examples must be"):
        questions("embedded", examples=0)


def test_no_questions_from_outside(asked: Questions) -> None:
    bank = questions("embedded", outside=0, quiet=True)
    assert OUTSIDE not in bank.test[1]
    assert Desk(bank).measure(timed=1)["outside_recall"] is None


def test_the_command(tmp_path: Path) -> None:
    words = ["app", "support", "--source", "embedded", "--examples", "3", "--json"]
    run = CliRunner().invoke(
        app, [*words, "--store", str(tmp_path / "s.sqlite")], input="Where is my card?\n\n"
    )
    assert run.exit_code == 0, run.output
    told = json.loads(run.output)
    assert told["question"] == "Where is my card?"
    assert len(told["near"]) == 3
    with Store(tmp_path / "s.sqlite") as store:
        assert store.counts("support") == {"asked": 1}
    run = CliRunner().invoke(app, [*words, "--measure"])
    assert json.loads(run.output)["data"]["n_train"] == 3 * 14
    plain = CliRunner().invoke(app, [word for word in [*words, "--measure"] if word != "--json"])
    assert "168" not in plain.output.split("accuracy")[1]
    assert "ms a question" in plain.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--head", "oracle", "x"], "head must be one of"),
        (["--source", "nowhere", "x"], "no folder 'nowhere'"),
        (["--keep-texts", "x"], "name it with --store FILE"),
        (["--source", "embedded", " "], "question 0 is empty"),
    ],
)
def test_the_command_refuses_in_a_sentence(words: list[str], said: str) -> None:
    run = CliRunner().invoke(app, ["app", "support", *words])
    assert run.exit_code == 2
    assert said in run.output
    assert "Traceback" not in run.output
