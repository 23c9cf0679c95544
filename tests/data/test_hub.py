"""A hub that does not answer is asked once."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import datasets
import huggingface_hub
import pytest

from topk_lib.data import load_reviews, source_of


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What is asked of a hub that hangs up on everybody."""
    requests: list[str] = []
    server = socket.create_server(("127.0.0.1", 0))

    def hang_up() -> None:
        while True:
            try:
                caller, _ = server.accept()
            except OSError:
                return
            request = caller.recv(4096).decode().split(" HTTP")[0]
            caller.close()
            if "imdb" in request:  # the client also asks for things of its own
                requests.append(request)

    threading.Thread(target=hang_up, daemon=True).start()
    address = f"http://127.0.0.1:{server.getsockname()[1]}"
    for place, name in ((huggingface_hub.constants, "ENDPOINT"), (datasets.config, "HF_ENDPOINT")):
        monkeypatch.setattr(place, name, address)
        monkeypatch.setattr(place, "HF_HUB_OFFLINE", False)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    yield requests
    server.close()


def test_a_hub_that_hangs_up_is_asked_once(asked: list[str]) -> None:
    assert source_of(load_reviews(split="test", quiet=True)) == "the embedded corpus"
    assert asked == ["GET /api/datasets/stanfordnlp/imdb"]
    assert not datasets.config.HF_HUB_OFFLINE  # later loads ask again
    with pytest.raises(ConnectionError, match="cannot be reached"):
        load_reviews("hub", split="test", quiet=True)
    assert len(asked) == 2
