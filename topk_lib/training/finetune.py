"""Fine-tuning an encoder on the k tokens that a selector keeps; a thin layer over ``Trainer``."""

from __future__ import annotations

import os
import shutil
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from safetensors import SafetensorError
from transformers import set_seed

from topk_lib.data import (
    Labels,
    fingerprint,
    labels_of,
    load_reviews,
    match_labels,
    source_of,
    train_and_eval,
)
from topk_lib.data.labels import CLASS, NUMBER, SEVERAL
from topk_lib.data.reviews import draw
from topk_lib.models import TopKForSequenceClassification, errors_only
from topk_lib.selectors import Selector, TaughtSelector, make_selector
from topk_lib.training import folder as places
from topk_lib.training.adapt import adapt, merge
from topk_lib.training.answer import columns_of, load_model, second_of
from topk_lib.training.attribution import attributions, pieces
from topk_lib.training.card import write_card
from topk_lib.training.metrics import measure
from topk_lib.training.settings import Settings, checked_settings, layers_kept
from topk_lib.training.together import check_same, together
from topk_lib.training.trainer import logits_of, make_trainer

__all__ = ["FinetuneResult", "finetune"]

_LEFT_OUT, _PIECE = 1000, 32  # texts and tokens of each: leaving out costs the square of a piece
_WORST = 100.0  # nats a text: no training that has not diverged is so wrong


@dataclass(frozen=True)
class FinetuneResult:
    """What a run of :func:`finetune` measured.

    Attributes:
        folder: where the model, the tokenizer and the selector are.
        metrics: see :func:`~topk_lib.training.metrics.measure`.
        settings: as given.
        data: source, sizes and fingerprints of the reviews.
        seconds: wall time of fit (tokenise, fit the selector), train and evaluate.
        predictions: for each review in its order the class id, the number, or the ids of its labels.
        logits: (reviews, labels), what the model gave them, to 4 places; empty where an older version made
            the run.
    """

    folder: Path
    metrics: dict[str, Any]
    settings: dict[str, Any]
    data: dict[str, Any]
    seconds: dict[str, float]
    predictions: list[Any]
    logits: list[list[float]] = field(default_factory=list)


def finetune(
    output: str | Path,
    *,
    source: str | Path | None = None,
    quiet: bool = False,
    **options: Any,
) -> FinetuneResult:
    """Fine-tune an encoder on the k tokens of each review that a selector keeps.

    What it learns is what the labels are: classes with their names, a number, or several labels at once; see
    :func:`~topk_lib.data.load_reviews`.

    The same call (or command) after an interruption goes on from the last checkpoint in
    ``output``; after the end it returns what was measured. Under ``torchrun`` each process takes
    its share of every batch, and ``accelerate launch --use_fsdp --fsdp_version 2`` shards the model over
    GPUs. A run may go on with another number of processes; the order of what is left of its epoch is then
    another.

    Args:
        output: folder for the model; made if need be.
        source: of the reviews, as in :func:`~topk_lib.data.load_reviews`.
        quiet: show no progress bars.
        **options: the fields of :class:`Settings`:

            - ``model``: hub name or folder; the embedded default otherwise.
            - ``selector``: one of :func:`~topk_lib.selectors.selector_names`;
              ``selector_learning_rate`` (peak), ``start_temperature`` and ``final_temperature`` (of its
              soft weights and noise) where it is trained along.
            - ``teacher``: for the taught, the distilled and the contextual selector, the folder of a model to
              learn from; train it on the same reviews. ``marks`` says what it marks: "slopes" in what it
              reads of whole texts; or in a piece of each text, which it reads whole, slopes ("pieces") or
              what leaving out each token does ("left_out", of fewer and shorter pieces, since that is dear).
            - ``once``: such a selector takes each token type once before any twice; contextual always does.
            - ``k``: tokens the encoder reads of each review, [CLS] and [SEP] included; ``share``,
              ``spend`` and ``positions`` as in
              :meth:`~topk_lib.models.TopKForSequenceClassification.from_encoder`.
            - ``keep_after``: drop tokens inside the encoder too: "2:48,4:16" keeps 48 after layer 2
              and 16 after layer 4, counted from 0.
            - ``max_length``: tokens of each review that the selector sees; None: all of them.
            - ``epochs``, ``learning_rate`` (peak; linear warm-up over 6% of the steps, then linear
              decay), ``batch_size`` (over all processes), ``seed``.
            - ``precision``: "fp32", "bf16", "fp16" or "auto" (the fastest this device trains in).
            - ``attention_dropout``: see :func:`~topk_lib.models.load_encoder`.
            - ``n_train``, ``n_eval``: draw so many reviews; None: all.
            - ``evaluate_on``: "test", or "dev" to choose settings.
            - ``lora``: train no weights of the encoder but the head, and a product of this rank beside each
              matrix that makes queries and values, see :func:`~topk_lib.training.adapt.adapt`; at the end
              it is written into the weights. It wants a learning rate some ten times as high.
            - ``patience``: stop when the loss on the dev split was no better than its best at so many
              checkpoints (ten an epoch) in a row, and keep the best; the dev split is then not trained on.

    Raises:
        ValueError: a setting is out of its range; ``output`` holds a run with other settings or reviews, or
            files of somebody else; or the reviews cannot be learned from.
        TypeError: an unknown option, or a setting of another type.
        OSError: no such model or reviews; or the disk is full.
        RuntimeError: another command is at work in ``output``, the training diverged, or another process of
            this run has ended.
    """
    settings = checked_settings(options)
    folder = places.named(output)
    main = int(os.environ.get("RANK", "0")) == 0
    with together(folder), places.claimed(folder) if main else nullcontext():
        _check_settings(folder, settings)
        train, held_out = train_and_eval(
            source,
            evaluate_on="dev" if settings.patience else settings.evaluate_on,
            n_train=settings.n_train,
            n_eval=settings.n_eval,
            seed=settings.seed,
            quiet=quiet or not main,
        )
        dev = held_out if settings.patience else None
        if settings.patience and settings.evaluate_on == "test":
            held_out = load_reviews(source, split="test", quiet=quiet or not main)
            held_out = match_labels(held_out, labels_of(train), "the training split")
            if settings.n_eval is not None:
                held_out = draw(held_out, settings.n_eval, 0, source_of(train))
        data = {
            "source": source_of(train),
            "n_train": len(train),
            "n_eval": len(held_out),
            "train_fingerprint": fingerprint(train),
            "eval_fingerprint": fingerprint(held_out),
        }
        if dev is not None:
            data |= {"n_dev": len(dev), "dev_fingerprint": fingerprint(dev)}
        return _done(folder, data) or _train(folder, settings, data, train, held_out, dev, quiet)


def _train(
    folder: Path,
    settings: Settings,
    data: dict[str, Any],
    train: Dataset,
    held_out: Dataset,
    dev: Dataset | None,
    quiet: bool,
) -> FinetuneResult:
    labels = labels_of(train)
    if labels.problem == CLASS and len(set(train["label"])) < 2:
        raise ValueError(
            f"all {len(train):,} training reviews are of the class {labels.names[train['label'][0]]!r}: "
            "to learn takes two classes at least"
        )
    set_seed(settings.seed)  # the classification head is drawn here
    selector: str | Selector = settings.selector
    if settings.once:
        selector = make_selector(settings.selector, seed=settings.seed, once=True)
    model, tokenizer = TopKForSequenceClassification.from_encoder(
        settings.model,
        selector,
        settings.k,
        seed=settings.seed,
        attention_dropout=settings.attention_dropout,
        labels=labels.names,
        problem_type=labels.problem,
        max_length=settings.max_length,
        share=settings.share,
        spend=settings.spend,
        positions=settings.positions,
        start_temperature=settings.start_temperature,
        final_temperature=settings.final_temperature,
        keep_after=layers_kept(settings.keep_after),
    )
    special = len(model.config.special_ids)
    if settings.k <= special:
        raise ValueError(
            f"k must be above {special}, got {settings.k}: {special} tokens of each text are special ones"
        )
    if settings.lora is not None:
        model.encoder = adapt(model.encoder, "lora", size=settings.lora)
    else:
        model.float()  # in weights of bfloat16, as many models are published, small steps are rounded away
    clock = _Clock()

    def read(reviews: Dataset) -> dict[str, list[list[int]]]:
        return columns_of(model, tokenizer, reviews["text"], second_of(reviews), settings.max_length)

    def learnt(reviews: Dataset) -> Dataset:
        values = list(reviews["label"])
        if labels.problem == SEVERAL:
            values = [[float(i in value) for i in range(len(labels.names))] for value in values]
        return Dataset.from_dict(read(reviews) | {"label": values})

    train_set = learnt(train)
    _fit(model.selector, list(train_set["input_ids"]), list(train["label"]), labels, settings)
    eval_set = Dataset.from_dict(read(held_out))
    dev_set = None if dev is None else learnt(dev)
    clock.lap("fit")
    trainer = make_trainer(model, tokenizer, settings, folder, quiet, train_set, dev_set)
    trainer.args.save_total_limit = None
    trainer.add_callback(places.KeepLast(folder))
    main = trainer.is_world_process_zero()
    checkpoint = places.last_checkpoint(folder)
    check_same(folder, reviews=data["train_fingerprint"], checkpoint=checkpoint)
    try:
        if main:  # not before all that can be refused was refused
            places.write_fields(folder / places.SETTINGS, asdict(settings))
            places.write_fields(folder / places.DATA, data)
        with errors_only() if quiet else nullcontext():
            trainer.train(resume_from_checkpoint=checkpoint)
            clock.lap("train")
            logits = logits_of(trainer, eval_set)
            clock.lap("evaluate")
            if not _sane(trainer.model, logits, labels, held_out):
                if main:
                    places.forget(folder, checkpoints=True)
                raise RuntimeError(
                    "the training diverged, so its model is worth nothing and was not saved: "
                    "lower learning_rate (and selector_learning_rate), or take precision fp32"
                )
            if settings.lora is not None:
                model.encoder = merge(model.encoder)
            places.save_model(trainer, folder)
    except BaseException as error:
        if main:
            places.forget(folder)
        wrote = isinstance(error, (OSError, RuntimeError, SafetensorError))
        if wrote and shutil.disk_usage(folder).free < 2**20:
            raise OSError(
                f"the disk of {folder} is full: make room, and give the same command again, which goes on "
                "from the last whole checkpoint"
            ) from error
        if isinstance(error, SafetensorError):
            raise OSError(f"the weights could not be written to {folder}: {error}") from error
        raise
    metrics, predictions = measure(labels, list(held_out["label"]), logits)
    rounded = [[round(x, 4) for x in row] for row in logits.tolist()]
    result = FinetuneResult(folder, metrics, asdict(settings), data, clock.laps, predictions, rounded)
    if main:
        fields = asdict(result)
        fields.pop("folder")
        write_card(folder, result.settings, data, metrics)
        places.write_fields(folder / places.RESULT, fields)
    return result


def _sane(model: Any, logits: torch.Tensor, labels: Labels, held_out: Dataset) -> bool:
    """Whether a model's weights and answers are numbers, and not beyond all measure."""
    if not all(bool(torch.isfinite(x).all()) for x in (logits, *model.parameters())):
        return False
    if labels.problem != CLASS:
        return True
    truth = torch.tensor(list(held_out["label"]))
    return torch.nn.functional.cross_entropy(logits, truth).item() < _WORST


def _fit(
    selector: Selector, ids: list[list[int]], values: list[Any], labels: Labels, settings: Settings
) -> None:
    if settings.teacher is None:
        selector.fit(*_as_classes(ids, values, labels))
        return
    assert isinstance(selector, TaughtSelector)
    teacher, *_ = load_model(settings.teacher)
    order = list(range(len(ids)))
    if settings.n_train is None:  # a whole split may be sorted by label; drawn reviews are in random order
        generator = torch.Generator().manual_seed(settings.seed)
        order = torch.randperm(len(ids), generator=generator).tolist()
    left_out = settings.marks == "left_out"
    some = [ids[i] for i in order[: _LEFT_OUT if left_out else selector.TEXTS]]
    if settings.marks != "slopes":
        size = min(teacher.config.k, _PIECE) if left_out else teacher.config.k
        some = list(pieces(some, size, teacher.config.special_ids, seed=settings.seed))
    moved = attributions(teacher, some, left_out=left_out)
    # Attributions spread over orders of magnitude; their logarithms are nearly normal.
    selector.teach(some, [x.clamp(min=1e-4).log() for x in moved])


def _as_classes(ids: list[list[int]], values: list[Any], labels: Labels) -> tuple[list[list[int]], list[int]]:
    """Texts with one class each, which is what selectors learn from.

    Numbers become two classes, those above the median and the others. A text of several labels is taken
    once for each; one of none is of a class of its own.
    """
    if labels.problem == NUMBER:
        middle = sorted(values)[len(values) // 2]
        low = min(values) < middle
        return ids, [int(value >= middle if low else value > middle) for value in values]
    if labels.problem == SEVERAL:
        pairs = [(i, one) for i, value in enumerate(values) for one in (value or [len(labels.names)])]
        return [ids[i] for i, _ in pairs], [one for _, one in pairs]
    return ids, values


def _check_settings(folder: Path, settings: Settings) -> None:
    """Refuse a folder that holds a run with other settings."""
    path = folder / places.SETTINGS
    if not path.is_file() or not places.computed(folder):
        return
    before = asdict(Settings(**places.read_fields(path, Settings)))
    now = asdict(settings)
    changed = [f"{key}: {before.get(key)!r} -> {now[key]!r}" for key in now if before.get(key) != now[key]]
    if changed:
        raise ValueError(
            f"{folder} holds a run with other settings ({'; '.join(changed)}): "
            "choose another output folder, or delete this one"
        )


def _done(folder: Path, data: dict[str, Any]) -> FinetuneResult | None:
    """Refuse a folder whose run began with other reviews; return the result where it is complete."""
    if (folder / places.DATA).is_file() and places.computed(folder):
        before = places.read_fields(folder / places.DATA)
        if before != data:
            raise ValueError(
                f"{folder} holds a run on other reviews (from {before.get('source')}, now {data['source']}): "
                "choose another output folder, or delete this one"
            )
    if not (folder / places.RESULT).is_file() or places.whole_weights(folder) is False:
        return None
    fields = places.read_fields(folder / places.RESULT, FinetuneResult)
    parts = {"metrics": dict, "settings": dict, "data": dict, "seconds": dict, "predictions": list}
    if not all(isinstance(fields.get(name), kind) and fields[name] for name, kind in parts.items()):
        raise places.damaged(folder / places.RESULT, "it lacks a part")
    return FinetuneResult(folder, **fields)


class _Clock:
    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self.last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = round(now - self.last, 2)
        self.last = now
