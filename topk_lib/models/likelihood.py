"""How probable a language model finds a text, token by token."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Likelihood", "likelihood"]

_BETWEEN_TEXTS = "<|endoftext|>"


@dataclass(frozen=True)
class Likelihood:
    """A text as a language model read it: what :func:`likelihood` returns.

    Attributes:
        pieces: the text cut at the end of each of its n tokens, white space with the token after it; joined
            they are the text. A character of several tokens stands at the first of them, the others are "".
        log_probs: (n,) float32, in nats: the log probability of each token after those before it.
    """

    pieces: list[str]
    log_probs: Tensor

    @property
    def bits(self) -> Tensor:
        """(n,) the surprise of each token: minus the base-2 logarithm of its probability."""
        return -self.log_probs / math.log(2)

    @property
    def loss(self) -> float:
        """The mean surprise of a token, in nats: the loss that a language model is trained on."""
        return -float(self.log_probs.double().mean())

    @property
    def perplexity(self) -> float:
        """Among how many equally probable tokens a choice would be as hard; it depends on the tokenizer."""
        return math.exp(self.loss)

    @property
    def bits_per_character(self) -> float:
        """The surprise of the whole text, in bits, by its number of characters; free of the tokenizer."""
        return float(self.bits.double().sum()) / len("".join(self.pieces))


@torch.inference_mode()
def likelihood(model: Any, tokenizer: Any, text: str) -> Likelihood:
    """Score every token of a text under a language model, the first as the first of a document.

    One forward pass scores them all, because a causal model's logits at a position depend on nothing
    after it.

    Args:
        model, tokenizer: as :func:`~topk_lib.models.load_language_model` returns them.
        text: at least one token, and one fewer at most than the model has positions.

    Raises:
        ValueError: a text without a token, or too long; a tokenizer without a token to begin with.
    """
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids = encoded["input_ids"]
    if not ids:
        raise ValueError(f"the text {text!r} has no token to score: give one with at least one")
    most = getattr(model.config, "max_position_embeddings", None)
    if most is not None and len(ids) + 1 > most:
        raise ValueError(f"the text has {len(ids)} tokens, the model reads at most {most - 1}: cut the text")
    batch = torch.tensor([[_start(tokenizer), *ids]], device=model.device)
    log_probs = model(batch).logits[0, :-1].float().log_softmax(-1)
    told = log_probs.gather(-1, batch[0, 1:, None])[:, 0].cpu()
    pieces, at = [], 0
    for _, end in encoded["offset_mapping"]:
        pieces.append(text[at : max(at, end)])
        at = max(at, end)
    pieces[-1] += text[at:]
    return Likelihood(pieces, told)


def _start(tokenizer: Any) -> int:
    """The token between two documents of the pretraining text, or one that begins a text."""
    known = tokenizer.get_vocab()
    if _BETWEEN_TEXTS in known:
        return int(known[_BETWEEN_TEXTS])
    for start in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.cls_token_id):
        if start is not None:
            return int(start)
    raise ValueError("the tokenizer has no token that begins a text, so the first token cannot be scored")
