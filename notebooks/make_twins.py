"""Write the twin NN_name.ipynb of every chapter NN_name.md: no outputs, for Colab and JupyterLab.

python notebooks/make_twins.py           write them
python notebooks/make_twins.py --check   fail where one differs from its source
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import jupytext
import nbformat

from topk_lib import records

ROOT = Path(__file__).resolve().parent.parent
_ADMONITION = re.compile(r"^(:{3,})\{(\w[\w-]*)\} ?(.*)$")


def install_cell() -> str:
    """The first cell: install the package only where it is missing."""
    url = re.search(r'^Repository = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert url is not None
    return (
        "# Installs topk_lib where it is missing (on Colab, for example).\n"
        "import importlib.util\n\n"
        'if importlib.util.find_spec("topk_lib") is None:\n'
        f'    %pip install --quiet "topk-lib[offline] @ git+{url[1]}"'
    )


def plain(markdown: str) -> str:
    """Turn MyST roles and directives into Markdown that any notebook shows."""
    markdown = re.sub(r"\{record\}`([^`]+)`", lambda m: records.cite(m[1]), markdown)
    markdown = re.sub(r"\{cite:?[pt]?\}`([^`]+)`", lambda m: f"({m[1].replace(',', ', ')})", markdown)
    markdown = re.sub(r"\{(?:doc|ref|term)\}`([^`<]+?)(?: *<[^>]+>)?`", lambda m: m[1], markdown)
    lines, title_next = [], False
    for line in markdown.splitlines():
        if found := _ADMONITION.match(line):
            kind, title = found[2], found[3]
            label = "" if kind == "admonition" else kind.capitalize().replace("-", " ")
            heading = ": ".join(part for part in (label, title) if part)
            lines += [f"**{heading}**", ""]
            title_next = True
        elif (
            re.fullmatch(r":{3,}", line)
            or (title_next and re.match(r"^:\w+:", line))
            or re.fullmatch(r"\([\w-]+\)=", line)
        ):
            continue
        else:
            title_next = title_next and not line
            lines.append(line)
    return "\n".join(lines)


def twin(source: Path) -> str:
    notebook = jupytext.read(source)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(install_cell()))
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number:03d}"
        cell["metadata"] = {}
        if cell.cell_type == "markdown":
            cell["source"] = plain(cell["source"])
        else:
            cell["outputs"], cell["execution_count"] = [], None
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return nbformat.writes(notebook) + "\n"


def main() -> int:
    drifted = []
    for source in sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.md")):
        target = source.with_suffix(".ipynb")
        text = twin(source)
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
