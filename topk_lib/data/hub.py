"""The hub, asked once and briefly whether it is there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import datasets
import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError

__all__ = ["asked_once"]

_SECONDS = 5.0


@contextmanager
def asked_once(name: str) -> Iterator[None]:
    """Where the hub does not answer for the data set ``name``, nothing in the block asks it again.

    ``load_dataset`` alone would ask six times, waiting longer each time. What was downloaded before
    is still found in the cache.
    """
    places: tuple[Any, ...] = (datasets.config, huggingface_hub.constants)
    before = [place.HF_HUB_OFFLINE for place in places]
    if not any(before) and not _answers(name):
        for place in places:
            place.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = value


def _answers(name: str) -> bool:
    try:
        huggingface_hub.HfApi().dataset_info(name, timeout=_SECONDS)
    except HfHubHTTPError:
        return True  # whatever it is, load_dataset says it better
    except Exception:  # no name server, no route, refused, too late: clients raise many kinds
        return False
    return True
