"""The checks of the chapter on more than one machine: right answers in any guise, and likely wrong ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from topk_lib import checks
from topk_lib.training.cost import all_reduce, all_to_all


@pytest.mark.parametrize(
    "sent",
    [
        lambda size, devices: 2 * (devices - 1) * size / devices,
        lambda size, devices: all_reduce(size, devices).sent,
        lambda size, devices: Fraction(2 * int(size) * (devices - 1), devices),
        lambda size, devices: torch.tensor(2 * size * (1 - 1 / devices)),
    ],
)
def test_all_reduce_right(sent: Callable[[float, int], Any]) -> None:
    assert checks.check_all_reduce(sent).startswith("Right")


@pytest.mark.parametrize(
    ("sent", "hint"),
    [
        (lambda size, devices: 2 * size, "alone sends nothing"),
        (lambda size, devices: 2 * size if devices > 1 else 0, "all but one part"),
        (lambda size, devices: size * (devices - 1) / devices, "one trip round"),
        (lambda size, devices: size * (devices - 1), "everything to everyone"),
        (lambda size, devices: 2 * size * (devices - 1), "not everything"),
        (lambda size, devices: 2 * size * devices / (devices - 1), "divides by zero"),
        (lambda size, devices: 0, "twice round the ring"),
        (lambda size, devices: None, "returns nothing"),
    ],
)
def test_all_reduce_wrong(sent: Callable[[float, int], Any], hint: str) -> None:
    said = checks.check_all_reduce(sent)
    assert said.startswith("Not yet")
    assert hint in said


def blocks(rows: list[int], rank: int, world: int) -> list[int]:
    ends = [len(rows) * i // world for i in range(world + 1)]
    return rows[ends[rank] : ends[rank + 1]]


@pytest.mark.parametrize(
    "share",
    [
        lambda rows, rank, world: rows[rank::world],
        blocks,
        lambda rows, rank, world: np.array_split(rows, world)[rank],
        lambda rows, rank, world: torch.tensor(rows)[rank::world],
    ],
)
def test_share_right(share: Callable[[list[int], int, int], Any]) -> None:
    assert checks.check_share(share).startswith("Right")


@pytest.mark.parametrize(
    ("share", "hint"),
    [
        (lambda rows, rank, world: rows, "read by two processes"),
        (lambda rows, rank, world: rows[: len(rows) // world], "read by two processes"),
        (lambda rows, rank, world: rows[rank * (len(rows) // world) :][: len(rows) // world], "nobody reads"),
        (lambda rows, rank, world: list(range(len(rows)))[rank::world], "not their positions"),
        (lambda rows, rank, world: rows if rank == 0 else [], "share more evenly"),
        (lambda rows, rank, world: rows[rank + 1 :: world], "nobody reads row 100"),
    ],
)
def test_share_wrong(share: Callable[[list[int], int, int], Any], hint: str) -> None:
    said = checks.check_share(share)
    assert said.startswith("Not yet")
    assert hint in said


@pytest.mark.parametrize(
    "combined",
    [
        lambda sums, counts: sum(sums) / sum(counts),
        lambda sums, counts: torch.tensor(sums).sum() / torch.tensor(counts).sum(),
        lambda sums, counts: np.sum(sums) / np.sum(counts),
    ],
)
def test_combined_right(combined: Callable[[Sequence[float], Sequence[int]], Any]) -> None:
    assert checks.check_combined(combined).startswith("Right")


@pytest.mark.parametrize(
    ("combined", "hint"),
    [
        (
            lambda sums, counts: sum(a / max(b, 1) for a, b in zip(sums, counts, strict=True)) / len(sums),
            "mean of means",
        ),
        (
            lambda sums, counts: np.mean([a / b for a, b in zip(sums, counts, strict=True) if b]),
            "mean of means",
        ),
        (lambda sums, counts: sum(sums), "divide by how many"),
        (lambda sums, counts: sum(sums) / len(sums), "divide once"),
        (
            lambda sums, counts: sum(a / b * (b / sum(counts)) for a, b in zip(sums, counts, strict=True)),
            "divide by 0",
        ),
    ],
)
def test_combined_wrong(combined: Callable[[Sequence[float], Sequence[int]], Any], hint: str) -> None:
    said = checks.check_combined(combined)
    assert not said.startswith("Right")
    assert hint in said


def test_devices() -> None:
    for right in (23, 23.0, 24):
        assert checks.check_devices(right).startswith("Right")
    wrong = {
        22: "rounded down",
        14: "for activations",
        3: "weights alone",
        22.4: "whole numbers",
        70: "16 bytes",
    }
    for answer, hint in wrong.items():
        said = checks.check_devices(answer)
        assert not said.startswith("Right")
        assert hint in said


def test_all_to_all() -> None:
    whole = 4096 * 2 * 1.25 * 1024 * 2
    for right in (20_643_840, 20_643_840.0, np.float64(20_643_840), all_to_all(whole, 64).sent):
        assert checks.check_all_to_all(right).startswith("Right")
    wrong = {
        whole: "stays where it is", 4 * 20_643_840: "a layer's four", 20_643_840 / 1.25: "room for 1.25",
        20_643_840 / 2: "two experts", 2 * 20_643_840: "not 4", 20160: "a vector of 1,024", 7: "63/64 leave",
    }  # fmt: skip
    for answer, hint in wrong.items():
        said = checks.check_all_to_all(answer)
        assert said.startswith("Not yet")
        assert hint in said


def two_ends(sizes: list[int], seconds: list[float]) -> tuple[float, float]:
    bandwidth = (sizes[-1] - sizes[0]) / (seconds[-1] - seconds[0])
    return seconds[0] - sizes[0] / bandwidth, bandwidth


def least_squares(sizes: list[int], seconds: list[float]) -> np.ndarray:
    slope, start = np.polyfit(np.array(sizes, dtype=float), seconds, 1)
    return np.array([start, 1 / slope])


@pytest.mark.parametrize("fit", [two_ends, least_squares])
def test_link_right(fit: Callable[[list[int], list[float]], Any]) -> None:
    assert checks.check_link(fit).startswith("Right")


@pytest.mark.parametrize(
    ("fit", "hint"),
    [
        (lambda sizes, seconds: two_ends(sizes, seconds)[::-1], "latency comes first"),
        (
            lambda sizes, seconds: (two_ends(sizes, seconds)[0], 1 / two_ends(sizes, seconds)[1]),
            "one over it",
        ),
        (lambda sizes, seconds: (0.0, sizes[0] / seconds[0]), "compare two"),
        (lambda sizes, seconds: (0.0, sizes[1] / seconds[1]), "Between two sizes"),
        (lambda sizes, seconds: (seconds[-1], two_ends(sizes, seconds)[1]), "what is left"),
        (lambda sizes, seconds: (1.0, 2.0, 3.0), "two numbers"),
        (lambda sizes, seconds: seconds[0] - seconds[1], "stops with TypeError"),
    ],
)
def test_link_wrong(fit: Callable[[list[int], list[float]], Any], hint: str) -> None:
    said = checks.check_link(fit)
    assert said.startswith("Not yet")
    assert hint in said
