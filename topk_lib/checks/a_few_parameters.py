"""Checks for the chapter on adapting a model by a few parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from topk_lib.checks.base import check, floats

__all__ = ["check_bitfit", "check_lora_forward", "check_lora_learns", "check_lora_merge", "check_lora_size"]


_SCALE = 0.7  # not 1 / rank, so that who forgets alpha is told


def _case() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x (3, 4), W (5, 4), A (2, 4), B (5, 2)."""
    dice = torch.Generator().manual_seed(0)
    x, w, a, b = (torch.randn(s, generator=dice) for s in ((3, 4), (5, 4), (2, 4), (5, 2)))
    return x, w, a, b


@check
def check_lora_forward(forward: Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]) -> str:
    """Check a learner's ``forward(x, W, A, B, scale)``: x (n, inputs) to (n, outputs)."""
    x, w, a, b = _case()
    got = floats(forward(x.clone(), w.clone(), a.clone(), b.clone(), _SCALE))
    plain, product = x @ w.T, x @ a.T @ b.T
    if got.shape != plain.shape:
        return f"Not yet: x is (3, 4) and W (5, 4), so the result is (3, 5); yours is {tuple(got.shape)}."
    if torch.allclose(got, plain + _SCALE * product, atol=1e-4):
        return "Right."
    for wrong, hint in (
        (plain, "that is x Wᵀ alone: the product B A is missing"),
        (_SCALE * product, "that is the change alone: x Wᵀ, which stays, is missing"),
        (plain + product, "the scale is missing"),
        (plain - _SCALE * product, "the change is added, not taken away"),
        (_SCALE * (plain + product), "the scale multiplies the change only, not W"),
        (plain + _SCALE**2 * product, "the scale counts once"),
        (
            plain + product / len(a),
            "the factor is scale as it is given, not one over the rank",
        ),
    ):
        if torch.allclose(got, wrong, atol=1e-4):
            return f"Not yet: {hint}."
    return "Not yet: with x (3, 4) first through A, then through B, add scale times that to x Wᵀ."


@check
def check_lora_size(size: Callable[[Sequence[tuple[int, int]], int], int]) -> str:
    """Check a learner's ``size(shapes, rank)``: the parameters that LoRA trains on such matrices."""
    for shapes, rank in (([(5, 4)], 2), ([(384, 384)] * 12, 8), ([(1536, 384), (384, 1536)], 1), ([], 4)):
        right = sum(rank * (out + into) for out, into in shapes)
        got = size(shapes, rank)
        if got == right:
            continue
        start = f"Not yet: for {shapes[:2]} ({len(shapes)} in all) and rank {rank} it is {right:,}, "
        if got == sum(out * into for out, into in shapes):
            return f"{start}yours {got:,}. That counts the frozen matrices; count A and B."
        if shapes and got == right // len(shapes):
            return f"{start}yours {got:,}. That is of one matrix: sum over all."
        if got == sum(rank * out * into for out, into in shapes):
            return f"{start}yours {got:,}. A is (rank, inputs) and B (outputs, rank): add their sizes."
        if got == sum(rank * into for _, into in shapes) or got == sum(rank * out for out, _ in shapes):
            return f"{start}yours {got:,}. That is one of A and B."
        return f"{start}yours {got:,}."
    return "Right: the rank times the sum of the sides, where the matrix has their product."


@check
def check_lora_merge(merge: Callable[[Tensor, Tensor, Tensor, float], Tensor]) -> str:
    """Check a learner's ``merge(W, A, B, scale)``: one matrix of the shape of W."""
    x, w, a, b = _case()
    given = w.clone()
    got = floats(merge(given, a.clone(), b.clone(), _SCALE))
    if got.shape != w.shape:
        return f"Not yet: W is (5, 4), and so must the merged matrix be; yours is {tuple(got.shape)}."
    if torch.allclose(x @ got.T, x @ w.T + _SCALE * x @ a.T @ b.T, atol=1e-4):
        if not torch.equal(given, w):
            return "Almost: the result is right, but W itself was changed; to take the task out, you need it."
        return "Right: the same answers from one matrix, at the cost of none."
    for wrong, hint in ((w + b @ a, "the scale is missing"), (_SCALE * b @ a, "W itself is missing"),
                        (w, "that is W alone"), (w - _SCALE * b @ a, "add the product")):  # fmt: skip
        if torch.allclose(got, wrong, atol=1e-4):
            return f"Not yet: {hint}."
    return (
        "Not yet: x times the transpose of your matrix is not x Wᵀ + scale x Aᵀ Bᵀ. Which order gives (5, 4)?"
    )


class _Small(nn.Module):
    """A model with what tempts: a bias in the name of a matrix, a norm, a layer without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.first, self.plain = nn.Linear(4, 4), nn.Linear(4, 4, bias=False)
        self.norm = nn.LayerNorm(4)
        self.unbiased_mix = nn.Linear(4, 3)
        self.classifier = nn.Linear(3, 2)


@check
def check_bitfit(freeze: Callable[[Any], Any]) -> str:
    """Check a learner's ``freeze(model)``: only the biases and ``classifier`` may stay trainable."""
    model = _Small()
    model.norm.bias.requires_grad_(False)  # as after another method
    freeze(model)
    free = {name for name, x in model.named_parameters() if x.requires_grad}
    right = {name for name, _ in model.named_parameters() if name.endswith("bias")} | {"classifier.weight"}
    if free == right:
        return f"Right: {sum(x.numel() for x in model.parameters() if x.requires_grad)} numbers are trained."
    if not free:
        return "Not yet: nothing is trainable any more."
    if free == right - {"classifier.weight"}:
        return "Almost: the head is new and knows nothing; classifier.weight must learn, too."
    if more := sorted(free - right):
        return f"Not yet: {more[0]} is still trained; a bias is what has a name that ends with 'bias'."
    return f"Not yet: {min(right - free)} is frozen; set requires_grad to True where it must learn."


def _learned(fit: Any, w: Tensor, x: Tensor, y: Tensor, rank: int) -> str:
    a, b = (floats(part) for part in fit(w.clone(), x.clone(), y.clone(), rank))
    if tuple(a.shape) != (rank, 6) or tuple(b.shape) != (6, rank):
        shapes = f"{tuple(a.shape)} and {tuple(b.shape)}"
        return (
            f"Not yet: with rank {rank} and W (6, 6) A is ({rank}, 6) and B (6, {rank}); yours are {shapes}."
        )
    if not bool(torch.isfinite(a).all() and torch.isfinite(b).all()):
        return "Not yet: the numbers grew beyond all bounds: lower the learning rate."
    start = float((x @ w.T - y).square().mean())
    end = float((x @ (w + b @ a).T - y).square().mean())
    if end > 0.05 * start:
        return (
            f"Not yet: the squared error went from {start:.3f} to {end:.3f}, less than twentyfold. Do both A "
            "and B learn, does one of them begin away from 0, and are there enough steps?"
        )
    return ""


@check
def check_lora_learns(fit: Callable[[Tensor, Tensor, Tensor, int], tuple[Tensor, Tensor]]) -> str:
    """Check a learner's ``fit(W, x, y, rank)``: A and B so that x (W + B A)ᵀ comes near y."""
    dice = torch.Generator().manual_seed(1)
    w, x = torch.randn(6, 6, generator=dice), torch.randn(64, 6, generator=dice)
    for rank in (1, 2):
        change = torch.randn(6, rank, generator=dice) @ torch.randn(rank, 6, generator=dice)
        if said := _learned(fit, w, x, x @ (w + change).T, rank):
            return said
    return "Right: 12 or 24 numbers learned what a matrix of 36 needed to change."
