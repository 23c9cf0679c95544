"""The article's claims and what the records say of them."""

from topk_lib.claims.compare import FULL, Paired, Record, Results, loss, paired
from topk_lib.claims.rules import CLAIMS, HARD, SOFT, UNLABELLED, Claim, Finding, judge, markdown
from topk_lib.claims.runs import runs

__all__ = [
    "CLAIMS",
    "FULL",
    "HARD",
    "SOFT",
    "UNLABELLED",
    "Claim",
    "Finding",
    "Paired",
    "Record",
    "Results",
    "judge",
    "loss",
    "markdown",
    "paired",
    "runs",
]
