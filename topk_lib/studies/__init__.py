"""What was measured for the book: each file but ``base`` is a study, and is found by its name."""

from __future__ import annotations

import importlib
import pkgutil

__all__ = ["names", "run"]

_ALSO = {
    "imdb": ("speed", "vocabulary"),
    "pretraining": ("transfer",),
}  # one command made them all, and their records name it


def names() -> list[str]:
    """The studies there are."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "base")


def run(name: str, *, only: str = "", list_only: bool = False, n_train: int | None = None) -> list[str]:
    """Make whatever lacks a record from this kind of device; the same call goes on where it was.

    Args:
        name: of the study.
        only: only runs whose experiment/run contains this.
        list_only: say what lacks a record, and make nothing.
        n_train: training reviews of each run, where a study leaves that open.

    Returns:
        The runs that failed.

    Raises:
        ValueError: no such study, or none of its runs is meant by ``only``.
    """
    if name not in names():
        raise ValueError(f"there is no study {name!r}: choose one of {', '.join(names())}")
    base = importlib.import_module("topk_lib.studies.base")
    studies = {
        one: importlib.import_module(f"topk_lib.studies.{one}") for one in (name, *_ALSO.get(name, ()))
    }
    failed: list[str] = base.make_missing(studies, only=only, list_only=list_only, n_train=n_train)
    return failed
