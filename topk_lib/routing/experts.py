"""The experts' own work: feed-forward layers whose weights are stacked, so that all run in one product."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ACTIVATIONS", "Experts"]

ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], bool]] = {
    "gelu": (F.gelu, False),
    "gelu_tanh": (lambda x: F.gelu(x, approximate="tanh"), False),
    "relu": (F.relu, False),
    "swiglu": (F.silu, True),
    "geglu": (F.gelu, True),
}
"""What stands between an expert's two products, and whether a second half of the first one gates it."""


class Experts(nn.Module):
    """Feed-forward layers side by side: expert e gives ``down[e](act(up[e](x)))``.

    A gated one (SwiGLU, GEGLU; Shazeer, 2020) gives ``down[e](act(a) * b)``, a and b the halves of
    ``up[e](x)``.

    Args:
        experts: how many; at least 1.
        d: width of a token.
        inner: width inside.
        activation: a name of :data:`ACTIVATIONS`.
        bias: whether both products add one.

    Attributes:
        up: (experts, d, inner), twice as wide where gated.
        down: (experts, inner, d).
        up_bias, down_bias: (experts, 1, width) each, or None.
    """

    up_bias: nn.Parameter | None
    down_bias: nn.Parameter | None

    def __init__(
        self, experts: int, d: int, inner: int, *, activation: str = "gelu", bias: bool = True
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
        self.activation = activation
        wide = inner * (2 if ACTIVATIONS[activation][1] else 1)
        self.up = nn.Parameter(torch.empty(experts, d, wide))
        self.down = nn.Parameter(torch.empty(experts, inner, d))
        for name, width in (("up_bias", wide), ("down_bias", d)):
            self.register_parameter(name, nn.Parameter(torch.empty(experts, 1, width)) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw each expert's weights as those of ``nn.Linear``."""
        for weight, bias in ((self.up, self.up_bias), (self.down, self.down_bias)):
            bound = weight.shape[1] ** -0.5
            nn.init.uniform_(weight, -bound, bound)
            if bias is not None:
                nn.init.uniform_(bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """As many tokens for each expert: (experts, tokens, d) to the same."""
        hidden = torch.bmm(x, self.up)
        if self.up_bias is not None:
            hidden = hidden.add_(self.up_bias)  # no derivative needs it as it was
        out = torch.bmm(self._act(hidden), self.down)
        return out if self.down_bias is None else out.add_(self.down_bias)

    def each(self, x: Tensor, counts: Sequence[int]) -> Tensor:
        """Any number of tokens for each expert.

        Args:
            x: (tokens, d), the tokens of expert 0 first, then those of expert 1, and so on.
            counts: how many tokens each expert has.

        Returns:
            (tokens, d).
        """
        if len(set(counts)) == 1:
            together: Tensor = self(x.reshape(len(counts), counts[0], x.shape[-1]))
            return together.flatten(0, 1)
        # unbind, whose gradient is one stack: that of an index would be as large as all weights, each time
        weights = [
            [None] * len(counts) if part is None else part.unbind()
            for part in (self.up, self.up_bias, self.down, self.down_bias)
        ]
        parts = [
            self._one(part, *own)
            for part, own in zip(torch.split(x, list(counts)), zip(*weights, strict=True), strict=True)
            if len(part)
        ]
        return torch.cat(parts) if parts else x

    def _one(
        self, x: Tensor, up: Tensor, up_bias: Tensor | None, down: Tensor, down_bias: Tensor | None
    ) -> Tensor:
        hidden = x @ up if up_bias is None else torch.addmm(up_bias, x, up)
        hidden = self._act(hidden)
        return hidden @ down if down_bias is None else torch.addmm(down_bias, hidden, down)

    def _act(self, hidden: Tensor) -> Tensor:
        act, gated = ACTIVATIONS[self.activation]
        if not gated:
            return act(hidden)
        a, b = hidden.chunk(2, -1)
        return act(a) * b

    def extra_repr(self) -> str:
        experts, inner, d = self.down.shape
        return f"experts={experts}, d={d}, inner={inner}, activation={self.activation!r}"
