"""The picture of a query and a key that turn with their positions."""

from __future__ import annotations

import pytest

from topk_lib import show


def said(at: int, distance: int, degrees: float = 30) -> tuple[str, list[str]]:
    figure = show.turned_pair(at, distance, degrees)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    return figure.axes[0].get_title(), labels


def test_only_the_distance_counts() -> None:
    assert said(3, 1) == ("score: 0.87", ["query at 3: (0.00, 1.00)", "key at 2: (0.50, 0.87)"])
    assert {said(at, 2)[0] for at in range(2, 12)} == {"score: 0.50"}
    assert said(6, 6)[0] == "score: -1.00"
    assert said(1, 1, degrees=60)[0] == "score: 0.50"


def test_a_key_before_the_text_is_refused() -> None:
    with pytest.raises(ValueError, match=r"distance must lie in 0\.\.2 .* got 3"):
        show.turned_pair(2, 3)
