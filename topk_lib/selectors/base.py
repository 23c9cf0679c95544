"""The selector protocol, and the one way to shorten a text with it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from topk_lib.ops import Selection, hard_topk

__all__ = [
    "Selector",
    "ids_to_batch",
    "load_selector",
    "make_selector",
    "save_selector",
    "select_tokens",
    "selector_names",
    "shorten",
]

_REGISTRY: dict[str, type[Selector]] = {}
_S = TypeVar("_S", bound="type[Selector]")


class Selector:
    """Gives each token of a text a score; the k highest are read.

    A subclass sets ``name`` and ``rule`` and implements :meth:`scores`; where it learns from a
    corpus it also implements :meth:`fit` and the pair :meth:`tensors` / :meth:`set_tensors`.

    Attributes:
        name: what the command line and the records call it.
        rule: the rule in a few words, for tables and figures.
        needs_fit: whether :meth:`fit` must be called (or a saved selector loaded) first.
    """

    name: ClassVar[str]
    rule: ClassVar[str]
    needs_fit: ClassVar[bool] = False

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def fit(self, token_ids: Sequence[Sequence[int]], labels: Sequence[int] | None = None) -> Selector:
        """Learn from training texts, given as lists of token ids. Returns the selector itself."""
        return self

    def scores(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Score every position.

        Args:
            input_ids: (batch, length) int64.
            attention_mask: (batch, length), 1 for tokens and 0 for padding.

        Returns:
            (batch, length) float32. What stands at padding is ignored.
        """
        raise NotImplementedError

    def tensors(self) -> dict[str, Tensor]:
        """What :meth:`fit` learned, to be saved."""
        return {}

    def set_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take back what :meth:`tensors` returned."""

    def _missing(self) -> RuntimeError:
        return RuntimeError(
            f"the {self.name} selector has not been fitted: call fit(token_ids, labels) first"
        )


def register(cls: _S) -> _S:
    """Make a selector known to :func:`make_selector` under its name."""
    _REGISTRY[cls.name] = cls
    return cls


def selector_names() -> list[str]:
    """The names that :func:`make_selector` takes."""
    return list(_REGISTRY)


def make_selector(name: str, *, seed: int = 0) -> Selector:
    """Build a selector from its name.

    Raises:
        ValueError: the name is unknown.
    """
    if name not in _REGISTRY:
        raise ValueError(f"unknown selector {name!r}: choose one of {', '.join(_REGISTRY)}")
    return _REGISTRY[name](seed=seed)


def save_selector(selector: Selector, folder: str | Path) -> None:
    """Write ``selector.json`` and, where there is anything learned, ``selector.safetensors``."""
    folder = Path(folder)
    about: dict[str, Any] = {"name": selector.name, "seed": selector.seed}
    (folder / "selector.json").write_text(json.dumps(about, indent=2) + "\n")
    if tensors := selector.tensors():
        save_file(
            {key: value.contiguous() for key, value in tensors.items()},
            folder / "selector.safetensors",
        )


def load_selector(folder: str | Path) -> Selector:
    """Read back what :func:`save_selector` wrote.

    Raises:
        FileNotFoundError: the folder holds no selector.
    """
    folder = Path(folder)
    if not (folder / "selector.json").is_file():
        raise FileNotFoundError(f"no selector.json in {folder}: name a folder written by topk-lib finetune")
    about = json.loads((folder / "selector.json").read_text())
    selector = make_selector(about["name"], seed=about["seed"])
    if selector.needs_fit:
        selector.set_tensors(load_file(folder / "selector.safetensors"))
    return selector


def ids_to_batch(token_ids: Sequence[Sequence[int]], pad_id: int = 0) -> tuple[Tensor, Tensor]:
    """Pad lists of token ids to a batch.

    Returns:
        ``input_ids`` and ``attention_mask``, both (batch, longest) int64.
    """
    width = max((len(ids) for ids in token_ids), default=0)
    input_ids = torch.full((len(token_ids), width), pad_id, dtype=torch.int64)
    attention_mask = torch.zeros_like(input_ids)
    for row, ids in enumerate(token_ids):
        input_ids[row, : len(ids)] = torch.as_tensor(ids, dtype=torch.int64)
        attention_mask[row, : len(ids)] = 1
    return input_ids, attention_mask


def shorten(
    selector: Selector,
    input_ids: Tensor,
    attention_mask: Tensor,
    k: int,
    special_ids: Sequence[int] = (),
) -> tuple[Tensor, Tensor, Selection]:
    """Keep the k tokens of each text with the highest scores, in the order of the text.

    Special tokens ([CLS], [SEP], ...) are pinned: they are always kept and count among the k.
    The sequences really become shorter; nothing is masked.

    Args:
        selector: a fitted selector.
        input_ids: (batch, length) int64.
        attention_mask: (batch, length), 1 for tokens and 0 for padding.
        k: how many tokens the encoder reads of each text, special tokens included.
        special_ids: the ids to pin.

    Returns:
        The shorter ``input_ids`` and ``attention_mask``, both (batch, min(k, length)) and 0 where
        a text has fewer than k tokens; and the :class:`~topk_lib.ops.Selection` behind them.

    Raises:
        ValueError: k < 1, or too small to hold a text's special tokens.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    real = attention_mask.bool()
    pinned = torch.isin(input_ids, torch.as_tensor(list(special_ids), dtype=input_ids.dtype)) & real
    most = int(pinned.sum(-1).max()) if pinned.numel() else 0
    if most > k:
        raise ValueError(f"k = {k} cannot hold the {most} special tokens of a text: choose k >= {most}")
    scores = selector.scores(input_ids, attention_mask).masked_fill(pinned, torch.inf)
    chosen = hard_topk(scores, min(k, input_ids.shape[-1]), valid=real)
    filled = chosen.indices >= 0
    ids = input_ids.gather(-1, chosen.indices.clamp(min=0)).masked_fill(~filled, 0)
    return ids, filled.to(attention_mask.dtype), chosen


def select_tokens(
    selector: Selector,
    token_ids: Sequence[Sequence[int]],
    k: int,
    special_ids: Sequence[int] = (),
    *,
    batch_size: int = 256,
    progress: Callable[[int], object] | None = None,
) -> list[list[int]]:
    """:func:`shorten` for texts of any number and length, given and returned as lists of ids."""
    # Texts of like length share a batch, so that little of it is padding.
    order = sorted(range(len(token_ids)), key=lambda i: len(token_ids[i]))
    kept: list[list[int]] = [[] for _ in token_ids]
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        ids, mask, _ = shorten(selector, *ids_to_batch([token_ids[i] for i in rows]), k, special_ids)
        for i, row, length in zip(rows, ids.tolist(), mask.sum(-1).tolist(), strict=True):
            kept[i] = row[:length]
        if progress is not None:
            progress(len(rows))
    return kept
