"""The processors against the library's own, inside ``generate``, in any batch, and at the edges."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from topk_lib import sample_topk
from topk_lib.decoding import TopKFilter, TopKSampler

EMPTY = torch.zeros(4, 0, dtype=torch.long)
RULES: list[dict[str, Any]] = [
    {"k": 5},
    {"top_p": 0.8},
    {"min_p": 0.1},
    {"temperature": 0.5},
    {"k": 12, "top_p": 0.7, "min_p": 0.05, "temperature": 1.4},
    {"k": 3, "top_p": 0.95, "temperature": 2.0},
]


def warpers(k: int = 0, top_p: float = 1.0, min_p: float = 0.0, temperature: float = 1.0) -> Any:
    """The library's own, in its order."""
    return LogitsProcessorList(
        [
            TemperatureLogitsWarper(temperature),
            *([TopKLogitsWarper(k)] if k else []),
            *([TopPLogitsWarper(top_p)] if top_p < 1 else []),
            *([MinPLogitsWarper(min_p)] if min_p else []),
        ]
    )


def logits(rows: int = 4, types: int = 40) -> Tensor:
    return 3 * torch.randn(rows, types, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("rule", RULES)
def test_filter_leaves_what_the_library_leaves(rule: dict[str, Any]) -> None:
    ours, theirs = TopKFilter(**rule)(EMPTY, logits()), warpers(**rule)(EMPTY, logits())
    assert torch.equal(ours == -math.inf, theirs == -math.inf)
    torch.testing.assert_close(ours.softmax(-1), theirs.softmax(-1))


@pytest.mark.parametrize("rule", RULES)
def test_sampler_draws_as_the_library(rule: dict[str, Any]) -> None:
    n = 20_000
    one = logits()[:1]
    p = warpers(**rule)(EMPTY[:1], one).double().softmax(-1)[0]
    drawn = TopKSampler(0, **rule, seed=3)(torch.zeros(n, 0), one.expand(n, -1)).argmax(-1)
    seen = torch.bincount(drawn, minlength=len(p)).double()
    assert not bool(seen[p == 0].any())
    common = p * n >= 5
    rest = [(x[~common]).sum().item() for x in (seen, p * n)]
    pairs = [seen[common].tolist(), (p * n)[common].tolist()]
    if rest[1] > 1e-9:
        pairs = [[*x, y] for x, y in zip(pairs, rest, strict=True)]
    assert len(pairs[0]) > 1
    assert chisquare(*pairs).pvalue > 0.001


def test_each_row_has_its_rule() -> None:
    x = logits()
    each: dict[str, Any] = {
        "k": torch.tensor([2, 40, 999, 7]),
        "top_p": torch.tensor([1.0, 0.5, 0.9, 0.0]),
        "min_p": torch.tensor([0.0, 0.0, 0.1, 0.0]),
        "temperature": torch.tensor([1.0, 0.7, 2.0, 1.0]),
    }
    together = TopKFilter(**each)(EMPTY, x)
    drawn = TopKSampler(0, **each, seed=torch.tensor([5, 6, 7, 8]))(EMPTY, x)
    for row in range(4):
        alone: dict[str, Any] = {name: v[row].item() for name, v in each.items()}
        assert torch.equal(TopKFilter(**alone)(EMPTY[:1], x[row : row + 1])[0], together[row])
        one = TopKSampler(0, **alone, seed=5 + row)(EMPTY[:1], x[row : row + 1])
        assert torch.equal(one[0], drawn[row])
        assert together[row][drawn[row] == 0].isfinite().all()
    assert (together > -math.inf).sum(-1).tolist()[0::3] == [2, 1]


@pytest.mark.parametrize("backend", ["torch", pytest.param("triton", marks=pytest.mark.gpu)])
def test_one_rule_on_every_backend(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = logits(4, 300)
    found = {}
    for name in ("torch", backend):
        monkeypatch.setenv("TOPK_BACKEND", name)
        found[name] = [
            TopKSampler(0, 20, top_p=0.9, min_p=0.01, seed=9)(torch.zeros(4, step), x).argmax(-1)
            for step in range(3)
        ]
    assert torch.equal(torch.stack(found["torch"]), torch.stack(found[backend]))
    assert len({tuple(x.tolist()) for x in found["torch"]}) > 1  # a step has draws of its own


ALONE: list[dict[str, Any]] = [{"temperature": 0}, {"k": 1}, {"top_p": 0.0}, {"k": 1, "temperature": 9.0}]


@pytest.mark.parametrize("rule", ALONE)
def test_the_most_likely_alone(rule: dict[str, Any]) -> None:
    x = torch.tensor([[1.0, 3.0, 3.0, 2.0], [-math.inf, -math.inf, -5.0, -math.inf]])
    for processor in (TopKFilter(**rule), TopKSampler(0, **rule)):
        left = processor(EMPTY[:2], x) > -math.inf
        assert left.tolist() == [[False, True, False, False], [False, False, True, False]]


def test_edges_of_the_rules() -> None:
    x = torch.tensor([[1.0, 3.0, 3.0, 3.0, 2.0]])

    def left(**rule: Any) -> list[int]:
        kept: list[int] = (TopKFilter(**rule)(EMPTY[:1], x)[0] > -math.inf).nonzero()[:, 0].tolist()
        return kept

    assert left() == left(k=5) == left(k=10**9) == left(top_p=1.0, min_p=0.0) == [0, 1, 2, 3, 4]
    assert left(k=2) == [1, 2]  # the library keeps all three
    assert left(min_p=1.0) == [1, 2, 3]
    assert left(top_p=1e-9) == [1]
    assert left(k=2, min_p=1.0) == [1, 2]
    cold = TopKFilter(temperature=1e-40)(EMPTY[:1], x)
    torch.testing.assert_close(cold.softmax(-1), torch.tensor([[0, 1 / 3, 1 / 3, 1 / 3, 0]]))
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):  # in which 1e-300 may be 0
        colder = TopKFilter(temperature=1e-300)(EMPTY[:1], x.to(dtype)).float()
        torch.testing.assert_close(colder.softmax(-1), cold.softmax(-1))


@pytest.mark.parametrize(
    ("rule", "error", "message"),
    [
        ({"k": 0}, ValueError, "k must be 1 at least, got 0"),
        ({"k": 2.0}, TypeError, r"k must be an int or an integer tensor, got 2\.0"),
        ({"k": torch.tensor([2.0])}, TypeError, "k must be an int or an integer tensor"),
        ({"k": torch.tensor([3, 0])}, ValueError, "k must be 1 at least, got 0"),
        ({"k": "many"}, TypeError, "k must be a number"),
        ({"top_p": 1.1}, ValueError, r"top_p must lie in 0\.\.1, got 1\.1"),
        ({"top_p": math.nan}, ValueError, "top_p must lie in"),
        ({"min_p": -0.1}, ValueError, "min_p must lie in"),
        ({"temperature": -1}, ValueError, "temperature must be 0 or above, and finite, got -1"),
        ({"temperature": math.inf}, ValueError, "temperature must be 0 or above, and finite"),
        ({"temperature": torch.ones(2, 2)}, ValueError, r"temperature must .* got the shape \(2, 2\)"),
    ],
)
def test_rules_that_are_none(rule: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        TopKFilter(**rule)
    with pytest.raises(error, match=message):
        TopKSampler(0, **rule)


@pytest.mark.parametrize("make", [TopKFilter, lambda k, **rule: TopKSampler(0, k, **rule)])
def test_rows_without_a_next_token(make: Any) -> None:
    x = torch.zeros(3, 4)
    for value in (math.nan, math.inf):
        x[1, 2] = value
        with pytest.raises(ValueError, match=r"row 1 of the logits holds NaN or \+inf"):
            make(2)(EMPTY[:3], x)
    x[1] = -math.inf
    with pytest.raises(ValueError, match="row 1 has no token left: every logit is -inf"):
        make(2, top_p=0.5)(EMPTY[:3], x)
    with pytest.raises(ValueError, match="k has one number for each of 2 rows, and the batch has 3"):
        make(torch.tensor([1, 2]))(EMPTY[:3], torch.zeros(3, 4))


def test_a_prompt_length_that_is_none() -> None:
    with pytest.raises(ValueError, match="prompt_length is 9, and the text so far has 4 tokens"):
        TopKSampler(9)(torch.zeros(1, 4), torch.zeros(1, 5))


def test_generate_takes_the_token_drawn(tiny_language_model: Any) -> None:
    """A row writes the same in any batch, padded or not, with the library's sampling on or off."""
    model = tiny_language_model
    prompts = [[5, 6, 7], [8, 9, 10, 11, 12], [13, 14]]
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    options: dict[str, Any] = {"max_new_tokens": 8, "pad_token_id": 0}

    def write(rows: list[int], **more: Any) -> list[list[int]]:
        sampler = TopKSampler(width, 20, temperature=1.3, seed=torch.tensor(rows) + 40)
        out = model.generate(
            ids[rows], attention_mask=mask[rows], logits_processor=[sampler], **options, **more
        )
        written: list[list[int]] = out[:, width:].tolist()
        return written

    texts = write([0, 1, 2], do_sample=False)
    assert len({tuple(text) for text in texts}) == 3
    assert write([2, 0, 1], do_sample=True, top_k=50) == [texts[2], texts[0], texts[1]]
    for row, prompt in enumerate(prompts):
        sampler = TopKSampler(len(prompt), 20, temperature=1.3, seed=40 + row)
        alone = model.generate(torch.tensor([prompt]), logits_processor=[sampler], **options)
        assert alone[0, len(prompt) :].tolist() == texts[row]
    # By hand: the same draws from the same logits.
    text = list(prompts[0])
    from topk_lib.ops.sample import mix

    for step, token in enumerate(texts[0]):
        last = model(torch.tensor([text])).logits[:, -1]
        seed = mix(torch.tensor([40])) + step
        assert int(sample_topk(last, 20, 1.3, seed=seed)) == token
        text.append(token)


def test_temperature_0_is_greedy(tiny_language_model: Any) -> None:
    ids = torch.tensor([[5, 6, 7], [9, 9, 9]])
    options: dict[str, Any] = {"max_new_tokens": 6, "pad_token_id": 0, "do_sample": False}
    greedy = tiny_language_model.generate(ids, **options)
    ours = tiny_language_model.generate(ids, **options, logits_processor=[TopKSampler(3, temperature=0)])
    assert torch.equal(ours, greedy)
    filtered = tiny_language_model.generate(
        ids, **options | {"do_sample": True, "top_k": 0}, logits_processor=[TopKFilter(1)]
    )
    assert torch.equal(filtered, greedy)


def test_assisted_generation_writes_the_same(tiny_language_model: Any) -> None:
    """A token is drawn by its place, so drafts from the prompt change nothing but the number of passes."""
    ids = torch.tensor([[5, 6, 7, 5, 6, 7, 5, 6]])
    options: dict[str, Any] = {"max_new_tokens": 10, "pad_token_id": 0, "do_sample": False}
    texts = [
        tiny_language_model.generate(ids, **options, **more, logits_processor=[TopKSampler(8, 2, seed=1)])
        for more in ({}, {"prompt_lookup_num_tokens": 3})
    ]
    assert torch.equal(*texts)
