"""Pictures of the next token: what may come, and loops."""

from __future__ import annotations

from typing import Any

import torch

from topk_lib import show
from topk_lib.models import load_encoder


def test_what_may_come() -> None:
    tokenizer: Any = load_encoder()[1]
    logits = torch.full((len(tokenizer),), -9.0)
    logits[2000:2004] = torch.tensor([3.0, 2.0, 1.0, 0.0])
    html = show.may_come(tokenizer, "a <b> film", logits, k=3, min_p=0.2, listed=4).data
    assert "a &lt;b&gt; film" in html
    assert "2 tokens of 30,522 may come" in html
    assert html.count("<li") == 5
    assert html.count(">no<") == 3  # two of the listed, and the others
    assert "73%" in html  # e / (e + 1)
    assert "27%" in html
    assert "30,518 others" in show.may_come(tokenizer, "", logits, listed=4).data


def test_loops_are_marked() -> None:
    tokenizer: Any = load_encoder()[1]
    html = show.looping(
        tokenizer, {"greedy": ([2000, 2001, 2002, 2001, 2002], (1, 2)), "<k>": ([2000], None)}
    ).data
    assert html.count("<mark>") == 1
    assert "a loop of 2 tokens" in html
    assert "&lt;k&gt;" in html
