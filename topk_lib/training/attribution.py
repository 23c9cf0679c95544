"""How much each token moved a model's answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from topk_lib.models import TopKForSequenceClassification
from topk_lib.selectors import ids_to_batch

__all__ = ["attributions"]


def attributions(
    model: TopKForSequenceClassification, token_ids: Sequence[Sequence[int]], *, batch_size: int = 16
) -> list[Tensor]:
    """How far each token's presence moves the answer that the model gives.

    |dm/du_i| at u_i = 1, where u_i is the token's presence
    (:func:`~topk_lib.models.presence.presence_mask`) and m says how far the answer is from another one:
    l_a - l_b, the highest and the second highest logit, for one of several classes; the logit nearest to
    0 for several labels at once; the number where it is one, the sum of several numbers. It is gradient
    times input (Denil et al. 2014; Ancona et al. 2018 compare the kin of it) with the presence for the
    input, which is 1.

    Args:
        model: in any mode; left as it was.
        token_ids: the texts.
        batch_size: texts at a time.

    Returns:
        For each text (tokens,) float32 on the CPU, 0 for tokens that the model did not read.
    """
    training, device = model.training, model.device
    model.eval()
    found = [torch.zeros(len(ids)) for ids in token_ids]
    order = sorted((i for i in range(len(token_ids)) if token_ids[i]), key=lambda i: len(token_ids[i]))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        ids, mask = (x.to(device) for x in ids_to_batch([token_ids[i] for i in rows]))
        reading = model.select(ids, mask)
        presence = torch.ones(reading.input_ids.shape, device=device, requires_grad=True)
        output = model.read(reading, presence=presence)
        (gradient,) = torch.autograd.grad(_margin(output.logits, model.config).sum(), presence)
        moved = gradient.abs().float().cpu()
        assert output.kept is not None
        for i, kept, one in zip(rows, output.kept.cpu(), moved, strict=True):
            found[i][kept[kept >= 0]] = one[kept >= 0]
    model.train(training)
    return found


def _margin(logits: Tensor, config: Any) -> Tensor:
    """(batch,): how far each text's answer is from another one."""
    if config.problem_type == "regression":
        return logits.sum(-1)
    if config.problem_type == "multi_label_classification":
        return logits.abs().amin(-1)
    best = logits.topk(2, dim=-1).values
    return best[:, 0] - best[:, 1]
