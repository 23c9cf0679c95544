"""A small scorer of keys beside each layer's attention, as the lightning indexer of DeepSeek-V3.2."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

__all__ = ["Indexer", "Indices"]

_SIZES = ("layers", "width", "heads", "head_width")


class Indices(NamedTuple):
    """What an indexer has to say of some tokens in one layer.

    Attributes:
        queries: (batch, q, heads, head width).
        weights: (batch, q, heads): of how much weight each head's word is.
        keys: (batch, n, head width), shared by the heads.
    """

    queries: Tensor
    weights: Tensor
    keys: Tensor

    def scores(self) -> Tensor:
        """(batch, q, n) float32: sum over the heads j of weight_j ReLU(query_j · key)."""
        # One head at a time, so that no tensor is larger than the answer.
        out = torch.zeros((), device=self.keys.device)
        for j in range(self.queries.shape[2]):
            fits = self.queries[:, :, j].float() @ self.keys.float().mT
            out = out + self.weights[:, :, j, None].float() * fits.relu()
        return out


class Indexer(nn.Module):
    """Scores keys with few and narrow heads, so that attention need not look at all of them.

    In each layer the score of key s for query t is sum_j w[t, j] ReLU(q[t, j] · k[s]), where the w, q and k
    are linear in the layer's input, k is normed, and q and k are turned by their positions, as attention's
    own are. DeepSeek-AI (2025) is the source of the form; here one choice serves all heads of a layer.

    Args:
        layers, width: of the model: how many, and the width of their input.
        heads, head_width: of the indexer; the width is a multiple of 2.
    """

    def __init__(self, layers: int, width: int, *, heads: int = 4, head_width: int = 16) -> None:
        super().__init__()
        if head_width % 2:
            raise ValueError(f"head_width must be even, since pairs of numbers are turned; got {head_width}")
        self.sizes = dict(zip(_SIZES, (layers, width, heads, head_width), strict=True))
        self.queries = nn.ModuleList(nn.Linear(width, heads * head_width, bias=False) for _ in range(layers))
        self.keys = nn.ModuleList(nn.Linear(width, head_width, bias=False) for _ in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(head_width) for _ in range(layers))
        self.weights = nn.ModuleList(nn.Linear(width, heads, bias=False) for _ in range(layers))

    @classmethod
    def of(cls, model: Any, *, heads: int = 4, head_width: int = 16) -> Indexer:
        """One with new weights, of a model's sizes."""
        config = model.config.get_text_config(decoder=True)
        return cls(config.num_hidden_layers, config.hidden_size, heads=heads, head_width=head_width)

    def forward(self, layer: int, hidden: Tensor, turns: tuple[Tensor, Tensor]) -> Indices:
        """What it has to say of tokens (batch, n, width) in a layer; ``turns`` are attention's own."""
        heads, head_width = self.sizes["heads"], self.sizes["head_width"]
        hidden = hidden.to(next(self.parameters()).dtype)
        queries = self.queries[layer](hidden).unflatten(-1, (heads, head_width))
        keys = self.norms[layer](self.keys[layer](hidden))
        half = turns[0].shape[-1] // 2
        if half < head_width // 2:
            raise ValueError(f"head_width must be at most attention's own, {2 * half}, got {head_width}")
        # Every so many of attention's own speeds of turning, from the fastest on.
        cos, sin = (t[..., : half : half // (head_width // 2)][..., : head_width // 2] for t in turns)
        scale = (heads * head_width) ** -0.5
        return Indices(
            _turned(queries, cos.unsqueeze(-2), sin.unsqueeze(-2)) * scale,
            self.weights[layer](hidden),
            _turned(keys, cos, sin),
        )

    def check(self, model: Any) -> None:
        """Raises: ValueError where it is made for a model of other sizes."""
        config = model.config.get_text_config(decoder=True)
        own = (self.sizes["layers"], self.sizes["width"])
        if own != (config.num_hidden_layers, config.hidden_size):
            raise ValueError(
                f"the indexer is made for {own[0]} layers of width {own[1]}, the model has "
                f"{config.num_hidden_layers} of {config.hidden_size}: train one for it with fit_indexer"
            )

    def save(self, path: str | Path) -> None:
        """Write it to one safetensors file, sizes included."""
        save_file(self.state_dict(), path, {name: str(size) for name, size in self.sizes.items()})

    @classmethod
    def load(cls, path: str | Path) -> Indexer:
        """Read what :meth:`save` wrote.

        Raises:
            OSError: there is no such file, or no indexer in it.
        """
        try:
            with safe_open(path, "pt") as file:
                sizes = {name: int(size) for name, size in (file.metadata() or {}).items() if name in _SIZES}
                weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            new = cls(**sizes)
            new.load_state_dict(weights)
        except Exception as error:  # safetensors raises of its own kinds
            raise OSError(
                f"{path} holds no indexer that can be read ({str(error).splitlines()[0]}): "
                "write one with Indexer.save"
            ) from error
        return new


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Pairs (i, i + half) of the last dimension turned, as Llama turns them."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
