"""Fine-tuning an encoder on the k tokens that a selector keeps; a thin layer over ``Trainer``."""

from __future__ import annotations

import inspect
import json
import os
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import set_seed

from topk_lib.data import fingerprint, load_reviews, source_of, train_and_eval
from topk_lib.models import DEFAULT_ENCODER, TopKForSequenceClassification, errors_only, load_encoder
from topk_lib.selectors import Selector, TaughtSelector, make_selector
from topk_lib.training.attribution import attributions
from topk_lib.training.metrics import classification_metrics
from topk_lib.training.trainer import logits_of, make_trainer

__all__ = [
    "FinetuneResult", "Settings", "evaluate", "finetune", "load_model", "predict", "tokenize",
]  # fmt: skip

_SETTINGS, _DATA, _RESULT = "topk_settings.json", "topk_data.json", "topk_result.json"


@dataclass(frozen=True)
class Settings:
    """Everything that decides what :func:`finetune` computes; see there."""

    model: str = DEFAULT_ENCODER
    selector: str = "first"
    k: int = 256
    max_length: int | None = None
    epochs: float = 1.0
    learning_rate: float = 5e-5
    batch_size: int = 32
    seed: int = 0
    precision: str = "auto"
    attention_dropout: float = 0.0
    share: float | None = None
    spend: str = "text"
    positions: str = "compact"
    selector_learning_rate: float = 1e-3
    start_temperature: float = 0.3
    final_temperature: float = 0.03
    teacher: str | None = None
    keep_after: str | None = None
    n_train: int | None = None
    n_eval: int | None = None
    evaluate_on: str = "test"


@dataclass(frozen=True)
class FinetuneResult:
    """What a run of :func:`finetune` measured.

    Attributes:
        folder: where the model, the tokenizer and the selector are.
        metrics: see :func:`~topk_lib.training.metrics.classification_metrics`.
        settings: as given.
        data: source, sizes and fingerprints of the reviews.
        seconds: wall time of fit (tokenise, fit the selector), train and evaluate.
        predictions: (n_eval,) 0 or 1, in the order of the reviews.
    """

    folder: Path
    metrics: dict[str, Any]
    settings: dict[str, Any]
    data: dict[str, Any]
    seconds: dict[str, float]
    predictions: list[int]


def finetune(
    output: str | Path,
    *,
    source: str | Path | None = None,
    quiet: bool = False,
    **options: Any,
) -> FinetuneResult:
    """Fine-tune an encoder for sentiment on the k tokens of each review that a selector keeps.

    The same call (or command) after an interruption goes on from the last checkpoint in
    ``output``; after the end it returns what was measured. Under ``torchrun`` each process takes
    its share of every batch.

    Args:
        output: folder for the model; made if need be.
        source: of the reviews, as in :func:`~topk_lib.data.load_reviews`.
        quiet: show no progress bars.
        **options: the fields of :class:`Settings`:

            - ``model``: hub name or folder; the embedded default otherwise.
            - ``selector``: one of :func:`~topk_lib.selectors.selector_names`;
              ``selector_learning_rate`` (peak), ``start_temperature`` and ``final_temperature`` (of its
              soft weights and noise) where it is trained along.
            - ``teacher``: for the taught and the distilled selector, the folder of a model to learn from;
              train it on the same reviews.
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

    Raises:
        ValueError: a setting is out of its range, or ``output`` holds a run with other settings or reviews.
        TypeError: an unknown option.
    """
    settings = _settings(options)
    folder = Path(output)
    _check_settings(folder, settings)
    main = int(os.environ.get("RANK", "0")) == 0
    train, held_out = train_and_eval(
        source,
        evaluate_on=settings.evaluate_on,
        n_train=settings.n_train,
        n_eval=settings.n_eval,
        seed=settings.seed,
        quiet=quiet or not main,
    )
    data = {
        "source": source_of(train),
        "n_train": len(train),
        "n_eval": len(held_out),
        "train_fingerprint": fingerprint(train),
        "eval_fingerprint": fingerprint(held_out),
    }
    done = _done(folder, data)
    if done is not None:
        return done

    set_seed(settings.seed)  # the classification head is drawn here
    model, tokenizer = TopKForSequenceClassification.from_encoder(
        settings.model,
        settings.selector,
        settings.k,
        seed=settings.seed,
        attention_dropout=settings.attention_dropout,
        share=settings.share,
        spend=settings.spend,
        positions=settings.positions,
        start_temperature=settings.start_temperature,
        final_temperature=settings.final_temperature,
        keep_after=_keep_after(settings.keep_after),
    )
    clock = _Clock()
    ids, labels = tokenize(tokenizer, train["text"], settings.max_length), list(train["label"])
    _fit(model.selector, ids, labels, settings)
    train_set = Dataset.from_dict({"input_ids": ids, "label": labels})
    eval_set = Dataset.from_dict(
        {
            "input_ids": tokenize(tokenizer, held_out["text"], settings.max_length),
            "label": list(held_out["label"]),
        }
    )
    clock.lap("fit")
    if main:  # not before all that can be refused was refused
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / _SETTINGS, asdict(settings))
        _write(folder / _DATA, data)

    trainer = make_trainer(model, tokenizer, settings, folder, quiet, train_set)
    with errors_only() if quiet else nullcontext():
        trainer.train(resume_from_checkpoint=_last_checkpoint(folder))
        trainer.save_model(str(folder))
    clock.lap("train")

    logits = logits_of(trainer, eval_set)
    clock.lap("evaluate")
    predictions = logits.argmax(-1).tolist()
    result = FinetuneResult(
        folder,
        classification_metrics(list(held_out["label"]), predictions),
        asdict(settings),
        data,
        clock.laps,
        predictions,
    )
    if trainer.is_world_process_zero():
        fields = asdict(result)
        fields.pop("folder")
        _write(folder / _RESULT, fields)
    return result


def evaluate(
    folder: str | Path,
    *,
    source: str | Path | None = None,
    split: str = "test",
    n: int | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Measure a model that :func:`finetune` saved on labelled reviews.

    Returns:
        The metrics of :func:`~topk_lib.training.metrics.classification_metrics`.
    """
    reviews = load_reviews(source, split=split, n=n, quiet=quiet)
    logits = _run(folder, list(reviews["text"]), quiet)
    return classification_metrics(list(reviews["label"]), logits.argmax(-1).tolist())


def predict(folder: str | Path, texts: Sequence[str], *, quiet: bool = True) -> list[float]:
    """The probability that each text is positive, by a model that :func:`finetune` saved."""
    if isinstance(texts, str):
        raise TypeError("texts must be a list of strings, got one string: write [text]")
    if not texts:
        return []
    return torch.softmax(_run(folder, texts, quiet), -1)[:, 1].tolist()


def load_model(folder: str | Path) -> tuple[TopKForSequenceClassification, Any, int | None]:
    """Load a model that chooses tokens from its folder.

    Returns:
        The model, ready to answer; its tokenizer; and ``max_length``, the tokens of a text that it may
        see, None for all.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: another model is in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}: name the output folder of topk-lib finetune")
    model, tokenizer = load_encoder(folder)
    if not isinstance(model, TopKForSequenceClassification):
        raise ValueError(f"{folder} holds a {type(model).__name__}, no model of topk-lib finetune")
    settings = folder / _SETTINGS
    max_length = json.loads(settings.read_text()).get("max_length") if settings.is_file() else None
    return model.eval(), tokenizer, max_length


def tokenize(tokenizer: Any, texts: Sequence[str], max_length: int | None = None) -> list[list[int]]:
    """The token ids of each text, special tokens included; texts over ``max_length`` are cut."""
    with errors_only():  # it would warn of texts over the maximum, which the selector shortens
        ids: list[list[int]] = tokenizer(
            list(texts), truncation=max_length is not None, max_length=max_length
        )["input_ids"]
    return ids


def _run(folder: str | Path, texts: Sequence[str], quiet: bool) -> torch.Tensor:
    folder = Path(folder)
    if not (folder / _SETTINGS).is_file():
        raise FileNotFoundError(f"{folder} holds no model of topk-lib finetune: name its output folder")
    settings = Settings(**json.loads((folder / _SETTINGS).read_text()))
    model, tokenizer = load_encoder(folder)
    ids = tokenize(tokenizer, texts, settings.max_length)
    trainer = make_trainer(model, tokenizer, settings, folder, quiet)
    return logits_of(trainer, Dataset.from_dict({"input_ids": ids, "label": [0] * len(ids)}))


def _settings(options: dict[str, Any]) -> Settings:
    known = inspect.signature(Settings).parameters
    for name in options:
        if name not in known:
            raise TypeError(f"finetune has no option {name!r}: choose from {', '.join(known)}")
    settings = Settings(**{key: value for key, value in options.items() if value is not None})
    positive = (
        "k", "epochs", "learning_rate", "batch_size", "selector_learning_rate", "start_temperature",
        "final_temperature",
    )  # fmt: skip
    for name in positive:
        if getattr(settings, name) <= 0:
            raise ValueError(f"{name} must be above 0, got {getattr(settings, name)}")
    if settings.precision not in ("auto", "fp32", "bf16", "fp16"):
        raise ValueError(f"precision must be auto, fp32, bf16 or fp16, got {settings.precision!r}")
    selector = make_selector(settings.selector)
    pupil = isinstance(selector, TaughtSelector)
    if pupil and settings.teacher is None:
        raise ValueError(
            f"the {settings.selector} selector learns from a teacher: "
            "name the folder of a model with --teacher"
        )
    if settings.teacher is not None and not pupil:
        raise ValueError(f"only taught and distilled have a teacher, not {settings.selector}")
    _keep_after(settings.keep_after)
    return settings


def _keep_after(text: str | None) -> dict[int, int] | None:
    if not text:
        return None
    try:
        return {int(layer): int(size) for layer, size in (part.split(":") for part in text.split(","))}
    except ValueError:
        raise ValueError(f'keep_after must look like "2:48,4:16" (layer:tokens), got {text!r}') from None


def _fit(selector: Selector, ids: list[list[int]], labels: list[int], settings: Settings) -> None:
    if settings.teacher is None:
        selector.fit(ids, labels)
        return
    assert isinstance(selector, TaughtSelector)
    teacher, *_ = load_model(settings.teacher)
    order = list(range(len(ids)))
    if settings.n_train is None:  # a whole split may be sorted by label; drawn reviews are in random order
        generator = torch.Generator().manual_seed(settings.seed)
        order = torch.randperm(len(ids), generator=generator).tolist()
    some = [ids[i] for i in order[: selector.TEXTS]]
    moved = attributions(teacher, some)
    # Attributions spread over orders of magnitude; their logarithms are nearly normal.
    selector.teach(some, [x.clamp(min=1e-4).log() for x in moved])


def _check_settings(folder: Path, settings: Settings) -> None:
    """Refuse a folder that holds a run with other settings."""
    if not (folder / _SETTINGS).is_file():
        return
    before = asdict(Settings(**json.loads((folder / _SETTINGS).read_text())))
    now = asdict(settings)
    changed = [f"{key}: {before.get(key)!r} -> {now[key]!r}" for key in now if before.get(key) != now[key]]
    if changed:
        raise ValueError(
            f"{folder} holds a run with other settings ({'; '.join(changed)}): "
            "choose another output folder, or delete this one"
        )


def _done(folder: Path, data: dict[str, Any]) -> FinetuneResult | None:
    """Refuse a folder whose run began with other reviews; return the result where it is complete."""
    if (folder / _DATA).is_file():
        before = json.loads((folder / _DATA).read_text())
        if before != data:
            raise ValueError(
                f"{folder} holds a run on other reviews (from {before['source']}, now {data['source']}): "
                "choose another output folder, or delete this one"
            )
    if not (folder / _RESULT).is_file():
        return None
    return FinetuneResult(folder, **json.loads((folder / _RESULT).read_text()))


def _write(path: Path, fields: dict[str, Any]) -> None:
    """All of it or nothing, so that a broken-off run leaves no half file."""
    half = path.with_suffix(".tmp")
    half.write_text(json.dumps(fields, indent=2) + "\n")
    half.replace(path)


def _last_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that was written to its end (its state file is written last)."""
    for path in sorted(folder.glob("checkpoint-*"), key=lambda p: -int(p.name.rsplit("-", 1)[1])):
        try:
            json.loads((path / "trainer_state.json").read_text())
        except (OSError, ValueError):
            continue
        return str(path)
    return None


class _Clock:
    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self.last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = round(now - self.last, 2)
        self.last = now
