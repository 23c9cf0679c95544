"""Checks for the chapter on the five meanings of "choose k tokens"."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from topk_lib.checks.base import check, floats
from topk_lib.ops import hard_topk
from topk_lib.show.budget import cost

__all__ = ["check_cheaper", "check_encoder_flops", "check_expert_choice", "check_left_out",
           "check_sampling_probabilities"]  # fmt: skip


@check
def check_expert_choice(choose: Callable[[Tensor, int], Tensor]) -> str:
    """Check a learner's expert choice: scores (tokens, experts) and k to a mask of that shape."""
    # The columns differ from the rows in every count; in the last two matrices scores are tied.
    scores = torch.tensor([[0.7, 0.2, 0.1], [0.6, 0.35, 0.05], [0.5, 0.1, 0.4], [0.75, 0.05, 0.2]])
    tied = torch.tensor([[0.9, 0.1], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5]])
    for given, k in ((scores, 2), (torch.full((3, 2), 0.5), 1), (tied, 2)):
        got = choose(given, k)
        if not isinstance(got, Tensor) or got.dtype != torch.bool:
            kind = got.dtype if isinstance(got, Tensor) else type(got).__name__
            return f"Not yet: return the bool mask (hard_topk(...).mask); yours is {kind}."
        if got.shape != given.shape:
            hint = " It is turned: tokens are rows." if got.shape == given.T.shape else ""
            return (
                f"Not yet: the mask must have the shape of scores {tuple(given.shape)}, "
                f"yours {tuple(got.shape)}.{hint}"
            )
        if torch.equal(got, hard_topk(given, k, dim=0).mask):
            continue
        if torch.equal(got, hard_topk(given, k, dim=1).mask):
            return (
                f"Not yet: each token took {k} experts, which is token choice. "
                "Choose along the tokens, dim=0."
            )
        if torch.equal(got, hard_topk(-given, k, dim=0).mask):
            return "Not yet: each expert took the tokens with the lowest scores."
        loads = got.sum(0).tolist()
        if loads != [k] * given.shape[1]:
            return f"Not yet: with k = {k} each expert takes {k} tokens; yours take {loads}."
        if given is not scores:
            return "Almost: where scores are tied, the lowest token wins."
        return "Not yet: each expert takes k tokens, but not the ones with its highest scores."
    return "Right."


@check
def check_left_out(left_out: Callable[[Tensor], float]) -> str:
    """Check a learner's share of tokens that no expert takes, from a mask (tokens, experts)."""
    mask = torch.tensor([[1, 1], [0, 0], [1, 0], [0, 0], [0, 0]]).bool()
    got = float(left_out(mask))
    mistakes = {
        0.4: "that is the share of tokens that somebody takes",
        3.0: "that counts them: divide by the number of tokens",
        0.0: "that is the share of experts without a token: ask each row, not each column",
        0.7: "that is the share of empty cells: a token is served if any expert takes it",
        0.8: "that asks for tokens not taken by all experts: use any(), not all()",
    }
    for wrong, why in mistakes.items():
        if abs(got - wrong) < 1e-6:
            return f"Not yet: {why}."
    if abs(got - 0.6) > 1e-6:
        return f"Not yet: 3 of 5 tokens are in no expert's choice; yours gives {got:g}."
    everyone = float(left_out(torch.ones(4, 3).bool()))
    if everyone != 0:
        return f"Almost: where every token is taken the share is 0; yours gives {everyone:g}."
    fewer = float(left_out(torch.tensor([[0, 1, 1], [0, 0, 0]]).bool()))
    if abs(fewer - 0.5) > 1e-6:
        return f"Almost: of 2 tokens and 3 experts, 1 token is left out; yours gives {fewer:g}, not 0.5."
    return "Right."


@check
def check_encoder_flops(flops: Callable[[int, int, int, int], int]) -> str:
    """Check a learner's count of the matrix FLOPs of L encoder layers: flops(n, d, f, layers)."""
    for n, d, f, layers in ((6, 4, 8, 1), (128, 384, 1536, 6)):
        sizes = {"vocab": 10, "hidden": d, "layers": layers, "intermediate": f, "heads": 1}
        expected = cost("encoder", **sizes, n=n, classes=0).flops
        got = flops(n, d, f, layers)
        if got == expected:
            continue
        straight, pairs, feed = 8 * n * d * d, 4 * n * n * d, 4 * n * d * f
        mistakes = {
            layers * (straight + feed): "the scores between all pairs of tokens, and what they weigh, "
            "are missing: 2 n² d each",
            layers * (straight + pairs // 2 + feed): "the pairs cost twice: once for the scores, once "
            "for the weighted sum",
            layers * (straight * 3 // 4 + pairs + feed): "attention has four matrices (query, key, "
            "value, output), yours three",
            layers * (straight + pairs + feed // 2): "the feed-forward block has two matrices, in and out",
            layers * (straight + pairs): "the feed-forward block is missing",
            expected // 2: "those are multiply-adds; a multiplication and an addition are two FLOPs",
        }
        if layers > 1:
            mistakes[expected // layers] = "that is one layer: multiply by layers"
        why = mistakes.get(got, "count each (n, a) by (a, b) product as 2 n a b")
        return f"Not yet: flops({n}, {d}, {f}, {layers}) is {expected:,}, yours {got:,} ({why})."
    return "Right."


_COSTS = ("parameters", "flops", "memory")
_CHEAPER = {
    "vocabulary": ({"parameters"}, "an encoder looks up rows of the embedding matrix and never "
                   "multiplies by it"),
    "sequence": ({"flops", "memory"}, "fewer positions mean less work and smaller activations, "
                 "with the same weights"),
    "routing": (set(), "against one feed-forward block, E blocks with an even share of the tokens "
                "do the same work, and hold more parameters"),
    "attention": ({"flops"}, "the weighted sums take k values instead of n; every key and value stays in "
                  "memory, for another query may choose it"),
    "decoding": (set(), "all logits are computed before k of them are kept"),
}  # fmt: skip


@check
def check_cheaper(answer: Mapping[str, set[str]]) -> str:
    """Check which costs of each choice fall: a set of "parameters", "flops", "memory" for each."""
    for meaning, (expected, why) in _CHEAPER.items():
        if meaning not in answer:
            return f"Not yet: {meaning} is missing."
        got = set(answer[meaning])
        if unknown := got - set(_COSTS):
            return f"Not yet: {sorted(unknown)[0]!r} is not one of {', '.join(_COSTS)}."
        if got != expected:
            wrong = sorted(got - expected)
            what = f"{wrong[0]} does not fall" if wrong else f"{sorted(expected - got)[0]} falls too"
            return f"Not yet, {meaning}: {what}. Think again: {why}."
    return "Right."


@check
def check_sampling_probabilities(probabilities: Callable[[Tensor, int], Tensor]) -> str:
    """Check a learner's probabilities after top-k: logits (n,) and k to (n,)."""
    p = torch.tensor([0.1, 0.4, 0.2, 0.3])
    logits = p.log() + 5
    got = probabilities(logits, 2)
    if not isinstance(got, Tensor) or got.shape != logits.shape:
        shape = tuple(got.shape) if isinstance(got, Tensor) else type(got).__name__
        return (
            f"Not yet: return one probability for each of the {len(p)} entries, 0 where cut; yours {shape}."
        )
    kept = torch.tensor([False, True, False, True])
    expected = torch.where(kept, p, 0) / 0.7
    got = floats(got)
    if torch.allclose(got, expected, atol=1e-5):
        return _other_sizes(probabilities)
    if torch.allclose(got, torch.where(kept, p, 0), atol=1e-5):
        return (
            "Almost: they sum to 0.7. Cut first and take the softmax of what is left, or divide by the sum."
        )
    if torch.allclose(got, p, atol=1e-5):
        return "Not yet: all 4 entries can still be drawn; only the 2 most likely may."
    if torch.allclose(got, torch.where(kept, logits, 0).softmax(-1), atol=1e-5):
        return "Not yet: a logit of 0 is not a probability of 0; cut with -inf."
    if torch.allclose(got, kept.float() / 2, atol=1e-5):
        return "Not yet: the kept entries keep their proportions (4 to 3); yours are all equal."
    want, have = ([round(x, 3) for x in row.tolist()] for row in (expected, got))
    return f"Not yet: expected {want}, yours {have}."


def _other_sizes(probabilities: Callable[[Tensor, int], Tensor]) -> str:
    """Another k, all of them, and ties; which of the tied are kept is free, how many is not."""
    p = torch.tensor([0.3, 0.05, 0.3, 0.05, 0.3])
    for k, parts in ((1, [1.0]), (2, [0.5, 0.5]), (4, [0.3158, 0.3158, 0.3158, 0.0526]), (5, p.tolist())):
        got = floats(probabilities(p.log(), k))
        kept = sorted((x for x in got.tolist() if x > 0), reverse=True)
        if len(kept) != k:
            return (
                f"Almost: with k = {k} and probabilities {[round(x, 2) for x in p.tolist()]}, "
                f"{len(kept)} are kept. Exactly k may be drawn, also where some are tied at the edge."
            )
        if any(abs(a - b) > 1e-3 for a, b in zip(kept, sorted(parts, reverse=True), strict=True)):
            return (
                f"Almost: with k = {k} the kept should be {parts}, yours are {[round(x, 4) for x in kept]}."
            )
    return "Right."
