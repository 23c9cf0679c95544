"""Who liked which film: MovieLens' small set where it is at hand, a set of our own where not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from topk_lib.data.reviews import EMBEDDED

__all__ = ["MOVIELENS", "Ratings", "load_ratings"]

MOVIELENS = "ml-latest-small"
"""Harper and Konstan (2015); its licence lets nobody pass it on, so it comes from GroupLens alone."""

_OURS = Path(__file__).parent / "corpus" / "movielens"
_COLUMNS = {
    "movies": {"movieId": "int64", "title": "str", "genres": "str"},
    "ratings": {"userId": "int64", "movieId": "int64", "rating": "float64", "timestamp": "int64"},
    "tags": {"userId": "int64", "movieId": "int64", "tag": "str", "timestamp": "int64"},
}


class Ratings(NamedTuple):
    """Films and what people made of them.

    Attributes:
        movies: ``movieId``, ``title``, ``genres`` (joined by |).
        ratings: ``userId``, ``movieId``, ``rating`` (0.5 to 5), ``timestamp`` (seconds), in order of time.
        tags: ``userId``, ``movieId``, ``tag``, ``timestamp``, in order of time.
        source: where they came from, in a few words.
    """

    movies: pd.DataFrame
    ratings: pd.DataFrame
    tags: pd.DataFrame
    source: str


def load_ratings(source: str | Path | None = None, *, quiet: bool = False) -> Ratings:
    """Load films, ratings and tags, and say in one line where they came from.

    Args:
        source: a folder with ``movies.csv``, ``ratings.csv`` and ``tags.csv`` as GroupLens lays them out, or
            one that holds such a folder named :data:`MOVIELENS`; "embedded": people and films of our own,
            CC0; None: the folder in ``TOPK_DATA`` where it is set, else the embedded set.
        quiet: leave out the line.

    Raises:
        FileNotFoundError: the named folder, or a file in it, is not there.
        ValueError: a file lacks a column, or a value in it is none.
    """
    if source is None:
        source = os.environ.get("TOPK_DATA") or "embedded"
    folder, label = _OURS, EMBEDDED
    if str(source) != "embedded":
        folder = Path(source).expanduser()
        folder = folder / MOVIELENS if (folder / MOVIELENS).is_dir() else folder
        label = f"the folder {folder.absolute().name}"
        if not (folder / "ratings.csv").is_file():
            raise FileNotFoundError(
                f"no ratings.csv in {str(folder)!r}: unpack GroupLens' {MOVIELENS}.zip there, or say "
                '"embedded"'
            )
    movies, ratings, tags = (_table(folder / f"{name}.csv", types) for name, types in _COLUMNS.items())
    by_time = ["timestamp", "userId", "movieId"]
    ratings = ratings.sort_values(by_time, kind="stable", ignore_index=True)
    tags = tags.sort_values(by_time, kind="stable", ignore_index=True)
    found = Ratings(movies, ratings, tags, label)
    if not quiet:
        people = ratings["userId"].nunique()
        print(f"{len(ratings):,} ratings of {len(movies):,} films by {people:,} people from {label}")
    return found


def _table(path: Path, types: dict[str, str]) -> pd.DataFrame:
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}: {path.name} belongs to the set")
    try:
        table = pd.read_csv(path, dtype=types, usecols=list(types), keep_default_na=False)
    except (ValueError, pd.errors.ParserError) as error:
        raise ValueError(f"{path} is not as GroupLens writes it ({error}): unpack it anew") from None
    return table[list(types)]
