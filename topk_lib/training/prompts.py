"""Asking a frozen model: templates, label words and their probabilities, calibration, free answers."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

from topk_lib.data import as_texts
from topk_lib.selectors import ids_to_batch

__all__ = [
    "Shot", "Template", "answer_named", "calibrate", "cloze_log_probs", "content_free", "free_answers",
    "label_log_probs", "single_tokens", "text_vectors",
]  # fmt: skip

SLOT = "{}"
NOTHING = ("N/A", "", "[MASK]")
"""The texts without content of Zhao et al. (2021)."""
_AT_ONCE = 128  # words scored together

Prompt = str | Sequence[int]
"""A text, or the token ids of one."""
Shot = tuple[str | Sequence[int], int]
"""A solved example: a text, or the ids of some of its tokens, and the number of its label."""


@dataclass(frozen=True)
class Template:
    """A prompt with one place for a text, and the words that stand for the labels.

    Attributes:
        text: with the slot ``{}``.
        words: one a label, in the order of the labels' numbers, as they follow the text: with the space
            before them.
        between: what separates solved examples.

    Raises:
        ValueError: no slot, or more than one; no two different words; a space at the end of the text,
            which no tokenizer would leave apart from the next word.

    Example:
        >>> film = Template("Review: {}\\nSentiment:", (" negative", " positive"))
        >>> film.fill("A gem.", [("A bore.", 0)])
        'Review: A bore.\\nSentiment: negative\\n\\nReview: A gem.\\nSentiment:'
    """

    text: str
    words: tuple[str, ...]
    between: str = "\n\n"

    def __post_init__(self) -> None:
        if self.text.count(SLOT) != 1:
            raise ValueError(
                f"a template has one slot {SLOT} for the text, and {self.text!r} has "
                f"{self.text.count(SLOT) or 'none'}: write {SLOT} where the text is to stand"
            )
        if isinstance(self.words, str) or len(set(self.words)) < max(2, len(self.words)):
            raise ValueError(f"a template needs a word for each of two labels or more, got {self.words!r}")
        if any(not word.strip() for word in self.words):
            raise ValueError(f"a label word has letters, and among {self.words!r} is one without")
        if self.text.endswith(" "):
            raise ValueError(
                f"the template {self.text!r} ends with a space, which belongs to the word that follows: "
                f"leave it out, and write the words as {' ' + self.words[0].strip()!r}"
            )

    def fill(self, text: str, shots: Sequence[tuple[str, int]] = ()) -> str:
        """The prompt as a text: the solved examples in the order given, then the text to judge."""
        solved = [self.text.replace(SLOT, shot) + self._word(label) for shot, label in shots]
        return self.between.join([*solved, self.text.replace(SLOT, text)])

    def encode(self, tokenizer: Any, text: str | Sequence[int], shots: Sequence[Shot] = ()) -> list[int]:
        """The prompt as token ids.

        Chosen tokens are put into the slot as they are, in the order given. Written out as text and
        split again they could join to words that the text never had.

        Args:
            tokenizer: of the language model.
            text: what is to be judged, or ids of its tokens; those of a text that does not begin a
                line begin with a space.
            shots: solved examples, in the order in which they are to stand.
        """
        before, after = self.text.split(SLOT)
        ids: list[int] = list(tokenizer("")["input_ids"])  # what it puts at every beginning
        said = ""
        for part, label in [*shots, (text, None)]:
            if isinstance(part, str):
                said += before + part + after
            else:  # the space before the slot belongs to the first word of the text
                ids += [*_split(tokenizer, (said + before).removesuffix(" ")), *part]
                said = after
            if label is not None:
                said += self._word(label) + self.between
        return ids + _split(tokenizer, said)

    def _word(self, label: int) -> str:
        if not 0 <= label < len(self.words):
            raise ValueError(f"there is no label {label}: the template has words for {len(self.words)}")
        return self.words[label]


def _split(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
    return ids


def single_tokens(tokenizer: Any, words: Sequence[str]) -> list[int]:
    """The token id of each word.

    Raises:
        ValueError: a word is several tokens of this tokenizer, or an unknown one.
    """
    found = []
    for word in words:
        ids = _split(tokenizer, word)
        if len(ids) != 1:
            pieces = tokenizer.convert_ids_to_tokens(ids)
            raise ValueError(
                f"the label word {word!r} must be one token here, and this tokenizer splits it into "
                f"{len(ids)} ({' '.join(pieces)}): take another word, or label_log_probs, which adds them up"
            )
        if ids[0] == tokenizer.unk_token_id:
            raise ValueError(f"the label word {word!r} is unknown to this tokenizer: take another word")
        found += ids
    return found


@torch.inference_mode()
def label_log_probs(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    words: Sequence[str],
    *,
    batch_size: int = 16,
    progress: Callable[[int], object] | None = None,
) -> Tensor:
    """The log-probability of each word after each prompt.

    A word of several tokens has the sum of theirs, each given those before it. ``softmax`` over the
    words gives probabilities that sum to 1. The tokens with which all prompts begin (a template, solved
    examples) are read once: their keys and values are kept in the cache.

    Args:
        model: a causal language model.
        tokenizer: its own.
        prompts: texts, or lists of token ids.
        words: with the space before them, where one belongs there.
        batch_size: prompts read together.
        progress: is called with the number of prompts done.

    Returns:
        (prompts, words) float32, natural logarithms.

    Raises:
        ValueError: no words, an empty prompt, or one that the model cannot hold.
    """
    rows = _rows(tokenizer, prompts)
    labels = [_split(tokenizer, word) for word in words]
    if not labels or not all(labels):
        raise ValueError(f"at least one label word is needed, and none that is empty, got {list(words)!r}")
    _check_room(model, max(map(len, rows), default=0) + max(map(len, labels)))
    found = torch.empty(len(rows), len(labels))
    if not rows:
        return found
    lengths = [len(ids) for ids in labels]
    alike = {n: [i for i, m in enumerate(lengths) if m == n] for n in sorted(set(lengths)) if n > 1}
    if alike:
        batch_size = max(1, min(batch_size, _AT_ONCE // max(map(len, alike.values()))))
    shared = _shared(rows)
    start = (
        model.base_model(torch.tensor([rows[0][:shared]], device=model.device)).past_key_values
        if shared
        else None
    )
    first = torch.tensor([ids[0] for ids in labels])
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    for at in range(0, len(order), batch_size):
        some = order[at : at + batch_size]
        ids, mask = ids_to_batch([rows[i][shared:] for i in some])
        cache = copy.deepcopy(start)
        if cache is not None:
            cache.batch_repeat_interleave(len(some))
        mask = torch.nn.functional.pad(mask, (shared, 0), value=1)
        output = _read(model, ids, mask, cache)
        ends = mask.sum(-1)
        last = output.last_hidden_state[torch.arange(len(some)), (ends - shared - 1).to(model.device)]
        found[some] = _next(model, last, first.expand(len(some), -1))
        for which in alike.values():  # words of one length, so that none is padded
            cache = copy.deepcopy(output.past_key_values)
            words_ids = torch.tensor([labels[i] for i in which])
            found[torch.tensor(some)[:, None], torch.tensor(which)] += _rest(model, words_ids, cache, mask)
        if progress is not None:
            progress(len(some))
    return found


def _rest(model: Any, labels: Tensor, cache: Any, mask: Tensor) -> Tensor:
    """(prompts, words): the log-probability of all tokens but the first of words of one length.

    Args:
        model: a causal language model.
        labels: (words, length) int64.
        cache: of the prompts.
        mask: (prompts, tokens in the cache), 0 for padding.
    """
    n, (words, length) = len(mask), labels.shape
    cache.batch_repeat_interleave(words)
    labels, mask = labels.repeat(n, 1), mask.repeat_interleave(words, 0)
    positions = mask.sum(-1, keepdim=True) + torch.arange(length - 1)
    mask = torch.nn.functional.pad(mask, (0, length - 1), value=1)
    hidden = _read(model, labels[:, :-1], mask, cache, positions).last_hidden_state
    steps = range(length - 1)  # one at a time: the vocabulary is wide
    total = sum(_next(model, hidden[:, step], labels[:, step + 1, None])[:, 0] for step in steps)
    return torch.as_tensor(total).view(n, words)


def _read(model: Any, ids: Tensor, mask: Tensor, cache: Any, positions: Tensor | None = None) -> Any:
    device = model.device
    where = {} if positions is None else {"position_ids": positions.to(device)}
    return model.base_model(
        input_ids=ids.to(device), attention_mask=mask.to(device), past_key_values=cache, use_cache=True,
        **where,
    )  # fmt: skip


def _next(model: Any, hidden: Tensor, ids: Tensor) -> Tensor:
    """(rows, m) float32: the log-probability of each of these (rows, m) next tokens."""
    head, ids = model.get_output_embeddings(), ids.to(hidden.device)
    total = head(hidden).float().logsumexp(-1, keepdim=True)
    # In float32 whatever the model computes in: two words may differ by less than bfloat16 can tell.
    logits = torch.einsum("rw,rmw->rm", hidden.float(), head.weight[ids].float())
    bias = 0.0 if head.bias is None else head.bias[ids].float()
    return torch.as_tensor(logits + bias - total).cpu()


def _rows(tokenizer: Any, prompts: Sequence[Prompt]) -> list[list[int]]:
    if isinstance(prompts, str):
        raise TypeError("prompts must be a list, got one text: put it in brackets")
    rows = [list(tokenizer(p)["input_ids"] if isinstance(p, str) else p) for p in prompts]
    if not all(rows):
        raise ValueError(f"prompt {rows.index([])} is empty: a model must read at least one token")
    return rows


def _shared(rows: Sequence[Sequence[int]]) -> int:
    """With how many tokens all prompts begin, if each is left at least one of its own."""
    same = (len(set(column)) == 1 for column in zip(*rows, strict=False))
    return min(sum(takewhile(bool, same)), min(map(len, rows)) - 1)


def _check_room(model: Any, tokens: int) -> None:
    most = getattr(model.config, "max_position_embeddings", None)
    if most is not None and tokens > most:
        raise ValueError(
            f"a prompt of {tokens} tokens does not fit: the model can read {most}, so take fewer "
            "examples or fewer tokens of each text"
        )


def calibrate(log_probs: Tensor, reference: Tensor) -> Tensor:
    """Take what a model expects without reading from what it says: log q = log p - log reference + const.

    Args:
        log_probs: (texts, labels), as :func:`label_log_probs` gives them.
        reference: (labels,) log-probabilities: of texts without content (:func:`content_free`; Zhao et
            al., 2021, "Calibrate before use"); or medians over unlabelled texts,
            ``log_probs.log_softmax(-1).median(0).values``, which of two labels gives each to half.

    Returns:
        (texts, labels): log-probabilities that sum to 1 over the labels.
    """
    if log_probs.ndim != 2 or reference.shape != log_probs.shape[1:]:
        raise ValueError(
            "the reference must have one number a label, got shapes "
            f"{tuple(log_probs.shape)} and {tuple(reference.shape)}"
        )
    return (log_probs.log_softmax(-1) - reference.log_softmax(-1)).log_softmax(-1)


def content_free(
    model: Any,
    tokenizer: Any,
    template: Template,
    shots: Sequence[Shot] = (),
    nothing: Sequence[str] = NOTHING,
) -> Tensor:
    """(labels,) the log of the mean probability of each label where the text says nothing."""
    prompts = [ids for text in nothing if (ids := template.encode(tokenizer, text, shots))]
    return label_log_probs(model, tokenizer, prompts, template.words).softmax(-1).mean(0).log()


@torch.inference_mode()
def free_answers(
    model: Any, tokenizer: Any, prompts: Sequence[Prompt], *, most: int = 12, batch_size: int = 16
) -> list[str]:
    """What the model writes after each prompt, the likeliest token at every step, at most ``most`` tokens."""
    rows = _rows(tokenizer, prompts)
    _check_room(model, max(map(len, rows), default=0) + most)
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    found = [""] * len(rows)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    for at in range(0, len(order), batch_size):
        some = order[at : at + batch_size]
        # What is written follows the last token, so padding stands before the first.
        ids, mask = (x.flip(1).to(model.device) for x in ids_to_batch([rows[i][::-1] for i in some], pad))
        said = model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=most, do_sample=False, pad_token_id=pad
        )
        texts = tokenizer.batch_decode(said[:, ids.shape[1] :], skip_special_tokens=True)
        for i, text in zip(some, texts, strict=True):
            found[i] = text
    return found


def answer_named(answer: str, words: Sequence[str]) -> int | None:
    """The label whose word an answer names; None where it names none, or more than one."""
    named = [
        i for i, word in enumerate(words)
        if re.search(rf"(?<!\w){re.escape(word.strip())}(?!\w)", answer, re.IGNORECASE)
    ]  # fmt: skip
    return named[0] if len(named) == 1 else None


@torch.inference_mode()
def cloze_log_probs(
    model: Any, tokenizer: Any, prompts: Sequence[str], words: Sequence[str], *, batch_size: int = 32
) -> Tensor:
    """The log-probability of each word at the one mask of each prompt, by a masked model.

    Args:
        model: a masked language model, such as ``BertForMaskedLM``.
        tokenizer: its own.
        prompts: texts with ``tokenizer.mask_token`` in them once.
        words: one token each.
        batch_size: prompts read together.

    Returns:
        (prompts, words) float32, natural logarithms.

    Raises:
        ValueError: a word of several tokens, a prompt without a mask or with two, or one too long.
    """
    columns = single_tokens(tokenizer, words)
    if tokenizer.mask_token_id is None:
        raise ValueError("this tokenizer has no mask token: a cloze prompt needs a masked model and its own")
    rows = _rows(tokenizer, prompts)
    for number, row in enumerate(rows):
        if row.count(tokenizer.mask_token_id) != 1:
            raise ValueError(
                f"prompt {number} must have {tokenizer.mask_token} once, and has it "
                f"{row.count(tokenizer.mask_token_id)} times"
            )
    _check_room(model, max(map(len, rows), default=0))
    found = torch.empty(len(rows), len(columns))
    for at in range(0, len(rows), batch_size):
        some = rows[at : at + batch_size]
        ids, mask = (x.to(model.device) for x in ids_to_batch(some, tokenizer.pad_token_id))
        logits = model(input_ids=ids, attention_mask=mask).logits[ids == tokenizer.mask_token_id]
        found[at : at + len(some)] = logits.float().log_softmax(-1)[:, columns].cpu()
    return found


@torch.inference_mode()
def text_vectors(encoder: Any, tokenizer: Any, texts: Sequence[str], *, batch_size: int = 64) -> Tensor:
    """(texts, width) float32: the mean over each text's token vectors, of length 1.

    The product of two such vectors is their cosine (Reimers and Gurevych, 2019, "Sentence-BERT"). A text
    over the tokenizer's maximum is cut.

    Args:
        encoder: a model that gives ``last_hidden_state``: ``load_encoder()[0].base_model``.
        tokenizer: its own.
        texts: at least one.
        batch_size: texts read together.
    """
    rows = tokenizer(as_texts(texts), truncation=True)["input_ids"]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    found = torch.empty(len(rows), encoder.config.hidden_size)
    for at in range(0, len(order), batch_size):
        some = order[at : at + batch_size]
        ids, mask = (x.to(encoder.device) for x in ids_to_batch([rows[i] for i in some]))
        hidden = encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        found[some] = torch.nn.functional.normalize(mean.float(), dim=-1).cpu()
    return found
