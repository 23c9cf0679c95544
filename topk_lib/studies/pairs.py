"""Reviews and what a few other words make of them: are those words among the k that are read?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from topk_lib import records
from topk_lib.claims import HARD, OURS
from topk_lib.data import fingerprint, load_pairs, load_reviews, source_of
from topk_lib.models import load_encoder
from topk_lib.selectors import choose, ids_to_batch, is_special, make_selector, shorten
from topk_lib.studies.base import Made, Row, Run, packed
from topk_lib.training import accuracy_interval, attributions, load_model, tokenize

__all__ = ["Pairs", "answers", "kept_of", "marks_kept", "read_pairs", "rules_kept", "runs", "turning"]

KS = (16, 32, 64)


def runs(*, gpu: bool) -> Iterator[Run]:
    """What the rules keep; what models answer is measured with each run of the study ``imdb``."""
    yield Run("pairs_kept", "rules", rules_kept)


class Pairs(NamedTuple):
    """The rewritten reviews as a tokenizer splits them, two texts a pair, the original first.

    Attributes:
        ids: (texts, longest) int64.
        mask: (texts, longest) int64, 1 for tokens.
        body: (texts, longest) bool, tokens that are not special.
        turning: (texts, longest) bool, tokens that stand in one text of the pair alone.
        labels: (texts,) int64.
        edits: of each pair, the kind of its edit.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    body: torch.Tensor
    turning: torch.Tensor
    labels: np.ndarray
    edits: list[str]


def turning(first: Sequence[int], second: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Which tokens of each of two texts stand outside what they share, in its order: (tokens,) bool both."""
    found = np.ones(len(first), dtype=bool), np.ones(len(second), dtype=bool)
    for a, b, size in SequenceMatcher(None, list(first), list(second), autojunk=False).get_matching_blocks():
        found[0][a : a + size] = found[1][b : b + size] = False
    return found


def read_pairs(tokenizer: Any) -> Pairs:
    """All pairs of :func:`~topk_lib.data.load_pairs`."""
    data = load_pairs()
    ids, mask = ids_to_batch(texts := tokenize(tokenizer, data["text"]))
    turned = torch.zeros_like(mask, dtype=torch.bool)
    for row in range(0, len(texts), 2):
        for at, marks in enumerate(turning(texts[row], texts[row + 1]), row):
            turned[at, : len(marks)] = torch.from_numpy(marks)
    body = mask.bool() & ~is_special(ids, tokenizer.all_special_ids)
    return Pairs(ids, mask, body, turned, np.asarray(data["label"]), list(data["edit"][::2]))


def kept_of(pairs: Pairs, kept: torch.Tensor) -> Row:
    """What a choice of tokens keeps of the words that turn the verdict.

    Args:
        kept: (texts, longest) bool.

    Returns:
        - ``kept``: the share of the turning tokens that are kept; ``blind``: what would be if as many tokens
          of each text were kept blindly, special ones aside.
        - ``seen``: the share of the pairs of which a turning token is read, in one text at least. In the
          others nothing that is read has to do with the verdict's turn. With ``seen_low`` and ``seen_high``,
          the ends of the 95% interval for the luck of the pairs.
        - ``edits``: for each kind of edit ``n`` pairs, ``kept``, ``blind`` and ``seen``.
    """
    seen = (pairs.turning & kept).any(-1).reshape(-1, 2).any(-1).numpy()
    edits, by_edit = np.asarray(pairs.edits), {}

    part = (kept & pairs.body).sum(-1) / pairs.body.sum(-1).clamp(min=1)

    def shares(inside: np.ndarray) -> Row:
        marks = pairs.turning & torch.from_numpy(inside.repeat(2))[:, None]
        total = marks.sum()
        blind = (part * marks.sum(-1)).sum() / total
        found = {"kept": float((marks & kept).sum() / total), "blind": float(blind)}
        return found | {"seen": float(seen[inside].mean())}

    for edit in sorted(set(pairs.edits)):
        by_edit[edit] = {"n": int((edits == edit).sum()), **shares(edits == edit)}
    low, high = accuracy_interval(int(seen.sum()), len(seen))
    return shares(edits == edits) | {"seen_low": low, "seen_high": high, "edits": by_edit}


@torch.inference_mode()
def answers(folder: str | Path) -> Row:
    """Let a finished model answer both texts of every pair.

    Args:
        folder: of a model that ``finetune`` saved.

    Returns:
        What :func:`kept_of` says of its reading; ``n`` pairs; the accuracies on the ``original`` and the
        ``rewritten`` texts, and ``both``, the share of the pairs with both right: 25% for one who tosses
        coins, 0 for one to whom the texts of a pair look alike. And ``wrong``, a bit a text, pair by pair.
    """
    model, tokenizer, _ = load_model(folder)
    pairs, device = read_pairs(tokenizer), records.device_kind()
    model = model.to(device).eval()
    kept, right = torch.zeros_like(pairs.turning), np.zeros(len(pairs.labels), dtype=bool)
    for start in range(0, len(right), 32):
        some = slice(start, start + 32)
        output = model(pairs.ids[some].to(device), pairs.mask[some].to(device))
        right[some] = output.logits.argmax(-1).cpu().numpy() == pairs.labels[some]
        for row, places in enumerate(output.kept.cpu(), start):
            kept[row, places[places >= 0]] = True
    return {
        "n": len(right) // 2, "original": float(right[::2].mean()), "rewritten": float(right[1::2].mean()),
        "both": float((right[::2] & right[1::2]).mean()), "wrong": packed(~right), **kept_of(pairs, kept),
    }  # fmt: skip


def marks_kept(folder: str | Path, ks: Sequence[int] = KS) -> Made:
    """What the k tokens keep that moved a trained model's own answer most.

    A gate that is distilled learns these marks from it; how many turning words they point at bounds what
    such a pupil can learn to keep. What the model itself answers says whether the words would help: who has
    read them all and is no better than a coin does not lack words.

    Args:
        folder: of a model that ``finetune`` saved.
        ks: tokens that are kept of a text, special ones included.

    Returns:
        In ``metrics``, for ``k16``, ``k32`` and so on, what :func:`kept_of` says, and for ``all``, with what
        the model itself reads, what :func:`answers` says.
    """
    model, tokenizer, _ = load_model(folder)
    pairs = read_pairs(tokenizer)
    texts = [ids[real.bool()].tolist() for ids, real in zip(pairs.ids, pairs.mask, strict=True)]
    marks = torch.zeros(pairs.ids.shape)
    for row, moved in enumerate(attributions(model, texts)):
        marks[row, : len(moved)] = moved
    pinned = pairs.mask.bool() & ~pairs.body
    metrics = {f"k{k}": kept_of(pairs, choose(marks, pairs.mask.bool(), pinned, k).mask) for k in ks}
    metrics["all"] = answers(folder)
    data = {"source": source_of(load_pairs()), "n_pairs": len(pairs.edits),
            "eval_fingerprint": fingerprint(load_pairs())}  # fmt: skip
    return Made(metrics, {"model": Path(folder).name, "ks": list(ks)}, data)


def rules_kept(ks: Sequence[int] = KS, n_train: int | None = None) -> Made:
    """What each hard rule, fitted on the training reviews, keeps of the words that turn a verdict.

    Nothing is trained.

    Args:
        ks: tokens that are kept of a text, special ones included.
        n_train: training reviews; None: all.

    Returns:
        In ``metrics``, for each rule and ``k16``, ``k32`` and so on, what :func:`kept_of` says.
    """
    encoder, tokenizer = load_encoder()
    train, pairs = load_reviews(split="train", n=n_train, quiet=True), read_pairs(tokenizer)
    ids = tokenize(tokenizer, train["text"])
    metrics: dict[str, Mapping[str, Row]] = {}
    for name in (*HARD, *OURS):
        rule = make_selector(name, vocabulary=len(tokenizer), tokenizer=tokenizer)
        rule.attach(encoder.get_input_embeddings()).fit(ids, list(train["label"]))
        metrics[name] = {
            f"k{k}": kept_of(
                pairs, shorten(rule, pairs.ids, pairs.mask, k, tokenizer.all_special_ids)[2].mask
            )
            for k in ks
        }
    data = {
        "source": source_of(train), "n_train": len(train), "train_fingerprint": fingerprint(train),
        "n_pairs": len(pairs.edits), "eval_fingerprint": fingerprint(load_pairs()),
        "mean_tokens": float(pairs.mask.sum(-1).double().mean()),
    }  # fmt: skip
    return Made(metrics, {"seed": 0, "ks": list(ks)}, data)
