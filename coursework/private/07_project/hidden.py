"""Hidden checks of *Project*."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import t as student

from topk_lib.grading import Answer, Draw, Wrong, expect, hidden

WORDS = [
    "tram",
    "baker",
    "winter",
    "the",
    "a",
    "slow",
    "bright",
    "of",
    "door",
    "river",
    "never",
    "song",
    "and",
]
PARTS = ("train", "dev", "test")


def sentence(rng: np.random.Generator, n: int) -> str:
    return " ".join(WORDS[int(i)] for i in rng.integers(len(WORDS), size=n))


def a_corpus(draw: Draw, n: int, films: int) -> tuple[list[str], list[str | None]]:
    """Different texts, most of them of some film."""
    texts = [f"{sentence(draw.rng, 6)} {i}" for i in range(n)]
    groups = [f"film {draw.integer(0, films)}" if draw.rng.random() < 0.8 else None for _ in range(n)]
    return texts, groups


def parts_of(answer: Answer, texts: Sequence[str], groups: Sequence[str | None], *rest: Any) -> list[str]:
    got = list(answer(list(texts), list(groups), *rest))
    expect(len(got) == len(texts), f"{len(texts)} texts get {len(texts)} parts, yours {len(got)}")
    expect(set(got) <= set(PARTS), f"the parts are called train, dev and test, yours {sorted(set(got))[:4]}")
    return [str(part) for part in got]


@hidden("split", points=5, about="groups")
def groups_stay_together(answer: Answer, draw: Draw) -> None:
    """No group is torn apart, and texts without a group are not taken for one group."""
    for seed in range(4):
        texts, groups = a_corpus(draw, 120, 20)
        parts = parts_of(answer, texts, groups, seed)
        for film in {group for group in groups if group is not None}:
            found = {part for part, group in zip(parts, groups, strict=True) if group == film}
            expect(len(found) == 1, f"120 texts, seed {seed}: the texts of {film!r} are in {sorted(found)}")
        alone = Counter(part for part, group in zip(parts, groups, strict=True) if group is None)
        expect(len(alone) > 1, f"120 texts, seed {seed}: all texts without a group are in {list(alone)}")


@hidden("split", points=5, about="copies")
def copies_and_chains_stay_together(answer: Answer, draw: Draw) -> None:
    """Copies are in one part whatever their case, blanks and signs, and so is whatever hangs together
    through them, in chains of any length."""
    for seed in range(6):
        texts, groups = a_corpus(draw, 90, 90)
        groups = [f"film {i // 2}" for i in range(90)]
        for film in range(0, 24, 2):  # a text of each film is a copy of one of the next but one
            texts[2 * film + 4] = (
                texts[2 * film + 1].upper().replace(" ", draw.choice(["  ", "-", ", ", "_"]))
            )
        order = draw.rng.permutation(90).tolist()
        parts = parts_of(answer, [texts[i] for i in order], [groups[i] for i in order], seed)
        chain = {part for i, part in zip(order, parts, strict=True) if i < 52 and i // 2 % 2 == 0}
        expect(
            len(chain) == 1,
            f"13 films, each with a copy of a text of the one before, are a bundle: yours in {sorted(chain)}",
        )
    texts = ["Ünder 5 Stars", "ünder5stars!", "5 stars", *(f"text {i}" for i in range(60))]
    for seed in range(6):
        parts = parts_of(answer, texts, [None] * 63, seed)
        expect(parts[0] == parts[1], f"{texts[0]!r} and {texts[1]!r} are copies, and are in {parts[:2]}")


@hidden("split", points=4, about="sizes")
def parts_have_their_sizes(answer: Answer, draw: Draw) -> None:
    """dev and test differ from their shares by no more texts than the largest bundle has."""
    for shares in ((0.7, 0.1, 0.2), (0.5, 0.25, 0.25), (0.8, 0.0, 0.2), (0.34, 0.33, 0.33)):
        texts, groups = a_corpus(draw, 200, 40)
        most = max(Counter(group for group in groups if group is not None).values())
        parts = parts_of(answer, texts, groups, draw.integer(0, 99), shares)
        for part, share in zip(PARTS[1:], shares[1:], strict=True):
            expect(
                abs(parts.count(part) - share * 200) <= most,
                f"200 texts, the largest bundle {most}, shares {shares}: {part} has {parts.count(part)}",
            )
    texts = [f"text {i}" for i in range(200)]
    groups = [f"film {i // 10}" if i < 100 else None for i in range(200)]
    for seed in range(8):  # half of the texts in few bundles
        parts = parts_of(answer, texts, groups, seed, (0.5, 0.25, 0.25))
        for part in PARTS[1:]:
            expect(
                abs(parts.count(part) - 50) <= 10,
                f"200 texts, 100 of them in bundles of 10, a quarter wanted: {part} has {parts.count(part)}",
            )
    parts = parts_of(answer, [f"text {i}" for i in range(100)], [None] * 100, 1)
    expect(abs(parts.count("dev") - 10) <= 1, f"100 bundles of one: dev has {parts.count('dev')} texts")


@hidden("split", points=4, about="order")
def the_order_does_not_matter(answer: Answer, draw: Draw) -> None:
    """Shuffled texts, with groups of other names, are in the same parts as before."""
    texts, groups = a_corpus(draw, 80, 20)
    texts[7], texts[8] = texts[3] + "!", texts[3].upper()
    before = parts_of(answer, texts, groups, 5)
    for _ in range(2):
        order = draw.rng.permutation(80).tolist()
        names = {group: f"g{i}" for i, group in enumerate(draw.rng.permutation(sorted(filter(None, groups))))}
        renamed = [None if groups[i] is None else names[groups[i]] for i in order]
        after = parts_of(answer, [texts[i] for i in order], renamed, 5)
        expect(
            after == [before[i] for i in order],
            "80 texts, shuffled along with their groups, and the groups renamed: some change their part",
        )


@hidden("split", points=4, about="seeds, bad input")
def seeds_decide_and_bad_input_is_refused(answer: Answer, draw: Draw) -> None:
    """The seed decides and nothing else; other lengths and impossible shares raise ValueError."""
    texts, groups = a_corpus(draw, 60, 60)
    found = [parts_of(answer, texts, groups, seed) for seed in range(5)]
    expect(
        found == [parts_of(answer.fresh(), texts, groups, seed) for seed in range(5)], "a seed, two results"
    )
    expect(len(set(map(tuple, found))) > 1, "five seeds give the same parts of 60 texts")
    expect(list(answer([], [], 0)) == [], "no texts have no parts: the result is an empty list")
    answer.raises(ValueError, texts, groups[:-1], 0)
    for shares in ((0.7, 0.2, 0.2), (1.2, -0.1, -0.1), (0.5, 0.5)):
        answer.raises(ValueError, texts, groups, 0, shares)


def threes(text: str) -> set[tuple[str, ...]]:
    words = "".join(c if c.isalnum() or c == "_" else " " for c in text.lower()).split()
    return {tuple(words[i : i + 3]) for i in range(max(1, len(words) - 2))} if words else set()


def alike(first: Sequence[str], second: Sequence[str], at: float) -> list[tuple[int, int]]:
    ours, theirs = [threes(t) for t in first], [threes(t) for t in second]
    return [
        (i, j)
        for i, a in enumerate(ours)
        for j, b in enumerate(theirs)
        if a and b and len(a & b) / len(a | b) >= at - 1e-9
    ]


def same_pairs(answer: Answer, first: list[str], second: list[str], *at: float) -> None:
    right = alike(first, second, *(at or (0.8,)))
    got = [(int(i), int(j)) for i, j in answer(first, second, *at)]
    shown = (
        f"duplicates({first}, {second}, {at[0] if at else 0.8})" if len(first) < 6 else "of these texts it"
    )
    expect(got == right, f"{shown} is {right[:6]}, yours {got[:6]}")


def changed(draw: Draw, text: str, times: int) -> str:
    words = text.split()
    for _ in range(times):
        words[draw.integer(0, len(words))] = draw.choice(["new", "other", "third"])
    return " ".join(words)


@hidden("duplicates", points=5, about="values")
def near_copies_are_found(answer: Answer, draw: Draw) -> None:
    """Texts with none, one or a few words changed, at several likenesses."""
    first = [sentence(draw.rng, draw.integer(5, 30)) for _ in range(40)]
    second = [changed(draw, draw.choice(first), i % 4) for i in range(40)]
    for at in ((), (0.5,), (0.3,), (1.0,)):
        same_pairs(answer, first, second, *at)


@hidden("duplicates", points=4, about="small texts")
def short_repeated_and_empty_texts(answer: Answer, draw: Draw) -> None:
    """Texts of no, one, two and three words; a run counts once; case and signs do not count."""
    word = draw.choice(WORDS)
    first = ["", f"{word}!", f"{word} bus", f"{word} bus stop"]
    same_pairs(answer, first, [f"{word} bus", word.upper(), "...", f"{word}, bus; STOP"], 0.5)
    same_pairs(answer, ["no no no no no yes"], ["no no no yes", "no no yes no"], 0.6)
    same_pairs(answer, ["a b c d e", "d e a b c"], ["a b c d e", "e d c b a"], 0.1)


@hidden("duplicates", points=4, about="the edge")
def likeness_at_the_edge_counts(answer: Answer, draw: Draw) -> None:
    """A likeness equal to the bound is enough; it divides by the union; other bounds raise ValueError."""
    n = draw.integer(3, 7)
    base = [f"w{i}" for i in range(n + 2)]  # n threes
    text, longer = " ".join(base), " ".join([*base, *(f"x{i}" for i in range(n))])
    same_pairs(answer, [text], [longer], 0.5)
    same_pairs(answer, [longer], [text], 0.51)
    shared = " ".join([*base[:-1], "z"])
    same_pairs(answer, [text], [shared], (n - 1) / (n + 1))
    for at in (0.0, -0.1, 1.1):
        answer.raises(ValueError, [text], [text], at)


@hidden("duplicates", points=3, about="many texts")
def thousands_of_texts_in_time(answer: Answer, draw: Draw) -> None:
    """Four thousand texts in each part, of which hardly any are alike."""
    dice = random.Random(draw.integer(0, 10**6))
    many = [" ".join(f"v{dice.randrange(3000)}" for _ in range(40)) for _ in range(8000)]
    first, second = many[:4000], many[4000:]
    planted = sorted((dice.randrange(4000), j) for j in dice.sample(range(4000), 5))
    for i, j in planted:
        second[j] = first[i] + " end"
    got = [(int(i), int(j)) for i, j in answer(first, second)]
    expect(got == planted, f"five texts were copied with a word at the end: {planted}, yours {got[:6]}")


def crossed(first: np.ndarray, second: np.ndarray, level: float = 0.95) -> dict[str, float]:
    gaps = first.astype(float) - second
    seeds, n = gaps.shape
    lead = float(gaps.mean())
    a = sum((row.mean() - lead) ** 2 for row in gaps) / (seeds - 1) / seeds
    b = sum((column.mean() - lead) ** 2 for column in gaps.T) / (n - 1) / n
    if a + b < 1e-15:
        return {"lead": lead, "error": 0.0, "freedom": float("inf"), "low": lead, "high": lead}
    freedom = (a + b) ** 2 / (a**2 / (seeds - 1) + b**2 / (n - 1))
    half = float(student.ppf((1 + level) / 2, freedom)) * (a + b) ** 0.5
    return {
        "lead": lead,
        "error": (a + b) ** 0.5,
        "freedom": freedom,
        "low": lead - half,
        "high": lead + half,
    }


def two_models(draw: Draw, seeds: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    hard = draw.rng.random(n)
    return tuple(
        (draw.rng.random((seeds, n)) + 0.3 * draw.rng.random((seeds, 1)) + better > hard).astype(int)
        for better in (0.1, 0.0)
    )  # type: ignore[return-value]


def same_numbers(answer: Answer, first: np.ndarray, second: np.ndarray, *level: float) -> dict[str, float]:
    right = crossed(first, second, *level)
    got = answer(first.tolist(), second.tolist(), *level)
    expect(isinstance(got, dict), f"compare returns a dict, yours a {type(got).__name__}")
    shown = f"{first.tolist()} and {second.tolist()}" if first.size < 40 else f"two models {first.shape}"
    for name, value in right.items():
        yours = float(got[name])
        near = yours == value or abs(yours - value) < 1e-6 * max(
            1.0, abs(value) if name == "freedom" else 1.0
        )
        expect(near, f"of {shown} {name} is {value:.6f}, yours {yours:.6f}")
    return {name: float(value) for name, value in got.items()}


@hidden("compare", points=5, about="values")
def the_interval_is_the_formulas(answer: Answer, draw: Draw) -> None:
    """All five numbers, for few and many seeds and texts."""
    for seeds, n in ((2, 9), (3, 60), (5, 200), (9, 4)):
        same_numbers(answer, *two_models(draw, seeds, n))


@hidden("compare", points=4, about="kinds")
def any_form_of_answers(answer: Answer, draw: Draw) -> None:
    """Lists, arrays and tensors of whole numbers or bools, and other levels."""
    import torch

    first, second = two_models(draw, 3, 30)
    right = crossed(first, second, 0.9)
    forms = [
        (torch.tensor(first), torch.tensor(second)),
        (torch.tensor(first).bool(), torch.tensor(second).bool()),
        (first.astype(bool), second.astype(bool)),
        (first.astype(bool).tolist(), second.tolist()),
    ]
    for a, b in forms:
        got = answer(a, b, level=0.9)
        for name in ("lead", "low", "high"):
            expect(
                abs(float(got[name]) - right[name]) < 1e-6, f"level 0.9, {type(a).__name__}: {name} differs"
            )
    same_numbers(answer, first, second, 0.5)


@hidden("compare", points=3, about="pairs")
def pairs_are_kept(answer: Answer, draw: Draw) -> None:
    """To exchange the models turns the interval around; to reorder seeds or texts of both changes nothing."""
    first, second = two_models(draw, 4, 40)
    there, back = same_numbers(answer, first, second), same_numbers(answer, second, first)
    expect(
        abs(there["low"] + back["high"]) < 1e-6 and abs(there["lead"] + back["lead"]) < 1e-6,
        "the interval of (second, first) is not that of (first, second) turned around",
    )
    seeds, texts = draw.rng.permutation(4), draw.rng.permutation(40)
    again = same_numbers(answer, first[seeds][:, texts], second[seeds][:, texts])
    expect(
        abs(again["high"] - there["high"]) < 1e-6, "seeds and texts of both reordered: the interval changes"
    )


@hidden("compare", points=4, about="no spread")
def where_nothing_varies(answer: Answer, draw: Draw) -> None:
    """Equal models, and models that differ everywhere: no error, both ends the lead, freedom infinite; one
    kind of luck alone is no reason to stop."""
    first, _ = two_models(draw, 3, 12)
    same_numbers(answer, first, first)
    ones = np.ones((3, 7), dtype=int)
    same_numbers(answer, ones, 0 * ones)
    columns = np.tile(draw.rng.permutation([0] * 5 + [1] * 6), (3, 1))  # all seeds alike
    same_numbers(answer, columns, 0 * columns)
    same_numbers(answer, columns.T, 0 * columns.T)  # all texts alike


@hidden("compare", points=3, about="bad input")
def answers_that_do_not_pair_are_refused(answer: Answer, draw: Draw) -> None:
    """Different shapes, one seed, one text, one dimension, other values and impossible levels raise
    ValueError."""
    first, second = (x.tolist() for x in two_models(draw, 3, 8))
    answer.raises(ValueError, first, second[:2])
    answer.raises(ValueError, first[:1], second[:1])
    answer.raises(ValueError, [[1], [0]], [[0], [1]])
    answer.raises(ValueError, first[0], second[0])
    answer.raises(ValueError, [[2, 0], [1, 1]], [[0, 0], [1, 1]])
    for level in (0.0, 1.0, 95):
        answer.raises(ValueError, first, second, level)


Rows = list[dict[str, Any]]


class Case:
    """Three files, laid before a program, and the record that belongs to them."""

    def __init__(self, draw: Draw, seeds: Sequence[int], n: int = 21, classes: int = 3) -> None:
        self.train: Rows = [self._row(draw, classes) for _ in range(30)]
        self.test: Rows = [self._row(draw, classes) for _ in range(n)]
        for i in range(3):
            self.test[i]["text"] = self.train[i]["text"].upper() + "!"
        self.test[3]["text"] = self.test[0]["text"]
        truth = [row["label"] for row in self.test]
        self.runs: Rows = [
            {
                "seed": s,
                "answers": [t if draw.rng.random() < 0.6 else draw.integer(0, classes) for t in truth],
            }
            for s in seeds
        ]
        self.names = [f"{name}{draw.integer(0, 100)}.json" for name in ("train", "test", "said", "out")]

    @staticmethod
    def _row(draw: Draw, classes: int) -> dict[str, Any]:
        sign = draw.choice(["é", "词", "ø", "…"])
        text = f"{sentence(draw.rng, 7)} {sign} {draw.integer(0, 10**9)}\n"
        return {"text": text, "label": draw.integer(0, classes)}

    def put(self, answer: Answer) -> dict[str, bytes]:
        for name, rows in zip(self.names, (self.train, self.test, self.runs), strict=False):
            ascii_only = name.startswith("train")
            lines = [json.dumps(row, ensure_ascii=ascii_only) for row in rows]
            answer.put(name, ("\n".join(lines) + "\n\n").encode())
        return answer.files()

    def record(self, answer: Answer) -> dict[str, Any]:
        answer = answer.fresh()  # a folder in which no other check has left a record
        before = self.put(answer)
        answer(self.names)
        after = answer.files()
        expect(self.names[3] in after, f"no file {self.names[3]} was written")
        expect(
            set(after) == {*before, self.names[3]} and all(after[name] == before[name] for name in before),
            f"the program writes {self.names[3]} and nothing else; the folder has {sorted(after)}",
        )
        return strict(after[self.names[3]])

    def accuracies(self) -> list[float]:
        truth = [row["label"] for row in self.test]
        return [float(np.mean(np.array(run["answers"]) == truth)) for run in self.runs]


def strict(data: bytes) -> dict[str, Any]:
    def refuse(name: str) -> None:
        raise Wrong(f"the record holds {name}, which JSON has not: write null")

    try:
        found = json.loads(data.decode("utf-8"), parse_constant=refuse)
    except ValueError as error:
        raise Wrong(f"the record is no JSON in UTF-8: {error}") from None
    expect(isinstance(found, dict), "the record is one JSON object")
    for key in ("metrics", "settings", "data", "command"):
        expect(key in found, f"the record has no {key!r}")
    return found  # type: ignore[no-any-return]


def near(got: Any, right: float) -> bool:
    return isinstance(got, (int, float)) and abs(got - right) < 1e-9


def of_part(rows: Rows) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(f"{row['label']}\t{row['text']}\0".encode())
    return digest.hexdigest()[:16]


@hidden("record", points=5, about="metrics")
def metrics_with_their_spread(answer: Answer, draw: Draw) -> None:
    """Accuracy, by seed, deviation and the rate of the commonest label."""
    case = Case(draw, [draw.integer(5, 99), 0, 4])
    found, each = case.record(answer)["metrics"], case.accuracies()
    expect(
        near(found["accuracy"], float(np.mean(each))), f"accuracy {np.mean(each)}, yours {found['accuracy']}"
    )
    right = {str(run["seed"]): value for run, value in zip(case.runs, each, strict=True)}
    expect(
        set(found["by_seed"]) == set(right) and all(near(found["by_seed"][s], v) for s, v in right.items()),
        f"by_seed is {right}, yours {found['by_seed']}",
    )
    spread = float(np.std(each, ddof=1))
    expect(
        near(found["deviation"], spread), f"of {each} the deviation is {spread}, yours {found['deviation']}"
    )
    labels = Counter(row["label"] for row in case.test)
    rate = max(labels.values()) / len(case.test)
    expect(near(found["commonest"], rate), f"of labels {dict(labels)} commonest is {rate}, yours {found}")


@hidden("record", points=4, about="data")
def data_are_named(answer: Answer, draw: Draw) -> None:
    """Sizes, fingerprints and shared texts; the command and the seeds."""
    case = Case(draw, [7, 2])
    record = case.record(answer)
    right = {"n_train": 30, "n_eval": 21, "train_fingerprint": of_part(case.train),
             "eval_fingerprint": of_part(case.test), "shared": 4}  # fmt: skip
    for key, value in right.items():
        expect(record["data"].get(key) == value, f"{key} is {value}, yours {record['data'].get(key)}")
    command = " ".join(["record", *case.names])
    expect(record["command"] == command, f"the command is {command!r}, yours {record['command']!r}")
    expect(record["settings"].get("seeds") == [7, 2], f"seeds are [7, 2], yours {record['settings']}")


@hidden("record", points=4, about="wrong answers")
def wrong_answers_can_be_read_back(answer: Answer, draw: Draw) -> None:
    """The bits of each seed say which test texts were answered wrong, the first text first."""
    case = Case(draw, [1, 0], n=draw.integer(17, 40))
    found = case.record(answer)["metrics"]["wrong"]
    truth = np.array([row["label"] for row in case.test])
    for run in case.runs:
        bits = np.packbits(np.array(run["answers"]) != truth).tobytes().hex()
        expect(found.get(str(run["seed"])) == bits, f"seed {run['seed']}: {bits}, yours {found}")


@hidden("record", points=3, about="one seed")
def one_seed_has_no_spread(answer: Answer, draw: Draw) -> None:
    """With one seed the deviation is null, and the record is JSON that every reader takes."""
    found = Case(draw, [draw.integer(0, 50)], n=9).record(answer)["metrics"]
    expect("deviation" in found and found["deviation"] is None, f"deviation is null, yours {found}")


@hidden("record", points=3, about="bad input")
def bad_files_leave_nothing(answer: Answer, draw: Draw) -> None:
    """Missing answers, a seed twice, no texts: ValueError, and no file is written; a record that is there
    stays as it is."""
    for fault in ("short", "long", "twice", "no seed", "no test", "no train", "there"):
        case, one = Case(draw, [3, 4], n=6), answer.fresh()
        if fault in ("short", "long"):
            said = case.runs[1]["answers"]
            case.runs[1]["answers"] = said[:-1] if fault == "short" else [*said, 0]
        elif fault == "twice":
            case.runs[1]["seed"] = 3
        elif fault == "there":
            one.put(case.names[3], b'{"an older": "record"}')
        else:
            setattr(case, {"no seed": "runs", "no test": "test", "no train": "train"}[fault], [])
        before = case.put(one)
        one.raises(ValueError, case.names)
        expect(one.files() == before, f"{fault}: an error was raised, and yet the folder has changed")
