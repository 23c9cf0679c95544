"""The studies of pretraining, in small: the clock, and what is carried over or forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from topk_lib import records, studies
from topk_lib.studies import base, pretraining, transfer
from topk_lib.training import train_tokenizer
from topk_lib.training.learned import BLANKS, attention_by_distance, blanks_filled, by_frequency

SMALL = {"hidden_size": 16, "layers": 1, "heads": 2}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The records of a clock that runs for a second."""
    folder = tmp_path_factory.mktemp("clock")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("TOPK_RESULTS", str(folder))
        patch.setenv("TOPK_IMDB", "embedded")
        small = pretraining._COMMON | {"vocabulary": 400, "length": 32, "batch_size": 4, "held_out": 10}
        patch.setattr(pretraining, "_COMMON", small)
        patch.setattr(pretraining, "SIZES", {"1m": SMALL, "10m": SMALL})
        for module, name, value in (
            (pretraining, "N_TEST", 40), (transfer, "N_TEST", 40),
            (pretraining, "K", 16), (transfer, "K", 16), (transfer, "BEST", ("10m", 0.01)),
            (transfer, "_EVERY", 2),
        ):  # fmt: skip
            patch.setattr(module, name, value)
        patch.setitem(pretraining.EPOCHS, 1000, 1)
        for size in ("1m", "10m"):
            for one in (pretraining._clock(size, 0.01, 0), pretraining._clock(size, 0, 0)):  # type: ignore[arg-type]
                base.make("pretraining", one)
        for name in ("10m-0min", "10m-10min", "1m-0min", "1m-10min"):
            rate = base.Run("pretraining_rates", name, lambda: base.Made({"best": 1e-3}, {"seed": 0}, {}))
            base.make("pretraining", rate)
        wanted = {
            "pretraining_corpus/tokens", "pretraining_words/n1000-s0",
            "pretraining_finetuned/1m-0min-n1000-s0",
            "pretraining_transfer/random-n1000-s0", "pretraining_transfer/self-n1000-s0",
            "pretraining_forgetting/plain-s0", "pretraining_forgetting/mixed-s0",
        }  # fmt: skip
        for one in (*pretraining.runs(gpu=False), *transfer.runs(gpu=False)):
            if one.label in wanted:
                base.make("pretraining", one)
                wanted.remove(one.label)
        assert not wanted
        yield records.load_results()


def test_every_run_once_and_each_after_what_it_needs() -> None:
    listed = [one.label for one in (*pretraining.runs(gpu=False), *transfer.runs(gpu=False))]
    assert len(set(listed)) == len(listed)
    for size, minutes in pretraining.MINUTES.items():
        for n, seed in ((1000, 0), (4000, 2)):
            for time in minutes:
                snapshot = listed.index(f"pretraining_clock/{size}-{time}min-s{seed if size == '1m' else 0}")
                tuned = listed.index(f"pretraining_finetuned/{size}-{time}min-n{n}-s{seed}")
                rate = listed.index(f"pretraining_rates/{size}-{pretraining.searched(time)}min")
                assert max(snapshot, rate) < tuned
    for start in ("random", "self", "encoder", "language"):
        for n in (100, 1000, 10_000):
            assert all(f"pretraining_transfer/{start}-n{n}-s{seed}" in listed for seed in range(3))
    for further in (0, 15, 60, 180):
        after = listed.index(f"pretraining_further/{further}min-n1000-s0")
        assert listed.index(f"pretraining_rates/further-{further}min") < after
        assert not further or listed.index(f"pretraining_further_loss/{further}min") < after
    assert "transfer" in studies.names()


def test_the_clock_tells_what_was_learned(made: dict[str, Any]) -> None:
    start, end = (made["pretraining_clock"][f"1m-{t}min-s0"] for t in ("0", "0.01"))
    assert (start["metrics"]["steps"], start["metrics"]["minutes"]) == (0, 0)
    assert end["metrics"]["loss"] < start["metrics"]["loss"]
    assert 0.01 <= end["metrics"]["minutes"] < 0.1
    for one in (start, end):
        assert one["metrics"]["blanks"]["n"] == len(BLANKS) >= 40
        seen = sum(band["n"] for band in one["metrics"]["bands"])  # where a mask stood
        assert 0.6 < seen / one["metrics"]["guesses"] < 0.95
        bands = one["metrics"]["bands"]
        mean = sum(band["n"] * band["loss"] for band in bands) / seen
        assert mean == pytest.approx(one["metrics"]["loss_hidden"], rel=1e-4)
    assert start["data"]["held_out"] == 10


def test_what_is_fine_tuned_reads_the_same_reviews_as_the_words(made: dict[str, Any]) -> None:
    told = [made["pretraining_words"]["n1000-s0"], made["pretraining_finetuned"]["1m-0min-n1000-s0"]]
    told += [made["pretraining_transfer"][f"{start}-n1000-s0"] for start in ("random", "self")]
    told += [made["pretraining_forgetting"][f"{way}-s0"] for way in ("plain", "mixed")]
    assert len({(one["data"]["train_fingerprint"], one["data"]["eval_fingerprint"]) for one in told}) == 1
    assert told[2]["settings"]["model"] != told[3]["settings"]["model"]


def test_forgetting(made: dict[str, Any]) -> None:
    plain, mixed = (made["pretraining_forgetting"][f"{way}-s0"]["metrics"] for way in ("plain", "mixed"))
    assert plain["before"] == mixed["before"]
    assert plain["before"] == pytest.approx(
        made["pretraining_clock"]["10m-0.01min-s0"]["metrics"]["loss"], rel=1e-3
    )
    assert plain["after"] != plain["before"]  # steps so few need not harm
    assert plain["pretraining_steps"] == 0 < mixed["pretraining_steps"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    tokenizer = train_tokenizer(["the film is good and the plot is bad"] * 3, 60)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=32, attn_implementation="eager",
    )  # fmt: skip
    return BertForMaskedLM(config).eval(), tokenizer


def test_blanks_are_ranked(model: tuple[Any, Any]) -> None:
    found = blanks_filled(*model, [("the [MASK] is good", "film"), ("the [MASK] is bad", "unheard")])
    first, second = found["sentences"]
    assert (second["rank"], second["probability"]) == (None, 0.0)
    order = [word for word, _ in first["top"]]
    assert len(order) == 5
    assert (first["rank"] <= 5) == ("film" in order)
    assert found["top1"] <= found["top5"] <= 0.5  # one can be found at most


def test_shares_of_attention(model: tuple[Any, Any]) -> None:
    blocks = torch.randint(5, len(model[1]), (3, 20))
    blocks[:, 0], blocks[:, -1] = model[1].cls_token_id, model[1].sep_token_id
    found = attention_by_distance(*model, blocks)
    assert found["bins"] == ["0", "1", "2", "3-4", "5-8", "9-16", "17-32", "33-64", "65-128"]
    for shares in (*found["layers"], found["even"]):
        assert sum(shares) == pytest.approx(1, abs=1e-5)
    n = 18
    pairs = [n, 2 * (n - 1), 2 * (n - 2)]  # at distances 0, 1, 2
    assert found["even"][:3] == pytest.approx([p / n**2 for p in pairs], rel=1e-4)
    with torch.no_grad():
        weights = model[0](blocks, output_attentions=True).attentions[0].mean(1)
    assert found["special"][0] == pytest.approx(
        float(weights[:, 1:-1][:, :, [0, -1]].sum(-1).mean()), rel=1e-4
    )


def test_bands_by_frequency() -> None:
    counts = torch.tensor([0, 5, 100, *range(2000, 2900)])
    losses, types = (
        torch.tensor([1.0, 2.0, 3.0]),
        torch.tensor([902, 2, 1]),
    )  # the commonest, and two rare ones
    rows = by_frequency(losses, types, counts)
    assert [(row["label"], row["n"]) for row in rows] == [("1-10", 1), ("101-1,000", 2)]
    assert [row["loss"] for row in rows] == [1.0, 2.5]
    total = int((counts + 1).sum())
    assert rows[0]["unigram"] == pytest.approx(torch.tensor(total / 2900).log().item(), rel=1e-5)


def test_the_search_for_a_rate_goes_on_beyond_its_list_but_not_for_ever() -> None:
    middle = pretraining._TRIED[2]
    assert pretraining.best_of(lambda rate: -abs(rate - middle))[1] == middle
    rows, best = pretraining.best_of(lambda rate: -abs(rate - 1e-4))
    assert best == pytest.approx(8e-5)
    assert min(rows) == pytest.approx(3.2e-5)
    assert list(rows) == sorted(rows)
    assert pretraining.best_of(lambda rate: rate)[1] == pytest.approx(0.05)
    rows, _ = pretraining.best_of(lambda _: 0.5)
    assert len(rows) == len(pretraining._TRIED) + 2
