"""Names in posts: pieces and words, tokens that leave early, and what is learned."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from torch import Tensor
from transformers import AutoTokenizer, BertConfig, BertForTokenClassification

from topk_lib.data import load_set
from topk_lib.models.loading import encoder_path
from topk_lib.tasks.entities import (
    RULES,
    Leaving,
    Posts,
    flops,
    load_tagger,
    names_kept,
    read_posts,
    restore,
    shorten,
    staying,
    tag,
    tag_names,
    tagged,
    train_tagger,
)
from topk_lib.tasks.entities import _loss as loss_of

NAMES = ["O", "B-person", "I-person", "B-location", "I-location"]
WIDTH, INNER, LAYERS = 16, 32, 4


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(encoder_path())


@pytest.fixture
def model(tokenizer: Any) -> Any:
    """A random tagger of four layers in float64, with weights so large that tokens differ."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=2,
        intermediate_size=INNER, max_position_embeddings=64, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, id2label=dict(enumerate(NAMES)),
        label2id={name: number for number, name in enumerate(NAMES)},
    )  # fmt: skip
    tagger = BertForTokenClassification(config).double().eval()
    with torch.no_grad():
        for weight in tagger.parameters():
            if weight.dim() == 2:
                weight.normal_(std=0.3)
    return tagger


def data(words: list[list[str]], tags: list[list[str]]) -> Dataset:
    features = Features(
        {"tokens": List(Value("string")), "ner_tags": List(ClassLabel(names=NAMES))}
    )  # as the set has them
    numbers = [[NAMES.index(name) for name in row] for row in tags]
    return Dataset.from_dict({"tokens": words, "ner_tags": numbers}, features=features)


WORDS = [
    ["met", "Quintilla", "Brackwater", "in", "Tooting"],
    ["\u200d", "nothing", "here"],
    ["back", "in", "tooting", "again", "now"],
    ["Quintilla", "rules"],
]
TAGS = [
    ["O", "B-person", "I-person", "O", "B-location"],
    ["O", "O", "O"],
    ["O", "O", "B-location", "O", "O"],
    ["B-person", "O"],
]


@pytest.fixture
def posts(tokenizer: Any) -> Posts:
    return read_posts(data(WORDS, TAGS), tokenizer)


# ---- pieces and words


def test_each_word_begins_where_its_first_piece_stands(posts: Posts, tokenizer: Any) -> None:
    assert posts.words == WORDS
    assert posts.tags == TAGS
    for row, words in enumerate(WORDS):
        ids, of_word, first = posts.ids[row], posts.of_word[row], posts.first(row)
        assert of_word[0] == of_word[-1] == -1
        for number, word in enumerate(words):
            places = [at for at, whose in enumerate(of_word) if whose == number]
            assert first[number] == (places[0] if places else -1)
            text = "".join(tokenizer.convert_ids_to_tokens([ids[at] for at in places])).replace("##", "")
            assert text == ("" if word == "\u200d" else word.lower())
    assert posts.first(1)[0] == -1  # a joiner has no piece
    assert len(posts.ids[0]) > len(WORDS[0]) + 2  # and a rare name has several


def test_words_behind_the_maximum_have_no_piece(tokenizer: Any) -> None:
    short = copy.deepcopy(tokenizer)
    short.model_max_length = 6
    posts = read_posts(data([["one"] * 9], [["O"] * 9]), short)
    assert posts.first(0) == [1, 2, 3, 4, -1, -1, -1, -1, -1]


def test_capitals_are_of_words(posts: Posts, tokenizer: Any) -> None:
    for row, words in enumerate(WORDS):
        for whose, big in zip(posts.of_word[row], posts.capitals(row), strict=True):
            assert big == (whose >= 0 and words[whose][0].isupper())
    signs = read_posts(data([["#Hull", "@anna", "42", "iPad"]], [["O"] * 4]), tokenizer)
    of_word, found = signs.of_word[0], signs.capitals(0)
    assert [found[of_word.index(word)] for word in range(4)] == [1, 0, 0, 0]


def test_batches_are_of_one_length_and_hold_each_post_once(tokenizer: Any) -> None:
    read = read_posts(load_set("wnut_17", "embedded", quiet=True), tokenizer)
    plain, mixed = read.batches(4), read.batches(4, random.Random(0))
    for batches in (plain, mixed):
        assert sorted(row for rows in batches for row in rows) == list(range(len(read)))
        assert all(len({len(read.ids[row]) for row in rows}) == 1 and len(rows) <= 4 for rows in batches)
    assert mixed != plain
    assert mixed == read.batches(4, random.Random(0))
    few = read.take([5, 2])
    assert few.words == [read.words[5], read.words[2]]
    assert few.first(1) == read.first(2)


def test_the_set_names_its_tags() -> None:
    names = tag_names(load_set("wnut_17", "embedded", quiet=True))
    assert names[0] == "O"
    assert {"B-person", "I-creative-work"} < set(names)


# ---- tokens that leave


@pytest.mark.parametrize(
    ("n", "share", "k"), [(30, 0.1, 3), (4, 0.75, 3), (7, 0.5, 4), (5, 0.01, 1), (7, 1.0, 7), (3, 1 / 3, 1)]
)
def test_a_share_is_rounded_up(n: int, share: float, k: int) -> None:
    assert staying(n, share) == k


def test_restore_by_hand() -> None:
    early = torch.arange(8.0).reshape(2, 4, 1).requires_grad_()
    late = torch.tensor([[[10.0], [20.0]], [[30.0], [99.0]]], requires_grad=True)
    places = torch.tensor([[1, 3], [2, -1]])
    found = restore(early, late, places)
    assert found.squeeze(-1).tolist() == [[0, 10, 2, 20], [4, 5, 30, 7]]
    torch.autograd.backward(found.sum())
    assert early.grad is not None
    assert early.grad.squeeze(-1).tolist() == [[1, 0, 1, 0], [1, 1, 0, 1]]
    assert late.grad is not None
    assert late.grad.squeeze(-1).tolist() == [[1, 1], [1, 0]]  # what stands in a spare slot is nobody's


def layer_by_layer(model: Any, ids: Tensor, after: int, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Early states and logits of one post whose tokens ``kept`` go on, without any hook."""
    hidden = model.bert.embeddings(ids[None])
    for layer in model.bert.encoder.layer[: after + 1]:
        hidden = layer(hidden, None)
    early, late = hidden, hidden[:, kept]
    for layer in model.bert.encoder.layer[after + 1 :]:
        late = layer(late, None)
    last = early.clone()
    last[:, kept] = late
    return early[0], model.classifier(last)[0]


@pytest.mark.parametrize("by", RULES)
@pytest.mark.parametrize("after", [0, 1, 2])
def test_those_who_leave_keep_the_state_they_had(model: Any, by: str, after: int) -> None:
    torch.manual_seed(1)
    ids = torch.randint(1000, 20000, (3, 9))
    plain = copy.deepcopy(model)
    leaving = Leaving(model, after, 0.5, by, seed=3).eval()
    leaving.capital = torch.rand(3, 9)
    with torch.no_grad():
        logits = model(input_ids=ids).logits
        kept = leaving.pruner.kept[after]
        assert kept.shape == (3, 5)
        assert (kept[:, 0] == 0).all()
        for row in range(3):
            early, expected = layer_by_layer(plain, ids[row], after, kept[row])
            torch.testing.assert_close(logits[row], expected)
            torch.testing.assert_close(leaving.early[row], early)
            if by in ("doubt", "capital"):
                named = 1 - plain.classifier(early).softmax(-1)[:, 0]
                scores = named if by == "doubt" else leaving.capital[row]
                best = scores[1:].topk(4).indices + 1
                assert set(kept[row].tolist()) == {0, *best.tolist()}
    leaving.remove()
    torch.testing.assert_close(model(input_ids=ids).logits, plain(input_ids=ids).logits, rtol=0, atol=0)


@pytest.mark.parametrize("by", RULES)
def test_where_all_stay_nothing_changes(model: Any, posts: Posts, by: str) -> None:
    before = tagged(model, posts)
    leaving = Leaving(model, 1, 1.0, by)
    assert tagged(model, posts, leaving=leaving) == before
    assert before.stayed == [list(range(len(ids))) for ids in posts.ids]


def test_a_share_can_be_set_anew(model: Any, posts: Posts) -> None:
    leaving = Leaving(model, 1, 0.5, "random")
    for share in (0.25, 0.75):
        leaving.share = share
        found = tagged(model, posts, leaving=leaving)
        for ids, stay in zip(posts.ids, found.stayed, strict=True):
            assert len(stay) == staying(len(ids), share)
            assert stay == sorted(set(stay))
            assert stay[0] == 0
    assert tagged(model, posts, leaving=leaving) == found  # "random" begins anew
    leaving.remove()
    other = Leaving(model, 1, 0.75, "random", seed=5)
    assert tagged(model, posts, leaving=other).stayed != found.stayed


def test_capitals_stay(model: Any, posts: Posts) -> None:
    leaving = Leaving(model, 0, 0.75, "capital")
    stayed = tagged(model, posts, leaving=leaving).stayed
    for row, stay in enumerate(stayed):
        big = {at for at, one in enumerate(posts.capitals(row)) if one}
        assert big <= set(stay)
    with pytest.raises(ValueError, match="sees the words"):
        model(input_ids=torch.tensor([posts.ids[0][:4]]))


def test_only_one_set_of_hooks_and_only_what_there_is(model: Any) -> None:
    with pytest.raises(ValueError, match="by must be one of gate, attention"):
        Leaving(model, 1, 0.5, "best")
    for share in (0.0, 1.5):
        with pytest.raises(ValueError, match="share must be"):
            Leaving(model, 1, share)
    with pytest.raises(ValueError, match="names layer 3"):
        Leaving(model, 3, 0.5)
    assert "share=0.5" in repr(Leaving(model, 1, 0.5, "random"))
    with pytest.raises(ValueError, match="a pruner already"):
        Leaving(model, 1, 0.5, "doubt")


def work(n: int, layers: int) -> int:
    """FLOPs of so many layers on n tokens: four square matrices, two wide ones, scores and values."""
    return layers * (8 * n * WIDTH**2 + 4 * n * WIDTH * INNER + 4 * n * n * WIDTH)


def test_flops_are_those_of_the_tokens_that_are_left(model: Any, tokenizer: Any) -> None:
    posts = read_posts(data([["one"] * 14, ["two"] * 14], [["O"] * 14] * 2), tokenizer)
    n, k = 16, 4
    head = 2 * n * WIDTH * len(NAMES)
    assert flops(model, posts) == work(n, LAYERS) + head
    choosing = {
        "random": 0, "capital": 0, "doubt": head, "gate": 2 * n * WIDTH,
        "attention": 4 * n * WIDTH**2 + 2 * n * n * WIDTH,
    }  # fmt: skip
    for by, extra in choosing.items():
        leaving = Leaving(model, 1, 0.25, by)
        assert flops(model, posts, leaving=leaving) == work(n, 2) + work(k, 2) + head + extra
        leaving.remove()
    assert flops(shorten(model, 3), posts) == work(n, 3) + head


def test_shorten_stops_all_tokens_early(model: Any, posts: Posts) -> None:
    ids = torch.tensor([posts.ids[0]])
    hidden = model.bert.embeddings(ids)
    for layer in model.bert.encoder.layer[:2]:
        hidden = layer(hidden, None)
    expected = model.classifier(hidden)
    torch.testing.assert_close(shorten(model, 2)(input_ids=ids).logits, expected)
    assert model.config.num_hidden_layers == 2
    for layers in (0, 3):
        with pytest.raises(ValueError, match=r"layers must be in 1\.\.2"):
            shorten(model, layers)


# ---- learning and tagging


def test_only_first_pieces_learn_a_tag(model: Any, posts: Posts) -> None:
    """Checked against the log-probabilities of the first pieces, read off one by one."""
    for row in range(len(posts)):
        log = model(input_ids=torch.tensor([posts.ids[row]])).logits[0].log_softmax(-1)
        pairs = zip(posts.first(row), posts.tags[row], strict=True)
        expected = -sum(log[place, NAMES.index(name)] for place, name in pairs if place >= 0)
        torch.testing.assert_close(loss_of(model, posts, [row], None), expected)


def test_doubt_teaches_the_head_to_read_early_states(model: Any, posts: Posts) -> None:
    late = loss_of(model, posts, [0], None)
    short = shorten(copy.deepcopy(model), 2)
    early = loss_of(short, posts, [0], None)
    leaving = Leaving(model, 1, 1.0, "doubt")
    torch.testing.assert_close(loss_of(model, posts, [0], leaving), late + early)


def test_a_tagger_learns_and_the_embeddings_stay(model: Any, posts: Posts) -> None:
    again = [copy.deepcopy(model) for _ in range(3)]
    embeddings = copy.deepcopy(model.bert.embeddings.state_dict())
    heard: list[tuple[int, float]] = []
    losses = train_tagger(
        model,
        posts,
        epochs=30,
        learning_rate=1e-2,
        batch_size=2,
        each=lambda epoch, loss: heard.append((epoch, loss)),
    )
    assert losses[-1] < 0.1 * losses[0]
    assert heard == list(enumerate(losses, 1))
    assert tag(model, posts) == TAGS
    for name, before in embeddings.items():
        assert torch.equal(model.bert.embeddings.state_dict()[name], before)
    first, same, other = (
        train_tagger(one, posts, epochs=2, learning_rate=1e-2, batch_size=1, seed=seed)
        for one, seed in zip(again, (0, 0, 1), strict=True)
    )
    assert first == same != other
    with pytest.raises(ValueError, match="no posts"):
        train_tagger(model, posts.take([]))


@pytest.mark.parametrize("by", RULES)
def test_a_tagger_learns_though_tokens_leave(model: Any, posts: Posts, by: str) -> None:
    leaving = Leaving(model, 1, 0.9, by)
    gates = [gate.detach().clone() for gate in leaving.parameters()]
    losses = train_tagger(
        model, posts, epochs=30, learning_rate=1e-2, batch_size=2, leaving=leaving, shares=(0.5, 1.0)
    )
    assert losses[-1] < 0.3 * losses[0]
    assert leaving.share == 0.9
    assert len(gates) == (by == "gate")
    assert all(not torch.equal(old, new) for old, new in zip(gates, leaving.parameters(), strict=True))
    assert not leaving.pruner.training or by in ("gate", "attention")  # others take no noise


def test_tags_do_not_depend_on_company(model: Any, posts: Posts) -> None:
    found = tag(model, posts)
    assert [len(row) for row in found] == [len(words) for words in WORDS]
    assert found[1][0] == "O"  # no piece
    for row in range(len(posts)):
        assert tag(model, posts.take([row]), batch_size=1) == [found[row]]
    assert not torch.is_inference_mode_enabled()


def test_names_kept_by_hand(posts: Posts) -> None:
    first = posts.first(0)
    stayed: list[list[int]] = [[0, first[1], first[4] + 1], [0], [0, *posts.first(2)], [0]]
    # of the five words in names, Quintilla and tooting stay; Brackwater, Tooting and Quintilla again leave
    assert names_kept(posts, stayed) == pytest.approx(2 / 5)
    assert names_kept(posts.take([1]), [[0]]) == 0


def test_a_tagger_is_saved_with_its_head(
    tokenizer: Any, posts: Posts, tiny_encoder: Path, tmp_path: Path
) -> None:
    one, _ = load_tagger(NAMES, tiny_encoder, seed=1)
    same, _ = load_tagger(NAMES, tiny_encoder, seed=1)
    other, _ = load_tagger(NAMES, tiny_encoder, seed=2)
    assert torch.equal(one.classifier.weight, same.classifier.weight)
    assert not torch.equal(one.classifier.weight, other.classifier.weight)
    assert [one.config.id2label[number] for number in range(len(NAMES))] == NAMES
    one.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert tag(load_tagger(NAMES, tmp_path, seed=9)[0], posts) == tag(one, posts)
    with pytest.raises(OSError, match="could not load"):
        load_tagger(NAMES, tmp_path / "nowhere")
