"""Rules with an eye on the rest of the text: copies come last, a negation travels with what it denies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from topk_lib import checks
from topk_lib.selectors import KeepNegationSelector, ids_to_batch, make_selector
from topk_lib.selectors.corpus import TableSelector
from topk_lib.selectors.interaction import copies_last


def with_table(name: str, table: list[float], **options: Any) -> TableSelector:
    selector = make_selector(name, **options)
    assert isinstance(selector, TableSelector)
    selector.keep(table)
    return selector


def test_distinct_takes_copies_last() -> None:
    rule = with_table("distinct", [0.0, 1.0, 2.0, 3.0])
    text = [[3, 1, 3, 2, 3, 1, 0]]
    scores = rule.scores(*ids_to_batch([*text, [2] * 9]))  # the padding is no copy of a 0 in the text
    assert scores[0, [0, 1, 3, 6]].tolist() == [3, 1, 2, 0]
    order = scores[0, :7].argsort(descending=True, stable=True).tolist()
    assert order == [0, 3, 1, 6, 2, 4, 5]  # of the copies, too, the louder first
    assert "Right" in checks.check_distinct(lambda s, ids: copies_last(s, ids, torch.ones_like(ids)))


def test_a_negation_travels_with_what_it_denies() -> None:
    rule = with_table("keep_negation", [0.1, 0.0, 5.0, 2.0], negations=[1], reach=2)
    text = [[1, 0, 2, 1, 0, 0, 3, 1]]  # the second denies nothing within its reach, nor does the last
    scores = rule.scores(*ids_to_batch([*text, [2] * 12]))[0, :8]
    assert scores.tolist() == pytest.approx([5.0, 0.1, 5.0, 0.1, 0.1, 0.1, 2.0, 0.0])

    def exercise(scores: torch.Tensor, ids: torch.Tensor, negations: torch.Tensor) -> torch.Tensor:
        """The library's rule with a reach of 1, on the exercise's scores made positive."""
        rows = []
        for row, types in zip(scores + 10, ids, strict=True):
            own = with_table("keep_negation", row.tolist(), negations=list(range(len(row))), reach=1)
            raised = own.scores(torch.arange(len(row))[None], torch.ones(1, len(row)))[0]
            rows.append(torch.where(torch.isin(types, negations), raised, row) - 10)
        return torch.stack(rows)

    ids, scores = torch.tensor([[7, 1, 8, 2, 9, 1]]), torch.tensor([[9.0, 0.5, 3.0, 2.0, 1.0, 0.25]])
    assert exercise(scores, ids, torch.tensor([1, 2])).tolist() == [[9.0, 3.0, 3.0, 2.0, 1.0, 0.25]]


def test_negations_are_looked_up_in_the_tokenizer(tiny_encoder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    rule = make_selector("keep_negation", tokenizer=tokenizer)
    assert isinstance(rule, KeepNegationSelector)
    words = set(tokenizer.convert_ids_to_tokens(rule.negations))
    assert {"not", "no", "never", "t"} <= words
    assert set(tokenizer.tokenize("I don't")) & words == {"t"}
    again = make_selector("keep_negation", **rule.options())
    assert isinstance(again, KeepNegationSelector)
    assert again.negations == rule.negations
    with pytest.raises(ValueError, match="knows no negation: give make_selector the tokenizer, or negations"):
        make_selector("keep_negation").fit([[5, 6], [7]], [0, 1])
    with pytest.raises(TypeError, match="negations must be a list of token ids, got 'not'"):
        make_selector("keep_negation", negations="not")
