"""Speculative decoding: a cheap draft proposes tokens, the model checks them all in one pass."""

from __future__ import annotations

import copy
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache

from topk_lib.decoding.processors import TopKFilter
from topk_lib.ops import sample_topk
from topk_lib.ops.arguments import seeds_per_row, whole
from topk_lib.ops.sample import mix, uniform

__all__ = [
    "BigramDraft",
    "Draft",
    "EarlyExitDraft",
    "LookupDraft",
    "Speculation",
    "accept_draft",
    "speculate",
]

Draft = Callable[[list[int], int, int], tuple[list[int], Tensor]]
"""``draft(text, most, seed)``: up to ``most`` (1 at least) next tokens, and (tokens, types) float32, the
probabilities that each was drawn from."""


def accept_draft(draft: Tensor, q: Tensor, p: Tensor, seed: int | Tensor) -> tuple[Tensor, Tensor]:
    """Say how many drafted tokens stay, and draw the token after them, so that all follow the model.

    A token x drafted with probability q(x) stays with probability min(1, p(x) / q(x)). At the first
    that does not, one is drawn from max(p - q, 0), scaled to sum to 1; if all stay, one more is drawn from
    the last p. Then each token has the model's distribution: x comes out with probability
    q(x) min(1, p(x) / q(x)) = min(p(x), q(x)) as a draft that stays, and with max(p(x) - q(x), 0) as a
    replacement (a draft is rejected with probability 1 - sum min(p, q) = sum max(p - q, 0), which is what
    the scaling divides by); the two add up to p(x) (Leviathan et al. 2023; Chen et al. 2023).

    Args:
        draft: (rows, g) int64 tokens.
        q: (rows, g, types) float, what each was drawn from.
        p: (rows, g + 1, types) float, the model's probabilities there and after the last.
        seed: an int s stands for s, s + 1, ... of the rows; a tensor holds one for each row.

    Returns:
        (rows,) int64 how many of the draft stay; (rows,) int64 the token after them.
    """
    rows, g = draft.shape
    seeds = seeds_per_row(seed, draft)
    asked = draft[..., None]
    # u q(x) < p(x), as u < p(x) / q(x) would divide by 0
    stays = uniform(seeds, g) * q.gather(-1, asked)[..., 0] < p[:, :g].gather(-1, asked)[..., 0]
    kept = stays.int().cumprod(-1).sum(-1)
    at = torch.arange(rows, device=draft.device)
    here = p[at, kept]
    drafted = torch.cat([q, torch.zeros_like(p[:, :1])], 1)[at, kept]
    rest = (here - drafted).clamp(min=0)
    rest = torch.where(rest.sum(-1, keepdim=True) > 0, rest, here)  # p = q but for rounding
    return kept.long(), sample_topk(rest.log(), p.shape[-1], seed=mix(seeds))


class Speculation(NamedTuple):
    """What :func:`speculate` wrote.

    Attributes:
        tokens: the tokens written.
        drafted: how many tokens were drafted.
        accepted: how many of these stayed.
        passes: how many passes of the model it took, the first, of the prompt, among them.
        from_draft: for each token whether it was drafted.
    """

    tokens: list[int]
    drafted: int
    accepted: int
    passes: int
    from_draft: list[bool]


@torch.inference_mode()
def speculate(
    model: Any,
    draft: Draft,
    text: Sequence[int],
    tokens: int,
    *,
    most: int = 4,
    rule: TopKFilter | None = None,
    seed: int = 0,
) -> Speculation:
    """Continue a text as the model would, with drafted tokens that it checks several at a time.

    Args:
        model: as :func:`~topk_lib.models.load_language_model` returns it.
        draft: proposes tokens, see :data:`Draft`.
        text: at least one token id.
        tokens: how many are written.
        most: how many are drafted at a time; 0: none.
        rule: which tokens may be drawn; by default all, at temperature 1. At temperature 0 what is written is
            the greedy text.
        seed: of this text's draws.

    Raises:
        ValueError: a text without tokens, a negative number of them.
    """
    if not len(text):
        raise ValueError("nothing comes after a text without tokens: give at least one token id")
    tokens, most = whole("tokens", tokens, 0), whole("most", most, 0)
    rule = rule or TopKFilter()
    text, begun = list(text), len(text)
    cache = DynamicCache(config=model.config)
    read = drafted = accepted = passes = 0
    from_draft: list[bool] = []
    while len(text) < begun + tokens:
        now = int(mix(mix(torch.tensor(seed)) + len(text)))
        left = min(most, begun + tokens - len(text) - 1)
        guess, q = draft(text, left, now) if left else ([], torch.zeros(0, model.config.vocab_size))
        ids = torch.tensor([text[read:] + guess], device=model.device)
        out = model(ids, past_key_values=cache, use_cache=True, logits_to_keep=len(guess) + 1)
        p = rule(ids, out.logits[0].float()).softmax(-1)  # (g + 1, types)
        tried = torch.tensor([guess], dtype=torch.int64, device=p.device)
        seeds = torch.tensor([now], device=p.device)
        kept, after = (int(x) for x in accept_draft(tried, q.to(p)[None], p[None], seeds))
        text += [*guess[:kept], after]
        from_draft += [*[True] * kept, False]
        cache.crop(kept - len(guess))
        read = len(text) - 1
        drafted, accepted, passes = drafted + len(guess), accepted + kept, passes + 1
    return Speculation(text[begun:], drafted, accepted, passes, from_draft)


class LookupDraft:
    """Propose what came after the last place where the text's last two tokens stood (Saxena 2023).

    Costs nothing, and is right where a text repeats itself. It is sure of its guess, so q is 1 there.
    """

    def __init__(self, types: int) -> None:
        self.types = types

    def __call__(self, text: list[int], most: int, seed: int) -> tuple[list[int], Tensor]:
        for at in range(len(text) - 3, -1, -1):
            if text[at : at + 2] == text[-2:]:
                guess = text[at + 2 : at + 2 + most]
                return guess, torch.nn.functional.one_hot(torch.tensor(guess), self.types).float()
        return [], torch.zeros(0, self.types)


class BigramDraft:
    """Draw from the tokens counted after the last one in some texts; costs next to nothing.

    Args:
        texts: each a list of token ids.
        types: how many token types the model has.
    """

    def __init__(self, texts: Sequence[Sequence[int]], types: int) -> None:
        self.types = types
        counted: dict[int, Counter[int]] = defaultdict(Counter)
        for text in texts:
            for before, after in pairwise(text):
                counted[before][after] += 1
        self.after = {
            before: (torch.tensor(list(seen)), torch.tensor(list(seen.values())).float())
            for before, seen in counted.items()
        }

    def __call__(self, text: list[int], most: int, seed: int) -> tuple[list[int], Tensor]:
        guess: list[int] = []
        q = torch.zeros(most, self.types)
        last = text[-1]
        while len(guess) < most and last in self.after:
            tokens, counts = self.after[last]
            q[len(guess), tokens] = counts / counts.sum()
            drawn = sample_topk(counts.log(), len(counts), seed=seed ^ (len(guess) + 1) << 32)
            last = int(tokens[drawn])
            guess.append(last)
        return guess, q[: len(guess)]


class EarlyExitDraft:
    """Draw from the model's own first layers, whose states go to its last norm and its head as they are.

    Nothing is copied but the list of layers. The model was not trained to be left early.

    Args:
        model: as :func:`~topk_lib.models.load_language_model` returns it.
        layers: how many of its layers the draft has.
        rule: as for :func:`speculate`.
    """

    def __init__(self, model: Any, layers: int, rule: TopKFilter | None = None) -> None:
        if not 1 <= layers <= model.config.num_hidden_layers:
            raise ValueError(f"layers must lie in 1..{model.config.num_hidden_layers}, got {layers}")
        config = copy.deepcopy(model.config)
        config.num_hidden_layers = layers
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[:layers]
        with torch.device("meta"):
            self.model = AutoModelForCausalLM.from_config(config)
        self.model.load_state_dict(model.state_dict(), strict=False, assign=True)
        for name, buffer in model.named_buffers():  # what a state dict leaves out
            owner, _, leaf = name.rpartition(".")
            setattr(self.model.get_submodule(owner), leaf, buffer)
        self.model.eval()
        self.rule = rule or TopKFilter()
        self._cache, self._read = DynamicCache(config=config), list[int]()

    def __call__(self, text: list[int], most: int, seed: int) -> tuple[list[int], Tensor]:
        same = 0
        while same < min(len(self._read), len(text) - 1) and self._read[same] == text[same]:
            same += 1
        self._cache.crop(same - len(self._read))
        guess, q, fresh = [], [], text[same:]
        for at in range(most):
            ids = torch.tensor([fresh], device=self.model.device)
            out = self.model(ids, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
            logits = self.rule(ids, out.logits[:, -1].float())
            q.append(logits.softmax(-1))
            fresh = [int(sample_topk(logits, logits.shape[-1], seed=seed ^ (at + 1) << 32))]
            guess += fresh
        self._read = [*text, *guess][:-1]
        return guess, torch.cat(q)
