# ruff: noqa: RUF001  (Chinese has marks of its own)
"""Answers from k pieces: what the model reads, what it writes, and how it is judged."""

from __future__ import annotations

import collections
import re
import string
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from topk_lib.tasks import answers
from topk_lib.tasks.answers import PROMPTS, answer_units, exact_match, f1, judge, narrow, prompt_ids
from topk_lib.tasks.pieces import Question, answer_still_there, sentences, token_pieces
from topk_lib.tasks.relevance import first, oracle

TEXT = "The mill was old. Anna built it in 1702. It burned."
ASKED = Question(TEXT, "Who built the mill?", ("Anna",), (18,))
CHINESE = Question("磨坊很旧。安娜在1702年建造了它。", "谁建造了它？", ("安娜",), (5,))


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """Bytes and pairs of them, as language models split."""
    plain = Tokenizer(models.BPE())
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    plain.train_from_iterator(
        [TEXT, PROMPTS["plain"]] * 3,
        trainers.BpeTrainer(
            vocab_size=330, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=["<end>"]
        ),
    )
    return PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="<end>", pad_token="<end>")


def by_squad(text: str) -> list[str]:
    """``normalize_answer`` of SQuAD's script, in words."""
    text = "".join(c for c in text.lower() if c not in set(string.punctuation))
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def f1_by_squad(said: str, answer: str) -> float:
    one, two = by_squad(said), by_squad(answer)
    same = sum((collections.Counter(one) & collections.Counter(two)).values())
    if not same:
        return 0.0
    precision, recall = same / len(one), same / len(two)
    return 2 * precision * recall / (precision + recall)


WRITTEN = st.lists(
    st.sampled_from(["The", "a", "mill", "Mill.", "an", "1,702", "well-known", "(Anna)", "theatre", "B."]),
    max_size=6,
).map(" ".join)


@settings(deadline=None)
@given(WRITTEN, WRITTEN)
def test_english_is_judged_as_in_squads_script(said: str, answer: str) -> None:
    assert answer_units(said) == by_squad(said)
    assert exact_match(said, [answer]) == (by_squad(said) == by_squad(answer))
    if by_squad(said) or by_squad(answer):
        assert f1(said, [answer]) == pytest.approx(f1_by_squad(said, answer))


def test_an_answer_by_hand() -> None:
    assert f1("on the old mules", ["by mules", "on mules"]) == pytest.approx(4 / 5)
    assert not exact_match("on the old mules", ["on mules"])
    assert exact_match("The Mules!", ["no", "mules"])
    assert f1("dogs", ["mules"]) == 0
    assert f1("", ["mules"]) == 0
    assert f1("the", ["a"]) == 1  # nothing is left of both
    assert f1("mules mules", ["mules"]) == pytest.approx(2 / 3)
    assert f1("mules", []) == 0
    assert not exact_match("mules", [])


def test_chinese_is_judged_by_characters() -> None:
    assert answer_units("“136 次”，安娜。") == ["136", "次", "安", "娜"]
    assert exact_match("安娜。", ["安娜"])
    assert f1("安娜建造", ["安娜"]) == pytest.approx(2 * 2 / 6)


def test_means_over_questions() -> None:
    found = judge(["Anna", "Anna built it"], [ASKED, ASKED])
    assert found == {"exact": 0.5, "f1": pytest.approx(0.75), "each": [1.0, 0.5]}
    with pytest.raises(ValueError, match="no question"):
        judge([], [])
    with pytest.raises(ValueError, match="zip"):
        judge(["Anna", "Anna"], [ASKED])


def test_tokens_know_their_characters(tokenizer: Any) -> None:
    for text in (TEXT, CHINESE.context):
        ids, pieces = token_pieces(tokenizer, text)
        assert len(ids) == len(pieces)
        assert tokenizer.decode(ids) == text
        there = {i for a, b in pieces for i in range(a, b)}
        assert there >= {i for i, c in enumerate(text) if not c.isspace()}


def test_k_sentences(tokenizer: Any) -> None:
    kept = narrow(ASKED, oracle, 1, tokenizer)
    assert kept.pieces == [sentences(TEXT)[1]]
    assert tokenizer.decode(kept.ids) == " Anna built it in 1702."
    assert answer_still_there(ASKED, kept.pieces)
    two = narrow(ASKED, lambda _, pieces: torch.tensor([1.0, 0.0, 2.0]), 2, tokenizer)
    assert tokenizer.decode(two.ids) == "The mill was old. It burned."
    assert not answer_still_there(ASKED, two.pieces)
    for k in (3, 9, None):
        assert tokenizer.decode(narrow(ASKED, first, k, tokenizer).ids) == TEXT
    assert narrow(ASKED, first, 0, tokenizer) == ([], [])
    chinese = narrow(CHINESE, oracle, 1, tokenizer)
    assert tokenizer.decode(chinese.ids) == "安娜在1702年建造了它。"


def test_k_tokens(tokenizer: Any) -> None:
    ids, pieces = token_pieces(tokenizer, TEXT)
    kept = narrow(ASKED, first, 5, tokenizer, "tokens")
    assert kept == (ids[:5], pieces[:5])
    assert not answer_still_there(ASKED, kept.pieces)
    marked = narrow(ASKED, oracle, int(oracle(ASKED, pieces).sum()), tokenizer, "tokens")
    assert tokenizer.decode(marked.ids).strip() == "Anna"
    assert answer_still_there(ASKED, marked.pieces)
    assert narrow(ASKED, first, 999, tokenizer, "tokens").ids == ids


def test_half_a_character_cannot_be_read(tokenizer: Any) -> None:
    """Of three bytes of a character two were kept: what holds it is not there."""
    ids, pieces = token_pieces(tokenizer, CHINESE.context)
    (start,), answer = CHINESE.starts, CHINESE.answers[0]
    marked = [i for i, (a, b) in enumerate(pieces) if a < start + len(answer) and start < b]
    assert len(marked) == 3 * len(answer)

    def without(*dropped: int) -> bool:
        scores = torch.tensor([float(i in marked and i not in dropped) for i in range(len(ids))])
        kept = narrow(CHINESE, lambda *_: scores, len(marked) - len(dropped), tokenizer, "tokens")
        assert len(kept.ids) == len(marked) - len(dropped)
        return answer_still_there(CHINESE, kept.pieces)

    assert without()
    assert not any(without(one) for one in marked)


def test_what_cannot_be_kept(tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="k must be at least 0, got -1"):
        narrow(ASKED, first, -1, tokenizer)
    with pytest.raises(ValueError, match="sentences, tokens"):
        narrow(ASKED, first, 1, tokenizer, "words")


@pytest.mark.parametrize("name", PROMPTS)
def test_a_prompt_holds_what_is_kept(tokenizer: Any, name: str) -> None:
    kept = narrow(ASKED, oracle, 1, tokenizer)
    ids = prompt_ids(tokenizer, PROMPTS[name], "Why {context}?", kept.ids)
    expected = PROMPTS[name].replace("{context}", " Anna built it in 1702.").replace(
        "{question}", "Why {context}?"
    )  # fmt: skip
    assert tokenizer.decode(ids) == expected
    assert any(ids[i : i + len(kept.ids)] == kept.ids for i in range(len(ids)))


@pytest.mark.parametrize(
    "template", ["{context}", "{question}", "{question} {context}", "X: {context} {question}"]
)
def test_no_prompt(tokenizer: Any, template: str) -> None:
    with pytest.raises(ValueError, match="a template needs"):
        prompt_ids(tokenizer, template, "Why?", [1])


def test_the_likeliest_token_at_each_step(tokenizer: Any) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, initializer_range=0.5, eos_token_id=0,
        bos_token_id=None,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    questions = [ASKED, ASKED._replace(question="When did it burn?"), ASKED]
    contexts = [narrow(ASKED, first, k, tokenizer).ids for k in (1, 3, 0)]
    said = answers.read_answers(model, tokenizer, PROMPTS["plain"], questions, contexts, most=6)
    for question, ids, found in zip(questions, contexts, said, strict=True):
        row = start = prompt_ids(tokenizer, PROMPTS["plain"], question.question, ids)
        with torch.inference_mode():
            for _ in range(6):
                row = [*row, int(model(torch.tensor([row])).logits[0, -1].argmax())]
                if row[-1] == 0:
                    break
        text = tokenizer.decode(row[len(start) :], skip_special_tokens=True)
        assert found == text.strip().split("\n")[0].strip()


def test_only_the_first_line_is_the_answer(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "free_answers", lambda *_, **__: ["\n Anna \nQuestion: Why?", ""])
    assert answers.read_answers(None, tokenizer, PROMPTS["plain"], [ASKED] * 2, [[], []]) == ["Anna", ""]


@pytest.mark.slow
def test_the_embedded_model_finds_a_name(language_model: tuple[Any, Any]) -> None:
    model, tokenizer = language_model
    asked = Question(
        "The bridge is made of oak. It was built by Tomas Hale in 1811.", "Who built the bridge?",
        ("Tomas Hale",), (43,),
    )  # fmt: skip
    contexts = [narrow(asked, scorer, 1, tokenizer).ids for scorer in (oracle, first)]
    said = answers.read_answers(model, tokenizer, PROMPTS["shot"], [asked] * 2, contexts, most=8)
    assert f1(said[0], asked.answers) > 0
    assert f1(said[1], asked.answers) == 0  # it did not read of him
