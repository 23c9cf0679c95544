"""How good a ranked list is, and two ways to find the k highest products without a look at all of them."""

from __future__ import annotations

import torch
from sklearn.cluster import KMeans
from torch import Tensor

from topk_lib import hard_topk

__all__ = ["Cells", "at_k", "by_person", "lift", "ranks"]


def ranks(scores: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """The place of each row's target among what may be offered, from 1.

    Among equals the lowest index stands first, as :func:`topk_lib.hard_topk` has it; NaN counts as -inf, so
    that it never stands first.

    Args:
        scores: (rows, n) float.
        target: (rows,) int64.
        valid: (rows, n) bool, or (n,): what may be offered.

    Returns:
        (rows,) int64. ``target`` in the first k is ``ranks <= k``.
    """
    scores = torch.where(scores.isnan(), -torch.inf, scores)
    own = scores.gather(1, target[:, None])
    lower = torch.arange(scores.shape[1]) < target[:, None]
    before = (scores > own) | ((scores == own) & lower)
    return (before & valid).sum(-1) + 1


def at_k(places: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Recall@k and NDCG@k where one thing is right: 1 if it is among the k first, and 1 / log2(1 + place).

    Järvelin and Kekäläinen (2002), with the discount that is usual today. With one right thing the best list
    has it first, and so the sum that NDCG divides by is 1.

    Args:
        places: (rows,) int64 from 1, as :func:`ranks` gives them.
        k: at least 1.

    Returns:
        Two (rows,) float32.
    """
    hit = (places <= k).float()
    return hit, hit / (1 + places).float().log2()


def by_person(values: Tensor, people: Tensor) -> Tensor:
    """(people,) the mean over each person's rows, in ascending order of ``people``: so each counts once."""
    which: Tensor = people.unique(return_inverse=True)[1]  # type: ignore[no-untyped-call]
    count = which.bincount()
    return torch.zeros(len(count)).index_add_(0, which, values.float()) / count


def lift(vectors: Tensor) -> Tensor:
    """Vectors with one number more, so that the nearest to (query, 0) has the highest product with the query.

    Bachrach et al. (2014): with x' = (x, sqrt(M^2 - |x|^2)), M the longest, all x' are equally long, and
    |q' - x'|^2 = |q|^2 + M^2 - 2 q.x falls as the product rises.

    Args:
        vectors: (n, width) float.

    Returns:
        (n, width + 1).
    """
    squares = vectors.square().sum(-1, keepdim=True)
    return torch.cat([vectors, (squares.max() - squares).clamp(min=0).sqrt()], -1)


class Cells:
    """An inverted file: things in cells around centres; a query looks into the ``probe`` best cells alone.

    Jégou et al. (2011), without their compression. It is hard top-k twice: of the cells, then of what is in
    them; what lies in no such cell is missed.

    Args:
        vectors: (n, width) float32.
        cells: how many, at most n.
        seed: of the search for centres (k-means).

    Raises:
        ValueError: fewer than 1 cell, or more than vectors.
    """

    def __init__(self, vectors: Tensor, cells: int, seed: int = 0) -> None:
        if not 1 <= cells <= len(vectors):
            raise ValueError(f"there can be 1 to {len(vectors)} cells, a vector each at least, got {cells}")
        self.vectors = vectors
        found = KMeans(cells, n_init=1, random_state=seed).fit(vectors.numpy())
        self.centres = torch.from_numpy(found.cluster_centers_).float()
        cell = torch.from_numpy(found.labels_).long()
        self.inside = [(cell == i).nonzero()[:, 0] for i in range(cells)]

    def search(self, queries: Tensor, k: int, probe: int) -> Tensor:
        """The k highest products that the ``probe`` best cells hold.

        Args:
            queries: (m, width) float32.
            k: at least 1.
            probe: 1 to the number of cells.

        Returns:
            (m, k) int64 in the order of the product; -1 where the cells hold fewer than k.
        """
        cells = hard_topk(queries @ self.centres.T, probe).indices.tolist()
        found = torch.full((len(queries), k), -1)
        for row, (query, some) in enumerate(zip(queries, cells, strict=True)):
            at = torch.cat([self.inside[i] for i in some])
            best = hard_topk(self.vectors[at] @ query, min(k, len(at)), order="value").indices
            found[row, : len(best)] = at[best]
        return found
