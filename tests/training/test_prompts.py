"""Prompts on tiny random models: scores are those of a plain reading, and they are normalised."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import BertConfig, BertForMaskedLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from topk_lib.models import load_encoder
from topk_lib.training.prompts import (
    Template,
    answer_named,
    calibrate,
    cloze_log_probs,
    content_free,
    free_answers,
    label_log_probs,
    single_tokens,
    text_vectors,
)

WORDS = ["film", "review", "the", "was", "bad", "good", "very", "not", "at", "all", ":", "[MASK]", "[PAD]",
         "[UNK]"]  # fmt: skip
FILM = Template("Review: {}\nSentiment:", (" negative", " positive"))


@pytest.fixture(scope="module")
def model() -> tuple[Any, Any]:
    """Every word of :data:`WORDS` is one token."""
    plain = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="[PAD]", unk_token="[UNK]", mask_token="[MASK]"
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS), hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=32, initializer_range=0.5,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval(), tokenizer


@pytest.fixture(scope="module")
def spelling() -> Any:
    """Bytes and pairs of them, as language models split."""
    plain = Tokenizer(models.BPE())
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    texts = ["Review: A film, and a good one.\nSentiment: positive\n\nReview: negative"] * 3
    plain.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=330, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    )
    return PreTrainedTokenizerFast(tokenizer_object=plain)


def plainly(model: Any, tokenizer: Any, prompt: str, word: str) -> float:
    """Prompt and word read together, without a cache."""
    start, ids = len(tokenizer(prompt)["input_ids"]), tokenizer(f"{prompt} {word}")["input_ids"]
    with torch.inference_mode():
        table = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return float(sum(table[at - 1, ids[at]] for at in range(start, len(ids))))


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_scores_are_those_of_a_plain_reading(model: tuple[Any, Any], batch_size: int) -> None:
    prompts = ["the film was", "the film", "the film was not at all", "the film review : bad"]
    words = ["bad", "very good", "not at all", "not very bad", "good"]
    seen: list[int] = []
    found = label_log_probs(*model, prompts, words, batch_size=batch_size, progress=seen.append)
    expected = [[plainly(*model, prompt, word) for word in words] for prompt in prompts]
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-4, atol=1e-4)
    assert sum(seen) == len(prompts)
    ids = [model[1](prompt)["input_ids"] for prompt in prompts]
    assert torch.equal(label_log_probs(*model, ids, words, batch_size=batch_size), found)


def test_all_words_together_are_sure(model: tuple[Any, Any]) -> None:
    """Of one token each, and of two: the probabilities of all that may follow sum to 1."""
    prompts = ["the film was", "review :"]
    for length in (1, 2):
        every = [" ".join(some) for some in itertools.product(WORDS, repeat=length)]
        total = label_log_probs(*model, prompts, every).exp().sum(-1)
        torch.testing.assert_close(total, torch.ones(2), rtol=1e-4, atol=1e-4)


def test_what_all_prompts_share_is_read_once(model: tuple[Any, Any]) -> None:
    read: list[int] = []
    hook = model[0].model.embed_tokens.register_forward_hook(
        lambda _, given, __: read.append(given[0].numel())
    )
    prompts = ["the film was very " * 4 + end for end in ("bad", "good", "not")]
    label_log_probs(*model, prompts, ["bad", "good"], batch_size=2)
    hook.remove()
    assert sum(read) == 16 + 3
    label_log_probs(*model, ["the film"] * 2, ["bad", "good"])  # nothing of their own is left but the last


def test_in_half_precision_it_says_nearly_the_same(model: tuple[Any, Any]) -> None:
    prompts, words = ["the film was", "not at all"], ["bad", "very good"]
    expected = label_log_probs(*model, prompts, words)
    half = LlamaForCausalLM(model[0].config).to(torch.bfloat16).eval()
    half.load_state_dict(model[0].state_dict())
    found = label_log_probs(half, model[1], prompts, words)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.1)


def test_what_cannot_be_scored_is_refused(model: tuple[Any, Any]) -> None:
    with pytest.raises(ValueError, match="at least one label word"):
        label_log_probs(*model, ["the film"], [])
    with pytest.raises(ValueError, match="none that is empty"):
        label_log_probs(*model, ["the film"], ["bad", ""])
    with pytest.raises(ValueError, match="prompt 1 is empty"):
        label_log_probs(*model, ["the", ""], ["bad"])
    with pytest.raises(ValueError, match="33 tokens does not fit: the model can read 32"):
        label_log_probs(*model, ["the " * 31], ["not bad"])
    with pytest.raises(TypeError, match="in brackets"):
        label_log_probs(*model, "the film", ["bad"])
    assert label_log_probs(*model, [], ["bad", "good"]).shape == (0, 2)


def test_a_template_is_filled_in_order() -> None:
    assert FILM.fill("A gem.") == "Review: A gem.\nSentiment:"
    shots = [("A bore.", 0), ("Loved {it}.", 1)]
    assert FILM.fill("A gem.", shots) == (
        "Review: A bore.\nSentiment: negative\n\nReview: Loved {it}.\nSentiment: positive\n\n"
        "Review: A gem.\nSentiment:"
    )


@pytest.mark.parametrize(
    ("text", "words", "sentence"),
    [
        ("Review:", (" a", " b"), "has none: write {} where the text"),
        ("{} or {}", (" a", " b"), "has 2"),
        ("{} is ", (" a", " b"), "ends with a space.*write the words as ' a'"),
        ("{} is", (" a",), "a word for each of two labels"),
        ("{} is", (" a", " a"), "a word for each of two labels"),
        ("{} is", "ab", "a word for each of two labels"),
        ("{} is", (" a", " "), "has letters"),
    ],
)
def test_a_template_that_is_none_is_refused(text: str, words: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Template(text, words)


def test_a_shot_needs_a_label_of_the_template(spelling: Any) -> None:
    for make in (FILM.fill, lambda *given: FILM.encode(spelling, *given)):
        with pytest.raises(ValueError, match="no label 2: the template has words for 2"):
            make("A gem.", [("A bore.", 2)])


@pytest.mark.parametrize("text", ["Review: {}\nSentiment:", "{}\nIt was", "Say it ({})."])
def test_ids_are_those_of_the_whole_text(spelling: Any, text: str) -> None:
    template = Template(text, (" negative", " positive"))
    shots = [("A film, one.", 0), ("Reviewed", 1)]
    expected = spelling(template.fill("A good film.", shots))["input_ids"]
    assert template.encode(spelling, "A good film.", shots) == expected
    if text.startswith("Review"):  # the slot stands after a space, so that its ids carry it
        ids = [spelling(f" {one}")["input_ids"] for one in ("A good film.", *(shot for shot, _ in shots))]
        spliced = template.encode(spelling, ids[0], [(ids[1], 0), (ids[2], 1)])
        assert spliced == expected
        assert template.encode(spelling, ids[0], [(ids[1], 0), ("Reviewed", 1)]) == expected


def test_chosen_tokens_go_in_as_they_are(spelling: Any) -> None:
    """Neighbours in the prompt that were none in the text stay two tokens."""
    ids = spelling("good")["input_ids"]
    apart = [spelling("g")["input_ids"][0], *spelling("ood")["input_ids"]]
    assert len(ids) < len(apart)
    inside = FILM.encode(spelling, apart)
    start = len(spelling("Review:")["input_ids"])
    assert inside[start : start + len(apart)] == apart


def test_a_word_of_several_tokens_is_refused_where_one_is_needed(
    model: tuple[Any, Any], spelling: Any
) -> None:
    assert single_tokens(model[1], ["bad", "good"]) == [4, 5]
    with pytest.raises(ValueError, match=r"'not bad' must be one token.* 2 \(not bad\).*label_log_probs"):
        single_tokens(model[1], ["good", "not bad"])
    with pytest.raises(ValueError, match="'grand' is unknown"):
        single_tokens(model[1], ["grand"])


def test_calibration_by_hand() -> None:
    said, nothing = torch.tensor([[0.6, 0.4], [0.9, 0.1]]), torch.tensor([0.8, 0.2])
    found = calibrate(said.log(), nothing.log()).exp()
    torch.testing.assert_close(
        found, torch.tensor([[0.75, 2.0], [1.125, 0.5]]) / torch.tensor([[2.75], [1.625]])
    )
    # Words that are rare as they come are as good: only their shares count.
    torch.testing.assert_close(calibrate(said.log() - 5, nothing.log() - 3).exp(), found)
    torch.testing.assert_close(calibrate(said.log(), torch.zeros(2)).exp(), said)
    with pytest.raises(ValueError, match=r"one number a label, got shapes \(2, 2\) and \(3,\)"):
        calibrate(said.log(), torch.zeros(3))


def test_the_median_gives_each_label_half_of_the_texts() -> None:
    said = torch.randn(101, 2, generator=torch.Generator().manual_seed(0)) + torch.tensor([3.0, 0.0])
    medians = said.log_softmax(-1).median(0).values
    assert said.argmax(-1).sum() < 10
    assert (calibrate(said, medians)[:, 1] > calibrate(said, medians)[:, 0]).sum() == 50


def test_content_free_is_the_mean_of_empty_texts(model: tuple[Any, Any]) -> None:
    template = Template("film {} was", ("bad", "good"), between=" ")
    found = content_free(*model, template, nothing=("not", "very"))
    each = [[plainly(*model, f"film {no} was", word) for word in ("bad", "good")] for no in ("not", "very")]
    torch.testing.assert_close(found.exp(), torch.tensor(each).softmax(-1).mean(0))
    bare = content_free(*model, Template("{}", ("bad", "good")), nothing=("", "not"))  # "" would be no prompt
    assert bare.exp().sum() == pytest.approx(1)


def test_free_answers_do_not_depend_on_the_batch(model: tuple[Any, Any]) -> None:
    prompts = ["the film was", "the", "the film was not at all", "not"]
    together = free_answers(*model, prompts, most=4, batch_size=4)
    assert together == [free_answers(*model, [prompt], most=4)[0] for prompt in prompts]
    ids = torch.tensor([model[1](prompts[0])["input_ids"]])
    with torch.inference_mode():
        for _ in range(4):
            ids = torch.cat([ids, model[0](ids).logits[:, -1:].argmax(-1)], 1)
    assert together[0] == model[1].decode(ids[0, 3:], skip_special_tokens=True)


def test_which_label_an_answer_names() -> None:
    words = (" negative", " positive")
    assert answer_named("Positive. I loved it", words) == 1
    assert answer_named(" it is NEGATIVE", words) == 0
    assert answer_named("positive, but too negative", words) is None
    assert answer_named("nonpositive", words) is None
    assert answer_named("", words) is None
    assert answer_named("c++ it is", ("c++", "go")) == 0


def test_cloze(model: tuple[Any, Any]) -> None:
    tokenizer = model[1]
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=16, initializer_range=0.5,
    )  # fmt: skip
    masked = BertForMaskedLM(config).eval()
    prompts = ["the film was [MASK]", "[MASK] at all : the film review", "the [MASK]"]
    found = cloze_log_probs(masked, tokenizer, prompts, WORDS[:-1], batch_size=2)
    ids = torch.tensor([tokenizer(prompts[1])["input_ids"]])
    with torch.inference_mode():
        alone = masked(ids).logits[0, 0].log_softmax(-1)
    torch.testing.assert_close(found[1], alone[:-1])
    assert found[1].exp().sum() + alone[-1].exp() == pytest.approx(1)  # of all words, the unknown among them
    for prompt, said in (("the film", "has it 0 times"), ("[MASK] the [MASK]", "has it 2 times")):
        with pytest.raises(ValueError, match=said):
            cloze_log_probs(masked, tokenizer, [prompt], ["bad", "good"])
    with pytest.raises(ValueError, match="must be one token"):
        cloze_log_probs(masked, tokenizer, prompts, ["very bad", "good"])
    with pytest.raises(ValueError, match="does not fit"):
        cloze_log_probs(masked, tokenizer, ["the " * 16 + "[MASK]"], ["bad", "good"])


def test_vectors_of_texts() -> None:
    model, tokenizer = load_encoder()
    encoder = model.base_model.eval()
    texts = ["My card has not arrived.", "Where is my card?", "The film bored me beyond all measure, sadly."]
    found = text_vectors(encoder, tokenizer, texts, batch_size=2)
    with torch.inference_mode():
        hidden = encoder(**tokenizer(texts[0], return_tensors="pt")).last_hidden_state[0]
    torch.testing.assert_close(
        found[0], torch.nn.functional.normalize(hidden.mean(0), dim=0), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(3))
    assert found[0] @ found[1] > 0.5 > found[0] @ found[2]
