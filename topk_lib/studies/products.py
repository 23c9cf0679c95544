"""Three products, measured: a support desk, a monitor of opinions, a recommender."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from topk_lib import hard_topk, records
from topk_lib.apps.liked import Events, cut_dates, film_texts, known_films, liked_next
from topk_lib.apps.monitor import Monitor, MonitorSettings
from topk_lib.apps.questions import OUTSIDE, questions
from topk_lib.apps.ranking import Cells, at_k, by_person, lift
from topk_lib.apps.recommend import Recommender, film_vectors, fit, places
from topk_lib.apps.support import Desk, DeskSettings
from topk_lib.apps.vectors import Vectors
from topk_lib.data import Ratings, load_ratings, load_set, source_of
from topk_lib.studies.base import Made, Run, check_public, in_turns, packed, rate

__all__ = ["chosen", "runs"]

_SEEDS = range(3)
_K, _LONG = 10, 50  # films on the first page, and on five of them
_STEPS, _EVERY = 400, 50  # of training at most, and how often a number of steps is tried
_SHRINK = (0.0, 10.0, 50.0)
_DAYS = (None, 365.0, 90.0)
_TRAINED = ("ids", "both", "text")
_LOSS_KS = (10, 50)
_REPLAYS = 200  # with a surge, and as many without
_QUERIES, _CELLS, _PROBES, _TIMES = 64, 128, (1, 4, 16), (1, 10)
_READ = {"support": (8, 12), "monitor": (12, 24)}  # tokens of a question, of a sentence
_TEXTS = 100  # read one by one, by the clock


def runs(*, gpu: bool) -> Iterator[Run]:
    """The choice of settings on earlier ratings comes first: what follows is made with it."""

    def run(name: str, measure: Callable[..., Made], *given: Any) -> Run:
        return Run("products", name, partial(measure, *given))

    yield run("recommend-dev", _recommend_dev)
    for way in ("popular", "neighbours", "vectors"):
        yield run(f"recommend-{way}-s0", _recommend, way, "softmax", 0)
    for seed in _SEEDS:
        for way, loss in (("both", "softmax"), ("ids", "softmax"), ("both", "topk"), ("text", "softmax")):
            yield run(f"recommend-{way}{'-topk' * (loss == 'topk')}-s{seed}", _recommend, way, loss, seed)
    for seed in _SEEDS:
        for examples in (10, 5):
            for head in ("logistic", "words", "prototype"):
                yield run(f"support-{head}-e{examples}-s{seed}", _support, head, examples, seed)
        yield run(f"support-nearest-e10-s{seed}", _support, "nearest", 10, seed)
        for rule, k in _chosen_tokens("support"):
            yield run(f"support-logistic-e10-{rule}-k{k}-s{seed}", _support, "logistic", 10, seed, rule, k)
    for head in ("logistic", "words", "prototype"):
        yield run(f"support-{head}-all-s0", _support, head, None, 0)
    for seed in _SEEDS:
        for head in ("vectors", "words"):
            yield run(f"monitor-{head}-s{seed}", _monitor, head, seed)
        for rule, k in _chosen_tokens("monitor"):
            yield run(f"monitor-vectors-{rule}-k{k}-s{seed}", _monitor, "vectors", seed, rule, k)
    yield run("reading", _reading)
    for seed in _SEEDS:
        yield run(f"recommend-ids-topk-s{seed}", _recommend, "ids", "topk", seed)
    yield run("recommend-index", _index)


def _chosen_tokens(product: str) -> list[tuple[str, int]]:
    """By TF-IDF, and beside the fewest as many from the front."""
    return [*(("tfidf", k) for k in _READ[product]), ("first", min(_READ[product]))]


class _Task(NamedTuple):
    """Ratings, the moments that cut them, and where they are from."""

    ratings: Ratings
    dev: int
    test: int
    data: dict[str, Any]


@cache
def _task() -> _Task:
    ratings = load_ratings(quiet=True)
    check_public(ratings.source)
    dev, test = cut_dates(ratings)
    tables = (ratings.movies, ratings.ratings, ratings.tags)
    digest = hashlib.sha256()
    for table in tables:
        digest.update(pd.util.hash_pandas_object(table, index=False).to_numpy().tobytes())
    dates = {name: time.strftime("%Y-%m-%d", time.gmtime(at)) for name, at in (("dev", dev), ("test", test))}
    sizes = dict(zip(("films", "ratings", "tags"), map(len, tables), strict=True))
    told = {"source": ratings.source, "fingerprint": digest.hexdigest()[:16], "cuts": dates} | sizes
    return _Task(ratings, dev, test, told)


@cache
def _vectors(before: int) -> Tensor:
    return film_vectors(film_texts(_task().ratings, before))


def _fit(way: str, before: int, **settings: Any) -> Recommender:
    vectors = _vectors(before) if way in ("vectors", "text", "both") else None
    return fit(_task().ratings, way, before=before, vectors=vectors, **settings)


def _recall(one: Recommender, events: Events) -> float:
    return float(by_person(at_k(places(one, events), _K)[0], events.person).mean())


def _recommend_dev() -> Made:
    """What each way is to be given, by recall@10 on what was liked between the two cuts."""
    task = _task()
    events = liked_next(task.ratings, task.dev, task.test)
    found: dict[str, Any] = {
        "popular": {str(d): _recall(_fit("popular", task.dev, days=d), events) for d in _DAYS},
        "neighbours": {str(s): _recall(_fit("neighbours", task.dev, shrink=s), events) for s in _SHRINK},
        "vectors": {"": _recall(_fit("vectors", task.dev), events)},
    }

    def traced(way: str, loss: str, k: int = _K) -> dict[str, float]:
        trace: dict[str, float] = {}

        def watch(steps: int, one: Recommender) -> None:
            trace[str(steps)] = _recall(one, events)

        _fit(way, task.dev, loss=loss, k=k, steps=_STEPS, watch=watch)
        return trace

    for way in _TRAINED:
        found[f"{way}-softmax"] = traced(way, "softmax")
    for k in _LOSS_KS:
        found[f"both-topk-{k}"] = traced("both", "topk", k)
    settings = {"seed": 0, "k": _K, "steps": _STEPS, "every": _EVERY}
    return Made(found, settings, task.data | {"n_eval": len(events.target)})


def chosen(way: str, loss: str = "softmax") -> dict[str, Any]:
    """What recall@10 between the cuts says a way should be given.

    The top-k loss is tried with both kinds of vectors; with those of ratings alone it gets the same.

    Raises:
        ValueError: that was not measured yet.
    """
    if not records.path_of("products", "recommend-dev").is_file():
        raise ValueError(
            "settings are chosen on earlier ratings first: make that with topk-lib study products "
            "--only products/recommend-dev"
        )
    found: Mapping[str, Any] = records.load("products", "recommend-dev")["metrics"]

    def best(key: str) -> str:
        return str(max(found[key], key=lambda name: float(found[key][name])))

    if way == "popular":
        days = best(way)
        return {"days": None if days == "None" else float(days)}
    if way == "neighbours":
        return {"shrink": float(best(way))}
    if way == "vectors":
        return {}
    if loss == "topk":
        k = max(_LOSS_KS, key=lambda k: float(max(found[f"both-topk-{k}"].values())))
        return {"loss": loss, "k": k, "steps": int(best(f"both-topk-{k}"))}
    return {"loss": loss, "steps": int(best(f"{way}-{loss}"))}


def _recommend(way: str, loss: str, seed: int) -> Made:
    """Fitted before the second cut, tested on what was liked after it; each person counts once."""
    task, given = _task(), chosen(way, loss)
    events = liked_next(task.ratings, task.test)
    start = time.perf_counter()
    one = _fit(way, task.test, seed=seed, **given)
    seconds = time.perf_counter() - start
    found = places(one, events)
    cold = ~known_films(task.ratings, task.test)
    late = cold[events.target]
    people = by_person(at_k(found, _K)[0], events.person)
    metrics: dict[str, Any] = {"people": people.tolist(), "seconds": seconds}
    for k in (_K, _LONG):
        for name, values in zip(("recall", "ndcg"), at_k(found, k), strict=True):
            metrics[f"{name}_{k}"] = _mean(by_person(values, events.person))
            if bool(late.any()):
                metrics[f"cold_{name}_{k}"] = _mean(by_person(values[late], events.person[late]))
    if bool(late.any()):
        # Cold films have no ratings to stand out by: which of them is it?
        among = places(one, events, cold)[late]
        metrics["cold_among"] = _mean(by_person(at_k(among, _K)[0], events.person[late]))
        metrics["cold_among_by_chance"] = min(1.0, _K / int(cold.sum()))
    sizes = {
        "n_eval": len(events.target), "people": len(people), "cold_films": int(cold.sum()),
        "cold_events": int(late.sum()), "cold_people": len(set(events.person[late].tolist())),
    }  # fmt: skip
    return Made(metrics, {"seed": seed, "way": way, "loss": loss, "at": _K} | given, task.data | sizes)


def _mean(values: Tensor) -> dict[str, float]:
    """With a 95% interval, the people being drawn."""
    middle, n = float(values.mean()), len(values)
    error = float(values.std()) / n**0.5 if n > 1 else 0.0
    return {"mean": middle, "low": middle - 1.96 * error, "high": middle + 1.96 * error}


def _index() -> Made:
    """The ten highest products of some people with all films, by looking at all and by looking at some.

    Once with the films that there are, once with ten of each, a little moved.
    """
    task = _task()
    one = _fit("both", task.test, seed=0, **chosen("both"))
    events = liked_next(task.ratings, task.test)
    some = torch.linspace(0, len(events.target) - 1, min(_QUERIES, len(events.target))).long()
    with torch.no_grad():
        asked = torch.cat([one.people(*events.history(some)), torch.ones(len(some), 1)], 1)
    films = torch.cat([one.offer, one.prior[:, None]], 1)
    dice = torch.Generator().manual_seed(0)
    metrics = {}
    for times in _TIMES:
        many = films.repeat(times, 1)
        many = many + 0.1 * films.std() * torch.randn(many.shape, generator=dice) * (times > 1)
        metrics[str(len(many))] = _raced(many, asked, min(_CELLS, len(many) // 4) * int(times**0.5))
    settings = {
        "seed": 0, "k": _K, "queries": len(some), "width": films.shape[1], "threads": torch.get_num_threads(),
    }  # fmt: skip
    return Made(metrics, settings, task.data | {"n_eval": len(some)})


def _raced(films: Tensor, asked: Tensor, count: int) -> dict[str, Any]:
    """Milliseconds a query, one at a time and all at once, and the share of the true ten that is found."""
    start = time.perf_counter()
    cells = Cells(films, count)
    built = time.perf_counter() - start
    near = NearestNeighbors(algorithm="brute").fit(lift(films).numpy())
    zero = torch.zeros(len(asked), 1)

    def whole(queries: Tensor) -> Tensor:
        return hard_topk(queries @ films.T, _K, order="value").indices

    def neighbours(queries: Tensor) -> Tensor:
        lifted = torch.cat([queries, zero[: len(queries)]], 1).numpy()
        return torch.from_numpy(near.kneighbors(lifted, _K, return_distance=False))

    ways: dict[str, Callable[[Tensor], Tensor]] = {
        "hard_topk": whole,
        "torch.topk": lambda queries: (queries @ films.T).topk(_K).indices,
        "sklearn": neighbours,
    }
    for probe in _PROBES:
        if probe <= count:
            ways[f"cells-{probe}"] = partial(cells.search, k=_K, probe=probe)

    def single(way: Callable[[Tensor], Tensor]) -> None:
        for query in asked:
            way(query[None])

    alone = in_turns({name: partial(single, way) for name, way in ways.items()})
    at_once = in_turns({name: partial(way, asked) for name, way in ways.items()})
    truth = [set(row) for row in whole(asked).tolist()]
    rows: dict[str, Any] = {
        name: {
            "milliseconds": 1000 * float(np.median(alone[name])) / len(asked),
            "milliseconds_at_once": 1000 * float(np.median(at_once[name])) / len(asked),
            "found": float(np.mean([len(t & set(row)) / _K for t, row in
                                    zip(truth, way(asked).tolist(), strict=True)])),
        }
        for name, way in ways.items()
    }  # fmt: skip
    return rows | {"cells": count, "seconds_to_build_cells": built}


def _support(
    head: str, examples: int | None, seed: int, rule: str = "tfidf", tokens: int | None = None
) -> Made:
    """A desk that learned from so many questions of each intent, and reads so many tokens of each."""
    settings = DeskSettings(head, examples, tokens, rule, seed=seed)
    asked = questions(examples=examples, outside=settings.outside, seed=seed, quiet=True)
    check_public(asked.told["source"])
    start = time.perf_counter()
    desk = Desk(asked, settings)
    metrics = {"seconds": time.perf_counter() - start} | desk.measure()
    inside = [(text, asked.names[y]) for text, y in zip(*asked.test, strict=True) if y != OUTSIDE]
    guessed = [reply.intent for reply in desk([text for text, _ in inside])]
    wrong = np.array([guess != truth for guess, (_, truth) in zip(guessed, inside, strict=True)])
    metrics |= {"wrong_given": metrics["wrong"], "wrong": packed(wrong)}  # each question's, as elsewhere
    given = {
        "seed": seed, "head": head, "examples": examples, "tokens": tokens, "selector": rule,
        "wrong": settings.wrong, "outside": settings.outside, "threads": torch.get_num_threads(),
    }  # fmt: skip
    told = {name: value for name, value in asked.told.items() if name != "n_train"}
    more = {
        "n_learn": asked.told["n_train"], "n_eval": len(inside),
        "eval_fingerprint": hashlib.sha256(repr(inside).encode()).hexdigest()[:16],
    }  # fmt: skip
    return Made(metrics, given, told | more)


def _monitor(head: str, seed: int, rule: str = "tfidf", tokens: int | None = None) -> Made:
    """Polarity on test sentences; and how each rule does in replays, half of them with a planted surge."""
    settings = MonitorSettings(head=head, tokens=tokens, selector=rule, seed=seed)
    start = time.perf_counter()
    monitor = Monitor(settings=settings)
    ready = time.perf_counter() - start
    check_public(str(monitor.told["source"]))
    metrics = monitor.metrics | {"alarms": monitor.replays(_REPLAYS, seed=seed), "seconds": ready}
    metrics["wrong"] = packed(monitor.probabilities.argmax(1) != monitor.truth)
    given = {
        "seed": seed, "head": head, "tokens": tokens, "selector": rule, "topics": settings.topics,
        "lift": settings.lift, "days": settings.days, "per_day": settings.per_day, "extra": settings.extra,
        "replays": _REPLAYS, "false_alarm": 0.05, "threads": torch.get_num_threads(),
    }  # fmt: skip
    told = monitor.told
    more = {"n_eval": told["n_test"], "eval_fingerprint": told["test_fingerprint"]}
    return Made(metrics, given, told | more)


def _reading() -> Made:
    """Texts a second, one at a time, all of each and k tokens of it: the choosing counts, in turns."""
    metrics: dict[str, Any] = {}
    for product, name in (("support", "banking77"), ("monitor", "financial_phrasebank")):
        train, test = (load_set(name, split=split, quiet=True) for split in ("train", "test"))
        check_public(source_of(train))
        texts = list(test["text"])[:: max(1, len(test) // _TEXTS)][:_TEXTS]
        readers = {"all": Vectors()} | {f"tfidf-k{k}": Vectors(k) for k in _READ[product]}
        for reader in readers.values():
            reader.fit(list(train["text"]), list(train["label"]))

        def one_by_one(reader: Vectors, texts: list[str] = texts) -> None:
            for text in texts:
                reader([text])

        took = in_turns({name: partial(one_by_one, reader) for name, reader in readers.items()})
        metrics[product] = {name: rate(len(texts), seconds) for name, seconds in took.items()}
    settings = {"seed": 0, "texts": _TEXTS, "threads": torch.get_num_threads()}
    return Made(metrics, settings, {"source": source_of(train), "n_eval": _TEXTS})
