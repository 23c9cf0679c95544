"""A language model that reads k tokens: where its head stands, what runs, and what a run records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

from topk_lib import records, studies
from topk_lib.models import TopKForSequenceClassification
from topk_lib.models.loading import language_model_path
from topk_lib.selectors import ids_to_batch
from topk_lib.studies import causal
from topk_lib.training import finetune


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two random layers, and SmolLM2's tokenizer: no token around a text, and what ends a turn pads."""
    folder = tmp_path_factory.mktemp("decoder")
    tokenizer = AutoTokenizer.from_pretrained(language_model_path())
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=512, pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id, bos_token_id=tokenizer.bos_token_id, initializer_range=0.3,
    )  # fmt: skip
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def small(decoder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TOPK_IMDB", "embedded")
    monkeypatch.setenv("TOPK_RESULTS", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(causal, "DEFAULT_LANGUAGE_MODEL", str(decoder))


TEXTS = [[9, 400, 77, 5000, 33, 812], [61, 5, 900], [700, 12, 12, 450, 31000]]


@torch.inference_mode()
@pytest.mark.parametrize("selector", ["first", "last", "head_tail"])
@pytest.mark.parametrize("positions", ["compact", "original"])
def test_the_head_stands_on_the_last_token_kept(decoder: Path, selector: str, positions: str) -> None:
    """Whatever the batch pads with, and on whichever side: the state above a text's last kept token."""
    model, tokenizer = TopKForSequenceClassification.from_encoder(decoder, selector, 4, positions=positions)
    model.eval()
    assert tokenizer.pad_token_id == tokenizer.eos_token_id  # the trap: padding is a real token elsewhere
    ids, mask = ids_to_batch(TEXTS, tokenizer.pad_token_id)
    left = torch.stack([torch.cat([i[m == 0], i[m == 1]]) for i, m in zip(ids, mask, strict=True)])
    other = ids.masked_fill(mask == 0, 321)  # padded with a word
    together = model(ids, mask)
    for row, text in enumerate(TEXTS):
        places = [i for i in together.kept[row].tolist() if i >= 0]
        kept = torch.tensor([[text[i] for i in places]])
        where = None if positions == "compact" else torch.tensor([places])
        states = model.encoder.model(kept, position_ids=where).last_hidden_state
        torch.testing.assert_close(together.logits[row], model.encoder.score(states[0, -1]))
        torch.testing.assert_close(together.logits[row : row + 1], model(torch.tensor([text])).logits)
    torch.testing.assert_close(model(left, mask.flip(-1)).logits, together.logits)
    torch.testing.assert_close(model(other, mask).logits, together.logits)


@torch.inference_mode()
def test_a_text_that_ends_as_padding_looks_is_judged_by_the_token_before(decoder: Path) -> None:
    model, tokenizer = TopKForSequenceClassification.from_encoder(decoder, "first", 4)
    end = tokenizer.pad_token_id
    with_end, without = (model.eval()(torch.tensor([text])).logits for text in ([7, 8, end], [7, 8]))
    torch.testing.assert_close(with_end, without)
    batch = model(*ids_to_batch([[7, 8, end], [1000, 2, 3, 4, 5]], end)).logits[:1]
    torch.testing.assert_close(batch, without)


@torch.inference_mode()
def test_only_the_last_token_has_seen_all_and_only_holes_count(decoder: Path) -> None:
    """Earlier states know nothing of later tokens; all positions moved alike change nothing, a hole does."""
    encoder = LlamaForSequenceClassification.from_pretrained(decoder).eval()
    ids = torch.tensor([[9, 400, 77, 5000]])

    def states(ids: torch.Tensor, places: list[int]) -> torch.Tensor:
        found: torch.Tensor = encoder.model(ids, position_ids=torch.tensor([places])).last_hidden_state
        return found

    there = states(ids, [0, 1, 2, 3])
    changed = states(torch.tensor([[9, 400, 77, 6]]), [0, 1, 2, 3])
    torch.testing.assert_close(changed[:, :3], there[:, :3])
    assert (changed[:, 3] - there[:, 3]).abs().max() > 1e-3
    torch.testing.assert_close(states(ids, [50, 51, 52, 53]), there, rtol=1e-4, atol=1e-4)
    assert (states(ids, [0, 1, 60, 61]) - there)[:, 2:].abs().max() > 1e-3


def test_what_runs_in_which_order() -> None:
    names = [one.label for one in causal.runs(gpu=False)]
    assert len(set(names)) == len(names)
    assert names[:5] == ["causal_rates/lora", *(f"causal/lora-{rule}-k64-n2000-s0" for rule in causal.RULES)]
    assert [name for name in names if "-k512-" in name] == names[-1:]
    assert names.count("causal_cost/steps") == 1
    for method in causal.METHODS:
        first = next(i for i, name in enumerate(names) if name.startswith(f"causal/{method}"))
        assert names.index(f"causal_rates/{method}") < first
    every = [one.label for one in causal.runs(gpu=True)]
    assert len(set(every)) == len(every)
    assert set(names) < set(every)
    for seed in range(3):
        for n in (2000, 8000):
            for method in causal.METHODS:
                assert f"causal/{method}-first-k512-n{n}-s{seed}" in every
                for k in (32, 64, 128):
                    for rule in causal.RULES:
                        assert f"causal/{method}-{rule}-k{k}-n{n}-s{seed}" in every


def test_a_rate_is_chosen_first(small: None, capsys: pytest.CaptureFixture[str]) -> None:
    name = "causal/lora-last-k64-n2000-s0"
    assert studies.run("causal", only=name) == [name]
    assert "chosen on dev reviews first: topk-lib study causal --only causal_rates/lora" in (
        capsys.readouterr().err
    )


def test_a_run_says_what_it_measured_and_leaves_no_weights(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(causal, "_TRIED", {"lora": (1e-3, 3e-3), "full": (1e-4, 2e-4)})
    for method in causal.METHODS:
        made = causal._rates(method, n=40, n_eval=10, k=8)
        assert made.data["evaluated_on"] == "dev"
        assert len(made.metrics["accuracy"]) == 3  # one beyond the end
        records.write(causal.RATES, method, metrics=made.metrics, settings={}, data={}, seconds=1.0)
    options = {"selector": "last", "k": 8, "n_train": 40, "n_eval": 30, "seed": 1, "positions": "original"}
    for method, rank in (("lora", 8), ("full", None)):
        made = causal._finetuned(method, method, options | {"lora": rank})
        wrong = np.unpackbits(np.frombuffer(bytes.fromhex(made.metrics["wrong"]), dtype=np.uint8))[:30]
        assert 1 - wrong.mean() == pytest.approx(made.metrics["accuracy"])
        assert made.settings["learning_rate"] == causal.rate_of(method)
        assert (made.settings["k"], made.settings["seed"]) == (8, 1)
        assert (made.data["n_train"], made.data["n_eval"]) == (40, 30)
        folder = tmp_path / "runs" / "causal" / method
        assert not list(folder.glob("*.safetensors")) + list(folder.glob("checkpoint-*"))
        again = causal._finetuned(method, method, options | {"lora": rank})  # from what it left
        assert again.metrics == made.metrics


def test_it_learns_what_stands_at_the_end(small: None, decoder: Path, tmp_path: Path) -> None:
    """A word that decides is the last of 6 read, before much padding: a head elsewhere would not see it."""
    for split, n in (("train", 96), ("test", 32)):
        lines = [
            " ".join(["film", "plot", "scene", "music"][(i + j) % 4] for j in range(3 + i % 3))
            + f" {('bad', 'good')[i % 2]},{i % 2}"
            for i in range(n)
        ]
        (tmp_path / f"{split}.csv").write_text("\n".join(["text,label", *lines]), encoding="utf-8")
    result = finetune(
        tmp_path / "model", source=tmp_path, model=str(decoder), selector="last", k=6, epochs=8,
        learning_rate=1e-2, batch_size=8, quiet=True,
    )  # fmt: skip
    assert result.metrics["accuracy"] > 0.9


def test_published_in_bfloat16_it_learns_in_float32(
    small: None, decoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step of 1e-6 is less than bfloat16 can add to a weight."""
    folder = tmp_path / "low"
    low = LlamaForSequenceClassification.from_pretrained(decoder, dtype=torch.bfloat16)
    low.save_pretrained(folder)
    AutoTokenizer.from_pretrained(decoder).save_pretrained(folder)
    out = tmp_path / "model"
    finetune(
        out, model=str(folder), k=8, n_train=16, n_eval=8, batch_size=4, learning_rate=1e-6,
        precision="fp32", quiet=True,
    )  # fmt: skip
    learned = TopKForSequenceClassification.from_pretrained(out).encoder.model.layers[0].mlp.up_proj.weight
    before = low.model.layers[0].mlp.up_proj.weight
    assert learned.dtype == torch.float32
    assert (learned != before.float()).float().mean() > 0.9


def test_bytes_and_seconds_of_a_step(small: None) -> None:
    metrics: dict[str, Any] = causal.cost(ks=(8, 64), rounds=1).metrics
    assert set(metrics) == {f"{method}-k{k}" for method in causal.METHODS for k in (8, 64)}
    for method in causal.METHODS:
        few, many = metrics[f"{method}-k8"], metrics[f"{method}-k64"]
        assert few["peak"] < many["peak"]
        assert few["gradients"] == 4 * few["trainable"] == many["gradients"]
        assert few["fastest"] <= few["seconds"] <= few["slowest"]
    assert metrics["lora-k8"]["trainable"] < metrics["full-k8"]["trainable"]
    assert metrics["lora-k8"]["state"] < metrics["full-k8"]["state"]
