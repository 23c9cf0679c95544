"""Loading the course's other sets: labelled questions and news, and those of the applied tasks."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, Features, List, Value, load_dataset

from topk_lib.data.files import Rows, canonical
from topk_lib.data.hub import asked_once
from topk_lib.data.reviews import EMBEDDED, checked, counted, draw, load_reviews, no_bars

__all__ = ["SETS", "SetOnHub", "load_set"]

_CORPORA = Path(__file__).parent / "corpus"
_CUT_SEED = 20240101
_TEST_SHARE = 0.2
_GROUPED = {"train": 0.4, "dev": 0.1, "test": 0.5}  # of a set made to be tested on, of which little is taken
_KINDS = ("corporation", "creative-work", "group", "location", "person", "product")
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
        columns: of a set that is no text with a label: what it has instead.
        configs: variants that may be asked for by a word, and what they are called; the first is the default.
        group: of a set that is cut into parts: rows with the same value of this column stay together.
        neighbours: so many of these groups in a row stay together, too.
        tags: the column of lists of tags, and their names in the order of their numbers.
        hub_config: what the hub calls the variant, where it is another word.
    """

    hub: str
    config: str
    text: str = "text"
    label: str = "label"
    revision: str | None = None
    what: str = "questions"
    columns: tuple[str, ...] = ()
    configs: Mapping[str, str] = field(default_factory=dict)
    group: str | None = None
    neighbours: int = 1
    tags: tuple[str, tuple[str, ...]] | None = None
    hub_config: str | None = None


SETS = {
    "banking77": SetOnHub("PolyAI/banking77", "default", revision=_CONVERTED),
    "clinc_oos": SetOnHub("clinc/clinc_oos", "plus", label="intent"),
    "financial_phrasebank": SetOnHub(
        "takala/financial_phrasebank", "sentences_50agree", text="sentence", revision=_CONVERTED,
        what="sentences",
    ),
    "xquad": SetOnHub(
        "google/xquad", "xquad.en", columns=("id", "context", "question", "answers"),
        configs={"en": "xquad.en", "zh": "xquad.zh", "de": "xquad.de"}, group="context",
        neighbours=5,  # paragraphs of one article
    ),
    "scitldr": SetOnHub(
        "allenai/scitldr", "Abstract", revision=_CONVERTED, what="abstracts",
        columns=("paper_id", "source", "target"),
    ),
    "wnut_17": SetOnHub(
        "leondz/wnut_17", "default", revision=_CONVERTED, what="posts", hub_config="wnut_17",
        columns=("id", "tokens", "ner_tags"),
        tags=("ner_tags", ("O", *(f"{place}-{kind}" for kind in _KINDS for place in "BI"))),
    ),
    "multi30k": SetOnHub("bentrevett/multi30k", "default", what="captions", columns=("en", "de")),
}  # fmt: skip
"""Casanueva et al. (2020): 77 intents of a bank's customers. Larson et al. (2019): 150 intents, and questions
outside of them. Malo et al. (2014): sentences of financial news, of three polarities. Artetxe et al. (2020):
questions on paragraphs. Cachola et al. (2020): abstracts and one-sentence summaries. Derczynski et al.
(2017): names in noisy posts. Elliott et al. (2016): captions in English and German."""


@no_bars()
def load_set(
    name: str,
    source: str | Path | None = None,
    *,
    config: str | None = None,
    split: str = "train",
    n: int | None = None,
    seed: int = 0,
    quiet: bool = False,
) -> Dataset:
    """Load a set by its name, and say in one line where it came from.

    Where ``source`` is None the first of these that exists is taken: the set's folder in the folder named by
    the environment variable ``TOPK_DATA``, the hub, the small set written for this package (CC0; fewer
    classes). A source that was named is never replaced by another.

    Args:
        name: one of :data:`SETS`, or "imdb" (see :func:`~topk_lib.data.load_reviews`).
        source: a folder as ``datasets.load_dataset`` reads it, or one that holds such folders by the sets'
            names; "hub"; or "embedded".
        config: a variant: of xquad the language, "en", "zh" or "de".
        split: "train", "test", or "dev" where the set has it. A set of one split is cut with a fixed seed:
            a fifth is "test"; of xquad half of the articles are "test" and a tenth "dev", the same ones in
            every language.
        n: how many to draw at random, as even between the classes as can be; None: all.
        seed: of that draw.
        quiet: leave out the line.

    Returns:
        A ``datasets.Dataset`` with columns ``text`` and ``label`` (class ids with their names); of a task
        the columns that :data:`SETS` names, as the hub has them.

    Raises:
        FileNotFoundError: the named folder is not there.
        ConnectionError: the hub was named and cannot be reached.
        ValueError: no such set, split or column; or n < 1.
    """
    if name == "imdb":
        return load_reviews(source, split=split, n=n, seed=seed, quiet=quiet)
    if name not in SETS:
        raise ValueError(f"there is no set {name!r}: choose one of imdb, {', '.join(SETS)}")
    one = SETS[name]
    if config is not None and config not in one.configs:
        known = ", ".join(one.configs) or "it has none"
        raise ValueError(f"{name} has no variant {config!r}: choose one of {known}")
    found = _Found(name, one, one.configs[config] if config else one.config, canonical(split))
    data, label = found.load(source)
    if not one.columns:
        data = checked(_rows(data, one), label, split, False)
        if n is not None:
            data = draw(data, n, seed, label)
        told = f" ({counted(data)})"
    else:
        told = ""
        if n is not None:
            if n < 1:
                raise ValueError(f"n must be at least 1, got {n}")
            order = np.random.default_rng(seed).permutation(len(data))[:n]
            data = data.select(order).flatten_indices()
    data.info.description = label
    if not quiet:
        print(f"{len(data):,} {one.what}{told} from {label}, split {split}")
    return data


@dataclass(frozen=True)
class _Found:
    """Where a part of a set is taken from."""

    name: str
    one: SetOnHub
    config: str
    split: str

    def load(self, source: str | Path | None) -> tuple[Dataset, str]:
        name, one = self.name, self.one
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
                return self._from_hub(), f"the hub's {one.hub}"
            except ConnectionError:
                return self._embedded(), EMBEDDED
        if str(source) == "embedded":
            return self._embedded(), EMBEDDED
        if str(source) in ("hub", one.hub):
            return self._from_hub(), f"the hub's {one.hub}"
        return self._from_folder(Path(source).expanduser(), str(source)), f"the folder {name}"

    def _from_folder(self, folder: Path, given: str) -> Dataset:
        if not given.strip() or not folder.is_dir():
            raise FileNotFoundError(
                f'no folder {given!r} with the set {self.name}: check the path, or say "hub" or "embedded"'
            )
        inside = (folder / self.name / self.config, folder / self.config, folder / self.name, folder)
        place = next(path for path in inside if path.is_dir())
        try:
            found = load_dataset(str(place))
        except Exception as error:  # the library raises many kinds
            raise ValueError(
                f"the folder {str(place)!r} cannot be read as a data set ({type(error).__name__}: "
                f"{str(error).splitlines()[0]})"
            ) from error
        return self._part(dict(found), f"the folder {str(place)!r}")

    def _from_hub(self) -> Dataset:
        one = self.one
        try:
            with asked_once(one.hub):
                found = load_dataset(one.hub, one.hub_config or self.config, revision=one.revision)
        except Exception as error:  # hub clients raise many kinds: offline, DNS, time-out, refused
            raise ConnectionError(
                f"the hub's {one.hub} cannot be reached ({type(error).__name__}): check the network, set "
                'TOPK_DATA to a folder that holds the sets, or take source="embedded"'
            ) from error
        return self._part(dict(found), f"the hub's {one.hub}")

    def _part(self, found: dict[Any, Dataset], where: str) -> Dataset:
        one, split = self.one, self.split
        parts = {canonical(str(name)): data for name, data in found.items()}
        shares = _GROUPED if one.group else {"train": 1 - _TEST_SHARE, "test": _TEST_SHARE}
        cut = len(parts) == 1 and split in shares and (one.group is not None or "train" in parts)
        if split not in parts and not cut:
            raise ValueError(f"{where} has no split {split!r}: it has {', '.join(sorted(parts))}")
        data = next(iter(parts.values())) if cut else parts[split]
        for column in one.columns or (one.text, one.label):
            if column not in data.column_names:
                raise ValueError(f"{where} has no column {column!r} (it has {', '.join(data.column_names)})")
        if one.columns:
            data = data.select_columns(list(one.columns))
        return _cut(data, one, shares, split) if cut else data

    def _embedded(self) -> Dataset:
        lines = (_CORPORA / f"{self.name}.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        splits = sorted({row["split"] for row in rows})
        if self.split not in splits:
            raise ValueError(
                f"the embedded {self.name} has no split {self.split!r}: choose one of {', '.join(splits)}"
            )
        one = self.one
        chosen = [row for row in rows if row["split"] == self.split]
        if one.configs:
            chosen = [row for row in chosen if one.configs[row["config"]] == self.config]
            if not chosen:
                raise ValueError(
                    f"the embedded {self.name} has nothing in {self.config}: name a folder, or the hub"
                )
        if not one.columns:
            names = sorted({row["label"] for row in rows})
            features = Features({one.text: Value("string"), one.label: ClassLabel(names=names)})
            return Dataset.from_dict(
                {one.text: [r["text"] for r in chosen], one.label: [r["label"] for r in chosen]},
                features=features,
            )
        data = Dataset.from_dict({column: [row[column] for row in chosen] for column in one.columns})
        if one.tags:
            data = data.cast_column(one.tags[0], List(ClassLabel(names=list(one.tags[1]))))
        return data


def _cut(data: Dataset, one: SetOnHub, shares: Mapping[str, float], split: str) -> Dataset:
    """A part of a set, its rows in order; groups are numbered as they come, so that no text decides."""
    numbers: dict[Any, int] = {}
    of_row = list(range(len(data)))
    if one.group is not None:
        of_row = [numbers.setdefault(value, len(numbers)) // one.neighbours for value in data[one.group]]
    count = max(of_row) + 1
    order = np.random.default_rng(_CUT_SEED).permutation(count)
    if one.group is None:  # as it was first published in this course
        first = int(count * _TEST_SHARE)
        taken = set((order[:first] if split == "test" else order[first:]).tolist())
    else:
        names = list(shares)
        ends = np.round(np.cumsum(list(shares.values())) * count).astype(int)
        at = names.index(split)
        taken = set(order[(ends[at - 1] if at else 0) : ends[at]].tolist())
    return data.select([i for i, number in enumerate(of_row) if number in taken])


def _rows(data: Dataset, one: SetOnHub) -> Rows:
    feature = data.features[one.label]
    names = list(feature.names) if isinstance(feature, ClassLabel) else None
    return Rows(list(data[one.text]), list(data[one.label]), names)
