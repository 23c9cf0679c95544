"""Fine-tuning, evaluation and the counting baselines."""

from topk_lib.training.attribution import attributions
from topk_lib.training.baselines import nb_svm, tfidf_logistic
from topk_lib.training.finetune import FinetuneResult, evaluate, finetune, predict
from topk_lib.training.metrics import accuracy_interval, classification_metrics

__all__ = [
    "FinetuneResult",
    "accuracy_interval",
    "attributions",
    "classification_metrics",
    "evaluate",
    "finetune",
    "nb_svm",
    "predict",
    "tfidf_logistic",
]
