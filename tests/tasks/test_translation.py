"""Translation: the lexicon by hand, search beside a plain one, k types beside all, training that goes on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from topk_lib.data import load_set
from topk_lib.tasks import translation as tr
from topk_lib.tasks.translation import measures, model

SMALL = tr.TranslatorSettings(
    hidden_size=32, layers=1, heads=2, inner=64, dropout=0.0, epochs=3, batch_size=16, learning_rate=3e-3,
    precision="fp32",
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """The steps of a tiny model are so short that a second thread on a busy machine is only waited for."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def captions() -> tuple[Any, tr.Pairs]:
    """A tokenizer of 500 types, and 48 embedded pairs."""
    data = load_set("multi30k", "embedded", quiet=True)
    english, german = list(data["en"][:48]), list(data["de"][:48])
    tokenizer = tr.shared_tokenizer([*english, *german], 500)
    return tokenizer, tr.make_pairs(tokenizer, english, german)


@pytest.fixture(scope="module")
def translator(captions: tuple[Any, tr.Pairs]) -> Any:
    """A model with random weights: what search does must not rest on a good one."""
    return tr.new_translator(SMALL, captions[0]).eval()


def test_one_tokenizer_for_both_languages(captions: tuple[Any, tr.Pairs]) -> None:
    tokenizer, pairs = captions
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, len(tokenizer)) == (0, 1, 500)
    assert tr.texts_of(tokenizer, pairs.targets) == pairs.written
    assert tr.texts_of(tokenizer, [[*pairs.sources[0], 1, 0]]) == pairs.read[:1]
    (again,) = tr.make_pairs(tokenizer, ["Zwölf Übergrößen, 東京!"], [""]).sources
    assert tr.texts_of(tokenizer, [again]) == ["Zwölf Übergrößen, 東京!"]
    start, middle = tr.make_pairs(tokenizer, ["dog", "a dog"], ["", ""]).sources
    assert middle[-len(start) :] == start, "a word is the same at the start of a text"
    with pytest.raises(ValueError, match="each sentence needs its translation: got 2 and 1"):
        tr.make_pairs(tokenizer, ["a", "b"], ["c"])


def test_one_iteration_with_a_pencil() -> None:
    lexicon = tr.learn_lexicon([[2], [2, 3]], [[5], [5, 6]], 7, iterations=1)
    for source, odds in ((2, [5 / 7, 2 / 7]), (3, [1 / 2, 1 / 2]), (7, [5 / 7, 2 / 7])):
        targets, probabilities = lexicon.row(source)
        assert targets.tolist() == [5, 6]
        assert probabilities == pytest.approx(odds)
    assert lexicon.row(4)[0].size == 0
    assert lexicon.counts.tolist() == [0, 0, 0, 0, 0, 2, 1]
    assert lexicon.rank.tolist() == [2, 3, 4, 5, 6, 0, 1]
    assert lexicon.expected([2, 3])[5] == pytest.approx(5 / 7 + 1 / 2 + 5 / 7)


def by_dictionaries(
    sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], null: int, iterations: int
) -> dict[tuple[int, int], float]:
    t: dict[tuple[int, int], float] = defaultdict(lambda: 1.0)
    for _ in range(iterations):
        count: dict[tuple[int, int], float] = defaultdict(float)
        total: dict[int, float] = defaultdict(float)
        for source, target in zip(sources, targets, strict=True):
            for f in target:
                whole = sum(t[e, f] for e in [*source, null])
                for e in [*source, null]:
                    count[e, f] += t[e, f] / whole
                    total[e] += t[e, f] / whole
        t = defaultdict(float, {(e, f): c / total[e] for (e, f), c in count.items()})
    return dict(t)


@pytest.mark.parametrize("iterations", [1, 4])
def test_expectation_maximisation_is_that_of_the_paper(iterations: int) -> None:
    dice = np.random.default_rng(0)
    sources = [dice.integers(2, 9, dice.integers(1, 6)).tolist() for _ in range(30)]
    targets = [dice.integers(9, 15, dice.integers(0, 6)).tolist() for _ in range(30)]
    pairs = [(s, t) for s, t in zip(sources, targets, strict=True) if t]
    right = by_dictionaries([s for s, _ in pairs], [t for _, t in pairs], 15, iterations)
    lexicon = tr.learn_lexicon(sources, targets, 15, iterations=iterations, least=0.0)
    got = {(e, int(f)): p for e in range(16) for f, p in zip(*lexicon.row(e), strict=True)}
    assert got.keys() == right.keys()
    assert all(got[key] == pytest.approx(right[key]) for key in right)


def test_words_find_their_partners() -> None:
    # the house, the book, a book, a house: das Haus, das Buch, ein Buch, ein Haus
    sources, targets = [[2, 3], [2, 4], [5, 4], [5, 3]], [[6, 7], [6, 8], [9, 8], [9, 7]]
    lexicon = tr.learn_lexicon(sources, targets, 10, iterations=20)
    assert tr.alignment(lexicon, [5, 4], [9, 8]) == [0, 1]
    assert tr.alignment(lexicon, [4, 5], [9, 8]) == [1, 0]
    assert tr.alignment(lexicon, [2], [8]) == [-1], "the empty word is likelier"
    assert tr.candidates(lexicon, [5, 4], 3).tolist() == [1, 8, 9]


def test_learning_needs_pairs() -> None:
    with pytest.raises(ValueError, match="there is no pair"):
        tr.learn_lexicon([[1]], [[]], 4)
    with pytest.raises(ValueError, match="iterations must be 1 at least, got 0"):
        tr.learn_lexicon([[1]], [[2]], 4, iterations=0)


def test_k_types_in_their_order() -> None:
    lexicon = tr.learn_lexicon([[2], [2], [3]], [[6, 5], [6], [4, 4, 4]], 8)
    assert tr.candidates(lexicon, [2], 1).tolist() == [1]
    assert tr.candidates(lexicon, [2], 2).tolist() == [1, 6]
    assert tr.candidates(lexicon, [2], 2, common=1).tolist() == [1, 4], "the commonest comes first"
    assert tr.candidates(lexicon, [2], 3, common=1).tolist() == [1, 4, 6]
    assert tr.candidates(lexicon, [], 2, pinned=(0, 1)).tolist() == [0, 1]
    assert tr.candidates(lexicon, [7], 5).tolist() == [0, 1, 4, 5, 6], "of types never seen the lowest id"
    assert tr.candidates(lexicon, [2], 8).tolist() == list(range(8))
    for k in (0, 9):
        with pytest.raises(ValueError, match=f"k must be between 1 and 8, the types there are, got {k}"):
            tr.candidates(lexicon, [2], k)
    with pytest.raises(ValueError, match="common must be 0 or above"):
        tr.candidates(lexicon, [2], 2, common=-1)


def test_coverage_counts_tokens_and_whole_sentences() -> None:
    chosen = [torch.tensor([1, 5]), torch.tensor([1, 5, 6])]
    assert tr.coverage([[5, 5, 6], [6]], chosen) == (0.75, 0.5)


def test_what_is_read_of_a_source() -> None:
    counts = np.array([0, 0, 9, 5, 1, 5])
    source = [2, 3, 4, 2, 5]
    assert tr.kept_places(source, 0.6, "rare", counts) == [1, 2, 4]
    assert tr.shorten(source, 0.4, "common", counts) == [2, 2]
    assert tr.shorten(source, 0.2, "common", counts) == [2], "the first of equals"
    assert tr.shorten(source, 0.5, "first", counts) == [2, 3, 4], "rounded up"
    assert tr.shorten(source, 1.0, "random", counts) == source
    assert tr.shorten([], 0.5, "rare", counts) == []
    drawn = [tuple(tr.kept_places(source, 0.4, "random", counts, seed=seed)) for seed in range(20)]
    assert len(set(drawn)) > 3
    assert drawn[3] == tuple(tr.kept_places(source, 0.4, "random", counts, seed=3))
    assert len(tr.kept_places([2] * 30, 0.1, "first", counts)) == 3
    with pytest.raises(ValueError, match="there is no rule 'best'"):
        tr.shorten(source, 0.5, "best", counts)
    for share in (0, 1.1):
        with pytest.raises(ValueError, match="share must be above 0 and at most 1"):
            tr.shorten(source, share, "rare", counts)


@torch.inference_mode()
def plainly(model: Any, source: Sequence[int], beams: int, chosen: Tensor | None, alpha: float) -> list[int]:
    """Beam search on one sentence, without a cache: all types are computed, and the others masked."""
    ids = torch.tensor([[*source, 1]])
    mask = torch.full((model.config.vocab_size,), -torch.inf)
    mask[slice(None) if chosen is None else chosen] = 0
    mask[0] = -torch.inf
    live: list[tuple[float, list[int]]] = [(0.0, [])]
    done: list[tuple[float, list[int]]] = []
    for step in range(1, 2 * ids.shape[1] + 11):
        longer = []
        for score, text in live:
            logits = model(input_ids=ids, decoder_input_ids=torch.tensor([[0, *text]])).logits[0, -1]
            odds = (logits + mask).log_softmax(-1)
            longer += [(score + odds[i].item(), [*text, i]) for i in odds.isfinite().nonzero()[:, 0].tolist()]
        best = sorted(longer, key=lambda pair: -pair[0])[: 2 * beams]
        for score, text in best[:beams]:
            if text[-1] == 1 and len(done) < beams:
                done.append((score / step**alpha, text[:-1]))
        live = [pair for pair in best if pair[1][-1] != 1][:beams]
        if len(done) >= beams or not live:
            break
    return max(done, key=lambda pair: pair[0])[1] if done else live[0][1]


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("k", [2, 12, None])
def test_search_is_a_plain_one_with_the_other_types_masked(
    translator: Any, captions: tuple[Any, tr.Pairs], beams: int, k: int | None
) -> None:
    sources = [one[:4] for one in captions[1].sources[:6]]
    dice = torch.Generator().manual_seed(k or 0)
    drawn = [torch.randperm(498, generator=dice)[: k - 1] + 2 if k else None for _ in sources]
    chosen = [torch.cat([torch.tensor([1]), one]).sort().values for one in drawn if one is not None]
    got = tr.translate(translator, sources, beams=beams, chosen=chosen or None, alpha=0.6, batch_size=4)
    for i, source in enumerate(sources):
        types = chosen[i] if chosen else None
        assert got[i] == plainly(translator, source, beams, types, 0.6)
        assert types is None or set(got[i]) <= set(types.tolist())


def test_greedy_is_that_of_the_library(translator: Any, captions: tuple[Any, tr.Pairs]) -> None:
    source = captions[1].sources[0]
    ids = torch.tensor([[*source, 1]])
    theirs = translator.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, num_beams=1, suppress_tokens=[0],
        max_new_tokens=2 * ids.shape[1] + 10,
    )[0, 1:].tolist()  # fmt: skip
    (mine,) = tr.translate(translator, [source])
    assert mine == (theirs[: theirs.index(1)] if 1 in theirs else theirs)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("beams", [1, 4])
def test_with_all_types_nothing_changes(
    translator: Any, captions: tuple[Any, tr.Pairs], beams: int, shared: bool
) -> None:
    sources = [one[:8] for one in captions[1].sources[:10]]
    every = [torch.arange(500)] * len(sources)
    whole = tr.translate(translator, sources, beams=beams)
    assert tr.translate(translator, sources, beams=beams, chosen=every, shared=shared) == whole
    states = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(0))
    mine = tr.OutputRows(translator, every[:2], shared=shared).log_probs(states)
    torch.testing.assert_close(mine, tr.OutputRows(translator, None).log_probs(states))
    assert mine[..., 0].isneginf().all(), "padding is never written"


def test_rows_are_those_of_the_types(translator: Any) -> None:
    states = torch.randn(2, 1, 32, generator=torch.Generator().manual_seed(1))
    chosen = [torch.tensor([1, 7]), torch.tensor([1, 9, 30])]
    rows = tr.OutputRows(translator, chosen)
    full = translator.lm_head(states)
    assert rows.log_probs(states)[0, 0, 2].isneginf(), "the first has no third type"
    for i, types in enumerate(chosen):
        mine = rows.log_probs(states)[i, 0, : len(types)]
        torch.testing.assert_close(mine, full[i, 0, types].log_softmax(-1))
    assert rows.types(torch.tensor([[0, 1], [2, 1]])).tolist() == [[1, 7], [30, 9]]
    both = tr.OutputRows(translator, chosen, shared=True)
    assert both.types(torch.arange(4)[None]).tolist() == [[1, 7, 9, 30]]


def test_a_translation_does_not_depend_on_its_batch(translator: Any, captions: tuple[Any, tr.Pairs]) -> None:
    sources = [one[:n] for n, one in enumerate(captions[1].sources[:9], 2)]
    for beams in (1, 3):
        together = tr.translate(translator, sources, beams=beams)
        assert together == tr.translate(translator, sources, beams=beams, batch_size=1)


def test_time_is_told_by_its_parts(translator: Any) -> None:
    spent: dict[str, float] = {}
    tr.translate(translator, [[5, 6]], spent=spent)
    assert set(spent) == {"encoder", "decoder", "output"}
    before = dict(spent)
    tr.translate(translator, [[5, 6]], spent=spent)
    assert all(spent[part] > before[part] > 0 for part in spent)


def test_search_refuses_in_a_sentence(translator: Any) -> None:
    assert tr.translate(translator, []) == []
    with pytest.raises(ValueError, match="beams must be 1 at least, got 0"):
        tr.translate(translator, [[5]], beams=0)
    for source in ([], [5] * 256):
        with pytest.raises(ValueError, match=f"1 to 255 tokens, got {len(source)}"):
            tr.translate(translator, [source])
    with pytest.raises(ValueError, match="each sentence needs its types: got 2 and 1"):
        tr.translate(translator, [[5], [6]], chosen=[torch.tensor([1])])
    with pytest.raises(ValueError, match=r"may not write its end \(type 1\)"):
        tr.translate(translator, [[5]], chosen=[torch.tensor([2, 3])])


@pytest.mark.slow
def test_training_goes_on_where_it_was(
    captions: tuple[Any, tr.Pairs], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer, pairs = captions
    settings = replace(SMALL, dropout=0.1)
    whole = tr.train_translator(tmp_path / "whole", tokenizer, pairs, pairs, settings=settings, quiet=True)
    begin = model._Clock.on_epoch_begin

    def stop(clock: Any, args: Any, state: Any, *rest: Any, **more: Any) -> None:
        if state.epoch and state.epoch >= 2:
            raise KeyboardInterrupt
        begin(clock, args, state, *rest, **more)

    folder = tmp_path / "broken"
    with monkeypatch.context() as patch:
        patch.setattr(model._Clock, "on_epoch_begin", stop)
        with pytest.raises(KeyboardInterrupt):
            tr.train_translator(folder, tokenizer, pairs, pairs, settings=settings, quiet=True)
    with pytest.raises(FileNotFoundError, match="there is no trained translator in"):
        tr.load_translator(folder)
    broken = tr.train_translator(folder, tokenizer, pairs, pairs, settings=settings, quiet=True)
    assert broken["dev_loss"] == pytest.approx(whole["dev_loss"], rel=1e-4)
    assert (broken["epochs"], broken["steps"]) == (whole["epochs"], whole["steps"]) == (3, 9)
    assert broken["best_epoch"] == 1 + int(np.argmin(whole["dev_loss"]))
    mine, theirs = (tr.load_translator(tmp_path / name)[0] for name in ("broken", "whole"))
    assert not mine.training
    for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)
    assert not list(folder.glob("checkpoint-*"))
    assert tr.train_translator(folder, tokenizer, pairs, pairs, settings=settings, quiet=True) == broken
    with pytest.raises(ValueError, match=r"other settings \(layers: 1 -> 2\): choose another folder"):
        tr.train_translator(folder, tokenizer, pairs, pairs, settings=replace(settings, layers=2))


@pytest.mark.slow
def test_it_learns_what_it_reads(captions: tuple[Any, tr.Pairs], tmp_path: Path) -> None:
    tokenizer, pairs = captions
    few = tr.Pairs(pairs.sources[:12], pairs.targets[:12], pairs.read[:12], pairs.written[:12])
    often = tr.Pairs(few.sources * 8, few.targets * 8, few.read * 8, few.written * 8)
    settings = replace(SMALL, hidden_size=64, epochs=40, batch_size=12, label_smoothing=0.0)
    told = tr.train_translator(tmp_path, tokenizer, often, settings=settings, quiet=True)
    assert told["dev_loss"] == []
    assert told["best_epoch"] == 40
    translator, tokenizer = tr.load_translator(tmp_path)
    written = tr.texts_of(tokenizer, tr.translate(translator, few.sources))
    assert sum(a == b for a, b in zip(written, few.written, strict=True)) >= 10
    lexicon = tr.learn_lexicon(few.sources, few.targets, len(tokenizer))
    types = [tr.candidates(lexicon, source, 100) for source in few.sources]
    assert tr.coverage(few.targets, types)[0] > 0.9
    some = tr.texts_of(tokenizer, tr.translate(translator, few.sources, chosen=types))
    assert sum(a == b for a, b in zip(some, few.written, strict=True)) >= 8


def test_training_refuses_in_a_sentence(captions: tuple[Any, tr.Pairs], tmp_path: Path) -> None:
    tokenizer, pairs = captions
    with pytest.raises(ValueError, match="there are no pairs to train on"):
        tr.train_translator(tmp_path / "a", tokenizer, tr.Pairs([], [], [], []))
    with pytest.raises(ValueError, match="a sentence has 300 tokens: 255 are read at most"):
        tr.train_translator(tmp_path / "a", tokenizer, pairs._replace(sources=[[5] * 300]))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").touch()
    with pytest.raises(ValueError, match="holds files that are no run"):
        tr.train_translator(tmp_path / "mine", tokenizer, pairs)


def test_translations_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sacrebleu")
    monkeypatch.setattr(measures, "_DRAWS", 50)
    right = [f"Ein Mann mit {color} Hut steht am Fenster." for color in ("rotem", "blauem", "altem")] * 5
    found = tr.compared({"a": right, "b": right, "c": ["Das ist etwas ganz anderes."] * 15}, right)
    assert found["a"]["bleu"] == pytest.approx(100)
    assert found["a"]["p"] is None
    assert found["b"]["p"] == 1, "the same texts"
    assert found["c"]["bleu"] < 5 < found["a"]["bleu_low"]
    assert found["c"]["p"] < 0.1
    assert "tok:13a" in found["signature"]["BLEU"]
    with pytest.raises(ValueError, match="a: 1 translations for 2 references"):
        tr.compared({"a": ["x"]}, ["x", "y"])
    with pytest.raises(ValueError, match="nothing to compare"):
        tr.compared({}, ["x"])


def test_without_sacrebleu_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(OSError, match=r"pip install 'topk-lib\[book\]'"):
        tr.compared({"a": ["x"]}, ["x"])
