"""A cache that keeps k entries is the model's own where k is enough, and what its way says where not."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel, MistralConfig, MistralForCausalLM

from topk_lib import checks, hard_topk
from topk_lib.attention import WAYS, Indexer, KeptCache, choose_keys

DROPS = ("window", "heavy", "votes")


def some_ids(*shape: int) -> Tensor:
    return torch.randint(3, 64, shape, generator=torch.Generator().manual_seed(1))


def cache_of(model: Any, k: int, way: str, **settings: Any) -> KeptCache:
    torch.manual_seed(0)
    indexer = Indexer.of(model, heads=2, head_width=4) if way == "indexer" else None
    return KeptCache(model, k, way, indexer=indexer, **settings)


@torch.inference_mode()
def generated(model: Any, cache: KeptCache | None, ids: Tensor, **settings: Any) -> list[list[int]]:
    given = {
        "attention_mask": (ids != 0).long(),
        "max_new_tokens": 8,
        "do_sample": False,
        "eos_token_id": None,
    }
    more = {} if cache is None else {"past_key_values": cache}
    return model.generate(ids, **given, **more, **settings)[:, ids.shape[1] :].tolist()  # type: ignore[no-any-return]


@torch.inference_mode()
def logits_by(model: Any, cache: KeptCache, ids: Tensor, piece: int) -> Tensor:
    out = [model(part, past_key_values=cache).logits for part in torch.split(ids, piece, 1)]
    return torch.cat(out, 1)


@pytest.mark.parametrize("way", WAYS)
def test_enough_is_the_models_own_cache(llama: Any, way: str) -> None:
    ids = some_ids(3, 12)
    ids[0, :5], ids[2, :1] = 0, 0
    full = generated(llama, None, ids)
    assert generated(llama, cache_of(llama, 20, way), ids) == full
    assert generated(llama, cache_of(llama, 500, way, per="layer"), ids) == full
    beams = generated(llama, None, ids, num_beams=2)
    assert generated(llama, cache_of(llama, 20, way), ids, num_beams=2) == beams
    if way in DROPS:
        assert generated(llama, cache_of(llama, 20, way, positions="cache"), ids) == full
    assert generated(llama, cache_of(llama, 6, way), ids) != full


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("per", ["head", "layer"])
def test_padding_changes_nothing(llama: Any, way: str, per: str) -> None:
    ids = some_ids(2, 16)
    ids[0, :9] = 0
    for settings in ({}, {"positions": "cache"}) if way in DROPS else ({},):
        together = cache_of(llama, 6, way, per=per, **settings)
        alone = cache_of(llama, 6, way, per=per, **settings)
        assert generated(llama, together, ids)[0] == generated(llama, alone, ids[:1, 9:])[0]
        assert torch.equal(together.kept()[:, 0, :, 9:], alone.kept()[:, 0])
        assert not together.kept()[:, 0, :, :9].any()


@pytest.mark.parametrize("way", DROPS)
def test_no_more_than_k_are_kept(llama: Any, way: str) -> None:
    cache = cache_of(llama, 7, way)
    whole = 0
    for piece in torch.split(some_ids(2, 30), [20, 3, 1, 1, 2, 3], 1):
        llama(piece, past_key_values=cache)
        assert (cache.kept().sum(-1) == 7).all()
        assert [layer.keys.shape[2] for layer in cache.layers] == [7, 7]
        whole += piece.shape[1]
        assert cache.get_seq_length() == cache.kept().shape[-1] == whole
    assert cache.keeps == 7
    assert (cache.kept()[..., :3]).all()  # pinned
    assert (cache.kept()[..., -1]).all()


@pytest.mark.parametrize(("way", "k", "floats", "first"), [("window", 6, 0, 2), ("exact", 6, 0, 0)])
def test_bytes_are_what_is_held(llama: Any, way: str, k: int, floats: int, first: int) -> None:
    cache = cache_of(llama, k, way, first=first)
    assert cache.bytes == 0
    logits_by(llama, cache, some_ids(1, 10), 10)
    m = k if way == "window" else 10
    places = 8 * 2 * m
    assert cache.bytes == 2 * (2 * 4 * 2 * m * 8 + places)  # layers (keys and values of 2 heads of width 8)
    cache.reset()
    assert cache.bytes == cache.get_seq_length() == 0


def test_a_window_is_full_attention_with_a_mask(llama: Any) -> None:
    ids, k, first = some_ids(2, 20), 6, 2
    cache = KeptCache(llama, k, "window", first=first)
    got = logits_by(llama, cache, ids, 1)
    at = torch.arange(20)
    back = at[:, None] - at
    mask = (back >= 0) & ((back < k - first) | (at < first))
    with torch.inference_mode():
        full = llama(ids, attention_mask=mask[None, None].expand(2, 1, -1, -1)).logits
    torch.testing.assert_close(got, full, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("positions", ["text", "cache"])
def test_kept_keys_stand_where_they_stood_or_side_by_side(one_layer: Any, positions: str) -> None:
    """In one layer a key is made of its token and its place: the model can be asked for it."""
    ids, k = some_ids(2, 20), 6
    got = logits_by(one_layer, KeptCache(one_layer, k, "window", first=2, positions=positions), ids, 1)
    kept = torch.tensor([0, 1, 16, 17, 18, 19])
    places = kept if positions == "text" else torch.arange(k)
    with torch.inference_mode():
        one_layer.set_attn_implementation("eager")
        expected = one_layer(ids[:, kept], attention_mask=torch.ones(2, k), position_ids=places[None]).logits
    torch.testing.assert_close(got[:, -1], expected[:, -1], atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def weights_of(model: Any, ids: Tensor) -> Tensor:
    """(layers, batch, key heads, heads that share one, n, n): full attention."""
    model.set_attn_implementation("eager")
    return torch.stack(model(ids, output_attentions=True).attentions).reshape(
        -1, len(ids), 2, 2, *[ids.shape[1]] * 2
    )


@pytest.mark.parametrize("per", ["head", "layer"])
def test_a_prompt_is_read_in_full_and_then_cut(llama: Any, per: str) -> None:
    ids = some_ids(2, 20)
    weights = weights_of(llama, ids)
    for way, window, received in (
        ("heavy", 3, weights.sum((3, 4))),
        ("votes", 4, F.avg_pool1d(weights[..., -4:, :].sum((3, 4)).flatten(0, 1), 5, 1, 2).view(2, 2, 2, 20)),
    ):
        cache = KeptCache(llama, 8, way, first=2, window=window, per=per)
        logits_by(llama, cache, ids, 20)
        if per == "layer":
            received = received.mean(2, keepdim=True).repeat(1, 1, 2, 1)
        received[..., :2] = received[..., -window:] = torch.inf
        assert torch.equal(cache.kept(), hard_topk(received, 8).mask)


def test_heavy_hitters_step_by_step(one_layer: Any) -> None:
    """In one layer queries and keys do not depend on what was dropped, so that each step can be retold."""
    ids, k, first, window = some_ids(1, 16), 6, 1, 2
    cache = KeptCache(one_layer, k, "heavy", first=first, window=window)
    logits_by(one_layer, cache, ids, 1)
    fits = weights_of(one_layer, ids)[0, 0].log()  # up to a constant a row, the scores
    for head in range(2):
        held, received = list[int](), dict[int, float]()
        for t in range(16):
            while len(held) > k - 1:
                free = [j for j in held if j >= first and j < t - window]
                held.remove(min(free, key=lambda j: (received[j], -j)))
            held.append(t)
            received[t] = 0.0
            shares = fits[head, :, t, held].softmax(-1).sum(0)
            for j, share in zip(held, shares.tolist(), strict=True):
                received[j] += share
        assert cache.kept()[0, 0, head].nonzero().flatten().tolist() == held


def test_votes_are_cast_where_the_keys_stand_now(one_layer: Any) -> None:
    """Side by side: as the model reads what is held, as if there had been nothing else."""
    ids, k, first, window = some_ids(1, 24), 8, 1, 2
    cache = KeptCache(one_layer, k, "votes", first=first, window=window, positions="cache")
    logits_by(one_layer, cache, ids, 1)
    for head in range(2):
        held = list[int]()
        for t in range(24):
            if len(held) == k:
                cast = weights_of(one_layer, ids[:, held])[0, 0, head, :, -window:].sum((0, 1))
                votes = F.avg_pool1d(cast[None], 5, 1, 2)[0].tolist()
                del held[min(range(first, k - window), key=lambda at: (votes[at], -at))]
            held.append(t)
        assert cache.kept()[0, 0, head].nonzero().flatten().tolist() == held


def test_exact_reads_k_from_all(llama: Any) -> None:
    ids = some_ids(2, 20)
    with torch.inference_mode(), choose_keys(llama, 5, first=1, window=2):
        expected = llama(ids, use_cache=False).logits
    for piece in (1, 7, 20):
        cache = KeptCache(llama, 5, "exact", first=1, window=2)
        torch.testing.assert_close(logits_by(llama, cache, ids, piece), expected, atol=1e-4, rtol=1e-4)
        assert cache.keeps is None
        assert cache.kept().all()


def test_an_indexer_reads_k_from_all(llama: Any) -> None:
    ids = some_ids(2, 20)
    cache = cache_of(llama, 5, "indexer", first=1)
    assert cache.plan.indexer is not None
    with torch.inference_mode(), choose_keys(llama, 5, first=1, indexer=cache.plan.indexer):
        expected = llama(ids, use_cache=False).logits
        assert checks.check_prefix(lambda t: llama(t, use_cache=False).logits).startswith(("Right", "Almost"))
    torch.testing.assert_close(logits_by(llama, cache, ids, 3), expected, atol=1e-4, rtol=1e-4)
    with torch.inference_mode(), choose_keys(llama, 5):
        assert not torch.allclose(llama(ids, use_cache=False).logits, expected, atol=1e-2)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("piece", [1, 3])
def test_no_way_looks_ahead(llama: Any, way: str, piece: int) -> None:
    answer = checks.check_prefix(lambda ids: logits_by(llama, cache_of(llama, 4, way), ids, piece))
    assert answer.startswith(("Right", "Almost"))  # what was dropped is not noticed


def test_with_a_choice_the_model_is_itself_again_afterwards(llama: Any) -> None:
    ids = some_ids(2, 9)
    with torch.inference_mode():
        before = llama(ids).logits
        with choose_keys(llama, 2), choose_keys(llama, 9):
            torch.testing.assert_close(llama(ids).logits, before, atol=1e-4, rtol=1e-4)
        with choose_keys(llama, 3):
            with choose_keys(llama, 2):
                pass
            chosen = llama(ids).logits
        assert not torch.allclose(chosen, before, atol=1e-2)
        assert llama.config._attn_implementation == "sdpa"
        assert torch.equal(llama(ids).logits, before)
        cache = KeptCache(llama, 3)
        assert torch.equal(llama(ids).logits, before)  # ours, but nobody asks it to choose
        assert cache.get_seq_length() == 0


def test_a_chosen_encoder_reads_both_ways() -> None:
    torch.manual_seed(0)
    bert = BertModel(
        BertConfig(
            vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
        )
    ).eval()
    ids, mask = some_ids(2, 8), torch.ones(2, 8)
    mask[0, 5:] = 0
    with torch.inference_mode():
        full = bert(ids, attention_mask=mask)[0]
        with choose_keys(bert, 8):
            torch.testing.assert_close(bert(ids, attention_mask=mask)[0][mask > 0], full[mask > 0])
        with choose_keys(bert, 2):
            some = bert(ids, attention_mask=mask)[0]
            alone = bert(ids[:1, :5])[0]
    torch.testing.assert_close(some[:1, :5], alone)
    assert not torch.allclose(some, full, atol=1e-3)


def test_one_reading_serves_all_ways(llama: Any) -> None:
    torch.manual_seed(0)
    indexer = Indexer.of(llama, heads=2, head_width=4)
    ids, rest = torch.split(some_ids(2, 20), [16, 4], 1)
    whole = KeptCache(llama, 1000, "exact", record=True, indexer=indexer)
    logits_by(llama, whole, ids, 16)
    for way in WAYS:
        straight = KeptCache(llama, 8, way, indexer=indexer if way == "indexer" else None)
        if way in DROPS:
            logits_by(llama, straight, ids, 16)
        else:  # these two read a prompt with k keys a query, the copy has read it in full
            straight = KeptCache(llama, 1000, way, indexer=straight.plan.indexer)
            logits_by(llama, straight, ids, 16)
            straight = straight.copy(way, 8)
        copied = whole.copy(way, 8)
        assert torch.equal(copied.kept(), straight.kept())
        assert copied.bytes == straight.bytes
        torch.testing.assert_close(logits_by(llama, copied, rest, 1), logits_by(llama, straight, rest, 1))
    assert whole.get_seq_length() == 16
    with pytest.raises(ValueError, match="record=True"):
        KeptCache(llama, 8, "window").copy("votes", 4)
    with pytest.raises(ValueError, match="record=True"):
        whole.copy("votes", 400, window=50)


def test_values_are_read_in_the_order_they_are_kept(llama: Any) -> None:
    cache = KeptCache(llama, 6, "votes")
    logits_by(llama, cache, some_ids(1, 20), 20)
    for layer in cache.layers:
        for places in layer.places[0].tolist():
            assert all(a < b for a, b in pairwise(places))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"way": "h2o"}, "way must be one of window, heavy, votes, exact, indexer"),
        ({"k": 0}, "k must be an int of at least 1, got 0"),
        ({"k": 2.5}, "k must be an int"),
        ({"first": 5, "window": 4, "way": "heavy"}, "at most k = 8 together"),
        ({"per": "token"}, 'per must be "head" or "layer"'),
        ({"positions": "none"}, 'positions must be "text" or "cache"'),
        ({"positions": "cache", "way": "exact"}, "keeps all"),
        ({"way": "indexer"}, "needs indexer="),
        ({"way": "indexer", "indexer": Indexer(3, 32)}, "made for 3 layers of width 32"),
    ],
)
def test_bad_settings_are_said_in_one_sentence(llama: Any, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        KeptCache(llama, **({"k": 8} | settings))


def test_models_that_do_not_fit_are_refused(llama: Any) -> None:
    sliding = MistralConfig(
        vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, sliding_window=4,
    )  # fmt: skip
    with pytest.raises(ValueError, match="layers all read everything"):
        KeptCache(MistralForCausalLM(sliding), 4)
    gpt = GPT2LMHeadModel(GPT2Config(vocab_size=8, n_embd=8, n_layer=1, n_head=2))
    with pytest.raises(ValueError, match='leave positions="text"'):
        KeptCache(gpt, 4, positions="cache")
    with pytest.raises(ValueError, match="cannot be replaced"), choose_keys(torch.nn.Linear(2, 2), 1):
        pass
    cache = KeptCache(llama, 4)
    llama.set_attn_implementation("sdpa")
    llama(some_ids(1, 3), past_key_values=cache)
    with pytest.raises(ValueError, match="did not read from this cache"):
        llama(some_ids(1, 3), past_key_values=cache)
    with pytest.raises(ValueError, match="cannot take tokens back"):
        cache.crop(-1)


def test_dropout_is_refused(llama: Any) -> None:
    llama.config.attention_dropout = 0.1
    for layer in llama.model.layers:
        layer.self_attn.attention_dropout = 0.1
    with choose_keys(llama, 2), pytest.raises(ValueError, match="set attention_dropout to 0"):
        llama.train()(some_ids(1, 4))


def test_a_choice_learns(llama: Any) -> None:
    ids = some_ids(2, 12)
    with choose_keys(llama.train(), 3):
        llama(ids, labels=ids).loss.backward()
    grads = [p.grad for p in llama.model.layers[0].self_attn.parameters()]
    assert all(g is not None and bool(g.isfinite().all()) and bool(g.any()) for g in grads)
