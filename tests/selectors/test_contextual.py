"""The gate that reads the encoder's first layers: what it sees, what it leaves alone, and how far."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from topk_lib.models import TopKForSequenceClassification
from topk_lib.selectors import ContextualSelector, ids_to_batch, make_selector

TEXTS = [[101, 5, 6, 7, 5, 8, 102], [101, 9, 5, 102]]


def bert() -> Any:
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(
        vocab_size=128, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=32,
    )).eval()  # fmt: skip


def contextual(**options: Any) -> ContextualSelector:
    selector = make_selector("contextual", **{"block": 16} | options).attach_encoder(bert())
    assert isinstance(selector, ContextualSelector)
    return selector


def test_a_contextual_gate_reads_the_first_layer_and_leaves_it_alone() -> None:
    encoder = bert()
    selector = make_selector("contextual", block=16).attach_encoder(encoder)
    assert isinstance(selector, ContextualSelector)
    ids, mask = ids_to_batch([[5, 6, 7, 8], [9, 5]])
    with torch.no_grad():
        hidden = encoder(ids, attention_mask=mask, output_hidden_states=True).hidden_states[1]
        net: Any = selector.net
        expected = net["project"](net["norm"](hidden))
        torch.testing.assert_close(selector.project(ids, mask)[mask.bool()], expected[mask.bool()])
    before = {name: x.clone() for name, x in selector.reader.state_dict().items()}
    selector.train().teach(TEXTS, [torch.arange(len(text)).float() for text in TEXTS], epochs=2)
    assert not selector.reader.training
    assert all(torch.equal(x, before[name]) for name, x in selector.reader.state_dict().items())
    assert encoder.get_input_embeddings().weight.grad is None


def test_a_contextual_gate_tells_a_token_by_its_neighbours_far_away() -> None:
    """Six tokens off: no other gate could see it."""
    selector = contextual(once=False)
    ids, mask = ids_to_batch([[20, 1, 2, 3, 4, 5, 9], [21, 1, 2, 3, 4, 5, 9]])
    scores = selector.scores(ids, mask).detach()
    assert abs(scores[0, 6] - scores[1, 6]) > 1e-5
    plain = make_selector("distilled").attach_encoder(bert()).scores(ids, mask).detach()
    torch.testing.assert_close(plain[0, 6], plain[1, 6], atol=1e-7, rtol=0)
    # But not beyond its block; and without its own block a text of any length could not be read.
    far, long = ids_to_batch([[20, *range(1, 40)], [21, *range(1, 40)]])
    scores = selector.scores(far, long).detach()
    torch.testing.assert_close(scores[0, 18:], scores[1, 18:])
    assert abs(scores[0, 10] - scores[1, 10]) > 1e-6


def test_a_contextual_gate_takes_each_type_once() -> None:
    batch = ids_to_batch([[5, 6, 5, 5, 7]])
    plain, once = (contextual(once=once).scores(*batch)[0].detach() for once in (False, True))
    assert torch.equal(once[[0, 1, 4]], plain[[0, 1, 4]])
    assert once[[2, 3]].max() < plain[[0, 1, 4]].min()


def test_a_taught_gate_takes_each_type_once_and_learns_through_it() -> None:
    batch = ids_to_batch([[5, 6, 5, 5, 7]])
    selectors = [make_selector("taught", once=once).attach_encoder(bert()) for once in (False, True)]
    plain, once = (selector.scores(*batch)[0] for selector in selectors)
    assert torch.equal(once[[0, 1, 4]], plain[[0, 1, 4]])
    assert once[[2, 3]].max() < plain[[0, 1, 4]].min()
    # A copy's score moves with its own gate alone, not with the text's highest and lowest.
    for scores in (plain, once):
        scores[2].backward()  # type: ignore[no-untyped-call]
    ours, theirs = ([p.grad for p in selector.parameters()] for selector in selectors)
    assert any(bool(g.abs().max() > 0) for g in ours if g is not None)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)
    assert make_selector("distilled", once=True).options()["once"] is True
    with pytest.raises(TypeError, match=r"the gate selector: .*once"):
        make_selector("gate", once=True)


def test_a_contextual_gate_says_what_it_needs() -> None:
    with pytest.raises(ValueError, match="layers must be at most the encoder's 2, got 3"):
        contextual(layers=3)
    with pytest.raises(TypeError, match="once must be True or False, got 1"):
        make_selector("contextual", once=1)
    half = make_selector("contextual").attach(bert().get_input_embeddings())
    with pytest.raises(
        RuntimeError, match=r"the contextual selector reads with layers: call attach_encoder\("
    ):
        half.scores(*ids_to_batch(TEXTS))


def test_blocks_end_where_the_encoder_has_no_more_positions() -> None:
    """Tokens 30 apart are in two blocks, though 64 were asked for."""
    ids, mask = ids_to_batch([[20, *range(40, 80)], [21, *range(40, 80)]])
    scores = contextual(block=64, once=False).scores(ids, mask).detach()
    torch.testing.assert_close(scores[0, 34:], scores[1, 34:])


def test_its_layers_are_the_encoder_s_until_it_was_taught(tiny_encoder: Path) -> None:
    model: Any = TopKForSequenceClassification.from_encoder(tiny_encoder, "contextual", 8)[0]
    own, first = (x.encoder.layer[0].state_dict() for x in (model.selector.reader, model.encoder.base_model))
    assert all(torch.equal(own[name], first[name]) for name in first)
    with torch.no_grad():
        model.selector.reader.encoder.layer[0].output.dense.bias += 1
    again: Any = TopKForSequenceClassification.from_encoder(tiny_encoder, model.selector, 8)[0]
    kept = again.selector.reader.encoder.layer[0].output.dense.bias
    assert torch.equal(kept, first["output.dense.bias"] + 1)
