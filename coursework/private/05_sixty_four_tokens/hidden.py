"""Hidden checks of assignment 5: keeping k, a rule of one's own, two methods, the protocol, the report."""

from __future__ import annotations

import functools
import json
import math
import os
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.stats import t as student
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from topk_lib.data import load_reviews
from topk_lib.grading import Answer, Draw, expect, hidden

Texts = list[list[str]]
Split = dict[str, list[Any]]
_SPECIAL = ("[CLS]", "[SEP]")


def _keep(
    tokens: Sequence[str], scores: Sequence[float], k: int, special: Sequence[str] = _SPECIAL
) -> list[int]:
    """The definition."""

    def rank(i: int) -> tuple[bool, float, int]:
        return tokens[i] not in special, math.inf if math.isnan(scores[i]) else -scores[i], i

    return sorted(sorted(range(len(tokens)), key=rank)[:k])


def _words(text: str) -> list[str]:
    return ["[CLS]", *re.findall(r"[a-z0-9]+(?:'[a-z]+)?|[^\sa-z0-9]", text.lower()), "[SEP]"]


# keep


def _kept(answer: Answer, tokens: list[str], scores: list[float], k: int, *special: Sequence[str]) -> None:
    got, want = answer(tokens, scores, k, *special), _keep(tokens, scores, k, *special)
    named = f"and special = {special[0]} " if special else ""
    expect(
        [int(i) for i in got] == want,
        f"for {tokens} with the scores {scores}, k = {k} {named}the positions are {want}, yours {list(got)}",
    )


def _text(draw: Draw, n: int) -> list[str]:
    return ["[CLS]", *("abcdefgh"[i] for i in draw.rng.integers(0, 8, n)), "[SEP]"]


@hidden("keep", points=3, about="ties and order")
def equal_scores_keep_the_lowest_positions(answer: Answer, draw: Draw) -> None:
    """The k highest, of equal scores those at the lowest positions, in the order of the text."""
    for n in (6, 9, 14):
        tokens = _text(draw, n)
        scores = draw.tensor(n + 2, low=-3, high=1).tolist()
        for k in (3, 5, n):
            _kept(answer, tokens, scores, k)


@hidden("keep", points=2, about="special tokens")
def special_tokens_are_pinned_wherever_they_stand(answer: Answer, draw: Draw) -> None:
    """Every special token is read, inside the text too, whatever its score, and counts among the k."""
    tokens = ["[CLS]", "a", "b", "[SEP]", "c", "d", "e", "[SEP]"]
    scores = [float(x) for x in draw.rng.permutation(8) - 3]
    scores[3], scores[7] = -1e30, -math.inf
    for k in (3, 4, 6):
        _kept(answer, tokens, scores, k)
    own = ["<s>", "x", "y", "z", "</s>", "[CLS]"]
    _kept(answer, own, [-9.0, 1.0, 3.0, 2.0, -9.0, -8.0], 4, ["<s>", "</s>"])
    _kept(answer, ["a", "b", "c", "d"], [-math.inf, -2.0, math.inf, math.inf], 2)


@hidden("keep", points=2, about="NaN and infinity")
def nan_comes_last_and_inf_first(answer: Answer, draw: Draw) -> None:
    """NaN counts as -inf; inf stands below a pinned token; -inf is read where there is room."""
    odd = [math.nan, math.inf, -math.inf, 1.0, -2.0, math.nan, -math.inf, math.inf]
    scores = [0.0, *(odd[i] for i in draw.rng.permutation(8)), -math.inf]
    tokens = _text(draw, 8)
    for k in (2, 3, 4, 5, 6, 7, 8, 9):
        _kept(answer, tokens, scores, k)
    rising = [0.0, math.nan, *sorted(float(x) for x in draw.rng.normal(size=3)), 0.0]
    for k in (3, 4, 5):  # a NaN in front of rising scores, where a sort leaves it
        _kept(answer, _text(draw, 4), rising, k)


@hidden("keep", points=2, about="short texts")
def a_short_text_is_read_whole(answer: Answer, draw: Draw) -> None:
    """A text of k tokens or fewer is read whole; of an empty text nothing is read."""
    for n in (1, 3):
        scores = [-math.inf, *(float(x) for x in draw.rng.normal(size=n)), math.nan]
        for k in (n + 2, n + 3, 64):
            _kept(answer, _text(draw, n), scores, k)
    _kept(answer, ["[CLS]", "[SEP]"], [0.0, 0.0], 2)
    _kept(answer, [], [], 5)


@hidden("keep", points=2, about="refusals and length")
def what_cannot_be_kept_is_refused(answer: Answer, draw: Draw) -> None:
    """ValueError for k = 0, k below the special tokens, missing scores; 20,000 tokens in the time."""
    n = draw.integer(3, 7)
    tokens, scores = _text(draw, n), [0.0] * (n + 2)
    for k in (0, -1, 1):
        answer.raises(ValueError, tokens, scores, k)
    answer.raises(ValueError, ["a", "b"], [1.0, 2.0], 0)
    answer.raises(ValueError, ["[CLS]", "a", "[SEP]", "b", "[SEP]"], [0.0] * 5, 2)
    answer.raises(ValueError, tokens, scores[:-1], 3)
    long = ["[CLS]"] + ["w"] * 20_000
    high = draw.rng.permutation(20_001).astype(float).tolist()
    expect(
        [int(i) for i in answer(long, high, 10_000)] == _keep(long, high, 10_000),
        "of a text of 20,000 tokens with different scores other positions are kept than the 10,000 highest",
    )


# fit, scores, settings


def _checked_scores(got: Any, texts: Texts) -> list[list[float]]:
    expect(len(got) == len(texts), f"for {len(texts)} texts scores gives {len(got)} lists")
    rows = [[float(x) for x in row] for row in got]
    for row, tokens in zip(rows, texts, strict=True):
        expect(
            len(row) == len(tokens), f"a text of {len(tokens)} tokens got {len(row)} scores: {tokens[:12]}"
        )
        expect(all(map(math.isfinite, row)), f"not all scores of {tokens[:12]} are finite: {row[:12]}")
    return rows


def _state(answer: Answer, texts: Texts, labels: list[int], *setting: Any) -> dict[str, Any]:
    state = answer(texts, labels, *setting)
    expect(isinstance(state, dict), f"the state is a {type(state).__name__}, not a dict")
    try:
        again = json.loads(json.dumps(state))
    except (TypeError, ValueError) as error:
        expect(False, f"json.dumps does not take the state: {error}")
    expect(again == state, "the state changes when it is written to JSON and read again")
    return dict(again)


def _telling(answer: Answer, state: dict[str, Any], texts: Texts, word: str, k: int) -> None:
    rows = _checked_scores(answer.other("scores")(texts, state), texts)
    kept = [any(t[i] == word for i in _keep(t, row, k)) for t, row in zip(texts, rows, strict=True)]
    expect(
        np.mean(kept) >= 0.9,
        f"the telling word {word} is kept in {np.mean(kept):.0%} of {len(texts)} new texts at k = {k}; "
        f"90% is asked for",
    )


def _planted(draw: Draw, tokens: list[str], word: str) -> list[str]:
    place = draw.integer(1, len(tokens))
    return [*tokens[:place], word, *tokens[place:]]


@hidden("fit", points=4, about="both sides, real reviews")
def both_telling_words_are_kept(answer: Answer, draw: Draw) -> None:
    """In the course's reviews, a word planted for each class is kept at k = 16 in 90% of new reviews."""
    train = load_reviews("embedded", split="train", quiet=True)
    fresh = load_reviews("embedded", split="test", quiet=True)
    pair = [str(word) for word in draw.rng.permutation(["quillon", "brask", "vunder", "teslow"])[:2]]
    texts = [_words(text) for text in train["text"]]
    labels = [int(label) for label in train["label"]]
    for side, word in enumerate(pair):
        for i, label in enumerate(labels):
            if draw.rng.random() < (0.6 if label == side else 0.03):
                texts[i] = _planted(draw, texts[i], word)
    state = _state(answer, texts, labels)
    for word in pair:
        _telling(answer, state, [_planted(draw, _words(t), word) for t in fresh["text"]], word, 16)


def _idle(draw: Draw, n: int = 30) -> list[str]:
    return ["[CLS]", *(f"w{i}" for i in draw.rng.integers(0, 60, n)), "[SEP]"]


@hidden("fit", points=3, about="unequal classes")
def a_large_class_misleads_nobody(answer: Answer, draw: Draw) -> None:
    """Of 320 positive and 80 negative texts both telling words are found at k = 6."""
    labels = [int(x) for x in draw.rng.permutation([1] * 320 + [0] * 80)]
    pair = ("sour", "sweet")
    texts = [_idle(draw) for _ in labels]
    for i, label in enumerate(labels):
        if draw.rng.random() < 0.6:
            texts[i] = _planted(draw, texts[i], pair[label])
    state = _state(answer, texts, labels)
    for word in pair:
        _telling(answer, state, [_planted(draw, _idle(draw), word) for _ in range(60)], word, 6)


@hidden("fit", points=3, about="names")
def a_name_of_one_text_is_no_evidence(answer: Answer, draw: Draw) -> None:
    """A name that one text repeats ten times does not beat a word of 54 texts against 6."""
    side = draw.integer(0, 2)
    labels = [side] * 100 + [1 - side] * 100
    texts = [_idle(draw, 20) for _ in labels]
    names = [f"name{i}" for i in range(40)]
    for i in (*range(54), *range(100, 106)):
        texts[i] = _planted(draw, texts[i], "telling")
    for i, name in zip(draw.rng.choice(200, 40, replace=False), names, strict=True):
        for _ in range(10):
            texts[i] = _planted(draw, texts[i], name)
    order = draw.rng.permutation(200)
    state = _state(answer, [texts[i] for i in order], [labels[i] for i in order])
    new = [
        ["[CLS]", *(str(w) for w in draw.rng.permutation([name, "telling", "w7"])), "[SEP]"] for name in names
    ]
    _telling(answer, state, new, "telling", 3)


def _small(draw: Draw) -> tuple[Texts, list[int]]:
    texts = [[*_idle(draw, 12), "good" if i % 2 else "bad"] for i in range(40)]
    return texts, [i % 2 for i in range(40)]


@hidden("fit", points=3, about="the state and nothing else")
def scores_hang_on_text_and_state_alone(answer: Answer, draw: Draw) -> None:
    """One state gives a text the same scores: in other company, later, in a new process, fitted again."""
    texts, labels = _small(draw)
    state, new = _state(answer, texts, labels), [_idle(draw, 9) for _ in range(6)]
    scores = answer.other("scores")
    first = _checked_scores(scores(new, state), new)

    def same(rows: list[list[float]], when: str) -> None:
        for a, b in zip(first, rows, strict=True):
            expect(np.allclose(a, b, atol=1e-6), f"{when}, a text gets the scores {b}, and {a} at first")

    same([_checked_scores(scores([t], state), [t])[0] for t in new], "alone instead of among others")
    same(_checked_scores(scores(new[::-1], state), new[::-1])[::-1], "in another order of the texts")
    answer([["[CLS]", "w1", "w2"], ["[CLS]", "w3"]] * 3, [1, 0] * 3)
    same(_checked_scores(scores(new, state), new), "after fit was called on other texts")
    fresh = answer.fresh()
    same(_checked_scores(fresh.other("scores")(new, state), new), "in a new process")
    same(_checked_scores(scores(new, _state(fresh, texts, labels)), new), "fitted again in a new process")


@hidden("fit", points=3, about="odd texts and refusals")
def unseen_and_empty_texts_are_scored(answer: Answer, draw: Draw) -> None:
    """Unseen types and empty texts are scored; one class alone, or a missing label, is a ValueError."""
    texts, labels = _small(draw)
    state = _state(answer, texts, labels)
    odd = [["[CLS]", "never", "heard", "never", "[SEP]"], [], ["good"], ["[CLS]", "[SEP]"], ["bad"] * 30]
    _checked_scores(answer.other("scores")(odd, state), odd)
    expect(list(answer.other("scores")([], state)) == [], "for no texts scores gives no lists")
    answer.raises(ValueError, texts, labels[:-1])
    answer.raises(ValueError, texts, [1] * len(texts))
    answer.raises(ValueError, texts, [0] * len(texts))


@hidden("fit", points=3, about="settings")
def every_setting_works(answer: Answer, draw: Draw) -> None:
    """From 2 to 12 settings, no two alike; each makes a state that scores, and not all score alike."""
    found = answer.other("settings")()
    expect(2 <= len(found) <= 12, f"{len(found)} settings; from 2 to 12 are asked for")
    written = []
    for setting in found:
        expect(isinstance(setting, dict), f"the setting {setting!r} is no dict")
        try:
            written.append(json.dumps(setting, sort_keys=True))
        except (TypeError, ValueError):
            expect(False, f"JSON cannot hold the setting {setting}")
    expect(len(set(written)) == len(written), f"two settings are alike: {found}")
    texts, labels = _small(draw)
    new = [[*_idle(draw, 14), "good", "good", "bad", "unheard"] for _ in range(4)]
    made = []
    for setting in found:
        state = _state(answer, texts, labels, setting)
        made.append(_checked_scores(answer.other("scores")(new, state), new))
    expect(
        any(not np.allclose(a, b, atol=1e-9) for m in made for a, b in zip(m, made[0], strict=True)),
        "all your settings give the same scores: fit does not look at its setting",
    )


# paired


def _paired(first: Any, second: Any, comparisons: int = 1) -> dict[str, Any]:
    """The definition."""
    gaps = np.array(first, float) - np.array(second, float)
    seeds, n = gaps.shape
    mean = float(gaps.mean())
    parts = [(float(gaps.mean(0).var(ddof=1)) / n, n - 1)]
    if seeds > 1:
        parts.append((float(gaps.mean(1).var(ddof=1)) / seeds, seeds - 1))
    v, reach = sum(x for x, _ in parts), 0.0
    if v > 1e-20:
        nu = v**2 / sum(x**2 / free for x, free in parts)
        reach = float(student.ppf(1 - 0.025 / comparisons, nu)) * v**0.5
    return {"difference": mean, "low": mean - reach, "high": mean + reach, "by_seed": gaps.mean(1).tolist()}


def _answers(draw: Draw, seeds: int, n: int, rate: float) -> list[list[bool]]:
    hard = draw.rng.random(n) ** (1 / rate - 1)
    return [[bool(x) for x in draw.rng.random(n) < hard] for _ in range(seeds)]


def _compared(answer: Answer, first: Any, second: Any, *comparisons: int) -> dict[str, Any]:
    got, want = answer(first, second, *comparisons), _paired(first, second, *comparisons)
    what = (
        f"{len(first)} seeds, {len(first[0])} reviews, comparisons = {comparisons[0] if comparisons else 1}"
    )
    for key in ("difference", "low", "high"):
        expect(
            abs(float(got[key]) - want[key]) < 1e-6,
            f"{what}: {key} is {want[key]:.6f}, yours {float(got[key]):.6f}",
        )
    expect(
        np.allclose(got["by_seed"], want["by_seed"], atol=1e-6),
        f"{what}: by_seed is {want['by_seed']}, yours {got['by_seed']}",
    )
    beyond = want["low"] > 1e-9 or want["high"] < -1e-9
    expect(
        bool(got["beyond"]) == beyond,
        f"{what}: from {want['low']:.4f} to {want['high']:.4f} beyond is {beyond}",
    )
    return want


@hidden("paired", points=4, about="two sources of chance")
def the_interval_knows_reviews_and_seeds(answer: Answer, draw: Draw) -> None:
    """Difference and interval with both variances and their degrees of freedom."""
    for seeds, n, better in ((3, 40, 0.6), (3, 200, 0.9), (5, 25, 0.3)):
        _compared(answer, _answers(draw, seeds, n, better), _answers(draw, seeds, n, 0.5))


@hidden("paired", points=3, about="several comparisons")
def the_level_is_shared(answer: Answer, draw: Draw) -> None:
    """The level is 0.05 divided by the number of comparisons."""
    first, second = _answers(draw, 3, 60, 0.7), _answers(draw, 3, 60, 0.5)
    for comparisons in (2, 12):
        _compared(answer, first, second, comparisons)


@hidden("paired", points=3, about="no variance")
def one_seed_and_equal_answers(answer: Answer, draw: Draw) -> None:
    """One seed has no variance of seeds; with no variance at all the interval is a point."""
    _compared(answer, _answers(draw, 1, 30, 0.8), _answers(draw, 1, 30, 0.4))
    right = _answers(draw, 3, 20, 0.6)
    _compared(answer, right, right)
    yes, no = [[True] * 5] * 3, [[False] * 5] * 3
    _compared(answer, yes, no)
    _compared(answer, no, yes)
    _compared(answer, [right[0]] * 3, [right[1]] * 3)


@hidden("paired", points=3, about="sides and refusals")
def the_other_side_and_refusals(answer: Answer, draw: Draw) -> None:
    """Changing sides changes signs; beyond holds on both sides; what has no pairs is refused."""
    n = draw.integer(60, 90)
    strong = [[bool(x) for x in draw.rng.random(n) < 0.95] for _ in range(3)]
    weak = [[bool(x) for x in draw.rng.random(n) < 0.1] for _ in range(3)]
    expect(_compared(answer, strong, weak)["low"] > 0, "the draw was to have a clear winner")
    _compared(answer, weak, strong)
    answer.raises(ValueError, strong, weak[:2])
    answer.raises(ValueError, strong, [row[:-1] for row in weak])
    answer.raises(ValueError, [strong[0], strong[1][:-1], strong[2]], weak)
    answer.raises(ValueError, [], [])
    answer.raises(ValueError, [[True]] * 3, [[False]] * 3)
    answer.raises(ValueError, strong, weak, 0)


# protocol


def _split(draw: Draw, name: str, n: int) -> Split:
    texts = [f"{name} {i}: " + " ".join(f"v{j}" for j in draw.rng.integers(0, 999, 3)) for i in range(n)]
    ones = draw.integer(n // 3, n // 2)
    return {"texts": texts, "labels": [int(x) for x in draw.rng.permutation([1] * ones + [0] * (n - ones))]}


class _Spy:
    """A run that gets a drawn share of each split right, for each setting and seed, and notes its calls."""

    def __init__(self, draw: Draw, settings: Sequence[Any]) -> None:
        self.splits: dict[str, Split] = {
            name: _split(draw, name, n) for name, n in (("train", 40), ("dev", 24), ("test", 20))
        }
        self.settings, self.calls = list(settings), list[tuple[Any, list[str], list[int], list[str], int]]()
        self.said: dict[str, list[int]] = {}
        self.draw, self.rates = draw, draw.rng.permutation(len(settings))

    def __call__(
        self, setting: Any, texts: list[str], labels: list[int], judged: list[str], seed: int
    ) -> list[int]:
        self.calls.append((setting, list(texts), [int(x) for x in labels], list(judged), int(seed)))
        shuffled = [int(x) for x in labels] != self.splits["train"]["labels"]
        key = json.dumps([setting, shuffled, list(judged), int(seed)])
        if key not in self.said:
            truth = dict(
                zip(
                    *(self.splits["dev"][x] + self.splits["test"][x] for x in ("texts", "labels")),
                    strict=True,
                )
            )
            rate = 0.6 if setting == "first" or shuffled else self.rate(setting, judged)
            self.said[key] = [
                truth.get(t, 0) if self.draw.rng.random() < rate else 1 - truth.get(t, 0) for t in judged
            ]
        return self.said[key]

    def rate(self, setting: Any, judged: list[str]) -> float:
        place = int(self.rates[self.settings.index(setting)]) / max(1, len(self.settings) - 1)
        return 0.5 + 0.4 * (1 - place if judged == self.splits["test"]["texts"] else place)

    def hits(self, setting: Any, split: str, seed: int, shuffled: bool = False) -> list[bool]:
        key = json.dumps([setting, shuffled, self.splits[split]["texts"], seed])
        labels = " and shuffled labels" * shuffled
        expect(
            key in self.said, f"the setting {setting} was never run with the seed {seed}{labels} on {split}"
        )
        return [a == b for a, b in zip(self.said[key], self.splits[split]["labels"], strict=True)]

    def fix(self, setting: Any, seed: int, right: int) -> None:
        """So many answers to dev will be right."""
        key = json.dumps([setting, False, self.splits["dev"]["texts"], seed])
        self.said[key] = [x if i < right else 1 - x for i, x in enumerate(self.splits["dev"]["labels"])]


def _settings(draw: Draw, n: int) -> list[dict[str, Any]]:
    return [{"prior": float(x), "copies": bool(x % 2)} for x in draw.rng.permutation(50)[:n]]


def _run(answer: Answer, spy: _Spy, seeds: Sequence[int]) -> dict[str, Any]:
    return dict(answer(*(dict(s) for s in spy.splits.values()), spy.settings, spy, list(seeds)))


@hidden("protocol", points=4, about="copies")
def a_copy_in_two_splits_is_refused(answer: Answer, draw: Draw) -> None:
    """Texts that differ in case, signs and blanks alone are copies; with one in two splits nothing is run."""
    for earlier, later in (("train", "test"), ("train", "dev"), ("dev", "test")):
        spy = _Spy(draw, _settings(draw, 2))
        n = draw.integer(2, 5)
        for i, j in enumerate(draw.rng.choice(20, n, replace=False)):
            text = spy.splits[earlier]["texts"][j]
            changed = (text.upper() + "!", f"  {text.replace(' ', ', ')}", text)[i % 3]
            spy.splits[later]["texts"][int(j)] = changed
        said = answer.raises(ValueError, *spy.splits.values(), spy.settings, spy, [0, 1, 2])
        expect(not spy.calls, f"{n} texts of {later} have a copy in {earlier}: run must not be called at all")
        said = said.lower()
        expect(
            all(re.search(rf"\b{part}\b", said) for part in (earlier, later, str(n))),
            f"{n} texts of {later} have a copy in {earlier}: the sentence names both and {n}; yours: {said}",
        )
    spy = _Spy(draw, _settings(draw, 2))
    spy.splits["train"]["texts"][1] = spy.splits["train"]["texts"][0]
    _run(answer, spy, [0, 1, 2])


@hidden("protocol", points=3, about="the choice")
def the_setting_is_chosen_on_dev(answer: Answer, draw: Draw) -> None:
    """Chosen is the best mean on dev, the first of equal ones, whatever the test says."""
    for n in (3, 5):
        spy = _Spy(draw, _settings(draw, n))
        seeds = [int(x) for x in draw.rng.permutation(30)[:3]]
        got = _run(answer, spy, seeds)
        for setting in spy.settings:
            for seed in seeds:
                expect(
                    any(
                        c[0] == setting and c[4] == seed and c[3] == spy.splits["dev"]["texts"]
                        for c in spy.calls
                    ),
                    f"the setting {setting} was not judged on dev with the seed {seed}",
                )
        means = [float(np.mean([spy.hits(s, "dev", i) for i in seeds])) for s in spy.settings]
        expect(np.allclose(got["dev"], means), f"dev is {means}, yours {got['dev']}")
        best = [s for s, m in zip(spy.settings, means, strict=True) if m > max(means) - 1e-9]
        expect(got["chosen"] in best, f"dev has {means}: chosen is {best[0]}, yours {got['chosen']}")
        expect(got["tried"] == n, f"{n} settings were tried, yours says {got['tried']}")
        expect(sorted(got["seeds"]) == sorted(seeds), f"the seeds are {seeds}, yours {got['seeds']}")
    for lucky, steady, which in (((24, 10, 10), 18, 1), ((10, 10, 24), 18, 1), ((12, 15, 18), 15, 0)):
        spy = _Spy(draw, _settings(draw, 2))
        for seed in range(3):
            spy.fix(spy.settings[0], seed, lucky[seed])
            spy.fix(spy.settings[1], seed, steady)
        got = _run(answer, spy, range(3))
        expect(
            got["chosen"] == spy.settings[which],
            f"of 24 dev texts the first setting has {lucky} right with three seeds, the second {steady} with "
            f"each: the {('first', 'second')[which]} is chosen",
        )


@hidden("protocol", points=4, about="who sees what")
def test_is_seen_once(answer: Answer, draw: Draw) -> None:
    """Test is judged by the chosen setting and "first" alone, once a seed; training sees train alone."""
    spy = _Spy(draw, _settings(draw, 4))
    seeds = [int(x) for x in draw.rng.permutation(30)[:3]]
    got = _run(answer, spy, seeds)
    tests = {"chosen": list[int](), "first": list[int]()}
    for setting, texts, labels, judged, seed in spy.calls:
        expect(
            texts == spy.splits["train"]["texts"],
            "run was trained on other texts than those of train, in their order",
        )
        expect(
            sorted(labels) == sorted(spy.splits["train"]["labels"]),
            "run got other labels than those of train",
        )
        if judged == spy.splits["dev"]["texts"]:
            continue
        expect(judged == spy.splits["test"]["texts"], "run judged other texts than all of dev or all of test")
        expect(
            labels == spy.splits["train"]["labels"], "a run that judges test was trained on shuffled labels"
        )
        role = "first" if setting == "first" else "chosen"
        expect(setting in ("first", got["chosen"]), f"test was judged with {setting}, which was not chosen")
        tests[role].append(seed)
    for role, found in tests.items():
        expect(
            sorted(found) == sorted(seeds),
            f"{role} judges test once with each of {seeds}, yours with {found}",
        )
    expect(len(spy.calls) <= 7 * 3, f"4 settings and 3 seeds need 21 calls of run, you made {len(spy.calls)}")


@hidden("protocol", points=3, about="the control")
def the_control_learns_from_shuffled_labels(answer: Answer, draw: Draw) -> None:
    """The control is the chosen setting, judged on dev, with a permutation of the labels for each seed."""
    spy = _Spy(draw, _settings(draw, 3))
    seeds = [int(x) for x in draw.rng.permutation(30)[:4]]
    got = _run(answer, spy, seeds)
    truth = spy.splits["train"]["labels"]
    found = [c for c in spy.calls if c[2] != truth]
    expect(len(found) == 4, f"with 4 seeds 4 runs have shuffled labels, yours {len(found)}")
    for setting, _, labels, judged, _ in found:
        expect(setting == got["chosen"], f"the control runs the chosen setting, yours {setting}")
        expect(judged == spy.splits["dev"]["texts"], "the control is judged on dev")
        expect(sorted(labels) == sorted(truth), "shuffled labels are a permutation of the labels of train")
        expect(np.mean(np.array(labels) == truth) < 0.9, f"the labels {truth} are hardly shuffled: {labels}")
    expect(sorted(c[4] for c in found) == sorted(seeds), "the control runs once with each seed")
    expect(len({tuple(c[2]) for c in found}) > 1, "each seed has the same permutation of the labels")
    right = [float(np.mean(spy.hits(got["chosen"], "dev", seed, shuffled=True))) for seed in seeds]
    expect(np.allclose(got["control"], right), f"control is {right}, yours {got['control']}")


@hidden("protocol", points=3, about="the results")
def the_results_are_what_was_found(answer: Answer, draw: Draw) -> None:
    """Which test texts were right, for each seed, and how many texts and commonest labels there are."""
    spy = _Spy(draw, _settings(draw, 3))
    seeds = [int(x) for x in draw.rng.permutation(30)[:3]]
    got = _run(answer, spy, seeds)
    for key, setting in (("right", got["chosen"]), ("first", "first")):
        right = [spy.hits(setting, "test", seed) for seed in seeds]
        expect([[bool(x) for x in row] for row in got[key]] == right, f"{key} is {right}, yours {got[key]}")
    for key, name in (("dev_", "dev"), ("", "test")):
        labels = spy.splits[name]["labels"]
        share = max(labels.count(c) for c in (0, 1)) / len(labels)
        expect(
            got[f"{key}reviews"] == len(labels),
            f"{name} has {len(labels)} texts, yours {got[f'{key}reviews']}",
        )
        expect(
            abs(got[f"{key}commonest"] - share) < 1e-9,
            f"of the labels {labels} the commonest is {share:.3f}, yours {got[f'{key}commonest']}",
        )


@hidden("protocol", points=2, about="refusals")
def a_plan_that_proves_nothing_is_refused(answer: Answer, draw: Draw) -> None:
    """Two seeds, a seed twice, no setting, an empty split or a missing label: ValueError before any run."""
    spy = _Spy(draw, _settings(draw, 2))
    train, dev, test = spy.splits.values()

    def refused(what: str, *args: Any) -> None:
        answer.raises(ValueError, *args)
        expect(not spy.calls, f"{what}: run must not be called")

    refused("two seeds", train, dev, test, spy.settings, spy, [0, 1])
    refused("a seed twice", train, dev, test, spy.settings, spy, [0, 1, 1])
    refused("four seeds, one twice", train, dev, test, spy.settings, spy, [0, 1, 2, 2])
    refused("no setting", train, dev, test, [], spy, [0, 1, 2])
    short = {"texts": test["texts"], "labels": test["labels"][:-1]}
    refused("a missing label", train, dev, short, spy.settings, spy, [0, 1, 2])
    refused("an empty split", train, {"texts": [], "labels": []}, test, spy.settings, spy, [0, 1, 2])


# report

_CLAIMS = re.compile(r"\b(better|best|beat|win|won|improv|outperform|superior)", re.IGNORECASE)


def _results(draw: Draw, *, seeds: int = 3, right: float = 0.75, first: float = 0.6, commonest: float = 0.55,
             control: float = 0.5) -> dict[str, Any]:  # fmt: skip
    n = draw.choice(
        [83, 89, 97, 107, 113, 127, 139, 149, 167, 199]
    )  # primes: no share is between two roundings
    made = {
        key: [[bool(x) for x in draw.rng.permutation(n) < round(rate * n)] for _ in range(seeds)]
        for key, rate in (("right", right), ("first", first))
    }
    tried = draw.integer(2, 12)
    return {
        "chosen": {"prior": 1.0}, "tried": tried, "seeds": list(range(seeds)), "dev": [0.6] * tried,
        "control": [control + 0.01 * (i - (seeds - 1) / 2) for i in range(seeds)],
        "dev_reviews": 100, "reviews": n, "dev_commonest": 0.5, "commonest": commonest, **made,
    }  # fmt: skip


def _interval(results: dict[str, Any], reach: float) -> dict[str, Any]:
    """A comparison as paired gives it, with an interval of our own making."""
    by_seed = (np.mean(results["right"], 1) - np.mean(results["first"], 1)).tolist()
    mean = float(np.mean(by_seed))
    return {
        "difference": mean,
        "low": mean - reach,
        "high": mean + reach,
        "by_seed": by_seed,
        "beyond": abs(mean) > reach,
    }


def _reported(answer: Answer, draw: Draw, results: dict[str, Any], reach: float, verdict: str,
              warnings: Sequence[str] = ()) -> None:  # fmt: skip
    versus = _interval(results, reach)
    source, k = draw.choice(["IMDB", "letters from Lagos", "the course's reviews"]), draw.integer(8, 99)
    got = answer(results, versus, source, k)
    seeds, n = len(results["right"]), results["reviews"]
    accuracy, baseline = float(np.mean(results["right"])), float(np.mean(results["first"]))
    found = (
        f"{seeds} seeds, accuracy {accuracy:.4f}, first {baseline:.4f}, common {results['commonest']:.3f}, "
        f"interval {versus['low']:+.4f} to {versus['high']:+.4f}, control {np.mean(results['control']):.3f} "
        "of 100 dev reviews"
    )
    expect(got["verdict"] == verdict, f"{found}: the verdict is {verdict!r}, yours {got['verdict']!r}")
    for key, value in (("accuracy", accuracy), ("baseline", baseline)):
        expect(abs(got[key] - value) < 1e-6, f"{found}: {key} is {value:.6f}, yours {got[key]}")
    expect(
        sorted(got["warnings"]) == sorted(warnings),
        f"{found}: the warnings are {warnings}, yours {got['warnings']}",
    )
    text = got["text"]
    expect(len(text) <= 1000, f"the text has {len(text)} characters, 1,000 are allowed")
    parts = [
        verdict, source, f"k = {k}", f"{results['tried']} settings", f"{seeds} seed{'s' * (seeds > 1)}",
        f"{n} test reviews", *(f"{100 * x:.1f}%" for x in (accuracy, baseline, results["commonest"])),
        f"{100 * versus['difference']:+.1f} points",
        f"{100 * versus['low']:+.1f} to {100 * versus['high']:+.1f}", *warnings,
    ]  # fmt: skip
    for part in parts:
        expect(part in text, f"{found}: the text lacks {part!r}: {text}")
    claim = _CLAIMS.search(text) if verdict != "better" else None
    expect(
        claim is None,
        f"{found}: the verdict is {verdict!r}, and the text says {claim and claim[0]!r}: {text}",
    )


@hidden("report", points=3, about="not beyond chance")
def chance_is_not_called_better(answer: Answer, draw: Draw) -> None:
    """A lead or a loss whose interval holds 0 is not decided, and the text has no word of victory."""
    results = _results(draw, right=0.66, first=0.6)
    _reported(answer, draw, results, 0.1, "not decided")
    results = _results(draw, right=0.6, first=0.64)
    _reported(answer, draw, results, 0.1, "not decided")
    results = _results(draw, right=0.7, first=0.7)
    _reported(answer, draw, results, 0.0, "not decided")


@hidden("report", points=3, about="leaks")
def a_control_above_chance_is_a_leak(answer: Answer, draw: Draw) -> None:
    """Where shuffled labels do better than chance allows, the verdict is leak, whatever the lead."""
    results = _results(draw, right=0.95, control=0.7)
    _reported(answer, draw, results, 0.02, "leak", ["the control is above chance"])
    results = _results(draw, right=0.5, first=0.8, control=0.68)
    _reported(
        answer, draw, results, 0.02, "leak", ["the control is above chance", "not above the commonest answer"]
    )
    results = _results(draw, right=0.9, control=0.62)
    _reported(answer, draw, results, 0.02, "better")
    results = _results(draw, right=0.9, control=0.3)
    _reported(answer, draw, results, 0.02, "better")
    results = _results(draw, right=0.9, control=0.8)
    results["dev_commonest"] = 0.75
    _reported(answer, draw, results, 0.02, "better")


@hidden("report", points=3, about="clear results")
def a_clear_result_is_named(answer: Answer, draw: Draw) -> None:
    """Wholly above 0 is better, wholly below is worse, with all numbers in the text."""
    results = _results(draw, right=0.82, first=0.61)
    _reported(answer, draw, results, 0.07, "better")
    results = _results(draw, right=0.6, first=0.75)
    _reported(answer, draw, results, 0.07, "worse")


@hidden("report", points=2, about="few seeds")
def two_seeds_decide_nothing(answer: Answer, draw: Draw) -> None:
    """With fewer than three seeds nothing is decided, and it is said."""
    for seeds in (1, 2):
        results = _results(draw, seeds=seeds, right=0.9)
        _reported(answer, draw, results, 0.03, "not decided", ["fewer than three seeds"])
    results = _results(draw, seeds=2, right=0.6, first=0.8)
    _reported(answer, draw, results, 0.03, "not decided", ["fewer than three seeds"])


@hidden("report", points=2, about="the commonest answer")
def the_commonest_answer_is_told(answer: Answer, draw: Draw) -> None:
    """Who is not above the commonest answer says so, even where the baseline is beaten."""
    results = _results(draw, right=0.7, first=0.5, commonest=0.8)
    _reported(answer, draw, results, 0.05, "better", ["not above the commonest answer"])
    results = _results(draw, right=0.5, first=0.5, commonest=0.5)
    results["right"] = results["first"] = [[True, False] * (results["reviews"] // 2)] * 3
    results["reviews"] = len(results["right"][0])
    _reported(answer, draw, results, 0.05, "not decided", ["not above the commonest answer"])


# the leaderboard


def _read(texts: Texts, labels: Sequence[int], judged: Texts) -> np.ndarray:
    bag = CountVectorizer(analyzer=list, binary=True)
    model = LogisticRegression(C=0.3, max_iter=300).fit(bag.fit_transform(texts), labels)
    return np.asarray(model.predict(bag.transform(judged)))


@functools.lru_cache(maxsize=3)
def _held_out(folder: str | None, seed: int) -> tuple[Texts, list[int], Texts, list[int], float]:
    """Reviews to learn from and to judge, of the folder or the course's own; how the first 32 tokens do."""
    dice = np.random.default_rng([5, seed])
    parts = [
        load_reviews(folder or "embedded", split=split, n=600 if folder else None, seed=seed, quiet=True)
        for split in (("train", "test") if folder else ("train", "dev", "test"))
    ]
    texts = [_words(text) for part in parts for text in part["text"]]
    labels = [int(label) for part in parts for label in part["label"]]
    order = [int(i) for i in dice.permutation(len(texts))]
    a, b = order[: len(order) // 2], order[len(order) // 2 :]
    learn, truth = [labels[i] for i in a], [labels[i] for i in b]
    first = _read([texts[i][:32] for i in a], learn, [texts[i][:32] for i in b])
    return [texts[i] for i in a], learn, [texts[i] for i in b], truth, float(np.mean(first == truth))


def leaderboard(answer_of: Callable[[str], Answer], draw: Draw) -> dict[str, float]:
    """At k = 32, on three splits, the same for everyone (so not from ``draw``); and of the first 32."""
    fit, hits, base = answer_of("fit"), list[float](), list[float]()
    for seed in range(3):
        texts, labels, judged, truth, first = _held_out(os.environ.get("TOPK_IMDB") or None, seed)
        state, sides = _state(fit, texts, labels), list[Texts]()
        for side in (texts, judged):
            rows = _checked_scores(fit.other("scores")(side, state), side)
            sides.append([[t[i] for i in _keep(t, row, 32)] for t, row in zip(side, rows, strict=True)])
        hits.append(float(np.mean(_read(sides[0], labels, sides[1]) == truth)))
        base.append(first)
    return {"accuracy at k = 32": float(np.mean(hits)), "first 32": float(np.mean(base))}
