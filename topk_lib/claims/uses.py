"""The rule by which the claim is judged that the gains carry over: five tasks and three products."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from topk_lib.claims import products
from topk_lib.claims.compare import (
    LEVEL,
    Difference,
    Missing,
    Record,
    Results,
    between,
    cite,
    of_items,
    two_sources,
)
from topk_lib.claims.rules import Finding, listed

__all__ = ["USES", "carry_over"]

_POINT = 0.01
_SENTENCES, _TOKENS, _TYPES, _SHARES = (3, 2, 1), (64, 32), (1024, 256, 64), ("3/4", "1/2", "1/4")
_READ = {"support": (12, 8), "monitor": (24, 12)}


class _Choice(NamedTuple):
    """Something that was chosen, beside the whole of it.

    Attributes:
        name: what the model was given.
        lost: by how much the whole is better.
        allowed: the loss must be below this; where it is 0, the choice must be better.
        cheaper: whether it took less time, the choosing included.
        cited: its measure and that of the whole.
        drawn: whether a seed decides anything.
    """

    name: str
    lost: Difference
    allowed: float
    cheaper: bool
    cited: str
    drawn: bool = True

    def kept(self) -> bool:
        # Nothing is better by its estimate alone.
        lost = self.lost.mean if self.allowed else self.lost.bound(LEVEL)
        return self.cheaper and lost < self.allowed

    def sure(self, level: float) -> bool:
        return self.kept() and self.lost.bound(level) < self.allowed


def _seeds(results: Results, experiment: str, start: str) -> list[Record]:
    """The records of one arm, a seed each."""
    runs = results.get(experiment, {})
    found = [runs[name] for seed in range(10) if (name := f"{start}-s{seed}") in runs]
    if not found:
        raise Missing(f"record {experiment}/{start}-s0")
    return found


def _one(results: Results, experiment: str, run: str) -> Record:
    if run not in results.get(experiment, {}):
        raise Missing(f"record {experiment}/{run}")
    return results[experiment][run]


def _told(key: str, *arms: Sequence[Record]) -> str:
    """A measure of each arm, a seed after the other, the whole last."""
    texts = (" · ".join(cite(f"{r['experiment']}/{r['run']}", key) for r in arm) for arm in arms)
    return ", the whole ".join(texts)


def _of_seeds(gaps: np.ndarray) -> Difference:
    """Of measures that belong to all texts together: the luck of the seeds alone, where there are several."""
    if len(gaps) > 1:
        return two_sources(gaps, 0.0, np.inf)
    return Difference(float(gaps.mean()), np.inf, 1, 1.0, 1)


def _faster(whole: Iterable[float], chosen: Iterable[float]) -> bool:
    return float(np.mean(list(chosen))) < float(np.mean(list(whole)))


def _answers(results: Results) -> Iterator[_Choice]:
    """The language model reads the k best sentences of a paragraph, by the rule that was trained for it."""
    arm = _seeds(results, "answers", "sentences-en")
    rows = [record["metrics"] for record in arm]
    for k in _SENTENCES:
        key = f"trained-k{k}"
        gaps = [np.subtract(row["all"]["each"], row[key]["each"]) for row in rows]
        yield _Choice(
            f"{k} of the sentences", of_items(gaps, same=False), _POINT,
            _faster((row["all"]["seconds"] for row in rows), (row[key]["seconds"] for row in rows)),
            f"F1 {_told(f'metrics.{key}.f1 .1%', arm)}, the whole {_told('metrics.all.f1 .1%', arm)}",
        )  # fmt: skip


def _written(results: Results, start: str, name: str, drawn: bool) -> _Choice:
    """The language model's sentence from a part of an abstract, beside that from all of it."""
    whole, arm = _one(results, "summaries", "write-all"), _seeds(results, "summaries", start)
    each = [np.asarray(record["metrics"]["each"]["rouge1"]) for record in arm]
    gaps = [np.asarray(whole["metrics"]["each"]["rouge1"]) - one for one in each]
    spent = [[r["metrics"]["seconds"] + r["metrics"]["seconds_choosing"] for r in some]
             for some in ([whole], arm)]  # fmt: skip
    told = f"ROUGE-1 {_told('metrics.rouge1.mean .3f', arm, [whole])}"
    return _Choice(name, of_items(gaps), _POINT, _faster(*spent), told, drawn)


def _summaries(results: Results) -> Iterator[_Choice]:
    for k in _SENTENCES:
        yield _written(results, f"write-gate-k{k}", f"{k} of the sentences", True)


def _prompts(results: Results) -> Iterator[_Choice]:
    """Nothing is drawn: the tokens that surprise the model most stay."""
    for k in _TOKENS:
        yield _written(results, f"tokens-surprise-k{k}", f"{k} tokens of the prompt", False)


def _translation(results: Results) -> Iterator[_Choice]:
    """k types of the vocabulary for each sentence. BLEU is of all sentences: seeds are the only luck here."""
    arm = _seeds(results, "translation", "k")
    speed = _one(results, "translation", "speed")["metrics"]["batch-1-beams-1"]
    for k in _TYPES:
        if str(k) not in speed:
            continue
        scores = [record["metrics"]["greedy"] for record in arm]
        gaps = np.array([row["all"]["bleu"] - row[f"both-{k}"]["bleu"] for row in scores]) / 100
        told = (f"BLEU {_told(f'metrics.greedy.both-{k}.bleu .1f', arm)}, the whole "
                f"{_told('metrics.greedy.all.bleu .1f', arm)}")  # fmt: skip
        faster = speed[str(k)]["times_faster"] > 1
        yield _Choice(f"{k:,} types a sentence", _of_seeds(gaps), _POINT, faster, told)


def _names(results: Results) -> Iterator[_Choice]:
    """A share of the tokens goes through the upper layers, those that the tagger doubts."""
    whole, arm = (_seeds(results, "entities", start) for start in ("layers6", "doubt"))
    cost = _one(results, "entities", "cost")["metrics"]
    for share in _SHARES:
        pairs = zip(whole, arm, strict=False)
        gaps = np.array([a["metrics"]["f1"] - b["metrics"][share]["f1"] for a, b in pairs])
        rates = [cost.get(key, {}).get("texts_per_second") for key in (f"doubt {share}", "layers6")]
        if rates[0] is None:  # not every share is timed: then work is counted
            rates = [-cost[key]["flops_per_post"] for key in (f"doubt {share}", "layers6")]
        told = f"F1 {_told(f'metrics.{share}.f1 .1%', arm)}, the whole {_told('metrics.f1 .1%', whole)}"
        yield _Choice(
            f"{share} of the tokens in the upper layers", _of_seeds(gaps), _POINT, rates[0] > rates[1], told
        )


def _support(results: Results) -> Iterator[_Choice]:
    return _few_tokens(results, "support", "support-logistic-e10")


def _monitor(results: Results) -> Iterator[_Choice]:
    return _few_tokens(results, "monitor", "monitor-vectors")


def _few_tokens(results: Results, product: str, start: str) -> Iterator[_Choice]:
    """k tokens of each text, as TF-IDF ranks them, beside all; timed in turns, a text at a time."""
    whole = _seeds(results, "products", start)
    for k in _READ[product]:
        arm = _seeds(results, "products", f"{start}-tfidf-k{k}")
        speed = _one(results, "products", "reading")["metrics"][product]
        n = min(len(whole), len(arm))
        told = f"accuracy {_told('metrics.accuracy .1%', arm, whole)}"
        faster = speed[f"tfidf-k{k}"]["texts_per_second"] > speed["all"]["texts_per_second"]
        yield _Choice(f"{k} tokens of each text", between(whole[:n], arm[:n]), _POINT, faster, told)


def _recommender(results: Results) -> Iterator[_Choice]:
    """It has no tokens to leave out; here soft top-k is the loss, and must make it better."""
    gap = products.ahead(results.get("products", {}), "both", "both-topk")
    arms = [_seeds(results, "products", f"recommend-{way}") for way in ("both-topk", "both")]
    if gap is None:
        raise Missing("record products/recommend-both-s0")
    told = f"recall@10 {_told('metrics.recall_10.mean .1%', *arms)} (the whole: the softmax loss)"
    yield _Choice("a loss for the 10 first places", gap, 0.0, True, told)


USES: dict[str, Callable[[Results], Iterator[_Choice]]] = {
    "generation": _prompts,
    "question answering": _answers,
    "translation": _translation,
    "summarisation": _summaries,
    "named entities": _names,
    "the support desk": _support,
    "the opinion monitor": _monitor,
    "the recommender": _recommender,
}
"""The article's five tasks and its three products, and what was chosen in each."""


def carry_over(results: Results) -> Finding:
    """In each use some choice must lose less than a point (of its own measure, in hundredths) and take less
    time than the whole; the recommender must become better, beyond luck. All choices share the chance of 5%.

    Where only the loss itself is below a point, and not its upper bound, the verdict says so. Where records
    of some uses are missing, there is no verdict yet, but what the others say.
    """
    found: dict[str, list[_Choice]] = {}
    lacking: dict[str, str] = {}
    for name, use in USES.items():
        try:
            found[name] = list(use(results))
        except Missing as missing:
            lacking[name] = str(missing)
    if not found:
        raise Missing(next(iter(lacking.values())))
    level = LEVEL / sum(map(len, found.values()))
    evidence = tuple(_line(name, choices, level) for name, choices in found.items())
    kept = [name for name, choices in found.items() if any(one.kept() for one in choices)]
    doubt = [name for name in kept if not any(one.sure(level) for one in found[name])]
    if lacking:
        return Finding(_so_far(found, lacking, kept, doubt), evidence)
    if not kept:
        answer = "fails"
    elif len(kept) == len(found) and not doubt:
        answer = "holds"
    else:
        which = "" if len(kept) == len(found) else f"only for {listed(kept)}"
        if doubt:
            all_of = "all of them" if len(doubt) == len(kept) else listed(doubt)
            which += f"{'; ' if which else ''}by the estimate alone for {all_of}"
        answer = f"holds with a condition: {which}"
    seeds = min(one.lost.seeds for choices in found.values() for one in choices if one.drawn)
    return Finding(answer, evidence, (), seeds)


def _so_far(
    found: Mapping[str, object], lacking: Mapping[str, str], kept: Sequence[str], doubt: Sequence[str]
) -> str:
    runs = dict.fromkeys(run.removeprefix("record ") for run in lacking.values())
    studies = dict.fromkeys(run.partition("/")[0] for run in runs)
    commands = listed(f"`topk-lib study {name}`" for name in studies)
    lost = [name for name in found if name not in kept]
    kept = [f"{name} (by the estimate)" if name in doubt else name for name in kept]
    said = [f"{word} for {listed(some)}" for word, some in (("holds", kept), ("fails", lost)) if some]
    return (
        f"not yet measured: no record {listed(runs)}, so nothing on {listed(lacking)}; {commands} "
        f"make{'s' * (len(studies) == 1)} the records; so far it {' and '.join(said)}"
    )


def _line(use: str, choices: Sequence[_Choice], level: float) -> str:
    """What was kept; where nothing was, the choice that came nearest."""
    best = min(choices, key=lambda one: (not one.sure(level), not one.kept(), one.lost.mean))
    low, high = best.lost.limits(level)
    words = "less" if best.cheaper else "no less"
    time = f", in {words} time" if best.allowed else ""
    points = f"{100 * low:+.1f} to {100 * high:+.1f} points"
    if np.isinf(high):
        points = f"{round(100 * best.lost.mean, 1) + 0:+.1f} points, give or take what one seed cannot tell"
    return f"{use}, {best.name}: {best.cited}: loses {points}{time} (seeds: {best.lost.seeds})"
