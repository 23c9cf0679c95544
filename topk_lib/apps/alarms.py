"""When to ring: three rules that watch the share of negative items on each topic of a stream."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import beta

__all__ = ["RULES", "Calm", "calm_of", "statistics", "threshold"]

RULES = {
    "e-detector": "Shiryaev-Roberts, its threshold proved",
    "cusum": "Page's CUSUM, its threshold simulated",
    "window": "three standard errors above the calm share, in the last 20",
}
"""The last one is the plain baseline."""

_MOST = 1e300  # of a statistic; the stream goes on after an alarm
_WINDOW, _ERRORS = 20, 3.0
_STREAMS = 999  # that are simulated


class Calm(NamedTuple):
    """What a topic is like while nothing happens.

    Attributes:
        share: (topics,) an upper limit of its share of negative items, in [0.01, 1]; at 1 it never rings.
        often: (topics,) its share of all items.
    """

    share: np.ndarray
    often: np.ndarray


def calm_of(flags: np.ndarray, topics: np.ndarray, count: int, sure: float = 0.95) -> Calm:
    """What calm items teach.

    The limits are exact binomial ones (Clopper and Pearson, 1934), and hold for all topics together with
    the probability ``sure``: an alarm rule is only as good as what it takes for calm.

    Args:
        flags: (n,) bool, whether an item was read as negative.
        topics: (n,) int, its topic.
        count: how many topics there are.
        sure: see above.
    """
    total = np.bincount(topics, minlength=count)
    bad = np.bincount(topics[flags], minlength=count)
    level = 1 - (1 - sure) / count
    limit = np.where(bad < total, beta.ppf(level, bad + 1, np.maximum(total - bad, 1)), 1.0)
    return Calm(np.clip(limit, 0.01, 1.0), total / max(1, total.sum()))


def statistics(
    rule: str, flags: Sequence[bool] | np.ndarray, topics: Sequence[int] | np.ndarray, calm: Calm, lift: float
) -> np.ndarray:
    """What a rule makes of a stream: for each item the number that its topic has after it.

    With p the calm share of negative items and q the share whose odds are ``lift`` times as high, an item
    weighs L = q / p where it is negative and L = (1 - q) / (1 - p) where not. Then

    - "e-detector": R = (1 + R) L, the Shiryaev-Roberts statistic;
    - "cusum": S = max(0, S + ln L) (Page, 1954);
    - "window": by how many standard errors the share among the topic's last 20 items is above p.

    Args:
        rule: one of :data:`RULES`.
        flags: (n,) bool, whether an item was read as negative.
        topics: (n,) int.
        calm: of :func:`calm_of`.
        lift: above 1.

    Returns:
        (n,) float64.

    Raises:
        ValueError: no such rule, or a lift of 1 or less.
    """
    if rule not in RULES:
        raise ValueError(f"the rule must be one of {', '.join(RULES)}, got {rule!r}")
    if not lift > 1:
        raise ValueError(f"lift must be above 1, got {lift}")
    p = calm.share
    # (1 - q) / (1 - p) and q / p, written so that p may be 1
    weights = np.stack([np.ones(len(p)), np.full(len(p), lift)]) / (1 - p + lift * p)
    make = {"e-detector": _sr, "cusum": _cusum, "window": _window}[rule]
    step = make(p, weights)
    pairs = zip(np.asarray(topics).tolist(), np.asarray(flags).tolist(), strict=True)
    return np.array([step(topic, flag) for topic, flag in pairs], dtype=float)


def _sr(_: np.ndarray, each: np.ndarray) -> Callable[[int, bool], float]:
    weights = each.tolist()
    now = [0.0] * each.shape[1]

    def step(topic: int, flag: bool) -> float:
        now[topic] = min(_MOST, (1 + now[topic]) * weights[flag][topic])
        return now[topic]

    return step


def _cusum(_: np.ndarray, each: np.ndarray) -> Callable[[int, bool], float]:
    weights = np.log(each).tolist()
    now = [0.0] * each.shape[1]

    def step(topic: int, flag: bool) -> float:
        now[topic] = max(0.0, now[topic] + weights[flag][topic])
        return now[topic]

    return step


def _window(p: np.ndarray, _: np.ndarray) -> Callable[[int, bool], float]:
    last: list[list[bool]] = [[] for _ in p]
    means = (_WINDOW * p).tolist()
    errors = np.sqrt(np.maximum(_WINDOW * p * (1 - p), 1e-9)).tolist()

    def step(topic: int, flag: bool) -> float:
        last[topic] = [*last[topic], flag][-_WINDOW:]
        full = len(last[topic]) == _WINDOW
        return (sum(last[topic]) - means[topic]) / errors[topic] if full else 0.0

    return step


def threshold(
    rule: str, calm: Calm, lift: float, *, items: int, false_alarm: float = 0.05, seed: int = 0
) -> float:
    """From which number on a rule rings.

    For the "e-detector" it is ``items / false_alarm``, and then the probability that any topic rings during
    so many calm items is at most ``false_alarm``: while the share of negative items is at most the calm one,
    whatever else is true of the stream, R minus the number of items of its topic is a supermartingale from
    0, so that R is at most that number in the mean at the moment of an alarm or the end, and the topics'
    items add up to ``items``. (Shin, Ramdas and Rinaldo, 2023, "E-detectors", have the like of it for the
    mean time to a false alarm.) For "cusum" it is taken from 999 simulated calm streams, so that the
    probability is about ``false_alarm`` if the calm shares are exact and the items independent. For "window"
    it is 3, whatever comes of that.

    Args:
        rule: one of :data:`RULES`.
        calm: of :func:`calm_of`.
        lift: see :func:`statistics`.
        items: for how many items, of all topics, the rate is to hold.
        false_alarm: between 0 and 1.
        seed: of the simulation.

    Raises:
        ValueError: see :func:`statistics`; ``false_alarm`` is no probability, or ``items`` below 1.
    """
    if not 0 < false_alarm < 1:
        raise ValueError(f"false_alarm must be between 0 and 1, got {false_alarm}")
    if items < 1:
        raise ValueError(f"items must be at least 1, got {items}")
    if rule == "window":
        return _ERRORS
    if rule == "e-detector":
        return items / false_alarm
    dice = np.random.default_rng(seed)
    often = calm.often / calm.often.sum()
    most = []
    for _ in range(_STREAMS):
        topics = dice.choice(len(often), size=items, p=often)
        flags = dice.random(items) < calm.share[topics]
        most.append(float(statistics(rule, flags, topics, calm, lift).max()))
    rank = math.ceil((1 - false_alarm) * (_STREAMS + 1))
    if rank > _STREAMS:
        raise ValueError(
            f"{_STREAMS} simulated streams cannot tell a false alarm in {1 / false_alarm:,.0f}: take "
            "the e-detector"
        )
    return float(np.nextafter(sorted(most)[rank - 1], np.inf))  # a number that is reached rings
