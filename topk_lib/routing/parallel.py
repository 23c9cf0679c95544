"""Experts on several processes: each keeps some, and tokens travel to where their experts are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from topk_lib.routing.layers import Routed

__all__ = ["gather_experts", "shard_experts"]

Work = Callable[[Tensor, Sequence[int]], Tensor]


class _AllToAll(torch.autograd.Function):
    """Rows to their processes; the gradients travel back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, sent: list[int], received: list[int], group: Any) -> Tensor:
        ctx.back = received, sent, group
        out = x.new_empty(sum(received), *x.shape[1:])
        dist.all_to_all_single(out, x.contiguous(), received, sent, group=group)
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        return _AllToAll.apply(g, *ctx.back), None, None, None  # type: ignore[no-untyped-call]


def shard_experts(model: nn.Module, group: Any = None) -> nn.Module:
    """Leave each process an equal share of every layer's experts; tokens then travel to where theirs are.

    All processes of the group must hold the same model and call it together, each with texts of its own. The
    answers are those of one process that has all experts, but for layers whose experts choose from the batch
    or have a capacity over it: a batch is then a process's own. ``DistributedDataParallel``, which averages
    gradients, is told to leave the experts alone; theirs, which are of all processes' texts, are divided by
    the number of processes instead.

    Args:
        model: with routed layers; it is changed in place.
        group: of processes; None: all.

    Raises:
        ValueError: the model has no experts, or they cannot be shared out evenly.
        RuntimeError: ``torch.distributed`` has not been started.
    """
    if not dist.is_initialized():
        raise RuntimeError(
            "there are no processes to share experts: call torch.distributed.init_process_group"
        )
    layers = {name: part for name, part in model.named_modules() if isinstance(part, Routed)}
    world, rank = dist.get_world_size(group), dist.get_rank(group)
    if not layers:
        raise ValueError(f"{type(model).__name__} has no routed layers whose experts could be shared out")
    left_alone = []
    for name, layer in layers.items():
        count = layer.router.out_features
        if layer.work is not None:
            raise ValueError("the experts are shared out already: call gather_experts first")
        if count % world:
            raise ValueError(f"{count} experts cannot be shared evenly by {world} processes")
        for weight in layer.experts.parameters():
            weight.data = weight.data.chunk(world)[rank].clone()
            if weight.requires_grad:
                weight.register_hook(lambda g: g / world)  # type: ignore[no-untyped-call]
        layer.work = exchange(layer.experts.each, group)
        left_alone += [f"{name}.experts.{part}" for part, _ in layer.experts.named_parameters()]
    _leave_alone(model, left_alone)
    return model


@torch.no_grad()
def gather_experts(model: nn.Module, group: Any = None) -> nn.Module:
    """Give every process all experts again, as before saving; undoes :func:`shard_experts`."""
    for layer in model.modules():
        if isinstance(layer, Routed) and layer.work is not None:
            for name, weight in list(layer.experts.named_parameters()):
                parts = [torch.empty_like(weight) for _ in range(dist.get_world_size(group))]
                dist.all_gather(parts, weight.detach().contiguous(), group=group)
                setattr(layer.experts, name, nn.Parameter(torch.cat(parts)))  # without the hook
            layer.work = None
    _leave_alone(model, [])
    return model


def _leave_alone(model: nn.Module, names: list[str]) -> None:
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, names)  # type: ignore[no-untyped-call]


def exchange(work: Work, group: Any) -> Work:
    """The work of experts that are spread over the processes of a group, an equal number on each.

    Args:
        work: of this process's experts: rows (s, d), grouped by expert, and how many each has, to (s, d).
        group: of processes.

    Returns:
        The same for all experts; all processes must call it together.
    """

    def everywhere(x: Tensor, counts: Sequence[int]) -> Tensor:
        world = dist.get_world_size(group)
        mine = torch.tensor(counts, device=x.device).view(world, -1)  # (process, its experts)
        theirs = torch.empty_like(mine)  # (from process, my experts)
        dist.all_to_all_single(theirs, mine, group=group)
        sent, received = mine.sum(1).tolist(), theirs.sum(1).tolist()
        arrived: Tensor = _AllToAll.apply(x, sent, received, group)  # type: ignore[no-untyped-call]
        # They come process after process; the experts want them expert after expert.
        expert = torch.arange(theirs.shape[1], device=x.device).repeat(world)
        order = expert.repeat_interleave(theirs.flatten()).argsort(stable=True)
        done = work(arrived[order], theirs.sum(0).tolist())
        back = torch.empty_like(done).index_copy(0, order, done)
        returned: Tensor = _AllToAll.apply(back, received, sent, group)  # type: ignore[no-untyped-call]
        return returned

    return everywhere
