"""Texts as vectors of the frozen encoder, which reads all of their tokens or the k that a selector keeps."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from topk_lib.models import load_encoder
from topk_lib.models.reading import special_tokens
from topk_lib.selectors import ids_to_batch, make_selector, select_tokens
from topk_lib.selectors.base import whole
from topk_lib.training import tokenize

__all__ = ["RULES", "Vectors"]

RULES = (
    "first", "head_tail", "random", "tfidf", "frequency", "tfidf_corpus", "chi2", "mutual_information",
    "linear", "embedding",
)  # fmt: skip
"""The selectors that need no training along with the encoder, and no teacher."""


class Vectors:
    """The mean over the vectors of a text's tokens, of length 1 (Reimers and Gurevych, 2019).

    The product of two such vectors is their cosine. May be called from several threads.

    Args:
        tokens: k, the tokens read of each text, the special ones included; None: as many as the encoder can.
        selector: which k, one of :data:`RULES`.
        encoder: a hub name or folder; None: the embedded one.
        seed: of the selector.

    Attributes:
        width: of a vector.
        read: tokens read of each text of the last call, in the mean.

    Raises:
        ValueError: no such selector, or ``tokens`` leaves room for the special ones only.
        OSError: see :func:`~topk_lib.models.load_encoder`.
    """

    def __init__(
        self,
        tokens: int | None = None,
        selector: str = "tfidf",
        *,
        encoder: str | Path | None = None,
        seed: int = 0,
    ) -> None:
        if selector not in RULES:
            raise ValueError(f"the selector must be one of {', '.join(RULES)}, got {selector!r}")
        model, self.tokenizer = load_encoder(encoder)
        self.encoder = model.base_model.eval()
        self._special, around, _ = special_tokens(self.tokenizer)
        if tokens is not None and whole("tokens", tokens, 1) <= around:
            raise ValueError(
                f"tokens must be above {around}, got {tokens}: {around} of each text are special ones"
            )
        self._most = int(self.encoder.config.max_position_embeddings)
        self.tokens = None if tokens is None else min(tokens, self._most)
        self.width, self.read = int(self.encoder.config.hidden_size), 0.0
        self._selector = make_selector(selector, seed=seed, vocabulary=len(self.tokenizer))
        if self._selector.needs_embeddings:
            self._selector.attach(self.encoder.get_input_embeddings())
        self._tokenizing = threading.Lock()  # a fast tokenizer is changed by each call

    def fit(self, texts: Sequence[str], labels: Sequence[int]) -> Vectors:
        """Let the selector learn from training texts; returns itself. Nothing else is learned here."""
        if self.tokens is not None:
            self._selector.fit(self._ids(texts), labels)
        return self

    @torch.no_grad()
    def __call__(self, texts: Sequence[str], *, batch_size: int = 64) -> Tensor:
        """(texts, width) float32, each of length 1.

        Raises:
            TypeError, ValueError: a text is none, see :func:`~topk_lib.data.as_texts`.
            RuntimeError: the selector has not been fitted.
        """
        rows = self._ids(texts)
        if self.tokens is not None:
            rows = select_tokens(self._selector, rows, self.tokens, self._special)
        self.read = float(np.mean([len(row) for row in rows])) if rows else 0.0
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        found = torch.empty(len(rows), self.width)
        for at in range(0, len(order), batch_size):
            some = order[at : at + batch_size]
            ids, mask = (x.to(self.encoder.device) for x in ids_to_batch([rows[i] for i in some]))
            hidden = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
            mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
            found[some] = torch.nn.functional.normalize(mean.float(), dim=-1).cpu()
        return found

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids; a text is cut only where nothing chooses among its tokens."""
        with self._tokenizing:
            return tokenize(self.tokenizer, texts, self._most if self.tokens is None else None)
