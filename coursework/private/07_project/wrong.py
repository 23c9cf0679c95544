"""Known answers to *Project*: wrong ones, and right ones in another style."""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, variance
from typing import Any

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.stats import norm
from scipy.stats import t as student

from topk_lib.grading import right, wrong

SHARES = (0.7, 0.1, 0.2)


def bare(text: str) -> str:
    return "".join(c for c in text.lower() if c.isalnum())


def bundles(texts: Sequence[str], groups: Sequence[str | None], fault: str = "") -> list[list[int]]:
    label = list(range(len(texts)))
    kinds: list[list[Any]] = [
        [
            text if fault == "exact" else text.lower() if fault == "case only" else bare(text)
            for text in texts
        ],
        list(groups),
    ]
    if fault == "groups only":
        kinds = kinds[1:]
    if fault == "copies only":
        kinds = kinds[:1]
    for _ in range(1 if fault == "no chains" else len(texts)):
        before = list(label)
        for keys in kinds:
            least: dict[Any, int] = {}
            for key, here in zip(keys, label, strict=True):
                if key is not None or fault == "none is a group":
                    least[key] = min(least.get(key, here), here)
            if fault == "no chains":
                label = [least.get(key, here) for key, here in zip(keys, label, strict=True)]
                continue
            move: dict[int, int] = {}
            for key, old in zip(keys, label, strict=True):
                move[old] = min(move.get(old, old), least.get(key, old))
            label = [move[here] for here in label]
        if label == before:
            break
    found = defaultdict(list)
    for i, here in enumerate(label):
        found[here].append(i)
    return list(found.values())


def a_split(
    texts: Sequence[str], groups: Sequence[str | None], seed: int, shares: Sequence[float], fault: str = ""
) -> list[str]:
    bad = len(groups) != len(texts) or len(shares) != 3 or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6
    if bad and fault != "takes all":
        raise ValueError("lengths or shares")
    shares = [*shares, 0.0][:3]
    found = bundles(texts, [*groups, *[None] * len(texts)][: len(texts)], fault)
    if fault != "in their order":
        found.sort(key=lambda one: min(bare(texts[i]) for i in one))
    dice = random.Random(0 if fault == "one seed" else None if fault == "no seed" else seed)
    dice.shuffle(found)
    parts, sizes = ["train"] * len(texts), Counter[str]()
    wanted = {"test": shares[2] * len(texts), "dev": shares[1] * len(texts)}
    if fault == "counts bundles":
        wanted = {"test": shares[2] * len(found), "dev": shares[1] * len(found)}
    if fault == "dev for test":
        wanted = {"test": wanted["dev"], "dev": wanted["test"]}
    for one in found:
        part = next((p for p in wanted if sizes[p] + 0.5 <= wanted[p]), "train")
        sizes[part] += 1 if fault == "counts bundles" else len(one)
        for i in one:
            parts[i] = part
    return parts


@wrong("split", "text by text: groups and copies are torn apart")
def split_by_text(texts: Any, groups: Any, seed: Any, shares: Any = SHARES) -> Any:
    if len(texts) != len(groups):
        raise ValueError("lengths")
    order = np.random.default_rng(seed).permutation(len(texts))
    a, b = round(shares[2] * len(texts)), round((shares[1] + shares[2]) * len(texts))
    part = {int(i): "test" if at < a else "dev" if at < b else "train" for at, i in enumerate(order)}
    return [part[i] for i in range(len(texts))]


@wrong("split", "groups are kept together, copies are not")
def split_groups_only(texts: Any, groups: Any, seed: Any, shares: Any = SHARES) -> Any:
    return a_split(texts, groups, seed, shares, "groups only")


@wrong("split", "copies are kept together, groups are not")
def split_copies_only(texts: Any, groups: Any, seed: Any, shares: Any = SHARES) -> Any:
    return a_split(texts, groups, seed, shares, "copies only")


@wrong("split", "copies are compared character by character")
def split_exact(texts: Any, groups: Any, seed: Any, shares: Any = SHARES) -> Any:
    return a_split(texts, groups, seed, shares, "exact")


@wrong("split", "copies are compared without case, but with blanks and signs")
def split_case_only(texts: Any, groups: Any, seed: Any, shares: Any = SHARES) -> Any:
    return a_split(texts, groups, seed, shares, "case only")


@wrong("split", "chains of groups and copies are cut after one step")
def split_no_chains(texts: Any, groups: Any, seed: Any, shares: Any = SHARES) -> Any:
    return a_split(texts, groups, seed, shares, "no chains")


@wrong("split", "all texts without a group are one bundle")
def split_none_is_a_group(texts: Any, groups: Any, seed: Any, shares: Any = SHARES) -> Any:
    return a_split(texts, groups, seed, shares, "none is a group")


@wrong("split", "the shares are of bundles, not of texts")
def split_counts_bundles(texts: Any, groups: Any, seed: Any, shares: Any = SHARES) -> Any:
    return a_split(texts, groups, seed, shares, "counts bundles")


@wrong("split", "dev and test are exchanged")
def split_dev_for_test(texts: Any, groups: Any, seed: Any, shares: Any = SHARES) -> Any:
    return a_split(texts, groups, seed, shares, "dev for test")


@wrong("split", "the order of the texts decides")
def split_in_their_order(texts: Any, groups: Any, seed: Any, shares: Any = SHARES) -> Any:
    return a_split(texts, groups, seed, shares, "in their order")


@wrong("split", "the seed is not used")
def split_one_seed(texts: Any, groups: Any, seed: Any, shares: Any = SHARES) -> Any:
    return a_split(texts, groups, seed, shares, "one seed")


@wrong("split", "drawn anew at every call")
def split_no_seed(texts: Any, groups: Any, seed: Any, shares: Any = SHARES) -> Any:
    return a_split(texts, groups, seed, shares, "no seed")


@wrong("split", "takes impossible shares and lengths")
def split_takes_all(texts: Any, groups: Any, seed: Any, shares: Any = SHARES) -> Any:
    return a_split(texts, groups, seed, shares, "takes all")


@wrong("split", "groups in the order of their hashed names: other names, other parts")
def split_by_name(texts: Any, groups: Any, seed: Any, shares: Any = SHARES) -> Any:
    if len(texts) != len(groups) or len(shares) != 3 or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        raise ValueError("lengths or shares")
    found = bundles(texts, groups)
    found.sort(
        key=lambda one: hashlib.md5(
            f"{seed} {min(str(groups[i] or bare(texts[i])) for i in one)}".encode()
        ).hexdigest()
    )
    parts, test, dev = ["train"] * len(texts), 0, 0
    for one in found:
        if test + 0.5 <= shares[2] * len(texts):
            part, test = "test", test + len(one)
        elif dev + 0.5 <= shares[1] * len(texts):
            part, dev = "dev", dev + len(one)
        else:
            break
        for i in one:
            parts[i] = part
    return parts


@right("split", "connected components of a graph, order by a hash of seed and text")
def split_by_graph(texts: Any, groups: Any, seed: Any, shares: Any = SHARES) -> Any:
    n = len(texts)
    if len(groups) != n or len(shares) != 3 or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        raise ValueError("lengths or shares")
    if not n:
        return []
    first: dict[Any, int] = {}
    edges = [(i, first.setdefault(("t", bare(text)), i)) for i, text in enumerate(texts)]
    edges += [(i, first.setdefault(("g", g), i)) for i, g in enumerate(groups) if g is not None]
    rows, columns = np.array(edges).T
    _, label = connected_components(coo_matrix((np.ones(len(edges)), (rows, columns)), shape=(n, n)))
    members = defaultdict(list)
    for i, one in enumerate(label.tolist()):
        members[one].append(i)
    names = {one: min(bare(texts[i]) for i in rows) for one, rows in members.items()}
    order = sorted(members, key=lambda one: hashlib.sha256(f"{seed}/{names[one]}".encode()).digest())
    parts, sizes = ["train"] * n, {"dev": 0, "test": 0}
    for one in order:
        for part, share in (("dev", shares[1]), ("test", shares[2])):
            if sizes[part] < share * n - 1e-6:
                sizes[part] += len(members[one])
                for i in members[one]:
                    parts[i] = part
                break
    return parts


def runs_of(text: str, fault: str = "") -> Any:
    words = re.findall(r"\w+", text if fault == "case" else text.lower())
    if fault == "blanks":
        words = text.lower().split()
    if fault == "words":
        return set(words)
    width = 2 if fault == "pairs" else 3
    runs = [tuple(words[i : i + width]) for i in range(len(words) - width + 1)]
    if not runs and words and fault != "short lost":
        runs = [tuple(words)]
    if not runs and fault == "empty alike":
        runs = [()]
    return Counter(runs) if fault == "bag" else set(runs)


def pairs_of(first: Sequence[str], second: Sequence[str], at: float, fault: str = "") -> Any:
    if not 0 < at <= 1 and fault != "takes all":
        raise ValueError("at")
    ours, theirs = [runs_of(t, fault) for t in first], [runs_of(t, fault) for t in second]
    size = len if fault != "bag" else (lambda bag: bag.total())
    places = defaultdict(list)
    for j, runs in enumerate(theirs):
        for run in runs:
            places[run].append(j)
    found = []
    for i, runs in enumerate(ours):
        for j in sorted({j for run in runs for j in places[run]}):
            both = size(runs & theirs[j])
            below = size(runs) + size(theirs[j]) - both
            if fault == "smaller":
                below = min(size(runs), size(theirs[j]))
            if fault == "mean":
                below = (size(runs) + size(theirs[j])) / 2
            if both / below > at + 1e-9 or (fault != "strict" and both / below >= at - 1e-9):
                found.append((i, j))
    return found


@wrong("duplicates", "the bound itself is not enough")
def duplicates_strict(first: Any, second: Any, at: float = 0.8) -> Any:
    return pairs_of(first, second, at, "strict")


@wrong("duplicates", "divided by the smaller text: a piece of a text is a copy")
def duplicates_smaller(first: Any, second: Any, at: float = 0.8) -> Any:
    return pairs_of(first, second, at, "smaller")


@wrong("duplicates", "Dice's coefficient in place of Jaccard's")
def duplicates_mean(first: Any, second: Any, at: float = 0.8) -> Any:
    return pairs_of(first, second, at, "mean")


@wrong("duplicates", "single words: their order does not matter")
def duplicates_words(first: Any, second: Any, at: float = 0.8) -> Any:
    return pairs_of(first, second, at, "words")


@wrong("duplicates", "pairs of words in place of threes")
def duplicates_twos(first: Any, second: Any, at: float = 0.8) -> Any:
    return pairs_of(first, second, at, "pairs")


@wrong("duplicates", "texts of one or two words have no run")
def duplicates_short(first: Any, second: Any, at: float = 0.8) -> Any:
    return pairs_of(first, second, at, "short lost")


@wrong("duplicates", "texts without words are alike")
def duplicates_empty(first: Any, second: Any, at: float = 0.8) -> Any:
    return pairs_of(first, second, at, "empty alike")


@wrong("duplicates", "runs that occur several times count several times")
def duplicates_bag(first: Any, second: Any, at: float = 0.8) -> Any:
    return pairs_of(first, second, at, "bag")


@wrong("duplicates", "case matters")
def duplicates_case(first: Any, second: Any, at: float = 0.8) -> Any:
    return pairs_of(first, second, at, "case")


@wrong("duplicates", "words are cut at blanks, signs stick to them")
def duplicates_blanks(first: Any, second: Any, at: float = 0.8) -> Any:
    return pairs_of(first, second, at, "blanks")


@wrong("duplicates", "only the first partner of each text")
def duplicates_one_each(first: Any, second: Any, at: float = 0.8) -> Any:
    return sorted(dict(reversed(pairs_of(first, second, at))).items())


@wrong("duplicates", "takes any bound")
def duplicates_takes_all(first: Any, second: Any, at: float = 0.8) -> Any:
    return pairs_of(first, second, max(at, 1e-9), "takes all")


@right("duplicates", "the rarest run first: enough of them must be shared")
def duplicates_by_prefix(first: Any, second: Any, at: float = 0.8) -> Any:
    if at <= 0 or at > 1:
        raise ValueError("at")
    ours, theirs = [runs_of(t) for t in first], [runs_of(t) for t in second]
    often = Counter(run for runs in [*ours, *theirs] for run in runs)

    def prefix(runs: Any) -> Any:
        ordered = sorted(runs, key=lambda run: (often[run], run))
        return ordered[: len(runs) - math.ceil(at * len(runs) - 1e-6) + 1]

    places = defaultdict(set)
    for j, runs in enumerate(theirs):
        for run in prefix(runs):
            places[run].add(j)
    near = sorted({(i, j) for i, runs in enumerate(ours) for run in prefix(runs) for j in places[run]})
    return [[i, j] for i, j in near if len(ours[i] & theirs[j]) >= (at - 1e-9) * len(ours[i] | theirs[j])]


def compared(first: Any, second: Any, level: float, fault: str = "") -> dict[str, float]:
    a, b = np.array(first, dtype=float), np.array(second, dtype=float)
    if fault != "takes all":
        if a.ndim != 2 or a.shape != b.shape or min(a.shape) < 2 or not 0 < level < 1:
            raise ValueError("shapes or level")
        if not set(np.unique([a, b]).tolist()) <= {0.0, 1.0}:
            raise ValueError("values")
    elif a.ndim != 2 or a.shape != b.shape:
        raise ValueError("shapes")
    g = a - b
    s, n = g.shape
    ddof = 0 if fault == "divided by n" or min(s, n) < 2 else 1
    A, B = g.mean(1).var(ddof=ddof) / s, g.mean(0).var(ddof=ddof) / n
    if fault == "unpaired":
        A = (a.mean(1).var(ddof=1) + b.mean(1).var(ddof=1)) / s
        B = (a.mean(0).var(ddof=1) + b.mean(0).var(ddof=1)) / n
    if fault == "seeds only":
        B = 0.0
    if fault == "texts only":
        A = 0.0
    if fault == "all alike":
        A, B = 0.0, g.var(ddof=1) / g.size
    if fault == "not divided":
        A = A * s
    lead = float(g.mean())
    if A + B < 1e-15:
        if fault == "nan":
            return {"lead": lead, "error": 0.0, "freedom": math.nan, "low": math.nan, "high": math.nan}
        return {"lead": lead, "error": 0.0, "freedom": math.inf, "low": lead, "high": lead}
    freedom = (A + B) ** 2 / (A**2 / max(s - 1, 1) + B**2 / max(n - 1, 1))
    if fault == "plain freedom":
        freedom = s - 1.0
    point = level if fault == "one tail" else (1 + level) / 2 if 0 < level < 1 else 0.975
    factor = norm.ppf(point) if fault == "normal" else student.ppf(point, freedom)
    error = float(A**0.5 + B**0.5) if fault == "errors added" else float(A + B) ** 0.5
    half = float(factor) * error
    return {"lead": lead, "error": error, "freedom": float(freedom), "low": lead - half, "high": lead + half}


@wrong("compare", "the luck of the seeds only")
def compare_seeds(first: Any, second: Any, level: float = 0.95) -> Any:
    return compared(first, second, level, "seeds only")


@wrong("compare", "the luck of the texts only")
def compare_texts(first: Any, second: Any, level: float = 0.95) -> Any:
    return compared(first, second, level, "texts only")


@wrong("compare", "seeds times texts are taken for so many independent answers")
def compare_all(first: Any, second: Any, level: float = 0.95) -> Any:
    return compared(first, second, level, "all alike")


@wrong("compare", "as if the models had been tested on different texts")
def compare_unpaired(first: Any, second: Any, level: float = 0.95) -> Any:
    return compared(first, second, level, "unpaired")


@wrong("compare", "variances divided by the number, not by one less")
def compare_n(first: Any, second: Any, level: float = 0.95) -> Any:
    return compared(first, second, level, "divided by n")


@wrong("compare", "the normal quantile in place of Student's")
def compare_normal(first: Any, second: Any, level: float = 0.95) -> Any:
    return compared(first, second, level, "normal")


@wrong("compare", "one tail: the quantile at the level")
def compare_one_tail(first: Any, second: Any, level: float = 0.95) -> Any:
    return compared(first, second, level, "one tail")


@wrong("compare", "the degrees of freedom of the seeds alone")
def compare_freedom(first: Any, second: Any, level: float = 0.95) -> Any:
    return compared(first, second, level, "plain freedom")


@wrong("compare", "standard errors are added, not variances")
def compare_added(first: Any, second: Any, level: float = 0.95) -> Any:
    return compared(first, second, level, "errors added")


@wrong("compare", "0 / 0 where nothing varies")
def compare_nan(first: Any, second: Any, level: float = 0.95) -> Any:
    return compared(first, second, level, "nan")


@wrong("compare", "takes one seed, and any values")
def compare_takes_all(first: Any, second: Any, level: float = 0.95) -> Any:
    return compared(first, second, level, "takes all")


@wrong("compare", "the second less the first")
def compare_turned(first: Any, second: Any, level: float = 0.95) -> Any:
    return compared(second, first, level)


@right("compare", "the standard library's variance")
def compare_plain(first: Any, second: Any, level: float = 0.95) -> Any:
    a, b = ([[float(x) for x in row] for row in np.atleast_2d(one).tolist()] for one in (first, second))
    rows, columns = len(a), len(a[0])
    if rows < 2 or columns < 2 or len(b) != rows or {len(row) for row in a + b} != {columns}:
        raise ValueError("two arrays (seeds, texts), two or more of each")
    if {x for row in a + b for x in row} - {0.0, 1.0} or level >= 1 or level <= 0:
        raise ValueError("answers are 0 or 1, the level between 0 and 1")
    gaps = [[x - y for x, y in zip(p, q, strict=True)] for p, q in zip(a, b, strict=True)]
    lead = mean(x for row in gaps for x in row)
    A = variance([mean(row) for row in gaps]) / rows
    B = variance([mean(column) for column in zip(*gaps, strict=True)]) / columns
    if A + B < 1e-14:
        return {"lead": lead, "error": 0.0, "freedom": math.inf, "low": lead, "high": lead}
    freedom = (A + B) ** 2 / (A * A / (rows - 1) + B * B / (columns - 1))
    low, high = student.interval(level, freedom, lead, math.sqrt(A + B))
    return {"lead": lead, "error": math.sqrt(A + B), "freedom": freedom, "low": low, "high": high}


def rows_of(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(name).read_bytes().decode().split("\n") if line.strip()]


def mark(rows: list[dict[str, Any]], fault: str = "") -> str:
    lines = [f"{row['label']}\t{row['text']}\0" for row in rows]
    if fault == "sorted":
        lines.sort()
    if fault == "text only":
        lines = [f"{row['text']}\0" for row in rows]
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]


def a_record(arguments: list[str], fault: str = "") -> None:
    train, test, runs = (rows_of(name) for name in arguments[:3])
    if fault == "early":
        Path(arguments[3]).write_text("{}", encoding="utf-8")
    seeds = [run["seed"] for run in runs]
    bad = not (train and test and seeds) or len(set(seeds)) < len(seeds)
    bad = bad or any(len(run["answers"]) != len(test) for run in runs)
    if (bad and fault != "takes all") or (os.path.exists(arguments[3]) and fault not in ("over", "early")):
        raise ValueError("answers, seeds or an older record")
    truth = [row["label"] for row in test]
    miss = [[int(x != y) for x, y in zip(run["answers"], truth, strict=False)] for run in runs]
    each = [1 - sum(row) / max(len(row), 1) for row in miss]
    seen = {row["text"] if fault == "exact" else bare(row["text"]) for row in train}
    shared = [row["text"] for row in test if (row["text"] if fault == "exact" else bare(row["text"])) in seen]
    counts = Counter(truth or [0])
    deviation: Any = float(np.std(each, ddof=0 if fault == "population" else 1)) if len(each) > 1 else None
    if len(each) == 1 and fault in ("zero", "nan"):
        deviation = 0.0 if fault == "zero" else math.nan
    bits = {
        str(run["seed"]): np.packbits(
            [1 - x for x in row] if fault == "right bits" else row,
            bitorder="little" if fault == "little" else "big",
        ).tobytes().hex()
        for run, row in zip(runs, miss, strict=True)
    }  # fmt: skip
    record = {
        "metrics": {
            "accuracy": max(each) if fault == "best" else float(np.mean(each)),
            "by_seed": dict(zip(map(str, seeds), each, strict=True)),
            "deviation": deviation,
            "commonest": (min if fault == "rarest" else max)(counts.values()) / max(len(truth), 1),
            "wrong": bits,
        },
        "settings": {"seeds": sorted(seeds) if fault == "sorted seeds" else seeds},
        "data": {
            "n_train": len(train),
            "n_eval": len(test),
            "train_fingerprint": mark(train, fault),
            "eval_fingerprint": mark(test, fault),
            "shared": len(set(map(bare, shared))) if fault == "once" else len(shared),
        },
        "command": " ".join(["record", *map(os.path.abspath if fault == "absolute" else str, arguments)]),
    }
    Path(arguments[3]).write_text(json.dumps(record), encoding="utf-8")


@wrong("record", "the best seed is reported")
def record_best(arguments: Any) -> None:
    a_record(arguments, "best")


@wrong("record", "the deviation of a population, not of a sample")
def record_population(arguments: Any) -> None:
    a_record(arguments, "population")


@wrong("record", "one seed has a deviation of 0")
def record_zero(arguments: Any) -> None:
    a_record(arguments, "zero")


@wrong("record", "NaN in the record")
def record_nan(arguments: Any) -> None:
    a_record(arguments, "nan")


@wrong("record", "bits of the right answers")
def record_right_bits(arguments: Any) -> None:
    a_record(arguments, "right bits")


@wrong("record", "bits in the other order")
def record_little(arguments: Any) -> None:
    a_record(arguments, "little")


@wrong("record", "a fingerprint that does not see the order")
def record_sorted(arguments: Any) -> None:
    a_record(arguments, "sorted")


@wrong("record", "a fingerprint that does not see the labels")
def record_text_only(arguments: Any) -> None:
    a_record(arguments, "text only")


@wrong("record", "shared texts are compared character by character")
def record_exact(arguments: Any) -> None:
    a_record(arguments, "exact")


@wrong("record", "a shared text that stands twice in the test part counts once")
def record_once(arguments: Any) -> None:
    a_record(arguments, "once")


@wrong("record", "an older record is written over")
def record_over(arguments: Any) -> None:
    a_record(arguments, "over")


@wrong("record", "the file is made before the input is checked, and is left behind")
def record_early(arguments: Any) -> None:
    a_record(arguments, "early")


@wrong("record", "missing answers are passed over")
def record_takes_all(arguments: Any) -> None:
    a_record(arguments, "takes all")


@wrong("record", "paths of this machine in the command")
def record_absolute(arguments: Any) -> None:
    a_record(arguments, "absolute")


@wrong("record", "the rate of the rarest label")
def record_rarest(arguments: Any) -> None:
    a_record(arguments, "rarest")


@wrong("record", "seeds are sorted")
def record_sorted_seeds(arguments: Any) -> None:
    a_record(arguments, "sorted seeds")


@right("record", "plain Python, written to a file aside and moved")
def record_aside(arguments: Any) -> None:
    a_record([*arguments[:3], arguments[3]])
    path = Path(arguments[3])
    record = json.loads(path.read_text(encoding="utf-8"))
    aside = path.with_suffix(".aside")
    aside.write_text(json.dumps(record, ensure_ascii=False, sort_keys=True, indent=4), encoding="utf-8")
    os.replace(aside, path)
