"""Fine-tuning, evaluation and the counting baselines."""

from topk_lib.training.attribution import attributions
from topk_lib.training.baselines import nb_svm, tfidf_logistic
from topk_lib.training.explain import Explanation, explain
from topk_lib.training.finetune import FinetuneResult, evaluate, finetune, load_model, predict, tokenize
from topk_lib.training.metrics import accuracy_interval, classification_metrics
from topk_lib.training.search import search

__all__ = [
    "Explanation",
    "FinetuneResult",
    "accuracy_interval",
    "attributions",
    "classification_metrics",
    "evaluate",
    "explain",
    "finetune",
    "load_model",
    "nb_svm",
    "predict",
    "search",
    "tfidf_logistic",
    "tokenize",
]
