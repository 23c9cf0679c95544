"""The reader of spans: what it may point at, and that it learns to point."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from topk_lib.data import load_set
from topk_lib.tasks.answers import judge
from topk_lib.tasks.pieces import Question, questions_of
from topk_lib.tasks.spans import SpanReader, _target, best_span, load_reader, train_reader


@cache
def questions(split: str) -> list[Question]:
    return questions_of(load_set("xquad", "embedded", split=split, quiet=True))


@pytest.fixture(scope="module")
def parts(tiny_encoder: Path) -> tuple[Any, Any]:
    return load_reader(tiny_encoder)


@pytest.fixture
def reader(parts: tuple[Any, Any]) -> SpanReader:
    return SpanReader(*parts, length=100, stride=16, most=8)


LOGITS = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=7)


@settings(deadline=None)
@given(LOGITS, st.data(), st.integers(1, 4))
def test_the_best_span_is_that_of_all_spans(starts: list[float], data: st.DataObject, most: int) -> None:
    n = len(starts)
    ends = data.draw(st.lists(st.integers(-3, 3).map(float), min_size=n, max_size=n))
    spans = [(i, j) for i in range(n) for j in range(i, min(n, i + most))]
    best = max(spans, key=lambda span: starts[span[0]] + ends[span[1]])  # the first of equals
    i, j, score = best_span(torch.tensor(starts), torch.tensor(ends), most)
    assert (i, j) == best
    assert score == starts[i] + ends[j]


def test_an_answer_lies_in_its_paragraph(reader: SpanReader) -> None:
    some = questions("test")[:9]
    for question, span in zip(some, reader.read(some, batch_size=4), strict=True):
        assert question.context[span.start : span.end] == span.text != ""
        tokens = reader.tokenizer(span.text, add_special_tokens=False)["input_ids"]
        assert 1 <= len(tokens) <= 8
    again = [reader.read([question])[0] for question in some]
    for one, other in zip(again, reader.read(some), strict=True):
        assert one[:3] == other[:3]
        assert one.score == pytest.approx(other.score, rel=1e-4)


def test_a_long_paragraph_is_read_in_windows(reader: SpanReader) -> None:
    context = " ".join(f"word{i}" for i in range(150))
    question = Question(context, "which word " * 100, ("word149",), (context.index("word149"),))
    windows = reader._windows([question])
    assert len(windows) > 5
    assert all(len(window.ids) <= 100 for window in windows)
    seen = {i for window in windows for a, b in window.places for i in range(a, b)}
    assert seen == {i for i, c in enumerate(context) if not c.isspace()}
    for window, after in pairwise(windows):
        shared = set(window.places) & set(after.places)
        assert len(shared) == 16
    found = [_target(window, question) for window in windows]
    assert found[0] == (0, 0)  # the answer is not in this one
    first, last = found[-1]
    places = windows[-1].places
    a, b = places[first - windows[-1].first][0], places[last - windows[-1].first][1]
    assert context[a:b] == "word149"
    (span,) = reader.read([question])
    assert context[span.start : span.end] == span.text


def test_the_loss_is_the_surprise_at_first_and_last(reader: SpanReader) -> None:
    question = questions("train")[0]
    for window in reader._windows([question]):
        first, last = target = _target(window, question)
        reader.model.eval()
        with torch.inference_mode():
            loss = reader._loss([window], [target])
            out = reader.model(torch.tensor([window.ids]), token_type_ids=torch.tensor([window.types]))
        starts, ends = out.start_logits[0].log_softmax(-1), out.end_logits[0].log_softmax(-1)
        torch.testing.assert_close(loss, -(starts[first] + ends[last]) / 2)


@pytest.mark.slow
def test_it_learns_what_it_is_shown(tiny_encoder: Path) -> None:
    some = questions("train")[:8]
    seen: list[dict[str, float]] = []
    options: dict[str, Any] = {"name": tiny_encoder, "epochs": 4, "learning_rate": 3e-3, "length": 128,
                               "stride": 20, "batch_size": 4}  # fmt: skip
    reader, rows = train_reader(some, some, seed=1, progress=seen.append, **options)
    assert rows == seen
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert not reader.model.training
    found = judge([span.text for span in reader.read(some)], some)
    assert found["f1"] == max(row["f1"] for row in rows)  # of the epoch that was best
    assert train_reader(some, some, seed=1, **options)[1] == rows
    assert train_reader(some, some, seed=2, **options)[1] != rows


def test_heads_are_drawn_by_the_seed_and_kept_in_a_folder(tiny_encoder: Path, tmp_path: Path) -> None:
    state = torch.random.get_rng_state()
    one, same, other = (load_reader(tiny_encoder, seed=seed)[0] for seed in (0, 0, 1))
    assert torch.equal(one.qa_outputs.weight, same.qa_outputs.weight)
    assert not torch.equal(one.qa_outputs.weight, other.qa_outputs.weight)
    assert torch.equal(torch.random.get_rng_state(), state)
    other.save_pretrained(tmp_path)
    load_reader(tiny_encoder)[1].save_pretrained(tmp_path)
    assert torch.equal(load_reader(tmp_path)[0].qa_outputs.weight, other.qa_outputs.weight)
    with pytest.raises(OSError, match="nowhere"):
        load_reader(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"length": 100, "stride": 32}, "leaves 32 to a paragraph"),
        ({"length": 60, "stride": 0}, "stride must be"),
        ({"length": 129, "stride": 8}, "at most 128"),
        ({"length": 100, "stride": 8, "most": 0}, "most must be at least 1"),
    ],
)
def test_numbers_out_of_range(parts: tuple[Any, Any], options: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SpanReader(*parts, **options)


def test_questions_that_cannot_be_read(reader: SpanReader, tiny_encoder: Path) -> None:
    with pytest.raises(ValueError, match="has no word"):
        reader.read([questions("test")[0], Question(" ", "Why?")])
    some = questions("train")[:2]
    for train, dev in (([], some), (some, [])):
        with pytest.raises(ValueError, match="dev questions to choose by"):
            train_reader(train, dev, name=tiny_encoder)
    with pytest.raises(ValueError, match=r"question 2, 'Why\?', has no answer"):
        train_reader(some, [Question("A mill.", "Why?")], name=tiny_encoder)
    with pytest.raises(ValueError, match="epochs must be at least 1, got 0"):
        train_reader(some, some, name=tiny_encoder, epochs=0)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        train_reader(some, some, name=tiny_encoder, batch_size=0)
    assert reader.read([]) == []
