"""Extractive reading: an encoder points at the first and the last token of the answer in a paragraph."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import (
    AutoModelForQuestionAnswering,
    AutoTokenizer,
    get_linear_schedule_with_warmup,
)

from topk_lib.models import errors_only
from topk_lib.models.loading import encoder_path, readable
from topk_lib.selectors import ids_to_batch
from topk_lib.tasks.answers import judge
from topk_lib.tasks.pieces import Question
from topk_lib.training.trainer import fastest

__all__ = ["Span", "SpanReader", "best_span", "load_reader", "train_reader"]

_ASKED = 64  # tokens of a question that are read, as in BERT's own script for SQuAD
_WARM = 0.1  # of the steps
_DECAY = 0.01


class Span(NamedTuple):
    """A part of a paragraph that is given as the answer.

    Attributes:
        text: the answer, ``context[start:end]``.
        start, end: in characters.
        score: the logits of its first and of its last token, added up.
    """

    text: str
    start: int
    end: int
    score: float


class _Window(NamedTuple):
    """A question with a stretch of its paragraph, in tokens.

    Attributes:
        of: the number of the question.
        ids, types: (tokens,) what the encoder reads.
        first: the token with which the stretch begins.
        places: (tokens of the stretch, 2) the characters of each.
    """

    of: int
    ids: list[int]
    types: list[int]
    first: int
    places: list[tuple[int, int]]


class SpanReader:
    """Answers with a span of the paragraph (Devlin et al., 2019, section 4.2).

    A paragraph longer than a window is read in several that overlap, and the best span of all counts. A span
    is always of the paragraph, never of the question, and ends no earlier than it begins.

    Args:
        model, tokenizer: as :func:`load_reader` gives them.
        length: tokens of a window, the question and special tokens included.
        stride: tokens that one window shares with the next.
        most: tokens of an answer.

    Raises:
        ValueError: a number out of its range.
    """

    def __init__(
        self, model: Any, tokenizer: Any, *, length: int = 384, stride: int = 128, most: int = 30
    ) -> None:
        room = length - _ASKED - 4  # special tokens
        if not 0 <= stride < room:
            raise ValueError(
                f"a window of {length} tokens leaves {room} to a paragraph after a question of {_ASKED}: "
                f"stride must be at least 0 and below that, got {stride}"
            )
        if length > model.config.max_position_embeddings:
            raise ValueError(f"length must be at most {model.config.max_position_embeddings}, got {length}")
        if most < 1:
            raise ValueError(f"most must be at least 1, got {most}")
        self.model, self.tokenizer = model, tokenizer
        self.length, self.stride, self.most = length, stride, most

    @torch.inference_mode()
    def read(self, questions: Sequence[Question], *, batch_size: int = 16) -> list[Span]:
        """The best span for each question.

        Raises:
            ValueError: a paragraph has no word.
        """
        self.model.eval()
        windows = sorted(self._windows(questions), key=lambda window: len(window.ids))
        found: list[Span | None] = [None] * len(questions)
        for at in range(0, len(windows), batch_size):
            some = windows[at : at + batch_size]
            output = self.model(**self._batch(some))
            starts, ends = output.start_logits.float().cpu(), output.end_logits.float().cpu()
            for window, start, end in zip(some, starts, ends, strict=True):
                inside = slice(window.first, window.first + len(window.places))
                i, j, score = best_span(start[inside], end[inside], self.most)
                before = found[window.of]
                if before is None or score > before.score:
                    a, b = window.places[i][0], window.places[j][1]
                    found[window.of] = Span(questions[window.of].context[a:b], a, b, score)
        for question, span in zip(questions, found, strict=True):
            if span is None:
                raise ValueError(f"the paragraph of {question.question!r} has no word to answer with")
        return [span for span in found if span is not None]

    def _loss(self, windows: Sequence[_Window], targets: Sequence[tuple[int, int]]) -> Tensor:
        """() the mean surprise at the first and last tokens of answers, in nats."""
        first, last = torch.tensor(targets, device=self.model.device).T
        loss: Tensor = self.model(**self._batch(windows), start_positions=first, end_positions=last).loss
        return loss

    def _windows(self, questions: Sequence[Question]) -> list[_Window]:
        found = []
        for of, question in enumerate(questions):
            read = self.tokenizer(
                self._asked(question.question), question.context, truncation="only_second",
                max_length=self.length, stride=self.stride, return_overflowing_tokens=True,
                return_offsets_mapping=True,
            )  # fmt: skip
            for row, ids in enumerate(read["input_ids"]):
                inside = [i for i, part in enumerate(read.sequence_ids(row)) if part == 1]
                offsets = read["offset_mapping"][row]
                types = read["token_type_ids"][row] if "token_type_ids" in read else [0] * len(ids)
                if inside:
                    places = [(offsets[i][0], offsets[i][1]) for i in inside]
                    found.append(_Window(of, list(ids), list(types), inside[0], places))
        return found

    def _asked(self, question: str) -> str:
        places = self.tokenizer(question, add_special_tokens=False, return_offsets_mapping=True)[
            "offset_mapping"
        ]
        return question if len(places) <= _ASKED else question[: places[_ASKED - 1][1]]

    def _batch(self, windows: Sequence[_Window]) -> dict[str, Tensor]:
        ids, mask = ids_to_batch([window.ids for window in windows], self.tokenizer.pad_token_id)
        batch = {"input_ids": ids, "attention_mask": mask}
        if "token_type_ids" in self.tokenizer.model_input_names:
            batch["token_type_ids"] = ids_to_batch([window.types for window in windows])[0]
        return {name: tensor.to(self.model.device) for name, tensor in batch.items()}


def best_span(starts: Tensor, ends: Tensor, most: int) -> tuple[int, int, float]:
    """The first and last token of the span with the highest sum of logits, and that sum.

    Args:
        starts: (tokens,) float, how much each looks like the first token of the answer.
        ends: (tokens,) float, likewise the last.
        most: tokens of a span.

    Returns:
        ``i <= j < i + most``; of equals the first.
    """
    n = len(starts)
    allowed = torch.ones(n, n, dtype=torch.bool).triu().tril(most - 1)
    total = (starts[:, None] + ends[None, :]).masked_fill(~allowed, -torch.inf)
    i, j = divmod(int(total.argmax()), n)
    return i, j, float(total[i, j])


def load_reader(name: str | Path | None = None, *, seed: int = 0) -> tuple[Any, Any]:
    """An encoder with two heads, for the first and the last token of an answer, and its tokenizer.

    Args:
        name: a hub name, a folder, or None for the default encoder. Where it has such heads they are kept.
        seed: of heads that are new.

    Raises:
        OSError: nothing is there under that name, or not whole.
    """
    path = encoder_path(name)
    options: dict[str, Any] = {"local_files_only": Path(path).is_dir(), "trust_remote_code": False}
    with errors_only(), torch.random.fork_rng(devices=[]):  # it would report new heads, which are intended
        torch.manual_seed(seed)
        with readable(path, "tokenizer.json"):
            tokenizer = AutoTokenizer.from_pretrained(path, **options)
        with readable(path, "model.safetensors"):
            model = AutoModelForQuestionAnswering.from_pretrained(
                path, use_safetensors=True, dtype=torch.float32, **options
            )
    return model, tokenizer


def _target(window: _Window, question: Question) -> tuple[int, int]:
    """The first and last token of the first answer; where the window lacks it, twice the token 0, [CLS]."""
    a, b = question.starts[0], question.starts[0] + len(question.answers[0])
    if a < window.places[0][0] or window.places[-1][1] < b:
        return 0, 0
    inside = [i for i, (left, right) in enumerate(window.places) if left < b and a < right]
    return (window.first + inside[0], window.first + inside[-1]) if inside else (0, 0)


def train_reader(
    train: Sequence[Question], dev: Sequence[Question], *, name: str | Path | None = None, epochs: int = 8,
    batch_size: int = 8, learning_rate: float = 1e-4, seed: int = 0, length: int = 384, stride: int = 128,
    most: int = 30, device: str = "cpu", progress: Callable[[dict[str, float]], object] | None = None,
) -> tuple[SpanReader, list[dict[str, float]]]:  # fmt: skip
    """Fine-tune an encoder to read spans; of its epochs the one with the best F1 on dev questions is kept.

    AdamW with weight decay 0.01, a tenth of the steps to warm up, then linearly down to 0; in bfloat16 where
    the device is fast in it.

    Args:
        train: with answers, of which the first is learned.
        dev: with answers, to choose the epoch by.
        name: of the encoder, as in :func:`load_reader`.
        epochs, batch_size, learning_rate, seed: of the training; a batch is of windows.
        length, stride, most: as in :class:`SpanReader`.
        device: where to train.
        progress: is called after each epoch with its row.

    Returns:
        The reader, and a row an epoch: ``epoch``, ``loss`` in nats, ``exact`` and ``f1`` on dev questions.

    Raises:
        ValueError: no training or dev question, one without an answer, or a number out of its range.
        RuntimeError: the loss is no number any more.
    """
    if not train or not dev:
        raise ValueError("train_reader needs questions to learn from and dev questions to choose by")
    for number, question in enumerate((*train, *dev)):
        if not question.answers:
            raise ValueError(f"question {number}, {question.question!r}, has no answer: leave it out")
    for what, value in (("epochs", epochs), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{what} must be at least 1, got {value}")
    model, tokenizer = load_reader(name, seed=seed)
    reader = SpanReader(model.to(device), tokenizer, length=length, stride=stride, most=most)
    windows = reader._windows(train)
    targets = [_target(window, train[window.of]) for window in windows]
    steps = epochs * -(-len(windows) // batch_size)
    optimiser = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=_DECAY)
    schedule = get_linear_schedule_with_warmup(optimiser, int(_WARM * steps), steps)
    rows: list[dict[str, float]] = []
    best: dict[str, Tensor] = {}
    dice = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        for epoch in range(1, epochs + 1):
            model.train()
            total, order = 0.0, dice.permutation(len(windows)).tolist()
            for at in range(0, len(order), batch_size):
                some = order[at : at + batch_size]
                with _autocast(device):
                    loss = reader._loss([windows[i] for i in some], [targets[i] for i in some])
                if not torch.isfinite(loss):
                    raise RuntimeError(f"the training diverged in epoch {epoch}: lower learning_rate")
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimiser.step()
                schedule.step()
                total += float(loss.detach()) * len(some)
            found = judge([span.text for span in reader.read(dev)], dev)
            rows.append({"epoch": epoch, "loss": total / len(order)} | {m: found[m] for m in ("exact", "f1")})
            if progress is not None:
                progress(rows[-1])
            if rows[-1]["f1"] > max((row["f1"] for row in rows[:-1]), default=-1.0):
                best = copy.deepcopy(model.state_dict())
    model.load_state_dict(best)
    model.eval()
    return reader, rows


def _autocast(device: str) -> AbstractContextManager[Any]:
    if fastest("auto") != "bf16":
        return nullcontext()
    return torch.autocast(torch.device(device).type, torch.bfloat16)
