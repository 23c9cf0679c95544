"""Choosing how to train, on the dev split; Optuna proposes and remembers."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from topk_lib.selectors import make_selector
from topk_lib.training.finetune import finetune
from topk_lib.training.folder import SETTINGS, claimed, named
from topk_lib.training.metrics import to_maximise
from topk_lib.training.settings import Settings, checked_settings

__all__ = ["search"]

_DATABASE = "search.db"


def search(
    output: str | Path,
    trials: int,
    *,
    source: str | Path | None = None,
    quiet: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Choose learning rate and batch size by trial, and the selector's learning rate where it has one.

    Each trial is a :func:`~topk_lib.training.finetune` measured on the dev split, never on the test
    split. The first has the settings as given; then Optuna's tree-structured Parzen estimator
    proposes learning rates from a fifth of the given one to five times it, and the given batch size, its
    half or its double. The trials are remembered in ``output``/search.db: the same call goes on where it
    was, inside an interrupted trial too, and a call for more trials adds them.

    Args:
        output: the folder of the model to come.
        trials: how many in all.
        source, quiet, **options: of :func:`~topk_lib.training.finetune`.

    Returns:
        The best trial's settings, to be given to :func:`~topk_lib.training.finetune`; of equals the first.

    Raises:
        ImportError: Optuna is not installed.
        ValueError: ``trials`` < 1, a bad setting, or ``output`` holds a search with other settings,
            a model already, or foreign files.
        RuntimeError: under ``torchrun`` with more than one process, or another command is at work in
            ``output``.
    """
    try:
        import optuna
    except ImportError:
        raise ImportError("--search needs Optuna: pip install 'topk-lib[search]'") from None
    if trials < 1:
        raise ValueError(f"search needs at least 1 trial, got {trials}")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RuntimeError("the search runs in one process: search first, then train with torchrun")
    settings = checked_settings(options)
    folder = named(output)
    if quiet:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
    with claimed(folder):
        return _search(optuna, folder, trials, settings, source, quiet)


def _search(
    optuna: Any, folder: Path, trials: int, settings: Settings, source: str | Path | None, quiet: bool
) -> dict[str, Any]:
    database = folder / _DATABASE
    try:
        study = optuna.create_study(
            storage=f"sqlite:///{database}", study_name="search", direction="maximize", load_if_exists=True
        )
    except Exception as error:  # of Optuna, SQLAlchemy and SQLite
        raise ValueError(
            f"{database} cannot be read ({str(error).splitlines()[0]}): delete it to search anew"
        ) from error
    _check_same(study, {"source": str(source)} | asdict(settings), folder)
    states = optuna.trial.TrialState
    done = len(study.get_trials(deepcopy=False, states=[states.COMPLETE]))
    if done < trials and (folder / SETTINGS).is_file():
        raise ValueError(
            f"{folder} holds a model already, after a search of {done} trials: choose another output folder"
        )
    for trial in study.get_trials(deepcopy=False, states=[states.RUNNING]):
        study.tell(trial.number, state=states.FAIL)
    for place in (folder / "trials").glob("*"):  # cut off: once more, on its checkpoints
        if place.name.isdecimal() and int(place.name) < len(study.trials):
            cut_off = study.trials[int(place.name)]
            study.enqueue_trial(cut_off.params, user_attrs={"place": place.name})
    if not any(t.state in (states.COMPLETE, states.WAITING) for t in study.get_trials(deepcopy=False)):
        study.enqueue_trial({name: getattr(settings, name) for name in _ranges(settings)})
    # Begun anew with the same seed, the sampler would propose what it has proposed.
    study.sampler = optuna.samplers.TPESampler(seed=settings.seed + len(study.trials))

    def measure(trial: Any) -> float:
        chosen = {name: propose(trial, name) for name, propose in _ranges(settings).items()}
        place = folder / "trials" / trial.user_attrs.get("place", str(trial.number))
        try:
            result = finetune(
                place, source=source, quiet=quiet, **asdict(settings) | chosen | {"evaluate_on": "dev"}
            )
        except Exception:  # not an interruption: it would fail again
            shutil.rmtree(place, ignore_errors=True)
            raise
        shutil.rmtree(place)  # the best is trained again, on all there is to train on
        return to_maximise(result.metrics)

    study.optimize(measure, n_trials=max(0, trials - done))
    shutil.rmtree(folder / "trials", ignore_errors=True)
    return dict(study.best_params)


def _ranges(settings: Settings) -> dict[str, Callable[[Any, str], Any]]:
    """What is searched: from the name of a setting to what proposes a value for it."""

    def around(value: float) -> Callable[[Any, str], Any]:
        return lambda trial, name: trial.suggest_float(name, value / 5, value * 5, log=True)

    size = settings.batch_size
    sizes = sorted({max(1, size // 2), size, 2 * size})
    ranges = {
        "learning_rate": around(settings.learning_rate),
        "batch_size": lambda trial, name: trial.suggest_categorical(name, sizes),
    }
    if make_selector(settings.selector).trainable:
        ranges["selector_learning_rate"] = around(settings.selector_learning_rate)
    return ranges


def _check_same(study: Any, now: dict[str, Any], folder: Path) -> None:
    before = study.user_attrs.get("settings")
    if before is None:
        study.set_user_attr("settings", now)
        return
    changed = [f"{key}: {before.get(key)!r} -> {now[key]!r}" for key in now if before.get(key) != now[key]]
    if changed:
        raise ValueError(
            f"{folder} holds a search with other settings ({'; '.join(changed)}): "
            "choose another output folder, or delete this one"
        )
