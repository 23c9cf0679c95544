"""topk_lib: top-k token selection in large language models."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from topk_lib.ops import (
        Draw,
        Selection,
        SoftTopK,
        TopK,
        argtopk,
        gumbel_topk,
        hard_topk,
        likely_mask,
        sample_topk,
        segment_topk,
        soft_topk,
        soft_topk_threshold,
        topk_mask,
        topk_threshold,
    )

__all__ = [
    "Draw",
    "Selection",
    "SoftTopK",
    "TopK",
    "__version__",
    "argtopk",
    "gumbel_topk",
    "hard_topk",
    "likely_mask",
    "sample_topk",
    "segment_topk",
    "soft_topk",
    "soft_topk_threshold",
    "topk_mask",
    "topk_threshold",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """The operators, when they are first asked for: PyTorch takes seconds to import."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("topk_lib.ops"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
