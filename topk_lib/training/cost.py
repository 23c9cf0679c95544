"""What a training step costs on many devices, on paper: FLOPs, bytes held, bytes sent, seconds.

Every assumption is a field of :class:`Shape`, :class:`Plan`, :class:`Numbers`, :class:`Link` or
:class:`Machine`. Left out of all counts: biases, norms, softmax, the reading of data, and waiting for the
slowest device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

__all__ = [
    "HOPPER", "MIXED", "SINGLE", "WAYS", "Link", "Machine", "Numbers", "Plan", "Shape", "Step", "Traffic",
    "all_gather", "all_reduce", "all_to_all", "fit_link", "reduce_scatter", "training_step",
]  # fmt: skip

WAYS = ("data parallel", "fsdp", "expert parallel")
"""What :func:`training_step` takes as ``how``."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder whose output layer shares the embedding matrix.

    Attributes:
        hidden: width d of the residual stream.
        layers: transformer layers, all alike.
        inner: inner width f of a feed-forward block.
        vocab: token types.
        matrices: of a feed-forward block: 2, or 3 where one gates (SwiGLU).
        experts: feed-forward blocks a layer; above 1 there is a router, a (d, experts) matrix.
        slots: experts that work on a token, on average: top-k times the capacity factor where each token
            chooses, the capacity factor where each expert does.
    """

    hidden: int
    layers: int
    inner: int
    vocab: int
    matrices: int = 2
    experts: int = 1
    slots: float = 1.0

    @property
    def expert(self) -> int:
        """Parameters of one feed-forward block."""
        return self.matrices * self.hidden * self.inner

    @property
    def shared(self) -> int:
        """Parameters outside the feed-forward blocks: embedding, four matrices of attention, router."""
        router = self.hidden * self.experts if self.experts > 1 else 0
        return self.vocab * self.hidden + self.layers * (4 * self.hidden**2 + router)

    @property
    def parameters(self) -> int:
        return self.shared + self.layers * self.experts * self.expert

    @property
    def active(self) -> float:
        """Parameters that a token meets in a matrix product, the output layer's among them."""
        return self.shared + self.layers * self.slots * self.expert


@dataclass(frozen=True)
class Plan:
    """What one step of training reads.

    Attributes:
        batch: texts of a step, over all devices.
        length: tokens n of a text.
        micro: texts that a device reads at once; a larger share is read in several passes, whose gradients
            add up.
        pieces: into which the gradients are cut for their all-reduce: 1 where all go at once, the number of
            tensors where each goes alone.
    """

    batch: int
    length: int
    micro: int = 1
    pieces: int = 1


@dataclass(frozen=True)
class Numbers:
    """Bytes a number takes.

    Attributes:
        weight: of a parameter as it is multiplied and sent.
        gradient: of a gradient, held and sent.
        optimiser: of Adam's two moments, and of a float32 copy of a parameter where ``weight`` is shorter.
        activation: of what a layer keeps for its backward pass, and of a token sent to an expert.
        logit: of the raw score of a token type.
    """

    weight: int
    gradient: int
    optimiser: int
    activation: int
    logit: int = 4


SINGLE = Numbers(weight=4, gradient=4, optimiser=8, activation=4)
"""All in float32, as ``topk-lib pretrain --precision fp32``."""
MIXED = Numbers(weight=2, gradient=2, optimiser=12, activation=2)
"""Sixteen bytes a parameter, as Rajbhandari et al. (2020), section 3.1, count mixed precision."""


@dataclass(frozen=True)
class Link:
    """What a device sends through, one message after another.

    Attributes:
        bandwidth: bytes a second in one direction.
        latency: seconds that a message takes beside its bytes.
    """

    bandwidth: float
    latency: float

    def seconds(self, traffic: Traffic) -> float:
        return traffic.messages * self.latency + traffic.sent / self.bandwidth


@dataclass(frozen=True)
class Machine:
    """Devices of one kind in nodes of one size.

    Attributes:
        peak: FLOPs a second that the maker states for dense matrix products.
        utilisation: the share of it that a model's matrix products reach, all stalls but those for the
            network included.
        memory: bytes of a device.
        inside, between: the link within a node, and each device's link out of it. A ring over several
            nodes is as fast as its slowest link, so that ``between`` holds for all of it.
        node: devices of a node.
    """

    peak: float
    utilisation: float
    memory: float
    inside: Link
    between: Link
    node: int = 8

    def link(self, devices: int) -> Link:
        return self.inside if devices <= self.node else self.between


HOPPER = Machine(
    peak=989e12, utilisation=0.4, memory=80e9, inside=Link(450e9, 5e-6), between=Link(50e9, 10e-6)
)
"""H100 SXM: 989 teraFLOP/s in bfloat16 without sparsity, 80 GB, NVLink of 900 GB/s in both directions
together (NVIDIA's data sheet), a network card of 400 Gbit/s for each GPU as in a DGX H100. The utilisation is
in the range that trainings of large models report (38 to 43% in table 4 of Grattafiori et al. 2024); the
latencies are round guesses, for which nobody vouches."""


@dataclass(frozen=True)
class Traffic:
    """What one device sends in an operation of all: bytes, in so many messages after one another."""

    sent: float = 0.0
    messages: int = 0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(self.sent + other.sent, self.messages + other.messages)

    def times(self, count: int) -> Traffic:
        return Traffic(count * self.sent, count * self.messages)


def all_gather(size: float, devices: int) -> Traffic:
    """Each of ``devices`` holds a part of ``size`` bytes; in the end each holds all.

    In a ring, a part goes on to the next device at a time (Patarasuk and Yuan 2009).
    """
    return Traffic(size * (devices - 1) / devices, devices - 1)


def reduce_scatter(size: float, devices: int) -> Traffic:
    """Each holds ``size`` bytes of terms; in the end each holds the sums of its part."""
    return all_gather(size, devices)


def all_reduce(size: float, devices: int) -> Traffic:
    """Each holds ``size`` bytes of terms; in the end each holds all sums: both of the above in turn."""
    return reduce_scatter(size, devices) + all_gather(size, devices)


def all_to_all(size: float, devices: int) -> Traffic:
    """Each holds ``size`` bytes, an equal part for every device, and sends all but its own."""
    return Traffic(size * (devices - 1) / devices, devices - 1)


@dataclass(frozen=True)
class Step:
    """What one step of training costs a device.

    Attributes:
        flops: of its matrix products, forward and backward.
        memory: bytes of weights, gradients, optimiser and activations.
        traffic: what it sends, by operation.
        compute: seconds of its matrix products.
        network: seconds of each operation of ``traffic``.
        hidden: seconds of the network that fit beneath the products when both go on at once.
    """

    flops: float
    memory: dict[str, float]
    traffic: dict[str, Traffic]
    compute: float
    network: dict[str, float]
    hidden: float

    @property
    def held(self) -> float:
        return sum(self.memory.values())

    @property
    def seconds(self) -> float:
        """Of the step, where all wait for the network."""
        return self.compute + sum(self.network.values())

    @property
    def overlapped(self) -> float:
        """Of the step, where as much of the network as can goes on beneath the products."""
        return self.seconds - self.hidden


def training_step(
    shape: Shape, plan: Plan, machine: Machine, devices: int, how: str, numbers: Numbers = MIXED
) -> Step:
    """Count one step.

    A matrix product takes two FLOPs a parameter and token forward and four backward; attention over n tokens
    4 n d a token and layer forward (no mask spares any), and twice that backward. For its backward pass a
    layer keeps 7 d numbers a token, and for each feed-forward block that works on it d more and f for each
    of its matrices (Korthikanti et al. 2023 without dropout; attention fused: no (n, n) scores are kept).

    - "data parallel": every device has the whole model; gradients go through one all-reduce, which can
      begin while two thirds of the FLOPs, the backward pass, go on.
    - "fsdp": every device holds its part of weights, gradients and optimiser, and one layer in whole. Weights
      are gathered for each pass, forward and again backward, gradients scattered, and all of it can go on
      beneath the products.
    - "expert parallel": the experts are dealt out, to as many devices as there are experts; all else is
      data parallel. Forward and backward each layer sends its tokens to experts and back: four all-to-all,
      beneath which nothing can go on. Where there are more devices than experts, each expert has copies,
      whose gradients are reduced.

    Args:
        shape: of the model.
        plan: what a step reads.
        machine: of which kind the devices are.
        devices: how many.
        how: one of :data:`WAYS`.
        numbers: bytes of each kind of number.

    Raises:
        ValueError: an unknown ``how``; a batch that ``devices`` cannot share; experts and devices of which
            neither divides the other; or a size that is not above 0.
    """
    _check(shape, plan, machine, devices, how)
    d, tokens = shape.hidden, plan.batch * plan.length / devices
    flops = tokens * (6 * shape.active + 12 * shape.layers * plan.length * d)
    compute = flops / (machine.peak * machine.utilisation)
    passes = -(-plan.batch // (devices * plan.micro))
    at_once = min(plan.micro, plan.batch // devices) * plan.length
    kept = shape.layers * (7 * d + shape.slots * (d + shape.matrices * shape.inner))
    activations = at_once * (kept * numbers.activation + shape.vocab * numbers.logit)

    held = float(shape.parameters)  # parameters that this device trains
    working = 0.0  # bytes of a gathered layer
    traffic: dict[str, Traffic] = {}

    def in_pieces(parameters: float, among: int) -> Traffic:
        whole = all_reduce(parameters * numbers.gradient, among)
        return Traffic(whole.sent, whole.messages * plan.pieces)

    if how == "data parallel":
        traffic["all-reduce"] = in_pieces(shape.parameters, devices)
    elif how == "fsdp":
        held /= devices
        layer = (shape.parameters - shape.vocab * d) / shape.layers
        if devices > 1:
            working = max(layer, shape.vocab * d) * (numbers.weight + numbers.gradient)
        units = shape.layers + 1  # and the embedding

        def of_all(bytes_each: int, operation: Traffic) -> Traffic:
            return Traffic(operation.sent * bytes_each, operation.messages * units).times(passes)

        share = all_gather(shape.parameters, devices)
        traffic["all-gather"] = of_all(numbers.weight, share).times(2)
        traffic["reduce-scatter"] = of_all(numbers.gradient, share)
    else:
        dealt = min(devices, shape.experts)
        experts = shape.parameters - shape.shared
        held = shape.shared + experts / dealt
        sent = at_once * shape.slots * d * numbers.activation
        traffic["all-to-all"] = all_to_all(sent, dealt).times(4 * shape.layers * passes)
        traffic["all-reduce"] = in_pieces(shape.shared, devices)
        if devices > dealt:
            traffic["all-reduce"] += in_pieces(experts / dealt, devices // dealt)
    memory = {
        "weights": held * numbers.weight, "gradients": held * numbers.gradient,
        "optimiser": held * numbers.optimiser, "activations": activations + working,
    }  # fmt: skip
    link = machine.link(devices)
    network = {name: link.seconds(one) for name, one in traffic.items()}
    beneath = compute if how == "fsdp" else compute * 2 / 3 / passes  # the last pass's backward
    movable = sum(seconds for name, seconds in network.items() if name != "all-to-all")
    return Step(flops, memory, traffic, compute, network, min(beneath, movable))


def _check(shape: Shape, plan: Plan, machine: Machine, devices: int, how: str) -> None:
    if how not in WAYS:
        raise ValueError(f"how must be {', '.join(WAYS[:-1])} or {WAYS[-1]}, got {how!r}")
    sizes = {
        **vars(shape), **vars(plan), **vars(machine), "devices": devices,
        "bandwidth": min(machine.inside.bandwidth, machine.between.bandwidth),
    }  # fmt: skip
    for name, value in sizes.items():
        if isinstance(value, (int, float)) and not value > 0:
            raise ValueError(f"{name} must be above 0, got {value}")
    if plan.batch % devices:
        raise ValueError(f"a batch of {plan.batch} texts cannot be shared by {devices} devices")
    if max(devices, shape.experts) % min(devices, shape.experts) and how == "expert parallel":
        raise ValueError(f"{shape.experts} experts cannot be dealt out to {devices} devices evenly")


def fit_link(traffic: Sequence[Traffic], seconds: Sequence[float]) -> Link:
    """The link that explains measured times best, each one's relative error counting alike.

    Args:
        traffic: what a device sent.
        seconds: how long it took, each above 0.

    Raises:
        ValueError: fewer than two measurements, or times that do not grow with the bytes.
    """
    if len(traffic) < 2 or len(traffic) != len(seconds):
        raise ValueError(
            f"a link takes two measurements at least, got {len(traffic)} and {len(seconds)} times"
        )
    found = np.asarray(seconds, dtype=float)
    each = np.array([[one.messages, one.sent] for one in traffic], dtype=float)
    scale = each.max(0)
    (latency, a_byte), _ = nnls(each / scale / found[:, None], np.ones(len(found)))
    if not a_byte > 0:
        raise ValueError("the times do not grow with the bytes: measure larger messages, or more often")
    return Link(bandwidth=float(scale[1] / a_byte), latency=float(latency / scale[0]))
