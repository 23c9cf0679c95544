"""One process and two on this machine, and what the cost model says of them beforehand.

    python benchmarks/processes.py [--rounds 7] [--steps 12]

Over gloo two processes reduce, gather, scatter and exchange tensors of several sizes. A link (bandwidth,
latency) is fitted to every other size of an operation, and checked on the sizes between. Then a step of
pretraining is timed: one process with all texts of a batch, two with half of them each that do not meet,
the same two with their gradients reduced, and sharded. From the second and the link the model says what the
third takes. Two processes here share one machine's memory, so that this network is a copy in it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from topk_lib import records
from topk_lib.training import PretrainSettings, train_tokenizer
from topk_lib.training.corpus import Corpus
from topk_lib.training.cost import (
    SINGLE,
    Link,
    Machine,
    Plan,
    Shape,
    fit_link,
    training_step,
)
from topk_lib.training.links import OPERATIONS, in_processes, operation_seconds, timed
from topk_lib.training.pretrain_loop import Loop

SIZES = [4 * 2**i for i in range(8, 23, 2)]  # bytes, 1 KiB to 16 MiB
SETTINGS = PretrainSettings(objective="causal", steps=1, precision="fp32", batch_size=16)
WIDTH = SETTINGS.hidden_size
MODEL = Shape(WIDTH, SETTINGS.layers, 4 * WIDTH, SETTINGS.vocabulary, matrices=3)
WAYS = {"two": "data parallel", "two sharded": "fsdp"}


def corpus() -> Corpus:
    """Random token ids; the words that the tokenizer has are of no account."""
    dice = np.random.default_rng(0)
    words = [f"w{number}" for number in range(20_000)]
    tokenizer = train_tokenizer(words, SETTINGS.vocabulary, objective=SETTINGS.objective)
    ids = dice.integers(len(tokenizer), size=400_000).astype("uint16")
    return Corpus(tokenizer, ids, ids[:10_000], {}, SETTINGS.length)


def stepped(steps: int, folder: Path) -> tuple[dict[str, list[float]], int]:
    """Seconds of steps of :class:`~topk_lib.training.pretrain_loop.Loop`, in turns; and its tensors."""
    device, ids, rank, world = torch.device("cpu"), corpus(), dist.get_rank(), dist.get_world_size()

    def loop(batch: int, processes: int, shard: bool = False) -> Loop:
        state = SimpleNamespace(
            device=device, num_processes=processes, process_index=rank if processes > 1 else 0,
            is_main_process=rank == 0, wait_for_everyone=dist.barrier,
        )  # fmt: skip
        return Loop(folder, replace(SETTINGS, batch_size=batch, shard=shard), ids, state, quiet=True)

    one = loop(SETTINGS.batch_size, 1)
    assert sum(p.numel() for p in one.model.parameters() if p.dim() > 1) == MODEL.parameters
    loops = {"two apart": loop(SETTINGS.batch_size // world, 1), "two": loop(SETTINGS.batch_size, world),
             "two sharded": loop(SETTINGS.batch_size, world, shard=True)}  # fmt: skip
    found: dict[str, list[float]] = {name: [] for name in ("one", *loops)}
    for turn in range(steps + 2):
        spent = {"one": timed(lambda: one._learn(1e-3, False) if rank == 0 else None)}  # the other waits
        spent |= {name: timed(partial(each._learn, 1e-3, False)) for name, each in loops.items()}
        if turn > 1:
            for name, took in spent.items():
                found[name].append(took)
    return found, len(list(one.model.parameters()))


def work(steps: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        timed_steps, tensors = stepped(steps, Path(folder))
    return {"steps": timed_steps, "tensors": tensors}


def spread(values: list[float]) -> dict[str, float]:
    low, middle, high = np.percentile(values, [20, 50, 80])
    return {"median": float(middle), "low": float(low), "high": float(high)}


def checked(name: str, sizes: dict[int, dict[str, float]]) -> tuple[Link, dict[str, Any]]:
    """The link of an operation from every other size, and how far it is off on the sizes between."""
    sent = {size: OPERATIONS[name](size, 2) for size in sizes}
    fitted = SIZES[::2]
    link = fit_link([sent[size] for size in fitted], [sizes[size]["median"] for size in fitted])
    said = {size: link.seconds(sent[size]) for size in sizes}
    off = [said[size] / sizes[size]["median"] - 1 for size in SIZES if size not in fitted]
    return link, {
        "bandwidth": link.bandwidth, "latency": link.latency, "worst_error": max(map(abs, off)),
        "sizes": {str(size): found | {"predicted": said[size], "fitted": size in fitted}
                  for size, found in sizes.items()},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="times that each operation is timed")
    parser.add_argument("--steps", type=int, default=12, help="steps of pretraining that are timed")
    given = parser.parse_args()
    start = time.perf_counter()
    operations, links = {}, {}
    for name in OPERATIONS:
        seconds = operation_seconds(name, SIZES, rounds=given.rounds)
        sizes = {size: spread(each) for size, each in seconds.items()}
        links[name], operations[name] = checked(name, sizes)
        print(name, f"{links[name].bandwidth / 1e9:.2f} GB/s, {1e6 * links[name].latency:.0f} microseconds, "
              f"off by {operations[name]['worst_error']:.0%} at most", flush=True)  # fmt: skip
    found = in_processes(work, 2, given.steps)
    steps = {
        name: spread(np.max([one["steps"][name] for one in found], 0).tolist()) for name in found[0]["steps"]
    }
    said = predicted(steps["two apart"]["median"], links, found[0]["tensors"])
    for name, took in steps.items():
        print(f"{name}: {took['median']:.3f} s", f"(predicted {said[name]:.3f})" if name in said else "")
    path = records.write(
        "processes", "gloo", seconds=time.perf_counter() - start,
        metrics={"operations": operations, "steps": steps, "predicted": said},
        settings={"seed": 0, "rounds": given.rounds, "steps": given.steps, "processes": 2, "threads": 1,
                  "model": vars(MODEL), "batch": SETTINGS.batch_size, "length": SETTINGS.length},
        data={"source": "random token ids"},
        command=f"python benchmarks/processes.py --rounds {given.rounds} --steps {given.steps}",
    )  # fmt: skip
    print(path)


def predicted(apart: float, links: dict[str, Link], tensors: int) -> dict[str, float]:
    """Seconds of a step of two processes, from a step of two that do not meet and the fitted links."""
    pieces = tensors + 1  # and the loss
    plan = Plan(SETTINGS.batch_size, SETTINGS.length, micro=SETTINGS.batch_size, pieces=pieces)
    nothing = Link(1.0, 0.0)
    said = {}
    for name, how in WAYS.items():
        machine = Machine(1.0, 1.0, 1.0, nothing, nothing)
        step = training_step(MODEL, plan, machine, 2, how, SINGLE)
        said[name] = apart + sum(links[what].seconds(sent) for what, sent in step.traffic.items())
    return said


if __name__ == "__main__":
    main()
