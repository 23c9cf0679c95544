"""Fine-tuning, evaluation and the counting baselines."""

from topk_lib.training.answer import answers, evaluate, load_model, predict, tokenize
from topk_lib.training.attribution import attributions
from topk_lib.training.baselines import nb_svm, tfidf_logistic
from topk_lib.training.explain import Explanation, explain
from topk_lib.training.finetune import FinetuneResult, finetune
from topk_lib.training.metrics import (
    accuracy_interval,
    classification_metrics,
    measure,
    number_metrics,
    several_metrics,
)
from topk_lib.training.search import search
from topk_lib.training.settings import Settings

__all__ = [
    "Explanation",
    "FinetuneResult",
    "Settings",
    "accuracy_interval",
    "answers",
    "attributions",
    "classification_metrics",
    "evaluate",
    "explain",
    "finetune",
    "load_model",
    "measure",
    "nb_svm",
    "number_metrics",
    "predict",
    "search",
    "several_metrics",
    "tfidf_logistic",
    "tokenize",
]
