"""Checks for the chapter on more than one machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from topk_lib.checks.base import check, close, differ

__all__ = [
    "check_all_reduce",
    "check_all_to_all",
    "check_combined",
    "check_devices",
    "check_link",
    "check_share",
]


@check
def check_all_reduce(sent: Callable[[float, int], float]) -> str:
    """Check a learner's ``sent(size, devices)``: bytes that a device sends in a ring all-reduce."""
    for size, devices in ((16, 1), (16, 4), (24, 3), (4e9, 1024)):
        try:
            got = float(sent(size, devices))
        except ZeroDivisionError:
            return f"Not yet: sent({size:g}, {devices}) divides by zero."
        right = 2 * size * (devices - 1) / devices
        if close(got, right):
            continue
        turns = devices - 1
        near = {
            2 * size: "each time round, a device sends all but one part",
            right / 2: "that is one trip round the ring; the sums have to come back as copies",
            size * turns: "that sends everything to everyone; in a ring only a part goes on at a time",
            2 * size * turns: "at each turn a part of size / devices goes on, not everything",
        }
        hint = next((said for value, said in near.items() if close(got, value) and value != right), None)
        if devices == 1:
            hint = "a device that is alone sends nothing"
        tail = hint or "twice round the ring, a part of size / devices at each of the devices - 1 steps"
        shown, yours = differ(right, got)
        return f"Not yet: sent({size:g}, {devices}) is {shown}, yours gives {yours}; {tail}."
    return "Right: it hardly grows with the number of devices."


@check
def check_share(share: Callable[[list[int], int, int], Sequence[int]]) -> str:
    """Check a learner's ``share(rows, rank, world)``: the rows that process ``rank`` of ``world`` reads."""
    for count, world in ((8, 2), (12, 3), (7, 3), (5, 1), (2, 4)):
        rows = [100 + i for i in range(count)]
        parts = [[int(row) for row in share(list(rows), rank, world)] for rank in range(world)]
        read = [row for part in parts for row in part]
        start = f"Not yet: {count} rows and {world} processes"
        if len(read) != len(set(read)):
            twice = next(row for row in read if read.count(row) > 1)
            return f"{start}: row {twice} is read by two processes (or twice), and counts double in the sum."
        if extra := set(read) - set(rows):
            return f"{start}: {min(extra)} is none of the rows {rows}; return rows, not their positions."
        if lost := set(rows) - set(read):
            return f"{start}: nobody reads row {min(lost)}."
        sizes = [len(part) for part in parts]
        if max(sizes) - min(sizes) > 1:
            return f"{start}: they get {sizes} rows, and all wait for the one with most: share more evenly."
    return "Right: each row once, and nobody had to ask anybody."


@check
def check_combined(combined: Callable[[Sequence[float], Sequence[int]], float]) -> str:
    """Check a learner's ``combined(sums, counts)``: a batch's mean loss from what each process has."""
    for sums, counts in (([6.0, 2.0], [2, 2]), ([5.0, 3.0], [2, 4]), ([5.0, 0.0, 4.0], [2, 0, 7])):
        right = sum(sums) / sum(counts)
        try:
            got = float(combined(list(sums), list(counts)))
        except ZeroDivisionError:
            return (
                f"Almost: a process may have nothing to guess, as in counts = {counts}: do not divide by 0."
            )
        if close(got, right):
            continue
        shown, yours = differ(right, got)
        start = f"Not yet: sums {sums} over counts {counts} make {shown}, yours {yours}"
        means = [a / b for a, b in zip(sums, counts, strict=True) if b]
        if close(got, sum(means) / len(means)) or close(got, sum(means) / len(counts)):
            return f"{start}. A mean of means counts each process alike, however few its guesses."
        if close(got, sum(sums)):
            return f"{start}. That is the sum of all; divide by how many were guessed."
        return f"{start}. Add up the sums, add up the counts, and divide once."
    return "Right: that is what one process with the whole batch computes."


@check
def check_devices(answer: float) -> str:
    """Check how many 80 GB devices hold 70 billion parameters by FSDP, 30 GB each for activations."""
    near: dict[float, str] = {
        22: "that is 22.4 rounded down, and then a bit of it has no place",
        14: "that fills the devices with the model; 30 GB of each are for activations",
        3: "that holds the weights alone; gradients and Adam's numbers take 14 more bytes a parameter",
        2: "that holds the weights alone, and fills the devices with them",
        23.0 * 8: "that many nodes of 8 it does not take: it is 23 devices",
    }
    if answer == 23:
        return "Right: 1,120 GB in parts of 50 GB are 22.4 devices, so 23 (a whole number of nodes: 24)."
    if answer == 24:
        return "Right for nodes of 8 devices; 23 devices would do."
    if close(answer, 22.4):
        return "Almost: 22.4 devices; they come in whole numbers."
    hint = near.get(float(answer), "16 bytes a parameter, shared by devices that have 50 GB left each")
    return f"Not yet: {answer:g}; {hint}."


@check
def check_all_to_all(answer: float) -> str:
    """Check the bytes of one all-to-all: 4,096 tokens, 2 experts each, capacity 1.25, d 1,024, 64 devices."""
    whole = 4096 * 2 * 1.25 * 1024 * 2
    right = whole * 63 / 64
    if close(answer, right):
        return "Right: 20.6 MB, and four times that for each layer and step."
    near = {
        whole: "one part of 64 stays where it is",
        4 * right: "that is a layer's four: forward and backward, to the experts and back",
        right / 1.25: "the buffers have room for 1.25 times as many tokens, and are sent whole",
        right / 2: "each token goes to two experts, and a number takes 2 bytes",
        right / 4: "each token goes to two experts, and a number takes 2 bytes",
        2 * right: "a number takes 2 bytes here, not 4",
        2 * whole: "a number takes 2 bytes here, not 4, and one part of 64 stays where it is",
        right / 1024: "each token is a vector of 1,024 numbers",
    }
    hint = next((said for value, said in near.items() if close(answer, value)), None)
    hint = hint or "tokens x 2 x 1.25 x 1,024 x 2 bytes, of which 63/64 leave"
    return f"Not yet: {float(answer):,.0f}; {hint}."


@check
def check_link(fit: Callable[[list[int], list[float]], tuple[float, float]]) -> str:
    """Check a learner's ``fit(sizes, seconds)`` of the link: ``seconds = latency + size / bandwidth``."""
    for latency, bandwidth in ((1e-3, 2e8), (5e-6, 4.5e11), (0.0, 1e9)):
        sizes = [2**12, 2**16, 2**20, 2**24]
        seconds = [latency + size / bandwidth for size in sizes]
        got = [float(value) for value in fit(list(sizes), list(seconds))]
        start = f"Not yet: for a link of {latency:g} s and {bandwidth:g} bytes a second, yours gives"
        if len(got) != 2:
            return f"Not yet: return two numbers, latency and bandwidth; yours gives {len(got)}."
        yours = f"{start} {got[0]:.3g} and {got[1]:.3g}"
        if close(got[0], bandwidth, 1e-2) and abs(got[1] - latency) <= 1e-2 * latency + 1e-9:
            return f"{yours}. The latency comes first."
        if close(got[1], 1 / bandwidth, 1e-2):
            return f"{yours}. The slope is seconds a byte; the bandwidth is one over it."
        if not close(got[1], bandwidth, 1e-2):
            smallest = [sizes[0] / seconds[0], sizes[-1] / seconds[-1]]
            if any(close(got[1], one) for one in smallest):
                return f"{yours}. The time of one size holds both: compare two."
            return f"{yours}. Between two sizes the latency cancels: divide the differences."
        if abs(got[0] - latency) > 1e-2 * latency + 1e-7:
            return f"{yours}. The latency is what is left of a time when size / bandwidth is taken off."
    return "Right. Now let it predict a size that it has not seen."
