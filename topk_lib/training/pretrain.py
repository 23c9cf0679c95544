"""Pretraining from nothing, or further: guess hidden tokens (masked) or the next one (causal).

The loop is our own and not ``Trainer``'s, for three things that ``Trainer`` has not: the budget is minutes of
processor time (the machine may be shared, and a clock on the wall would count the others' work), a run can
be cut at several lengths of which each has its own fall of the learning rate, and what an interrupted run
goes on to compute is the same bit for bit. ``accelerate`` gives the device and the processes.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from topk_lib.data.stream import stream_texts
from topk_lib.training import folder as places
from topk_lib.training.corpus import prepare_corpus
from topk_lib.training.objective import given_tokenizer
from topk_lib.training.pretrain_loop import Loop
from topk_lib.training.settings import checked_fields
from topk_lib.training.together import asked_to_shard, check_same, together

__all__ = ["PretrainResult", "PretrainSettings", "pretrain"]

_BUDGET = ("steps", "minutes", "snapshots", "shard")  # in which runs of one folder may differ


@dataclass(frozen=True)
class PretrainSettings:
    """Everything that decides what :func:`pretrain` computes; see there."""

    objective: str = "masked"
    start: str | None = None
    vocabulary: int = 8192
    hidden_size: int = 96
    layers: int = 2
    heads: int = 3
    length: int = 128
    batch_size: int = 16
    steps: int | None = None
    minutes: float | None = None
    snapshots: str | None = None
    learning_rate: float = 2e-3
    warmup: int = 100
    decay: float = 0.2
    mask_rate: float = 0.15
    seed: int = 0
    precision: str = "auto"
    held_out: int = 1000
    shard: bool = False

    @property
    def unit(self) -> str:
        return "min" if self.minutes is not None else "steps"

    @property
    def ends(self) -> list[float]:
        """Where a model is saved, in minutes or steps, the last one included."""
        last = self.minutes if self.minutes is not None else self.steps
        parts = [float(part) for part in (self.snapshots or "").split(",") if part.strip()]
        return sorted({*parts, float(last or 0)})


def checked(options: dict[str, Any]) -> PretrainSettings:
    """Settings of these options; None stands for the default.

    Raises:
        TypeError: an option is unknown, or of another type.
        ValueError: one is out of its range, or does not go with another.
    """
    s = PretrainSettings(**checked_fields(PretrainSettings, options, "pretrain"))
    if (s.steps is None) == (s.minutes is None):
        raise ValueError("say how long to train: give either steps, or minutes of processor time")
    try:
        ends = s.ends
    except ValueError:
        raise ValueError(f'snapshots must look like "1,3,10", got {s.snapshots!r}') from None
    last = s.minutes if s.minutes is not None else s.steps
    if not all(0 <= end <= (last or 0) for end in ends):
        raise ValueError(f"snapshots must lie between 0 and the end at {last:g}, got {s.snapshots!r}")
    if s.steps is not None and any(end % 1 for end in ends):
        raise ValueError(f"snapshots must be whole numbers of steps, got {s.snapshots!r}")
    for name, low, high in (("mask_rate", 0.0, 1.0), ("decay", 0.0, 1.0)):
        if not low < getattr(s, name) <= high:
            raise ValueError(f"{name} must be above {low:g} and at most {high:g}, got {getattr(s, name)}")
    if s.hidden_size % s.heads or (s.hidden_size // s.heads) % 2:
        raise ValueError(
            f"hidden_size {s.hidden_size} must be shared by {s.heads} heads in even numbers: "
            f"take {2 * s.heads * max(1, round(s.hidden_size / (2 * s.heads)))}"
        )
    if s.precision == "fp16":
        raise ValueError("precision must be auto, fp32 or bf16, got 'fp16', which needs its losses scaled")
    if s.length < 4:
        raise ValueError(f"length must be at least 4, got {s.length}")
    return s


@dataclass(frozen=True)
class PretrainResult:
    """What a run of :func:`pretrain` has come to at one of its snapshots.

    Attributes:
        folder: of the model and its tokenizer; ``from_pretrained`` reads both.
        metrics: ``loss`` on the texts held out with its standard error ``loss_error`` (nats a hidden token,
            or a token), ``parameters``, ``steps``, ``tokens`` read, ``minutes`` of processor time and
            ``wall_minutes``.
        settings: as given.
        data: source, sizes and fingerprint of the corpus.
        losses: up to 200 points (step, minutes, training loss), each the mean since the last.
    """

    folder: Path
    metrics: dict[str, Any]
    settings: dict[str, Any]
    data: dict[str, Any]
    losses: list[list[float]]


def pretrain(
    output: str | Path,
    *,
    source: str | Path | None = None,
    splits: tuple[str, ...] | None = None,
    corpus: str | Path | None = None,
    quiet: bool = False,
    change: Callable[[Any], Any] | None = None,
    after: Callable[[Loop], object] | None = None,
    **options: Any,
) -> PretrainResult:
    """Pretrain a small model on texts without labels, or an encoder further.

    The texts are read as a stream and left as token ids on the disk, from where the steps take them in
    blocks, so that memory does not grow with the corpus. The learning rate rises over ``warmup`` steps and
    then stays. Each snapshot ends a branch of its own: over the last ``decay`` of its time the rate falls
    to nothing, and then the run goes on from where the branch began. So a snapshot is what a run of just
    that length would have ended with (Hägele et al. 2024), and a longer run goes on from a shorter one.

    The same call after an interruption goes on from the last checkpoint. Counted in steps, on a CPU, it
    computes the same bit for bit; counted in minutes the clock decides which step is the last. Under
    ``torchrun`` each process takes its share of every batch. The checkpoint is one file whatever the number
    of processes (which must all see ``output``), so a run may go on with more or fewer of them, sharded or
    not: it then computes the same but for rounding, where the model has no dropout.

    Args:
        output: folder for the run; its models are in ``snapshot-...`` in it.
        source, splits: of the texts, as in :func:`~topk_lib.data.stream_texts`.
        corpus: folder for the token ids, which several runs may share; None: in ``output``.
        quiet: print nothing.
        change: what the model becomes before it learns: given the new model, returns the one to train (with
            :func:`~topk_lib.routing.upcycle`, one of experts). The seed of the run draws its weights, too.
            After an interruption, give the same.
        after: called after each step, with the :class:`~topk_lib.training.pretrain_loop.Loop`; its time is
            not counted.
        **options: the fields of :class:`PretrainSettings`:

            - ``objective``: "masked" (a ModernBERT: norms before each part, rotary positions) or "causal"
              (a Llama).
            - ``start``: an encoder (masked) or a language model (causal) to train further, by its name or
              folder, with its own tokenizer; the head's decoder shares the embeddings. None: draw
              ``layers`` layers of width ``hidden_size`` with ``heads`` heads, and train a tokenizer of
              ``vocabulary`` types.
            - ``length``: tokens of a block; ``batch_size``: blocks of a step, over all processes.
            - ``steps`` or ``minutes`` (processor time of all processes): how long. ``snapshots``: where
              else to save a model, as "0,1,3"; 0 is the start.
            - ``learning_rate`` (the highest), ``warmup`` (steps), ``decay`` (share of a run), ``mask_rate``,
              ``seed``, ``precision`` ("fp32", "bf16" or "auto").
            - ``held_out``: texts to measure on; see :func:`~topk_lib.training.corpus.prepare_corpus`.
            - ``shard``: each of several processes holds its part of the weights, gradients and Adam states
              only, and gathers a layer's weights while it works (FSDP).

    Raises:
        ValueError: a setting is out of its range; ``output`` holds a run with other settings or files of
            somebody else; or there is no text, or too little.
        TypeError: an unknown option, or a setting of another type.
        OSError: no such model or texts; or the disk is full.
        RuntimeError: another command is at work in ``output``, the training diverged, or another process of
            this run has ended.
    """
    settings = checked(options)
    if asked_to_shard():
        raise ValueError("pretrain shards a model by itself: leave out --use_fsdp, and say --shard")
    state = PartialState(cpu=not (torch.cuda.is_available() or torch.backends.mps.is_available()))
    if settings.batch_size % state.num_processes:
        raise ValueError(
            f"batch_size {settings.batch_size} cannot be shared by {state.num_processes} processes"
        )
    folder = places.named(output)
    tokenizer = None
    if settings.start is not None:
        tokenizer = given_tokenizer(settings.objective, settings.start, settings.length)
    claim = places.claimed(folder, places.PRETRAINING) if state.is_main_process else nullcontext()
    with together(folder), claim:
        _check_settings(folder, settings)
        state.wait_for_everyone()  # the folder has an owner now
        # One process writes; the others wait at its lock, not at a barrier, which would run out of time.
        ids = prepare_corpus(
            folder / "corpus" if corpus is None else Path(corpus),
            stream_texts(source, splits=splits), length=settings.length,
            vocabulary=settings.vocabulary, objective=settings.objective,
            held_out=settings.held_out, tokenizer=tokenizer,
        )  # fmt: skip
        if state.is_main_process:
            places.write_fields(folder / places.PRETRAINING, _kept(settings))
            if not quiet:
                print(_told(ids.about))
        loop = Loop(folder, settings, ids, state, quiet, change, after)
        check_same(folder, texts=ids.about["fingerprint"], step=loop.step)
        for end in settings.ends:
            made = loop.snapshot(end)
    return PretrainResult(made["folder"], made["metrics"], asdict(settings), ids.about, made["losses"])


def _told(about: dict[str, Any]) -> str:
    copies = sum(about.get("copies", {}).values())  # folders of before do not tell
    empty = f", {about['empty']:,} empty ones left out" if about["empty"] else ""
    empty += f", {copies:,} copies of test texts left out" if copies else ""
    return (
        f"{about['texts']:,} texts from {about['source']} ({about['tokens']:,} tokens{empty}), "
        f"{about['held_out']:,} held out"
    )


def _kept(settings: PretrainSettings) -> dict[str, Any]:
    """What a longer run has in common with a shorter one."""
    return {name: value for name, value in asdict(settings).items() if name not in _BUDGET} | {
        "unit": settings.unit
    }


def _check_settings(folder: Path, settings: PretrainSettings) -> None:
    path = folder / places.PRETRAINING
    if not path.is_file():
        return
    before, now = places.read_fields(path), _kept(settings)
    if other := [name for name in now if before.get(name) != now[name]]:
        name = other[0]
        raise ValueError(
            f"{folder} holds a run with other settings ({name}: {before.get(name)} -> {now[name]}): choose "
            "another output folder"
        )
