"""The study of experts, in small: equal work, equal batches, and what is told of each layer."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from topk_lib import records
from topk_lib.models import load_encoder
from topk_lib.routing import ExpertChoice, Routed, upcycle
from topk_lib.studies import base, experts, pretraining
from topk_lib.training.corpus import train_tokenizer
from topk_lib.training.objective import new_model
from topk_lib.training.pretrain import checked, pretrain

SMALL: dict[str, Any] = {"hidden_size": 16, "layers": 2, "heads": 2}


def tuned(folder: Path, model: str, rate: float, n: int, seed: int, k: int) -> base.Made:
    """In place of the fine-tuning: what stands in the folder that it is given."""
    encoder, _ = load_encoder(model)
    layers = [name for name, part in encoder.named_modules() if isinstance(part, Routed)]
    return base.Made({"layers": layers}, {"seed": seed, "n_train": n, "k": k}, {})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Records of a few steps."""
    folder = tmp_path_factory.mktemp("experts")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("TOPK_RESULTS", str(folder))
        patch.setenv("TOPK_IMDB", "embedded")
        few = {"vocabulary": 400, "batch_size": 4}
        patch.setattr(pretraining, "_COMMON", pretraining._COMMON | few | {"length": 32, "held_out": 10})
        patch.setattr(experts, "_COMMON", experts._COMMON | {"length": 32, "held_out": 10})
        patch.setitem(pretraining.SIZES, "1m", SMALL)
        patch.setattr(experts, "_SIZE", {name: one | few for name, one in experts._SIZE.items()})
        patch.setattr(experts, "_FINE", experts._FINE | {"experts": 2, "layers": [1]})
        patch.setattr(pretraining, "tuned", tuned)
        for name, value in (("STEPS", 8), ("POINTS", 4)):
            patch.setattr(experts, name, value)
        wanted = {
            "experts_masked/dense-s0", "experts_masked/expert_choice-s0", "experts_causal/alone-s0",
            "experts_causal/depths-s0", "experts_upcycled/expert_choice-s1",
        }  # fmt: skip
        for one in experts.runs(gpu=False):
            if one.label in wanted:
                base.make("experts", one)
                wanted.remove(one.label)
        assert not wanted
        yield records.load_results()


def test_every_run_once_and_the_first_four_of_three_seeds_first() -> None:
    listed = [one.label for one in experts.runs(gpu=False)]
    assert len(set(listed)) == len(listed)
    kinds = ("dense", "expert_choice", "top2", "top1")
    assert set(listed[:12]) == {f"experts_masked/{kind}-s{seed}" for kind in kinds for seed in range(3)}


def test_each_kind_does_the_work_of_the_dense_model_and_all_masked_experts_weigh_the_same() -> None:
    tokenizer = train_tokenizer(["a film"], 40)
    for objective, kinds in experts.KINDS.items():
        settings = checked({"objective": objective, "steps": 1, **pretraining.SIZES["1m"]})
        work, weights = {}, {}
        for kind, options in kinds.items():
            model = experts._change(options, new_model(settings, tokenizer))
            work[kind] = experts.flops(model, objective)
            layers = [part for part in model.modules() if isinstance(part, Routed)]
            weights[kind] = sum(p.numel() for part in layers for p in part.experts.parameters())
        for kind, found in work.items():
            assert found["feed_forward"] == work["dense"]["feed_forward"] > 0, kind
            assert 0.01 < found["router"] / found["feed_forward"] < 0.03 or kind == "dense"
        if objective == "masked":
            assert len({weight for kind, weight in weights.items() if kind != "dense"}) == 1
            # two layers, six products of 96 x 256 in all, and the head at one token in seven
            vocabulary = len(tokenizer)
            assert work["dense"]["feed_forward"] == 2 * 6 * 96 * 256
            assert work["dense"]["head"] == pytest.approx(0.15 * 2 * (96 * 96 + 96 * vocabulary))


def test_the_curve_and_the_layers(made: dict[str, Any]) -> None:
    dense, chosen = (made["experts_masked"][f"{kind}-s0"] for kind in ("dense", "expert_choice"))
    for one in (dense, chosen):
        assert [point[0] for point in one["metrics"]["curve"]] == [2, 4, 6, 8]
        minutes = [point[1] for point in one["metrics"]["curve"]]
        assert minutes == sorted(minutes)
        assert minutes[-1] == pytest.approx(one["metrics"]["minutes"])
        assert one["metrics"]["curve"][-1][2] == pytest.approx(one["metrics"]["loss"], abs=0.05)
    assert dense["data"] == chosen["data"]
    assert dense["metrics"]["guesses"] == chosen["metrics"]["guesses"]
    assert dense["metrics"]["layers"] == []
    for layer in chosen["metrics"]["layers"]:
        assert layer["load"] == pytest.approx([1.0] * 16)
        assert layer["unchosen"] == layer["per_token"][0]
        assert sum(layer["per_token"]) == pytest.approx(1, abs=1e-6)
        # two experts a token on average: 16 experts take 4 of 32 tokens each
        assert sum(n * share for n, share in enumerate(layer["per_token"])) == pytest.approx(2, abs=1e-5)
        assert len(layer["takes"]) == 16


def test_what_an_expert_takes_is_counted_by_hand() -> None:
    tokenizer = train_tokenizer(["a b c d"] * 9, 40)
    settings = checked({"steps": 1, "length": 8, **SMALL})
    model = experts._change({"kind": "token_choice", "experts": 2, "k": 1}, new_model(settings, tokenizer))
    a, b = tokenizer.convert_tokens_to_ids(["a", "b"])
    blocks = torch.full((64, 8), a)
    blocks[:, 4:] = b
    with torch.no_grad():  # the layers hear the token alone: a goes to the first expert, b to the second
        for block in model.model.layers:
            block.attn.Wo.weight.zero_()
            block.mlp.experts.down.zero_()
            block.mlp.router.weight.zero_()
        last = model.model.layers[-1]
        seen = last.mlp_norm(model.model.embeddings(torch.tensor([[a, b]])))[0]
        last.mlp.router.weight[0], last.mlp.router.weight[1] = seen[0], seen[1]
    layer = experts._looked(model, tokenizer, blocks)["layers"][-1]
    first, second = layer["takes"]
    assert first[0][0] == "a"
    assert second[0][0] == "b"
    assert first[0][2] == second[0][2] == 1.0
    assert layer["per_token"] == [0.0, 1.0]
    assert layer["unchosen"] == 0
    assert sum(layer["load"]) == pytest.approx(2)


def test_the_choice_of_training_beside_that_of_decoding(made: dict[str, Any]) -> None:
    for kind, layers in (("alone", 2), ("depths", 1)):
        metrics = made["experts_causal"][f"{kind}-s0"]["metrics"]
        assert len(metrics["gap"]) == layers
        assert all(0 <= gap["agree"] <= 1 for gap in metrics["gap"])
        assert metrics["loss_choice"] != metrics["loss"]
    assert metrics["gap"][0]["load_choice"] == pytest.approx(1 / 8)


def test_an_upcycled_encoder_is_what_is_fine_tuned(made: dict[str, Any]) -> None:
    one = made["experts_upcycled"]["expert_choice-s1"]
    assert [name.rsplit("layer.")[-1] for name in one["metrics"]["layers"]] == ["1.intermediate"]
    assert one["settings"]["experts"]["kind"] == "expert_choice"
    assert (one["settings"]["seed"], one["settings"]["k"]) == (1, 64)


def test_the_choice_of_a_layer_is_that_of_training_when_it_looks_ahead() -> None:
    """With the threshold out of reach nobody is taken alone, and all the same the choice is as before."""
    tokenizer = train_tokenizer(["a film"] * 9, 300, objective="causal")
    settings = checked({"objective": "causal", "steps": 1, "length": 8, **SMALL})
    options = {"kind": "expert_choice", "experts": 2, "capacity": 1.0, "causal": "threshold"}
    model = experts._change(options, new_model(settings, tokenizer)).eval()
    layers = [part for part in model.modules() if isinstance(part, ExpertChoice)]
    for layer in layers:
        layer.threshold.fill_(2.0)
    blocks = torch.randint(len(tokenizer), (4, 8), generator=torch.Generator().manual_seed(0))
    found = experts._looking_ahead(model, tokenizer, blocks)
    assert [gap["load_alone"] for gap in found["gap"]] == [0, 0]
    assert [gap["load_choice"] for gap in found["gap"]] == [1, 1]
    assert [layer.stats.load for layer in layers] == [[16, 16]] * 2


def test_what_experts_add_to_the_loss_is_learned_from_and_not_told(tmp_path: Path) -> None:
    told, seen = {}, []
    for rate in (0.0, 5.0):
        made = pretrain(
            tmp_path / f"{rate}", source="embedded", corpus=tmp_path / "corpus", quiet=True, steps=3,
            warmup=1, vocabulary=300, length=16, batch_size=4, held_out=10, precision="fp32", **SMALL,
            change=partial(
                upcycle, experts=2, kind="token_choice", start="fresh", k=1, rate=rate
            ),
            after=lambda loop: seen.append(loop.step),
        )  # fmt: skip
        told[rate] = [loss for *_, loss in made.losses]
    assert seen == [1, 2, 3] * 2
    assert told[0.0][0] == told[5.0][0]
    assert told[0.0][2] != told[5.0][2]
