"""Experts on several processes: each keeps some, and tokens travel to where their experts are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["exchange"]

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
