"""Models: loading encoders safely, and models that select."""

import topk_lib.routing  # noqa: F401  # whose models AutoModel then knows
from topk_lib.models.classifier import TopKForSequenceClassification, TopKOutput
from topk_lib.models.config import TopKConfig, probabilities
from topk_lib.models.export import export_onnx
from topk_lib.models.likelihood import Likelihood, likelihood
from topk_lib.models.loading import (
    DEFAULT_ENCODER,
    DEFAULT_LANGUAGE_MODEL,
    errors_only,
    load_encoder,
    load_language_model,
)
from topk_lib.models.pruning import TokenPruner
from topk_lib.models.vocabulary import SelectedVocabulary, Sizes, select_vocabulary, sizes

__all__ = [
    "DEFAULT_ENCODER",
    "DEFAULT_LANGUAGE_MODEL",
    "Likelihood",
    "SelectedVocabulary",
    "Sizes",
    "TokenPruner",
    "TopKConfig",
    "TopKForSequenceClassification",
    "TopKOutput",
    "errors_only",
    "export_onnx",
    "likelihood",
    "load_encoder",
    "load_language_model",
    "probabilities",
    "select_vocabulary",
    "sizes",
]
