"""Explorers and coloured text, without a browser (tests/book moves them in one)."""

from __future__ import annotations

import json
import re
from typing import Any

import matplotlib.pyplot as plt
import pytest
from matplotlib.figure import Figure

from topk_lib import show


def picture(k: int) -> Figure:
    figure: Figure
    figure, axes = plt.subplots(figsize=(2, 1.5))
    axes.plot([0, k // 2])  # k = 2 and 3 look alike
    return figure


def data(html: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json">(.*?)</script>', html, re.DOTALL)
    assert found is not None
    loaded: dict[str, Any] = json.loads(found[1])
    return loaded


def test_equal_frames_are_kept_once() -> None:
    explorer = show.explore(picture, alt="a line up to half of {k}", k=[2, 3, 4])
    assert explorer.index == [0, 0, 1]
    found = data(explorer._repr_html_())
    assert len(found["frames"]) == 2
    assert all(frame.startswith("data:image/webp") for frame in found["frames"])
    assert found["alts"][2] == "a line up to half of 4"


def test_two_controls_and_a_start() -> None:
    explorer = show.explore(
        lambda rule, k: f"<p>{rule} {k} </script></p>",
        rule=["first", "last"],
        k=[1, 2, 3],
        start={"k": 2, "rule": "last"},
    )
    html = explorer._repr_html_()
    assert len(explorer.frames) == 6
    assert explorer.frames[explorer.index[4]].startswith("<p>last 2")
    assert 'data-frame="4"' in html
    assert "<select>" in html
    assert "<button" not in html  # a menu comes first
    assert data(html)["frames"] == explorer.frames  # nothing in a frame ends the script


def test_live_widgets_call_the_function_again() -> None:
    calls = []

    def text(k: int) -> str:
        calls.append(k)
        return f"<p>{k}</p>"

    explorer = show.explore(text, k=[1, 2, 3])
    box = explorer.widget()
    slider, view = box.children
    slider.value = 3
    assert calls[-1] == 3
    assert view.value == "<p>3</p>"


def test_a_static_page_gets_no_widget(monkeypatch: pytest.MonkeyPatch) -> None:
    explorer = show.explore(str, object=["a", "b"])
    live = explorer._repr_mimebundle_()
    assert {"application/vnd.jupyter.widget-view+json", "text/html"} <= set(live)
    assert "<style>" in live["text/html"]
    monkeypatch.setenv("TOPK_STATIC", "1")
    assert set(explorer._repr_mimebundle_()) == {"text/html", "text/plain"}
    assert "<style>" not in explorer._repr_html_()


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({}, "at least one control"),
        ({"k": []}, "k has no values"),
        ({"k": range(201)}, "201 frames are more than 200"),
        ({"k": [1, 2], "start": {"k": 3}}, "k=3 is not among"),
        ({"k": [1, 2]}, "needs alt"),
    ],
)
def test_bad_input(keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        show.explore(picture, **keywords)


def test_thirty_frames_are_light() -> None:
    points = [{"k": k, "accuracy": 0.8, "accuracy_low": 0.79, "accuracy_high": 0.81} for k in (32, 64)]
    explorer = show.explore(
        lambda at: show.accuracy_by_k({"rule": points}, {f"line at {at}": 0.7 + at / 300}),
        alt="{at}",
        at=list(range(30)),
    )
    assert len(explorer.frames) == 30
    assert len(explorer._repr_html_()) < 1_500_000


def test_kept_text_marks_hard_and_shades_soft() -> None:
    hard = show.kept_text(["a", "b", "##c"], {"rule": [True, False, True]}).data
    assert "<mark>a</mark> b<mark>c</mark>" in hard
    assert "(2 kept)" in hard
    soft = show.kept_text(["a", "<b>"], {"rule": [0.04, 0.96]}).data
    assert 'a <b style="--w:10">&lt;b&gt;</b>' in soft
    assert "(1 in all)" in soft
    with pytest.raises(ValueError, match="1 marks for 2 tokens"):
        show.kept_text(["a", "b"], {"rule": [True]})
