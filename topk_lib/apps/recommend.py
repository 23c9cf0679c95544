"""A recommender of films: what to offer next to somebody of whom some ratings are known.

Whoever comes is described by what they rated, not by a number of their own (FISM; Kabbur et al., 2013), so
that a new person needs no training. A film has two vectors: one when it is read in a history, one when it is
offered; the score of an offer is the product of the person's vector with the film's, and something for how
many like it.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from topk_lib import hard_topk, soft_topk
from topk_lib.apps.liked import LIKED, WINDOW, Events, film_texts, known_films, liked_next
from topk_lib.apps.ranking import ranks
from topk_lib.data import Ratings
from topk_lib.models import load_encoder
from topk_lib.training.prompts import text_vectors

__all__ = [
    "LOSSES", "WAYS", "Recommender", "Suggestion", "film_vectors", "fit", "places", "topk_loss",
]  # fmt: skip

WAYS = {
    "popular": "what most people liked",
    "neighbours": "films liked by the same people (Sarwar et al., 2001)",
    "vectors": "texts near to those of the films liked, by the encoder as it is",
    "text": "texts, their projection trained",
    "ids": "vectors trained from ratings alone",
    "both": "trained vectors and texts",
}
"""How films are described, and so what can be said of one that nobody has rated yet."""
LOSSES = ("softmax", "topk")

_BATCH, _RATE = 128, 0.01
_DROPPED = 0.3  # of the films, whose own vectors are hidden in a step (DropoutNet; Volkovs et al., 2017)
_START = 5.0  # the product of two projected texts is at first about so many times their cosine
_STARS = torch.arange(-5.0, 5.0) / 4  # of half a star and so on: 0 at three stars, 1 at five
_TENSORS = ("read", "offer", "stars", "prior", "popular")
_STATE, _ABOUT = "recommender.safetensors", "recommender.json"

Rated = tuple[int | str, float]
"""A film, by its number or its title, and the stars that it got."""


def film_vectors(texts: Sequence[str]) -> Tensor:
    """(films, 384) float32 of length 1, by the course's encoder as it is."""
    model, tokenizer = load_encoder()
    return text_vectors(model.base_model, tokenizer, texts)


def topk_loss(scores: Tensor, target: Tensor, k: int, valid: Tensor | None = None, *, link: str = "sigmoid",
              temperature: float = 1.0) -> Tensor:  # fmt: skip
    """How far each row's target is from being among the k first: minus the logarithm of its soft weight.

    Recall@k is the hard mask at the target, which has no slope; :func:`topk_lib.soft_topk` puts a weight in
    [0, 1] in its place. With k = 1 and the link "exp" this is the softmax loss. Scores that are learned set
    their own scale, and with it the temperature.

    Args:
        scores: (rows, n) float.
        target: (rows,) int64, each valid.
        k: 1 to n.
        valid: (rows, n) bool: what may be offered.
        link: of the soft weight.
        temperature: of the soft weight.

    Returns:
        (rows,).
    """
    weights = soft_topk(scores, k, temperature, link=link, valid=valid)
    return -weights.gather(1, target[:, None])[:, 0].clamp(min=1e-30).log()


@dataclass(frozen=True)
class Suggestion:
    """A film that is offered.

    Attributes:
        film: its number.
        title: its title.
        score: higher is better; of no use across people.
        because: the film liked in the history that spoke most for it; None where none did.
    """

    film: int
    title: str
    score: float
    because: str | None


@dataclass(frozen=True, eq=False)
class Recommender:
    """Films, their vectors, and what a star means: all that is needed to recommend.

    Attributes:
        films: their numbers, in the order of everything below.
        titles: their titles.
        read: (films, width) float32, of a film in a history.
        offer: (films, width) float32, of a film on offer.
        stars: (10,) float32: the weight in a history of half a star, one star, and so on to five.
        prior: (films,) float32, what is added for how many like a film.
        popular: (films,) float32, the logarithm of 1 + how many liked it: for whoever has no history.
        about: how it was made.
    """

    films: tuple[int, ...]
    titles: tuple[str, ...]
    read: Tensor
    offer: Tensor
    stars: Tensor
    prior: Tensor
    popular: Tensor
    about: dict[str, Any] = field(default_factory=dict)

    def recommend(
        self, history: Mapping[int | str, float] | Sequence[Rated], k: int = 10
    ) -> list[Suggestion]:
        """The k films to offer next, the best first; none that stands in the history.

        Args:
            history: films, by number or title, with their stars (0.5 to 5), the latest last; may be empty.
            k: how many, at least 1. Fewer come where fewer are left, or where a score is NaN.

        Raises:
            ValueError: an unknown film, stars that are none, or such a k.
        """
        if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= len(self.films):
            raise ValueError(f"k must be a whole number from 1 to {len(self.films)}, got {k!r}")
        rated = {self._place(film): _checked(stars) for film, stars in _pairs(history)}
        seen = torch.tensor(list(rated), dtype=torch.int64)
        places, stars = seen[-WINDOW:], torch.tensor(list(rated.values()))[-WINDOW:]
        weights = _weights(self.stars, stars)
        scores = self.popular
        if rated:
            scores = self.scores(_person(self.read[places], weights)[None])[0]
        open_ = ~scores.isnan()  # NaN would rank first
        open_[seen] = False
        chosen = hard_topk(scores, k, valid=open_, order="value").indices
        return [self._suggestion(int(at), float(scores[at]), places, weights) for at in chosen if at >= 0]

    def people(self, films: Tensor, stars: Tensor, real: Tensor) -> Tensor:
        """(m, width) from histories of (m, h): films by their places, stars, and which are real."""
        return _person(self.read[films], _weights(self.stars, stars) * real)

    def scores(self, people: Tensor) -> Tensor:
        """(m, films)."""
        return people @ self.offer.T + self.prior

    def save(self, folder: str | Path) -> Path:
        """Write the vectors (safetensors) and the rest (JSON) into a folder, and give it."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: getattr(self, name).contiguous().clone() for name in _TENSORS}, folder / _STATE)
        told = {"films": self.films, "titles": self.titles, "about": self.about}
        (folder / _ABOUT).write_text(json.dumps(told), encoding="utf-8")
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Recommender:
        """Read what :meth:`save` wrote.

        Raises:
            OSError: it is not there, or not whole.
        """
        folder = Path(folder)
        try:
            told = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
            tensors = load_file(folder / _STATE)
            found = cls(tuple(told["films"]), tuple(told["titles"]), about=told["about"],
                        # Clones are aligned as those that were saved, and so give the same sums.
                        **{name: tensors[name].clone() for name in _TENSORS})  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise OSError(
                f"no whole recommender in {str(folder)!r} ({error}): save one there, or name another folder"
            ) from None
        if {len(found.films), len(found.titles), len(found.read), len(found.offer)} != {len(found.prior)}:
            raise OSError(f"the two files in {str(folder)!r} are of different recommenders: save it anew")
        return found

    def _place(self, film: int | str) -> int:
        if isinstance(film, str):
            wanted = film.strip().casefold()
            at = [i for i, title in enumerate(self.titles) if title.casefold() == wanted]
            if len(at) > 1:
                raise ValueError(
                    f"{len(at)} films are called {film!r}: give a number, such as {self.films[at[0]]}"
                )
            if not at:
                near = difflib.get_close_matches(film, self.titles, 1)
                hint = f"did you mean {near[0]!r}?" if near else "titles are written as in movies.csv"
                raise ValueError(f"there is no film {film!r}: {hint}")
            return at[0]
        if isinstance(film, bool) or film not in self.films:
            raise ValueError(f"there is no film with the number {film!r}: numbers are those of movies.csv")
        return self.films.index(film)

    def _suggestion(self, at: int, score: float, places: Tensor, weights: Tensor) -> Suggestion:
        spoke = (self.read[places] @ self.offer[at]) * weights
        spoke = torch.where(spoke.isnan() | (weights <= 0), 0, spoke)  # nobody is offered what they disliked
        best = int(spoke.argmax()) if len(spoke) else 0
        because = self.titles[int(places[best])] if len(spoke) and spoke[best] > 0 else None
        return Suggestion(self.films[at], self.titles[at], score, because)


def _pairs(history: Mapping[int | str, float] | Sequence[Rated]) -> list[Rated]:
    rows = list(history.items()) if isinstance(history, Mapping) else list(history)
    if any(isinstance(row, str) or not isinstance(row, Sequence) or len(row) != 2 for row in rows):
        raise ValueError("a history is a list of films with their stars, such as [('Heat (1995)', 4.5)]")
    return [(film, stars) for film, stars in rows]


def _checked(stars: Any) -> float:
    if isinstance(stars, bool) or not isinstance(stars, (int, float)) or not 0.5 <= stars <= 5:
        raise ValueError(f"stars must be a number from 0.5 to 5, got {stars!r}")
    return float(stars)


def _weights(table: Tensor, stars: Tensor) -> Tensor:
    return table[((2 * stars).round().long() - 1).clamp(0, len(table) - 1)]


def _person(rows: Tensor, weights: Tensor) -> Tensor:
    """(m, width) from (m, h, width) and (m, h): a long history may say more, but not in proportion."""
    size = weights.abs().sum(-1, keepdim=True).clamp(min=1).sqrt()
    return (rows * weights[..., None]).sum(-2) / size


class _Scorer(nn.Module):
    """What is trained: vectors of the films' own, a projection of their texts, or both."""

    def __init__(self, known: Tensor, popular: Tensor, width: int, vectors: Tensor | None, ids: bool) -> None:
        super().__init__()
        self.known, self.popular = known.float(), popular
        self.vectors = None if vectors is None else vectors.clone()  # no tensor of inference mode
        films = len(known)
        self.own = nn.ParameterList(nn.Parameter(0.1 * torch.randn(films, width)) for _ in range(2 * ids))
        self.project = nn.ParameterList()
        if vectors is not None:
            start = torch.randn(vectors.shape[1], width) * math.sqrt(_START / width)
            self.project.extend(nn.Parameter(start.clone()) for _ in range(2))
        self.stars = nn.Parameter(_STARS.clone())
        self.share = nn.Parameter(torch.tensor(0.5))

    def side(self, which: int, at: Tensor, kept: Tensor) -> Tensor:
        """(..., width): the vectors of the films ``at``, read (0) or on offer (1)."""
        parts = []
        if len(self.own):
            parts.append(self.own[which][at] * kept[at][..., None])
        if self.vectors is not None:
            parts.append(self.vectors[at] @ self.project[which])
        return torch.stack(parts).sum(0)

    def forward(self, events: Events, some: Tensor, kept: Tensor) -> Tensor:
        films, stars, real = events.history(some)
        people = _person(self.side(0, films, kept), _weights(self.stars, stars) * real)
        return people @ self.side(1, torch.arange(len(kept)), kept).T + self.share * self.popular


def fit(
    ratings: Ratings,
    way: str = "both",
    *,
    before: float = math.inf,
    vectors: Tensor | None = None,
    loss: str = "softmax",
    k: int = 10,
    steps: int = 300,
    width: int = 64,
    shrink: float = 10.0,
    days: float | None = None,
    seed: int = 0,
    watch: Callable[[int, Recommender], object] | None = None,
) -> Recommender:
    """Make a recommender from what was known before a moment.

    Args:
        ratings: of :func:`topk_lib.data.load_ratings`.
        way: one of :data:`WAYS`.
        before: the moment, in seconds.
        vectors: (films, any) float32 of the films' texts; None: of :func:`film_vectors`, where they are read.
        loss: "softmax" over all films that the person has not rated, or "topk" (:func:`topk_loss`).
        k: of that loss.
        steps: of training, 128 moments each.
        width: of the trained vectors.
        shrink: likes that are added to each film's own where neighbours are compared: few prove little.
        days: how far back popularity is counted, of the way "popular"; None: all of it.
        seed: of all that is drawn.
        watch: is called every 50 steps with their number and the recommender so far.

    Raises:
        ValueError: an unknown way or loss; nothing liked before that moment.
    """
    if way not in WAYS or loss not in LOSSES:
        raise ValueError(f"way must be one of {', '.join(WAYS)}, loss one of {', '.join(LOSSES)}")
    events = liked_next(ratings, until=before)
    early = ratings.ratings[ratings.ratings["timestamp"] < before]
    likes = early[early["rating"] >= LIKED]
    films = len(ratings.movies)
    since = -math.inf if days is None else float(early["timestamp"].max()) - days * 86_400
    popular = _counted(ratings, likes[likes["timestamp"] >= since] if way == "popular" else likes)
    if way in ("vectors", "text", "both") and vectors is None:
        vectors = film_vectors(film_texts(ratings, before))
    about = {
        "way": way, "source": ratings.source, "before": before if math.isfinite(before) else None,
        "seed": seed, "shrink": shrink, "days": days, "loss": loss, "k": k, "steps": steps, "width": width,
    }  # fmt: skip
    numbers, titles = (tuple(ratings.movies[column].tolist()) for column in ("movieId", "title"))

    def made(read: Tensor, offer: Tensor, stars: Tensor, prior: Tensor) -> Recommender:
        return Recommender(numbers, titles, read, offer, stars, prior, popular, about)

    if way in ("popular", "neighbours", "vectors"):
        table = torch.zeros(films, 1)
        if way == "neighbours":
            table = _fans(ratings, likes) / (popular.expm1() + shrink).clamp(min=1).sqrt()[:, None]
        elif vectors is not None and way == "vectors":
            table = vectors
        # Beside products it only parts equals.
        return made(table, table, _STARS, popular if way == "popular" else 1e-6 * popular)

    ids, text = way != "text", None if way == "ids" else vectors
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        scorer = _Scorer(known_films(ratings, before), popular, width, text, ids)
        optimiser = torch.optim.Adam(scorer.parameters(), lr=_RATE)
        for step in range(1, steps + 1):
            some = torch.randint(len(events.target), (_BATCH,))
            hidden = torch.rand(films) < (_DROPPED if way == "both" else 0)
            scores, target = scorer(events, some, scorer.known * ~hidden), events.target[some]
            open_ = (~events.rated(some, films)).scatter(1, target[:, None], True)  # though rated before
            if loss == "topk":
                losses = topk_loss(scores, target, k, open_)
            else:
                shown = scores.masked_fill(~open_, -torch.inf)
                losses = nn.functional.cross_entropy(shown, target, reduction="none")
            optimiser.zero_grad()
            losses.mean().backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            if watch is not None and step % 50 == 0:
                watch(step, made(*_frozen(scorer)))
    return made(*_frozen(scorer))


@torch.no_grad()
def _frozen(scorer: _Scorer) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    read, offer = (scorer.side(i, torch.arange(len(scorer.known)), scorer.known) for i in range(2))
    return read, offer, scorer.stars.clone(), scorer.share * scorer.popular


def _counted(ratings: Ratings, likes: Any) -> Tensor:
    counts = likes["movieId"].value_counts().reindex(ratings.movies["movieId"], fill_value=0)
    return torch.tensor(counts.to_numpy(), dtype=torch.float32).log1p()


def _fans(ratings: Ratings, likes: Any) -> Tensor:
    """(films, people): 1 where somebody liked it."""
    place = {int(film): at for at, film in enumerate(ratings.movies["movieId"])}
    people = {int(one): at for at, one in enumerate(sorted(set(likes["userId"])))}
    table = torch.zeros(len(place), len(people))
    table[[place[int(f)] for f in likes["movieId"]], [people[int(p)] for p in likes["userId"]]] = 1
    return table


@torch.inference_mode()
def places(recommender: Recommender, events: Events, among: Tensor | None = None) -> Tensor:
    """(n,) int64 from 1: where each film that was liked next stands in the list offered at that moment.

    Args:
        recommender: made from ratings before the first of these moments.
        events: of :func:`liked_next`.
        among: (films,) bool: rank these alone, such as the cold ones; None: all that are not rated yet.
    """
    found = []
    for some in torch.arange(len(events.target)).split(512):  # type: ignore[no-untyped-call]
        scores = recommender.scores(recommender.people(*events.history(some)))
        open_ = ~events.rated(some, scores.shape[1])
        found.append(ranks(scores, events.target[some], open_ if among is None else open_ & among))
    return torch.cat(found)
