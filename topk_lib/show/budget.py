"""What a transformer costs, counted from its sizes alone: parameters, FLOPs and memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from topk_lib.show.figures import _COLOURS, style

__all__ = ["CHOICES", "SIZES", "Cost", "cost", "cost_change", "cost_of_choice"]

SIZES: dict[str, dict[str, int]] = {
    "MiniLM": {"vocab": 30522, "hidden": 384, "layers": 6, "intermediate": 1536, "heads": 12},
    "BERT-base": {"vocab": 28996, "hidden": 768, "layers": 12, "intermediate": 3072, "heads": 12},
    "large": {"vocab": 128256, "hidden": 4096, "layers": 32, "intermediate": 16384, "heads": 32,
              "positions": 131072},
}  # fmt: skip
"""Sizes of ``all-MiniLM-L6-v2``, of ``bert-base-cased``, and of a language model for long texts with the
width, depth and vocabulary of Llama 3 8B, but GPT-2's plan; as keywords of :func:`cost`."""

CHOICES = (
    "vocabulary, encoder",
    "vocabulary, decoder",
    "sequence, encoder",
    "sequence, decoder",
    "routing",
    "attention, encoder",
    "attention, decoder",
    "decoding",
)
"""What :func:`cost_of_choice` takes."""


class Cost(NamedTuple):
    """What :func:`cost` counted.

    Attributes:
        parameters: numbers that training sets.
        flops: multiplications and additions in the matrix products of one forward pass.
        weights: bytes of the parameters.
        activations: bytes alive at the widest moment of a layer when no gradient is kept.
        cache: bytes of the keys and values of all positions read (decoder), else 0.
        logits: bytes of the raw scores of the next token (decoder) or of the classes (encoder).
    """

    parameters: int
    flops: int
    weights: int
    activations: int
    cache: int
    logits: int

    @property
    def working(self) -> int:
        """Bytes beside the weights: activations, cache and logits."""
        return self.activations + self.cache + self.logits


def cost(
    kind: str = "encoder",
    *,
    vocab: int,
    hidden: int,
    layers: int,
    intermediate: int,
    heads: int,
    n: int,
    batch: int = 1,
    experts: int = 1,
    k: int | None = None,
    keys: int | None = None,
    positions: int = 512,
    segments: int = 2,
    classes: int = 2,
    bytes_each: int = 4,
) -> Cost:
    """Count what a transformer costs, from its sizes.

    "encoder" is ``BertForSequenceClassification``: a pass reads n tokens and classifies the text
    (``classes=0``: no pooler and no classifier). "decoder" is ``GPT2LMHeadModel``: a pass reads
    one new token whose n positions (itself among them) lie in the cache, and gives the logits of
    the next. Its output layer shares the embedding matrix, and it has no ``segments``.

    FLOPs are those of the matrix products, two for each multiplication with its addition, as
    ``torch.utils.flop_counter`` counts them; biases, norms, softmax and look-ups are left out.
    Attention is counted over all n positions, the padding too, and is taken to be fused: its
    (n, n) scores are never stored.

    With ``experts`` above 1 each layer has so many feed-forward blocks and a router, a bias-free
    (hidden, experts) matrix; each expert takes ``k`` of the tokens that a pass reads.

    With ``keys`` below n each query is compared with all n keys, and sums up the values of the
    ``keys`` best alone. All keys and values stay in memory: another query may choose others.

    Args:
        kind: "encoder" or "decoder".
        vocab: token types.
        hidden: width d of the residual stream.
        layers: transformer layers.
        intermediate: inner width f of a feed-forward block.
        heads: attention heads; they must divide ``hidden``, and change no count.
        n: tokens read of each text.
        batch: texts read together.
        experts: feed-forward blocks a layer.
        k: tokens of the batch that each expert takes; by default an even share, rounded up.
        keys: keys that each query reads; None: all n.
        positions: longest text that the model has position vectors for.
        segments: token type embeddings (encoder).
        classes: labels of the classifier (encoder).
        bytes_each: bytes a number: 4 for float32, 2 for half precision.

    Raises:
        ValueError: an unknown kind, a size below 1 (``classes``, ``segments``, ``k``: below 0),
            heads that do not divide hidden, n above positions, k above the tokens read, keys outside
            1 to n.
    """
    if kind not in ("encoder", "decoder"):
        raise ValueError(f'kind must be "encoder" or "decoder", got {kind!r}')
    tokens = batch * (n if kind == "encoder" else 1)
    taken = -(-tokens // max(experts, 1)) if k is None else k
    at_least_1 = {"vocab": vocab, "hidden": hidden, "layers": layers, "intermediate": intermediate,
                  "heads": heads, "n": n, "batch": batch, "experts": experts, "positions": positions,
                  "bytes_each": bytes_each}  # fmt: skip
    for name, value in at_least_1.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    for name, value in {"classes": classes, "segments": segments, "k": taken}.items():
        if value < 0:
            raise ValueError(f"{name} must be at least 0, got {value}")
    if hidden % heads:
        raise ValueError(f"heads must divide hidden = {hidden}, got {heads}")
    if n > positions:
        raise ValueError(f"n must be at most positions = {positions}, got {n}")
    if taken > tokens:
        raise ValueError(f"k must be at most {tokens} (the tokens that a pass reads), got {taken}")
    read = n if keys is None else keys
    if not 1 <= read <= n:
        raise ValueError(f"keys must lie between 1 and n = {n}, got {read}")

    d, f = hidden, intermediate
    norm = 2 * d
    attention = 4 * (d * d + d)  # query, key, value, output, with biases
    block = 2 * d * f + f + d
    router = d * experts if experts > 1 else 0
    parameters = (vocab + positions) * d + layers * (attention + experts * block + router + 2 * norm) + norm
    flops = layers * (8 * tokens * d * d + 2 * tokens * (n + read) * d + 4 * experts * taken * d * f)
    flops += layers * 2 * tokens * router
    # Attention: its input, queries, keys, values, result, and that projected. Feed-forward: three
    # states of width d, and the inner layer before and after the activation function.
    widest = max(6 * tokens * d, 3 * tokens * d + 2 * experts * taken * f)
    if kind == "encoder":
        parameters += segments * d
        if classes:
            parameters += d * d + d + classes * (d + 1)
            flops += 2 * batch * d * (d + classes)
        cache, logits = 0, batch * classes
    else:
        flops += 2 * batch * d * vocab
        cache, logits = 2 * layers * batch * n * d, batch * vocab
    return Cost(
        parameters,
        flops,
        parameters * bytes_each,
        widest * bytes_each,
        cache * bytes_each,
        logits * bytes_each,
    )


def cost_of_choice(
    choice: str, budget: float, sizes: Mapping[str, int], *, n: int = 256
) -> tuple[Cost, Cost, str]:
    """Costs before and after choosing the share ``budget`` of the tokens.

    "vocabulary" keeps the share of the token types, "sequence" of the n positions that are read
    (encoder) or stay in the cache (decoder). "routing" keeps the work and splits the tokens: each
    of 1/budget experts takes the share of the encoder's n tokens. "attention" lets each query read the
    share of the n keys that fit it best. "decoding" keeps the share of the next tokens that may be drawn.

    Args:
        choice: one of :data:`CHOICES`.
        budget: in (0, 1].
        sizes: keywords of :func:`cost`, such as ``SIZES["MiniLM"]``.
        n: tokens of the text.

    Returns:
        The full cost, the cost with the choice, and what k is, in words.

    Raises:
        ValueError: an unknown choice, or budget outside (0, 1].
    """
    if choice not in CHOICES:
        raise ValueError(f"choice must be one of {', '.join(CHOICES)}; got {choice!r}")
    if not 0 < budget <= 1:
        raise ValueError(f"budget must lie above 0 and at most at 1, got {budget}")
    meaning, _, kind = choice.partition(", ")
    kind = kind or ("encoder" if meaning == "routing" else "decoder")
    full = cost(kind, **sizes, n=n)
    vocab, short = max(1, round(budget * sizes["vocab"])), max(1, round(budget * n))
    if meaning == "vocabulary":
        chosen = cost(kind, **{**sizes, "vocab": vocab}, n=n)
        return full, chosen, f"k = {vocab:,} of {sizes['vocab']:,} token types"
    if meaning == "sequence":
        return full, cost(kind, **sizes, n=short), f"k = {short:,} of {n:,} positions"
    if meaning == "routing":
        experts = round(1 / budget)
        blocks = f"{experts} expert{'s' * (experts > 1)}"
        chosen = cost(kind, **sizes, n=n, experts=experts, k=short)
        return (
            full,
            chosen,
            f"{blocks}, each takes k = {short:,} of {n:,} tokens",
        )
    if meaning == "attention":
        return full, cost(kind, **sizes, n=n, keys=short), f"each query reads k = {short:,} of {n:,} keys"
    return full, full, f"k = {vocab:,} of {sizes['vocab']:,} candidates"


def cost_change(choice: str, budget: float, sizes: Mapping[str, int], *, n: int = 256) -> Figure:
    """Draw how many times as much each cost is with the choice of :func:`cost_of_choice`.

    Args:
        choice: one of :data:`CHOICES`.
        budget: in (0, 1].
        sizes: keywords of :func:`cost`.
        n: tokens of the text.
    """
    full, chosen, words = cost_of_choice(choice, budget, sizes, n=n)
    rows = [
        ("parameters", full.parameters, chosen.parameters, _short(full.parameters, chosen.parameters)),
        ("FLOPs", full.flops, chosen.flops, _short(full.flops, chosen.flops)),
        ("working memory", full.working, chosen.working, _short(full.working, chosen.working, "B")),
    ]
    style()
    figure: Figure
    figure, axes = plt.subplots(figsize=(5.2, 3.6), layout="none")  # quick to draw: there are many
    figure.subplots_adjust(left=0.04, right=0.96, top=0.9, bottom=0.17)
    for y, (name, before, after, label) in enumerate(rows):
        ratio = after / before
        colour = "#555555" if abs(ratio - 1) < 0.005 else _COLOURS[0] if ratio < 1 else _COLOURS[1]
        axes.plot([1, ratio], [y, y], color=colour, linewidth=7, solid_capstyle="butt")
        axes.plot([ratio], [y], "<" if colour == _COLOURS[0] else ">" if colour == _COLOURS[1] else "o",
                  color=colour, markersize=12)  # fmt: skip
        axes.text(1, y - 0.3, f"{name}: {label}", ha="center", fontsize=11)
    axes.axvline(1, color="#888888", linewidth=1, zorder=0)
    axes.set_xscale("log", base=2)
    axes.set_xlim(1 / 100, 100)
    axes.set_ylim(len(rows) - 0.6, -0.7)
    ticks = [1 / 64, 1 / 8, 1, 8, 64]
    axes.set_xticks(ticks, ["1/64", "1/8", "1", "8", "64"])
    axes.minorticks_off()
    axes.set_yticks([])
    axes.set_xlabel("times as much as without the choice")
    axes.set_title(words, fontsize=12)
    plt.close(figure)
    return figure


def _short(before: int, after: int, unit: str = "") -> str:
    """Both numbers in thousands, millions or billions: "22.7 M → 16.9 M"."""
    scales = ((10**9, "G"), (10**6, "M"), (10**3, "k"), (1, ""))
    scale, letter = next((s for s in scales if before >= s[0]), scales[-1])
    return f"{before / scale:.1f} → {after / scale:.1f} {letter}{unit}".rstrip()
