"""Summaries: the k best sentences of an abstract, a language model's own sentence, and how good they are."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from functools import cache, lru_cache
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from topk_lib.claims.summaries import MEASURES
from topk_lib.ops import hard_topk, soft_topk, topk_mask
from topk_lib.training.prompts import free_answers, text_vectors

__all__ = [
    "ASKS",
    "PLAIN",
    "TARGETS",
    "Padded",
    "SentenceGate",
    "best_sentences",
    "first_sentence",
    "fit_gate",
    "new_words",
    "oracle",
    "pad",
    "plain_scores",
    "rouge",
    "sentence_vectors",
    "write_summaries",
]

PLAIN = ("lead", "centroid", "random")
"""Rules that learn nothing."""

TARGETS = ("oracle", "rouge")
"""What a gate may be trained on: the oracle's choice as labels, or each sentence's ROUGE-1 as a reward."""

_CHAT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
ASKS = {
    "one sentence": _CHAT.format("Summarize this abstract in one sentence.\n\n{}"),
    "finding": _CHAT.format("{}\n\nWhat is the main finding? Answer in one short sentence."),
    "tldr": "{}\n\nTL;DR:",
    "in short": "Abstract: {}\n\nThe abstract in one short sentence:",
}
"""Ways to ask a language model for a summary, each with one place for the text."""

_SHORT = 3  # letters of most words that say nothing alone; longer ones of them follow
_STOP = {"also", "from", "have", "into", "more", "that", "than", "their", "these", "they", "this", "were",
         "when", "which", "while", "with", "without"}  # fmt: skip


@cache
def _scorer() -> Any:
    if importlib.util.find_spec("rouge_score") is None:
        raise OSError("ROUGE is counted by rouge-score, which is missing: pip install 'topk-lib[book]'")
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(list(MEASURES), tokenizer=SimpleNamespace(tokenize=_stems))


@lru_cache(maxsize=2**16)  # stemming takes longer than counting, and each text is compared many times
def _stems(text: str) -> list[str]:
    from rouge_score.tokenizers import DefaultTokenizer

    found: list[str] = DefaultTokenizer(True).tokenize(text)
    return found


def rouge(summaries: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """How much of each summary stands in a reference and the other way round (Lin, 2004).

    Each number is an F1, the harmonic mean of precision and recall, over stemmed words. Of several
    references the one with the highest ROUGE-1 counts, for all three (Cachola et al., 2020).

    Args:
        summaries: n texts.
        references: for each of them at least one text.

    Returns:
        (n, 3) float64 in [0, 1], in the order of :data:`~topk_lib.claims.summaries.MEASURES`.

    Raises:
        ValueError: not as many references as summaries, or a summary without one.
        OSError: rouge-score is not installed.
    """
    if len(summaries) != len(references) or not all(references):
        raise ValueError(
            f"each of {len(summaries)} summaries needs at least one reference, got {len(references)} lists, "
            f"{sum(not some for some in references)} of them empty"
        )
    scorer = _scorer()
    found = np.zeros((len(summaries), len(MEASURES)))
    for i, (summary, some) in enumerate(zip(summaries, references, strict=True)):
        each = [[score.fmeasure for score in scorer.score(one, summary).values()] for one in some]
        found[i] = max(each, key=lambda row: row[0])
    return found


def new_words(summary: str, source: str) -> list[str]:
    """The words and numbers of a summary that its source does not have, stems compared; words of at most
    three letters, and longer ones that say nothing alone, are left out.

    A word that is new may be a fair paraphrase, and a summary without one may be false all the same: the
    list says where to look, and no more.
    """
    known = set(_stems(source))
    words = re.findall(r"\d+(?:[.,]\d+)*|[^\W\d_]+", summary)
    return [
        word for word in dict.fromkeys(words)
        if (word[0].isdigit() or (len(word) > _SHORT and word.lower() not in _STOP))
        and not known.issuperset(_stems(word))
    ]  # fmt: skip


def best_sentences(sentences: Sequence[str], scores: Tensor, k: int) -> list[str]:
    """The k sentences with the highest scores, in the order of the text; all where there are fewer.

    Args:
        sentences: n of them.
        scores: (n,) float.

    Raises:
        ValueError: not one score a sentence, or k < 0.
    """
    if scores.shape != (len(sentences),):
        raise ValueError(
            f"{len(sentences)} sentences need as many scores, got the shape {tuple(scores.shape)}"
        )
    return [sentences[i] for i in hard_topk(scores, min(k, len(sentences))).indices.tolist()]


def sentence_vectors(encoder: Any, tokenizer: Any, abstracts: Sequence[Sequence[str]]) -> list[Tensor]:
    """For each abstract (its sentences, width) float32, of length 1 each.

    Args:
        encoder, tokenizer: as :func:`~topk_lib.training.prompts.text_vectors` takes them.
        abstracts: lists of sentences, none of them empty.
    """
    found = text_vectors(encoder, tokenizer, [one for abstract in abstracts for one in abstract])
    return list(torch.split(found, [len(abstract) for abstract in abstracts]))


def plain_scores(rule: str, vectors: Tensor, seed: int | Sequence[int] = 0) -> Tensor:
    """Scores of one abstract's sentences by a rule that learns nothing.

    "lead" takes the first ones, the usual baseline; "random" any; "centroid" those nearest to the mean of
    all, by cosine (Radev et al., 2004, with vectors of an encoder in place of word counts).

    Args:
        rule: one of :data:`PLAIN`.
        vectors: (n, width), as :func:`sentence_vectors` gives them.
        seed: of "random": a number, or several, such as the run's and the abstract's.

    Returns:
        (n,) float32.

    Raises:
        ValueError: no such rule.
    """
    n = len(vectors)
    if rule == "lead":
        return -torch.arange(n, dtype=torch.float32)
    if rule == "random":
        return torch.from_numpy(np.random.default_rng(seed).random(n, dtype=np.float32))
    if rule == "centroid":
        return nn.functional.cosine_similarity(vectors, vectors.mean(0, keepdim=True))
    raise ValueError(f"there is no rule {rule!r}: choose one of {', '.join(PLAIN)}")


def oracle(sentences: Sequence[str], references: Sequence[str], k: int) -> Tensor:
    """Which k sentences come nearest to a reference: no rule that chooses sentences can be much better.

    One after another that sentence is added which raises ROUGE-1 most (Nallapati et al., 2017); for k = 1
    that is the best one. It looks at the answer, so it is a bound and no method.

    Returns:
        (n,) bool, min(k, n) of them True.
    """
    kept: list[int] = []
    for _ in range(min(k, len(sentences))):
        left = [i for i in range(len(sentences)) if i not in kept]
        tried = [" ".join(sentences[j] for j in sorted([*kept, i])) for i in left]
        kept.append(left[int(rouge(tried, [references] * len(tried))[:, 0].argmax())])
    mask = torch.zeros(len(sentences), dtype=torch.bool)
    mask[kept] = True
    return mask


class Padded(NamedTuple):
    """Abstracts as one batch.

    Attributes:
        vectors: (abstracts, longest, width) float32.
        valid: (abstracts, longest) bool, False for padding.
        gains: (abstracts, longest) float32: ROUGE-1 of each sentence alone.
        chosen: (abstracts, longest) bool: the :func:`oracle`'s choice.
    """

    vectors: Tensor
    valid: Tensor
    gains: Tensor
    chosen: Tensor


def pad(
    vectors: Sequence[Tensor], abstracts: Sequence[Sequence[str]], references: Sequence[Sequence[str]], k: int
) -> Padded:
    """Make a batch of abstracts, with what a gate can learn from their references."""
    gains, chosen = [], []
    for sentences, some in zip(abstracts, references, strict=True):
        gains.append(torch.from_numpy(rouge(sentences, [some] * len(sentences))[:, 0]).float())
        chosen.append(oracle(sentences, some, k))
    whole = [torch.ones(len(one), dtype=torch.bool) for one in vectors]
    return Padded(*(nn.utils.rnn.pad_sequence(list(x), True) for x in (vectors, whole, gains, chosen)))


class SentenceGate(nn.Module):
    """A score for each sentence: s_i = p . gelu(U x_i + b), with x_i the sentence's vector, its cosine to
    the mean of the abstract's sentences, and its place in the text, 0 for the first and 1 for the last.

    Args:
        width: of the vectors.
        hidden: of the layer between; 0 for none, which is logistic regression.
        seed: of the weights.
    """

    def __init__(self, width: int, hidden: int = 64, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layers: list[nn.Module] = [nn.Linear(width + 2, hidden or 1)]
            if hidden:
                layers += [nn.GELU(), nn.Linear(hidden, 1, bias=False)]
            self.net = nn.Sequential(*layers)

    def forward(self, vectors: Tensor, valid: Tensor) -> Tensor:
        """(abstracts, n) scores of (abstracts, n, width) vectors; those of padding mean nothing."""
        real = valid.unsqueeze(-1).to(vectors.dtype)
        count = real.sum(1, keepdim=True)
        centre = (vectors * real).sum(1, keepdim=True) / count
        near = nn.functional.cosine_similarity(vectors, centre, dim=-1).unsqueeze(-1)
        places = torch.arange(vectors.shape[1], device=vectors.device)[None, :, None]
        place = places / (count - 1).clamp(min=1)
        scaled = vectors * vectors.shape[-1] ** 0.5  # numbers near 1, as layers like them
        scores: Tensor = self.net(torch.cat([scaled, near, place], -1)).squeeze(-1)
        return scores

    @torch.inference_mode()
    def scores(self, vectors: Tensor) -> Tensor:
        """(n,) scores of one abstract's (n, width) vectors."""
        valid = torch.ones(1, len(vectors), dtype=torch.bool, device=vectors.device)
        found: Tensor = self(vectors.unsqueeze(0), valid)
        return found[0].cpu()


def fit_gate(
    train: Padded,
    dev: Padded,
    k: int,
    *,
    target: str = "oracle",
    hidden: int = 64,
    epochs: int = 20,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    seed: int = 0,
) -> tuple[SentenceGate, list[float]]:
    """Train a gate to keep k sentences, through :func:`~topk_lib.ops.soft_topk`.

    Each sentence has a weight in [0, 1], k in all. With the target "oracle" the weights are brought near
    the oracle's choice, by cross entropy; with "rouge" they are to earn as much ROUGE-1 as they can, the
    sum over sentences of weight times gain, which no label tells how. The epoch that does best on dev is
    the one that is kept.

    Args:
        train, dev: from :func:`pad`, with the same k.
        k: sentences to keep.
        target: one of :data:`TARGETS`.
        hidden, seed: of :class:`SentenceGate`; the seed shuffles, too.
        epochs, batch_size, learning_rate: of the training (AdamW).

    Returns:
        The gate, and for each epoch what the k chosen sentences of a dev abstract gain on average.

    Raises:
        ValueError: no such target, or k < 1 or above the longest abstract.
    """
    if target not in TARGETS:
        raise ValueError(f"there is no target {target!r}: choose one of {', '.join(TARGETS)}")
    longest = min(train.valid.shape[1], dev.valid.shape[1])
    if not 1 <= k <= longest:
        raise ValueError(f"k must lie in 1..{longest}, the sentences of the longest abstract, got {k}")
    gate = SentenceGate(train.vectors.shape[-1], hidden, seed)
    optimiser = torch.optim.AdamW(gate.parameters(), lr=learning_rate)
    dice = torch.Generator().manual_seed(seed)
    best, kept, told = -1.0, gate.state_dict(), list[float]()
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(len(train.valid), generator=dice), batch_size):
            part = Padded(*(x[rows] for x in train))
            weights = soft_topk(gate(part.vectors, part.valid), k, valid=part.valid)
            if target == "rouge":
                loss = -(weights * part.gains).sum() / (k * len(rows))
            else:
                sure = weights.clamp(1e-6, 1 - 1e-6)[part.valid]
                loss = nn.functional.binary_cross_entropy(sure, part.chosen[part.valid].float())
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        with torch.inference_mode():
            mask = topk_mask(gate(dev.vectors, dev.valid), k, valid=dev.valid)
        told.append(float((dev.gains * mask).sum(-1).div(mask.sum(-1)).mean()))
        if told[-1] > best:
            best, kept = told[-1], {name: x.clone() for name, x in gate.state_dict().items()}
    gate.load_state_dict(kept)
    return gate.eval(), told


def first_sentence(text: str) -> str:
    """The first sentence of the first line that has any text: models go on where they were to stop."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    ended = re.match(r".+?[.!?]['\")\]]*(?=\s+[A-Z0-9\"'(\[]|$)", line)
    return ended[0] if ended else line


def write_summaries(
    model: Any, tokenizer: Any, texts: Sequence[str | Sequence[int]], ask: str, *, most: int = 60,
    batch_size: int = 16,
) -> list[str]:  # fmt: skip
    """One sentence for each text, the likeliest token at every step.

    Args:
        model, tokenizer: as :func:`~topk_lib.models.load_language_model` gives them.
        texts: texts, or ids of their tokens, which are put into the prompt as they are.
        ask: the prompt, with one place ``{}`` for the text; such as those in :data:`ASKS`.
        most: tokens to write.
        batch_size: texts at a time.

    Raises:
        ValueError: the prompt has not one place for a text, or is too long for the model.
    """
    if ask.count("{}") != 1:
        raise ValueError(f"the prompt needs one place {{}} for the text, and {ask!r} has {ask.count('{}')}")
    before, after = ask.split("{}")
    # The space before a text belongs to the first of its tokens.
    start, end = (
        list(tokenizer(part, add_special_tokens=False)["input_ids"]) if part else []
        for part in (before.removesuffix(" "), after)
    )
    prompts = [before + one + after if isinstance(one, str) else [*start, *one, *end] for one in texts]
    said = free_answers(model, tokenizer, prompts, most=most, batch_size=batch_size)
    return [first_sentence(text) for text in said]
