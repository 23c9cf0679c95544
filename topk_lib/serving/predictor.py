"""A fine-tuned model that is loaded once and asked as often as need be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from topk_lib.data import as_texts
from topk_lib.data.labels import NUMBER, SEVERAL
from topk_lib.models import errors_only, probabilities
from topk_lib.training.answer import labels_of_model, load_model

__all__ = ["Predictor"]

_CHUNK = 1024  # texts that are sorted by length together


class Predictor:
    """What a model that :func:`~topk_lib.training.finetune` saved makes of texts.

    It computes in float32, so that an answer is the same, but for rounding, whatever stands beside a text
    in its batch (a model that shares one budget among a batch, ``spend="batch"``, excepted).

    Args:
        folder: of the model.
        device: "cpu", "cuda", ...; None: a GPU where there is one.
        batch_size: texts that are read at once.

    Attributes:
        labels: the kind of the problem and the names of the classes
            (:class:`~topk_lib.data.Labels`).

    Raises:
        FileNotFoundError, ValueError: see :func:`~topk_lib.training.load_model`.
    """

    def __init__(
        self, folder: str | Path, *, device: str | torch.device | None = None, batch_size: int = 32
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.folder, self.batch_size = Path(folder), batch_size
        model, self.tokenizer, self._most = load_model(folder)
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = model.float().to(device).eval()
        self.labels = labels_of_model(model)

    def __call__(self, texts: Iterable[str], pairs: Iterable[str] | None = None) -> list[dict[str, float]]:
        """The probability of every class for each text, or ``{"score": number}``.

        Args:
            texts: a list of strings, or a column, an array or a series of them.
            pairs: the second text of each, for a model of pairs; None: there are none.

        Returns:
            For each text, in order, names and probabilities: they sum to 1, or where a text may have
            several labels each stands alone.

        Raises:
            TypeError, ValueError: a text is none, see :func:`~topk_lib.data.as_texts`; as many pairs as
                texts are needed.
            RuntimeError: the model's answer is no number.
        """
        texts = as_texts(texts)
        seconds = None if pairs is None else as_texts(pairs, "pair")
        if seconds is not None and len(seconds) != len(texts):
            raise ValueError(f"{len(texts)} texts need as many pairs, got {len(seconds)}")
        return [answer for chunk in self._chunks(texts, seconds) for answer in chunk]

    def _chunks(self, texts: Sequence[str], pairs: Sequence[str] | None) -> Iterator[list[dict[str, float]]]:
        for start in range(0, len(texts), _CHUNK):
            part = slice(start, start + _CHUNK)
            yield self._answers(texts[part], None if pairs is None else pairs[part])

    def _answers(self, texts: Sequence[str], pairs: Sequence[str] | None) -> list[dict[str, float]]:
        given = {"truncation": self._most is not None, "max_length": self._most}
        with errors_only():  # it would warn of texts over the maximum, which the selector shortens
            read = self.tokenizer(list(texts), None if pairs is None else list(pairs), **given)
        if not self.model.reads_token_types:
            read.pop("token_type_ids", None)
        order = sorted(range(len(texts)), key=lambda i: len(read["input_ids"][i]))
        found: list[dict[str, float]] = [{} for _ in texts]
        names = self.labels.names
        places = iter(order)
        while batch := list(islice(places, self.batch_size)):
            padded = self.tokenizer.pad(
                {name: [column[i] for i in batch] for name, column in read.items()}, return_tensors="pt"
            ).to(self.model.device)
            with torch.inference_mode(), self._exact():
                rows = probabilities(self.model(**padded).logits, self.model.config)
            if not torch.isfinite(rows).all():
                raise RuntimeError(
                    f"the model in {self.folder} answers with what is no number: its training diverged, or "
                    "its weights are damaged; fine-tune it anew with a lower learning rate"
                )
            for i, row in zip(batch, rows.tolist(), strict=True):
                found[i] = dict(zip(names, row, strict=True))
        return found

    def _exact(self) -> AbstractContextManager[Any]:
        """Not in an autocast that is on around it."""
        kind = self.model.device.type
        return torch.autocast(kind, enabled=False) if kind in ("cpu", "cuda") else nullcontext()

    def told(self, answer: Mapping[str, float]) -> dict[str, Any]:
        """An answer as the command prints it.

        Returns:
            ``label`` and ``probabilities``, and where the classes are negative and positive also
            ``positive``; ``labels`` and ``probabilities`` where a text has several; or ``number``.
        """
        if self.labels.problem == NUMBER:
            return {"number": float(f"{next(iter(answer.values())):.6g}")}
        each = {name: round(p, 4) for name, p in answer.items()}
        if self.labels.problem == SEVERAL:
            return {"labels": [name for name, p in answer.items() if p >= 0.5], "probabilities": each}
        told: dict[str, Any] = {"label": max(answer, key=answer.__getitem__)}
        if self.labels.names == ("negative", "positive"):
            told["positive"] = each["positive"]
        return told | {"probabilities": each}
