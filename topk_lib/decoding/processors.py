"""Processors for ``generate``: which next tokens may stay, and one drawn by a seed of the row's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor

from topk_lib.ops import likely_mask, sample_topk
from topk_lib.ops.arguments import number_per_row, seeds_per_row
from topk_lib.ops.sample import mix

__all__ = ["TopKFilter", "TopKSampler", "continue_texts"]

_ALL = 2**62


class TopKFilter(LogitsProcessor):  # type: ignore[misc]
    """Leave the likely next tokens of each row; the logits of all others become -inf.

    The rules apply in the order of ``transformers``: the temperature divides the logits, the ``k`` most
    likely stay, of these the fewest that sum to ``top_p``, of these those that have at least ``min_p`` times
    the probability of the most likely one. Where no two logits are equal, what stays is what the library's
    own warpers leave. Of equal logits at the edge the lowest token ids stay, so that exactly ``k`` do; the
    library keeps all that equal the k-th.

    Args:
        k: 1 at least; None, or more than the vocabulary holds: no limit.
        top_p: in [0, 1]; 1 or None: no limit; 0: the most likely token alone, as ``k`` = 1.
        min_p: in [0, 1]; 0 or None: no limit; 1: those as likely as the most likely one.
        temperature: 0 or above; 0: the most likely token alone, as ``k`` = 1.

    Each is a number, or a tensor (rows,) with one for each row of the batch.

    Raises:
        TypeError, ValueError: an argument is none of these; when called, also: not one number a row, or a row
            without a finite largest logit.

    Example:
        >>> model.generate(**batch, do_sample=True, top_k=0, logits_processor=[TopKFilter(50, top_p=0.9)])
    """

    def __init__(
        self,
        k: int | Tensor | None = None,
        *,
        top_p: float | Tensor | None = None,
        min_p: float | Tensor | None = None,
        temperature: float | Tensor = 1.0,
    ) -> None:
        if isinstance(k, float) or (isinstance(k, Tensor) and k.is_floating_point()):
            raise TypeError(f"k must be an int or an integer tensor, got {k}")
        most = _numbers("k", _ALL if k is None else k, lambda x: x >= 1, "be 1 at least")
        heat = _numbers(
            "temperature", temperature, lambda x: (x >= 0) & (x < torch.inf), "be 0 or above, and finite"
        )
        share = _share("top_p", 1.0 if top_p is None else top_p)
        least = _share("min_p", 0.0 if min_p is None else min_p)
        alone = (heat == 0) | (share == 0)
        self._numbers = {
            "k": torch.where(alone, 1, most.clamp(max=_ALL).long()),
            "temperature": torch.where(heat == 0, 1, heat),
            "top_p": torch.where(share == 0, 1, share),
            "min_p": least,
        }

    def _rule(self, scores: Tensor) -> dict[str, Any]:
        """The arguments of :func:`~topk_lib.sample_topk` for this batch, each (rows,)."""
        rule: dict[str, Any] = {}
        for name, numbers in self._numbers.items():
            try:
                rule[name] = numbers.to(scores.device).expand(len(scores))
            except RuntimeError:
                raise ValueError(
                    f"{name} has one number for each of {len(numbers)} rows, and the batch has "
                    f"{len(scores)}: give one for each row (num_beams and num_return_sequences make more "
                    "rows than prompts), or a single one for all"
                ) from None
        rule["k"] = rule["k"].clamp(max=scores.shape[-1])
        if bool((self._numbers["top_p"] == 1).all()):
            rule["top_p"] = None
        if bool((self._numbers["min_p"] == 0).all()):
            rule["min_p"] = None
        return rule

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Filter (rows, types) logits, which come divided by the temperature, the largest moved to 0."""
        rule = self._rule(scores)
        kept = likely_mask(scores, **rule)
        _check_some(kept.any(-1), scores)
        # The difference first: the quotient of a large logit would be infinite. A low temperature may be
        # rounded to 0, by which nothing is divided.
        heat = rule["temperature"][:, None].clamp(min=torch.finfo(scores.dtype).tiny).to(scores.dtype)
        moved = (scores - scores.amax(-1, keepdim=True)) / heat
        left: Tensor = moved.masked_fill(~kept, -torch.inf)
        return left


class TopKSampler(TopKFilter):
    """Draw the next token of each row, and leave it alone finite, so that ``generate`` must take it.

    A row's draw depends on its seed, its logits and how many tokens were generated before: the same text
    comes in any batch, at any place in it, on any device (but where the random number falls within
    rounding of an edge, and as far as the model's logits are the same). Not for ``num_beams``, whose beams
    need more than one token.

    Args:
        prompt_length: ``input_ids.shape[1]`` as given to ``generate``, padding included.
        k, top_p, min_p, temperature: as for :class:`TopKFilter`.
        seed: an int s stands for s, s + 1, ... of the rows; a tensor (rows,) int64 holds one for each row;
            None takes new ones at every step from PyTorch's generator.

    Raises:
        TypeError, ValueError: as :class:`TopKFilter`.

    Example:
        >>> sampler = TopKSampler(batch["input_ids"].shape[1], 50, seed=torch.tensor([7, 8]))
        >>> model.generate(**batch, do_sample=False, logits_processor=[sampler])
    """

    def __init__(
        self,
        prompt_length: int,
        k: int | Tensor | None = None,
        *,
        top_p: float | Tensor | None = None,
        min_p: float | Tensor | None = None,
        temperature: float | Tensor = 1.0,
        seed: int | Tensor | None = 0,
    ) -> None:
        super().__init__(k, top_p=top_p, min_p=min_p, temperature=temperature)
        self.prompt_length, self.seed = prompt_length, seed

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Turn (rows, types) logits into 0 for the token drawn and -inf for all others."""
        step = input_ids.shape[1] - self.prompt_length
        if step < 0:
            raise ValueError(
                f"prompt_length is {self.prompt_length}, and the text so far has {input_ids.shape[1]} "
                "tokens: give input_ids.shape[1] of the prompts, padding included"
            )
        seeds = mix(seeds_per_row(self.seed, scores)) + step
        drawn = sample_topk(scores, **self._rule(scores), seed=seeds)
        _check_some(drawn >= 0, scores)
        return torch.full_like(scores, -torch.inf).scatter(1, drawn[:, None], 0.0)


@torch.inference_mode()
def continue_texts(model: Any, tokenizer: Any, texts: Sequence[str], tokens: int, **rule: Any) -> Tensor:
    """Let a language model go on with some texts, all of them at once.

    Args:
        model, tokenizer: as :func:`~topk_lib.models.load_language_model` returns them.
        texts: a row each.
        tokens: how many are written; the end of a text is not among them.
        **rule: ``k``, ``top_p``, ``min_p``, ``temperature`` and ``seed``, as for :class:`TopKSampler`.

    Returns:
        (rows, tokens) int64, what was written.
    """
    batch = tokenizer(list(texts), return_tensors="pt", padding=True, padding_side="left").to(model.device)
    width = batch["input_ids"].shape[1]
    written: Tensor = model.generate(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], do_sample=False,
        min_new_tokens=tokens, max_new_tokens=tokens, pad_token_id=tokenizer.pad_token_id,
        logits_processor=[TopKSampler(width, **rule)],
    )  # fmt: skip
    return written[:, width:]


def _share(name: str, value: float | Tensor) -> Tensor:
    return _numbers(name, value, lambda x: (x >= 0) & (x <= 1), "lie in 0..1")


def _numbers(name: str, value: float | Tensor, allowed: Callable[[Any], Any], text: str) -> Tensor:
    """One float64, or one a row."""
    if isinstance(value, Tensor) and value.dim() > 1:
        raise ValueError(f"{name} must be a number or hold one per row, got the shape {tuple(value.shape)}")
    rows = value[..., None] if isinstance(value, Tensor) else torch.empty(1)
    return number_per_row(name, value, rows, allowed, text).detach()


def _check_some(some: Tensor, scores: Tensor) -> None:
    """Refuse rows from which no token can be taken."""
    if bool(some.all()):
        return
    row = int((~some).nonzero()[0, 0])
    if bool((scores[row] == -torch.inf).all()):
        raise ValueError(
            f"row {row} has no token left: every logit is -inf, so the processors before this one forbid "
            "all of them; let them leave one"
        )
    raise ValueError(
        f"row {row} of the logits holds NaN or +inf, so no token can be drawn: look for a number that "
        "overflows in the model (float16 weights often do; float32 or bfloat16 help), or in the processors "
        "before this one"
    )
