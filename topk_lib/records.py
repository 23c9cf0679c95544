"""Recorded results: one JSON file a run, written by programs and read by pages.

A record stands in ``results/<experiment>/<run>.<device>.json``, where device is ``cpu`` or
``cuda``. Pages read it with :func:`load` or, in prose, with the role ``{record}``.
"""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

__all__ = ["cite", "device_kind", "device_name", "load", "load_all", "load_results", "path_of", "peak_memory",
           "results_folder", "write"]  # fmt: skip

_LIBRARIES = ("torch", "transformers", "datasets", "accelerate", "scikit-learn", "numpy", "triton")


def results_folder() -> Path:
    """The folder ``results/``: ``TOPK_RESULTS``, or the nearest above the working directory or
    this package.

    Raises:
        FileNotFoundError: there is none (an installed package carries no records).
    """
    if named := os.environ.get("TOPK_RESULTS"):
        return Path(named)
    for start in (Path.cwd(), Path(__file__).resolve().parent):
        for folder in (start, *start.parents):
            if (folder / "results").is_dir() and (folder / "_toc.yml").is_file():
                return folder / "results"
    raise FileNotFoundError(
        "no results folder: run inside a clone of the course, or set TOPK_RESULTS to its results/"
    )


def device_kind() -> str:
    """``cuda`` where PyTorch sees a GPU, else ``cpu``."""
    import torch  # takes seconds, and reading a record needs none of it

    return "cuda" if torch.cuda.is_available() else "cpu"


def device_name() -> str:
    """The GPU's name, or the processor's with the number of threads used."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file() and (found := re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text())):
        name = found[1].strip()
    return f"{name}, {torch.get_num_threads()} threads"


def write(
    experiment: str,
    run: str,
    *,
    metrics: dict[str, Any],
    settings: dict[str, Any],
    data: dict[str, Any],
    seconds: float,
    command: str | None = None,
) -> Path:
    """Write one record, at once and whole (a crash leaves the old file or none).

    Args:
        experiment: the folder in ``results/``.
        run: the file's name without device and ending.
        metrics: what was measured.
        settings: what the run was given, the seed among them.
        data: the source of the data, its fingerprint and sizes.
        seconds: wall time.
        command: what to type to repeat it; by default this process's own command line.
    """
    if command is None:
        command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
    record = {
        "experiment": experiment,
        "run": run,
        "metrics": metrics,
        "settings": settings,
        "data": data,
        "command": command,
        "device": {"kind": device_kind(), "name": device_name(), "system": platform.system()},
        "versions": {"python": platform.python_version(), **_versions()},
        "commit": _commit(),
        "date": dt.datetime.now(dt.timezone.utc).isoformat(timespec="seconds"),
        "wall_seconds": round(seconds, 1),
        "peak_memory_mib": peak_memory(),
    }
    path = path_of(experiment, run)
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".tmp")
    fresh.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    fresh.replace(path)
    return path


def path_of(experiment: str, run: str) -> Path:
    """Where :func:`write` puts the record of a run on this kind of device."""
    return results_folder() / experiment / f"{run}.{device_kind()}.json"


def load(experiment: str, run: str) -> dict[str, Any]:
    """Read a record; where there is one from a GPU and one from a CPU, the GPU's.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged.
    """
    folder = results_folder() / experiment
    for kind in ("cuda", "cpu"):
        path = folder / f"{run}.{kind}.json"
        if path.is_file():
            return _read(path)
    raise FileNotFoundError(f"no record {run}.cpu.json or {run}.cuda.json in results/{experiment}")


def _read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"the record {path} is damaged ({error}): restore it, or make it anew") from None
    if not isinstance(record, dict):
        raise ValueError(f"the record {path} is damaged (it is no object): restore it, or make it anew")
    return record


def load_all(experiment: str) -> dict[str, dict[str, Any]]:
    """Read every record of an experiment, by run."""
    folder = results_folder() / experiment
    runs = sorted({path.name.rsplit(".", 2)[0] for path in folder.glob("*.json")})
    return {run: load(experiment, run) for run in runs}


def load_results() -> dict[str, dict[str, dict[str, Any]]]:
    """Read every record there is: from an experiment to its records by run."""
    folders = sorted(path.name for path in results_folder().iterdir() if path.is_dir())
    return {folder: load_all(folder) for folder in folders}


def cite(expression: str) -> str:
    """Turn ``experiment/run key.key [format]`` into text, as pages cite a number.

    A format is one of Python's (``.1%``); without one, whole numbers get thousands separators.

    Example: ``cite("imdb/main metrics.accuracy .1%")`` reads ``results/imdb/main.cpu.json``.
    """
    where, key, *form = expression.split()
    experiment, run = where.split("/")
    value: Any = load(experiment, run)
    for part in key.split("."):
        try:
            value = value[int(part)] if isinstance(value, list) else value[part]
        except (KeyError, IndexError, TypeError):
            raise KeyError(f"the record {where} has no field {key!r}") from None
    if form:
        return format(value, form[0])
    return f"{value:,}" if isinstance(value, int) else str(value)


def _versions() -> dict[str, str]:
    found = {}
    for library in _LIBRARIES:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _commit() -> str:
    def git(*args: str) -> str:
        return subprocess.run(
            ["git", *args], capture_output=True, text=True, check=True, cwd=Path(__file__).parent
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ":/topk_lib", ":/benchmarks")
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("TOPK_COMMIT", "unknown")


def peak_memory() -> int:
    """The most memory this process has held, in MiB; on a GPU, what PyTorch has held there."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated()) // 2**20
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return int(psutil.Process().memory_info().peak_wset) // 2**20
    scale = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // scale
