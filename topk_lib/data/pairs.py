"""Reviews and what a few other words make of them: the opposite verdict."""

from __future__ import annotations

import json

from datasets import ClassLabel, Dataset, Features, Value

from topk_lib.data.files import canonical
from topk_lib.data.reviews import CORPUS_FILE, IMDB_NAMES, breaks_to_newlines

__all__ = ["PAIRS_FILE", "load_pairs"]

PAIRS_FILE = CORPUS_FILE.with_name("pairs.jsonl")
"""Reviews of the embedded corpus, each with a rewritten one, CC0."""


def load_pairs(split: str | None = None) -> Dataset:
    """Load reviews of the embedded corpus, each followed by itself rewritten to the opposite verdict.

    Such pairs are called contrast sets (Gardner et al., 2020) or counterfactually augmented data (Kaushik et
    al., 2020): what stands in both texts of a pair cannot tell their labels apart.

    Args:
        split: "train", "dev" or "test" of the corpus, from which the originals are; None: all. Who trained
            on the embedded corpus has seen the originals of its "train".

    Returns:
        A ``datasets.Dataset``, two rows a pair, the original first, with columns ``pair`` (its name),
        ``text``, ``label`` (0 negative, 1 positive), ``rewritten`` (bool) and ``edit`` (the kind: "advice",
        "comparison", "concession", "ending", "expectation", "irony", "negation" or "word").

    Raises:
        ValueError: no such split.
    """
    pairs = [json.loads(line) for line in PAIRS_FILE.read_text(encoding="utf-8").splitlines()]
    splits = sorted({pair["split"] for pair in pairs})
    if split is not None and canonical(split) not in splits:
        raise ValueError(f"the pairs have no split {split!r}: choose one of {', '.join(splits)}, or None")
    rows = [
        {
            "pair": pair["id"],
            "text": breaks_to_newlines(pair[version]["text"]),
            "label": pair[version]["label"],
            "rewritten": version == "rewritten",
            "edit": pair["edit"],
        }
        for pair in pairs
        if split is None or pair["split"] == canonical(split)
        for version in ("original", "rewritten")
    ]
    features = Features(
        pair=Value("string"),
        text=Value("string"),
        label=ClassLabel(names=list(IMDB_NAMES)),
        rewritten=Value("bool"),
        edit=Value("string"),
    )
    data = Dataset.from_list(rows, features=features)
    data.info.description = "the embedded pairs"
    return data
