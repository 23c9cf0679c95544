"""What is learned in pretraining: the model, and how surprised it is at what it has to guess."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
)

from topk_lib.models import errors_only
from topk_lib.models.loading import encoder_path, language_model_path
from topk_lib.training.corpus import mask_tokens

__all__ = ["block_losses", "given_tokenizer", "mean_and_error", "new_model", "token_losses"]


def _path(settings: Any) -> str:
    named = settings.start
    return encoder_path(named) if settings.objective == "masked" else language_model_path(named)


def given_tokenizer(settings: Any) -> Any:
    path = _path(settings)
    return AutoTokenizer.from_pretrained(path, local_files_only=Path(path).is_dir())


def new_model(settings: Any, tokenizer: Any) -> Any:
    """A new model, or the one to go on from; attention by matrix products trains faster than fused here."""
    s = settings
    if s.start is not None:
        path = _path(s)
        kind: Any = AutoModelForMaskedLM if s.objective == "masked" else AutoModelForCausalLM
        with errors_only():
            model = kind.from_pretrained(
                path, use_safetensors=True, attn_implementation="eager", dtype=torch.float32,
                local_files_only=Path(path).is_dir(),
            )  # fmt: skip
        if s.objective == "masked" and not isinstance(model, BertForMaskedLM):
            raise ValueError(f"{s.start} is a {type(model).__name__}: to train further takes a BERT")
        most = model.config.max_position_embeddings
        if s.length > most:
            raise ValueError(f"length {s.length} is more than the {most} tokens that {s.start} reads")
        return model
    common: dict[str, Any] = {
        "vocab_size": len(tokenizer), "hidden_size": s.hidden_size, "num_hidden_layers": s.layers,
        "num_attention_heads": s.heads, "intermediate_size": 4 * s.hidden_size,
        "max_position_embeddings": s.length, "pad_token_id": tokenizer.pad_token_id,
        "attn_implementation": "eager",
    }  # fmt: skip
    if s.objective == "masked":
        return BertForMaskedLM(
            BertConfig(
                **common, type_vocab_size=1, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
            )
        )
    end = tokenizer.eos_token_id
    config = LlamaConfig(**common, tie_word_embeddings=True, bos_token_id=end, eos_token_id=end)
    return LlamaForCausalLM(config)


def token_losses(model: Any, read: Tensor, ids: Tensor, chosen: Tensor | None) -> Tensor:
    """The surprise of a model at what it has to guess, in nats.

    Args:
        model: a ``BertForMaskedLM`` where ``chosen`` is given, else a causal one.
        read: (batch, length) int64, what the model sees.
        ids: (batch, length) int64, what stood there.
        chosen: (batch, length) bool, where to guess; None: each token after the first from those before.

    Returns:
        (guesses,) float32, in the order of the positions. Only these go through the head.
    """
    if chosen is None:
        logits = model(read).logits[:, :-1].flatten(0, 1)
        target = ids[:, 1:].flatten()
    else:
        logits = model.cls(model.bert(read).last_hidden_state[chosen])
        target = ids[chosen]
    return F.cross_entropy(logits.float(), target, reduction="none")


@torch.no_grad()
def block_losses(
    model: Any, tokenizer: Any, blocks: Tensor, *, mask_rate: float = 0.15, autocast: Any = None
) -> tuple[Tensor, Tensor, Tensor]:
    """What a model that was pretrained is surprised by, on blocks of text and always the same masks.

    Returns:
        ``losses`` (guesses,) float32 in nats, the ``types`` (guesses,) int64 that were right, and the
        ``block`` (guesses,) int64 of each.
    """
    masked = tokenizer.mask_token_id is not None
    was, device = model.training, next(model.parameters()).device
    model.eval()
    losses, types, where = [], [], []
    for start in range(0, len(blocks), 32):
        ids = blocks[start : start + 32]
        read, chosen = ids, None
        if masked:
            read, chosen = mask_tokens(ids, tokenizer=tokenizer, seed=2**31, step=start, rate=mask_rate)
        with autocast() if autocast else nullcontext():
            found = token_losses(
                model, read.to(device), ids.to(device), None if chosen is None else chosen.to(device)
            )
        losses.append(found.cpu())
        row = torch.arange(start, start + len(ids))[:, None].expand_as(ids)
        types.append(ids[chosen] if chosen is not None else ids[:, 1:].flatten())
        where.append(row[chosen] if chosen is not None else row[:, 1:].flatten())
    model.train(was)
    return torch.cat(losses), torch.cat(types), torch.cat(where)


def mean_and_error(losses: Tensor, block: Tensor) -> tuple[float, float]:
    """The mean loss, and its standard error when whole blocks are drawn (guesses in one are alike)."""
    sums = torch.zeros(int(block.max()) + 1, dtype=torch.float64).index_add(0, block, losses.double())
    number = torch.bincount(block).double()
    mean = sums.sum() / number.sum()
    spread = ((sums - mean * number) ** 2).sum().sqrt() / number.sum()
    return mean.item(), spread.item()
