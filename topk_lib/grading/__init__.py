"""Coursework that grades itself: what checks are written with, and what runs a student's copy."""

from topk_lib.grading.judging import (
    Answer,
    Check,
    Draw,
    Known,
    Private,
    Refused,
    Verdict,
    Wrong,
    expect,
    hidden,
    judge,
    load_private,
    right,
    wrong,
)
from topk_lib.grading.local import local, try_hidden
from topk_lib.grading.perform import Counts

__all__ = [
    "Answer",
    "Check",
    "Counts",
    "Draw",
    "Known",
    "Private",
    "Refused",
    "Verdict",
    "Wrong",
    "expect",
    "hidden",
    "judge",
    "load_private",
    "local",
    "right",
    "try_hidden",
    "wrong",
]
