"""Dropping tokens between the layers of an encoder: later layers run on shorter sequences."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from topk_lib.ops import hard_topk, soft_topk
from topk_lib.selectors.base import whole

__all__ = ["TokenPruner"]

SCORES = ("attention", "gate")

# What a layer may read. Anything else (rotary angles, boxes, ...) would keep its old length.
_READS = {
    "hidden_states", "attention_mask", "encoder_hidden_states", "encoder_attention_mask", "past_key_values",
    "cache", "output_attentions", "kwargs",
}  # fmt: skip


class _Pass(NamedTuple):
    """What later layers must know of a forward pass."""

    mask: Tensor | None  # in the form the encoder made it
    places: Tensor  # (batch, length now) int64, positions in the text, -1 where nothing stands


class TokenPruner(nn.Module):
    """Keeps, after some layers of an encoder, only the k best tokens of each text.

    What is dropped is gone: the hidden states are gathered, in the order of the text, and the layers
    after run on k tokens. Position 0, which classification heads read, is always kept and counts
    among the k; padding is never kept in a token's place. Hooks on the layers do the work, so that the
    model is called as before; :meth:`remove` takes them off. The layers are the model's: they are
    neither parameters of the pruner nor saved with it.

    - ``by="attention"`` keeps the tokens that receive most attention in that layer, summed over its
      heads and over the text's tokens. Nothing is learned. Computing it takes one layer's queries, keys
      and attention probabilities once more. This is the significance score of PoWER-BERT (Goyal
      et al., ICML 2020), which the learned token pruning of Kim et al. (KDD 2022) uses too.
    - ``by="gate"`` learns, for each of these layers, a linear score of the hidden states; Transkimmer
      (Guan et al., ACL 2022) trains a small network in this place. In training a kept hidden state is
      multiplied by 1 + w - stop_gradient(w), where w are the weights of
      :func:`~topk_lib.ops.soft_topk`: the value is 1, the gradient that of the soft choice
      (straight-through). Noise of Gumbel's distribution is added to the scores in training: a token
      that is never kept would never show its worth. The parameters, ``gates``, go to the optimiser
      with the model's; where the pruner is not a part of the model, call its ``train()`` and
      ``eval()`` beside the model's.

    PoWER-BERT drops tokens inside the layer, before its feed-forward part; the other two drop those
    under a threshold, so that their number varies. Here k is fixed, and tokens go between layers.

    Args:
        model: a classifier of transformers with BERT's layers (BERT, RoBERTa, XLM-RoBERTa, ELECTRA,
            CamemBERT, ERNIE, ...) and eager, sdpa or flash attention. Gradient checkpointing needs
            transformers 5.23 or later.
        keep_after: from the number of a layer, from 0, to the tokens kept of its output; texts
            with fewer are left whole. The numbers of tokens must not grow from layer to layer.
        by: "attention" or "gate".

    Attributes:
        kept: of the last forward pass, from the number of a layer to (batch, k) int64: the positions
            in the text of the tokens kept, ascending, -1 in spare slots.

    Raises:
        TypeError: ``model`` is not a module, or ``keep_after`` does not map integers to integers.
        ValueError: the layers are not BERT's, the model is a decoder or has a pruner already,
            ``keep_after`` is empty, names no layer or lets k grow, ``by`` is unknown.

    Example:
        >>> model, tokenizer = load_encoder()
        >>> pruner = TokenPruner(model, {1: 64, 3: 16})
        >>> logits = model(**tokenizer("A fine film.", return_tensors="pt")).logits
        >>> pruner.kept[3]
        tensor([[0, 1, 2, 3, 4, 5]])
    """

    def __init__(self, model: Any, keep_after: Mapping[int, int], by: str = "attention") -> None:
        super().__init__()
        layers = _layers_of(model)
        if by not in SCORES:
            raise ValueError(f"by must be one of {', '.join(SCORES)}, got {by!r}")
        self.keep_after, self.by = _checked(keep_after, len(layers)), by
        self.kept: dict[int, Tensor] = {}
        self._passes: dict[int, _Pass] = {}  # by thread: a served model runs in several
        self._first, self._last = min(self.keep_after), len(layers) - 1
        weight = next(layers[0].parameters())
        width = layers[0].attention.self.query.in_features
        # No bias: a constant added to all scores changes no choice.
        self.gates = nn.ModuleDict(
            {str(at): nn.Linear(width, 1, bias=False, device=weight.device) for at in self.keep_after}
            if by == "gate"
            else {}
        )
        self._handles = []
        for number, layer in enumerate(layers):
            if number > self._first:
                enter = partial(self._enter, number)
                self._handles.append(layer.register_forward_pre_hook(enter, with_kwargs=True))
            if number in self.keep_after:
                leave = partial(self._leave, number)
                self._handles.append(layer.register_forward_hook(leave, with_kwargs=True))

    def remove(self) -> None:
        """Take the hooks off: the model is as it was before."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def extra_repr(self) -> str:
        return f"keep_after={self.keep_after}, by={self.by!r}"

    def _state(self, number: int) -> _Pass:
        state = self._passes.get(threading.get_ident())
        if state is None:
            raise RuntimeError(
                f"layer {number} was called outside a forward pass of its encoder, so TokenPruner does not "
                "know its tokens (gradient checkpointing: transformers 5.23 or later is needed)"
            )
        return state

    def _enter(
        self, number: int, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Before a layer: give it the mask of the tokens that are left."""
        mask = self._state(number).mask
        if number == self._last:
            del self._passes[threading.get_ident()]
        # Position ids, which BERT's layers hand on and do not read, would have the old length.
        kwargs = kwargs | {name: None for name in ("position_ids",) if name in kwargs}
        if len(args) > 1:
            return (args[0], mask, *args[2:]), kwargs
        return args, kwargs | {"attention_mask": mask}

    def _leave(
        self, number: int, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> Any:
        """After a layer: choose, and gather."""
        hidden: Tensor = output if isinstance(output, Tensor) else output[0]
        read: Tensor = args[0] if args else kwargs["hidden_states"]
        mask = args[1] if len(args) > 1 else kwargs.get("attention_mask")
        sees = _sees(mask)
        size, length = hidden.shape[:2]
        start = torch.arange(length, device=hidden.device)
        places = start.expand(size, -1) if number == self._first else self._state(number).places
        valid = torch.ones_like(places, dtype=torch.bool)
        if sees is not None:
            valid = sees.flatten(1, 2).any(1).expand(size, -1)
        first = start == 0
        k = min(self.keep_after[number], length)
        learning = self.by == "gate" and self.training and torch.is_grad_enabled()
        if k < length or learning:
            scores = self._gated(number, hidden) if self.by == "gate" else _received(layer, read, sees, valid)
            if learning:
                scores = scores - torch.empty_like(scores).exponential_().log()
            chosen = hard_topk(scores.detach().masked_fill(first, torch.inf), k, valid=valid | first)
            if learning:
                free = valid & ~first
                weights = soft_topk(scores, (chosen.mask & free).sum(-1), valid=free, hard=True)
                hidden = hidden * weights.masked_fill(~free, 1).unsqueeze(-1).to(hidden.dtype)
        if k < length:
            filled = chosen.indices >= 0
            at = chosen.indices.clamp(min=0)  # spare slots repeat position 0, and nobody sees them
            hidden = hidden.take_along_dim(at.unsqueeze(-1), 1)
            places = places.gather(1, at).masked_fill(~filled, -1)
            mask = _shortened(mask, at, filled)
        else:
            places = places.masked_fill(~(valid | first), -1)
        if number == self._first:
            self.kept = {}
        self.kept[number] = places
        self._passes[threading.get_ident()] = _Pass(mask, places)
        return hidden if isinstance(output, Tensor) else (hidden, *output[1:])

    def _gated(self, number: int, hidden: Tensor) -> Tensor:
        """(batch, length) scores, in float32 at least: a ranking needs it."""
        weight: Any = self.gates[str(number)].weight
        wide = torch.promote_types(hidden.dtype, torch.float32)
        with torch.autocast(hidden.device.type, enabled=False):
            return nn.functional.linear(hidden.to(wide), weight.to(wide)).squeeze(-1)


@torch.no_grad()
def _received(layer: Any, read: Tensor, sees: Tensor | None, valid: Tensor) -> Tensor:
    """The attention that each token receives, (batch, length), in float32 at least.

    Args:
        layer: of BERT's kind.
        read: (batch, length, width), what the layer read.
        sees: (batch or 1, heads or 1, length or 1, length) bool, True where a query sees a key.
        valid: (batch, length) bool, the queries that count.
    """
    inner = layer.attention.self
    heads = inner.num_attention_heads
    query, key = (part(read).unflatten(-1, (heads, -1)) for part in (inner.query, inner.key))
    wide = torch.promote_types(query.dtype, torch.float32)
    counts = valid.unsqueeze(-1).to(wide)
    total = torch.zeros(valid.shape, dtype=wide, device=read.device)
    for head in range(heads):  # one at a time: (heads, length, length) would be large
        logits = query[:, :, head] @ key[:, :, head].transpose(1, 2) * inner.scaling
        if sees is not None:
            unseen = ~sees.expand(-1, heads, -1, -1)[:, head]
            logits = logits.masked_fill(unseen, torch.finfo(logits.dtype).min)
        total += (logits.softmax(-1, dtype=wide) * counts).sum(1)
    return total


def _sees(mask: Any) -> Tensor | None:
    """(batch or 1, heads or 1, queries or 1, keys) bool from the mask a layer is given; None: all see all."""
    if mask is None:
        return None
    if not isinstance(mask, Tensor) or mask.dim() not in (2, 4):
        raise TypeError(
            f"TokenPruner cannot shorten an attention mask of type {type(mask).__name__}: load the model "
            'with attn_implementation="sdpa"'
        )
    if mask.is_floating_point():  # added to the logits: 0, or the least number (half, were it halved)
        return mask > torch.finfo(mask.dtype).min / 2
    return mask.bool() if mask.dim() == 4 else mask.bool()[:, None, None]


def _shortened(mask: Tensor | None, at: Tensor, filled: Tensor) -> Tensor | None:
    """The same kind of mask for the tokens ``at``, (batch, k), where those not ``filled`` are not seen."""
    if mask is None:
        return None
    if mask.dim() == 2:
        return mask.gather(1, at).masked_fill(~filled, 0)
    mask = mask.expand(len(at), -1, -1, -1)
    if mask.shape[2] > 1:
        mask = mask.take_along_dim(at[:, None, :, None], 2)
    mask = mask.take_along_dim(at[:, None, None, :], 3)
    unseen = torch.finfo(mask.dtype).min if mask.is_floating_point() else 0
    return mask.masked_fill(~filled[:, None, None, :], unseen)


def _layers_of(model: Any) -> tuple[Any, ...]:
    """The layers, once it is sure that they are BERT's."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a transformers model, got {type(model).__name__}")
    layers = getattr(getattr(getattr(model, "base_model", None), "encoder", None), "layer", None)
    if not isinstance(layers, nn.ModuleList) or not all(_is_known(layer) for layer in layers):
        raise ValueError(
            f"TokenPruner needs the layers of BERT, RoBERTa or ELECTRA (base_model.encoder.layer[i] with "
            f"attention.self.query and .key); those of {type(model).__name__} are others"
        )
    if getattr(model.config, "is_decoder", False):
        raise ValueError(
            "TokenPruner would let a decoder look ahead: what is dropped depends on the whole text"
        )
    hooks = (hook for layer in layers for hook in layer._forward_hooks.values())
    if any(isinstance(getattr(getattr(hook, "func", None), "__self__", None), TokenPruner) for hook in hooks):
        raise ValueError("the model has a pruner already: call that pruner's remove() first")
    return tuple(layers)


def _is_known(layer: Any) -> bool:
    # Normalisation before the attention, a convolution in it, ...: its scores would be other ones.
    attention = getattr(layer, "attention", nn.Module())
    inner = getattr(attention, "self", nn.Module())
    return (
        dict(layer.named_children()).keys() == {"attention", "intermediate", "output"}
        and dict(attention.named_children()).keys() == {"self", "output"}
        and {"query", "key"} <= dict(inner.named_children()).keys() <= {"query", "key", "value", "dropout"}
        and hasattr(inner, "scaling")
        and inspect.signature(layer.forward).parameters.keys() <= _READS
    )


def _checked(keep_after: Mapping[int, int], layers: int) -> dict[int, int]:
    """A copy in the order of the layers."""
    try:
        plan = dict(sorted((whole("", at), whole("", size)) for at, size in keep_after.items()))
    except (TypeError, AttributeError):
        raise TypeError(
            f"keep_after must map layer numbers to numbers of tokens, got {keep_after!r}"
        ) from None
    if not plan:
        raise ValueError("keep_after is empty: name a layer and how many tokens it keeps, as in {1: 64}")
    for number in plan:
        if not 0 <= number < layers - 1:
            raise ValueError(
                f"keep_after names layer {number}: of {layers} layers, counted from 0, those "
                f"before the last can drop tokens, 0..{layers - 2}"
            )
    sizes = list(plan.values())
    if min(sizes) < 1:
        raise ValueError(f"keep_after must keep at least 1 token after each layer, got {plan}")
    if sizes != sorted(sizes, reverse=True):
        raise ValueError(f"keep_after must not keep more tokens after a later layer, got {plan}")
    return plan
