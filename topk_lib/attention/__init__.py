"""Each query chooses its keys: attention over k of n, a cache that keeps k, and a learned scorer."""

from topk_lib.attention.cache import KeptCache
from topk_lib.attention.chosen import topk_attention
from topk_lib.attention.indexer import Indexer
from topk_lib.attention.kept import WAYS
from topk_lib.attention.switch import attention_layers, choose_keys

__all__ = ["WAYS", "Indexer", "KeptCache", "attention_layers", "choose_keys", "topk_attention"]
