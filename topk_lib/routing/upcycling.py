"""Upcycling: the feed-forward layers of a pretrained model become experts."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from topk_lib.ops.arguments import whole
from topk_lib.routing.by_expert import ExpertChoice, MixtureOfDepths
from topk_lib.routing.by_token import TokenChoice
from topk_lib.routing.layers import Routed
from topk_lib.routing.pretrained import register, turn

__all__ = ["KINDS", "upcycle"]

KINDS: dict[str, type[Routed]] = {
    "expert_choice": ExpertChoice,
    "token_choice": TokenChoice,
    "mixture_of_depths": MixtureOfDepths,
}
"""The layers that can take a feed-forward layer's place."""

_NAMES = {  # activations as transformers calls them, and whether they gate
    ("gelu", False): "gelu", ("gelu_new", False): "gelu_tanh", ("gelu_pytorch_tanh", False): "gelu_tanh",
    ("relu", False): "relu", ("gelu", True): "geglu", ("silu", True): "swiglu",
}  # fmt: skip


class _Spot(NamedTuple):
    """A feed-forward layer in a model: ``getattr(parent, name)`` gives way to the experts."""

    parent: Any
    name: str
    up: Sequence[nn.Linear]
    down: nn.Linear


def upcycle(
    model: Any,
    experts: int = 8,
    *,
    kind: str = "expert_choice",
    layers: Sequence[int] | None = None,
    start: str = "copy",
    inner: int | None = None,
    **options: Any,
) -> Any:
    """Make the feed-forward layers of a model experts (Komatsuzaki et al., 2023).

    With ``start="copy"`` each expert begins as a copy of the layer, each token's weights are divided by their
    sum, and a token that nobody took goes to its best expert: the weights of a token sum to 1, all its
    experts say what the layer said, and so the model's answers are at first the dense model's, to rounding.
    (With k = 1 that leaves the router nothing to learn from but the balance loss.) With ``start="fresh"``
    experts begin as new layers do.

    ``save_pretrained`` writes a folder that ``from_pretrained`` and the ``AutoModel`` classes load once
    ``topk_lib.routing`` is imported; without it they refuse it. Padding is known by the model's own
    ``attention_mask``. Add :func:`~topk_lib.routing.routing_loss` to the loss in training.

    Args:
        model: of transformers, of a family in :data:`~topk_lib.routing.pretrained.FAMILIES`; it is changed in
            place. Of a model that selects tokens, give its encoder (``model.encoder``).
        experts: how many a layer has.
        kind: one of :data:`KINDS`.
        layers: their numbers, counted from 0; None: all.
        start: "copy" or "fresh".
        inner: width inside an expert; None: that of the layer. Only with ``start="fresh"`` another.
        **options: further ones of the kind's class.

    Returns:
        The model.

    Raises:
        ValueError: a model without such layers, one that has experts already, an unknown option; a causal
            model whose experts would look ahead.
        TypeError: an argument of another type.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if start not in ("copy", "fresh"):
        raise ValueError(f'start must be "copy" or "fresh", got {start!r}')
    if start == "copy" and kind == "mixture_of_depths":
        raise ValueError(
            'tokens that pass by miss what the layer said: choose start="fresh", or another kind'
        )
    spots = list(_spots(model))
    if any(isinstance(part, Routed) for part in model.modules()):
        raise ValueError("this model has experts already: load the dense one anew")
    if not spots:
        raise ValueError(
            f"{type(model).__name__} has no feed-forward layers that are known here: take a model of "
            "BERT's, ModernBERT's or Llama's kind"
        )
    if getattr(model.config, "chunk_size_feed_forward", 0):
        raise ValueError("experts read whole texts: set config.chunk_size_feed_forward = 0")
    numbers = range(len(spots)) if layers is None else layers
    numbers = [whole("layers", number, 0, len(spots) - 1) for number in numbers]
    if any(getattr(part, "is_causal", False) for part in model.modules()) and not options.get("causal"):
        options["causal"] = True  # which refuses what looks ahead
    first = spots[0]
    width = first.down.in_features
    if start == "copy":
        if inner not in (None, width):
            raise ValueError(
                f'a copy is as wide as the layer, {width}: leave inner out, or choose start="fresh"'
            )
        options = {"normalise": True, "rest": "best"} | options
    if kind == "token_choice":
        options = {"k": min(2, experts)} | options
    options |= {"activation": _activation(model.config, first), "bias": first.down.bias is not None}
    if kind != "mixture_of_depths":
        options["experts"] = whole("experts", experts, 1)
    options["inner"] = width if inner is None else whole("inner", inner, 1)
    routing = {"kind": kind, "layers": numbers, "options": options}
    made = {number: _layer(routing, spots[number]) for number in numbers}  # says what is wrong with options
    turn(model, routing)
    for number, layer in made.items():
        (_copy if start == "copy" else _draw)(layer, spots[number])
        _put(spots[number], layer.train(model.training))
    _watch(model)
    return model


def install(model: Any) -> None:
    """Put experts into a new model, as ``config.routing`` says; their weights are loaded afterwards."""
    routing = model.config.routing
    if routing is None:
        return
    spots = list(_spots(model))
    for number in routing["layers"]:
        _put(spots[number], _layer(routing, spots[number]))
    _watch(model)


def _spots(model: Any) -> Iterator[_Spot]:
    """The feed-forward layers, from the first to the last."""
    for part in getattr(model, "base_model", model).modules():
        inside, out, mlp = (getattr(part, name, None) for name in ("intermediate", "output", "mlp"))
        dense = getattr(inside, "dense", None), getattr(out, "dense", None)
        fused = getattr(mlp, "Wi", None), getattr(mlp, "Wo", None)
        split = (getattr(mlp, name, None) for name in ("gate_proj", "up_proj", "down_proj"))
        for name, found in (("intermediate", dense), ("mlp", fused), ("mlp", tuple(split))):
            if all(isinstance(one, nn.Linear) for one in found):
                *up, down = found
                yield _Spot(part, name, up, down)  # type: ignore[arg-type]


def _activation(config: Any, spot: _Spot) -> str:
    name = getattr(config, "hidden_activation", None) or getattr(config, "hidden_act", None)
    wide = sum(one.out_features for one in spot.up)
    key = (name, wide == 2 * spot.down.in_features)
    if key not in _NAMES:
        known = ", ".join(sorted({known for known, _ in _NAMES}))
        raise ValueError(f"no experts with the activation {name!r} of this model: they know {known}")
    return _NAMES[key]


def _layer(routing: dict[str, Any], spot: _Spot) -> Routed:
    like = spot.down.weight
    layer = KINDS[routing["kind"]](spot.down.out_features, **routing["options"])
    return layer.to(like.device, like.dtype)


@torch.no_grad()
def _copy(layer: Routed, spot: _Spot) -> None:
    """Each expert as the layer was."""
    experts = layer.experts
    experts.up.copy_(torch.cat([one.weight for one in spot.up]).T)
    experts.down.copy_(spot.down.weight.T)
    if experts.up_bias is not None and experts.down_bias is not None:
        experts.up_bias.copy_(torch.cat([one.bias for one in spot.up]))
        experts.down_bias.copy_(spot.down.bias)


@torch.no_grad()
def _draw(layer: Routed, spot: _Spot) -> None:
    """New weights, spread as those of the layer are."""
    experts = layer.experts
    for weight, like in ((experts.up, spot.up[0]), (experts.down, spot.down)):
        nn.init.normal_(weight, std=float(like.weight.std()))
    for bias in (experts.up_bias, experts.down_bias):
        if bias is not None:
            nn.init.zeros_(bias)


def _put(spot: _Spot, layer: Routed) -> None:
    setattr(spot.parent, spot.name, layer)
    if spot.name == "intermediate":  # BERT's second product stands outside, before dropout and norm
        spot.parent.output.dense = nn.Identity()


def _watch(model: Any) -> None:
    """Tell the layers which tokens are padding, whenever the model is called."""
    model.base_model.register_forward_pre_hook(_tell, with_kwargs=True)
    model.base_model.register_forward_hook(_untell, always_call=True)


def _tell(base: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    given = inspect.signature(base.forward).bind_partial(*args, **kwargs).arguments
    given = {**given.get("kwargs", {}), **given}
    mask = given.get("attention_mask")
    if mask is None:
        _forget(base)  # with checkpointing that of an earlier batch may be left
        return
    if not isinstance(mask, Tensor) or mask.dim() != 2:
        raise ValueError("experts must know padding from tokens: give attention_mask as (batch, length)")
    read = given["input_ids"] if given.get("input_ids") is not None else given["inputs_embeds"]
    for part in base.modules():
        if isinstance(part, Routed):
            part.given = mask[:, mask.shape[1] - read.shape[1] :].bool()  # a cache holds those before


def _untell(base: Any, *_: Any) -> None:
    if any(getattr(part, "gradient_checkpointing", False) for part in base.modules()):
        return  # the forward pass comes again
    _forget(base)


def _forget(base: Any) -> None:
    for part in base.modules():
        if isinstance(part, Routed):
            part.given = None


register(install)
