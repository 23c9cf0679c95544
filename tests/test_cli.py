"""The command line on what people really type: other languages, nothing at all, the wrong folder."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from topk_lib.cli import app
from topk_lib.models import TopKForSequenceClassification
from topk_lib.training import explain, finetune, load_model
from topk_lib.training.explain import _joined

K = 12
Loaded = tuple[TopKForSequenceClassification, Any, int | None]
TEXTS = [
    "",
    "Unbelievably dull!",
    "这部电影非常好看,我很喜欢,演员们都很出色,但是结局有点弱。",
    "فيلم رائع جدا وأنا أحببته كثيرا، لكن النهاية كانت ضعيفة بعض الشيء",
    "🎬🍿 great 👍🏽 café [sic] 🎉🎉🎉 naïve, and I would see it again and again and again",
    " \t  ",
]


@pytest.fixture(scope="module")
def folder(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "linear"
    finetune(
        folder, model=str(tiny_encoder), source="embedded", selector="linear", k=K, n_train=32, n_eval=8,
        batch_size=8, precision="fp32", quiet=True,
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def loaded(folder: Path) -> Loaded:
    return load_model(folder)


@pytest.fixture(autouse=True)
def _no_styles(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)


def command(*words: Any, given: str | None = None) -> str:
    run = CliRunner().invoke(app, [str(word) for word in words], input=given)
    assert run.exit_code == 0, run.output
    return run.output


@pytest.mark.parametrize("text", TEXTS)
def test_any_text(folder: Path, loaded: Loaded, text: str) -> None:
    model, tokenizer, max_length = loaded
    assert max_length is None
    found = explain(model, tokenizer, text)
    answer = json.loads(command("predict", folder, "--", text))
    positive = found.probability if found.label == "positive" else 1 - found.probability
    assert answer["positive"] == pytest.approx(positive, abs=1e-4)
    assert answer["label"] == found.label
    ids = tokenizer(text)["input_ids"]
    assert (found.read, found.tokens) == (min(K, len(ids)), len(ids))
    if found.tokens <= K:  # everything was read
        assert found.marked("", "") == text
        assert re.sub(r"\s", "", "".join(text[a:b] for a, b in found.spans)) == re.sub(r"\s", "", text)
    shown = command("explain", folder, "--", text)
    assert f"{found.label} {found.probability:.1%}, {found.read} of {found.tokens} tokens read\n" in shown
    assert found.marked() in shown


def test_what_is_marked_is_what_was_read(loaded: Loaded) -> None:
    model, tokenizer, _ = loaded
    text = "An unbelievably dull film: dull seats, dull lights, and the dullest of all endings; good grief."
    found = explain(model, tokenizer, text)
    assert (found.read, found.tokens) == (K, len(tokenizer(text)["input_ids"]))
    kept = model(torch.tensor([tokenizer(text)["input_ids"]])).kept[0].tolist()
    offsets = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    for i, (start, stop) in enumerate(offsets):
        inside = any(a <= start and stop <= b for a, b in found.spans)
        assert start == stop or inside == (i in kept)
    assert found.marked().count("[") == len(found.spans)


def test_pieces_of_a_word_are_joined() -> None:
    assert _joined("unbelievable", [(0, 0), (0, 2), (2, 8)]) == [(0, 8)]
    assert _joined("un believ able", [(0, 2), (2, 9), (9, 14)]) == [(0, 2), (3, 9), (10, 14)]
    assert _joined("🎬", [(0, 1), (0, 1)]) == [(0, 1)], "one character may be several tokens"


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60))
def test_no_character_is_lost(loaded: Loaded, text: str) -> None:
    model, tokenizer, _ = loaded
    found = explain(model, tokenizer, text)
    assert found.marked("", "") == text
    assert 0.5 <= found.probability <= 1
    assert all(0 <= a < b <= len(text) for a, b in found.spans)
    assert all(b < c for (_, b), (c, _) in zip(found.spans, found.spans[1:], strict=False))


def test_lines_from_stdin(folder: Path) -> None:
    shown = command("explain", folder, given="first line\n\n第二行\n")
    assert shown.count("tokens read") == 2
    assert "[first] [line]" in shown
    assert "[第二行]" in shown
    assert command("explain", folder, given="") == ""


def test_styles_where_there_is_a_terminal(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    assert "\x1b[1;7;32mdull\x1b[0m" in command("explain", folder, "dull")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[1;7mdull\x1b[0m" in command("explain", folder, "dull")
    monkeypatch.setenv("TERM", "dumb")
    assert "[dull]" in command("explain", folder, "dull")


@pytest.mark.parametrize("name", ["predict", "explain", "export"])
def test_no_such_model(name: str, tiny_encoder: Path, tmp_path: Path) -> None:
    for folder, message in ((tmp_path / "nowhere", "topk-lib finetune"), (tiny_encoder, "topk-lib finetune")):
        run = CliRunner().invoke(app, [name, str(folder), str(tmp_path / "out.onnx")])
        assert run.exit_code == 2
        assert message in run.output
        assert len(run.output.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_not_a_text(loaded: Loaded) -> None:
    model, tokenizer, _ = loaded
    with pytest.raises(TypeError, match="text must be a string, got list"):
        explain(model, tokenizer, ["one"])  # type: ignore[arg-type]


def test_export(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "wrote" in command("export", folder, tmp_path / "a" / "model.onnx")
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"model.onnx", "model.tokenizer.json"}
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    run = CliRunner().invoke(app, ["export", str(folder), str(tmp_path / "b.onnx")])
    assert run.exit_code == 2
    assert "pip install 'topk-lib[onnx]'" in run.output


def test_study(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def run(name: str, **options: Any) -> list[str]:
        seen.update(options, name=name)
        return ["study/one"] if options["only"] else []

    monkeypatch.setattr("topk_lib.studies.run", run)
    command("study", "imdb", "--list", "--train", "40")
    assert seen == {"name": "imdb", "only": "", "list_only": True, "n_train": 40}
    failed = CliRunner().invoke(app, ["study", "imdb", "--only", "one"])
    assert failed.exit_code == 1
    assert "1 runs failed: study/one" in failed.output


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["other"], "there is no study 'other': choose one of imdb, "),
        (
            ["imdb", "--only", "zzz"],
            "no run has 'zzz' in its name: they are called like study_4000/linear-k64",
        ),
        (["slices", "--train", "40"], "the study slices fixes its training reviews: leave --train out"),
    ],
)
def test_study_says_what_it_cannot_do(
    words: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("topk_lib.records.device_kind", lambda: "cpu")
    run = CliRunner().invoke(app, ["study", *words])
    assert run.exit_code == 2
    assert sentence in run.output
    assert len(run.output.strip().splitlines()) == 1


def test_where_to_record_is_looked_at_before_the_training(tmp_path: Path) -> None:
    run = CliRunner().invoke(app, ["finetune", str(tmp_path / "run"), "--record", "typo"])
    assert run.exit_code == 2
    assert "--record must look like EXPERIMENT/RUN, got 'typo'" in run.output
    assert not (tmp_path / "run").exists()
