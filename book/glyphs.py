"""Print every Chinese character of the course, for the font that vendor.sh cuts to them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FONT = ROOT / "topk_lib" / "show" / "static" / "noto-sans-sc.ttf"
_TEXTS = ["*.md", "book", "notebooks", "coursework", "topk_lib", "results"]
# Han characters, their punctuation and full-width forms: the unicode-range in course.css.
CHINESE = re.compile(r"[\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef]")


def used() -> set[str]:
    """All of them, in every text file that git tracks or would."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--deduplicate", "--", *_TEXTS],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    names = [n for n in listed.stdout.splitlines() if n.endswith((".md", ".py", ".ipynb", ".json", ".bib"))]
    texts = (ROOT / name for name in names)
    return {c for path in texts if path.is_file() for c in CHINESE.findall(path.read_text(encoding="utf-8"))}


if __name__ == "__main__":
    print("".join(sorted(used())))
