"""Pretraining, fine-tuning, evaluation and the counting baselines."""

from topk_lib.training.answer import answers, evaluate, load_model, predict, tokenize
from topk_lib.training.attribution import attributions, pieces
from topk_lib.training.baselines import nb_svm, tfidf_logistic
from topk_lib.training.corpus import mask_tokens, train_tokenizer
from topk_lib.training.explain import Explanation, explain
from topk_lib.training.finetune import FinetuneResult, finetune
from topk_lib.training.learned import BLANKS, attention_by_distance, fill_blank
from topk_lib.training.metrics import (
    accuracy_interval,
    as_text,
    classification_metrics,
    measure,
    number_metrics,
    several_metrics,
)
from topk_lib.training.objective import text_losses
from topk_lib.training.pretrain import PretrainResult, PretrainSettings, pretrain
from topk_lib.training.search import search
from topk_lib.training.settings import Settings

__all__ = [
    "BLANKS",
    "Explanation",
    "FinetuneResult",
    "PretrainResult",
    "PretrainSettings",
    "Settings",
    "accuracy_interval",
    "answers",
    "as_text",
    "attention_by_distance",
    "attributions",
    "classification_metrics",
    "evaluate",
    "explain",
    "fill_blank",
    "finetune",
    "load_model",
    "mask_tokens",
    "measure",
    "nb_svm",
    "number_metrics",
    "pieces",
    "predict",
    "pretrain",
    "search",
    "several_metrics",
    "text_losses",
    "tfidf_logistic",
    "tokenize",
    "train_tokenizer",
]
