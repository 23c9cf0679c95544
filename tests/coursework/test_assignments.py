"""What every assignment promises, proved for each folder of ``coursework/``.

The solution and the untouched starter go through the sandbox once, as they are handed in; the ten seeds, and
the answers known to be wrong and right, are tried in this process, where a call costs no more than itself.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
import pytest

from topk_lib.grading import Known, Private, Refused, judge, load_private, local
from topk_lib.grading.build import build, differences
from topk_lib.grading.collect import collect
from topk_lib.grading.marker import BOARD, Piece, board_of, marker
from topk_lib.grading.marking import run_public
from topk_lib.grading.master import Assignment, Question, names, read_master
from topk_lib.grading.sources import solved

ROOT = Path(__file__).resolve().parents[2] / "coursework"
NAMES = names(ROOT)
SEEDS = range(10)
WRONG = 8  # known-wrong answers that a question has at least
overlay = pytest.mark.skipif(not (ROOT / "private").is_dir(), reason="the private overlay is not here")

# Runs the code cells of a notebook as they stand; whoever opens a socket, or waits for input, ends it.
RUN = """
import json, socket, sys
def refused(*args, **kwargs):
    raise RuntimeError("the notebook opens a connection")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refused
names = {"__name__": "__main__", "display": print}
for number, cell in enumerate(json.load(open(sys.argv[1]))["cells"], 1):
    if cell["cell_type"] == "code":
        try:
            exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
        except BaseException:
            print(f"cell {number}:", "".join(cell["source"]), file=sys.stderr)
            raise
"""


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@functools.cache
def task(name: str) -> Assignment:
    return read_master(ROOT / name)


@functools.cache
def private(name: str) -> Private:
    return load_private(name, ROOT)


def test_points(name: str) -> None:
    questions = task(name).questions
    assert sum(question.points for question in questions) == 100
    assert sum(question.public for question in questions) <= 40
    for question in questions:
        assert 0 < question.public <= 0.4 * question.points
        assert question.checks


@overlay
def test_hidden_points_and_the_bank_of_answers(name: str) -> None:
    for question in task(name).questions:
        checks = [check for check in private(name).hidden if check.question == question.name]
        assert sum(check.points for check in checks) == question.points - question.public, question.name
        assert len({check.name for check in checks}) == len(checks) > 0
        for check in checks:
            assert check.rule, f"{check.name} has no sentence to tell after the deadline"
        assert len(whys := [one.why for one in private(name).wrong if one.question == question.name]) >= WRONG
        assert len(set(whys)) == len(whys)
        assert [one for one in private(name).right if one.question == question.name], question.name
    asked = {question.name for question in task(name).questions}
    for declared in (private(name).hidden, private(name).wrong, private(name).right):
        assert {one.question for one in declared} == asked


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of an assignment's copies; each is built once."""
    folder = tmp_path_factory.mktemp("built")

    @functools.cache
    def of(name: str) -> Path:
        build(ROOT, [name], folder)
        return folder / name

    return of


def test_copies_differ_in_the_marked_places_only(name: str, built: Callable[[str], Path]) -> None:
    student, solved_one = (
        nbformat.read(built(name) / kind / f"{name}.ipynb", 4) for kind in ("student", "solution")
    )
    assert differences(student, solved_one, task(name)) == []
    assert student != solved_one
    for copy in (student, solved_one):
        cells = [cell.source for cell in copy.cells if cell.cell_type == "code"]
        assert not [cell for cell in cells if any(line.startswith(("%", "!")) for line in cell.splitlines())]
        assert max(len(line) for cell in cells for line in cell.splitlines()) <= 110


def test_the_handout_runs_without_a_network(name: str, built: Callable[[str], Path]) -> None:
    """From the first cell to the last, nothing written yet, on the embedded data."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TOPK_")}
    environment |= {"HF_HUB_OFFLINE": "1", "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT.parent)}
    run = subprocess.run(
        [sys.executable, "-c", RUN, f"{name}.ipynb"], cwd=built(name) / "student", env=environment,
        capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=1200,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]


@overlay
def test_in_the_sandbox_the_starter_gets_nothing_and_the_solution_all(
    name: str, built: Callable[[str], Path]
) -> None:
    mark = marker(ROOT, name, "0", False, ())
    try:
        for question in task(name).questions:
            for kind, part in (("student", 0), ("solution", 1)):
                path = built(name) / kind / f"{name}.ipynb"
                reply = mark(Piece("Ann", path, question.name))
                faults = {one.check: one.sentence for one in reply.outcomes if not one.passed}
                assert sum(one.got for one in reply.outcomes) == part * question.points, faults
                if part == 0:
                    assert len(faults) == len(reply.outcomes)
        if board_of(private(name)):
            reply = mark(Piece("Ann", built(name) / "solution" / f"{name}.ipynb", BOARD))
            assert reply.board, reply.off_board
    finally:
        mark.close()  # type: ignore[attr-defined]


@overlay
def test_the_solution_gets_all_on_every_seed(name: str) -> None:
    for question in task(name).questions:
        functions = solution(name)
        assert faults_of(name, question, functions, SEEDS) == {}, question.name


@overlay
def test_right_answers_keep_all(name: str) -> None:
    for known in private(name).right:
        question = next(each for each in task(name).questions if each.name == known.question)
        faults = faults_of(name, question, answered(name, known), SEEDS[:3])
        assert not faults, f"{known.question}, {known.why}: {faults}"


@overlay
def test_wrong_answers_lose_on_every_seed(name: str) -> None:
    kept = []
    for known in private(name).wrong:
        question = next(each for each in task(name).questions if each.name == known.question)
        functions = answered(name, known)
        if not public_faults(name, question, functions):
            lost = hidden_losses(name, question, functions)
            kept += [f"{known.question}: {known.why} (seed {seed})" for seed in SEEDS if seed not in lost]
    assert not kept, "these lose nothing:\n" + "\n".join(kept)


def faults_of(
    name: str, question: Question, functions: dict[str, Any], seeds: Sequence[int]
) -> dict[str, str]:
    """The sentence of each check that is lost, with its seed."""
    faults = public_faults(name, question, functions)
    for check in private(name).hidden:
        for seed in seeds if check.question == question.name else []:
            verdict = judge(check, local(functions, question.name), seed)
            if verdict.kind:
                faults[f"{check.name} {seed}"] = f"{verdict.kind}: {verdict.sentence}"
    return faults


def public_faults(name: str, question: Question, functions: dict[str, Any]) -> dict[str, str]:
    faults = {}
    for number, source in enumerate(question.checks, 1):
        with at_most(question.seconds):
            answers = {each: local(functions, each) for each in question.functions}
            kind, sentence = run_public(source, task(name).imports, answers)
        if kind:
            faults[f"public {number}"] = f"{kind}: {sentence}"
    return faults


def hidden_losses(name: str, question: Question, functions: dict[str, Any]) -> set[int]:
    """The seeds on which some hidden check is lost; what caught the last seed is tried first."""
    checks = [check for check in private(name).hidden if check.question == question.name]
    lost = set()
    for seed in SEEDS:
        for place, check in enumerate(checks):
            with at_most(question.seconds):
                verdict = judge(check, local(functions, question.name), seed)
            if verdict.kind:
                checks.insert(0, checks.pop(place))
                lost.add(seed)
                break
    return lost


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """As in the sandbox, CPU seconds; a whole check has here what a call has there."""

    def stop(*_: Any) -> None:
        raise Refused("too slow", f"took more than {seconds:g} seconds")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


@functools.cache
def solution(name: str) -> dict[str, Any]:
    """The solved functions, and what they stand on, as they are collected of a notebook."""
    code = [cell for cell in task(name).cells if cell.kind == "code" and cell.block != "tests"]
    notebook = Path(tempfile.mkdtemp()) / "solved.py"
    notebook.write_text("\n# %%\n".join(solved(cell.source) for cell in code))
    functions = [function for question in task(name).questions for function in question.functions]
    return module(f"solution_{name}", collect(notebook, functions).source, {})


def answered(name: str, known: Known) -> dict[str, Any]:
    """The solution with one function replaced, where its other functions call it, too."""
    number = [*private(name).wrong, *private(name).right].index(known)
    return module(f"answer_{number}_{name}", known.source, solution(name))


def module(called: str, source: str, given: dict[str, Any]) -> dict[str, Any]:
    """The names of a new module: those given, then those of the source.

    The source lies in a file, where Triton reads its kernels. Functions among what is given are made anew, so
    that they see what the source replaces.
    """
    path = Path(tempfile.mkdtemp()) / f"{called}.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(called, path)
    assert spec is not None
    assert spec.loader is not None
    made = sys.modules[called] = importlib.util.module_from_spec(spec)
    for key, value in given.items():
        if isinstance(value, types.FunctionType) and value.__globals__ is given:
            old = value
            value = types.FunctionType(old.__code__, vars(made), key, old.__defaults__, old.__closure__)
            value.__kwdefaults__ = old.__kwdefaults__
        if not key.startswith("__"):
            setattr(made, key, value)
    spec.loader.exec_module(made)
    return vars(made)
