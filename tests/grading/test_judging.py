import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from topk_lib.grading import (
    Answer,
    Check,
    Draw,
    Refused,
    Wrong,
    expect,
    judge,
    load_private,
    local,
    try_hidden,
)
from topk_lib.grading.judging import unpacked
from topk_lib.grading.wire import LARGEST, Malformed, Unsendable, copied, dumps, loads

HIDDEN = '''
from __future__ import annotations
from dataclasses import dataclass
import torch
from topk_lib.grading import Answer, Draw, expect, hidden

@dataclass
class Case:
    n: int

@hidden("double", points=4, about="values")
def doubles(answer: Answer, draw: Draw) -> None:
    """Every number
    twice."""
    scores = draw.tensor(Case(3).n)
    expect(torch.equal(answer(scores), 2 * scores), f"for {scores.tolist()}")
'''
WRONG = """
import math
from topk_lib.grading import right, wrong
FACTOR = 3
def helper(x):
    return x * FACTOR
@wrong("double", "three times")
def double(x):
    return helper(x)
@wrong("double", "a list")
def double(x):
    return (2 * x).tolist()
@right("double")
def mine(x):
    return x + x
"""


@pytest.fixture
def overlay(tmp_path: Path) -> Path:
    folder = tmp_path / "private" / "99_x"
    folder.mkdir(parents=True)
    (folder / "hidden.py").write_text(HIDDEN)
    (folder / "wrong.py").write_text(WRONG)
    return tmp_path


def test_draws_depend_on_student_question_and_check_alone() -> None:
    def drawn(*key: Any) -> list[Any]:
        draw = Draw(*key)
        return [draw.tensor(20).tolist(), draw.normal(2).tolist(), draw.integer(0, 10**9), draw.choice("abc")]

    assert drawn(7, "q", "c") == drawn(7, "q", "c")
    others = [drawn(8, "q", "c"), drawn(7, "p", "c"), drawn(7, "q", "d"), drawn("ann", "q", "c")]
    assert all(drawn(7, "q", "c") != other for other in others)
    assert set(Draw(0, "", "").tensor(1000, low=2, high=4).tolist()) == {2.0, 3.0}


def test_an_overlay_is_loaded_by_its_path(overlay: Path) -> None:
    private = load_private("99_x", overlay)
    [check] = private.hidden
    assert (check.question, check.name, check.points, check.about) == ("double", "doubles", 4, "values")
    assert check.rule == "Every number twice."
    assert [known.why for known in private.wrong] == ["three times", "a list"]
    with pytest.raises(FileNotFoundError, match="name its folder"):
        load_private("98_y", overlay)


def test_known_answers_stand_alone(overlay: Path) -> None:
    private = load_private("99_x", overlay)
    results = []
    for known in [*private.wrong, *private.right]:
        names: dict[str, Any] = {}
        exec(known.source, names)
        assert "topk_lib.grading" not in known.source
        results.append(names["double"](torch.ones(1)))
    assert results == [3.0, [2.0], 2.0]


def test_every_known_answer_gets_what_it_deserves(overlay: Path) -> None:
    private = load_private("99_x", overlay)
    told = [try_hidden("99_x", {"double": each.function}, 0, overlay)[0] for each in private.wrong]
    assert told[0][2] == told[1][2] == 0
    assert told[0][3].startswith("for [")
    assert "TypeError" in told[1][3]
    assert try_hidden("99_x", {"double": private.right[0].function}, 0, overlay) == [
        ("double", "doubles", 4, "")
    ]
    assert try_hidden("99_x", {}, 0, overlay)[0][3] == "double is missing: there is no function of this name"


def test_a_check_of_any_kind_costs_only_its_points() -> None:
    def fails(answer: Answer, draw: Draw) -> None:
        answer()

    def ruined(x: int = 0) -> int:
        raise MemoryError

    verdict = judge(Check("q", 3, "", fails), local(ruined), 0)
    assert (verdict.points, verdict.kind) == (0, "too much memory")
    verdict = judge(Check("q", 3, "", fails), local({"f": exit}, "f"), 0)
    assert (verdict.points, verdict.kind) == (0, "ended itself")


def test_raises_wants_the_error_that_is_asked_for() -> None:
    def picky(k: int) -> int:
        if k < 0:
            raise ValueError(f"k is {k}")
        return [1][k]

    answer = local(picky)
    assert answer.raises(ValueError, -1) == "k is -1"
    assert answer.raises(LookupError, 5) == "list index out of range"
    with pytest.raises(Wrong, match="must raise ValueError here; it returned 1"):
        answer.raises(ValueError, 0)
    with pytest.raises(Wrong, match="must raise ValueError here; it raised IndexError"):
        answer.raises(ValueError, 5)


def test_vjp_gives_gradients_in_the_form_of_the_arguments() -> None:
    def block(x: Tensor, weights: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return x @ weights["a"], x.sum() * 2

    x, a = torch.randn(3, 2), torch.randn(2, 4)
    right = torch.randn(3, 4)
    (out, _), (g_x, g_w) = local(block).vjp([x, {"a": a, "b": a}], [right, None], wrt=[0, 1])
    assert torch.equal(out, x @ a)
    torch.testing.assert_close(g_x, right @ a.T)
    torch.testing.assert_close(g_w["a"], x.T @ right)
    assert not g_w["b"].any()
    assert not local(torch.round).vjp([x], torch.ones(3, 2))[1][0].any()
    detached = local({"f": lambda x: x.detach()}).vjp([x], torch.ones(3, 2))[1][0]
    assert not detached.any()
    with pytest.raises(Refused, match=r"returned shape \(\) where \(3, 2\)"):
        local({"f": lambda x: x.sum()}).vjp([x], torch.ones(3, 2))


def test_counted_sees_operations_and_what_leaves_pytorch() -> None:
    def work(x: Tensor) -> list[float]:
        numbers: list[float] = (x.sort().values + 1).view(-1).tolist()
        return numbers

    result, counts = local(work).counted(torch.tensor([[2.0, 1.0]]))
    assert result == [2.0, 3.0]
    assert counts.by_name == {"sort": 1, "add": 1, "view": 1, "tolist": 1}
    assert (counts.calls, counts.elements) == (4, 6)


def test_arguments_are_copies_and_call_backs_run_here() -> None:
    kept = torch.zeros(3)
    seen = []

    def meddle(x: Tensor, look: Any) -> float:
        x += 1
        try:
            return float(look(x))
        except Wrong:
            return 0.0

    def look(x: Tensor) -> Tensor:
        seen.append(x)
        expect(len(seen) < 2, "looked twice")
        return x.sum()

    answer = local(meddle)
    assert answer(kept, look) == 3.0
    assert not kept.any()
    with pytest.raises(Wrong, match="looked twice"):
        answer(kept, look)


def test_functions_share_a_process_and_a_folder() -> None:
    state: list[int] = []

    def main(arguments: list[str]) -> None:
        state.append(1)
        Path(arguments[0]).write_text(Path("given").read_text() * 2)

    answer = local({"main": main, "count": lambda: len(state)})
    answer.put("given", b"ab")
    answer(["made"])
    assert answer.files() == {"given": b"ab", "made": b"abab"}
    assert answer.other("count")() == 1
    assert answer.fresh().files() == {}


PLAIN = [
    None, True, 3, -(10**40), 0.1, -0.0, math.inf, "text \ud800 é", b"\x00\xff", [1, [2.0, None]],
    (1, (), "a"), {"a": {"b": [1]}, "": 2},
]  # fmt: skip


@pytest.mark.parametrize("value", PLAIN, ids=str)
def test_plain_data_arrives_as_it_is(value: Any) -> None:
    got = copied(value)
    assert got == value
    assert type(got) is type(value)
    assert math.isnan(copied(math.nan))
    assert math.copysign(1, copied(-0.0)) == -1


@pytest.mark.parametrize(
    "name", ["bool", "uint8", "int16", "int64", "uint64", "float16", "bfloat16", "float64", "complex64"]
)
def test_tensors_and_arrays_arrive_bit_for_bit(name: str) -> None:
    for shape in ((), (0, 3), (2, 3)):
        value = torch.randint(0, 2, shape).to(getattr(torch, name))
        got = copied(value)
        assert (got.dtype, got.shape) == (value.dtype, value.shape)
        assert torch.equal(got, value)
        if name != "bfloat16":
            array = copied(value.numpy())
            assert array.dtype == name
            np.testing.assert_array_equal(array, value.numpy())
    assert torch.equal(copied(torch.arange(6).reshape(2, 3).T), torch.arange(6).reshape(2, 3).T)
    assert copied(torch.topk(torch.tensor([1.0, 2.0]), 1)) == (torch.tensor([2.0]), torch.tensor([1]))
    assert isinstance(copied(np.float32(2)), float)


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [{1: 2}, {1, 2}, object(), len, nested(30), torch.eye(2).to_sparse(), torch.ones(1, device="meta"),
     np.array(["a"]), np.array([None]), 10**2000, "x" * 10**7],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_is_not_plain_data_is_not_sent(value: Any) -> None:
    with pytest.raises(Unsendable):
        dumps(value)


def message(header: bytes, body: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + len(body).to_bytes(8, "little") + header + body


@pytest.mark.parametrize(
    "sent",
    [
        b"", b"short", message(b"{"), message(b"1", b"x"), message(b"1") + b"x", message(b'{"x": 1}'),
        message(b"[" * 10**5 + b"]" * 10**5), message(b"[" * 50 + b"]" * 50), message(b'{"f": 0}'),
        message(b'{"b": -1}', b"x"), message(b'{"b": 2}', b"x"), message(b'{"b": true}', b"x"),
        message(b'{"T": ["float32", [2]]}', b"1234"), message(b'{"T": ["float32", [-1]]}'),
        message(b'{"T": ["float32", [1.0]]}', b"1234"), message(b'{"T": ["Storage", [1]]}', b"1234"),
        message(b'{"T": ["float32", [1099511627776, 0]]}'), message(b'{"N": ["object", [1]]}', b"12345678"),
        message(b'{"T": ["float32"]}'), message(b'{"T": ["float32", [1], 3]}', b"1234"), message(b"9" * 5000),
        message(b'{"T": ["float32", [' + b"1," * 99 + b"1]]}", b"1234"), b"\x80\x04\x95pickle............",
        message(b'{"T": [{}, [1]]}', b"1234"), message(b"\xff"),
    ],
)  # fmt: skip
def test_a_forged_message_is_malformed(sent: bytes) -> None:
    with pytest.raises(Malformed):
        loads(sent)


def test_a_bool_of_any_byte_is_a_bool() -> None:
    got = loads(message(b'{"T": ["bool", [3]]}', b"\x00\x02\xff"))
    assert torch.equal(got, torch.tensor([False, True, True]))
    assert got.to(torch.int64).sum() == 2


def test_a_length_is_read_before_anything_is_made_of_it() -> None:
    from topk_lib.grading.wire import lengths

    with pytest.raises(Malformed, match="larger than 32 MB"):
        lengths((2).to_bytes(8, "little") + (10 * 2**30).to_bytes(8, "little"))
    with pytest.raises(Malformed):
        lengths((2**60).to_bytes(8, "little") + bytes(8))
    assert lengths((1).to_bytes(8, "little") + LARGEST.to_bytes(8, "little")) == LARGEST + 1


@pytest.mark.parametrize(
    "reply", [None, 3, [], {}, {"points": 4}, {"refused": "full marks"}, {"refused": ["missing"]}]
)
def test_a_forged_reply_is_refused(reply: Any) -> None:
    with pytest.raises(Refused) as refused:
        unpacked(reply)
    assert refused.value.kind == "not allowed"


def test_a_sentence_is_one_line_of_printable_text() -> None:
    with pytest.raises(Refused) as refused:
        unpacked({"refused": "raised", "sentence": "a\n# heading\x1b[31m\ud800" + "x" * 10**6})
    assert str(refused.value).startswith("a # heading\ufffd[31m\ufffd")
    assert len(str(refused.value)) < 700
