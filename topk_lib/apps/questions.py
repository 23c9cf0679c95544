"""The questions of a support desk, some of which belong elsewhere; and how sure it must be to answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset
from scipy.stats import beta

from topk_lib import data
from topk_lib.selectors.base import whole

__all__ = ["OUTSIDE", "Questions", "choose_threshold", "questions"]

OUTSIDE = -1
"""The label of questions that belong to no intent."""

_CUT_SEED = 20240101
_HELD_OUT = 10  # questions of an intent, a third at most
_MONEY = frozenset(
    (
        "401k", "account", "application", "apr", "balance", "bill", "card", "checks", "credit", "deposit",
        "exchange", "fees", "fraud", "income", "insurance", "interest", "limit", "lost", "pay", "payday",
        "payment", "pin", "rate", "rewards", "routing", "spending", "taxes", "transactions", "transfer", "w2",
    )
)  # fmt: skip  # words in the names of clinc_oos' intents that a bank may well be asked about


class Questions(NamedTuple):
    """Texts and labels (numbers of ``names``, or :data:`OUTSIDE`) to learn from, choose on and test on.

    Attributes:
        names: of the intents.
        learn, held_out, test: texts and labels; no question from outside is learned from.
        far: for each test question whether the set itself calls it out of scope ("oos").
        told: where they came from and how many they are.
    """

    names: tuple[str, ...]
    learn: tuple[list[str], list[int]]
    held_out: tuple[list[str], list[int]]
    test: tuple[list[str], list[int]]
    far: list[bool]
    told: dict[str, Any]


def questions(
    source: str | Path | None = None,
    *,
    examples: int | None = None,
    outside: float = 0.2,
    seed: int = 0,
    quiet: bool = False,
) -> Questions:
    """Questions of bank customers (banking77), mixed with some that belong elsewhere (clinc_oos).

    A tenth or so of the training questions is held out, the same whatever is asked for. From outside come
    questions that clinc_oos calls out of scope and, where these are too few, such of its other intents as
    have nothing to do with money; ``told`` says how many of each.

    Args:
        source: of both sets, see :func:`~topk_lib.data.load_set`.
        examples: k, questions of each intent to learn from, drawn at random; None: all.
        outside: their share of the held-out and of the test questions, from 0 to below 1.
        seed: of the draw of examples.
        quiet: leave out the lines that say where the sets came from.

    Raises:
        ValueError: a number is out of its range; see also :func:`~topk_lib.data.load_set`.
    """
    if not 0 <= outside < 1:
        raise ValueError(f"outside must be a share from 0 to below 1, got {outside}")
    if examples is not None:
        whole("examples", examples, 1)
    train, test = (data.load_set("banking77", source, split=part, quiet=quiet) for part in ("train", "test"))
    names = data.labels_of(train).names
    test = data.match_labels(test, data.labels_of(train), "the training split")
    known, labels = list(train["text"]), np.array(train["label"])
    if missing := sorted(set(range(len(names))) - set(labels.tolist())):
        raise ValueError(f"no training question is of the intent {names[missing[0]]!r}: add some, or drop it")
    cut, dice = np.random.default_rng(_CUT_SEED), np.random.default_rng(seed)
    learn: list[int] = []
    held_out: list[int] = []
    for one in range(len(names)):
        rows = cut.permutation(np.flatnonzero(labels == one))
        apart = min(_HELD_OUT, len(rows) // 3)
        held_out += rows[:apart].tolist()
        learn += dice.permutation(rows[apart:])[:examples].tolist()
    parts: list[tuple[list[str], list[int]]] = []
    told: dict[str, Any] = {"source": data.source_of(train), "fingerprint": data.fingerprint(train)}
    for part, texts, classes in (
        ("train", [known[i] for i in held_out], labels[held_out].tolist()),
        ("test", list(test["text"]), list(test["label"])),
    ):
        far, near = _outside(source, part, round(outside / (1 - outside) * len(texts)), quiet)
        told[f"outside_{part}"] = {"out_of_scope": len(far), "other_intents": len(near)}
        parts.append((texts + far + near, classes + [OUTSIDE] * len(far + near)))
    inside = len(test)
    scope = told["outside_test"]["out_of_scope"]
    is_far = [inside <= i < inside + scope for i in range(len(parts[1][0]))]
    told |= {"n_train": len(learn), "n_held_out": len(parts[0][0]), "n_test": len(is_far)}
    chosen = ([known[i] for i in learn], labels[learn].tolist())
    return Questions(names, chosen, parts[0], parts[1], is_far, told)


def _outside(source: str | Path | None, split: str, n: int, quiet: bool) -> tuple[list[str], list[str]]:
    """Questions out of scope, and where these are fewer than n, of intents without money."""
    if not n:
        return [], []
    found: Dataset = data.load_set("clinc_oos", source, split=split, quiet=quiet)
    names = data.labels_of(found).names
    by_kind: dict[bool, list[str]] = {True: [], False: []}
    for text, label in zip(found["text"], found["label"], strict=True):
        if not _MONEY & set(names[label].split("_")):
            by_kind[names[label] == "oos"].append(text)
    dice = np.random.default_rng(_CUT_SEED)
    far = [by_kind[True][i] for i in dice.permutation(len(by_kind[True]))[:n]]
    near = [by_kind[False][i] for i in dice.permutation(len(by_kind[False]))[: n - len(far)]]
    return far, near


def choose_threshold(
    confidence: Sequence[float], right: Sequence[bool], wrong: float, sure: float | None = None
) -> float:
    """The lowest confidence from which on answers are given, so that few of them are wrong.

    Args:
        confidence: (n,) of held-out questions.
        right: (n,) whether the answer would be right; False for a question from outside.
        wrong: the share of wrong ones among the answers given, at most.
        sure: None: so that it holds on these questions. A probability such as 0.9: so that it holds, with
            at least this probability, for all questions to come of the same kind; Geifman and El-Yaniv's
            (2017) selection with guaranteed risk, a binary search among the confidences, each try by the
            exact binomial limit and the tries sharing 1 - sure.

    Returns:
        A confidence, or infinity where none will do: then nothing is answered.

    Raises:
        ValueError: the lists differ in length or are empty, or a share is none.
    """
    c, ok = np.asarray(confidence, dtype=float), np.asarray(right, dtype=bool)
    if c.shape != ok.shape or not c.size:
        raise ValueError(f"as many confidences as answers, and at least one: got {c.size} and {ok.size}")
    if not 0 <= wrong < 1 or not (sure is None or 0 < sure < 1):
        raise ValueError(f"wrong must be from 0 to below 1 and sure between 0 and 1, got {wrong} and {sure}")
    order = np.argsort(c)
    levels, first = np.unique(c[order], return_index=True)
    given = c.size - first  # from each level on
    errors = np.cumsum(~ok[order][::-1])[::-1][first]
    if sure is None:
        good = levels[errors <= wrong * given]
        return float(good[0]) if len(good) else math.inf
    tries = max(1, math.ceil(math.log2(len(levels) + 1)))
    low, high, best = 0, len(levels), math.inf
    for _ in range(tries):
        if low >= high:
            break
        at = (low + high) // 2
        n, bad = int(given[at]), int(errors[at])
        limit = 1.0 if bad == n else float(beta.ppf(1 - (1 - sure) / tries, bad + 1, n - bad))
        if limit <= wrong:
            best, high = min(best, float(levels[at])), at
        else:
            low = at + 1
    return best
