"""The folder of a run: who works in it, what of it is whole, and what is left of it at the end."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers import Trainer, TrainerCallback

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "DATA", "PRETRAINING", "RESULT", "SETTINGS", "KeepLast", "claimed", "computed", "damaged", "forget",
    "last_checkpoint", "named", "read_fields", "save_model", "whole_weights", "write_fields",
]  # fmt: skip

SETTINGS, DATA, RESULT = "topk_settings.json", "topk_data.json", "topk_result.json"
PRETRAINING = "topk_pretraining.json"
_COMMANDS = {SETTINGS: "finetune", PRETRAINING: "pretrain"}
_LOCK = "topk.lock"
_OURS = {_LOCK, "search.db", "search.db-journal", "trials"}
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_STATE = {"epoch", "global_step", "max_steps", "train_batch_size"}
_KEPT = 2


def named(folder: str | Path) -> Path:
    """A folder by its name; an empty one would be the working directory.

    Raises:
        ValueError: it is empty.
    """
    if not str(folder).strip():
        raise ValueError("the folder has no name: name a folder for the model, or that of one")
    return Path(folder)


@contextmanager
def claimed(folder: Path, settings: str = SETTINGS) -> Iterator[None]:
    """Work in a folder of a run alone; it is made if need be, and gone again if nothing came of it.

    The claim is a lock of the operating system's on a file in it, which ends with the process.

    Args:
        folder: of the run.
        settings: the file of settings that tells a run of this command.

    Raises:
        NotADirectoryError: it is a file.
        ValueError: files stand in it that no run of ours has written, or one of another command.
        RuntimeError: another command works in it.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file: name a folder for the model")
    for name, command in _COMMANDS.items():
        if name != settings and (folder / name).exists():
            raise ValueError(f"{folder} holds a run of topk-lib {command}: choose another output folder")
    if folder.is_dir() and not (folder / settings).exists() and (foreign := _foreign(folder)):
        raise ValueError(
            f"{folder} holds files that are no run of topk-lib's ({', '.join(foreign[:3])}"
            f"{', ...' if foreign[3:] else ''}), which it might replace: choose another output folder"
        )
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    lock = _lock(folder)
    try:
        yield
    finally:
        with suppress(OSError):
            (folder / _LOCK).unlink()
        os.close(lock)
        with suppress(OSError):  # not where something stands in it
            (folder / _LOCK).unlink(missing_ok=True)  # Windows unlinks no open file
            for path in made:
                path.rmdir()


def _foreign(folder: Path) -> list[str]:
    """What somebody else put there; a checkpoint's name with something added is never touched."""
    return sorted(
        path.name
        for path in folder.iterdir()
        if path.name not in _OURS
        and not path.name.startswith(".")
        and (not path.name.startswith("checkpoint-") or _CHECKPOINT.fullmatch(path.name))
    )


def _lock(folder: Path) -> int:
    while True:
        file = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT)
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            else:
                import msvcrt

                msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
                os.close(file)
                raise RuntimeError(
                    f"another command is at work in {folder}: wait for it, or choose another output folder"
                ) from None
            return file  # a file system without locks
        with suppress(OSError):
            if os.path.samestat(os.fstat(file), os.stat(folder / _LOCK)):
                return file
        os.close(file)  # its owner removed it in between


def computed(folder: Path) -> bool:
    """Whether something stands there that took a while: a checkpoint, weights or a result."""
    return (folder / RESULT).exists() or any(folder.glob("*.safetensors")) or bool(_checkpoints(folder))


def forget(folder: Path, *, checkpoints: bool = False) -> None:
    """Remove the settings of a run that has computed nothing, so that they do not bind the next.

    Args:
        checkpoints: remove those first, which are worth nothing.
    """
    for path in _checkpoints(folder) if checkpoints else ():
        shutil.rmtree(path)
    if not computed(folder):
        for name in (SETTINGS, DATA):
            (folder / name).unlink(missing_ok=True)


def _checkpoints(folder: Path) -> list[Path]:
    """Newest first."""
    found = [
        (_CHECKPOINT.fullmatch(path.name), path) for path in folder.glob("checkpoint-*") if path.is_dir()
    ]
    return [path for _, path in sorted(((int(m[1]), path) for m, path in found if m), reverse=True)]


def last_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint of which every file is whole."""
    return next((str(path) for path in _checkpoints(folder) if _whole(path)), None)


def _whole(checkpoint: Path) -> bool:
    try:
        files = list(checkpoint.iterdir())
        fields = {p.name: json.loads(p.read_text(encoding="utf-8")) for p in files if p.suffix == ".json"}
        packed = [p for p in files if p.suffix in (".pt", ".pth", ".bin")]
        return (
            "scheduler.pt" in {p.name for p in packed}  # Trainer would go on without
            and any(p.name in ("optimizer.pt", "optimizer.bin") for p in packed)  # the second is FSDP's
            and any(p.name.startswith("rng_state") for p in packed)
            and all(isinstance(found, dict) for found in fields.values())
            and fields.get("trainer_state.json", {}).keys() >= _STATE
            and whole_weights(checkpoint) is True
            and all(zipfile.ZipFile(path).testzip() is None for path in packed)
        )
    except (OSError, ValueError, zipfile.BadZipFile):
        return False


def whole_weights(folder: Path) -> bool | None:
    """Whether the weights in a folder are whole; None where there are none."""
    paths = list(folder.glob("*.safetensors"))
    try:
        for path in paths:
            with safe_open(path, "pt"):  # compares the length of the file with what its header says
                pass
    except (OSError, SafetensorError):
        return False
    return True if paths else None


class KeepLast(TrainerCallback):  # type: ignore[misc]
    """Removes all checkpoints but the last two and the best; ``Trainer`` would take any checkpoint-*."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_save(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
        best = Path(state.best_model_checkpoint).name if state.best_model_checkpoint else ""
        if args.should_save:
            for path in _checkpoints(self.folder)[_KEPT:]:
                if path.name != best:
                    shutil.rmtree(path, ignore_errors=True)


def save_model(trainer: Trainer, folder: Path) -> None:
    """Write model and tokenizer beside, then move them into place: a full disk leaves what was there."""
    beside = folder / ".saving"
    try:
        trainer.save_model(str(beside))
        if trainer.args.should_save:
            for path in sorted(beside.iterdir()):
                path.replace(folder / path.name)
    finally:
        if trainer.args.should_save:
            shutil.rmtree(beside, ignore_errors=True)


def write_fields(path: Path, fields: dict[str, Any]) -> None:
    """All of it or nothing, so that a broken-off run leaves no half file."""
    half = path.with_suffix(".tmp")
    try:
        half.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
        half.replace(path)
    finally:
        half.unlink(missing_ok=True)


def damaged(path: Path, why: object) -> ValueError:
    """What to say of a file of ours that cannot be used."""
    way_out = f"delete it, and give the command of {path.parent} again"
    if path.name == SETTINGS:  # without it, a folder with a model would be taken for somebody else's
        way_out = "delete it to go on asking the model here; to train, choose another output folder"
    return ValueError(f"{path} is damaged ({why}): {way_out}")


def read_fields(path: Path, known: type | None = None) -> dict[str, Any]:
    """What :func:`write_fields` wrote.

    Args:
        known: a dataclass that has all these fields.

    Raises:
        ValueError: the file is damaged, or of a newer version.
    """
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # undecodable bytes, too
        raise damaged(path, error) from None
    if not isinstance(fields, dict):
        raise damaged(path, f"it holds a {type(fields).__name__}, no object")
    names = set() if known is None else set(known.__dataclass_fields__)  # type: ignore[attr-defined]
    if known is not None and (more := sorted(fields.keys() - names)):
        raise ValueError(
            f"{path} is of another version of topk-lib (unknown here: {', '.join(more)}): upgrade topk-lib"
        )
    return fields
