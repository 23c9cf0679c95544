"""Answers to assignment 5 that are known to be wrong, and right ones in another style."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.stats import norm
from scipy.stats import t as student
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from topk_lib.grading import right, wrong

Texts = list[list[str]]
Scores = Sequence[float]
State = dict[str, Any]
Split = dict[str, list[Any]]
Rows = Sequence[Sequence[bool]]
Run = Callable[[Any, list[str], list[int], list[str], int], list[int]]
SPECIAL = ("[CLS]", "[SEP]")


# keep


def _refuse(tokens: list[str], scores: Scores, k: int, special: Sequence[str]) -> None:
    if len(tokens) != len(scores) or k < 1 or k < sum(t in special for t in tokens):
        raise ValueError("k or the number of scores does not fit the text")


def _ranked(scores: Scores) -> list[float]:
    return [-math.inf if math.isnan(s) else s for s in scores]


@wrong("keep", "in the order of the scores, not of the text")
def by_score(tokens: list[str], scores: Scores, k: int, special: Sequence[str] = SPECIAL) -> list[int]:
    _refuse(tokens, scores, k, special)
    s = _ranked(scores)
    return sorted(range(len(tokens)), key=lambda i: (tokens[i] not in special, -s[i], i))[:k]


@wrong("keep", "of equal scores the highest position wins, as reversed argsort has it")
def highest_position(
    tokens: list[str], scores: Scores, k: int, special: Sequence[str] = SPECIAL
) -> list[int]:
    _refuse(tokens, scores, k, special)
    s = _ranked(scores)
    return sorted(sorted(range(len(tokens)), key=lambda i: (tokens[i] not in special, -s[i], -i))[:k])


@wrong("keep", "special tokens are scored like any other, and lost")
def nothing_pinned(tokens: list[str], scores: Scores, k: int, special: Sequence[str] = SPECIAL) -> list[int]:
    _refuse(tokens, scores, k, special)
    s = _ranked(scores)
    return sorted(sorted(range(len(tokens)), key=lambda i: (-s[i], i))[:k])


@wrong("keep", "special tokens come on top of the k")
def pinned_for_free(tokens: list[str], scores: Scores, k: int, special: Sequence[str] = SPECIAL) -> list[int]:
    _refuse(tokens, scores, k, special)
    s, pinned = _ranked(scores), [i for i, t in enumerate(tokens) if t in special]
    rest = [i for i in range(len(tokens)) if i not in set(pinned)]
    return sorted(pinned + sorted(rest, key=lambda i: (-s[i], i))[:k])


@wrong("keep", "pins the first and the last token, whatever they are")
def ends_pinned(tokens: list[str], scores: Scores, k: int, special: Sequence[str] = SPECIAL) -> list[int]:
    _refuse(tokens, scores, k, special)
    s, ends = _ranked(scores), (0, len(tokens) - 1)
    return sorted(sorted(range(len(tokens)), key=lambda i: (i not in ends, -s[i], i))[:k])


@wrong("keep", "a threshold with >= keeps more than k when scores tie (seen in public code)")
def threshold(tokens: list[str], scores: Scores, k: int, special: Sequence[str] = SPECIAL) -> list[int]:
    _refuse(tokens, scores, k, special)
    s = [math.inf if t in special else x for t, x in zip(tokens, _ranked(scores), strict=True)]
    least = sorted(s, reverse=True)[:k][-1] if s else 0.0
    return [i for i, x in enumerate(s) if x >= least]


@wrong("keep", "Python's comparisons let a NaN stay wherever the sort meets it")
def nan_lost(tokens: list[str], scores: Scores, k: int, special: Sequence[str] = SPECIAL) -> list[int]:
    _refuse(tokens, scores, k, special)
    return sorted(sorted(range(len(tokens)), key=lambda i: (tokens[i] not in special, -scores[i], i))[:k])


@wrong("keep", "NaN ranks highest, as in torch.topk")
def nan_first(tokens: list[str], scores: Scores, k: int, special: Sequence[str] = SPECIAL) -> list[int]:
    _refuse(tokens, scores, k, special)
    s = [math.inf if math.isnan(x) else x for x in scores]
    return sorted(sorted(range(len(tokens)), key=lambda i: (tokens[i] not in special, -s[i], i))[:k])


@wrong("keep", "a special token gets the score inf, and ties with a token that has inf")
def inf_for_special(tokens: list[str], scores: Scores, k: int, special: Sequence[str] = SPECIAL) -> list[int]:
    _refuse(tokens, scores, k, special)
    s = [math.inf if t in special else x for t, x in zip(tokens, _ranked(scores), strict=True)]
    return sorted(sorted(range(len(tokens)), key=lambda i: (-s[i], i))[:k])


@wrong("keep", "tokens with -inf are dropped although there is room")
def minus_inf_dropped(
    tokens: list[str], scores: Scores, k: int, special: Sequence[str] = SPECIAL
) -> list[int]:
    _refuse(tokens, scores, k, special)
    s = _ranked(scores)
    free = [i for i, t in enumerate(tokens) if t in special or s[i] > -math.inf]
    return sorted(sorted(free, key=lambda i: (tokens[i] not in special, -s[i], i))[:k])


@wrong("keep", "by type: every copy of a chosen token is kept")
def by_type(tokens: list[str], scores: Scores, k: int, special: Sequence[str] = SPECIAL) -> list[int]:
    _refuse(tokens, scores, k, special)
    s = _ranked(scores)
    best = sorted(range(len(tokens)), key=lambda i: (tokens[i] not in special, -s[i], i))[:k]
    return [i for i, t in enumerate(tokens) if t in {tokens[j] for j in best}]


@wrong("keep", "nothing is refused")
def never_refuses(tokens: list[str], scores: Scores, k: int, special: Sequence[str] = SPECIAL) -> list[int]:
    s = _ranked([*scores, *[-math.inf] * len(tokens)])
    return sorted(sorted(range(len(tokens)), key=lambda i: (tokens[i] not in special, -s[i], i))[: max(k, 0)])


@right("keep", "with NumPy: a stable sort of two keys")
def with_numpy(tokens: list[str], scores: Scores, k: int, special: Sequence[str] = SPECIAL) -> list[int]:
    pinned = (
        np.isin(np.array(tokens, dtype=object).astype(str), list(special)) if tokens else np.zeros(0, bool)
    )
    if len(scores) != len(tokens) or k < max(1, int(pinned.sum())):
        raise ValueError("k or the number of scores does not fit the text")
    s = np.nan_to_num(np.array(scores, float), nan=-np.inf, posinf=np.inf, neginf=-np.inf)
    order = np.lexsort((-s, ~pinned))
    return [int(i) for i in np.sort(order[:k])]


# fit, scores, settings


def _both(texts: Texts, labels: list[int]) -> None:
    if len(texts) != len(labels) or set(labels) != {0, 1}:
        raise ValueError("a label for each text, and texts of both classes")


def _by_texts(texts: Texts, labels: list[int]) -> list[Counter[str]]:
    counts: list[Counter[str]] = [Counter(), Counter()]
    for tokens, label in zip(texts, labels, strict=True):
        counts[label].update(set(tokens))
    return counts


def _table(values: dict[str, float], setting: Any) -> State:
    return {"table": values, "copies": bool((setting or {}).get("copies"))}


@wrong("fit", "frequency: knows no labels and keeps commas")
def frequency(texts: Texts, labels: list[int], setting: Any = None) -> State:
    _both(texts, labels)
    return _table({w: float(n) for w, n in Counter(w for t in texts for w in t).items()}, setting)


@wrong("fit", "the inverse document frequency: keeps names")
def rare_first(texts: Texts, labels: list[int], setting: Any = None) -> State:
    _both(texts, labels)
    found = Counter(w for t in texts for w in set(t))
    return _table({w: math.log((1 + len(texts)) / (1 + n)) + 1 for w, n in found.items()}, setting)


@wrong("fit", "the signed lean: keeps praise and drops blame")
def signed(texts: Texts, labels: list[int], setting: Any = None) -> State:
    _both(texts, labels)
    no, yes = _by_texts(texts, labels)
    a, b = labels.count(0), labels.count(1)
    return _table({w: yes[w] / b - no[w] / a for w in no | yes}, setting)


@wrong("fit", "the difference of counts, not of shares: with unequal classes every word leans")
def counts_not_shares(texts: Texts, labels: list[int], setting: Any = None) -> State:
    _both(texts, labels)
    no, yes = _by_texts(texts, labels)
    return _table({w: float(abs(yes[w] - no[w])) for w in no | yes}, setting)


@wrong("fit", "chi-squared with equal shares expected, whatever the classes' sizes")
def equal_shares(texts: Texts, labels: list[int], setting: Any = None) -> State:
    _both(texts, labels)
    no, yes = _by_texts(texts, labels)
    return _table({w: (yes[w] - no[w]) ** 2 / (yes[w] + no[w]) for w in no | yes}, setting)


@wrong("fit", "the bare ratio of shares: a word of one text is always on one side")
def bare_ratio(texts: Texts, labels: list[int], setting: Any = None) -> State:
    _both(texts, labels)
    no, yes = _by_texts(texts, labels)
    shares = {
        w: yes[w] / labels.count(1) / (yes[w] / labels.count(1) + no[w] / labels.count(0)) for w in no | yes
    }
    return _table({w: abs(share - 0.5) for w, share in shares.items()}, setting)


@wrong("fit", "a smoothed ratio of occurrences: ten copies in one text count as ten texts")
def occurrences(texts: Texts, labels: list[int], setting: Any = None) -> State:
    _both(texts, labels)
    counts: list[Counter[str]] = [Counter(), Counter()]
    for tokens, label in zip(texts, labels, strict=True):
        counts[label].update(tokens)
    no, yes = counts
    total = [sum(no.values()), sum(yes.values())]
    lean = {w: math.log((yes[w] + 1) / total[1]) - math.log((no[w] + 1) / total[0]) for w in no | yes}
    return _table({w: abs(x) for w, x in lean.items()}, setting)


@wrong("fit", "luck without a seed")
def unseeded(texts: Texts, labels: list[int], setting: Any = None) -> State:
    _both(texts, labels)
    no, yes = _by_texts(texts, labels)
    a, b = labels.count(0), labels.count(1)
    return _table({w: abs(yes[w] / b - no[w] / a) + 1e-3 * random.random() for w in no | yes}, setting)


@wrong("fit", "fits on one class alone without a word")
def never_refused(texts: Texts, labels: list[int], setting: Any = None) -> State:
    no, yes = _by_texts(texts[: len(labels)], labels)
    a, b = max(1, labels.count(0)), max(1, labels.count(1))
    return _table({w: abs(yes[w] / b - no[w] / a) * math.sqrt(yes[w] + no[w]) for w in no | yes}, setting)


@wrong("fit", "the state holds a set, which JSON does not know")
def no_json(texts: Texts, labels: list[int], setting: Any = None) -> State:
    _both(texts, labels)
    no, yes = _by_texts(texts, labels)
    a, b = labels.count(0), labels.count(1)
    return _table({w: abs(yes[w] / b - no[w] / a) for w in no | yes}, setting) | {"seen": set(no | yes)}


@wrong("fit", "the setting is not looked at")
def deaf(texts: Texts, labels: list[int], setting: Any = None) -> State:
    _both(texts, labels)
    no, yes = _by_texts(texts, labels)
    a, b = labels.count(0), labels.count(1)
    return _table({w: abs(yes[w] / b - no[w] / a) for w in no | yes}, None)


@wrong("fit", "the first tokens, whatever was learned", name="scores")
def first_tokens(texts: Texts, state: State) -> list[list[float]]:
    return [[-float(i) for i in range(len(tokens))] for tokens in texts]


@wrong("fit", "a token that no training text had is a KeyError", name="scores")
def unseen_raises(texts: Texts, state: State) -> list[list[float]]:
    return [[state["table"][w] for w in tokens] for tokens in texts]


@wrong("fit", "a token that no training text had gets -inf", name="scores")
def unseen_infinite(texts: Texts, state: State) -> list[list[float]]:
    return [[state["table"].get(w, -math.inf) for w in tokens] for tokens in texts]


@wrong(
    "fit", "scores are scaled by the highest of the batch: a text is scored by its neighbours", name="scores"
)
def by_company(texts: Texts, state: State) -> list[list[float]]:
    rows = [[state["table"].get(w, 0.0) for w in tokens] for tokens in texts]
    top = max((x for row in rows for x in row), default=1.0) or 1.0
    return [[x / top for x in row] for row in rows]


@wrong("fit", "copies are remembered from text to text", name="scores")
def seen_for_ever(texts: Texts, state: State) -> list[list[float]]:
    seen: set[str] = set()
    found = []
    for tokens in texts:
        found.append([state["table"].get(w, 0.0) - 1000.0 * (w in seen) for w in tokens])
        seen.update(tokens)
    return found


@wrong("fit", "every row as long as the longest text", name="scores")
def padded(texts: Texts, state: State) -> list[list[float]]:
    longest = max(map(len, texts), default=0)
    return [[state["table"].get(w, 0.0) for w in [*t, *["[SEP]"] * (longest - len(t))]] for t in texts]


@wrong("fit", "one setting: there is nothing to choose", name="settings")
def one_setting() -> list[dict[str, Any]]:
    return [{"prior": 1.0, "copies": False}]


@wrong("fit", "the same setting twice", name="settings")
def twice() -> list[dict[str, Any]]:
    return [{"prior": 1.0, "copies": False}, {"copies": False, "prior": 1.0}]


@right("fit", "mutual information, once a text")
def mutual_information(texts: Texts, labels: list[int], setting: Any = None) -> State:
    _both(texts, labels)
    counts, n = _by_texts(texts, labels), [labels.count(0), labels.count(1)]
    table = {}
    for word in sorted(counts[0] | counts[1]):
        having = counts[0][word] + counts[1][word]
        table[word] = 0.0
        for c in (0, 1):
            for joint, x in ((counts[c][word], having), (n[c] - counts[c][word], len(texts) - having)):
                if joint:
                    table[word] += joint / len(texts) * math.log(joint * len(texts) / (x * n[c]))
    return _table(table, setting)


@right("fit", "the size of the weights of a linear model")
def linear_weights(texts: Texts, labels: list[int], setting: Any = None) -> State:
    _both(texts, labels)
    bag = CountVectorizer(analyzer=list, binary=True)
    model = LogisticRegression(C=0.3, class_weight="balanced", max_iter=500).fit(
        bag.fit_transform(texts), labels
    )
    return _table(
        dict(zip(bag.get_feature_names_out().tolist(), np.abs(model.coef_[0]).tolist(), strict=True)), setting
    )


# paired


def _gaps(first: Rows, second: Rows, comparisons: int) -> np.ndarray:
    if len({len(row) for row in [*first, *second]}) != 1 or len(first) != len(second) or len(first[0]) < 2:
        raise ValueError("the same seeds and reviews twice")
    if comparisons < 1:
        raise ValueError("at least one comparison")
    gaps: np.ndarray = np.array(first, float) - np.array(second, float)
    return gaps


def _told(gaps: np.ndarray, reach: float) -> dict[str, Any]:
    mean = float(gaps.mean())
    return {"difference": mean, "low": mean - reach, "high": mean + reach, "beyond": abs(mean) > reach,
            "by_seed": gaps.mean(1).tolist()}  # fmt: skip


def _reach(
    gaps: np.ndarray, comparisons: int, *, ddof: int = 1, seeds: bool = True, reviews: bool = True,
    normal: bool = False, freedom: str = "both", sides: int = 2, shared: bool = True,
) -> float:  # fmt: skip
    """Half the interval, right unless a fault is asked for."""
    parts = [(float(gaps.mean(0).var(ddof=ddof)) / gaps.shape[1], gaps.shape[1] - 1)] if reviews else []
    if seeds and len(gaps) > 1:
        parts.append((float(gaps.mean(1).var(ddof=ddof)) / len(gaps), len(gaps) - 1))
    v = sum(x for x, _ in parts)
    if v < 1e-20:
        return 0.0
    nu = v**2 / sum(x**2 / free for x, free in parts)
    nu = {"both": nu, "reviews": gaps.shape[1] - 1, "all": gaps.size - 1}[freedom]
    quantile = 1 - 0.05 / sides / (comparisons if shared else 1)
    return float(norm.ppf(quantile) if normal else student.ppf(quantile, nu)) * math.sqrt(v)


@wrong("paired", "the luck of the reviews alone")
def no_seeds(first: Rows, second: Rows, comparisons: int = 1) -> dict[str, Any]:
    gaps = _gaps(first, second, comparisons)
    return _told(gaps, _reach(gaps, comparisons, seeds=False))


@wrong("paired", "the luck of the seeds alone")
def no_reviews(first: Rows, second: Rows, comparisons: int = 1) -> dict[str, Any]:
    gaps = _gaps(first, second, comparisons)
    return _told(gaps, _reach(gaps, comparisons, reviews=False))


@wrong("paired", "variances divided by n, not by n - 1")
def population(first: Rows, second: Rows, comparisons: int = 1) -> dict[str, Any]:
    gaps = _gaps(first, second, comparisons)
    return _told(gaps, _reach(gaps, comparisons, ddof=0))


@wrong("paired", "1.96, as if three seeds knew a variance well")
def like_many(first: Rows, second: Rows, comparisons: int = 1) -> dict[str, Any]:
    gaps = _gaps(first, second, comparisons)
    return _told(gaps, _reach(gaps, comparisons, normal=True))


@wrong("paired", "the degrees of freedom of the reviews")
def freedom_of_reviews(first: Rows, second: Rows, comparisons: int = 1) -> dict[str, Any]:
    gaps = _gaps(first, second, comparisons)
    return _told(gaps, _reach(gaps, comparisons, freedom="reviews"))


@wrong("paired", "one side of the level")
def one_sided(first: Rows, second: Rows, comparisons: int = 1) -> dict[str, Any]:
    gaps = _gaps(first, second, comparisons)
    return _told(gaps, _reach(gaps, comparisons, sides=1))


@wrong("paired", "comparisons are not looked at")
def not_shared(first: Rows, second: Rows, comparisons: int = 1) -> dict[str, Any]:
    gaps = _gaps(first, second, comparisons)
    return _told(gaps, _reach(gaps, comparisons, shared=False))


@wrong("paired", "all gaps in one bag: every seed's answer counts as a review of its own")
def one_bag(first: Rows, second: Rows, comparisons: int = 1) -> dict[str, Any]:
    gaps = _gaps(first, second, comparisons)
    return _told(gaps, _reach(gaps.reshape(1, -1), comparisons))


@wrong("paired", "as if the two methods had met different reviews")
def not_paired(first: Rows, second: Rows, comparisons: int = 1) -> dict[str, Any]:
    gaps = _gaps(first, second, comparisons)
    v = sum(float(np.array(x, float).mean(0).var(ddof=1)) / gaps.shape[1] for x in (first, second))
    return _told(gaps, float(student.ppf(1 - 0.025 / comparisons, gaps.shape[1] - 1)) * math.sqrt(v))


@wrong("paired", "NaN where nothing varies: 0 divided by 0")
def nothing_divided(first: Rows, second: Rows, comparisons: int = 1) -> dict[str, Any]:
    gaps = _gaps(first, second, comparisons)
    return _told(gaps, _reach(gaps, comparisons) or math.nan)


@wrong("paired", "beyond looks above 0 only")
def winners_only(first: Rows, second: Rows, comparisons: int = 1) -> dict[str, Any]:
    gaps = _gaps(first, second, comparisons)
    found = _told(gaps, _reach(gaps, comparisons))
    return found | {"beyond": found["low"] > 0}


@wrong("paired", "pairs what has no pairs: the longer is cut")
def cut_to_fit(first: Rows, second: Rows, comparisons: int = 1) -> dict[str, Any]:
    n = min(len(row) for row in [*first, *second])
    rows = min(len(first), len(second))
    gaps = _gaps([row[:n] for row in first[:rows]], [row[:n] for row in second[:rows]], comparisons)
    return _told(gaps, _reach(gaps, comparisons))


@right("paired", "in loops, with no array")
def in_loops(first: Rows, second: Rows, comparisons: int = 1) -> dict[str, Any]:
    lengths = {len(row) for row in first} | {len(row) for row in second}
    if not first or len(first) != len(second) or len(lengths) != 1 or min(lengths) < 2 or comparisons < 1:
        raise ValueError("the same seeds and reviews twice, and a comparison")
    gaps = [[int(a) - int(b) for a, b in zip(x, y, strict=True)] for x, y in zip(first, second, strict=True)]

    def mean(values: Sequence[float]) -> float:
        return math.fsum(values) / len(values)

    by_seed = [mean(row) for row in gaps]
    delta, squared, below = mean(by_seed), 0.0, 0.0
    for means in ([mean(column) for column in zip(*gaps, strict=True)], by_seed):
        if len(means) > 1:
            part = math.fsum((x - delta) ** 2 for x in means) / (len(means) - 1) / len(means)
            squared, below = squared + part, below + part**2 / (len(means) - 1)
    reach = 0.0
    if squared > 1e-20:
        reach = float(student.isf(0.025 / comparisons, squared**2 / below)) * squared**0.5
    low, high = delta - reach, delta + reach
    return {"difference": delta, "low": low, "high": high, "beyond": low > 0 or high < 0, "by_seed": by_seed}


# protocol


def _bare(text: str) -> str:
    return "".join(c for c in text.lower() if c.isascii() and c.isalnum())


def _conduct(
    train: Split, dev: Split, test: Split, settings: Sequence[Any], run: Run, seeds: Sequence[int],
    fault: str = "",
) -> dict[str, Any]:  # fmt: skip
    """The protocol, right unless a fault is named."""
    if fault != "plan" and (len(set(seeds)) < 3 or len(set(seeds)) < len(seeds) or not settings):
        raise ValueError("three different seeds and a setting are needed")
    splits, made = {"train": train, "dev": dev, "test": test}, dict[str, set[str]]()
    for name, split in splits.items():
        if fault != "plan" and (not split["texts"] or len(split["texts"]) != len(split["labels"])):
            raise ValueError(f"{name} needs texts, and a label for each")
        texts = [text if fault == "exact" else _bare(text) for text in split["texts"]]
        for earlier, known in made.items():
            if (fault == "dev forgotten" and "dev" in (earlier, name)) or fault == "no look":
                continue
            if copies := sum(text in known for text in texts):
                told = "some" if fault == "no number" else copies
                raise ValueError(f"{told} texts of {name} have a copy in {earlier}")
        made[name] = set(texts)

    def right_of(setting: Any, labels: list[int], split: Split, seed: int) -> list[bool]:
        texts = train["texts"]
        if fault == "dev too" and split is test:
            texts, labels = texts + dev["texts"], labels + dev["labels"]
        got = run(setting, texts, labels, split["texts"], seed)
        return [int(a) == b for a, b in zip(got, split["labels"], strict=True)]

    truth, judge = train["labels"], test if fault == "on test" else dev
    tried = [[float(np.mean(right_of(s, truth, judge, i))) for i in seeds] for s in settings]
    means = [float({"first seed": x[0], "luckiest": max(x)}.get(fault, np.mean(x))) for x in tried]
    best = len(means) - 1 - int(np.argmax(means[::-1])) if fault == "last" else int(np.argmax(means))
    chosen = settings[best]
    control = []
    for seed in seeds:
        dice = np.random.default_rng([0 if fault == "one mix" else seed, 9])
        mixed = [int(x) for x in dice.permutation(truth)]
        if fault == "drawn":
            mixed = [int(x) for x in dice.integers(0, 2, len(truth))]
        control.append(
            float(
                np.mean(
                    right_of(
                        chosen,
                        truth if fault == "no mix" else mixed,
                        test if fault == "control on test" else dev,
                        seed,
                    )
                )
            )
        )
    looks = seeds[:1] if fault == "one test" else seeds
    found = {
        "chosen": chosen, "tried": 1 if fault == "untold" else len(settings), "seeds": list(seeds),
        "dev": means, "control": control,
        "right": [right_of(chosen, truth, test, i) for i in looks],
        "first": [right_of("first", truth, test, i) for i in looks],
        "dev_reviews": len(dev["texts"]), "reviews": len(test["texts"]),
    }  # fmt: skip
    for key, split in (("dev_commonest", dev), ("commonest", test)):
        share = float(np.mean(split["labels"]))
        found[key] = share if fault == "share of 1" else max(share, 1 - share)
    return found


@wrong("protocol", "chooses on test")
def chooses_on_test(train: Split, dev: Split, test: Split, settings: Sequence[Any], run: Run,
                    seeds: Sequence[int] = (0, 1, 2)) -> dict[str, Any]:  # fmt: skip
    return _conduct(train, dev, test, settings, run, seeds, "on test")


@wrong("protocol", "chooses by the first seed alone")
def first_seed(train: Split, dev: Split, test: Split, settings: Sequence[Any], run: Run,
               seeds: Sequence[int] = (0, 1, 2)) -> dict[str, Any]:  # fmt: skip
    return _conduct(train, dev, test, settings, run, seeds, "first seed")


@wrong("protocol", "chooses by the luckiest seed")
def luckiest_seed(train: Split, dev: Split, test: Split, settings: Sequence[Any], run: Run,
                  seeds: Sequence[int] = (0, 1, 2)) -> dict[str, Any]:  # fmt: skip
    return _conduct(train, dev, test, settings, run, seeds, "luckiest")


@wrong("protocol", "of equally good settings the last")
def last_of_equals(train: Split, dev: Split, test: Split, settings: Sequence[Any], run: Run,
                   seeds: Sequence[int] = (0, 1, 2)) -> dict[str, Any]:  # fmt: skip
    return _conduct(train, dev, test, settings, run, seeds, "last")


@wrong("protocol", "looks for no copies")
def no_look(train: Split, dev: Split, test: Split, settings: Sequence[Any], run: Run,
            seeds: Sequence[int] = (0, 1, 2)) -> dict[str, Any]:  # fmt: skip
    return _conduct(train, dev, test, settings, run, seeds, "no look")


@wrong("protocol", "finds copies only where every letter and sign is the same")
def exact_copies(train: Split, dev: Split, test: Split, settings: Sequence[Any], run: Run,
                 seeds: Sequence[int] = (0, 1, 2)) -> dict[str, Any]:  # fmt: skip
    return _conduct(train, dev, test, settings, run, seeds, "exact")


@wrong("protocol", "looks for copies of test in train, and forgets dev")
def dev_forgotten(train: Split, dev: Split, test: Split, settings: Sequence[Any], run: Run,
                  seeds: Sequence[int] = (0, 1, 2)) -> dict[str, Any]:  # fmt: skip
    return _conduct(train, dev, test, settings, run, seeds, "dev forgotten")


@wrong("protocol", "does not say how many copies there are")
def no_number(train: Split, dev: Split, test: Split, settings: Sequence[Any], run: Run,
              seeds: Sequence[int] = (0, 1, 2)) -> dict[str, Any]:  # fmt: skip
    return _conduct(train, dev, test, settings, run, seeds, "no number")


@wrong("protocol", "trains on dev as well before the test")
def dev_too(train: Split, dev: Split, test: Split, settings: Sequence[Any], run: Run,
            seeds: Sequence[int] = (0, 1, 2)) -> dict[str, Any]:  # fmt: skip
    return _conduct(train, dev, test, settings, run, seeds, "dev too")


@wrong("protocol", "the control keeps the true labels")
def no_mix(train: Split, dev: Split, test: Split, settings: Sequence[Any], run: Run,
           seeds: Sequence[int] = (0, 1, 2)) -> dict[str, Any]:  # fmt: skip
    return _conduct(train, dev, test, settings, run, seeds, "no mix")


@wrong("protocol", "the control has the same permutation for each seed")
def one_mix(train: Split, dev: Split, test: Split, settings: Sequence[Any], run: Run,
            seeds: Sequence[int] = (0, 1, 2)) -> dict[str, Any]:  # fmt: skip
    return _conduct(train, dev, test, settings, run, seeds, "one mix")


@wrong("protocol", "the control draws new labels: other shares of the classes")
def drawn_labels(train: Split, dev: Split, test: Split, settings: Sequence[Any], run: Run,
                 seeds: Sequence[int] = (0, 1, 2)) -> dict[str, Any]:  # fmt: skip
    return _conduct(train, dev, test, settings, run, seeds, "drawn")


@wrong("protocol", "the control is one more look at test")
def control_on_test(train: Split, dev: Split, test: Split, settings: Sequence[Any], run: Run,
                    seeds: Sequence[int] = (0, 1, 2)) -> dict[str, Any]:  # fmt: skip
    return _conduct(train, dev, test, settings, run, seeds, "control on test")


@wrong("protocol", "one seed on test")
def one_test(train: Split, dev: Split, test: Split, settings: Sequence[Any], run: Run,
             seeds: Sequence[int] = (0, 1, 2)) -> dict[str, Any]:  # fmt: skip
    return _conduct(train, dev, test, settings, run, seeds, "one test")


@wrong("protocol", "does not tell how many settings were tried")
def untold(train: Split, dev: Split, test: Split, settings: Sequence[Any], run: Run,
           seeds: Sequence[int] = (0, 1, 2)) -> dict[str, Any]:  # fmt: skip
    return _conduct(train, dev, test, settings, run, seeds, "untold")


@wrong("protocol", "the share of class 1 for that of the commonest")
def share_of_ones(train: Split, dev: Split, test: Split, settings: Sequence[Any], run: Run,
                  seeds: Sequence[int] = (0, 1, 2)) -> dict[str, Any]:  # fmt: skip
    return _conduct(train, dev, test, settings, run, seeds, "share of 1")


@wrong("protocol", "runs whatever the plan is")
def any_plan(train: Split, dev: Split, test: Split, settings: Sequence[Any], run: Run,
             seeds: Sequence[int] = (0, 1, 2)) -> dict[str, Any]:  # fmt: skip
    return _conduct(train, dev, test, settings, run, seeds, "plan")


@right("protocol", "seed by seed, with the labels rolled by a drawn number for the control")
def seed_by_seed(train: Split, dev: Split, test: Split, settings: Sequence[Any], run: Run,
                 seeds: Sequence[int] = (0, 1, 2)) -> dict[str, Any]:  # fmt: skip
    keys = [{_bare(text) for text in split["texts"]} for split in (train, dev, test)]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        later = (train, dev, test)[j]["texts"]
        if n := len([text for text in later if _bare(text) in keys[i]]):
            names = ("train", "dev", "test")
            raise ValueError(f"{names[i]} and {names[j]}: {n}")
    if len(seeds) != len(set(seeds)) or len(seeds) < 3 or len(settings) < 1:
        raise ValueError("seeds or settings")
    if any(len(s["texts"]) != len(s["labels"]) or not s["labels"] for s in (train, dev, test)):
        raise ValueError("labels")
    rates = np.zeros((len(settings), len(seeds)))
    for column, seed in enumerate(seeds):
        for row, setting in enumerate(settings):
            got = run(setting, train["texts"], train["labels"], dev["texts"], seed)
            rates[row, column] = np.mean(np.array(got) == dev["labels"])
    best = int(np.argmax(np.round(rates.mean(1), 9)))
    control, hits, base = list[float](), list[list[bool]](), list[list[bool]]()
    for seed in seeds:
        labels = list(train["labels"])
        random.Random(seed).shuffle(labels)
        got = run(settings[best], train["texts"], labels, dev["texts"], seed)
        control.append(float(np.mean(np.array(got) == dev["labels"])))
        for setting, rows in ((settings[best], hits), ("first", base)):
            got = run(setting, train["texts"], train["labels"], test["texts"], seed)
            rows.append((np.array(got) == test["labels"]).tolist())
    most = [max(Counter(s["labels"]).values()) / len(s["labels"]) for s in (dev, test)]
    return {
        "chosen": settings[best], "tried": len(settings), "seeds": tuple(seeds), "dev": rates.mean(1),
        "control": control, "right": hits, "first": base, "dev_reviews": len(dev["labels"]),
        "reviews": len(test["labels"]), "dev_commonest": most[0], "commonest": most[1],
    }  # fmt: skip


# report


def _written(
    results: dict[str, Any], comparison: dict[str, Any], source: str, k: int, fault: str = ""
) -> dict[str, Any]:
    """The report, right unless a fault is named."""
    seeds, n = len(results["right"]), results["dev_reviews"]
    accuracy, baseline = float(np.mean(results["right"])), float(np.mean(results["first"]))
    low, high, delta, c = (
        comparison["low"],
        comparison["high"],
        comparison["difference"],
        results["dev_commonest"],
    )
    control = {"luckiest control": max, "any control": min}.get(fault, np.mean)(results["control"])
    bar = (
        0.5
        if fault == "above a half"
        else c + (0 if fault == "no margin" else 3) * math.sqrt(c * (1 - c) / n)
    )
    leak = fault != "no leak" and (abs(control - c) > bar - c if fault == "below too" else control > bar)
    few = seeds < 3 and fault != "few"
    verdict = "not decided"
    if not few:
        verdict = "better" if low > 0 else "worse" if high < 0 else verdict
    if fault == "by the mean":
        verdict = "better" if delta > 0 else "worse"
    if fault == "no worse" and verdict == "worse":
        verdict = "not decided"
    if leak and not (fault == "leak last" and verdict == "better"):
        verdict = "leak"
    warnings = ["fewer than three seeds"] * few + ["the control is above chance"] * bool(leak)
    if accuracy <= (0.5 if fault == "a half" else results["commonest"]) and fault != "no commonest":
        warnings.append("not above the commonest answer")
    tried = "" if fault == "untold" else f"{results['tried']} settings were tried. "
    bounds = "" if fault == "no interval" else f", 95% interval {100 * low:+.1f} to {100 * high:+.1f}"
    claim = "This does not say that it is better. " if fault == "denied" and verdict != "better" else ""
    best = "Chosen was the best setting on dev. " if fault == "best" else ""
    shown = delta if fault == "shares" else 100 * delta
    text = (
        f"{verdict}: {source}, k = {k}, {seeds} seed{'s' * (seeds > 1)}, {results['reviews']} test reviews. "
        f"{tried}{100 * accuracy:.1f}% against {100 * baseline:.1f}%, the commonest answer "
        f"{100 * results['commonest']:.1f}%. "
        f"{shown:+.1f} points{bounds}. {claim}{best}{'. '.join(warnings)}"
    )
    return {
        "verdict": verdict,
        "accuracy": accuracy,
        "baseline": baseline,
        "warnings": warnings,
        "text": text,
    }


@wrong("report", "better is what is higher, the interval is not looked at")
def by_the_mean(results: dict[str, Any], comparison: dict[str, Any], source: str, k: int) -> dict[str, Any]:
    return _written(results, comparison, source, k, "by the mean")


@wrong("report", "the control is not looked at")
def no_leak(results: dict[str, Any], comparison: dict[str, Any], source: str, k: int) -> dict[str, Any]:
    return _written(results, comparison, source, k, "no leak")


@wrong("report", "a leak is told only where nothing was gained")
def leak_last(results: dict[str, Any], comparison: dict[str, Any], source: str, k: int) -> dict[str, Any]:
    return _written(results, comparison, source, k, "leak last")


@wrong("report", "any control above the commonest answer is a leak, with no room for luck")
def no_margin(results: dict[str, Any], comparison: dict[str, Any], source: str, k: int) -> dict[str, Any]:
    return _written(results, comparison, source, k, "no margin")


@wrong("report", "the control is held against a half")
def above_a_half(results: dict[str, Any], comparison: dict[str, Any], source: str, k: int) -> dict[str, Any]:
    return _written(results, comparison, source, k, "above a half")


@wrong("report", "a control below chance is called a leak, too")
def below_too(results: dict[str, Any], comparison: dict[str, Any], source: str, k: int) -> dict[str, Any]:
    return _written(results, comparison, source, k, "below too")


@wrong("report", "one seed decides")
def few_decide(results: dict[str, Any], comparison: dict[str, Any], source: str, k: int) -> dict[str, Any]:
    return _written(results, comparison, source, k, "few")


@wrong("report", "what is worse is called not decided")
def no_worse(results: dict[str, Any], comparison: dict[str, Any], source: str, k: int) -> dict[str, Any]:
    return _written(results, comparison, source, k, "no worse")


@wrong("report", "accuracy is held against a half, not against the commonest answer")
def against_a_half(
    results: dict[str, Any], comparison: dict[str, Any], source: str, k: int
) -> dict[str, Any]:
    return _written(results, comparison, source, k, "a half")


@wrong("report", "does not warn of the commonest answer")
def no_commonest(results: dict[str, Any], comparison: dict[str, Any], source: str, k: int) -> dict[str, Any]:
    return _written(results, comparison, source, k, "no commonest")


@wrong("report", "does not tell how many settings were tried")
def untold_settings(
    results: dict[str, Any], comparison: dict[str, Any], source: str, k: int
) -> dict[str, Any]:
    return _written(results, comparison, source, k, "untold")


@wrong("report", "no interval in the text")
def no_interval(results: dict[str, Any], comparison: dict[str, Any], source: str, k: int) -> dict[str, Any]:
    return _written(results, comparison, source, k, "no interval")


@wrong("report", "the word better, denied")
def denied(results: dict[str, Any], comparison: dict[str, Any], source: str, k: int) -> dict[str, Any]:
    return _written(results, comparison, source, k, "denied")


@wrong("report", "the chosen setting is called the best in a text that decides nothing")
def best_setting(results: dict[str, Any], comparison: dict[str, Any], source: str, k: int) -> dict[str, Any]:
    return _written(results, comparison, source, k, "best")


@wrong("report", "shares called points")
def shares_as_points(
    results: dict[str, Any], comparison: dict[str, Any], source: str, k: int
) -> dict[str, Any]:
    return _written(results, comparison, source, k, "shares")


@right("report", "the sentences in another order, as a list of lines")
def in_lines(results: dict[str, Any], comparison: dict[str, Any], source: str, k: int) -> dict[str, Any]:
    found = _written(results, comparison, source, k)
    return found | {"text": "\n".join(reversed(found["text"].split(". ")))}
