"""The article's claims and what the records say of them."""

from topk_lib.claims.article import CLAIMS, Claim, judge, markdown, table, verdict
from topk_lib.claims.compare import FULL, Difference, Paired, Record, Results, difference, loss, paired
from topk_lib.claims.continual import by_method
from topk_lib.claims.prompting import arms, lead
from topk_lib.claims.rules import HARD, OURS, SOFT, UNLABELLED, Finding
from topk_lib.claims.runs import runs

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
    "by_method",
    "difference",
    "judge",
    "lead",
    "loss",
    "markdown",
    "paired",
    "runs",
    "table",
    "verdict",
]
