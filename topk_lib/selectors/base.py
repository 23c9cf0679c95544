"""The selector protocol, and the one way to shorten a text with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from topk_lib.ops import Selection, hard_topk
from topk_lib.ops.arguments import whole

__all__ = [
    "Selector",
    "choose",
    "ids_to_batch",
    "is_special",
    "make_selector",
    "select_tokens",
    "selector_names",
    "shorten",
    "whole",
]

_REGISTRY: dict[str, type[Selector]] = {}
_S = TypeVar("_S", bound="type[Selector]")
_SEEDS = (-(2**63), 2**64 - 1)


class Selector(nn.Module):
    """Gives each token of a text a score; the k highest are read.

    A subclass sets ``name`` and ``rule`` and implements :meth:`scores`; where it learns from a
    corpus it also implements :meth:`fit`. What was learned are buffers and parameters, so that
    ``state_dict`` holds it.

    Attributes:
        name: what the command line and the records call it.
        rule: the rule in a few words, for tables and figures.
        needs_fit: whether :meth:`fit` must be called (or a state loaded) first.
        needs_embeddings: whether :meth:`attach` must come before.
        trainable: whether it is trained along with the encoder, through ``soft_topk``.
        words: options that are ids of words, which :func:`make_selector` looks up in a tokenizer.
    """

    name: ClassVar[str]
    rule: ClassVar[str]
    needs_fit: ClassVar[bool] = False
    needs_embeddings: ClassVar[bool] = False
    trainable: ClassVar[bool] = False
    words: ClassVar[dict[str, Sequence[str]]] = {}

    def __init__(self, seed: int = 0, vocabulary: int | None = None) -> None:
        super().__init__()
        self.seed = whole("seed", seed, *_SEEDS)
        self.vocabulary = None if vocabulary is None else whole("vocabulary", vocabulary, 1)
        self._embedding: tuple[nn.Embedding] | None = None

    def attach(self, embedding: nn.Embedding) -> Selector:
        """Let the selector see the encoder's token embeddings, (vocabulary, width). Returns itself.

        They stay the encoder's: they are neither saved nor moved with the selector.
        """
        self._embedding = (embedding,)  # in a tuple: no submodule
        return self

    def attach_encoder(self, encoder: Any) -> Selector:
        """:meth:`attach`, and take whatever else the selector wants of the encoder. Returns itself."""
        return self.attach(encoder.get_input_embeddings())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Selector:
        """Half precision is for the encoder: a ranking stays in float32."""

        def keep(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return tensor.to(moved.device) if moved.dtype in (torch.float16, torch.bfloat16) else moved

        super()._apply(keep, recurse)  # type: ignore[no-untyped-call]
        return self

    @property
    def embedding(self) -> nn.Embedding:
        """The attached embeddings."""
        if self._embedding is None:
            raise RuntimeError(
                f"the {self.name} selector reads token embeddings: call attach(model.get_input_embeddings())"
            )
        return self._embedding[0]

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

    def options(self) -> dict[str, Any]:
        """The arguments of the constructor, beside seed and vocabulary, that rebuild this selector."""
        return {}

    def _missing(self) -> RuntimeError:
        return RuntimeError(
            f"the {self.name} selector has not been fitted: call fit(token_ids, labels) first"
        )

    def _labels(self, token_ids: Sequence[Sequence[int]], labels: Sequence[int] | None) -> list[int]:
        if labels is None:
            raise ValueError(f"the {self.name} selector learns from labels: call fit(token_ids, labels)")
        if len(labels) != len(token_ids):
            raise ValueError(f"each text needs a label: {len(token_ids)} texts, {len(labels)} labels")
        if len(set(labels)) < 2:
            raise ValueError(f"the {self.name} selector compares classes: texts of two labels are needed")
        return list(labels)


def register(cls: _S) -> _S:
    """Make a selector known to :func:`make_selector` under its name."""
    _REGISTRY[cls.name] = cls
    return cls


def selector_names() -> list[str]:
    """The names that :func:`make_selector` takes."""
    return list(_REGISTRY)


def make_selector(
    name: str, *, seed: int = 0, vocabulary: int | None = None, tokenizer: Any = None, **options: Any
) -> Selector:
    """Build a selector from its name.

    Args:
        name: one of :func:`selector_names`.
        seed: of what is drawn at random, -2**63 to 2**64 - 1.
        vocabulary: how many token types there are; None lets ``fit`` find the largest id.
        tokenizer: where the ids of the words are looked up that the selector knows by name, such as
            negations; None: they are among the options, or it knows none.
        **options: further arguments of that selector.

    Raises:
        ValueError: the name is unknown, or an option out of its range.
        TypeError: the selector has no such option, or it has another type.
    """
    if name not in _REGISTRY:
        raise ValueError(f"unknown selector {name!r}: choose one of {', '.join(_REGISTRY)}")
    if tokenizer is not None:
        known = _REGISTRY[name].words.items()
        options = {option: _ids_of(words, tokenizer) for option, words in known} | options
    try:
        return _REGISTRY[name](seed=seed, vocabulary=vocabulary, **options)
    except TypeError as error:
        raise TypeError(f"the {name} selector: {error}") from None


def _ids_of(words: Sequence[str], tokenizer: Any) -> list[int]:
    """The ids of words that are one token each, at the beginning of a sentence or within it."""
    vocabulary = tokenizer.get_vocab()
    # Byte-level BPE and SentencePiece mark the space before a word.
    spelled = (mark + one for word in words for one in (word, word.capitalize()) for mark in ("", "Ġ", "▁"))
    return sorted({vocabulary[one] for one in spelled if one in vocabulary})


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


def choose(
    scores: Tensor, real: Tensor, pinned: Tensor, k: int | Tensor, *, width: int | None = None
) -> Selection:
    """The k real tokens of each text with the highest scores, pinned ones before all others.

    A score of NaN counts as the lowest, one of inf as a large number.

    Args:
        scores: (batch, length) float.
        real: (batch, length) bool, False for padding.
        pinned: (batch, length) bool; always kept, and counted among the k.
        k: tokens of each text; an int, or (batch,) int64.
        width: the largest that k may be, for ``torch.export`` alone: there the result has so
            many slots, whatever the length and k, and nothing is raised.

    Raises:
        ValueError: k < 1, or too small to hold a text's pinned tokens.
    """
    if torch.compiler.is_exporting():
        return _choose_in_graph(scores, real, pinned & real, k, width)
    k = k if isinstance(k, Tensor) else whole("k", k)
    each = torch.as_tensor(k, device=scores.device)
    if each.numel() and int(each.min()) < 1:
        raise ValueError(f"k must be at least 1, got {int(each.min())}")
    pinned = pinned & real
    most = pinned.sum(-1)
    if bool((most > each).any()):
        row = int((most - each).argmax())
        raise ValueError(
            f"k = {int(each.expand_as(most)[row])} cannot hold the {int(most[row])} special tokens of a "
            f"text: choose k >= {int(most[row])}"
        )
    k = min(k, scores.shape[-1]) if isinstance(k, int) else each.long().clamp(max=scores.shape[-1])
    return hard_topk(ranked(scores, pinned), k, valid=real)


def ranked(scores: Tensor, pinned: Tensor) -> Tensor:
    """The scores with the pinned tokens above all others, whatever the others have."""
    most = torch.finfo(scores.dtype).max
    return scores.nan_to_num(nan=-torch.inf, posinf=most, neginf=-torch.inf).masked_fill(pinned, torch.inf)


def _choose_in_graph(
    scores: Tensor, real: Tensor, pinned: Tensor, k: int | Tensor, width: int | None
) -> Selection:
    """:func:`choose` without a look at the data. Spare columns let k exceed the length."""
    size = k if isinstance(k, int) else width
    assert size is not None, "export needs to know the largest k"
    wide, valid = (nn.functional.pad(x, (0, size)) for x in (ranked(scores, pinned), real))
    per_row = None if isinstance(k, int) else k
    indices, mask = torch.ops.topk_lib.choose(wide, size, per_row, valid)
    values = wide.gather(-1, indices.clamp(min=0)).masked_fill(indices < 0, 0)
    return Selection(values, indices, mask[:, : scores.shape[-1]])


def is_special(input_ids: Tensor, special_ids: Sequence[int]) -> Tensor:
    """(batch, length) bool: True for special tokens."""
    if not len(special_ids):  # ONNX has no "any" of nothing
        return torch.zeros_like(input_ids, dtype=torch.bool)
    ids = torch.as_tensor(list(special_ids), dtype=input_ids.dtype).to(input_ids.device)
    return (input_ids.unsqueeze(-1) == ids).any(-1)


def shorten(
    selector: Selector,
    input_ids: Tensor,
    attention_mask: Tensor,
    k: int | Tensor,
    special_ids: Sequence[int] = (),
) -> tuple[Tensor, Tensor, Selection]:
    """Keep the k tokens of each text with the highest scores, in the order of the text.

    Special tokens ([CLS], [SEP], ...) are pinned: they are always kept and count among the k.
    The sequences really become shorter; nothing is masked.

    Args:
        selector: a fitted selector.
        input_ids: (batch, length) int64.
        attention_mask: (batch, length), 1 for tokens and 0 for padding.
        k: how many tokens the encoder reads of each text, special tokens included; an int, or
            (batch,) int64 (see :func:`~topk_lib.selectors.row_budgets`).
        special_ids: the ids to pin.

    Returns:
        The shorter ``input_ids`` and ``attention_mask``, both (batch, min(k, length)) and 0 where
        a text has fewer than k tokens; and the :class:`~topk_lib.ops.Selection` behind them.

    Raises:
        ValueError: k < 1, or too small to hold a text's special tokens.
    """
    scores = selector.scores(input_ids, attention_mask)
    chosen = choose(scores, attention_mask.bool(), is_special(input_ids, special_ids), k)
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
    device = next((x.device for x in selector.state_dict().values()), torch.device("cpu"))
    kept: list[list[int]] = [[] for _ in token_ids]
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        padded, real = (x.to(device) for x in ids_to_batch([token_ids[i] for i in rows]))
        ids, mask, _ = shorten(selector, padded, real, k, special_ids)
        for i, row, length in zip(rows, ids.tolist(), mask.sum(-1).tolist(), strict=True):
            kept[i] = row[:length]
        if progress is not None:
            progress(len(rows))
    return kept
