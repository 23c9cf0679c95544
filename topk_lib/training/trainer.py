"""``Trainer`` as this course uses it: its arguments, the selector's learning rate and temperature."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import (
    DataCollatorWithPadding,
    EarlyStoppingCallback,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from topk_lib.selectors.gate import HistorySelector
from topk_lib.training.together import asked_to_shard, world_size

__all__ = ["fastest", "logits_of", "make_trainer"]


def fastest(name: str) -> str:
    """The precision that is meant: "auto" is the fastest that this device trains in."""
    if name != "auto":
        return name
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    flags = Path("/proc/cpuinfo")
    fast = flags.is_file() and any(f in flags.read_text() for f in ("avx512_bf16", "amx_bf16"))
    return "bf16" if fast and not torch.backends.mps.is_available() else "fp32"


def make_trainer(
    model: Any,
    tokenizer: Any,
    settings: Any,
    folder: Path,
    quiet: bool,
    train_set: Dataset | None = None,
    dev_set: Dataset | None = None,
) -> Trainer:
    """A ``Trainer`` with this course's arguments.

    Args:
        settings: of :class:`~topk_lib.training.finetune.Settings`.
        folder: for checkpoints.
        quiet: no bars, no log.
        train_set: ``input_ids`` and ``label``; None to answer only.
        dev_set: likewise; where it is given, its loss is measured at each checkpoint, the training ends when
            ``settings.patience`` of them were no better than the best, and the best is kept.
    """
    selector = None if train_set is None else getattr(model, "selector", None)
    learned = bool(selector is not None and selector.trainable)
    sharded = train_set is not None and _may_shard(model, learned)  # before processes are joined
    precision = fastest(settings.precision)
    world = world_size()
    if settings.batch_size % world:
        raise ValueError(f"batch_size {settings.batch_size} cannot be shared by {world} processes")
    steps = math.ceil(len(train_set or ()) / settings.batch_size) * settings.epochs
    every = max(25, math.ceil(0.1 * steps))  # writing one takes as long as some steps
    stop: dict[str, Any] = {}
    if dev_set is not None:
        stop = {
            "eval_strategy": "steps", "eval_steps": every, "load_best_model_at_end": True,
            "metric_for_best_model": "loss", "greater_is_better": False,
        }  # fmt: skip
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        per_device_train_batch_size=settings.batch_size // world,
        per_device_eval_batch_size=128,
        warmup_steps=0.06,
        lr_scheduler_type="linear",
        weight_decay=0.01,
        train_sampling_strategy="group_by_length",
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        seed=settings.seed,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=2,
        logging_strategy="no" if quiet else "steps",
        logging_steps=0.05,
        use_cpu=not (torch.cuda.is_available() or torch.backends.mps.is_available()),
        report_to="none",
        disable_tqdm=quiet,
        **stop,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # several GPUs are for torchrun; else a batch would grow
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=train_set,
        eval_dataset=dev_set,
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
        callbacks=[_Anneal()] if learned else None,
        optimizers=(_optimiser(model, settings), None) if learned else (None, None),
    )
    if sharded and not trainer.is_fsdp_enabled:
        raise ValueError(
            "accelerate shards a model (FSDP) over several processes with a GPU each, and here are none: "
            "leave out --use_fsdp"
        )
    if learned and isinstance(model.selector, HistorySelector):
        trainer.add_callback(_Remember(model.selector, trainer.accelerator))
    if dev_set is not None:
        trainer.add_callback(EarlyStoppingCallback(settings.patience))
    if quiet:
        trainer.remove_callback(PrinterCallback)
    return trainer


def _may_shard(model: Any, learned: bool) -> bool:
    """Whether Accelerate is to shard the model; what it was not told about it is settled then."""
    if not asked_to_shard():
        return False
    if learned:
        raise ValueError(
            f"the {model.selector.name} selector is trained along with a learning rate of its own, which "
            "FSDP does not take: leave out --use_fsdp, or choose a selector that is not trained"
        )
    layers = next(module for module in model.modules() if isinstance(module, torch.nn.ModuleList))
    # by default BERT's embeddings would be sharded twice, and checkpoints could be read by as many alone
    os.environ.setdefault("FSDP_TRANSFORMER_CLS_TO_WRAP", type(layers[0]).__name__)
    os.environ.setdefault("FSDP_STATE_DICT_TYPE", "FULL_STATE_DICT")
    return True


class _Anneal(TrainerCallback):  # type: ignore[misc]
    """Cools the selector's temperature as the training goes on."""

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        getattr(model, "module", model).anneal(min(1.0, state.global_step / max(1, state.max_steps)))


class _Remember(TrainerCallback):  # type: ignore[misc]
    """Tells a history how its losses are scaled, and lets the processes share what they saw."""

    def __init__(self, history: HistorySelector, accelerator: Any) -> None:
        self.history, self.accelerator = history, accelerator

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        scaler = self.accelerator.scaler  # of float16
        self.history.loss_scale = scaler.get_scale() if scaler is not None else 1.0

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.history.settle()


def _optimiser(model: Any, settings: Any) -> torch.optim.Optimizer:
    """AdamW as Trainer makes it, but the selector with a learning rate of its own."""
    groups: dict[tuple[bool, bool], list[Any]] = {}
    for name, parameter in model.named_parameters():
        decay = parameter.dim() > 1 and "norm" not in name.lower()
        groups.setdefault((name.startswith("selector."), decay), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "lr": settings.selector_learning_rate if selector else settings.learning_rate,
                "weight_decay": 0.01 if decay else 0.0,
            }
            for (selector, decay), parameters in groups.items()
        ]
    )


def logits_of(trainer: Trainer, data: Dataset) -> torch.Tensor:
    """(n, labels) float32, in the order of ``data``; texts of like length share a batch."""
    lengths = torch.tensor([len(ids) for ids in data["input_ids"]])
    order = lengths.argsort(stable=True)
    # Grouping by length would also shuffle what is evaluated.
    trainer.args.train_sampling_strategy = "sequential"
    read = [name for name in data.column_names if name != "label"]
    output = trainer.predict(data.select(order.tolist()).select_columns(read)).predictions
    logits = torch.empty(len(data), output.shape[-1])
    logits[order] = torch.as_tensor(output, dtype=torch.float32)
    return logits
