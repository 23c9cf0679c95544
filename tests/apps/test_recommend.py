"""The recommender: nothing from after the cut is read, lists are right, and what it says to bad input."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from sklearn.metrics import ndcg_score
from sklearn.neighbors import NearestNeighbors

from topk_lib import hard_topk
from topk_lib.apps.liked import cut_dates, film_texts, known_films, liked_next
from topk_lib.apps.ranking import Cells, at_k, by_person, lift, ranks
from topk_lib.apps.recommend import WAYS, Recommender, film_vectors, fit, places, topk_loss
from topk_lib.data import Ratings, load_ratings


def rated(*rows: tuple[int, int, float, int]) -> Ratings:
    """Of four films; rows of person, film, stars, time."""
    movies = pd.DataFrame(
        {"movieId": [10, 20, 30, 40],
         "title": ["Owl, The (1999)", "Rain (2001)", "Rain (2001)", "Sand (2003)"],
         "genres": ["Drama|War", "Comedy", "(no genres listed)", "Drama"]}
    )  # fmt: skip
    tags = pd.DataFrame(
        {"userId": [1, 2, 2, 1], "movieId": [10] * 4, "tag": ["slow", " Birds", "birds", "late"],
         "timestamp": [1, 2, 3, 9]}
    )  # fmt: skip
    table = pd.DataFrame(list(rows), columns=["userId", "movieId", "rating", "timestamp"])
    table = table.sort_values("timestamp", kind="stable", ignore_index=True)
    return Ratings(movies, table, tags, "here")


@pytest.fixture(scope="module")
def own() -> Ratings:
    return load_ratings("embedded", quiet=True)


@pytest.fixture(scope="module")
def vectors(own: Ratings) -> torch.Tensor:
    return film_vectors(film_texts(own, cut_dates(own)[1]))


@pytest.fixture(scope="module")
def made(own: Ratings, vectors: torch.Tensor) -> dict[str, Recommender]:
    cut = cut_dates(own)[1]
    return {way: fit(own, way, before=cut, vectors=vectors, steps=200, width=16) for way in WAYS}


def test_moments_by_hand() -> None:
    one = rated((1, 10, 5, 3), (1, 20, 4, 5), (1, 30, 4.5, 5), (1, 40, 2, 6), (2, 30, 4, 4), (2, 10, 4, 8))
    found = liked_next(one)
    # Person 1's first rating has nothing before it; two of one moment do not see each other.
    assert found.target.tolist() == [1, 2, 0]
    assert found.person.tolist() == [1, 1, 2]
    films, stars, real = found.history(torch.arange(3), window=2)
    assert [f[r].tolist() for f, r in zip(films, real, strict=True)] == [[0], [0], [2]]
    assert [s[r].tolist() for s, r in zip(stars, real, strict=True)] == [[5], [5], [4]]
    assert found.rated(torch.tensor([2, 0]), 4).nonzero().tolist() == [[0, 2], [1, 0]]
    assert liked_next(one, until=8).target.tolist() == [1, 2]
    assert liked_next(one, since=6).target.tolist() == [0]
    with pytest.raises(ValueError, match="nobody with earlier ratings liked a film"):
        liked_next(one, since=9)
    with pytest.raises(ValueError, match="film 50 was rated and is not among the films"):
        liked_next(rated((1, 50, 5, 1)))


def test_only_tags_given_before_are_read() -> None:
    texts = film_texts(rated((1, 10, 5, 3)), before=9)
    assert texts == ["The Owl (1999). Drama, War. birds, slow", "Rain (2001). Comedy", "Rain (2001)",
                     "Sand (2003). Drama"]  # fmt: skip
    assert film_texts(rated((1, 10, 5, 3)), before=2)[0].endswith("slow")
    assert film_texts(rated((1, 10, 5, 3)), tags=1)[0].endswith("War. birds")


def test_what_came_later_changes_nothing(own: Ratings) -> None:
    cut = cut_dates(own)[0]
    early = own._replace(
        ratings=own.ratings[own.ratings["timestamp"] < cut], tags=own.tags[own.tags["timestamp"] < cut]
    )
    assert film_texts(own, cut) == film_texts(early)
    assert torch.equal(known_films(own, cut), known_films(early))
    for way in ("popular", "neighbours", "ids"):
        whole, short = (fit(x, way, before=cut, steps=3, width=4) for x in (own, early))
        assert torch.equal(whole.offer, short.offer)
        assert torch.equal(whole.prior, short.prior)


def test_cuts_are_the_same_for_everybody(own: Ratings) -> None:
    first, second = cut_dates(own)
    share = (own.ratings["timestamp"] < first).mean()
    assert share == pytest.approx(0.7, abs=0.01)
    assert first < second


def test_places_ties_and_nan() -> None:
    scores = torch.tensor([[0.1, 0.9, 0.9, math.nan], [math.nan, 1.0, 2.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    every = torch.ones(4, dtype=torch.bool)
    assert ranks(scores, torch.tensor([2, 2, 3]), every).tolist() == [2, 1, 4]
    assert ranks(scores, torch.tensor([3, 0, 0]), every).tolist() == [4, 4, 1]
    some = torch.tensor([True, True, False, True])
    assert ranks(scores, torch.tensor([0, 1, 3]), some).tolist() == [2, 1, 3]
    best = hard_topk(scores[2], 2, order="value").indices.tolist()
    assert [int(ranks(scores[2:], torch.tensor([i]), every)) for i in best] == [1, 2]


def test_recall_and_ndcg_as_others_compute_them() -> None:
    scores = torch.randn(40, 12, generator=torch.Generator().manual_seed(0))
    target = torch.arange(40) % 12
    hit, gain = at_k(ranks(scores, target, torch.ones(12, dtype=torch.bool)), 5)
    truth = torch.nn.functional.one_hot(target, 12)
    assert float(gain.mean()) == pytest.approx(ndcg_score(truth.numpy(), scores.numpy(), k=5), abs=1e-6)
    assert torch.equal(hit.bool(), hard_topk(scores, 5).mask.gather(1, target[:, None])[:, 0])
    people = torch.tensor([7, 7, 3])
    assert by_person(torch.tensor([1.0, 0.0, 1.0]), people).tolist() == [1.0, 0.5]


def test_an_index_finds_what_the_product_finds() -> None:
    dice = torch.Generator().manual_seed(0)
    films, asked = torch.randn(200, 8, generator=dice), torch.randn(5, 8, generator=dice)
    exact = hard_topk(asked @ films.T, 10, order="value").indices
    near = NearestNeighbors(algorithm="brute").fit(lift(films).numpy())
    queries = torch.cat([asked, torch.zeros(5, 1)], 1).numpy()
    assert near.kneighbors(queries, 10, return_distance=False).tolist() == exact.tolist()
    cells = Cells(films, 12)
    assert sorted(torch.cat(cells.inside).tolist()) == list(range(200))
    assert torch.equal(cells.search(asked, 10, 12), exact)
    some = cells.search(asked, 150, 1)
    assert (some[:, -1] == -1).all()
    assert (some[:, 0] >= 0).all()
    with pytest.raises(ValueError, match="1 to 200 cells"):
        Cells(films, 201)


def test_the_loss_at_k_one_is_softmax_and_at_ten_is_content_with_ten() -> None:
    scores = torch.randn(6, 50, generator=torch.Generator().manual_seed(0), requires_grad=True)
    target = torch.arange(6)
    softmax = torch.nn.functional.cross_entropy(scores, target, reduction="none")
    assert torch.allclose(topk_loss(scores, target, 1, link="exp"), softmax, atol=1e-4)
    ramp = torch.arange(50, 0, -1.0)[None] * 10
    assert float(topk_loss(ramp, torch.tensor([9]), 10)) < 0.01
    assert float(topk_loss(ramp, torch.tensor([10]), 10)) > 4
    far = (torch.arange(50, 0, -1.0)[None]).requires_grad_()
    topk_loss(far, torch.tensor([49]), 3).sum().backward()  # type: ignore[no-untyped-call]
    assert far.grad is not None
    assert far.grad[0, 49] < -0.1  # far from the k first it is still pulled up


def test_training_beats_what_most_people_like(own: Ratings, made: dict[str, Recommender]) -> None:
    events = liked_next(own, since=cut_dates(own)[1])
    found = {way: float(at_k(places(one, events), 10)[0].mean()) for way, one in made.items()}
    assert found["both"] > found["popular"], found
    assert found["both"] > 20 / 170, found  # twice what chance gives


def test_a_film_that_nobody_rated(own: Ratings, made: dict[str, Recommender]) -> None:
    cold = ~known_films(own, cut_dates(own)[1])
    assert cold.any()
    for way in ("neighbours", "ids"):
        assert (made[way].offer[cold] == 0).all()
    for way in ("vectors", "text", "both"):
        assert (made[way].offer[cold] != 0).any(-1).all()


def test_the_same_seed_and_another(own: Ratings, vectors: torch.Tensor) -> None:
    one, same, other = (
        fit(own, "both", vectors=vectors, loss="topk", steps=4, width=4, seed=s) for s in (0, 0, 1)
    )
    assert torch.equal(one.offer, same.offer)
    assert not torch.equal(one.offer, other.offer)


def test_training_is_watched_as_it_goes(own: Ratings) -> None:
    seen: list[tuple[int, float]] = []
    fit(own, "ids", steps=100, width=4, watch=lambda step, r: seen.append((step, float(r.offer.sum()))))
    assert [step for step, _ in seen] == [50, 100]
    assert seen[0][1] != seen[1][1]


def test_what_is_recommended(made: dict[str, Recommender]) -> None:
    one = made["both"]
    history: dict[int | str, float] = {one.titles[3].upper(): 5, one.films[8]: 4.5, one.films[9]: 1}
    found = one.recommend(history, 5)
    assert len({s.film for s in found}) == 5
    assert not {s.film for s in found} & {one.films[3], one.films[8], one.films[9]}
    assert [s.score for s in found] == sorted((s.score for s in found), reverse=True)
    assert all(s.title == one.titles[one.films.index(s.film)] for s in found)
    every = one.recommend(history, len(one.films) - 3)
    assert {s.because for s in every} == {one.titles[3], one.titles[8], None}  # not the one of a single star
    assert one.recommend(list(history.items()), 5) == found
    assert len(one.recommend(history, len(one.films))) == len(one.films) - 3


def test_without_a_history_the_most_liked_come(made: dict[str, Recommender]) -> None:
    for one in made.values():
        best = one.recommend([], 3)
        assert [s.film for s in best] == [one.films[int(i)] for i in
                                          hard_topk(one.popular, 3, order="value").indices]  # fmt: skip
        assert best[0].because is None


def test_nan_never_ranks(made: dict[str, Recommender]) -> None:
    one = made["both"]
    offer = one.offer.clone()
    offer[5] = math.nan
    broken = replace(one, offer=offer)
    found = broken.recommend([(one.films[3], 5.0)], len(one.films))
    assert len(found) == len(one.films) - 2
    assert one.films[5] not in {s.film for s in found}
    assert not any(math.isnan(s.score) for s in found)


def test_saved_and_loaded(made: dict[str, Recommender], tmp_path: Path) -> None:
    for way, one in made.items():
        again = Recommender.load(one.save(tmp_path / way))
        history = [(one.films[2], 4.0), (one.films[7], 2.0)]
        assert again.recommend(history, 7) == one.recommend(history, 7)
        assert again.about == one.about
    with pytest.raises(OSError, match=r"no whole recommender in .*save one there"):
        Recommender.load(tmp_path)
    (tmp_path / "both" / "recommender.safetensors").write_bytes(b"torn")
    with pytest.raises(OSError, match="no whole recommender"):
        Recommender.load(tmp_path / "both")
    told = json.loads((tmp_path / "ids" / "recommender.json").read_text("utf-8"))
    (tmp_path / "ids" / "recommender.json").write_text(json.dumps(told | {"films": told["films"][1:]}))
    with pytest.raises(OSError, match="of different recommenders"):
        Recommender.load(tmp_path / "ids")


@pytest.mark.parametrize(
    ("history", "k", "said"),
    [
        ([("The Silent Auctoneer (1947)", 4)], 3, "did you mean 'The Silent Auctioneer"),
        ([("zzzz", 4)], 3, "titles are written as in"),
        ([(-5, 4)], 3, "no film with the number -5"),
        ([(True, 4)], 3, "no film with the number True"),
        ([(1, 6)], 3, "stars must be a number from 0.5 to 5, got 6"),
        ([(1, math.nan)], 3, "stars must be"),
        ([(1, "5")], 3, "stars must be"),
        (["The Silent Auctioneer (1947)"], 3, "a history is a list of films with their stars"),
        ([(1, 4, 2)], 3, "a history is a list"),
        ([(1, 4)], 0, "k must be a whole number from 1 to"),
        ([(1, 4)], 2.0, "k must be a whole number"),
        ([(1, 4)], 10_000, "k must be a whole number"),
    ],
)
def test_bad_input_gets_a_sentence(made: dict[str, Recommender], history: Any, k: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        made["popular"].recommend(history, k)


def test_two_films_of_one_name_and_unknown_ways() -> None:
    one = fit(rated((1, 10, 5, 3), (1, 20, 4, 5)), "popular")
    with pytest.raises(ValueError, match=r"2 films are called 'rain .2001.': give a number, such as 20"):
        one.recommend([("rain (2001)", 4.0)], 1)
    with pytest.raises(ValueError, match="way must be one of popular, neighbours"):
        fit(rated((1, 10, 5, 3), (1, 20, 4, 5)), "magic")
