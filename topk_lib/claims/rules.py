"""The rules by which the article's claims are judged: each turns the records into a finding.

What counts as better does not depend on how the runs come out: see :mod:`topk_lib.claims.compare`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import binomtest

from topk_lib.claims.compare import (
    ENOUGH,
    FULL,
    LEVEL,
    Grid,
    Missing,
    Results,
    between,
    by_k,
    called,
    cite,
    comparable,
    difference,
    wrong,
)

__all__ = ["HARD", "OURS", "SOFT", "UNLABELLED", "Finding", "cheap", "context", "counts_find", "dearer",
           "distance_finds", "explains", "faster", "fixed", "generalises", "helps", "hurts", "keeps",
           "listed", "reaches", "soft_wins"]  # fmt: skip

UNLABELLED = ("tfidf", "tfidf_corpus", "frequency")
"""Rules that count, and never see a label."""
HARD = ("linear", "chi2", "mutual_information", "embedding", *UNLABELLED, "head_tail", "first", "random")
OURS = ("distinct", "keep_negation")
"""Hard rules of our own, which look at the rest of the text; a claim hears them where they were run."""
SOFT = ("gate", "history", "taught", "distilled", "distilled_pieces")

_POINT = 0.01
_SMALL = 0.1  # of a cost that hardly matters
_GRIDS = ("study_25000", "study_4000", "imdb_rules_4000")
_SPEED, _TRAINING, _FITTING = (f"study_speed/{what}" for what in ("inference", "training", "fitting"))
_NEIGHBOURS = "embedding_neighbours/minilm"
_IF = "holds with a condition:"
_NUMBERS = ("no", "one", "two", "three", "four", "five")


class Finding(NamedTuple):
    """What the records say of a claim.

    Attributes:
        answer: "holds", "holds with a condition: ...", "fails", "cannot be tested" or "not yet
            measured: ...".
        evidence: lines of MyST that cite the records.
        ks: at which k models were compared for it.
        seeds: how many seeds the comparison with the fewest had; None: no training is compared.
    """

    answer: str
    evidence: tuple[str, ...] = ()
    ks: tuple[int, ...] = ()
    seeds: int | None = None

    @property
    def verdict(self) -> str:
        """The one that every page quotes: the answer, or "undecided" where it has too few seeds."""
        if self.seeds is None:
            return self.answer
        count = (
            f"{_NUMBERS[self.seeds]} seed{'s' * (self.seeds != 1)}"
            if self.seeds < 6
            else f"{self.seeds} seeds"
        )
        at = f"tested at k = {listed(self.ks)}" if self.ks else ""
        if self.seeds < ENOUGH:
            start = f"undecided, {count} where {_NUMBERS[ENOUGH]} are needed: so far {self.answer}"
            return f"{start} ({at})" if at else start
        return f"{self.answer} ({at}{', ' * bool(at)}{count})"

    @property
    def short(self) -> str:
        """Without what stands behind the colon or in brackets."""
        start, colon, rest = self.verdict.partition(":")
        kind = rest.split(":")[0] if start.startswith("undecided") else ""
        return f"{start}{colon * bool(kind)}{kind}".split(" (")[0]


def listed(things: Iterable[object]) -> str:
    *most, last = map(str, things)
    return f"{', '.join(most)} and {last}" if most else last


def _graded(at: Mapping[int, bool], always: str = "") -> str:
    """ "holds" where it is so at every k (on this condition), with those k if at some, else "fails"."""
    good, bad = ([k for k, yes in at.items() if yes is wanted] for wanted in (True, False))
    if not good:
        return "fails"
    if bad:
        return f"{_IF} at k = {listed(good)}, not at k = {listed(bad)}"
    return f"{_IF} {always}" if always else "holds"


def _on_grid(rule: Callable[[Grid, Results], Finding]) -> Callable[[Results], Finding]:
    """Judge by the largest experiment that has what the rule needs, with enough seeds if there is one."""

    def judged(results: Results) -> Finding:
        first: Missing | None = None
        for least in (ENOUGH, 1):
            grids = (Grid(name, results.get(name, {}), least) for name in _GRIDS)
            for grid in sorted(grids, key=lambda g: -len(g.runs)):
                try:
                    found = rule(grid, results)
                except Missing as missing:
                    first = missing if least == 1 and first is None else first
                    continue
                ks = sorted({k for choices in grid.compared for _, k in choices} - {FULL[1]})
                return found._replace(ks=tuple(ks), seeds=min(grid.compared.values()))
        raise first or Missing("runs")

    return judged


def _speeds(results: Results, record: str) -> Mapping[str, Any]:
    experiment, run = record.split("/")
    if run not in results.get(experiment, {}):
        raise Missing(f"record {record}")
    found: Mapping[str, Any] = results[experiment][run]["metrics"]
    return found


@_on_grid
def helps(grid: Grid, _: Results) -> Finding:
    """The gate with a history must be better than the gate alone at equal k."""
    found = grid.outcomes(["history"], ["gate"])
    return Finding(_graded(by_k(found)), grid.lines(found))


@_on_grid
def soft_wins(grid: Grid, _: Results) -> Finding:
    """A learned selector must be better than every hard rule at equal k."""
    gates = [name for name in SOFT if grid.ks(name, *HARD)]
    if not gates:
        raise Missing("k with runs of a gate and of all hard rules")
    every = grid.compare(
        ((name, k), (rule, k))
        for name in gates
        for k in grid.ks(name, *HARD)
        for rule in (*HARD, *(own for own in OURS if grid.seeds((name, k), (own, k))))
    )
    found = {name: {pair: sign for pair, sign in every.items() if pair[0][0] == name} for name in gates}
    at = {(name, k): yes for name, outcomes in found.items() for k, yes in by_k(outcomes).items()}
    good = [called(choice) for choice, yes in at.items() if yes]
    verdict = "holds" if len(good) == len(at) else f"{_IF} only {listed(good)}" if good else "fails"
    return Finding(verdict, tuple(line for some in found.values() for line in grid.lines(grid.closest(some))))


def cheap(results: Results) -> Finding:
    """Fitting takes less than a tenth of the training, choosing less than a tenth of an answer."""
    speeds, fits, steps = (_speeds(results, run) for run in (_SPEED, _FITTING, _TRAINING))
    k = min(int(key[7:]) for key in steps if key.startswith("first-k"))
    training = results["study_speed"]["fitting"]["data"]["n_train"] / steps[f"first-k{k}"]["texts_per_second"]
    costs = {f"fitting `{name}`": fits[name]["seconds"] / training for name in HARD if name in fits}
    dearest = max((name for name in HARD if name in fits), key=lambda name: fits[name]["seconds"])
    evidence = [
        f"of the rules, `{dearest}` takes longest to fit: {cite(_FITTING, f'metrics.{dearest}.seconds .1f')} "
        f"seconds; one epoch on these reviews at k = {k} takes "
        f"{costs[f'fitting `{dearest}`'] ** -1:.0f} times as long"
    ]
    for key, one in speeds.items():
        if key.startswith(("linear-k", "tfidf-k")):
            name, size = key.split("-k")
            choosing = f"choosing by {called((name, int(size)))}"
            costs[choosing] = one["selector_share"]
            share = cite(_SPEED, f"metrics.{key}.selector_share .1%")
            evidence.append(f"{choosing} takes {share} of an answer's time")
    dear = [what for what, cost in costs.items() if cost >= _SMALL]
    verdict = "holds" if not dear else "fails" if len(dear) == len(costs) else f"{_IF} not {listed(dear)}"
    return Finding(verdict, tuple(evidence))


def faster(results: Results) -> Finding:
    """The slowest round with the linear rule is faster than the fastest of the full model."""
    speeds = _speeds(results, _SPEED)
    full = speeds["first-k512"]
    at = {int(key[8:]): one["slowest"] > full["fastest"]
          for key, one in speeds.items() if key.startswith("linear-k")}  # fmt: skip
    if not at:
        raise Missing(f"linear rule in {_SPEED}")
    keys = ["first-k512", *(f"linear-k{k}" for k in at)]
    names = ["the full model", *(called(("linear", k)) for k in at)]
    lines = (f"{name}: {cite(_SPEED, f'metrics.{key}.texts_per_second .0f')} texts a second"
             for name, key in zip(names, keys, strict=True))  # fmt: skip
    return Finding(_graded(at), tuple(lines))


@_on_grid
def fixed(grid: Grid, _: Results) -> Finding:
    """A hard rule that was fitted on labels must not be better than those that never see one."""
    found = grid.outcomes(["linear"], UNLABELLED)
    adapts = [k for k, yes in by_k(found).items() if yes]
    condition = f"{_IF} not of a rule fitted on labels, which is better (k = {listed(adapts or [0])})"
    return Finding(condition if adapts else "holds", grid.lines(grid.closest(found)))


@_on_grid
def hurts(grid: Grid, _: Results) -> Finding:
    """Some hard rule at some k must be worse than the full model."""
    found = grid.to_full(HARD)
    order = sorted(found, key=lambda pair: grid.accuracy(pair[0]))
    ends = {pair: found[pair] for pair in (order[0], order[-1])}
    return Finding("holds" if -1 in found.values() else "fails", grid.lines(ends))


@_on_grid
def context(grid: Grid, results: Results) -> Finding:
    """The gate, which sees neighbours, must be better than the linear rule where negation abounds."""
    ks = {k: grid.seeds(("gate", k), ("linear", k)) for k in grid.ks("gate", "linear")}
    where = "reviews full of negation"
    if base := results.get("study_slices", {}).get("base"):
        share = cite("study_slices/base", "metrics.negation.share .1%")
        where += f" (always *{base['metrics']['negation']['label']}*: {share})"
    at, evidence = {}, []
    for k, seeds in ks.items():
        both = [("gate", k), ("linear", k)]
        parts = [[_slice(record, "negation") for record in grid.of(choice, seeds)] for choice in both]
        if seeds and all(all(side) for side in parts):
            grid.used(*both)
            gap = between(*([part for part in side if part] for side in parts))
            at[k] = gap.mean > 0 and gap.p <= LEVEL / len(ks)
            cited = [f"`{c[0]}` {grid.cite(c, seeds, 'slices.negation.accuracy .1%')}" for c in both]
            evidence.append(f"k = {k}, {where}: {', '.join(cited)} (seeds: {len(seeds)})")
    if not at:
        raise Missing("runs of gate and linear at one k with their slices")
    none = f"{_IF} the gate sees neighbours when it chooses, but where negation abounds no gain shows"
    return Finding(_graded(at) if any(at.values()) else none, tuple(evidence))


def _slice(record: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """A part of the test reviews, as if it were a record."""
    part = record["metrics"].get("slices", {}).get(name)
    return part and {"metrics": part, "data": {"n_eval": part["n"], "eval_fingerprint": name}}


def dearer(results: Results) -> Finding:
    """A step of training with the gate must take over a tenth longer than with the linear rule."""
    speeds = _speeds(results, _TRAINING)
    at, evidence = {}, []
    for k in sorted(int(key[6:]) for key in speeds if key.startswith("gate-k")):
        gate, linear = speeds[f"gate-k{k}"], speeds[f"linear-k{k}"]
        at[k] = linear["texts_per_second"] > (1 + _SMALL) * gate["texts_per_second"]
        cited = [f"`{name}` {cite(_TRAINING, f'metrics.{name}-k{k}.texts_per_second .0f')}"
                 for name in ("gate", "linear")]  # fmt: skip
        evidence.append(f"k = {k}, texts a second in training: {', '.join(cited)}")
    if not at:
        raise Missing(f"gate in {_TRAINING}")
    return Finding(
        _graded(at, "it costs more time; whether it needs more data was not tested"), tuple(evidence)
    )


@_on_grid
def keeps(grid: Grid, _: Results) -> Finding:
    """The linear rule or the gate, at k <= 128, must be within a point of the full model, surely."""
    every = [(name, k) for name in ("linear", "gate") for k in grid.ks(name) if k <= 128]
    pairs = {(choice, FULL): seeds for choice in every if (seeds := grid.seeds(choice, FULL))}
    if not pairs:
        raise Missing("runs of linear or gate and of the full model")
    sure, likely = [], []
    for (choice, full), seeds in pairs.items():
        both = grid.of(full, seeds), grid.of(choice, seeds)
        if not comparable(*both[0], *both[1]):
            raise Missing("answers of these and the full model to the same reviews")
        lost = between(*both)
        if lost.bound(LEVEL / len(pairs)) < _POINT:
            sure.append(called(choice))
        elif lost.mean < _POINT:
            likely.append(called(choice))
    if not sure and not likely and not any(k == 128 for (_, k), _ in pairs):
        raise Missing("runs of linear or gate at k = 128")
    found = grid.compare(pairs)
    cheaper = "fewer tokens are read, by as many parameters as before"
    if sure:
        answer = f"{_IF} {listed(sure)}; {cheaper}"
    elif likely:
        some = f"{listed(likely)} by the estimate, though more than a point is not ruled out"
        answer = f"{_IF} {some}; {cheaper}"
    else:
        answer = "fails"
    return Finding(answer, grid.lines(found))


@_on_grid
def counts_find(grid: Grid, _: Results) -> Finding:
    """Each rule that counts without labels must be better than random tokens at every k."""
    found = grid.outcomes(UNLABELLED, ["random"])
    good = [called(a) for (a, _), sign in found.items() if sign > 0]
    some = f"{_IF} only {listed(good)}" if good else "fails"
    return Finding("holds" if len(good) == len(found) else some, grid.lines(found))


def distance_finds(results: Results) -> Finding:
    """Nearest neighbours of opinion words: opinion words oftener than chance, and of their own side."""
    m = _speeds(results, _NEIGHBOURS)
    related = binomtest(
        m["words_with_listed"], m["words"], m["chance_with_listed"], alternative="greater"
    ).pvalue
    alike = binomtest(m["same_side"], m["words"], m["chance_same_side"], alternative="greater").pvalue
    if related > LEVEL / 2:
        answer = "fails"
    elif alike > LEVEL / 2:
        answer = f"{_IF} related words, not those of the same meaning: opposites stand as near"
    else:
        answer = "holds"

    def number(key: str) -> str:
        return cite(_NEIGHBOURS, f"metrics.{key}")

    return Finding(answer, (
        f"of {number('words')} opinion words {number('words_with_listed')} have another one among their ten "
        f"nearest words; by chance {number('chance_with_listed .1%')} of them would",
        f"the nearest other opinion word is of the same side for {number('same_side')} of them; by chance "
        f"for {number('chance_same_side .1%')}",
        "this is of words, not of a choice of tokens: the selector `embedding` takes distances from the "
        "classes' centroids, see {ref}`ch-hard-selection`",
    ))  # fmt: skip


@_on_grid
def generalises(grid: Grid, _: Results) -> Finding:
    """Some model that reads fewer tokens must be better on unseen reviews than the full one."""
    every = [*HARD, *SOFT]
    pairs = [((name, k), FULL) for name in every for k in grid.ks(name) if grid.seeds((name, k), FULL)]
    found = grid.compare(pairs)
    if 1 not in found.values() and not any(
        all(((n, k), FULL) in found for n in every) for k in grid.ks(*every)
    ):
        raise Missing("k with runs of all selectors")
    good = [called(a) for (a, _), sign in found.items() if sign > 0]
    return Finding(f"{_IF} only {listed(good)}" if good else "fails", grid.lines(grid.closest(found, max)))


@_on_grid
def explains(grid: Grid, _: Results) -> Finding:
    """Reading the chosen tokens must give the full model's answer more often than random ones do."""
    at, evidence = {}, []
    ks = [k for k in grid.ks("linear", "random") if grid.seeds(("linear", k), ("random", k), FULL)]
    for k in ks:
        choices = (FULL, ("linear", k), ("random", k))
        seeds = grid.used(*choices)
        runs = [grid.of(choice, seeds) for choice in choices]
        if not comparable(*(record for some in runs for record in some)):
            raise Missing("answers of linear, random and the full model to the same reviews")
        full, chosen, random = (np.stack([wrong(record) for record in some]) for some in runs)
        # There are two labels: both right or both wrong is the same answer.
        gap = difference(chosen == full, random == full)
        at[k] = gap.mean > 0 and gap.p <= LEVEL / len(ks)
        names = ("the full model", "`linear`", "`random`")
        cited = (f"{name} {grid.cite(choice, seeds)}" for name, choice in zip(names, choices, strict=True))
        evidence.append(f"k = {k}: {', '.join(cited)} (seeds: {len(seeds)})")
    if not at:
        raise Missing("runs of linear, random and the full model")
    always = "what was read is known and tells more than chance; why it was chosen was not tested"
    return Finding(_graded(at, always), tuple(evidence))


def reaches(results: Results) -> Finding:
    """The table must be possible; whether such a number can be had, the measured ones decide."""
    names = ("imdb_full", "higher", "causal", "imdb_baselines", *_GRIDS)
    every = {f"{name}/{run}": record["metrics"] for name in names
             for run, record in results.get(name, {}).items()
             if record["data"].get("evaluated_on") != "dev"}  # fmt: skip
    if not every:
        raise Missing("measured accuracy")
    best = max(every, key=lambda run: float(every[run]["accuracy_high"]))
    table = "no confusion matrix gives the reported table"
    reached = f"{_IF} a model tested here has such an accuracy, though {table}"
    return Finding(
        reached
        if every[best]["accuracy_high"] >= 0.963
        else f"fails: {table}, and no model tested here gets there",
        (
            "the table: {ref}`ch-must-it-read-it-all` tries all confusion matrices",
            f"the measured accuracy that reaches highest, `{best}`: {cite(best, 'metrics.accuracy .1%')}",
            "nothing follows for larger models: some are reported to pass 96% {cite:p}`yang2019xlnet`",
        ),
    )
