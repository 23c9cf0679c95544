"""Summaries: ROUGE by hand, rules against the oracle, a gate that must find what was planted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from topk_lib.data import load_set
from topk_lib.models import load_encoder
from topk_lib.ops import topk_mask
from topk_lib.tasks import summaries
from topk_lib.tasks.summaries import (
    Padded,
    SentenceGate,
    best_sentences,
    first_sentence,
    fit_gate,
    new_words,
    oracle,
    pad,
    plain_scores,
    rouge,
    sentence_vectors,
    write_summaries,
)


def test_rouge_by_hand() -> None:
    (found,) = rouge(["The cat sat."], [["the cat ran fast"]])
    # Two of 3 words stand in the reference, which has 4; one of 2 pairs, of its 3; in order 2 of 3, of 4.
    assert found == pytest.approx([4 / 7, 2 / 5, 4 / 7])
    (turned,) = rouge(["sat cat the"], [["the cat sat"]])
    assert turned == pytest.approx([1, 0, 1 / 3])
    (stemmed,) = rouge(["learning models"], [["learned model"]])
    assert stemmed == pytest.approx([1, 1, 1])
    assert rouge([""], [["a b"]]).tolist() == [[0, 0, 0]]


def test_of_several_references_that_with_most_words_counts_for_all() -> None:
    # The first shares three words in another order, the second two in the same.
    (found,) = rouge(["a b c"], [["c b a", "a b x"]])
    assert found == pytest.approx([1, 0, 1 / 3])


def test_rouge_needs_references() -> None:
    with pytest.raises(ValueError, match="each of 1 summaries needs at least one reference, got 2 lists, 0"):
        rouge(["a"], [["a"], ["b"]])
    with pytest.raises(ValueError, match="1 of them empty"):
        rouge(["a"], [[]])


def test_without_the_package_a_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    summaries._scorer.cache_clear()
    with pytest.raises(OSError, match=r"rouge-score, which is missing: pip install"):
        rouge(["a"], [["a"]])


def test_the_best_sentences_stand_in_the_order_of_the_text() -> None:
    text = ["one", "two", "three", "four"]
    assert best_sentences(text, torch.tensor([0.1, 0.9, 0.2, 1.0]), 2) == ["two", "four"]
    assert best_sentences(text, torch.tensor([1.0, 1, 1, 1]), 2) == ["one", "two"]
    assert best_sentences(text, torch.zeros(4), 9) == text
    assert best_sentences(text, torch.zeros(4), 0) == []
    with pytest.raises(ValueError, match=r"4 sentences need as many scores, got the shape \(3,\)"):
        best_sentences(text, torch.zeros(3), 1)


def test_rules_that_learn_nothing() -> None:
    vectors = torch.tensor([[1.0, 0], [0, 1], [0.8, 0.6], [0.6, 0.8]])
    assert plain_scores("lead", vectors).argsort(descending=True).tolist() == [0, 1, 2, 3]
    near = plain_scores("centroid", vectors)
    mean = vectors.mean(0)
    assert near.tolist() == pytest.approx((vectors @ mean / mean.norm()).tolist())
    drawn = plain_scores("random", vectors, [0, 5])
    assert torch.equal(drawn, plain_scores("random", vectors, [0, 5]))
    assert not torch.equal(drawn, plain_scores("random", vectors, [1, 5]))
    with pytest.raises(ValueError, match="no rule 'last': choose one of lead, centroid, random"):
        plain_scores("last", vectors)


def test_the_oracle_adds_what_helps_most() -> None:
    text = ["a b c d", "e f", "a b c x", "q q q q"]
    reference = ["a b c d e f"]
    assert oracle(text, reference, 1).tolist() == [True, False, False, False]
    # The third has more words of the reference than the second, but the first brought them.
    assert oracle(text, reference, 2).tolist() == [True, True, False, False]
    assert oracle(text, reference, 9).all()
    assert not oracle(text, reference, 0).any()


@pytest.fixture(scope="module")
def embedded() -> tuple[list[list[str]], list[list[str]], list[Tensor]]:
    found = load_set("scitldr", "embedded", split="test", quiet=True)
    abstracts = [list(source) for source in found["source"]]
    model, tokenizer = load_encoder()
    return abstracts, [list(t) for t in found["target"]], sentence_vectors(
        model.base_model, tokenizer, abstracts
    )  # fmt: skip


def test_no_rule_beats_the_oracle_on_the_embedded_abstracts(embedded: Any) -> None:
    abstracts, references, vectors = embedded
    assert [len(v) for v in vectors] == [len(a) for a in abstracts]
    assert torch.allclose(vectors[0].norm(dim=-1), torch.ones(len(vectors[0])), atol=1e-5)
    found = {}
    for rule in (*summaries.PLAIN, "oracle"):
        said = []
        for i, (text, some, vector) in enumerate(zip(abstracts, references, vectors, strict=True)):
            scores = oracle(text, some, 1).float() if rule == "oracle" else plain_scores(rule, vector, [0, i])
            said.append(" ".join(best_sentences(text, scores, 1)))
        found[rule] = rouge(said, references)[:, 0]
    assert all((found["oracle"] >= one).all() for one in found.values())
    assert found["oracle"].mean() > found["lead"].mean() + 0.1
    assert min(found["lead"].mean(), found["centroid"].mean()) > found["random"].mean() + 0.02


def planted(n: int, seed: int) -> Padded:
    """Abstracts of 3 to 6 sentences, of which the one that points to the first axis is the best."""
    dice = torch.Generator().manual_seed(seed)
    vectors, gains = [], []
    for length in torch.randint(3, 7, (n,), generator=dice).tolist():
        one = torch.randn(length, 12, generator=dice)
        one[:, 0] = 0.2
        best = int(torch.randint(length, (1,), generator=dice))
        one[best, 0] = 3.0
        vectors.append(torch.nn.functional.normalize(one, dim=-1))
        gains.append(torch.rand(length, generator=dice) * 0.3)
        gains[-1][best] = 0.9
    whole = [torch.ones(len(v), dtype=torch.bool) for v in vectors]
    chosen = [gain == gain.max() for gain in gains]
    batch = (torch.nn.utils.rnn.pad_sequence(x, True) for x in (vectors, whole, gains, chosen))
    return Padded(*batch)


@pytest.mark.parametrize("target", summaries.TARGETS)
def test_a_gate_finds_what_was_planted(target: str) -> None:
    train, dev, test = planted(200, 0), planted(60, 1), planted(100, 2)
    gate, told = fit_gate(train, dev, 1, target=target, epochs=10, learning_rate=1e-2)
    assert len(told) == 10
    with torch.inference_mode():
        scores = gate(test.vectors, test.valid).masked_fill(~test.valid, -torch.inf)
    right = test.chosen.gather(1, scores.argmax(-1, keepdim=True)).float().mean()
    assert right > 0.9, "chance is under a third"


def test_a_seed_decides_the_gate() -> None:
    some = planted(20, 0)
    one, again, other = (
        fit_gate(some, some, 1, epochs=1, seed=seed)[0].state_dict()["net.0.weight"] for seed in (0, 0, 1)
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_the_epoch_that_is_kept_is_the_best_on_dev() -> None:
    dev = planted(60, 1)
    # So high a rate that later epochs are worse.
    gate, told = fit_gate(planted(40, 0), dev, 2, target="rouge", epochs=8, learning_rate=0.5)
    with torch.inference_mode():
        scores = gate(dev.vectors, dev.valid)
    mask = topk_mask(scores, 2, valid=dev.valid)
    assert float((dev.gains * mask).sum(-1).mean() / 2) == pytest.approx(max(told), abs=1e-5)


@pytest.mark.parametrize("hidden", [0, 8])
def test_padding_changes_no_score(hidden: int) -> None:
    gate, batch = SentenceGate(12, hidden), planted(5, 3)
    together = gate(batch.vectors, batch.valid)
    for row, valid, scores in zip(batch.vectors, batch.valid, together, strict=True):
        n = int(valid.sum())
        assert torch.allclose(gate.scores(row[:n]), scores[:n], atol=1e-5)


def test_a_batch_holds_what_each_sentence_gains() -> None:
    abstracts = [["a b", "c d", "e f"], ["x y"]]
    references = [["c d", "c q"], ["y z"]]
    batch = pad([torch.ones(3, 4), torch.ones(1, 4)], abstracts, references, 1)
    assert batch.vectors.shape == (2, 3, 4)
    assert batch.valid.tolist() == [[True] * 3, [True, False, False]]
    assert torch.allclose(batch.gains, torch.tensor([[0, 1, 0], [0.5, 0, 0]]))
    assert batch.chosen.tolist() == [[False, True, False], [True, False, False]]


def test_what_a_gate_cannot_be_asked() -> None:
    some = planted(4, 0)
    with pytest.raises(ValueError, match="no target 'labels': choose one of oracle, rouge"):
        fit_gate(some, some, 1, target="labels")
    for k in (0, 7):
        with pytest.raises(ValueError, match=f"k must lie in 1..{some.valid.shape[1]}, .*got {k}"):
            fit_gate(some, some, k)


def test_the_first_sentence() -> None:
    assert first_sentence("\n\n We win by 3.5 points. And more.\nMore.") == "We win by 3.5 points."
    assert first_sentence("No end at all\nnext") == "No end at all"
    assert first_sentence('He said "Stop!" Then he went.') == 'He said "Stop!"'
    assert first_sentence("It is e.g. small.") == "It is e.g. small."
    assert first_sentence("  \n ") == ""


def test_new_words_say_where_to_look() -> None:
    source = "Spiders forget prey within 30 minutes; we found no effect of age."
    assert new_words("The spider forgets its prey within 30 minutes.", source) == []
    assert new_words("Spiders remember prey for 45 minutes, 45 exactly.", source) == [
        "remember", "45", "exactly"
    ]  # fmt: skip


class Words:
    """A tokenizer of characters."""

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [ord(c) for c in text]}


def test_a_text_or_its_tokens_stand_in_the_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str | Sequence[int]] = []

    def answers(model: Any, tokenizer: Any, prompts: Any, **_: Any) -> list[str]:
        asked.extend(prompts)
        return ["Yes. No."] * len(prompts)

    monkeypatch.setattr(summaries, "free_answers", answers)
    said = write_summaries(None, Words(), ["text", [1, 2]], "Read: {} now")
    assert said == ["Yes.", "Yes."]
    assert asked == ["Read: text now", [*map(ord, "Read:"), 1, 2, *map(ord, " now")]]
    for ask in ("no place", "{} and {}"):
        with pytest.raises(ValueError, match=f"has {ask.count('{}')}"):
            write_summaries(None, Words(), ["text"], ask)
    assert all(ask.count("{}") == 1 for ask in summaries.ASKS.values())
