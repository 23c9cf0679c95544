"""How much each token moved a model's answer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from topk_lib.models import TopKForSequenceClassification
from topk_lib.selectors import ids_to_batch

__all__ = ["attributions"]


def attributions(
    model: TopKForSequenceClassification, token_ids: Sequence[Sequence[int]], *, batch_size: int = 16
) -> list[Tensor]:
    """How far each token's presence moves the answer that the model gives.

    |d(l_a - l_b)/du_i| at u_i = 1, where u_i is the token's presence
    (:func:`~topk_lib.models.presence.presence_mask`) and l_a, l_b are the highest and the second
    highest logit. It is gradient times input (Denil et al. 2014; Ancona et al. 2018 compare the kin of
    it) with the presence for the input, which is 1.

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
        best = output.logits.topk(2, dim=-1).values
        (gradient,) = torch.autograd.grad((best[:, 0] - best[:, 1]).sum(), presence)
        moved = gradient.abs().float().cpu()
        assert output.kept is not None
        for i, kept, one in zip(rows, output.kept.cpu(), moved, strict=True):
            found[i][kept[kept >= 0]] = one[kept >= 0]
    model.train(training)
    return found
