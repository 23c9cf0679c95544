"""Who chooses whom: small models with experts beside dense ones, at equal work a token and equal batches.

The experts stand in the feed-forward layers of the smallest model of :mod:`topk_lib.studies.pretraining`. An
expert is as wide as the dense layer over the number of experts that a token meets on average, so that each
token costs what it costs in the dense model, and the router (about two percent of the layer's work) more.
All masked models with experts have equally many weights. They are trained in float32: at this width bfloat16
saves little, and every new number of tokens that an expert has would cost it a compilation.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from itertools import count, islice, product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer, set_seed

from topk_lib.data import stream_texts
from topk_lib.models import DEFAULT_ENCODER, errors_only, load_encoder
from topk_lib.models.loading import encoder_path
from topk_lib.routing import ExpertChoice, Routed, routing_loss, upcycle
from topk_lib.studies import imdb, pretraining
from topk_lib.studies.base import Made, Rows, Run, in_turns
from topk_lib.training.corpus import Corpus, prepare_corpus
from topk_lib.training.objective import block_losses, mean_and_error, new_model, to_guess, token_losses
from topk_lib.training.pretrain import checked, pretrain

__all__ = ["KINDS", "SEEDS", "flops", "runs"]

_TWO = {"kind": "token_choice", "experts": 16, "k": 2}
_MANY = {"kind": "expert_choice", "experts": 16, "capacity": 2.0}

KINDS: dict[str, dict[str, dict[str, Any]]] = {
    "masked": {
        "dense": {},
        "expert_choice": _MANY,
        "top2": _TWO,
        "top1": {"kind": "token_choice", "experts": 8, "k": 1},
        "sum_to_1": _MANY | {"normalise": True},
        "top2_bias": _TWO | {"balance": "bias"},
        "top2_free": _TWO | {"balance": None},
        "expert_choice_1": {"kind": "expert_choice", "experts": 8, "capacity": 1.0},
    },
    "causal": {
        "dense": {},
        "top2": _TWO | {"causal": True},
        "threshold": _MANY | {"causal": "threshold"},
        "depths": {"kind": "mixture_of_depths", "layers": [1], "share": 0.125, "causal": "predictor"},
        "alone": _MANY | {"causal": "threshold", "alone_in_training": True},
    },
}
"""What the feed-forward layers become: the arguments of :func:`~topk_lib.routing.upcycle`; none: as they are.

The first four of each are what the study is about, the others what it raises: expert choice whose weights sum
to 1 for each token, as those of top-2 do; loads kept alike by a bias, or by nothing; one expert a token; and
experts by threshold in training, too.
"""

SEEDS = range(3)
STEPS = 2000
POINTS = 20  # of the curve
_SIZE: dict[str, dict[str, Any]] = {
    "masked": {"batch_size": 16, "vocabulary": 8192, "learning_rate": 4e-3},
    # each token is guessed, not one in seven: the head works so much more that all the rest is made smaller
    "causal": {"batch_size": 8, "vocabulary": 4096, "learning_rate": 4e-3},
}
_COMMON: dict[str, Any] = {"length": 128, "held_out": 1000, "precision": "fp32", "warmup": 100}
_WATCHED, _BLOCKS = 200, 1000  # held-out blocks for each point, and at the end
_UPCYCLED: dict[str, dict[str, Any]] = {
    "dense": {},
    "expert_choice": {"kind": "expert_choice", "capacity": 2.0},
    # no loss for the balance, which fine-tuning would have to be told of
    "token_choice": {"kind": "token_choice", "k": 2, "balance": "bias"},
}
_FINE: dict[str, Any] = {"n": 1000, "k": 64, "experts": 8, "layers": [1, 3, 5]}
_ROOT = Path("runs") / "experts"


def runs(*, gpu: bool) -> Iterator[Run]:
    """The four kinds of masked and of causal models, an encoder with experts, then what these raise."""

    def pretrained(objective: str, first: bool) -> Iterator[Run]:
        kinds = list(KINDS[objective])[:4] if first else list(KINDS[objective])[4:]
        for seed, kind in product(SEEDS, kinds):
            name = f"{kind}-s{seed}"
            yield Run(f"experts_{objective}", name, partial(_pretrained, objective, kind, seed))

    yield from pretrained("masked", True)
    yield Run("experts_speed", "masked", partial(_timed, "masked"))
    yield from pretrained("causal", True)
    yield Run("experts_speed", "causal", partial(_timed, "causal"))
    for seed, kind in product(SEEDS, _UPCYCLED):
        yield Run("experts_upcycled", f"{kind}-s{seed}", partial(_finetuned, kind, seed))
    yield from pretrained("masked", False)
    yield from pretrained("causal", False)


def _corpus(objective: str) -> tuple[Path, Corpus]:
    """Where it lies, and the corpus: that of all our masked models, or a third of it in byte-level pieces."""
    if objective == "masked":
        return pretraining._ROOT / "corpus", pretraining.own_corpus()
    folder = _ROOT / "causal-corpus"
    corpus = prepare_corpus(
        folder, stream_texts(splits=("train",)), length=_COMMON["length"],
        vocabulary=_SIZE["causal"]["vocabulary"], objective="causal", held_out=_COMMON["held_out"],
    )  # fmt: skip
    return folder, corpus


def _change(options: dict[str, Any], model: Any) -> Any:
    """Give a new model its experts."""
    if not options:
        return model
    met = options.get("k") or options.get("capacity") or options["share"]
    return upcycle(model, start="fresh", inner=round(model.config.intermediate_size / met), **options)


def flops(model: Any, objective: str, mask_rate: float = 0.15) -> dict[str, float]:
    """Operations a token of the forward pass, a product and a sum counted as two.

    Norms, activations, softmaxes and the ranking of the scores are left out, as is usual; the head guesses
    at the hidden tokens only.

    Returns:
        ``attention``, ``feed_forward``, ``router`` and ``head``, over all layers, and their ``total``.
    """
    c = model.config
    d, layers, inner = c.hidden_size, c.num_hidden_layers, c.intermediate_size
    routed = [part for part in model.modules() if isinstance(part, Routed)]
    one = 2 * 3 * d  # for each unit inside: two products in and one out, since all of them are gated
    work = one * inner * (layers - len(routed))
    router = 0.0
    for part in routed:
        met = part.capacity if isinstance(part, ExpertChoice) else getattr(part, "k", 1)
        work += one * part.experts.down.shape[1] * float(met)
        small = [m for name, m in part.named_modules() if name.startswith(("router", "predictor"))]
        router += sum(2 * m.weight.numel() for m in small if isinstance(m, nn.Linear))
    guessed, more = (mask_rate, 2 * d * d) if objective == "masked" else (1.0, 0)
    parts = {
        "attention": layers * (2 * 4 * d * d + 4 * _COMMON["length"] * d),
        "feed_forward": work, "router": router, "head": guessed * (2 * d * c.vocab_size + more),
    }  # fmt: skip
    return parts | {"total": sum(parts.values())}


def _pretrained(objective: str, kind: str, seed: int) -> Made:
    """Train for so many steps, with the held-out loss on the way, and look at what its experts do."""
    folder = _ROOT / objective / f"{kind}-s{seed}"
    where, corpus = _corpus(objective)
    settings = _settings(objective, seed)
    points = Rows(folder / "curve.json", {"settings": settings, "blocks": _WATCHED})
    watched = corpus.held_out_blocks(_WATCHED)

    def look(loop: Any) -> None:
        if loop.step % max(1, STEPS // POINTS) == 0:
            found = block_losses(loop.model, corpus.tokenizer, watched)
            row = {"minutes": loop.seconds / 60, "loss": mean_and_error(found.losses, found.block)[0]}
            points.measure(f"{loop.step}", lambda: row)

    made = pretrain(
        folder / "run", corpus=where, quiet=True, after=look, change=partial(_change, KINDS[objective][kind]),
        **(settings | ({"splits": ("train",)} if objective == "causal" else {})),
    )  # fmt: skip
    family: Any = AutoModelForMaskedLM if objective == "masked" else AutoModelForCausalLM
    with errors_only():
        model = family.from_pretrained(made.folder, attn_implementation="eager", local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(made.folder, local_files_only=True)
    curve = [[int(step), row["minutes"], row["loss"]] for step, row in points.found.items()]
    metrics = made.metrics | {"curve": sorted(curve), "flops": flops(model, objective)}
    blocks = corpus.held_out_blocks(_BLOCKS)
    metrics |= _looked(model, tokenizer, blocks)
    if any(isinstance(part, ExpertChoice) and part.causal for part in model.modules()):
        metrics |= _looking_ahead(model, tokenizer, blocks)
    shutil.rmtree(folder / "run" / "corpus", ignore_errors=True)
    print(f"loss {metrics['loss']:.3f}, {metrics['minutes']:.1f} min", flush=True)
    told = made.settings | {"experts": KINDS[objective][kind], "kind": kind}
    return Made(metrics, told, dict(corpus.about), metrics["wall_minutes"] * 60)


def _settings(objective: str, seed: int) -> dict[str, Any]:
    size = {**_SIZE[objective], **pretraining.SIZES["1m"]}
    return {"objective": objective, "steps": STEPS, "seed": seed, **_COMMON, **size}


def _timed(objective: str, rounds: int = 7, steps: int = 5) -> Made:
    """Processor time of a step of each kind, in turns, so that what else the machine does falls on all."""
    _, corpus = _corpus(objective)
    settings = checked(_settings(objective, 0))
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS[objective]}
    calls: dict[str, Callable[[], None]] = {}

    def call(kind: str) -> Callable[[], None]:
        model = _change(KINDS[objective][kind], new_model(settings, corpus.tokenizer)).train()
        optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
        numbers = count()

        def learn() -> None:
            begun = time.process_time()
            for step in islice(numbers, steps):
                ids = corpus.batch(step, settings.batch_size, 0)
                read, chosen = to_guess(ids, corpus.tokenizer, settings.mask_rate, seed=0, step=step)
                loss = token_losses(model, read, ids, chosen).mean() + routing_loss(model)
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                optimiser.zero_grad()
            seconds[kind].append((time.process_time() - begun) / steps)

        return learn

    for kind in KINDS[objective]:
        set_seed(0)
        calls[kind] = call(kind)
    in_turns(calls, rounds + 1)
    told = {kind: each[1:] for kind, each in seconds.items()}  # the first warms up
    metrics = {
        kind: {"ms": 1000 * float(np.median(each)), "low": 1000 * min(each), "high": 1000 * max(each)}
        for kind, each in told.items()
    }
    print({kind: round(row["ms"]) for kind, row in metrics.items()}, flush=True)
    return Made(metrics, asdict(settings) | {"rounds": rounds, "steps": steps}, dict(corpus.about))


def _looked(model: Any, tokenizer: Any, blocks: torch.Tensor, most: int = 8) -> dict[str, Any]:
    """What each expert takes of the held-out blocks: how many tokens, and which types above all.

    Returns:
        ``layers``, one entry a routed layer: ``unchosen``, ``per_token`` (the share of tokens that 0, 1,
        2, ... experts took), ``load`` (tokens of each expert over the mean), ``entropy`` (nats), and
        ``takes``: for each expert the types that it takes most beyond its share of all tokens, as [type,
        how often it was read, the share of these that the expert took].
    """
    layers = [part for part in model.modules() if isinstance(part, Routed)]
    read: list[torch.Tensor] = []
    kept: list[list[tuple[torch.Tensor, Any]]] = [[] for _ in layers]

    def note(layer: Routed, _: Any, __: Any) -> None:
        kept[layers.index(layer)].append((layer.taken.flatten(0, 1), layer.stats))

    hooks = [model.base_model.register_forward_pre_hook(lambda _, args: read.append(args[0].flatten()))]
    hooks += [layer.register_forward_hook(note) for layer in layers]
    block_losses(model, tokenizer, blocks)
    for hook in hooks:
        hook.remove()
    types = torch.cat(read)
    often = torch.bincount(types, minlength=len(tokenizer)).double()
    told = []
    for found in kept:
        mask = torch.cat([mask for mask, _ in found]).double()
        share = torch.zeros(len(often), mask.shape[1], dtype=torch.float64).index_add(0, types, mask)
        share /= often.clamp(min=1)[:, None]
        above = share / mask.mean(0).clamp(min=1e-9)
        above[often < 50] = 0  # so few tell little
        taken = mask.sum(1).long()
        told.append(
            {
                "unchosen": (taken == 0).double().mean().item(),
                "per_token": (torch.bincount(taken).double() / len(taken)).tolist(),
                "load": (mask.sum(0) / mask.sum(0).mean()).tolist(),
                "entropy": sum(stats.entropy * stats.tokens for _, stats in found) / len(types),
                "takes": [
                    [
                        [tokenizer.decode([i]), int(often[i]), round(share[i, e].item(), 4)]
                        for i in best
                        if above[i, e] > 1
                    ]
                    for e, best in enumerate(above.topk(most, 0).indices.T.tolist())
                ],
            }
        )
    return {"layers": told}


def _looking_ahead(model: Any, tokenizer: Any, blocks: torch.Tensor) -> dict[str, Any]:
    """What the same model loses when its experts choose as in training, and how far both choices are apart.

    Returns:
        ``loss_choice``: nats a token with the choice that looks ahead, which no one can decode with;
        ``gap``: for each routed layer the fields of :class:`~topk_lib.routing.Gap`.
    """
    layers = [part for part in model.modules() if isinstance(part, ExpertChoice)]
    given: dict[ExpertChoice, torch.Tensor] = {}
    hooks = [
        layer.register_forward_pre_hook(lambda layer, args: given.update({layer: args[0]}))
        for layer in layers
    ]
    with torch.no_grad():
        model.eval()(blocks[:200])
        gaps = [layer.gap(given[layer])._asdict() for layer in layers]
    for hook in hooks:
        hook.remove()
    for layer in layers:  # the model is not used again
        layer.causal = layer.alone_in_training = False
    found = block_losses(model, tokenizer, blocks)
    return {"loss_choice": mean_and_error(found.losses, found.block)[0], "gap": gaps}


def _finetuned(kind: str, seed: int) -> Made:
    """The general encoder, dense or with copies of its layers as experts, fine-tuned alike on few reviews."""
    folder = _ROOT / "upcycled" / f"{kind}-s{seed}"
    start, f = folder / "start", _FINE
    if not (start / "tokenizer.json").is_file():
        with errors_only():
            model = AutoModel.from_pretrained(encoder_path(), local_files_only=True)
            if _UPCYCLED[kind]:
                set_seed(seed)
                upcycle(model, f["experts"], layers=f["layers"], **_UPCYCLED[kind])
            model.save_pretrained(start)
        load_encoder(DEFAULT_ENCODER)[1].save_pretrained(start)
    made = pretraining.tuned(folder / "run", str(start), imdb.RATE, f["n"], seed, f["k"])
    told = made.settings | {"kind": kind, "experts": _UPCYCLED[kind], "layers": f["layers"]}
    return made._replace(settings=told)
