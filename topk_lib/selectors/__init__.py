"""Token scorers behind one protocol: each gives every token of a text a score, high is kept."""

from topk_lib.selectors.base import (
    Selector,
    ids_to_batch,
    load_selector,
    make_selector,
    save_selector,
    select_tokens,
    selector_names,
    shorten,
)
from topk_lib.selectors.corpus import LinearSelector, TfidfSelector
from topk_lib.selectors.position import FirstSelector, HeadTailSelector, RandomSelector

__all__ = [
    "FirstSelector",
    "HeadTailSelector",
    "LinearSelector",
    "RandomSelector",
    "Selector",
    "TfidfSelector",
    "ids_to_batch",
    "load_selector",
    "make_selector",
    "save_selector",
    "select_tokens",
    "selector_names",
    "shorten",
]
