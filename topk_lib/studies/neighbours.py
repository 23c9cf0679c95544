"""Does distance between embeddings find related words? The nearest neighbours of words of opinion."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from scipy.stats import hypergeom

from topk_lib.models import load_encoder
from topk_lib.studies.base import Made, Run

__all__ = ["BLAME", "PRAISE", "neighbours", "runs"]

PRAISE = [
    "good", "great", "best", "excellent", "wonderful", "brilliant", "superb", "perfect", "amazing",
    "fantastic", "beautiful", "loved", "enjoyed", "funny", "fun", "fine", "moving", "warm", "clever",
    "liked",
]  # fmt: skip
BLAME = [
    "bad", "worst", "awful", "terrible", "horrible", "boring", "stupid", "waste", "dull", "poor",
    "poorly", "worse", "ridiculous", "lame", "annoying", "pointless", "mess", "hated", "crap",
    "predictable",
]  # fmt: skip


def runs(*, gpu: bool) -> Iterator[Run]:
    yield Run("embedding_neighbours", "minilm", neighbours)


def neighbours(near: int = 10) -> Made:
    """For each listed word, its nearest whole words in plain letters, by Euclidean distance.

    Returns:
        ``metrics``: of so many ``words``, ``words_with_listed`` have another listed word among the
        ``near`` nearest, and ``chance_with_listed`` of them would by chance; ``share_listed`` of all
        these neighbours are listed, by chance ``chance_share``; of ``same_side`` the nearest other
        listed word is on its own side, by chance ``chance_same_side``; and the ``nearest`` themselves.
    """
    encoder, tokenizer = load_encoder()
    vectors = encoder.get_input_embeddings().weight.detach().float()
    spelling = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    whole = torch.tensor([word.isascii() and word.isalpha() for word in spelling])
    words = [*PRAISE, *BLAME]
    listed = torch.tensor(tokenizer.convert_tokens_to_ids(words))
    distance = torch.cdist(vectors[listed], vectors[: len(spelling)])
    distance[:, ~whole] = torch.inf
    distance[torch.arange(len(words)), listed] = torch.inf  # not the word itself
    nearest = distance.topk(near, largest=False).indices
    found = torch.isin(nearest, listed)
    side = torch.arange(len(words)) < len(PRAISE)
    same = side[distance[:, listed].argmin(1)] == side
    others, every = len(words) - 1, int(whole.sum()) - 1
    metrics = {
        "words": len(words),
        "words_with_listed": int(found.any(1).sum()),
        "chance_with_listed": float(hypergeom(every, others, near).sf(0)),
        "share_listed": float(found.float().mean()),
        "chance_share": others / every,
        "same_side": int(same.sum()),
        "chance_same_side": float(sum((side == s).sum().item() - 1 for s in side) / others / len(words)),
        "nearest": {
            word: tokenizer.convert_ids_to_tokens(row)
            for word, row in zip(words, nearest.tolist(), strict=True)
        },
    }
    return Made(
        metrics, {"seed": None, "near": near, "praise": PRAISE, "blame": BLAME}, {"source": "the encoder"}
    )
