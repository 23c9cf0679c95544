"""Known answers to *The table detective*: wrong ones, and right ones in another style."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import torch
from scipy.stats import binom, norm
from sklearn.metrics import precision_recall_fscore_support
from torch import Tensor

from topk_lib.grading import right, wrong

COLUMNS = ("precision", "recall", "f1")
Table = dict[str, dict[str, Any]]


def a_report(
    truth: Sequence[Any],
    answers: Sequence[Any],
    *,
    fault: str = "",
    name: Any = str,
) -> Table:
    if (len(truth) != len(answers) or not len(truth)) and fault != "takes all":
        raise ValueError("lengths")
    classes = set(truth) if fault == "true classes only" else set(truth) | set(answers)
    if fault == "counts from 0":
        classes = set(range(len(classes)))
    rows: Table = {}
    pairs = list(zip(truth, answers, strict=False))
    for one in classes:
        hit = sum(t == a == one for t, a in pairs)
        true, called = list(truth).count(one), list(answers).count(one)
        if fault == "swapped":
            true, called = called, true
        missing = 1.0 if fault == "one where nothing" else math.nan if fault == "nan" else 0.0
        p, r = hit / called if called else missing, hit / true if true else missing
        f1 = (p + r) / 2 if fault == "plain mean" else 2 * p * r / (p + r) if p + r else 0.0
        rows[name(one)] = {"precision": p, "recall": r, "f1": f1, "support": true}
    every, n = list(rows.values()), len(truth)
    share = sum(t == a for t, a in pairs) / n
    rows["micro"] = dict.fromkeys(COLUMNS, share)
    rows["macro"] = {c: sum(row[c] for row in every) / len(every) for c in COLUMNS}
    if fault == "macro f1 of means":
        p, r = rows["macro"]["precision"], rows["macro"]["recall"]
        rows["macro"]["f1"] = 2 * p * r / (p + r) if p + r else 0.0
    total = sum(row["support"] for row in every)
    rows["weighted"] = {c: sum(row[c] * row["support"] for row in every) / total for c in COLUMNS}
    if fault == "weighted is macro":
        rows["weighted"] = dict(rows["macro"])
    if fault == "micro is macro":
        rows["micro"] = dict(rows["macro"])
    for average in ("micro", "macro", "weighted"):
        rows[average]["support"] = n
    return rows


@wrong("report", "F1 as the plain mean of precision and recall")
def report_plain_mean(truth: Any, answers: Any) -> Any:
    return a_report(truth, answers, fault="plain mean")


@wrong("report", "precision and recall exchanged: the confusion matrix read along the wrong axis")
def report_swapped(truth: Any, answers: Any) -> Any:
    return a_report(truth, answers, fault="swapped")


@wrong("report", "macro F1 from macro precision and macro recall (seen in public code)")
def report_macro_of_means(truth: Any, answers: Any) -> Any:
    return a_report(truth, answers, fault="macro f1 of means")


@wrong("report", "classes from the truth only: one that is called and never true has no row")
def report_true_classes(truth: Any, answers: Any) -> Any:
    return a_report(truth, answers, fault="true classes only")


@wrong("report", "0 / 0 is NaN for a class that nobody calls")
def report_nan(truth: Any, answers: Any) -> Any:
    return a_report(truth, answers, fault="nan")


@wrong("report", "0 / 0 counts as 1")
def report_one(truth: Any, answers: Any) -> Any:
    return a_report(truth, answers, fault="one where nothing")


@wrong("report", "the weighted average is the macro average")
def report_unweighted(truth: Any, answers: Any) -> Any:
    return a_report(truth, answers, fault="weighted is macro")


@wrong("report", "the micro average is the macro average")
def report_micro(truth: Any, answers: Any) -> Any:
    return a_report(truth, answers, fault="micro is macro")


@wrong("report", "lists of different lengths are cut to the shorter one")
def report_takes_all(truth: Any, answers: Any) -> Any:
    return a_report(truth, answers, fault="takes all")


@wrong("report", "rows are named by the class itself, not by str(class)")
def report_keys(truth: Any, answers: Any) -> Any:
    return a_report(truth, answers, name=lambda one: one if isinstance(one, str) else f"class {one}")


@wrong("report", "takes for granted that classes are 0, 1, 2, ...")
def report_from_zero(truth: Any, answers: Any) -> Any:
    return a_report(truth, answers, fault="counts from 0")


@right("report", "scikit-learn does it")
def report_library(truth: Any, answers: Any) -> Any:
    if len(truth) != len(answers) or not len(truth):
        raise ValueError("lengths")
    classes = sorted({*truth, *answers})
    each = precision_recall_fscore_support(truth, answers, labels=classes, zero_division=0)
    out = {
        str(c): {**{k: float(v[i]) for k, v in zip(COLUMNS, each, strict=False)}, "support": int(each[3][i])}
        for i, c in enumerate(classes)
    }
    for average in ("micro", "macro", "weighted"):
        found = precision_recall_fscore_support(
            truth, answers, labels=classes, average=average, zero_division=0
        )
        out[average] = {**dict(zip(COLUMNS, map(float, found[:3]), strict=True)), "support": len(truth)}
    return out


def an_interval(x: int, n: int, level: float, fault: str = "") -> tuple[float, float]:
    if (n < 1 or not 0 <= x <= n or not 0 < level < 1) and fault != "takes all":
        raise ValueError("counts")
    level = min(max(level, 0.01), 0.99) if fault == "takes all" else level
    n = max(n, 1)
    z = 1.96 if fault == "fixed level" else norm.ppf(level if fault == "one tail" else (1 + level) / 2)
    p = x / n
    if fault in ("wald", "wald cut"):
        half = z * math.sqrt(p * (1 - p) / n)
        return (p - half, p + half) if fault == "wald" else (max(0.0, p - half), min(1.0, p + half))
    if fault == "agresti":
        m = n + z * z
        q = (x + z * z / 2) / m
        half = z * math.sqrt(q * (1 - q) / m)
        return max(0.0, q - half), min(1.0, q + half)
    half = z * math.sqrt(
        max(p * (1 - p) / n, 0) + (z * z / (4 * n) if fault == "n once" else z * z / n / n / 4)
    )
    below = 1.0 if fault == "not divided" else 1 + z * z / n
    middle = p if fault == "around p" else p + z * z / (2 * n)
    return max(0.0, (middle - half) / below), min(1.0, (middle + half) / below)


@wrong("interval", "Wald's interval, which leaves [0, 1] and says 100% for sure")
def interval_wald(right: int, n: int, level: float = 0.95) -> Any:
    return an_interval(right, n, level, "wald")


@wrong("interval", "Wald's interval, cut to [0, 1]")
def interval_wald_cut(right: int, n: int, level: float = 0.95) -> Any:
    return an_interval(right, n, level, "wald cut")


@wrong("interval", "1.96 whatever the level")
def interval_fixed(right: int, n: int, level: float = 0.95) -> Any:
    return an_interval(right, n, level, "fixed level")


@wrong("interval", "the quantile at the level itself: one tail forgotten")
def interval_one_tail(right: int, n: int, level: float = 0.95) -> Any:
    return an_interval(right, n, level, "one tail")


@wrong("interval", "z^2 / 4n under the root in place of z^2 / 4n^2")
def interval_n_once(right: int, n: int, level: float = 0.95) -> Any:
    return an_interval(right, n, level, "n once")


@wrong("interval", "not divided by 1 + z^2 / n")
def interval_not_divided(right: int, n: int, level: float = 0.95) -> Any:
    return an_interval(right, n, level, "not divided")


@wrong("interval", "Agresti and Coull's interval, a cousin")
def interval_agresti(right: int, n: int, level: float = 0.95) -> Any:
    return an_interval(right, n, level, "agresti")


@wrong("interval", "the middle is not moved towards a half")
def interval_around_p(right: int, n: int, level: float = 0.95) -> Any:
    return an_interval(right, n, level, "around p")


@wrong("interval", "takes impossible counts")
def interval_takes_all(right: int, n: int, level: float = 0.95) -> Any:
    return an_interval(right, n, level, "takes all")


@wrong("interval", "the ends are strict: p at an end is not held", name="coverage")
def coverage_strict(rule: Any, n: int, p: float) -> float:
    return sum(binom.pmf(x, n, p) for x in range(n + 1) if rule(x, n)[0] < p < rule(x, n)[1])


@wrong("interval", "x from 0 to n - 1", name="coverage")
def coverage_short(rule: Any, n: int, p: float) -> float:
    return sum(binom.pmf(x, n, p) for x in range(n) if rule(x, n)[0] <= p <= rule(x, n)[1])


@wrong("interval", "a fixed 2,000 draws in place of the sum", name="coverage")
def coverage_drawn(rule: Any, n: int, p: float) -> float:
    drawn = Counter(np.random.default_rng(0).binomial(n, p, 2000).tolist())
    return sum(m for x, m in drawn.items() if rule(x, n)[0] <= p <= rule(x, n)[1]) / 2000


@wrong("interval", "binomial coefficients as floats overflow for two thousand texts", name="coverage")
def coverage_overflow(rule: Any, n: int, p: float) -> float:
    return sum(
        float(math.comb(n, x)) * p**x * (1 - p) ** (n - x)
        for x in range(n + 1)
        if rule(x, n)[0] <= p <= rule(x, n)[1]
    )


@right("interval", "SciPy's binomial probabilities", name="coverage")
def coverage_library(rule: Any, n: int, p: float) -> float:
    held = [low <= p <= high for low, high in (rule(x, n) for x in range(n + 1))]
    return float(binom.pmf(np.arange(n + 1), n, p)[held].sum())


@right("interval", "the roots of the quadratic equation")
def interval_roots(right: int, n: int, level: float = 0.95) -> Any:
    if n < 1 or right < 0 or right > n or level <= 0 or level >= 1:
        raise ValueError("counts")
    z2 = norm.ppf((1 + level) / 2) ** 2
    a, b, c = n + z2, -(2 * right + z2), right * right / n
    root = math.sqrt(max(b * b - 4 * a * c, 0.0))
    return [max(0.0, (-b - root) / (2 * a)), min(1.0, (-b + root) / (2 * a))]


def the_numbers(table: Table, fault: str = "") -> list[tuple[str, float, np.ndarray]]:
    n0, n1 = table["0"]["support"], table["1"]["support"]
    a, b = (x.astype(float) for x in np.mgrid[0 : n0 + 1, 0 : n1 + 1])
    if fault == "one size":
        n1 = n0
    with np.errstate(divide="ignore", invalid="ignore"):
        p0, p1 = a / (a + n1 - b), b / (b + n0 - a)
        if fault != "nan":
            p0, p1 = np.nan_to_num(p0), np.nan_to_num(p1)
        r0, r1 = a / n0, b / n1
        if fault == "swapped":
            p0, r0, p1, r1 = r0, p0, r1, p1
        f0, f1 = 2 * p0 * r0 / (p0 + r0), 2 * p1 * r1 / (p1 + r1)
        if fault != "nan":
            f0, f1 = np.nan_to_num(f0), np.nan_to_num(f1)
    values = {"precision": (p0, p1), "recall": (r0, r1), "f1": (f0, f1)}
    out = []
    for column, (zero, one) in values.items():
        every = {"0": zero, "1": one, "micro": (a + b) / (n0 + n1), "macro": (zero + one) / 2}
        every["weighted"] = every["macro"] if fault == "weighted" else (n0 * zero + n1 * one) / (n0 + n1)
        if fault == "macro" and column == "f1":
            p, r = (p0 + p1) / 2, (r0 + r1) / 2
            every["macro"] = np.nan_to_num(2 * p * r / np.maximum(p + r, 1e-12))
        if fault == "micro":
            every["micro"] = every["macro"]
        for row in ("0", "1") if fault == "classes only" else every:
            value = table.get(row, {}).get(column)
            if value is not None:
                out.append((f"{row} {column}", value, every[row]))
    return out


def the_matrices(table: Table, digits: int, fault: str = "") -> list[tuple[int, ...]]:
    n0, n1 = table["0"]["support"], table["1"]["support"]
    fits = np.ones((n0 + 1, n1 + 1), dtype=bool)
    for _, value, values in the_numbers(table, fault):
        if fault == "rounds":
            fits &= np.round(values, digits) == value
        elif fault == "wide":
            fits &= np.abs(values - value) <= 10.0**-digits + 1e-9
        elif fault == "three digits":
            fits &= np.abs(values - value) <= 0.000501
        else:
            fits &= np.abs(values - value) <= 0.5 * 10.0**-digits + 1e-9
    return [tuple(pair) for pair in np.argwhere(fits).tolist()]


@wrong("possible", "numbers are rounded and compared: a half goes one way only, and floats differ")
def possible_rounds(table: Table, digits: int = 3) -> Any:
    return the_matrices(table, digits, "rounds")


@wrong("possible", "a whole unit of the last digit is let pass")
def possible_wide(table: Table, digits: int = 3) -> Any:
    return the_matrices(table, digits, "wide")


@wrong("possible", "the chapter's three digits, whatever is asked")
def possible_three(table: Table, digits: int = 3) -> Any:
    return the_matrices(table, digits, "three digits")


@wrong("possible", "both classes are taken to have the support of class 0")
def possible_one_size(table: Table, digits: int = 3) -> Any:
    return the_matrices(table, digits, "one size")


@wrong("possible", "0 / 0 is NaN and fits nothing")
def possible_nan(table: Table, digits: int = 3) -> Any:
    return the_matrices(table, digits, "nan")


@wrong("possible", "precision and recall exchanged")
def possible_swapped(table: Table, digits: int = 3) -> Any:
    return the_matrices(table, digits, "swapped")


@wrong("possible", "macro F1 from macro precision and macro recall")
def possible_macro(table: Table, digits: int = 3) -> Any:
    return the_matrices(table, digits, "macro")


@wrong("possible", "the weighted average is the macro average")
def possible_weighted(table: Table, digits: int = 3) -> Any:
    return the_matrices(table, digits, "weighted")


@wrong("possible", "the micro average is the macro average")
def possible_micro(table: Table, digits: int = 3) -> Any:
    return the_matrices(table, digits, "micro")


@wrong("possible", "averages are left out")
def possible_classes_only(table: Table, digits: int = 3) -> Any:
    return the_matrices(table, digits, "classes only")


@wrong("possible", "stops at the first matrix")
def possible_first(table: Table, digits: int = 3) -> Any:
    return the_matrices(table, digits)[:1]


@wrong("possible", "in descending order")
def possible_descending(table: Table, digits: int = 3) -> Any:
    return the_matrices(table, digits)[::-1]


@right("possible", "row by row of the matrix, lists for pairs")
def possible_by_rows(table: Table, digits: int = 3) -> Any:
    given = the_numbers(table)
    out = []
    for a in range(int(table["0"]["support"]) + 1):
        fits = np.ones(int(table["1"]["support"]) + 1, dtype=bool)
        for _, value, values in given:
            fits &= np.abs(values[a] - value) <= 0.5 * 10.0**-digits + 1e-9
        out += [[a, b] for b in np.flatnonzero(fits).tolist()]
    return out


def the_excuses(table: Table, digits: int, fault: str = "", numbers: str = "") -> list[list[str]]:
    given = the_numbers(table, numbers)
    bits: Any = np.zeros([table[row]["support"] + 1 for row in "01"], dtype=np.int64)
    within = (1.0 if fault == "wide" else 0.5) * 10.0**-digits + 1e-9
    for i, (_, value, values) in enumerate(given):
        bits |= (~(np.abs(values - value) <= within)).astype(np.int64) << i
    found = [
        [given[i][0] for i in range(len(given)) if one >> i & 1]
        for one in np.flatnonzero(np.bincount(bits.ravel())).tolist()
    ]
    if fault == "largest":
        found = [[name for name, *_ in given if name not in one] for one in found]
        most = max(map(len, found))
        return sorted(sorted(one) for one in found if len(one) == most)
    fewest = min(map(len, found))
    smallest = sorted(sorted(one) for one in found if len(one) == fewest)
    if fault == "none for none":
        return [one for one in smallest if one]
    return smallest


@wrong("misprints", "only the first excuse")
def misprints_first(table: Table, digits: int = 3) -> Any:
    return the_excuses(table, digits)[:1]


@wrong("misprints", "an empty list, not one empty excuse, for a true table")
def misprints_none(table: Table, digits: int = 3) -> Any:
    return the_excuses(table, digits, "none for none")


@wrong("misprints", "names what fits in place of what does not")
def misprints_largest(table: Table, digits: int = 3) -> Any:
    return the_excuses(table, digits, "largest")


@wrong("misprints", "a whole unit of the last digit is let pass")
def misprints_wide(table: Table, digits: int = 3) -> Any:
    return the_excuses(table, digits, "wide")


@wrong("misprints", "macro F1 from macro precision and macro recall")
def misprints_macro(table: Table, digits: int = 3) -> Any:
    return the_excuses(table, digits, numbers="macro")


@wrong("misprints", "the weighted average is the macro average")
def misprints_weighted(table: Table, digits: int = 3) -> Any:
    return the_excuses(table, digits, numbers="weighted")


@wrong("misprints", "averages are left out")
def misprints_classes(table: Table, digits: int = 3) -> Any:
    return the_excuses(table, digits, numbers="classes only")


@wrong("misprints", "all excuses joined into one list")
def misprints_joined(table: Table, digits: int = 3) -> Any:
    return [sorted({name for excuse in the_excuses(table, digits) for name in excuse})]


@wrong("misprints", "single misprints only: where one is not enough, nothing is found")
def misprints_single(table: Table, digits: int = 3) -> Any:
    return [excuse for excuse in the_excuses(table, digits) if len(excuse) <= 1]


@wrong("misprints", "compares each number with the matrix of the recalls, as if these were true")
def misprints_of_recalls(table: Table, digits: int = 3) -> Any:
    n = [table[row]["support"] for row in "01"]
    at = tuple(round((table[row].get("recall") or 0.5) * m) for row, m in zip("01", n, strict=True))
    within = 0.5 * 10.0**-digits + 1e-9
    return [sorted(name for name, value, values in the_numbers(table) if abs(values[at] - value) > within)]


@right("misprints", "sets by their size, until one leaves a possible table")
def misprints_by_size(table: Table, digits: int = 3) -> Any:
    within = 0.5 * 10.0**-digits + 1e-9
    given = sorted((name, np.abs(values - value) > within) for name, value, values in the_numbers(table))
    shape = [table[row]["support"] + 1 for row in "01"]
    codes = sum((bad * 2**i for i, (_, bad) in enumerate(given)), np.zeros(shape, dtype=np.int64))
    seen = np.flatnonzero(np.bincount(codes.ravel())).tolist()
    sets = [frozenset(i for i in range(len(given)) if code // 2**i % 2) for code in seen]
    for size in range(len(given) + 1):
        found = [c for c in combinations(range(len(given)), size) if any(one <= set(c) for one in sets)]
        if found:
            return [[given[i][0] for i in c] for c in found]
    raise AssertionError("the set of all numbers is an excuse")


def shares(train: Sequence[Sequence[int]], labels: Sequence[int], size: int) -> tuple[Tensor, Tensor]:
    """For each class (2, size): texts that have a type; and (2,): texts."""
    have = torch.zeros(2, size, dtype=torch.float64)
    for text, label in zip(train, labels, strict=True):
        have[int(label), sorted(set(text))] += 1
    n = torch.tensor([float(sum(int(y) == c for y in labels)) for c in (0, 1)], dtype=torch.float64)
    return have, n


def once(scores: Tensor, ids: Tensor) -> Tensor:
    same = ids[:, :, None] == ids[:, None, :]
    return scores.double().masked_fill((same & torch.ones_like(same[0]).tril(-1)).any(-1), -1e9)


def largest(train: Sequence[Sequence[int]], ids: Tensor) -> int:
    return 1 + max(int(ids.max()), *(max(text) for text in train))


@wrong("own_rule", "the first k: what truncation does")
def rule_first(train: Any, labels: Any, ids: Tensor, mask: Tensor) -> Tensor:
    return once(-torch.arange(ids.shape[1]).expand(ids.shape).double(), ids)


@wrong("own_rule", "at random")
def rule_random(train: Any, labels: Any, ids: Tensor, mask: Tensor) -> Tensor:
    return once(torch.rand(ids.shape, generator=torch.Generator().manual_seed(0)), ids)


@wrong("own_rule", "TF-IDF: copies and names")
def rule_tfidf(train: Any, labels: Any, ids: Tensor, mask: Tensor) -> Tensor:
    have, n = shares(train, labels, largest(train, ids))
    tf = ((ids[:, :, None] == ids[:, None, :]) & (mask[:, None, :] > 0)).sum(-1)
    return tf * (n.sum() / (1 + have.sum(0))).log()[ids]


@wrong("own_rule", "rare types first: no copies, but names")
def rule_idf(train: Any, labels: Any, ids: Tensor, mask: Tensor) -> Tensor:
    have, n = shares(train, labels, largest(train, ids))
    return once((n.sum() / (1 + have.sum(0))).log()[ids], ids)


@wrong("own_rule", "common types first")
def rule_frequency(train: Any, labels: Any, ids: Tensor, mask: Tensor) -> Tensor:
    return once(shares(train, labels, largest(train, ids))[0].sum(0)[ids], ids)


@wrong("own_rule", "a good score, and every copy of a type is kept")
def rule_copies(train: Any, labels: Any, ids: Tensor, mask: Tensor) -> Tensor:
    have, n = shares(train, labels, largest(train, ids))
    return (have[1] / n[1] - have[0] / n[0]).abs()[ids]


@wrong("own_rule", "no absolute value: opinions of one side only")
def rule_one_side(train: Any, labels: Any, ids: Tensor, mask: Tensor) -> Tensor:
    have, n = shares(train, labels, largest(train, ids))
    return once((have[1] / n[1] - have[0] / n[0])[ids], ids)


@wrong("own_rule", "purity without smoothing: a name of one text is the purest type")
def rule_purity(train: Any, labels: Any, ids: Tensor, mask: Tensor) -> Tensor:
    have, _ = shares(train, labels, largest(train, ids))
    return once(((have[1] - have[0]).abs() / have.sum(0).clamp(min=1))[ids], ids)


@wrong("own_rule", "counts are compared, not shares: fails where a class is rare")
def rule_counts(train: Any, labels: Any, ids: Tensor, mask: Tensor) -> Tensor:
    have, _ = shares(train, labels, largest(train, ids))
    return once((have[1] - have[0]).abs()[ids], ids)


@wrong("own_rule", "scores are standardised over the batch, padding and all")
def rule_standardised(train: Any, labels: Any, ids: Tensor, mask: Tensor) -> Tensor:
    have, n = shares(train, labels, largest(train, ids))
    scores = once((have[1] / n[1] - have[0] / n[0]).abs()[ids], ids)
    return (scores - scores.mean()) / scores.std()


@wrong("own_rule", "the last copy counts padding as types: the table is as long as the training texts need")
def rule_small_table(train: Any, labels: Any, ids: Tensor, mask: Tensor) -> Tensor:
    have, n = shares(train, labels, 1 + max(max(text) for text in train))
    return once((have[1] / n[1] - have[0] / n[0]).abs()[ids], ids)


@right("own_rule", "smoothed log odds, a loop for the copies")
def rule_log_odds(train: Any, labels: Any, ids: Tensor, mask: Tensor) -> Tensor:
    have, n = shares(train, labels, largest(train, ids))
    share = (have + 5 * n[:, None] / n.sum()) / (n[:, None] + 10)
    weight = (share[1] / (1 - share[1])).log() - (share[0] / (1 - share[0])).log()
    scores = weight.abs()[ids]
    for row in range(len(ids)):
        seen: set[int] = set()
        for i, one in enumerate(ids[row].tolist()):
            if one in seen:
                scores[row, i] = -math.inf
            seen.add(one)
    return scores


@right("own_rule", "the difference of shares")
def rule_difference(train: Any, labels: Any, ids: Tensor, mask: Tensor) -> Tensor:
    have, n = shares(train, labels, largest(train, ids))
    return once((have[1] / n[1] - have[0] / n[0]).abs()[ids], ids).float()
