"""Hidden checks of the third assignment."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from topk_lib.grading import Answer, Draw, expect, hidden

WHOLE = {
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}
FORBIDDEN = {"sort", "argsort", "msort", "topk", "kthvalue", "median", "nanmedian", "mode", "choose", "numpy",
             "tolist", "unique_dim", "unique_consecutive", "_unique", "_unique2"}  # fmt: skip


def form(got: Any) -> str:
    return (
        f"{got.dtype} of shape {tuple(got.shape)}" if isinstance(got, Tensor) else f"a {type(got).__name__}"
    )


# --- 1


def keys_of(scores: Tensor) -> Tensor:
    """By numbers of Python, one at a time: the bits without the sign, with it in front."""
    whole = WHOLE[scores.dtype]
    most = torch.iinfo(whole).max
    right = []
    for bits, nan in zip(
        scores.view(whole).flatten().tolist(), scores.isnan().flatten().tolist(), strict=True
    ):
        size = bits & most
        right.append(most if nan else -size if bits < 0 else size)
    return torch.tensor(right, dtype=whole).view(scores.shape)


def same_keys(answer: Answer, scores: Tensor) -> None:
    got, right = answer(scores), keys_of(scores)
    name = str(scores.dtype).removeprefix("torch.")
    expect(isinstance(got, Tensor), f"to_keys returns a tensor, yours a {type(got).__name__}")
    expect(
        got.dtype == right.dtype and got.shape == right.shape,
        f"for {name} of shape {tuple(scores.shape)} the keys are {right.dtype} of the same shape; yours are "
        f"{got.dtype} of shape {tuple(got.shape)}",
    )
    if not torch.equal(got, right):
        at = int((got != right).flatten().nonzero()[0, 0])
        number, mine = right.flatten()[at].item(), got.flatten()[at].item()
        bits = scores.view(WHOLE[scores.dtype]).flatten()[at].item()
        expect(
            False,
            f"{scores.flatten()[at].item()!r} in {name} "
            f"(bits {bits & 2 ** (8 * scores.element_size()) - 1:#x}) has the key {number}, yours is {mine}",
        )


@hidden("to_keys", points=4, about="order")
def the_key_counts_the_floats_from_zero(answer: Answer, draw: Draw) -> None:
    """The key of a float is how many floats away from 0 it lies, with its sign, in every type of float."""
    for dtype in WHOLE:
        same_keys(answer, (draw.normal(3, 5) * 10.0 ** draw.integer(-3, 4)).to(dtype))
    same_keys(answer, draw.normal(2, 3, 2).transpose(0, 2))
    same_keys(answer, draw.normal(0, 4))


@hidden("to_keys", points=4, about="every float")
def every_float_of_16_bits_and_all_kinds_of_32(answer: Answer, draw: Draw) -> None:
    """All floats of 16 bits, and of float32 random bits: denormal ones, infinities and NaN of every kind."""
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    same_keys(answer, every.view(torch.float16))
    same_keys(answer, every.view(torch.bfloat16))
    bits = torch.randint(-(2**31), 2**31, (500,), generator=draw.torch).to(torch.int32)
    tiny = torch.randint(0, 2**23, (50,), generator=draw.torch).to(torch.int32)
    odd = torch.tensor(
        [0, -(2**31), 0x7F800000, 0x7FC00000, 0x7F800001, 0x7FFFFFFF, -(2**23), -1], dtype=torch.int32
    )
    for some in (bits, tiny, tiny | -(2**31), odd):
        same_keys(answer, some.view(torch.float32))


@hidden("to_keys", points=2, about="64 bits")
def doubles_are_not_rounded(answer: Answer, draw: Draw) -> None:
    """float64 keeps all its 64 bits: neighbours that are equal in float32 have different keys."""
    near = draw.normal(6).double()
    same_keys(answer, torch.stack([near, near.nextafter(torch.tensor(math.inf, dtype=torch.float64))]))
    same_keys(
        answer, torch.tensor([5e-324, -5e-324, math.inf, -math.inf, math.nan, -0.0], dtype=torch.float64)
    )


@hidden("to_keys", points=4, about="the way back")
def keys_lead_back_to_their_floats(answer: Answer, draw: Draw) -> None:
    """from_keys gives back the very bits, with 0.0 for -0.0, in every type of float."""
    back = answer.other("from_keys")
    for dtype, whole in WHOLE.items():
        bits = torch.randint(-(2**62), 2**62, (200,), generator=draw.torch) >> max(
            63 - torch.iinfo(whole).bits, 0
        )
        bits = torch.cat([bits, torch.tensor([0, 1, -1, 2, 3])]).to(whole)
        numbers = bits.view(dtype)
        numbers = torch.cat(
            [numbers, torch.tensor([0.0, -0.0, math.inf, -math.inf, math.nan, -1.0, 2.0]).to(dtype)]
        )
        keys = keys_of(numbers)
        got = back(keys, str(dtype).removeprefix("torch."))
        expect(
            isinstance(got, Tensor) and got.dtype == dtype and got.shape == keys.shape,
            f"from_keys gives {dtype} of the keys' shape back; yours is {form(got)}",
        )
        numbers = torch.where(numbers == 0, torch.zeros_like(numbers), numbers)
        wrong = torch.where(numbers.isnan(), ~got.isnan(), got.view(whole) != numbers.view(whole))
        if wrong.any():
            at = int(wrong.nonzero()[0, 0])
            expect(False, f"the key {keys[at].item()} in {dtype} belongs to {numbers[at].item()!r}, "
                   f"yours gives {got[at].item()!r}")  # fmt: skip


# --- 2


def chosen(scores: Tensor, ks: Tensor, valid: Tensor) -> Tensor:
    """By Python's sort, which keeps the order of equals."""
    mask = torch.zeros(scores.shape, dtype=torch.bool)
    for row, k in enumerate(ks.tolist()):
        numbers = [math.inf if math.isnan(x) else x for x in scores[row].tolist()]
        places = [j for j, ok in enumerate(valid[row].tolist()) if ok]
        places.sort(key=lambda j: (not bool(scores[row, j].isnan()), -numbers[j], j))
        mask[row, places[:k]] = True
    return mask


def right_mask(got: Any, scores: Tensor, ks: Tensor, valid: Tensor) -> None:
    right = chosen(scores, ks, valid)
    expect(
        isinstance(got, Tensor) and got.dtype == torch.bool and got.shape == right.shape,
        f"choose_rows returns a bool mask of shape {tuple(right.shape)}; yours is {form(got)}",
    )
    wrong = (got != right).any(-1)
    if wrong.any():
        row = int(wrong.nonzero()[0, 0])
        expect(
            False,
            f"for scores {scores[row].tolist()}, k = {ks[row].item()} "
            f"and valid {valid[row].int().tolist()} the mask is {right[row].int().tolist()}, "
            f"yours {got[row].int().tolist()}",
        )


def of_rows(answer: Answer, scores: Tensor, ks: Tensor, valid: Tensor) -> None:
    right_mask(answer(scores, ks, valid), scores, ks, valid)


def some_ks(draw: Draw, rows: int, n: int) -> Tensor:
    ks = torch.randint(0, n + 1, (rows,), generator=draw.torch)
    ks[:3] = torch.tensor([0, n, max(1, n // 2)])
    return ks


@hidden("choose_rows", points=3, about="ties")
def ties_go_to_the_lowest_position(answer: Answer, draw: Draw) -> None:
    """Exactly k in every row; of equal scores the lowest position, and 0.0 equals -0.0."""
    for n in (1, 7, 12):
        scores = draw.tensor(8, n, low=-2, high=2)
        scores = torch.where((scores == 0) & (draw.tensor(8, n, low=0, high=2) == 0), -0.0, scores)
        of_rows(answer, scores, some_ks(draw, 8, n), torch.ones(8, n, dtype=torch.bool))
    of_rows(answer, draw.normal(5, 40), some_ks(draw, 5, 40), torch.ones(5, 40, dtype=torch.bool))
    zeros = torch.tensor([[-1.0, -0.0, 0.0], [0.0, -0.0, -1.0]])
    of_rows(answer, zeros, torch.tensor([1, 1]), torch.ones(2, 3, dtype=torch.bool))
    near = 100 + draw.tensor(3, 20, low=0, high=30) / 2**14  # equal in 16 bits, and not in 32
    of_rows(answer, near, torch.tensor([3, 8, 15]), torch.ones(3, 20, dtype=torch.bool))


@hidden("choose_rows", points=3, about="NaN")
def nan_ranks_highest_then_infinity(answer: Answer, draw: Draw) -> None:
    """NaN of either sign ranks above infinity, several NaN are equal, and -inf is a score like any other."""
    kinds = torch.tensor([math.nan, math.inf, -math.inf, 3.0, -3.4e38, 3.4e38, 1e-42, -1e-42])
    scores = kinds[torch.randint(0, len(kinds), (12, 9), generator=draw.torch)]
    minus = torch.tensor([-1], dtype=torch.int32).view(torch.float32)  # a NaN with a sign
    scores[:, draw.integer(0, 9)] = minus
    of_rows(answer, scores, some_ks(draw, 12, 9), torch.ones(12, 9, dtype=torch.bool))
    small = torch.tensor([[math.inf, math.nan, 1.0], [-math.inf, math.inf, math.nan]])
    of_rows(answer, small, torch.tensor([1, 1]), torch.ones(2, 3, dtype=torch.bool))


@hidden("choose_rows", points=3, about="padding")
def padding_is_never_chosen(answer: Answer, draw: Draw) -> None:
    """Padding is never chosen, whatever it holds; a row with fewer valid positions than k gives all."""
    scores = torch.where(
        draw.tensor(10, 8, low=0, high=4) == 0, -math.inf, draw.tensor(10, 8, low=-3, high=3)
    )
    valid = draw.tensor(10, 8, low=0, high=2) == 1
    valid[3], valid[4] = False, True
    scores = torch.where(valid, scores, torch.tensor([math.nan, math.inf, 9.0, -math.inf]).repeat(2))
    ks = some_ks(draw, 10, 8)
    ks[3:6] = torch.tensor([5, 3, 8])
    of_rows(answer, scores, ks, valid)


@hidden("choose_rows", points=2, about="16 bits")
def halves_and_bfloats_too(answer: Answer, draw: Draw) -> None:
    """float16 and bfloat16: their ties, their infinities and their smallest numbers."""
    for dtype in (torch.float16, torch.bfloat16):
        scores = (draw.normal(6, 30) * 100).to(dtype)
        scores[0, :4] = torch.tensor([math.inf, -math.inf, math.nan, 0.0]).to(dtype)
        scores[1] = torch.arange(-15, 15, dtype=torch.int16).abs().view(dtype)  # next to 0
        of_rows(answer, scores, some_ks(draw, 6, 30), draw.tensor(6, 30, low=0, high=5) > 0)


@hidden("choose_rows", points=3, about="counting alone")
def by_counting_for_all_rows_at_once(answer: Answer, draw: Draw) -> None:
    """No sorting, no operator that selects, at most 1,000 operations for any number of rows and columns."""
    for rows, n in ((60, 5), (4, 700)):
        scores, valid = draw.normal(rows, n), draw.tensor(rows, n, low=0, high=8) > 0
        ks = some_ks(draw, rows, n)
        got, counts = answer.counted(scores, ks, valid)
        right_mask(got, scores, ks, valid)
        used = sorted(FORBIDDEN & set(counts.by_name))
        expect(not used, f"choose_rows is to count, and yours calls {', '.join(used)}")
        expect(
            counts.calls <= 1000,
            f"{rows} rows of {n} may take 1,000 operations of PyTorch; "
            f"yours took {counts.calls:,}: work on all rows at once",
        )


# --- 3


class Served:
    """Keys that only answer questions, and remember them."""

    def __init__(self, keys: Iterable[int]) -> None:
        self.keys = list(keys)
        self.asked: list[list[int]] = []
        self.told: list[list[int]] = []

    def count(self, edges: Any) -> list[int]:
        whole = [int(edge) for edge in edges]
        self.asked.append(whole)
        self.told.append([sum(key >= edge for key in self.keys) for edge in whole])
        return self.told[-1]


def edge_of(answer: Answer, keys: list[int], k: int, bits: int, digit: int) -> Served:
    served = Served(keys)
    got = answer(served.count, k, bits, digit)
    shown = f"keys {keys}" if len(keys) <= 12 else f"{len(keys)} keys"
    where = f"for {shown} of {bits} bits, k = {k} and digits of {digit}"
    expect(
        isinstance(got, (list, tuple)) and len(got) == 2 and all(isinstance(each, int) for each in got),
        f"{where}: find_edge returns two whole numbers, yours {str(got)[:80]}",
    )
    edge, places = got
    above, equal = sum(key > edge for key in keys), sum(key == edge for key in keys)
    expect(
        0 <= places <= equal and above + places == k,
        f"{where}: {above} keys are above {edge} and {equal} equal to it, "
        f"so that ({edge}, {places}) does not choose exactly {k}",
    )
    most = -(-bits // digit)
    expect(len(served.asked) <= most, f"{where}: {most} questions are enough, you asked {len(served.asked)}")
    widest = max(map(len, served.asked), default=0)
    expect(widest < 2**digit, f"{where}: a question has room for {2**digit - 1} edges, yours had {widest}")
    return served


def whole_numbers(draw: Draw, size: int, bits: int) -> list[int]:
    return [int(x) for x in draw.rng.integers(0, 2**bits, size)]


@hidden("find_edge", points=4, about="the choice")
def the_edge_makes_exactly_k(answer: Answer, draw: Draw) -> None:
    """Edge and places make exactly k, in at most bits / digit questions of at most 2 ** digit - 1 edges."""
    for bits, digit, size in ((4, 2, 9), (32, 8, 200), (32, 4, 60), (12, 3, 300)):
        keys = whole_numbers(draw, size, bits)
        for k in (1, draw.integer(2, size), size - 1):
            edge_of(answer, keys, k, bits, digit)


@hidden("find_edge", points=3, about="ties")
def ties_at_the_edge_get_the_places_left(answer: Answer, draw: Draw) -> None:
    """Where many keys equal the edge, the places are k minus the keys above it."""
    for bits, digit in ((8, 4), (16, 4), (6, 2), (4, 8)):
        some = [*whole_numbers(draw, 3, bits), 2**bits - 1]
        keys = [some[draw.integer(0, 4)] for _ in range(40)]
        for k in sorted({1, 7, 13, 21, draw.integer(1, 40), 39}):
            edge_of(answer, keys, k, bits, digit)
    digit = draw.integer(1, 14)  # some above it, and then the largest digit
    edge_of(answer, [digit * 16 + 15] * 4 + [digit * 16 + 16] * 3 + [0], draw.choice([4, 5, 6]), 8, 4)


@hidden("find_edge", points=2, about="the ends")
def the_smallest_and_largest_keys(answer: Answer, draw: Draw) -> None:
    """All keys 0, all the largest possible, all equal, and k as large as there are keys."""
    bits = draw.choice([5, 16, 32, 62])
    for keys in ([0] * 6, [2**bits - 1] * 6, [0, 2**bits - 1] * 3, [draw.integer(0, 2**bits)] * 6, [0]):
        for k in sorted({1, (len(keys) + 1) // 2, len(keys)}):
            edge_of(answer, keys, k, bits, 4)


@hidden("find_edge", points=3, about="stopping")
def nothing_is_asked_once_it_is_settled(answer: Answer, draw: Draw) -> None:
    """Once exactly k keys reach an edge that was asked for, no further question comes."""
    edge_of(answer, [16 * v for v in range(1, 16)], draw.integer(1, 16), 8, 4)  # keys on the very edges
    for bits, digit in ((32, 8), (32, 2), (20, 4)):
        keys = whole_numbers(draw, 50, bits)
        for k in (1, 10, draw.integer(11, 50), 50):
            served = edge_of(answer, keys, k, bits, digit)
            late = [number for number, told in enumerate(served.told[:-1], 1) if k in told]
            expect(
                not late,
                f"of {len(keys)} keys exactly k = {k} reached an edge "
                f"of question {late[0] if late else 0}, and yet {len(served.asked)} were asked",
            )


@hidden("find_edge", points=2, about="digits")
def digits_that_do_not_divide_the_bits(answer: Answer, draw: Draw) -> None:
    """Digits that do not divide the bits, of one bit, and wider than the keys are."""
    for bits, digit in ((32, 5), (32, 1), (7, 3), (3, 8), (62, 7), (1, 1)):
        keys = [*whole_numbers(draw, 15, bits)] * 2
        for k in (1, draw.integer(2, 30), 29):
            edge_of(answer, keys, k, bits, digit)


# --- 4 and 5


def keys_in(draw: Draw, rows: int, n: int, bits: int = 32) -> Tensor:
    return torch.from_numpy(draw.rng.integers(0, 2**bits, (rows, n)))


def counted_digits(keys: Tensor, prefixes: Tensor, shift: int, digit: int) -> Tensor:
    mine = (keys >> (shift + digit)) == prefixes[:, None]
    value = (keys >> shift) & (2**digit - 1)
    return torch.stack([(value[r][mine[r]]).bincount(minlength=2**digit) for r in range(len(keys))])


def right_counts(got: Any, keys: Tensor, prefixes: Tensor, shift: int, digit: int) -> None:
    right = counted_digits(keys, prefixes, shift, digit)
    expect(
        isinstance(got, Tensor) and not got.is_floating_point() and got.shape == right.shape,
        f"digit_counts returns whole numbers of shape {tuple(right.shape)}; yours is {form(got)}",
    )
    wrong = (got.long() != right).any(-1)
    if wrong.any():
        row = int(wrong.nonzero()[0, 0])
        value = int((got[row].long() != right[row]).nonzero()[0, 0])
        shown = f"the row {keys[row].tolist()}" if keys.shape[1] <= 8 else f"a row of {keys.shape[1]} keys"
        expect(
            False,
            f"for {shown}, prefix {prefixes[row].item()}, shift {shift} "
            f"and digit {digit} the value {value} occurs "
            f"{right[row, value].item()} times, yours says {got[row, value].item()}",
        )


def of_digits(answer: Answer, keys: Tensor, prefixes: Tensor, shift: int, digit: int) -> None:
    right_counts(answer(keys, prefixes, shift, digit), keys, prefixes, shift, digit)


def readings(by_name: dict[str, int], least: int, most: int, what: str) -> None:
    read, once = by_name.get("triton read", 0), by_name.get("triton at once", 0)
    expect(read >= least, f"{what}: {least:,} keys have to be read by kernels, yours read {read:,} numbers")
    expect(read <= most, f"{what}: kernels may read {most:,} numbers, yours read {read:,}")
    expect(once <= 256, f"{what}: a load takes at most 256 numbers at once, one of yours took {once:,}")


@hidden("digit_counts", points=4, about="lengths")
def rows_of_any_length(answer: Answer, draw: Draw) -> None:
    """Rows shorter and longer than a block, and none that divides into blocks: every key counts once."""
    for n in (1, 7, draw.integer(60, 70), draw.integer(257, 300), 512):
        of_digits(answer, keys_in(draw, 2, n, 4), torch.zeros(2, dtype=torch.int64), 0, 4)


@hidden("digit_counts", points=3, about="prefixes")
def each_row_has_a_prefix_of_its_own(answer: Answer, draw: Draw) -> None:
    """Only keys that begin with their own row's digits count, and key 0 counts like any other."""
    keys = keys_in(draw, 4, 50, 6)
    of_digits(answer, keys, torch.tensor([0, 1, 2, 3]), 2, 2)
    keys[1] = 0
    of_digits(answer, keys, torch.tensor([3, 0, 5, 15]), 0, 2)


@hidden("digit_counts", points=3, about="digits")
def high_and_low_digits_of_any_width(answer: Answer, draw: Draw) -> None:
    """The topmost digit, the lowest, and widths from 1 to 8."""
    keys = keys_in(draw, 2, 20)
    keys[0, 0], keys[1, 1] = 2**32 - 1, 2**31
    zero = torch.zeros(2, dtype=torch.int64)
    for digit in (1, 4, draw.choice([3, 5, 7]), 8):
        of_digits(answer, keys, zero, 32 - digit, digit)
    shift = draw.integer(3, 20)
    of_digits(answer, keys, keys[:, 5] >> (shift + 5), shift, 5)
    of_digits(answer, keys, keys[:, 2] >> 8, 0, 8)


@hidden("digit_counts", points=4, about="readings")
def each_key_is_read_once(answer: Answer, draw: Draw) -> None:
    """The kernel reads each key once, little beside them, and never more than 256 at once."""
    for rows, n in ((3, draw.integer(30, 60)), (2, draw.integer(600, 700))):
        keys, prefixes = keys_in(draw, rows, n), torch.zeros(rows, dtype=torch.int64)
        got, counts = answer.counted(keys, prefixes, 28, 4)
        right_counts(got, keys, prefixes, 28, 4)
        readings(counts.by_name, rows * n, rows * (n + n // 16 + 8), f"{rows} rows of {n} keys")
        used = sorted((FORBIDDEN | {"bincount", "histc", "eq"}) & set(counts.by_name))
        expect(not used, f"the kernel is to count, and around it PyTorch runs {', '.join(used)}")


def positions(keys: Tensor, ks: Tensor) -> Tensor:
    width = int(ks.max())
    right = torch.full((len(keys), width), -1)
    for row, k in enumerate(ks.tolist()):
        real = [j for j, key in enumerate(keys[row].tolist()) if key > 0]
        best = sorted(sorted(real, key=lambda j: (-int(keys[row, j]), j))[:k])
        right[row, : len(best)] = torch.tensor(best, dtype=torch.int64)
    return right


def right_positions(got: Any, keys: Tensor, ks: Tensor, digit: int) -> None:
    right = positions(keys, ks)
    expect(
        isinstance(got, Tensor) and got.dtype == torch.int64 and got.shape == right.shape,
        f"radix_topk returns int64 of shape {tuple(right.shape)}; yours is {form(got)}",
    )
    wrong = (got != right).any(-1)
    if wrong.any():
        row = int(wrong.nonzero()[0, 0])
        shown = f"keys {keys[row].tolist()}" if keys.shape[1] <= 12 else f"a row of {keys.shape[1]} keys"
        expect(
            False,
            f"for {shown}, k = {ks[row].item()} and digits of {digit} "
            f"the positions are {right[row].tolist()[:12]}, yours {got[row].tolist()[:12]}",
        )


def of_radix(answer: Answer, keys: Tensor, ks: Tensor, digit: int) -> None:
    right_positions(answer(keys, ks, digit), keys, ks, digit)


@hidden("radix_topk", points=3, about="ties")
def of_equal_keys_the_first(answer: Answer, draw: Draw) -> None:
    """Few different keys: of those equal to the edge the first get the places, across blocks too."""
    of_radix(answer, keys_in(draw, 4, 12, 2) + 1, torch.tensor([1, 5, 12, 7]), 4)
    some = torch.tensor([2**32 - 1, 2**31, 2**31 - 1, 1])
    long = some[torch.randint(0, 4, (2, 400), generator=draw.torch)]
    of_radix(answer, long, torch.tensor([draw.integer(20, 80), draw.integer(120, 300)]), 8)


@hidden("radix_topk", points=3, about="padding")
def padding_and_rows_that_take_nothing(answer: Answer, draw: Draw) -> None:
    """Key 0 is never chosen, short rows end in -1, a k of 0 takes nothing, and all of them 0 too."""
    keys = keys_in(draw, 5, 10) * (draw.tensor(5, 10, low=0, high=2) == 1)
    keys[1], keys[2] = 0, torch.arange(1, 11)
    of_radix(answer, keys, torch.tensor([8, 4, 0, 10, draw.integer(1, 10)]), 8)
    of_radix(answer, keys[:2], torch.tensor([0, 0]), 8)


@hidden("radix_topk", points=3, about="long rows")
def rows_longer_than_a_block(answer: Answer, draw: Draw) -> None:
    """Rows of several blocks: positions come in ascending order, each where it belongs."""
    n = draw.integer(520, 600)
    of_radix(answer, keys_in(draw, 2, n), torch.tensor([draw.integer(3, 60), draw.integer(200, 400)]), 8)
    of_radix(answer, keys_in(draw, 1, 1), torch.tensor([1]), 8)


@hidden("radix_topk", points=2, about="digits")
def digits_of_any_width(answer: Answer, draw: Draw) -> None:
    """Digits of 1, 5 and 7 bits, of which the last two do not divide 32."""
    keys = keys_in(draw, 3, 30)
    keys[0] = draw.integer(1, 2**28) * 8 + keys[0] % 8  # only the lowest bits differ
    for digit in (5, 7, 1):
        of_radix(answer, keys, torch.tensor([draw.integer(2, 28), draw.integer(2, 15), 29]), digit)


@hidden("radix_topk", points=3, about="readings")
def one_reading_a_digit_and_one_to_write(answer: Answer, draw: Draw) -> None:
    """Kernels do the work, and read each key once a digit and once to write."""
    for rows, n, digit in ((2, draw.integer(300, 400), 8), (3, draw.integer(40, 60), 5)):
        keys, ks = keys_in(draw, rows, n), torch.randint(1, n, (rows,), generator=draw.torch)
        got, counts = answer.counted(keys, ks, digit)
        right_positions(got, keys, ks, digit)
        passes = -(-32 // digit) + 1
        what = f"{rows} rows of {n} keys in digits of {digit} bits"
        readings(counts.by_name, 2 * rows * n, passes * rows * (n + n // 16 + 8), what)
        used = sorted((FORBIDDEN | {"nonzero", "bincount", "histc"}) & set(counts.by_name))
        expect(not used, f"kernels are to look at the keys, and PyTorch runs {', '.join(used)}")
