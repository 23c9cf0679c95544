"""Selectors that count: fitted on the token ids of a training corpus."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.sparse import csr_matrix
from scipy.special import xlogy
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.feature_selection import chi2
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from topk_lib.selectors.base import Selector, register

__all__ = [
    "Chi2Selector",
    "CorpusTfidfSelector",
    "FrequencySelector",
    "LinearSelector",
    "MutualInformationSelector",
    "TableSelector",
    "TfidfSelector",
    "class_counts",
    "count_tokens",
]


def count_tokens(token_ids: Sequence[Sequence[int]], vocabulary: int | None = None) -> csr_matrix:
    """Count the tokens of each text.

    Returns:
        (texts, vocabulary) sparse int32, where ``vocabulary`` defaults to the largest id + 1.

    Raises:
        ValueError: no text has a token, or an id lies outside the vocabulary.
    """
    lengths = np.fromiter((len(ids) for ids in token_ids), dtype=np.int64, count=len(token_ids))
    flat = np.fromiter((i for ids in token_ids for i in ids), dtype=np.int32, count=int(lengths.sum()))
    if not len(flat):
        raise ValueError("there is no token to count: give at least one text that is not empty")
    largest = int(flat.max())
    width = largest + 1 if vocabulary is None else vocabulary
    if largest >= width:
        raise ValueError(f"token id {largest} lies outside the vocabulary of {width}")
    ends = np.concatenate(([0], np.cumsum(lengths)))
    counts = csr_matrix((np.ones(len(flat), dtype=np.int32), flat, ends), shape=(len(token_ids), width))
    counts.sum_duplicates()
    return counts


class TableSelector(Selector):
    """A selector with one learned number per token type; types beyond the table score 0.

    Attributes:
        table: (vocabulary,) float32.
    """

    needs_fit: ClassVar[bool] = True
    table: Tensor

    def __init__(self, seed: int = 0, vocabulary: int | None = None) -> None:
        super().__init__(seed, vocabulary)
        self.register_buffer("table", torch.full((vocabulary or 1,), torch.nan))  # NaN: not fitted

    def attach(self, embedding: torch.nn.Embedding) -> TableSelector:
        super().attach(embedding)
        more = embedding.num_embeddings - len(self.table)
        if more:  # a table as wide as the largest id it saw, or of a vocabulary that was resized
            self.vocabulary = embedding.num_embeddings
            value = torch.nan if bool(self.table[0].isnan()) else 0.0
            self.table = torch.nn.functional.pad(self.table, (0, more), value=value)
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if (found := state_dict.get(f"{prefix}table")) is not None:
            self.table = self.table.new_empty(found.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def count(self, token_ids: Sequence[Sequence[int]]) -> csr_matrix:
        """:func:`count_tokens`, as wide as the vocabulary."""
        return count_tokens(token_ids, self.vocabulary)

    def keep(self, table: Any) -> None:
        """Take the learned numbers, (vocabulary,)."""
        self.table = torch.as_tensor(np.asarray(table), dtype=torch.float32).to(self.table.device)

    def look_up(self, input_ids: Tensor) -> Tensor:
        """The learned number of each token, (batch, length) float32."""
        if not torch.compiler.is_exporting() and bool(self.table[0].isnan()):
            raise self._missing()
        known = input_ids < len(self.table)
        return self.table[input_ids.where(known, 0)].masked_fill(~known, 0.0)

    def scores(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.look_up(input_ids)


def class_counts(counts: csr_matrix, labels: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """In how many texts of each class each token type stands.

    Returns:
        (classes, vocabulary) float64, and (classes,) the number of texts of each class.
    """
    truth = np.asarray(labels)
    present = counts > 0
    classes = np.unique(truth)
    found = np.stack([np.asarray(present[truth == c].sum(0), dtype=np.float64).ravel() for c in classes])
    return found, np.array([(truth == c).sum() for c in classes], dtype=np.float64)


@register
class FrequencySelector(TableSelector):
    """How often the token type occurs in the training texts: the common ones are kept."""

    name: ClassVar[str] = "frequency"
    rule: ClassVar[str] = "frequency"

    def fit(
        self, token_ids: Sequence[Sequence[int]], labels: Sequence[int] | None = None
    ) -> FrequencySelector:
        self.keep(np.asarray(self.count(token_ids).sum(0)).ravel())
        return self


@register
class TfidfSelector(TableSelector):
    """TF-IDF within each text: how often the token occurs there, times how rare it is elsewhere.

    idf = ln((1 + texts) / (1 + texts with the token)) + 1, as in scikit-learn: a type of the vocabulary
    that no training text has is the rarest of all. Every occurrence of a token has the same score; the
    first ones win a tie.
    """

    name: ClassVar[str] = "tfidf"
    rule: ClassVar[str] = "TF-IDF"

    def fit(self, token_ids: Sequence[Sequence[int]], labels: Sequence[int] | None = None) -> TfidfSelector:
        self.keep(TfidfTransformer().fit(self.count(token_ids)).idf_)
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
class CorpusTfidfSelector(TableSelector):
    """TF-IDF over the corpus: the mean, over the training texts, of each text's TF-IDF vector.

    The vectors are L2-normalised, as in scikit-learn.
    """

    name: ClassVar[str] = "tfidf_corpus"
    rule: ClassVar[str] = "TF-IDF, corpus"

    def fit(
        self, token_ids: Sequence[Sequence[int]], labels: Sequence[int] | None = None
    ) -> CorpusTfidfSelector:
        self.keep(np.asarray(TfidfTransformer().fit_transform(self.count(token_ids)).mean(0)).ravel())
        return self


@register
class Chi2Selector(TableSelector):
    """Pearson's chi-squared of the token's counts against the labels (scikit-learn's ``chi2``).

    Yang and Pedersen (1997), "A comparative study on feature selection in text categorization".
    """

    name: ClassVar[str] = "chi2"
    rule: ClassVar[str] = "chi-squared"

    def fit(self, token_ids: Sequence[Sequence[int]], labels: Sequence[int] | None = None) -> Chi2Selector:
        statistic, _ = chi2(self.count(token_ids), self._labels(token_ids, labels))
        self.keep(np.nan_to_num(statistic))  # types that no text has
        return self


@register
class MutualInformationSelector(TableSelector):
    """Mutual information, in nats, of the label and whether the text has the token.

    Yang and Pedersen (1997) call it information gain.
    """

    name: ClassVar[str] = "mutual_information"
    rule: ClassVar[str] = "mutual information"

    def fit(
        self, token_ids: Sequence[Sequence[int]], labels: Sequence[int] | None = None
    ) -> MutualInformationSelector:
        found, texts = class_counts(self.count(token_ids), self._labels(token_ids, labels))
        total = texts.sum()
        table = np.zeros(found.shape[1])
        # With the token, and without it.
        for joint in (found, texts[:, None] - found):
            apart = texts[:, None] * joint.sum(0) / total  # were the two independent
            table += (xlogy(joint, joint) - xlogy(joint, apart)).sum(0) / total
        self.keep(np.maximum(table, 0))
        return self


@register
class LinearSelector(TableSelector):
    """The absolute weight of the token in a linear model of the training labels.

    Logistic regression (scikit-learn, C = 1) on L2-normalised TF-IDF of token ids with
    sublinear term frequency. A token far from 0 speaks for one of the two classes.
    """

    name: ClassVar[str] = "linear"
    rule: ClassVar[str] = "linear weight"

    def fit(self, token_ids: Sequence[Sequence[int]], labels: Sequence[int] | None = None) -> LinearSelector:
        truth = self._labels(token_ids, labels)
        features = TfidfTransformer(sublinear_tf=True).fit_transform(self.count(token_ids))
        # One row of weights for two classes, one a class for more.
        self.keep(np.abs(LogisticRegression(max_iter=1000).fit(features, truth).coef_).max(axis=0))
        return self
