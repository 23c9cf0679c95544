"""What a step costs on many devices: numbers that a pencil gives."""

from __future__ import annotations

from dataclasses import replace

import pytest

from topk_lib import show
from topk_lib.training.cost import (
    HOPPER,
    MIXED,
    SINGLE,
    WAYS,
    Link,
    Machine,
    Plan,
    Shape,
    Traffic,
    all_gather,
    all_reduce,
    all_to_all,
    fit_link,
    reduce_scatter,
    training_step,
)

SMALL = Shape(hidden=4, layers=2, inner=8, vocab=10)
PLAN = Plan(batch=4, length=8, micro=4)
SLOW = Machine(peak=1000, utilisation=0.5, memory=1e4, inside=Link(100, 0.5), between=Link(10, 2), node=2)


def test_parameters_by_hand() -> None:
    # attention 4 * 4 * 4, feed-forward 2 * 4 * 8, twice; embedding 10 * 4
    assert SMALL.parameters == SMALL.active == 2 * (64 + 64) + 40 == 296
    routed = replace(SMALL, experts=3, slots=2)  # a router of 12 numbers a layer
    assert routed.parameters == 40 + 2 * (64 + 12 + 3 * 64) == 576
    assert routed.active == 40 + 2 * (64 + 12 + 2 * 64) == 448
    assert replace(SMALL, matrices=3).parameters == 296 + 2 * 32


def test_flops_are_three_times_those_of_a_forward_pass() -> None:
    step = training_step(SMALL, PLAN, SLOW, 1, "data parallel")
    assert step.flops == 6 * 296 * 32 + 12 * 2 * 8 * 4 * 32 == 81_408
    assert step.compute == 81_408 / 500
    # the course's other count, of one pass over texts, leaves out the output layer for an encoder
    forward = show.cost(
        "encoder", vocab=10, hidden=4, layers=2, intermediate=8, heads=1, n=8, batch=4, classes=0
    )
    assert step.flops == 3 * (forward.flops + 2 * 32 * 40)


def test_a_ring_by_hand() -> None:
    # three numbers of 4 bytes on three workers: two turns of sums, two of copies, a number each
    assert all_reduce(12, 3) == Traffic(16, 4)
    assert all_gather(12, 3) == reduce_scatter(12, 3) == all_to_all(12, 3) == Traffic(8, 2)
    assert all_reduce(16, 1) == Traffic(0, 0)
    assert Link(bandwidth=8, latency=0.25).seconds(Traffic(24, 2)) == 3.5


def test_memory_by_hand() -> None:
    # 4 texts of 8 tokens; a layer keeps 8 * 4 + 2 * 8 numbers a token
    kept = 32 * (2 * 48 * 2 + 10 * 4)
    memory = training_step(SMALL, PLAN, SLOW, 1, "data parallel").memory
    assert memory == {"weights": 592, "gradients": 592, "optimiser": 3552, "activations": kept}
    shared = training_step(SMALL, PLAN, SLOW, 4, "fsdp").memory
    assert [shared[name] for name in ("weights", "gradients", "optimiser")] == [148, 148, 888]
    # a quarter of the texts, and one gathered layer of 128 parameters with its gradients
    assert shared["activations"] == kept / 4 + 128 * 4
    assert training_step(SMALL, PLAN, SLOW, 4, "data parallel", SINGLE).memory["optimiser"] == 296 * 8


def test_traffic_of_data_parallel_and_of_fsdp() -> None:
    plain = training_step(SMALL, PLAN, SLOW, 4, "data parallel")
    assert plain.traffic == {"all-reduce": Traffic(2 * 592 * 3 / 4, 6)}
    assert plain.network["all-reduce"] == 6 * 2 + 888 / 10  # two nodes: the slow link
    near = training_step(SMALL, PLAN, SLOW, 2, "data parallel")
    assert near.network["all-reduce"] == 2 * 0.5 + 592 / 100
    each = training_step(SMALL, replace(PLAN, pieces=9), SLOW, 2, "data parallel")
    assert each.traffic["all-reduce"] == Traffic(592, 18)
    sharded = training_step(SMALL, PLAN, SLOW, 4, "fsdp")
    assert sharded.traffic["all-gather"] == Traffic(2 * 592 * 3 / 4, 2 * 3 * 3)
    assert sharded.traffic["reduce-scatter"] == Traffic(592 * 3 / 4, 3 * 3)
    assert sum(one.sent for one in sharded.traffic.values()) == 1.5 * plain.traffic["all-reduce"].sent
    two_passes = training_step(SMALL, replace(PLAN, batch=8, micro=1), SLOW, 4, "fsdp")
    assert two_passes.traffic["all-gather"] == sharded.traffic["all-gather"].times(2)


def test_what_overlaps() -> None:
    fast = replace(SLOW, between=Link(1e4, 0), node=1)
    for how in ("data parallel", "fsdp"):  # a quick network hides, and the products remain
        step = training_step(SMALL, PLAN, fast, 4, how)
        assert step.overlapped == pytest.approx(step.compute)
        assert step.seconds > step.compute
    slow = replace(SLOW, between=Link(0.1, 0), node=1)
    step = training_step(SMALL, PLAN, slow, 4, "data parallel")
    assert step.overlapped == pytest.approx(step.network["all-reduce"] + step.compute / 3)
    step = training_step(SMALL, PLAN, slow, 4, "fsdp")
    assert step.overlapped == pytest.approx(sum(step.network.values()))


def test_experts_are_dealt_out() -> None:
    routed = Shape(hidden=4, layers=2, inner=8, vocab=10, experts=4, slots=2)
    alone, dealt = (training_step(routed, PLAN, SLOW, n, "expert parallel") for n in (1, 2))
    assert alone.memory["weights"] == 2 * routed.parameters
    assert dealt.memory["weights"] == 2 * (routed.shared + 2 * 2 * 64)  # two of four experts a layer
    # 16 tokens, two copies of 4 numbers of 2 bytes, half of them to the other device
    assert dealt.traffic["all-to-all"] == Traffic(4 * 2 * 16 * 2 * 4 * 2 / 2, 8)
    assert dealt.traffic["all-reduce"] == Traffic(2 * routed.shared, 2)
    assert dealt.hidden <= dealt.network["all-reduce"]  # nothing hides an all-to-all
    copies = training_step(routed, replace(PLAN, batch=8, micro=1), SLOW, 8, "expert parallel")
    assert copies.memory["weights"] == 2 * (routed.shared + 2 * 64)
    assert copies.traffic["all-reduce"] == all_reduce(2 * routed.shared, 8) + all_reduce(2 * 2 * 64, 2)


def test_a_batch_too_large_for_a_device_is_read_in_passes() -> None:
    whole = training_step(SMALL, PLAN, SLOW, 1, "data parallel")
    parts = training_step(SMALL, replace(PLAN, micro=1), SLOW, 1, "data parallel")
    assert parts.memory["activations"] * 4 == whole.memory["activations"]
    assert parts.flops == whole.flops


def test_eight_billion_parameters_do_not_fit_one_card() -> None:
    llama = Shape(hidden=4096, layers=32, inner=14336, vocab=128256, matrices=3)
    assert 8e9 < llama.parameters < 9e9
    plan = Plan(batch=1024, length=4096)
    held = {n: {how: training_step(llama, plan, HOPPER, n, how).held for how in WAYS[:2]} for n in (1, 64)}
    assert held[1]["data parallel"] > held[64]["data parallel"] * 0.99 > HOPPER.memory
    assert held[64]["fsdp"] < HOPPER.memory
    assert MIXED.weight + MIXED.gradient + MIXED.optimiser == 16


def test_a_link_is_found_again() -> None:
    link = Link(bandwidth=2e8, latency=3e-5)
    traffic = [all_reduce(size, 2) for size in (1e3, 1e5, 1e7)]
    found = fit_link(traffic, [link.seconds(one) for one in traffic])
    assert found.bandwidth == pytest.approx(2e8)
    assert found.latency == pytest.approx(3e-5)
    with pytest.raises(ValueError, match="two measurements at least, got 1 and 1 times"):
        fit_link(traffic[:1], [1.0])
    with pytest.raises(ValueError, match="do not grow with the bytes"):
        fit_link(traffic, [1.0, 1.0, 1e-9])


@pytest.mark.parametrize(
    ("shape", "plan", "devices", "how", "message"),
    [
        ({}, {}, 2, "tensor", "how must be data parallel, fsdp or expert parallel, got 'tensor'"),
        ({}, {}, 3, "fsdp", "a batch of 4 texts cannot be shared by 3 devices"),
        ({}, {}, 0, "fsdp", "devices must be above 0, got 0"),
        ({"layers": 0}, {}, 1, "fsdp", "layers must be above 0, got 0"),
        ({}, {"length": -1}, 1, "fsdp", "length must be above 0, got -1"),
        ({"experts": 3}, {}, 2, "expert parallel", "3 experts cannot be dealt out to 2 devices evenly"),
    ],
)
def test_what_cannot_be_counted(
    shape: dict[str, int], plan: dict[str, int], devices: int, how: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        training_step(replace(SMALL, **shape), replace(PLAN, **plan), SLOW, devices, how)
