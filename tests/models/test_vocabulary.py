"""A model and its tokenizer with k token types give what the whole ones give, and no text breaks them."""

from __future__ import annotations

import copy
import gc
import json
import string
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors, trainers
from tokenizers import models as backends
from torch import Tensor
from torch.optim import optimizer as torch_optimizer
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    GPT2Tokenizer,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaTokenizer,
)

from topk_lib.data import load_reviews
from topk_lib.models.loading import encoder_path, errors_only
from topk_lib.models.vocabulary import SelectedVocabulary, select_vocabulary, sizes
from topk_lib.selectors.corpus import count_tokens

BERT: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 160,
}
GPT2: dict[str, Any] = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 160}
BART: dict[str, Any] = {
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_position_embeddings": 160,
}
MODELS = [
    "bert-classifier", "bert-mlm", "bert-mlm-untied", "gpt2-lm", "gpt2-lm-untied", "gpt2-classifier",
    "roberta-mlm", "bart",
]  # fmt: skip


@cache
def reviews() -> list[str]:
    return list(load_reviews("embedded", quiet=True)["text"])[:150]


@cache
def wordpiece() -> Any:
    tokenizer = AutoTokenizer.from_pretrained(encoder_path())
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    return tokenizer


@cache
def bpe(kind: str, size: int = 600) -> Any:
    """A tokenizer of 600 types trained on reviews: its special tokens first, as RoBERTa's, or last."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"] if kind == "roberta" else []
    backend = Tokenizer(backends.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(
        reviews(),
        trainers.BpeTrainer(
            vocab_size=size - (kind == "gpt2"), special_tokens=special, show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )  # fmt: skip
    if kind == "roberta":
        backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
        return RobertaTokenizer(tokenizer_object=backend, vocab=backend.get_vocab())
    return GPT2Tokenizer(tokenizer_object=backend, pad_token="<|endoftext|>")


@cache
def whole(name: str) -> tuple[Any, Any]:
    """A tiny random model, every number of which counts, and its tokenizer."""
    torch.manual_seed(0)
    kind, untied = name.split("-")[0], name.endswith("untied")
    tie = {"tie_word_embeddings": not untied}
    if kind == "bert":
        tokenizer = wordpiece()
        config = BertConfig(vocab_size=len(tokenizer), **BERT, **tie)
        cls = BertForSequenceClassification if "classifier" in name else BertForMaskedLM
    elif kind == "gpt2":
        tokenizer, last = bpe("gpt2"), 599
        ids = {"bos_token_id": last, "eos_token_id": last, "pad_token_id": last}
        config = GPT2Config(vocab_size=len(tokenizer), **ids, **GPT2, **tie)
        cls = GPT2ForSequenceClassification if "classifier" in name else GPT2LMHeadModel
    else:
        tokenizer = bpe("roberta")
        cls = RobertaForMaskedLM if kind == "roberta" else BartForConditionalGeneration
        config = (RobertaConfig(**BERT) if kind == "roberta" else BartConfig(**BART)).__class__(
            vocab_size=len(tokenizer), **(BERT if kind == "roberta" else BART)
        )
    model = cls(config).eval()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.randn_like(tensor) * 0.2)
    return model, tokenizer


def counts(tokenizer: Any) -> Tensor:
    ids = tokenizer(reviews(), add_special_tokens=False)["input_ids"]
    return torch.from_numpy(np.asarray(count_tokens(ids, len(tokenizer)).sum(axis=0)).ravel()).float()


@cache
def shrunk(name: str) -> SelectedVocabulary:
    model, tokenizer = whole(name)
    return select_vocabulary(model, tokenizer, counts(tokenizer), 3000 if "bert-" in name[:5] else 420)


@cache
def kept_words(name: str) -> list[str]:
    """Words of the reviews all of whose tokens are kept."""
    kept = set(shrunk(name).kept.tolist())
    words = sorted({word for text in reviews() for word in text.split()})
    ids = whole(name)[1]([" " + word for word in words], add_special_tokens=False)["input_ids"]
    return [word for word, tokens in zip(words, ids, strict=True) if tokens and kept.issuperset(tokens)]


def logits(model: Any, ids: list[int]) -> Tensor:
    with torch.inference_mode():
        out: Tensor = model(input_ids=torch.tensor([ids])).logits
    return out[0]


def mapped(kept: Tensor, ids: list[int]) -> list[int]:
    new = {old: i for i, old in enumerate(kept.tolist())}
    return [new[i] for i in ids]


def vocabulary_logits(name: str) -> bool:
    return "classifier" not in name


def assert_same(name: str, result: SelectedVocabulary, text: str) -> None:
    """Where all tokens of the text are kept, old and new agree on it."""
    old_model, old_tokenizer = whole(name)
    old_ids = old_tokenizer(text)["input_ids"][:150]
    new_ids = result.tokenizer(text)["input_ids"][:150]
    assert new_ids == mapped(result.kept, old_ids)
    if not old_ids:
        return
    expected = logits(old_model, old_ids)
    if vocabulary_logits(name):
        expected = expected[:, result.kept]
    torch.testing.assert_close(logits(result.model, new_ids), expected, rtol=1e-5, atol=1e-6)


# What is kept


@pytest.mark.parametrize("name", MODELS)
def test_the_same_ids_and_the_same_logits(name: str) -> None:
    words = kept_words(name)
    assert len(words) > 300
    result = shrunk(name)
    assert len(result.tokenizer) == len(result.kept) == result.model.config.vocab_size

    @settings(max_examples=8, deadline=None)
    @given(st.lists(st.sampled_from(words), min_size=1, max_size=40))
    def check(text: list[str]) -> None:
        assert_same(name, result, " " + " ".join(text))

    check()


@pytest.mark.parametrize("name", ["bert-mlm", "gpt2-lm", "roberta-mlm"])
def test_every_text_is_split(name: str) -> None:
    result, old = shrunk(name), whole(name)[1]
    kept = set(result.kept.tolist())

    @settings(max_examples=100, deadline=None)
    @given(st.text(max_size=40) | st.text(string.printable, max_size=40))
    def check(text: str) -> None:
        ids = result.tokenizer(text)["input_ids"]
        assert all(0 <= i < len(kept) for i in ids)
        decoded = result.tokenizer.decode(ids, skip_special_tokens=False)
        old_ids = old(text)["input_ids"]
        if name != "bert-mlm":
            assert decoded == old.decode(old_ids, skip_special_tokens=False)  # without loss
        elif text.isascii() and old.unk_token_id not in old_ids:
            assert result.tokenizer.unk_token_id not in ids
            assert decoded == old.decode(old_ids)
        if kept.issuperset(old_ids):
            assert ids == mapped(result.kept, old_ids)

    check()


def test_the_least_vocabulary_still_spells_every_ascii_word() -> None:
    model, tokenizer = whole("bert-mlm")
    useless = torch.zeros(len(tokenizer))
    with pytest.raises(ValueError, match=r"k must lie in (\d+)\.\.30522, got 1") as error:
        select_vocabulary(model, tokenizer, useless, 1)
    least = int(str(error.value).split("..")[0].split()[-1])
    with pytest.raises(ValueError, match=f"k must lie in {least}"):
        select_vocabulary(model, tokenizer, useless, least - 1)
    small = select_vocabulary(model, tokenizer, useless, least).tokenizer
    assert len(small) == least
    ascii_forms = set(string.printable.strip()) | {"##" + c for c in string.printable.strip()}
    special = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}
    assert set(small.get_vocab()) == (ascii_forms | special) & set(tokenizer.get_vocab())
    assert small.tokenize("Zebra, 42!") == ["z", "##e", "##b", "##r", "##a", ",", "4", "##2", "!"]
    assert small.tokenize("жук") == ["[UNK]"]


def test_the_most_useful_types_are_kept() -> None:
    model, tokenizer = whole("bert-mlm")
    useful = tokenizer.convert_tokens_to_ids(["film", "ж", "##ing", "[unused7]"])
    usefulness = torch.zeros(len(tokenizer))
    usefulness[useful] = torch.tensor([1.0, 2.0, float("inf"), 3.0])
    kept = select_vocabulary(model, tokenizer, usefulness, 300).kept
    assert kept.dtype == torch.int64
    assert kept.shape == (300,)
    assert bool((kept.diff() > 0).all())
    assert set(useful) <= set(kept.tolist())
    rest = set(range(len(tokenizer))) - set(kept.tolist())
    filled = [i for i in kept.tolist() if i < min(rest)]
    assert filled == list(range(min(rest)))  # ties go to the lowest ids
    assert len(filled) > 100


def closure(merges: dict[str, tuple[str, str]], token: str) -> set[str]:
    parts = merges.get(token, ())
    return {token}.union(*(closure(merges, part) for part in parts))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(257, 600), st.booleans())
def test_bpe_keeps_the_parts_of_what_it_keeps(seed: int, k: int, flat: bool) -> None:
    model, tokenizer = whole("gpt2-lm")
    usefulness = torch.rand(600, generator=torch.Generator().manual_seed(seed))
    usefulness = usefulness.round() if flat else usefulness
    result = select_vocabulary(model, tokenizer, usefulness, k)
    names = tokenizer.convert_ids_to_tokens(range(600))
    kept = {names[i] for i in result.kept.tolist()}
    assert len(kept) == k == len(result.tokenizer)  # exactly k, always
    assert kept == set(result.tokenizer.get_vocab())
    merges = {a + b: (a, b) for a, b in json_model(tokenizer)["merges"]}
    assert len(merges) == len(json_model(tokenizer)["merges"]) == 600 - 257
    always = {*pre_tokenizers.ByteLevel.alphabet(), "<|endoftext|>"}
    assert always <= kept
    assert all(closure(merges, token) <= kept for token in kept)
    new_merges = [tuple(merge) for merge in json_model(result.tokenizer)["merges"]]
    assert new_merges == [pair for whole_, pair in merges.items() if whole_ in kept]
    if flat:
        return
    # In order of usefulness with all parts: what fits is kept, the rest of k are parts of the next.
    needed = set(always)
    for i in usefulness.argsort(descending=True).tolist():
        more = needed | closure(merges, names[i])
        if len(more) > k:
            assert needed <= kept <= more
            break
        needed = more
    else:
        assert kept == needed


def json_model(tokenizer: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    return found


def test_bpe_by_hand() -> None:
    """Two ways to "abc", which comes before its parts, and a token of BPE that was also added."""
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "abc", "ab", "bc", "de", "def", "xy", "xyz"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    pairs = ["b c", "a b", "ab c", "a bc", "d e", "de f", "x y", "xy z"]
    backend = Tokenizer(backends.BPE(vocabulary, [(a, b) for a, b in map(str.split, pairs)]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>")
    tokenizer.add_tokens(["def", "new word"])
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=len(tokenizer), eos_token_id=263, bos_token_id=None, **GPT2)
    )
    usefulness = torch.zeros(len(tokenizer))
    usefulness[vocabulary["abc"]] = 2.0
    usefulness[vocabulary["xyz"]] = 1.0
    pinned = {*pre_tokenizers.ByteLevel.alphabet(), "<end>", "new word", "def", "de"}
    for more in ({"ab"}, {"ab", "bc"}, {"ab", "bc", "abc"}, {"ab", "bc", "abc", "xy"}):
        result = select_vocabulary(model, tokenizer, usefulness, 260 + len(more))
        assert set(result.tokenizer.get_vocab()) == pinned | more
        text = "new word defde<end>"
        assert result.tokenizer.tokenize(text) == tokenizer.tokenize(text)
        assert result.tokenizer.eos_token_id == result.model.config.eos_token_id
    assert result.tokenizer.tokenize("abcd") == ["abc", "d"]
    with pytest.raises(ValueError, match=r"k must lie in 260\.\.265, got 259"):
        select_vocabulary(model, tokenizer, usefulness, 259)


# The model


def test_configurations_and_modules_follow() -> None:
    result, old = shrunk("bart"), whole("bart")[0]
    new = result.model
    for config in (new.config, new.generation_config):
        for name in ("bos_token_id", "pad_token_id", "eos_token_id", "decoder_start_token_id"):
            token = whole("bart")[1].convert_ids_to_tokens(getattr(old.config, name))
            assert result.tokenizer.convert_ids_to_tokens(getattr(config, name)) == token
    assert new.get_input_embeddings().weight is new.lm_head.weight is new.model.decoder.embed_tokens.weight
    assert new.get_input_embeddings().num_embeddings == new.lm_head.out_features == 420
    assert torch.equal(new.final_logits_bias, old.final_logits_bias[:, result.kept])

    gpt2, tokenizer = shrunk("gpt2-lm").model, shrunk("gpt2-lm").tokenizer
    for config in (gpt2.config, gpt2.generation_config):
        assert config.eos_token_id == config.bos_token_id == config.pad_token_id == 419
    assert tokenizer.eos_token_id == 419
    assert gpt2.generate(torch.tensor([[1]]), max_new_tokens=5, do_sample=False).max() < 420


def test_ids_that_name_no_token_are_unset_and_suppressed_ones_follow() -> None:
    model, tokenizer = copy.deepcopy(whole("gpt2-lm")[0]), whole("gpt2-lm")[1]
    model.config.decoder_start_token_id = 50_256
    model.config.eos_token_id = model.generation_config.eos_token_id = [599, 400]
    model.generation_config.suppress_tokens = list(range(256, 600))
    result = select_vocabulary(model, tokenizer, counts(tokenizer), 300)
    assert result.model.config.decoder_start_token_id is None
    eos = result.model.config.eos_token_id
    assert result.kept[eos].tolist() == [599, 400]  # 400 is kept because it is named
    assert result.model.generation_config.eos_token_id == eos
    suppressed = result.model.generation_config.suppress_tokens
    assert result.kept[suppressed].tolist() == [i for i in result.kept.tolist() if i >= 256]
    model.generation_config.bad_words_ids = [[3, 4]]
    with pytest.raises(ValueError, match="bad_words_ids spells out token ids"):
        select_vocabulary(model, tokenizer, counts(tokenizer), 300)


@pytest.mark.parametrize("named", [True, False])
def test_padding_row_moves_with_its_token(named: bool) -> None:
    tokenizer = wordpiece()
    model = BertForSequenceClassification(BertConfig(vocab_size=30522, pad_token_id=104, **BERT))
    if not named:
        model.config.pad_token_id = None
    result = select_vocabulary(model, tokenizer, counts(tokenizer), 400)
    embedding = result.model.bert.embeddings.word_embeddings
    assert result.kept[embedding.padding_idx] == 104
    assert embedding.padding_idx != 104
    assert result.model.config.pad_token_id == (embedding.padding_idx if named else None)


def test_roberta_counts_positions_from_the_same_padding_id() -> None:
    """Had the pad token a lower id after selection, all positions would shift."""
    tokenizer = bpe("roberta")
    ids: dict[str, Any] = {"pad_token_id": 400, "bos_token_id": None, "eos_token_id": None}
    config = RobertaConfig(vocab_size=600, **ids, **(BERT | {"max_position_embeddings": 450}))
    model = RobertaForMaskedLM(config).eval()
    result = select_vocabulary(model, tokenizer, torch.arange(600.0), 500)
    assert result.kept[:401].tolist() == list(range(401))
    assert len(result.kept) == 500
    assert result.model.config.pad_token_id == 400
    text = [0, 20, 5, 30, int(result.kept[-1]), 2]
    expected = logits(model, text)[:, result.kept]
    torch.testing.assert_close(
        logits(result.model, mapped(result.kept, text)), expected, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("name", MODELS)
def test_the_callers_model_and_tokenizer_stay_as_they_are(name: str) -> None:
    model, tokenizer = whole(name)
    state = copy.deepcopy(model.state_dict())
    config, text = model.config.to_dict(), tokenizer.backend_tokenizer.to_str()
    for rest in ("drop", "freeze"):
        select_vocabulary(model, tokenizer, counts(tokenizer), 400, rest=rest)
    assert model.config.to_dict() == config
    assert tokenizer.backend_tokenizer.to_str() == text
    assert all(torch.equal(a, b) for a, b in zip(state.values(), model.state_dict().values(), strict=True))


@pytest.mark.parametrize("name", MODELS)
def test_saved_and_loaded(name: str, tmp_path: Path) -> None:
    result = shrunk(name)
    result.model.save_pretrained(tmp_path)
    result.tokenizer.save_pretrained(tmp_path)
    autos = {
        "classifier": AutoModelForSequenceClassification, "mlm": AutoModelForMaskedLM,
        "lm": AutoModelForCausalLM, "bart": AutoModelForSeq2SeqLM,
    }  # fmt: skip
    auto = autos[(name + "-").split("-")[1] or name]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    model, report = auto.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["mismatched_keys"]
    assert not report["unexpected_keys"]
    assert tokenizer.get_vocab() == result.tokenizer.get_vocab()
    text = "Überhaupt \N{SNOWMAN} it's a film, isn't it? " + reviews()[3]
    ids = tokenizer(text, text[:9])["input_ids"]
    assert ids == result.tokenizer(text, text[:9])["input_ids"]
    loaded, state = model.state_dict(), result.model.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], state[key]) for key in state)
    assert_same(
        name, result._replace(model=model, tokenizer=tokenizer), " " + " ".join(kept_words(name)[:30])
    )


@pytest.mark.parametrize("name", ["bert-mlm", "gpt2-lm"])
def test_the_tokenizer_remembers_nothing_of_the_old_vocabulary(name: str) -> None:
    tokenizer = shrunk(name).tokenizer
    assert hasattr(wordpiece(), "vocab_file")  # the old list of tokens, which save_vocabulary would copy
    assert not hasattr(tokenizer, "vocab_file")
    assert tokenizer._vocab == json_model(tokenizer)["vocab"]
    made = tokenizer.init_kwargs
    assert made.get("added_tokens_decoder", tokenizer.added_tokens_decoder) == tokenizer.added_tokens_decoder
    assert not {"vocab", "merges", "vocab_file"} & made.keys()


def test_padding_and_pairs_use_the_new_ids() -> None:
    result = shrunk("bert-classifier")
    batch = result.tokenizer([("a film", "it is"), ("a", "b")], padding=True, return_tensors="pt")
    names = result.tokenizer.convert_ids_to_tokens(batch["input_ids"][1].tolist())
    assert names == ["[CLS]", "a", "[SEP]", "b", "[SEP]", "[PAD]", "[PAD]"]
    roberta = shrunk("roberta-mlm").tokenizer
    names = roberta.convert_ids_to_tokens(roberta("a", "b")["input_ids"])
    assert names == ["<s>", "a", "</s>", "</s>", "b", "</s>"]


def test_sizes(tmp_path: Path) -> None:
    for name in MODELS:
        result = shrunk(name)
        model, k, old = result.model, len(result.kept), len(whole(name)[1])
        assert result.before == sizes(whole(name)[0])
        tables = 2 if name.endswith("untied") else 1
        assert (result.before.embedding, result.after.embedding) == (tables * old * 16, tables * k * 16)
        assert result.after.parameters == sum(p.numel() for p in model.parameters())
        gone = result.before.parameters - result.after.parameters
        biases = {"bert-mlm-untied": 2, "bert-mlm": 1, "roberta-mlm": 1}.get(name, 0)
        assert gone == (old - k) * (tables * 16 + biases)
        model.save_pretrained(tmp_path)
        on_disk = (tmp_path / "model.safetensors").stat().st_size
        assert on_disk == pytest.approx(result.after.bytes, abs=10_000)


# Freezing the rest


def train(model: Any, k: int, steps: int = 3) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        ids = torch.randint(0, k, (4, 20), generator=generator)
        model(input_ids=ids, labels=ids if vocabulary_size_head(model) else ids[:, 0] % 2).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def vocabulary_size_head(model: Any) -> bool:
    return model.get_output_embeddings() is not None


@pytest.mark.parametrize("name", ["bert-classifier", "bert-mlm", "gpt2-lm", "gpt2-lm-untied", "bart"])
def test_frozen_rows_survive_adamw_with_weight_decay(name: str) -> None:
    model, tokenizer = whole(name)
    k = 420
    dropped = select_vocabulary(model, tokenizer, counts(tokenizer), k)
    result = select_vocabulary(model, tokenizer, counts(tokenizer), k, rest="freeze")
    assert torch.equal(result.kept, dropped.kept)
    assert result.after == result.before == dropped.before
    assert result.tokenizer("a film")["input_ids"] == tokenizer("a film")["input_ids"]
    before = copy.deepcopy(result.model.state_dict())
    train(result.model, len(tokenizer))
    rest = torch.ones(len(tokenizer), dtype=torch.bool)
    rest[result.kept] = False
    tables = [n for n, t in before.items() if len(tokenizer) in t.shape[:1]]
    assert tables
    for table in tables:
        after = result.model.state_dict()[table]
        assert torch.equal(after[rest], before[table][rest])
        assert bool((after[~rest] != before[table][~rest]).reshape(k, -1).any(-1).sum() > k // 2)


def test_without_freezing_the_same_training_moves_every_row() -> None:
    model = copy.deepcopy(whole("bert-classifier")[0])
    before = model.get_input_embeddings().weight.detach().clone()
    train(model, 30522)
    assert bool((model.get_input_embeddings().weight != before).any(-1).all())


def test_a_frozen_model_that_is_gone_leaves_nothing_behind() -> None:
    hooks = torch_optimizer._global_optimizer_post_hooks
    gc.collect()
    before = len(hooks)
    result: Any = select_vocabulary(*whole("gpt2-lm-untied"), torch.rand(600), 300, rest="freeze")
    assert len(hooks) == before + 2
    train(result.model, 600)
    del result
    gc.collect()
    assert len(hooks) == before


def test_frozen_rows_have_no_gradient() -> None:
    result = select_vocabulary(*whole("gpt2-lm"), torch.rand(600), 300, rest="freeze")
    ids = torch.arange(100)[None]
    result.model(input_ids=ids, labels=ids).loss.backward()
    moved = result.model.get_input_embeddings().weight.grad.abs().sum(-1) > 0
    assert torch.equal(moved.nonzero().squeeze(-1), result.kept)  # the head reaches all of them


# Bad input


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"usefulness": torch.zeros(599)}, ValueError, r"shape \(600,\).*got \(599,\)"),
        ({"usefulness": torch.zeros(1, 600)}, ValueError, r"got \(1, 600\)"),
        ({"usefulness": torch.full((600,), float("nan"))}, ValueError, "NaN for 600 token types"),
        ({"usefulness": [0.0] * 600}, TypeError, "tensor of real numbers, got list"),
        ({"usefulness": torch.ones(600, dtype=torch.bool)}, TypeError, "got torch.bool"),
        ({"k": 601}, ValueError, r"k must lie in 257\.\.600, got 601"),
        ({"k": 256}, ValueError, r"k must lie in 257\.\.600, got 256"),
        ({"k": 0}, ValueError, r"k must lie in 257\.\.600, got 0"),
        ({"k": 300.0}, TypeError, "k must be a whole number, got 300.0"),
        ({"rest": "keep"}, ValueError, '"drop" or "freeze", got \'keep\''),
        ({"model": torch.nn.Linear(2, 2)}, TypeError, "PreTrainedModel, got Linear"),
    ],
)
def test_bad_input(change: dict[str, Any], error: type[Exception], message: str) -> None:
    model, tokenizer = whole("gpt2-lm")
    given_: dict[str, Any] = {
        "model": model,
        "tokenizer": tokenizer,
        "usefulness": torch.zeros(600),
        "k": 300,
    }
    with pytest.raises(error, match=message):
        select_vocabulary(**given_ | change)


def test_counts_may_be_integers() -> None:
    model, tokenizer = whole("gpt2-lm")
    kept = [
        select_vocabulary(model, tokenizer, u, 400).kept
        for u in (counts(tokenizer), counts(tokenizer).long())
    ]
    assert torch.equal(*kept)


def test_other_tokenizers_are_refused() -> None:
    model = whole("gpt2-lm")[0]
    unigram = Tokenizer(backends.Unigram([("<unk>", 0.0), ("a", -1.0)], unk_id=0))
    pieces = Tokenizer(backends.BPE(vocab={"▁": 0, "a": 1, "▁a": 2}, merges=[("▁", "a")]))
    pieces.pre_tokenizer = pre_tokenizers.Metaspace()
    for backend, kind in ((unigram, "is Unigram"), (pieces, "is BPE without bytes")):
        with pytest.raises(ValueError, match=f"WordPiece and byte-level BPE; .* {kind}"):
            select_vocabulary(model, PreTrainedTokenizerFast(tokenizer_object=backend), torch.zeros(600), 300)

    class Slow:
        is_fast = False

    with pytest.raises(ValueError, match="Slow is slow"):
        select_vocabulary(model, Slow(), torch.zeros(600), 300)


def test_a_model_and_a_tokenizer_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"the id 30521, but the model only 600 rows"):
        select_vocabulary(whole("gpt2-lm")[0], wordpiece(), torch.zeros(600), 300)


def test_rows_beyond_the_tokenizer_go_first() -> None:
    """Embeddings are often padded to a round number of rows."""
    tokenizer = bpe("gpt2")
    with errors_only():
        model = GPT2LMHeadModel(GPT2Config(vocab_size=640, eos_token_id=599, bos_token_id=599, **GPT2))
    usefulness = torch.arange(640.0)
    result = select_vocabulary(model, tokenizer, usefulness, 600)
    assert result.kept.tolist() == list(range(600))
    assert result.model.config.vocab_size == 600
    with pytest.raises(ValueError, match=r"257\.\.600, got 601"):
        select_vocabulary(model, tokenizer, usefulness, 601)
