"""What a model read of a text, and what it made of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from topk_lib.data import as_texts
from topk_lib.models import TopKForSequenceClassification, errors_only, probabilities

__all__ = ["Explanation", "explain"]


@dataclass(frozen=True)
class Explanation:
    """A model's answer to one text.

    Attributes:
        text: as given.
        label: the answer. Where a text may have several labels, those of a probability of a half or more,
            with commas between them, "none" where there is none; where the answer is a number, its name.
        probability: of the answer, 0 to 1; of the most probable label where there may be several; None
            where the answer is a number.
        scores: of each label, its probability, or its number.
        read: how many tokens the model read, special tokens included.
        tokens: how many the text has.
        spans: first and last + 1 of the characters that were read, ascending; pieces that adjoin
            in the text are one span.
    """

    text: str
    label: str
    probability: float | None
    scores: dict[str, float]
    read: int
    tokens: int
    spans: list[tuple[int, int]]

    @property
    def answer(self) -> str:
        """The answer in words: "positive 98.1%", "toxic 91.0%, insult 60.2%", "stars 3.72"."""
        if self.probability is None:
            return ", ".join(f"{name} {value:.4g}" for name, value in self.scores.items())
        if self.label in self.scores:
            return f"{self.label} {self.scores[self.label]:.1%}"
        chosen = [f"{name} {value:.1%}" for name, value in self.scores.items() if value >= 0.5]
        return ", ".join(chosen) or self.label

    def marked(self, before: str = "[", after: str = "]") -> str:
        """The text with a mark on both sides of each span."""
        parts, end = [], 0
        for start, stop in self.spans:
            parts += [self.text[end:start], before, self.text[start:stop], after]
            end = stop
        return "".join([*parts, self.text[end:]])


@torch.inference_mode()
def explain(
    model: TopKForSequenceClassification, tokenizer: Any, text: str, *, max_length: int | None = None
) -> Explanation:
    """Let a model answer one text, alone in its batch, in float32; and say what it read.

    Args:
        model: in evaluation mode.
        tokenizer: the model's; a fast one, which knows where each token stands in the text.
        text: of any length and language.
        max_length: tokens of the text that the selector sees; None: the model's own ``max_length``.

    Raises:
        TypeError: ``text`` is no string.
        ValueError: it has no token, or holds half a character.
    """
    if not isinstance(text, str):
        raise TypeError(f"text must be a string, got {type(text).__name__}")
    as_texts([text])
    if max_length is None:
        max_length = model.config.max_length
    with errors_only():  # it would warn of texts over the maximum, which the selector shortens
        found = tokenizer(
            text, truncation=max_length is not None, max_length=max_length, return_offsets_mapping=True
        )
    ids = torch.tensor([found["input_ids"]], dtype=torch.int64, device=model.device)
    if not ids.numel():
        raise ValueError("the text has no token for the model to read")
    output = model(ids)
    kept = [i for i in output.kept[0].tolist() if i >= 0]
    values = probabilities(output.logits, model.config)[0].tolist()
    scores = {str(model.config.id2label[i]): value for i, value in enumerate(values)}
    best = max(scores, key=scores.__getitem__)
    label, probability = best, scores[best]
    if model.config.problem_type == "multi_label_classification":
        label = ", ".join(name for name, value in scores.items() if value >= 0.5) or "none"
    number = model.config.problem_type == "regression"
    return Explanation(
        text,
        ", ".join(scores) if number else label,
        None if number else probability,
        scores,
        len(kept),
        ids.shape[1],
        _joined(text, (found["offset_mapping"][i] for i in kept)),
    )


def _joined(text: str, offsets: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans without the space around them; those that meet or overlap are one. Special tokens have none."""
    spans: list[tuple[int, int]] = []
    for start, stop in offsets:
        inner = text[start:stop]
        start += len(inner) - len(inner.lstrip())
        stop = start + len(inner.strip())
        if start >= stop:
            continue
        if spans and start <= spans[-1][1]:
            start, stop = spans[-1][0], max(stop, spans.pop()[1])
        spans.append((start, stop))
    return spans
