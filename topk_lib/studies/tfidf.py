"""Why TF-IDF keeps less of what tells the label than chance does: its parts, taken out one by one.

What a rule keeps is read by the cheapest reader there is, a linear model. It knows no order, so that
whatever a rule loses is lost by *which* tokens it keeps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, TfidfTransformer
from sklearn.linear_model import LogisticRegression

from topk_lib.claims import compare
from topk_lib.data import fingerprint, load_reviews, source_of
from topk_lib.models import load_encoder
from topk_lib.studies.base import Made, Row, Run
from topk_lib.training import tokenize

__all__ = ["VARIANTS", "Texts", "Variant", "kept", "runs"]

COMMON, RARE = 100, 0.01  # the commonest types by texts; types in less than this share of the texts
_BANDS = {"half": 0.5, "tenth": 0.1, "thirtieth": 1 / 30, "hundredth": 0.01, "thousandth": 0.001, "rest": 0.0}
_SEEDS = 3
_REFERENCES = ("tfidf", "random", "random_no_copies_no_common_no_rare")


class Variant(NamedTuple):
    """A rule: the score tf ** times * idf ** rare, and what it may not take while there is anything else."""

    times: float = 1.0
    rare: float = 1.0
    once: bool = False
    drop: tuple[str, ...] = ()
    by: str = "tfidf"


def _factorial() -> dict[str, Variant]:
    """TF-IDF without copies, without the common, without the rare: all eight."""
    found = {}
    for bits in range(8):
        once, common, rare = bool(bits & 1), bool(bits & 2), bool(bits & 4)
        parts = ["no_copies"] * once + ["no_common"] * common + ["no_rare"] * rare
        drop = ("common",) * common + ("rare",) * rare
        found["_".join(["tfidf", *parts])] = Variant(once=once, drop=drop)
    return found


VARIANTS: dict[str, Variant] = {
    **_factorial(),
    "log_tf": Variant(by="log"),
    "idf": Variant(times=0.0),
    "tf": Variant(rare=0.0),
    "idf_squared": Variant(rare=2.0),
    "no_stop_words": Variant(drop=("stop",)),
    "random": Variant(by="random"),
    "random_no_copies": Variant(by="random", once=True),
    "random_no_copies_no_common_no_rare": Variant(by="random", once=True, drop=("common", "rare")),
    "first": Variant(by="first"),
    "linear": Variant(by="linear"),
    "linear_no_copies": Variant(by="linear", once=True),
}
"""TF-IDF and its changes; then what they are to be compared with."""


class Texts(NamedTuple):
    """All tokens of some texts, one after another, special tokens left out.

    Attributes:
        ids: (tokens,) int64.
        text: (tokens,) int64, which text each is of.
        n: how many texts.
    """

    ids: np.ndarray
    text: np.ndarray
    n: int

    def first(self) -> np.ndarray:
        """(tokens,) bool: the first of its type in its text."""
        pair = self.text * (int(self.ids.max()) + 1) + self.ids
        found = np.zeros(len(pair), dtype=bool)
        found[np.unique(pair, return_index=True)[1]] = True
        return found

    def counts(self, width: int, chosen: np.ndarray | None = None) -> csr_matrix:
        """(texts, width): how often each type is in each text, or (tokens,) bool, among the chosen."""
        ids, text = (self.ids, self.text) if chosen is None else (self.ids[chosen], self.text[chosen])
        return csr_matrix((np.ones(len(ids)), (text, ids)), shape=(self.n, width))


def runs(*, gpu: bool) -> Iterator[Run]:
    for k in (16, 64):
        yield Run("tfidf_why", f"bag-k{k}", partial(_why, k))


def flat(token_ids: Sequence[Sequence[int]]) -> Texts:
    """Tokenised texts, each with a special token at both ends."""
    lengths = [max(len(ids) - 2, 0) for ids in token_ids]
    ids = np.fromiter((i for text in token_ids for i in text[1:-1]), dtype=np.int64, count=sum(lengths))
    return Texts(ids, np.repeat(np.arange(len(lengths)), lengths), len(lengths))


def kept(texts: Texts, score: np.ndarray, k: int, banned: np.ndarray, *, once: bool = False) -> np.ndarray:
    """(tokens,) bool: the k tokens of each text with the highest score, the first of equals.

    Args:
        texts: the texts.
        score: (tokens,).
        k: how many of each text.
        banned: (tokens,) bool, tokens that are taken only where nothing else is left.
        once: likewise every copy after a type's first in its text.
    """
    if once:
        banned = banned | ~texts.first()
    order = np.lexsort((-score, banned, texts.text))  # stable: of equals the first
    start = np.searchsorted(texts.text, np.arange(texts.n))
    chosen = np.zeros(len(score), dtype=bool)
    chosen[order[np.arange(len(score)) - start[texts.text] < k]] = True
    return chosen


class Fitted:
    """What the rules know of the training texts, and the reader's own view of what opinion is."""

    def __init__(self, texts: Texts, labels: np.ndarray, tokenizer: Any, seed: int) -> None:
        width = len(tokenizer)
        counts = texts.counts(width)
        transform = TfidfTransformer(sublinear_tf=True)
        reader = LogisticRegression(max_iter=1000).fit(transform.fit_transform(counts), labels)
        self.weight = np.abs(reader.coef_[0])
        self.idf = transform.idf_
        self.share = np.asarray((counts > 0).sum(0)).ravel() / texts.n
        words = tokenizer.convert_ids_to_tokens(range(width))
        self.types = {
            "common": np.isin(np.arange(width), np.argsort(-self.share, kind="stable")[:COMMON]),
            "rare": self.share < RARE,
            "stop": np.array([w in ENGLISH_STOP_WORDS or not any(c.isalnum() for c in w) for w in words]),
        }
        self.dice = np.random.default_rng(seed)

    def keep(self, texts: Texts, variant: Variant, k: int) -> np.ndarray:
        """(tokens,) bool."""
        ids = texts.ids
        if variant.by == "random":
            score = self.dice.random(len(ids))
        elif variant.by == "first":
            score = np.zeros(len(ids))
        elif variant.by == "linear":
            score = self.weight[ids]
        else:
            pair = texts.text * len(self.idf) + ids
            _, place, times = np.unique(pair, return_inverse=True, return_counts=True)
            often = times[place].astype(float)
            often = 1 + np.log(often) if variant.by == "log" else often**variant.times
            score = often * self.idf[ids] ** variant.rare
        banned = np.zeros(len(ids), dtype=bool)
        for kind in variant.drop:
            banned |= self.types[kind][ids]
        return kept(texts, score, k, banned, once=variant.once)

    def look(self, texts: Texts, chosen: np.ndarray) -> dict[str, float]:
        """What is among the chosen tokens of a text.

        Returns:
            ``opinion``: their share of the text's absolute linear weight, copies counted once;
            ``mean_weight`` of a token; ``distinct``, ``common`` and ``rare``: shares of the tokens;
            ``middle_types``: how many types neither common nor rare.
        """
        have, had = (texts.counts(len(self.idf), c) > 0 for c in (chosen, None))
        ids = texts.ids[chosen]
        middle = ~self.types["common"] & ~self.types["rare"]
        opinion = have @ self.weight / np.maximum(had @ self.weight, 1e-9)
        return {
            "opinion": float(opinion.mean()),
            "mean_weight": float(self.weight[ids].mean()),
            "middle_types": float((have @ middle.astype(float)).mean()),
            "distinct": float(have.sum() / len(ids)),
            "common": float(self.types["common"][ids].mean()),
            "rare": float(self.types["rare"][ids].mean()),
        }


def _answers(
    read: Texts,
    kept_read: np.ndarray,
    labels: np.ndarray,
    asked: Texts,
    kept_asked: np.ndarray,
    width: int,
) -> np.ndarray:
    """(asked.n,) bool: logistic regression on the TF-IDF (its logarithm) of the tokens kept."""
    transform, reader = TfidfTransformer(sublinear_tf=True), LogisticRegression(max_iter=1000)
    reader.fit(transform.fit_transform(read.counts(width, kept_read)), labels)
    answers: np.ndarray = reader.predict(transform.transform(asked.counts(width, kept_asked))).astype(bool)
    return answers


def _why(k: int, n_train: int = 4000, n_test: int = 5000) -> Made:
    """Every variant with three draws of training reviews; k counts [CLS] and [SEP], as everywhere.

    Returns:
        ``metrics``: for each variant the accuracy (mean, and by seed), what is among the tokens that it
        keeps of the test reviews (:meth:`Fitted.look`), and ``over``: how far it is ahead of the
        references, seeds and reviews both counted as chance; and ``bands`` (:func:`_bands`).
    """
    _, tokenizer = load_encoder()
    width = len(tokenizer)
    test = load_reviews(split="test", n=n_test, quiet=True)
    data: dict[str, Any] = {"source": source_of(test), "n_train": n_train, "n_eval": len(test),
                            "train_fingerprint": [], "eval_fingerprint": fingerprint(test)}  # fmt: skip
    asked, truth = flat(tokenize(tokenizer, list(test["text"]))), np.asarray(test["label"])
    right: dict[str, list[np.ndarray]] = {name: [] for name in VARIANTS}
    looks: dict[str, list[Row]] = {name: [] for name in VARIANTS}
    bands = []
    for seed in range(_SEEDS):
        train = load_reviews(split="train", n=n_train, seed=seed, quiet=True)
        data["train_fingerprint"].append(fingerprint(train))
        read, labels = flat(tokenize(tokenizer, list(train["text"]))), np.asarray(train["label"])
        rules = Fitted(read, labels, tokenizer, seed)
        marks = {}
        for name in VARIANTS:
            chosen, marks[name] = (rules.keep(texts, VARIANTS[name], k - 2) for texts in (read, asked))
            answers = _answers(read, chosen, labels, asked, marks[name], width)
            right[name].append(answers == truth)
            looks[name].append(rules.look(asked, marks[name]))
            print(f"seed {seed}, {name}: {right[name][-1].mean():.1%}", flush=True)
        bands.append(_bands(rules, asked, marks))
    metrics = {
        name: {
            "accuracy": float(np.mean(right[name])),
            "by_seed": [float(answers.mean()) for answers in right[name]],
            "over": {
                other: compare.difference(np.stack(right[name]), np.stack(right[other]))._asdict()
                for other in _REFERENCES if other != name
            },
        } | _mean(looks[name])
        for name in VARIANTS
    }  # fmt: skip
    mean_bands = {edge: _mean([band[edge] for band in bands]) for edge in bands[0]}
    settings = {"seed": list(range(_SEEDS)), "k": k, "common_types": COMMON, "rare_below_share": RARE}
    return Made(metrics | {"bands": mean_bands}, settings, data)


def _bands(rules: Fitted, texts: Texts, marks: dict[str, np.ndarray]) -> Row:
    """By the share of texts that a type stands in: the tokens, the opinion, what each rule keeps of them."""
    share = rules.share[texts.ids]
    weight = np.where(texts.first(), rules.weight[texts.ids], 0.0)
    found, high = {}, np.inf
    for name, low in _BANDS.items():
        inside = (share >= low) & (share < high)
        found[name] = {
            "tokens": float(inside.mean()),
            "opinion": float(weight[inside].sum() / weight.sum()),
            "kept": {
                rule: float(chosen[inside].sum() / max(1, inside.sum())) for rule, chosen in marks.items()
            },
        }
        high = low
    return found


def _mean(rows: Sequence[Row]) -> Row:
    """The mean of each number, deep down."""
    found = {}
    for key, value in rows[0].items():
        every = [row[key] for row in rows]
        found[key] = _mean(every) if isinstance(value, dict) else float(np.mean(every))
    return found
