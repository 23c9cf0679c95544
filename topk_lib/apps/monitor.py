"""A monitor of opinions in financial news: how a sentence speaks, of what, and when something is going on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from topk_lib import data
from topk_lib.apps.alarms import RULES, Calm, calm_of, statistics, threshold
from topk_lib.apps.vectors import Vectors
from topk_lib.ops import hard_topk
from topk_lib.selectors.base import whole
from topk_lib.training import accuracy_interval, classification_metrics

__all__ = ["HEADS", "Monitor", "MonitorSettings", "Opinion", "Replay", "Watch"]

HEADS = ("vectors", "words")
_HISTORY = 1000  # calm items from which a topic's calm share is learned
_NEGATIVE = 0.9  # a topic with such a share while all is calm is bad news anyway
_LATELY = 30  # items of a topic among which the evidence for an alarm is sought


@dataclass(frozen=True)
class MonitorSettings:
    """What decides what a :class:`Monitor` sees.

    Attributes:
        head: what tells the polarity: "vectors" (logistic regression on the frozen encoder's) or "words"
            (on TF-IDF, the plain baseline).
        topics: k of the k-means that finds the topics.
        words: k words that name a topic.
        tokens: k tokens read of each sentence, special ones included; None: all.
        selector: which of them.
        lift: by how much the odds of a negative item rise in what is to be found; see
            :func:`~topk_lib.apps.alarms.statistics`.
        strength: C of the logistic regression.
        days, per_day: of a replay: how long it is, and how many sentences come a day in the mean.
        extra: negative sentences a day, in the mean, that a surge adds.
        seed: of k-means, the selector and the calm history.
    """

    head: str = "vectors"
    topics: int = 5
    words: int = 4
    tokens: int | None = None
    selector: str = "tfidf"
    lift: float = 4.0
    strength: float = 10.0
    days: int = 40
    per_day: float = 10.0
    extra: float = 8.0
    seed: int = 0


class Opinion(NamedTuple):
    """How a sentence speaks, how sure that is, each polarity's probability, and of what topic it is."""

    polarity: str
    probability: float
    each: dict[str, float]
    topic: int


class Replay(NamedTuple):
    """Sentences in the order of their days.

    The set has no dates: a replay gives the sentences some, and draws them with replacement.

    Attributes:
        rows: (n,) int64, places in the monitor's ``texts``.
        days: (n,) int64, ascending.
        planted: (n,) bool, True for the sentences of the surge; all False in a calm replay.
        topic: of the surge; None.
    """

    rows: np.ndarray
    days: np.ndarray
    planted: np.ndarray
    topic: int | None

    @property
    def start(self) -> int:
        """The place of the first planted sentence; n where there is none."""
        return int(self.planted.argmax()) if self.planted.any() else len(self.planted)


class Watch(NamedTuple):
    """What a rule made of a replay.

    Attributes:
        rule: its name.
        threshold: from which on it rings.
        statistic: (n,) after each sentence, of its topic.
        topics: (n,) the topic of each sentence, as the monitor sees it.
        alarms: for each topic that rang, the place of its first alarm, in the order of time.
    """

    rule: str
    threshold: float
    statistic: np.ndarray
    topics: np.ndarray
    alarms: dict[int, int]


class Monitor:
    """Reads sentences of financial news, and watches a stream of them.

    Args:
        source: of financial_phrasebank, see :func:`~topk_lib.data.load_set`.
        settings: see :class:`MonitorSettings`.
        encoder: a hub name or folder; None: the embedded one.
        quiet: print nothing.

    Attributes:
        names: of the polarities.
        topic_names: the k words that tell each topic from the others.
        texts, truth: the test sentences, which replays are made of, and their polarities, (n,).
        probabilities: (n, polarities) what the monitor makes of them.
        flags: (n,) bool, those it takes for negative.
        topics: (n,) their topics.
        calm: what it takes for calm, from 1,000 sentences that it watched beforehand.
        metrics: on the test sentences, see :func:`~topk_lib.training.classification_metrics`; and
            ``commonest``, the accuracy of the commonest polarity, and ``tokens``, read of one in the mean.
        told: where the sentences came from, and how many they are.

    Raises:
        ValueError, TypeError: a setting is out of its range, or no class is called negative.
    """

    def __init__(
        self,
        source: str | Path | None = None,
        settings: MonitorSettings | None = None,
        *,
        encoder: str | Path | None = None,
        quiet: bool = True,
    ) -> None:
        self.settings = s = settings or MonitorSettings()
        if s.head not in HEADS:
            raise ValueError(f"head must be one of {', '.join(HEADS)}, got {s.head!r}")
        whole("words", s.words, 1)
        whole("days", s.days, 8)
        if not (0 < s.per_day <= 1000 and 0 < s.extra <= 1000):
            raise ValueError(
                f"per_day and extra must be above 0 and at most 1000, got {s.per_day:g} and {s.extra:g}"
            )
        train, test = (
            data.load_set("financial_phrasebank", source, split=split, quiet=quiet)
            for split in ("train", "test")
        )
        self.names = data.labels_of(train).names
        if "negative" not in self.names:
            raise ValueError(f"no class is called negative: they are {', '.join(self.names)}")
        test = data.match_labels(test, data.labels_of(train), "the training split")
        texts, labels = list(train["text"]), list(train["label"])
        whole("topics", s.topics, 1, len(texts))
        self._vectors: Vectors | TfidfVectorizer
        if s.head == "words":
            self._vectors = TfidfVectorizer(sublinear_tf=True).fit(texts)
        else:
            self._vectors = Vectors(s.tokens, s.selector, encoder=encoder, seed=s.seed).fit(texts, labels)
        seen = self._features(texts)
        self._polarity = LogisticRegression(C=s.strength, max_iter=2000).fit(seen, labels)
        self._clusters = KMeans(s.topics, n_init=10, random_state=s.seed).fit(seen)
        self.topic_names = _told_apart(texts, self._clusters.labels_, s.topics, s.words)
        self.texts, self.truth = list(test["text"]), np.array(test["label"])
        self.probabilities, self.topics = self._read(self.texts)
        self._negative = self.names.index("negative")
        guess = self.probabilities.argmax(1)
        self.flags = guess == self._negative
        history = np.random.default_rng([s.seed, 1]).integers(len(self.texts), size=_HISTORY)
        self.calm: Calm = calm_of(self.flags[history], self.topics[history], s.topics)
        self.metrics = classification_metrics(self.truth.tolist(), guess.tolist(), len(self.names)) | {
            "commonest": float(np.bincount(self.truth).max() / len(self.truth)),
            "tokens": self._vectors.read if isinstance(self._vectors, Vectors) else None,
        }
        self.told = {
            "source": data.source_of(train), "n_train": len(train), "n_test": len(test),
            "train_fingerprint": data.fingerprint(train), "test_fingerprint": data.fingerprint(test),
        }  # fmt: skip

    def _features(self, texts: Sequence[str]) -> Any:
        if isinstance(self._vectors, Vectors):
            return self._vectors(texts).numpy()
        return self._vectors.transform(texts)

    def _read(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        seen = self._features(texts)
        return np.asarray(self._polarity.predict_proba(seen)), np.asarray(self._clusters.predict(seen))

    def __call__(self, texts: Sequence[str]) -> list[Opinion]:
        """Read sentences, in order.

        Raises:
            TypeError, ValueError: a sentence is no text, or an empty one.
        """
        texts = data.as_texts(texts, "sentence")
        if empty := [i for i, text in enumerate(texts) if not text.strip()]:
            raise ValueError(f"sentence {empty[0]} is empty: write something to be read")
        if not texts:
            return []
        rows, topics = self._read(texts)
        return [
            Opinion(
                self.names[int(row.argmax())], float(row.max()),
                dict(zip(self.names, row.tolist(), strict=True)), int(topic),
            )
            for row, topic in zip(rows, topics, strict=True)
        ]  # fmt: skip

    def replay(self, seed: int = 0, *, surge: bool = True) -> Replay:
        """A stream of test sentences.

        In a surge, negative sentences on one topic are added from a day in the middle quarter on, to the end:
        they are planted, and ``planted`` says which. The topic is one that is not bad news anyway, where
        there is such a one.

        Args:
            seed: of all that is drawn; other replays have other seeds.
            surge: plant one.

        Raises:
            ValueError: no test sentence is negative.
        """
        s, dice = self.settings, np.random.default_rng([seed, 2])
        days = np.repeat(np.arange(s.days), dice.poisson(s.per_day, s.days))
        rows = dice.integers(len(self.texts), size=len(days))
        planted = np.zeros(len(days), dtype=bool)
        topic: int | None = None
        if surge:
            bad = self.truth == self._negative
            if not bad.any():
                raise ValueError("no test sentence is negative, so there is nothing to plant")
            some = np.unique(self.topics[bad])
            fresh = some[self.calm.share[some] < _NEGATIVE]
            topic = int(dice.choice(fresh if len(fresh) else some))
            start = int(dice.integers(3 * s.days // 8, 5 * s.days // 8))
            more = np.repeat(np.arange(start, s.days), dice.poisson(s.extra, s.days - start))
            found = dice.choice(np.flatnonzero(bad & (self.topics == topic)), size=len(more))
            days, rows = np.concatenate([days, more]), np.concatenate([rows, found])
            planted = np.concatenate([planted, np.ones(len(more), dtype=bool)])
        order = np.lexsort((dice.random(len(days)), days))
        return Replay(rows[order], days[order], planted[order], topic)

    def watch(
        self, replay: Replay, rule: str = "e-detector", *, false_alarm: float = 0.05, at: float | None = None
    ) -> Watch:
        """Let a rule watch a replay; each topic's first alarm is told.

        Args:
            replay: of :meth:`replay`.
            rule: one of :data:`~topk_lib.apps.alarms.RULES`.
            false_alarm: how probable an alarm may be in a calm replay.
            at: the threshold, where it is known already; None: it is found.

        Raises:
            ValueError: see :func:`~topk_lib.apps.alarms.threshold`.
        """
        flags, topics = self.flags[replay.rows], self.topics[replay.rows]
        at = self.threshold(rule, false_alarm) if at is None else at
        found = statistics(rule, flags, topics, self.calm, self.settings.lift)
        alarms: dict[int, int] = {}
        for place in np.flatnonzero(found >= at):
            alarms.setdefault(int(topics[place]), int(place))
        return Watch(rule, at, found, topics, alarms)

    def threshold(self, rule: str, false_alarm: float = 0.05) -> float:
        """From which number on a rule rings, for as many sentences as a calm replay has in the mean."""
        s = self.settings
        return threshold(
            rule, self.calm, s.lift, items=round(s.days * s.per_day), false_alarm=false_alarm, seed=s.seed
        )

    def evidence(self, replay: Replay, topic: int, place: int, k: int = 3) -> list[tuple[str, float]]:
        """Of a topic's last 30 sentences up to a place the k most negative, of those read as negative."""
        mine = np.flatnonzero(self.topics[replay.rows[: place + 1]] == topic)[-_LATELY:]
        rows = np.unique(replay.rows[mine])
        rows = rows[self.flags[rows]]
        scores = torch.from_numpy(self.probabilities[rows, self._negative].copy())
        best = hard_topk(scores, min(whole("k", k, 1), len(rows)), order="value")
        return [
            (self.texts[rows[i]], p) for i, p in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]

    def replays(self, n: int = 200, *, false_alarm: float = 0.05, seed: int = 0) -> dict[str, dict[str, Any]]:
        """What each rule does in n replays with a surge and in n calm ones, the same for every rule.

        Args:
            n: how many of each.
            false_alarm: see :meth:`watch`.
            seed: replays have the seeds from ``seed * 2 * n`` on.

        Returns:
            By rule: of the calm replays the share with an alarm, ``false_alarms``, with ``false_alarms_low``
            and ``false_alarms_high`` (95%); of the others the share whose topic rang, not before the surge
            began, ``found``; the share in which any topic rang before, ``early``, and in which another topic
            rang after, ``elsewhere``; from the first planted sentence to the alarm, over those found, the
            median and the ninth decile of the days, ``delay_days`` and ``delay_days_high``, and the median
            of the planted sentences, ``delay_sentences`` (None where none was found); ``threshold``.
        """
        whole("n", n, 1)
        told: dict[str, dict[str, Any]] = {}
        for rule in RULES:
            at = self.threshold(rule, false_alarm)
            days: list[int] = []
            sentences: list[int] = []
            false = early = elsewhere = 0
            for i in range(2 * n):
                replay = self.replay(seed * 2 * n + i, surge=i < n)
                alarms = self.watch(replay, rule, at=at).alarms
                start = replay.start
                if i >= n:
                    false += bool(alarms)
                    continue
                early += any(place < start for place in alarms.values())
                elsewhere += any(place >= start and topic != replay.topic for topic, place in alarms.items())
                place = alarms.get(-1 if replay.topic is None else replay.topic, -1)
                if place >= start:
                    days.append(int(replay.days[place] - replay.days[start]))
                    sentences.append(int(replay.planted[: place + 1].sum()))
            low, high = accuracy_interval(false, n)
            told[rule] = {
                "false_alarms": false / n, "false_alarms_low": low, "false_alarms_high": high,
                "found": len(days) / n, "early": early / n, "elsewhere": elsewhere / n,
                "delay_days": float(np.median(days)) if days else None,
                "delay_days_high": float(np.quantile(days, 0.9)) if days else None,
                "delay_sentences": float(np.median(sentences)) if days else None,
                "threshold": at,
            }  # fmt: skip
        return told


def _told_apart(texts: Sequence[str], labels: np.ndarray, count: int, k: int) -> list[tuple[str, ...]]:
    """The k words of each topic whose mean TF-IDF is furthest above that of all other sentences."""
    words = TfidfVectorizer(stop_words="english", token_pattern=r"(?u)\b[^\W\d_]{3,}\b")
    table = words.fit_transform(texts)
    names = words.get_feature_names_out()
    found = []
    for topic in range(count):
        inside = labels == topic
        score = np.asarray(table[inside].mean(0)).ravel()
        if not inside.all():
            score = score - np.asarray(table[~inside].mean(0)).ravel()
        best = hard_topk(torch.from_numpy(score), min(k, len(names)), order="value").indices
        found.append(tuple(str(names[i]) for i in best.tolist()))
    return found
