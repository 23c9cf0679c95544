"""topk_lib: top-k token selection in large language models."""

from topk_lib.ops import Selection, hard_topk

__all__ = ["Selection", "__version__", "hard_topk"]
__version__ = "0.1.0"
