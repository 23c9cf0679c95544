"""Choosing the next token: processors for ``generate``, other ways to write, and measures of texts."""

from topk_lib.decoding.contrastive import contrastive_search
from topk_lib.decoding.measures import Loop, continuation_losses, distinct, find_loop, repeated, self_bleu
from topk_lib.decoding.processors import TopKFilter, TopKSampler, continue_texts
from topk_lib.decoding.speculative import (
    BigramDraft,
    EarlyExitDraft,
    LookupDraft,
    Speculation,
    accept_draft,
    speculate,
)

__all__ = [
    "BigramDraft",
    "EarlyExitDraft",
    "LookupDraft",
    "Loop",
    "Speculation",
    "TopKFilter",
    "TopKSampler",
    "accept_draft",
    "continuation_losses",
    "continue_texts",
    "contrastive_search",
    "distinct",
    "find_loop",
    "repeated",
    "self_bleu",
    "speculate",
]
