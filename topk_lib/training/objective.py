"""What is learned in pretraining: the model, and how surprised it is at what it has to guess."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
)

from topk_lib.models import errors_only
from topk_lib.models.loading import encoder_path, language_model_path, readable
from topk_lib.training.corpus import cut_blocks, mask_tokens, token_ids

__all__ = [
    "Guesses",
    "block_losses",
    "given_tokenizer",
    "mean_and_error",
    "new_model",
    "text_losses",
    "to_guess",
    "token_losses",
]


def start_path(objective: str, start: str) -> str:
    """The hub name or folder of a model to train further."""
    return encoder_path(start) if objective == "masked" else language_model_path(start)


def given_tokenizer(objective: str, start: str, length: int) -> Any:
    """The tokenizer of a model to train further, once it is clear that the model can be.

    Raises:
        OSError: nothing is there under that name, or it is not whole.
        ValueError: it is no BERT and no ModernBERT (masked), or reads less than ``length`` tokens.
    """
    path = start_path(objective, start)
    options: dict[str, Any] = {"local_files_only": Path(path).is_dir(), "trust_remote_code": False}
    with errors_only():
        with readable(path, "config.json"):
            config = AutoConfig.from_pretrained(path, **options)
        with readable(path, "tokenizer.json"):
            tokenizer = AutoTokenizer.from_pretrained(path, **options)
    if objective == "masked" and config.model_type not in ("bert", "modernbert"):
        raise ValueError(
            f"{start} is of the kind {config.model_type!r}: to train further takes a BERT or a ModernBERT"
        )
    if length > config.max_position_embeddings:
        raise ValueError(
            f"length {length} is more than the {config.max_position_embeddings} tokens that {start} reads"
        )
    return tokenizer


def new_model(settings: Any, tokenizer: Any) -> Any:
    """A new model, or the one to go on from; attention by matrix products trains faster than fused here."""
    s = settings
    if s.start is not None:
        path = start_path(s.objective, s.start)
        kind: Any = AutoModelForMaskedLM if s.objective == "masked" else AutoModelForCausalLM
        with errors_only(), readable(path, "model.safetensors"):
            return kind.from_pretrained(
                path, use_safetensors=True, attn_implementation="eager", dtype=torch.float32,
                local_files_only=Path(path).is_dir(), trust_remote_code=False,
            )  # fmt: skip
    common: dict[str, Any] = {
        "vocab_size": len(tokenizer), "hidden_size": s.hidden_size, "num_hidden_layers": s.layers,
        "num_attention_heads": s.heads, "max_position_embeddings": s.length,
        "pad_token_id": tokenizer.pad_token_id, "attn_implementation": "eager",
    }  # fmt: skip
    if s.objective == "masked":
        start, end = tokenizer.cls_token_id, tokenizer.sep_token_id
        return ModernBertForMaskedLM(
            ModernBertConfig(
                **common, intermediate_size=8 * s.hidden_size // 3, global_attn_every_n_layers=1,
                classifier_pooling="mean", cls_token_id=start, sep_token_id=end, bos_token_id=start,
                eos_token_id=end,
            )
        )  # fmt: skip
    end = tokenizer.eos_token_id
    config = LlamaConfig(
        **common, intermediate_size=4 * s.hidden_size, tie_word_embeddings=True, bos_token_id=end,
        eos_token_id=end,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def to_guess(ids: Tensor, tokenizer: Any, rate: float, *, seed: int, step: int) -> tuple[Tensor, Tensor]:
    """What a model reads of blocks, and where it has to guess: hidden tokens, or all but the first.

    Args:
        ids: (batch, length) int64.
        tokenizer: one with a mask token hides, one without does not.

    Returns:
        (batch, length) int64 and (batch, length) bool.
    """
    if tokenizer.mask_token_id is not None:
        return mask_tokens(ids, tokenizer=tokenizer, seed=seed, step=step, rate=rate)
    chosen = torch.ones_like(ids, dtype=torch.bool)
    chosen[:, 0] = False
    return ids, chosen


def token_losses(model: Any, read: Tensor, ids: Tensor, chosen: Tensor) -> Tensor:
    """The surprise of a model at what it has to guess, in nats.

    Args:
        model: a ``BertForMaskedLM``, a ``ModernBertForMaskedLM``, or a causal model, which guesses a token
            from those before.
        read: (batch, length) int64, what the model sees.
        ids: (batch, length) int64, what stood there.
        chosen: (batch, length) bool, where to guess.

    Returns:
        (guesses,) float32, in the order of the positions. Only these go through the head.
    """
    if isinstance(model, BertForMaskedLM):
        logits = model.cls(model.bert(read).last_hidden_state[chosen])
    elif isinstance(model, ModernBertForMaskedLM):
        logits = model.decoder(model.head(model.model(read).last_hidden_state[chosen]))
    else:
        before = chosen.roll(-1, 1)  # the first token is never guessed
        logits = model.get_output_embeddings()(model.base_model(read).last_hidden_state[before])
    return F.cross_entropy(logits.float(), ids[chosen], reduction="none")


class Guesses(NamedTuple):
    """What a model had to guess, one entry a guess.

    Attributes:
        losses: (guesses,) float32, nats.
        types: (guesses,) int64, what was right.
        read: (guesses,) int64, what the model saw there: the mask, the right type, or any (masked); what
            is right (causal).
        block: (guesses,) int64, in which block.
    """

    losses: Tensor
    types: Tensor
    read: Tensor
    block: Tensor


@torch.no_grad()
def block_losses(
    model: Any, tokenizer: Any, blocks: Tensor, *, mask_rate: float = 0.15, autocast: Any = nullcontext
) -> Guesses:
    """What a model that was pretrained is surprised by, on blocks of text and always the same masks.

    Args:
        blocks: (blocks, length) int64.
        autocast: makes the context in which the model computes.
    """
    was, device = model.training, next(model.parameters()).device
    model.eval()
    found: list[Guesses] = []
    for start in range(0, len(blocks), 32):
        ids = blocks[start : start + 32]
        read, chosen = to_guess(ids, tokenizer, mask_rate, seed=2**31, step=start)
        with autocast():
            losses = token_losses(model, read.to(device), ids.to(device), chosen.to(device))
        found.append(Guesses(losses.cpu(), ids[chosen], read[chosen], start + chosen.nonzero()[:, 0]))
    model.train(was)
    return Guesses(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def text_losses(
    model: Any, tokenizer: Any, texts: Sequence[str], *, length: int = 128, mask_rate: float = 0.15
) -> tuple[float, float]:
    """How surprised a model is by texts: one after another, cut into blocks, and always the same masks.

    Returns:
        The mean loss in nats a guess, and its standard error.

    Raises:
        ValueError: the texts do not fill one block.
    """
    masked = tokenizer.mask_token_id is not None
    end = tokenizer.sep_token_id if masked else tokenizer.eos_token_id
    ids = np.array([i for text in token_ids(tokenizer, list(texts)) for i in (*text, end)])
    blocks = cut_blocks(ids, range(len(ids) // (length - 2 * masked)), tokenizer, length)
    guesses = block_losses(model, tokenizer, blocks, mask_rate=mask_rate)
    return mean_and_error(guesses.losses, guesses.block)


def mean_and_error(losses: Tensor, block: Tensor) -> tuple[float, float]:
    """The mean loss, and its standard error when whole blocks are drawn (guesses in one are alike)."""
    sums = torch.zeros(int(block.max()) + 1, dtype=torch.float64).index_add(0, block, losses.double())
    number = torch.bincount(block).double()
    mean = sums.sum() / number.sum()
    spread = ((sums - mean * number) ** 2).sum().sqrt() / number.sum()
    return mean.item(), spread.item()
