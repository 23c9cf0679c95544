"""Checks for the chapter in which each expert chooses its tokens."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from topk_lib.checks.base import check, close, floats
from topk_lib.routing import ExpertChoice, TokenChoice, routing_loss
from topk_lib.routing.by_token import balance_loss

__all__ = [
    "check_balance",
    "check_combine",
    "check_leak",
    "check_room",
    "check_routed_step",
    "three_layers",
]


@check
def check_room(room: Callable[[Tensor, int, float], Any]) -> str:
    """Check how many tokens each expert takes of each text: ``room(valid, experts, factor)``.

    ``valid`` is (batch, n) bool; the answer is one whole number a text.
    """
    for lengths, experts, factor in (((6, 4), 3, 1.0), ((7, 2), 4, 1.25), ((5, 1), 4, 2.0), ((3, 2), 2, 4.0)):
        n = max(lengths)
        valid = torch.arange(n) < torch.tensor(lengths)[:, None]
        valid = valid.flip(1) if experts == 2 else valid  # padded on the left, as for writing
        got = [float(x) for x in room(valid, experts, factor)]
        exact = [length * factor / experts for length in lengths]
        right = [min(-int(-x // 1), length) for x, length in zip(exact, lengths, strict=True)]
        if got == right:
            continue
        start = (
            f"Not yet: texts of {lengths} tokens, {experts} experts, factor {factor:g}: {right}, not {got}"
        )
        if got == [min(-int(-n * factor / experts // 1), n)] * 2:
            return f"{start}. You counted padding as tokens."
        if got == [float(-int(-x // 1)) for x in exact]:
            return f"{start}. An expert cannot take more tokens than there are."
        if got == [min(int(x), length) for x, length in zip(exact, lengths, strict=True)]:
            return f"{start}. A part of a token is rounded up: else a short text may have no room at all."
        if got == exact:
            return f"{start}. Whole tokens are taken."
        return f"{start}."
    return "Right."


@check
def check_combine(combine: Callable[[Tensor, Tensor, Tensor], Tensor]) -> str:
    """Check what a layer adds to each token: ``combine(answers, scores, mask)``.

    ``answers`` is (n, experts, d), what every expert says of every token; ``scores`` (n, experts), each row a
    softmax; ``mask`` (n, experts) bool, who took whom. The answer is (n, d).
    """
    generator = torch.Generator().manual_seed(0)
    answers = torch.randn(6, 3, 4, generator=generator)
    scores = torch.randn(6, 3, generator=generator).softmax(-1)
    mask = torch.tensor([[1, 0, 0], [0, 0, 1], [0, 0, 0], [0, 1, 1], [0, 1, 0], [1, 1, 1]]).bool()
    got = combine(answers.clone(), scores.clone(), mask.clone())
    if not isinstance(got, Tensor) or got.shape != (6, 4):
        shape = tuple(got.shape) if isinstance(got, Tensor) else type(got).__name__
        return f"Not yet: 6 tokens of width 4 give (6, 4); yours is {shape}."
    got, gates = floats(got), scores * mask
    if bool(got.isnan().any()):
        return "Not yet: the token that nobody took becomes nan: it gets zeros, and no division by 0."

    def added(weights: Tensor) -> Tensor:
        return (weights[..., None] * answers).sum(1)

    right = added(gates)
    if torch.allclose(got, right, atol=1e-5):
        return "Right: and the third token, which nobody took, gets zeros."
    column = scores.masked_fill(~mask, -torch.inf).softmax(0)
    row = scores.masked_fill(~mask, -torch.inf).softmax(-1).nan_to_num()
    taken = mask.sum(1, keepdim=True).clamp(min=1)
    mistakes = {
        "all experts speak to every token here: only those that took it may": scores,
        "the scores are left out: each expert's answer is multiplied with its score": mask.float(),
        "a softmax over the tokens that an expert took: the score is the one over the experts": column,
        "a second softmax over the experts that took a token: the score is used as it is": row,
        "each token's weights were divided by their sum": gates / gates.sum(1, keepdim=True).clamp(min=1e-9),
        "a mean over the experts that took a token: here they are added up": gates / taken,
        "only the best of the experts that took a token speaks: the others do, too": gates
        * (gates == gates.max(1, keepdim=True).values),
    }
    for why, weights in mistakes.items():
        if torch.allclose(got, added(weights), atol=1e-5):
            return f"Not yet: {why}."
    at = int((got - right).abs().amax(1).argmax())
    return f"Not yet: token {at} should get {right[at].round(decimals=3).tolist()}, yours differs."


@check
def check_balance(balance: Callable[[Tensor, Tensor], Any]) -> str:
    """Check the balance loss E * sum f_e P_e: ``balance(scores, mask)``, both (n, experts), to one number."""
    generator = torch.Generator().manual_seed(1)
    scores = (2 * torch.randn(8, 4, generator=generator)).softmax(-1)
    for k in (2, 1):
        mask = torch.zeros(8, 4, dtype=torch.bool).scatter(1, scores.topk(k, 1).indices, True)
        got = balance(scores.clone(), mask.clone())
        if isinstance(got, Tensor) and got.numel() != 1:
            return f"Not yet: the loss is one number, yours has the shape {tuple(got.shape)}."
        share, mean = mask.sum(0) / mask.sum(), scores.mean(0)
        right = float(balance_loss(scores, mask, None))
        if close(got, right, 1e-4):
            continue
        mistakes = {
            "the factor E, the number of experts, is missing": (share * mean).sum(),
            "f_e is a share of all choices, which sums to 1": 4 * (mask.float().mean(0) * mean).sum(),
            "f_e is a share, not a number of choices": 4 * (mask.sum(0) * mean).sum(),
            "P_e is a mean over the tokens, not their sum": 4 * (share * scores.sum(0)).sum(),
            "f_e is the share of the choices; you took P_e twice": 4 * (mean * mean).sum(),
            "P_e is the mean score; with f_e twice nothing has a gradient": 4 * (share * share).sum(),
            "P_e is the mean over all tokens, not over those that chose the expert": 4
            * (share * (scores * mask).sum(0) / mask.sum(0).clamp(min=1)).sum(),
        }
        for why, wrong in mistakes.items():
            if close(got, float(wrong), 1e-4):
                return f"Not yet: {why}."
        return f"Not yet: with k = {k} it is {right:.4f} here, yours {float(got):.4f}."
    scores = scores.clone().requires_grad_()
    answer = balance(scores, mask)
    if not isinstance(answer, Tensor) or not answer.requires_grad:
        return "Almost: the number is right, but no gradient flows back to the scores: keep it a tensor."
    return "Right."


def three_layers() -> Sequence[Callable[[Tensor], Tensor]]:
    """Three layers of experts, each a function of hidden states (1, n, 8); of these one looks ahead."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        parts = [
            TokenChoice(8, 16, 4, k=2),
            ExpertChoice(8, 16, 4, capacity=1.0, causal="threshold"),
            TokenChoice(8, 16, 2, k=1, capacity=1.0, over="sequence"),
        ]
    return [_hidden(part.eval()) for part in parts]


def _hidden(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    def call(hidden: Tensor) -> Tensor:
        with torch.no_grad():
            out: Tensor = hidden + layer(hidden)
        return out

    return call


@check
def check_leak(number: int) -> str:
    """Check which of :func:`three_layers` looks ahead, counted from 0."""
    said = {
        0: "in layer 0 each token takes its two best experts, however many come: it decides alone",
        1: "in layer 1 an expert takes whoever reaches its threshold: each token decides alone",
    }
    if isinstance(number, bool) or number not in (0, 1, 2):
        return f"Not yet: name one layer by its number, 0, 1 or 2; yours is {number!r}."
    if int(number) in said:  # whatever kind of number it is
        return f"Not yet: {said[int(number)]}."
    return (
        "Right: in layer 2 an expert has room for a share of the text, and so the text's length decides "
        "who still gets in; changing a later token never shows it, cutting the text short does."
    )


@check
def check_routed_step(step: Callable[[nn.Module, Any, Tensor, Tensor], Any]) -> str:
    """Check a learner's ``step(model, optimiser, hidden, target)``: one step of training with experts.

    The loss is the mean squared error plus what the experts add; the function returns the error alone.
    """
    generator = torch.Generator().manual_seed(2)
    hidden, target = torch.randn(2, 3, 2, 6, 4, generator=generator).unbind(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        start = TokenChoice(4, 8, 3, k=1, rate=1.0)

    def trained(learn: Callable[..., Any]) -> tuple[nn.Module, list[Any]]:
        model = copy.deepcopy(start)
        optimiser = torch.optim.SGD(model.parameters(), lr=0.3)
        return model, [learn(model, optimiser, x, y) for x, y in zip(hidden, target, strict=True)]

    def same(a: nn.Module, b: nn.Module) -> bool:
        pairs = zip(a.parameters(), b.parameters(), strict=True)
        return all(torch.allclose(x, y, atol=1e-5) for x, y in pairs)

    right, errors = trained(_step())
    mine, told = trained(step)
    if same(mine, start):
        return "Not yet: no weight has moved: call backward on the loss, then the optimiser's step."
    mistakes: Mapping[str, Callable[..., Any]] = {
        "the experts' own loss is left out: add routing_loss(model)": _step(add=0.0),
        "gradients pile up from step to step: call zero_grad": _step(clear=False),
        "gradients pile up, and the experts' own loss is left out": _step(add=0.0, clear=False),
        "the experts' own loss is taken away, not added": _step(add=-1.0),
    }
    if not same(mine, right):
        for why, wrong in mistakes.items():
            if same(mine, trained(wrong)[0]):
                return f"Not yet: {why}."
        return "Not yet: after three steps the weights are others than those of error + routing_loss."
    if not all(close(got, want, 1e-4) for got, want in zip(told, errors, strict=True)):
        return "Almost: the weights are right; return the error alone, without what the experts add."
    return "Right."


def _step(*, add: float = 1.0, clear: bool = True) -> Callable[..., float]:
    """A step with a chosen mistake, or none."""

    def learn(model: nn.Module, optimiser: Any, hidden: Tensor, target: Tensor) -> float:
        error = nn.functional.mse_loss(model(hidden), target)
        if clear:
            optimiser.zero_grad()
        (error + add * routing_loss(model)).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        return error.item()

    return learn
