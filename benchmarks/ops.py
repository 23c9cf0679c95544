"""Time the operators beside their peers, in one run; write one record per operator and device.

    python benchmarks/ops.py hard          also: soft, sample
    python benchmarks/ops.py hard --quick  a few small shapes, no record
    python benchmarks/ops.py hard --code AVX2  with that processor's instructions: a record of its own

Every shape's functions take turns, in a new order each round, so that what else the machine does
falls on all of them alike. On a CPU each turn is two calls: the second, for which the first has
warmed caches and code, is the time of the record; the first is kept beside it as "cold_ms". On a
GPU the inputs are put out of its cache before each call.
The record is written after each shape; the same command goes on with the shapes that it lacks.
Times ("ms") are milliseconds: the 20th, 50th and 80th percentile. Peak memory is what a call allocates
beyond its inputs. "Share" is the bytes that must move (scores read once, results written once)
over the time, as a share of the bandwidth of a plain copy on the same device.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import os
import random
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from topk_lib import argtopk, hard_topk, records, sample_topk, soft_topk, topk_mask
from topk_lib.ops import native
from topk_lib.ops.soft import LINKS

DEVICE = torch.device(records.device_kind())
MOST = 1 << 29 if DEVICE.type == "cuda" else 1 << 23  # entries of the largest shape timed
SECONDS = 0.3 if DEVICE.type == "cuda" else 1.5  # spent on a shape, all functions together
CODES = ("any processor", "AVX2", "AVX-512")  # of the compiled operators, as their levels are numbered
BY_VALUE = "topk_lib by value"  # in the order in which torch.topk gives them

Call = Callable[[], object]


class Case(NamedTuple):
    """One shape: ``bytes`` must move; ``ours`` and the peers do the same work."""

    name: str
    bytes: int
    calls: dict[str, Call]


def shapes() -> Iterator[tuple[int, int, int]]:
    """A language model's vocabulary, and the grid: rows, n, k."""
    yield from ((rows, n, k) for rows in (1, 8, 32) for n in (50257, 128256) for k in (50, 256))
    for rows, n in itertools.product((4096, 64, 1, 65536), (8192, 2048, 256, 512, 32768, 131072)):
        if rows * n <= MOST:
            yield from ((rows, n, k) for k in sorted({8, 64, 256, n // 4}) if k <= n // 2)


def hard_cases(numpy: bool) -> Iterator[Case]:
    peers = hard_peers()
    for rows, n, k in shapes():
        x = torch.randn(rows, n, device=DEVICE)

        def by_topk(x: Tensor = x, k: int = k) -> tuple[Tensor, Tensor]:
            where = x.topk(k, dim=-1, sorted=False).indices.sort(dim=-1).values
            return x.gather(-1, where), where

        def by_sort(x: Tensor = x, k: int = k) -> tuple[Tensor, Tensor]:
            where = x.sort(dim=-1, descending=True, stable=True).indices[:, :k].sort(dim=-1).values
            return x.gather(-1, where), where

        def ours(x: Tensor = x, k: int = k) -> object:
            return hard_topk(x, k)

        calls: dict[str, Call] = {
            "topk_lib": ours,
            "topk_lib mask": lambda x=x, k=k: topk_mask(x, k),  # type: ignore[misc]
            "topk_lib indices": lambda x=x, k=k: argtopk(x, k),  # type: ignore[misc]
            BY_VALUE: lambda x=x, k=k: hard_topk(x, k, order="value"),  # type: ignore[misc]
            **({"topk_lib numpy": _by_numpy(ours)} if numpy else {}),
            "torch.topk + sort": by_topk,
            "torch.topk": lambda x=x, k=k: x.topk(k),  # type: ignore[misc]
            "torch.sort": by_sort,
        }
        for name, f in peers.items():
            calls[name] = lambda f=f, x=x, k=k: f(x, k)  # type: ignore[misc]
        yield Case(f"{rows}x{n}x{k}", rows * (n * (4 + 1) + k * (4 + 8)), calls)


def _by_numpy(call: Call) -> Call:
    """The same by what runs where nothing was compiled."""

    def run() -> object:
        os.environ["TOPK_BACKEND"] = "numpy"
        try:
            return call()
        finally:
            del os.environ["TOPK_BACKEND"]

    return run


def hard_peers() -> dict[str, Callable[[Tensor, int], object]]:
    """What exists on a GPU only, each a function of scores and k that gives indices in their order."""

    def by_topk(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
        where = x.topk(k, dim=-1, sorted=False).indices.sort(dim=-1).values
        return x.gather(-1, where), where

    found: dict[str, Callable[[Tensor, int], object]] = {}
    if DEVICE.type == "cuda":
        found["torch.topk + sort, torch.compile"] = torch.compile(by_topk, dynamic=True)
        if importlib.util.find_spec("flashinfer"):
            import flashinfer

            def by_flashinfer(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
                where = flashinfer.top_k(x, k)[1].long().sort(dim=-1).values
                return x.gather(-1, where), where

            found["FlashInfer top_k + sort"] = by_flashinfer
    return found


def soft_cases(numpy: bool) -> Iterator[Case]:
    peers = soft_peers()
    for (rows, n, k), both in itertools.product(shapes(), (False, True)):
        if (n > 32768 and DEVICE.type == "cuda") or k not in (64, n // 4) or rows * n > MOST // 4:
            continue
        x = torch.randn(rows, n, device=DEVICE)
        g = torch.randn(rows, n, device=DEVICE)
        functions = {f"topk_lib {link}": _ours(link, k) for link in LINKS}
        functions |= {name: make(rows, n, k) for name, make in peers.items()}
        calls: dict[str, Call] = {}
        for name, f in functions.items():
            calls[name] = (lambda f=f, x=x, g=g: _both(f, x, g)) if both else (lambda f=f, x=x: f(x))  # type: ignore[misc]
        if numpy:
            calls |= {f"topk_lib numpy {link}": _by_numpy(calls[f"topk_lib {link}"]) for link in LINKS}
        moved = rows * n * (4 + 4) + (rows * n * (4 + 4 + 4) if both else 0)
        yield Case(f"{rows}x{n}x{k}{'+backward' if both else ''}", moved, calls)


def _ours(link: str, k: int) -> Callable[[Tensor], Tensor]:
    return lambda x: soft_topk(x, k, 0.5, link=link)


def _both(f: Callable[[Tensor], Tensor], x: Tensor, g: Tensor) -> Tensor:
    leaf = x.detach().requires_grad_()
    (grad,) = torch.autograd.grad(f(leaf), leaf, g)
    return grad


def soft_peers() -> dict[str, Callable[[int, int, int], Callable[[Tensor], Tensor]]]:
    """The eager implementations that are installed, each a function of the shape."""
    found: dict[str, Callable[[int, int, int], Callable[[Tensor], Tensor]]] = {
        "bisection, eager": lambda rows, n, k: lambda x: _bisect(x, k),
        "Sinkhorn, 50 rounds": lambda rows, n, k: lambda x: _sinkhorn(x, k),
    }
    if importlib.util.find_spec("entmax"):
        from entmax.root_finding import budget_bisect

        found["entmax budget_bisect"] = lambda rows, n, k: lambda x: budget_bisect(x, budget=k)
    if importlib.util.find_spec("colt5_attention"):
        from colt5_attention import coor_descent

        found["colt5 coor_descent"] = lambda rows, n, k: (
            lambda x: coor_descent(x, n_iters=20, k=torch.full((rows,), float(k), device=x.device), eps=0.5)
        )
    if DEVICE.type == "cuda":
        compiled: Any = torch.compile(_bisect, dynamic=False)
        found["bisection, torch.compile"] = lambda rows, n, k: lambda x: compiled(x, k)
    return found


def _bisect(x: Tensor, k: int, t: float = 0.5, steps: int = 30) -> Tensor:
    """The sigmoid link as one would write it in eager PyTorch, differentiated by autograd at the root."""
    with torch.no_grad():
        low, high = x.amin(-1, keepdim=True) - 20 * t, x.amax(-1, keepdim=True) + 20 * t
        for _ in range(steps):
            middle = (low + high) / 2
            above = torch.sigmoid((x - middle) / t).sum(-1, keepdim=True) > k
            low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    # One Newton step, whose derivative is that of the root.
    w = torch.sigmoid((x - low) / t)
    slope = (w * (1 - w)).sum(-1, keepdim=True).detach()
    tau = low + t * (w.sum(-1, keepdim=True) - k) / slope.clamp(min=1e-30)
    return torch.sigmoid((x - tau) / t)


def _sinkhorn(x: Tensor, k: int, t: float = 0.5, rounds: int = 50) -> Tensor:
    """Entropic optimal transport of n tokens to two bins of n - k and k, in the log domain."""
    n = x.shape[-1]
    cost = torch.stack([torch.zeros_like(x), x / t], -1)  # (rows, n, 2)
    target = torch.tensor([float(n - k), float(k)], device=x.device).log()
    v = torch.zeros(*x.shape[:-1], 1, 2, device=x.device)
    for _ in range(rounds):
        u = -(cost + v).logsumexp(-1, keepdim=True)
        v = target - (cost + u).logsumexp(-2, keepdim=True)
    u = -(cost + v).logsumexp(-1, keepdim=True)
    return (cost + u + v).exp()[..., 1]


def sample_cases(numpy: bool) -> Iterator[Case]:
    for rows, n in itertools.product((1, 8, 32, 256), (32000, 50257, 128256)):
        if rows * n > MOST:
            continue
        x = torch.randn(rows, n, device=DEVICE) * 3
        seeds = torch.arange(rows, device=DEVICE)

        def by_topk(x: Tensor = x, top_p: float | None = None) -> Tensor:
            values, where = x.topk(50, dim=-1)
            p = (values / 0.8).softmax(-1)
            if top_p is not None:
                p = p * (p.cumsum(-1) - p < top_p)
            return where.gather(-1, torch.multinomial(p, 1))

        def by_flashinfer(x: Tensor = x, top_p: float | None = None) -> object:
            from flashinfer import sampling

            return sampling.top_k_top_p_sampling_from_logits(x / 0.8, 50, 1.0 if top_p is None else top_p)

        for top_p in (None, 0.9):
            calls: dict[str, Call] = {
                "topk_lib": lambda x=x, s=seeds, p=top_p: sample_topk(x, 50, 0.8, top_p=p, seed=s),  # type: ignore[misc]
                "torch.topk + multinomial": lambda f=by_topk, p=top_p: f(top_p=p),  # type: ignore[misc]
            }
            if numpy:
                calls["topk_lib numpy"] = _by_numpy(calls["topk_lib"])
            if DEVICE.type == "cuda" and importlib.util.find_spec("flashinfer"):
                calls["FlashInfer"] = lambda f=by_flashinfer, p=top_p: f(top_p=p)  # type: ignore[misc]
            yield Case(f"{rows}x{n}x50{'' if top_p is None else '+top_p'}", rows * (n * 4 + 8), calls)


def measure(case: Case) -> dict[str, Any]:
    """Percentiles and peak memory of each call; one that fails is recorded as failed, with why."""
    found: dict[str, Any] = {"bytes": case.bytes, "ms": {}, "peak_mib": {}}
    calls = dict(case.calls)
    first = {}
    for name, call in list(calls.items()):
        try:
            call()  # compiles, allocates
            first[name] = _time(call)
            found["peak_mib"][name] = _peak(call)
        except (RuntimeError, TypeError, ValueError) as error:
            found.setdefault("failed", {})[name] = str(error).splitlines()[0][:120]
            del calls[name]
    # What takes over a second is timed three times.
    rounds = int(np.clip(SECONDS / max(sum(first.values()), 1e-6), 3, 300))
    times: dict[str, list[float]] = {name: [] for name in calls}
    cold: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls)
    for _ in range(rounds):
        # Who comes after a peer that empties the cache must not always be the same.
        random.shuffle(order)
        for name in order:
            if DEVICE.type == "cpu":
                cold[name].append(_time(calls[name]))
            times[name].append(_time(calls[name]))
    for name, taken in times.items():
        found["ms"][name] = _percentiles(taken)
        if cold[name]:
            found.setdefault("cold_ms", {})[name] = _percentiles(cold[name])
    return found


def _percentiles(taken: list[float]) -> list[float]:
    return [round(float(x), 5) for x in 1e3 * np.percentile(taken, (20, 50, 80))]


def _time(call: Call) -> float:
    if DEVICE.type == "cuda":
        start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        _flush()
        start.record()
        call()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3
    start_s = time.perf_counter()
    call()
    return time.perf_counter() - start_s


def _flush() -> None:
    """Put the inputs out of the GPU's cache, and let the queue hide the launch of what follows."""
    torch.empty(64 << 20, dtype=torch.int32, device=DEVICE).zero_()


def _peak(call: Call) -> float:
    if DEVICE.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        return round((torch.cuda.max_memory_allocated() - before) / 2**20, 2)
    # PyTorch's own allocations; NumPy's work space is a few pieces of 256 KiB a thread.
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        kept = call()
    now = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    del kept
    return round(peak / 2**20, 2)


def copy_bandwidth() -> float:
    """Bytes a second of a plain copy, read and write counted."""
    source = torch.randn(1 << 26, device=DEVICE)
    target = torch.empty_like(source)
    times = [_time(lambda: target.copy_(source)) for _ in range(15)]
    return 2 * source.nbytes / float(np.median(times[3:]))


def summary(shapes: dict[str, Any], times: str = "ms") -> dict[str, Any]:
    """How many times faster than the fastest peer that does the same work, by function.

    Args:
        shapes: what :func:`measure` found of each.
        times: "ms", or "cold_ms".
    """
    found: dict[str, Any] = {}
    names = {name for shape in shapes.values() for name in shape.get(times, {}) if "topk_lib" in name}
    for ours in sorted(names):
        ratio: dict[str, dict[str, float]] = {"all": {}, "vocabulary": {}, "large": {}, "backward": {}}
        for name, shape in shapes.items():
            # torch.topk alone leaves the order of the text to be made
            peers = [
                ms[1] for peer, ms in shape[times].items()
                if "topk_lib" not in peer and (peer == "torch.topk") == (ours == BY_VALUE)
            ]  # fmt: skip
            if ours not in shape[times] or not peers:
                continue
            value = min(peers) / shape[times][ours][1]
            rows, n = (int(x) for x in name.split("x")[:2])
            groups = {"backward": name.endswith("+backward")}
            if not groups["backward"]:
                groups |= {"all": True, "vocabulary": n in (50257, 128256), "large": rows * n >= 1 << 16}
            for group, inside in groups.items():
                if inside:
                    ratio[group][name] = value
        found[ours.replace("topk_lib", "").strip() or "ours"] = {
            group: {
                "geometric_mean": round(float(np.exp(np.mean(np.log(list(values.values()))))), 3),
                "least": round(min(values.values()), 3),
                "least_at": min(values, key=lambda name: values[name]),
                "shapes": len(values),
                "slower": sum(value < 0.95 for value in values.values()),
            }
            for group, values in ratio.items()
            if values
        }
    return found


CASES = {"hard": hard_cases, "soft": soft_cases, "sample": sample_cases}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("operator", choices=list(CASES))
    parser.add_argument("--quick", action="store_true", help="a few small shapes, no record")
    parser.add_argument(
        "--code", choices=CODES, help="of the compiled operators; the best there is, if left out"
    )
    options = parser.parse_args()
    torch.manual_seed(0)
    random.seed(0)
    run, code = options.operator, None
    if native.module is not None and DEVICE.type == "cpu":
        wanted = len(CODES) if options.code is None else CODES.index(options.code)
        code = CODES[native.module.level(wanted)]
        run += "" if options.code is None else f"-{options.code.lower().replace(' ', '-')}"
    if options.code not in (None, code):
        parser.error(f"nothing was compiled here for {options.code}, or this processor cannot run it")
    begun = time.perf_counter()
    try:
        record = records.load("ops", run)
    except FileNotFoundError:
        record = {}
    if options.quick or record.get("device", {}).get("kind") != DEVICE.type:
        record = {}
    metrics: dict[str, Any] = record.get("metrics") or {"copy_bytes_per_s": copy_bandwidth(), "shapes": {}}
    earlier = float(metrics.get("seconds", 0))
    # NumPy once: it does not change with the code
    for case in CASES[options.operator](DEVICE.type == "cpu" and options.code is None):
        if case.name in metrics["shapes"]:
            continue
        found = measure(case)
        found["share"] = {
            name: round(case.bytes / (1e-3 * ms[1]) / metrics["copy_bytes_per_s"], 4)
            for name, ms in found["ms"].items()
        }
        metrics["shapes"][case.name] = found
        print(case.name, {name: ms[1] for name, ms in found["ms"].items()}, flush=True)
        if options.quick:
            if len(metrics["shapes"]) == 4:
                return
            continue
        metrics["summary"] = summary(metrics["shapes"])
        if DEVICE.type == "cpu":
            metrics["cold_summary"] = summary(metrics["shapes"], "cold_ms")
        metrics["seconds"] = round(earlier + time.perf_counter() - begun, 1)
        records.write(
            "ops", run, metrics=metrics, data={"source": "random normal scores, float32"},
            seconds=metrics["seconds"],
            settings={"seed": 0, "threads": torch.get_num_threads(), "code": code},
            command=f"python benchmarks/ops.py {options.operator}"
            + ("" if options.code is None else f" --code '{options.code}'"),
        )  # fmt: skip


if __name__ == "__main__":
    main()
