"""The rule by which the claim on parameter-efficient fine-tuning is judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from topk_lib.claims.compare import (
    LEVEL,
    Difference,
    Missing,
    Record,
    Results,
    between,
    cite,
    comparable,
    two_sources,
    wrong,
)
from topk_lib.claims.rules import Finding, listed

__all__ = ["FEW", "few_parameters", "less_overfitting"]

FEW = {"lora": "LoRA", "adapter": "adapters", "bitfit": "BitFit", "prompt": "prompt tuning"}
"""The methods that the article names, as they are called."""

_EXPERIMENT, _K, _SIZES, _POINT = "adaptation", 64, (200, 4000), 0.01


class _Compared(NamedTuple):
    name: str
    lost: Difference
    spared: Difference


def few_parameters(results: Results) -> Finding:
    """Within a point of full fine-tuning, surely, and a smaller fall from learned to unseen reviews."""
    runs = results.get(_EXPERIMENT, {})
    seeds = {n: _seeds(runs, n) for n in _SIZES}
    if not all(seeds.values()):
        raise Missing("runs of full fine-tuning and of all four methods with 200 and with 4,000 labels")
    compared, evidence = [], []
    for n, common in seeds.items():
        full = [runs[_run("full", n, seed)] for seed in common]
        evidence.append(f"{n:,} labels, full fine-tuning: {_told('full', n, common)}")
        for method, name in FEW.items():
            few = [runs[_run(method, n, seed)] for seed in common]
            compared.append(
                _Compared(f"{name} ({n:,} labels)", between(full, few), less_overfitting(few, full))
            )
            evidence.append(f"{n:,} labels, {name}: {_told(method, n, common)}")
    return Finding(_answer(compared), tuple(evidence), (_K,), min(len(common) for common in seeds.values()))


def less_overfitting(few: Sequence[Record], full: Sequence[Record]) -> Difference:
    """How much less the accuracy falls from reviews that were learned from to unseen ones.

    Args:
        few, full: records of the same seeds, in their order.

    Returns:
        The fall of ``full`` minus that of ``few``, with seeds and test reviews as sources of chance.
    """
    falls = [np.array([r["metrics"]["gap"]["accuracy"] for r in some]) for some in (full, few)]
    if comparable(*few, *full):
        right = [np.mean([~wrong(r) for r in some], axis=0) for some in (few, full)]
        n = len(right[0])
        reviews = float((right[0] - right[1]).var(ddof=1)) / n
    else:
        shares = [(r["metrics"]["accuracy"], r["data"]["n_eval"]) for r in (*few, *full)]
        reviews = sum(p * (1 - p) / n for p, n in shares) / len(few)
    return two_sources(falls[0] - falls[1], reviews, np.inf)


def _answer(compared: Sequence[_Compared]) -> str:
    level = LEVEL / (2 * len(compared))  # two questions of each
    sure = [one.name for one in compared if one.lost.bound(level) < _POINT]
    kept = [one.name for one in compared if one.name in sure or one.lost.mean < _POINT]
    less = [one.name for one in compared if one.spared.mean > 0 and one.spared.p <= level]
    both = [name for name in kept if name in less]
    if len(both) == len(compared) == len(sure):
        return "holds"
    quality, fall = (f"with {listed(some)}" if some else "with none" for some in (kept, less))
    if not both:
        return f"fails: quality kept {quality}, less overfitting {fall}"
    doubt = "" if all(name in sure for name in both) else (
        ", by the estimate, though a loss of more than a point is not ruled out"
    )  # fmt: skip
    which = "" if len(both) == len(compared) else "only "
    return f"holds with a condition: {which}with {listed(both)}{doubt}"


def _run(method: str, n: int, seed: int) -> str:
    return f"{method}-first-k{_K}-n{n}-s{seed}"


def _seeds(runs: Mapping[str, Record], n: int) -> list[int]:
    """Those with which full fine-tuning and all four methods have a run."""
    return [s for s in range(10) if all(_run(method, n, s) in runs for method in ("full", *FEW))]


def _told(method: str, n: int, seeds: Sequence[int]) -> str:
    def every(key: str) -> str:
        return " · ".join(cite(f"{_EXPERIMENT}/{_run(method, n, s)}", f"metrics.{key}") for s in seeds)

    trained = cite(f"{_EXPERIMENT}/{_run(method, n, seeds[0])}", "metrics.trainable")
    return (
        f"{trained} parameters trained, right on unseen reviews {every('accuracy .1%')}, "
        f"on its own {every('train.accuracy .1%')} (seeds: {len(seeds)})"
    )
