"""A model in parts (FSDP): each process holds its share of weights, gradients and Adam states.

A layer is gathered while it works, forward and backward, and its gradients are summed where their share lies
(Zhao et al. 2023). A checkpoint is always of whole tensors, so that any number of processes may read it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

__all__ = ["Through", "gathered", "placed", "shard"]


class Through(nn.Module):
    """Calls a function with a model as one forward pass, so that what it uses of the model is gathered."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, call: Callable[..., Any], *args: Any) -> Any:
        return call(self.model, *args)


def shard(through: Through, device: torch.device) -> None:
    """Leave each process its part of every parameter of the model, layer by layer; in place.

    Gradients come out averaged over the processes.
    """
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    layers = next(module for module in through.modules() if isinstance(module, nn.ModuleList))
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(through, mesh=mesh)


def gathered(tree: Any, *, keep: bool) -> Any:
    """Whole tensors in place of those in parts; every process has to ask for them at once.

    Args:
        tree: of dictionaries and tensors.
        keep: whether this process wants them (on the CPU); the others get None.
    """
    if isinstance(tree, dict):
        return {name: gathered(part, keep=keep) for name, part in tree.items()}
    if not isinstance(tree, DTensor):
        return tree
    whole = tree.full_tensor()
    return whole.cpu() if keep else None


def placed(given: dict[str, Any], model: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    """A checkpoint's ``model`` and ``optimiser``, cut as this process holds them."""
    weights = model.state_dict()
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    moments = given["optimiser"]["state"]
    return given | {
        "model": {name: _cut(value, weights.get(name)) for name, value in given["model"].items()},
        "optimiser": given["optimiser"]
        | {
            "state": {
                i: {name: _cut(value, parameters[i]) for name, value in state.items()}
                for i, state in moments.items()
            }
        },
    }


def _cut(value: Any, like: Any) -> Any:
    if not isinstance(like, DTensor) or value.shape != like.shape:  # Adam counts its steps in a scalar
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
