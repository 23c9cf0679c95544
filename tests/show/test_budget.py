"""The counted costs against real models: parameters and FLOPs exactly."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
)

from topk_lib import hard_topk, show
from topk_lib.models import load_encoder

SMALL = {"vocab": 50, "hidden": 16, "layers": 3, "intermediate": 40, "heads": 2}


def bert(**sizes: int) -> Any:
    config = BertConfig(
        vocab_size=sizes["vocab"], hidden_size=sizes["hidden"], num_hidden_layers=sizes["layers"],
        intermediate_size=sizes["intermediate"], num_attention_heads=sizes["heads"], num_labels=3,
        attn_implementation="eager",
    )  # fmt: skip
    return BertForSequenceClassification(config).eval()


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def watched(model: Any, *args: Any, **kwargs: Any) -> tuple[Any, int]:
    # Eager attention: the counter does not know the fused attention of CPUs.
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        out = model(*args, **kwargs)
    return out, counter.get_total_flops()


def test_the_default_encoder() -> None:
    model, _ = load_encoder()
    model.eval().set_attn_implementation("eager")
    counted = show.cost(**show.SIZES["MiniLM"], n=40, batch=3)  # type: ignore[arg-type]
    assert counted.parameters == parameters(model)
    assert counted.weights == 4 * counted.parameters
    assert counted.flops == watched(model, torch.full((3, 40), 2000))[1]


def test_the_size_of_the_article_s_model() -> None:
    sizes = show.SIZES["BERT-base"]
    config = BertConfig(vocab_size=28996)  # bert-base-cased; the other sizes are the defaults
    with torch.device("meta"):
        model = BertForSequenceClassification(config)
    assert show.cost(**sizes, n=128).parameters == parameters(model)  # type: ignore[arg-type]


@pytest.mark.parametrize("n", [1, 7, 64])
def test_an_encoder(n: int) -> None:
    model = bert(**SMALL)
    counted = show.cost("encoder", **SMALL, n=n, batch=2, classes=3)
    out, flops = watched(model, torch.ones(2, n, dtype=torch.int64))
    assert (counted.parameters, counted.flops) == (parameters(model), flops)
    assert counted.logits == out.logits.nbytes
    assert counted.cache == 0
    bare = BertModel(model.config, add_pooling_layer=False).eval()
    counted = show.cost("encoder", **SMALL, n=n, classes=0)
    assert counted.parameters == parameters(bare)
    assert counted.flops == watched(bare, torch.ones(1, n, dtype=torch.int64))[1]


def test_one_step_of_a_decoder() -> None:
    config = GPT2Config(
        vocab_size=50, n_embd=16, n_layer=3, n_head=2, n_inner=40, n_positions=32, bos_token_id=0,
        eos_token_id=0, attn_implementation="eager",
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval()
    counted = show.cost("decoder", **SMALL, n=9, batch=2, positions=32)
    with torch.inference_mode():
        past = model(torch.ones(2, 8, dtype=torch.int64), use_cache=True).past_key_values
    out, flops = watched(model, torch.ones(2, 1, dtype=torch.int64), past_key_values=past)
    assert (counted.parameters, counted.flops) == (parameters(model), flops)
    assert counted.logits == out.logits.nbytes
    layers = out.past_key_values.layers
    assert counted.cache == sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)


class Experts(nn.Module):
    """A feed-forward layer in which each expert takes its k tokens."""

    def __init__(self, d: int, f: int, experts: int, k: int) -> None:
        super().__init__()
        self.router = nn.Linear(d, experts, bias=False)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(d, f), nn.GELU(), nn.Linear(f, d)) for _ in range(experts)
        )
        self.k = k

    def forward(self, x: Tensor) -> Tensor:
        chosen = hard_topk(self.router(x).softmax(-1), self.k, dim=0).indices
        for expert, block in enumerate(self.blocks):
            x = x.index_add(0, chosen[:, expert], block(x[chosen[:, expert]]))
        return x


@pytest.mark.parametrize("k", [0, 3, 5])
def test_experts(k: int) -> None:
    layer = Experts(16, 40, 4, k)
    dense = nn.Sequential(nn.Linear(16, 40), nn.GELU(), nn.Linear(40, 16))
    one = show.cost("encoder", **SMALL, n=12)
    four = show.cost("encoder", **SMALL, n=12, experts=4, k=k)
    added = parameters(layer) - parameters(dense)
    assert four.parameters - one.parameters == SMALL["layers"] * added
    x = torch.randn(12, 16)
    assert four.flops - one.flops == SMALL["layers"] * (watched(layer, x)[1] - watched(dense, x)[1])


def attention_on_k_keys(x: Tensor, k: int) -> Tensor:
    """One head without biases: every query scores all keys, and gathers the values of the k best."""
    query, key, value = x, x, x
    chosen = hard_topk(query @ key.T, k)
    weights = chosen.values.softmax(-1)  # (n, k)
    return (weights[:, None] @ value[chosen.indices]).squeeze(1)


@pytest.mark.parametrize("keys", [1, 5, 12])
def test_attention_on_k_keys(keys: int) -> None:
    x = torch.randn(12, SMALL["hidden"])
    fewer, full = (show.cost("encoder", **SMALL, n=12, keys=k) for k in (keys, None))
    got, flops = watched(lambda x: attention_on_k_keys(x, keys), x)
    saved = watched(lambda x: attention_on_k_keys(x, 12), x)[1] - flops
    assert full.flops - fewer.flops == SMALL["layers"] * saved
    assert full[0] == fewer[0]
    assert full[2:] == fewer[2:]
    if keys == 12:
        torch.testing.assert_close(got, (x @ x.T).softmax(-1) @ x)


def test_a_long_text_turns_the_shares_round() -> None:
    full, chosen, words = show.cost_of_choice("sequence, decoder", 1 / 64, show.SIZES["large"], n=131072)
    assert words == "k = 2,048 of 131,072 positions"
    assert round(chosen.flops / full.flops, 2) == 0.18
    assert round(full.cache / 1e9) == 137
    assert round(full.weights / 1e9) == 30
    full, chosen, _ = show.cost_of_choice("attention, decoder", 1 / 64, show.SIZES["large"], n=131072)
    assert chosen.cache == full.cache
    short, few, _ = show.cost_of_choice("sequence, decoder", 1 / 64, show.SIZES["large"], n=256)
    assert few.flops / short.flops > 0.98


class Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of all tensors made and not yet freed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self.seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        for tensor in tree_leaves(out):
            if not isinstance(tensor, Tensor):
                continue
            storage = tensor.untyped_storage()
            key, size = storage._cdata, storage.nbytes()
            if storage.data_ptr() not in given and key not in self.seen:
                self.seen.add(key)
                self.now += size
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self.freed, key, size)
        return out

    def freed(self, key: int, size: int) -> None:
        self.now -= size
        self.seen.discard(key)


@pytest.mark.parametrize(("hidden", "intermediate"), [(16, 64), (64, 32), (48, 192)])
def test_activations_are_what_is_alive(hidden: int, intermediate: int) -> None:
    sizes = SMALL | {"hidden": hidden, "intermediate": intermediate}
    model = bert(**sizes)
    model.set_attn_implementation("sdpa")  # fused: the (n, n) scores are not stored
    with torch.inference_mode(), Live() as live:
        model(torch.ones(4, 128, dtype=torch.int64))
    assert show.cost("encoder", **sizes, n=128, batch=4).activations == pytest.approx(live.peak, rel=0.1)


def test_what_each_choice_changes() -> None:
    def ratios(choice: str) -> tuple[float, float, float]:
        a, b, _ = show.cost_of_choice(choice, 0.5, show.SIZES["MiniLM"])
        return b.parameters / a.parameters, b.flops / a.flops, b.working / a.working

    assert ratios("vocabulary, encoder")[0] < 0.8
    assert ratios("vocabulary, encoder")[1:] == (1, 1)
    assert ratios("vocabulary, decoder")[1] < 0.8
    assert ratios("sequence, encoder")[0] == 1
    assert ratios("sequence, encoder")[1] < 0.5
    assert ratios("sequence, decoder")[2] < 0.55
    assert ratios("routing")[0] > 1.3
    assert 1 < ratios("routing")[1] < 1.001
    assert ratios("attention, encoder")[1] < 1
    assert ratios("attention, encoder")[::2] == (1, 1)
    assert ratios("attention, decoder")[1] < 1
    assert ratios("attention, decoder")[::2] == (1, 1)
    assert ratios("decoding") == (1, 1, 1)
    words = [show.cost_of_choice(c, 0.25, show.SIZES["MiniLM"])[2] for c in show.CHOICES]
    assert words[0] == "k = 7,630 of 30,522 token types"
    assert words[2] == words[3] == "k = 64 of 256 positions"
    assert words[4] == "4 experts, each takes k = 64 of 256 tokens"
    assert words[5] == words[6] == "each query reads k = 64 of 256 keys"
    assert words[7] == "k = 7,630 of 30,522 candidates"


def test_the_whole_is_no_choice() -> None:
    for choice in show.CHOICES:
        full, chosen, _ = show.cost_of_choice(choice, 1.0, show.SIZES["MiniLM"])
        assert full == chosen


def test_the_figure_names_what_it_shows() -> None:
    figure = show.cost_change("routing", 0.25, show.SIZES["MiniLM"])
    assert isinstance(figure, Figure)
    axes = figure.axes[0]
    assert axes.get_title() == "4 experts, each takes k = 64 of 256 tokens"
    assert [t.get_text().split(":")[0] for t in axes.texts] == ["parameters", "FLOPs", "working memory"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "both"}, 'kind must be "encoder" or "decoder"'),
        ({"vocab": 0}, "vocab must be at least 1, got 0"),
        ({"experts": 0}, "experts must be at least 1, got 0"),
        ({"classes": -1}, "classes must be at least 0, got -1"),
        ({"heads": 3}, "heads must divide hidden = 16, got 3"),
        ({"n": 513}, "n must be at most positions = 512, got 513"),
        ({"k": 9}, "k must be at most 8"),
        ({"k": -1}, "k must be at least 0"),
        ({"keys": 9}, "keys must lie between 1 and n = 8, got 9"),
        ({"keys": 0}, "keys must lie between 1 and n = 8, got 0"),
    ],
)
def test_bad_sizes(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        show.cost(**{**SMALL, "n": 8, **change})


def test_bad_choices() -> None:
    with pytest.raises(ValueError, match="choice must be one of vocabulary, encoder"):
        show.cost_of_choice("tokens", 0.5, SMALL)
    for share in (0.0, 1.5):
        with pytest.raises(ValueError, match="budget must lie above 0"):
            show.cost_of_choice("decoding", share, SMALL)
