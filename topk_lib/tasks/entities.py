"""Names in posts: an encoder that tags every word, and may let tokens leave early."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoConfig,
    AutoModelForTokenClassification,
    AutoTokenizer,
    get_linear_schedule_with_warmup,
)

from topk_lib.models import errors_only
from topk_lib.models.loading import encoder_path, readable
from topk_lib.tasks.leaving import RULES, Leaving, restore, staying
from topk_lib.tasks.names import entity_scores, forms, lexicon_tags, linear_tags, spans

__all__ = [
    "RULES", "Leaving", "Posts", "Tagged", "entity_scores", "flops", "forms", "lexicon_tags", "linear_tags",
    "load_tagger", "names_kept", "read_posts", "restore", "shorten", "spans", "staying", "tag", "tag_names",
    "tagged", "train_tagger",
]  # fmt: skip


@dataclass(frozen=True)
class Posts:
    """Posts as the encoder reads them, in pieces.

    Attributes:
        words: of each post, as the set has them.
        tags: of each post, one a word.
        ids: of each post, the token ids of its n pieces, special tokens included.
        of_word: of each post, for each piece the number of its word, -1 for special tokens.
    """

    words: list[list[str]]
    tags: list[list[str]]
    ids: list[list[int]]
    of_word: list[list[int]]

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Iterable[int]) -> Posts:
        """Those of these numbers."""
        at = list(rows)
        return Posts(
            [self.words[i] for i in at], [self.tags[i] for i in at],
            [self.ids[i] for i in at], [self.of_word[i] for i in at],
        )  # fmt: skip

    def first(self, row: int) -> list[int]:
        """Where each word of a post has its first piece; -1 for words without one, or cut off."""
        found = [-1] * len(self.words[row])
        for place, word in enumerate(self.of_word[row]):
            if word >= 0 and found[word] < 0:
                found[word] = place
        return found

    def capitals(self, row: int) -> list[float]:
        """For each piece of a post 1 where the first letter of its word is a capital, else 0."""
        big = [next((c for c in word if c.isalpha()), "").isupper() for word in self.words[row]]
        return [float(word >= 0 and big[word]) for word in self.of_word[row]]

    def batches(self, size: int, dice: random.Random | None = None) -> list[list[int]]:
        """The numbers of at most ``size`` posts at a time, all with equally many pieces.

        Nothing is padded, so that a share of a batch's pieces is that share of each post.

        Args:
            size: posts of a batch at most.
            dice: shuffles posts and batches; None: as they come, short ones first.
        """
        count = len(self.ids)
        groups: dict[int, list[int]] = {}
        for row in range(count) if dice is None else dice.sample(range(count), count):
            groups.setdefault(len(self.ids[row]), []).append(row)
        found = [
            rows[at : at + size] for _, rows in sorted(groups.items()) for at in range(0, len(rows), size)
        ]
        if dice is not None:
            dice.shuffle(found)
        return found


def tag_names(data: Dataset) -> list[str]:
    """The tags of a set, in the order of their numbers."""
    return list(data.features["ner_tags"].feature.names)


def read_posts(data: Dataset, tokenizer: Any) -> Posts:
    """Cut the words of posts into the pieces of a tokenizer.

    Args:
        data: with the columns ``tokens`` and ``ner_tags`` of :func:`~topk_lib.data.load_set` ("wnut_17").
        tokenizer: a fast one; posts over its maximum are cut, and the words behind count as "O".
    """
    names, words = tag_names(data), [list(post) for post in data["tokens"]]
    read = tokenizer(words, is_split_into_words=True, truncation=True)
    of_word = [[-1 if w is None else w for w in read.word_ids(row)] for row in range(len(words))]
    return Posts(
        words, [[names[tag] for tag in post] for post in data["ner_tags"]], read["input_ids"], of_word
    )


def load_tagger(names: Sequence[str], name: str | Path | None = None, *, seed: int = 0) -> tuple[Any, Any]:
    """Load an encoder that says a tag for each piece, and its tokenizer.

    Args:
        names: of the tags, in the order of their numbers (:func:`tag_names`).
        name: a hub name, a folder (of a tagger with as many tags, its head is kept), or None for the course's
            encoder, which does not tell capitals from small letters.
        seed: of the new head.

    Returns:
        The model (``PreTrainedModel`` for token classification) and the tokenizer.

    Raises:
        OSError: nothing is there under that name, or not whole.
    """
    path = encoder_path(name)
    options: dict[str, Any] = {"local_files_only": Path(path).is_dir(), "trust_remote_code": False}
    torch.manual_seed(seed)
    with errors_only():  # it would report the new head
        with readable(path, "tokenizer.json"):
            tokenizer = AutoTokenizer.from_pretrained(path, **options)
        with readable(path, "model.safetensors"):
            config = AutoConfig.from_pretrained(path, **options)
            tagger = any("ForTokenClassification" in kind for kind in config.architectures or ())
            config.id2label = dict(enumerate(names))
            config.label2id = {tag: number for number, tag in enumerate(names)}
            model = AutoModelForTokenClassification.from_pretrained(
                path, config=config, use_safetensors=True, ignore_mismatched_sizes=not tagger, **options
            )
    return model, tokenizer


def shorten(model: Any, layers: int) -> Any:
    """Take the layers above the first so many off, in place: all tokens stop there. Returns the model.

    Raises:
        ValueError: it has fewer, or ``layers`` < 1.
    """
    encoder = model.base_model.encoder
    if not 1 <= layers <= len(encoder.layer):
        raise ValueError(f"layers must be in 1..{len(encoder.layer)}, got {layers}")
    encoder.layer, model.config.num_hidden_layers = encoder.layer[:layers], layers
    return model


def _logits(model: Any, posts: Posts, rows: Sequence[int], leaving: Leaving | None) -> Tensor:
    """(batch, n, tags) of posts with equally many pieces."""
    ids = torch.tensor([posts.ids[row] for row in rows], device=model.device)
    if leaving is not None and leaving.by == "capital":
        leaving.capital = torch.tensor([posts.capitals(row) for row in rows])
    return torch.as_tensor(model(input_ids=ids).logits)


def train_tagger(
    model: Any,
    posts: Posts,
    *,
    epochs: int = 3,
    learning_rate: float = 1e-4,
    batch_size: int = 16,
    seed: int = 0,
    leaving: Leaving | None = None,
    shares: Sequence[float] = (1.0,),
    each: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Fine-tune a tagger: the first piece of each word learns its tag, the others learn nothing.

    AdamW, a rate that rises over 6% of the steps and falls to 0, gradients clipped at norm 1. The embeddings
    stay as they are: most names of a test are pieces that no training post has moved. A gate of ``leaving``
    learns at ten times the rate.

    Args:
        model: of :func:`load_tagger`, changed in place.
        posts: to learn from.
        epochs: passes over them.
        learning_rate: the highest.
        batch_size: posts of a step at most; all have equally many pieces.
        seed: of order, dropout and the drawing of shares.
        leaving: on this model; None: all tokens go through all layers.
        shares: with ``leaving``, each step draws one of them, so that one tagger serves them all.
        each: called after each epoch with its number from 1 and its mean loss a word, in nats.

    Returns:
        The mean loss a word of each epoch, in nats.

    Raises:
        ValueError: no posts, or a share outside (0, 1].
    """
    if not len(posts):
        raise ValueError("there are no posts to learn from")
    torch.manual_seed(seed)
    dice = random.Random(seed)
    for parameter in model.base_model.embeddings.parameters():
        parameter.requires_grad_(False)
    groups: list[dict[str, Any]] = [
        {"params": [p for p in model.parameters() if p.requires_grad], "lr": learning_rate}
    ]
    if leaving is not None and any(True for _ in leaving.parameters()):
        groups.append({"params": list(leaving.parameters()), "lr": 10 * learning_rate})
    optimiser = torch.optim.AdamW(groups, weight_decay=0.01)
    steps = epochs * len(posts.batches(batch_size))
    schedule = get_linear_schedule_with_warmup(optimiser, round(0.06 * steps), steps)
    words = sum(map(len, posts.words))
    scale = batch_size * words / len(posts)  # words of a full batch: in a small one, too, each counts alike
    before = None if leaving is None else leaving.share
    losses = []
    for epoch in range(epochs):
        model.train()
        if leaving is not None:
            leaving.train()
        total = 0.0
        for rows in posts.batches(batch_size, dice):
            if leaving is not None:
                leaving.share = dice.choice(shares)
            loss = _loss(model, posts, rows, leaving)
            torch.autograd.backward(loss / scale)
            torch.nn.utils.clip_grad_norm_([p for group in groups for p in group["params"]], 1.0)
            optimiser.step()
            schedule.step()
            optimiser.zero_grad()
            total += loss.item()
        losses.append(total / words)
        if each is not None:
            each(epoch + 1, losses[-1])
    if leaving is not None and before is not None:
        leaving.share = before
    return losses


def _loss(model: Any, posts: Posts, rows: Sequence[int], leaving: Leaving | None) -> Tensor:
    """The sum over the words of a batch, in nats."""
    target = torch.full((len(rows), len(posts.ids[rows[0]])), -100)
    for at, row in enumerate(rows):
        for place, name in zip(posts.first(row), posts.tags[row], strict=True):
            if place >= 0:
                target[at, place] = model.config.label2id[name]
    logits, flat = _logits(model, posts, rows, leaving), target.flatten().to(model.device)
    loss = nn.functional.cross_entropy(logits.flatten(0, 1), flat, reduction="sum")
    if leaving is not None and leaving.by == "doubt":
        early = model.classifier(leaving.early).flatten(0, 1)
        loss = loss + nn.functional.cross_entropy(early, flat, reduction="sum")
    return loss


def _passes(
    model: Any, posts: Posts, leaving: Leaving | None, batch_size: int
) -> Iterator[tuple[list[int], Tensor]]:
    """The numbers of a batch's posts, and its logits; nothing is learned, and "random" begins anew."""
    model.eval()
    if leaving is not None:
        leaving.eval()
        leaving.dice.manual_seed(leaving.seed)
    for rows in posts.batches(batch_size):
        with torch.inference_mode():  # not around the yield: it would hold for whoever asked
            logits = _logits(model, posts, rows, leaving)
        yield rows, logits


class Tagged(NamedTuple):
    """What a tagger said of posts.

    Attributes:
        tags: of each post, one a word.
        stayed: of each post, the places of the pieces that went through all layers, ascending.
    """

    tags: list[list[str]]
    stayed: list[list[int]]


def tagged(model: Any, posts: Posts, *, leaving: Leaving | None = None, batch_size: int = 64) -> Tagged:
    """The likeliest tag of each word, by its first piece, and who stayed; a word without a piece is no name.

    Args:
        model: of :func:`load_tagger`, put in evaluation mode.
        posts: to tag; their own tags are not looked at.
        leaving: on this model, at the share it has now.
        batch_size: posts read together at most.
    """
    found = [["O"] * len(words) for words in posts.words]
    stayed = [list(range(len(ids))) for ids in posts.ids]
    for rows, logits in _passes(model, posts, leaving, batch_size):
        for row, best in zip(rows, logits.argmax(-1).tolist(), strict=True):
            for word, place in enumerate(posts.first(row)):
                if place >= 0:
                    found[row][word] = model.config.id2label[best[place]]
        if leaving is not None:
            for row, kept in zip(rows, leaving.pruner.kept[leaving.after].tolist(), strict=True):
                stayed[row] = kept
    return Tagged(found, stayed)


def tag(model: Any, posts: Posts, *, leaving: Leaving | None = None, batch_size: int = 64) -> list[list[str]]:
    """:func:`tagged` without who stayed: of each post, one tag a word."""
    return tagged(model, posts, leaving=leaving, batch_size=batch_size).tags


def names_kept(posts: Posts, stayed: Sequence[Collection[int]]) -> float:
    """Of the words that are in names, the share whose first piece stayed; 0 where there is none."""
    kept = [
        place in stay
        for row, stay in enumerate(stayed)
        for place, name in zip(posts.first(row), posts.tags[row], strict=True)
        if place >= 0 and name != "O"
    ]
    return sum(kept) / max(1, len(kept))


def flops(model: Any, posts: Posts, *, leaving: Leaving | None = None, batch_size: int = 64) -> float:
    """FLOPs a post, as ``torch.utils.flop_counter`` counts matrix products, the choosing's among them."""
    # the counter does not see into fused attention
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        for _ in _passes(model, posts, leaving, batch_size):
            pass
    return float(counter.get_total_flops() / len(posts))
