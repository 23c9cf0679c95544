"""How good translations are: BLEU and chrF, with intervals, and whether two differ."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["compared"]

_DRAWS = 1000


def compared(systems: Mapping[str, Sequence[str]], references: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Measure translations of the same sentences, and compare each system with the first.

    Args:
        systems: for each name the texts that it wrote, as they would be printed.
        references: what people wrote, one a sentence.

    Returns:
        For each name ``bleu`` and ``chrf`` (0 to 100); ``bleu_low`` and ``bleu_high``, a 95% interval over
        sentences drawn anew 1000 times; ``p``, how often such draws see a difference from the first as large
        by chance (paired bootstrap; None for the first, 1 where there is no difference). And under
        "signature" how it was counted.

    Raises:
        OSError: sacrebleu is not installed.
        ValueError: no system, or one with more or fewer texts than there are references.

    Source: Post (2018); Koehn (2004) for the paired bootstrap.
    """
    if importlib.util.find_spec("sacrebleu") is None:
        raise OSError("BLEU is counted by sacrebleu, which is missing: pip install 'topk-lib[book]'")
    from sacrebleu.metrics import BLEU, CHRF
    from sacrebleu.significance import PairedTest

    if not systems:
        raise ValueError("there is nothing to compare: give one system at least")
    for name, texts in systems.items():
        if len(texts) != len(references):
            raise ValueError(f"{name}: {len(texts):,} translations for {len(references):,} references")
    named = [(name, list(texts)) for name, texts in systems.items()]
    test = PairedTest(named, {"BLEU": BLEU(), "CHRF": CHRF()}, [list(references)], "bs", _DRAWS)
    signatures, scores = test()
    (chrf,) = (name for name in scores if name not in ("System", "BLEU"))
    found: dict[str, dict[str, Any]] = {}
    for i, (name, _) in enumerate(named):
        bleu = scores["BLEU"][i]
        p = bleu.p_value
        if p is not None and bleu.score == scores["BLEU"][0].score:
            p = 1.0  # sacrebleu counts draws above the difference, and none is above where all are 0
        found[name] = {
            "bleu": float(bleu.score), "bleu_low": float(bleu.mean - bleu.ci),
            "bleu_high": float(bleu.mean + bleu.ci), "chrf": float(scores[chrf][i].score),
            "p": None if p is None else float(p),
        }  # fmt: skip
    found["signature"] = {name: str(signatures[name]) for name in ("BLEU", chrf)}
    return found
