"""Instant checks of exercises: each says what is right, or what is wrong and how to see it."""

from topk_lib.checks.finetuning import check_f1, check_middle_scores, check_recall_accuracy

__all__ = ["check_f1", "check_middle_scores", "check_recall_accuracy"]
