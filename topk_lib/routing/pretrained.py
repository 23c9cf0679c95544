"""Classes of transformers whose feed-forward layers are experts, so that a saved folder loads as any other.

Their configuration has a model type of its own ("routed-bert"): what has not imported ``topk_lib`` refuses
the folder, where "bert" would load it with random feed-forward layers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

__all__ = ["FAMILIES", "register", "turn"]

FAMILIES = ("bert", "roberta", "electra", "modernbert", "llama", "mistral", "qwen2")
"""The model types that can have experts."""

_TASKS = (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)
_ROUTED: dict[type, type] = {}  # the routed class of each class, configurations and models alike


def register(install: Callable[[Any], None]) -> None:
    """Make the families known to ``AutoConfig``, and their models once a configuration is made.

    Args:
        install: puts experts into a new model, as its configuration says.
    """
    for family in FAMILIES:
        dense = CONFIG_MAPPING[family]
        _ROUTED[dense] = _config_class(dense, family, install)
        AutoConfig.register(f"routed-{family}", _ROUTED[dense], exist_ok=True)


def turn(model: Any, routing: dict[str, Any]) -> None:
    """Make a model, in place, one of the routed class, whose configuration says what its experts are.

    Raises:
        ValueError: there is no routed class of it.
    """
    config = model.config
    if type(config) not in _ROUTED:
        raise ValueError(
            f"a {config.model_type} model cannot have experts: take one of {', '.join(FAMILIES)}"
        )
    config.__class__ = _ROUTED[type(config)]
    config.routing = routing
    config.learn_models()
    if type(model) not in _ROUTED:
        raise ValueError(f"{type(model).__name__} is none of the classes that transformers loads by a task")
    model.__class__ = _ROUTED[type(model)]


def _config_class(dense: type, family: str, install: Callable[[Any], None]) -> type:
    def make(self: Any, *args: Any, routing: dict[str, Any] | None = None, **kwargs: Any) -> None:
        dense.__init__(self, *args, **kwargs)  # type: ignore[misc]
        self.routing = routing
        self.learn_models()

    def learn_models(self: Any) -> None:
        """Their code is imported now, and not where ``topk_lib`` is."""
        for task in _TASKS:
            if dense in task._model_mapping:
                model = task._model_mapping[dense]
                if model not in _ROUTED:
                    _ROUTED[model] = _model_class(model, type(self), install)
                task.register(type(self), _ROUTED[model], exist_ok=True)

    parts = {"__init__": make, "learn_models": learn_models, "model_type": f"routed-{family}"}
    return _made(f"Routed{dense.__name__}", dense, parts)


def _model_class(dense: type, config: type, install: Callable[[Any], None]) -> type:
    def make(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        dense.__init__(self, config, *args, **kwargs)  # type: ignore[misc]
        install(self)

    return _made(f"Routed{dense.__name__}", dense, {"__init__": make, "config_class": config})


def _made(name: str, base: type, parts: dict[str, Any]) -> type:
    """A class that pickle finds."""
    globals()[name] = found = type(name, (base,), {"__module__": __name__, "__doc__": base.__doc__, **parts})
    return found
