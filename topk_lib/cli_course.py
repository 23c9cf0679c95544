"""The commands of lecturers: ``topk-lib grade`` and ``topk-lib coursework``."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from topk_lib.cli_base import AsJson, one_sentence

if TYPE_CHECKING:
    from topk_lib.grading.grade import Graded

__all__ = ["coursework", "grade"]

Root = Annotated[
    str | None, typer.Option("--coursework", help="The folder coursework/. [default: the one of this clone]")
]


def grade(
    folder: Annotated[str, typer.Argument(help="Submissions: a .ipynb, .py, .zip or folder a student.")],
    assignment: Annotated[str, typer.Option(help="Its number, or name: 3, or 03_hard_topk.")],
    output: Annotated[str | None, typer.Option(help="For the marks. [default: FOLDER-marks]")] = None,
    seed: Annotated[str, typer.Option(help="Of the term: other inputs for each, and each student.")] = "0",
    after_deadline: Annotated[
        bool, typer.Option("--after-deadline", help="Reports tell what hidden checks test.")
    ] = False,
    due: Annotated[
        str | None,
        typer.Option(help="2026-11-30 (its end anywhere on earth) or 2026-11-30T18:00+08:00."),
    ] = None,
    late_days: Annotated[int, typer.Option(help="Days late for nothing, a student and term.")] = 0,
    late_penalty: Annotated[float, typer.Option(help="Percent of the points, each day beyond.")] = 0.0,
    ledger: Annotated[
        str | None, typer.Option(help="Table of the late days used in all assignments; kept up to date.")
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="Mark this student only (may be repeated).")] = None,
    again: Annotated[bool, typer.Option("--again", help="Mark anew what is marked already.")] = False,
    workers: Annotated[int, typer.Option(help="Questions marked at the same time.")] = 2,
    trust: Annotated[
        bool, typer.Option("--trust", help="Without the sandbox: submissions can do all that you can.")
    ] = False,
    root: Root = None,
    as_json: AsJson = False,
) -> None:
    """Mark a folder of submissions, offline. The same command goes on where it was stopped.

    Beside FOLDER it writes marks.csv, a report for each student, and class.md: what the class got wrong.
    """
    with one_sentence():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        from topk_lib.grading.grade import grade as mark

        bar = Progress(
            BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            TextColumn("{task.description}", markup=False),
            console=Console(stderr=True), disable=as_json or not sys.stderr.isatty(),
        )  # fmt: skip
        row = bar.add_task("starting", total=None)

        def progress(done: int, total: int, what: str) -> None:
            bar.update(row, completed=done, total=total, description=what)
            if not as_json and bar.disable:
                print(f"{done} of {total}: {what}", file=sys.stderr, flush=True)

        with bar:
            found = mark(
                folder, assignment, output=output, root=root, term=seed, after_deadline=after_deadline,
                due=due, budget=late_days, penalty=late_penalty, ledger=ledger, only=only or [], again=again,
                workers=workers, trust=trust, progress=progress,
            )  # fmt: skip
        print(json.dumps(_as_json(found)) if as_json else _as_text(found))
    if found.failed:
        typer.secho(
            f"topk-lib: {len(found.failed)} questions could not be marked (the same command tries again): "
            + "; ".join([*found.failed[:3], *["..."] * (len(found.failed) > 3)]),
            fg="red", err=True,
        )  # fmt: skip
        raise typer.Exit(1)


def _as_json(found: Graded) -> dict[str, object]:
    return {
        "folder": str(found.output),
        "marks": {one.student: float(one.total * found.late[one.student].share) for one in found.marked},
        "troubles": {one.student: one.trouble for one in found.marked if one.trouble},
        "told": found.told,
        "failed": found.failed,
        "fresh": found.fresh,
    }


def _as_text(found: Graded) -> str:
    lines = list(found.told)
    lines += [f"{one.student}: {one.trouble}" for one in found.marked if one.trouble]
    done = [one for one in found.marked if one.questions]
    if done:
        mean = sum(float(one.total) for one in done) / len(done)
        lines.append(f"{len(done)} submissions are marked: {mean:.1f} of 100 points in the mean")
    return "\n".join([*lines, f"marks.csv, class.md and reports/ are in {found.output}"])


def coursework(
    names: Annotated[list[str] | None, typer.Argument(help="Names or numbers. [default: all]")] = None,
    output: Annotated[str, typer.Option(help="What was built there before is replaced.")] = "dist/coursework",
    root: Root = None,
) -> None:
    """Build what students get of each assignment, its solution, its grader and the archive for Gradescope."""
    with one_sentence():
        from topk_lib.grading.build import build
        from topk_lib.grading.grade import coursework_folder

        for built in build(root or coursework_folder(), names or [], output):
            print(built.missing or f"{built.name}: {built.folder}")
