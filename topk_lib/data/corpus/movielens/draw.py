"""Draws who rated which of the invented films, and how, from what is stated of films and people.

``films.csv`` and ``tastes.csv`` are written by hand. Run as a program this writes ``movies.csv``,
``ratings.csv`` and ``tags.csv`` from them, in the public set's columns and always the same.

Nothing in the three files tells a film's quality and pace, or a person's taste: these are to be found out.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from random import Random
from statistics import NormalDist
from typing import NamedTuple

HERE = Path(__file__).parent
_SEED = 20240101  # of ``Random.random`` alone, which is the same in every version of Python
_NOISE = 0.45  # of a person's mood, in stars
_SITTING = 7  # films rated on one evening, about


class Film(NamedTuple):
    """One invented film: ``quality`` and ``pace`` lie between -1 and 1; ``out`` is its day, in seconds."""

    number: int
    title: str
    genres: frozenset[str]
    quality: float
    pace: float
    tags: tuple[str, ...]
    out: float


class Person(NamedTuple):
    """One invented person: what they like, how kindly they judge, how many films they rate, and when."""

    number: int
    likes: frozenset[str]
    dislikes: frozenset[str]
    tags: frozenset[str]
    pace: float
    kindness: float
    ratings: int
    first: float
    last: float


class Rating(NamedTuple):
    """A row of ``ratings.csv``."""

    user: int
    film: int
    stars: float
    time: int


def _rows(name: str) -> list[dict[str, str]]:
    with (HERE / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _time(year: int, month: int = 1) -> float:
    return datetime(year, month, 1, tzinfo=timezone.utc).timestamp()


def films() -> list[Film]:
    """The films as they are stated; each comes out in the July of its year."""
    return [
        Film(
            int(row["movieId"]), row["title"], frozenset(row["genres"].split("|")), float(row["quality"]),
            float(row["pace"]), tuple(row["tags"].split("|")), _time(int(row["title"][-5:-1]), 7),
        )
        for row in _rows("films.csv")
    ]  # fmt: skip


def people() -> list[Person]:
    """The people as they are stated; each rates from the first January to the last December."""
    return [
        Person(
            int(row["userId"]), frozenset(row["likes"].split("|")), frozenset(row["dislikes"].split("|")),
            frozenset(row["tags"].split("|")), float(row["pace"]), float(row["kindness"]),
            int(row["ratings"]), _time(int(row["first"])), _time(int(row["last"]) + 1),
        )
        for row in _rows("tastes.csv")
    ]  # fmt: skip


def liking(person: Person, film: Film) -> float:
    """How much better than the film's quality this person finds it, in stars."""
    liked, disliked = len(person.likes & film.genres), len(person.dislikes & film.genres)
    loved = min(len(person.tags & set(film.tags)), 2)
    by_genre = (liked - disliked) / math.sqrt(len(film.genres))
    return 0.9 * by_genre + 0.4 * loved + 0.9 * person.pace * film.pace


def draw_ratings(films: Sequence[Film], people: Sequence[Person]) -> list[Rating]:
    """Evening by evening everyone takes of the films that are out and unseen the k best by noisy taste."""
    rng = Random(_SEED)
    normal = NormalDist()
    found = []
    for person in people:
        days = person.last - person.first
        evenings = sorted(person.first + days * rng.random() for _ in range(person.ratings // _SITTING))
        seen: set[int] = set()
        for evening in evenings:
            scores = {}
            for film in films:
                new = evening - film.out < 2 * 365 * 86_400
                noise = -math.log(-math.log(rng.random()))  # Gumbel's: a draw without replacement
                wish = liking(person, film) + 1.2 * film.quality + 0.8 * new
                if film.out < evening and film.number not in seen:
                    scores[film] = wish + noise
            time = evening
            for film in sorted(scores, key=lambda film: -scores[film])[:_SITTING]:
                mood = _NOISE * normal.inv_cdf(rng.random())
                stars = 3.0 + person.kindness + 0.7 * film.quality + liking(person, film) + mood
                time += 15 + rng.random() * 200
                stars = min(max(round(2 * stars) / 2, 0.5), 5.0)
                found.append(Rating(person.number, film.number, stars, int(time)))
                seen.add(film.number)
    return sorted(found)


def draw_tags(films: Sequence[Film], ratings: Sequence[Rating]) -> list[tuple[int, int, str, int]]:
    """Each tag of a film is given by one or two of those who rated it, minutes after they did."""
    rng = Random(_SEED)
    found: list[tuple[int, int, str, int]] = []
    for film in films:
        raters = [rating for rating in ratings if rating.film == film.number]
        for tag in film.tags:
            by = sorted(raters, key=lambda _: rng.random())[: 1 + (rng.random() < 0.5)]
            found.extend((r.user, film.number, tag, r.time + 20 + int(600 * rng.random())) for r in by)
    return sorted(found)


def tables() -> dict[str, str]:
    """The three files by their names, as they are to stand."""
    stated = films()
    ratings = draw_ratings(stated, people())
    rows: dict[str, list[Sequence[object]]] = {
        "movies.csv": [["movieId", "title", "genres"],
                       *([row[key] for key in ("movieId", "title", "genres")] for row in _rows("films.csv"))],
        "ratings.csv": [["userId", "movieId", "rating", "timestamp"], *ratings],
        "tags.csv": [["userId", "movieId", "tag", "timestamp"], *draw_tags(stated, ratings)],
    }  # fmt: skip
    texts = {}
    for name, table in rows.items():
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(table)
        texts[name] = text.getvalue()
    return texts


if __name__ == "__main__":
    for name, text in tables().items():
        (HERE / name).write_text(text, encoding="utf-8", newline="\n")
