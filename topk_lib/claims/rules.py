"""The article's eighteen claims, each with an experiment and a verdict computed from the records.

What counts as better does not depend on how the runs come out: see :mod:`topk_lib.claims.compare`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from topk_lib.claims.compare import (
    FULL,
    LEVEL,
    Grid,
    Missing,
    Results,
    by_k,
    called,
    cite,
    comparable,
    loss,
    split,
    wrong,
)

__all__ = ["CLAIMS", "HARD", "SOFT", "UNLABELLED", "Claim", "Finding", "judge", "markdown"]

UNLABELLED = ("tfidf", "tfidf_corpus", "frequency")
"""Rules that count, and never see a label."""
HARD = ("linear", "chi2", "mutual_information", "embedding", *UNLABELLED, "head_tail", "first", "random")
SOFT = ("gate", "history", "taught", "distilled")

_POINT = 0.01
_SMALL = 0.1  # of a cost that hardly matters
_GRIDS = ("study_25000", "study_4000", "imdb_rules_4000")
_SPEED, _TRAINING, _FITTING = (f"study_speed/{what}" for what in ("inference", "training", "fitting"))
_IF = "holds with a condition:"


class Finding(NamedTuple):
    """What the records say of a claim.

    Attributes:
        verdict: "holds", "holds with a condition: ...", "fails", "cannot be tested", "not yet tested:
            ..." or "not yet measured: ...".
        evidence: lines of MyST that cite the records.
    """

    verdict: str
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True)
class Claim:
    """One claim of the article.

    Attributes:
        name: C1 to C18.
        says: the claim in one line of our own.
        term: its key term in Chinese.
        experiment: what is compared with what.
        rule: from the results to a finding.
        command: what makes the records.
    """

    name: str
    says: str
    term: str
    experiment: str
    rule: Callable[[Results], Finding]
    command: str = "topk-lib study imdb"


def judge(claim: Claim, results: Results) -> Finding:
    """The verdict on a claim; where records are missing, "not yet measured" with the command."""
    try:
        return claim.rule(results)
    except Missing as missing:
        return Finding(f"not yet measured: no {missing}; `{claim.command}` makes the records")


def markdown(results: Results) -> str:
    """All claims as MyST: a table of verdicts, then each with its experiment and evidence."""
    table = ["| | claim | verdict |", "|---|---|---|"]
    parts = []
    for claim in CLAIMS:
        verdict, evidence = judge(claim, results)
        label, title = f"claim-{claim.name.lower()}", f"{claim.says} ({claim.term})"
        table.append(f"| [{claim.name}](#{label}) | {title} | {verdict.partition(':')[0]} |")
        parts += ["", f"({label})=", f"## {claim.name}. {title}", "", f"**Experiment.** {claim.experiment}"]
        parts += ["", f"**Verdict: {verdict}.**", "", *(f"- {line}" for line in evidence)]
    return "\n".join(table + parts) + "\n"


def _listed(things: Iterable[object]) -> str:
    *most, last = map(str, things)
    return f"{', '.join(most)} and {last}" if most else last


def _graded(at: Mapping[int, bool], always: str = "") -> str:
    """ "holds" where it is so at every k (on this condition), with those k if at some, else "fails"."""
    good, bad = ([k for k, yes in at.items() if yes is wanted] for wanted in (True, False))
    if not good:
        return "fails"
    if bad:
        return f"{_IF} at k = {_listed(good)}, not at k = {_listed(bad)}"
    return f"{_IF} {always}" if always else "holds"


def _on_grid(rule: Callable[[Grid, Results], Finding]) -> Callable[[Results], Finding]:
    """Judge by the largest experiment that has what the rule needs."""

    def judged(results: Results) -> Finding:
        grids = sorted((Grid(name, results.get(name, {})) for name in _GRIDS), key=lambda g: -len(g.runs))
        first: Missing | None = None
        for grid in grids:
            try:
                return rule(grid, results)
            except Missing as missing:
                first = first or missing
        raise first or Missing("runs")

    return judged


def _speeds(results: Results, record: str) -> Mapping[str, Any]:
    experiment, run = record.split("/")
    if run not in results.get(experiment, {}):
        raise Missing(f"record {record}")
    found: Mapping[str, Any] = results[experiment][run]["metrics"]
    return found


def _better(first: str, *others: str) -> Callable[[Results], Finding]:
    """The first selector must be better than all the others at equal k."""

    def rule(grid: Grid, _: Results) -> Finding:
        found = grid.outcomes([first], others)
        return Finding(_graded(by_k(found)), grid.lines(grid.closest(found)))

    return _on_grid(rule)


def _soft_wins(grid: Grid, _: Results) -> Finding:
    """A learned selector must be better than every hard rule at equal k."""
    gates = [name for name in SOFT if grid.ks(name, *HARD)]
    if not gates:
        raise Missing("k with runs of a gate and of all hard rules")
    every = grid.compare(
        ((name, k), (rule, k)) for name in gates for k in grid.ks(name, *HARD) for rule in HARD
    )
    found = {name: {pair: sign for pair, sign in every.items() if pair[0][0] == name} for name in gates}
    at = {(name, k): yes for name, outcomes in found.items() for k, yes in by_k(outcomes).items()}
    good = [called(choice) for choice, yes in at.items() if yes]
    verdict = "holds" if len(good) == len(at) else f"{_IF} only {_listed(good)}" if good else "fails"
    return Finding(verdict, tuple(line for some in found.values() for line in grid.lines(grid.closest(some))))


def _cheap(results: Results) -> Finding:
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
    verdict = "holds" if not dear else "fails" if len(dear) == len(costs) else f"{_IF} not {_listed(dear)}"
    return Finding(verdict, tuple(evidence))


def _faster(results: Results) -> Finding:
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


def _fixed(grid: Grid, _: Results) -> Finding:
    """A hard rule that was fitted on labels must not be better than those that never see one."""
    found = grid.outcomes(["linear"], UNLABELLED)
    adapts = [k for k, yes in by_k(found).items() if yes]
    condition = f"{_IF} not of a rule fitted on labels, which is better (k = {_listed(adapts or [0])})"
    return Finding(condition if adapts else "holds", grid.lines(grid.closest(found)))


def _hurts(grid: Grid, _: Results) -> Finding:
    """Some hard rule at some k must be worse than the full model."""
    found = grid.to_full(HARD)
    order = sorted(found, key=lambda pair: grid.accuracy(pair[0]))
    ends = {pair: found[pair] for pair in (order[0], order[-1])}
    return Finding("holds" if -1 in found.values() else "fails", grid.lines(ends))


def _context(grid: Grid, _: Results) -> Finding:
    """The gate, which sees neighbours, must be better than the linear rule where negation abounds."""
    at, evidence = {}, []
    for k in grid.ks("gate", "linear"):
        both = [("gate", k), ("linear", k)]
        seeds = grid.seeds(*both)
        parts = [[grid.runs[c, s]["metrics"].get("slices", {}).get("negation") for c in both] for s in seeds]
        if seeds and all(one and two for one, two in parts):
            at[k] = all(one["accuracy_low"] > two["accuracy_high"] for one, two in parts)
            cited = [f"`{c[0]}` {grid.cite(c, 'slices.negation.accuracy .1%')}" for c in both]
            evidence.append(f"k = {k}, reviews full of negation: {', '.join(cited)}")
    if not at:
        raise Missing("runs of gate and linear at one k with their slices")
    none = f"{_IF} the gate sees neighbours when it chooses, but where negation abounds no gain shows"
    return Finding(_graded(at) if any(at.values()) else none, tuple(evidence))


def _dearer(results: Results) -> Finding:
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


def _keeps(grid: Grid, _: Results) -> Finding:
    """The linear rule or the gate, at k <= 128, must be within a point of the full model, surely."""
    pairs = grid.to_full(["linear", "gate"], at_most=128)
    sure, likely = [], []
    for choice, full in pairs:
        both = [(grid.runs[full, seed], grid.runs[choice, seed]) for seed in grid.seeds(choice, full)]
        if not all(comparable(*two) for two in both):
            raise Missing("answers of these and the full model to the same reviews")
        lost = [loss(*two, LEVEL / len(pairs)) for two in both]
        if max(most for _, most in lost) < _POINT:
            sure.append(called(choice))
        elif max(less for less, _ in lost) < _POINT:
            likely.append(called(choice))
    if not sure and not likely and 128 not in grid.ks("linear", "gate"):
        raise Missing("runs of linear and gate at k = 128")
    cheaper = "fewer tokens are read, by as many parameters as before"
    if sure:
        verdict = f"{_IF} {_listed(sure)}; {cheaper}"
    elif likely:
        verdict = (
            f"{_IF} {_listed(likely)} by the estimate, though more than a point is not ruled out; {cheaper}"
        )
    else:
        verdict = "fails"
    return Finding(verdict, grid.lines(grid.closest(pairs, max)))


def _counts_find(grid: Grid, _: Results) -> Finding:
    """Each rule that counts without labels must be better than random tokens at every k."""
    found = grid.outcomes(UNLABELLED, ["random"])
    good = [called(a) for (a, _), sign in found.items() if sign > 0]
    some = f"{_IF} only {_listed(good)}" if good else "fails"
    return Finding("holds" if len(good) == len(found) else some, grid.lines(found))


def _distance_finds(grid: Grid, _: Results) -> Finding:
    """Embedding distance must be better than chance; the linear weight says how good it could be."""
    found = grid.outcomes(["embedding"], ["random", "linear"])
    chance = {pair: sign for pair, sign in found.items() if pair[1][0] == "random"}
    linear = {pair: sign for pair, sign in found.items() if pair[1][0] == "linear"}
    behind = "better than chance, worse than the linear weight" if -1 in linear.values() else ""
    return Finding(_graded(by_k(chance), behind), grid.lines(chance | linear))


def _generalises(grid: Grid, _: Results) -> Finding:
    """Some model that reads fewer tokens must be better on unseen reviews than the full one."""
    every = [*HARD, *SOFT]
    found = grid.compare(((name, k), FULL) for name in every for k in grid.ks(name))
    if 1 not in found.values() and not grid.ks(*every):
        raise Missing("k with runs of all selectors")
    good = [called(a) for (a, _), sign in found.items() if sign > 0]
    return Finding(f"{_IF} only {_listed(good)}" if good else "fails", grid.lines(grid.closest(found, max)))


def _explains(grid: Grid, _: Results) -> Finding:
    """Reading the chosen tokens must give the full model's answer more often than random ones do."""
    at, evidence = {}, []
    ks = [k for k in grid.ks("linear", "random") if grid.seeds(("linear", k), ("random", k), FULL)]
    for k in ks:
        both = [("linear", k), ("random", k)]
        better = []
        for seed in grid.seeds(*both, FULL):
            if not comparable(*(grid.runs[c, seed] for c in (FULL, *both))):
                raise Missing("answers of linear, random and the full model to the same reviews")
            full, chosen, random = (wrong(grid.runs[c, seed]) for c in (FULL, *both))
            # There are two labels: both right or both wrong is the same answer.
            a, b, _n, p = split(chosen == full, random == full)
            better.append(a > b and p <= LEVEL / len(ks))
        at[k] = all(better)
        cited = (
            f"`linear` {grid.cite(both[0])}, `random` {grid.cite(both[1])}, the full model {grid.cite(FULL)}"
        )
        evidence.append(f"k = {k}: {cited}")
    if not at:
        raise Missing("runs of linear, random and the full model")
    always = "what was read is known and tells more than chance; why it was chosen was not tested"
    return Finding(_graded(at, always), tuple(evidence))


def _reaches(results: Results) -> Finding:
    """Some accuracy measured here must have the reported F1 in its interval."""
    every = {f"{name}/{run}": record["metrics"] for name in ("imdb_full", "imdb_baselines", *_GRIDS)
             for run, record in results.get(name, {}).items()}  # fmt: skip
    if not every:
        raise Missing("measured accuracy")
    best = max(every, key=lambda run: float(every[run]["accuracy_high"]))
    reached = f"{_IF} such an accuracy can be had, though not by the article's table"
    return Finding(
        reached if every[best]["accuracy_high"] >= 0.963 else "fails",
        (
            "no confusion matrix gives the table: {ref}`ch-must-it-read-it-all` tries them all",
            f"the measured accuracy that reaches highest, `{best}`: {cite(best, 'metrics.accuracy .1%')}",
        ),
    )


def _later(chapter: str) -> Callable[[Results], Finding]:
    return lambda _: Finding(f"not yet tested: the chapter *{chapter}* will")


CLAIMS = (
    Claim("C1", "Hard selection is simple and cheap to compute", "硬选择",
          "How long each hard rule takes to fit, beside training the encoder, and to choose, beside reading "
          "what was chosen.", _cheap, "topk-lib study imdb --only study_speed"),
    Claim("C2", "Hard selection speeds up inference", "推理",
          "Texts a second with the linear rule and with the full model, in turns on the same reviews; the "
          "slowest round of the one must beat the fastest of the other.", _faster,
          f"topk-lib study imdb --only {_SPEED}"),
    Claim("C3", "Hard selection is fixed and cannot adapt to the task", "硬选择",
          "A hard rule fitted on labels, `linear`, against those that count without labels, at equal k.",
          _on_grid(_fixed)),
    Claim("C4", "Hard selection can drop key information and hurt quality", "信息丢失",
          "Every hard rule at every k against the full model.", _on_grid(_hurts)),
    Claim("C5", "Soft selection adapts to the task and generalises better", "软选择",
          "The learned gates against every hard rule at equal k, on unseen reviews.", _on_grid(_soft_wins)),
    Claim("C6", "Soft selection uses more context", "上下文",
          "The gate, which sees a token's neighbours, against the linear rule, which sees the token alone, "
          "on the fifth of the reviews with the most negations.", _on_grid(_context)),
    Claim("C7", "Soft selection costs more compute, data and training time", "训练成本",
          "Texts a second in training with the gate and with the linear rule, in turns on the same reviews.",
          _dearer, f"topk-lib study imdb --only {_TRAINING}"),
    Claim("C8", "A well-chosen top-k keeps the pretrained knowledge at much lower complexity", "预训练",
          "The linear rule and the gate at 128 tokens or fewer: the upper confidence bound of their loss to "
          "the full model must be below one point; where only the loss itself is, the verdict says so.",
          _on_grid(_keeps)),
    Claim("C9", "TF-IDF or word frequency finds the relevant tokens", "词频",
          "The rules that count without labels against random tokens, at equal k.", _on_grid(_counts_find)),
    Claim("C10", "Distance between embeddings finds related words", "嵌入距离",
          "The tokens that are much nearer to one class's centroid than to the other's, against random ones "
          "and against those with the largest linear weights, at equal k.", _on_grid(_distance_finds)),
    Claim("C11", "Adjusting by historical performance helps", "历史表现",
          "The gate with a history of each token type against the gate alone, at equal k.",
          _better("history", "gate")),
    Claim("C12", "Selection improves generalisation", "泛化",
          "Every selector at every k against the full model, on unseen reviews.", _on_grid(_generalises)),
    Claim("C13", "Selection improves interpretability", "可解释性",
          "Keep and retrain: how often a model that reads only the chosen tokens gives the full model's "
          "answer, against one that reads as many random tokens.", _on_grid(_explains)),
    Claim("C14", "Fine-tuning reaches 96.3% F1 on IMDB", "微调",
          "Arithmetic on the reported table, and the best accuracy measured here.", _reaches,
          "python benchmarks/imdb.py"),
    Claim("C15", "The gains carry over to generation, question answering, translation, summarisation and "
          "named-entity recognition", "词元选择", "Selection before models of other tasks.",
          _later("Applications")),
    Claim("C16", "Parameter-efficient fine-tuning keeps quality with few parameters and less overfitting",
          "参数高效微调", "Adapters, prompt tuning, LoRA and BitFit beside full fine-tuning.",
          _later("Parameter-efficient fine-tuning")),
    Claim("C17", "Prompts allow zero- and few-shot use without updates", "提示学习",
          "A frozen model, asked with and without examples.", _later("Prompts")),
    Claim("C18", "The four families of continual learning prevent forgetting", "持续学习",
          "Regularisation, replay, dynamic architectures and distillation on a sequence of tasks.",
          _later("Continual learning")),
)  # fmt: skip
"""All claims, in the order of the article."""
