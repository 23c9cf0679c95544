"""The article's claims and what the records say of them."""

from topk_lib.claims.article import CLAIMS, Claim, judge, markdown, table, verdict
from topk_lib.claims.compare import (
    FULL,
    Difference,
    Paired,
    Record,
    Results,
    between,
    difference,
    loss,
    paired,
)
from topk_lib.claims.continual import by_method
from topk_lib.claims.prompting import arms, lead
from topk_lib.claims.rules import HARD, OURS, SOFT, UNLABELLED, Finding
from topk_lib.claims.runs import leads, on_pairs, runs

__all__ = [
    "CLAIMS",
    "FULL",
    "HARD",
    "OURS",
    "SOFT",
    "UNLABELLED",
    "Claim",
    "Difference",
    "Finding",
    "Paired",
    "Record",
    "Results",
    "arms",
    "between",
    "by_method",
    "difference",
    "judge",
    "lead",
    "leads",
    "loss",
    "markdown",
    "on_pairs",
    "paired",
    "runs",
    "table",
    "verdict",
]
