"""Texts as they come from outside, and what a model can read of them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["as_texts", "text_hash"]

_HALF = re.compile("[\ud800-\udfff]")


def as_texts(texts: Iterable[Any], name: str = "text") -> list[str]:
    """Make a list of strings of a list, a tuple, an array, a pandas series, a column or a generator.

    Args:
        texts: the texts.
        name: what one of them is called in an error's sentence.

    Raises:
        TypeError: it is one string, no sequence at all, or holds something that is no string.
        ValueError: a text holds half a character (a lone surrogate), which no tokenizer can read.
    """
    if isinstance(texts, (str, bytes)):
        raise TypeError("texts must be a list of strings, got one string: write [text]")
    if isinstance(texts, (Mapping, set, frozenset)):
        raise TypeError(f"texts must be a list of strings, got a {type(texts).__name__}, which has no order")
    if hasattr(texts, "columns"):  # a table would give their names
        raise TypeError(f"texts must be a list of strings, got a {type(texts).__name__}: name its column")
    try:
        found = list(texts)
    except TypeError:
        raise TypeError(f"texts must be a list of strings, got {type(texts).__name__}") from None
    for number, text in enumerate(found):
        if not isinstance(text, str):
            raise TypeError(f"{name} {number} is {text!r}, not a string")
        if half := _HALF.search(text):
            raise ValueError(
                f"{name} {number} holds half a character ({half[0]!r}, character {half.start()}): "
                "it was cut there, or is no UTF-8; decode it anew, or leave it out"
            )
    return [str(text) for text in found]


def text_hash(text: str) -> int:
    """64 bits that stand for a text, the same on every machine."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
