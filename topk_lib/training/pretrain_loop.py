"""The loop of pretraining: a trunk at a steady rate, and a branch with a falling one for each snapshot."""

from __future__ import annotations

import copy
import math
import os
import pickle
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from transformers import set_seed

from topk_lib.models import errors_only
from topk_lib.routing import routing_loss
from topk_lib.training import folder as places
from topk_lib.training.corpus import Corpus
from topk_lib.training.objective import block_losses, mean_and_error, new_model, to_guess, token_losses
from topk_lib.training.shards import Through, gathered, placed, shard
from topk_lib.training.trainer import fastest

__all__ = ["Loop"]

_CHECKPOINT, RESULT = "checkpoint.pt", "topk_pretrain.json"
_POINTS = 200
_BLOCKS = 1000  # held out
EVERY = 60.0  # seconds between checkpoints


class Loop:
    """A run in its folder: goes on from the checkpoint there, and makes snapshots.

    Args:
        folder: of the run.
        settings: :class:`~topk_lib.training.pretrain.PretrainSettings`.
        ids: the corpus.
        state: of accelerate; says which device, and which of how many processes.
        quiet: print nothing.
        change: what the model becomes before it learns.
        after: called after each step, with the loop.
    """

    def __init__(
        self,
        folder: Path,
        settings: Any,
        ids: Corpus,
        state: Any,
        quiet: bool,
        change: Callable[[Any], Any] | None = None,
        after: Callable[[Loop], object] | None = None,
    ) -> None:
        self.folder, self.settings, self.ids, self.state = folder, settings, ids, state
        self.quiet, self.after = quiet or not state.is_main_process, after
        set_seed(settings.seed)
        model = new_model(settings, ids.tokenizer)
        self.model = (model if change is None else change(model)).to(state.device).train()
        self.through = Through(self.model)
        self.sharded = settings.shard and state.num_processes > 1
        if self.sharded:
            shard(self.through, state.device)
        self.optimiser = _optimiser(self.model, settings)
        self.kind = torch.bfloat16 if fastest(settings.precision) == "bf16" else None
        self.step, self.seconds, self.wall = 0, 0.0, 0.0
        self.losses: list[tuple[int, float, float]] = []
        if (folder / _CHECKPOINT).is_file():
            self._take(placed(_read(folder / _CHECKPOINT), self.model, self.optimiser))

    @property
    def clock(self) -> float:
        """How far the run is, in the unit of its budget."""
        return self.seconds / 60 if self.settings.unit == "min" else float(self.step)

    def snapshot(self, end: float) -> dict[str, Any]:
        """The run that ends at ``end``: its folder, metrics and losses."""
        s = self.settings
        target = self.folder / f"snapshot-{end:.15g}{s.unit}"
        if not (target / RESULT).is_file():
            # by the clock a step may end a little late, which is no longer run
            late = 2 * self.seconds / 60 / max(1, self.step) if s.unit == "min" else 0
            if self.clock > end + late:
                raise ValueError(
                    f"the run in {self.folder} is at {self.clock:.15g}{s.unit} already, past {end:.15g}: "
                    "choose another output folder"
                )
            branch = end * (1 - s.decay)
            self._go(branch, lambda: 1.0, save=True)
            trunk = self._given()
            # a trunk that is already further than this branch's start begins it where it is
            start = min(self.clock, end)
            self._go(end, lambda: (end - self.clock) / max(end - start, 1e-9), save=False)
            self._write(target, end)
            self._take(trunk)
        return {"folder": target, **places.read_fields(target / RESULT)}

    def _go(self, until: float, share: Callable[[], float], *, save: bool) -> None:
        saved = time.monotonic()
        while self.clock < until:
            rate = self.settings.learning_rate * share()
            rate *= min(1.0, (self.step + 1) / max(1, self.settings.warmup))
            due = self._learn(rate, time.monotonic() - saved > EVERY)
            if save and due:
                self._save()
                saved = time.monotonic()
        if save:
            self._save()

    def _learn(self, rate: float, due: bool) -> bool:
        """One step. Every process hides the same tokens of the whole batch, and learns from its share.

        Args:
            rate: of learning.
            due: whether this process finds that a checkpoint should follow.

        Returns:
            What the first process finds, since all have to save together.
        """
        wall, begun = time.perf_counter(), time.process_time()
        s, world, rank = self.settings, self.state.num_processes, self.state.process_index
        ids = self.ids.batch(self.step, s.batch_size, s.seed)
        read, chosen = to_guess(ids, self.ids.tokenizer, s.mask_rate, seed=s.seed, step=self.step)
        guesses = int(chosen.sum())
        ids, read, chosen = (x[rank::world].to(self.state.device) for x in (ids, read, chosen))
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        with self._autocast():
            loss = self.through(token_losses, read, ids, chosen).sum() / guesses
        # what is sharded is averaged over the processes, and a sum is wanted
        whole = loss + routing_loss(self.model) / world
        (whole * world if self.sharded else whole).backward()
        told = torch.tensor([loss.detach().item(), 0.0, float(due and rank == 0)], dtype=torch.float64)
        if world > 1 and not self.sharded:
            for parameter in self.model.parameters():
                dist.all_reduce(parameter.grad)
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad()
        told[1] = time.process_time() - begun
        if world > 1:
            told = told.to(self.state.device)
            dist.all_reduce(told)
        loss_now, spent, wanted = told.tolist()
        if not math.isfinite(loss_now):
            raise RuntimeError(
                f"the training diverged in step {self.step + 1}: lower learning_rate, or take precision fp32"
            )
        self.step += 1
        self.seconds += spent
        self.wall += time.perf_counter() - wall
        self.losses.append((self.step, self.seconds / 60, loss_now))
        if not self.quiet and self.step % 100 == 0:
            print(f"step {self.step:,}, {self.seconds / 60:.1f} min: loss {loss_now:.3f}", flush=True)
        if self.after is not None:
            self.after(self)
        return bool(wanted)

    def _autocast(self) -> Any:
        return torch.autocast(self.state.device.type, self.kind, enabled=self.kind is not None)

    def _given(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        given = {
            "model": self.model.state_dict(), "optimiser": self.optimiser.state_dict(), "step": self.step,
            "seconds": self.seconds, "wall": self.wall, "losses": self.losses, "rng": torch.get_rng_state(),
        }  # fmt: skip
        return copy.deepcopy(given)

    def _take(self, given: dict[str, Any]) -> None:
        self.model.load_state_dict(given["model"])
        self.optimiser.load_state_dict(given["optimiser"])
        self.step, self.seconds, self.wall = given["step"], given["seconds"], given["wall"]
        self.losses = [tuple(point) for point in given["losses"]]
        torch.set_rng_state(given["rng"])

    def _save(self) -> None:
        """The checkpoint, whole or not at all; it is the same however many processes wrote it."""
        given = self._given()
        for part in ("model", "optimiser"):
            given[part] = gathered(given[part], keep=self.state.is_main_process)
        if self.state.is_main_process:
            fresh = self.folder / f"{_CHECKPOINT}.tmp"
            with open(fresh, "wb") as file:
                torch.save(given, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(fresh, self.folder / _CHECKPOINT)

    def _write(self, target: Path, end: float) -> None:
        s = self.settings
        weights = gathered(self.model.state_dict(), keep=self.state.is_main_process)
        if self.state.is_main_process:
            model = self.model
            if self.sharded:  # the others do not follow it forward
                model = new_model(s, self.ids.tokenizer).to(self.state.device)
                model.load_state_dict(weights)
            blocks = self.ids.held_out_blocks(_BLOCKS)
            guesses = block_losses(
                model, self.ids.tokenizer, blocks, mask_rate=s.mask_rate, autocast=self._autocast
            )
            loss, error = mean_and_error(guesses.losses, guesses.block)
            metrics = {
                "loss": loss, "loss_error": error, "guesses": len(guesses.losses),
                "parameters": sum(p.numel() for p in model.parameters()),
                "steps": self.step, "tokens": self.step * s.batch_size * s.length,
                "minutes": self.seconds / 60, "wall_minutes": self.wall / 60,
            }  # fmt: skip
            fresh = target.with_name(f".{target.name}")
            shutil.rmtree(fresh, ignore_errors=True)
            with errors_only():
                model.save_pretrained(fresh)
            self.ids.tokenizer.save_pretrained(fresh)
            places.write_fields(fresh / RESULT, {"metrics": metrics, "losses": self._thin()})
            os.replace(fresh, target)
            if not self.quiet:
                print(f"{target.name}: held-out loss {loss:.3f}", flush=True)
        self.state.wait_for_everyone()

    def _thin(self) -> list[list[float]]:
        size = max(1, math.ceil(len(self.losses) / _POINTS))
        few = [self.losses[i : i + size] for i in range(0, len(self.losses), size)]
        return [[some[-1][0], some[-1][1], sum(p[2] for p in some) / len(some)] for some in few]


def _read(checkpoint: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, KeyError, pickle.UnpicklingError) as error:
        raise places.damaged(checkpoint, (str(error) or type(error).__name__).splitlines()[0]) from error
    return found


def _optimiser(model: Any, settings: Any) -> torch.optim.Optimizer:
    """AdamW; vectors (biases, norms) are not drawn towards 0."""
    groups: list[dict[str, Any]] = [{"params": [], "weight_decay": decay} for decay in (0.01, 0.0)]
    for name, parameter in model.named_parameters():
        vector = parameter.dim() == 1 or name.endswith("bias")  # those of experts stand in a matrix
        groups[vector]["params"].append(parameter)
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98), eps=1e-6, fused=True)
