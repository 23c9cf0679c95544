"""Which code runs an operator: one table."""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["fold_batch", "use_triton"]


def fold_batch(info: Any, dims: Sequence[int | None], tensors: Sequence[Tensor | None]) -> list[Any]:
    """For ``vmap``: make the batch more rows of each tensor."""
    folded: list[Tensor | None] = []
    for tensor, at in zip(tensors, dims, strict=True):
        if tensor is not None:
            batched = tensor.expand(info.batch_size, *tensor.shape) if at is None else tensor.movedim(at, 0)
            tensor = batched.flatten(0, 1)
        folded.append(tensor)
    return folded


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def use_triton(device: torch.device) -> bool:
    """Whether Triton kernels run: on CUDA where Triton is installed, unless ``TOPK_BACKEND`` says.

    "numpy" is "torch" without the compiled code of a CPU.

    Raises:
        ValueError: ``TOPK_BACKEND`` is neither "torch", "numpy", "triton" nor "auto".
        RuntimeError: it is "triton" where Triton cannot run.
    """
    if "TOPK_BACKEND" not in os.environ:
        return device.type == "cuda" and _has_triton()
    named = os.environ["TOPK_BACKEND"]
    if named not in ("auto", "torch", "numpy", "triton"):
        raise ValueError(f'TOPK_BACKEND must be "auto", "torch", "numpy" or "triton", got {named!r}')
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    able = _has_triton() and (device.type == "cuda" or interpreted)
    if named == "triton" and not able:
        raise RuntimeError(
            "TOPK_BACKEND=triton needs a CUDA tensor and the triton package; on a CPU set "
            "TRITON_INTERPRET=1 before Python starts"
        )
    return named == "triton" or (named == "auto" and able and device.type == "cuda")
