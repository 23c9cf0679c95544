"""Public operators, with argument checks and dispatch."""

from topk_lib.ops.hard import Selection, hard_topk
from topk_lib.ops.soft import soft_topk, soft_topk_threshold

__all__ = ["Selection", "hard_topk", "soft_topk", "soft_topk_threshold"]
