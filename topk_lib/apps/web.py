"""The three products as pages for a browser: one application, which asks nobody outside."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel, ConfigDict, Field

from topk_lib.apps.monitor import Monitor, Replay, Watch
from topk_lib.apps.recommend import Recommender
from topk_lib.apps.store import Store
from topk_lib.apps.support import Desk

__all__ = ["Bounds", "make_app", "serve"]

_STATIC = Path(__file__).parent / "static"
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'",
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True)
class Bounds:
    """What a visitor may ask for.

    Attributes:
        bytes: of one request.
        characters: of one text.
        history: films that may be named at once.
        waiting: requests that may be at work before new ones are refused (503).
    """

    bytes: int = 65_536
    characters: int = 2_000
    history: int = 100
    waiting: int = 16


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Question(_Strict):
    """What a customer asks."""

    question: str = Field(examples=["My card has not come yet"])


class Lesson(_Strict):
    """A question and the answer that it is to get from now on."""

    question: str
    answer: str


class Sentence(_Strict):
    """A sentence of financial news."""

    sentence: str = Field(examples=["Operating profit fell to EUR 3.1 million ."])


class Wish(_Strict):
    """Which replay, and which rule is to watch it."""

    seed: int = Field(0, ge=0, le=2**31 - 1)
    surge: bool = True
    rule: str = "e-detector"
    false_alarm: float = 0.05


class Rated(_Strict):
    """A film, by its number or its title, and 0.5 to 5 stars."""

    film: int | str
    stars: float


class History(_Strict):
    """Films that somebody rated, the latest last; and how many to offer."""

    history: list[Rated] = Field(default_factory=list)
    k: int = 10


def make_app(
    *,
    desk: Desk | None = None,
    monitor: Monitor | None = None,
    recommender: Recommender | None = None,
    store: Store | None = None,
    bounds: Bounds | None = None,
) -> FastAPI:
    """The application that :func:`serve` runs: a page and a few addresses for each product that is given.

    ``/support``, ``/monitor`` and ``/recommend`` are the pages, ``/health`` says what is there, and ``/docs``
    shows the addresses. Whatever cannot be answered is answered by a sentence, ``{"detail": "..."}``.

    Args:
        desk, monitor, recommender: the products; None: without it.
        store: keeps alarms and offers, and what people wrote where it was told to; the desk has its own.
        bounds: see there; None: the defaults.

    Raises:
        ValueError: no product is given.
    """
    bounds = bounds or Bounds()
    given = {"support": desk, "monitor": monitor, "recommend": recommender}
    here = [name for name, product in given.items() if product is not None]
    if not here:
        raise ValueError("there is nothing to serve: give a desk, a monitor or a recommender")
    app: FastAPI = FastAPIOffline(redoc_url=None, title="topk-lib app")
    _guard(app, bounds)

    @app.get("/", include_in_schema=False)
    def first() -> Response:
        return RedirectResponse(f"/{here[0]}")

    @app.get("/health")
    def health() -> dict[str, Any]:
        """That it is up, which products are there, and whether what people write is kept."""
        kept = [one for one in (store, desk.store if desk else None) if one is not None]
        return {"status": "ok", "apps": here, "keeps_texts": any(one.keep_texts for one in kept)}

    if desk is not None:
        _support(app, desk, bounds)
    if monitor is not None:
        _monitor(app, monitor, store, bounds)
    if recommender is not None:
        _recommend(app, recommender, store, bounds)
    app.mount("/static", StaticFiles(directory=_STATIC), name="static")
    return app


def _guard(app: FastAPI, bounds: Bounds) -> None:
    """Limits, and a sentence for whatever is refused."""
    at_work = 0

    @app.middleware("http")
    async def bounded(request: Request, call_next: Any) -> Response:
        nonlocal at_work
        if request.method != "POST":
            response: Response = await call_next(request)
            return response
        length = request.headers.get("content-length")
        if length is None or not length.isdigit():
            return _sentence(411, "say how long the request is (Content-Length)")
        if int(length) > bounds.bytes:
            return _sentence(413, f"a request may have {bounds.bytes:,} bytes: send less at once")
        if at_work >= bounds.waiting:
            return _sentence(503, "too many are asking at once: ask again in a second", {"Retry-After": "1"})
        at_work += 1
        try:
            response = await call_next(request)
            return response
        finally:
            at_work -= 1

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        one = error.errors()[0]
        where = ".".join(str(part) for part in one["loc"][1:]) or "the request"
        return _sentence(422, f"{where}: {one['msg']}")

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> Response:
        return _sentence(error.status_code, str(error.detail), error.headers)


def _sentence(status: int, text: str, headers: Any = None) -> Response:
    return JSONResponse({"detail": text}, status, headers)


@contextmanager
def _said() -> Iterator[None]:
    """The library's errors, which are sentences, as answers."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise HTTPException(422, str(error)) from error
    except OSError as error:  # of the store
        raise HTTPException(503, str(error)) from error


def _page(app: FastAPI, name: str) -> None:
    @app.get(f"/{name}", include_in_schema=False)
    def page() -> Response:
        return FileResponse(_STATIC / f"{name}.html", headers=_HEADERS)


def _short(text: str, what: str, bounds: Bounds) -> str:
    if len(text) > bounds.characters:
        raise ValueError(
            f"the {what} has {len(text):,} characters, more than {bounds.characters:,}: shorten it"
        )
    if not text.strip():
        raise ValueError(f"the {what} is empty: write something")
    return text


def _support(app: FastAPI, desk: Desk, bounds: Bounds) -> None:
    _page(app, "support")

    @app.get("/support/about")
    def about() -> dict[str, Any]:
        """What the desk has learned from, and from which confidence on it answers."""
        told = desk.asked.told
        return {
            "source": told["source"], "examples": told["n_train"], "intents": len(desk.asked.names),
            "head": desk.settings.head, "tokens": desk.settings.tokens, "wrong": desk.settings.wrong,
            "threshold": desk.threshold if np.isfinite(desk.threshold) else None,
        }  # fmt: skip

    @app.post("/support/ask")
    def ask(body: Question) -> dict[str, Any]:
        """The answer to a question, or that a person will reply; and the most similar questions known."""
        with _said():
            begun = time.perf_counter()
            reply = desk([_short(body.question, "question", bounds)])[0]
            spent = 1000 * (time.perf_counter() - begun)
        near = [
            {"question": question, "intent": intent, "cosine": cosine}
            for question, intent, cosine in reply.near
        ]
        return {**reply._asdict(), "near": near, "milliseconds": round(spent, 1)}

    @app.post("/support/teach")
    def teach(body: Lesson) -> dict[str, Any]:
        """Give a new question its answer; it is kept, and so are both texts."""
        with _said():
            desk.teach(_short(body.question, "question", bounds), _short(body.answer, "answer", bounds))
        return {"taught": True}


def _monitor(app: FastAPI, monitor: Monitor, store: Store | None, bounds: Bounds) -> None:
    _page(app, "monitor")

    @app.get("/monitor/about")
    def about() -> dict[str, Any]:
        """What the monitor has learned from, its topics, and what is calm."""
        return {
            **monitor.told, "accuracy": monitor.metrics["accuracy"], "days": monitor.settings.days,
            "topics": [
                {"words": words, "calm": float(share)}
                for words, share in zip(monitor.topic_names, monitor.calm.share, strict=True)
            ],
        }  # fmt: skip

    @app.post("/monitor/read")
    def read(body: Sentence) -> dict[str, Any]:
        """How a sentence speaks, and of what."""
        with _said():
            opinion = monitor([_short(body.sentence, "sentence", bounds)])[0]
        return {**opinion._asdict(), "words": monitor.topic_names[opinion.topic]}

    @app.post("/monitor/replay")
    def replay(body: Wish) -> dict[str, Any]:
        """Sentences replayed in time order, with a surge planted or not; what a rule makes of each topic."""
        with _said():
            stream = monitor.replay(body.seed, surge=body.surge)
            seen = monitor.watch(stream, body.rule, false_alarm=body.false_alarm)
            told = _shown(monitor, stream, seen)
            if store is not None and seen.alarms:
                first = told["alarms"][0]
                facts = {"seed": body.seed, "rule": body.rule, "day": first["day"], "topic": first["topic"]}
                store.add("monitor", "alarm", facts)
        return told


def _shown(monitor: Monitor, stream: Replay, seen: Watch) -> dict[str, Any]:
    """A watched replay: for each topic and day the highest number of the day, else the last one before."""
    days = monitor.settings.days
    log = seen.rule == "e-detector"

    def height(value: float) -> float:
        return float(np.log10(max(1.0, value))) if log else float(value)

    lines = []
    for topic in range(len(monitor.topic_names)):
        line, last = [], 0.0
        mine = seen.topics == topic
        for day in range(days):
            today = seen.statistic[mine & (stream.days == day)]
            line.append(height(today.max() if len(today) else last))
            last = today[-1] if len(today) else last
        lines.append(line)
    alarms = [
        {
            "topic": topic, "day": int(stream.days[place]), "early": place < stream.start,
            "evidence": [{"text": t, "probability": p} for t, p in monitor.evidence(stream, topic, place)],
        }
        for topic, place in seen.alarms.items()
    ]  # fmt: skip
    planted = stream.topic is not None and bool(stream.planted.any())
    return {
        "rule": seen.rule, "log": log, "threshold": height(seen.threshold), "lines": lines,
        "sentences": len(stream.rows), "words": monitor.topic_names, "alarms": alarms,
        "surge": {"topic": stream.topic, "day": int(stream.days[stream.start])} if planted else None,
    }  # fmt: skip


def _recommend(app: FastAPI, recommender: Recommender, store: Store | None, bounds: Bounds) -> None:
    _page(app, "recommend")
    titles = [title.casefold() for title in recommender.titles]

    @app.get("/recommend/about")
    def about() -> dict[str, Any]:
        """How the recommender was made, and of how many films."""
        return {
            "films": len(titles),
            "way": recommender.about.get("way"),
            "source": recommender.about.get("source"),
        }

    @app.get("/recommend/films")
    def films(q: str = "") -> dict[str, Any]:
        """At most ten films whose titles hold these letters."""
        wanted = q.strip().casefold()[:100]
        at = [i for i, title in enumerate(titles) if wanted in title][:10]
        return {"films": [{"film": recommender.films[i], "title": recommender.titles[i]} for i in at]}

    @app.post("/recommend/offer")
    def offer(body: History) -> dict[str, Any]:
        """The k films to offer next to who rated these."""
        with _said():
            if len(body.history) > bounds.history:
                raise ValueError(f"at most {bounds.history} films can be named, got {len(body.history)}")
            found = recommender.recommend([(one.film, one.stars) for one in body.history], body.k)
            if store is not None:
                store.add(
                    "recommend", "offered", {"rated": len(body.history), "k": body.k},
                    texts={"offered": "\n".join(one.title for one in found)},
                )  # fmt: skip
        return {
            "offers": [
                {"film": one.film, "title": one.title, "score": one.score, "because": one.because}
                for one in found
            ]
        }


def serve(app: FastAPI, *, host: str = "127.0.0.1", port: int = 8000) -> None:
    """Answer over HTTP until the process is stopped.

    Args:
        app: of :func:`make_app`.
        host, port: where to listen. The pages know no passwords: leave the host as it is, or put a server
            with TLS and passwords before it.

    Raises:
        OSError: the port is taken.
    """
    import uvicorn

    try:
        listening = socket.create_server((host, port))
    except OSError as error:
        raise OSError(
            f"nothing can listen on {host}:{port} ({error.strerror}): choose another --port"
        ) from None
    print(f"open http://{host}:{listening.getsockname()[1]} in a browser (Ctrl-C stops)", flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listening])
