"""Marks as Gradescope takes them: https://gradescope-autograders.readthedocs.io/en/latest/specs/

In its container a submission lies in ``/autograder/submission``, what was uploaded as the autograder in
``/autograder/source``, and the marks go to ``/autograder/results/results.json``::

    python -m topk_lib.grading.gradescope 03_hard_topk --coursework /autograder/source --seed TERM
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from topk_lib.grading.grade import find_assignment, grade
from topk_lib.grading.late import written
from topk_lib.grading.marks import Marked
from topk_lib.grading.report import Form, told_outcomes

__all__ = ["results", "run"]


def results(form: Form, one: Marked) -> dict[str, Any]:
    """The content of results.json for one student.

    Public checks tell all. Of hidden ones students see the kind of fault at once, and what was tested on
    which input only once Gradescope's due date is over.
    """
    tests: list[dict[str, Any]] = []
    for question, points in form.questions.items():
        outcomes = one.questions.get(question, [])
        for name, outcome, early, full in told_outcomes(outcomes):
            test = {
                "name": f"{question}: {name}",
                "score": float(outcome.got),
                "max_score": float(outcome.points),
                "status": "passed" if outcome.passed else "failed",
                "output": early,
                "output_format": "md",
                "visibility": "visible",
            }
            tests.append(test)
            if not outcome.public:
                after = {"name": f"{test['name']}, explained", "output": full, "output_format": "md",
                         "visibility": "after_due_date", "status": test["status"]}  # fmt: skip
                tests.append(after)
        if not outcomes:
            tests.append({"name": question, "score": 0.0, "max_score": float(points), "status": "failed",
                          "output": "not marked", "visibility": "visible"})  # fmt: skip
    told: dict[str, Any] = {
        "score": float(one.total),
        "output": "\n\n".join([*([one.trouble] if one.trouble else []), *one.notes]),
        "output_format": "text",
        "stdout_visibility": "hidden",
        "tests": tests,
    }
    if one.board:
        told["leaderboard"] = [{"name": name, "value": value} for name, value in one.board.items()]
    return told


def run(
    assignment: str,
    *,
    root: Path,
    term: str = "0",
    trust: bool = False,
    autograder: Path = Path("/autograder"),
) -> Path:
    """Mark the one submission of a Gradescope container, and write its results.json.

    The student's name, and so the inputs, are as in a download of all submissions. Where the marking itself
    fails, results.json says so, and Gradescope shows no mark.
    """
    task = find_assignment(assignment, root)
    form = Form(task.title, {question.name: question.points for question in task.questions})
    path = autograder / "results" / "results.json"
    with tempfile.TemporaryDirectory() as folder:
        (submissions := Path(folder) / "submissions").mkdir()
        shutil.copytree(autograder / "submission", submissions / "submission_1", symlinks=True)
        users = [{":name": each.get("name"), ":sid": None, ":email": each.get("email")} for each in
                 _metadata(autograder).get("users", [])]  # fmt: skip
        listed = {"submission_1": {":submitters": users or [{":name": "student"}]}}
        (submissions / "submission_metadata.yml").write_text(json.dumps(listed))  # JSON is YAML
        found = grade(
            submissions, task.name, output=Path(folder) / "marks", root=root, term=term, trust=trust
        )
    if found.failed:
        raise RuntimeError(f"the submission could not be marked: {'; '.join(found.failed)}")
    written(path, json.dumps(results(form, found.marked[0]), indent=1))
    return path


def _metadata(autograder: Path) -> Mapping[str, Any]:
    path = autograder / "submission_metadata.json"
    told = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return told if isinstance(told, dict) else {}


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("assignment", help="its number or name")
    parser.add_argument("--coursework", type=Path, required=True, help="the folder with masters and overlay")
    parser.add_argument("--seed", default="0", help="of the term")
    parser.add_argument("--trust", action="store_true", help="without the sandbox")
    parser.add_argument("--autograder", type=Path, default=Path("/autograder"))
    given = parser.parse_args(words)
    try:
        print(run(given.assignment, root=given.coursework, term=given.seed, trust=given.trust,
                  autograder=given.autograder))  # fmt: skip
    except (OSError, ValueError, RuntimeError) as error:
        sys.exit(f"topk-lib: {' '.join(str(error).split())}")


if __name__ == "__main__":
    main()
