"""The opinion monitor: alarms as rare as was stated, surges found, and what it says to bad input."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest
from typer.testing import CliRunner

from topk_lib.apps.alarms import RULES, Calm, calm_of, statistics, threshold
from topk_lib.apps.monitor import Monitor, MonitorSettings
from topk_lib.cli import app

LIFT = 4.0
CALM = Calm(np.array([0.2, 0.5]), np.array([0.6, 0.4]))


def stream(seed: int, n: int, calm: Calm = CALM) -> tuple[np.ndarray, np.ndarray]:
    dice = np.random.default_rng(seed)
    topics = dice.choice(len(calm.often), size=n, p=calm.often)
    return dice.random(n) < calm.share[topics], topics


def ratios(p: float) -> dict[bool, float]:
    """Of an item that is not negative, and of one that is: odds four times as high against p."""
    odds = LIFT * p / (1 - p)
    q = odds / (1 + odds)
    return {False: (1 - q) / (1 - p), True: q / p}


def test_the_e_detector_is_a_sum_over_all_beginnings() -> None:
    flags, topics = stream(0, 60)
    found = statistics("e-detector", flags, topics, CALM, LIFT)
    for topic in (0, 1):
        mine = np.flatnonzero(topics == topic)
        weights = np.array([ratios(float(CALM.share[topic]))[bool(flag)] for flag in flags[mine]])
        for i, place in enumerate(mine):
            wanted = sum(weights[start : i + 1].prod() for start in range(i + 1))
            assert found[place] == pytest.approx(wanted)


def test_cusum_is_the_highest_sum_over_all_beginnings() -> None:
    flags, topics = stream(1, 60)
    found = statistics("cusum", flags, topics, CALM, LIFT)
    for topic in (0, 1):
        mine = np.flatnonzero(topics == topic)
        logs = np.log([ratios(float(CALM.share[topic]))[bool(flag)] for flag in flags[mine]])
        for i, place in enumerate(mine):
            wanted = max(0.0, *(logs[start : i + 1].sum() for start in range(i + 1)))
            assert found[place] == pytest.approx(wanted, abs=1e-12)


def test_the_window_by_hand() -> None:
    calm = Calm(np.array([0.2]), np.array([1.0]))
    flags = np.array([True] * 19 + [False] + [True] * 20)
    found = statistics("window", flags, np.zeros(40, dtype=int), calm, LIFT)
    assert found[:19].tolist() == [0.0] * 19, "not before the window is full"
    assert found[19] == pytest.approx((19 - 4) / np.sqrt(20 * 0.2 * 0.8))
    assert found[39] == pytest.approx((20 - 4) / np.sqrt(20 * 0.2 * 0.8))


def test_a_long_surge_overflows_nothing() -> None:
    ones = np.ones(5000, dtype=bool)
    for rule in RULES:
        assert np.isfinite(statistics(rule, ones, np.zeros(5000, dtype=int), CALM, LIFT)).all()


@pytest.mark.parametrize("share", [1.0, 0.7])
def test_false_alarms_are_as_rare_as_stated(share: float) -> None:
    """At the calm share itself, and where the truth is calmer still."""
    items, rate, trials = 300, 0.1, 400
    for rule in ("e-detector", "cusum"):
        at = threshold(rule, CALM, LIFT, items=items, false_alarm=rate)
        rang = 0
        for seed in range(trials):
            dice = np.random.default_rng(seed + 1000)
            topics = dice.choice(2, size=items, p=CALM.often)
            flags = dice.random(items) < share * CALM.share[topics]
            rang += bool((statistics(rule, flags, topics, CALM, LIFT) >= at).any())
        assert rang <= trials * rate + 3 * np.sqrt(trials * rate * (1 - rate)), rule
        if rule == "cusum" and share == 1:
            assert rang >= trials * rate - 3 * np.sqrt(trials * rate * (1 - rate)), "nor much rarer"


def test_a_topic_that_is_always_negative_never_rings() -> None:
    calm, ones = Calm(np.array([1.0]), np.array([1.0])), np.ones(400, dtype=bool)
    for rule in RULES:
        at = threshold(rule, calm, LIFT, items=400)
        assert (statistics(rule, ones, np.zeros(400, dtype=int), calm, LIFT) < at).all(), rule


def test_a_change_is_found() -> None:
    for rule in RULES:
        at = threshold(rule, CALM, LIFT, items=400)
        for seed in range(10):
            flags, topics = stream(seed, 400)
            changed = flags.copy()
            changed[200:][topics[200:] == 0] = (
                np.random.default_rng(seed).random((topics[200:] == 0).sum()) < 0.8
            )
            rang = np.flatnonzero((statistics(rule, changed, topics, CALM, LIFT) >= at) & (topics == 0))
            assert (rang >= 200).any(), rule


def test_the_threshold_is_what_was_proved() -> None:
    assert threshold("e-detector", CALM, LIFT, items=400, false_alarm=0.05) == pytest.approx(8000)
    assert threshold("window", CALM, LIFT, items=400) == 3


def test_calm_is_a_limit_that_holds_for_all_topics() -> None:
    flags, topics = stream(3, 500)
    found = calm_of(flags, topics, 3)
    for topic in (0, 1):
        mine = flags[topics == topic]
        limit = binomtest(int(mine.sum()), len(mine), alternative="less").proportion_ci(1 - 0.05 / 3, "exact")
        assert found.share[topic] == pytest.approx(limit.high)
        assert found.often[topic] == pytest.approx(len(mine) / 500)
    assert found.share[2] == 1.0, "of a topic never seen nothing is known"
    assert found.often[2] == 0


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"rule": "oracle"}, "the rule must be one of e-detector, cusum, window"),
        ({"lift": 1.0}, "lift must be above 1"),
        ({"false_alarm": 0.0}, "false_alarm must be between 0 and 1"),
        ({"items": 0}, "items must be at least 1"),
        ({"rule": "cusum", "false_alarm": 1e-4}, "take the e-detector"),
    ],
)
def test_rules_that_are_none(changed: dict[str, Any], said: str) -> None:
    given: dict[str, Any] = {"rule": "cusum", "lift": LIFT, "items": 20, "false_alarm": 0.05} | changed
    rule, lift = given.pop("rule"), given.pop("lift")

    def both() -> None:
        statistics(rule, [True], [0], CALM, lift)
        threshold(rule, CALM, lift, **given)

    with pytest.raises(ValueError, match=said):
        both()


def test_it_learns(monitor: Monitor) -> None:
    found = monitor.metrics
    assert found["accuracy"] > 1.5 * found["commonest"]
    words = Monitor("embedded", MonitorSettings(head="words"))
    assert words.metrics["accuracy"] > words.metrics["commonest"]
    assert words.metrics["tokens"] is None
    few = Monitor("embedded", MonitorSettings(tokens=6))
    assert few.metrics["tokens"] <= 6 < found["tokens"]


def test_opinions(monitor: Monitor) -> None:
    bad, good = monitor(
        ["Operating loss widened and sales fell sharply .", "Profit rose to a record level ."]
    )
    assert (bad.polarity, good.polarity) == ("negative", "positive")
    for one in (bad, good):
        assert sum(one.each.values()) == pytest.approx(1)
        assert one.probability == max(one.each.values()) == one.each[one.polarity]
        assert 0 <= one.topic < 5
    assert monitor([]) == []


def test_words_that_name_a_topic(monitor: Monitor) -> None:
    assert len(monitor.topic_names) == 5
    assert len({words[0] for words in monitor.topic_names}) == 5
    texts = [f"{words[0]} {words[1]}" for words in monitor.topic_names]
    assert sum(one.topic == topic for topic, one in enumerate(monitor(texts))) >= 3


def test_a_replay_is_in_order_and_says_what_is_planted(monitor: Monitor) -> None:
    negative = monitor.names.index("negative")
    topics = set()
    for seed in range(20):
        found = monitor.replay(seed)
        assert (np.diff(found.days) >= 0).all()
        assert found.days[-1] < monitor.settings.days
        assert found.planted.any()
        planted = found.rows[found.planted]
        assert (monitor.truth[planted] == negative).all()
        assert (monitor.topics[planted] == found.topic).all()
        assert 15 <= found.days[found.start] <= 26
        assert not found.planted[: found.start].any()
        calm = monitor.replay(seed, surge=False)
        assert (calm.topic, calm.start) == (None, len(calm.rows))
        assert len(calm.rows) == pytest.approx(400, abs=100)
        topics.add(found.topic)
    assert len(topics) > 1
    again = monitor.replay(3)
    assert np.array_equal(again.rows, monitor.replay(3).rows)
    assert not np.array_equal(again.rows[:50], monitor.replay(4).rows[:50])


def test_a_surge_is_found_and_shown(monitor: Monitor) -> None:
    found = 0
    for seed in range(10):
        replay = monitor.replay(seed)
        seen = monitor.watch(replay)
        for topic, place in seen.alarms.items():
            assert seen.statistic[place] >= seen.threshold
            assert seen.topics[place] == topic
            before = seen.statistic[:place][seen.topics[:place] == topic]
            assert (before < seen.threshold).all(), "the first one"
            shown = monitor.evidence(replay, topic, place, 3)
            assert [p for _, p in shown] == sorted((p for _, p in shown), reverse=True)
            rows = [monitor.texts.index(text) for text, _ in shown]
            assert rows, "an alarm has a reason"
            assert (monitor.topics[rows] == topic).all()
            assert monitor.flags[rows].all()
            assert set(rows) <= set(replay.rows[: place + 1].tolist())
        found += seen.alarms.get(-1 if replay.topic is None else replay.topic, -1) >= replay.start
    assert found >= 5


def test_replays_are_counted(monitor: Monitor) -> None:
    n = 30
    found = monitor.replays(n)
    assert list(found) == list(RULES)
    assert found["e-detector"]["false_alarms"] <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / n)
    assert found["e-detector"]["found"] >= 0.5
    rang = sum(
        bool(monitor.watch(monitor.replay(seed, surge=False), "window").alarms) for seed in range(n, 2 * n)
    )
    assert found["window"]["false_alarms"] == pytest.approx(rang / n)
    days = []
    for seed in range(n):
        replay = monitor.replay(seed)
        assert replay.topic is not None
        place = monitor.watch(replay, "cusum").alarms.get(replay.topic, -1)
        if place >= replay.start:
            days.append(replay.days[place] - replay.days[replay.start])
    assert found["cusum"]["found"] == pytest.approx(len(days) / n)
    assert found["cusum"]["delay_days"] == pytest.approx(np.median(days))
    for one in found.values():
        assert one["false_alarms_low"] <= one["false_alarms"] <= one["false_alarms_high"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"head": "oracle"}, "head must be one of vectors, words"),
        ({"topics": 0}, "topics must be"),
        ({"topics": 100_000}, "topics must be"),
        ({"words": 0}, "words must be"),
        ({"days": 3}, "days must be"),
        ({"extra": 0.0}, "per_day and extra must be above 0"),
        ({"tokens": 1}, "tokens must be above 2"),
    ],
)
def test_settings_that_are_none(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Monitor("embedded", replace(MonitorSettings(), **changed))


def test_sentences_that_are_none(monitor: Monitor) -> None:
    with pytest.raises(ValueError, match="sentence 0 is empty"):
        monitor([" "])
    with pytest.raises(TypeError, match="got one string"):
        monitor("Profit rose .")


def test_the_command() -> None:
    words = ["app", "monitor", "--source", "embedded", "--json"]
    run = CliRunner().invoke(app, [*words, "Profit fell to EUR 2 million ."])
    assert run.exit_code == 0, run.output
    assert json.loads(run.output)["polarity"] == "negative"
    told = json.loads(CliRunner().invoke(app, [*words, "--seed", "1"]).output)
    assert 15 <= told["surge"]["day"] <= 26
    assert json.loads(CliRunner().invoke(app, [*words, "--calm"]).output)["surge"] is None
    plain = CliRunner().invoke(app, [*words[:-1], "--seed", "1"])
    assert f"planted from day {told['surge']['day']} on" in plain.output
    counted = CliRunner().invoke(app, [*words, "--replays", "3"])
    assert set(json.loads(counted.output)) == set(RULES)
    bad = CliRunner().invoke(app, [*words, "--rule", "oracle"])
    assert bad.exit_code == 2
    assert "the rule must be one of" in bad.output
