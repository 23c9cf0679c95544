"""Selection by distance between token embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from topk_lib.selectors.base import register
from topk_lib.selectors.corpus import TableSelector

__all__ = ["EmbeddingSelector"]


@register
class EmbeddingSelector(TableSelector):
    """How much nearer a token's embedding is to one class's centroid than to the other's.

    A class's centroid is the mean embedding of all tokens of its training texts. The score of a
    type with embedding e is | ||e - c_0|| - ||e - c_1|| |, with Euclidean distances; with more than two
    classes, the second smallest distance minus the smallest. Types outside the training texts are
    scored too: their embeddings are known.
    """

    name: ClassVar[str] = "embedding"
    rule: ClassVar[str] = "embedding distance"
    needs_embeddings: ClassVar[bool] = True

    def fit(
        self, token_ids: Sequence[Sequence[int]], labels: Sequence[int] | None = None
    ) -> EmbeddingSelector:
        truth = np.asarray(self._labels(token_ids, labels))
        vectors = self.embedding.weight.detach().double().cpu().numpy()
        self.vocabulary = len(vectors)
        counts = self.count(token_ids)
        distances = []
        for label in np.unique(truth):
            weight = np.asarray(counts[truth == label].sum(0), dtype=np.float64).ravel()
            centroid = weight @ vectors / max(weight.sum(), 1.0)
            distances.append(np.linalg.norm(vectors - centroid, axis=1))
        nearest = np.sort(np.stack(distances), axis=0)
        self.keep(nearest[1] - nearest[0])
        return self
