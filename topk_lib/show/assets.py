"""What the HTML of this package needs beside itself."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["inline_assets", "on_static_page"]

_FOLDER = Path(__file__).parent / "static"


def on_static_page() -> bool:
    """Whether the output is for a page of the book: it loads the assets, and no kernel is behind it."""
    return bool(os.environ.get("TOPK_STATIC"))


def inline_assets(*names: str) -> str:
    """The style sheets and scripts named, as HTML elements; nothing on a page of the book."""
    if on_static_page():
        return ""
    tags = {".css": "style", ".js": "script"}
    parts = []
    for name in names:
        path = _FOLDER / name
        tag = tags[path.suffix]
        parts.append(f"<{tag}>{path.read_text(encoding='utf-8')}</{tag}>")
    return "".join(parts)
