"""topk_lib: top-k token selection in large language models."""

from topk_lib.ops import (
    Draw,
    Selection,
    SoftTopK,
    TopK,
    gumbel_topk,
    hard_topk,
    sample_topk,
    soft_topk,
    soft_topk_threshold,
    topk_mask,
)

__all__ = [
    "Draw",
    "Selection",
    "SoftTopK",
    "TopK",
    "__version__",
    "gumbel_topk",
    "hard_topk",
    "sample_topk",
    "soft_topk",
    "soft_topk_threshold",
    "topk_mask",
]
__version__ = "0.1.0"
