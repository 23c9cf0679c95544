"""Hidden checks of *The table detective*."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from torch import Tensor

from topk_lib.grading import Answer, Draw, Wrong, expect, hidden

Table = dict[str, dict[str, Any]]
COLUMNS = ("precision", "recall", "f1")
ROWS = ("0", "1", "micro", "macro", "weighted")


def the_report(truth: Sequence[Any], answers: Sequence[Any]) -> Table:
    rows: Table = {}
    for one in set(truth) | set(answers):
        hit = sum(t == a == one for t, a in zip(truth, answers, strict=True))
        true, called = list(truth).count(one), list(answers).count(one)
        precision, recall = hit / called if called else 0.0, hit / true if true else 0.0
        f1 = 2 * precision * recall / (precision + recall) if hit else 0.0
        rows[str(one)] = {"precision": precision, "recall": recall, "f1": f1, "support": true}
    classes, n = list(rows.values()), len(truth)
    accuracy = sum(t == a for t, a in zip(truth, answers, strict=True)) / n
    rows["micro"] = dict.fromkeys(COLUMNS, accuracy)
    rows["macro"] = {c: sum(row[c] for row in classes) / len(classes) for c in COLUMNS}
    rows["weighted"] = {c: sum(row[c] * row["support"] for row in classes) / n for c in COLUMNS}
    for name in ROWS[2:]:
        rows[name]["support"] = n
    return rows


def same_report(answer: Answer, truth: list[Any], answers: list[Any]) -> None:
    right, got = the_report(truth, answers), answer(truth, answers)
    expect(isinstance(got, dict), f"report returns a dict of rows, yours a {type(got).__name__}")
    shown = f"report({truth}, {answers})" if len(truth) < 20 else f"{len(truth)} texts"
    expect(set(got) == set(right), f"{shown} has the rows {sorted(right)}, yours {sorted(map(str, got))}")
    for row, numbers in right.items():
        for column, value in numbers.items():
            yours = float(got[row][column])
            expect(abs(yours - value) < 1e-6, f"{shown}: {row} {column} is {value:.6f}, yours {yours:.6f}")


@hidden("report", points=5, about="values")
def every_number_is_right(answer: Answer, draw: Draw) -> None:
    """Every number of the report, for classes of different sizes and answers right more often than not."""
    for n in (14, 300):
        classes = draw.integer(3, 6)
        truth = [*range(classes), *(min(draw.integer(0, classes), draw.integer(0, classes))
                                    for _ in range(n - classes))]  # fmt: skip
        answers = [t if draw.rng.random() < 0.6 else draw.integer(0, classes) for t in truth]
        same_report(answer, truth, answers)


@hidden("report", points=4, about="empty classes")
def empty_classes_count_as_zero(answer: Answer, draw: Draw) -> None:
    """A class that is never called has precision 0, one that nobody belongs to has recall 0; both have a row
    and count in the macro average."""
    n = draw.integer(4, 9)
    same_report(answer, [0, 1, 2] * n, [0, 1, 1] * n)
    same_report(answer, [0, 1, 1] * n, [0, 1, 5] * n)
    same_report(answer, [3] * n, [4] * n)


@hidden("report", points=2, about="names")
def classes_may_have_any_name(answer: Answer, draw: Draw) -> None:
    """Classes may be strings, or numbers with gaps."""
    for names in (["spam", "ham", "eggs"], [7, 12, 3]):
        truth = [draw.choice(names) for _ in range(12)] + names
        same_report(answer, truth, [draw.choice(names) for _ in truth])


@hidden("report", points=3, about="bad input")
def bad_lists_are_refused(answer: Answer, draw: Draw) -> None:
    """Lists of different lengths and empty lists raise ValueError."""
    n = draw.integer(2, 6)
    answer.raises(ValueError, [0] * n, [0] * (n - 1))
    answer.raises(ValueError, [1] * n, [1] * (n + 1))
    answer.raises(ValueError, [], [])


def wilson(right: int, n: int, level: float = 0.95) -> tuple[float, float]:
    z, p = NormalDist().inv_cdf((1 + level) / 2), right / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


def ends(got: Any) -> tuple[float, float]:
    if not isinstance(got, (tuple, list)) or len(got) != 2:
        raise Wrong(f"the interval is a pair (low, high), yours {got}")
    return float(got[0]), float(got[1])


def same_ends(answer: Answer, right: int, n: int, *level: float) -> None:
    low, high = wilson(right, n, *level)
    got = ends(answer(right, n, *level))
    called = ", ".join(map(str, (right, n, *level)))
    expect(
        abs(got[0] - low) < 1e-6 and abs(got[1] - high) < 1e-6,
        f"interval({called}) is ({low:.6f}, {high:.6f}), yours ({got[0]:.6f}, {got[1]:.6f})",
    )


@hidden("interval", points=5, about="values")
def interval_is_wilsons(answer: Answer, draw: Draw) -> None:
    """Both ends of Wilson's interval at 95%, for few texts and for many."""
    for most in (8, 60, 5000):
        n = draw.integer(most // 2, most)
        same_ends(answer, draw.integer(1, n), n)


@hidden("interval", points=3, about="level")
def interval_has_its_level(answer: Answer, draw: Draw) -> None:
    """The level is used, by place and by name."""
    n = draw.integer(20, 90)
    for level in (0.5, 0.8, 0.99):
        same_ends(answer, draw.integer(1, n), n, level)
    low, _ = ends(answer(n // 2, n, level=0.9))
    expect(abs(low - wilson(n // 2, n, 0.9)[0]) < 1e-6, f"interval({n // 2}, {n}, level=0.9) differs")


@hidden("interval", points=3, about="ends")
def interval_stays_inside(answer: Answer, draw: Draw) -> None:
    """None or all right, and a billion texts: no end below 0 or above 1, and neither end lost."""
    for n in (1, 2, 3, 7, draw.integer(10, 200), 10**9):
        for right in (0, n):
            low, high = ends(answer(right, n))
            expect(low >= 0 and high <= 1, f"interval({right}, {n}) is inside [0, 1], yours ({low}, {high})")
            same_ends(answer, right, n)
    same_ends(answer, 999_999_990, 10**9)


@hidden("interval", points=2, about="bad input")
def impossible_counts_are_refused(answer: Answer, draw: Draw) -> None:
    """No texts, more right than texts, fewer than none, and a level outside of (0, 1) raise ValueError."""
    n = draw.integer(3, 40)
    for right, texts, level in ((0, 0, 0.9), (n + 1, n, 0.9), (-1, n, 0.9), (1, n, 1.0), (1, n, 0.0)):
        answer.raises(ValueError, right, texts, level)
    answer.raises(ValueError, 1, n, 95)


def covered(rule: Callable[[int, int], tuple[float, float]], n: int, p: float) -> float:
    held = [x for x in range(n + 1) if rule(x, n)[0] <= p <= rule(x, n)[1]]
    if p in (0, 1):
        return float(round(n * p) in held)
    log = [math.lgamma(n + 1) - math.lgamma(x + 1) - math.lgamma(n - x + 1) for x in held]
    return math.fsum(
        math.exp(c + x * math.log(p) + (n - x) * math.log(1 - p)) for c, x in zip(log, held, strict=True)
    )


@hidden("interval", points=2, about="coverage")
def coverage_adds_up(answer: Answer, draw: Draw) -> None:
    """The probabilities of those x whose interval holds p, ends included, for intervals that need not be
    near x / n."""
    coverage = answer.other("coverage")
    for n, p in ((draw.integer(3, 8), 0.5), (draw.integer(20, 40), float(draw.rng.uniform(0.1, 0.9))),
                 (draw.integer(3, 8), 1.0), (draw.integer(3, 8), 0.0)):  # fmt: skip
        kept = {x: x in (0, n) or bool(draw.rng.random() < 0.6) for x in range(n + 1)}

        def rule(right: int, n: int, kept: dict[int, bool] = kept, p: float = p) -> tuple[float, float]:
            return (p, p + 0.01) if kept[right] and right % 2 else (p - 0.01, p - (not kept[right]) * 0.001)

        right, got = covered(rule, n, p), float(coverage(rule, n, p))
        expect(
            abs(got - right) < 1e-6,
            f"n = {n}, p = {p:.3f}, and a rule that holds p for x in {[x for x in kept if kept[x]]}: the "
            f"coverage is {right:.6f}, yours {got:.6f}",
        )


@hidden("interval", points=1, about="many texts")
def coverage_of_many_texts(answer: Answer, draw: Draw) -> None:
    """Two thousand texts: neither an overflow nor a loss of digits."""
    p = float(draw.rng.uniform(0.6, 0.8))
    got, right = float(answer.other("coverage")(wilson, 2000, p)), covered(wilson, 2000, p)
    expect(abs(got - right) < 1e-6, f"n = 2000, p = {p:.4f}, Wilson: {right:.6f}, yours {got:.6f}")


def given_numbers(table: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, float, np.ndarray]]:
    """The name and value of each number of a table, and what every matrix gives, (n0 + 1, n1 + 1)."""
    n = [table["0"]["support"], table["1"]["support"]]
    hits = np.meshgrid(*(np.arange(m + 1.0) for m in n), indexing="ij")
    for column in COLUMNS:
        each = []
        for c in (0, 1):
            called = hits[c] + n[1 - c] - hits[1 - c]
            below = {"precision": np.where(called == 0, 1, called), "recall": n[c], "f1": (called + n[c]) / 2}
            each.append(hits[c] / below[column])
        every = {"0": each[0], "1": each[1], "micro": (hits[0] + hits[1]) / sum(n)}
        every |= {"macro": sum(each) / 2, "weighted": (n[0] * each[0] + n[1] * each[1]) / sum(n)}
        for row in ROWS:
            if (value := table.get(row, {}).get(column)) is not None:
                yield f"{row} {column}", value, every[row]


def far(values: np.ndarray, value: float, digits: int) -> np.ndarray:
    return np.abs(values - value) > 0.5 * 10.0**-digits + 1e-9  # type: ignore[no-any-return]


@lru_cache(64)  # a class of sixty, or a bank of wrong answers, asks for the same ones again and again
def fitting(written: str, digits: int) -> list[tuple[int, ...]]:
    table = json.loads(written)
    fits = np.ones([table[row]["support"] + 1 for row in "01"], dtype=bool)
    for _, value, values in given_numbers(table):
        fits &= ~far(values, value, digits)
    return [tuple(pair) for pair in np.argwhere(fits).tolist()]


def table_of(right: Sequence[int], n: Sequence[int], digits: int) -> Table:
    """What a paper would print."""
    truth = [0] * n[0] + [1] * n[1]
    answers = [0] * right[0] + [1] * (n[0] - right[0] + right[1]) + [0] * (n[1] - right[1])
    exact = the_report(truth, answers)
    rows = {row: exact.get(row, dict.fromkeys(COLUMNS, 0.0)) for row in ROWS}
    return {
        row: {c: round(numbers[c], digits) for c in COLUMNS} | {"support": numbers.get("support", 0)}
        for row, numbers in rows.items()
    }


def thinned(table: Table, draw: Draw, share: float) -> Table:
    """Some numbers, rows too, taken out, or set to None."""
    out: Table = {row: {"support": table[row]["support"]} for row in "01"}
    for row in ROWS:
        for column in COLUMNS:
            if draw.rng.random() < share:
                out.setdefault(row, {})[column] = table[row][column]
            elif draw.rng.random() < 0.3:
                out.setdefault(row, {})[column] = None
    return out


def same_matrices(answer: Answer, table: Table, digits: int) -> None:
    right = fitting(json.dumps(table), digits)
    got = [tuple(int(x) for x in pair) for pair in answer(table, digits)]
    more, less = sorted(set(got) - set(right)), sorted(set(right) - set(got))
    told = f"possible({table}, digits={digits}) finds {len(right)} matrices, yours {len(got)}"
    expect(not more, f"{told}; among yours is {more[:1]}, which does not fit")
    expect(not less, f"{told}; {less[:1]} fits and is not among yours")
    expect(got == right, f"{told}; they are the right ones, but not in ascending order, each once")


@hidden("possible", points=6, about="small tables")
def all_matrices_of_small_tables(answer: Answer, draw: Draw) -> None:
    """Small tables with supports that differ, some numbers missing, one to three digits."""
    for digits in (1, 2, 3, 2):
        n = [draw.integer(6, 14), draw.integer(15, 30)]
        right = [draw.integer(m // 2, m + 1) for m in n]
        same_matrices(answer, thinned(table_of(right, n, digits), draw, 0.3), digits)


@hidden("possible", points=3, about="rounding")
def a_half_may_be_rounded_either_way(answer: Answer, draw: Draw) -> None:
    """A number that lies in the middle between two printed ones fits both of them, and no third."""
    hit = draw.choice([1, 3, 5, 7])
    for digits, value in ((2, hit / 8), (1, draw.choice([1, 3]) / 4)):
        for step in (-1.5, -0.5, 0.5, 1.5):
            table: Table = {"0": {"support": 8, "recall": round(value + step * 10**-digits, digits)},
                            "1": {"support": 3}}  # fmt: skip
            same_matrices(answer, table, digits)


@hidden("possible", points=3, about="zeros")
def classes_that_nobody_calls(answer: Answer, draw: Draw) -> None:
    """A class that is never called has precision and F1 0, and fits a table that says so."""
    for one in (0, 1):
        n = [draw.integer(5, 12), draw.integer(5, 12)]
        right = [0 if c == one else n[c] for c in (0, 1)]
        table = table_of(right, n, 3)
        same_matrices(answer, table, 3)
        same_matrices(answer, {row: {"support": table[row]["support"]} for row in "01"} | {
            str(one): {"support": n[one], "precision": 0.0}}, 3)  # fmt: skip


@hidden("possible", points=3, about="averages")
def averages_are_those_of_question_one(answer: Answer, draw: Draw) -> None:
    """Averages alone: macro F1 is the mean of the F1s, weighted ones go by the supports."""
    n = [draw.integer(8, 14), draw.integer(24, 40)]
    table = table_of([draw.integer(5, n[0]), draw.integer(12, n[1])], n, 3)
    supports: Table = {row: {"support": table[row]["support"]} for row in "01"}
    for name in ("macro", "weighted", "micro"):
        for column in ("f1", "precision"):
            same_matrices(answer, supports | {name: {column: table[name][column], "support": None}}, 3)
    same_matrices(answer, supports, 3)


@hidden("possible", points=3, about="large tables")
def two_thousand_texts_a_class(answer: Answer, draw: Draw) -> None:
    """Three or four million matrices within the time."""
    n = [2000, draw.integer(1500, 2001)]
    table = table_of([draw.integer(1700, 2000), draw.integer(1200, n[1])], n, 3)
    few: Table = {"0": {"support": n[0]}, "1": {"support": n[1], "f1": table["1"]["f1"]}}
    same_matrices(answer, few | {"macro": table["macro"]}, 3)


@lru_cache(64)
def excuses(written: str, digits: int) -> list[list[str]]:
    table = json.loads(written)
    names: list[str] = []
    bits: Any = np.zeros([table[row]["support"] + 1 for row in "01"], dtype=np.int64)
    for name, value, values in given_numbers(table):
        bits |= far(values, value, digits).astype(np.int64) << len(names)
        names.append(name)
    found = [
        [name for i, name in enumerate(names) if one >> i & 1]
        for one in np.flatnonzero(np.bincount(bits.ravel()))
    ]
    fewest = min(map(len, found))
    return sorted(sorted(one) for one in found if len(one) == fewest)


def same_excuses(answer: Answer, table: Table, digits: int) -> None:
    right = excuses(json.dumps(table), digits)
    got = [[str(name) for name in excuse] for excuse in answer(table, digits)]
    shown = f"misprints({table}, digits={digits})" if sum(map(len, right)) < 40 else "of this table it"
    expect(got == right, f"{shown} is {right[:4]} ({len(right)} excuses), yours {got[:4]} ({len(got)})")


@hidden("misprints", points=3, about="true tables")
def true_tables_need_no_excuse(answer: Answer, draw: Draw) -> None:
    """A table that a matrix gives has one excuse, of no numbers."""
    for digits in (2, 3):
        n = [draw.integer(10, 40), draw.integer(10, 40)]
        table = table_of([draw.integer(3, m + 1) for m in n], n, digits)
        same_excuses(answer, table, digits)
        same_excuses(answer, thinned(table, draw, 0.4), digits)


@hidden("misprints", points=4, about="one misprint")
def one_false_number_is_named(answer: Answer, draw: Draw) -> None:
    """All numbers given and one of them false: it is named, in any row and column."""
    for _ in range(3):
        n = [draw.integer(20, 60), draw.integer(20, 60)]
        table = table_of([draw.integer(m // 2, m) for m in n], n, 3)
        row, column = draw.choice(ROWS), draw.choice(COLUMNS)
        table[row][column] = round(abs(table[row][column] - 0.137), 3)
        same_excuses(answer, table, 3)
    n, hit = [37, 41], draw.integer(20, 37)  # off by one in the last digit, on the side of the true value
    table = table_of([hit, draw.integer(20, 41)], n, 3)
    near = table["0"]["recall"]
    table["0"]["recall"] = round(near + (0.001 if hit / 37 > near else -0.001), 3)
    same_excuses(answer, table, 3)


@hidden("misprints", points=4, about="several excuses")
def all_smallest_excuses(answer: Answer, draw: Draw) -> None:
    """Where several sets of the smallest size would do, all are named, in ascending order; numbers that are
    missing are in none."""
    m = draw.integer(20, 40)  # three numbers of which any two agree: each alone may be the misprint
    hits = [m - draw.integer(1, 5), m - draw.integer(1, 5)]
    three: Table = {
        row: {"support": m, "recall": round(hit / m, 3)} for row, hit in zip("01", hits, strict=True)
    }
    three["micro"] = {"f1": round((sum(hits) - draw.integer(4, 10)) / (2 * m), 3)}
    same_excuses(answer, three, 3)
    for share in (0.35, 0.5):
        n = [draw.integer(8, 25), draw.integer(8, 25)]
        true = table_of([draw.integer(m // 2, m) for m in n], n, 2)
        table = thinned(true, draw, share)
        for column in COLUMNS:
            table["0"][column] = round(float(draw.rng.uniform(0.3, 0.99)), 2)
        same_excuses(answer, table, 2)


@hidden("misprints", points=3, about="large tables")
def large_tables_within_the_time(answer: Answer, draw: Draw) -> None:
    """Two thousand texts a class, fifteen numbers, two of them false."""
    table = table_of([draw.integer(1700, 1990), draw.integer(1700, 1990)], [2000, 2000], 3)
    table["1"]["recall"] = round(table["1"]["recall"] - 0.05, 3)
    table["weighted"]["f1"] = round(table["weighted"]["f1"] + 0.004, 3)
    same_excuses(answer, table, 3)


class Planted:
    """Texts in which some types are opinions, the others are spread over both classes alike."""

    def __init__(self, draw: Draw, positive: float) -> None:
        self.rng = draw.rng
        types = [int(t) for t in self.rng.permutation(100_000)[:2000]]
        self.common, self.topics, self.names = types[:30], types[30:330], types[330:1530]
        self.opinions = types[1530:1542], types[1542:1554]
        self.often = self.rng.uniform(0.4, 0.95, 30)
        self.labels = [int(i < 400 * positive) for i in self.rng.permutation(400)]
        self.train = [self.text(label, self.names[3 * i : 3 * i + 3]) for i, label in enumerate(self.labels)]
        self.sides = [i % 2 for i in range(40)]
        picks = self.rng.integers(400, size=40)
        self.texts = [
            self.text(s, self.names[3 * i : 3 * i + 3]) for s, i in zip(self.sides, picks, strict=True)
        ]

    def text(self, label: int, names: Sequence[int]) -> list[int]:
        words = [t for t, p in zip(self.common, self.often, strict=True) if self.rng.random() < p]
        words += [words[int(self.rng.integers(len(words)))] for _ in range(8)]
        words += [t for t in self.topics if self.rng.random() < 0.04]
        for side in (0, 1):
            words += [t for t in self.opinions[side] if self.rng.random() < (0.3 if side == label else 0.06)]
        words += [name for name in names for _ in range(int(self.rng.integers(2, 4)))]
        return [words[int(i)] for i in self.rng.permutation(len(words))]

    def found(self, answer: Answer, k: int = 4) -> None:
        ids, mask = batched(self.texts)
        kept = kept_types(answer(self.train, self.labels, ids, mask), ids, mask, k)
        opinions = {*self.opinions[0], *self.opinions[1]}
        for side in (0, 1):
            rows = [r for r in range(40) if self.sides[r] == side]
            most = sum(min(k, len(opinions & set(self.texts[r]))) for r in rows)
            share = sum(len(opinions & set(kept[r])) for r in rows) / most
            expect(
                share >= 0.7,
                f"{len(self.labels)} training texts, {sum(self.labels)} of them of class 1, and k = {k}: in "
                f"texts of class {side} you keep {share:.0%} of the opinion types that could be, not 70%",
            )


def batched(texts: Sequence[Sequence[int]], extra: int = 0) -> tuple[Tensor, Tensor]:
    ids = torch.zeros(len(texts), max(map(len, texts)) + extra, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = torch.tensor(text)
        mask[row, : len(text)] = 1
    return ids, mask


def checked_scores(scores: Any, ids: Tensor, mask: Tensor) -> Tensor:
    scores = torch.as_tensor(scores).double()
    expect(scores.shape == ids.shape, f"scores are of shape {tuple(ids.shape)}, yours {tuple(scores.shape)}")
    expect(not scores[mask > 0].isnan().any(), "no score of a token may be NaN")
    return scores


def kept_types(scores: Any, ids: Tensor, mask: Tensor, k: int) -> list[list[int]]:
    scores = checked_scores(scores, ids, mask)
    kept = []
    for row in range(len(ids)):
        n = int(mask[row].sum())
        order = sorted(range(n), key=lambda i: (-scores[row, i].item(), i))
        kept.append([int(ids[row, i]) for i in order[:k]])
    return kept


@hidden("own_rule", points=3, about="copies")
def no_type_is_kept_twice(answer: Answer, draw: Draw) -> None:
    """As long as there are k different types, k different ones are kept."""
    train = [[int(t) for t in draw.rng.integers(20, size=30)] for _ in range(40)]
    texts = [[int(t) for t in draw.rng.integers(25, size=draw.integer(12, 30))] for _ in range(8)]
    ids, mask = batched(texts)
    scores = answer(train, [i % 2 for i in range(40)], ids, mask)
    for k in (3, 6):
        for text, kept in zip(texts, kept_types(scores, ids, mask, k), strict=True):
            expect(
                len(set(kept)) == min(k, len(set(text))),
                f"of the text {text} with k = {k} you keep {kept}: a type twice, and others not at all",
            )


@hidden("own_rule", points=5, about="opinion")
def opinions_are_found(answer: Answer, draw: Draw) -> None:
    """Opinions are kept, of both sides; names, topics and common types are not."""
    Planted(draw, 0.5).found(answer)


@hidden("own_rule", points=4, about="balance")
def opinions_are_found_where_a_class_is_rare(answer: Answer, draw: Draw) -> None:
    """The same where four of five training texts are of one class, of either."""
    Planted(draw, 0.8).found(answer)
    Planted(draw, 0.2).found(answer)


@hidden("own_rule", points=4, about="padding")
def neighbours_do_not_matter(answer: Answer, draw: Draw) -> None:
    """A text has the same scores alone, in a batch, and with more padding behind it."""
    train = [[int(t) for t in draw.rng.integers(1, 30, size=20)] for _ in range(30)]
    labels = [i % 2 for i in range(30)]
    texts = [[int(t) for t in draw.rng.integers(1, 35, size=m)] for m in (9, 17, 5)]
    ids, mask = batched(texts)
    together = checked_scores(answer(train, labels, ids, mask), ids, mask)
    for row, text in enumerate(texts):
        alone_ids, alone_mask = batched([text], extra=6)
        alone = checked_scores(answer(train, labels, alone_ids, alone_mask), alone_ids, alone_mask)
        n = len(text)
        expect(
            torch.allclose(alone[0, :n], together[row, :n], rtol=1e-5, atol=1e-5),
            f"the text {text} has other scores alone with 6 more padding tokens than in a batch of three: "
            f"{alone[0, :n].tolist()} and {together[row, :n].tolist()}",
        )
