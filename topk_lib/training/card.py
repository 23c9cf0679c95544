"""The page in a model's folder: what it was trained on, how, and how well it does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from topk_lib.training.folder import RESULT
from topk_lib.training.metrics import as_text

__all__ = ["write_card"]

_OURS = "## How it was made"
_DEFAULTS = ("model", "selector", "k", "epochs", "learning_rate", "batch_size", "seed", "precision")


def write_card(folder: Path, settings: dict[str, Any], data: dict[str, Any], metrics: dict[str, Any]) -> None:
    """Say on the README.md of a model how it was made; what else stands there is left as it is.

    Args:
        folder: of the model, with the page that ``save_pretrained`` wrote.
        settings, data, metrics: of a :class:`~topk_lib.training.finetune.FinetuneResult`.
    """
    path = folder / "README.md"
    before = path.read_text(encoding="utf-8") if path.is_file() else ""
    told = {name: settings[name] for name in _DEFAULTS}
    told |= {name: value for name, value in settings.items() if name not in told and value is not None}
    lines = [
        before.split(_OURS)[0].rstrip(), "", _OURS, "",
        f"Fine-tuned by `topk-lib finetune` on {data['n_train']:,} texts of {data['source']} "
        f"(fingerprint `{data['train_fingerprint']}`).", "",
        f"Measured on {data['n_eval']:,} texts of its {settings['evaluate_on']} split "
        f"(fingerprint `{data['eval_fingerprint']}`):", "",
        "```", as_text(metrics), "```", "",
        "| setting | value |", "|---|---|", *(f"| {name} | `{value}` |" for name, value in told.items()), "",
        f"All of it, for programs, is in `{RESULT}`.",
        "It answers about texts like those it was trained on; about others its probabilities mean little.",
    ]  # fmt: skip
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
