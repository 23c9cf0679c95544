"""Models: loading encoders safely, and models that select."""

from topk_lib.models.classifier import TopKConfig, TopKForSequenceClassification, TopKOutput
from topk_lib.models.export import export_onnx
from topk_lib.models.loading import DEFAULT_ENCODER, errors_only, load_encoder

__all__ = [
    "DEFAULT_ENCODER",
    "TopKConfig",
    "TopKForSequenceClassification",
    "TopKOutput",
    "errors_only",
    "export_onnx",
    "load_encoder",
]
