"""Adapting a pretrained model by a few parameters; a thin layer over ``peft`` where that has the method."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from peft import (
    LoraConfig,
    PeftModel,
    PromptTuningConfig,
    TaskType,
    get_peft_model,
)
from torch import Tensor, nn

from topk_lib.selectors.base import whole

__all__ = ["METHODS", "Adapter", "Bottleneck", "adapt", "merge", "trainable"]

METHODS = ("head", "bitfit", "prompt", "lora", "adapter", "full")
"""What may be trained."""

_READERS = ("query", "value", "q_lin", "v_lin", "q_proj", "v_proj")
"""Linear layers that make queries and values, as in the paper on LoRA: BERT, DistilBERT, decoders."""
_WRITERS = ("output.dense", "out_lin", "lin2", "o_proj", "out_proj", "down_proj", "fc2")
"""Linear layers whose result is added to what a token carries on: BERT and its kin, DistilBERT, decoders."""


class Bottleneck(nn.Module):
    """h + up(gelu(down(h))); ``up`` begins as 0, so that the whole begins as the identity.

    Houlsby et al. (2019), "Parameter-efficient transfer learning for NLP".

    Args:
        d: width of h, (..., d).
        size: of the bottleneck; at least 1.
        like: its weights are made where this is, and of its dtype; None: PyTorch's defaults.
    """

    def __init__(self, d: int, size: int, like: Tensor | None = None) -> None:
        super().__init__()
        where: dict[str, Any] = {} if like is None else {"device": like.device, "dtype": like.dtype}
        self.down, self.up = nn.Linear(d, size, **where), nn.Linear(size, d, **where)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, h: Tensor) -> Tensor:
        moved: Tensor = h + self.up(nn.functional.gelu(self.down(h)))
        return moved


class Adapter(Bottleneck):
    """A linear layer, (..., inputs) to (..., d), with a :class:`Bottleneck` behind it."""

    def __init__(self, layer: nn.Linear, size: int) -> None:
        super().__init__(layer.out_features, size, layer.weight)
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.layer(x))


def adapt(
    model: Any,
    method: str,
    *,
    size: int = 8,
    layers: Sequence[str] | None = None,
    begin: Sequence[int] | None = None,
) -> Any:
    """Leave only the parameters of one method trainable, and add them where the model lacks them.

    Whatever the method, the head (what a classifier has on top of its base model) is trained along. What
    is added begins such that the model's answers are as before; only a prompt changes them from the start.

    Args:
        model: a classifier or a language model of transformers; it is changed in place.
        method: one of :data:`METHODS`:

            - ``head``: the head alone;
            - ``bitfit``: every bias (Ben Zaken et al., 2022);
            - ``prompt``: ``size`` learned vectors in front of every text (Lester et al., 2021);
            - ``lora``: to each weight matrix W a product B A of rank ``size`` is added, B beginning as 0
              (Hu et al., 2022);
            - ``adapter``: bottlenecks of width ``size``, see :class:`Adapter`;
            - ``full``: everything.
        size: rank, width, or number of vectors; at least 1.
        layers: ends of the names of the linear layers that LoRA or adapters are put on (``"query"``);
            None: for LoRA those that make queries and values, for adapters those that write into what
            a token carries on.
        begin: the tokens whose embeddings the vectors of a prompt begin as, (``size``,) ids; None: random.

    Returns:
        The model; for prompt and LoRA inside a ``PeftModel``, whose ``save_pretrained`` writes only
        what was trained.

    Raises:
        ValueError: no such method, or the model has nothing that it could train.
        TypeError: the model or ``size`` is of another type.
    """
    if method not in METHODS:
        raise ValueError(f"there is no method {method!r}: choose one of {', '.join(METHODS)}")
    if isinstance(model, PeftModel) or any(isinstance(module, Adapter) for module in model.modules()):
        raise ValueError("this model is adapted already: merge it, or load it anew")
    if not hasattr(model, "base_model_prefix") or model.config.model_type == "topk":
        raise TypeError(
            f"adapt takes a model of transformers, got {type(model).__name__}: of a model that selects "
            "tokens, give its encoder (model.encoder)"
        )
    size = whole("size", size, 1)
    head = _head(model)
    if method == "full":
        return model.requires_grad_(True)
    model.requires_grad_(False)
    for name in head:
        getattr(model, name).requires_grad_(True)
    if method == "head":
        if not head:
            raise ValueError(f"{_called(model)} has no head of its own to train: choose another method")
    elif method == "bitfit":
        biases = [x for name, x in model.named_parameters() if name.endswith("bias")]
        if not biases:
            raise ValueError(f"{_called(model)} has no bias to train: choose lora or adapter")
        for bias in biases:
            bias.requires_grad_(True)
    elif method == "adapter":
        for name in _linears(model, _WRITERS if layers is None else layers):
            place, _, last = name.rpartition(".")
            parent = model.get_submodule(place)
            setattr(parent, last, Adapter(getattr(parent, last), size))
    else:
        return _with_peft(model, method, size, layers, begin, head)
    return model


def _with_peft(
    model: Any,
    method: str,
    size: int,
    layers: Sequence[str] | None,
    begin: Sequence[int] | None,
    head: list[str],
) -> PeftModel:
    kind = TaskType.SEQ_CLS if head else TaskType.CAUSAL_LM
    if method == "prompt":
        ids = None if begin is None else torch.as_tensor(list(begin))
        size = size if ids is None else len(ids)
        embedding = model.get_input_embeddings().weight
        config = PromptTuningConfig(
            task_type=kind, num_virtual_tokens=size, token_dim=embedding.shape[-1],
            num_layers=model.config.num_hidden_layers, num_attention_heads=model.config.num_attention_heads,
        )  # fmt: skip
        peft_model = _wrapped(model, config)
        if ids is not None:
            with torch.no_grad():
                vectors = peft_model.prompt_encoder["default"].embedding.weight
                vectors.copy_(embedding[ids.to(embedding.device)])
        return peft_model
    targets = _linears(model, _READERS if layers is None else layers)
    config = LoraConfig(
        task_type=kind, r=size, lora_alpha=size, target_modules=targets, modules_to_save=head or None
    )
    return _wrapped(model, config)


def _wrapped(model: Any, config: Any) -> PeftModel:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # it asks for what transformers renames
        return get_peft_model(model, config)


def merge(model: Any) -> Any:
    """Write what was learned into the weights that were there before.

    Args:
        model: of :func:`adapt`.

    Returns:
        A model of the class and the size that it had before, with the same answers.

    Raises:
        ValueError: it was adapted by a prompt or by adapters, which no weight of the model can hold.
    """
    if isinstance(model, PeftModel) and not model.active_peft_config.is_prompt_learning:
        return model.merge_and_unload()
    if isinstance(model, PeftModel) or any(isinstance(module, Adapter) for module in model.modules()):
        raise ValueError(
            "only what is linear can be merged into weights: a prompt and adapters stay beside the model, "
            "lora can be merged"
        )
    return model


def trainable(model: Any) -> int:
    """How many parameters of a model are trained."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def _head(model: Any) -> list[str]:
    """The parts of a classifier on top of its base model; a language model's output is its vocabulary."""
    output = model.get_output_embeddings()
    return [
        name
        for name, part in model.named_children()
        if name != model.base_model_prefix and part is not output and any(True for _ in part.parameters())
    ]


def _linears(model: Any, ends: Sequence[str]) -> list[str]:
    """The names of the base model's linear layers that end so.

    Raises:
        ValueError: no layer ends so; or in one of these ways, where they are not our own.
    """
    inside = f"{model.base_model_prefix}."
    names = [
        name
        for name, part in model.named_modules()
        if isinstance(part, nn.Linear) and name.startswith(inside)
    ]
    found = [name for name in names if any(f".{name}".endswith(f".{end}") for end in ends)]
    strange = [end for end in ends if not any(f".{name}".endswith(f".{end}") for name in names)]
    if not found or (strange and ends not in (_READERS, _WRITERS)):
        there = sorted({name.rpartition(".")[2] for name in names})
        raise ValueError(
            f"{_called(model)} has no linear layer called {' or '.join(strange or ['nothing'])}: "
            + (f"name some of {', '.join(there)} (layers=...)" if there else "choose another method")
        )
    return found


def _called(model: Any) -> str:
    return type(model).__name__
