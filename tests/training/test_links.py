"""Operations between processes are timed for real, and what cannot be is refused."""

from __future__ import annotations

import pytest

from topk_lib.training import links


def _all() -> dict[str, dict[int, list[float]]]:
    return {name: links._measure(name, (1024, 2**20), 2) for name in links.OPERATIONS}


def test_every_operation_is_timed_in_both_processes() -> None:
    both = links.in_processes(_all, 2)
    assert len(both) == 2
    for found in both:
        assert list(found) == list(links.OPERATIONS)
        for sizes in found.values():
            assert list(sizes) == [1024, 2**20]
            assert all(len(each) == 2 and min(each) > 0 for each in sizes.values())


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("broadcast", 1024, "the operation must be one of all-reduce, .*; got 'broadcast'"),
        ("all-reduce", 12, "a size must be a multiple of 8 bytes, got 12"),
        ("all-reduce", 0, "a size must be a multiple of 8 bytes, got 0"),
    ],
)
def test_what_cannot_be_timed(name: str, size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        links.operation_seconds(name, [size])
