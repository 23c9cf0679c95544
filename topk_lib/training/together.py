"""Several processes that train together: where one ends, the others end too, and one sentence is said."""

from __future__ import annotations

import datetime as dt
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist

__all__ = ["asked_to_shard", "check_same", "first_to_tell", "together", "world_size"]

_LOST = ("gloo", "nccl", "Connection closed by peer", "Connection reset by peer")


def world_size() -> int:
    """How many processes a launcher such as ``torchrun`` started; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def asked_to_shard() -> bool:
    """Whether ``accelerate launch --use_fsdp`` started this process."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


class _Ended(BaseException):
    pass


def _end(*_: Any) -> None:
    raise _Ended


@contextmanager
def together(folder: object) -> Iterator[None]:
    """Work in ``folder`` with the other processes of this run, if there are any.

    Raises:
        RuntimeError: one of them is gone, or the launcher ended this one since another is. SIGTERM is ignored
            from then on.
    """
    if world_size() == 1:
        yield
        return
    main = threading.current_thread() is threading.main_thread()
    after = signal.signal(signal.SIGTERM, _end) if main else None
    try:
        yield
    except (_Ended, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not _is_loss(error):
            raise
        after = signal.SIG_IGN  # this process ends by itself, and must first say why
        if main:
            signal.signal(signal.SIGTERM, after)
        raise RuntimeError(
            f"a process of this run in {folder} was ended, so all {world_size()} stop: give the same command "
            "again, which goes on from the last checkpoint"
        ) from error
    finally:
        if main:
            signal.signal(signal.SIGTERM, after)


def _is_loss(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or any(word in str(error) for word in _LOST)


def check_same(folder: object, **facts: Any) -> None:
    """Compare what the processes of this run have found; without others there is nothing to compare.

    Raises:
        ValueError: they differ in one of the facts.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, facts)
    for name, value in found[0].items():
        if other := [one[name] for one in found if one[name] != value]:
            raise ValueError(
                f"the processes of this run differ in the {name} ({value} and {other[0]}): put {folder} and "
                "what they read where all of them see the same files"
            )


def first_to_tell() -> bool:
    """Whether no other process of this run has said why it ends; the launcher's store counts."""
    if world_size() == 1:
        return True
    try:
        store = dist.TCPStore(  # type: ignore[attr-defined]
            os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False,
            timeout=dt.timedelta(seconds=5),
        )  # fmt: skip
        return int(store.add(f"topk-lib/told/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", 1)) == 1
    except (KeyError, ValueError, RuntimeError):  # no such store, or it is gone
        return True
