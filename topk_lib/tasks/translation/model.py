"""A small encoder-decoder (MarianMT's layers, from nothing), trained on pairs of sentences."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from torch.nn import functional as F
from transformers import (
    DataCollatorForSeq2Seq,
    EarlyStoppingCallback,
    MarianConfig,
    MarianMTModel,
    PreTrainedTokenizerFast,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from topk_lib.models import errors_only
from topk_lib.tasks.translation.pairs import Pairs
from topk_lib.training import folder as places
from topk_lib.training.trainer import fastest

__all__ = ["LONGEST", "TranslatorSettings", "load_translator", "new_translator", "train_translator"]

LONGEST = 256
"""Tokens of a sentence at most, its end included."""

_SETTINGS, _RESULT, _CLOCK = "topk_translator.json", "topk_translated.json", "topk_clock.json"


@dataclass(frozen=True)
class TranslatorSettings:
    """How a translator is built and trained.

    Attributes:
        hidden_size, layers, heads, inner: of the encoder, and as much of the decoder; ``inner`` is the width
            of the feed-forward layers.
        dropout: also of what the layers add; of attention weights a third of it.
        label_smoothing: the share of the target that goes to all types alike.
        learning_rate: at its highest.
        warmup: the share of the steps in which it rises; then it falls along a cosine.
        epochs: at most.
        batch_size: pairs a step.
        patience: so many epochs may pass without a better loss on the dev pairs; the best epoch is kept.
        seed: of weights, order and dropout.
        precision: as in :class:`~topk_lib.training.Settings`.
    """

    hidden_size: int = 256
    layers: int = 3
    heads: int = 4
    inner: int = 512
    dropout: float = 0.1
    label_smoothing: float = 0.1
    learning_rate: float = 1e-3
    warmup: float = 0.1
    epochs: int = 12
    batch_size: int = 64
    patience: int = 4
    seed: int = 0
    precision: str = "auto"


def new_translator(settings: TranslatorSettings, tokenizer: Any) -> Any:
    """A model with random weights; one matrix is the embedding of both languages and the output layer.

    Source: Vaswani et al. (2017); the layers are those of MarianMT, norms after each block.
    """
    s = settings
    pad, end = tokenizer.pad_token_id, tokenizer.eos_token_id
    config = MarianConfig(
        vocab_size=len(tokenizer), d_model=s.hidden_size, max_position_embeddings=LONGEST,
        encoder_layers=s.layers, decoder_layers=s.layers, encoder_attention_heads=s.heads,
        decoder_attention_heads=s.heads, encoder_ffn_dim=s.inner, decoder_ffn_dim=s.inner,
        dropout=s.dropout, attention_dropout=s.dropout / 3, activation_dropout=s.dropout / 3,
        activation_function="relu", scale_embedding=True, init_std=s.hidden_size**-0.5,
        pad_token_id=pad, eos_token_id=end, bos_token_id=None, decoder_start_token_id=pad,
        forced_eos_token_id=None, use_cache=False, attn_implementation="eager",
    )  # fmt: skip
    set_seed(s.seed)
    return MarianMTModel(config)


def load_translator(folder: str | Path) -> tuple[Any, Any]:
    """The model that :func:`train_translator` left in a folder, ready to translate, and its tokenizer.

    Raises:
        FileNotFoundError: none is there, or its training is not at its end.
    """
    if not (Path(folder) / _RESULT).is_file():
        raise FileNotFoundError(f"there is no trained translator in {str(folder)!r}: train one there first")
    with errors_only():
        model = MarianMTModel.from_pretrained(folder, local_files_only=True, attn_implementation="eager")
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    return model.eval(), tokenizer


def train_translator(
    folder: str | Path,
    tokenizer: Any,
    train: Pairs,
    dev: Pairs | None = None,
    *,
    settings: TranslatorSettings | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Train a translator in a folder; the same call goes on where it was interrupted.

    Args:
        folder: for the model, its tokenizer and checkpoints.
        tokenizer: see :func:`~topk_lib.tasks.translation.shared_tokenizer`.
        train: the pairs to learn from.
        dev: the loss on these says which epoch is kept, and when to stop. None: train to the end, keep that.
        settings: by default :class:`TranslatorSettings`.
        quiet: no bars, no log.

    Returns:
        ``parameters``, ``steps``, ``epochs`` that were trained, ``best_epoch``, ``dev_loss`` of each epoch
        (smoothed, in nats a token; empty without ``dev``), ``seconds`` and ``cpu_seconds`` of training in all
        sittings (the second counts the work of every thread, however busy the machine was), and the
        ``precision`` that was meant.

    Raises:
        ValueError: the folder holds a run with other settings or files of another kind; no pairs; or a
            sentence is longer than 255 tokens.
        RuntimeError: another command works in the folder, or the training diverged.
    """
    s = settings or TranslatorSettings()
    place = places.named(folder)
    if not train.sources or (dev is not None and not dev.sources):
        raise ValueError("there are no pairs to train on, or none to choose the best epoch by")
    longest = max(map(len, (*train.sources, *train.targets)))
    if longest >= LONGEST:
        raise ValueError(f"a sentence has {longest} tokens: {LONGEST - 1} are read at most")
    with places.claimed(place, _SETTINGS):
        given = asdict(s)
        if (place / _SETTINGS).is_file():
            before = places.read_fields(place / _SETTINGS)
            if other := [name for name in given if before.get(name) != given[name]]:
                name = other[0]
                raise ValueError(
                    f"{place} holds a run with other settings ({name}: {before.get(name)} -> {given[name]}): "
                    "choose another folder"
                )
            if (place / _RESULT).is_file():
                return places.read_fields(place / _RESULT)
        places.write_fields(place / _SETTINGS, given)
        return _train(place, tokenizer, train, dev, s, quiet)


def _train(
    folder: Path, tokenizer: Any, train: Pairs, dev: Pairs | None, s: TranslatorSettings, quiet: bool
) -> dict[str, Any]:
    model, clock = new_translator(s, tokenizer), _Clock(folder / _CLOCK)
    precision = fastest(s.precision)
    stop: dict[str, Any] = {}
    if dev is not None:
        stop = {
            "eval_strategy": "epoch", "load_best_model_at_end": True, "metric_for_best_model": "loss",
            "greater_is_better": False,
        }  # fmt: skip
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=s.epochs,
        learning_rate=s.learning_rate,
        per_device_train_batch_size=s.batch_size,
        per_device_eval_batch_size=s.batch_size,
        warmup_steps=s.warmup,
        lr_scheduler_type="cosine",
        adam_beta2=0.98,
        train_sampling_strategy="group_by_length",
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        seed=s.seed,
        save_strategy="epoch",
        save_total_limit=2,
        logging_strategy="no" if quiet else "epoch",
        prediction_loss_only=True,
        use_cpu=not torch.cuda.is_available(),
        report_to="none",
        disable_tqdm=quiet,
        **stop,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # several would make the batch grow
    trainer = _Trainer(
        s.label_smoothing,
        model=model,
        args=arguments,
        train_dataset=_rows(train, tokenizer),
        eval_dataset=None if dev is None else _rows(dev, tokenizer),
        processing_class=tokenizer,
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=model),
        callbacks=[clock] if dev is None else [clock, EarlyStoppingCallback(s.patience)],
    )
    if quiet:
        trainer.remove_callback(PrinterCallback)
    with errors_only() if quiet else nullcontext():
        trainer.train(resume_from_checkpoint=places.last_checkpoint(folder))
        if not all(bool(torch.isfinite(p).all()) for p in trainer.model.parameters()):
            raise RuntimeError(f"the training diverged, and {folder} is worth nothing: lower learning_rate")
        places.save_model(trainer, folder)
    state = trainer.state
    losses = {round(row["epoch"]): row["eval_loss"] for row in state.log_history if "eval_loss" in row}
    result = {
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "steps": state.global_step,
        "epochs": round(state.epoch),
        "best_epoch": min(losses, key=losses.__getitem__) if losses else round(state.epoch),
        "dev_loss": [losses[epoch] for epoch in sorted(losses)],
        "seconds": sum(wall for wall, _ in clock.of.values()),
        "cpu_seconds": sum(cpu for _, cpu in clock.of.values()),
        "precision": precision,
    }
    places.write_fields(folder / _RESULT, result)
    places.forget(folder, checkpoints=True)
    return result


def _rows(pairs: Pairs, tokenizer: Any) -> Dataset:
    end = tokenizer.eos_token_id
    return Dataset.from_dict(
        {
            "input_ids": [[*s, end] for s in pairs.sources],
            "labels": [[*t, end] for t in pairs.targets],
            "length": [max(len(s), len(t)) for s, t in zip(pairs.sources, pairs.targets, strict=True)],
        }
    )


class _Trainer(Trainer):  # type: ignore[misc]
    """The output layer reads no padding: with few layers and many types it is most of the work."""

    def __init__(self, label_smoothing: float, **how: Any) -> None:
        super().__init__(**how)
        self.label_smoothing = label_smoothing

    def compute_loss(
        self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, **_: Any
    ) -> Any:
        labels = inputs.pop("labels")
        here = labels != -100
        states = model.model(**inputs).last_hidden_state[here]
        logits = F.linear(states, model.lm_head.weight, model.final_logits_bias[0])
        loss = F.cross_entropy(logits.float(), labels[here], label_smoothing=self.label_smoothing)
        return (loss, {}) if return_outputs else loss


class _Clock(TrainerCallback):  # type: ignore[misc]
    """The seconds of each epoch, kept on disk, so that those of earlier sittings count."""

    def __init__(self, path: Path) -> None:
        self.path, self.begun = path, (0.0, 0.0)
        self.of: dict[str, list[float]] = places.read_fields(path) if path.is_file() else {}

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        self.begun = time.perf_counter(), time.process_time()

    def on_epoch_end(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
        wall, cpu = self.begun
        self.of[f"{state.epoch:.0f}"] = [time.perf_counter() - wall, time.process_time() - cpu]
        places.write_fields(self.path, self.of)
