"""Checks for the chapter on vocabulary selection."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from topk_lib.checks.base import check

__all__ = ["check_coverage", "check_merge_parts", "check_pieces", "check_share_after"]

_REST, _WIDTH, _BEFORE, _AFTER = 85_842_432, 768, 50_257, 5000  # GPT-2, its head tied


@check
def check_share_after(share: float) -> str:
    """Check the embedding's share of GPT-2 (124,439,808 parameters) with 5,000 token types left."""
    table = _AFTER * _WIDTH
    right = table / (_REST + table)
    if abs(share - right) < 5e-4:
        return "Right: 3,840,000 of 89,682,432."
    if share > 1:
        return "Not yet: give the share as a number between 0 and 1."
    whole = _REST + _BEFORE * _WIDTH
    if abs(share - table / whole) < 5e-4:
        return "Almost: you divide by the parameters before the cut; the whole has shrunk, too."
    if abs(share - _BEFORE * _WIDTH / whole) < 5e-4:
        return "Not yet: that is the share before the cut."
    if abs(share - table / (_REST + _BEFORE * _WIDTH + table)) < 5e-4 or abs(share - table / _REST) < 5e-4:
        return "Almost: the whole after the cut is what is no embedding, plus the rows that are left."
    return f"Not yet: 5,000 rows of 768 numbers, over all that is left; {share:g} is not it."


@check
def check_pieces(pieces: Sequence[str]) -> str:
    """Check the pieces of "lovely" when "love" and "##vel" are gone."""
    got = list(pieces)
    if got == ["lo", "##ve", "##ly"]:
        return "Right."
    bare = [piece.removeprefix("##") for piece in got]
    if "".join(bare) != "lovely":
        return f"Not yet: the pieces {bare} do not spell lovely."
    if got[0].startswith("##") or not all(piece.startswith("##") for piece in got[1:]):
        return "Not yet: every piece but the first begins with ##."
    if {"love", "##vel"} & set(got):
        return "Not yet: love and ##vel are gone."
    if got == ["lo", "##v", "##ely"]:
        return "Not yet: that spells the word too, but at v the longest match is ##ve."
    return f"Not yet: {got} spells the word, but some piece is not the longest that matches there."


@check
def check_coverage(coverage: Callable[[Tensor, int], float | Tensor]) -> str:
    """Check a learner's ``coverage(counts, k)``: the share of all tokens in the k commonest types."""
    for numbers, k in (
        ([1.0, 6.0, 0.0, 2.0, 1.0], 2),
        ([5.0, 3.0, 2.0], 1),
        ([4.0, 4.0], 2),
        ([4.0, 1.0, 4.0, 4.0], 2),
    ):
        counts = torch.tensor(numbers)
        answer = coverage(counts, k)
        got = float(answer)
        right = float(counts.sort(descending=True).values[:k].sum() / counts.sum())
        if abs(got - right) < 1e-6:
            continue
        said = f"Not yet: of counts {numbers} the {k} largest hold {right:.4g} of all, yours says {got:.4g}"
        if abs(got - float(counts[:k].sum() / counts.sum())) < 1e-6:
            return f"{said}: you take the first {k}, not the largest."
        if abs(got - k / len(numbers)) < 1e-6:
            return f"{said}: that is the share of the types; each counts as often as it occurs."
        if abs(got - 100 * right) < 1e-4:
            return f"{said}: that is per cent."
        if abs(got - right * float(counts.sum())) < 1e-6:
            return f"{said}: divide by the sum of all counts."
        at_edge = counts[counts >= counts.sort(descending=True).values[k - 1]]
        if abs(got - float(at_edge.sum() / counts.sum())) < 1e-6:
            return f"{said}: {len(at_edge)} types are tied at the edge, and only {k} may be kept."
        return f"{said}."
    return "Right."


@check
def check_merge_parts(
    raise_parts: Callable[[dict[str, float], list[tuple[str, str]]], dict[str, float]],
) -> str:
    """Check a learner's ``raise_parts(scores, merges)``: a part ranks as high as what it helps to make."""
    merges = [("a", "b"), ("ab", "c"), ("abc", "d"), ("e", "f")]
    scores = {"a": 0.0, "b": 0.0, "c": 0.0, "d": 0.0, "e": 5.0, "f": 0.0,
              "ab": 4.0, "abc": 1.0, "abcd": 9.0, "ef": 3.0}  # fmt: skip
    right = dict.fromkeys(scores, 9.0) | {"e": 5.0, "f": 3.0, "ef": 3.0}
    got = raise_parts(dict(scores), list(merges))
    if got == right:
        return "Right."
    if got == scores:
        return "Not yet: nothing has changed; a part must rank as high as the token it helps to make."
    if got.keys() != scores.keys():
        return "Not yet: return a score for every token that was given, and for no other."
    if any(got[token] > right[token] for token in scores):
        return "Not yet: some score is higher than that of any token it helps to make: take the maximum."
    if got.get("e") == 3.0:
        return "Not yet: e has 5 by itself, and must not fall to the 3 of ef: take the maximum."
    if got["abc"] == 9.0 and got["ab"] < 9.0:
        return (
            "Almost: abc rose to the 9 of abcd, but ab, of which abc is made, did not: go through the "
            "merges from the last to the first."
        )
    wrong = next(token for token in scores if got[token] != right[token])
    return f"Not yet: {wrong} should have {right[wrong]:g}, yours has {got[wrong]:g}."
