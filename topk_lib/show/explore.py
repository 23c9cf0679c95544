"""A picture with controls that moves with a kernel and without one."""

from __future__ import annotations

import base64
import io
import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from matplotlib.figure import Figure

from topk_lib.show.assets import inline_assets, on_static_page

__all__ = ["Explorer", "explore"]

_MAX_FRAMES = 200


def explore(
    figure_fn: Callable[..., Any],
    *,
    alt: str | Callable[..., str] = "",
    start: Mapping[str, Any] | None = None,
    **controls: Sequence[Any],
) -> Explorer:
    """Let a reader move the arguments of a figure.

    With a kernel this shows live ipywidgets, which call ``figure_fn`` again. On a static page it
    shows the same controls over precomputed frames, for mouse, touch and keyboard; the starting
    frame alone in print and where scripts are off.

    Args:
        figure_fn: called with one keyword a control; returns a matplotlib ``Figure``, HTML text,
            or an object with ``_repr_html_``: the same kind every time.
        alt: what a figure shows, for those who cannot see it: a format string
            (``"weights at k = {k}"``) or a function of the same keywords. Needed for figures.
        start: the values shown first; by default each control's first.
        **controls: for each keyword its values, in order. Numbers make a slider, texts a menu.

    Raises:
        ValueError: no control, a control without values, more than 200 frames, a start value that
            is not among the values, a figure without ``alt``.
    """
    return Explorer(figure_fn, alt, start or {}, {name: list(values) for name, values in controls.items()})


class Explorer:
    """What :func:`explore` returns; shows itself when it is a cell's last value.

    Attributes:
        controls: the values of each control.
        frames: the distinct frames: HTML texts, or images as ``data:`` addresses.
        index: for each combination of values (the last control varies fastest) its frame.
    """

    def __init__(
        self,
        figure_fn: Callable[..., Any],
        alt: str | Callable[..., str],
        start: Mapping[str, Any],
        controls: dict[str, list[Any]],
    ) -> None:
        if not controls:
            raise ValueError("explore needs at least one control: give it as name=[values]")
        for name, values in controls.items():
            if not values:
                raise ValueError(f"control {name} has no values")
        count = math.prod(map(len, controls.values()))
        if count > _MAX_FRAMES:
            raise ValueError(f"{count} frames are more than {_MAX_FRAMES}: give fewer values")
        for name, value in start.items():
            if name not in controls or value not in controls[name]:
                raise ValueError(f"start: {name}={value!r} is not among the values of a control")
        self.controls = controls
        self._figure_fn, self._alt = figure_fn, alt
        self._start = {name: start.get(name, values[0]) for name, values in controls.items()}
        self.frames: list[str] = []
        self.index: list[int] = []
        self.images = False
        seen: dict[str, int] = {}
        for combination in itertools.product(*controls.values()):
            frame, self.images = self._render(dict(zip(controls, combination, strict=True)))
            if frame not in seen:
                seen[frame] = len(self.frames)
                self.frames.append(frame)
            self.index.append(seen[frame])

    def _render(self, values: dict[str, Any]) -> tuple[str, bool]:
        shown = self._figure_fn(**values)
        if isinstance(shown, Figure):
            if not self._alt:
                raise ValueError('a figure needs alt="...": what it shows, in words')
            return _image(shown), True
        return (shown if isinstance(shown, str) else str(shown._repr_html_())), False

    def alt(self, **values: Any) -> str:
        """What the frame at these values shows, in words."""
        return self._alt(**values) if callable(self._alt) else self._alt.format(**values)

    def _alts(self) -> list[str]:
        combinations = itertools.product(*self.controls.values())
        return [self.alt(**dict(zip(self.controls, values, strict=True))) for values in combinations]

    def _repr_html_(self) -> str:
        at = 0
        parts = []
        for name, values in self.controls.items():
            here = values.index(self._start[name])
            at = at * len(values) + here
            parts.append(_control(name, values, here))
        if not isinstance(next(iter(self.controls.values()))[0], str):
            parts.append('<button type="button">Play</button>')
        frame = self.frames[self.index[at]]
        alts = self._alts() if self.images else []
        shown = f'<img src="{frame}" alt="{escape(alts[at])}">' if self.images else frame
        data = {
            "labels": [[_label(v) for v in values] for values in self.controls.values()],
            "frames": self.frames, "index": self.index, "alts": alts,
        }  # fmt: skip
        # "<" is written so that nothing in it can end the script element.
        text = json.dumps(data, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
        return (
            f'<div class="topk-explore" data-frame="{at}">'
            f'<div class="topk-controls" hidden>{"".join(parts)}</div>'
            f'<div class="topk-frame">{shown}</div>'
            f'<script type="application/json">{text}</script></div>'
            f"{inline_assets('show.css', 'explore.js')}"
        )

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        bundle: dict[str, Any] = {"text/html": self._repr_html_(), "text/plain": repr(self)}
        if not on_static_page():
            bundle = self.widget()._repr_mimebundle_() | bundle
        return bundle

    def __repr__(self) -> str:
        return f"Explorer({', '.join(self.controls)}; {len(self.index)} frames)"

    def widget(self) -> Any:
        """The live form: ipywidgets that call ``figure_fn`` at each move."""
        import ipywidgets as w

        inputs: dict[str, Any] = {}
        for name, values in self.controls.items():
            kind = w.Dropdown if isinstance(values[0], str) else w.SelectionSlider
            options = [(_label(v), v) for v in values]
            inputs[name] = kind(options=options, value=self._start[name], description=name)
        view = w.HTML()

        def draw(_: object = None) -> None:
            values = {name: widget.value for name, widget in inputs.items()}
            frame, images = self._render(values)
            view.value = f'<img src="{frame}" alt="{escape(self.alt(**values))}">' if images else frame

        for widget in inputs.values():
            widget.observe(draw, names="value")
        draw()
        return w.VBox([*inputs.values(), view])


def _label(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _control(name: str, values: list[Any], here: int) -> str:
    label = escape(name.replace("_", " "))
    if isinstance(values[0], str):
        options = "".join(
            f'<option value="{i}"{" selected" if i == here else ""}>{escape(v)}</option>'
            for i, v in enumerate(values)
        )
        return f'<span class="topk-control"><label>{label}<select>{options}</select></label></span>'
    return (
        f'<span class="topk-control"><label>{label}<input type="range" min="0" '
        f'max="{len(values) - 1}" step="1" value="{here}" '
        f'aria-valuetext="{escape(_label(values[here]))}"></label>'
        f"<output>{escape(_label(values[here]))}</output></span>"
    )


def _image(figure: Figure) -> str:
    """A lossless WebP, half the size of the same PNG."""
    import matplotlib.pyplot as plt
    from PIL import Image

    png, webp = io.BytesIO(), io.BytesIO()
    figure.savefig(png, format="png", dpi=144)
    plt.close(figure)
    image = Image.open(png).convert("RGB").quantize(128, dither=Image.Dither.NONE).convert("RGB")
    image.save(webp, "WEBP", lossless=True, method=4)
    return "data:image/webp;base64," + base64.b64encode(webp.getvalue()).decode()
