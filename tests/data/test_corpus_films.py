"""The embedded films and ratings are what is stated of them, drawn again and counted."""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from pathlib import Path
from statistics import fmean

import numpy as np

from topk_lib.data import CORPUS_FILE
from topk_lib.data.corpus.movielens import draw

FOLDER = CORPUS_FILE.parent / "movielens"
GENRES = {
    "Action", "Adventure", "Animation", "Children", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
}  # fmt: skip


def table(name: str) -> list[dict[str, str]]:
    with (FOLDER / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_files_are_those_that_the_program_draws() -> None:
    for name, text in draw.tables().items():
        assert (FOLDER / name).read_text(encoding="utf-8") == text, f"{name}: run draw.py"


def test_films_are_many_and_unlike() -> None:
    films = table("movies")
    assert list(films[0]) == ["movieId", "title", "genres"]
    assert len(films) >= 150
    assert len({re.sub(r" \(\d{4}\)", "", film["title"]).lower() for film in films}) == len(films)
    assert all(re.fullmatch(r".+ \((19|20)\d\d\)", film["title"]) for film in films)
    assert {genre for film in films for genre in film["genres"].split("|")} == GENRES


def test_ratings_are_half_stars_given_once_and_after_the_film_came_out() -> None:
    ratings, year = table("ratings"), {film["movieId"]: int(film["title"][-5:-1]) for film in table("movies")}
    assert list(ratings[0]) == ["userId", "movieId", "rating", "timestamp"]
    assert len(ratings) >= 3000
    assert len({row["userId"] for row in ratings}) >= 60
    assert len({(row["userId"], row["movieId"]) for row in ratings}) == len(ratings)
    assert {float(row["rating"]) for row in ratings} <= {stars / 2 for stars in range(1, 11)}
    assert 0.3 < fmean(float(row["rating"]) >= 4 for row in ratings) < 0.7
    for row in ratings:
        assert np.datetime64(int(row["timestamp"]), "s") > np.datetime64(f"{year[row['movieId']]}-07-01")


def test_some_films_are_rated_in_the_last_fifth_of_the_time_only() -> None:
    ratings = sorted(table("ratings"), key=lambda row: int(row["timestamp"]))
    cut = int(0.8 * len(ratings))
    before, after = ({row["movieId"] for row in part} for part in (ratings[:cut], ratings[cut:]))
    assert len(after - before) >= 10
    users = {row["userId"] for row in ratings[cut:]}
    assert len(users) >= 40
    assert users <= {row["userId"] for row in ratings[:cut]}


def test_people_rate_by_their_tastes() -> None:
    genres = {film["movieId"]: set(film["genres"].split("|")) for film in table("movies")}
    stars: defaultdict[str, list[float]] = defaultdict(list)
    tastes = {row["userId"]: row for row in table("tastes")}
    for row in table("ratings"):
        for key in ("likes", "dislikes"):
            if genres[row["movieId"]] & set(tastes[row["userId"]][key].split("|")):
                stars[key].append(float(row["rating"]))
    assert fmean(stars["likes"]) > fmean(stars["dislikes"]) + 0.5


def test_tags_are_given_by_those_who_rated_the_film() -> None:
    tags, ratings = table("tags"), table("ratings")
    assert list(tags[0]) == ["userId", "movieId", "tag", "timestamp"]
    times = {(row["userId"], row["movieId"]): int(row["timestamp"]) for row in ratings}
    assert all(times[row["userId"], row["movieId"]] < int(row["timestamp"]) for row in tags)
    stated = {film.number: set(film.tags) for film in draw.films()}
    assert all(row["tag"] in stated[int(row["movieId"])] for row in tags)
    assert {tag for person in draw.people() for tag in person.tags} <= set().union(*stated.values())


def test_every_file_of_the_sets_comes_with_the_package() -> None:
    root = Path(__file__).resolve().parents[2]
    globs = re.search(r"^topk_lib = \[(.+)\]$", (root / "pyproject.toml").read_text(), re.MULTILINE)
    assert globs is not None
    covered = {path for glob in re.findall(r'"(.+?)"', globs[1]) for path in (root / "topk_lib").glob(glob)}
    data = [p for p in CORPUS_FILE.parent.rglob("*.*") if p.suffix in (".csv", ".jsonl", ".md")]
    assert len(data) >= 10
    assert set(data) <= covered
