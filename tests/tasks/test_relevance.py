"""What fits a question: every rule against numbers made by hand or by a plain way to the same."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from topk_lib.data import load_set
from topk_lib.models import load_encoder
from topk_lib.tasks.pieces import Piece, Question, answer_still_there, keep, questions_of, sentences
from topk_lib.tasks.relevance import (
    RULES,
    Encoder,
    Overlap,
    Random,
    Trained,
    WordWeights,
    first,
    fit_trained,
    oracle,
    scorers,
)
from topk_lib.training.prompts import text_vectors

TEXT = "The mill was old. Anna built the mill in 1702. It burned."
ASKED = Question(TEXT, "Who built the mill?", ("Anna",), (18,))
PIECES = sentences(TEXT)
WEIGHTS = WordWeights([TEXT, TEXT])


@cache
def encoder() -> tuple[Any, Any]:
    return load_encoder()


@cache
def questions(split: str) -> list[Question]:
    return questions_of(load_set("xquad", "embedded", split=split, quiet=True))


def test_a_rare_word_weighs_more() -> None:
    assert WEIGHTS.n == 3  # a paragraph counts once
    assert WEIGHTS["mill"] == pytest.approx(math.log(4 / 3))
    assert WEIGHTS["1702"] == pytest.approx(math.log(4 / 2))
    assert WEIGHTS["unseen"] == pytest.approx(math.log(4))


def test_rules_that_do_not_look_at_the_question() -> None:
    assert keep(first(ASKED, PIECES), 2) == [0, 1]
    many = [Piece(i, i + 1) for i in range(50)]
    same = Random(1)(ASKED, many)
    assert torch.equal(same, Random(1)(ASKED, many))
    assert not torch.equal(same, Random(2)(ASKED, many))
    assert not torch.equal(same, Random(1)(ASKED._replace(question="When?"), many))
    picks = [keep(Random(seed)(ASKED, PIECES), 1)[0] for seed in range(60)]
    assert {picks.count(i) > 5 for i in range(3)} == {True}
    assert oracle(ASKED, PIECES).tolist() == [0, 1, 0]


def test_overlap_by_hand() -> None:
    who, built, the = math.log(4), math.log(4 / 2), math.log(4 / 3)
    total = who + built + 2 * the  # "the" and "mill" stand in two sentences each
    expected = torch.tensor([2 * the / total, (built + 2 * the) / total, 0.0])
    torch.testing.assert_close(Overlap(WEIGHTS)(ASKED, PIECES), expected)
    # "Anna" is next to "built"; "the" comes 7 characters after it, and "The" stands 15 before.
    (near,) = Overlap(WEIGHTS, reach=10.0)(ASKED, [Piece(18, 22)]).tolist()
    gaps = {"built": 2, "the": 8, "mill": 11}
    assert TEXT[23:28] == "built"
    assert TEXT[29:32] == "the"
    parts = [built * math.exp(-gaps["built"] / 10), the * math.exp(-gaps["the"] / 10),
             the * math.exp(-gaps["mill"] / 10)]  # fmt: skip
    assert near == pytest.approx(sum(parts) / total)
    assert Overlap(WEIGHTS)(ASKED, []).shape == (0,)
    assert not Overlap(WEIGHTS)(ASKED._replace(question="?"), PIECES).any()


def test_the_encoder_reads_each_sentence_alone() -> None:
    rule = Encoder(encoder())
    model, tokenizer = encoder()
    texts = [ASKED.question, *(TEXT[a:b] for a, b in PIECES)]
    vectors = torch.stack([text_vectors(model.base_model, tokenizer, [text])[0] for text in texts])
    torch.testing.assert_close(rule(ASKED, PIECES), vectors[1:] @ vectors[0], rtol=1e-4, atol=1e-5)
    again = rule(ASKED, PIECES[1:])
    torch.testing.assert_close(again, rule(ASKED, PIECES)[1:])
    assert rule(ASKED, []).shape == (0,)


def test_the_encoder_reads_the_paragraph() -> None:
    rule = Encoder(encoder(), alone=False)
    model, tokenizer = encoder()
    with torch.inference_mode():
        hidden = model.base_model(**tokenizer(TEXT, return_tensors="pt")).last_hidden_state[0, 1:-1]
    asked = text_vectors(model.base_model, tokenizer, [ASKED.question])[0]
    tokens = tokenizer.tokenize(TEXT)
    at = tokens.index("anna")
    word = torch.nn.functional.normalize(hidden[at], dim=-1) @ asked
    whole = torch.nn.functional.normalize(hidden.mean(0), dim=-1) @ asked
    found = rule(ASKED, [Piece(18, 22), Piece(0, len(TEXT)), Piece(17, 18)])
    torch.testing.assert_close(found, torch.stack([word, whole, torch.tensor(-1.0)]), rtol=1e-4, atol=1e-5)
    long = ASKED._replace(context="mill " * 600)
    scores = rule(long, [Piece(0, 4), Piece(2995, 2999)]).tolist()
    assert scores[0] > 0
    assert scores[1] == -1  # beyond what it reads


def test_features_by_hand() -> None:
    rule = Trained(Overlap(WEIGHTS), Encoder(encoder()))
    found = rule.features(ASKED, PIECES)
    near, like = Overlap(WEIGHTS)(ASKED, PIECES).numpy(), Encoder(encoder())(ASKED, PIECES).numpy()
    assert found.shape == (3, 12)
    np.testing.assert_allclose(found[:, 0], near)
    np.testing.assert_allclose(found[:, 1], near - near.max(), atol=1e-6)
    np.testing.assert_allclose(found[:, 3], like - like.max(), atol=1e-6)
    np.testing.assert_allclose(found[:, 5], [0, 18 / len(TEXT), 47 / len(TEXT)])
    np.testing.assert_allclose(np.expm1(found[:, 6]), [17, 28, 10])
    assert 0 < found[1, 7] < 1
    assert found[2, 7] == 0
    assert found[:, 8].tolist() == [0, 1, 0]  # a digit
    assert found[:, 9].tolist() == [0, 0, 0]  # Anna, It and The open sentences
    assert not found[:, 10].any()  # "who" asks for no number
    token = [Piece(41, 45), Piece(18, 22)]
    assert rule.features(ASKED._replace(question="When was it?"), token)[:, 10].tolist() == [1, 0]
    inner = Question("He met Anna.", "Who was it?")
    assert rule.features(inner, [Piece(7, 11), Piece(3, 6)])[:, 11].tolist() == [1, 0]


@pytest.mark.slow
def test_a_rule_learns_where_answers_are() -> None:
    overlap = Overlap(WordWeights(q.context for q in questions("train")))
    made = fit_trained(questions("train"), questions("dev"), overlap, Encoder(encoder()), sentences, 1)
    assert made.strength == min(c for c, x in made.judged.items() if x == max(made.judged.values()))

    def share(rule: Any) -> float:
        pieces = [(q, sentences(q.context)) for q in questions("test")]
        return float(
            np.mean([answer_still_there(q, [some[i] for i in keep(rule(q, some), 1)]) for q, some in pieces])
        )

    assert share(made) > share(first) + 0.2
    assert share(made) >= share(Random(0)) + 0.2
    assert share(oracle) == 1
    assert made(questions("test")[0], []).shape == (0,)


def test_nothing_to_learn_from() -> None:
    parts = Overlap(WEIGHTS), Encoder(encoder())
    for train, dev in (([], [ASKED]), ([ASKED], [])):
        with pytest.raises(ValueError, match="dev questions to choose by"):
            fit_trained(train, dev, *parts, sentences, 1)
    with pytest.raises(RuntimeError, match="has not been fitted"):
        Trained(*parts)(ASKED, PIECES)


@pytest.mark.slow
def test_all_rules_at_once() -> None:
    some, tokenizer = questions("train")[:12], encoder()[1]
    for unit in ("sentences", "tokens"):
        rules = scorers(unit, some, some[:4], tokenizer=tokenizer, encoder=encoder(), seed=3)
        assert tuple(rules) == RULES
        for rule in rules.values():
            scores = rule(ASKED, PIECES)
            assert scores.shape == (3,)
            assert scores.dtype == torch.float32
            assert torch.isfinite(scores).all()
    alike = rules["encoder"]
    assert isinstance(alike, Encoder)
    assert not alike.alone  # tokens are read within their paragraph
    with pytest.raises(ValueError, match="sentences, tokens"):
        scorers("words", some, some)
    with pytest.raises(ValueError, match="give its tokenizer"):
        scorers("tokens", some, some)
