"""A fine-tuned model at work: loaded once, asked for files of texts, or by others over HTTP."""

from topk_lib.serving.batch import Summary, predict_file
from topk_lib.serving.predictor import Predictor

__all__ = ["Predictor", "Summary", "predict_file"]
