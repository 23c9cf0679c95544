from __future__ import annotations

import copy
import io
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForSequenceClassification, DistilBertConfig, GPT2Config

from topk_lib.models import load_encoder
from topk_lib.models.pruning import TokenPruner, _sees, _shortened
from topk_lib.ops import soft_topk

KINDS = ("bert", "roberta", "electra")
SPREAD = 3.0  # large weights, so that tokens differ in the attention they receive


def tiny(kind: str = "bert", attention: str = "sdpa", layers: int = 4, **options: Any) -> Any:
    """A random classifier in float64: a rounding error never decides which token is kept."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind, vocab_size=60, hidden_size=16, embedding_size=16, num_hidden_layers=layers,
        num_attention_heads=2, intermediate_size=32, max_position_embeddings=40, pad_token_id=1,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **options,
    )  # fmt: skip
    model = AutoModelForSequenceClassification.from_config(config, attn_implementation=attention).double()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.normal_(std=SPREAD / 16**0.5)
    return model.eval()


def texts(*lengths: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Ids and mask of random texts, padded on the right."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(4, 60, (len(lengths), max(lengths)), generator=generator)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return torch.where(mask.bool(), ids, 1), mask


def by_hand(
    model: Any, ids: Tensor, keep_after: dict[int, int], gates: Any = None
) -> tuple[Tensor, dict[int, list[int]]]:
    """Logits and kept positions of one text without padding, layer after layer."""
    hidden = model.base_model.embeddings(ids[None])
    if hasattr(model.base_model, "embeddings_project"):
        hidden = model.base_model.embeddings_project(hidden)
    places, kept = list(range(len(ids))), {}
    for number, layer in enumerate(model.base_model.encoder.layer):
        before, hidden = hidden, layer(hidden, None)
        if number not in keep_after:
            continue
        if gates is None:
            score = [0.0] * len(places)
            query, key = layer.attention.self.query(before)[0], layer.attention.self.key(before)[0]
            for part in (slice(0, 8), slice(8, 16)):
                for row in query[:, part]:
                    for i, p in enumerate((key[:, part] @ row / 8**0.5).softmax(0).tolist()):
                        score[i] += p
        else:
            score = (hidden[0] @ gates[str(number)].weight[0].to(hidden.dtype)).tolist()
        others = sorted(range(1, len(places)), key=lambda i: -score[i])
        chosen = sorted([0, *others[: keep_after[number] - 1]])
        hidden, places = hidden[:, chosen], [places[i] for i in chosen]
        kept[number] = places
    head = getattr(model.base_model, "pooler", None)
    return model.classifier(hidden if head is None else head(hidden))[0], kept


@pytest.mark.parametrize("by", ["attention", "gate"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_it_equals_dropping_tokens_by_hand(kind: str, attention: str, by: str) -> None:
    model = tiny(kind, attention)
    lengths, keep_after = (12, 7, 3, 1), {0: 8, 2: 4}
    ids, mask = texts(*lengths)
    pruner = TokenPruner(model, keep_after, by=by).double().eval()
    logits = model(input_ids=ids, attention_mask=mask).logits
    kept = pruner.kept
    pruner.remove()
    dropped = []
    for row, length in enumerate(lengths):
        expected, places = by_hand(
            model, ids[row, :length], keep_after, pruner.gates if by == "gate" else None
        )
        torch.testing.assert_close(logits[row], expected, atol=1e-10, rtol=1e-8)
        for number, k in keep_after.items():
            assert kept[number][row].tolist() == places[number] + [-1] * (k - len(places[number]))
        dropped.append(places[2] != places[0][:4])
    assert any(dropped)  # not the first k only


@pytest.mark.parametrize("by", ["attention", "gate"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_with_k_no_less_than_the_length_nothing_changes(kind: str, attention: str, by: str) -> None:
    model = tiny(kind, attention)
    ids, mask = texts(9, 4)
    for given_mask in (mask, None, mask.flip(1)):  # flipped: padding on the left
        expected = model(input_ids=ids, attention_mask=given_mask).logits
        pruner = TokenPruner(model, {0: 30, 1: 9}, by=by)
        assert torch.equal(model(input_ids=ids, attention_mask=given_mask).logits, expected)
        places = torch.arange(9).expand(2, -1)
        real = torch.ones_like(places) if given_mask is None else given_mask
        assert torch.equal(pruner.kept[1], places.where(real.bool() | (places == 0), -1))
        pruner.remove()


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 14), min_size=1, max_size=4),
    padding=st.integers(0, 4),
    sizes=st.lists(st.integers(1, 16), min_size=2, max_size=2),
    by=st.sampled_from(["attention", "gate"]),
    attention=st.sampled_from(["eager", "sdpa"]),
    seed=st.integers(0, 1000),
)
@torch.no_grad()
def test_neither_padding_nor_other_texts_matter(
    lengths: list[int], padding: int, sizes: list[int], by: str, attention: str, seed: int
) -> None:
    model = tiny("bert", attention)
    pruner = TokenPruner(model, {0: max(sizes), 1: min(sizes)}, by=by).double()
    ids, mask = texts(*lengths, seed=seed)
    wide = nn.functional.pad(ids, (0, padding), value=1)
    logits = model(input_ids=wide, attention_mask=nn.functional.pad(mask, (0, padding))).logits
    kept = pruner.kept[1]
    for row, length in enumerate(lengths):
        alone = model(input_ids=ids[row : row + 1, :length]).logits
        torch.testing.assert_close(logits[row : row + 1], alone, atol=1e-10, rtol=1e-8)
        assert [i for i in kept[row].tolist() if i >= 0] == pruner.kept[1][0].tolist()


@torch.no_grad()
def test_padding_on_the_left_leaves_the_first_position_in_its_place() -> None:
    model = tiny()
    pruner = TokenPruner(model, {0: 4})
    ids, mask = texts(8, 5)
    model(input_ids=ids.flip(1), attention_mask=mask.flip(1))
    assert pruner.kept[0][:, 0].tolist() == [0, 0]
    assert pruner.kept[0][1, 1:].min() >= 3


@pytest.mark.parametrize("by", ["attention", "gate"])
@torch.no_grad()
def test_later_layers_run_on_shorter_sequences(by: str) -> None:
    model = tiny()
    TokenPruner(model, {0: 6, 2: 3}, by=by)
    seen = []
    for layer in model.bert.encoder.layer:
        layer.register_forward_pre_hook(
            lambda _, args, kwargs: seen.append((args[0].shape[1], args[1].shape[-1])), with_kwargs=True
        )
    ids, mask = texts(10, 7)
    states = model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
    assert seen == [(10, 10), (6, 6), (6, 6), (3, 3)]
    assert [state.shape[1] for state in states] == [10, 6, 6, 3, 3]


@torch.no_grad()
def test_counted_flops_fall_to_what_the_lengths_say() -> None:
    model = tiny(attention="eager")
    ids, _ = texts(20, 20)

    def count(run: Any) -> int:
        with FlopCounterMode(display=False) as counter:
            run()
        return counter.get_total_flops()  # type: ignore[no-any-return]

    layer = model.bert.encoder.layer[0]
    whole, short = (count(lambda n=n: layer(torch.zeros(2, n, 16).double(), None)) for n in (20, 5))
    full = count(lambda: model(input_ids=ids))
    for by, choosing in (("gate", 2 * 2 * 20 * 16), ("attention", 2 * 2 * (2 * 20 * 16 * 16 + 20 * 20 * 16))):
        pruner = TokenPruner(model, {0: 5}, by=by)
        counted = count(lambda: model(input_ids=ids))
        pruner.remove()
        assert counted == full - 3 * (whole - short) + choosing
        assert counted < 0.6 * full


@pytest.mark.parametrize("kind", ["int", "bool", "float", "one query"])
def test_masks_of_all_kinds_are_shortened(kind: str) -> None:
    torch.manual_seed(0)
    at = torch.tensor([[0, 2, 5], [0, 4, 0]])
    filled = torch.tensor([[True, True, True], [True, True, False]])
    shape = {"int": (2, 6), "one query": (2, 1, 1, 6)}.get(kind, (2, 1, 6, 6))
    see = torch.rand(shape) < 0.7
    least = torch.finfo(torch.float32).min
    mask = {"int": see.long(), "float": torch.where(see, 0.0, least)}.get(kind, see)
    assert torch.equal(_sees(mask), see.reshape(2, 1, -1, 6))  # type: ignore[arg-type]
    shorter = _shortened(mask, at, filled)
    assert shorter is not None
    assert shorter.dtype == mask.dtype
    result = _sees(shorter)
    assert result is not None
    for row in range(2):
        for i in range(result.shape[2]):
            for j in range(3):
                query = 0 if result.shape[2] == 1 else int(at[row, i])
                old = bool(see.reshape(2, -1, 6)[row, query, at[row, j]])
                assert bool(result[row, 0, i, j]) == (old and bool(filled[row, j]))


def test_an_unknown_mask_is_refused() -> None:
    with pytest.raises(TypeError, match='mask of type str: load the model with attn_implementation="sdpa"'):
        _sees("block mask")


def test_gates_have_the_gradient_of_the_soft_weights_and_value_one() -> None:
    model = tiny()
    pruner = TokenPruner(model, {0: 4}, by="gate").double()
    ids, mask = texts(9, 9, 3)
    torch.manual_seed(5)
    logits = model(input_ids=ids, attention_mask=mask).logits
    logits[:, 0].sum().backward()
    (weight,), kept = pruner.parameters(), pruner.kept[0]
    assert weight.grad is not None
    found = weight.grad[0]
    pruner.remove()

    # By hand: how the logit answers to a factor on each kept state, times the slope of its soft weight.
    torch.manual_seed(5)
    noise = -torch.empty(3, 9).double().exponential_().log()
    expected = torch.zeros(16).double()
    for row in range(2):  # the third text is whole: its choice has no slope
        states = model.bert.embeddings(ids[row : row + 1])
        states = model.bert.encoder.layer[0](states, None).detach()
        twin = weight.detach()[0].clone().requires_grad_()
        scores = states[0] @ twin + noise[row]
        assert set(kept[row].tolist()) == {0, *(scores[1:].topk(3).indices + 1).tolist()}
        soft = soft_topk(scores[1:], 3)
        factor = torch.ones(4, dtype=torch.float64, requires_grad=True)
        hidden = states[:, kept[row]] * factor[:, None]
        for layer in model.bert.encoder.layer[1:]:
            hidden = layer(hidden, None)
        logit = model.classifier(model.bert.pooler(hidden))[0, 0]
        torch.testing.assert_close(logits[row, 0], logit, atol=1e-10, rtol=1e-8)
        logit.backward()
        assert factor.grad is not None
        expected += torch.autograd.grad((soft[kept[row, 1:] - 1] * factor.grad[1:]).sum(), twin)[0]
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-6)
    assert expected.abs().max() > 1e-6


def test_gates_are_steered_in_training_only() -> None:
    model = tiny()
    pruner = TokenPruner(model, {0: 4, 1: 2}, by="gate").double()
    ids, mask = texts(9, 6)
    drawn = []
    for _ in range(5):
        model(input_ids=ids, attention_mask=mask)
        drawn.append(pruner.kept[0])
    assert any(not torch.equal(kept, drawn[0]) for kept in drawn)  # with noise
    pruner.eval()
    for _ in range(5):
        logits = model(input_ids=ids, attention_mask=mask).logits
        assert torch.equal(logits, model(input_ids=ids, attention_mask=mask).logits)
    logits.sum().backward()
    assert all(weight.grad is None for weight in pruner.parameters())
    assert model.bert.encoder.layer[0].output.dense.weight.grad.abs().sum() > 0
    # Short texts: a gradient of 0 rather than none, which data-parallel training would wait for.
    pruner.train()
    model(input_ids=ids[:, :2]).logits.sum().backward()
    assert all(torch.equal(w.grad, torch.zeros_like(w)) for w in pruner.parameters())  # type: ignore[arg-type]


def test_attention_is_chosen_by_without_a_gradient() -> None:
    model = tiny()
    TokenPruner(model, {0: 4})
    ids, mask = texts(9, 6)
    model(input_ids=ids, attention_mask=mask).logits.sum().backward()
    for layer in model.bert.encoder.layer:
        assert layer.attention.self.query.weight.grad.abs().sum() > 0


@pytest.fixture
def one_thread() -> Iterator[None]:
    """For many steps on small tensors, where threads only wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_a_gate_learns_to_keep_the_token_that_tells() -> None:
    # Texts with token 4 have label 1; all other tokens are noise. The first layer mixes nothing: what
    # [CLS] is to know, the gate must keep. From this seed it is found in half of these steps, so that
    # another machine's rounding does not decide.
    model = tiny(layers=2).float()
    torch.manual_seed(4)
    model.init_weights()
    nn.init.zeros_(model.bert.encoder.layer[0].attention.output.dense.weight).requires_grad_(False)
    pruner = TokenPruner(model, {0: 3}, by="gate")
    optimiser = torch.optim.Adam([*model.parameters(), *pruner.parameters()], lr=5e-3)

    def batch(size: int) -> tuple[Tensor, Tensor]:
        ids, labels = torch.randint(5, 30, (size, 8)), torch.randint(0, 2, (size,))
        ids[:, 0] = 2
        place = torch.randint(1, 8, (size, 1))
        return ids.scatter(1, place, torch.where(labels[:, None] == 1, 4, ids.gather(1, place))), labels

    def found() -> tuple[float, float]:
        ids, labels = batch(500)
        pruner.eval()
        with torch.no_grad():
            right = model(input_ids=ids).logits.argmax(-1) == labels
        pruner.train()
        kept = (ids.gather(1, pruner.kept[0]) == 4).any(1)[labels == 1]
        return float(right.double().mean()), float(kept.double().mean())

    assert found()[1] < 0.5
    for _ in range(800):
        ids, labels = batch(32)
        loss = model(input_ids=ids, labels=labels).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert min(found()) > 0.9


@pytest.mark.parametrize("by", ["attention", "gate"])
def test_lower_precision(by: str) -> None:
    model = tiny().float()
    pruner = TokenPruner(model, {0: 5, 1: 3}, by=by)
    ids, mask = texts(9, 2)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(input_ids=ids, attention_mask=mask, labels=torch.tensor([0, 1])).loss
    loss.backward()
    assert loss.isfinite()
    if by == "gate":
        assert all(w.grad is not None and w.grad.isfinite().all() for w in pruner.parameters())
    pruner.eval()
    expected = model(input_ids=ids, attention_mask=mask).logits
    with torch.inference_mode():
        assert torch.equal(model(input_ids=ids, attention_mask=mask).logits, expected)
        logits = model.bfloat16()(input_ids=ids, attention_mask=mask).logits
    assert logits.dtype == torch.bfloat16
    assert logits.isfinite().all()
    assert (pruner.kept[1] >= 0).sum(-1).tolist() == [3, 2]


def test_the_state_holds_the_gates_alone() -> None:
    model = tiny()
    before = set(model.state_dict())
    pruner = TokenPruner(model, {2: 4, 0: 8}, by="gate")
    assert set(pruner.state_dict()) == {"gates.0.weight", "gates.2.weight"}
    assert set(model.state_dict()) == before
    assert sum(weight.numel() for weight in pruner.parameters()) == 32
    pruner.remove()
    assert not TokenPruner(model, {0: 8}).state_dict()


class Owner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = tiny()
        self.pruner = TokenPruner(self.encoder, {0: 6, 1: 3}, by="gate").double()

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        logits: Tensor = self.encoder(input_ids=ids, attention_mask=mask).logits
        return logits


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
@torch.no_grad()
def test_copies_stand_on_their_own(way: str) -> None:
    owner, (ids, mask) = Owner().eval(), texts(9, 5)
    expected = owner(ids, mask)
    if way == "deepcopy":
        twin = copy.deepcopy(owner)
    else:
        file = io.BytesIO()
        torch.save(owner, file)
        file.seek(0)
        twin = torch.load(file, weights_only=False)
    for weight in twin.pruner.parameters():
        weight.neg_()  # the worst are the best
    assert not torch.equal(twin(ids, mask), expected)
    assert torch.equal(owner(ids, mask), expected)
    assert not torch.equal(twin.pruner.kept[0], owner.pruner.kept[0])
    twin.pruner.remove()
    owner.pruner.remove()
    assert torch.equal(twin(ids, mask), owner(ids, mask))


@torch.no_grad()
def test_removed_it_leaves_no_trace() -> None:
    model, (ids, mask) = tiny(), texts(9, 5)
    expected = model(input_ids=ids, attention_mask=mask).logits
    pruner = TokenPruner(model, {0: 4})
    assert not torch.equal(model(input_ids=ids, attention_mask=mask).logits, expected)
    with pytest.raises(ValueError, match=r"has a pruner already: call that pruner's remove\(\) first"):
        TokenPruner(model, {0: 4})
    pruner.remove()
    pruner.remove()
    assert torch.equal(model(input_ids=ids, attention_mask=mask).logits, expected)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@torch.no_grad()
def test_threads_do_not_mix_their_texts() -> None:
    model, meeting = tiny(), threading.Barrier(2)
    inputs = [texts(9, 5, seed=1), texts(7, 7, seed=2)]
    alone = TokenPruner(model, {0: 4, 1: 3})
    expected = [model(input_ids=ids, attention_mask=mask).logits for ids, mask in inputs]
    alone.remove()
    # Both have left the first layer before either enters the second.
    model.bert.encoder.layer[1].register_forward_pre_hook(lambda *_: (meeting.wait(600), None)[1])
    TokenPruner(model, {0: 4, 1: 3})
    results: dict[int, Tensor] = {}

    def run(which: int) -> None:
        with torch.no_grad():
            ids, mask = inputs[which]
            results[which] = model(input_ids=ids, attention_mask=mask).logits

    threads = [threading.Thread(target=run, args=(which,)) for which in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(results[which], expected[which]) for which in range(2))


def test_gradient_checkpointing() -> None:
    model, (ids, mask) = tiny().train(), texts(9, 5)
    pruner = TokenPruner(model, {0: 6, 1: 3}, by="gate").double()

    def gradients() -> list[Tensor]:
        torch.manual_seed(0)
        weights = [*model.parameters(), *pruner.parameters()]
        model(input_ids=ids, attention_mask=mask).logits[:, 0].sum().backward()
        found = [w.grad.clone() for w in weights if w.grad is not None]
        for weight in weights:
            weight.grad = None
        return found

    expected = gradients()
    with warnings.catch_warnings():  # 5.23 gives it a new name
        warnings.simplefilter("ignore", FutureWarning)
        model.gradient_checkpointing_enable()
    if tuple(map(int, transformers.__version__.split(".")[:2])) < (5, 23):
        with pytest.raises(RuntimeError, match=r"gradient checkpointing: transformers 5\.23 or later"):
            gradients()
    else:
        for found, wanted in zip(gradients(), expected, strict=True):
            torch.testing.assert_close(found, wanted)


def test_a_layer_called_by_itself_says_what_is_missing() -> None:
    model = tiny()
    TokenPruner(model, {0: 4})
    with pytest.raises(RuntimeError, match="layer 2 was called outside a forward pass of its encoder"):
        model.bert.encoder.layer[2](torch.zeros(1, 3, 16).double())


@torch.no_grad()
def test_the_default_encoder() -> None:
    model, tokenizer = load_encoder()
    model.eval()
    inputs = tokenizer(
        ["A dull film.", "The plot creaks, but the leading actress is a wonder, and it moved me to tears."],
        padding=True, return_tensors="pt",
    )  # fmt: skip
    expected = model(**inputs).logits
    pruner = TokenPruner(model, {1: 64, 3: 64})
    assert torch.equal(model(**inputs).logits, expected)
    pruner.remove()
    pruner = TokenPruner(model, {1: 12, 3: 8})
    assert (model(**inputs).logits - expected).abs().max() < 0.3
    assert pruner.kept[3][0].tolist() == [*range(6), -1, -1]
    assert set(pruner.kept[3][1].tolist()) < set(pruner.kept[1][1].tolist())


@pytest.mark.parametrize(
    ("keep_after", "by", "error", "message"),
    [
        ({}, "attention", ValueError, "keep_after is empty"),
        ([(0, 4)], "attention", TypeError, "must map layer numbers to numbers of tokens"),
        ({"0": 4}, "attention", TypeError, "must map layer numbers"),
        ({0: 4.0}, "attention", TypeError, "must map layer numbers"),
        ({0: True}, "attention", TypeError, "must map layer numbers"),
        ({3: 4}, "attention", ValueError, r"names layer 3: of 4 layers, .* can drop tokens, 0\.\.2"),
        ({-1: 4}, "attention", ValueError, "names layer -1"),
        ({0: 0}, "attention", ValueError, "at least 1 token"),
        ({2: 5, 0: 4}, "attention", ValueError, "must not keep more tokens after a later layer"),
        ({0: 4}, "norm", ValueError, "by must be one of attention, gate, got 'norm'"),
    ],
)
def test_bad_plans(keep_after: Any, by: str, error: type[Exception], message: str) -> None:
    model = tiny()
    with pytest.raises(error, match=message):
        TokenPruner(model, keep_after, by=by)
    assert not any(layer._forward_hooks for layer in model.bert.encoder.layer)


@pytest.mark.parametrize(
    "config",
    [
        DistilBertConfig(vocab_size=60, dim=16, n_layers=2, n_heads=2, hidden_dim=32),
        GPT2Config(vocab_size=60, n_embd=16, n_layer=2, n_head=2),
        AutoConfig.for_model("roberta-prelayernorm", vocab_size=60, hidden_size=16, num_hidden_layers=2,
                             num_attention_heads=2, intermediate_size=32),
        AutoConfig.for_model("esm", vocab_size=60, hidden_size=16, num_hidden_layers=2, pad_token_id=1,
                             num_attention_heads=2, intermediate_size=32),
    ],
    ids=lambda config: config.model_type,
)  # fmt: skip
def test_other_models_are_refused(config: Any) -> None:
    model = AutoModelForSequenceClassification.from_config(config)
    with pytest.raises(ValueError, match=f"those of {type(model).__name__} are others"):
        TokenPruner(model, {0: 4})


def test_what_is_no_encoder_is_refused() -> None:
    with pytest.raises(TypeError, match="model must be a transformers model, got str"):
        TokenPruner("bert-base-cased", {0: 4})
    with pytest.raises(ValueError, match="those of Linear are others"):
        TokenPruner(nn.Linear(2, 2), {0: 4})
    with pytest.raises(ValueError, match="would let a decoder look ahead"):
        TokenPruner(tiny(is_decoder=True), {0: 4})
