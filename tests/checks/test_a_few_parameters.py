"""The checks of the chapter on a few parameters tell right from wrong, and name the mistake."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from topk_lib import checks


def test_lora_forward() -> None:
    check = checks.check_lora_forward
    assert check(lambda x, w, a, b, s: x @ w.T + s * x @ a.T @ b.T) == "Right."
    assert check(lambda x, w, a, b, s: x @ (w + s * b @ a).T) == "Right."
    assert (
        check(lambda x, w, a, b, s: (w.double() @ x.double().T + s * (b @ (a @ x.T)).double()).T) == "Right."
    )
    assert "B A is missing" in check(lambda x, w, a, b, s: x @ w.T)
    assert "change alone" in check(lambda x, w, a, b, s: s * x @ a.T @ b.T)
    assert "scale is missing" in check(lambda x, w, a, b, s: x @ w.T + x @ a.T @ b.T)
    assert "not W" in check(lambda x, w, a, b, s: s * (x @ w.T + x @ a.T @ b.T))
    assert "counts once" in check(lambda x, w, a, b, s: x @ w.T + s * s * x @ a.T @ b.T)
    assert "one over the rank" in check(lambda x, w, a, b, s: x @ w.T + x @ a.T @ b.T / len(a))
    assert "added" in check(lambda x, w, a, b, s: x @ w.T - s * x @ a.T @ b.T)
    assert "(3, 5)" in check(lambda x, w, a, b, s: x)
    assert "stops with RuntimeError" in check(lambda x, w, a, b, s: x @ w)
    assert "first through A" in check(lambda x, w, a, b, s: x @ w.T + 1)
    assert "returns nothing" in check(lambda *_: None)  # type: ignore[arg-type]


def test_lora_size() -> None:
    check = checks.check_lora_size
    assert check(lambda shapes, r: sum(r * (a + b) for a, b in shapes)).startswith("Right")
    assert "frozen" in check(lambda shapes, r: sum(a * b for a, b in shapes))
    assert "add their sizes" in check(lambda shapes, r: sum(r * a * b for a, b in shapes))
    assert "one of A and B" in check(lambda shapes, r: sum(r * a for a, _ in shapes))
    assert "of one matrix" in check(lambda shapes, r: r * sum(shapes[0]))
    assert "yours 19" in check(lambda shapes, r: 19)


def test_lora_merge() -> None:
    check = checks.check_lora_merge

    def in_place(w: Tensor, a: Tensor, b: Tensor, s: float) -> Tensor:
        w += s * b @ a
        return w

    assert check(lambda w, a, b, s: w + s * b @ a).startswith("Right")
    assert check(lambda w, a, b, s: torch.addmm(w, b, a, alpha=s)).startswith("Right")
    assert "W itself was changed" in check(in_place)
    assert "scale is missing" in check(lambda w, a, b, s: w + b @ a)
    assert check(lambda w, a, b, s: w + b @ a / len(a)).startswith("Not yet")
    assert "W itself is missing" in check(lambda w, a, b, s: s * b @ a)
    assert "add the product" in check(lambda w, a, b, s: w - s * b @ a)
    assert "(5, 4)" in check(lambda w, a, b, s: (w + s * b @ a).T)
    assert "stops with" in check(lambda w, a, b, s: w + s * a @ b)
    assert "W alone" in check(lambda w, a, b, s: w)
    assert "Which order" in check(lambda w, a, b, s: w + 1)


def frozen(trained: Callable[[str], bool]) -> Callable[[Any], Any]:
    def freeze(model: Any) -> Any:
        for name, parameter in model.named_parameters():
            parameter.requires_grad = trained(name)
        return model

    return freeze


def test_bitfit() -> None:
    check = checks.check_bitfit

    def head(name: str) -> bool:
        return name.startswith("classifier")

    assert check(frozen(lambda name: name.endswith("bias") or head(name))).startswith("Right")
    assert check(frozen(lambda name: name.split(".")[-1] == "bias" or head(name))).startswith("Right")
    assert "head is new" in check(frozen(lambda name: name.endswith("bias")))
    assert "unbiased_mix.weight is still" in check(frozen(lambda name: "bias" in name or head(name)))
    assert "classifier.weight" not in check(frozen(head))
    assert "is frozen" in check(frozen(head))
    assert "nothing is trainable" in check(frozen(lambda name: False))
    assert "embedding.weight is still" in check(frozen(lambda name: True))

    def only_freezes(model: Any) -> Any:
        for name, parameter in model.named_parameters():
            if not name.endswith("bias") and not head(name):
                parameter.requires_grad = False
        return model

    assert "norm.bias is frozen" in check(only_freezes)


def fit(
    w: Tensor, x: Tensor, y: Tensor, rank: int, *, rate: float = 0.05, steps: int = 400, both: bool = True,
    zero: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    torch.manual_seed(0)
    a = torch.zeros(rank, 6) if zero else 0.3 * torch.randn(rank, 6)
    b = torch.zeros(6, rank)
    learned = [a.requires_grad_(both), b.requires_grad_()]
    optimiser = torch.optim.Adam([one for one in learned if one.requires_grad], lr=rate)
    for _ in range(steps):
        (x @ (w + b @ a).T - y).square().mean().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        optimiser.zero_grad()
    return a, b


def test_lora_learns() -> None:
    check = checks.check_lora_learns

    def by_svd(w: Tensor, x: Tensor, y: Tensor, rank: int) -> tuple[Tensor, Tensor]:
        change = torch.linalg.lstsq(x, y).solution.T - w
        u, s, v = torch.linalg.svd(change)
        return v[:rank], u[:, :rank] * s[:rank]

    assert check(fit).startswith("Right")
    assert check(by_svd).startswith("Right")
    assert "less than twentyfold" in check(lambda *given: fit(*given, both=False))
    assert "begin away from 0" in check(lambda *given: fit(*given, zero=True))
    assert "less than twentyfold" in check(lambda *given: fit(*given, steps=1))
    assert "A is (1, 6) and B (6, 1)" in check(lambda *given: fit(*given)[::-1])
    assert "lower the learning rate" in check(
        lambda w, x, y, r: (torch.full((r, 6), torch.nan), torch.ones(6, r))
    )
    assert "stops with" in check(lambda w, x, y, r: w)  # type: ignore[arg-type, return-value]
