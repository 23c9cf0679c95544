"""Fixtures: small real data, a tiny encoder, and no way out to the hub."""

from __future__ import annotations

import copy
import os

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported

import torch

# Triton's own functions ask for this when they are first imported, which transformers may do.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from topk_lib.models import select_vocabulary
from topk_lib.models.loading import encoder_path, errors_only, load_language_model

torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)


@pytest.fixture(autouse=True)
def _no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOPK_IMDB", raising=False)


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A 2-layer random BERT with the default encoder's tokenizer, saved to a folder."""
    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = AutoTokenizer.from_pretrained(encoder_path())
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=128,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def language_model() -> tuple[Any, Any]:
    """The embedded SmolLM2-135M-Instruct and its tokenizer, to be left as they are."""
    return load_language_model()


@pytest.fixture(scope="session")
def cut_language_model(language_model: tuple[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a sixth of its token types and the first two of its thirty layers."""
    folder = tmp_path_factory.mktemp("cut")
    whole, tokenizer = language_model
    config = copy.deepcopy(whole.config)
    config.num_hidden_layers = 2
    with errors_only():
        model = type(whole)(config)
        model.load_state_dict(whole.state_dict(), strict=False)
        cut = select_vocabulary(model, tokenizer, -torch.arange(len(tokenizer)), 8192)  # ids go by frequency
        cut.model.save_pretrained(folder)
    cut.tokenizer.save_pretrained(folder)
    return folder
