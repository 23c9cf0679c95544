"""Pairs of sentences as a translator reads them, and which tokens of a source it is spared."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from topk_lib.ops import hard_topk
from topk_lib.training.corpus import token_ids

__all__ = ["RULES", "Pairs", "kept_places", "make_pairs", "shared_tokenizer", "shorten", "texts_of"]

_PAD, _END = "<pad>", "</s>"

RULES = ("rare", "first", "random", "common")
"""By which a source may be shortened: see :func:`kept_places`."""


def shared_tokenizer(texts: Iterable[str], size: int = 8192) -> PreTrainedTokenizerFast:
    """Train one byte-level BPE on the texts of both languages (Sennrich et al. 2016).

    Args:
        texts: each read once.
        size: token types at most, padding (id 0), the end (id 1) and the 256 bytes among them.

    Returns:
        It adds no special tokens. A blank before a word belongs to its first token, at the start of a text,
        too.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer: Any = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[_PAD, _END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(iter(texts), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=_PAD, eos_token=_END,
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


class Pairs(NamedTuple):
    """Sentences and their translations.

    Attributes:
        sources: the token ids of each sentence, without an end.
        targets: those of its translation, likewise.
        read: the sentences.
        written: the translations.
    """

    sources: list[list[int]]
    targets: list[list[int]]
    read: list[str]
    written: list[str]


def make_pairs(tokenizer: Any, read: Sequence[str], written: Sequence[str]) -> Pairs:
    """Tokenize sentences and their translations.

    Raises:
        ValueError: there are more of the one than of the other.
    """
    if len(read) != len(written):
        raise ValueError(f"each sentence needs its translation: got {len(read):,} and {len(written):,}")
    both = token_ids(tokenizer, [*read, *written])
    return Pairs(both[: len(read)], both[len(read) :], list(read), list(written))


def texts_of(tokenizer: Any, ids: Iterable[Sequence[int]]) -> list[str]:
    """The texts of token ids, special tokens left out."""
    decode = tokenizer.backend_tokenizer.decode
    return [str(decode(list(one), skip_special_tokens=True)).strip() for one in ids]


def kept_places(
    source: Sequence[int], share: float, rule: str, counts: np.ndarray, *, seed: int = 0
) -> list[int]:
    """Choose which tokens of a sentence are read.

    Args:
        source: token ids, without an end.
        share: of the tokens that stay, in (0, 1]; rounded up, so that one stays.
        rule: "rare" keeps the types that ``counts`` has least of, "common" those it has most of, "first" the
            first tokens, "random" any. Of equals the first stay.
        counts: (types,) how often each type stands in the training sentences.
        seed: of "random"; the same sentence always loses the same tokens.

    Returns:
        Their positions, ascending.

    Raises:
        ValueError: no such rule, or a share that is not above 0 and at most 1.
    """
    if rule not in RULES:
        raise ValueError(f"there is no rule {rule!r}: choose one of {', '.join(RULES)}")
    if not 0 < share <= 1:
        raise ValueError(f"share must be above 0 and at most 1, got {share}")
    if not source:
        return []
    ids = np.asarray(source, dtype=np.int64)
    scores = {
        "rare": -counts[ids],
        "common": counts[ids],
        "first": -np.arange(len(ids)),
        "random": np.random.default_rng([seed, *source]).random(len(ids)),
    }[rule]
    k = math.ceil(share * len(ids) - 1e-9)  # 0.1 * 30 is a little over 3
    found: list[int] = hard_topk(torch.from_numpy(np.asarray(scores, dtype=np.float64)), k).indices.tolist()
    return found


def shorten(
    source: Sequence[int], share: float, rule: str, counts: np.ndarray, *, seed: int = 0
) -> list[int]:
    """Leave out tokens of a sentence; what stays keeps its order and closes up. See :func:`kept_places`."""
    return [source[i] for i in kept_places(source, share, rule, counts, seed=seed)]
