"""The study of rewritten reviews: which tokens turn a verdict, and what reading them is worth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from topk_lib.claims import HARD, OURS
from topk_lib.data import load_pairs
from topk_lib.models import TopKForSequenceClassification, load_encoder
from topk_lib.studies import pairs as study
from topk_lib.studies.pairs import Pairs, kept_of, read_pairs, turning


def test_turning_by_hand() -> None:
    first, second = turning([1, 5, 6, 7, 2], [1, 5, 9, 9, 7, 2])  # one token for two others
    assert first.tolist() == [False, False, True, False, False]
    assert second.tolist() == [False, False, True, True, False, False]
    first, second = turning([1, 2], [1, 3, 2])  # one put in
    assert not first.any()
    assert second.tolist() == [False, True, False]


def few() -> Pairs:
    """Two pairs: "a good film", "a bad film"; "fine film", "not fine film"."""
    ids = torch.tensor([[1, 5, 6, 7, 2], [1, 5, 8, 7, 2], [1, 9, 7, 2, 0], [1, 4, 9, 7, 2]])
    mask = (ids > 0).long()
    turned = torch.zeros_like(ids, dtype=torch.bool)
    turned[[0, 1, 3], [2, 2, 1]] = True
    body = (ids > 2) & mask.bool()
    return Pairs(ids, mask, body, turned, np.array([1, 0, 1, 0]), ["word", "negation"])


def test_what_is_kept_by_hand() -> None:
    kept = torch.tensor(
        [[1, 0, 1, 0, 1], [1, 0, 1, 0, 1], [1, 1, 0, 1, 0], [1, 0, 1, 0, 1]], dtype=torch.bool
    )
    row = kept_of(few(), kept)
    # Of the three texts with a turning token a third, a third and a third of the body is kept.
    assert row["blind"] == pytest.approx(1 / 3)
    assert row["kept"] == pytest.approx(2 / 3)
    assert row["seen"] == 1 / 2  # of the second pair "fine" and "fine"
    assert row["seen_low"] < 1 / 2 < row["seen_high"]
    third = pytest.approx(1 / 3)
    assert row["edits"] == {
        "negation": {"n": 1, "kept": 0.0, "blind": third, "seen": 0.0},
        "word": {"n": 1, "kept": 1.0, "blind": third, "seen": 1.0},
    }
    everything = kept_of(few(), few().mask.bool())
    assert (everything["blind"], everything["kept"], everything["seen"]) == (1.0, 1.0, 1.0)


def test_the_pairs_as_tokens() -> None:
    _, tokenizer = load_encoder()
    pairs = read_pairs(tokenizer)
    assert len(pairs.ids) == len(pairs.labels) == 2 * len(pairs.edits) == len(load_pairs())
    assert not (pairs.turning & ~pairs.body).any()
    each = pairs.turning.sum(-1).reshape(-1, 2).sum(-1)
    assert bool((each > 0).all())
    assert pairs.turning.sum() / pairs.body.sum() < 0.2
    # Without what turns it, both texts of a pair are one.
    for row in range(0, 40, 2):
        one, two = (pairs.ids[at][pairs.body[at] & ~pairs.turning[at]].tolist() for at in (row, row + 1))
        assert one == two


def test_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOPK_IMDB", "embedded")
    made = study.rules_kept(ks=(16, 500), n_train=60)
    assert list(made.metrics) == [*HARD, *OURS]
    for rows in made.metrics.values():
        assert rows["k500"]["kept"] == rows["k500"]["seen"] == rows["k500"]["blind"] == 1
        assert 0 <= rows["k16"]["kept"] < 1
        assert sum(one["n"] for one in rows["k16"]["edits"].values()) == made.data["n_pairs"]
    # One who keeps the first tokens sees only what is rewritten there.
    assert made.metrics["first"]["k16"]["seen"] < 0.5


def test_marks_of_a_model(tiny_encoder: Path, tmp_path: Path) -> None:
    model, tokenizer = TopKForSequenceClassification.from_encoder(tiny_encoder, "first", 20)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    made = study.marks_kept(tmp_path, ks=(20, 500))
    pairs = read_pairs(tokenizer)
    first = kept_of(pairs, (torch.arange(pairs.ids.shape[1]) < 19).expand(pairs.ids.shape))
    assert made.metrics["k500"]["kept"] == 1
    # What it did not read has no mark: 20 tokens are those that it read, [SEP] for the last.
    assert made.metrics["k20"]["kept"] == first["kept"]
    assert made.metrics["all"] == study.answers(tmp_path)


def test_a_model_s_answers(tiny_encoder: Path, tmp_path: Path) -> None:
    model, tokenizer = TopKForSequenceClassification.from_encoder(tiny_encoder, "first", 16)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    row = study.answers(tmp_path)
    n = row["n"]
    wrong = np.unpackbits(np.frombuffer(bytes.fromhex(row["wrong"]), dtype=np.uint8))[: 2 * n].astype(bool)
    right = ~wrong.reshape(n, 2)
    assert (row["original"], row["rewritten"]) == tuple(right.mean(0))
    assert row["both"] == right.all(1).mean()
    pairs = read_pairs(tokenizer)
    with torch.no_grad():
        alone = model.eval()(pairs.ids[:1], pairs.mask[:1]).logits.argmax(-1)
    assert (alone.item() == pairs.labels[0]) == right[0, 0]
