import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from topk_lib.grading import Answer, Refused, Wrong, expect
from topk_lib.grading.collect import collect
from topk_lib.grading.locks import unlockable
from topk_lib.grading.sandbox import Sandbox

pytestmark = pytest.mark.skipif(bool(unlockable()), reason=unlockable())

SOURCE = """
from __future__ import annotations
import inspect, os, random, sys
from dataclasses import dataclass
import numpy as np
import torch
import a_module_that_is_not_there
from pathlib import Path

calls = []

@dataclass
class Pair:
    left: Unknown
    right: int = 2

def add(x, *, k=1):
    calls.append(1)
    print("x is", x)
    return x + k

def count():
    return len(calls)

def picky(k):
    if k < 0:
        # a comment
        raise ValueError(f"k is {k}")
    return [1, 2][k]

def weigh(x, weights):
    return (x @ weights["a"]).square().sum()

def ask(model, x):
    try:
        return model(x, scale=2.0) + 1
    except IndexError as error:
        return str(error)

def main(arguments):
    Path(arguments[1]).write_bytes(Path(arguments[0]).read_bytes() * 2)

def draws():
    return random.random(), float(np.random.rand()), float(torch.rand(()))

def looks():
    return inspect.getsource(count), Pair(1).right

def uses():
    return a_module_that_is_not_there.x

def leave():
    os._exit(3)

def spin():
    while True:
        pass

def same(x):
    return x
"""


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as made:
        yield made


@pytest.fixture(scope="module")
def answer_of(sandbox: Sandbox) -> Iterator[Callable[[str], Answer]]:
    with sandbox.question(SOURCE, seconds=20) as made:
        yield made


def test_who_is_trusted_runs_without_locks_but_within_limits_of_time() -> None:
    with Sandbox(trust=True) as sandbox, sandbox.question(SOURCE, seconds=2) as made:
        assert made("add")(1) == 2
        assert made("add").printed() == "x is 1"
        made("main")([__file__, "copy"])
        assert list(made("main").files()) == ["copy"]
        with pytest.raises(Refused, match="took more than 2 seconds"):
            made("spin")()
        folder = Path(sandbox.folder.name)
        assert folder.exists()
    assert not folder.exists()


def test_a_call_gives_the_result_and_prints(answer_of: Callable[[str], Answer]) -> None:
    answer = answer_of("add").fresh()
    assert answer(torch.tensor([1, 2]), k=3).tolist() == [4, 5]
    assert answer.other("count")() == 1
    assert answer.printed() == "x is tensor([1, 2])"
    assert answer.fresh().other("count")() == 0


def test_errors_are_told_with_the_students_own_line(answer_of: Callable[[str], Answer]) -> None:
    answer = answer_of("picky")
    assert answer.raises(ValueError, -1) == "k is -1"
    with pytest.raises(Refused) as refused:
        answer(7)
    assert str(refused.value) == (
        "raised IndexError: list index out of range (line 5 of picky: return [1, 2][k])"
    )
    with pytest.raises(Refused, match="is missing: there is no function of this name"):
        answer_of("nothing")()
    with pytest.raises(Refused, match="before that, `import a_module_that_is_not_there` raised"):
        answer_of("uses")()


def test_gradients_and_counts_are_made_there(answer_of: Callable[[str], Answer]) -> None:
    x, a = torch.randn(3, 2), torch.randn(2, 2)
    out, (g,) = answer_of("weigh").vjp([x, {"a": a}], torch.tensor(1.0), wrt=[1])
    torch.testing.assert_close(out, (x @ a).square().sum())
    torch.testing.assert_close(g["a"], 2 * x.T @ x @ a)
    _, counts = answer_of("weigh").counted(x, {"a": a})
    assert counts.by_name == {"mm": 1, "pow": 1, "sum": 1}
    assert (counts.calls, counts.elements) == (3, 13)


def test_the_graders_functions_are_called_back(answer_of: Callable[[str], Answer]) -> None:
    seen = []

    def model(x: Tensor, scale: float) -> Tensor:
        seen.append(x)
        expect(x.numel() < 9, "asked for too much")
        return (scale * x)[0]

    answer = answer_of("ask")
    assert answer(model, torch.tensor([3.0])) == 7.0
    assert "index 0 is out of bounds" in answer(model, torch.ones(0))
    assert len(seen) == 2
    with pytest.raises(Wrong, match="asked for too much"):
        answer(model, torch.ones(10))
    assert answer(model, torch.tensor([3.0])) == 7.0


def test_small_programs_read_and_write_in_their_folder(answer_of: Callable[[str], Answer]) -> None:
    answer = answer_of("main").fresh()
    answer.put("in", b"ab")
    answer.put("in", b"abc")
    answer(["in", "out"])
    assert answer.files() == {"in": b"abc", "out": b"abcabc"}
    answer.put("in", bytes(2**20))
    answer(["in", "out"])
    with pytest.raises(Refused, match="wrote out, which is larger than 1 MB"):
        answer.files()
    assert answer.fresh().files() == {}


def test_chance_is_the_same_in_every_process(answer_of: Callable[[str], Answer]) -> None:
    first = answer_of("draws").fresh()
    drawn = [first(), first()]
    assert drawn[0] != drawn[1]
    again = first.fresh()
    assert [again(), again()] == drawn


def test_code_can_look_at_itself_as_in_a_notebook(answer_of: Callable[[str], Answer]) -> None:
    assert answer_of("looks")() == ("def count():\n    return len(calls)\n", 2)


def test_large_arguments_arrive_and_large_results_do_not(answer_of: Callable[[str], Answer]) -> None:
    with pytest.raises(Refused, match="returned more than 32 MB"):
        answer_of("same")(torch.ones(9 * 2**20))
    assert answer_of("same")(torch.ones(7 * 2**20)).sum() == 7 * 2**20


def test_a_process_that_dies_costs_one_call_and_its_state(answer_of: Callable[[str], Answer]) -> None:
    answer = answer_of("add").fresh()
    answer(1)
    with pytest.raises(Refused, match=r"ended its process \(exit code 3\)"):
        answer.other("leave")()
    assert answer(1) == 2
    assert answer.other("count")() == 1


def test_a_triton_kernel_runs_in_its_interpreter(sandbox: Sandbox, tmp_path: Path) -> None:
    pytest.importorskip("triton")
    source = """
import torch
import triton
import triton.language as tl

@triton.jit
def double_kernel(x, y, n: tl.constexpr):
    at = tl.arange(0, n)
    tl.store(y + at, tl.load(x + at) * 2)

def double(x):
    y = torch.empty_like(x)
    double_kernel[(1,)](x, y, x.numel())
    return y
"""
    path = tmp_path / "a.py"
    path.write_text(source)
    with sandbox.question(collect(path, ["double"]).source, seconds=30) as answer_of:
        assert answer_of("double")(torch.tensor([1.0, 2.0])).tolist() == [2.0, 4.0]


def test_its_folder_goes_with_a_question_and_waiting_is_not_working(sandbox: Sandbox) -> None:
    folder = Path(sandbox.folder.name)
    before = sorted(folder.iterdir())
    with sandbox.question("import time\ndef nap():\n    time.sleep(1)\n    return 1\n", seconds=0.5) as made:
        assert made("nap")() == 1
        assert len(list(folder.iterdir())) == len(before) + 1
    assert sorted(folder.iterdir()) == before


def test_what_came_from_a_notebook_is_answered(sandbox: Sandbox, tmp_path: Path) -> None:
    cells: list[dict[str, Any]] = [
        {"cell_type": "code", "source": text} for text in ("def f(:", "K = 2", "def f(x):\n    return x * K")
    ]
    (tmp_path / "a.ipynb").write_text(json.dumps({"cells": cells}))
    found = collect(tmp_path / "a.ipynb", ["f", "g"])
    with sandbox.question(found.source) as made:
        assert made("f")(4) == 8
        with pytest.raises(Refused, match="is missing"):
            made("g")()


APART = """
import os, sys
from topk_lib.grading import locks
try:
    locks.apart()
except OSError:
    sys.exit(77)
if os.fork() == 0:
    print([line.split(":")[0].strip() for line in open("/proc/net/dev") if ":" in line], os.getpid())
    try:
        os.kill(int(sys.argv[1]), 0)
    except ProcessLookupError:
        print("alone")
    sys.stdout.flush()
    os._exit(0)
os.wait()
"""


def test_apart_there_is_no_network_and_nobody_else() -> None:
    run = subprocess.run(
        [sys.executable, "-c", APART, str(os.getpid())], capture_output=True, text=True, check=False
    )
    if run.returncode == 77:
        pytest.skip("this system keeps namespaces for the administrator")
    assert run.stdout == "['lo'] 1\nalone\n", run.stderr


def test_a_process_ends_with_its_question(sandbox: Sandbox) -> None:
    with sandbox.question("def f():\n    return 1\n") as answer_of:
        answer_of("f")()
        answer_of("f").fresh()()
        pids = [each.pid for each in answer_of("f")._session._all]  # type: ignore[attr-defined]
        assert len(pids) == 2
        assert all(Path(f"/proc/{pid}").exists() for pid in pids)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_a_system_without_locks_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(RuntimeError, match=r"needs Linux.*WSL 2, Colab or a Linux VM; --trust"):
        Sandbox()


def test_what_must_be_hidden_is_not_in_reach(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="which answers can read: move it elsewhere"):
        Sandbox(hide=[Path(sys.prefix) / "private"])


def test_a_row_of_one_element_arrives_whatever_its_stride(answer_of: Callable[[str], Answer]) -> None:
    odd = torch.arange(6.0).as_strided((1,), (3,), 2)
    assert torch.equal(answer_of("same")(odd), torch.tensor([2.0]))
