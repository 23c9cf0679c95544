"""The code that a CPU runs: NumPy, and what was compiled, once for each set of instructions."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest

from topk_lib.ops import native

CODES = ["numpy", "any processor", "AVX2", "AVX-512"]


@pytest.fixture(scope="module", params=CODES)
def cpu_code(request: Any) -> Iterator[str]:
    """Run a module's tests with each."""
    level = CODES.index(request.param) - 1
    if level < 0:
        with mock.patch.dict(os.environ, TOPK_BACKEND="numpy"):
            yield request.param
        return
    if native.module is None:
        pytest.skip("the compiled operators were not built")
    if native.module.level(level) != level:
        pytest.skip(f"this processor has no {request.param}")
    yield request.param
    native.module.level(len(CODES))
