"""The model reads k tokens and no more, learns where its selector can, and is saved whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    pipeline,
)

from topk_lib.models import TopKForSequenceClassification
from topk_lib.models.loading import encoder_path
from topk_lib.selectors import TaughtSelector, ids_to_batch, make_selector, selector_names, shorten

TEXTS = [
    "A film I would gladly sit through again, seams and all.",
    "Dull.",
    "It was not good, it was not bad, it was two hours long and I have nothing else to say of it at all.",
    "",
]
LABELS = [1, 0, 0, 1]
STEPS = 200


def built(folder: Path, selector: str = "first", k: int = 8, **options: Any) -> tuple[Any, Any]:
    model, tokenizer = TopKForSequenceClassification.from_encoder(folder, selector, k, **options)
    ids = tokenizer(TEXTS)["input_ids"]
    if isinstance(model.selector, TaughtSelector):
        model.selector.teach(ids, [torch.arange(len(i)).float() for i in ids], epochs=1)
    else:
        model.selector.fit(ids, LABELS)
    return model.eval(), tokenizer


def batch_of(tokenizer: Any, texts: list[str] = TEXTS) -> tuple[torch.Tensor, torch.Tensor]:
    return ids_to_batch(tokenizer(texts)["input_ids"])


@pytest.mark.parametrize("selector", selector_names())
def test_the_encoder_reads_what_shorten_keeps(selector: str, tiny_encoder: Path) -> None:
    model, tokenizer = built(tiny_encoder, selector)
    ids, mask = batch_of(tokenizer)
    seen = []
    model.encoder.base_model.encoder.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(args[0].shape), with_kwargs=True
    )
    with torch.no_grad():
        output = model(ids, mask)
        short, short_mask, chosen = shorten(model.selector, ids, mask, 8, tokenizer.all_special_ids)
        expected = model.encoder(input_ids=short, attention_mask=short_mask)
    assert seen[0][:2] == (4, 8)
    assert torch.equal(output.kept, chosen.indices)
    torch.testing.assert_close(output.logits, expected.logits)


@pytest.mark.parametrize("selector", selector_names())
def test_saved_and_read_back(selector: str, tiny_encoder: Path, tmp_path: Path) -> None:
    model, tokenizer = built(tiny_encoder, selector, positions="original", share=0.5)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert isinstance(again, TopKForSequenceClassification)
    ids, mask = batch_of(tokenizer)
    with torch.no_grad():
        old, new = model(ids, mask), again(ids, mask)
        classify = pipeline("text-classification", model=str(tmp_path), device="cpu")
        answers = classify(TEXTS, top_k=None)
    assert torch.equal(old.logits, new.logits)
    assert torch.equal(old.kept, new.kept)
    for answer, row in zip(answers, old.logits.softmax(-1), strict=True):
        found = {a["label"]: a["score"] for a in answer}
        assert found["LABEL_1"] == pytest.approx(float(row[1]), abs=1e-4)


def test_a_text_alone_is_classified_as_in_a_batch(tiny_encoder: Path) -> None:
    model, tokenizer = built(tiny_encoder, "gate", positions="original")
    with torch.no_grad():
        together = model(*batch_of(tokenizer)).logits
        alone = torch.cat([model(*batch_of(tokenizer, [text])).logits for text in TEXTS])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-5)


def tiny(kind: str) -> Any:
    sizes = {"vocab_size": 200, "max_position_embeddings": 40, "num_labels": 2}
    wide = {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    }  # fmt: skip
    torch.manual_seed(0)
    if kind == "bert":
        return BertForSequenceClassification(BertConfig(**sizes, **wide))
    if kind == "roberta":
        return RobertaForSequenceClassification(RobertaConfig(**sizes, **wide))
    return DistilBertForSequenceClassification(
        DistilBertConfig(**sizes, dim=16, n_layers=2, n_heads=2, hidden_dim=32)
    )


def saved(kind: str, folder: Path) -> Path:
    tiny(kind).save_pretrained(folder)
    AutoTokenizer.from_pretrained(encoder_path()).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert"])
def test_original_positions_are_those_of_the_text(kind: str, tmp_path: Path) -> None:
    saved(kind, tmp_path)
    model, _ = TopKForSequenceClassification.from_encoder(tmp_path, "head_tail", 4, positions="original")
    ids = torch.arange(5, 15)[None]
    reading = model.eval().select(ids)
    offset = 2 if kind == "roberta" else 0
    assert reading.positions.tolist() == [[p + offset for p in reading.chosen.indices[0].tolist()]]
    # reading all tokens at their places is reading the text
    model.config.k = 10
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, model.encoder.eval()(ids).logits)
    # of 80 tokens the last has the last place there is
    model.config.k = 4
    assert int(model.select(torch.randint(5, 190, (1, 80))).positions.max()) == model._most - 1 + offset  # type: ignore[operator]


def test_the_gate_has_gradients_and_gate_and_encoder_learn(tmp_path: Path) -> None:
    """One token of 40 says the class: only a gate that finds it does better than a coin."""
    torch.manual_seed(0)
    model, _ = TopKForSequenceClassification.from_encoder(
        saved("bert", tmp_path), "gate", 6, start_temperature=1.0, final_temperature=0.1
    )
    rng = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (512,), generator=rng)
    ids = torch.randint(110, 150, (512, 40), generator=rng)
    ids[:, 0], ids[:, -1] = 101, 102
    where = torch.randint(1, 39, (512,), generator=rng)
    ids[torch.arange(512), where] = 160 + labels
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    model.train()
    for step in range(STEPS):
        model.anneal(step / STEPS)
        rows = torch.randint(0, 512, (32,), generator=rng)
        loss = model(ids[rows], labels=labels[rows]).loss
        optimiser.zero_grad()
        loss.backward()
        if step == 0:
            assert all(float(p.grad.abs().sum()) > 0 for p in model.selector.parameters())  # type: ignore[union-attr]
        optimiser.step()
    model.eval()
    with torch.no_grad():
        output = model(ids)
    found = (output.kept == where[:, None]).any(-1)
    # By chance 4 of 38. Finding one class's token is enough: where it is not, the other class is.
    assert max(found[labels == 0].float().mean(), found[labels == 1].float().mean()) > 0.9
    assert (output.logits.argmax(-1) == labels).float().mean() > 0.9


def test_training_reads_k_tokens_only(tiny_encoder: Path) -> None:
    model, tokenizer = built(tiny_encoder, "gate")
    shapes = []
    model.encoder.base_model.encoder.register_forward_pre_hook(
        lambda _, args: shapes.append(args[0].shape[1])
    )
    model.train()(*batch_of(tokenizer), labels=torch.tensor(LABELS)).loss.backward()
    assert shapes == [8, 8, 8]  # the first time it makes sure that presence works
    shapes.clear()
    model(*batch_of(tokenizer), labels=torch.tensor(LABELS)).loss.backward()
    assert shapes == [8]
    shapes.clear()
    model.selector.requires_grad_(False)  # as peft does: the choice is hard, and without noise
    kept = [model(*batch_of(tokenizer), labels=torch.tensor(LABELS)).kept for _ in range(2)]
    assert torch.equal(*kept)
    assert shapes == [8, 8]


def test_history_remembers_what_was_read(tiny_encoder: Path) -> None:
    model, tokenizer = built(tiny_encoder, "history")
    ids, mask = batch_of(tokenizer)
    before = model.selector.scores(ids, mask)
    model.train()
    output = model(ids, mask, labels=torch.tensor(LABELS))
    output.loss.backward()
    read = (output.kept >= 0).sum() - 2 * len(TEXTS)  # [CLS] and [SEP] are no choice
    assert int(model.selector.count.sum()) == int(read)
    assert float(model.selector.total.abs().sum()) > 0
    assert model.selector.count[101] == 0
    assert not torch.equal(before, model.selector.scores(ids, mask))
    model.eval()
    count = model.selector.count.clone()
    model(ids, mask, labels=torch.tensor(LABELS)).loss.backward()
    assert torch.equal(count, model.selector.count)  # no learning from what is evaluated


def test_a_share_of_each_text(tiny_encoder: Path) -> None:
    model, tokenizer = built(tiny_encoder, "first", k=20, share=0.5)
    ids, mask = batch_of(tokenizer)
    kept = (model.select(ids, mask).chosen.indices >= 0).sum(-1)
    lengths = mask.sum(-1)
    assert kept.tolist() == [max(2, -(-n // 2)) for n in lengths.tolist()]


def test_a_batch_shares_its_budget(tiny_encoder: Path) -> None:
    model, tokenizer = built(tiny_encoder, "linear", k=6, spend="batch")
    ids, mask = batch_of(tokenizer)
    kept = (model.select(ids, mask).chosen.indices >= 0).sum(-1)
    assert int(kept.sum()) == int(mask.sum(-1).clamp(max=6).sum())
    assert kept.min() >= 2


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"k": 0}, ValueError, "k must be at least 1, got 0"),
        ({"k": 129}, ValueError, "k = 129 is more than the encoder reads: choose k <= 128"),
        ({"positions": "middle"}, ValueError, "positions must be one of compact, original"),
        ({"selector": "best"}, ValueError, "unknown selector 'best'"),
        ({"speed": 2}, TypeError, "no option 'speed': choose from share, spend"),
        ({"start_temperature": 0.0}, ValueError, "temperature must be above 0"),
        ({"start_temperature": "warm"}, TypeError, "start_temperature must be a number, got 'warm'"),
        ({"k": 8.0}, TypeError, r"k must be a whole number, got 8\.0"),
        ({"k": True}, TypeError, "k must be a whole number, got True"),
        ({"share": 1.5}, ValueError, r"share must be above 0 and at most 1, got 1\.5"),
        ({"seed": 2**64}, ValueError, f"seed must be at most {2**64 - 1}"),
        ({"max_length": 2}, ValueError, "max_length = 2 leaves no token beside the 2 special ones"),
        ({"max_length": 0}, ValueError, "max_length must be at least 2, got 0"),
        ({"max_length": -5}, ValueError, "max_length must be at least 2, got -5"),
        ({"labels": "positive"}, TypeError, "labels must be a list of names, got 'positive'"),
        ({"labels": ["a", "a"]}, ValueError, "labels must be at least one name, each once"),
        ({"problem_type": "ranking"}, ValueError, "problem_type must be one of single_label_class"),
    ],
)
def test_bad_options(
    options: dict[str, Any], kind: type[Exception], message: str, tiny_encoder: Path
) -> None:
    with pytest.raises(kind, match=message):
        TopKForSequenceClassification.from_encoder(tiny_encoder, **options)


def test_special_tokens_typed_into_a_text_stop_nobody(tiny_encoder: Path) -> None:
    model, tokenizer = built(tiny_encoder)
    ids, mask = batch_of(tokenizer, [TEXTS[0], "[SEP]" * 40, f"Good. {'[CLS]' * 40}"])
    with torch.no_grad():
        output = model(ids, mask)
        alone = model(*batch_of(tokenizer, TEXTS[:1]))
    assert output.kept.tolist()[1] == list(range(8))
    assert (output.kept >= 0).all()
    assert output.logits.isfinite().all()
    torch.testing.assert_close(output.logits[:1], alone.logits, rtol=1e-4, atol=1e-5)


def test_k_that_cannot_hold_the_special_tokens(tiny_encoder: Path) -> None:
    model, tokenizer = built(tiny_encoder, k=1)
    with pytest.raises(ValueError, match="k = 1 cannot hold the 2 special tokens"):
        model(*batch_of(tokenizer))


def test_not_fitted(tiny_encoder: Path) -> None:
    model, tokenizer = TopKForSequenceClassification.from_encoder(tiny_encoder, "linear", 8)
    with pytest.raises(RuntimeError, match="the linear selector has not been fitted"):
        model(*batch_of(tokenizer))


def test_a_fitted_selector_can_be_given(tiny_encoder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    ids = tokenizer(TEXTS)["input_ids"]
    chi2 = make_selector("chi2", vocabulary=30522).fit(ids, LABELS)
    model, _ = TopKForSequenceClassification.from_encoder(tiny_encoder, chi2, 8)
    assert torch.equal(model.selector.table, chi2.table)  # type: ignore[arg-type]
    with torch.no_grad():
        assert model(*ids_to_batch(ids)).logits.shape == (4, 2)


@pytest.mark.parametrize("selector", ["gate", "history", "frequency"])
def test_a_half_precision_encoder_keeps_its_selector_whole(
    selector: str, tiny_encoder: Path, tmp_path: Path
) -> None:
    model, tokenizer = built(tiny_encoder, selector)
    batch = batch_of(tokenizer)
    kept = model(*batch).kept
    model.save_pretrained(tmp_path / "whole")
    half = AutoModelForSequenceClassification.from_pretrained(tmp_path / "whole", dtype=torch.bfloat16)
    assert half.get_input_embeddings().weight.dtype == torch.bfloat16
    assert all(x.dtype == torch.float32 for x in half.selector.state_dict().values())
    assert half(*batch).logits.dtype == torch.bfloat16
    half.save_pretrained(tmp_path / "half")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "half", dtype="auto")
    assert torch.equal(again(*batch).logits, half(*batch).logits)
    assert (model.half()(*batch).kept == kept).float().mean() > 0.9  # a gate's embeddings were rounded


def test_two_texts_keep_their_token_types(tiny_encoder: Path) -> None:
    model, tokenizer = built(tiny_encoder, k=64)
    pairs = tokenizer(TEXTS[:2], TEXTS[2:], return_tensors="pt", padding=True)
    with torch.no_grad():
        torch.testing.assert_close(model(**pairs).logits, model.encoder(**pairs).logits)
        model.config.k = 20
        short = model.select(**pairs)
    assert torch.equal(short.token_type_ids, pairs["token_type_ids"][:, :20])


def test_what_else_the_encoder_gives(tiny_encoder: Path) -> None:
    model, tokenizer = built(tiny_encoder)
    batch = batch_of(tokenizer)
    with torch.no_grad():
        output = model(*batch, output_hidden_states=True)
        parts = model(*batch, return_dict=False)
    assert [h.shape[1] for h in output.hidden_states] == [8, 8, 8]
    assert torch.equal(parts[0], output.logits)
    none = model(
        input_ids=batch[0], attention_mask=batch[1], inputs_embeds=None, labels=None, return_dict=None,
        output_attentions=None, output_hidden_states=None,
    )  # fmt: skip
    assert torch.equal(none.logits, output.logits)  # peft's wrapper passes such
    assert none.hidden_states is None
    model.config.output_hidden_states = True
    assert len(model(*batch).hidden_states) == 3
    with pytest.raises(TypeError, match="reads input_ids, and takes no inputs_embeds"):
        model(*batch, inputs_embeds=torch.zeros(4, 8, 16))
    with pytest.raises(TypeError, match="reads input_ids, and takes no others"):
        model(attention_mask=batch[1])


def test_numbers_of_numpy_are_numbers(tiny_encoder: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"share": 0.5, "max_length": 20, "keep_after": {0: 6}}
    one, tokenizer = built(tiny_encoder, "gate", 8, seed=3, **options)
    other, _ = built(
        tiny_encoder, "gate", np.int64(8), seed=np.int64(3), share=np.float32(0.5), max_length=np.int32(20),  # type: ignore[arg-type]
        keep_after={np.int64(0): np.int64(6)},
    )  # fmt: skip
    assert one.config.to_dict() == other.config.to_dict()
    other.save_pretrained(tmp_path)  # JSON knows no numbers of numpy
    with torch.no_grad():
        torch.testing.assert_close(one(*batch_of(tokenizer)).kept, other(*batch_of(tokenizer)).kept)


@pytest.mark.parametrize("seed", [2**63, 2**64 - 1, -1, np.uint64(2**64 - 1)])
def test_seeds_of_64_bits(seed: Any, tiny_encoder: Path) -> None:
    for name in ("random", "gate"):
        model, tokenizer = built(tiny_encoder, name, seed=seed)
        assert model(*batch_of(tokenizer)).kept.shape == (4, 8)


@pytest.mark.parametrize("selector", ["first", "tfidf", "gate", "history"])
def test_a_resized_vocabulary_is_saved(selector: str, tiny_encoder: Path, tmp_path: Path) -> None:
    model, tokenizer = built(tiny_encoder, selector)
    ids, mask = batch_of(tokenizer)
    before = model(ids, mask)
    for size in (30530, 30000):  # larger, then smaller
        model.resize_token_embeddings(size)
        assert torch.equal(model(ids, mask).logits, before.logits)
        strange = ids.clone()
        strange[:, 1] = size - 1
        new = model(strange, mask)
        model.save_pretrained(tmp_path)
        again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
        assert again.config.encoder.vocab_size == size
        assert torch.equal(again(strange, mask).logits, new.logits)
        assert torch.equal(again(strange, mask).kept, new.kept)


@pytest.mark.parametrize("selector", ["head_tail", "gate", "tfidf"])
def test_max_length_is_the_models_own(selector: str, tiny_encoder: Path, tmp_path: Path) -> None:
    """The model cuts as its tokenizer does, on whatever side padding stands: pipelines cut nothing."""
    model, tokenizer = built(tiny_encoder, selector, k=6, max_length=12)
    assert tokenizer.model_max_length == 12
    texts = [*TEXTS, "one two three " + "awful " * 200 + "end"]
    cut = tokenizer(texts, truncation=True, padding=True, return_tensors="pt")
    assert cut["input_ids"].shape[1] == 12
    with torch.no_grad():
        expected = model(**cut)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    with torch.no_grad():
        for side in ("right", "left"):
            whole = tokenizer(texts, padding=True, return_tensors="pt", padding_side=side)
            found = again(**whole)
            torch.testing.assert_close(found.logits, expected.logits)
            if side == "right":
                assert torch.equal(found.kept, expected.kept)
    assert int(expected.kept.max()) == 11  # the token that closes a text is kept, and moves up
    answers = pipeline("text-classification", model=str(tmp_path), device="cpu")(texts)
    for answer, row in zip(answers, expected.logits.softmax(-1), strict=True):
        assert answer["score"] == pytest.approx(float(row.max()), abs=1e-5)
    longer = AutoModelForSequenceClassification.from_pretrained(tmp_path, max_length=None)
    assert int(longer(**whole).kept.max()) > 11


@pytest.mark.parametrize("positions", ["compact", "original"])
def test_the_side_of_the_padding_does_not_matter(positions: str, tiny_encoder: Path) -> None:
    model, tokenizer = built(tiny_encoder, "head_tail", positions=positions)
    with torch.no_grad():
        right = model(*batch_of(tokenizer)).logits
        tokenizer.padding_side = "left"
        left = tokenizer(TEXTS, return_tensors="pt", padding=True)
        left = model(left["input_ids"], left["attention_mask"]).logits
    torch.testing.assert_close(left, right)


def test_each_kind_of_encoder_takes_its_dropout(tmp_path: Path) -> None:
    for kind in ("bert", "roberta", "distilbert"):
        tiny(kind).save_pretrained(tmp_path / kind)
        AutoTokenizer.from_pretrained(encoder_path()).save_pretrained(tmp_path / kind)
        model, _ = TopKForSequenceClassification.from_encoder(tmp_path / kind, k=8, attention_dropout=0.25)
        rates = [m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)]
        rates += [m.dropout_prob for m in model.modules() if hasattr(m, "dropout_prob")]
        config = model.config.encoder
        assert 0.25 in (
            getattr(config, "attention_dropout", None), getattr(config, "attention_probs_dropout_prob", None)
        )  # fmt: skip
        assert 0.25 in rates


def test_the_encoder_of_such_a_model_can_be_taken(tiny_encoder: Path, tmp_path: Path) -> None:
    model, tokenizer = built(tiny_encoder, "linear")
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again, _ = TopKForSequenceClassification.from_encoder(tmp_path, "first", 8, attention_dropout=0.0)
    for new, old in zip(again.encoder.parameters(), model.encoder.parameters(), strict=True):
        assert torch.equal(new, old)
