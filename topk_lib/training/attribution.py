"""How much each token moved a model's answer: by its slope, or by leaving it out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from topk_lib.models import TopKForSequenceClassification
from topk_lib.models.reading import Reading
from topk_lib.selectors import ids_to_batch

__all__ = ["attributions", "pieces"]


def attributions(
    model: TopKForSequenceClassification,
    token_ids: Sequence[Sequence[int]],
    *,
    left_out: bool = False,
    batch_size: int = 16,
) -> list[Tensor]:
    """How far each token's presence moves the answer that the model gives.

    |dm/du_i| at u_i = 1, where u_i is the token's presence
    (:func:`~topk_lib.models.presence.presence_mask`) and m says how far the answer is from another one:
    l_a - l_b, the highest and the second highest logit, for one of several classes; the logit nearest to
    0 for several labels at once; the number where it is one, the sum of several numbers. It is gradient
    times input (Denil et al. 2014; Ancona et al. 2018 compare the kin of it) with the presence for the
    input, which is 1.

    That is what taking the token out would do, to first order. ``left_out`` does take it out, one after
    another, of what the model reads (Li et al. 2016, "Understanding neural networks through representation
    erasure"): |m - m without i|, with a and b as they were. It costs a reading a token, where the slopes of
    all tokens cost about three readings.

    Args:
        model: in any mode; left as it was.
        token_ids: the texts.
        left_out: whether tokens are left out.
        batch_size: texts at a time; with ``left_out`` it is one text at a time, without each of its tokens.

    Returns:
        For each text (tokens,) float32 on the CPU, 0 for tokens that the model did not read.
    """
    training, device = model.training, model.device
    model.eval()
    found = [torch.zeros(len(ids)) for ids in token_ids]
    order = sorted((i for i in range(len(token_ids)) if token_ids[i]), key=lambda i: len(token_ids[i]))
    size = 1 if left_out else batch_size
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        ids, mask = (x.to(device) for x in ids_to_batch([token_ids[i] for i in rows]))
        with torch.no_grad():
            reading = model.select(ids, mask)
        moved = (_without_each(model, reading) if left_out else _slopes(model, reading)).float().cpu()
        for i, kept, one in zip(rows, reading.chosen.indices.cpu(), moved, strict=True):
            found[i][kept[kept >= 0]] = one[kept >= 0]
    model.train(training)
    return found


def _slopes(model: TopKForSequenceClassification, reading: Reading) -> Tensor:
    """(batch, k)."""
    presence = torch.ones(reading.input_ids.shape, device=model.device, requires_grad=True)
    logits = model.read(reading, presence=presence).logits
    margin = (_direction(logits.detach(), model.config) * logits).sum()
    (gradient,) = torch.autograd.grad(margin, presence)
    return gradient.abs()


@torch.no_grad()
def _without_each(model: TopKForSequenceClassification, reading: Reading) -> Tensor:
    """(1, k), of a reading of one text."""
    whole = model.read(reading).logits
    direction = _direction(whole, model.config)
    k = reading.input_ids.shape[1]
    ids, places = (x.expand(k, -1) for x in (reading.input_ids, reading.positions))
    types = None if reading.token_type_ids is None else reading.token_type_ids.expand(k, -1)
    # Nobody sees the token, and the others stay where they are: its presence is 0.
    seen = reading.attention_mask.expand(k, -1) * (1 - torch.eye(k, device=ids.device, dtype=torch.int64))
    parted = model.read(
        reading._replace(input_ids=ids, attention_mask=seen, positions=places, token_type_ids=types)
    ).logits
    moved: Tensor = (direction * (whole - parted)).sum(-1).abs()
    return moved[None]


def _direction(logits: Tensor, config: Any) -> Tensor:
    """(batch, labels): by what the logits are multiplied so that their sum says how far the answer is."""
    if config.problem_type == "regression":
        return torch.ones_like(logits)
    if config.problem_type == "multi_label_classification":
        nearest = logits.abs().argmin(-1, keepdim=True)
        return torch.zeros_like(logits).scatter(-1, nearest, logits.gather(-1, nearest).sign())
    best = logits.topk(2, dim=-1).indices
    return torch.zeros_like(logits).scatter(-1, best, logits.new_tensor([[1.0, -1.0]]).expand(len(logits), 2))


def pieces(
    token_ids: Sequence[Sequence[int]], size: int, special_ids: Sequence[int], *, seed: int = 0
) -> Iterator[list[int]]:
    """A piece of each text, drawn anywhere, between the special tokens at the text's ends.

    A model that reads ``size`` tokens reads all of it, and in the text's own words: of a whole text it would
    read what its selector likes, and have nothing to say of the rest.

    Args:
        token_ids: the texts.
        size: tokens of a piece, special ones included; a shorter text is its own piece.
        special_ids: of the special tokens.
        seed: of the draw.
    """
    dice, special = torch.Generator().manual_seed(seed), set(special_ids)
    for ids in token_ids:
        first = next((i for i, token in enumerate(ids) if token not in special), len(ids))
        last = next((i for i in range(len(ids), first, -1) if ids[i - 1] not in special), first)
        wide = max(0, size - first - (len(ids) - last))
        spare = max(0, last - first - wide)
        start = first + int(torch.randint(spare + 1, (), generator=dice))
        yield [*ids[:first], *ids[start : start + min(wide, last - first)], *ids[last:]]
