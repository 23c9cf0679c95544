"""A fine-tuned model over HTTP: one process, texts of all clients read in common batches."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from pydantic import BaseModel, ConfigDict, Field

from topk_lib.serving.predictor import Predictor

__all__ = ["Limits", "make_app", "serve"]


@dataclass(frozen=True)
class Limits:
    """What a client may ask for.

    Attributes:
        texts: in one request.
        characters: of one text.
        waiting: texts that may wait for the model before new ones are refused (503).
        seconds: until a request is given up (504).
        batch: texts that the model reads at once.
        pause: seconds for which the first text of a batch waits for company.
    """

    texts: int = 64
    characters: int = 20_000
    waiting: int = 1024
    seconds: float = 30.0
    batch: int = 32
    pause: float = 0.005

    @property
    def bytes(self) -> int:
        """Of one request: JSON may write a character in up to 12."""
        return 1024 + 2 * self.texts * (12 * self.characters + 16)


class Ask(BaseModel):
    """Texts to be read."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"texts": ["A dull film."]}]})
    texts: list[str] = Field(description="The texts.")
    pairs: list[str] | None = Field(None, description="The second text of each, for a model of pairs.")


class Answers(BaseModel):
    """What the model makes of each text, in order."""

    answers: list[dict[str, Any]]


@dataclass
class _Waiting:
    text: str
    pair: str | None
    answer: asyncio.Future[dict[str, float]]


class _Batcher:
    """Gathers texts of all requests, and gives each answer to who asked."""

    def __init__(self, predictor: Predictor, limits: Limits, sizes: Histogram) -> None:
        self.predictor, self.limits, self.sizes = predictor, limits, sizes
        self.queue: asyncio.Queue[_Waiting] = asyncio.Queue()
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="model")

    async def ask(self, texts: list[str], pairs: list[str] | None) -> list[dict[str, float]]:
        if self.queue.qsize() + len(texts) > self.limits.waiting:
            raise HTTPException(
                503, "too many texts are waiting: ask again in a second", headers={"Retry-After": "1"}
            )
        loop = asyncio.get_running_loop()
        nones: list[str | None] = [None] * len(texts)
        asked = [
            _Waiting(text, pair, loop.create_future())
            for text, pair in zip(texts, pairs or nones, strict=True)
        ]
        for one in asked:
            self.queue.put_nowait(one)
        try:
            return await asyncio.wait_for(asyncio.gather(*(one.answer for one in asked)), self.limits.seconds)
        except asyncio.TimeoutError:  # another class before Python 3.11
            raise HTTPException(
                504, f"no answer within {self.limits.seconds:g} seconds: ask for fewer texts, or later"
            ) from None
        finally:
            for one in asked:
                one.answer.cancel()  # nothing, where it is there; else the model need not read it

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self.queue.get()]
            await asyncio.sleep(self.limits.pause)
            while len(batch) < self.limits.batch and not self.queue.empty():
                batch.append(self.queue.get_nowait())
            for kind in (False, True):
                some = [w for w in batch if (w.pair is not None) == kind and not w.answer.done()]
                if some:
                    await self._read(loop, some, kind)

    async def _read(self, loop: asyncio.AbstractEventLoop, some: list[_Waiting], pairs: bool) -> None:
        self.sizes.observe(len(some))
        seconds = [w.pair or "" for w in some] if pairs else None
        try:
            found = await loop.run_in_executor(self.thread, self.predictor, [w.text for w in some], seconds)
        except Exception as error:  # one batch's trouble must not end the server
            for one in some:
                if not one.answer.done():
                    one.answer.set_exception(HTTPException(500, f"the model failed: {error}"))
            return
        for one, answer in zip(some, found, strict=True):
            if not one.answer.done():
                one.answer.set_result(answer)


def make_app(folder: str | Path, limits: Limits | None = None) -> FastAPI:
    """The application that :func:`serve` runs.

    ``POST /predict`` answers, ``GET /health`` says that it is up, ``GET /metrics`` is for Prometheus, and
    ``/docs`` shows all of it in a browser, without a request to elsewhere.

    Args:
        folder: of a model that :func:`~topk_lib.training.finetune` saved.
        limits: see there; None: the defaults.

    Raises:
        FileNotFoundError, ValueError: see :func:`~topk_lib.training.load_model`.
    """
    limits = limits or Limits()
    predictor = Predictor(folder, batch_size=limits.batch)
    registry = CollectorRegistry()
    texts = Counter("topk_texts", "Texts answered", registry=registry)
    requests = Counter("topk_requests", "Requests by status", ["status"], registry=registry)
    seconds = Histogram("topk_request_seconds", "Seconds a request took", registry=registry)
    sizes = Histogram(
        "topk_batch_texts", "Texts read at once", buckets=[2**i for i in range(9)], registry=registry
    )
    begun = time.time()

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        app.state.batcher = _Batcher(predictor, limits, sizes)
        task = asyncio.create_task(app.state.batcher.run())
        yield
        task.cancel()
        app.state.batcher.thread.shutdown(wait=False, cancel_futures=True)

    app: FastAPI = FastAPIOffline(
        redoc_url=None, title="topk-lib serve", lifespan=life,
        description=f"Answers of the model in {predictor.folder.name}.",
    )  # fmt: skip

    @app.middleware("http")
    async def bounded(request: Request, call_next: Any) -> Response:
        clock = time.perf_counter()
        length = request.headers.get("content-length")
        if request.method == "POST" and (length is None or not length.isdigit()):
            response: Response = _sentence(411, "say how long the request is (Content-Length)")
        elif length is not None and int(length) > limits.bytes:
            response = _sentence(413, f"a request may have {limits.bytes:,} bytes: send fewer texts at once")
        else:
            response = await call_next(request)
        if request.url.path == "/predict":
            requests.labels(str(response.status_code)).inc()
            seconds.observe(time.perf_counter() - clock)
        return response

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or "the request"
        return _sentence(422, f'{where}: {first["msg"]}; send {{"texts": ["...", ...]}} as JSON')

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> Response:
        return _sentence(error.status_code, str(error.detail), error.headers)

    @app.post("/predict")
    async def predict(ask: Ask, request: Request) -> Answers:
        """What the model makes of each text: the label and every class's probability, or a number."""
        if problem := _problem(ask, limits):
            raise HTTPException(422, problem)
        found = await request.app.state.batcher.ask(ask.texts, ask.pairs)
        texts.inc(len(found))
        return Answers(answers=[predictor.told(one) for one in found])

    @app.get("/health")
    async def health(request: Request) -> dict[str, Any]:
        """That it is up, which classes it knows, and how many texts wait."""
        return {
            "status": "ok", "model": predictor.folder.name, "labels": list(predictor.labels.names),
            "waiting": request.app.state.batcher.queue.qsize(), "up_seconds": round(time.time() - begun, 1),
        }  # fmt: skip

    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return app


def _problem(ask: Ask, limits: Limits) -> str:
    if not 1 <= len(ask.texts) <= limits.texts:
        return f"a request holds 1 to {limits.texts} texts, this one {len(ask.texts)}"
    if ask.pairs is not None and len(ask.pairs) != len(ask.texts):
        return f"{len(ask.texts)} texts need as many pairs, got {len(ask.pairs)}"
    for number, text in enumerate([*ask.texts, *(ask.pairs or [])]):
        if len(text) > limits.characters:
            return f"text {number} has {len(text):,} characters, more than {limits.characters:,}: shorten it"
        if not text.strip():
            return f"text {number} is empty"
        if any("\ud800" <= sign <= "\udfff" for sign in text):
            return f"text {number} holds half a character (a lone surrogate)"
    return ""


def _sentence(status: int, text: str, headers: Any = None) -> Response:
    return JSONResponse({"detail": text}, status, headers)


def serve(
    folder: str | Path, *, host: str = "127.0.0.1", port: int = 8000, limits: Limits | None = None
) -> None:
    """Answer over HTTP until the process is stopped.

    Args:
        folder: of a model that :func:`~topk_lib.training.finetune` saved.
        host, port: where to listen; "0.0.0.0" for other machines, too: put a server with TLS and
            passwords before it.
        limits: see :class:`Limits`.

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
    config = uvicorn.Config(make_app(folder, limits), log_level="warning")
    print(
        f"listening on http://{host}:{listening.getsockname()[1]} (/docs, /health, /metrics; Ctrl-C stops)",
        flush=True,
    )
    uvicorn.Server(config).run(sockets=[listening])
