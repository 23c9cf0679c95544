import json
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest

from topk_lib.grading.collect import Collected, collect

GOOD = "def f(x):\n    return x + 1"


def code(text: str) -> dict[str, Any]:
    return {"cell_type": "code", "id": "same", "source": text, "outputs": [], "metadata": {}}


def of(path: Path, *cells: str, ask: tuple[str, ...] = ("f",)) -> Collected:
    path = path / "answer.ipynb"
    path.write_text(json.dumps({"nbformat": 4, "cells": [code(text) for text in cells]}))
    return collect(path, ask)


def run(found: Collected) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(found.source, names)
    return names


def test_what_functions_use_is_kept_and_nothing_else(tmp_path: Path) -> None:
    found = of(
        tmp_path,
        "import math\nimport a_module_that_is_not_there\nprint('loose')\nSCALE = 3\nunused = 1 / 0",
        "raise SystemExit\nfor step in range(3):\n    SCALE = 5",
        "class Helper:\n    def twice(self, x):\n        return 2 * x\nhelp_me = Helper()",
        "def g(x):\n    return help_me.twice(x) * SCALE",
        "def f(x):\n    unused = g(x)\n    return math.floor(unused)",
        "f(3)\nassert f(3) == 18",
    )
    assert run(found)["f"](3) == 18
    assert found.notes == []
    assert not any(word in found.source for word in ("loose", "not_there", "1 / 0", "SystemExit", "assert"))


def test_the_last_definition_that_parses_counts_and_this_is_told(tmp_path: Path) -> None:
    found = of(tmp_path, "def f(x):\n    return 1", GOOD, "def f(x):\n    return (x")
    assert run(found)["f"](1) == 2
    assert "Cell 3 is left out" in found.notes[0]
    assert found.notes[1] == "f is defined 2 times: the last counts, of cell 2."


def test_a_name_overwritten_later_costs_nothing(tmp_path: Path) -> None:
    found = of(
        tmp_path, "def g(x):\n    return x", "def f(x):\n    return g(x)", "g = g(2)\nf = f(3)", "f = 7"
    )
    assert run(found)["f"](4) == 4
    assert found.notes[0] == "f gets another value in cell 3: your function of cell 2 counts."


def test_another_name_of_a_function_and_a_lambda_are_functions(tmp_path: Path) -> None:
    found = of(tmp_path, "def better(x):\n    return x", "f = better", "h = lambda x: -x", ask=("f", "h"))
    assert (run(found)["f"](4), run(found)["h"](4)) == (4, -4)


@pytest.mark.parametrize(
    "cell",
    [
        "%matplotlib inline\n!pip install x\n" + GOOD,
        "%%time\n" + GOOD,
        "%timeit 1 + 1\n" + GOOD + "\nfiles = !ls\nf?",
        "if True:\n    %load_ext x\n" + GOOD,
        GOOD.replace("\n", "\r\n"),
        '"""a\n%s of text\n"""\n' + GOOD,
        "# why?\n" + GOOD + "\n%time f(2)",
    ],
)
def test_magics_do_no_harm(tmp_path: Path, cell: str) -> None:
    found = of(tmp_path, cell)
    assert run(found)["f"](1) == 2
    assert found.notes == []


def test_warnings_of_a_students_code_are_no_matter(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = of(
            tmp_path, "P = '\\d'\ncount = 0\ndef f(x):\n    global count\n    count += x\n    return count"
        )
    assert found.notes == []
    assert run(found)["f"](2) == 2


def test_a_cell_of_another_language_is_told(tmp_path: Path) -> None:
    found = of(tmp_path, "%%bash\nls", GOOD)
    assert found.notes == ["Cell 1 is left out: %%bash makes it something else than Python."]


def test_imports_that_may_fail_and_postponed_annotations(tmp_path: Path) -> None:
    found = of(
        tmp_path,
        "try:\n    import nothing_here as m\nexcept ImportError:\n    m = None",
        "def f(x: Unknown) -> Unknown:\n    return m",
        "from __future__ import annotations",
    )
    assert run(found)["f"](1) is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is empty"),
        ("  \n", "is empty"),
        ('{"cells": [', "breaks off in line 1"),
        ("[" * 100_000, "breaks off"),
        ("[1, 2]", "has no cells"),
        ('{"cells": {"a": 1}}', "has no cells"),
        ('{"cells": []}', "has no cells"),
        ("\x00\xff", "breaks off"),
    ],
)
def test_what_is_no_notebook_is_told(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "answer.ipynb"
    path.write_bytes(text.encode("latin-1"))
    found = collect(path, ["f"])
    assert found.missing == ["f"]
    assert found.source == ""
    assert told in found.notes[0]


def test_old_and_odd_notebooks(tmp_path: Path) -> None:
    old = {"nbformat": 3, "worksheets": [{"cells": [{"cell_type": "code", "input": GOOD.splitlines(True)}]}]}
    odd = {"cells": [3, None, {"cell_type": "markdown", "source": "def f"}, {}, code(GOOD) | {"id": None}]}
    for name, book in (("old", old), ("odd", odd)):
        path = tmp_path / f"{name}.ipynb"
        path.write_bytes(b"\xef\xbb\xbf" + json.dumps(book).encode())
        assert run(collect(path, ["f"]))["f"](1) == 2


def test_huge_outputs_are_no_matter_and_a_huge_file_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.ipynb"
    path.write_text(json.dumps({"cells": [code(GOOD) | {"outputs": ["x" * 10**6]}]}))
    assert collect(path, ["f"]).missing == []
    monkeypatch.setattr("topk_lib.grading.collect.LARGEST", 10**6)
    assert "clear its outputs" in collect(path, ["f"]).notes[0]


def test_hostile_code_is_only_read(tmp_path: Path) -> None:
    found = of(
        tmp_path, "x = " + "(" * 300 + ")" * 300, "y = " + "-" * 100_000 + "1", "\x00", "x = yield = 3", GOOD
    )
    assert run(found)["f"](1) == 2
    assert len(found.notes) == 4


def test_a_slip_of_the_pen_is_pointed_at(tmp_path: Path) -> None:
    found = of(tmp_path, "def hard_topkmask(x):\n    pass", ask=("hard_topk_mask",))
    assert found.notes == ["hard_topk_mask was not found; there is hard_topkmask: is that a slip?"]
    assert found.missing == ["hard_topk_mask"]


def test_a_python_file_costs_only_its_bad_cell(tmp_path: Path) -> None:
    path = tmp_path / "answer.py"
    path.write_text(f"# %% first\n{GOOD}\n# %%\ndef g(:\n")
    found = collect(path, ["f"])
    assert run(found)["f"](1) == 2
    assert "Cell 3 is left out" in found.notes[0]


def test_folders_and_archives(tmp_path: Path) -> None:
    files = {"a.ipynb": "x = 1", "deep/b.ipynb": GOOD, ".ipynb_checkpoints/c.ipynb": GOOD, "notes.txt": GOOD}
    folder = tmp_path / "Ann"
    with zipfile.ZipFile(tmp_path / "Ann.zip", "w") as archive:
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            book = json.dumps({"cells": [code(text)]})
            (folder / name).write_text(book)
            archive.writestr(name, book)
    (folder / "link.ipynb").symlink_to(folder / "deep/b.ipynb")
    for path in (folder, tmp_path / "Ann.zip"):
        found = collect(path, ["f"])
        assert run(found)["f"](1) == 2
        assert found.notes == ["2 files were handed in: deep/b.ipynb counts."]
    (tmp_path / "b.zip").write_text("no archive")
    assert "cannot be read" in collect(tmp_path / "b.zip", ["f"]).notes[0]
    assert "cannot be read" in collect(tmp_path / "nothing.ipynb", ["f"]).notes[0]


def test_names_that_honest_answers_seldom_need(tmp_path: Path) -> None:
    found = of(tmp_path, "import gc, os\ndef f(x):\n    os._exit(0)\n    return gc.get_objects()")
    assert found.doubtful == ["_exit", "gc"]
    assert of(tmp_path, "import re\nP = re.compile('a')\ndef f(x):\n    return P").doubtful == []
