"""How long a class takes: generated submissions of one assignment, marked by two workers.

    python benchmarks/grading.py [--assignment 5] [--submissions 60] [--workers 2]

Each submission holds the solution, the starter, a known-wrong answer or nothing for each question, as drawn;
every eighth holds an attack: an endless loop, a huge allocation, an early exit, a read of the overlay, and so
on. By default the assignment is the one whose solution takes most seconds to mark.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections import Counter
from pathlib import Path

import nbformat
import numpy as np

from topk_lib import records
from topk_lib.grading import Known, load_private
from topk_lib.grading.grade import coursework_folder, find_assignment, grade
from topk_lib.grading.master import Assignment, names
from topk_lib.grading.sources import solved, starter

KINDS = ("solution", "solution", "starter", "wrong", "wrong", "wrong", "missing")
ATTACKS = {
    "endless": "def {name}(*args, **kwargs):\n    while True:\n        pass\n",
    "allocation": "def {name}(*args, **kwargs):\n    return [bytearray(2**28) for _ in range(1000)]\n",
    "exit": "import os\ndef {name}(*args, **kwargs):\n    os._exit(0)\n",
    "sleeper": "import time\ndef {name}(*args, **kwargs):\n    time.sleep(10**6)\n",
    "reader": "def {name}(*args, **kwargs):\n    return open({hidden!r}).read()\n",
    "fork": "import os\ndef {name}(*args, **kwargs):\n    while True:\n        os.fork()\n",
}


def submission(
    task: Assignment, answers: dict[str, list[Known]], dice: np.random.Generator, attack: str, hidden: Path
) -> tuple[list[str], list[str]]:
    """The code cells of a notebook, and what each question was answered with."""
    given: dict[str, list[str]] = {}
    for question in task.questions:
        kind = str(dice.choice(KINDS))
        after = []
        if kind == "wrong" and answers.get(question.name):
            after.append(answers[question.name][int(dice.integers(len(answers[question.name])))].source)
        given[question.name] = [kind, *after]
    if attack:
        chosen = task.questions[int(dice.integers(len(task.questions)))].name
        given[chosen] = [attack, ATTACKS[attack].format(name=chosen, hidden=str(hidden))]
    cells: list[str] = []
    for cell in task.cells:
        if cell.kind != "code" or cell.block == "tests":
            continue
        kind = given[cell.question][0] if cell.question else ""
        if cell.block == "solution" and kind != "missing":
            cells.append(starter(cell.source) if kind == "starter" else solved(cell.source))
        elif not cell.block:
            cells.append(cell.source)
    cells += [source for _, *sources in given.values() for source in sources]
    return cells, [kind for kind, *_ in given.values()]


def class_of(task: Assignment, root: Path, folder: Path, size: int, seed: int) -> Counter[str]:
    """Lay ``size`` submissions into a folder; gives how often each kind of answer occurs."""
    dice = np.random.default_rng(seed)
    answers: dict[str, list[Known]] = {}
    for known in load_private(task.name, root).wrong:
        answers.setdefault(known.question, []).append(known)
    counts: Counter[str] = Counter()
    hidden = root / "private" / task.name / "hidden.py"
    for number in range(size):
        attack = list(ATTACKS)[number // 8 % len(ATTACKS)] if number % 8 == 7 else ""
        cells, kinds = submission(task, answers, dice, attack, hidden)
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
        nbformat.write(notebook, folder / f"student {number:02d}.ipynb")
        counts.update(kinds)
    return counts


def longest(root: Path) -> Assignment:
    """The assignment whose solution takes longest to mark."""
    took = {}
    for name in names(root):
        task = find_assignment(name, root)
        with tempfile.TemporaryDirectory() as folder:
            cells = [
                solved(cell.source) for cell in task.cells if cell.kind == "code" and cell.block != "tests"
            ]
            (Path(folder) / "submissions").mkdir()
            (Path(folder) / "submissions" / "one.py").write_text("\n# %%\n".join(cells))
            start = time.perf_counter()
            grade(Path(folder) / "submissions", name, root=root, workers=1)
            took[name] = time.perf_counter() - start
            print(f"{name}: {took[name]:.1f} s for the solution", flush=True)
    return find_assignment(max(took, key=took.__getitem__), root)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--assignment", help="its number or name")
    parser.add_argument("--submissions", type=int, default=60)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    root = coursework_folder()
    task = find_assignment(given.assignment, root) if given.assignment else longest(root)
    with tempfile.TemporaryDirectory() as folder:
        submissions = Path(folder) / "submissions"
        submissions.mkdir()
        counts = class_of(task, root, submissions, given.submissions, given.seed)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        start = time.perf_counter()
        found = grade(
            submissions,
            task.name,
            root=root,
            workers=given.workers,
            progress=lambda *told: print(*told, flush=True),
        )
        seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    totals = [float(one.total) for one in found.marked]
    faults = Counter(
        outcome.kind
        for one in found.marked
        for each in one.questions.values()
        for outcome in each
        if outcome.kind
    )
    print(
        f"{len(totals)} submissions in {seconds / 60:.1f} minutes, {np.mean(totals):.1f} points in the mean"
    )
    path = records.write(
        "grading", f"{task.name}-{given.submissions}", seconds=seconds,
        metrics={
            "seconds": seconds, "seconds_per_submission": seconds / len(totals),
            "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
            "questions": found.fresh, "not_marked": len(found.failed),
            "points": {"mean": float(np.mean(totals)), "lowest": min(totals), "highest": max(totals)},
            "answers": dict(sorted(counts.items())), "faults": dict(sorted(faults.items())),
        },
        settings={"seed": given.seed, "workers": given.workers, "submissions": given.submissions,
                  "assignment": task.name},
        data={"source": "the solution, the starter, known-wrong answers and attacks, drawn"},
        command=f"python benchmarks/grading.py --assignment {task.number} --submissions {given.submissions} "
                f"--workers {given.workers}",
    )  # fmt: skip
    print(path)


if __name__ == "__main__":
    main()
