"""How far a token is there, in steps small enough to have a gradient."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

__all__ = ["check_presence", "presence_mask", "run_with_presence"]


def presence_mask(
    presence: Tensor, seen: Tensor, config: Any, dtype: torch.dtype, *, causal: bool = False
) -> Tensor | dict[str, Tensor]:
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
        causal: a query sees no token after it.

    Returns:
        (batch, 1, 1, k) ``dtype``, to be added to the logits; (batch, 1, k, k) where what a query sees
        depends on its place; a dict of them where the layers are of several types.

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
    lowest = torch.finfo(dtype).min
    every = log.masked_fill(seen == 0, lowest)[:, None, None]
    window = getattr(config, "sliding_window", None)
    types = set(getattr(config, "layer_types", None) or [])
    places = torch.arange(presence.shape[1], device=presence.device)
    back = places[:, None] - places  # how far before the query a token stands

    def within(window: int | None) -> Tensor:
        hidden = back < 0 if causal else torch.zeros_like(back, dtype=torch.bool)
        if window is not None:
            hidden = hidden | (back >= window if causal else back.abs() > window)
        return every.masked_fill(hidden, lowest) if causal or window is not None else every

    if not types:
        return within(window)
    if not types <= {"full_attention", "sliding_attention"}:
        raise ValueError(f"its layers are of the types {', '.join(sorted(types))}, which take no such mask")
    masks = {"full_attention": within(None), "sliding_attention": within(window)}
    return {name: masks[name] for name in types}


def run_with_presence(encoder: Any, presence: Tensor, seen: Tensor, **inputs: Any) -> Any:
    """Let a classifier of transformers read tokens that are there in part.

    Args:
        encoder: the classifier.
        presence: (batch, k) float, above 0.
        seen: (batch, k), 1 for tokens and 0 for padding.
        **inputs: its other arguments.

    Returns:
        What it returns.

    Raises:
        ValueError: its attention takes no such mask.
    """
    dtype = encoder.get_input_embeddings().weight.dtype
    causal = not encoder.config.is_encoder_decoder and any(
        getattr(module, "is_causal", False) for module in encoder.modules()
    )
    mask = presence_mask(presence, seen, encoder.config, dtype, causal=causal)
    # The head may want a mask too, of a row a text: to take the mean of what is there.
    there = presence.masked_fill(seen == 0, 0).to(dtype)
    hook = encoder.base_model.register_forward_pre_hook(partial(_give, mask), with_kwargs=True)
    try:
        return encoder(attention_mask=there, **inputs)
    finally:
        hook.remove()


def _give(mask: Any, module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Hand ``mask`` to a model, in whatever way it is handed one."""
    names = list(inspect.signature(module.forward).parameters)[: len(args)]
    if "attention_mask" not in names:
        return args, kwargs | {"attention_mask": mask}
    at = names.index("attention_mask")
    return (*args[:at], mask, *args[at + 1 :]), kwargs


@torch.enable_grad()
def check_presence(encoder: Any, shape: Sequence[int], logits_of: Callable[[Tensor | None], Tensor]) -> None:
    """Some encoders take such a mask for something else, or hide it from gradients.

    Args:
        encoder: the classifier.
        shape: (batch, k) of what it reads.
        logits_of: from a presence of this shape, or None for the usual mask, to its logits.

    Raises:
        ValueError: it is one of these.
    """
    modes = {module: module.training for module in encoder.modules()}
    encoder.eval()  # dropout would tell the two apart
    presence = torch.ones(shape, device=encoder.device, requires_grad=True)
    works, why = False, None
    try:
        with torch.autocast(encoder.device.type, enabled=False):
            usual, logits = logits_of(None).detach(), logits_of(presence)
        (slope,) = torch.autograd.grad(logits.sum(), presence, allow_unused=True)
        much = 0.1 if logits.dtype in (torch.float16, torch.bfloat16) else 1e-3
        # Not >, which a NaN would pass.
        alike = bool((logits - usual).norm() <= much * usual.norm())
        works = alike and slope is not None and bool(slope.isfinite().all())
    except (ValueError, TypeError, RuntimeError, IndexError, KeyError, AttributeError) as error:
        why = error
    finally:
        for module, mode in modes.items():
            module.training = mode
    if works:
        return
    if "takes no mask that learns" in str(why):
        assert why is not None
        raise why
    raise ValueError(
        f"{type(encoder).__name__} cannot have tokens that are there in part, which a gate and attributions "
        "need: choose an encoder whose attention adds its mask to its logits, such as BERT, RoBERTa, "
        "XLM-RoBERTa, ELECTRA, DistilBERT, ALBERT, ModernBERT, GPT-2 or Llama, or a selector that does not "
        "learn along"
    ) from why
