"""What a masked model has learned: blanks it fills, how far it looks, which words still surprise it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "BANDS",
    "BLANKS",
    "DISTANCES",
    "attention_by_distance",
    "blanks_filled",
    "by_frequency",
    "fill_blank",
]

BLANKS = (
    ("The movie is based on a true [MASK].", "story"),
    ("The special [MASK] were amazing.", "effects"),
    ("It was a waste of [MASK] and money.", "time"),
    ("I fell [MASK] in the middle of the film.", "asleep"),
    ("At the end of the [MASK], it is only a movie.", "day"),
    ("Once upon a [MASK] there was a king.", "time"),
    ("They lived happily ever [MASK].", "after"),
    ("This is the worst movie I have ever [MASK].", "seen"),
    ("I laughed out [MASK] several times.", "loud"),
    ("It kept me on the edge of my [MASK].", "seat"),
    ("The acting was so bad that I had to turn it [MASK].", "off"),
    ("The film was shot in black and [MASK].", "white"),
    ("He wants to save the [MASK] from the aliens.", "world"),
    ("The husband and his [MASK] have two children.", "wife"),
    ("The king and the [MASK] live in a castle.", "queen"),
    ("The boy and the [MASK] go to school.", "girl"),
    ("A man falls in [MASK] with a younger woman.", "love"),
    ("She is his mother and he is her [MASK].", "son"),
    ("New [MASK] is a big city in America.", "york"),
    ("The second world [MASK] is over.", "war"),
    ("The film takes [MASK] in a small town.", "place"),
    ("The story is told from her point of [MASK].", "view"),
    ("I would not recommend this movie to [MASK].", "anyone"),
    ("He is the greatest actor of all [MASK].", "time"),
    ("As far as I am [MASK], it is the best.", "concerned"),
    ("Last but not [MASK], the music is lovely.", "least"),
    ("On the other [MASK], the plot is weak.", "hand"),
    ("First of [MASK], the script is bad.", "all"),
    ("In my [MASK] it is a great film.", "opinion"),
    ("Thank [MASK] it was over.", "god"),
    ("Day and [MASK] she waits for him.", "night"),
    ("He was shot and [MASK] by the police.", "killed"),
    ("The good, the bad and the [MASK].", "ugly"),
    ("She opened the [MASK] and walked into the room.", "door"),
    ("He drives a fast [MASK].", "car"),
    ("The children go to [MASK] every day.", "school"),
    ("Romeo and [MASK] is a play by Shakespeare.", "juliet"),
    ("Sherlock [MASK] is a famous detective.", "holmes"),
    ("Star [MASK] is a film by George Lucas.", "wars"),
    ("Steven [MASK] directed this film.", "spielberg"),
    ("Clint [MASK] plays the cowboy.", "eastwood"),
    ("Alfred [MASK] made many thrillers.", "hitchcock"),
    ("You can not judge a book by its [MASK].", "cover"),
    ("One, two, [MASK], four, five.", "three"),
    ("She has blue [MASK] and long hair.", "eyes"),
    ("The film is two [MASK] long.", "hours"),
    ("Merry Christmas and a happy new [MASK].", "year"),
    ("He has been in prison for ten [MASK].", "years"),
    ("From the beginning to the [MASK] it is dull.", "end"),
)
"""Sentences with one word left out that is obvious to a reader, and that word."""

BANDS = (10, 100, 1000)
"""Where bands of token types end, by rank from the commonest."""

DISTANCES = (0, 1, 2, 4, 8, 16, 32, 64, 128)
"""Where bins of distances between two tokens end."""


@torch.no_grad()
def fill_blank(model: Any, tokenizer: Any, text: str, *, top: int = 5) -> list[tuple[str, float]]:
    """The words that a masked model thinks most probable in a blank.

    Args:
        model: such as ``BertForMaskedLM``.
        text: with the tokenizer's mask token, [MASK], in it once.

    Returns:
        ``top`` pairs of a token and its probability, the most probable first.

    Raises:
        ValueError: there is no blank, or more than one.
    """
    values, ids = _blank(model, tokenizer, text).topk(top)
    words = tokenizer.convert_ids_to_tokens(ids.tolist())
    return list(zip(words, values.tolist(), strict=True))


def _blank(model: Any, tokenizer: Any, text: str) -> Tensor:
    """(types,) float32, summing to 1."""
    read = tokenizer(text, return_tensors="pt")
    places = (read["input_ids"][0] == tokenizer.mask_token_id).nonzero()[:, 0]
    if len(places) != 1:
        raise ValueError(
            f"the text has {len(places)} blanks: write {tokenizer.mask_token} once, where the word is missing"
        )
    was = model.training
    device = next(model.parameters()).device
    with torch.no_grad():
        logits = model.eval()(
            input_ids=read["input_ids"].to(device), attention_mask=read["attention_mask"].to(device)
        ).logits
    model.train(was)
    chances: Tensor = logits[0, places[0]].float().softmax(-1).cpu()
    return chances


def blanks_filled(model: Any, tokenizer: Any, blanks: Sequence[tuple[str, str]] = BLANKS) -> dict[str, Any]:
    """How often a masked model finds the missing words.

    Returns:
        ``n``; ``top1`` and ``top5``, shares of the blanks; ``median_rank``; and for each of the ``sentences``
        its text, the answer with its rank (1 is best; a word that is no single token has none and counts as
        not found) and probability, and the five likeliest tokens.
    """
    rows = []
    for text, answer in blanks:
        chances = _blank(model, tokenizer, text)
        found = tokenizer.convert_tokens_to_ids(answer)
        known = found is not None and found != tokenizer.unk_token_id
        rows.append(
            {
                "text": text, "answer": answer,
                "rank": int((chances > chances[found]).sum()) + 1 if known else None,
                "probability": chances[found].item() if known else 0.0,
                "top": fill_blank(model, tokenizer, text),
            }
        )  # fmt: skip
    ranks = torch.tensor([row["rank"] or len(tokenizer) for row in rows])
    return {
        "n": len(rows), "top1": (ranks <= 1).float().mean().item(),
        "top5": (ranks <= 5).float().mean().item(),
        "median_rank": int(ranks.median()), "sentences": rows,
    }  # fmt: skip


@torch.no_grad()
def attention_by_distance(model: Any, tokenizer: Any, blocks: Tensor) -> dict[str, Any]:
    """How far the heads of each layer look.

    Args:
        model: with attention "eager", which alone tells its weights.
        blocks: (batch, length) int64, without padding.

    Returns:
        ``bins``: names of the distances, counted in tokens; ``layers``: for each layer the share of the
        attention that ordinary tokens pay to ordinary tokens so far away, mean over its heads; ``even``: the
        same if every such token got as much; ``special``: for each layer what goes to [CLS] and [SEP].
    """
    was = model.training
    seen = model.eval()(blocks, output_attentions=True).attentions
    model.train(was)
    special = torch.isin(blocks, torch.tensor(tokenizer.all_special_ids))
    place = torch.arange(blocks.shape[1])
    distance = (place[:, None] - place).abs()
    bins = torch.bucketize(distance, torch.tensor(DISTANCES))  # distance <= end of the bin
    pairs = (~special[:, :, None] & ~special[:, None, :]).float()

    def shares(weights: Tensor) -> list[float]:
        """Of (batch, length, length)."""
        total = (weights * pairs).sum()
        return [((weights * pairs)[:, bins == b].sum() / total).item() for b in range(len(DISTANCES))]

    means = [layer.mean(1) for layer in seen]
    to_special = [
        ((layer * special[:, None, :]).sum(-1) * ~special).sum().item() / float((~special).sum())
        for layer in means
    ]
    return {
        "bins": [_between(low, high) for low, high in zip((-1, *DISTANCES), DISTANCES, strict=False)],
        "layers": [shares(layer) for layer in means],
        "even": shares(torch.ones_like(means[0])),
        "special": to_special,
    }


def _between(before: int, last: int) -> str:
    first = before + 1
    return f"{first:,}" if first == last else f"{first:,}-{last:,}"


def by_frequency(losses: Tensor, types: Tensor, counts: Tensor) -> list[dict[str, Any]]:
    """The loss on common and rare types.

    Args:
        losses: (guesses,) float32, nats.
        types: (guesses,) int64, what was right.
        counts: (types,) how often each type stands in the texts learned from.

    Returns:
        For each band of ranks its ``label``, ``n`` guesses, their mean ``loss``, and ``unigram``, the loss of
        one who knows only how frequent each type is.
    """
    rank = torch.empty_like(counts)
    rank[counts.argsort(descending=True, stable=True)] = torch.arange(len(counts))
    unigram = -((counts + 1).double() / (counts + 1).sum()).log()
    rows = []
    for before, last in zip((0, *BANDS), (*BANDS, len(counts)), strict=True):
        inside = (rank[types] >= before) & (rank[types] < last)
        if inside.any():
            rows.append(
                {
                    "label": _between(before, last), "n": int(inside.sum()),
                    "loss": losses[inside].double().mean().item(),
                    "unigram": unigram[types[inside]].mean().item(),
                }
            )  # fmt: skip
    return rows
