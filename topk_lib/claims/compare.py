"""Comparing recorded runs of selectors.

- Two models tested on the same reviews are compared by the reviews that one of them alone got right,
  with McNemar's exact test (:func:`paired`); where a record has not kept its answers, by their 95%
  intervals, which must not overlap.
- Comparisons made together share a chance of 5% to see a difference where there is none: each is
  tested at 5% over their number (Bonferroni).
- With several seeds a model is better where it is better with every one that both have.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import mean
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import binomtest, norm

__all__ = ["FULL", "LEVEL", "Choice", "Grid", "Missing", "Outcomes", "Paired", "Record", "Results", "by_k",
           "called", "cite", "comparable", "loss", "paired", "split", "wrong"]  # fmt: skip

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
_RUN = re.compile(r"(\w+)-k(\d+)-s(\d+)")


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


def _compare(first: Record, second: Record, level: float) -> int:
    one, two = first["metrics"], second["metrics"]
    if comparable(first, second):
        a, b, _, p = paired(first, second)
        return int(np.sign(a - b)) if p <= level else 0
    apart = one["accuracy_low"] > two["accuracy_high"] or one["accuracy_high"] < two["accuracy_low"]
    return int(np.sign(one["accuracy"] - two["accuracy"])) if apart else 0


class Grid:
    """The runs of one experiment that differ in nothing but selector, k and seed."""

    def __init__(self, name: str, runs: Mapping[str, Record]) -> None:
        self.name = name
        found = ((_RUN.fullmatch(run), record) for run, record in runs.items())
        self.runs = {((m[1], int(m[2])), int(m[3])): record for m, record in found if m}

    def ks(self, *selectors: str) -> list[int]:
        """Every k, but for the full one, with which all these selectors have a run."""
        each = ({k for (name, k), _ in self.runs if name == want and k < FULL[1]} for want in selectors)
        return sorted(set.intersection(*each))

    def seeds(self, *choices: Choice) -> list[int]:
        each = ({seed for choice, seed in self.runs if choice == want} for want in choices)
        return sorted(set.intersection(*each))

    def outcomes(self, first: Sequence[str], second: Sequence[str]) -> Outcomes:
        """Compare selectors at each k that all of them have a run with."""
        ks = self.ks(*first, *second)
        return self.compare(((a, k), (b, k)) for a in first for b in second if a != b for k in ks)

    def to_full(self, selectors: Sequence[str], at_most: int = FULL[1]) -> Outcomes:
        """Compare selectors, at each k that all of them have a run with, with the full model."""
        ks = [k for k in self.ks(*selectors) if k <= at_most]
        return self.compare(((name, k), FULL) for name in selectors for k in ks)

    def compare(self, pairs: Iterable[tuple[Choice, Choice]]) -> Outcomes:
        """Compare these, at the level that they share, with every seed that both have a run with."""
        seeds = {pair: self.seeds(*pair) for pair in pairs}
        # Where one comparison cannot be made, those at that k would not tell the whole.
        broken = {a[1] for (a, _), common in seeds.items() if not common}
        seeds = {pair: common for pair, common in seeds.items() if pair[0][1] not in broken}
        if not seeds:
            raise Missing("k with runs of all that are compared")
        found: Outcomes = {}
        for (a, b), common in seeds.items():
            signs = {_compare(self.runs[a, s], self.runs[b, s], LEVEL / len(seeds)) for s in common}
            found[a, b] = signs.pop() if len(signs) == 1 else 0
        return found

    def accuracy(self, choice: Choice) -> float:
        return float(mean(self.runs[choice, s]["metrics"]["accuracy"] for s in self.seeds(choice)))

    def closest(self, found: Outcomes, pick: Callable[..., tuple[Choice, Choice]] = min) -> Outcomes:
        """At each k one comparison: that with the best of the others, or (max) that of the best."""
        chosen = (pick((pair for pair in found if pair[0][1] == k), key=self._lead) for k in by_k(found))
        return {pair: found[pair] for pair in chosen}

    def _lead(self, pair: tuple[Choice, Choice]) -> float:
        return self.accuracy(pair[0]) - self.accuracy(pair[1])

    def cite(self, choice: Choice, key: str = "accuracy .1%") -> str:
        """A metric, of the first seed."""
        name, k = choice
        return cite(f"{self.name}/{name}-k{k}-s{self.seeds(choice)[0]}", f"metrics.{key}")

    def lines(self, found: Outcomes) -> tuple[str, ...]:
        words = {1: "better", 0: "no clear difference", -1: "worse"}
        return tuple(
            f"k = {a[1]}: `{a[0]}` {self.cite(a)}, {'the full model' if b == FULL else f'`{b[0]}`'} "
            f"{self.cite(b)}: {words[sign]} (seeds: {len(self.seeds(a, b))})"
            for (a, b), sign in found.items()
        )


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
