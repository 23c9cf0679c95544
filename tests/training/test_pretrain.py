"""Pretraining for real, with tiny models: what it hides, learns, resumes, shares and refuses."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer
from typer.testing import CliRunner

from topk_lib.cli import app
from topk_lib.data import load_reviews, stream_texts
from topk_lib.training import fill_blank, mask_tokens, pretrain, text_losses, train_tokenizer
from topk_lib.training.corpus import prepare_corpus
from topk_lib.training.objective import block_losses, mean_and_error, token_losses

TINY: dict[str, Any] = {
    "source": "embedded", "vocabulary": 300, "hidden_size": 16, "layers": 1, "heads": 2, "length": 16,
    "batch_size": 4, "held_out": 10, "precision": "fp32", "warmup": 2, "quiet": True,
}  # fmt: skip


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_file(folder / "model.safetensors")
    return found


def _same(a: Path, b: Path) -> bool:
    one, two = _weights(a), _weights(b)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrain(tmp_path_factory.mktemp("masked") / "a", steps=40, snapshots="0,10", **TINY).folder.parent


@pytest.fixture(scope="module")
def causal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrain(tmp_path_factory.mktemp("causal") / "a", objective="causal", steps=40, **TINY).folder


@pytest.mark.parametrize("objective", ["masked", "causal"])
def test_a_tokenizer_is_the_same_each_time(objective: str) -> None:
    texts = list(load_reviews("embedded", quiet=True)["text"])
    first, *others = (train_tokenizer(texts, 400, objective=objective) for _ in range(6))
    assert all(first.get_vocab() == other.get_vocab() for other in others)
    assert len(first) == 400
    ids = first("A film, all in all, that I would see again.")["input_ids"]
    assert first.unk_token_id is None or first.unk_token_id not in ids
    back = first.decode(ids, skip_special_tokens=True)
    assert back.replace(" ,", ",").replace(" .", ".").lower() == "a film, all in all, that i would see again."
    ends = [first.convert_ids_to_tokens(ids[i]) for i in (0, -1)]
    assert (ends == ["[CLS]", "[SEP]"]) == (objective == "masked")


def test_masks_are_berts() -> None:
    tokenizer = train_tokenizer(load_reviews("embedded", quiet=True)["text"], 300)
    ids = torch.randint(5, 300, (400, 64))
    ids[:, 0], ids[:, -1] = tokenizer.cls_token_id, tokenizer.sep_token_id
    read, chosen = mask_tokens(ids, tokenizer=tokenizer, seed=1)
    assert not chosen[:, [0, -1]].any()
    n = int(chosen.sum())
    for share, expected in (
        (n / ids[:, 1:-1].numel(), 0.15),
        (int((read[chosen] == tokenizer.mask_token_id).sum()) / n, 0.8),
        (int((read[chosen] == ids[chosen]).sum()) / n, 0.1 + 0.1 / 295),
    ):
        assert share == pytest.approx(expected, abs=4 * math.sqrt(expected / n))
    assert torch.equal(read[~chosen], ids[~chosen])
    special = set(tokenizer.all_special_ids) - {tokenizer.mask_token_id}
    assert not set(read[chosen].tolist()) & special  # nothing special is put in
    again, same = mask_tokens(ids, tokenizer=tokenizer, seed=1)
    assert torch.equal(read, again)
    assert torch.equal(chosen, same)
    assert not torch.equal(chosen, mask_tokens(ids, tokenizer=tokenizer, seed=1, step=1)[1])
    assert mask_tokens(ids[:1, :3], tokenizer=tokenizer, seed=0, rate=1e-9)[1].sum() == 1


def test_the_loss_is_transformers_own(masked: Path, causal: Path) -> None:
    for folder, kind in ((masked / "snapshot-40steps", AutoModelForMaskedLM), (causal, AutoModelForCausalLM)):
        model, tokenizer = kind.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
        ids = torch.randint(5, len(tokenizer), (3, 16))
        if kind is AutoModelForMaskedLM:
            read, chosen = mask_tokens(ids, tokenizer=tokenizer, seed=0)
        else:
            read, chosen = ids, torch.ones_like(ids, dtype=torch.bool)
            chosen[:, 0] = False
        with torch.no_grad():
            ours = token_losses(model, read, ids, chosen)
            theirs = model(input_ids=read, labels=ids.masked_fill(~chosen, -100)).loss
        assert ours.shape == (int(chosen.sum()),)
        torch.testing.assert_close(ours.mean(), theirs)


def test_it_learns_and_saves_on_the_way(masked: Path) -> None:
    found = [
        json.loads((masked / f"snapshot-{n}steps" / "topk_pretrain.json").read_text()) for n in (0, 10, 40)
    ]
    start, _, end = (one["metrics"]["loss"] for one in found)
    tokenizer = AutoTokenizer.from_pretrained(masked / "snapshot-40steps")
    assert start == pytest.approx(math.log(len(tokenizer)), abs=0.2)
    assert end < start - 0.1
    assert [one["metrics"]["steps"] for one in found] == [0, 10, 40]
    assert found[2]["metrics"]["tokens"] == 40 * 4 * 16
    assert [point[0] for point in found[2]["losses"]] == list(range(1, 41))


def test_a_snapshot_is_what_a_shorter_run_ends_with(masked: Path, tmp_path: Path) -> None:
    short = pretrain(tmp_path / "short", steps=10, **TINY).folder
    assert _same(short, masked / "snapshot-10steps")
    long = pretrain(tmp_path / "short", steps=40, **TINY).folder  # and it goes on from there
    with pytest.raises(ValueError, match="already, past 5: choose another output folder"):
        pretrain(tmp_path / "short", steps=5, **TINY)
    assert _same(long, masked / "snapshot-40steps")


def test_it_does_nothing_again(masked: Path) -> None:
    before = (masked / "snapshot-40steps" / "model.safetensors").stat().st_mtime_ns
    pretrain(masked, steps=40, snapshots="0,10", **TINY)
    assert (masked / "snapshot-40steps" / "model.safetensors").stat().st_mtime_ns == before


def test_minutes_are_of_the_processor(tmp_path: Path) -> None:
    begun = time.process_time()
    metrics = pretrain(tmp_path / "a", minutes=0.02, **TINY).metrics
    spent = (time.process_time() - begun) / 60
    assert 0.02 <= metrics["minutes"] <= spent
    assert metrics["wall_minutes"] > 0
    assert metrics["steps"] > 1


def test_later_tokens_change_nothing_before_them(causal: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(causal).eval()
    ids = torch.randint(5, 200, (2, 12))
    other = ids.clone()
    other[:, 7:] = torch.randint(5, 200, (2, 5))
    chosen = torch.zeros_like(ids, dtype=torch.bool)
    chosen[:, 1:7] = True
    with torch.no_grad():
        assert torch.equal(token_losses(model, ids, ids, chosen), token_losses(model, other, other, chosen))


def test_a_masked_model_looks_both_ways(masked: Path) -> None:
    folder = masked / "snapshot-40steps"
    model, tokenizer = (
        AutoModelForMaskedLM.from_pretrained(folder).eval(),
        AutoTokenizer.from_pretrained(folder),
    )
    words = fill_blank(model, tokenizer, "the [MASK] film", top=len(tokenizer))
    assert sum(p for _, p in words) == pytest.approx(1, abs=1e-4)
    assert words == sorted(words, key=lambda pair: -pair[1])
    assert words != fill_blank(model, tokenizer, "the [MASK] plot", top=len(tokenizer))
    for text in ("no blank", "[MASK] and [MASK]"):
        with pytest.raises(ValueError, match=r"blanks: write \[MASK\] once"):
            fill_blank(model, tokenizer, text)


def test_blocks_hold_the_texts_in_order(tmp_path: Path) -> None:
    lines = [f"number {i} of many" for i in range(50)]
    (tmp_path / "a.txt").write_text("\n".join([lines[0], "", "  ", *lines[1:]]))
    corpus = prepare_corpus(
        tmp_path / "c",
        stream_texts(tmp_path / "a.txt"),
        length=8,
        vocabulary=200,
        objective="masked",
        held_out=5,
    )
    assert (corpus.about["texts"], corpus.about["held_out"], corpus.about["empty"]) == (45, 5, 2)
    both = corpus.tokenizer.decode([*corpus.train, *corpus.held_out]).replace(" [SEP]", "\n").splitlines()
    assert sorted(line.strip() for line in both) == sorted(lines)
    rows = [corpus.batch(step, 1, seed=0)[0].tolist() for step in range(2 * corpus.blocks)]
    first, second = rows[: corpus.blocks], rows[corpus.blocks :]
    assert len({tuple(row) for row in first}) == corpus.blocks  # each once
    assert all(row[0] == corpus.tokenizer.cls_token_id for row in first)
    second = [
        row for step in range(corpus.blocks, 2 * corpus.blocks) for row in corpus.batch(step, 1, 0).tolist()
    ]
    assert sorted(first) == sorted(second)
    assert first != second  # in another order


def test_copies_of_held_out_texts_are_not_learned_from(tmp_path: Path) -> None:
    lines = [f"text {i % 20}" for i in range(200)]
    (tmp_path / "a.txt").write_text("\n".join(lines))
    about = prepare_corpus(
        tmp_path / "c",
        stream_texts(tmp_path / "a.txt"),
        length=4,
        vocabulary=100,
        objective="causal",
        held_out=3,
    ).about
    assert (about["texts"], about["held_out"]) == (170, 30)


def test_ids_of_another_tokenizer_are_not_taken(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("".join(f"word{i} and word{i % 7}\n" for i in range(800)))
    texts = stream_texts(tmp_path / "a.txt")
    for size in (60, 80):  # both are called alike
        tokenizer = train_tokenizer([text for _, text in texts], size)
        ways = {"length": 16, "vocabulary": 0, "objective": "masked", "held_out": 8, "tokenizer": tokenizer}
        if size == 60:
            prepare_corpus(tmp_path / "corpus", texts, **ways)
            prepare_corpus(tmp_path / "corpus", texts, **ways)
            continue
        with pytest.raises(ValueError, match="holds another corpus"):
            prepare_corpus(tmp_path / "corpus", texts, **ways)


def test_copies_of_test_texts_are_not_learned_from(tmp_path: Path) -> None:
    for split, texts in {
        "train": ["one", "two", " ", "three"], "unsupervised": ["two", "two", "four"],
        "test": ["two", "five"], "validation": ["four"],
    }.items():  # fmt: skip
        Dataset.from_dict({"text": texts}).to_parquet(tmp_path / f"{split}-0.parquet")
    stream = stream_texts(tmp_path)
    for _ in range(2):  # it is gone through twice
        assert list(stream) == [("train", "one"), ("train", "three")]
        assert stream.copies == {"train": 1, "unsupervised": 3}
        assert stream.empty == 1
    assert [text for _, text in stream_texts(tmp_path, splits=["test"])] == ["two", "five"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"holds no text: give texts"),
        ("\n\n \n", r"holds no text \(all 3 lines are empty\)"),
        ("only one line of words\n", "holds one text only: .* put a text on each line"),
        ("a b\nc d\n", "do not fill one block of 16: give more text, or a smaller length"),
    ],
)
def test_a_corpus_that_is_none_is_refused_and_leaves_nothing(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        pretrain(tmp_path / "out", steps=1, **TINY | {"source": tmp_path / "a.txt"})
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({}, ValueError, "give either steps, or minutes"),
        ({"steps": 1, "minutes": 1.0}, ValueError, "give either steps, or minutes"),
        ({"steps": 5, "snapshots": "9"}, ValueError, "between 0 and the end at 5, got '9'"),
        ({"steps": 5, "snapshots": "1.5"}, ValueError, "whole numbers of steps"),
        ({"steps": 5, "snapshots": "a"}, ValueError, "snapshots must look like"),
        ({"steps": 5, "heads": 3}, ValueError, "hidden_size 16 must be shared by 3 heads"),
        ({"steps": 5, "mask_rate": 0.0}, ValueError, "mask_rate must be above 0"),
        ({"steps": 5, "precision": "fp16"}, ValueError, "precision must be auto, fp32 or bf16, got 'fp16'"),
        ({"steps": 5, "objective": "next"}, ValueError, "objective must be masked or causal"),
        ({"steps": 5, "width": 3}, TypeError, "pretrain has no option 'width'"),
        ({"steps": 1, "start": "nowhere/at-all"}, OSError, "nowhere/at-all"),
        ({"steps": 1, "source": "nowhere"}, FileNotFoundError, "no folder or file 'nowhere'"),
        ({"steps": 1, "splits": ("night",)}, ValueError, "has no split 'night': it has dev, test, train"),
    ],
)
def test_what_is_refused_leaves_nothing_behind(
    tmp_path: Path, options: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        pretrain(tmp_path / "a", **TINY | options)
    assert not list(tmp_path.iterdir())


def test_other_settings_in_the_folder_are_refused(masked: Path) -> None:
    with pytest.raises(ValueError, match=r"other settings \(seed: 0 -> 1\): choose another output folder"):
        pretrain(masked, steps=40, **TINY | {"seed": 1})


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    pretrain(tmp_path / "a", steps=2, **TINY)
    (tmp_path / "a" / "checkpoint.pt").write_bytes(b"half")
    with pytest.raises(ValueError, match=r"checkpoint.pt is damaged \(.*\): delete it, and give the command"):
        pretrain(tmp_path / "a", steps=4, **TINY)


def test_a_model_of_its_own_is_trained_further(masked: Path, tmp_path: Path) -> None:
    options = {
        name: TINY[name] for name in ("source", "length", "batch_size", "held_out", "precision", "quiet")
    }
    first = next(masked.glob("snapshot-*"))
    result = pretrain(tmp_path / "a", start=str(first), steps=2, snapshots="0", **options)
    start, before = _weights(result.folder.parent / "snapshot-0steps"), _weights(first)
    assert all(torch.equal(start[name], before[name]) for name in before)


def test_an_encoder_is_trained_further(tiny_encoder: Path, tmp_path: Path) -> None:
    options = {
        name: TINY[name] for name in ("source", "length", "batch_size", "held_out", "precision", "quiet")
    }
    result = pretrain(tmp_path / "a", start=str(tiny_encoder), steps=6, snapshots="0", **options)
    start, end = _weights(result.folder.parent / "snapshot-0steps"), _weights(result.folder)
    before = _weights(tiny_encoder)
    name = "bert.encoder.layer.0.output.dense.weight"
    assert torch.equal(start[name], before[name])
    assert not torch.equal(end[name], before[name])
    model = AutoModelForMaskedLM.from_pretrained(result.folder)
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight
    assert len(AutoTokenizer.from_pretrained(result.folder)) == len(
        AutoTokenizer.from_pretrained(tiny_encoder)
    )


def test_losses_of_texts_and_their_error(masked: Path) -> None:
    folder = masked / "snapshot-40steps"
    model, tokenizer = AutoModelForMaskedLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    texts = list(load_reviews("embedded", split="test", quiet=True)["text"])
    loss, error = text_losses(model, tokenizer, texts, length=16)
    assert 0 < error < 0.2 < loss < math.log(len(tokenizer)) + 0.5
    assert text_losses(model, tokenizer, texts, length=16) == (loss, error)  # always the same masks
    with pytest.raises(ValueError, match="do not fill one block of 16"):
        text_losses(model, tokenizer, ["no"], length=16)
    # of one guess a block, it is the textbook's error of a mean
    losses = torch.randn(50)
    assert mean_and_error(losses, torch.arange(50))[1] == pytest.approx(
        (losses.std(correction=0) / math.sqrt(50)).item(), rel=1e-5
    )
    blocks = torch.randint(5, 200, (40, 16))
    found, types, read, block = block_losses(model, tokenizer, blocks)
    assert found.shape == types.shape == read.shape == block.shape
    assert block.max() == 39
    hidden = (read == tokenizer.mask_token_id).double().mean()
    assert 0.6 < hidden < 0.95  # of ten chosen, eight
    assert 0.05 < (read == types).double().mean() < 0.4  # one stays as it is


def _command(output: Path, *more: str) -> list[str]:
    options = {name: value for name, value in TINY.items() if name != "quiet"}
    given = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    return ["pretrain", str(output), *given, *more]


def _environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def test_the_command_reports(tmp_path: Path) -> None:
    told = CliRunner().invoke(app, [*_command(tmp_path / "a"), "--steps", "3", "--json"])
    assert json.loads(told.output)["steps"] == 3
    said = CliRunner().invoke(app, _command(tmp_path / "a"))
    assert said.exit_code == 2
    assert "topk-lib: say how long to train" in said.output
    other = CliRunner().invoke(app, ["finetune", str(tmp_path / "a"), "--source", "embedded"])
    assert other.exit_code == 2
    assert "holds a run of topk-lib pretrain: choose another output folder" in " ".join(other.output.split())


def test_after_kill_9_it_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    steps = 3000
    started = subprocess.Popen(
        [sys.executable, "-c", _EAGER, *_command(tmp_path / "killed", "--steps", str(steps))],
        env=_environment(), stdout=subprocess.DEVNULL,
    )  # fmt: skip
    checkpoint = tmp_path / "killed" / "checkpoint.pt"
    while not checkpoint.exists() and started.poll() is None:
        time.sleep(0.02)
    assert started.poll() is None
    started.send_signal(signal.SIGKILL)
    started.wait()
    step = torch.load(checkpoint, weights_only=True)["step"]
    assert 0 < step < steps
    end = step + 20
    options = TINY | {"steps": end}
    torch.set_num_threads(1)
    resumed = pretrain(tmp_path / "killed", **options).folder
    whole = pretrain(tmp_path / "whole", corpus=tmp_path / "killed" / "corpus", **options).folder
    assert _same(resumed, whole)


_EAGER = """
import sys, torch
torch.set_num_threads(1)
from topk_lib.training import pretrain_loop
pretrain_loop.EVERY = 0.0  # a checkpoint after each step
from topk_lib.cli import app
app(sys.argv[1:])
"""


def test_two_processes_compute_what_one_does(tmp_path: Path) -> None:
    common = ["--steps", "5"]
    subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0",
            "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", "-m", "topk_lib.cli",
            *_command(tmp_path / "two", *common),
        ],
        env=_environment(), check=True, capture_output=True,
    )  # fmt: skip
    one = pretrain(tmp_path / "one", corpus=tmp_path / "two" / "corpus", steps=5, **TINY)
    two = _weights(tmp_path / "two" / "snapshot-5steps")
    for name, weight in _weights(one.folder).items():
        torch.testing.assert_close(weight, two[name], atol=2e-5, rtol=1e-3)
