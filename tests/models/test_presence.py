"""At presence 1 a token is read as usual, at 0 as if it were not there; in between there is a slope."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DebertaV2Config,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    ElectraConfig,
    ElectraForSequenceClassification,
    PreTrainedConfig,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from topk_lib.models import TopKConfig, TopKForSequenceClassification
from topk_lib.models.presence import presence_mask
from topk_lib.selectors import ids_to_batch
from topk_lib.training import attributions

SIZES = {
    "vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 32, "max_position_embeddings": 40,
}  # fmt: skip
DISTIL = {"vocab_size": 50, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32}
PLACES = torch.arange(7)
CUT = 3  # the token whose presence is in question


def encoder(kind: str) -> Any:
    torch.manual_seed(0)
    made: Any = {
        "bert": lambda: BertForSequenceClassification(BertConfig(**SIZES)),
        "roberta": lambda: RobertaForSequenceClassification(RobertaConfig(**SIZES)),
        "electra": lambda: ElectraForSequenceClassification(ElectraConfig(**SIZES, embedding_size=16)),
        "distilbert": lambda: DistilBertForSequenceClassification(DistilBertConfig(**DISTIL)),
    }[kind]()
    for parameter in made.parameters():  # small random numbers would leave attention nearly even
        parameter.data = 3 * parameter.data if parameter.dim() > 1 else parameter.data
    return made.double().eval()


def logits(model: Any, mask: Tensor | None, places: Tensor = PLACES, rows: int = 1) -> Tensor:
    ids = torch.tensor([2, 9, 14, 30, 21, 8, 3])[places].expand(rows, -1)
    options = {"position_ids": (places + 2).expand(rows, -1)}
    if isinstance(model, DistilBertForSequenceClassification):
        options = {}
        model.distilbert.embeddings.position_embeddings.weight.data.zero_()
    found: Tensor = model(input_ids=ids, attention_mask=mask, **options).logits
    return found


def mask_of(model: Any, presence: Tensor, seen: Tensor | None = None) -> Tensor:
    seen = torch.ones_like(presence) if seen is None else seen
    return presence_mask(presence, seen, model.config, torch.float64)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ["bert", "roberta", "electra", "distilbert"])
def test_both_ends(kind: str, attention: str) -> None:
    model = encoder(kind)
    model.set_attn_implementation(attention)
    one = torch.ones(1, 7, dtype=torch.float64)
    torch.testing.assert_close(logits(model, mask_of(model, one)), logits(model, None))
    gone = one.clone()
    gone[0, CUT] = 1e-250
    without = logits(model, None, PLACES[PLACES != CUT])
    torch.testing.assert_close(logits(model, mask_of(model, gone)), without)
    assert (without - logits(model, None)).abs().max() > 1e-6
    half = one.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda u: logits(model, mask_of(model, u)), half)


def test_padding_is_never_read() -> None:
    model = encoder("bert")
    seen = torch.ones(2, 7, dtype=torch.int64)
    seen[1, 5:] = 0
    presence = torch.rand(2, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 0.5
    presence[1, 6] = 0  # whatever stands there
    presence.requires_grad_()
    both = logits(model, mask_of(model, presence, seen), rows=2)
    short = logits(model, mask_of(model, presence[1:, :5]), PLACES[:5])
    torch.testing.assert_close(both[1:], short)
    (slope,) = torch.autograd.grad(both[1].sum(), presence)
    assert slope[1, :5].abs().min() > 0
    assert not slope[1, 5:].any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_mask_has_the_dtype_of_what_is_read(dtype: torch.dtype) -> None:
    presence = torch.ones(1, 3, requires_grad=True)
    mask = presence_mask(presence, torch.tensor([[1, 1, 0]]), BertConfig(), dtype)
    assert mask.dtype == dtype
    assert mask.shape == (1, 1, 1, 3)
    assert mask.flatten().tolist() == [0, 0, torch.finfo(dtype).min]
    (slope,) = torch.autograd.grad(mask.float().sum(), presence)
    assert slope.isfinite().all()


def test_an_attention_that_takes_no_such_mask_is_refused() -> None:
    config = BertConfig()
    config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match=r'flash_attention_2 takes no mask that learns: .*"sdpa"'):
        presence_mask(torch.ones(1, 3), torch.ones(1, 3), config, torch.float32)


def selecting(config: PreTrainedConfig, selector: str = "gate") -> TopKForSequenceClassification:
    torch.manual_seed(0)
    return TopKForSequenceClassification(
        TopKConfig(encoder=config, selector={"name": selector}, k=4, special_ids=[2, 3])
    )


def test_an_encoder_that_takes_the_mask_for_something_else_is_refused() -> None:
    model = selecting(DebertaV2Config(**SIZES, relative_attention=True, pos_att_type=["p2c"]))
    # With fewer than k tokens its attention gives NaN for such a mask, which no comparison holds for.
    ids, mask = ids_to_batch([[2, 9, 3]])
    model.eval()(ids, mask)  # reading is no trouble
    with pytest.raises(ValueError, match="DebertaV2ForSequenceClassification cannot have tokens"):
        model.train()(ids, mask)
    with pytest.raises(ValueError, match="attributions need: choose an encoder whose attention adds"):
        attributions(model, [[2, 9, 14, 30, 21, 8, 3]])


def test_attributions_are_the_slopes_of_presence() -> None:
    model = selecting(BertConfig(**SIZES), "first").double().eval()
    texts = [[2, 9, 14, 30, 21, 8, 3], [2, 9, 3]]
    for ids, found in zip(texts, attributions(model, texts), strict=True):
        kept = model(torch.tensor([ids])).kept[0]
        kept = kept[kept >= 0]
        read = torch.tensor(ids)[kept]

        def margin(i: int, step: float, read: Tensor = read) -> float:
            presence = torch.ones(1, len(read), dtype=torch.float64)
            presence[0, i] += step
            mask = mask_of(model.encoder, presence)
            low, high = model.encoder(read[None], attention_mask=mask).logits[0].sort().values.tolist()
            return float(high - low)

        wanted = torch.zeros(len(ids))
        for i, place in enumerate(kept.tolist()):
            wanted[place] = abs(margin(i, 1e-5) - margin(i, -1e-5)) / 2e-5
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-7)
