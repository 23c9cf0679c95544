"""What a model that selects is made of, and what of it stands in its folder beside the weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig

from topk_lib.models.loading import PROBLEMS
from topk_lib.ops.soft import LINKS
from topk_lib.selectors.base import make_selector, whole
from topk_lib.selectors.budget import SPENDING

__all__ = ["TopKConfig", "probabilities"]

POSITIONS = ("compact", "original")
_SHARED = ("id2label", "label2id", "problem_type", "pad_token_id")
_CODE = "topk_model"
_LOADER = '''"""Makes this folder load with trust_remote_code=True and no import before; it needs topk_lib."""

from topk_lib.models import TopKConfig, TopKForSequenceClassification

__all__ = ["TopKConfig", "TopKForSequenceClassification"]
'''
_CARD = """---
library_name: transformers
pipeline_tag: text-classification
tags:
- token-selection
---

# A text classifier that reads {k} tokens of each text

Its selector, `{selector}`, scores the tokens of {length}; the encoder, a {encoder}, reads the {k} best.
It answers with {answer}.

It needs `topk_lib` beside `transformers`.
Import it first:

```python
import topk_lib.models
from transformers import pipeline

classify = pipeline("text-classification", model="this folder or its name on the hub")
```

Or let `transformers` import it, which `{code}.py` in this folder does:

```python
classify = pipeline("text-classification", model="...", trust_remote_code=True)
```
"""


class TopKConfig(PreTrainedConfig):  # type: ignore[misc]
    """What :class:`TopKForSequenceClassification` is made of; see there.

    The names of the classes (``id2label``, ``label2id``, ``num_labels``), ``problem_type`` and
    ``pad_token_id`` are at all times those of the encoder's configuration, ``encoder``: whoever sets them
    here sets them there.

    Args:
        encoder: its configuration.
        selector: its ``name``, ``seed`` and options.
        max_length: tokens of a text that the selector sees; None: all.
        closing: special tokens that stand after a text; a text that is cut keeps them.
        special_ids: token ids that are always kept.
        k, share, spend, positions, link, start_temperature, final_temperature, keep_after, keep_by: see
            :meth:`TopKForSequenceClassification.from_encoder`.

    Raises:
        TypeError, ValueError: a field has another type, or lies out of its range.
    """

    model_type = "topk"
    sub_configs = {"encoder": AutoConfig}  # noqa: RUF012
    keys_to_ignore_at_inference = ["kept"]  # noqa: RUF012  # what Trainer does not gather
    max_length: int | None = None  # declared, or it would pass for a setting of generation

    def __init__(
        self,
        encoder: PreTrainedConfig | dict[str, Any] | None = None,
        selector: dict[str, Any] | None = None,
        k: int = 64,
        share: float | None = None,
        spend: str = "text",
        positions: str = "compact",
        link: str = "sigmoid",
        start_temperature: float = 0.3,
        final_temperature: float = 0.03,
        special_ids: Sequence[int] = (),
        keep_after: dict[str, int] | None = None,
        keep_by: str = "attention",
        max_length: int | None = None,
        closing: int = 0,
        **kwargs: Any,
    ) -> None:
        inner = _encoder_of(encoder)
        self.encoder = inner
        self.selector = selector or {"name": "first"}
        self.k, self.share, self.spend, self.positions = k, share, spend, positions
        self.link, self.start_temperature, self.final_temperature = link, start_temperature, final_temperature
        self.special_ids, self.closing, self.max_length = special_ids, closing, max_length
        self.keep_after = keep_after or {}  # JSON has strings for keys
        self.keep_by = keep_by
        if kwargs.get("id2label") is None and kwargs.get("num_labels") in (None, inner.num_labels):
            kwargs["id2label"] = inner.id2label
        if (names := kwargs.get("id2label")) is not None and kwargs.get("label2id") is None:
            kwargs["label2id"] = {name: label for label, name in _numbers(names).items()}
        for name in ("problem_type", "pad_token_id"):
            kwargs.setdefault(name, getattr(inner, name))
        # The folder may be loaded by who has not imported us.
        kwargs["auto_map"] = {
            "AutoConfig": f"{_CODE}.TopKConfig",
            "AutoModelForSequenceClassification": f"{_CODE}.TopKForSequenceClassification",
        }
        super().__init__(**kwargs)
        self.check()

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "id2label" and value is not None:
            value = _numbers(value)
        super().__setattr__(name, value)
        if name in _SHARED and "encoder" in self.__dict__:
            setattr(self.encoder, name, value)
            if name == "id2label" and value is not None:
                self.label2id = {text: label for label, text in value.items()}

    def check(self) -> None:
        """Bring the fields to their types.

        Raises:
            TypeError, ValueError: what is wrong with which field.
        """
        if not isinstance(self.selector, dict) or not isinstance(self.selector.get("name"), str):
            raise TypeError(f"selector must be a dict with a name, got {self.selector!r}")
        make_selector(**self.selector)  # it says what is wrong with its options
        self.k = whole("k", self.k, 1)
        self.closing = whole("closing", self.closing, 0)
        if self.max_length is not None:
            self.max_length = whole("max_length", self.max_length, self.closing + 1)
        if not isinstance(self.special_ids, Sequence) or isinstance(self.special_ids, str):
            raise TypeError(f"special_ids must be a list of token ids, got {self.special_ids!r}")
        self.special_ids = [whole("special_ids", i, 0) for i in self.special_ids]
        if not isinstance(self.keep_after, dict):
            raise TypeError(f"keep_after must map layers to numbers of tokens, got {self.keep_after!r}")
        for name, allowed in (
            ("positions", POSITIONS), ("spend", SPENDING), ("link", tuple(LINKS)), ("problem_type", PROBLEMS),
        ):  # fmt: skip
            if name == "problem_type" and self.problem_type is None:
                continue
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        for name in ("share", "start_temperature", "final_temperature"):
            value = getattr(self, name)
            if name == "share" and value is None:
                continue
            try:
                number = math.nan if isinstance(value, str | bool) else float(value)
            except (TypeError, ValueError):
                number = math.nan
            if not math.isfinite(number):
                raise TypeError(f"{name} must be a number, got {value!r}")
            setattr(self, name, number)
        if self.share is not None and not 0 < self.share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, got {self.share}")
        if self.num_labels == 1 and self.problem_type in (None, "single_label_classification"):
            self.__setattr__("problem_type", "regression")

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As transformers has it; what a model cannot do without is never guessed.

        Raises:
            ValueError: the encoder, the selector or k is not there.
        """
        for name in ("encoder", "selector", "k"):
            if config_dict.get(name) is None:
                raise ValueError(f"config.json has no {name}: save the model again, or write it there")
        return super().from_dict(config_dict, **kwargs)

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = "AutoConfig") -> None:
        """Nothing to do: :meth:`save_pretrained` writes what makes a folder load."""

    def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Write ``config.json``, and the code and the page that say how to load the folder."""
        folder = Path(save_directory)
        if not folder.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{_CODE}.py").write_text(_LOADER, encoding="utf-8")
            if not (folder / "README.md").exists():
                (folder / "README.md").write_text(self._card(), encoding="utf-8")
        super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    def _card(self) -> str:
        names = ", ".join(f"`{name}`" for name in self.id2label.values())
        answer = {
            "regression": f"a number: {names}" if self.num_labels == 1 else f"numbers: {names}",
            "multi_label_classification": f"a probability for each of: {names}",
        }.get(self.problem_type, f"one of: {names}")
        length = "a whole text" if self.max_length is None else f"a text's first {self.max_length} tokens"
        return _CARD.format(
            k=self.k,
            selector=self.selector["name"],
            length=length,
            encoder=self.encoder.model_type,
            answer=answer,
            code=_CODE,
        )


def _numbers(names: Any) -> dict[int, str]:
    if not isinstance(names, dict):
        raise TypeError(f"id2label must map numbers to names, got {names!r}")
    try:
        found = {int(label): text for label, text in names.items()}  # JSON has strings for keys
    except (TypeError, ValueError):
        found = {}
    if not found or sorted(found) != list(range(len(names))):
        raise ValueError(f"id2label must name the labels 0, 1, 2 and so on, none left out, got {names!r}")
    return found


def _encoder_of(encoder: Any) -> Any:
    if encoder is None:
        encoder = {"model_type": "bert"}
    if isinstance(encoder, PreTrainedConfig):
        return encoder
    if not isinstance(encoder, dict) or not isinstance(encoder.get("model_type"), str):
        raise TypeError(f"encoder must be a dict with a model_type, got {encoder!r}")
    return AutoConfig.for_model(**encoder)


def probabilities(logits: Tensor, config: Any) -> Tensor:
    """What a classifier's logits say, as ``pipeline("text-classification")`` reads them.

    Args:
        logits: (batch, labels) float.
        config: of the model.

    Returns:
        (batch, labels) float32: numbers as they are for regression; a probability for each label where
        a text may have several; else probabilities that sum to 1.
    """
    logits = logits.float()
    if config.problem_type == "regression":
        return logits
    if config.problem_type == "multi_label_classification" or config.num_labels == 1:
        return logits.sigmoid()
    return logits.softmax(-1)
