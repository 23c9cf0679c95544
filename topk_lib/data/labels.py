"""What the label column says: classes and their names, a number, or several labels at once."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from datasets import ClassLabel, Dataset, Features, List, Value

from topk_lib.data.texts import as_texts

__all__ = ["CLASS", "NUMBER", "SEVERAL", "Labels", "labels_of", "match_labels", "read_labels", "with_labels"]

CLASS, NUMBER, SEVERAL = "single_label_classification", "regression", "multi_label_classification"
_FLOAT = re.compile(r"[+-]?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_MISSING = re.compile(r"[+-]?nan|n/?a|null|none", re.IGNORECASE)  # among numbers; else it may be a name
_ENDLESS = re.compile(r"[+-]?inf(inity)?", re.IGNORECASE)
_MOST_CLASSES = 10_000


@dataclass(frozen=True)
class Labels:
    """What the labels of a set are.

    Attributes:
        problem: "single_label_classification", "regression" or "multi_label_classification", as
            ``transformers`` calls one class, a number and several labels at once.
        names: of the classes, by their ids; ("score",) for a number.
    """

    problem: str
    names: tuple[str, ...]

    @property
    def nameless(self) -> bool:
        """The classes have numbers only."""
        return self.names in (_numbers(len(self.names)), _numbers(len(self.names), "LABEL_"))


def _numbers(count: int, before: str = "") -> tuple[str, ...]:
    return tuple(f"{before}{i}" for i in range(count))


def labels_of(reviews: Dataset) -> Labels:
    """The problem and the class names of a set that ``load_reviews`` loaded.

    Raises:
        ValueError: the label column is of no such kind.
    """
    feature = reviews.features["label"]
    if isinstance(feature, ClassLabel):
        return Labels(CLASS, tuple(feature.names))
    inner = getattr(feature, "feature", None)
    if isinstance(inner, ClassLabel):
        return Labels(SEVERAL, tuple(inner.names))
    dtype = str(getattr(feature, "dtype", ""))
    if dtype.startswith("float"):
        return Labels(NUMBER, ("score",))
    if dtype.startswith("int"):
        return Labels(CLASS, _numbers(max([1, *reviews["label"]]) + 1))
    raise ValueError(f"the labels are of the kind {feature}: load the set with load_reviews")


def with_labels(
    texts: Sequence[str], values: Sequence[Any], labels: Labels, pairs: Sequence[str] | None = None
) -> Dataset:
    """A set with the columns text and label, whose label column knows its names; text_pair where given."""
    names = None if labels.problem == NUMBER else ClassLabel(names=list(labels.names))
    feature = {CLASS: names, NUMBER: Value("float64"), SEVERAL: List(names)}[labels.problem]
    columns = {"text": list(texts), "label": list(values)}
    features = {"text": Value("string"), "label": feature}
    if pairs is not None:
        columns["text_pair"], features["text_pair"] = list(pairs), Value("string")
    return Dataset.from_dict(columns, features=Features(features))


def match_labels(reviews: Dataset, labels: Labels, whose: str) -> Dataset:
    """Give a set the label ids of a model or of another set: classes are matched by their names.

    Where one side has no names but numbers, they are matched by number.

    Args:
        reviews: of ``load_reviews``.
        labels: what they are to become.
        whose: "the model" or so, for the error's sentence.

    Raises:
        ValueError: ``reviews`` have a class that is not there, or labels of another kind.
    """
    own = labels_of(reviews)
    if own == labels:
        return reviews
    values = list(reviews["label"])
    if own.problem == CLASS and labels.problem == NUMBER and all(map(_FLOAT.fullmatch, own.names)):
        values = [float(own.names[i]) for i in values]
    elif own.problem != labels.problem:
        raise ValueError(
            f"the labels of the reviews are {_kind(own)}, those of {whose} {_kind(labels)}: "
            "use reviews that are labelled alike"
        )
    else:
        used = sorted({i for value in values for i in (value if own.problem == SEVERAL else [value])})
        ids = {name: i for i, name in enumerate(labels.names)}
        if any(own.names[i] not in ids for i in used) and (own.nameless or labels.nameless):
            ids = {name: i for i, name in enumerate(own.names[: len(labels.names)])}
        if unknown := [own.names[i] for i in used if own.names[i] not in ids]:
            raise ValueError(
                f"the reviews have the class {unknown[0]!r}, which {whose} lacks "
                f"(known: {_some(labels.names)}): use reviews of the same classes"
            )
        new = {i: ids[own.names[i]] for i in used}
        values = [sorted(new[i] for i in v) if own.problem == SEVERAL else new[v] for v in values]
    pairs = reviews["text_pair"] if "text_pair" in reviews.column_names else None
    matched = with_labels(reviews["text"], values, labels, pairs)
    matched.info.description = reviews.info.description
    return matched


def _kind(labels: Labels) -> str:
    return {CLASS: "classes", NUMBER: "numbers", SEVERAL: "several at once"}[labels.problem]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")


def read_labels(values: Sequence[Any], names: Sequence[str] | None, where: str) -> tuple[list[Any], Labels]:
    """Find out what labels are, and number them.

    - Text: class names, numbered in the order of ``names``, else of the alphabet; text that is all
      whole numbers, all numbers or all JSON lists is taken for these.
    - Whole numbers from 0 (true and false are 1 and 0): classes, named by ``names``, else "0", "1" and
      so on.
    - Other numbers: a number to predict (regression); nothing but 0.0 and 1.0 are two classes.
    - Lists of one length, 2 at least, of 0 and 1 only: several labels at once, 1 where a text has it.
      Other lists: the ids or the names of the labels that a text has.

    Classes called neg and pos become negative and positive; negative is 0, positive is 1.

    Args:
        values: one a text, as read from a file.
        names: of the classes, where the file has them.
        where: the set, for an error's sentence.

    Returns:
        The class ids, the floats, or for each text the ascending ids of its labels; and what they are.

    Raises:
        ValueError: a text has no label (None, an empty one, -1), or it is of no kind above.
    """
    values = _plain([v.strip() if isinstance(v, str) else v for v in values])
    for row, value in enumerate(values):
        empty = value is None or value == "" or (isinstance(value, float) and math.isnan(value))
        if empty or (isinstance(value, int) and value == -1):
            raise ValueError(
                f"{where}, row {row}: the review has no label ({value!r}): "
                "leave such rows out, or choose a split with labels"
            )
    if all(isinstance(v, list) for v in values):
        return _several(values, names, where)
    if all(isinstance(v, (int, float)) for v in values) and names is None:
        if all(v in (0, 1) for v in values):
            values = [int(v) for v in values]
        elif any(isinstance(v, float) for v in values):
            if endless := [v for v in values if math.isinf(v)]:
                raise ValueError(
                    f"{where}, row {values.index(endless[0])}: the label {endless[0]} is no number"
                )
            return [float(v) for v in values], Labels(NUMBER, ("score",))
    ids, known = _numbered(values, names, where, range(len(values)))
    return ids, Labels(CLASS, known)


def _plain(values: list[Any]) -> list[Any]:
    """Text that is all numbers, or all lists, as a file of text has them."""
    if not all(isinstance(v, str) for v in values):
        return values
    try:
        if all(str(int(v)) == v for v in values):
            return [int(v) for v in values]
    except ValueError:
        pass
    numbers = [bool(_FLOAT.fullmatch(v)) for v in values]
    if any(numbers) and all(
        is_number or _MISSING.fullmatch(v) or _ENDLESS.fullmatch(v)
        for v, is_number in zip(values, numbers, strict=True)
    ):
        return [None if _MISSING.fullmatch(v) else float(v) for v in values]
    if all(v.startswith("[") and v.endswith("]") for v in values):
        try:
            return [json.loads(v) for v in values]
        except ValueError:
            pass
    return values


def _several(values: list[list[Any]], names: Sequence[str] | None, where: str) -> tuple[list[Any], Labels]:
    lengths = {len(v) for v in values}
    hot = len(lengths) == 1 and min(lengths) > 1 and all(x in (0, 1) for v in values for x in v)
    if hot and (names is None or len(names) == min(lengths)):
        known = tuple(names) if names else _numbers(min(lengths))
        return [[i for i, x in enumerate(v) if x] for v in values], Labels(SEVERAL, known)
    rows = [row for row, v in enumerate(values) for _ in v]
    ids, known = _numbered([x for v in values for x in v], names, where, rows)
    each = iter(ids)
    return [sorted({next(each) for _ in v}) for v in values], Labels(SEVERAL, known)


def _numbered(
    values: Sequence[Any], names: Sequence[str] | None, where: str, rows: Sequence[int]
) -> tuple[list[int], tuple[str, ...]]:
    """Class ids, and the names of the classes."""
    text = any(isinstance(v, str) for v in values[:1])
    for row, value in zip(rows, values, strict=True):
        whole = isinstance(value, int) and value >= 0
        if isinstance(value, str) != text and (whole or not text):
            raise ValueError(
                f"{where}, row {row}: label {value!r} is a {'number' if text else 'name'}, where the rows "
                f"before have {'names' if text else 'numbers'}: label all alike"
            )
        if not (whole or isinstance(value, str)):
            raise ValueError(
                f"{where}, row {row}: label {value!r} is no class: label every review with a name, with a "
                "whole number from 0, with a decimal number, or with a list of these"
            )
        if whole and value >= (len(names) if names else _MOST_CLASSES):
            most = f"the classes are {_some(names)}" if names else f"at most {_MOST_CLASSES:,} classes"
            raise ValueError(f"{where}, row {row}: label {value} is no class ({most})")
        if isinstance(value, str) and names and value not in names:
            raise ValueError(f"{where}, row {row}: label {value!r} is no class (they are {_some(names)})")
    if text:
        words = list(values)
        names = names or sorted(set(words))
    elif names:
        words = [names[v] for v in values]
    else:
        words = [str(int(v)) for v in values]
        names = _numbers(max([1, *values]) + 1)
    short = {"neg": "negative", "pos": "positive"}
    if {n.lower() for n in names} == short.keys():
        names, words = [short[n.lower()] for n in names], [short[w.lower()] for w in words]
    if set(names) == {"negative", "positive"}:
        names = ["negative", "positive"]
    try:
        as_texts(names, "class")
    except ValueError as error:
        raise ValueError(f"{where}, the name of {error}") from None
    if len(set(names)) < len(names):
        raise ValueError(f"{where}: two classes have one name ({_some(names)}): name them apart")
    ids = {name: i for i, name in enumerate(names)}
    return [ids[w] for w in words], tuple(names)
