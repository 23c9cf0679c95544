"""Each rule keeps what it says, in the order of the text, with special tokens pinned."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from topk_lib.selectors import (
    ids_to_batch,
    load_selector,
    make_selector,
    save_selector,
    select_tokens,
    selector_names,
    shorten,
)

CLS, SEP = 101, 102
TEXTS = [
    [CLS, 5, 6, 7, 5, 8, SEP],
    [CLS, 9, 5, SEP],
    [CLS, 6, 6, 6, 9, 9, 7, 7, 10, 11, SEP],
    [CLS, SEP],
]
LABELS = [0, 1, 0, 1]


def is_subsequence(part: list[int], whole: list[int]) -> bool:
    rest = iter(whole)
    return all(token in rest for token in part)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(selector_names()),
    st.lists(st.lists(st.integers(1, 12), max_size=20), min_size=1, max_size=6),
    st.integers(2, 25),
)
def test_keeps_k_in_text_order_with_specials(name: str, bodies: list[list[int]], k: int) -> None:
    selector = make_selector(name).fit(TEXTS, LABELS)
    texts = [[CLS, *body, SEP] for body in bodies]
    for text, kept in zip(texts, select_tokens(selector, texts, k, [CLS, SEP]), strict=True):
        assert len(kept) == min(k, len(text))
        assert kept[0] == CLS
        assert kept[-1] == SEP
        assert is_subsequence(kept, text)


@pytest.mark.parametrize("name", selector_names())
def test_choice_does_not_depend_on_the_batch(name: str) -> None:
    selector = make_selector(name).fit(TEXTS, LABELS)
    together = select_tokens(selector, TEXTS, 5, [CLS, SEP])
    alone = [select_tokens(selector, [text], 5, [CLS, SEP])[0] for text in TEXTS]
    assert together == alone


@pytest.mark.parametrize("name", selector_names())
def test_smaller_k_is_part_of_larger_k(name: str) -> None:
    selector = make_selector(name).fit(TEXTS, LABELS)
    batch = ids_to_batch(TEXTS)
    masks = [shorten(selector, *batch, k, [CLS, SEP])[2].mask for k in range(2, 12)]
    for small, large in itertools.pairwise(masks):
        assert bool((large | ~small).all())


def test_first() -> None:
    assert select_tokens(make_selector("first"), [[1, 2, 3, 4, 5]], 3) == [[1, 2, 3]]


def test_head_tail_is_a_quarter_and_three_quarters() -> None:
    text = [CLS, *range(200, 400), SEP]
    kept = select_tokens(make_selector("head_tail"), [text], 42, [CLS, SEP])[0]
    assert kept == [CLS, *range(200, 209), *range(369, 400), SEP] or kept == [
        CLS, *range(200, 210), *range(370, 400), SEP,
    ]  # fmt: skip


def test_random_depends_on_the_seed_and_covers_the_text() -> None:
    text = list(range(100))
    first = select_tokens(make_selector("random", seed=0), [text], 50)[0]
    second = select_tokens(make_selector("random", seed=1), [text], 50)[0]
    assert first != second
    # A fair draw of 50 in 100 has a mean position of 49.5 and a deviation of about 2.
    assert 40 < sum(first) / 50 < 59


def test_tfidf_is_counts_times_scikit_learns_idf() -> None:
    selector = make_selector("tfidf").fit(TEXTS, LABELS)
    ids, mask = ids_to_batch([[6, 6, 9]])
    idf = [torch.log(torch.tensor(5 / (1 + n))) + 1 for n in (2, 2)]
    expected = torch.stack([2 * idf[0], 2 * idf[0], idf[1]])
    assert torch.allclose(selector.scores(ids, mask)[0], expected)


def test_linear_prefers_tokens_that_tell_the_labels_apart() -> None:
    texts = [[1, 2, 50], [1, 3, 50], [1, 2, 51], [1, 3, 51]] * 5
    selector = make_selector("linear").fit(texts, [0, 0, 1, 1] * 5)
    assert select_tokens(selector, [[1, 2, 50, 3, 51]], 2) == [[50, 51]]


def test_unknown_tokens_score_nothing() -> None:
    selector = make_selector("linear").fit(TEXTS, LABELS)
    ids, mask = ids_to_batch([[29999]])
    assert selector.scores(ids, mask).tolist() == [[0.0]]


@pytest.mark.parametrize("name", selector_names())
def test_round_trip(name: str, tmp_path: Path) -> None:
    selector = make_selector(name, seed=3).fit(TEXTS, LABELS)
    save_selector(selector, tmp_path)
    again = load_selector(tmp_path)
    batch = ids_to_batch(TEXTS)
    assert torch.equal(selector.scores(*batch), again.scores(*batch))


def test_errors_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown selector 'best': choose one of .*first"):
        make_selector("best")
    with pytest.raises(RuntimeError, match=r"the tfidf selector has not been fitted: call fit"):
        make_selector("tfidf").scores(*ids_to_batch(TEXTS))
    with pytest.raises(ValueError, match="learns from labels"):
        make_selector("linear").fit(TEXTS)
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        select_tokens(make_selector("first"), TEXTS, 0)
    with pytest.raises(ValueError, match="cannot hold the 2 special tokens"):
        select_tokens(make_selector("first"), TEXTS, 1, [CLS, SEP])
    with pytest.raises(FileNotFoundError, match=r"no selector\.json"):
        load_selector(tmp_path)


def test_no_texts() -> None:
    assert select_tokens(make_selector("first"), [], 4) == []
