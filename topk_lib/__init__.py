"""topk_lib: top-k token selection in large language models."""

from topk_lib.ops import Selection, hard_topk, soft_topk, soft_topk_threshold

__all__ = ["Selection", "__version__", "hard_topk", "soft_topk", "soft_topk_threshold"]
__version__ = "0.1.0"
