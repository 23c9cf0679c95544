"""What the study of questions found, over its draws of questions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from topk_lib.claims.compare import Difference, Record, of_items

__all__ = ["ahead", "rows"]

Row = dict[str, Any]


def rows(found: Mapping[str, Record], kind: str) -> list[Row]:
    """One row a way of reading, over the draws that there are.

    Args:
        found: the records of ``results/answers``, by run.
        kind: "sentences-en", "tokens-en", "sentences-zh" or "spans-en".

    Returns:
        For each: ``reads`` ("all", "none", "oracle-k1", "overlap-k2", ...), ``draws``, ``f1`` with the
        ``f1 least`` and the ``f1 most`` of the draws, and the means of ``exact``, ``there``,
        ``prompt_tokens`` and ``seconds``, of what was measured.
    """
    runs = _runs(found, kind)
    told = []
    for key, row in runs[0].items() if runs else ():
        if not isinstance(row, Mapping) or "f1" not in row:
            continue  # how the training went
        every = [one[key] for one in runs if key in one]
        f1 = [one["f1"] for one in every]
        told.append(
            {
                "reads": key, "draws": len(f1),
                "f1": float(np.mean(f1)), "f1 least": min(f1), "f1 most": max(f1),
            }
            | {
                name: float(np.mean([one[name] for one in every]))
                for name in ("exact", "there", "prompt_tokens", "seconds") if name in row
            }
        )  # fmt: skip
    return told


def ahead(found: Mapping[str, Record], kind: str, first: str, second: str) -> Difference | None:
    """How much higher F1 is with the first way of reading, question by question.

    The draws, each with what was drawn or trained for it, and the questions are the two sources of chance,
    see :func:`~topk_lib.claims.compare.of_items`; no two draws share a question.

    Args:
        found, kind: as in :func:`rows`.
        first, second: ways of reading, as :func:`rows` names them.

    Returns:
        None where no draw has both.
    """
    runs = [one for one in _runs(found, kind) if first in one and second in one]
    if not runs:
        return None
    return of_items([np.subtract(one[first]["each"], one[second]["each"]) for one in runs], same=False)


def _runs(found: Mapping[str, Record], kind: str) -> list[Mapping[str, Any]]:
    return [record["metrics"] for name, record in found.items() if name.startswith(f"{kind}-s")]
