"""Attention over the k best keys is masked attention over them, and full attention where k is enough."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from topk_lib import checks
from topk_lib.attention import topk_attention


def some(
    q: int = 6, n: int = 6, *, heads: int = 4, shared: int = 2, d: int = 3, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, heads, q, d), (2, shared, n, d), (2, shared, n, 5))
    query, key, value = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return query.to(dtype), key.to(dtype), value.to(dtype)


def by_mask(
    query: Tensor, key: Tensor, value: Tensor, k: int, seen: Tensor, first: int = 0, window: int = 0
) -> Tensor:
    """The definition: a query at a time, with a mask, from keys that are repeated for each head."""
    group = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    fits = query @ key.mT / query.shape[-1] ** 0.5
    out = torch.zeros(*query.shape[:3], value.shape[-1], dtype=value.dtype)
    for b, h, i in torch.cartesian_prod(*map(torch.arange, fits.shape[:3])).tolist():
        may = seen.expand(fits.shape)[b, h, i].nonzero().flatten().tolist()
        must = {*may[:first], *may[len(may) - window :]}
        ranked = sorted(may, key=lambda j: (j not in must, -float(fits[b, h, i, j]), j))
        if chosen := sorted(ranked[:k]):
            out[b, h, i] = fits[b, h, i, chosen].softmax(-1) @ value[b, h, chosen]
    return out


def lower(q: int, n: int) -> Tensor:
    return torch.ones(q, n).tril(n - q).bool()[None, None]


@pytest.mark.parametrize("k", [1, 2, 3, 5])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("pins", [(0, 0), (1, 0), (0, 1), (1, 2)])
def test_is_masked_attention_over_the_chosen(k: int, causal: bool, pins: tuple[int, int]) -> None:
    if sum(pins) > k:
        return
    for q, n in ((6, 6), (2, 7)):
        given = some(q, n)
        seen = lower(q, n) if causal else torch.ones(1, 1, q, n).bool()
        expected = by_mask(*given, k, seen, *pins)
        for chunk in (None, 1, 4):
            got = topk_attention(*given, k, causal=causal, first=pins[0], window=pins[1], chunk=chunk)
            torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_enough_keys_are_full_attention(dtype: torch.dtype) -> None:
    given = some(dtype=dtype)
    full = F.scaled_dot_product_attention(*given, is_causal=True, enable_gqa=True)
    # With 5 keys of 6 only the last query leaves one out: the others come through the gathered path.
    for k, same in ((5, 5), (6, 6), (100, 6)):
        got = topk_attention(*given, k, causal=True)
        assert got.dtype == dtype
        close = 4 * torch.finfo(dtype).eps
        torch.testing.assert_close(got[:, :, :same], full[:, :, :same], atol=close, rtol=close)
    assert not torch.allclose(topk_attention(*given, 5, causal=True)[:, :, 5], full[:, :, 5])


def test_padding_is_not_read_and_a_query_without_keys_gets_zero() -> None:
    given = some()
    valid = torch.tensor([[True] * 6, [False, False, True, True, True, True]])
    seen = lower(6, 6) & valid[:, None, None]
    for k in (2, 6):
        got = topk_attention(*given, k, causal=True, valid=valid)
        torch.testing.assert_close(got, by_mask(*given, k, seen))
        assert not got[1, :, :2].any()
        torch.testing.assert_close(topk_attention(*given, k, valid=seen), got)
    pinned = topk_attention(*given, 2, causal=True, valid=valid, first=1, window=1)
    torch.testing.assert_close(pinned, by_mask(*given, 2, seen, 1, 1))


def test_other_scores_choose_and_attention_still_weighs() -> None:
    query, key, value = some()
    scores = torch.zeros(2, 1, 6, 6)
    scores[..., [1, 4]] = 1.0
    got = topk_attention(query, key, value, 2, scores=scores)
    only = topk_attention(query, key[:, :, [1, 4]], value[:, :, [1, 4]], 2)
    torch.testing.assert_close(got, only)
    each = topk_attention(query, key, value, 2, scores=scores.expand(2, 4, 6, 6), chunk=2)
    torch.testing.assert_close(each, only)


def test_ties_go_to_the_earlier_key() -> None:
    query, key = torch.ones(1, 1, 1, 1), torch.ones(1, 1, 4, 1)
    value = torch.arange(4.0)[None, None, :, None]
    assert topk_attention(query, key, value, 2).item() == 0.5


@pytest.mark.parametrize("k", [2, 4])
def test_gradients(k: int) -> None:
    given = [x.requires_grad_() for x in some(4, 4, heads=2, shared=1, d=2, dtype=torch.float64)]
    valid = torch.tensor([[True] * 4, [False, True, True, True]])

    def read(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return topk_attention(query, key, value, k, causal=True, valid=valid, first=1)

    assert torch.autograd.gradcheck(read, given)
    read(*given).sum().backward()  # type: ignore[no-untyped-call]
    assert all(x.grad is not None and bool(x.grad.isfinite().all()) for x in given)


def test_a_key_that_nobody_chose_gets_no_gradient() -> None:
    query, key, value = (x.requires_grad_() for x in some(q=1, heads=1, shared=1))
    topk_attention(query, key, value, 2).sum().backward()  # type: ignore[no-untyped-call]
    assert key.grad is not None
    assert value.grad is not None
    assert value.grad.any(-1).sum(-1).tolist() == [[2], [2]]
    assert (key.grad.any(-1) <= value.grad.any(-1)).all()


@pytest.mark.parametrize("pinned", [0, 1])
def test_no_query_looks_ahead(pinned: int) -> None:
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(16, 3 * 8, generator=generator)

    def model(ids: Tensor) -> Tensor:
        q, k, v = (part.reshape(*ids.shape, 2, 4).transpose(1, 2) for part in table[ids].chunk(3, -1))
        out = topk_attention(q, k, v, 4, causal=True, first=pinned, window=pinned)
        return out.transpose(1, 2).flatten(2)

    assert checks.check_prefix(model).startswith(("Right", "Almost"))  # a key may be nobody's choice


def test_nothing_to_do() -> None:
    query, key, value = some()
    assert topk_attention(query[:, :, :0], key, value, 2).shape == (2, 4, 0, 5)
    assert topk_attention(query[:0], key[:0], value[:0], 2).shape == (0, 4, 6, 5)


@pytest.mark.parametrize(
    ("change", "kind", "says"),
    [
        ({"k": 0}, ValueError, "k must be at least 1, got 0"),
        ({"k": 2.0}, TypeError, "k must be an int, got float"),
        ({"k": True}, TypeError, "k must be an int"),
        ({"first": -1}, ValueError, "first must be at least 0"),
        ({"k": 2, "first": 1, "window": 2}, ValueError, r"at most k = 2, got 1 \+ 2"),
        ({"query": torch.zeros(2, 6, 3)}, ValueError, "query must be"),
        ({"value": torch.zeros(2, 2, 5, 5)}, ValueError, "belong together"),
        ({"query": torch.zeros(2, 3, 6, 3)}, ValueError, "do not fit"),
        ({"query": torch.zeros(2, 4, 6, 4)}, ValueError, "do not fit"),
        ({"valid": torch.ones(2, 6)}, TypeError, "valid must be bool"),
        ({"valid": torch.ones(2, 5).bool()}, ValueError, "valid must be"),
        ({"scores": torch.zeros(2, 2, 6, 6)}, ValueError, "scores must be"),
    ],
)
def test_bad_input_is_said_in_one_sentence(change: dict[str, Any], kind: type[Exception], says: str) -> None:
    query, key, value = some()
    given: dict[str, Any] = {"query": query, "key": key, "value": value, "k": 2} | change
    with pytest.raises(kind, match=says):
        topk_attention(**given)


def test_infinite_scores_are_scores() -> None:
    query, key, value = some(q=1, n=3, heads=1, shared=1)
    scores = torch.tensor([-math.inf, 1.0, -math.inf]).expand(2, 1, 1, 3)
    got = topk_attention(query, key, value, 2, scores=scores)
    torch.testing.assert_close(got, topk_attention(query, key[:, :, :2], value[:, :, :2], 2))


def test_half_precision_does_not_overflow() -> None:
    """Dot products beyond 65,504, where float16 ends."""
    dice = torch.Generator().manual_seed(0)
    query, key, value = (
        (middle + torch.randn(1, 1, n, d, generator=dice)).half()
        for middle, n, d in ((30, 2, 128), (30, 6, 128), (0, 6, 4))
    )
    assert (query.float() @ key.float().mT).max() > 65_504
    for k in (5, 6):
        wide = topk_attention(query.float(), key.float(), value.float(), k)
        torch.testing.assert_close(topk_attention(query, key, value, k).float(), wide, rtol=0, atol=2e-3)
