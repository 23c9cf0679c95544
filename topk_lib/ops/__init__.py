"""Public operators, with argument checks and dispatch."""

from topk_lib.ops.hard import Selection, hard_topk, topk_mask
from topk_lib.ops.modules import SoftTopK, TopK
from topk_lib.ops.sample import Draw, gumbel_topk, likely_mask, sample_topk
from topk_lib.ops.soft import soft_topk, soft_topk_threshold

__all__ = [
    "Draw",
    "Selection",
    "SoftTopK",
    "TopK",
    "gumbel_topk",
    "hard_topk",
    "likely_mask",
    "sample_topk",
    "soft_topk",
    "soft_topk_threshold",
    "topk_mask",
]
