"""How far a token is there, in steps small enough to have a gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["presence_mask"]


def presence_mask(presence: Tensor, seen: Tensor, config: Any, dtype: torch.dtype) -> Tensor:
    """An attention mask in which token i is there as far as its presence u_i says.

    Every query q gives token i the share u_i exp(a_qi) / sum_j u_j exp(a_qj) of its attention, where
    a_qi are the logits: log u_i is added to them. At u_i = 1 token i is read as usual; at 0 nobody
    reads it, as if it had been taken out. So the derivative at 1 says to first order what taking it
    out would do. A factor on its embedding does not: a LayerNorm follows, which divides the factor out
    again. DynamicViT trains its choice with such masks (Rao et al., NeurIPS 2021, "attention masking").

    Args:
        presence: (batch, k) float, above 0.
        seen: (batch, k), 1 for tokens and 0 for padding, which nobody reads.
        config: of the model that is to read with it.
        dtype: of what it reads.

    Returns:
        (batch, 1, 1, k) ``dtype``, to be added to the logits.

    Raises:
        ValueError: the model's attention takes no such mask.
    """
    kind = str(getattr(config, "_attn_implementation", ""))
    if "flash" in kind or "flex" in kind:
        raise ValueError(
            f'{kind} takes no mask that learns: load the model with attn_implementation="sdpa" to train '
            "its choice of tokens, or for attributions"
        )
    log = presence.masked_fill(seen == 0, 1).log().to(dtype)
    return log.masked_fill(seen == 0, torch.finfo(dtype).min)[:, None, None]
