"""The command line on what people really type: other languages, nothing at all, the wrong folder."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.main import get_command
from typer.testing import CliRunner

import topk_lib
from topk_lib.cli import SELECTORS, app
from topk_lib.cli_base import lines_of
from topk_lib.data import Labels
from topk_lib.data.labels import CLASS, NUMBER, SEVERAL
from topk_lib.models import TopKForSequenceClassification
from topk_lib.selectors import selector_names
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
    assert found.probability is not None
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
    assert found.probability is not None
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
        (["other"], "there is no study 'other': choose one of adaptation, "),
        (
            ["imdb", "--only", "zzz"],
            "no run has 'zzz' in its name: they are called like study_4000/gate-k16-s0",
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


def test_help_is_whole_and_comes_without_pytorch() -> None:
    group = get_command(app)
    program = (
        "import sys\nfrom typer.testing import CliRunner\nfrom topk_lib.cli import app\n"
        "for words in (['--help'], ['--version'], ['finetune', '--help'], ['study', '--help']):\n"
        "    assert CliRunner().invoke(app, words).exit_code == 0\n"
        "heavy = {'torch', 'transformers', 'datasets', 'sklearn', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr

    def plain(text: str) -> str:
        return re.sub(r"[\s│]+", " ", text)

    for name, one in group.commands.items():  # type: ignore[attr-defined]
        shown = plain(command(name, "--help"))
        texts = [one.help, *(parameter.help for parameter in one.params if getattr(parameter, "help", None))]
        for text in texts:
            assert plain(text).strip() in shown, f"{name}: {text}"
    assert "[CLS] and [SEP] included" in plain(command("finetune", "--help"))


def test_version() -> None:
    assert command("--version") == f"topk-lib {topk_lib.__version__}\n"
    pyproject = (Path(__file__).resolve().parent.parent / "pyproject.toml").read_text()
    assert f'version = "{topk_lib.__version__}"' in pyproject


def test_the_selectors_of_the_command_are_all() -> None:
    assert sorted(SELECTORS) == sorted(selector_names())


def test_json_and_nothing_else(folder: Path) -> None:
    told = json.loads(command("evaluate", folder, "--source", "embedded", "--n", "8", "--json"))
    assert told["classes"] == ["negative", "positive"]
    table = command("evaluate", folder, "--source", "embedded", "--n", "8", "--quiet")
    assert f"accuracy {told['accuracy']:.2%}" in table


@pytest.mark.parametrize(
    ("given", "texts"),
    [
        (b"one\r\ntwo\r\n", ["one", "two"]),
        (b"one\rtwo", ["one", "two"]),
        (b"\xef\xbb\xbfone\n\n \n\xef\xbb\xbftwo\n", ["one", "\ufefftwo"]),
        ("caf\u00e9\u2028\x0b\x85x\n".encode(), ["caf\u00e9\u2028\x0b\x85x"]),
        (b"a\0b\n", ["a\0b"]),
        (b"", []),
    ],
)
def test_lines_of_other_systems(monkeypatch: pytest.MonkeyPatch, given: bytes, texts: list[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given)))
    assert list(lines_of(None)) == texts


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (b"fine\ncaf\xe9\n", "line 2 of standard input is not UTF-8 (byte 0xe9): convert it, as with iconv"),
        ("a\n".encode("utf-16"), "line 1 of standard input is not UTF-8 (byte 0xff)"),
    ],
)
def test_undecodable_input(folder: Path, given: bytes, message: str) -> None:
    for name in ("predict", "explain"):
        run = CliRunner().invoke(app, [name, str(folder)], input=given)
        assert run.exit_code == 2
        assert message in run.output
        assert len([line for line in run.output.splitlines() if line.startswith("topk-lib: ")]) == 1


def test_an_undecodable_argument(folder: Path) -> None:
    for name in ("predict", "explain"):
        run = CliRunner().invoke(app, [name, str(folder), "caf\udce9"])
        assert run.exit_code == 2
        assert "holds half a character" in run.output


def test_who_reads_may_stop_reading(folder: Path) -> None:
    program = f"{sys.executable} -m topk_lib.cli predict {folder} | true"
    run = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {program}"], input="one\n" * 5000, capture_output=True, text=True
    )
    assert (run.returncode, run.stderr) == (0, "")


def test_answers_of_three_classes_and_of_several_labels(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(labels: Labels, row: list[float]) -> dict[str, Any]:
        monkeypatch.setattr("topk_lib.serving.predictor.labels_of_model", lambda _: labels)
        found = dict(zip(labels.names, row, strict=True))
        monkeypatch.setattr("topk_lib.serving.Predictor.__call__", lambda *_: [found])
        return dict(json.loads(command("predict", folder, "x")))

    names = ("a", "b", "c")
    each = {"a": 0.6, "b": 0.1, "c": 0.7}
    assert answer(Labels(CLASS, names), [0.6, 0.1, 0.7]) == {"label": "c", "probabilities": each, "text": "x"}
    assert answer(Labels(SEVERAL, names), [0.6, 0.1, 0.7]) == {
        "labels": ["a", "c"], "probabilities": each, "text": "x",
    }  # fmt: skip
    assert answer(Labels(NUMBER, ("score",)), [3.25]) == {"number": 3.25, "text": "x"}
    both = answer(Labels(CLASS, ("negative", "positive")), [0.25, 0.75])
    assert (both["label"], both["positive"]) == ("positive", 0.75)


def test_predict_answers_a_file(folder: Path, tmp_path: Path) -> None:
    given, out = tmp_path / "in.csv", tmp_path / "out.csv"
    given.write_text("id,text\n1,good\n2,a,b\n3,bad\n")
    told = json.loads(command("predict", folder, "--input", given, "--output", out, "--json"))
    assert (told["rows"], told["answered"], told["unread"]) == (3, 2, 1)
    assert told["texts_per_second"] > 0
    assert out.read_text().splitlines()[0].startswith("id,text,prediction,probability_negative")
    lines = [json.loads(line) for line in command("predict", folder, "--input", given).splitlines()]
    assert [line.get("id") for line in lines] == ["1", None, "3"]
    assert "2 fields" in lines[1]["fault"] or "3 fields" in lines[1]["fault"]
    assert lines[0]["label"] in ("negative", "positive")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--output", "out.csv"], "go with --input FILE"),
        (["--input", "in.csv", "x"], "not both"),
        (["--input", "in.csv", "--record", "a/b"], "name it with --output"),
        (["--input", "none.csv"], "none.csv"),
    ],
)
def test_predict_says_what_does_not_go_together(folder: Path, arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(app, ["predict", str(folder), *arguments])
    assert result.exit_code == 2
    assert said in result.stderr
