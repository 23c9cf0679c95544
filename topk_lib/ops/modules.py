"""The operators as modules, with a temperature that can be learned or annealed."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from topk_lib.ops.hard import Selection, hard_topk
from topk_lib.ops.soft import LINKS, hard_mask, prepare, soft_topk

__all__ = ["SoftTopK", "TopK"]


class TopK(nn.Module):
    """:func:`hard_topk` with its settings kept: ``module(scores, valid=None) -> Selection``."""

    def __init__(self, k: int, *, dim: int = -1, order: str = "position", largest: bool = True) -> None:
        super().__init__()
        self.k, self.dim, self.order, self.largest = k, dim, order, largest

    def forward(self, scores: Tensor, valid: Tensor | None = None) -> Selection:
        return hard_topk(scores, self.k, dim=self.dim, valid=valid, order=self.order, largest=self.largest)

    def extra_repr(self) -> str:
        return f"k={self.k}, dim={self.dim}, order={self.order!r}, largest={self.largest}"


class SoftTopK(nn.Module):
    """:func:`soft_topk` with its settings kept: ``module(scores, valid=None) -> weights``.

    In training the weights are soft; in evaluation they are the hard mask (0 or 1), as dropout,
    too, is there in training only. ``hard`` changes that.

    Args:
        k: the sum of the weights.
        temperature: where the temperature starts, above 0.
        final_temperature: where :meth:`anneal` ends, above 0.
        learnable: make the logarithm of the temperature a parameter.
        dim, link: as in :func:`soft_topk`.
        hard: "eval" (hard in evaluation), "always" (straight-through in training too) or "never".

    Raises:
        ValueError: a temperature not above 0, an unknown ``link`` or ``hard``, or both ``learnable``
            and ``final_temperature``.

    Example:
        >>> gate = SoftTopK(2, temperature=1.0, final_temperature=0.01)
        >>> gate.anneal(0.5)
        >>> round(gate.temperature.item(), 3)
        0.1
    """

    log_temperature: Tensor

    def __init__(
        self,
        k: float,
        temperature: float = 1.0,
        *,
        final_temperature: float | None = None,
        learnable: bool = False,
        dim: int = -1,
        link: str = "sigmoid",
        hard: str = "eval",
    ) -> None:
        super().__init__()
        for name, value in (("temperature", temperature), ("final_temperature", final_temperature)):
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be above 0 and finite, got {value}")
        if link not in LINKS:
            raise ValueError(f"link must be one of {', '.join(LINKS)}, got {link!r}")
        if hard not in ("eval", "always", "never"):
            raise ValueError(f'hard must be "eval", "always" or "never", got {hard!r}')
        if learnable and final_temperature is not None:
            raise ValueError("a temperature is either learnable or annealed to final_temperature")
        self.k, self.dim, self.link, self.hard = k, dim, link, hard
        self.first, self.last = temperature, final_temperature
        start = torch.tensor(math.log(temperature))
        if learnable:
            self.log_temperature = nn.Parameter(start)
        else:
            self.register_buffer("log_temperature", start)

    @property
    def temperature(self) -> Tensor:
        """The temperature now, a scalar."""
        return self.log_temperature.exp()

    def anneal(self, progress: float) -> None:
        """Set the temperature for this share of training, on a line in its logarithm.

        Args:
            progress: 0 at the start of training (``temperature``), 1 at its end
                (``final_temperature``).

        Raises:
            ValueError: ``progress`` outside 0..1, or no ``final_temperature`` was given.
        """
        if self.last is None:
            raise ValueError("anneal needs SoftTopK(..., final_temperature=...)")
        if not 0 <= progress <= 1:
            raise ValueError(f"progress must lie in 0..1, got {progress}")
        self.log_temperature.fill_((1 - progress) * math.log(self.first) + progress * math.log(self.last))

    def forward(self, scores: Tensor, valid: Tensor | None = None) -> Tensor:
        if self.hard == "eval" and not self.training:
            rows, ok, _, _ = prepare(scores, self.k, 1.0, self.dim, self.link, valid)
            return hard_mask(rows, self.k, ok).movedim(-1, self.dim).to(scores.dtype)
        return soft_topk(
            scores, self.k, self.temperature, dim=self.dim, link=self.link, valid=valid,
            hard=self.hard == "always",
        )  # fmt: skip

    def extra_repr(self) -> str:
        learned = isinstance(self.log_temperature, nn.Parameter)
        return (
            f"k={self.k}, temperature={self.temperature.item():.3g}, link={self.link!r}, learnable={learned}"
        )
