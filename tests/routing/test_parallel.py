"""Two processes that share the experts are one that has them all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from topk_lib.routing import ExpertChoice, TokenChoice, gather_experts, shard_experts


class Two(nn.Module):
    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__()
        self.first = ExpertChoice(6, 8, 4, capacity=1.5)
        self.second = TokenChoice(6, 8, 4, k=2, balance=None, activation="swiglu")
        self.double()

    def forward(self, hidden: Tensor, valid: Tensor) -> Tensor:
        hidden = hidden + self.first(hidden, valid)
        answer: Tensor = hidden + self.second(hidden, valid)
        return answer


def texts() -> tuple[Tensor, Tensor]:
    hidden = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return hidden, torch.arange(5) < torch.tensor([[5], [2], [4], [5]])


def _one_of_two(rank: int, file: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    whole, (hidden, valid) = Two(), texts()
    expected = whole(hidden, valid)
    expected.square().mean().backward()
    shared: Any = shard_experts(Two())
    own = slice(2 * rank, 2 * rank + 2)
    assert shared.first.experts.up.shape == (2, 6, 8)
    with pytest.raises(ValueError, match="shared out already"):
        shard_experts(shared)
    averaged = nn.parallel.DistributedDataParallel(shared)
    got = averaged(hidden[own], valid[own])
    torch.testing.assert_close(got, expected[own])
    got.square().mean().backward()
    for (name, part), full in zip(shared.named_parameters(), whole.parameters(), strict=True):
        assert full.grad is not None
        torch.testing.assert_close(part.grad, full.grad[own] if "experts" in name else full.grad)
    silent = shared(hidden[own], torch.zeros_like(valid[own]) if rank else valid[own])
    torch.testing.assert_close(silent, hidden[own] if rank else expected[own])
    gather_experts(shared)
    for name, weight in whole.state_dict().items():
        assert torch.equal(shared.state_dict()[name], weight)
    torch.testing.assert_close(shared(hidden, valid), expected)
    with pytest.raises(ValueError, match="3 experts cannot be shared evenly by 2 processes"):
        shard_experts(ExpertChoice(6, 8, 3))
    dist.barrier()
    dist.destroy_process_group()


def test_two_processes_are_one(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_one_of_two, (str(tmp_path / "meet"),), nprocs=2)  # type: ignore[attr-defined, no-untyped-call]


def test_without_processes_or_experts() -> None:
    with pytest.raises(RuntimeError, match=r"call torch\.distributed\.init_process_group"):
        shard_experts(Two())
    model = Two()
    assert gather_experts(model) is model
