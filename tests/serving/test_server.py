"""A model over HTTP, in a process of its own: many clients at once, and what is refused."""

from __future__ import annotations

import asyncio
import re
import socket
import subprocess
import sys
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest

from topk_lib.serving import Predictor
from topk_lib.serving.server import Limits, make_app, serve

T = TypeVar("T")
PROGRAM = (
    "import sys, torch; torch.set_num_threads(1); from topk_lib.serving.server import Limits, serve; "
    "serve(sys.argv[1], port=0, limits=Limits(texts=8, characters=2000, waiting=2000, seconds=120))"
)


WORDS = [
    "good", "bad", "dull", "warm", "slow", "bright", "flat", "alive", "empty", "clever",
    "wooden", "tender", "loud", "pretty", "stale", "brave", "cheap", "rich", "grim", "sweet",
]  # fmt: skip


def in_a_thread(work: Coroutine[Any, Any, T]) -> T:
    """Run it where no event loop runs: the browser tests leave one in the main thread."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


@pytest.fixture(scope="module")
def address(trained: Path) -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(trained)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    found = re.search(r"http://\S+", process.stdout.readline())
    assert found is not None
    yield found[0]
    process.terminate()
    assert process.wait(60) is not None


def test_it_answers_as_the_predictor_does(address: str, trained: Path) -> None:
    texts = ["A good film.", "A bad film, and long."]
    response = httpx.post(f"{address}/predict", json={"texts": texts}, timeout=60)
    predictor = Predictor(trained)
    assert response.status_code == 200
    for told, right in zip(response.json()["answers"], predictor(texts), strict=True):
        assert told["probabilities"] == pytest.approx(predictor.told(right)["probabilities"], abs=2e-4)
        assert told["label"] == max(right, key=right.__getitem__)


def test_two_hundred_clients_lose_no_answer_and_mix_none_up(address: str, trained: Path) -> None:
    asked = [
        [f"{WORDS[client % 20]} {WORDS[client // 10]}, film {client} was {WORDS[i]}" for i in range(3)]
        for client in range(200)
    ]

    async def all_of_them() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=200)
        async with httpx.AsyncClient(timeout=120, limits=limits) as client:
            return await asyncio.gather(
                *(client.post(f"{address}/predict", json={"texts": texts}) for texts in asked)
            )

    responses = in_a_thread(all_of_them())
    assert [response.status_code for response in responses] == [200] * 200
    right = Predictor(trained)([text for texts in asked for text in texts])
    told = [answer["positive"] for response in responses for answer in response.json()["answers"]]
    assert told == pytest.approx([answer["positive"] for answer in right], abs=2e-4)
    assert len({round(p, 4) for p in told}) > 100, "the texts must differ, or a mix-up would not show"
    metrics = httpx.get(f"{address}/metrics", timeout=60).text
    batches = re.search(r"topk_batch_texts_count ([\d.]+)", metrics)
    texts = re.search(r"topk_texts_total ([\d.]+)", metrics)
    assert batches is not None
    assert texts is not None
    assert float(texts[1]) >= 600 > 2 * float(batches[1]), "texts of several clients share a batch"


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"texts": []}, 422, "holds 1 to 8 texts, this one 0"),
        ({"texts": ["x"] * 9}, 422, "holds 1 to 8 texts, this one 9"),
        ({"texts": ["x" * 2001]}, 422, "text 0 has 2,001 characters"),
        ({"texts": [" "]}, 422, "text 0 is empty"),
        ({"texts": ["a"], "pairs": ["b", "c"]}, 422, "1 texts need as many pairs, got 2"),
        ({"texts": "x"}, 422, "texts: Input should be a valid list"),
        ({"text": ["x"]}, 422, "texts: Field required"),
        ({"texts": ["x"], "k": 3}, 422, "k: Extra inputs are not permitted"),
        ({"texts": ["x" * 500_000]}, 413, "send fewer texts at once"),
    ],
)
def test_what_is_refused_is_said_in_a_sentence(address: str, body: Any, status: int, said: str) -> None:
    response = httpx.post(f"{address}/predict", json=body, timeout=60)
    assert response.status_code == status
    assert said in response.json()["detail"]


def test_half_a_character_and_no_json_are_refused(address: str) -> None:
    for content in (b'{"texts": ["\\ud800"]}', b"\xff", b"{"):
        headers = {"Content-Type": "application/json"}
        response = httpx.post(f"{address}/predict", content=content, headers=headers, timeout=60)
        assert response.status_code in (400, 422), content
        assert isinstance(response.json()["detail"], str)

    def endless() -> Iterator[bytes]:
        yield b"{"

    assert httpx.post(f"{address}/predict", content=endless(), timeout=60).status_code == 411


def test_health_and_docs_ask_nobody_else(address: str) -> None:
    health = httpx.get(f"{address}/health", timeout=60).json()
    assert health["status"] == "ok"
    assert health["labels"] == ["negative", "positive"]
    page = httpx.get(f"{address}/docs", timeout=60).text
    links = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert links
    for link in links:
        assert link.startswith("/"), link
        assert httpx.get(f"{address}{link}", timeout=60).status_code == 200
    assert "/predict" in httpx.get(f"{address}/openapi.json", timeout=60).json()["paths"]


def test_a_full_queue_and_a_slow_model_are_told_apart(trained: Path) -> None:
    async def statuses(limits: Limits, requests: int) -> list[int]:
        app = make_app(trained, limits)
        transport = httpx.ASGITransport(app)
        async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport) as client:
            asked = [
                client.post("http://here/predict", json={"texts": ["a film"] * 4}) for _ in range(requests)
            ]
            return [response.status_code for response in await asyncio.gather(*asked)]

    full = in_a_thread(statuses(Limits(waiting=4, pause=0.2), 6))
    assert full.count(503) >= 1
    assert full.count(200) >= 1
    assert set(full) == {200, 503}
    assert in_a_thread(statuses(Limits(seconds=0.01, pause=0.2), 2)) == [504, 504]


def test_a_port_that_is_taken_is_said(trained: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(OSError, match="choose another --port"),
    ):
        serve(trained, port=taken.getsockname()[1])
