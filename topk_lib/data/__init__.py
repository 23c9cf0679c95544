"""Labelled texts: the real IMDB set where it can be had, an embedded corpus where not, or one's own."""

from topk_lib.data.labels import Labels, labels_of, match_labels
from topk_lib.data.pairs import load_pairs
from topk_lib.data.ratings import Ratings, load_ratings
from topk_lib.data.reviews import (
    CORPUS_FILE,
    EMBEDDED,
    fingerprint,
    load_reviews,
    source_of,
    train_and_eval,
)
from topk_lib.data.sets import SETS, load_set
from topk_lib.data.stream import TextStream, stream_texts
from topk_lib.data.texts import as_texts

__all__ = [
    "CORPUS_FILE",
    "EMBEDDED",
    "SETS",
    "Labels",
    "Ratings",
    "TextStream",
    "as_texts",
    "fingerprint",
    "labels_of",
    "load_pairs",
    "load_ratings",
    "load_reviews",
    "load_set",
    "match_labels",
    "source_of",
    "stream_texts",
    "train_and_eval",
]
