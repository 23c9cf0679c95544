"""Public operators, with argument checks and dispatch."""

from topk_lib.ops.hard import Selection, hard_topk

__all__ = ["Selection", "hard_topk"]
