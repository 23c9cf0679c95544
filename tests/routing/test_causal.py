"""Expert choice looks ahead, and each way out does not: seen from outside, by the prefix test."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from topk_lib.checks.prefix import prefix_test
from topk_lib.routing import ExpertChoice, MixtureOfDepths, Routed, TokenChoice

TEXT = torch.randn(1, 8, 6, generator=torch.Generator().manual_seed(0))

CAUSAL: dict[str, Any] = {
    "threshold": lambda: ExpertChoice(6, 8, 3, causal="threshold"),
    "threshold, one a token": lambda: ExpertChoice(6, 8, 3, causal="threshold", most=1, normalise=True),
    "threshold, none left": lambda: ExpertChoice(6, 8, 3, causal="threshold", rest="best", over="batch"),
    "predictor": lambda: ExpertChoice(6, 8, 3, causal="predictor"),
    "depths, threshold": lambda: MixtureOfDepths(6, 8, share=0.5, causal="threshold"),
    "depths, predictor": lambda: MixtureOfDepths(6, 8, share=0.5, causal="predictor"),
    "top-1": lambda: TokenChoice(6, 8, 3, causal=True),
    "top-2": lambda: TokenChoice(6, 8, 3, k=2, balance="bias", causal=True),
}


def trained(layer: Routed, steps: int = 3) -> Routed:
    torch.manual_seed(0)
    for _ in range(steps):
        (layer(torch.randn(4, 8, 6)).square().sum() + layer.loss).backward()
    return layer.eval()


@pytest.mark.parametrize("name", CAUSAL)
def test_each_way_out_passes_the_prefix_test(name: str) -> None:
    torch.manual_seed(0)
    layer = trained(CAUSAL[name]())
    seen = prefix_test(lambda h: h.cumsum(1) + layer(h), TEXT, shorter=True)
    assert seen == (None, None, None)
    # token after token, as when it decodes, is the same as all at once
    one_by_one = torch.cat([layer(TEXT[:, t : t + 1]) for t in range(8)], 1)
    torch.testing.assert_close(one_by_one, layer(TEXT))
    assert sum(layer.stats.load) > 0


@pytest.mark.parametrize("over", ["sequence", "batch"])
def test_expert_choice_leaks_and_is_refused(over: str) -> None:
    torch.manual_seed(0)
    assert prefix_test(ExpertChoice(6, 8, 3, capacity=1.0, over=over).eval(), TEXT).leak is not None
    with pytest.raises(ValueError, match=r'looks at later ones: .* causal="threshold" or causal="predictor"'):
        ExpertChoice(6, 8, 3, over=over, causal=True)
    with pytest.raises(ValueError, match='must be False, "threshold" or "predictor", got \'cache\''):
        ExpertChoice(6, 8, 3, causal="cache")
    with pytest.raises(ValueError, match="looks at later ones"):
        ExpertChoice(6, 8, 3).gap(TEXT)
    with pytest.raises(ValueError, match="needs a way to decide alone"):
        ExpertChoice(6, 8, 3, alone_in_training=True)


def test_a_capacity_leaks_through_token_choice_and_is_refused() -> None:
    torch.manual_seed(0)
    roomy = TokenChoice(6, 8, 3, k=2, capacity=1.0, over="sequence").eval()
    seen = prefix_test(roomy, TEXT, shorter=True)
    assert seen.leak or seen.cut
    with pytest.raises(ValueError, match=r"a capacity looks ahead: .* capacity=None"):
        TokenChoice(6, 8, 3, k=2, capacity=1.0, causal=True)


def test_a_threshold_is_the_mean_of_the_lowest_scores_taken() -> None:
    torch.manual_seed(0)
    layer = ExpertChoice(6, 8, 3, capacity=1.5, causal="threshold", momentum=0.5)
    assert layer.threshold.tolist() == [pytest.approx(1 / 3)] * 3
    edges = []
    for _ in range(3):
        hidden = torch.randn(2, 8, 6)
        layer(hidden).sum().backward()
        best = layer.scores(hidden).sort(dim=1, descending=True).values
        edges.append(best[:, 3].mean(0).detach())  # ceil(1.5 * 8 / 3) = 4
    expected = ((edges[0] + edges[1]) / 2 + edges[2]) / 2
    torch.testing.assert_close(layer.threshold, expected)
    # at the threshold is in: with > the expert would take k - 1
    scores = layer.threshold.expand(1, 1, 3)
    assert layer.eval().choose(scores, hidden, None).mask.all()


def test_a_threshold_over_the_batch_is_the_lowest_score_taken_of_all_texts() -> None:
    torch.manual_seed(0)
    layer = ExpertChoice(6, 8, 3, capacity=1.5, causal="threshold", over="batch")
    hidden = torch.randn(2, 8, 6)
    layer(hidden).sum().backward()
    best = layer.scores(hidden).flatten(0, 1).sort(dim=0, descending=True).values
    torch.testing.assert_close(layer.threshold, best[7].detach())  # ceil(1.5 * 16 / 3) = 8
    gap = layer.gap(hidden)  # of one batch the edge is the choice itself
    assert gap.agree == 1
    assert gap.load_alone == gap.load_choice == 1.5


@pytest.mark.parametrize("over", ["sequence", "batch"])
@pytest.mark.parametrize("causal", ["threshold", "predictor"])
def test_nothing_is_learned_from_no_tokens(causal: str, over: str) -> None:
    layer = ExpertChoice(6, 8, 3, causal=causal, over=over)
    for shape in ((2, 0, 6), (0, 8, 6)):
        assert layer(torch.randn(shape)).shape == shape
        assert layer.loss == 0


def test_a_threshold_moves_once_a_step() -> None:
    torch.manual_seed(0)
    layer, hidden = ExpertChoice(6, 8, 3, causal="threshold"), torch.randn(2, 8, 6)
    with torch.no_grad():
        layer(hidden)
    layer(hidden)
    assert int(layer.passes) == 0
    checkpoint(layer, hidden, use_reentrant=False).sum().backward()
    assert int(layer.passes) == 1
    layer.eval()(hidden).sum().backward()
    assert int(layer.passes) == 1
    layer.train()(hidden, torch.zeros(2, 8).bool()).sum().backward()  # nobody to learn from
    assert layer.threshold.isfinite().all()


def test_thresholds_close_the_gap_where_training_is_long() -> None:
    """Texts of one kind: the average edge of an expert's choices takes nearly as many, and the same ones."""
    torch.manual_seed(0)
    layer = MixtureOfDepths(6, 8, share=0.25, causal="threshold")
    texts = torch.randn(30, 64, 6)
    before = layer.gap(texts)
    for _ in range(5):
        layer(texts).sum().backward()
    gap = layer.gap(texts)
    assert gap.load_choice == 0.25
    assert gap.load_alone == pytest.approx(0.25, abs=0.03)
    assert gap.agree > 0.9 > before.agree
    assert gap.kept > 0.8
    assert gap.added < 0.2
    assert 0 < gap.output < before.output
    layer.threshold.fill_(2)
    nothing = layer.gap(texts)
    assert (nothing.kept, nothing.added, nothing.load_alone, nothing.output) == (0, 0, 0, 1)


def test_a_predictor_learns_who_is_chosen_and_leaves_the_model_alone() -> None:
    torch.manual_seed(0)
    layer = MixtureOfDepths(6, 8, share=0.5, causal="predictor")
    texts = torch.randn(8, 32, 6, requires_grad=True)
    before = layer.gap(texts)
    layer(texts)
    layer.loss.backward()  # type: ignore[no-untyped-call]
    assert texts.grad is None
    assert layer.router.weight.grad is None
    optimizer = torch.optim.Adam(layer.predictor.parameters(), 0.05)
    for _ in range(25):
        layer(texts.detach())
        optimizer.zero_grad()
        layer.loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert layer.gap(texts).agree > max(before.agree, 0.9)


def test_deciding_alone_in_training_never_looks_ahead() -> None:
    torch.manual_seed(0)
    layer = ExpertChoice(6, 8, 3, causal="threshold", alone_in_training=True)
    assert prefix_test(lambda h: layer(h).detach(), TEXT).leak is None
    layer(TEXT).sum().backward()
    assert int(layer.passes) == 1
    chosen = layer.scores(TEXT) >= layer.threshold
    layer(TEXT)
    assert layer._last.choice is not None
    assert torch.equal(layer._last.choice.mask, chosen)


def test_one_expert_and_the_identity() -> None:
    torch.manual_seed(0)
    layer = MixtureOfDepths(6, 8, share=0.3)
    hidden = torch.randn(2, 8, 6)
    answer = layer(hidden)
    logit = hidden @ layer.router.weight[0]
    chosen = logit.topk(3).indices.sort().values  # ceil(0.3 * 8)
    for text, own in enumerate(chosen.tolist()):
        assert answer[text].any(-1).nonzero().flatten().tolist() == own
    both = torch.stack([logit, torch.zeros_like(logit)], -1).softmax(-1)[..., 0]  # the identity's logit is 0
    torch.testing.assert_close(layer.scores(hidden)[..., 0], both)
    said = layer.experts(hidden.reshape(1, -1, 6)).reshape(hidden.shape)
    expected: Tensor = torch.where(answer != 0, both[..., None] * said, 0)
    torch.testing.assert_close(answer, expected)
