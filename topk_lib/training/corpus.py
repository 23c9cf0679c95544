"""A corpus as a model reads it while it is pretrained: a tokenizer, a file of token ids, blocks, masks."""

from __future__ import annotations

import hashlib
import heapq
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from filelock import FileLock
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from topk_lib.data.stream import TextStream
from topk_lib.data.texts import text_hash

__all__ = [
    "CORPUS", "Corpus", "cut_blocks", "mask_tokens", "prepare_corpus", "token_ids", "train_tokenizer",
]  # fmt: skip

CORPUS = "corpus.json"
_FEW = 1000  # texts at a time
_PARTS = ("train", "held_out")
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_INNER = [f"##{sign}" for sign in map(chr, range(0x30, 0x530)) if sign.isalnum() and sign == sign.lower()]
_END = "<|end|>"


def _wordpiece(vocabulary: dict[str, int]) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def train_tokenizer(
    texts: Iterable[str], size: int = 8192, *, objective: str = "masked"
) -> PreTrainedTokenizerFast:
    """Train a tokenizer on the spot.

    Args:
        texts: each read once.
        size: token types at most, special ones included.
        objective: "masked" makes BERT's lower-cased WordPiece, "causal" GPT-2's byte-level BPE, in which
            no text is unknown.

    Returns:
        It puts [CLS] and [SEP] around a text (masked), or nothing (causal).
    """
    if objective == "masked":
        tokenizer = _wordpiece({})
        # The trainer breaks ties by numbers, which it gives to inner signs as they lie in its memory:
        # those that were named before have the same numbers each time.
        trainer: Any = trainers.WordPieceTrainer(
            vocab_size=size + len(_INNER), special_tokens=[*_SPECIAL, *_INNER], show_progress=False
        )
    else:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=[_END],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
    signs: set[str] = set()

    def read() -> Iterator[str]:
        for text in texts:
            signs.update(text.lower())
            yield text

    tokenizer.train_from_iterator(read(), trainer)
    if objective != "masked":
        return PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, eos_token=_END, bos_token=_END, pad_token=_END
        )
    found = tokenizer.get_vocab()
    unseen = {piece for piece in _INNER if piece[2:] not in signs}
    kept = sorted(found.keys() - unseen, key=found.__getitem__)[:size]  # as they were found
    tokenizer = _wordpiece({word: i for i, word in enumerate([*_SPECIAL, *sorted({*kept} - {*_SPECIAL})])})
    ends = [(sign, tokenizer.token_to_id(sign)) for sign in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=ends
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]", mask_token="[MASK]",
    )  # fmt: skip


def mask_tokens(
    ids: Tensor, *, tokenizer: Any, seed: int, step: int = 0, rate: float = 0.15
) -> tuple[Tensor, Tensor]:
    """Hide tokens as BERT does: of those chosen 80% become [MASK], 10% any type, 10% stay as they are.

    Args:
        ids: (batch, length) int64.
        tokenizer: says which types are special; these are neither chosen nor put in.
        seed, step: the same pair always hides the same.
        rate: the probability that a token is chosen.

    Returns:
        What the model reads, (batch, length) int64, and which tokens were chosen, (batch, length) bool.
        Where none was, one is, so that there is something to learn.

    Source: Devlin et al. (2019), section 3.1.
    """
    dice = np.random.default_rng([seed, step])
    special = torch.tensor(tokenizer.all_special_ids)
    may = ~torch.isin(ids, special)
    drawn = torch.from_numpy(dice.random((2, *ids.shape)))
    chosen = may & (drawn[0] < rate)
    if may.any() and not chosen.any():
        chosen.view(-1)[drawn[0].masked_fill(~may, 1).argmin()] = True
    types = torch.tensor(sorted(set(range(len(tokenizer))) - set(tokenizer.all_special_ids)))
    anything = types[torch.from_numpy(dice.integers(len(types), size=tuple(ids.shape)))]
    read = torch.where(chosen & (drawn[1] < 0.8), tokenizer.mask_token_id, ids)
    return torch.where(chosen & (drawn[1] >= 0.9), anything, read), chosen


def cut_blocks(ids: np.ndarray, rows: Sequence[int], tokenizer: Any, length: int) -> Tensor:
    """(rows, length) int64: blocks of a long row of ids, with [CLS] and [SEP] around each where there are.

    Raises:
        ValueError: there are no rows, since the ids do not fill one.
    """
    masked = tokenizer.mask_token_id is not None
    inner = length - 2 * masked
    if not len(rows):
        raise ValueError(f"{len(ids):,} tokens do not fill one block of {length}: give more text")
    cut = np.stack([ids[row * inner : (row + 1) * inner] for row in rows]).astype(np.int64)
    if masked:
        ends = np.full((len(cut), 1), tokenizer.cls_token_id)
        cut = np.concatenate([ends, cut, np.full_like(ends, tokenizer.sep_token_id)], axis=1)
    return torch.from_numpy(cut)


class Corpus(NamedTuple):
    """Token ids on disk, in blocks that all have one length.

    Attributes:
        tokenizer: with which they were made.
        train, held_out: (tokens,) of ``uint16`` or ``uint32``, mapped from the disk.
        about: source, sizes and a fingerprint.
        length: tokens of a block.
    """

    tokenizer: Any
    train: np.ndarray
    held_out: np.ndarray
    about: dict[str, Any]
    length: int

    @property
    def _inner(self) -> int:
        return self.length - (0 if self.tokenizer.mask_token_id is None else 2)

    @property
    def blocks(self) -> int:
        """How many of them the training texts fill; what is left over is less than one."""
        return len(self.train) // self._inner

    def batch(self, step: int, size: int, seed: int) -> Tensor:
        """(size, length) int64: the blocks of a step; each block once before any comes again."""
        rows = []
        for place in range(step * size, (step + 1) * size):
            epoch, number = divmod(place, self.blocks)
            rows.append(self._order(epoch, seed)[number])
        return cut_blocks(self.train, rows, self.tokenizer, self.length)

    def held_out_blocks(self, most: int) -> Tensor:
        """(blocks, length) int64: the first so many of the texts held out."""
        rows = range(min(most, len(self.held_out) // self._inner))
        return cut_blocks(self.held_out, rows, self.tokenizer, self.length)

    def _order(self, epoch: int, seed: int) -> np.ndarray:
        key = (epoch, seed, self.blocks)
        if _ORDERS.get("key") != key:
            _ORDERS.update(key=key, order=np.random.default_rng([seed, epoch]).permutation(self.blocks))
        order: np.ndarray = _ORDERS["order"]
        return order


_ORDERS: dict[str, Any] = {}  # of the epoch at hand


def prepare_corpus(
    folder: Path,
    texts: TextStream,
    *,
    length: int,
    vocabulary: int,
    objective: str,
    held_out: int,
    tokenizer: Any = None,
) -> Corpus:
    """Read a corpus twice and leave its token ids in a folder; where they lie there already, take them.

    The first reading trains the tokenizer and chooses the texts to hold out, the second writes the ids. Of
    the texts never more than a thousand are in memory at once.

    Args:
        folder: for ``train.bin``, ``held_out.bin``, the tokenizer, and ``corpus.json`` about them.
        texts: see :func:`~topk_lib.data.stream_texts`.
        length: tokens of a block.
        vocabulary: token types, where no tokenizer is given.
        objective: "masked" or "causal".
        held_out: so many different texts of the last split, but at most a tenth of it, are not trained on,
            nor are copies of them. They are those with the smallest hashes.
        tokenizer: one that is there already.

    Raises:
        ValueError: there are no texts, or too few to fill one block; or other texts, or another
            tokenizer's ids, lie in the folder.
    """
    asked = {
        "source": texts.label, "splits": texts.splits, "objective": objective, "held_out_asked": held_out,
        "vocabulary_asked": vocabulary if tokenizer is None else _types(tokenizer),
    }  # fmt: skip
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh, lock = (folder.with_name(f".{folder.name}.{what}") for what in ("fresh", "lock"))
    with FileLock(lock):  # several runs may ask for it at once
        try:
            if not (folder / CORPUS).is_file():
                shutil.rmtree(fresh, ignore_errors=True)
                fresh.mkdir()
                about = asked | _write(fresh, texts, vocabulary, objective, held_out, tokenizer)
                _check_blocks(about, length)
                (fresh / CORPUS).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
                os.replace(fresh, folder)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
            with suppress(OSError):  # Windows removes no open file
                lock.unlink()
    about = json.loads((folder / CORPUS).read_text(encoding="utf-8"))
    if other := [name for name in asked if about.get(name) != asked[name]]:
        raise ValueError(
            f"{folder} holds another corpus ({other[0]}: {about.get(other[0])} -> {asked[other[0]]}): "
            "choose another folder"
        )
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    train, out = (_mapped(folder, part, about) for part in _PARTS)
    _check_blocks(about, length)
    return Corpus(tokenizer, train, out, about, length)


def _types(tokenizer: Any) -> str:
    """A hash of its vocabulary: folders of tokenizers have like names."""
    types = json.dumps(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(types.encode()).hexdigest()[:16]


def _check_blocks(about: dict[str, Any], length: int) -> None:
    inner = length - 2 * (about["objective"] == "masked")
    for what, tokens in (("to learn from", about["tokens"]), ("to measure on", about["held_out_tokens"])):
        if tokens < inner:
            raise ValueError(
                f"{about['source']} has {tokens:,} tokens {what}, which do not fill one block of {length}: "
                "give more text, or a smaller length"
            )


def _mapped(folder: Path, part: str, about: dict[str, Any]) -> np.ndarray:
    return np.memmap(folder / f"{part}.bin", mode="r", dtype=about["dtype"])


def _write(
    folder: Path, texts: TextStream, vocabulary: int, objective: str, held_out: int, tokenizer: Any
) -> dict[str, Any]:
    reading = _Reading(texts, held_out)
    if tokenizer is None:
        tokenizer = train_tokenizer(iter(reading), vocabulary, objective=objective)
    else:
        for _ in reading:
            pass
    out = reading.held_out()
    tokenizer.save_pretrained(folder)
    dtype = "uint16" if len(tokenizer) <= 2**16 else "uint32"
    end = tokenizer.sep_token_id if objective == "masked" else tokenizer.eos_token_id
    count = {part: [0, 0] for part in _PARTS}
    files = {part: open(folder / f"{part}.bin", "wb") for part in count}  # noqa: SIM115
    try:
        stream = (text for _, text in texts)
        while few := list(islice(stream, _FEW)):
            for text, ids in zip(few, token_ids(tokenizer, few), strict=True):
                part = "held_out" if text_hash(text) in out else "train"
                files[part].write(np.array([*ids, end], dtype=dtype).tobytes())
                count[part][0] += 1
                count[part][1] += len(ids) + 1
    finally:
        for file in files.values():
            file.close()
    return {
        "texts": count["train"][0], "tokens": count["train"][1], "held_out": count["held_out"][0],
        "held_out_tokens": count["held_out"][1], "empty": texts.empty, "copies": texts.copies,
        "vocabulary": len(tokenizer), "dtype": dtype, "fingerprint": reading.digest.hexdigest()[:16],
    }  # fmt: skip


def token_ids(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """The ids of each text, without special tokens and without a limit."""
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()  # some come with a limit
    backend.no_padding()
    encoded = backend.encode_batch(texts, add_special_tokens=False)
    return [one.ids for one in encoded]


class _Reading:
    """The first reading: gives the texts on, counts them, and remembers the smallest hashes."""

    def __init__(self, texts: TextStream, held_out: int) -> None:
        self.texts, self.most = texts, held_out
        self.digest = hashlib.sha256()
        self.number = self.last = 0
        self._smallest: list[int] = []  # negative, as a heap has the smallest on top
        self._known: set[int] = set()

    def __iter__(self) -> Iterator[str]:
        for split, text in self.texts:
            self.digest.update(f"{text}\0".encode())
            self.number += 1
            if split == self.texts.splits[-1]:
                self.last += 1
                self._note(text_hash(text))
            yield text

    def _note(self, value: int) -> None:
        if value in self._known:
            return
        self._known.add(value)
        heapq.heappush(self._smallest, -value)
        if len(self._smallest) > self.most:
            self._known.discard(-heapq.heappop(self._smallest))

    def held_out(self) -> set[int]:
        """The hashes of the texts to hold out."""
        if not self.number:
            lines = f" (all {self.texts.empty:,} lines are empty)" if self.texts.empty else ""
            raise ValueError(f"{self.texts.label} holds no text{lines}: give texts to learn from")
        if len(self._known) < 2 and self.last == self.number and self.most > 1:
            raise ValueError(
                f"{self.texts.label} holds one text only: it takes one to learn from and another to measure "
                "on, so put a text on each line"
            )
        return set(sorted(self._known)[: min(self.most, max(1, self.last // 10))])
