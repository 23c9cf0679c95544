"""Which run to make next: that whose result could most cheaply turn a verdict."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from itertools import product

import numpy as np
from scipy.stats import norm

from topk_lib.claims.compare import ENOUGH, FULL, Difference, Record, between
from topk_lib.claims.rules import HARD, OURS, SOFT, UNLABELLED

__all__ = ["Undecided", "contests"]

_NAME = re.compile(r"(?P<way>(?P<plain>\w+-k\d+)(?:-[a-z]\w*)?)-s(?P<seed>\d+)")
_RIVALS = (
    *product(SOFT, (*HARD, *OURS)), *product(OURS, ("linear",)), ("history", "gate"), ("taught", "distilled"),
    *product(("linear",), (*UNLABELLED, "random")), *product(UNLABELLED, ("random",)),
)  # fmt: skip
_LUCK = 0.014  # standard deviation over seeds of the gap of two trained models, until records tell
_LEAST = 0.02  # the doubt that is left while a verdict has too few seeds, however clear the gap


def contests(ways: Iterable[str]) -> list[tuple[str, str]]:
    """The pairs that claims and chapters compare, among runs named without their seed, as "linear-k64".

    At each k the pairs of selectors in which a claim or a table asks who is ahead, and each selector with
    the full model; and each other way to spend a budget, as "gate-k64-batch", with its plain form.
    """
    every = set(ways)
    ks = sorted({int(way.split("-k")[1]) for way in every if re.fullmatch(r"\w+-k\d+", way)})
    full = f"{FULL[0]}-k{FULL[1]}"
    pairs = [(f"{a}-k{k}", f"{b}-k{k}") for k in ks for a, b in _RIVALS]
    pairs += [(f"{name}-k{k}", full) for k in ks if k < FULL[1] for name in (*SOFT, *OURS, *HARD)]
    pairs += [(way, "-".join(way.split("-")[:2])) for way in sorted(every) if way.count("-") > 1]
    return list(dict.fromkeys(pair for pair in pairs if every.issuperset(pair)))


def _rules(pair: tuple[str, str]) -> tuple[str, str]:
    """The two without their k."""
    one, two = (re.sub(r"-k\d+", "", way, count=1) for way in pair)
    return one, two


class Undecided:
    """What is still open between the runs of one grid.

    The **doubt** of a pair is the chance that its sign turns, were all made anew: two tails of the gap so
    far, beside the luck of the reviews *and* that of the training. The latter is the spread of the gaps of
    all pairs with two seeds or more, since one pair has too few seeds to tell its own. No seed: doubt 1.
    With three seeds of both a pair is closed; before that a little doubt is left, since no verdict is given.

    A run is worth the doubts of its pairs, half of it where the other side of a pair lacks this seed, over
    what it costs. So first come cheap runs between rules that lie close together, and last costly ones of
    rules about which nobody has a doubt.

    Args:
        costs: of each run that there can be, such as "linear-k64-s0", in any unit.
        found: the records so far, by run.
    """

    def __init__(self, costs: Mapping[str, float], found: Mapping[str, Record]) -> None:
        self.costs, self.found = costs, dict(found)
        self.parts = {run: match for run in costs if (match := _NAME.fullmatch(run))}
        self.pairs: dict[str, list[tuple[str, str]]] = {}
        self.alike: dict[tuple[str, str], list[tuple[str, str]]] = {}
        for pair in contests(match["way"] for match in self.parts.values()):
            self.alike.setdefault(_rules(pair), []).append(pair)
            for way in pair:
                self.pairs.setdefault(way, []).append(pair)
        self._every = sorted({match["seed"] for match in self.parts.values()})
        self._gaps: dict[tuple[str, str, int], Difference] = {}
        self._doubts: dict[tuple[str, str], float] = {}

    def seeds(self, *ways: str) -> list[str]:
        """Those that all of these have a record with."""
        return [seed for seed in self._every if all(f"{way}-s{seed}" in self.found for way in ways)]

    def gap(self, pair: tuple[str, str]) -> Difference | None:
        """How far the first is ahead so far; None where no seed has both."""
        if not (seeds := self.seeds(*pair)):
            return None
        key = (*pair, len(seeds))
        if key not in self._gaps:
            one, two = ([self.found[f"{way}-s{seed}"] for seed in seeds] for way in pair)
            self._gaps[key] = between(one, two)
        return self._gaps[key]

    @cached_property
    def luck(self) -> float:
        """The standard deviation over seeds of a pair's gap."""
        spreads = []
        for first, second in {pair for pairs in self.pairs.values() for pair in pairs}:
            if len(seeds := self.seeds(first, second)) > 1:
                scores = [[self.found[f"{way}-s{s}"]["metrics"]["accuracy"] for s in seeds]
                          for way in (first, second)]  # fmt: skip
                spreads.append(float(np.subtract(*np.array(scores)).var(ddof=1)))
        return float(np.mean(spreads)) ** 0.5 if len(spreads) > 2 else _LUCK

    def doubt(self, pair: tuple[str, str]) -> float:
        """From 0, closed, to 1, nothing is known."""
        if pair not in self._doubts:
            self._doubts[pair] = self._doubt(pair)
        return self._doubts[pair]

    def _doubt(self, pair: tuple[str, str]) -> float:
        wider = 1
        if (gap := self.gap(pair)) is None:
            gap, wider = self._nearby(pair), 2
        elif gap.seeds >= ENOUGH:
            return 0.0
        if gap is None:
            return 1.0
        error = wider * (gap.error**2 + self.luck**2 / gap.seeds) ** 0.5
        return max(_LEAST, 2 * float(norm.sf(abs(gap.mean) / error)))

    def _nearby(self, pair: tuple[str, str]) -> Difference | None:
        """The gap of the same two at the nearest k at which they have one."""
        k = int(pair[0].split("-k")[1].split("-")[0])

        def distance(other: tuple[str, str]) -> float:
            return abs(math.log(int(other[0].split("-k")[1].split("-")[0]) / k))

        like = [other for other in self.alike[_rules(pair)] if self.gap(other)]
        return self.gap(min(like, key=distance)) if like else None

    def worth(self, run: str, planned: Collection[str] = ()) -> float:
        """What a run that is not made yet could change, over its cost; ``planned`` ones count as made."""
        if run not in self.parts:
            return 0.0
        way, seed = self.parts[run]["way"], self.parts[run]["seed"]
        total = 0.0
        for pair in self.pairs.get(way, ()):
            other = f"{pair[1] if pair[0] == way else pair[0]}-s{seed}"
            if other in self.costs:
                total += self.doubt(pair) * (1.0 if other in self.found or other in planned else 0.5)
        return total / self.costs[run]

    def add(self, run: str, record: Record) -> None:
        """Take up a record that has been made meanwhile."""
        self.found[run] = record
        self._doubts.clear()
        self.__dict__.pop("luck", None)
