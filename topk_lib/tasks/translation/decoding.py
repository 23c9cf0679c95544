"""Greedy and beam search with an output layer that is computed for k types of the vocabulary."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from topk_lib.tasks.translation.model import LONGEST

__all__ = ["OutputRows", "translate"]


class OutputRows:
    """The output layer of a batch: all its rows, or those of the types that were chosen.

    Args:
        model: as :func:`~topk_lib.tasks.translation.load_translator` returns it.
        chosen: for each sentence the types that it may write, (k,) int64; None: all.
        shared: what was chosen for any sentence of the batch may be written in each: one small matrix for
            all (Mi et al. 2016 call it a batch-level vocabulary) in place of one a sentence.

    Padding is never written.
    """

    def __init__(self, model: Any, chosen: Sequence[Tensor] | None, *, shared: bool = False) -> None:
        weight = model.lm_head.weight
        bias = model.final_logits_bias[0].clone()
        bias[model.config.pad_token_id] = -torch.inf
        self.ids: Tensor | None = None
        if chosen is None:
            self.weight, self.bias = weight, bias
            return
        if shared:
            self.ids = torch.unique(torch.cat(list(chosen))).to(weight.device)
            self.weight, self.bias = weight[self.ids], bias[self.ids]
            return
        ids = pad_sequence(list(chosen), batch_first=True, padding_value=-1).to(weight.device)
        self.ids = ids.clamp(min=0)
        self.weight, self.bias = weight[self.ids], bias[self.ids].masked_fill(ids < 0, -torch.inf)

    def log_probs(self, states: Tensor) -> Tensor:
        """(sentences, beams, hidden) float to (sentences, beams, types that are computed) float32."""
        if self.weight.dim() == 2:
            logits = F.linear(states, self.weight, self.bias)
        else:
            logits = torch.baddbmm(self.bias[:, None], states, self.weight.transpose(1, 2))
        return logits.float().log_softmax(-1)

    def types(self, places: Tensor) -> Tensor:
        """The types at (sentences, m) int64 places of what :meth:`log_probs` gives."""
        if self.ids is None:
            return places
        return self.ids[places] if self.ids.dim() == 1 else self.ids.gather(1, places)


@torch.inference_mode()
def translate(
    model: Any,
    sources: Sequence[Sequence[int]],
    *,
    beams: int = 1,
    chosen: Sequence[Tensor] | None = None,
    shared: bool = False,
    alpha: float = 1.0,
    batch_size: int = 64,
    spent: dict[str, float] | None = None,
) -> list[list[int]]:
    """Translate sentences: greedily, or by beam search.

    At each step the ``beams`` likeliest continuations of a sentence's unfinished translations stay. One that
    ends among them is finished; after ``beams`` finished ones the best is taken, by its log probability
    divided by its length to the power ``alpha``. A translation has at most twice as many tokens as its
    sentence and 12.

    Args:
        model: as :func:`~topk_lib.tasks.translation.load_translator` returns it.
        sources: token ids of each sentence, without an end.
        beams: 1 is greedy.
        chosen: for each sentence the types that may be written, (k,) int64, the end among them; the softmax
            is over these alone. None: all.
        shared: see :class:`OutputRows`; then a translation depends on what else is in its batch.
        alpha: 0 prefers short translations, larger values longer ones.
        batch_size: sentences at a time, those of like length together.
        spent: where it is given, the seconds of the "encoder", the "decoder" and the "output" (layer, softmax
            and choice, and gathering its rows) are added to it.

    Returns:
        The token ids of each translation, without its end.

    Raises:
        ValueError: beams < 1, an empty sentence or one of more than 255 tokens, not as many lists of types as
            sentences, or one without the end.

    Source: Vaswani et al. (2017) for the search; Mi et al. (2016) for the vocabulary of a sentence.
    """
    end = model.config.eos_token_id
    if beams < 1:
        raise ValueError(f"beams must be 1 at least, got {beams}")
    if chosen is not None and len(chosen) != len(sources):
        raise ValueError(f"each sentence needs its types: got {len(sources)} and {len(chosen)} lists of them")
    if chosen is not None and not all(bool((one == end).any()) for one in chosen):
        raise ValueError(f"a sentence may not write its end (type {end}): put it among its types")
    for source in sources:
        if not 0 < len(source) < LONGEST:
            raise ValueError(f"a sentence must have 1 to {LONGEST - 1} tokens, got {len(source)}")
    found: list[list[int]] = [[] for _ in sources]
    order = sorted(range(len(sources)), key=lambda i: len(sources[i]))
    for at in range(0, len(order), batch_size):
        batch = order[at : at + batch_size]
        types = None if chosen is None else [chosen[i] for i in batch]
        search = _Search(model, beams, alpha, {} if spent is None else spent)
        texts = search.run([sources[i] for i in batch], types, shared)
        for i, text in zip(batch, texts, strict=True):
            found[i] = text
    return found


class _Search:
    """Beam search on one batch."""

    def __init__(self, model: Any, beams: int, alpha: float, spent: dict[str, float]) -> None:
        self.model, self.beams, self.alpha, self.spent = model, beams, alpha, spent
        self.start, self.end = model.config.decoder_start_token_id, model.config.eos_token_id
        self.done: list[list[tuple[float, list[int]]]] = []

    @contextmanager
    def _clocked(self, part: str) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        if self.model.device.type == "cuda":
            torch.cuda.synchronize()
        self.spent[part] = self.spent.get(part, 0.0) + time.perf_counter() - begun

    def run(
        self, sources: Sequence[Sequence[int]], chosen: Sequence[Tensor] | None, shared: bool
    ) -> list[list[int]]:
        n, beams, device = len(sources), self.beams, self.model.device
        rows = [torch.tensor([*source, self.end]) for source in sources]
        ids = pad_sequence(rows, batch_first=True, padding_value=self.start).to(device)
        seen = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True).to(device)
        with self._clocked("encoder"):
            states = self.model.model.encoder(input_ids=ids, attention_mask=seen).last_hidden_state
        with self._clocked("output"):
            output = OutputRows(self.model, chosen, shared=shared)
        states, seen = states.repeat_interleave(beams, 0), seen.repeat_interleave(beams, 0)
        total = torch.full((n, beams), -torch.inf, device=device)
        total[:, 0] = 0  # all beams begin alike, so that one is enough
        last = torch.full((n, beams), self.start, device=device)
        texts = torch.empty((n, beams, 0), dtype=torch.long, device=device)
        first = torch.arange(n, device=device)[:, None] * beams
        limits = [min(2 * len(source) + 12, LONGEST) for source in sources]  # its own, whatever the batch
        self.done = [[] for _ in range(n)]
        cache: Any = None
        for step in range(1, max(limits) + 1):
            with self._clocked("decoder"):
                out = self.model.model.decoder(
                    input_ids=last.view(-1, 1), encoder_hidden_states=states, encoder_attention_mask=seen,
                    past_key_values=cache, use_cache=True,
                )  # fmt: skip
            cache = out.past_key_values
            with self._clocked("output"):
                odds = output.log_probs(out.last_hidden_state[:, -1].view(n, beams, -1))
                width = odds.shape[-1]
                scores, places = (total[..., None] + odds).flatten(1).topk(min(2, width) * beams)
                types = output.types(places % width)
            ended = (types == self.end) & scores.isfinite()
            self._finish(ended, scores, texts, places // width, step, limits)
            total, go = scores.masked_fill(types == self.end, -torch.inf).topk(beams)
            beam, last = (places // width).gather(1, go), types.gather(1, go)
            before = texts.gather(1, beam[..., None].expand(-1, -1, step - 1))
            texts = torch.cat([before, last[..., None]], -1)
            for i, limit in enumerate(limits):
                if step == limit and not self.done[i]:
                    self.done[i].append((0.0, texts[i, 0].tolist()))
            goes_on = total.isfinite().any(1).tolist()
            if not any(
                alive and step < limit and len(one) < beams
                for alive, limit, one in zip(goes_on, limits, self.done, strict=True)
            ):
                break
            if beams > 1:  # what is read of the source is the same for all beams of a sentence
                cache.self_attention_cache.reorder_cache((first + beam).flatten())
        return [max(one, key=lambda pair: pair[0])[1] for one in self.done]

    def _finish(
        self, ended: Tensor, scores: Tensor, texts: Tensor, beam: Tensor, step: int, limits: Sequence[int]
    ) -> None:
        """Note the translations that end among the best; one that ends below them only leaves the beam."""
        for i, j in ended[:, : self.beams].nonzero().tolist():
            if len(self.done[i]) < self.beams and step <= limits[i]:
                text = texts[i, beam[i, j]].tolist()
                self.done[i].append((scores[i, j].item() / step**self.alpha, text))
