"""Time a layer of experts beside the dense layer of equal FLOPs, a loop over experts and a one-hot einsum.

    python benchmarks/routing.py          writes results/routing_speed/layers.<device>.json
    python benchmarks/routing.py --quick  a few small shapes, no record

A call is forward and backward, of a batch of texts in which each token has one expert on average (capacity
1), so that a dense layer as wide as one expert does the same work, but for the router. In every round all
layers take their turn, in a new order. On a CPU each turn is two calls: the second, for which the first has
warmed caches, is timed. The loop and the einsum make the same choice and have the same weights and answers
as ours, which is asserted first; the loop keeps its experts as layers of their own, as such code does.
The record is written after each shape; the same command goes on with those that it lacks. Times are
milliseconds: the 20th, 50th and 80th percentile. A ratio is the other's median over ours.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from topk_lib import records
from topk_lib.routing import ExpertChoice

DEVICE = torch.device(records.device_kind())
D, INNER, TEXT = (1024, 4096, 512) if DEVICE.type == "cuda" else (256, 1024, 128)
TOKENS, EXPERTS = (1024, 4096, 16384), (4, 8, 16, 64)
EINSUM = 1 << 27  # entries of the one-hot tensor, above which it is left out
SECONDS = 2.0 if DEVICE.type == "cuda" else 12.0  # spent on a shape, all layers together
_DTYPE = torch.bfloat16 if DEVICE.type == "cuda" else torch.float32

Call = Callable[[Tensor], Tensor]


class Dense(nn.Module):
    """The feed-forward layer of equal FLOPs."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(D, INNER), nn.Linear(INNER, D)

    def forward(self, hidden: Tensor) -> Tensor:
        out: Tensor = self.down(F.gelu(self.up(hidden)))
        return out


class Loop(nn.Module):
    """Expert choice as it is mostly written: one expert after another."""

    def __init__(self, ours: ExpertChoice) -> None:
        super().__init__()
        self.router = ours.router
        self.experts = nn.ModuleList(Dense() for _ in ours.experts.up)
        for number, expert in enumerate(self.experts):
            for layer, weight, bias in (
                (expert.up, ours.experts.up, ours.experts.up_bias),
                (expert.down, ours.experts.down, ours.experts.down_bias),
            ):
                layer.weight.data = weight.data[number].T.contiguous()  # type: ignore[union-attr]
                layer.bias.data = bias.data[number, 0].clone()  # type: ignore[union-attr]

    def forward(self, hidden: Tensor) -> Tensor:
        flat = hidden.flatten(0, 1)
        scores = F.linear(flat.float(), self.router.weight.float()).softmax(-1)
        batch, n, experts = *hidden.shape[:2], len(self.experts)
        values, indices = scores.view(batch, n, experts).topk(-(-n // experts), dim=1)
        indices = indices + torch.arange(0, batch * n, n, device=hidden.device)[:, None, None]
        out = torch.zeros_like(flat)
        for number, expert in enumerate(self.experts):
            own = indices[..., number].flatten()
            answer = expert(flat[own]) * values[..., number].flatten()[:, None].to(flat.dtype)
            out.index_add_(0, own, answer)
        return out.view_as(hidden)


class Einsum(nn.Module):
    """Expert choice by products with one-hot tensors, as the paper has it."""

    def __init__(self, ours: ExpertChoice) -> None:
        super().__init__()
        self.router, self.experts = ours.router, ours.experts

    def forward(self, hidden: Tensor) -> Tensor:
        n, experts = hidden.shape[1], self.router.out_features
        scores = F.linear(hidden.float(), self.router.weight.float()).softmax(-1)  # (batch, n, experts)
        values, indices = scores.transpose(1, 2).topk(-(-n // experts), dim=-1)  # (batch, experts, C)
        here = F.one_hot(indices, n).to(hidden.dtype)  # (batch, experts, C, n)
        taken = torch.einsum("becn,bnd->ebcd", here, hidden)
        answer = self.experts(taken.flatten(1, 2)).view_as(taken)
        return torch.einsum("becn,bec,ebcd->bnd", here, values.to(hidden.dtype), answer)


def layers(tokens: int, experts: int) -> dict[str, nn.Module]:
    """Those that are timed, on this device; all but the dense one give the same answer."""
    torch.manual_seed(0)
    ours = ExpertChoice(D, INNER, experts, capacity=1.0).to(DEVICE, _DTYPE)
    found: dict[str, nn.Module] = {"ours": ours, "dense": Dense(), "loop": Loop(ours)}
    if tokens * TEXT <= EINSUM // 8:
        found["einsum"] = Einsum(ours)
    return {name: layer.to(DEVICE, _DTYPE) for name, layer in found.items()}


def measure(tokens: int, experts: int, seconds: float = SECONDS) -> dict[str, Any]:
    """Percentiles of each layer's forward and backward, and the ratios to ours."""
    found = layers(tokens, experts)
    hidden = torch.randn(tokens // TEXT, TEXT, D, device=DEVICE, dtype=_DTYPE)
    with torch.no_grad():
        expected = found["ours"](hidden)
        for name in found.keys() - {"ours", "dense"}:
            torch.testing.assert_close(found[name](hidden), expected, rtol=2e-2, atol=2e-2)
    gradient = torch.randn_like(hidden)

    def call(layer: nn.Module) -> float:
        layer.zero_grad()
        leaf = hidden.detach().requires_grad_()
        begun = _now()
        layer(leaf).backward(gradient)
        return _now() - begun

    first = {name: min(call(layer), call(layer)) for name, layer in found.items()}
    turns = 2 if DEVICE.type == "cpu" else 1
    rounds = int(np.clip(seconds / (turns * sum(first.values())), 5, 100))
    times: dict[str, list[float]] = {name: [] for name in found}
    order = list(found)
    for _ in range(rounds):
        random.shuffle(order)
        for name in order:
            taken = [call(found[name]) for _ in range(turns)]
            times[name].append(taken[-1])
    ms = {
        name: [round(1e3 * float(x), 3) for x in np.percentile(t, (20, 50, 80))] for name, t in times.items()
    }
    ratio = {name: round(at[1] / ms["ours"][1], 3) for name, at in ms.items() if name != "ours"}
    return {"tokens": tokens, "experts": experts, "rounds": rounds, "ms": ms, "ratio": ratio}


def _now() -> float:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def summary(shapes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What was to be reached: the worst shape of each kind."""

    def worst(against: str, kept: Callable[[int], bool]) -> dict[str, Any]:
        ratios = {name: shape["ratio"][against] for name, shape in shapes.items() if kept(shape["experts"])}
        least = min(ratios, key=lambda name: ratios[name])
        return {"ratio": ratios[least], "at": least, "shapes": len(ratios)}

    return {
        "loop": worst("loop", lambda experts: True),
        "loop_from_16_experts": worst("loop", lambda experts: experts >= 16),
        "dense_at_8_experts": worst("dense", lambda experts: experts == 8),
    }


def cases() -> Iterator[tuple[int, int]]:
    for tokens in TOKENS:
        yield from ((tokens, experts) for experts in EXPERTS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few small shapes, no record")
    options = parser.parse_args()
    random.seed(0)
    begun = time.perf_counter()
    if options.quick:
        for tokens, experts in ((1024, 8), (1024, 16), (4096, 64)):
            print(measure(tokens, experts, 2.0), flush=True)
        return
    try:
        record = records.load("routing_speed", "layers")
    except FileNotFoundError:
        record = {}
    if record.get("device", {}).get("kind") != DEVICE.type:
        record = {}
    shapes: dict[str, Any] = record.get("metrics", {}).get("shapes", {})
    earlier = float(record.get("wall_seconds", 0))
    for tokens, experts in cases():
        name = f"{tokens}x{experts}"
        if name in shapes:
            continue
        shapes[name] = measure(tokens, experts)
        print(shapes[name], flush=True)
        complete = all(f"{t}x{e}" in shapes for t, e in cases())
        records.write(
            "routing_speed", "layers",
            metrics={"shapes": shapes} | ({"worst": summary(shapes)} if complete else {}),
            settings={"d": D, "inner": INNER, "text": TEXT, "capacity": 1.0, "dtype": str(_DTYPE), "seed": 0,
                      "threads": torch.get_num_threads()},
            data={"source": "random normal hidden states"},
            seconds=earlier + time.perf_counter() - begun,
            command="python benchmarks/routing.py",
        )  # fmt: skip


if __name__ == "__main__":
    main()
