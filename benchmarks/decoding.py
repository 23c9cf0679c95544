"""Time the choice of a next token beside the library's own processors, in turns; write one record.

    python benchmarks/decoding.py          also: --quick, a small vocabulary and few rounds, no record

What is timed is everything between a model's logits and the token: the filters, then the softmax and the
draw. The logits are those of the embedded language model at the ends of real reviews, 49,152 a row; the
128,256 of a larger vocabulary are these, and after them as many as are lacking, drawn from the less likely
half of the same row. Times ("ms") are milliseconds a call: the 20th, 50th and 80th percentile.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from topk_lib import records
from topk_lib.data import fingerprint, load_reviews, source_of
from topk_lib.decoding import TopKSampler
from topk_lib.models import DEFAULT_LANGUAGE_MODEL, load_language_model
from topk_lib.studies.base import in_turns

DEVICE = torch.device(records.device_kind())
RULES: dict[str, dict[str, Any]] = {
    "k = 50": {"k": 50},
    "k = 50, top_p = 0.9": {"k": 50, "top_p": 0.9},
    "top_p = 0.9": {"top_p": 0.9},
    "min_p = 0.1": {"min_p": 0.1},
    "all": {},
}
TEMPERATURE = 0.8


def real_logits(rows: int, n: int, reviews: Any) -> Tensor:
    """(rows, n) float32."""
    model, tokenizer = load_language_model()
    found = []
    with torch.inference_mode():
        for text in reviews["text"][:rows]:
            ids = tokenizer(text, return_tensors="pt", truncation=True, max_length=48)["input_ids"]
            found.append(model(ids, logits_to_keep=1).logits[0, -1])
    logits = torch.stack(found)
    if n > logits.shape[1]:
        low = logits.sort(-1).values[:, : logits.shape[1] // 2]
        drawn = torch.randint(
            low.shape[1], (rows, n - logits.shape[1]), generator=torch.Generator().manual_seed(0)
        )
        logits = torch.cat([logits, low.gather(1, drawn)], 1)
    return logits[:, :n].to(DEVICE)


def ours(logits: Tensor, rule: dict[str, Any]) -> Callable[[], Tensor]:
    sampler = TopKSampler(0, **rule, temperature=TEMPERATURE, seed=0)
    none = torch.zeros(len(logits), 0, dtype=torch.int64, device=DEVICE)
    return lambda: sampler(none, logits).argmax(-1)


def theirs(logits: Tensor, rule: dict[str, Any]) -> Callable[[], Tensor]:
    """As ``generate`` does with ``do_sample=True``."""
    warpers = [TemperatureLogitsWarper(TEMPERATURE)]
    for name, warper in (("k", TopKLogitsWarper), ("top_p", TopPLogitsWarper), ("min_p", MinPLogitsWarper)):
        if name in rule:
            warpers.append(warper(rule[name]))
    processors = LogitsProcessorList(warpers)
    none = torch.zeros(len(logits), 0, dtype=torch.int64, device=DEVICE)
    return lambda: torch.multinomial(processors(none, logits).softmax(-1), 1)[:, 0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small vocabulary and few rounds, no record")
    quick = parser.parse_args().quick
    begun = time.perf_counter()
    reviews = load_reviews(split="test", n=32, quiet=True)
    metrics: dict[str, Any] = {}
    for rows, n in itertools.product((1, 2) if quick else (1, 32), (5000,) if quick else (49_152, 128_256)):
        logits = real_logits(rows, n, reviews)
        for name, rule in RULES.items():
            calls = {"topk_lib": ours(logits, rule), "transformers": theirs(logits, rule)}
            for call in calls.values():
                call()
            seconds = in_turns(calls, 3 if quick else 60 if rows == 1 else 20)
            found = {
                who: [round(1e3 * float(x), 4) for x in np.percentile(taken, (20, 50, 80))]
                for who, taken in seconds.items()
            }
            faster = found["transformers"][1] / found["topk_lib"][1]
            metrics[f"{rows}x{n} {name}"] = {"ms": found, "times_faster": round(faster, 3)}
            print(f"{rows}x{n} {name}", found, flush=True)
    if quick:
        return
    records.write(
        "decoding_speed", "processors", metrics=metrics,
        settings={"seed": 0, "temperature": TEMPERATURE, "threads": torch.get_num_threads()},
        data={
            "source": source_of(reviews), "fingerprint": fingerprint(reviews), "model": DEFAULT_LANGUAGE_MODEL
        },
        seconds=time.perf_counter() - begun, command="python benchmarks/decoding.py",
    )  # fmt: skip


if __name__ == "__main__":
    main()
