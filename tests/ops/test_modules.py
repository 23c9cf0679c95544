"""TopK and SoftTopK: the operators' settings, kept."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from topk_lib import SoftTopK, TopK, hard_topk, soft_topk, topk_mask

SCORES = torch.tensor([[0.3, 2.0, 1.0, -1.0], [1.0, 1.0, 0.0, 5.0]])
VALID = torch.tensor([True, True, False, True])


def test_topk_is_hard_topk() -> None:
    for got, expected in zip(
        TopK(2, order="value")(SCORES, VALID), hard_topk(SCORES, 2, valid=VALID, order="value"), strict=True
    ):
        assert torch.equal(got, expected)
    assert torch.equal(topk_mask(SCORES, 2), hard_topk(SCORES, 2).mask)
    assert repr(TopK(2)) == "TopK(k=2, dim=-1, order='position', largest=True)"


def test_soft_in_training_hard_in_evaluation() -> None:
    gate = SoftTopK(2, 0.5, link="laplace")
    assert torch.equal(gate(SCORES, VALID), soft_topk(SCORES, 2, 0.5, link="laplace", valid=VALID))
    assert torch.equal(gate.eval()(SCORES), hard_topk(SCORES, 2).mask.float())
    assert torch.equal(SoftTopK(2, hard="never").eval()(SCORES), soft_topk(SCORES, 2))
    assert torch.equal(SoftTopK(2, hard="always")(SCORES), hard_topk(SCORES, 2).mask.float())


def test_a_learned_temperature_goes_where_the_loss_pulls_it() -> None:
    gate = SoftTopK(1, 1.0, learnable=True)
    optimizer = torch.optim.SGD(gate.parameters(), lr=1.0)
    for _ in range(30):  # the loss wants all weight on the largest score
        optimizer.zero_grad()
        (-gate(SCORES[:1])[0, 1]).backward()
        optimizer.step()
    assert gate.temperature.item() < 0.5


def test_annealing_is_saved_and_loaded() -> None:
    gate = SoftTopK(1, 2.0, final_temperature=0.02)
    seen = []
    for progress in (0.0, 0.5, 1.0):
        gate.anneal(progress)
        seen.append(round(gate.temperature.item(), 4))
    assert seen == [2.0, 0.2, 0.02]
    fresh = SoftTopK(1, 2.0, final_temperature=0.02)
    fresh.load_state_dict(gate.state_dict())
    assert fresh.temperature.item() == gate.temperature.item()
    assert list(gate.parameters()) == []


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"final_temperature": -1.0}, "final_temperature must be above 0"),
        ({"link": "relu"}, "link must be one of"),
        ({"hard": True}, 'hard must be "eval"'),
        ({"learnable": True, "final_temperature": 0.1}, "either learnable or annealed"),
    ],
)
def test_bad_settings(keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SoftTopK(2, **keywords)


def test_bad_annealing() -> None:
    with pytest.raises(ValueError, match="final_temperature"):
        SoftTopK(2).anneal(0.5)
    with pytest.raises(ValueError, match=r"0\.\.1"):
        SoftTopK(2, final_temperature=0.1).anneal(1.5)
