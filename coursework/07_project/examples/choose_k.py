"""The program behind both example reports: a reader of k words, several rules, several seeds.

The reader is a logistic regression on which words are there; a seed draws four fifths of the training
texts. Every run prints a table and writes a record. Where ``--split random`` is named, the parts are
drawn text by text, films torn apart; neither report does so.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix
from scipy.stats import t as student
from sklearn.linear_model import LogisticRegression

import topk_lib

Texts = list[list[int]]
Row = dict[str, Any]
CORPORA = Path(topk_lib.__file__).parent / "data" / "corpus"


def read(name: str, split: str) -> dict[str, list[Row]]:
    lines = (CORPORA / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    if split == "random":
        parts = np.random.default_rng(0).choice(["train", "dev", "test"], len(rows), p=[0.6, 0.15, 0.25])
        rows = [{**row, "split": str(part)} for row, part in zip(rows, parts, strict=True)]
    return {part: [row for row in rows if row["split"] == part] for part in ("train", "dev", "test")}


def numbered(parts: dict[str, list[Row]]) -> tuple[dict[str, Texts], int]:
    words = {p: [re.findall(r"\w+|[^\w\s]", r["text"].lower()) for r in rows] for p, rows in parts.items()}
    known = {w: i for i, w in enumerate(sorted({w for text in words["train"] for w in text}))}
    size = len(known)  # also the number of every unknown word
    return {p: [[known.get(w, size) for w in text] for text in texts] for p, texts in words.items()}, size


def bags(texts: Texts, size: int) -> Any:
    pairs = [(row, w) for row, text in enumerate(texts) for w in sorted(set(text))]
    rows, columns = np.array(pairs).T
    return csr_matrix((np.ones(len(pairs)), (rows, columns)), shape=(len(texts), size + 1))


def weights(texts: Texts, labels: np.ndarray, size: int) -> np.ndarray:
    """For each word the largest difference between a class and the rest in the share of texts with it."""
    have = bags(texts, size).toarray()
    return np.max([abs(have[labels == c].mean(0) - have[labels != c].mean(0)) for c in set(labels)], axis=0)


def keep(text: list[int], k: int, score: Callable[[list[int]], Sequence[float]]) -> list[int]:
    """The k different words with the highest scores."""
    scores = score(text)
    order = sorted(range(len(text)), key=lambda i: (-scores[i], i))
    return list(dict.fromkeys(text[i] for i in order))[:k]


def run(parts: dict[str, list[Row]], part: str, rule: str, k: int, seed: int) -> np.ndarray:
    """Which texts of a part are answered right."""
    texts, size = numbered(parts)
    labels = {p: np.array([str(row["label"]) for row in rows]) for p, rows in parts.items()}
    rng = np.random.default_rng(seed)
    drawn = rng.permutation(len(texts["train"]))[: len(texts["train"]) * 4 // 5]
    train, y = [texts["train"][i] for i in drawn], labels["train"][drawn]
    weight = weights(train, y, size)
    score: dict[str, Callable[[list[int]], Sequence[float]]] = {
        "difference": lambda text: list(weight[text]),
        "first": lambda text: [-float(i) for i in range(len(text))],
        "random": lambda text: list(rng.random(len(text))),
    }
    read_of = {p: [keep(t, k, score[rule]) for t in ts] for p, ts in (("train", train), (part, texts[part]))}
    model = LogisticRegression(C=1.0, max_iter=1000).fit(bags(read_of["train"], size), y)
    return np.asarray(model.predict(bags(read_of[part], size)) == labels[part])


def compare(first: np.ndarray, second: np.ndarray) -> tuple[float, float, float]:
    """The lead of the first and its 95% interval; both (seeds, n), right or wrong."""
    gaps = first.astype(float) - second
    seeds, n = gaps.shape
    a, b = gaps.mean(1).var(ddof=1) / seeds, gaps.mean(0).var(ddof=1) / n
    lead, error = float(gaps.mean()), float(a + b) ** 0.5
    freedom = (a + b) ** 2 / (a**2 / (seeds - 1) + b**2 / (n - 1)) if error else 1.0
    half = float(student.ppf(0.975, freedom)) * error
    return lead, lead - half, lead + half


def fingerprint(rows: list[Row]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(f"{row['label']}\t{row['text']}\0".encode())
    return digest.hexdigest()[:16]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("set", choices=["reviews", "financial_phrasebank", "banking77"])
    parser.add_argument("--split", choices=["given", "random"], default="given")
    parser.add_argument("--part", choices=["dev", "test"], required=True)
    parser.add_argument("--rules", nargs="+", default=["difference", "first", "random"])
    parser.add_argument("--k", nargs="+", type=int, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--against", help="RULE-kK, which all others are compared with")
    parser.add_argument("out", help="the record to write")
    given = parser.parse_args()
    parts = read(given.set, given.split)
    right = {
        f"{rule}-k{k}": np.array([run(parts, given.part, rule, k, seed) for seed in range(given.seeds)])
        for k in given.k
        for rule in given.rules
    }
    truth = [row["label"] for row in parts[given.part]]
    metrics: dict[str, Any] = {"commonest": max(map(truth.count, truth)) / len(truth)}
    for name, found in right.items():
        each = found.mean(1)
        metrics[name] = {"accuracy": each.mean(), "by_seed": list(each)}
        metrics[name]["wrong"] = [np.packbits(~row).tobytes().hex() for row in found]
        if given.seeds > 1:
            metrics[name]["deviation"] = each.std(ddof=1)
        if given.against in right and name != given.against and given.seeds > 1:
            metrics[name]["lead"] = compare(found, right[given.against])
        shown = {key: value for key, value in metrics[name].items() if key != "wrong"}
        print(name, json.dumps(shown, default=float))
    record = {
        "metrics": metrics,
        "settings": {key: value for key, value in vars(given).items() if key != "out"},
        "data": {
            "source": f"the embedded {given.set}",
            "n_train": len(parts["train"]),
            "n_eval": len(truth),
            "train_fingerprint": fingerprint(parts["train"]),
            "eval_fingerprint": fingerprint(parts[given.part]),
        },
        "command": " ".join(
            ["python choose_k.py", given.set, "--split", given.split, "--part", given.part, "--rules",
             *given.rules, "--k", *map(str, given.k), "--seeds", str(given.seeds),
             *(["--against", given.against] if given.against else []), "--", given.out]
        ),
    }  # fmt: skip
    Path(given.out).write_text(json.dumps(record, indent=1, default=float) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
