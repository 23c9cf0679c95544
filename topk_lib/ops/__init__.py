"""Public operators, with argument checks and dispatch."""

from topk_lib.ops.hard import Selection, argtopk, hard_topk, topk_mask, topk_threshold
from topk_lib.ops.modules import SoftTopK, TopK
from topk_lib.ops.sample import Draw, gumbel_topk, likely_mask, sample_topk
from topk_lib.ops.segments import segment_topk
from topk_lib.ops.soft import soft_topk, soft_topk_threshold

__all__ = [
    "Draw",
    "Selection",
    "SoftTopK",
    "TopK",
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
