"""How few tokens are enough? Selector by k by seed on IMDB."""

from __future__ import annotations

import re
import shutil
from collections.abc import Container, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from topk_lib import records
from topk_lib.claims.undecided import Undecided
from topk_lib.data import load_reviews, train_and_eval
from topk_lib.selectors import make_selector
from topk_lib.studies.base import Made, Run, packed
from topk_lib.studies.pairs import answers, marks_kept
from topk_lib.training import accuracy_interval, finetune

__all__ = [
    "BAR",
    "CHOSEN",
    "DEV",
    "FULL",
    "PUPILS",
    "RATE",
    "SELECTORS",
    "SMALL",
    "SMALL_TEST",
    "finetuned",
    "options_of",
    "rule_of",
    "runs",
    "slices",
    "teacher",
]

SELECTORS = (
    "gate", "linear", "taught", "distilled", "history", "distinct", "keep_negation", "chi2",
    "mutual_information", "embedding", "head_tail", "frequency", "tfidf_corpus", "tfidf", "first", "random",
)  # fmt: skip
FULL = 512  # what the encoder can read at most
SMALL = 4000  # training reviews where a CPU does all the work,
SMALL_TEST = 10_000  # and test reviews
RATE = 1e-4  # chosen on the held-out part of the training split: results/imdb_dev
_TEACHER = "linear-k128"
_DEV = {"evaluate_on": "dev", "n_eval": 2500}
PUPILS = ("taught", "distilled", "contextual")
DEV = "study_dev"
BAR = ("distinct", "mutual_information", "linear", "head_tail")  # the hard rules to beat
_PIECES: dict[str, Any] = {"marks": "pieces", "once": True}
CHOSEN = ("distilled_pieces",)
"""What did best on the dev split, by the name that it has among the selectors of the grid."""
_COPIES_FROM = 64  # k at which copies did better there than each type once
_TRIED: dict[str, dict[str, Any]] = {  # the most promising first: selector, and what is different in a word
    "distilled-pieces": _PIECES,
    "contextual-pieces": {"marks": "pieces"},
    "contextual": {},
    "distilled-once": {"once": True},
    "taught-calm": {"once": True, "selector_learning_rate": 1e-4, "start_temperature": 0.1},
    "distilled": {},
    "distilled-copies": {"marks": "pieces"},
    "contextual-running": {"marks": "pieces", "teacher": "head_tail-k128"},  # which reads running text
    "taught-twice": {"once": True, "selector_learning_rate": 1e-4, "start_temperature": 0.1, "epochs": 2},
    "linear-twice": {"epochs": 2},  # the bar of the one before
    "contextual-leftout": {"marks": "left_out", "teacher": "head_tail-k128"},
}

_PRAISE = "best brilliant excellent masterpiece wonderful superb perfect amazing genius great fantastic"
_BLAME = "worst awful terrible horrible boring stupid waste dull ridiculous poor lame"
_NEGATION = re.compile(r"\b(?:not|no|never|nothing|without|hardly|n't)\b|n't\b", re.IGNORECASE)


def runs(*, gpu: bool, n_train: int | None = None) -> Iterator[Run]:
    """The grid with three seeds, and next each time the run that could most cheaply turn a verdict.

    What has been recorded comes first, since it costs nothing. After that the order follows from the
    records, and is made anew with each: see :class:`~topk_lib.claims.undecided.Undecided`. At the end stand
    what the teachers' marks keep of the rewritten pairs, and runs on the dev split, where a new selector is
    chosen before it meets the test reviews: all ideas with one seed and k = 32, then the best two and the
    rules that they have to beat with the other k and seeds.

    Args:
        gpu: k = 256 is tried, too.
        n_train: training reviews of each run; None: all 25,000 on a GPU, else 4,000. Up to 4,000 the
            test is on 10,000 drawn reviews, above on all.
    """
    n_train = n_train or (25_000 if gpu else SMALL)
    experiment, grid = f"study_{n_train}", dict(_grid(n_train, gpu))
    found = records.load_all(experiment)
    undecided = Undecided(_costs(grid, found), found)
    left = sorted(grid, key=lambda name: name not in found)  # stable: else in the order of the grid
    planned: set[str] = set()
    while left:
        name = left[0] if left[0] in found else max(left, key=lambda run: undecided.worth(run, planned))
        pupil = name not in found and grid[name]["selector"] in PUPILS
        if pupil and (first := f"{_TEACHER}-s{grid[name]['seed']}") in left:
            name = first  # made on the way in any case, so that it gets its record
        left.remove(name)
        planned.add(name)
        yield Run(experiment, name, partial(finetuned, Path("runs") / experiment / name, grid[name]))
        if name not in found and records.path_of(experiment, name).is_file():
            undecided.add(name, records.load(experiment, name))
            undecided.costs = _costs(grid, undecided.found)
    for seed in range(3):
        yield Run("pairs_kept", f"teacher-s{seed}", partial(_marks, seed))
    yield from _dev_runs()


def _dev_runs() -> Iterator[Run]:
    """All ideas once, at k = 32; then the best two beside the bar, then the others."""

    def one(idea: str, k: int, seed: int) -> Run:
        selector, _, word = idea.partition("-")
        name, options = _one(selector, k, seed, SMALL, f"-{word}" if word else "", **_TRIED.get(idea, {}))
        return Run(DEV, name, partial(finetuned, Path("runs") / DEV / name, options | _DEV))

    first = {idea: one(idea, 32, 0) for idea in (*BAR, *_TRIED)}
    yield from first.values()
    found = records.load_all(DEV)

    def reached(idea: str) -> float:
        record = found.get(first[idea].name)
        return float(record["metrics"]["accuracy"]) if record else 0.0

    longer = [idea for idea, more in _TRIED.items() if "epochs" in more]  # these have a bar of their own
    ideas = sorted((idea for idea in _TRIED if idea not in longer), key=reached, reverse=True)
    for some in ((*BAR, *ideas[:2]), (*ideas[2:], *longer)):
        for seed in range(3):
            for k in (32, 16, 64):
                yield from (one(idea, k, seed) for idea in some if (k, seed) != (32, 0))


def _costs(grid: dict[str, dict[str, Any]], found: Container[str]) -> dict[str, float]:
    """About the seconds of each run on 4,000 reviews and two cores: most of them go by the tokens read.

    The pupils of a teacher without a record share what it costs.
    """
    costs = {name: 40 + 8 * float(options["k"]) for name, options in grid.items()}
    for seed in {options["seed"] for options in grid.values()}:
        if (first := f"{_TEACHER}-s{seed}") in grid and first not in found:
            pupils = [n for n, o in grid.items() if o["selector"] in PUPILS and o["seed"] == seed]
            costs |= {name: costs[name] + costs[first] / len(pupils) for name in pupils}
    return costs


def options_of(name: str, n_train: int) -> dict[str, Any]:
    """What :func:`~topk_lib.training.finetune` is given for a run of the grid, on whatever device."""
    return dict(_grid(n_train, True))[name]


def rule_of(name: str) -> str:
    """The rule in a few words, by the name that a selector has in the grid."""
    return "distilled by pieces" if name in CHOSEN else make_selector(name).rule


def _one(
    selector: str, k: int, seed: int, n_train: int, tag: str = "", **more: Any
) -> tuple[str, dict[str, Any]]:
    options = {"selector": selector, "k": k, "seed": seed, "n_train": n_train, "learning_rate": RATE}
    if selector in CHOSEN:
        options |= {"selector": "distilled", "marks": "pieces", "once": k < _COPIES_FROM}
    if n_train <= SMALL:
        options["n_eval"] = SMALL_TEST
    return f"{selector}-k{k}{tag}-s{seed}", options | more


def _grid(n_train: int, gpu: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    def one(selector: str, k: int, seed: int, tag: str = "", **more: Any) -> tuple[str, dict[str, Any]]:
        return _one(selector, k, seed, n_train, tag, **more)

    for seed in range(3):
        for k in (16, 32, 64, 128, *([256] if gpu else [])):
            yield from (one(selector, k, seed) for selector in (*SELECTORS, *CHOSEN))
        yield one("first", FULL, seed)
        if gpu:
            yield from (one(selector, FULL, seed) for selector in SELECTORS[:2])
        # ideas for spending the same budget better
        yield one("linear", 64, seed, "-original", positions="original")
        yield one("gate", 64, seed, "-original", positions="original")
        yield one("linear", 128, seed, "-share25", share=0.25)
        yield one("gate", 64, seed, "-batch", spend="batch")
        yield one("gate", 64, seed, "-hot", start_temperature=1.0, final_temperature=0.1)
        yield one("first", 128, seed, "-inside", keep_after="1:64,3:32")


def finetuned(folder: Path, options: dict[str, Any]) -> Made:
    """Fine-tune, and measure on the held-out reviews, on slices of them, and on the rewritten pairs.

    Args:
        folder: for the model.
        options: of :func:`~topk_lib.training.finetune`; a pupil gets the teacher of its seed, the run that
            ``teacher`` names where another than the usual one is wanted.
    """
    on = options.get("evaluate_on", "test")
    learned, given = {}, {}
    if options["selector"] in PUPILS:
        learned = {"teacher": options.get("teacher", _TEACHER)}
        given = {"teacher": str(teacher(options["n_train"], options["seed"], on, **learned))}
    result = finetune(folder, quiet=True, **options | given)
    if on == "test":
        held_out = load_reviews(split="test", n=options.get("n_eval"), quiet=True)
    else:
        held_out = train_and_eval(evaluate_on=on, n_train=2, n_eval=options.get("n_eval"), quiet=True)[1]
    right = np.asarray(result.predictions) == np.asarray(held_out["label"])
    parts = {}
    for name, inside in slices(list(held_out["text"]), list(held_out["label"])).items():
        low, high = accuracy_interval(int(right[inside].sum()), int(inside.sum()))
        parts[name] = {"n": int(inside.sum()), "accuracy": float(right[inside].mean()),
                       "accuracy_low": low, "accuracy_high": high}  # fmt: skip
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    print(f"accuracy {result.metrics['accuracy']:.2%}", flush=True)
    return Made(
        result.metrics
        | {"seconds": result.seconds, "slices": parts, "wrong": packed(~right), "pairs": answers(folder)},
        result.settings | learned, result.data, sum(result.seconds.values()),
    )  # fmt: skip


def _marks(seed: int) -> Made:
    made = marks_kept(teacher(SMALL, seed))
    return made._replace(settings=made.settings | {"seed": seed})


def teacher(n_train: int, seed: int, evaluate_on: str = "test", teacher: str = _TEACHER) -> Path:
    """The run that gates learn from: trained on their own reviews, so that they hear of no other label."""
    name = f"{teacher}-s{seed}"
    options, folder = options_of(name, n_train), Path("runs") / f"study_{n_train}" / name
    if evaluate_on == "dev":
        options, folder = options | _DEV, Path("runs") / DEV / name
    finetune(folder, quiet=True, **options)  # nothing, where that run was made
    return folder


def slices(texts: Sequence[str], labels: Sequence[int]) -> dict[str, np.ndarray]:
    """Kinds of reviews on which to look apart, each (reviews,) bool.

    - ``short`` and ``long``: the shortest and the longest fifth, by words;
    - ``negation``: the fifth with the most negations a word;
    - ``contrary``: reviews whose strong opinion words (of two short lists) speak more for the
      other side than for their own, as irony and faint praise do; the label is used to find them.
    """
    words = [re.findall(r"[\w']+", text.lower()) for text in texts]
    length = np.array([len(w) for w in words])
    negation = np.array([len(_NEGATION.findall(text)) for text in texts]) / np.maximum(length, 1)
    praise, blame = set(_PRAISE.split()), set(_BLAME.split())
    tone = np.array([sum((w in praise) - (w in blame) for w in text) for text in words])
    side = 2 * np.asarray(labels) - 1
    low, high = np.quantile(length, (0.2, 0.8))
    return {
        "short": length <= low,
        "long": length >= high,
        "negation": negation >= np.quantile(negation, 0.8),
        "contrary": tone * side < 0,
    }
