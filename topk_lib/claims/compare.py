"""Comparing recorded runs of selectors.

- Two models tested on the same reviews are compared review by review. With one seed each the luck is
  that of the reviews: McNemar's exact test (:func:`paired`). With more, the luck of the training comes
  beside it, and neither may pass for the other (:func:`difference`).
- Where a record has not kept its answers, the accuracies are compared as if of different reviews.
- Comparisons made together share a chance of 5% to see a difference where there is none: each is
  tested at 5% over their number (Bonferroni).
- Three seeds of both (:data:`ENOUGH`) are needed before anything is said to hold or to fail.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import mean
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import binomtest, norm
from scipy.stats import t as student

__all__ = [
    "ENOUGH",
    "FULL",
    "LEVEL",
    "PLAIN",
    "Choice",
    "Difference",
    "Grid",
    "Missing",
    "Outcomes",
    "Paired",
    "Record",
    "Results",
    "between",
    "by_k",
    "called",
    "cite",
    "comparable",
    "difference",
    "loss",
    "of_items",
    "paired",
    "split",
    "two_sources",
    "wrong",
]

Record = Mapping[str, Any]
Results = Mapping[str, Mapping[str, Record]]
"""From an experiment to its records by run, as :func:`topk_lib.records.load_all` gives them."""
Choice = tuple[str, int]
"""A selector and k."""
Outcomes = dict[tuple[Choice, Choice], int]
"""Of two choices: 1 where the first is better, -1 where it is worse, 0 where that is open."""

FULL: Choice = ("first", 512)
"""All that the encoder can read."""
LEVEL = 0.05
ENOUGH = 3
"""Seeds that a verdict needs."""
PLAIN = re.compile(r"(\w+)-k(\d+)-s(\d+)")
"""The name of a run that differs from others in nothing but selector, k and seed."""


class Paired(NamedTuple):
    """Two models on the same reviews.

    Attributes:
        only_first: reviews that the first alone got right.
        only_second: reviews that the second alone got right.
        n: all reviews.
        p: how likely a split at least as uneven is, were the two equally good.
    """

    only_first: int
    only_second: int
    n: int
    p: float


class Difference(NamedTuple):
    """How much more often the first of two models is right than the second.

    Attributes:
        mean: the difference of the shares of right answers, over all seeds.
        error: its standard error.
        freedom: degrees of freedom that the error is known with.
        p: how likely one at least as large is, were the two equally good.
        seeds: of both.
    """

    mean: float
    error: float
    freedom: float
    p: float
    seeds: int

    def bound(self, level: float = LEVEL) -> float:
        """The upper confidence bound at 1 - ``level``."""
        return self.mean + float(student.ppf(1 - level, self.freedom)) * self.error

    def limits(self, level: float = LEVEL) -> tuple[float, float]:
        """Both ends of the confidence interval at 1 - ``level``."""
        high = self.bound(level / 2)
        return 2 * self.mean - high, high


class Missing(Exception):
    """The records that a rule needs are not there."""


def paired(first: Record, second: Record) -> Paired:
    """Compare two study records with McNemar's exact test (McNemar, 1947).

    Raises:
        ValueError: they are of different reviews, or did not keep their answers.
    """
    if _tested_on(first) != _tested_on(second):
        raise ValueError(f"{first['run']} and {second['run']} were tested on different reviews: no pairs")
    return split(~wrong(first), ~wrong(second))


def difference(first: np.ndarray, second: np.ndarray) -> Difference:
    """Compare the answers of two models, with seeds and reviews as two sources of chance.

    Seeds and reviews are crossed: every seed has answered every review. The variance of the mean is
    taken as that of the seeds' means plus that of the reviews' means, which is on average a
    little too much, with Satterthwaite's degrees of freedom: the min F' of Clark (1973), "The
    language-as-fixed-effect fallacy". That is an approximation: three seeds know their own spread badly,
    and where it is the larger source a difference is seen where there is none a little oftener than at the
    level asked for, and several times as often at a level of a few in a thousand (``tests/claims`` counts).
    With one seed nothing is known of the training's luck: p is that of McNemar's exact test.

    Args:
        first, second: (seeds, n) bool, which reviews each got right; row by row the same seed.

    Raises:
        ValueError: the shapes differ.
    """
    if first.shape != second.shape or first.ndim != 2:
        raise ValueError(f"answers must be two arrays (seeds, n), got {first.shape} and {second.shape}")
    gaps = first.astype(float) - second
    seeds, n = gaps.shape
    reviews = float(gaps.mean(0).var(ddof=1 if seeds > 1 else 0)) / n
    if seeds == 1:
        return Difference(float(gaps.mean()), reviews**0.5, np.inf, split(first[0], second[0]).p, 1)
    return two_sources(gaps.mean(1), reviews, n - 1)


def between(first: Sequence[Record], second: Sequence[Record]) -> Difference:
    """:func:`difference` of recorded runs, in the order of the seeds; without their answers, a wider one."""
    if comparable(*first, *second):
        return difference(*(np.stack([~wrong(record) for record in records]) for records in (first, second)))
    shares = np.array([[r["metrics"]["accuracy"] for r in records] for records in (first, second)])
    tested = [min(r["data"]["n_eval"] for r in records) for records in (first, second)]
    reviews = float(sum(p * (1 - p) / n for p, n in zip(shares.mean(1), tested, strict=True)))
    return two_sources(shares[0] - shares[1], reviews, np.inf)


def of_items(gaps: np.ndarray | Sequence[np.ndarray], same: bool = True) -> Difference:
    """:func:`difference` of what is no right or wrong; with one seed the luck is that of the items alone.

    Args:
        gaps: for each seed (n,), by how much the first method is better on each question, abstract, person.
        same: whether these are the same ones for every seed; else no two seeds share one.
    """
    each = np.mean(gaps, axis=0) if same else np.concatenate(gaps)
    luck = float(each.var(ddof=1)) / len(each)
    return two_sources(np.array([gap.mean() for gap in gaps]), luck, len(each) - 1)


def two_sources(gaps: np.ndarray, reviews: float, freedom: float) -> Difference:
    """From the (seeds,) differences and the variance that the reviews add, known with so much freedom."""
    seeds, mean_gap = len(gaps), float(gaps.mean())
    training = float(gaps.var(ddof=1)) / seeds if seeds > 1 else 0.0
    both = training + reviews
    if not both:
        return Difference(mean_gap, 0.0, np.inf, float(mean_gap == 0), seeds)
    if training:
        freedom = both**2 / (training**2 / (seeds - 1) + reviews**2 / freedom)
    p = float(2 * student.sf(abs(mean_gap) / both**0.5, freedom))
    return Difference(mean_gap, both**0.5, freedom, p, seeds)


def loss(reference: Record, record: Record, level: float = LEVEL) -> tuple[float, float]:
    """How much lower the accuracy of ``record`` is than that of ``reference``, and how much at most.

    Returns:
        The difference and its upper confidence bound at 1 - ``level``, by the normal approximation
        for paired shares.
    """
    a, b, n, _ = paired(reference, record)
    lost = (a - b) / n
    return lost, lost + float(norm.ppf(1 - level)) * (((a + b) / n - lost**2) / n) ** 0.5


def _tested_on(record: Record) -> tuple[str, int]:
    return record["data"]["eval_fingerprint"], record["data"]["n_eval"]


def wrong(record: Record) -> np.ndarray:
    """(n,) bool."""
    if "wrong" not in record["metrics"]:
        raise ValueError(f"the record {record['run']} has not kept which reviews it got wrong")
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(record["metrics"]["wrong"]), dtype=np.uint8))
    return bits[: record["data"]["n_eval"]].astype(bool)


def split(first: np.ndarray, second: np.ndarray) -> Paired:
    a, b = int((first & ~second).sum()), int((second & ~first).sum())
    return Paired(a, b, len(first), float(binomtest(a, a + b).pvalue) if a + b else 1.0)


def comparable(first: Record, *others: Record) -> bool:
    """Have all kept their answers, to the same reviews?"""
    every = (first, *others)
    return all("wrong" in r["metrics"] and _tested_on(r) == _tested_on(first) for r in every)


class Grid:
    """The runs of one experiment that differ in nothing but selector, k and seed.

    Args:
        name: of the experiment.
        runs: its records.
        least: seeds without which a comparison is not made.

    Attributes:
        compared: the seeds of every comparison made so far.
    """

    def __init__(self, name: str, runs: Mapping[str, Record], least: int = 1) -> None:
        self.name, self.least = name, least
        found = ((PLAIN.fullmatch(run), record) for run, record in runs.items())
        self.runs = {((m[1], int(m[2])), int(m[3])): record for m, record in found if m}
        self.compared: dict[tuple[Choice, ...], int] = {}

    def ks(self, *selectors: str) -> list[int]:
        """Every k, but for the full one, with which all these selectors have a run."""
        each = ({k for (name, k), _ in self.runs if name == want and k < FULL[1]} for want in selectors)
        return sorted(set.intersection(*each))

    def seeds(self, *choices: Choice) -> list[int]:
        """Those that all have a run with; none, where they are too few to compare."""
        each = ({seed for choice, seed in self.runs if choice == want} for want in choices)
        common = sorted(set.intersection(*each))
        return common if len(common) >= self.least else []

    def of(self, choice: Choice, seeds: Iterable[int]) -> list[Record]:
        return [self.runs[choice, seed] for seed in seeds]

    def used(self, *choices: Choice) -> list[int]:
        """:meth:`seeds`, and note that these are compared."""
        if common := self.seeds(*choices):
            self.compared[choices] = len(common)
        return common

    def outcomes(self, first: Sequence[str], second: Sequence[str]) -> Outcomes:
        """Compare selectors at each k that all of them have a run with."""
        ks = self.ks(*first, *second)
        return self.compare(((a, k), (b, k)) for a in first for b in second if a != b for k in ks)

    def to_full(self, selectors: Sequence[str], at_most: int = FULL[1]) -> Outcomes:
        """Compare selectors, at each k that all of them have a run with, with the full model."""
        ks = [k for k in self.ks(*selectors) if k <= at_most]
        return self.compare(((name, k), FULL) for name in selectors for k in ks)

    def compare(self, pairs: Iterable[tuple[Choice, Choice]]) -> Outcomes:
        """Compare these, at the level that they share, over all seeds that both have a run with."""
        seeds = {pair: self.seeds(*pair) for pair in pairs}
        # Where one comparison cannot be made, those at that k would not tell the whole.
        broken = {a[1] for (a, _), common in seeds.items() if not common}
        seeds = {pair: common for pair, common in seeds.items() if pair[0][1] not in broken}
        if not seeds:
            raise Missing("k with runs of all that are compared")
        found: Outcomes = {}
        for (a, b), common in seeds.items():
            self.used(a, b)
            gap = between(self.of(a, common), self.of(b, common))
            found[a, b] = int(np.sign(gap.mean)) if gap.p <= LEVEL / len(seeds) else 0
        return found

    def accuracy(self, choice: Choice) -> float:
        return float(mean(r["metrics"]["accuracy"] for (c, _), r in self.runs.items() if c == choice))

    def closest(self, found: Outcomes, pick: Callable[..., tuple[Choice, Choice]] = min) -> Outcomes:
        """At each k one comparison: that with the best of the others, or (max) that of the best."""
        chosen = (pick((pair for pair in found if pair[0][1] == k), key=self._lead) for k in by_k(found))
        return {pair: found[pair] for pair in chosen}

    def _lead(self, pair: tuple[Choice, Choice]) -> float:
        common = self.seeds(*pair)
        return between(*(self.of(choice, common) for choice in pair)).mean

    def cite(self, choice: Choice, seeds: Sequence[int], key: str = "accuracy .1%") -> str:
        """A metric, with each of these seeds."""
        name, k = choice
        return " · ".join(cite(f"{self.name}/{name}-k{k}-s{seed}", f"metrics.{key}") for seed in seeds)

    def lines(self, found: Outcomes) -> tuple[str, ...]:
        words = {1: "better", 0: "no clear difference", -1: "worse"}
        lines = []
        for (a, b), sign in found.items():
            common = self.seeds(a, b)
            other = "the full model" if b == FULL else f"`{b[0]}`"
            lines.append(
                f"k = {a[1]}: `{a[0]}` {self.cite(a, common)}, {other} {self.cite(b, common)}: "
                f"{words[sign]} (seeds: {len(common)})"
            )
        return tuple(lines)


def cite(run: str, key: str) -> str:
    return f"{{record}}`{run} {key}`"


def called(choice: Choice) -> str:
    return "the full model" if choice == FULL else f"`{choice[0]}` at k = {choice[1]}"


def by_k(found: Outcomes) -> dict[int, bool]:
    """At each k, whether the first is better in all comparisons."""
    at: dict[int, bool] = {}
    for (a, _), sign in found.items():
        at[a[1]] = at.get(a[1], True) and sign > 0
    return dict(sorted(at.items()))
