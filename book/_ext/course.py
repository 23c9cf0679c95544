"""Sphinx extension of the course: recorded numbers in prose, and what each page was built from."""

from __future__ import annotations

import datetime as dt
import os
import re
import subprocess
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util.docutils import SphinxRole

from topk_lib import records

ROOT = Path(__file__).resolve().parents[2]


class RecordRole(SphinxRole):  # type: ignore[misc]
    """``{record}`imdb/main metrics.accuracy .1%` `` becomes the number in that record."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        try:
            return [nodes.Text(records.cite(self.text))], []
        except (FileNotFoundError, KeyError, ValueError) as error:
            message = self.inliner.reporter.error(f"{{record}} {self.text}: {error}", line=self.lineno)
            return [nodes.Text("?")], [message]


def repository_url() -> str:
    """The public address, which stands in pyproject.toml only."""
    found = re.search(r'^Repository = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    if not found:
        raise ValueError("pyproject.toml has no [project.urls] Repository")
    return found[1]


def footer() -> str:
    """From which commit, on which reviews, on what device and when the page was built."""
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    commit = git.stdout.strip() or "an unknown state"
    source = os.environ.get("TOPK_BOOK_SOURCE", "an unknown source")
    note = " (not the IMDB reviews: none were at hand)" if "embedded" in source else ""
    return (
        f"Built from commit {commit} on {dt.date.today():%d %B %Y}, on {records.device_name()}. "
        f"Live outputs: reviews from {source}{note}. Recorded outputs name their own device."
    )


def fill_in(app: Sphinx, config: Config) -> None:
    theme: dict[str, Any] = config.html_theme_options
    theme["repository_url"] = repository_url()
    theme["path_to_docs"] = ""
    theme["use_repository_button"] = theme["use_issues_button"] = True
    theme["launch_buttons"] = {
        "notebook_interface": "jupyterlab",
        "colab_url": "https://colab.research.google.com",
        "binderhub_url": "https://mybinder.org",
    }
    theme["extra_footer"] = f"<p>{footer()}</p>"


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_role("record", RecordRole())
    app.connect("config-inited", fill_in, priority=10)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
