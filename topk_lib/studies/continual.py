"""Learning on and on: strategies against forgetting, on intents that come in sevenths and on four domains."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset

from topk_lib import records
from topk_lib.data import fingerprint, load_set, source_of
from topk_lib.models import load_encoder
from topk_lib.selectors import make_selector, select_tokens
from topk_lib.studies.base import Made, Run, packed
from topk_lib.training import accuracy_interval, tokenize
from topk_lib.training.continual import (
    EWC,
    Adapters,
    ClassMeans,
    Distillation,
    Labelled,
    Learner,
    Replay,
    Schedule,
    Strategy,
    learn,
    sequence,
)

__all__ = ["METHODS", "chosen", "continual_run", "runs"]

SEEDS = (0, 1, 2)
PER_CLASS = 5  # examples that replay keeps
METHODS: dict[str, Callable[[float, bool], Strategy]] = {
    "naive": lambda strength, within: Strategy(),
    "replay_random": lambda strength, within: Replay(PER_CLASS, "random"),
    "ewc": lambda strength, within: EWC(strength, within=within),
    "lwf": lambda strength, within: Distillation(strength, within=within),
    "adapters": lambda strength, within: Adapters(),
    "naive_own": lambda strength, within: Strategy(),
    "means": lambda strength, within: ClassMeans(),
    "joint": lambda strength, within: Replay(None),
    "replay_herding": lambda strength, within: Replay(PER_CLASS, "herding"),
    "replay_hardest": lambda strength, within: Replay(PER_CLASS, "hardest"),
}
"""Each makes a strategy of its strength and of whether the loss looks at a task's own classes only."""

_STRENGTHS = {"ewc": (1e3, 1e4, 1e5, 1e6), "lwf": (1.0, 5.0)}
_TASKS, _EACH = 7, 11  # of banking77
_TRAIN, _TEST, _DEV = 20, 20, 10  # texts a class
_LENGTH, _K = 32, 64  # tokens of a question, of a film review
_INTENTS = 20  # of the bank's and of the assistant's, in the sequence of domains
_DOMAIN_TRAIN, _DOMAIN_TEST = 300, 600  # texts a domain


class Texts(NamedTuple):
    """All that a scenario learns from and is tested on."""

    tasks: Mapping[str, Sequence[str]]
    train: Labelled
    test: Labelled
    data: dict[str, Any]


class Choice(NamedTuple):
    """What is chosen on the dev part for a method.

    Attributes:
        strength: of EWC's penalty or of the distillation loss.
        within: whether the loss looks at the task's own classes only.
    """

    strength: float = 0.0
    within: bool = False


def runs(*, gpu: bool) -> Iterator[Run]:
    for scenario in ("classes", "domains"):
        plain = [m for m in METHODS if m not in _STRENGTHS and (scenario, m) != ("domains", "naive_own")]
        yield from _at_each_seed(scenario, plain)
        for method, strengths in _STRENGTHS.items():
            for strength in strengths:
                # With the task known, the loss looks at nothing but its own classes.
                for within in (True,) if scenario == "domains" else (False, True):
                    name = f"{scenario}-{method}-{'own' if within else 'all'}-{strength:g}"
                    choice = Choice(strength, within)
                    one = partial(continual_run, scenario, method, 0, choice, dev=True)
                    yield Run("continual_dev", name, one)
        yield from _at_each_seed(scenario, list(_STRENGTHS))


def _at_each_seed(scenario: str, methods: Sequence[str]) -> Iterator[Run]:
    for seed in SEEDS:
        for method in methods:
            one = partial(continual_run, scenario, method, seed)
            yield Run(f"continual_{scenario}", f"{method}-s{seed}", one)


def chosen(scenario: str, method: str) -> Choice:
    """The choice with the highest average accuracy among the dev records, where there is one to make.

    Raises:
        ValueError: there are no such records yet.
    """
    if method not in _STRENGTHS:
        return Choice(within=scenario == "domains" or method in ("naive_own", "adapters"))
    found = [r for r in records.load_all("continual_dev").values()
             if (r["settings"]["scenario"], r["settings"]["method"]) == (scenario, method)]  # fmt: skip
    if not found:
        raise ValueError(
            f"how strong {method} should be is chosen from records that are not there yet: first "
            f"topk-lib study continual --only continual_dev/{scenario}-{method}"
        )
    best = max(found, key=lambda r: float(r["metrics"]["average_accuracy"]))["settings"]
    return Choice(best["strength"], best["within"])


def continual_run(
    scenario: str,
    method: str,
    seed: int,
    choice: Choice | None = None,
    *,
    dev: bool = False,
    schedule: Schedule | None = None,
    texts: Texts | None = None,
) -> Made:
    """Learn one sequence by one method, and test all tasks met after each.

    Args:
        scenario: "classes" (seven tasks of eleven of the bank's intents, one head over all seen, no task
            named at test) or "domains" (film, bank, finance, questions; a head each, the task named).
        method: one of :data:`METHODS`.
        seed: of the order of classes or domains, of the training texts drawn, and of the training.
        choice: None: what was chosen on the dev part.
        dev: test on training texts that are left out of the training, and on the first four tasks only.
        schedule: None: the default one.
        texts: None: those of the scenario.

    Returns:
        ``metrics``: the accuracy over all test texts with its interval and ``wrong``, a bit a text in the
        order of the test set; ``matrix`` (null where not measured) and the measures of
        :mod:`topk_lib.training.continual.measures`; ``train_seconds`` a task, ``kept_bytes``, ``trained``.
    """
    choice = choice or chosen(scenario, method)
    schedule = schedule or Schedule()
    encoder, tokenizer = load_encoder(attention_dropout=0.0)
    if texts is None:
        texts = (_classes if scenario == "classes" else _domains)(tokenizer, seed, dev)
    tasks = sequence(texts.tasks, texts.train, texts.test)
    strategy = METHODS[method](choice.strength, choice.within)
    learner = Learner(encoder.base_model, bf16=True).to(records.device_kind())
    found = learn(
        learner, tasks, strategy, schedule, task_known=scenario == "domains", within=choice.within, seed=seed,
        progress=lambda line: print(line, flush=True),
    )  # fmt: skip
    right = np.array([found.answers[place] for place in sorted(found.answers)])
    low, high = accuracy_interval(int(right.sum()), len(right))
    metrics = {
        "accuracy": float(right.mean()), "accuracy_low": low, "accuracy_high": high, "wrong": packed(~right),
        **found.summary(),
        "matrix": [[None if math.isnan(cell) else cell for cell in row] for row in found.matrix],
        "ahead": found.ahead, "at_first": found.at_first, "train_seconds": found.seconds,
        "kept_bytes": found.kept_bytes, "trained": found.trained,
    }  # fmt: skip
    settings = {
        "seed": seed, "scenario": scenario, "method": method, "strength": choice.strength,
        "within": choice.within, "per_class": PER_CLASS if method.startswith("replay") else None,
        "dev": dev, **asdict(schedule), "tasks": {task.name: list(task.classes) for task in tasks},
    }  # fmt: skip
    return Made(metrics, settings, texts.data)


def _classes(tokenizer: Any, seed: int, dev: bool) -> Texts:
    """Intents of a bank's customers in seven tasks, by an order of the seed."""
    train, test = (load_set("banking77", split=split, quiet=True) for split in ("train", "test"))
    names = train.features["label"].names
    if len(names) < _TASKS * _EACH:
        raise ValueError(
            f"the study needs the {_TASKS * _EACH} intents of banking77, and {source_of(train)} has "
            f"{len(names)}: set TOPK_DATA to a folder that holds the set"
        )
    dice = np.random.default_rng(seed)
    order = dice.permutation(names).tolist()
    tasks = {f"task {i + 1}": order[i * _EACH : (i + 1) * _EACH] for i in range(4 if dev else _TASKS)}
    first, left = _drawn(train, _TRAIN, dice)
    tested = _drawn(left, _DEV, dice)[0] if dev else _drawn(test, _TEST, np.random.default_rng(0))[0]
    return _texts(tokenizer, tasks, {"": first}, {"": tested}, source_of(train))


def _domains(tokenizer: Any, seed: int, dev: bool) -> Texts:
    """Four domains in an order of the seed, the intents always the same."""
    of = {"film": "imdb", "bank": "banking77", "finance": "financial_phrasebank", "questions": "clinc_oos"}
    fixed, dice = np.random.default_rng(0), np.random.default_rng(seed)
    names, train, test, sources = {}, {}, {}, []
    for domain, name in of.items():
        both = [load_set(name, split=split, quiet=True) for split in ("train", "test")]
        sources.append(source_of(both[0]))
        every = [n for n in both[0].features["label"].names if n != "oos"]
        if len(every) > 3:
            every = sorted(fixed.permutation(every)[:_INTENTS].tolist())
        names[domain] = every
        numbers = {both[0].features["label"].str2int(n) for n in every}
        both = [part.select(np.flatnonzero(np.isin(part["label"], list(numbers)))) for part in both]
        train[domain], left = _drawn(both[0], _DOMAIN_TRAIN // len(every), dice)
        each = _DOMAIN_TEST // len(every)
        test[domain] = _drawn(left, each // 3, dice)[0] if dev else _drawn(both[1], each, fixed)[0]
    if len(names["bank"]) < _INTENTS or len(names["questions"]) < _INTENTS:
        raise ValueError(
            f"the study needs {_INTENTS} intents of banking77 and of clinc_oos: set TOPK_DATA to a folder "
            "that holds the sets"
        )
    order = dice.permutation(list(of)).tolist()
    tasks = {domain: [f"{domain}: {n}" for n in names[domain]] for domain in order}
    return _texts(tokenizer, tasks, train, test, ", ".join(sources))


def _drawn(texts: Dataset, each: int, dice: np.random.Generator) -> tuple[Dataset, Dataset]:
    """At most so many texts of each class, and those that are left."""
    labels = np.asarray(texts["label"])
    rows = [dice.permutation(np.flatnonzero(labels == label))[:each] for label in np.unique(labels)]
    taken = np.zeros(len(labels), dtype=bool)
    taken[np.concatenate(rows)] = True
    return texts.select(np.flatnonzero(taken)), texts.select(np.flatnonzero(~taken))


def _texts(
    tokenizer: Any,
    tasks: Mapping[str, Sequence[str]],
    train: Mapping[str, Dataset],
    test: Mapping[str, Dataset],
    source: str,
) -> Texts:
    used = set(chain.from_iterable(tasks.values()))
    data: dict[str, Any] = {"source": source}
    found: list[Labelled] = []
    for split, parts in (("train", train), ("eval", test)):
        rows = []
        for domain, part in parts.items():
            names = part.features["label"].names
            labels = [f"{domain}: {names[i]}" if domain else names[i] for i in part["label"]]
            film = domain == "film"
            ids = _films(tokenizer, part, train) if film else tokenize(tokenizer, part["text"], _LENGTH)
            rows += [row for row in zip(ids, part["text"], labels, strict=True) if row[2] in used]
        found.append([(ids, label) for ids, _, label in rows])
        plain = {"text": [text for _, text, _ in rows], "label": [label for *_, label in rows]}
        data |= {f"n_{split}": len(rows), f"{split}_fingerprint": fingerprint(Dataset.from_dict(plain))}
    return Texts(tasks, found[0], found[1], data)


def _films(tokenizer: Any, films: Dataset, train: Mapping[str, Dataset]) -> list[list[int]]:
    """The 64 tokens that the linear rule keeps of each review, fitted on the films that are trained on."""
    selector = make_selector("linear", vocabulary=len(tokenizer))
    selector.fit(tokenize(tokenizer, train["film"]["text"]), list(train["film"]["label"]))
    return select_tokens(selector, tokenize(tokenizer, films["text"]), _K, tokenizer.all_special_ids)
