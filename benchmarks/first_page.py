"""What three rules keep of one review, and what a linear model says to it, for the first page of the book.

Run ``python benchmarks/first_page.py``: it fits the rules on the IMDB training reviews (two minutes
on one core) and writes ``results/first_page/review.cpu.json``. The page compares a token's rank with k.
"""

from __future__ import annotations

import time
from itertools import pairwise

import numpy as np
import torch
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from topk_lib import hard_topk, records
from topk_lib.data import fingerprint, load_reviews, source_of
from topk_lib.models import DEFAULT_ENCODER, load_encoder
from topk_lib.selectors import make_selector
from topk_lib.selectors.corpus import count_tokens

RULES = ("linear", "tfidf", "first")
BUDGETS = sorted({round(4 * 2 ** (step / 8)) for step in range(49)})  # 4 to 256, even on a log scale

# Written for this page, of a film that does not exist; CC0 1.0.
REVIEW = (
    "I nearly left. The opening is dull, the poster looks like an advertisement for umbrellas, and for "
    "half an hour a narrator explains what we can see for ourselves. Then the river rises, and so does "
    "the film. Ada Calder plays the keeper of a small-town archive with one boat, one night and ten "
    "thousand books, of which the boat will hold sixty-four. That is the whole plot: she walks along the "
    "shelves with a lamp and decides. No car explodes. Nobody falls in love. Yet I have rarely been so "
    "tense, because every book she lifts is a book she has not yet put back. Calder is superb, all doubt "
    "and cold hands; her brother, who wants the land deeds saved and no poems, could have been a plain "
    "villain and becomes the saddest man in the room. The sound of water under the floor is wonderful. "
    "There are mistakes. A subplot with a mayor goes nowhere, and the music tells us to cry at least "
    "twice when silence would have been enough. But the last ten minutes, when we are at last shown what "
    "she kept and what she let go, are excellent, and I would not lose a frame of them. It is a small, "
    "moving and very beautiful film about a simple question that turns out to be the only one: if you "
    "cannot keep everything, what is worth keeping? See it today."
)


def main() -> None:
    start = time.perf_counter()
    train = load_reviews(split="train")
    _, tokenizer = load_encoder()
    ids = tokenizer(list(train["text"]), add_special_tokens=False, verbose=False)["input_ids"]
    labels = list(train["label"])
    reader = make_pipeline(TfidfTransformer(sublinear_tf=True), LogisticRegression(max_iter=1000))
    reader.fit(count_tokens(ids, len(tokenizer)), labels)

    review = tokenizer(REVIEW, add_special_tokens=False, return_offsets_mapping=True)
    token_ids, ends = np.array(review["input_ids"]), [end for _, end in review["offset_mapping"]]
    batch = torch.from_numpy(token_ids)[None]
    ranks, positive = {}, {}
    for name in RULES:
        selector = make_selector(name, vocabulary=len(tokenizer)).fit(ids, labels)
        scores = selector.scores(batch, torch.ones_like(batch))[0]
        order = hard_topk(scores, len(token_ids), order="value").indices.numpy()
        ranks[name] = order.argsort().tolist()
        kept = count_tokens([token_ids[order[:k]].tolist() for k in BUDGETS], len(tokenizer))
        positive[name] = reader.predict_proba(kept)[:, 1].round(3).tolist()
    whole = reader.predict_proba(count_tokens([token_ids.tolist()], len(tokenizer)))[0, 1]
    records.write(
        "first_page",
        "review",
        metrics={
            "pieces": [REVIEW[a:b] for a, b in pairwise([0, *ends])],
            "ranks": ranks,
            "positive": positive,
            "whole": round(float(whole), 3),
        },
        settings={"rules": RULES, "budgets": BUDGETS, "tokenizer": DEFAULT_ENCODER},
        data={"source": source_of(train), "n_train": len(train), "train_fingerprint": fingerprint(train)},
        seconds=time.perf_counter() - start,
    )


if __name__ == "__main__":
    main()
