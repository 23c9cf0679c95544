"""What every study is made of: runs that each make one record, rows, and calls timed in turns."""

from __future__ import annotations

import inspect
import json
import os
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch

from topk_lib import records
from topk_lib.data import EMBEDDED, load_reviews, source_of

__all__ = ["Made", "Row", "Rows", "Run", "check_public", "in_turns", "make", "make_missing", "packed", "rate"]

Row = dict[str, Any]


class Made(NamedTuple):
    """What a run has to tell: the parts of its record that :func:`topk_lib.records.write` cannot know.

    Attributes:
        metrics: what was measured.
        settings: what the run was given, the seed among them.
        data: the source of the data, its fingerprint and sizes.
        seconds: how long it took, earlier sittings included; None: as long as the call.
    """

    metrics: dict[str, Any]
    settings: dict[str, Any]
    data: dict[str, Any]
    seconds: float | None = None


class Run(NamedTuple):
    """One record to be made: ``results/<experiment>/<name>.<device>.json``.

    A study is a file with ``runs(*, gpu)`` that yields these, most telling first; with a second
    argument ``n_train`` where the number of training reviews is open.
    """

    experiment: str
    name: str
    measure: Callable[[], Made]

    @property
    def label(self) -> str:
        return f"{self.experiment}/{self.name}"

    @property
    def folder(self) -> Path:
        """For models and whatever else an interrupted run leaves."""
        return Path("runs") / self.experiment / self.name


def make(study: str, one: Run) -> Path:
    """Measure, write the record, and give its path."""
    begun = time.perf_counter()
    made = one.measure()
    return records.write(
        one.experiment, one.name, metrics=made.metrics, settings=made.settings, data=made.data,
        seconds=time.perf_counter() - begun if made.seconds is None else made.seconds,
        command=f"topk-lib study {study} --only {one.label}",
    )  # fmt: skip


def make_missing(
    studies: Mapping[str, ModuleType], *, only: str = "", list_only: bool = False, n_train: int | None = None
) -> list[str]:
    """Make the runs of these studies that have no record yet; a run that fails does not stop the others.

    Returns:
        The labels of those that failed.

    Raises:
        ValueError: ``only`` is in no run's label, no study asks for ``n_train``, or the embedded corpus
            would get among the course's records.
    """
    gpu = records.device_kind() == "cuda"
    failed: list[str] = []
    met, seen, made = 0, "", 0
    open_size = {
        name for name, study in studies.items() if "n_train" in inspect.signature(study.runs).parameters
    }
    if n_train is not None and not open_size:
        raise ValueError(f"the study {next(iter(studies))} fixes its training reviews: leave --train out")
    for name, study in studies.items():
        # One after another, since a later run's settings may rest on an earlier record.
        for one in study.runs(gpu=gpu, **({"n_train": n_train} if name in open_size else {})):
            seen = seen or one.label
            if only not in one.label:
                continue
            met += 1
            if records.path_of(one.experiment, one.name).is_file():
                continue
            made += 1
            print(f"== {one.label}", flush=True)
            if list_only:
                continue
            if made == 1:
                _check_source()
            try:
                make(name, one)
            except (OSError, RuntimeError, ValueError) as error:
                failed.append(one.label)
                print(f"failed, going on: {one.label}: {error}", file=sys.stderr)
    if not met:
        raise ValueError(
            f"no run has {only!r} in its name: they are called like {seen}, and --list shows them"
        )
    if not made:
        print(f"nothing to do: all {met} have a record of this kind of device")
    return failed


def _check_source() -> None:
    """The course's own records are of the IMDB reviews."""
    if "TOPK_RESULTS" not in os.environ and source_of(load_reviews(split="test", quiet=True)) == EMBEDDED:
        raise ValueError(
            "the course's records are of the IMDB reviews, and none are at hand: set TOPK_IMDB to a folder "
            "that holds them, or TOPK_RESULTS to a folder for records of the embedded corpus"
        )


def check_public(source: str) -> None:
    """Keep what was measured on an embedded set out of the course's records.

    Args:
        source: where the data are from, as ``source_of`` says it.

    Raises:
        ValueError: an embedded set stands in for the public one, and ``TOPK_RESULTS`` names no other folder.
    """
    if source == EMBEDDED and "TOPK_RESULTS" not in os.environ:
        raise ValueError(
            "the course's records are of public sets, and they are not at hand: set TOPK_DATA to a folder "
            "that holds them, or TOPK_RESULTS to a folder for records of the embedded sets"
        )


class Rows:
    """Measurements of one run that are kept one by one, so that an interruption loses none.

    Args:
        path: the file that keeps them.
        of: what they were measured on; rows of anything else are not taken up again.
    """

    def __init__(self, path: Path, of: Mapping[str, Any]) -> None:
        self.path, self.of = path, json.loads(json.dumps(of))
        self.found: dict[str, Row] = {}
        if path.is_file():
            before = json.loads(path.read_text(encoding="utf-8"))
            if before["of"] == self.of:
                self.found = before["rows"]

    def measure(self, name: str, call: Callable[[], Row]) -> Row:
        """The row of this name, measured now where it is not there yet."""
        if name not in self.found:
            self.found[name] = call()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            fresh = self.path.with_suffix(".tmp")
            fresh.write_text(json.dumps({"of": self.of, "rows": self.found}), encoding="utf-8")
            os.replace(fresh, self.path)
        return self.found[name]


def in_turns(calls: Mapping[str, Callable[[], object]], rounds: int = 3) -> dict[str, list[float]]:
    """The seconds of each call, a round after another, each round in an order of its own."""
    dice = random.Random(0)
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name in dice.sample(list(calls), len(calls)):
            start = time.perf_counter()
            calls[name]()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def rate(texts: int, seconds: Sequence[float]) -> dict[str, float]:
    """Texts a second: the median round, the slowest and the fastest."""
    return {
        "texts_per_second": texts / float(np.median(seconds)),
        "slowest": texts / max(seconds),
        "fastest": texts / min(seconds),
    }


def packed(wrong: np.ndarray) -> str:
    """(n,) bool as a bit a review, in hexadecimal, so that two runs can be compared review by review."""
    return np.packbits(wrong).tobytes().hex()
