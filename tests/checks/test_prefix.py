"""The prefix test finds what looks ahead, in models of ids and of hidden states."""

from __future__ import annotations

import torch
from torch import Tensor

from topk_lib.checks.prefix import Prefix, prefix_test

HIDDEN = torch.randn(1, 6, 4, generator=torch.Generator().manual_seed(0))


def test_hidden_states() -> None:
    assert prefix_test(lambda h: h.cumsum(1), HIDDEN, shorter=True) == Prefix(None, None, None)
    assert prefix_test(lambda h: h - h.mean(1, keepdim=True), HIDDEN).leak == (1, 0)
    assert prefix_test(lambda h: h + h.roll(-1, 1), HIDDEN).leak == (1, 0)
    assert prefix_test(lambda h: 2 * h, HIDDEN, shorter=True) == Prefix(None, None, 0)
    only_last = prefix_test(lambda h: torch.cat([h[:, :3], h[:, 3:] + 1e-3 * h[:, 5:]], 1), HIDDEN)
    assert only_last.leak == (5, 3)


def test_a_length_that_leaks_without_any_change() -> None:
    def by_length(h: Tensor) -> Tensor:
        return h.cumsum(1) * h.shape[1]

    assert prefix_test(by_length, HIDDEN).leak is None
    assert prefix_test(by_length, HIDDEN, shorter=True).cut == 5
    no_room = prefix_test(lambda h: h.cumsum(1) * (torch.arange(h.shape[1]) < h.shape[1] / 2)[:, None],
                          HIDDEN, shorter=True)  # fmt: skip
    assert (no_room.leak, no_room.cut) == (None, 4)


def test_ids() -> None:
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    assert prefix_test(lambda ids: ids.cumsum(-1), ids, types=9, shorter=True) == Prefix(None, None, None)
    assert prefix_test(lambda ids: ids.flip(-1).cumsum(-1).flip(-1), ids, types=9).leak == (1, 0)
    assert prefix_test(lambda ids: ids.cumsum(-1) % 2 * 0, ids, types=2).deaf == 0
