"""Selectors that count: fitted on the token ids of a training corpus."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from topk_lib.selectors.base import Selector, register

__all__ = ["LinearSelector", "TfidfSelector", "count_tokens"]


def count_tokens(token_ids: Sequence[Sequence[int]], vocabulary: int | None = None) -> csr_matrix:
    """Count the tokens of each text.

    Returns:
        (texts, vocabulary) sparse int32, where ``vocabulary`` defaults to the largest id + 1.
    """
    lengths = np.fromiter((len(ids) for ids in token_ids), dtype=np.int64, count=len(token_ids))
    flat = np.fromiter((i for ids in token_ids for i in ids), dtype=np.int32, count=int(lengths.sum()))
    width = int(flat.max()) + 1 if vocabulary is None else vocabulary
    ends = np.concatenate(([0], np.cumsum(lengths)))
    counts = csr_matrix((np.ones(len(flat), dtype=np.int32), flat, ends), shape=(len(token_ids), width))
    counts.sum_duplicates()
    return counts


class _TableSelector(Selector):
    """A selector with one learned number per token type; types never seen score 0."""

    needs_fit: ClassVar[bool] = True

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self.table: Tensor | None = None

    def tensors(self) -> dict[str, Tensor]:
        if self.table is None:
            raise self._missing()
        return {"table": self.table}

    def set_tensors(self, tensors: dict[str, Tensor]) -> None:
        self.table = tensors["table"]

    def look_up(self, input_ids: Tensor) -> Tensor:
        """The learned number of each token, (batch, length) float32."""
        if self.table is None:
            raise self._missing()
        table = self.table.to(input_ids.device)
        known = input_ids < len(table)
        return table[input_ids.where(known, 0)].masked_fill(~known, 0.0)


@register
class TfidfSelector(_TableSelector):
    """TF-IDF within each text: how often the token occurs there, times how rare it is elsewhere.

    idf = ln((1 + texts) / (1 + texts with the token)) + 1, as in scikit-learn. Every occurrence
    of a token has the same score; the first ones win a tie.
    """

    name: ClassVar[str] = "tfidf"
    rule: ClassVar[str] = "TF-IDF"

    def fit(self, token_ids: Sequence[Sequence[int]], labels: Sequence[int] | None = None) -> TfidfSelector:
        transformer = TfidfTransformer().fit(count_tokens(token_ids))
        self.table = torch.from_numpy(transformer.idf_).float()
        return self

    def scores(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        idf = self.look_up(input_ids)
        # Count each token in its text: sort, number the runs of equal ids, count each run.
        ids = input_ids.masked_fill(attention_mask == 0, -1)
        sorted_ids, order = ids.sort(dim=-1)
        new_run = torch.ones_like(sorted_ids, dtype=torch.int64)
        new_run[..., 1:] = sorted_ids[..., 1:] != sorted_ids[..., :-1]
        run = new_run.cumsum(-1) - 1
        length = torch.zeros_like(run).scatter_add(-1, run, torch.ones_like(run))
        term_frequency = torch.zeros_like(run).scatter(-1, order, length.gather(-1, run))
        return term_frequency * idf


@register
class LinearSelector(_TableSelector):
    """The absolute weight of the token in a linear model of the training labels.

    Logistic regression (scikit-learn, C = 1) on L2-normalised TF-IDF of token ids with
    sublinear term frequency. A token far from 0 speaks for one of the two classes.
    """

    name: ClassVar[str] = "linear"
    rule: ClassVar[str] = "linear weight"

    def fit(self, token_ids: Sequence[Sequence[int]], labels: Sequence[int] | None = None) -> LinearSelector:
        if labels is None:
            raise ValueError("the linear selector learns from labels: call fit(token_ids, labels)")
        features = TfidfTransformer(sublinear_tf=True).fit_transform(count_tokens(token_ids))
        model = LogisticRegression(max_iter=1000).fit(features, np.asarray(labels))
        self.table = torch.from_numpy(np.abs(model.coef_[0])).float()
        return self

    def scores(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.look_up(input_ids)
