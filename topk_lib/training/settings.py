"""The settings of a fine-tuning, each checked before anything is loaded or written."""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from typing import Any

from topk_lib.models import DEFAULT_ENCODER
from topk_lib.selectors import TaughtSelector, make_selector
from topk_lib.selectors.base import whole

__all__ = ["Settings", "checked_fields", "checked_settings", "layers_kept"]

_ABOVE_0 = (
    "epochs", "learning_rate", "selector_learning_rate", "start_temperature", "final_temperature", "minutes",
)  # fmt: skip
_WHOLE = (
    "k", "batch_size", "max_length", "lora", "patience", "n_train", "n_eval",
    "vocabulary", "hidden_size", "layers", "heads", "length", "steps", "held_out",
)  # fmt: skip
_WHOLE_OR_0 = ("seed", "warmup")
_NUMBERS = ("share", "minutes")  # None by default
_ONE_OF = {
    "precision": ("auto", "fp32", "bf16", "fp16"),
    "spend": ("text", "batch"),
    "positions": ("compact", "original"),
    "evaluate_on": ("test", "dev"),
    "marks": ("slopes", "pieces", "left_out"),
    "objective": ("masked", "causal"),
}


@dataclass(frozen=True)
class Settings:
    """Everything that decides what :func:`~topk_lib.training.finetune` computes; see there."""

    model: str = DEFAULT_ENCODER
    selector: str = "first"
    k: int = 256
    max_length: int | None = None
    epochs: float = 1.0
    learning_rate: float = 5e-5
    batch_size: int = 32
    seed: int = 0
    precision: str = "auto"
    attention_dropout: float = 0.0
    share: float | None = None
    spend: str = "text"
    positions: str = "compact"
    selector_learning_rate: float = 1e-3
    start_temperature: float = 0.3
    final_temperature: float = 0.03
    teacher: str | None = None
    marks: str = "slopes"
    once: bool = False
    keep_after: str | None = None
    n_train: int | None = None
    n_eval: int | None = None
    evaluate_on: str = "test"
    lora: int | None = None
    patience: int | None = None


def checked_settings(options: dict[str, Any]) -> Settings:
    """Settings of these options; None stands for the default.

    Raises:
        TypeError: an option is unknown, or of another type.
        ValueError: one is out of its range, or does not go with another.
    """
    settings = Settings(**checked_fields(Settings, options, "finetune"))
    if not 0 <= settings.attention_dropout < 1:
        raise ValueError(f"attention_dropout must be from 0 to below 1, got {settings.attention_dropout}")
    if settings.share is not None and not 0 < settings.share <= 1:
        raise ValueError(f"share must be above 0 and at most 1, got {settings.share}")
    pupil = isinstance(make_selector(settings.selector), TaughtSelector)
    if pupil and settings.teacher is None:
        raise ValueError(
            f"the {settings.selector} selector learns from a teacher: "
            "name the folder of a model with --teacher"
        )
    if settings.teacher is not None and not pupil:
        raise ValueError(f"only taught, distilled and contextual have a teacher, not {settings.selector}")
    for name in ("marks", "once"):
        if getattr(settings, name) != getattr(Settings, name) and not pupil:
            raise ValueError(f"{name} is for a selector with a teacher, not for {settings.selector}")
    layers_kept(settings.keep_after)
    return settings


def checked_fields(kind: type, options: dict[str, Any], command: str) -> dict[str, Any]:
    """Those options that are not None, each of the type that the dataclass ``kind`` wants.

    Raises:
        TypeError: ``command`` has no such option, or it is of another type.
        ValueError: one is out of its own range.
    """
    known = inspect.signature(kind).parameters
    for name in options:
        if name not in known:
            raise TypeError(f"{command} has no option {name!r}: choose from {', '.join(known)}")
    given = {key: value for key, value in options.items() if value is not None}
    for name in given:
        if name in _WHOLE:
            given[name] = whole(name, given[name], 1, 2**31 - 1)
        elif name in _WHOLE_OR_0:
            given[name] = whole(name, given[name], 0, 2**32 - 1)
        elif isinstance(known[name].default, bool):
            given[name] = _flag(name, given[name])
        elif isinstance(known[name].default, float) or name in _NUMBERS:
            given[name] = _number(name, given[name])
        else:
            given[name] = _word(name, given[name])
    return given


def _number(name: str, value: Any) -> float:
    if isinstance(value, (str, bytes, bool)):
        raise TypeError(f"{name} must be a number, got {value!r}")
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number, got {value!r}") from None
    if name in _ABOVE_0 and not number > 0:
        raise ValueError(f"{name} must be above 0, got {number}")
    if not math.isfinite(number):
        raise ValueError(f"{name} must be a finite number, got {number}")
    return number


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return value


def _word(name: str, value: Any) -> str:
    word = str(value)
    if not word.strip():
        raise ValueError(f"{name} is empty: give a value, or leave it out")
    if name in _ONE_OF and word not in _ONE_OF[name]:
        *most, last = _ONE_OF[name]
        raise ValueError(f"{name} must be {', '.join(most)} or {last}, got {word!r}")
    return word


def layers_kept(text: str | None) -> dict[int, int] | None:
    """The setting ``keep_after``, "2:48,4:16", as a mapping from the layer to the tokens kept after it."""
    if text is None:
        return None
    try:
        pairs = [(int(layer), int(size)) for layer, size in (part.split(":") for part in text.split(","))]
    except ValueError:
        raise ValueError(f'keep_after must look like "2:48,4:16" (layer:tokens), got {text!r}') from None
    if len({layer for layer, _ in pairs}) < len(pairs):
        raise ValueError(f"keep_after names a layer twice: {text!r}")
    return dict(pairs)
