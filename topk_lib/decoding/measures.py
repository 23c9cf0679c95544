"""How varied and how likely written texts are."""

from __future__ import annotations

import importlib.util
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = ["Loop", "continuation_losses", "distinct", "find_loop", "repeated", "self_bleu"]


def distinct(texts: Sequence[Sequence[Hashable]], n: int) -> float:
    """The share of different ones among all n-grams of some texts: distinct-n (Li et al. 2016).

    Args:
        texts: each a list of tokens.
        n: 1 at least.

    Raises:
        ValueError: no text is n tokens long.
    """
    grams = [gram for text in texts for gram in _grams(text, n)]
    if not grams:
        raise ValueError(f"no text has {n} tokens, so there are no {n}-grams: give longer ones")
    return len(set(grams)) / len(grams)


def repeated(text: Sequence[Hashable], n: int) -> float:
    """The share of a text's n-grams that stood in it before (rep-n of Su et al. 2022); n is 1 or more."""
    return 1 - distinct([text], n)


def _grams(text: Sequence[Hashable], n: int) -> list[tuple[Hashable, ...]]:
    if n < 1:
        raise ValueError(f"n must be 1 at least, got {n}")
    return list(zip(*(text[i:] for i in range(n)), strict=False))


class Loop(NamedTuple):
    """From the token ``start`` on a text repeats its last ``period`` tokens to the end."""

    start: int
    period: int


def find_loop(text: Sequence[Hashable], *, times: int = 3) -> Loop | None:
    """Find the shortest loop that a text ends in.

    Args:
        text: a list of tokens.
        times: how many times the loop must have been run through, 2 at least.

    Returns:
        None where there is none.
    """
    if times < 2:
        raise ValueError(f"a loop is run through twice at least, got times={times}")
    for period in range(1, len(text) // times + 1):
        start = len(text) - period
        while start > 0 and text[start - 1] == text[start - 1 + period]:
            start -= 1
        if len(text) - start >= times * period:
            return Loop(start, period)
    return None


def self_bleu(texts: Sequence[str]) -> float:
    """How alike some texts are: the mean BLEU of each against all others (Zhu et al. 2018), 0 to 100.

    sacrebleu counts, with its own word tokens and exponential smoothing.

    Raises:
        ValueError: fewer than two texts.
        OSError: sacrebleu is not installed.
    """
    if len(texts) < 2:
        raise ValueError("self-BLEU compares each text with the others: give two at least")
    if importlib.util.find_spec("sacrebleu") is None:
        raise OSError("self-BLEU is counted by sacrebleu, which is missing: pip install 'topk-lib[book]'")
    from sacrebleu.metrics import BLEU

    bleu = BLEU(effective_order=True)
    scores = [bleu.sentence_score(text, [*texts[:i], *texts[i + 1 :]]).score for i, text in enumerate(texts)]
    return float(np.mean(scores))


@torch.inference_mode()
def continuation_losses(model: Any, prompts: Tensor, continuations: Tensor) -> Tensor:
    """How surprised a language model is by continuations: exp of the mean is their perplexity under it.

    Args:
        model: as :func:`~topk_lib.models.load_language_model` returns it.
        prompts: (rows, n) int64 token ids, no padding.
        continuations: (rows, m) int64 token ids.

    Returns:
        (rows, m) float32, in nats: minus the logarithm of each token's probability.
    """
    ids = torch.cat([prompts, continuations], 1)
    log_probs = model(ids[:, :-1]).logits[:, prompts.shape[1] - 1 :].float().log_softmax(-1)
    losses: Tensor = -log_probs.gather(-1, continuations[..., None])[..., 0]
    return losses
