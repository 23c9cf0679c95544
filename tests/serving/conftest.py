"""A model, fine-tuned for real, with a tiny encoder."""

from __future__ import annotations

from pathlib import Path

import pytest

from topk_lib.training import finetune


@pytest.fixture(scope="session")
def trained(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "model"
    finetune(
        folder, model=str(tiny_encoder), source="embedded", k=16, batch_size=8, n_train=128, n_eval=16,
        epochs=4,
        learning_rate=5e-3, precision="fp32", quiet=True,
    )  # fmt: skip
    return folder
