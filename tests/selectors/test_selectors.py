"""Each rule keeps what it says, in the order of the text, with special tokens pinned."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.feature_selection import chi2
from sklearn.metrics import mutual_info_score
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from topk_lib.selectors import (
    DistilledSelector,
    GateSelector,
    HistorySelector,
    Selector,
    TaughtSelector,
    ids_to_batch,
    make_selector,
    select_tokens,
    selector_names,
    shorten,
)
from topk_lib.selectors.corpus import TableSelector, count_tokens

CLS, SEP = 101, 102
VOCABULARY = 128
TEXTS = [
    [CLS, 5, 6, 7, 5, 8, SEP],
    [CLS, 9, 5, SEP],
    [CLS, 6, 6, 6, 9, 9, 7, 7, 10, 11, SEP],
    [CLS, SEP],
]
LABELS = [0, 1, 0, 1]
LEARN_FROM_LABELS = (
    "chi2", "mutual_information", "linear", "distinct", "keep_negation", "embedding", "gate", "history",
)  # fmt: skip
COUNT = ("frequency", "tfidf", "tfidf_corpus", "chi2", "mutual_information", "linear", "distinct")
NEGATION = 9

corpora = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=12), min_size=4, max_size=12)


def embedding(table: torch.Tensor | None = None) -> nn.Embedding:
    if table is None:
        table = torch.randn(VOCABULARY, 8, generator=torch.Generator().manual_seed(0))
    vocabulary, width = table.shape
    return nn.Embedding(vocabulary, width, _weight=table)


def tiny_encoder(layers: int = 2) -> Any:
    """A BERT on these token types, without dropout's luck while it answers."""
    torch.manual_seed(0)
    encoder = BertForSequenceClassification(BertConfig(
        vocab_size=VOCABULARY, hidden_size=8, num_hidden_layers=layers, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=32,
    ))  # fmt: skip
    encoder.set_input_embeddings(embedding())
    return encoder.eval()


def built(name: str, **options: Any) -> Selector:
    if name == "keep_negation":
        options = {"negations": [NEGATION]} | options
    selector = make_selector(name, seed=3, vocabulary=VOCABULARY, **options)
    if name == "contextual":
        return selector.attach_encoder(tiny_encoder())
    return selector.attach(embedding()) if selector.needs_embeddings else selector


@pytest.fixture(scope="module", params=selector_names())
def selector(request: pytest.FixtureRequest) -> Selector:
    """Each selector, ready to score."""
    one = built(request.param)
    if isinstance(one, TaughtSelector):
        one.teach(TEXTS, [torch.arange(len(text)).float() for text in TEXTS], epochs=1)
    else:
        one.fit(TEXTS, LABELS)
    if isinstance(one, HistorySelector):
        one.observe(torch.tensor([5, 6, 6, 9]), torch.tensor([2.0, -1.0, 0.5, 0.1]))
    return one.requires_grad_(False)


def is_subsequence(part: list[int], whole: list[int]) -> bool:
    rest = iter(whole)
    return all(token in rest for token in part)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(1, 12), max_size=20), min_size=1, max_size=6), st.integers(2, 25))
def test_keeps_k_in_text_order_with_specials(selector: Selector, bodies: list[list[int]], k: int) -> None:
    texts = [[CLS, *body, SEP] for body in bodies]
    for text, kept in zip(texts, select_tokens(selector, texts, k, [CLS, SEP]), strict=True):
        assert len(kept) == min(k, len(text))
        assert kept[0] == CLS
        assert kept[-1] == SEP
        assert is_subsequence(kept, text)


def test_choice_does_not_depend_on_the_batch(selector: Selector) -> None:
    together = select_tokens(selector, TEXTS, 5, [CLS, SEP])
    alone = [select_tokens(selector, [text], 5, [CLS, SEP])[0] for text in TEXTS]
    assert together == alone


def test_smaller_k_is_part_of_larger_k(selector: Selector) -> None:
    batch = ids_to_batch(TEXTS)
    masks = [shorten(selector, *batch, k, [CLS, SEP])[2].mask for k in range(2, 12)]
    for small, large in itertools.pairwise(masks):
        assert bool((large | ~small).all())


def test_its_state_is_all_that_it_learned(selector: Selector) -> None:
    again = built(selector.name, **selector.options())
    again.load_state_dict(selector.state_dict())
    batch = ids_to_batch(TEXTS)
    assert torch.equal(selector.scores(*batch), again.scores(*batch))


def test_the_embeddings_stay_the_encoders(selector: Selector) -> None:
    held = [*selector.parameters(), *selector.buffers()]
    assert all(tensor.shape != embedding().weight.shape for tensor in held)


def test_first() -> None:
    assert select_tokens(make_selector("first"), [[1, 2, 3, 4, 5]], 3) == [[1, 2, 3]]


def test_last() -> None:
    assert select_tokens(make_selector("last"), [[1, 2, 3, 4, 5]], 3) == [[3, 4, 5]]
    assert select_tokens(make_selector("last"), [[CLS, 2, 3, 4, SEP]], 3, [CLS, SEP]) == [[CLS, 4, SEP]]


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


def table_of(name: str, texts: list[list[int]], labels: list[int] | None = None) -> np.ndarray:
    selector = make_selector(name, vocabulary=10).fit(texts, labels)
    assert isinstance(selector, TableSelector)
    return selector.table.double().numpy()


def labels_for(texts: list[list[int]]) -> list[int]:
    return [row % 2 for row in range(len(texts))]


@settings(max_examples=50, deadline=None)
@given(corpora)
def test_frequency_counts(texts: list[list[int]]) -> None:
    found = Counter(itertools.chain(*texts))
    assert table_of("frequency", texts).tolist() == [found[token] for token in range(10)]


def test_tfidf_is_counts_times_scikit_learns_idf() -> None:
    selector = make_selector("tfidf").fit(TEXTS, LABELS)
    ids, mask = ids_to_batch([[6, 6, 9]])
    idf = [torch.log(torch.tensor(5 / (1 + n))) + 1 for n in (2, 2)]
    expected = torch.stack([2 * idf[0], 2 * idf[0], idf[1]])
    assert torch.allclose(selector.scores(ids, mask)[0], expected)


@settings(max_examples=50, deadline=None)
@given(corpora)
def test_corpus_tfidf_is_the_mean_of_scikit_learns_vectors(texts: list[list[int]]) -> None:
    vectorizer = TfidfVectorizer(analyzer=list, vocabulary=range(10), lowercase=False)
    expected = np.asarray(vectorizer.fit_transform(texts).mean(0)).ravel()
    np.testing.assert_allclose(table_of("tfidf_corpus", texts), expected, rtol=1e-6)


@settings(max_examples=50, deadline=None)
@given(corpora)
def test_chi2_is_scikit_learns_and_pearsons(texts: list[list[int]]) -> None:
    labels = np.array(labels_for(texts))
    vectorizer = CountVectorizer(analyzer=list, vocabulary=range(10), lowercase=False)
    counts = vectorizer.fit_transform(texts)
    table = table_of("chi2", texts, labels.tolist())
    np.testing.assert_allclose(table, np.nan_to_num(chi2(counts, labels)[0]), rtol=1e-6)
    # Pearson: (observed - expected)^2 / expected, summed over the two classes
    observed = np.stack([counts.toarray()[labels == c].sum(0) for c in (0, 1)])
    expected = np.outer([np.mean(labels == 0), np.mean(labels == 1)], observed.sum(0))
    pearson = (observed - expected) ** 2 / np.where(expected == 0, 1, expected)
    np.testing.assert_allclose(table, pearson.sum(0), rtol=1e-6, atol=1e-9)


@settings(max_examples=50, deadline=None)
@given(corpora)
def test_mutual_information_of_label_and_presence(texts: list[list[int]]) -> None:
    labels = labels_for(texts)
    by_hand = [mutual_info_score(labels, [token in text for text in texts]) for token in range(10)]
    np.testing.assert_allclose(table_of("mutual_information", texts, labels), by_hand, atol=1e-7)


def test_mutual_information_of_a_perfect_sign_is_ln_2() -> None:
    table = table_of("mutual_information", [[1, 2, 2], [1], [2], [2]], [0, 0, 1, 1])
    # 1 always and 2 sometimes goes with label 0 or 1; 3 never occurs
    np.testing.assert_allclose(table[[1, 3]], [np.log(2), 0], atol=1e-7)
    assert 0 < table[2] < np.log(2)


def test_embedding_distance_by_hand() -> None:
    # Types 0 to 4 in the plane; label 0 holds 1, 1, 2 (centroid 2, 0), label 1 holds 3 (centroid -4, 3).
    table = torch.tensor([[2.0, 3.0], [0.0, 0.0], [6.0, 0.0], [-4.0, 3.0], [-1.0, 1.5]])
    selector = make_selector("embedding").attach(embedding(table))
    selector.fit([[1, 1, 2], [3]], [0, 1])
    far = 45**0.5  # between the centroids
    expected = torch.tensor([6 - 3, 5 - 2, 109**0.5 - 4, far, 0])
    scores = selector.scores(*ids_to_batch([[0, 1, 2, 3, 4]]))[0]
    assert torch.allclose(scores, expected, atol=1e-5)  # 0 is not in the texts, and has a score


def test_embedding_distance_with_three_classes_takes_the_nearest_two() -> None:
    table = torch.tensor([[0.0], [4.0], [100.0], [1.0]])
    selector = make_selector("embedding").attach(embedding(table))
    selector.fit([[0], [1], [2]], [0, 1, 2])
    assert selector.scores(*ids_to_batch([[3]])).tolist() == [[2.0]]  # 3 from 4.0, 1 from 0.0


def test_linear_prefers_tokens_that_tell_the_labels_apart() -> None:
    texts = [[1, 2, 50], [1, 3, 50], [1, 2, 51], [1, 3, 51]] * 5
    selector = make_selector("linear").fit(texts, [0, 0, 1, 1] * 5)
    assert select_tokens(selector, [[1, 2, 50, 3, 51]], 2) == [[50, 51]]


def test_linear_looks_at_every_class() -> None:
    texts = [[1, 5], [1, 6], [1, 7]] * 5
    selector = make_selector("linear").fit(texts, [0, 1, 2] * 5)
    scores = selector.scores(*ids_to_batch([[5, 6, 7, 1]]))[0]
    assert torch.allclose(scores[:3], scores[0].expand(3), rtol=1e-2)
    assert scores[3] < 0.1 * scores[0]


def test_a_gate_learns_what_it_is_taught() -> None:
    selector = DistilledSelector().attach(embedding())
    generator = torch.Generator().manual_seed(1)
    texts = torch.randint(1, 20, (40, 12), generator=generator)
    worth = torch.randn(VOCABULARY, generator=generator)
    targets = list(worth[texts])
    assert selector.teach(texts.tolist(), targets, epochs=60, batch_size=40, learning_rate=0.02) > 0.9
    scores = selector.scores(*ids_to_batch(texts.tolist())).detach()
    assert torch.corrcoef(torch.stack([scores.flatten(), worth[texts].flatten()]))[0, 1] > 0.95


def test_a_gate_starts_near_the_linear_rule() -> None:
    texts, labels = [[1, 2, 50], [1, 3, 50], [1, 2, 51], [1, 3, 51]] * 150, [0, 0, 1, 1] * 150
    gate = make_selector("gate", context=1).attach(embedding()).fit(texts, labels)
    assert select_tokens(gate, [[1, 2, 50, 3, 51]], 2) == [[50, 51]]


def test_history_shrinks_toward_the_gate() -> None:
    gate = GateSelector(seed=3).attach(embedding()).requires_grad_(False)
    history = HistorySelector(seed=3, prior=2.0)
    history.attach(embedding()).requires_grad_(False)
    ids, mask = ids_to_batch([[5, 6, 7]])
    before = gate.scores(ids, mask)
    assert torch.equal(history.scores(ids, mask), before)
    # Type 5 twice with mean 3, type 6 six times with mean 1: centre 1.5, spread sqrt(3) / 2.
    values = torch.tensor([2.0, 4.0, *[1.0] * 6, torch.nan])
    history.observe(torch.tensor([5, 5, *[6] * 6, 7]), values)
    trust = torch.tensor([2 / 4, 6 / 8, 0])
    known = (torch.tensor([3.0, 1.0, 0.0]) - 1.5) / (3**0.5 / 2)
    assert torch.allclose(history.scores(ids, mask), (1 - trust) * before + trust * known, atol=1e-5)


@pytest.mark.parametrize("name", COUNT)
def test_unknown_tokens_score_nothing(name: str) -> None:
    selector = make_selector(name).fit(TEXTS, LABELS)
    ids, mask = ids_to_batch([[29999]])
    assert selector.scores(ids, mask).tolist() == [[0.0]]


def test_errors_say_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"unknown selector 'best': choose one of .*first"):
        make_selector("best")
    with pytest.raises(TypeError, match=r"the first selector: .*hidden"):
        make_selector("first", hidden=8)
    with pytest.raises(ValueError, match="context must be odd and at least 1, got 4"):
        make_selector("gate", context=4)
    with pytest.raises(ValueError, match="prior must be above 0, got 0"):
        make_selector("history", prior=0)
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        select_tokens(make_selector("first"), TEXTS, 0)
    with pytest.raises(ValueError, match="cannot hold the 2 special tokens"):
        select_tokens(make_selector("first"), TEXTS, 1, [CLS, SEP])
    with pytest.raises(ValueError, match="token id 11 lies outside the vocabulary of 11"):
        count_tokens([[11]], 11)


@pytest.mark.parametrize("name", [*COUNT, "embedding"])
def test_not_fitted(name: str) -> None:
    with pytest.raises(RuntimeError, match=f"the {name} selector has not been fitted: call fit"):
        built(name).scores(*ids_to_batch(TEXTS))


@pytest.mark.parametrize("name", COUNT)
def test_nothing_to_count(name: str) -> None:
    with pytest.raises(ValueError, match="no token to count"):
        built(name).fit([[], []], [0, 1])


@pytest.mark.parametrize("name", ["embedding", "gate", "history", "taught", "distilled", "contextual"])
def test_embeddings_are_needed(name: str) -> None:
    selector = make_selector(name, vocabulary=VOCABULARY)
    learn: Callable[..., object] = selector.teach if isinstance(selector, TaughtSelector) else selector.fit
    with pytest.raises(RuntimeError, match=rf"the {name} selector reads token embeddings: call attach\("):
        learn(TEXTS, LABELS)


@pytest.mark.parametrize("name", LEARN_FROM_LABELS)
def test_labels_are_needed(name: str) -> None:
    selector = built(name)
    with pytest.raises(ValueError, match=f"the {name} selector learns from labels"):
        selector.fit(TEXTS)
    with pytest.raises(ValueError, match="texts of two labels are needed"):
        selector.fit(TEXTS, [1, 1, 1, 1])
    with pytest.raises(ValueError, match="each text needs a label: 4 texts, 2 labels"):
        selector.fit(TEXTS, [0, 1])


def test_distilled_needs_a_teacher() -> None:
    with pytest.raises(ValueError, match="learns from a teacher: call teach"):
        built("distilled").fit(TEXTS, LABELS)
    with pytest.raises(ValueError, match="give at least one with a token"):
        DistilledSelector().attach(embedding()).teach([[]], [torch.zeros(0)])


def test_no_texts() -> None:
    assert select_tokens(make_selector("first"), [], 4) == []


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_for_the_encoder(selector: Selector, dtype: torch.dtype) -> None:
    batch = ids_to_batch(TEXTS)
    before = selector.scores(*batch)
    selector.to(dtype)
    assert torch.equal(selector.scores(*batch), before)


def test_a_count_too_large_for_float16_survives_it() -> None:
    selector = make_selector("frequency").fit([[0] * 70_000 + [1]]).half()
    assert selector.scores(*ids_to_batch([[0, 1]])).tolist() == [[70_000.0, 1.0]]


def test_the_side_of_the_padding_does_not_matter(selector: Selector) -> None:
    text = TEXTS[2]
    left = torch.tensor([[0] * 9 + text]), torch.tensor([[0] * 9 + [1] * len(text)])
    chosen = shorten(selector, *left, 6, [CLS, SEP])[0].tolist()
    assert chosen == [select_tokens(selector, [text], 6, [CLS, SEP])[0]]


@pytest.mark.parametrize("name", COUNT)
def test_a_table_as_wide_as_the_ids_that_it_saw(name: str) -> None:
    fitted = make_selector(name).fit(TEXTS, LABELS)
    batch = ids_to_batch(TEXTS)
    before = fitted.scores(*batch)
    again = make_selector(name)
    again.load_state_dict(fitted.state_dict())
    assert torch.equal(again.scores(*batch), before)
    assert len(fitted.attach(embedding()).state_dict()["table"]) == VOCABULARY
    assert torch.equal(fitted.scores(*batch), before)


def test_one_token_is_enough_to_teach_a_gate() -> None:
    gate = built("gate")
    assert isinstance(gate, GateSelector)
    gate.teach([[5]], [torch.tensor([2.0])])
    assert gate.scores(*ids_to_batch([[5, 6]])).isfinite().all()
    assert all(p.grad is None for p in gate.parameters())  # the next optimiser begins afresh


def test_history_knows_how_the_loss_is_scaled() -> None:
    plain, scaled = built("history"), built("history")
    assert isinstance(plain, HistorySelector)
    assert isinstance(scaled, HistorySelector)
    ids, values = torch.tensor([5, 6]), torch.tensor([0.5, -1.0])
    plain.observe(ids, values)
    scaled.loss_scale = 1024.0
    scaled.observe(ids, 1024 * values)
    scaled.observe(ids[:1], torch.tensor([torch.inf]))  # an overflow says nothing
    assert torch.equal(plain.total, scaled.total)
    assert torch.equal(plain.count, scaled.count)


def _one_of_two(rank: int, file: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    history = built("history")
    assert isinstance(history, HistorySelector)
    for _ in range(3):
        history.observe(torch.tensor([5, 6 + rank]), torch.tensor([1.0, 2.0]))
        history.settle()
    assert history.count[[5, 6, 7]].tolist() == [6.0, 3.0, 3.0]
    assert history.total[[5, 6, 7]].tolist() == [6.0, 6.0, 6.0]
    torch.distributed.destroy_process_group()


def test_two_processes_share_one_history(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(  # type: ignore[attr-defined, no-untyped-call]
        _one_of_two, (str(tmp_path / "meet"),), nprocs=2
    )
