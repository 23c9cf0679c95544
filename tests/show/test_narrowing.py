"""The picture of the search tells the truth about what is open."""

from __future__ import annotations

import pytest
import torch

from topk_lib.show import narrowing


@pytest.mark.parametrize("k", [1, 5, 300])
def test_at_every_bit_the_counts_hold_the_threshold(k: int) -> None:
    torch.manual_seed(0)
    scores = torch.cat([torch.randn(290), torch.tensor([0.0, -0.0, 1e-40, -1e30, 7.5, 7.5, 1e9, -7, 3, 3])])
    before = len(scores) + 1
    for bits in range(33):
        title = narrowing(scores, k, bits).axes[0].get_title()
        sure, still = (int(part.split()[0].replace(",", "")) for part in title.split(": ")[1].split(", "))
        assert sure < k <= sure + still
        assert still <= before
        before = still
    tau = scores.sort(descending=True).values[k - 1]
    assert (sure, still) == (int((scores > tau).sum()), int((scores == tau).sum()))


def test_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="k = 4"):
        narrowing(torch.zeros(3), 4, 1)
    with pytest.raises(ValueError, match="bits = 33"):
        narrowing(torch.zeros(3), 1, 33)
