"""Where the time and the memory of an encoder go, for texts of n tokens.

    python benchmarks/transformer_cost.py

Writes ``results/transformer_cost/encoder.<device>.json``. The encoder has the sizes of the course's, random
weights, and room for longer texts: what a product costs does not depend on the numbers in it. One text a
pass; the lengths take turns, and a clock at the door of every block tells the parts of a pass apart. Seconds
are the processor's, those of all threads together, so that whatever else the machine does is not counted.
Memory is what a pass needs at its peak beside the weights, each in a process of its own, as Linux counts it.
"""

from __future__ import annotations

import re
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertModel

from topk_lib import records, show
from topk_lib.models import DEFAULT_ENCODER, load_encoder
from topk_lib.studies.base import in_turns

LENGTHS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
STORED = 2048  # with the scores of all pairs stored, more would need gigabytes
FELT = 128  # shorter texts take no memory to speak of
ROUNDS = 7

# Blocks by name. The queries, keys and values are made inside "self", the rest of which is attention proper.
BLOCKS = {
    "all": "",
    "embedding": r"embeddings",
    "inputs": r"encoder\.layer\.\d+\.attention\.self\.(query|key|value)",
    "self": r"encoder\.layer\.\d+\.attention\.self",
    "output": r"encoder\.layer\.\d+\.attention\.output\.dense",
    "feed-forward": r"encoder\.layer\.\d+\.(intermediate|output\.dense)",
    "norms": r"encoder\.layer\.\d+\..*LayerNorm",
}


def encoder(attention: str = "sdpa") -> Any:
    config = load_encoder()[0].config
    config.max_position_embeddings = max(LENGTHS)
    config._attn_implementation = attention
    torch.manual_seed(0)
    return BertModel(config, add_pooling_layer=False).eval()


def text(n: int) -> torch.Tensor:
    """(1, n) token ids."""
    return torch.randint(1000, 20_000, (1, n), generator=torch.Generator().manual_seed(n))


class Clocks:
    """The seconds that the blocks of a model have taken since the last :meth:`parts`."""

    def __init__(self, model: nn.Module) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        for name, module in model.named_modules():
            for block, pattern in BLOCKS.items():
                if re.fullmatch(pattern, name):
                    module.register_forward_pre_hook(partial(self._count, block, -1))
                    module.register_forward_hook(partial(self._count, block, 1))

    def _count(self, block: str, sign: int, *_: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds[block] += sign * time.process_time()

    def parts(self) -> dict[str, float]:
        found = dict(self.seconds)
        self.seconds.clear()
        return {
            "all": found["all"],
            "embedding": found["embedding"],
            "projections": found["inputs"] + found["output"],
            "attention": found["self"] - found["inputs"],
            "feed-forward": found["feed-forward"],
            "norms": found["norms"],
        }


@torch.inference_mode()
def timed() -> dict[int, dict[str, Any]]:
    """Seconds a text, and of its parts."""
    model = encoder().to(records.device_kind())
    clocks, rounds = Clocks(model), defaultdict(list)

    def read(n: int) -> None:
        given = text(n).to(model.device)
        for _ in range(2):  # the first pass after one of another length is slower
            model(given)
            found = clocks.parts()
        rounds[n].append(found)

    in_turns({str(n): partial(read, n) for n in LENGTHS}, ROUNDS)
    metrics = {}
    for n, found in rounds.items():
        parts = {part: float(np.median([one[part] for one in found])) for part in found[0]}
        every = [one["all"] for one in found]
        metrics[n] = {
            "seconds": parts.pop("all"),
            "fastest": min(every),
            "slowest": max(every),
            "parts": parts,
        }
    return {n: metrics[n] for n in LENGTHS}


@torch.inference_mode()
def flops(n: int) -> int:
    """As PyTorch counts them, which must be what a pencil counts."""
    model = encoder("eager")  # the counter does not see into fused attention
    with FlopCounterMode(display=False) as counter:
        model(text(n))
    sizes = show.SIZES["MiniLM"] | {"positions": max(LENGTHS)}
    assert counter.get_total_flops() == show.cost("encoder", **sizes, n=n, classes=0).flops
    return int(counter.get_total_flops())


@torch.inference_mode()
def memory(attention: str, n: int) -> int:
    """Bytes at the peak of a pass beside what was there before."""
    model = encoder(attention)
    model(text(min(LENGTHS)))
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = _status("VmRSS")
    model(text(n))
    return _status("VmHWM") - before


def _status(field: str) -> int:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(lines[field].split()[0])


def alone(attention: str, n: int) -> int:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(memory, attention, n).result()


def fit(seconds: dict[int, float]) -> dict[str, float]:
    """constant + linear n + quadratic n^2, none below 0, each length's relative error counting alike."""
    n = np.array(list(seconds), dtype=float)
    found = np.array(list(seconds.values()))
    (constant, linear, quadratic), _ = nnls(np.stack([n**0, n, n**2], 1) / found[:, None], np.ones_like(n))
    return {
        "constant": constant, "linear": linear, "quadratic": quadratic, "equal_at": linear / quadratic,
        "worst_error": float(np.abs((constant + linear * n + quadratic * n**2) / found - 1).max()),
    }  # fmt: skip


def main() -> None:
    start = time.perf_counter()
    lengths = timed()
    for n, found in lengths.items():
        found["flops"] = flops(n)
        if n >= FELT:
            found["memory_fused"] = alone("sdpa", n)
        if FELT <= n <= STORED:
            found["memory_stored"] = alone("eager", n)
        print(n, found, flush=True)
    path = records.write(
        "transformer_cost", "encoder", seconds=time.perf_counter() - start,
        metrics={
            "lengths": {str(n): found for n, found in lengths.items()},
            "fit": fit({n: found["seconds"] for n, found in lengths.items()}),
        },
        settings={"seed": 0, "sizes_of": DEFAULT_ENCODER, "rounds": ROUNDS, "batch_size": 1,
                  "threads": torch.get_num_threads()},
        data={"source": "random token ids"},
        command="python benchmarks/transformer_cost.py",
    )  # fmt: skip
    print(path)


if __name__ == "__main__":
    main()
