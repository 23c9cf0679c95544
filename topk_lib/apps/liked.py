"""Who liked what next, and what was known before: moments of ratings, and the texts of films."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from topk_lib.data import Ratings

__all__ = ["LIKED", "WINDOW", "Events", "cut_dates", "film_texts", "known_films", "liked_next"]

LIKED = 4.0
"""Stars from which on a film counts as liked."""

WINDOW = 30
"""Ratings of a history that are read: the latest."""

_ARTICLE = re.compile(r"^(.+), (The|A|An)(?= \(|$)")


class Events(NamedTuple):
    """Moments in which somebody rated a film as liked, and what they had rated strictly before.

    Attributes:
        films: (ratings,) int64, all ratings by person and time: the film's place in ``movies``.
        stars: (ratings,) float32.
        start, stop: (n,) int64: what was rated before each moment is ``films[start:stop]``, at least one.
        target: (n,) int64, the film liked next.
        person: (n,) int64.
    """

    films: Tensor
    stars: Tensor
    start: Tensor
    stop: Tensor
    target: Tensor
    person: Tensor

    def history(self, some: Tensor, window: int = WINDOW) -> tuple[Tensor, Tensor, Tensor]:
        """The last ratings before some moments: films, stars and which are real, (m, window) each."""
        at = self.stop[some, None] - window + torch.arange(window)
        real = at >= self.start[some, None]
        at = at.clamp(min=0)
        return self.films[at], self.stars[at], real

    def rated(self, some: Tensor, films: int) -> Tensor:
        """(m, films) bool: what was rated before some moments, and is not offered again."""
        start, count = self.start[some], self.stop[some] - self.start[some]
        rows = torch.arange(len(some)).repeat_interleave(count)
        step = torch.arange(len(rows)) - (count.cumsum(0) - count).repeat_interleave(count)
        mask = torch.zeros(len(some), films, dtype=torch.bool)
        mask[rows, self.films[start.repeat_interleave(count) + step]] = True
        return mask


def cut_dates(ratings: Ratings, shares: Sequence[float] = (0.7, 0.8)) -> tuple[int, ...]:
    """The moments (seconds) before which these shares of all ratings were given: the same for everybody.

    Cutting each person's own ratings instead would let a model learn from ratings that were given after those
    it is tested on.
    """
    times = np.sort(ratings.ratings["timestamp"].to_numpy())
    return tuple(int(times[int(share * len(times))]) for share in shares)


def liked_next(ratings: Ratings, since: float = -math.inf, until: float = math.inf) -> Events:
    """Every rating of at least :data:`LIKED` from ``since`` on and before ``until``, as a label.

    What bears the same time as the label is not read: people rate a page of films at once.

    Raises:
        ValueError: there is none, or a rated film is missing from the films.
    """
    table = ratings.ratings.sort_values(["userId", "timestamp"], kind="stable")
    place = {int(film): at for at, film in enumerate(ratings.movies["movieId"])}
    if unknown := set(map(int, table["movieId"])) - place.keys():
        raise ValueError(f"film {min(unknown)} was rated and is not among the films: movies.csv lacks it")
    person, time, stars = (table[c].to_numpy() for c in ("userId", "timestamp", "rating"))
    at = np.arange(len(table))
    other = np.append(True, person[1:] != person[:-1])[: len(at)]
    later = other | np.append(True, time[1:] != time[:-1])[: len(at)]
    start, stop = (np.maximum.accumulate(np.where(new, at, 0)) for new in (other, later))
    label = (stars >= LIKED) & (time >= since) & (time < until) & (stop > start)
    if not label.any():
        raise ValueError("nobody with earlier ratings liked a film in that time: take a longer one")
    films = torch.tensor([place[int(film)] for film in table["movieId"]])
    chosen = torch.from_numpy(np.flatnonzero(label))
    return Events(
        films, torch.tensor(stars, dtype=torch.float32), torch.from_numpy(start)[chosen],
        torch.from_numpy(stop)[chosen], films[chosen], torch.from_numpy(person.copy())[chosen],
    )  # fmt: skip


def film_texts(ratings: Ratings, before: float = math.inf, tags: int = 8) -> list[str]:
    """A text a film, in the order of ``movies``: its title, genres, and the tags given most often.

    Args:
        ratings: of :func:`topk_lib.data.load_ratings`.
        before: a moment in seconds: a tag given then or later is not known yet.
        tags: how many of them.
    """
    early = ratings.tags[ratings.tags["timestamp"] < before]
    given: dict[int, Counter[str]] = defaultdict(Counter)
    for film, tag in zip(early["movieId"], early["tag"], strict=True):
        given[int(film)][str(tag).strip().lower()] += 1
    texts = []
    for film, title, genres in ratings.movies[["movieId", "title", "genres"]].itertuples(index=False):
        parts = [_ARTICLE.sub(r"\2 \1", title)]
        if genres and not genres.startswith("("):  # "(no genres listed)"
            parts.append(genres.replace("|", ", "))
        if given[int(film)]:
            parts.append(", ".join(tag for tag, _ in given[int(film)].most_common(tags)))
        texts.append(". ".join(parts))
    return texts


def known_films(ratings: Ratings, before: float = math.inf) -> Tensor:
    """(films,) bool: rated by somebody before that moment. The others are *cold*."""
    early = ratings.ratings[ratings.ratings["timestamp"] < before]
    return torch.tensor(ratings.movies["movieId"].isin(set(early["movieId"])).tolist())
