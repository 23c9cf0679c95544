"""Which target types a sentence's translation may need: IBM Model 1, and the k best types by it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from topk_lib.ops import hard_topk

__all__ = ["Lexicon", "alignment", "candidates", "coverage", "learn_lexicon"]

_EPS = 1e-6


class Lexicon(NamedTuple):
    """A table of translation probabilities t(f | e) of token types, one row a source type.

    Attributes:
        starts: (types + 2,) int64: the entries of source type e are ``starts[e]`` to ``starts[e + 1]``; after
            all types comes the empty word, from which translate the words that have no partner.
        targets: (entries,) int64 target types, ascending in each row.
        probabilities: (entries,) float64.
        counts: (types,) int64: how often each type stands in the training translations.
        rank: (types,) int64: the place of each type by that count, 0 for the commonest; of equals the lower
            id comes first.
    """

    starts: np.ndarray
    targets: np.ndarray
    probabilities: np.ndarray
    counts: np.ndarray
    rank: np.ndarray

    @property
    def types(self) -> int:
        return len(self.counts)

    def row(self, source: int) -> tuple[np.ndarray, np.ndarray]:
        """The target types of a source type (``types``: the empty word) and their probabilities."""
        here = slice(self.starts[source], self.starts[source + 1])
        return self.targets[here], self.probabilities[here]

    def expected(self, source: Sequence[int]) -> np.ndarray:
        """(types,) float64: the sum of t(f | e) over a sentence's tokens e and the empty word.

        Model 1 expects so many f in a translation that is as long as the sentence.
        """
        rows = [self.row(e) for e in (*source, self.types)]
        targets = np.concatenate([t for t, _ in rows])
        return np.bincount(targets, np.concatenate([p for _, p in rows]), minlength=self.types)


def learn_lexicon(
    sources: Sequence[Sequence[int]],
    targets: Sequence[Sequence[int]],
    types: int,
    *,
    iterations: int = 5,
    least: float = 1e-4,
) -> Lexicon:
    """Learn t(f | e) from pairs of sentences by expectation maximisation: IBM Model 1 (Brown et al. 1993).

    Each target token comes from one token of the source, or from the empty word, each as likely beforehand.
    Start with all t equal; share every target token out among its possible origins in proportion to t; count
    the shares; divide by the sums of each origin; repeat.

    Args:
        sources, targets: token ids of each sentence and of its translation, without special tokens.
        types: the size of the vocabulary that both share.
        iterations: 1 only weighs how often types stand in the same pair.
        least: probabilities below this are left out at the end.

    Raises:
        ValueError: no pairs, or fewer than one iteration.
    """
    if iterations < 1:
        raise ValueError(f"iterations must be 1 at least, got {iterations}")
    kept = [(s, t) for s, t in zip(sources, targets, strict=True) if len(t)]
    if not kept:
        raise ValueError("there is no pair to learn from")
    origins: list[np.ndarray] = []
    words: list[np.ndarray] = []
    slots: list[np.ndarray] = []
    slot = 0
    for source, target in kept:
        begins = np.array([*source, types], dtype=np.int64)
        places = np.arange(slot, slot + len(target))
        origins.append(np.tile(begins, len(target)))
        words.append(np.repeat(np.asarray(target, dtype=np.int64), len(begins)))
        slots.append(np.repeat(places, len(begins)))
        slot += len(target)
    keys, entry = np.unique(np.concatenate(origins) * types + np.concatenate(words), return_inverse=True)
    at, of = np.concatenate(slots), keys // types
    t = np.ones(len(keys))
    for _ in range(iterations):
        share = t[entry]
        share /= np.bincount(at, share)[at]
        count = np.bincount(entry, share, minlength=len(keys))
        t = count / np.bincount(of, count, minlength=types + 1)[of]
    stays = t >= least
    keys, of, t = keys[stays], of[stays], t[stays]
    counts = np.bincount(np.concatenate([np.asarray(t) for _, t in kept]).astype(np.int64), minlength=types)
    rank = np.empty(types, dtype=np.int64)
    rank[np.argsort(-counts, kind="stable")] = np.arange(types)
    starts = np.searchsorted(of, np.arange(types + 2))
    return Lexicon(starts, keys % types, t, counts, rank)


def candidates(
    lexicon: Lexicon, source: Sequence[int], k: int, *, common: int = 0, pinned: Sequence[int] = (1,)
) -> Tensor:
    """Choose the k target types that may stand in the translation of one sentence.

    First the pinned ones, then the commonest, then those that the lexicon expects most of (see
    :meth:`Lexicon.expected`), then by how common they are; of equals the lower id.

    Args:
        source: token ids, without special tokens.
        k: ``len(pinned)`` at least, and at most all types.
        common: so many of the commonest types come before all others; where k is smaller, those of them that
            the lexicon expects most.
        pinned: types that a translation cannot do without, such as its end.

    Returns:
        (k,) int64, ascending.

    Raises:
        ValueError: k is too small or too large, or ``common`` negative.

    Source: Mi et al. (2016) and L'Hostis et al. (2016), whose tables come from word alignments.
    """
    if not len(pinned) <= k <= lexicon.types:
        raise ValueError(f"k must be between {len(pinned)} and {lexicon.types}, the types there are, got {k}")
    if common < 0:
        raise ValueError(f"common must be 0 or above, got {common}")
    scores = lexicon.expected(source) + _EPS * lexicon.counts / max(1, lexicon.counts.sum())
    scores[lexicon.rank < common] += len(source) + 2  # more than the table can give
    scores[list(pinned)] = np.inf
    return hard_topk(torch.from_numpy(scores), k).indices


def coverage(targets: Sequence[Sequence[int]], chosen: Sequence[Tensor]) -> tuple[float, float]:
    """The share of tokens of the translations whose type was chosen, and of sentences that lack none.

    Args:
        targets: token ids of each translation.
        chosen: for each, the types that were chosen, (k,) int64.
    """
    found = [np.isin(np.asarray(t), c.numpy()) for t, c in zip(targets, chosen, strict=True) if len(t)]
    return float(np.concatenate(found).mean()), float(np.mean([one.all() for one in found]))


def alignment(lexicon: Lexicon, source: Sequence[int], target: Sequence[int]) -> list[int]:
    """From which token of the source each token of the translation most likely comes, by Model 1.

    Returns:
        Positions in the source, the first of equals; -1 where it is the empty word, or the table has none.
    """
    found = []
    for word in target:
        odds = [_probability(lexicon, e, word) for e in source]
        best = int(np.argmax(odds)) if odds else -1
        lone = _probability(lexicon, lexicon.types, word)
        found.append(best if odds and odds[best] > 0 and odds[best] >= lone else -1)
    return found


def _probability(lexicon: Lexicon, source: int, target: int) -> float:
    targets, probabilities = lexicon.row(source)
    at = int(np.searchsorted(targets, target))
    return float(probabilities[at]) if at < len(targets) and targets[at] == target else 0.0
