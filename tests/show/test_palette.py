"""The course's colours: one source, readable, told apart; and the fonts that draw its Chinese terms."""

from __future__ import annotations

import importlib.util
import re
from itertools import combinations
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from fontTools.ttLib import TTFont  # type: ignore[import-untyped]
from matplotlib.colors import to_hex, to_rgb

from topk_lib import show

ROOT = Path(__file__).resolve().parents[2]
CSS = (ROOT / "topk_lib" / "show" / "static" / "show.css").read_text()
PAGES = {"light": ("#ffffff", "#f3f4f5"), "dark": ("#121212", "#222832")}  # the theme's page, striped rows
TEXT = {"light": "#222832", "dark": "#ced6dd"}
# Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB.
BLIND = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                   [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                     [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                   [0.004733, 0.691367, 0.303900]],
}  # fmt: skip


def sheet(scheme: str) -> dict[str, str]:
    blocks = re.findall(r"\{([^}]*--topk-kept:[^}]*)\}", CSS)
    assert len(blocks) == 2, "one block of colours for light pages, one for dark ones"
    return dict(re.findall(r"--topk-([\w-]+): (#[0-9a-f]{6})", blocks[scheme == "dark"]))


def linear(colour: str) -> np.ndarray:
    c = np.array(to_rgb(colour))
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    """As WCAG 2.1 defines it."""
    low, high = sorted(0.05 + float(linear(c) @ [0.2126, 0.7152, 0.0722]) for c in (one, other))
    return high / low


def lab(rgb: np.ndarray) -> np.ndarray:
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ rgb
    f = np.cbrt(np.maximum(xyz / [0.9505, 1, 1.089], 1e-6))
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_pages_and_figures_have_the_same_colours() -> None:
    colours = sheet("light")
    assert (colours["kept"], colours["soft"], colours["dropped"]) == (show.KEPT, show.SOFT, show.DROPPED)
    mark = (ROOT / "book" / "_static" / "mark.svg").read_text()
    assert set(re.findall(r'fill="(.+?)"', mark)) == {show.KEPT, show.SOFT, show.DROPPED}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_colours_read_on_pages_and_text_reads_on_the_fills(scheme: str) -> None:
    colours = sheet(scheme)
    for page in PAGES[scheme]:
        for name in ("kept", "soft", "dropped"):
            assert contrast(colours[name], page) >= 4.5, f"{name} on {page}"
    for name in ("kept-fill", "soft-fill"):
        assert contrast(TEXT[scheme], colours[name]) >= 4.5, name
    # One mark serves light and dark pages.
    assert all(contrast(c, PAGES[scheme][0]) >= 3 for c in (show.KEPT, show.SOFT, show.DROPPED))


@pytest.mark.parametrize("kind", [None, *BLIND])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_colours_are_told_apart(scheme: str, kind: str | None) -> None:
    matrix = np.eye(3) if kind is None else np.array(BLIND[kind])
    colours = {name: lab(np.clip(matrix @ linear(sheet(scheme)[name]), 0, 1)) for name in
               ("kept", "soft", "dropped")}  # fmt: skip
    for one, other in combinations(colours, 2):
        # 2.3 is a difference just seen; ten times that is seen at a glance
        assert np.linalg.norm(colours[one] - colours[other]) > 20, f"{one} and {other}"


def colours_in(figure: plt.Figure) -> set[str]:
    found = set()
    for axes in figure.axes:
        found |= {to_hex(line.get_color()) for line in axes.get_lines()}
        found |= {to_hex(patch.get_facecolor()) for patch in axes.patches}
    return found


def test_figures_say_kept_dropped_and_soft_in_these_colours() -> None:
    words, scores = ["a", "b", "c", "d"], torch.tensor([0.1, 1.0, 0.4, -1.0])
    bars = show.token_weights(words, [0.2, 0.9, 0.6, 0.3], [False, True, True, False])
    assert {show.SOFT, show.KEPT} <= colours_in(bars)
    curve = show.threshold_curve(scores, 2, 0.5, "sigmoid", words)
    assert {show.SOFT, show.KEPT, show.DROPPED} <= colours_in(curve)
    assert {show.SOFT, show.KEPT} <= colours_in(show.threshold_crossing(words, scores, 2, 0.5))
    chosen = torch.tensor([[True, False], [False, False]])
    assert show.KEPT in colours_in(show.routing_choices(words[:2], torch.rand(2, 2), chosen, chosen))
    assert f"background:{show.KEPT}" in show.bits_deciding([3, 1, 2], 1, 3, bits=2).data


def glyphs_module() -> tuple[set[str], Path]:
    spec = importlib.util.spec_from_file_location("glyphs", ROOT / "book" / "glyphs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.used(), module.FONT


def test_the_font_has_every_chinese_character_of_the_course() -> None:
    used, font = glyphs_module()
    assert {"词", "元", "软"} <= used
    missing = used - set(map(chr, TTFont(font).getBestCmap()))
    assert not missing, f"no glyph for {''.join(sorted(missing))}: run book/vendor.sh"


@pytest.mark.filterwarnings("error:Glyph")
def test_figures_draw_chinese_terms(caplog: pytest.LogCaptureFixture) -> None:
    show.style()
    figure = plt.figure()
    for weight in ("normal", "bold"):
        figure.text(0.5, 0.5, "soft top-k 软选择", fontweight=weight)
    figure.canvas.draw()
    plt.close(figure)
    assert caplog.text == ""  # a chapter's cell may not write to stderr
