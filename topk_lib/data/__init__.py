"""Film reviews: the real IMDB set where it can be had, an embedded corpus where not."""

from topk_lib.data.reviews import (
    CORPUS_FILE,
    fingerprint,
    load_reviews,
    source_of,
    train_and_eval,
)

__all__ = ["CORPUS_FILE", "fingerprint", "load_reviews", "source_of", "train_and_eval"]
