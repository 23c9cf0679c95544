"""Pictures and coloured text for the chapters."""

from topk_lib.show.explore import Explorer, explore
from topk_lib.show.figures import accuracy_by_k, style, token_weights
from topk_lib.show.text import kept_text

__all__ = ["Explorer", "accuracy_by_k", "explore", "kept_text", "style", "token_weights"]
