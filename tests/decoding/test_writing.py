"""Speculative decoding, contrastive search and the measures against their definitions."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor
from transformers import LlamaConfig

from topk_lib.decoding import (
    BigramDraft,
    EarlyExitDraft,
    LookupDraft,
    Loop,
    TopKFilter,
    accept_draft,
    continuation_losses,
    contrastive_search,
    distinct,
    find_loop,
    repeated,
    self_bleu,
    speculate,
)
from topk_lib.decoding.speculative import Draft
from topk_lib.ops.sample import uniform

P = torch.tensor([[0.5, 0.3, 0.2, 0.0], [0.1, 0.2, 0.3, 0.4], [0.25, 0.25, 0.25, 0.25]])
Q = torch.tensor([[0.2, 0.2, 0.1, 0.5], [0.4, 0.3, 0.2, 0.1]])


def test_accepted_tokens_follow_the_model() -> None:
    """First and second token of 40,000 drafts: as if drawn from p, whatever q was."""
    n = 40_000
    seeds = torch.arange(n) + 10**6
    u = uniform(seeds, 2)
    steps = Q.double().cumsum(-1)
    draft = torch.stack([torch.searchsorted(steps[i], u[:, i].contiguous()) for i in (0, 1)], 1)
    kept, after = accept_draft(draft, Q.expand(n, 2, 4), P.expand(n, 3, 4), 7)
    first = torch.where(kept >= 1, draft[:, 0], after)
    assert chisquare(torch.bincount(first, minlength=4)[:3], n * P[0, :3]).pvalue > 0.001
    assert not bool((first == 3).any())  # p is 0 there
    went_on = kept >= 1
    assert went_on.sum() / n == pytest.approx(float(torch.minimum(P[0], Q[0]).sum()), abs=0.01)
    second = torch.where(kept == 2, draft[:, 1], after)[went_on]
    assert chisquare(torch.bincount(second, minlength=4), len(second) * P[1]).pvalue > 0.001
    third = after[kept == 2]
    assert chisquare(torch.bincount(third, minlength=4)).pvalue > 0.001


def test_a_draft_that_is_the_model_stays() -> None:
    p = P[:2].expand(500, 2, 4)
    draft = torch.zeros(500, 1, dtype=torch.long)
    kept, after = accept_draft(draft, p[:, :1], p, 0)
    assert kept.tolist() == [1] * 500
    assert set(after.tolist()) == {0, 1, 2, 3}
    sure = torch.tensor([[[0.0, 0.0, 0.0, 1.0]]]).expand(500, 1, 4)
    kept, after = accept_draft(torch.full((500, 1), 3), sure, p, 0)
    assert not bool(kept.any())  # p(3) = 0
    assert 3 not in after.tolist()


def test_greedy_speculation_is_greedy(tiny_language_model: Any) -> None:
    model, text = tiny_language_model, [5, 6, 7, 5, 6, 7, 5, 6]
    greedy = model.generate(torch.tensor([text]), max_new_tokens=14, do_sample=False, pad_token_id=0)[0, 8:]
    rule = TopKFilter(temperature=0)
    drafts: dict[str, Draft] = {
        "lookup": LookupDraft(96),
        "bigram": BigramDraft([greedy.tolist(), [1, 2]], 96),
        "exit": EarlyExitDraft(model, 1, rule),
        "itself": EarlyExitDraft(model, 3, rule),
    }
    for name, draft in drafts.items():
        told = speculate(model, draft, text, 14, most=3, rule=rule)
        assert told.tokens == greedy.tolist(), name
        assert told.accepted <= told.drafted
        assert told.passes + told.accepted == 14
        assert sum(told.from_draft) == told.accepted
    assert told.drafted == told.accepted > 9  # the model's own draft is never refused
    assert told.passes == 4


class Chain:
    """A model whose next token depends on the last one alone."""

    device = torch.device("cpu")
    config = LlamaConfig(vocab_size=4, num_hidden_layers=1)
    p = torch.stack([P[0], P[1], P[2], P[0].flip(0)])

    def __call__(self, ids: Tensor, *, logits_to_keep: int, **_: Any) -> Any:
        return SimpleNamespace(logits=self.p[ids[:, -logits_to_keep:]].log())


def test_sampled_speculation_follows_the_model() -> None:
    """The third token after a prompt, over many seeds, against the product of the model's probabilities."""
    model, n = Chain(), 400
    draft = BigramDraft([[0, 1, 0, 2, 2, 1, 3, 3, 0, 3, 1, 1, 2, 3]], 4)
    told = [speculate(model, draft, [0], 3, most=2, seed=seed) for seed in range(n)]
    assert 0 < sum(one.accepted for one in told) < sum(one.drafted for one in told)
    seen = torch.bincount(torch.tensor([one.tokens[2] for one in told]), minlength=4)
    assert chisquare(seen, n * (model.p @ model.p @ model.p)[0], sum_check=False).pvalue > 0.001
    again = speculate(model, draft, [0], 3, most=2, seed=5)
    assert again == told[5]


def test_speculation_at_its_edges() -> None:
    model, draft = Chain(), BigramDraft([[0, 1, 0, 2]], 4)
    assert speculate(model, draft, [0], 0) == ([], 0, 0, 0, [])
    alone = speculate(model, draft, [0], 3, most=0)
    assert (alone.drafted, alone.passes, len(alone.tokens)) == (0, 3, 3)
    with pytest.raises(ValueError, match="give at least one token id"):
        speculate(model, draft, [], 3)
    with pytest.raises(ValueError, match="most must be at least 0, got -1"):
        speculate(model, draft, [0], 3, most=-1)


def test_drafts() -> None:
    guess, q = LookupDraft(10)([1, 2, 3, 4, 1, 2, 5, 6, 1, 2], 2, 0)
    assert guess == [5, 6]  # after the last place
    assert q.argmax(-1).tolist() == [5, 6]
    assert q.sum(-1).tolist() == [1, 1]
    assert LookupDraft(10)([1, 2, 3], 2, 0)[0] == []
    draft = BigramDraft([[1, 2, 1, 2, 1, 3], [4, 4]], 6)
    guess, q = draft([0, 1], 3, 5)
    assert guess[0] in (2, 3)
    torch.testing.assert_close(q[0], torch.tensor([0, 0, 2 / 3, 1 / 3, 0, 0]))
    assert draft([0], 3, 5)[0] == []
    seen = torch.bincount(torch.tensor([draft([1], 1, seed)[0][0] for seed in range(900)]), minlength=4)
    assert chisquare(seen[2:], [600, 300]).pvalue > 0.001


def test_early_exit_is_the_first_layers(tiny_language_model: Any) -> None:
    model = tiny_language_model
    with pytest.raises(ValueError, match=r"layers must lie in 1\.\.3, got 4"):
        EarlyExitDraft(model, 4)
    draft, text = EarlyExitDraft(model, 2), [5, 6, 7, 8]
    states = model(torch.tensor([text]), output_hidden_states=True).hidden_states[2]
    right = model.lm_head(model.model.norm(states))[0, -1].softmax(-1)
    for again in ([9, 9], text, [5, 6, 1], text):  # whatever it read before
        guess, q = draft(again, 2, 1)
    torch.testing.assert_close(q[0], right)
    assert len(guess) == 2


def naive_contrast(model: Any, text: list[int], tokens: int, k: int, alpha: float) -> list[int]:
    def read(ids: list[int]) -> tuple[Tensor, Tensor]:
        out = model(torch.tensor([ids]), output_hidden_states=True)
        return out.hidden_states[-1][0], out.logits[0, -1].softmax(-1)

    text, begun = list(text), len(text)
    for _ in range(tokens):
        states, p = read(text)
        best = p.sort(descending=True, stable=True).indices[:k].tolist()
        told = {}
        for token in best:
            fresh = read([*text, token])[0][-1]
            likeness = torch.cosine_similarity(fresh[None], states).max()
            told[token] = float((1 - alpha) * p[token] - alpha * likeness)
        text.append(max(best, key=lambda token: told[token]))
    return text[begun:]


@torch.no_grad()
def test_contrastive_search_is_its_definition(tiny_language_model: Any) -> None:
    model, texts = tiny_language_model, [[5, 6, 7], [9, 9, 9]]
    got = contrastive_search(model, torch.tensor(texts), 6, k=4, alpha=0.6)
    assert got.tolist() == [naive_contrast(model, text, 6, 4, 0.6) for text in texts]
    greedy = model.generate(torch.tensor(texts), max_new_tokens=6, do_sample=False, pad_token_id=0)[:, 3:]
    assert torch.equal(contrastive_search(model, torch.tensor(texts), 6, k=1), greedy)
    assert torch.equal(contrastive_search(model, torch.tensor(texts), 6, alpha=0.0), greedy)
    assert not torch.equal(got, greedy)
    with pytest.raises(ValueError, match="alpha must lie in"):
        contrastive_search(model, torch.tensor(texts), 1, alpha=2)
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        contrastive_search(model, torch.tensor(texts), 1, k=0)


def test_counts_by_hand() -> None:
    a, b = ["the", "cat", "saw", "the", "cat"], ["the", "dog"]
    assert distinct([a], 1) == 3 / 5
    assert distinct([a, b], 2) == 4 / 5
    assert repeated(a, 2) == 1 - 3 / 4
    assert repeated([1, 1, 1, 1], 1) == 3 / 4
    with pytest.raises(ValueError, match="no text has 6 tokens"):
        distinct([a, b], 6)
    with pytest.raises(ValueError, match="n must be 1 at least"):
        distinct([a], 0)


def test_loops() -> None:
    assert find_loop([9, 1, 2, 1, 2, 1, 2]) == Loop(1, 2)
    assert find_loop([1, 2, 3, 3, 3]) == Loop(2, 1)
    assert find_loop([2, 1, 2, 1, 2, 1, 2, 1]) == Loop(0, 2)
    assert find_loop([3, 1, 2, 1, 2, 1]) is None
    assert find_loop([3, 1, 2, 1, 2, 1], times=2) == Loop(1, 2)
    assert find_loop([]) is None
    with pytest.raises(ValueError, match="twice at least"):
        find_loop([1], times=1)


def test_self_bleu() -> None:
    text = "the film was good and the music was loud today"
    assert self_bleu([text, text, text]) == pytest.approx(100)
    other = "nothing here is like what stands in any of them"
    assert self_bleu([text, other]) < 5
    assert 5 < self_bleu([text, text.replace("good", "bad")]) < 95
    with pytest.raises(ValueError, match="two at least"):
        self_bleu([text])


@torch.no_grad()
def test_losses_are_those_of_each_token(tiny_language_model: Any) -> None:
    prompts, more = torch.tensor([[5, 6, 7], [8, 9, 10]]), torch.tensor([[1, 2], [3, 4]])
    got = continuation_losses(tiny_language_model, prompts, more)
    for row in range(2):
        for at in range(2):
            ids = torch.cat([prompts[row], more[row, :at]])[None]
            p = tiny_language_model(ids).logits[0, -1].softmax(-1)[more[row, at]]
            assert float(got[row, at]) == pytest.approx(-math.log(float(p)), rel=1e-4)
