"""Loading the course's other labelled sets: questions to a bank, to an assistant, and news of finance."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, load_dataset

from topk_lib.data.files import Rows, canonical
from topk_lib.data.hub import asked_once
from topk_lib.data.reviews import EMBEDDED, checked, counted, draw, load_reviews, no_bars

__all__ = ["SETS", "SetOnHub", "load_set"]

_CORPORA = Path(__file__).parent / "corpus"
_CUT_SEED = 20240101
_TEST_SHARE = 0.2
_CONVERTED = "refs/convert/parquet"  # the hub's own copy of sets that came as programs, which are not run


@dataclass(frozen=True)
class SetOnHub:
    """Where a set is and how its columns are called.

    Attributes:
        hub: its name on the hub.
        config: which of its variants; also the name of the folder below the set's own.
        text: the column of texts.
        label: the column of classes.
        revision: the branch on the hub.
        what: a text of it, in the plural.
    """

    hub: str
    config: str
    text: str = "text"
    label: str = "label"
    revision: str | None = None
    what: str = "questions"


SETS = {
    "banking77": SetOnHub("PolyAI/banking77", "default", revision=_CONVERTED),
    "clinc_oos": SetOnHub("clinc/clinc_oos", "plus", label="intent"),
    "financial_phrasebank": SetOnHub(
        "takala/financial_phrasebank", "sentences_50agree", text="sentence", revision=_CONVERTED,
        what="sentences",
    ),
}  # fmt: skip
"""Casanueva et al. (2020): 77 intents of a bank's customers. Larson et al. (2019): 150 intents, and questions
outside of them. Malo et al. (2014): sentences of financial news, of three polarities."""


@no_bars()
def load_set(
    name: str,
    source: str | Path | None = None,
    *,
    split: str = "train",
    n: int | None = None,
    seed: int = 0,
    quiet: bool = False,
) -> Dataset:
    """Load a labelled set by its name, and say in one line where it came from.

    Where ``source`` is None the first of these that exists is taken: the set's folder in the folder named by
    the environment variable ``TOPK_DATA``, the hub, the small set written for this package (CC0; fewer
    classes). A source that was named is never replaced by another.

    Args:
        name: one of :data:`SETS`, or "imdb" (see :func:`~topk_lib.data.load_reviews`).
        source: a folder as ``datasets.load_dataset`` reads it, or one that holds such folders by the sets'
            names; "hub"; or "embedded".
        split: "train", "test", or "dev" where the set has it. A set that has "train" only is cut: a fifth,
            drawn with a fixed seed, is "test".
        n: how many to draw at random, as even between the classes as can be; None: all.
        seed: of that draw.
        quiet: leave out the line.

    Returns:
        A ``datasets.Dataset`` with columns ``text`` and ``label`` (class ids with their names).

    Raises:
        FileNotFoundError: the named folder is not there.
        ConnectionError: the hub was named and cannot be reached.
        ValueError: no such set, split or column; or n < 1.
    """
    if name == "imdb":
        return load_reviews(source, split=split, n=n, seed=seed, quiet=quiet)
    if name not in SETS:
        raise ValueError(f"there is no set {name!r}: choose one of imdb, {', '.join(SETS)}")
    rows, label = _load(name, source, canonical(split))
    data = checked(rows, label, split, False)
    if n is not None:
        data = draw(data, n, seed, label)
    data.info.description = label
    if not quiet:
        print(f"{len(data):,} {SETS[name].what} ({counted(data)}) from {label}, split {split}")
    return data


def _load(name: str, source: str | Path | None, split: str) -> tuple[Rows, str]:
    one = SETS[name]
    if source is None:
        sets = os.environ.get("TOPK_DATA") or None
        if sets is not None:
            source = Path(sets).expanduser() / name
            if not source.is_dir():
                raise FileNotFoundError(
                    f"no folder {name!r} in {sets!r}: TOPK_DATA is to hold the sets by their names"
                )
    if source is None:
        try:
            return _from_hub(one, split), f"the hub's {one.hub}"
        except ConnectionError:
            return _embedded(name, split), EMBEDDED
    if str(source) == "embedded":
        return _embedded(name, split), EMBEDDED
    if str(source) in ("hub", one.hub):
        return _from_hub(one, split), f"the hub's {one.hub}"
    folder = Path(source).expanduser()
    if not str(source).strip() or not folder.is_dir():
        raise FileNotFoundError(
            f'no folder {str(source)!r} with the set {name}: check the path, or say "hub" or "embedded"'
        )
    inside = (folder / name / one.config, folder / one.config, folder / name, folder)
    place = next(path for path in inside if path.is_dir())
    try:
        found = load_dataset(str(place))
    except Exception as error:  # the library raises many kinds
        raise ValueError(
            f"the folder {str(place)!r} cannot be read as a data set ({type(error).__name__}: "
            f"{str(error).splitlines()[0]})"
        ) from error
    return _part(dict(found), one, split, f"the folder {str(place)!r}"), f"the folder {name}"


def _from_hub(one: SetOnHub, split: str) -> Rows:
    try:
        with asked_once(one.hub):
            found = load_dataset(one.hub, one.config, revision=one.revision)
    except Exception as error:  # hub clients raise many kinds: offline, DNS, time-out, refused
        raise ConnectionError(
            f"the hub's {one.hub} cannot be reached ({type(error).__name__}): check the network, set "
            'TOPK_DATA to a folder that holds the sets, or take source="embedded"'
        ) from error
    return _part(dict(found), one, split, f"the hub's {one.hub}")


def _part(found: dict[Any, Dataset], one: SetOnHub, split: str, where: str) -> Rows:
    parts = {canonical(str(name)): data for name, data in found.items()}
    cut = set(parts) == {"train"} and split in ("train", "test")
    if split not in parts and not cut:
        raise ValueError(f"{where} has no split {split!r}: it has {', '.join(sorted(parts))}")
    data = parts["train" if cut else split]
    for column in (one.text, one.label):
        if column not in data.column_names:
            raise ValueError(f"{where} has no column {column!r} (it has {', '.join(data.column_names)})")
    if cut:
        order = np.random.default_rng(_CUT_SEED).permutation(len(data))
        first = int(len(data) * _TEST_SHARE)
        data = data.select(np.sort(order[:first] if split == "test" else order[first:]))
    feature = data.features[one.label]
    names = list(feature.names) if isinstance(feature, ClassLabel) else None
    return Rows(list(data[one.text]), list(data[one.label]), names)


def _embedded(name: str, split: str) -> Rows:
    lines = (_CORPORA / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    splits = sorted({row["split"] for row in rows})
    if split not in splits:
        raise ValueError(f"the embedded {name} has no split {split!r}: choose one of {', '.join(splits)}")
    names = sorted({row["label"] for row in rows})
    chosen = [row for row in rows if row["split"] == split]
    return Rows([row["text"] for row in chosen], [names.index(row["label"]) for row in chosen], names)
